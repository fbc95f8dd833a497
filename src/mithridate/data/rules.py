"""Rules between two columns of a table, such as A ≤ B, that crafted rows keep: raw_a + gap ≤ raw_b."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mithridate.errors import InputError

EDGE, ROUNDING = 1e-9, 1e-6
"""The relative rounding of a number, and the rounding of a number of grid steps."""


class Rule(NamedTuple):
    """raw_a + gap ≤ raw_b for the columns in places a and b; `text` is the rule as it was given."""

    a: int
    b: int
    gap: float
    text: str


def tightened(
    rules: Sequence[Rule], low: np.ndarray, high: np.ndarray, grids: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranges (columns,) that are so narrow that every value of a column lets the other columns keep the rules.

    Raises `InputError` if no values within the ranges keep a rule.
    """
    low, high = low.copy(), high.copy()
    for _ in rules:
        for a, b, gap, text in rules:
            high[a] = min(high[a], _down(high[b] - gap, grids[a]))
            low[b] = max(low[b], _up(low[a] + gap, grids[b]))
            if low[a] > high[a] or low[b] > high[b]:
                raise InputError(f"rule {text!r}: within the ranges of both columns nothing keeps it; widen feasible")
    return low, high


def kept(
    rules: Sequence[Rule], raw: Float[np.ndarray, "n columns"], grids: Sequence[float], fixed: np.ndarray | None = None
) -> Float[np.ndarray, "n columns"]:
    """Return raw rows in which the larger side of each broken rule is raised until the rule is kept.

    Cells that are `fixed` (n, columns) do not change. If the larger side is fixed, the smaller side is lowered.
    """
    raw = raw.copy()
    for _ in rules:
        for a, b, gap, _ in rules:
            broken = raw[:, a] + gap > raw[:, b] + EDGE * np.abs(raw[:, b])
            stays = np.zeros(len(raw), bool) if fixed is None else fixed[:, b]
            raise_it, lower_it = broken & ~stays, broken & stays
            raw[raise_it, b] = _up(raw[raise_it, a] + gap, grids[b])
            if fixed is not None:
                lower_it &= ~fixed[:, a]
                raw[lower_it, a] = _down(raw[lower_it, b] - gap, grids[a])
    return raw


def _up(value: Any, grid: float) -> Any:
    return np.ceil(value / grid - ROUNDING) / round(1 / grid) if grid else value


def _down(value: Any, grid: float) -> Any:
    return np.floor(value / grid + ROUNDING) / round(1 / grid) if grid else value
