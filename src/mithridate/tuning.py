"""Tuning λ by what a defender can measure: a trusted validation set, or k-fold cross-validation.

Both train the learner for many λ at once (one batched run) and take the minimiser of the mean loss.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from sklearn.model_selection import StratifiedKFold

from mithridate.errors import InputError
from mithridate.execution import shared
from mithridate.feasible import Box
from mithridate.hypergradients import Bilevel
from mithridate.learner import Learner
from mithridate.rows import Rows

POINTS = 17
TIE = 1e-5

Losses = Callable[[Float[Array, " k"]], Float[Array, " k"]]
"""Mean loss for each of k candidate λ."""


def first_minimiser(losses: np.ndarray) -> int:
    """Return the first index whose loss is within 1e-5 relative of the least; NaN counts as +∞.

    On a grid in ascending order that is the smallest λ. Where regularisation is too weak to matter the loss is flat
    to rounding, and λ would be noise without the rule.
    """
    losses = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.argmax(losses <= losses.min() + TIE * np.abs(losses.min())))


def minimise(losses: Losses, strengths: Box) -> float:
    """Return the minimiser of `losses` over the interval, coarse to fine: three grids of 17 values.

    NaN means that no loss was finite. The first grid spans the interval, so that a minimum far from the present λ is
    found; each of the others spans the two cells around the last minimiser. The resolution is 1/1024 of the interval
    (0.013 for the paper's bounds).
    """
    low, high = float(strengths.low), float(strengths.high)
    left, right = low, high
    best = low
    for _ in range(3):
        grid = np.linspace(left, right, POINTS)
        values = np.asarray(losses(jnp.asarray(grid, dtype=float)))
        if not np.isfinite(values).any():
            return math.nan
        best = float(grid[first_minimiser(values)])
        cell = (right - left) / (POINTS - 1)
        left, right = max(low, best - cell), min(high, best + cell)
    return best


def minimise_on_fine_grid(losses: Losses, strengths: Box, spacing: float = 0.05) -> float:
    """Return the minimiser on an even grid over the whole interval: the slow, independent check of `minimise`."""
    low, high = float(strengths.low), float(strengths.high)
    grid = np.linspace(low, high, int(np.ceil((high - low) / spacing)) + 1)
    return float(grid[first_minimiser(np.asarray(losses(jnp.asarray(grid, dtype=float))))])


@shared
def validation_losses(
    problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strengths: Float[Array, " k"], key: Key[Array, ""]
) -> Float[Array, " k"]:
    """Return L(D_val, wT(X_p, λ)) for each λ (the defender's objective in Eq. 1 and 3)."""
    return problem.learner.path(problem.blocks(x_poison), log_strengths, key, problem.attacker_loss)


def smaller_class(y: np.ndarray) -> int:
    """Return the number of rows in the smaller class."""
    return int(np.bincount(y.astype(int), minlength=2).min())


def folds(y: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return k stratified folds of labels y (n,) as masks (k, n), True where a row is held out.

    Raises `InputError` when a class has fewer than k rows.
    """
    fewest = smaller_class(y)
    if not 2 <= k <= fewest:
        raise InputError(f"folds = {k}: must be from 2 to {fewest}, the number of rows in the smaller class")
    split = StratifiedKFold(k, shuffle=True, random_state=seed % 2**32).split(np.zeros((len(y), 1)), y)
    masks = np.zeros((k, len(y)), dtype=bool)
    for fold, (_, held_out) in enumerate(split):
        masks[fold, held_out] = True
    return masks


@shared
def cross_validation_losses(
    learner: Learner,
    rows: Rows,
    held_out: Bool[Array, "k_folds n"],
    log_strengths: Float[Array, " k"],
    key: Key[Array, ""],
) -> Float[Array, " k"]:
    """Return the mean loss of the held-out rows for each λ, over all folds."""

    def fold(mask: Bool[Array, " n"]) -> Float[Array, " k"]:
        kept, out = (rows.with_weight(jnp.where(part, rows.weight, 0.0)) for part in (~mask, mask))

        return learner.path((kept,), log_strengths, key, lambda params: learner.mean_loss(params, (out,)) * out.size)

    return jnp.sum(jax.lax.map(fold, held_out), axis=0) / rows.size
