"""What the searches of estimators have found, from records: as text, and as columns to draw."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

DECADES = 20.0
"""The factor between the smallest and the largest value from which on a hyperparameter is drawn by its logarithm."""


def found(text: str) -> dict[str, Any]:
    """Return what is in a record's `tuned`: values by name. Raises `ValueError` if it is not that."""
    values = json.loads(text) if text else {}
    if not isinstance(values, dict):
        raise ValueError("no values by name")
    return {str(name): value for name, value in values.items()}


def has_any(frame: pd.DataFrame) -> bool:
    """Return whether the records are of estimators."""
    return bool((frame["tuned"] != "").any())


def ends(rows: pd.DataFrame) -> str:
    """Return what a defender's search has found, clean and at the most poison: `C 1 → 0.1`; — without a search."""
    told = []
    parts = [rows[rows["n_poison"] == points]["tuned"].map(found) for points in (0, rows["n_poison"].max())]
    for name in dict.fromkeys(name for part in parts for one in part for name in one):
        clean, worst = (_typical([one[name] for one in part if name in one]) for part in parts)
        told.append(f"{_short(name)} {clean} → {worst}")
    return "; ".join(told) or "—"


def drawn(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the records with a column for each hyperparameter that is a number, and the columns' labels."""
    values, columns = frame["tuned"].map(found), {}
    for name in dict.fromkeys(name for one in values for name in one):
        numbers = np.array([_number(one.get(name)) for one in values])
        known = numbers[np.isfinite(numbers)]
        if not len(known):
            continue
        wide = known.min() > 0 and known.max() >= DECADES * known.min()
        column = f"tuned {name}"
        frame = frame.assign(**{column: np.log10(numbers) if wide else numbers})
        columns[column] = f"log₁₀ of {_short(name)}" if wide else _short(name)
    return frame, columns


def _short(name: str) -> str:
    """Return a hyperparameter without the steps of the pipeline that it is in."""
    return name.rpartition("__")[2]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _typical(values: list[Any]) -> str:
    """Return the value that most splits have, the first of equals; a mean of searched values was never tried."""
    if not values:
        return "—"
    value = Counter(map(str, values)).most_common(1)[0][0]
    return f"{float(value):.4g}" if math.isfinite(_number(values[0])) else value
