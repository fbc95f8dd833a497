"""Greedy label flips by their influence on the attacker's aim (Koh and Liang, 2017; Paudice et al., 2018b).

The victim is trained on the present labels. With v = H⁻¹∇A, by conjugate gradient, flipping row i to label d changes A
by about −v·(∇ℓ(x_i, d) − ∇ℓ(x_i, y_i))/n. One derivative along v ranks all flips at once. A part of the budget is spent
on the best, and this repeats.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

from mithridate.attacks.aims import smooth_error
from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel

ROUNDS = 6
DAMPING, STEPS = 1e-4, 40
"""Of the Hessian, and of conjugate gradient: where little regularises, H is all but singular."""


def influence_flips(ground: Ground) -> Iterator[Proposal]:
    """Yield the flips for each λ with which a clean victim was trained, for the smooth error and for the loss."""
    k = ground.at.end
    for number, strength in enumerate(ground.strengths):
        for name, aim in (("errors", smooth_error), ("loss", None)):
            problem = replace(ground.clean, aim=aim)
            given = problem, jnp.asarray(strength, dtype=float), ground.attack.key(k), ground.open_rows()
            picked, labels = ground.flipped(*_flipped(*given, jnp.asarray(k), ground.n_classes))
            if len(picked):
                begun = f"flips of most influence on {name}, {ground.named(number)}"
                yield Proposal("influence flips", begun, ground.laid(picked, labels))


@shared
def _flipped(
    problem: Bilevel, log_strength: Array, key: Array, open_rows: Array, k: Array, n_classes: int
) -> tuple[Array, Array]:
    """Return the labels (n,) with k of the open rows flipped, and the order of the flips: from 0, n if not flipped."""
    rest, n = problem.rest, len(problem.rest.y)
    model, classes = problem.learner.model, jnp.arange(n_classes, dtype=rest.y.dtype)

    def scores(y: Array) -> Array:
        own = replace(problem, rest=rest._replace(y=y))
        params = own.train(jnp.zeros((0, rest.x.shape[1]), rest.x.dtype), log_strength, key)
        blocks = own.blocks(jnp.zeros((0, rest.x.shape[1]), rest.x.dtype))

        def product(v: Any) -> Any:
            slope = jax.grad(lambda p: problem.learner.objective(p, blocks, log_strength, rest.size))
            bent = jax.jvp(slope, (params,), (v,))[1]
            return jax.tree.map(lambda b, u: b + DAMPING * u, bent, v)

        v = cg(product, jax.grad(own.attacker_loss)(params), maxiter=STEPS)[0]
        z, dz = jax.jvp(lambda p: model.logits(p, rest.x), (params,), (v,))

        def along(labels: Array) -> Array:
            return jax.jvp(lambda z: problem.learner.loss(z, labels), (z,), (dz,))[1]

        gains = jax.vmap(lambda label: along(y) - along(jnp.full_like(y, label)))(classes)
        return jnp.where(classes[:, None] == y[None], -jnp.inf, gains)

    def body(state: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        y, order = state
        gains = scores(y)
        best = jnp.where(open_rows & (order == n) & (rest.weight > 0), jnp.max(gains, axis=0), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-best))
        first, last = number * k // ROUNDS, (number + 1) * k // ROUNDS
        taken = (rank < last - first) & (best > 0)
        y = jnp.where(taken, classes[jnp.argmax(gains, axis=0)], y)
        return (y, jnp.where(taken, first + rank, order)), None

    return jax.lax.scan(body, (rest.y, jnp.full(n, n)), jnp.arange(ROUNDS))[0]
