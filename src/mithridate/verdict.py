"""From records to the answer: curves over splits, tolerance, what tuning saves, and what to distrust."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mithridate.errors import InputError
from mithridate.records import FAULTS

METRICS = ("test_error", "fpr", "fnr", "log_strength", "weight_norm_sq", "valid_loss")
TOLERATED = 0.05
"""Points of test error over the clean error that still count as tolerated."""


@dataclass(frozen=True)
class Verdict:
    """The answer in sentences and figures.

    `summary`: one sentence each for what matters; `tolerance`: policy → largest audited share of poison up to which
    the worse of attack and baseline stays within 5 points of the clean error; `saved`: points of error that tuning
    under attack saves at the most poison, against the best fixed choice (None when one of the two was not audited);
    `warnings`: what makes the numbers less than they seem.
    """

    summary: tuple[str, ...]
    tolerance: dict[str, float]
    saved: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return asdict(self) | {"summary": list(self.summary), "warnings": list(self.warnings)}


def curves(frame: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> dict[str, dict[str, Any]]:
    """Return for each policy `points`, `ratio` and per metric the lists `mean`, `std`, `low`, `high`.

    `std` is the sample deviation over splits; `low` and `high` bound the mean's 95 % interval (Student's t).
    With one split they are None: one split has no spread.
    """
    found = {}
    for policy, rows in frame.groupby("policy", sort=False):
        groups = rows.groupby("n_poison", sort=True)
        counts = groups.size().to_numpy()
        found[str(policy)] = {
            "points": groups.size().index.tolist(),
            "ratio": groups["ratio"].first().tolist(),
        } | {metric: _spread(groups[metric].mean(), groups[metric].std(), counts) for metric in metrics}
    return found


def _spread(mean: pd.Series, std: pd.Series, counts: np.ndarray) -> dict[str, list[float | None]]:
    half = stats.t.ppf(0.975, np.maximum(counts - 1, 1)) * std / np.sqrt(counts)
    lists = {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
    return {name: [float(v) if math.isfinite(v) else None for v in values] for name, values in lists.items()}


def _worst(rows: pd.DataFrame) -> pd.Series:
    """Return per ratio the mean test error of the attack or of its baseline, whichever is worse."""
    means = rows.groupby("ratio")[["test_error", "baseline_test_error"]].mean()
    return means.max(axis=1)


def verdict(frame: pd.DataFrame) -> Verdict:
    """Return the verdict on the records `frame`."""
    summary, tolerance, ends = [], {}, {}
    for name, rows in frame.groupby("policy", sort=False):
        worst, policy = _worst(rows), str(name)
        within = (worst <= worst.iloc[0] + TOLERATED).cummin()
        tolerance[policy] = float(worst.index[within][-1])
        ends[policy] = float(worst.iloc[-1])
        all_of_it = bool(within.all())
        summary.append(
            f"{policy}: test error {worst.iloc[0]:.1%} clean, {worst.iloc[-1]:.1%} at {worst.index[-1]:.1%} poison; "
            + (
                f"tolerates at least {tolerance[policy]:.1%}, the most that was tried"
                if all_of_it
                else f"tolerates {tolerance[policy]:.1%} (within {100 * TOLERATED:g} points of clean)"
            )
        )
    saved, sentence = _saved(ends, float(frame["ratio"].max()))
    return Verdict(tuple(summary + sentence), tolerance, saved, tuple(_warnings(frame)))


def _saved(ends: dict[str, float], share: float) -> tuple[float | None, list[str]]:
    fixed = {p: e for p, e in ends.items() if p.startswith("fixed=") or p == "cv-clean"}
    if "learned" not in ends or not fixed:
        return None, []
    best = min(fixed, key=lambda policy: fixed[policy])
    saved = 100 * (fixed[best] - ends["learned"])
    others = "; ".join(
        f"{100 * (error - ends['learned']):+.1f} against {policy}" for policy, error in fixed.items() if policy != best
    )
    did = "saves" if saved >= 0 else "costs"
    return saved, [
        f"tuning λ under attack {did} {abs(saved):.1f} points of error at {share:.1%} poison against the best fixed "
        f"choice, {best}" + (f" ({others})" if others else "")
    ]


def _warnings(frame: pd.DataFrame) -> list[str]:
    found = []
    for fault, remedy in FAULTS.items():
        cells = frame[frame["status"].str.split("+").map(lambda faults, fault=fault: fault in faults)]
        if len(cells):
            where = ", ".join(f"{policy} ({len(rows)})" for policy, rows in cells.groupby("policy", sort=False))
            found.append(f"{len(cells)} of {len(frame)} cells are marked {fault}, by policy: {where}; {remedy}")
    if frame["split"].nunique() == 1:
        found.append("one split only: no spread can be given; use more splits before you rely on a figure")
    return found


def parse_gate(text: str, most: float) -> tuple[float, float]:
    """Return (error, share) of a gate `ERROR@SHARE`, such as `0.1@0.05` or `10%@5%`; `most` is the largest audited share.

    Raises `InputError` when either is not a share from 0 to 1, or nothing that poisoned was audited.
    """
    try:
        error, share = (float(p.removesuffix("%")) / (100 if p.endswith("%") else 1) for p in text.split("@"))
    except ValueError:
        error = share = math.nan
    if not (0 <= error <= 1 and 0 <= share <= 1):
        raise InputError(f"fail-above = {text!r}: must be ERROR@SHARE, both from 0 to 1 or in %, such as 10%@5%")
    if share > most + 1e-9:
        raise InputError(f"fail-above = {text!r}: only up to {most:.1%} poison is audited; raise points or poison")
    return error, share


def gate_failures(frame: pd.DataFrame, error: float, share: float) -> list[str]:
    """Return a sentence for each policy whose error exceeds `error` at any audited share up to `share`.

    The worse of attack and baseline counts, and the first audited share at or above `share` is included, so that a
    share between two audited ones is judged by the higher.
    """
    found = []
    for policy, rows in frame.groupby("policy", sort=False):
        worst = _worst(rows)
        up_to = worst[worst.index <= worst.index[worst.index >= share - 1e-9][0]]
        if up_to.max() > error:
            found.append(f"{policy}: test error {up_to.max():.1%} at {up_to.idxmax():.1%} poison, above {error:.1%}")
    return found
