"""Draws the pictures of a result. A Display draws the data that it is given and computes nothing else.

Lines are means over splits, bands are the 95 % interval of the mean. The colours are those of Okabe and Ito, which
colour-blind people can tell apart. Each policy also has its own marker and dashes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mithridate.results import tuned
from mithridate.results.records import file_name, flips_of
from mithridate.results.verdict import PLAIN, baseline, curves, measure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)), (0, (1, 1)), (0, (8, 2)))


def _as_is(text: Any) -> str:
    """Return text in which a dollar sign does not start a formula."""
    return str(text).replace("$", r"\$")


def _axes(n: int, axes: Any) -> tuple[Figure, list[Axes]]:
    """Return a new figure with n axes side by side, or the caller's axes with their figure."""
    if axes is None:
        figure = Figure(figsize=(0.6 + 5.2 * n, 4.4), layout="constrained")
        return figure, list(np.atleast_1d(figure.subplots(1, n)))
    found = list(np.atleast_1d(axes))
    return found[0].figure, found


@dataclass(frozen=True)
class CurveDisplay:
    """Metrics against the share of poison, one panel per metric and one line per policy.

    `frame` has an audit's records; `panels` maps the column of a metric to the label of its axis; with `percent`,
    shares are drawn in per cent; `flips` are the records of flipped labels alone, which are drawn dotted.
    """

    frame: pd.DataFrame
    panels: Mapping[str, str]
    percent: bool = False
    flips: pd.DataFrame | None = None

    def plot(self, axes: Any = None) -> Figure:
        """Draw the panels on `axes` (one per metric), or in a new figure; return the figure."""
        figure, panels = _axes(len(self.panels), axes)
        found, factor = curves(self.frame, tuple(self.panels)), 100 if self.percent else 1
        flipped = {} if self.flips is None else curves(self.flips, tuple(self.panels))
        for axis, (metric, label) in zip(panels, self.panels.items(), strict=True):
            for i, (policy, curve) in enumerate(found.items()):
                x, colour = 100 * np.array(curve["ratio"]), COLOURS[i % 7]
                # Policies often coincide. Later lines are thinner, so that those below stay visible.
                width = 3 - 2 * i / max(len(found) - 1, 1)
                y = factor * np.array(curve[metric]["mean"], dtype=float)
                (line,) = axis.plot(x, y, color=colour, label=_as_is(policy))
                line.set(linestyle=DASHES[i % 7], linewidth=width, marker=MARKERS[i % 7], markersize=3 + 1.5 * width)
                low, high = (factor * np.array(curve[metric][side], dtype=float) for side in ("low", "high"))
                axis.fill_between(x, low, high, alpha=0.15, lw=0, color=colour)
                if (other := flipped.get(policy)) and other["points"][-1]:
                    x, y = 100 * np.array(other["ratio"]), factor * np.array(other[metric]["mean"], dtype=float)
                    axis.plot(x, y, ls=":", lw=1, color=colour)
            if flipped:
                axis.plot([], [], ls=":", lw=1, color="0.3", label="labels alone, same colour")
            axis.set(xlabel="poison in the training set [%]", ylabel=_as_is(label))
            axis.grid(alpha=0.25)
            axis.margins(x=0.02)
            if self.percent:
                axis.set_ylim(bottom=0)
        panels[0].legend(fontsize=8, loc="best")
        figure.suptitle(f"{_as_is(self.frame['dataset'].iloc[0])}: {_spread(self.frame, 'band')}", fontsize=10)
        return figure


@dataclass(frozen=True)
class ClassDisplay:
    """The share of each class's test rows that are missed, clean and at the most poison: one panel per policy.

    `frame` has an audit's records, `classes` the names of the classes. Bars are means over splits, whiskers their 95 %
    interval.
    """

    frame: pd.DataFrame
    classes: Sequence[str]

    def plot(self, axes: Any = None) -> Figure:
        """Draw the panels on `axes` (one per policy), or in a new figure; return the figure."""
        columns = [f"fnr {k}" for k in range(len(self.classes))]
        frame = self.frame.assign(**dict(zip(columns, np.stack(self.frame["fnrs"].to_list()).T, strict=True)))
        found = curves(frame, tuple(columns))
        figure, panels = _axes(len(found), axes)
        for axis, (policy, curve) in zip(panels, found.items(), strict=True):
            for i, (at, name) in enumerate(((0, "clean"), (-1, f"{curve['ratio'][-1]:.1%} poison"))):
                mean, low, high = (
                    100 * np.array([curve[column][part][at] for column in columns], float)
                    for part in ("mean", "low", "high")
                )
                ends = np.nan_to_num([mean - low, high - mean])
                place = np.arange(len(columns)) + 0.4 * i - 0.2
                axis.bar(place, mean, 0.4, label=name, color=COLOURS[i], hatch=("", "//")[i], edgecolor="white")
                axis.errorbar(place, mean, ends, fmt="none", ecolor="0.25", lw=1, capsize=2)
            axis.set(title=_as_is(policy), xlabel="class", ylabel="test rows of the class missed [%]")
            names = [_as_is(name) for name in self.classes]
            axis.set_xticks(np.arange(len(columns)), names, rotation=30 * (len(max(self.classes, key=len)) > 4))
            axis.set_ylim(0, 100)
            axis.grid(axis="y", alpha=0.25)
        panels[0].legend(fontsize=8)
        figure.suptitle(f"{_as_is(self.frame['dataset'].iloc[0])}: {_spread(self.frame, 'whiskers')}", fontsize=10)
        return figure


def _spread(frame: pd.DataFrame, drawn: str) -> str:
    """Return how the spread over splits is drawn, for a figure's title."""
    splits = frame["split"].nunique()
    return f"mean over {splits} splits, {drawn}: 95 % interval of the mean" if splits > 1 else "one split, no spread"


@dataclass(frozen=True)
class PoisonDisplay:
    """Poisoning points as images: as they started, as they ended, and the difference.

    `arrays` is one entry of `AuditResult.poison`; `image_shape` is (height, width); `classes` are the names of the
    classes; `shown` is how many points are drawn at most.
    """

    arrays: Mapping[str, np.ndarray]
    image_shape: tuple[int, int]
    classes: Sequence[str]
    title: str
    shown: int = 8

    def plot(self) -> Figure:
        """Draw evenly spaced points from the first to the last; return the figure."""
        picked = np.linspace(0, len(self.arrays["y_poison"]) - 1, min(self.shown, len(self.arrays["y_poison"])))
        picked = picked.round().astype(int)
        figure = Figure(figsize=(1.15 * len(picked) + 1.6, 4.6), layout="constrained")
        axes = np.asarray(figure.subplots(3, len(picked), squeeze=False))
        before, after = (
            (self.arrays[name][picked] * self.arrays["scale"] + self.arrays["offset"]).reshape(-1, *self.image_shape)
            for name in ("x_start", "x_poison")
        )
        top, change = max(before.max(), after.max()), np.abs(after - before).max() or 1
        for column, point in enumerate(picked):
            label = self.classes[int(self.arrays["y_poison"][point])]
            axes[0, column].set_title(f"#{point + 1}\nas “{_as_is(label)}”", fontsize=8)
            axes[0, column].imshow(before[column], cmap="gray", vmin=0, vmax=top)
            axes[1, column].imshow(after[column], cmap="gray", vmin=0, vmax=top)
            shown = axes[2, column].imshow(after[column] - before[column], cmap="PuOr", vmin=-change, vmax=change)
        for row, name in enumerate(("before", "after", "difference")):
            axes[row, 0].set_ylabel(name)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=axes[2, :], label="change, raw units", shrink=0.9)  # pyright: ignore[reportPossiblyUnboundVariable]
        figure.suptitle(_as_is(self.title), fontsize=10)
        return figure


def by_group(frame: pd.DataFrame) -> pd.DataFrame:
    """Return records in which a policy whose λ differ between groups of layers is divided into one policy per group.

    These are named `learned, λ 1`, `learned, λ 2`, …; all other policies stay as they are.
    """
    parts = []
    for policy, rows in frame.groupby("policy", sort=False):
        strengths = np.stack(rows["log_strengths"].to_list())
        if (strengths == strengths[:, :1]).all():
            parts.append(rows)
            continue
        groups = range(strengths.shape[1])
        parts += [rows.assign(policy=f"{policy}, λ {i + 1}", log_strength=strengths[:, i]) for i in groups]
    return pd.concat(parts)


def _tuning(frame: pd.DataFrame) -> dict[str, CurveDisplay]:
    """Return the figure of what tuning sets: λ and the weights, or the hyperparameters of estimators, if any is."""
    if tuned.has_any(frame):
        own, columns = tuned.drawn(frame)
        return {"hyperparameters": CurveDisplay(own, columns)} if columns else {}
    labels = {"log_strength": "λ = log of the L2 strength", "weight_norm_sq": "‖w‖²"}
    return {"regularisation": CurveDisplay(by_group(frame), labels)}


def draw_all(
    frame: pd.DataFrame,
    candidates: pd.DataFrame,
    poison: Mapping[tuple[int, str], Mapping[str, np.ndarray]],
    dataset: Mapping[str, Any],
) -> dict[str, Figure]:
    """Return every figure of a result by its file name, without ending. The arguments are as in `AuditResult`."""
    classes, aim = dataset["classes"], tuple(frame[["objective", "score"]].iloc[0])
    nothing = "; ".join(filter(None, ("[%]", baseline(frame))))
    error = {"test_error": f"test error {nothing}"}
    if aim != PLAIN:
        scored = nothing if aim[0] == PLAIN[0] else "[%]"
        error = {"attack_success": f"{measure(*aim)} {scored}", "test_error": "test error [%]"}
    if len(classes) == 2:
        rates = {
            "fpr": f"false positive rate, “{classes[0]}” taken for “{classes[1]}” [%]",
            "fnr": f"false negative rate, “{classes[1]}” taken for “{classes[0]}” [%]",
        }
    else:
        rates = {
            "fpr": "false positive rate, mean over classes [%]",
            "fnr": "false negative rate, mean over classes [%]",
        }
    figures: dict[str, CurveDisplay | ClassDisplay] = {
        "error": CurveDisplay(frame, error, percent=True, flips=flips_of(frame, candidates)),
        **_tuning(frame),
        "rates": CurveDisplay(frame, rates, percent=True),
    }
    if len(classes) > 2:
        figures["classes"] = ClassDisplay(frame, classes)
    drawn = {name: display.plot() for name, display in figures.items()}
    if dataset["image_shape"]:
        for (split, policy), arrays in poison.items():
            if split == 0:
                title = f"{dataset['name']}: poisoning points against {policy}, split 0"
                name = f"poison-{file_name(policy)}"
                drawn[name] = PoisonDisplay(arrays, tuple(dataset["image_shape"]), classes, title).plot()
    return drawn
