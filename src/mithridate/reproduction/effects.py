"""Effects that the claims are judged by: one value per split, read off a figure's frame.

The frame has the columns `split`, `policy`, `n_poison`, `ratio` and the quantity read, in one row per split, policy and
ratio. Differences of these series are paired, since a split's policies share its rows and its starting points. The
paper names shares of poison by reading them off its curves; `at` takes the audited ratio nearest to the one named.
"""

import math

import pandas as pd

from mithridate.reproduction.outcome import mean_and_half, signed
from mithridate.results.verdict import TOLERATED

SMALL, LEARNED, CLEAN = "fixed=-8", "learned", "cv-clean"
"""The policies by their names in the records: the small λ, λ_RMD and λ_CLEAN."""
EFFECTIVE = 100 * TOLERATED
"""An attack that raises the error by more points than this is effective; a victim it raises it less on is stable."""
AS_GOOD = 1.0
"""Error rates this near, in points, count as the same."""
NEAR = 0.02
"""An audited ratio this near to a share named in the paper stands for it."""


def large(frame: pd.DataFrame) -> str:
    """Return the name of the policy with the large fixed λ."""
    return next(name for name in frame["policy"].unique() if name.startswith("fixed=") and name != SMALL)


def nearest(frame: pd.DataFrame, share: float) -> float:
    """Return the audited ratio nearest to a share of poison, or NaN where none is within `NEAR`."""
    ratios = frame["ratio"].drop_duplicates()
    found = float(ratios.iloc[(ratios - share).abs().argmin()])
    return found if abs(found - share) <= NEAR else math.nan


def at(frame: pd.DataFrame, column: str, policy: str, share: float | None = None) -> pd.Series:
    """Return a quantity by split under a policy at a share of poison; None means the most that was audited.

    NaN in every split where no such share was audited.
    """
    ratio = frame["ratio"].max() if share is None else nearest(frame, share)
    rows = frame[frame["policy"] == policy].set_index(["split", "ratio"])[column].unstack()
    return rows[ratio] if ratio in rows else rows.iloc[:, 0] * math.nan


def rise(frame: pd.DataFrame, column: str, policy: str, since: float = 0.0) -> pd.Series:
    """Return by split what a quantity gains from a share of poison to the most."""
    return at(frame, column, policy) - at(frame, column, policy, since)


def change(frame: pd.DataFrame, column: str, policy: str) -> pd.Series:
    """Return by split the change of a positive quantity from clean to the most poison, in per cent of clean."""
    return 100 * (at(frame, column, policy) / at(frame, column, policy, 0.0) - 1)


def gap(frame: pd.DataFrame, column: str, policy: str, other: str) -> pd.Series:
    """Return a policy's quantity minus another's, by split and ratio, to six decimals: records are in float32."""
    wide = frame.pivot(index=["split", "ratio"], columns="policy", values=column)
    return (wide[policy] - wide[other]).round(6)


def up_to(values: pd.Series, ratio: float) -> pd.Series:
    """Return by split the mean of values by split and ratio over the ratios from 0 to this one; NaN for NaN."""
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
    """Return the mean over splits and half its 95 % interval in words."""
    return signed(*mean_and_half(values))
