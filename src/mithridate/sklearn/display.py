"""The picture of a poisoning curve, as scikit-learn draws its own: data are stored, then drawn."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from mithridate.configuration.parts import one_of
from mithridate.errors import InputError
from mithridate.notebooks import with_parameters
from mithridate.results.figures import COLOURS, DASHES, MARKERS
from mithridate.sklearn.curves import poisoning_curve

SHADES = ("0.6", COLOURS[1], COLOURS[0])
"""Styles of: the worse of both, the attack, the baseline."""
XLABEL = "poison in the training set [%]"


class PoisoningCurveDisplay:
    """An estimator's score against the share of poison, and the hyperparameters that it tuned.

    Arguments, as `poisoning_curve` returns them: `shares` (n_shares,), `test_scores` and `baseline_scores` (n_shares,
    n_splits), `hyperparameters` and `baseline_hyperparameters`; `score_name`, for the axis. `plot` sets `ax_`,
    `figure_`, `lines_`, `fill_between_` and `errorbar_`. The last three have an entry for the worse of attack and
    baseline in each split (the one that counts), for the attack and for the baseline; they are None if not drawn.

    Example:
        >>> import numpy as np
        >>> from mithridate.sklearn import PoisoningCurveDisplay
        >>> attacked, flipped = np.array([[0.97, 0.95], [0.81, 0.77]]), np.array([[0.97, 0.95], [0.96, 0.93]])
        >>> display = PoisoningCurveDisplay(
        ...     shares=np.array([0.0, 0.1]), test_scores=attacked, baseline_scores=flipped, score_name="Accuracy")
        >>> display.plot().ax_.get_ylabel()
        'Accuracy'
    """

    def __init__(
        self,
        *,
        shares: np.ndarray,
        test_scores: np.ndarray,
        baseline_scores: np.ndarray,
        hyperparameters: Mapping[str, np.ndarray] | None = None,
        baseline_hyperparameters: Mapping[str, np.ndarray] | None = None,
        score_name: str | None = None,
    ):
        self.shares = shares
        self.test_scores = test_scores
        self.baseline_scores = baseline_scores
        self.hyperparameters = hyperparameters
        self.baseline_hyperparameters = baseline_hyperparameters
        self.score_name = score_name

    @classmethod
    @with_parameters(inspect.signature(poisoning_curve).parameters)
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        scoring: Any = None,
        ax: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
        std_display_style: str | None = "fill_between",
        line_kw: Mapping[str, Any] | None = None,
        fill_between_kw: Mapping[str, Any] | None = None,
        errorbar_kw: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "PoisoningCurveDisplay":
        """Compute a poisoning curve with these `options` (see `poisoning_curve`), draw it, and return the display."""
        curve = poisoning_curve(estimator, X, y, scoring=scoring, **options)
        display = cls(
            shares=curve.shares,
            test_scores=curve.test_scores,
            baseline_scores=curve.baseline_scores,
            hyperparameters=curve.hyperparameters,
            baseline_hyperparameters=curve.baseline_hyperparameters,
            score_name=score_name or _name_of(scoring, negate_score),
        )
        return display.plot(
            ax,
            negate_score=negate_score,
            std_display_style=std_display_style,
            line_kw=line_kw,
            fill_between_kw=fill_between_kw,
            errorbar_kw=errorbar_kw,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        negate_score: bool = False,
        score_name: str | None = None,
        std_display_style: str | None = "fill_between",
        line_kw: Mapping[str, Any] | None = None,
        fill_between_kw: Mapping[str, Any] | None = None,
        errorbar_kw: Mapping[str, Any] | None = None,
    ) -> "PoisoningCurveDisplay":
        """Draw means over splits and, as scikit-learn does, one standard deviation to either side.

        Arguments: `ax` to draw on (default: a new figure's); `negate_score`, for scores that are negated losses;
        `score_name` of the axis; `std_display_style`, "fill_between", "errorbar" or None; `line_kw`, `fill_between_kw`
        and `errorbar_kw`, handed on to matplotlib. Raises `InputError` for another style.
        """
        if std_display_style not in ("fill_between", "errorbar", None):
            raise InputError(one_of("std_display_style", std_display_style, ("fill_between", "errorbar"), ", or None"))
        axis = plt.subplots(layout="constrained")[1] if ax is None else ax
        curves = {
            "the worse of both": np.minimum(self.test_scores, self.baseline_scores),
            "worst poison found": self.test_scores,
            "nothing optimised": self.baseline_scores,
        }
        lines, bands, bars, x = [], [], [], 100 * np.asarray(self.shares)
        for i, (label, scores) in enumerate(curves.items()):
            scores = -scores if negate_score else scores
            mean, spread = scores.mean(axis=1), scores.std(axis=1)
            # The worse of both lies on one of the other lines or on both: it is drawn wider, beneath them.
            style = {"color": SHADES[i], "ls": DASHES[i], "lw": 1.8 if i else 7, "alpha": 1 if i else 0.35}
            style |= {"marker": MARKERS[i], "ms": 4 if i else 0, "label": label}
            if std_display_style == "errorbar":
                bars.append(axis.errorbar(x, mean, spread, **style | dict(errorbar_kw or {})))
                continue
            lines += axis.plot(x, mean, **style | dict(line_kw or {}))
            if std_display_style:
                band = {"color": style["color"], "alpha": 0.12, "lw": 0} | dict(fill_between_kw or {})
                bands.append(axis.fill_between(x, mean - spread, mean + spread, **band))
        default = "Negative score" if negate_score else "Score"
        axis.set(xlabel=XLABEL, ylabel=score_name or self.score_name or default)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
        self.ax_, self.figure_ = axis, axis.figure
        self.lines_, self.errorbar_, self.fill_between_ = lines or None, bars or None, bands or None
        return self

    def plot_hyperparameters(self, axes: Any = None) -> "PoisoningCurveDisplay":
        """Draw the tuned hyperparameters against the share of poison: one panel for each, one dot for each split.

        Arguments: `axes`, one for each hyperparameter (default: those of a new figure). Lines are means. If a positive
        hyperparameter spans more than a factor of 20, the mean is geometric and the axis logarithmic. Hyperparameters
        that are not numbers have a tick for each value and no line. Sets `axes_` and `figure_`. Raises `InputError` if
        nothing was tuned or there are too few axes.
        """
        tuned = self.hyperparameters or {}
        if not tuned:
            raise InputError("there are no hyperparameters to draw: the estimator tunes none, or none were given")
        if axes is None:
            width = 0.6 + 4.6 * len(tuned)
            axes = plt.subplots(1, len(tuned), figsize=(width, 4.2), layout="constrained", squeeze=False)[1]
        panels = list(np.ravel(axes))
        if len(panels) < len(tuned):
            raise InputError(f"axes: {len(panels)} for {len(tuned)} hyperparameters ({', '.join(tuned)})")
        for axis, (name, values) in zip(panels, tuned.items(), strict=False):
            _draw(axis, 100 * np.asarray(self.shares), name, values, (self.baseline_hyperparameters or {}).get(name))
        panels[0].legend(fontsize=8)
        self.axes_, self.figure_ = panels, panels[0].figure
        return self


def _draw(axis: Any, x: np.ndarray, name: str, values: np.ndarray, baseline: np.ndarray | None) -> None:
    shown = [part for part in (values, baseline) if part is not None]
    together, numeric = np.concatenate(shown), all(part.dtype != object for part in shown)
    if not numeric:
        texts = sorted({str(value) for value in together.ravel()})
        shown = [np.vectorize(texts.index, otypes=[float])(part.astype(str)) for part in shown]
        axis.set_yticks(range(len(texts)), texts)
    low, high = (np.nanmin(together), np.nanmax(together)) if numeric else (0.0, 0.0)
    logarithmic = bool(low > 0 and high > 20 * low)
    for i, (part, label) in enumerate(zip(shown, ("worst poison found", "nothing optimised"), strict=False), start=1):
        style = {"color": SHADES[i], "label": label}
        if numeric:
            mean = np.exp(np.log(part).mean(axis=1)) if logarithmic else part.mean(axis=1)
            axis.plot(x, mean, ls=DASHES[i], lw=1.8, **style)
        # Splits with the same value are drawn side by side.
        aside = x[:, None] + (np.linspace(-0.25, 0.25, part.shape[1]) + 0.05 * i)[None]
        axis.plot(aside, part, MARKERS[i], ms=4, alpha=0.5, color=style["color"])
        if not numeric:
            axis.plot([], [], MARKERS[i], **style)
    if logarithmic:
        axis.set_yscale("log")
    axis.set(xlabel=XLABEL, ylabel=name)
    axis.grid(alpha=0.25)


def _name_of(scoring: Any, negate: bool) -> str | None:
    """Return what scikit-learn would call the score, or None where it has no name."""
    if not isinstance(scoring, str):
        return getattr(scoring, "__name__", None)
    negative = scoring.startswith("neg_")
    words = scoring.removeprefix("neg_").replace("_", " ")
    if negative == negate:
        return words.capitalize()
    return f"Negative {words}"
