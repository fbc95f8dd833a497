"""The effects by which claims are judged: one value per split, read from a figure's frame.

The frame has the columns `split`, `policy`, `n_poison`, `ratio` and the quantity, with one row per split, policy and
ratio. Differences of these series are paired, since the policies of a split share its rows and starting points. The
paper reads shares of poison off its curves; `at` takes the nearest audited ratio.
"""

import math

import pandas as pd

from mithridate.reproduction.outcome import mean_and_half, signed
from mithridate.results.verdict import TOLERATED

SMALL, LEARNED, CLEAN = "fixed=-8", "learned", "cv-clean"
"""The names of policies in the records: the small λ, λ_RMD and λ_CLEAN."""
EFFECTIVE = 100 * TOLERATED
"""An attack is effective if it raises the error by more points than this; otherwise the victim is stable."""
AS_GOOD = 1.0
"""Error rates that differ by less, in points, count as the same."""
NEAR = 0.02
"""The largest distance between an audited ratio and the share in the paper that it represents."""


def large(frame: pd.DataFrame) -> str:
    """Return the name of the policy with the large fixed λ."""
    return next(name for name in frame["policy"].unique() if name.startswith("fixed=") and name != SMALL)


def nearest(frame: pd.DataFrame, share: float) -> float:
    """Return the audited ratio nearest to a share of poison, or NaN where none is within `NEAR`."""
    ratios = frame["ratio"].drop_duplicates()
    found = float(ratios.iloc[(ratios - share).abs().argmin()])
    return found if abs(found - share) <= NEAR else math.nan


def at(frame: pd.DataFrame, column: str, policy: str, share: float | None = None) -> pd.Series:
    """Return a quantity by split under a policy at a share of poison; None means the largest audited share.

    It is NaN in every split if no such share was audited.
    """
    ratio = frame["ratio"].max() if share is None else nearest(frame, share)
    rows = frame[frame["policy"] == policy].set_index(["split", "ratio"])[column].unstack()
    return rows[ratio] if ratio in rows else rows.iloc[:, 0] * math.nan


def rise(frame: pd.DataFrame, column: str, policy: str, since: float = 0.0) -> pd.Series:
    """Return by split how much a quantity rises from a share of poison to the largest."""
    return at(frame, column, policy) - at(frame, column, policy, since)


def change(frame: pd.DataFrame, column: str, policy: str) -> pd.Series:
    """Return by split the change of a positive quantity from clean to the most poison, in per cent of clean."""
    return 100 * (at(frame, column, policy) / at(frame, column, policy, 0.0) - 1)


def gap(frame: pd.DataFrame, column: str, policy: str, other: str) -> pd.Series:
    """Return a policy's quantity minus another's, by split and ratio, to six decimals: records are in float32."""
    wide = frame.pivot(index=["split", "ratio"], columns="policy", values=column)
    return (wide[policy] - wide[other]).round(6)


def up_to(values: pd.Series, ratio: float) -> pd.Series:
    """Return by split the mean of values over the ratios from 0 to this one; NaN if the ratio is NaN."""
    kept = values[values.index.get_level_values("ratio") <= ratio]
    return kept.groupby("split").mean(skipna=False).reindex(values.index.unique("split"))


def by_ratio(frame: pd.DataFrame, column: str, policy: str, unit: str = "") -> str:
    """Return the means over splits at each ratio, as `1.1 % at 0.0%, 9.5 % at 16.6%`."""
    means = frame[frame["policy"] == policy].groupby("ratio")[column].mean()
    return listed(means, unit)


def listed(means: pd.Series, unit: str = "") -> str:
    """Return values indexed by ratio as `1.1 % at 0.0%, 9.5 % at 16.6%`."""
    return ", ".join(f"{value + 0.0:.3g}{unit} at {ratio:.1%}" for ratio, value in means.items())


def size(values: pd.Series) -> str:
    """Return the mean over splits and half its 95 % interval, as text."""
    return signed(*mean_and_half(values))
