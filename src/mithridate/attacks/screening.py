"""A cheap measure of candidates before anything is optimised: the defender's answer is guessed."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mithridate.attacks.stage import Stage
from mithridate.defences.base import Strength
from mithridate.defences.tuning import first_minimiser
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel

GRID = 9
"""The number of λ among which the defender's answer is guessed."""


class Guess(NamedTuple):
    """What a candidate is worth if the defender sets λ as guessed: the attacker's success on D_target, and A."""

    success: float
    value: float
    log_strength: Strength


@shared
def _measured(problem: Bilevel, x_poison: Array, log_strengths: Array, key: Array) -> Array:
    defended = problem.defended()

    def measure(params: object) -> Array:
        own, loss = problem.success(params), problem.attacker_loss(params)
        return jnp.stack([own, loss, defended.success(params), defended.attacker_loss(params)])

    return problem.learner.path(problem.blocks(x_poison), log_strengths, key, measure)


def guessed(problem: Bilevel, x_poison: Array, at: Stage, key: Array) -> Guess:
    """Return what these points are worth if the defender takes the λ on a coarse grid that is best on his own rows.

    A fixed λ is its own answer. For a vector λ, all entries on the grid are equal.
    """
    low, high = (
        np.broadcast_to(end, np.shape(at.log_strength)) for end in (at.policy.strengths.low, at.policy.strengths.high)
    )
    grid = np.linspace(low, high, 1 if np.all(low == high) else GRID)
    found = np.asarray(_measured(problem, x_poison, jnp.asarray(grid, dtype=float), key))
    best = first_minimiser(found[:, 2:] if getattr(at.policy, "by", "loss") == "error" else found[:, 3])
    success, value = found[:, 0], found[:, 1]
    return Guess(float(success[best]), float(value[best]), grid[best])
