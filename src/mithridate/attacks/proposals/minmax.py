"""The min-max attack (Steinhardt et al., 2017; Koh et al., 2018): points where the current victim's loss is largest.

The victim is trained on the points so far. The next few points of each label go to the place in Φ where its loss is
largest, and this repeats. A loss of x·w grows without bound in one direction, so this place is on the edge of Φ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.data.feasible import FeasibleSet
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel

ROUNDS, FAR = 10, 1e4


def minmax(ground: Ground, starts: Iterable[Proposal]) -> Iterator[Proposal]:
    """Yield for each mix of labels in `starts` the points where the loss is largest, for λ on clean data."""
    attack, seen = ground.attack, set()
    for proposal in starts:
        counts = tuple(np.bincount(proposal.points.y.astype(int), minlength=ground.n_classes))
        if counts in seen:
            continue
        seen.add(counts)
        problem, x_start = attack.problem(ground.at, proposal.points)
        given = problem, attack.within(problem), x_start, jnp.asarray(ground.strengths[0], dtype=float)
        k = len(proposal.points.y)
        x = _worst(*given, attack.key(ground.at.end), jnp.asarray(k), ground.n_classes)
        moved = proposal.points._replace(x=attack.settle(x)[:k])
        yield Proposal("min-max", f"where the loss is largest, in place of {proposal.begun}", moved)


@shared
def _worst(
    problem: Bilevel, feasible: FeasibleSet, x_start: Array, log_strength: Array, key: Array, k: Array, n_classes: int
) -> Array:
    y, size = problem.y_poison, len(problem.y_poison)
    # Points of every label come in each round.
    order = jnp.argsort(jnp.argsort(jax.random.permutation(jax.random.key(0), size) + size * (jnp.arange(size) >= k)))

    def body(x: Array, number: Array) -> tuple[Array, None]:
        first, last = number * k // ROUNDS, (number + 1) * k // ROUNDS
        own = replace(problem, poison_weight=(order < first).astype(x.dtype))
        params = own.train(x, log_strength, key)

        def place(label: Array) -> Array:
            def loss(row: Array) -> Array:
                return problem.learner.loss(problem.learner.model.logits(params, row[None]), label[None])[0]

            at = jnp.mean(problem.target.x, axis=0)
            slope = jax.grad(loss)(at)
            return at + FAR * slope / (jnp.linalg.norm(slope) + jnp.finfo(x.dtype).tiny)

        places = feasible.project(jax.vmap(place)(jnp.arange(n_classes, dtype=y.dtype))[y.astype(int)])
        there = (order >= first) & (order < last)
        return jnp.where(there[:, None], places, x), None

    return jax.lax.scan(body, x_start, jnp.arange(ROUNDS))[0]
