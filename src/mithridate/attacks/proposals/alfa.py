"""ALFA label flips (Xiao et al., 2012): the labels that a poisoned victim would fit best and a clean one worst.

ψ are the clean victim's losses for each row and label, ε those of a victim trained on the flips so far. The flips q
minimise Σ q·(ε − ψ) within the budget: a linear programme that a sort solves. Then the victim is trained on the flips,
and this repeats.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel

ROUNDS = 5


def alfa(ground: Ground) -> Iterator[Proposal]:
    """Yield the flips for the λ that the defender has on clean data."""
    k = ground.at.end
    given = ground.clean, jnp.asarray(ground.strengths[0], dtype=float), ground.attack.key(k), ground.open_rows()
    picked, labels = ground.flipped(*_flipped(*given, jnp.asarray(k), ground.n_classes))
    yield Proposal("ALFA", "flips that a poisoned victim fits best", ground.laid(picked, labels))


@shared
def _flipped(
    problem: Bilevel, log_strength: Array, key: Array, open_rows: Array, k: Array, n_classes: int
) -> tuple[Array, Array]:
    """Return the labels (n,) of the flips, and each row's rank among them, n for rows that are not open."""
    rest, n = problem.rest, len(problem.rest.y)
    classes = jnp.arange(n_classes, dtype=rest.y.dtype)

    def losses(y: Array) -> Array:
        own = replace(problem, rest=rest._replace(y=y))
        params = own.train(jnp.zeros((0, rest.x.shape[1]), rest.x.dtype), log_strength, key)
        logits = problem.learner.model.logits(params, rest.x)
        return jax.vmap(lambda label: problem.learner.loss(logits, jnp.full_like(y, label)))(classes)

    def flips(found: Array) -> tuple[Array, Array]:
        gaps, own = found - psi, classes[:, None] == rest.y[None]
        kept = jnp.sum(jnp.where(own, gaps, 0.0), axis=0)
        gains = jnp.where(own, -jnp.inf, kept[None] - gaps)
        best = jnp.where(open_rows & (rest.weight > 0), jnp.max(gains, axis=0), -jnp.inf)
        rank = jnp.where(jnp.isfinite(best), jnp.argsort(jnp.argsort(-best)), n)
        return jnp.where(rank < k, classes[jnp.argmax(gains, axis=0)], rest.y), rank

    psi = losses(rest.y)
    y, _ = jax.lax.fori_loop(0, ROUNDS - 1, lambda _, state: flips(losses(state[0])), flips(jnp.zeros_like(psi)))
    return flips(losses(y))
