"""How a defender tunes λ by what he can measure: a trusted validation set, or k-fold cross-validation.

Both train the learner for many λ at once (one batched run) and minimise a criterion: the mean loss, or the number of
errors with ties going to the least loss. λ is a number, or a vector with one entry for each group of layers. A grid of
k candidates is (k,) or (k, groups).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Float, Key

from mithridate.data.feasible import Box
from mithridate.defences.base import Strength
from mithridate.errors import InputError
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows

POINTS = 17
TIE = 1e-5

DESCENTS = 4
"""The largest number of descents to a vector λ."""
STOP = {"maxiter": 30, "maxls": 8, "ftol": 2e-6}
"""The relative fall of the loss at which a descent ends: float32 shows no smaller one."""

USUAL, SLOPES = 2.4, 14
"""Mean number of descents to a vector λ, and of derivatives in each; it depends on the loss (1 to 4, 9 to 29)."""

LEAST = {"loss": "the least loss", "error": "the fewest errors"}
"""The criteria by which λ can be tuned, and what each looks for, in words."""
Losses = Callable[[Float[Array, "k *groups"]], Float[Array, "k *two"]]
"""The mean loss for each of k candidate λ; by error (k, 2), the number of errors and the mean loss."""
Slope = Callable[[Float[Array, " groups"]], tuple[Float[Array, ""], Float[Array, " groups"]]]
"""Mean loss and its derivative in a vector λ."""


def check_criterion(by: str) -> None:
    """Raise `InputError` unless λ can be tuned by this criterion."""
    if by not in LEAST:
        raise InputError(f"by = {by!r}: use {' or '.join(LEAST)}")


def first_minimiser(losses: np.ndarray) -> int:
    """Return the first index whose loss is within 1e-5 relative of the least; NaN counts as +∞.

    On a grid in ascending order this is the smallest λ. Where regularisation is too weak to matter, the loss is flat up
    to rounding; without this rule λ would be noise. By error, where `losses` is (k, 2), only the candidates with the
    fewest errors count.
    """
    if losses.ndim == 2:
        fewest = losses[:, 0] == np.fmin.reduce(losses[:, 0])
        losses = np.where(fewest, losses[:, 1], np.inf)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.argmax(losses <= losses.min() + TIE * np.abs(losses.min())))


def minimise(losses: Losses, strengths: Box) -> Strength:
    """Return the number λ that minimises `losses` over the interval, coarse to fine: three grids of 17 values.

    NaN means that no loss was finite. The first grid spans the interval, so it also finds a minimum far from the
    present λ. Each further grid spans the two cells around the last minimiser. The resolution is 1/1024 of the interval
    (0.013 for the paper's bounds).
    """
    low, high = float(strengths.low), float(strengths.high)
    left, right = low, high
    best = low
    for _ in range(3):
        grid = np.linspace(left, right, POINTS)
        values = _evaluated(losses, grid)
        if not np.isfinite(values).any():
            return np.array(math.nan)
        best = float(grid[first_minimiser(values)])
        cell = (right - left) / (POINTS - 1)
        left, right = max(low, best - cell), min(high, best + cell)
    return np.array(best)


def minimise_vector(losses: Losses, slope: Slope, strengths: Box, start: Float[np.ndarray, " groups"]) -> Strength:
    """Return the vector λ that minimises `losses` over the box: L-BFGS-B, restarted as long as that helps.

    `slope` maps λ to the loss and its derivative. A descent can end in a local minimum, or where the loss is flat. So
    after each descent 17 values over the whole interval are tried, for each entry alone and for all entries together.
    If one of them is lower, the next descent starts there. By error, all this still follows the loss, which has a
    derivative; the answer is the λ with the fewest errors of all that were tried between the descents.
    """
    low, high = float(strengths.low), float(strengths.high)

    def evaluated(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, derivative = slope(jnp.asarray(point, dtype=float))
        return float(value), np.asarray(derivative, dtype=np.float64)

    grid, point, tried = np.linspace(low, high, POINTS), start, []
    lines = [*np.eye(len(start)), *([np.ones(len(start))] if len(start) > 1 else ())]
    for _ in range(DESCENTS):
        found = scipy.optimize.minimize(
            evaluated,
            point,
            jac=True,
            method="L-BFGS-B",
            bounds=[(low, high)] * len(start),
            options=STOP,  # pyright: ignore[reportArgumentType, reportCallIssue]
        )
        candidates = np.concatenate([found.x[None], *(np.where(line, grid[:, None], found.x) for line in lines)])
        scores = _evaluated(losses, candidates)
        tried.append((candidates, scores))
        values = scores if scores.ndim == 1 else scores[:, 1]
        if not np.isfinite(values).any():
            return np.full_like(start, math.nan)
        if values[0] <= np.nanmin(values) * (1 + TIE):
            point = found.x
            break
        point = candidates[np.nanargmin(values)]
    candidates, scores = (np.concatenate(parts) for parts in zip(*tried, strict=True))
    return point if scores.ndim == 1 else candidates[first_minimiser(scores)]


def _evaluated(losses: Losses, candidates: np.ndarray) -> np.ndarray:
    return np.asarray(losses(jnp.asarray(candidates, dtype=float)))


def best_response(
    losses: Losses, strengths: Box, at: Strength, spacing: float = 0.05, slack: float | None = None
) -> Strength:
    """Return the minimiser on an even grid over the whole interval: a slow, independent check of the solvers above.

    For a vector λ, each entry is minimised along its own axis, with the others as in `at`. The grid there has ten times
    the spacing; within five steps around the entry itself it has the fine spacing. An entry stays if nothing is lower.

    By error, `slack` is given. Errors jump from one λ to the next, so two λ with almost equally few errors can lie far
    apart. λ therefore stays `at`, unless another λ has fewer errors by more than `slack`.
    """
    low, high = float(strengths.low), float(strengths.high)

    def even(width: float) -> np.ndarray:
        return np.linspace(low, high, int(np.ceil((high - low) / width)) + 1)

    def stays(values: np.ndarray) -> bool:
        if slack is None:
            return bool(values[0] <= np.nanmin(values) * (1 + TIE))
        return bool(values[0, 0] <= np.fmin.reduce(values[:, 0]) + slack)

    if not at.ndim:
        grid = even(spacing) if slack is None else np.concatenate([at[None], even(spacing)])
        values = _evaluated(losses, grid)
        return at if slack is not None and stays(values) else np.asarray(grid[first_minimiser(values)])
    best, near = at.copy(), spacing * np.arange(-5, 6)
    for i, line in enumerate(np.eye(len(at))):
        grid = np.clip(np.concatenate([at[i, None], even(10 * spacing), at[i] + near]), low, high)
        values = _evaluated(losses, np.where(line, grid[:, None], at))
        lowest = np.nanargmin(values) if slack is None else first_minimiser(values)
        best[i] = grid[0] if stays(values) else grid[lowest]
    return best


def grid_over(strengths: Box, groups: tuple[int, ...]) -> np.ndarray:
    """Return the λ that are tried at once, spread over Φ(λ); for a vector the number on all its lines."""
    many = 1 + POINTS * (groups[0] + (groups[0] > 1)) if groups else POINTS
    grid = np.linspace(float(np.min(strengths.low)), float(np.max(strengths.high)), many)
    return np.array(np.broadcast_to(grid.reshape(-1, *(1 for _ in groups)), (many, *groups)))


def checked(strengths: Box, groups: tuple[int, ...], by: str = "loss") -> int:
    """Return the number of λ for which `best_response` trains."""
    asked: list[int] = []

    def count(grid: Any) -> np.ndarray:
        asked.append(len(grid))
        return np.zeros(len(grid) if by == "loss" else (len(grid), 2))

    slack = None if by == "loss" else 0.0
    best_response(count, strengths, np.zeros(groups), slack=slack)  # pyright: ignore[reportArgumentType]
    return sum(asked)


@shared
def validation_losses(
    problem: Bilevel,
    x_poison: Float[Array, "n_p m"],
    log_strengths: Float[Array, "k *groups"],
    key: Key[Array, ""],
    by: str = "loss",
) -> Float[Array, "k *two"]:
    """Return L(D_val, wT(X_p, λ)) for each of k λ (the defender's objective in Eq. 1 and 3).

    By error, return (k, 2): the number of errors on D_val, and L.
    """
    learner, defended = problem.learner, problem.defended()

    def counted(params: Any) -> Float[Array, "2"]:
        return _with_errors(learner, params, defended.target, defended.attacker_loss(params))

    measure = defended.attacker_loss if by == "loss" else counted
    return learner.path(problem.blocks(x_poison), log_strengths, key, measure)


@shared
def validation_slope(
    problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Float[Array, " groups"], key: Key[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, " groups"]]:
    """Return L(D_val, wT(X_p, λ)) and its derivative in λ, by reverse mode."""
    return jax.value_and_grad(problem.defended().value, argnums=1)(x_poison, log_strength, key)


@shared
def cross_validation_losses(
    learner: Learner,
    rows: Rows,
    held_out: Bool[Array, "k_folds n"],
    log_strengths: Float[Array, "k *groups"],
    key: Key[Array, ""],
    by: str = "loss",
) -> Float[Array, "k *two"]:
    """Return the mean loss of all folds' held-out rows for each λ; by error (k, 2), their errors and that loss."""

    def fold(mask: Bool[Array, " n"]) -> Float[Array, "k *two"]:
        kept, out = (rows.with_weight(jnp.where(part, rows.weight, 0.0)) for part in (~mask, mask))

        def measure(params: Any) -> Float[Array, "*two"]:
            total = learner.mean_loss(params, (out,)) * out.size
            return total if by == "loss" else _with_errors(learner, params, out, total)

        return learner.path((kept,), log_strengths, key, measure)

    found = jnp.sum(jax.lax.map(fold, held_out), axis=0)
    return found / rows.size if by == "loss" else found.at[:, 1].divide(rows.size)


def _with_errors(learner: Learner, params: Any, rows: Rows, loss: Float[Array, ""]) -> Float[Array, "2"]:
    """Return the weighted number of misclassified rows, and the loss; both NaN if the loss is not finite."""
    task = learner.task(rows.x.shape[1])
    wrong = task.wrong(task.predicted(learner.model.logits(params, rows.x)), rows.y)
    errors = jnp.vdot(rows.weight, wrong.astype(rows.weight.dtype))
    return jnp.stack([jnp.where(jnp.isfinite(loss), errors, jnp.nan), loss])
