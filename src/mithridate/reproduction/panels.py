"""Parts that the figures share: the names of policies and data sets, and curves on their own axes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mithridate.reproduction.effects import CLEAN, LEARNED
from mithridate.reproduction.studies import PAPERS
from mithridate.results.figures import COLOURS, DASHES, MARKERS, CurveDisplay
from mithridate.results.verdict import curves

POISON = "poison in the training set [%]"


def called(policy: str) -> str:
    """Return a policy's name in the figures."""
    return {LEARNED: "λ learned ($λ_{RMD}$)", CLEAN: "$λ_{CLEAN}$"}.get(
        policy, policy.replace("fixed=", "λ = ").replace("-", "−")
    )


def shown_as(dataset: str) -> str:
    """Return a data set's name, with a note if it is not the paper's."""
    return dataset if dataset in PAPERS else f"{dataset} (not the paper's data)"


def grid(rows: int, columns: int) -> tuple[Figure, Any]:
    """Return a new figure and its rows × columns axes."""
    figure = Figure(figsize=(0.6 + 4.4 * columns, 0.6 + 3.5 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def shares(frame: pd.DataFrame, metrics: dict[str, str], axes: Any) -> None:
    """Draw shares of the test rows in per cent, one curve per policy; one axis per metric, column → label."""
    shown = frame.assign(policy=frame["policy"].map(called))
    CurveDisplay(shown, metrics, percent=True).plot(axes)
    for axis in axes:
        for band in axis.collections:
            band.set_alpha(0.08)
        fit(axis)


def curve(axis: Axes, frame: pd.DataFrame, metric: str, label: str, style: int) -> None:
    """Draw one curve over the rows of one policy: the mean over splits and its 95 % interval."""
    (found,) = curves(frame, (metric,)).values()
    x = 100 * np.array(found["ratio"])
    mean, low, high = (np.array(found[metric][side], dtype=float) for side in ("mean", "low", "high"))
    axis.plot(x, mean, color=COLOURS[style], marker=MARKERS[style], ls=DASHES[style], lw=2, ms=6, label=label)
    axis.fill_between(x, low, high, alpha=0.15, lw=0, color=COLOURS[style])
    axis.set_xlabel(POISON)
    axis.grid(alpha=0.25)
    axis.margins(x=0.02)


def fit(axis: Axes) -> None:
    """Fit the axis to the lines: bands over two or three splits can be many times as wide."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()])
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        room = (high - low) / 2 or 1.0
        bottom, top = axis.get_ylim()
        axis.set_ylim(max(bottom, low - room), min(top, high + room))


def titled(figure: Figure, frame: pd.DataFrame, text: str) -> None:
    """Write the title above the figure, with the number of splits."""
    splits = frame["split"].nunique()
    spread = f"mean over {splits} splits, band: 95 % interval of the mean" if splits > 1 else "one split, no spread"
    figure.suptitle(f"{text}\n{spread}", fontsize=10)
