"""The claims of App. E.1 about Fig. 4, compared with the frame; the figure and its caption."""

import functools
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mithridate.configuration.config import AuditConfig
from mithridate.reproduction import outcome
from mithridate.reproduction.outcome import Claim, above, mean_and_half, signed, within
from mithridate.results.figures import COLOURS, MARKERS, CurveDisplay
from mithridate.results.verdict import curves

claim = functools.partial(outcome.claim, where="App. E.1")

REVERSE, REVERSED, FORWARD = "RMD", "RMD, weights not stored", "FMD"
EXACT, SOLVED = "exact hypergradient", "exact hypergradient at the optimum"

POINTS_MARGIN = 1.0
"""Test errors that differ by less, in points, count as a good approximation."""
STRENGTH_MARGIN = 0.1
"""λ that differ by less count as equal, as in an audit's `off-response`."""
STATIONARY = 1e-3
"""‖∇L(wT)‖/‖∇L(w0)‖ up to which `Implicit` counts wT as optimal, and the drift up to which `Reversible` does."""


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Return the observations of App. E.1, each with its verdict. Methods are paired by split.

    Differences are averaged over the poisoned ratios of a split; intervals are over splits.
    """
    frame = frame.assign(points=100 * frame["test_error"])
    poisoned, clean = frame[frame["n_poison"] > 0], frame[frame["n_poison"] == 0]
    indexed = poisoned.set_index(["split", "ratio"])
    exact, backwards = (indexed[indexed["method"] == name] for name in (EXACT, REVERSED))
    lower = -_difference(poisoned, "points", EXACT)
    stronger = _difference(poisoned, "log_strength", EXACT)
    forward = {c: _difference(poisoned, c, FORWARD).abs() for c in ("points", "log_strength")}
    reversed_ = {c: _difference(poisoned, c, REVERSED).abs() for c in ("points", "log_strength")}
    gain = 100 * (1 - exact["residual_finer"] / exact["residual_attack"])
    inner = {at: f"{exact[f'residual_{at}'].mean():.3g}" for at in ("attack", "finer", "longer")}
    response = {name: rows["best_log_strength"] - rows["log_strength"] for name, rows in indexed.groupby("method")}
    drifts = pd.Series(np.log10(backwards["drift"].clip(upper=1e38)), backwards.index)
    return [
        claim(
            "1",
            "The exact hypergradient approach leads to a lower test error (stronger regulariser).",
            _by_split(lower),
            "points of test error below RMD's",
            above(0.0),
            f"By ratio: {_by_ratio(lower)}.{_at_the_optimum(poisoned, 'points', -1.0)}",
        ),
        claim(
            "2",
            "λ increases faster for the same concentration of malicious points (exact hypergradient).",
            _by_split(stronger),
            "of λ above RMD's",
            above(0.0),
            f"By ratio: {_by_ratio(stronger)}.{_at_the_optimum(poisoned, 'log_strength')} "
            f"The best response to the same points is {response[EXACT].mean():+.2f} from the exact hypergradient's λ.",
        ),
        claim(
            "3a",
            "… at the risk of underfitting the clean data set: λ.",
            _by_split(_difference(clean, "log_strength", EXACT)),
            "of λ above RMD's at 0 % poison",
            above(0.0),
            f"λ without poison: {_mean(clean, 'log_strength', EXACT):.2f}, RMD {_mean(clean, 'log_strength'):.2f}."
            f"{_at_the_optimum(clean, 'log_strength')}",
        ),
        claim(
            "3b",
            "… at the risk of underfitting the clean data set: test error.",
            _by_split(_difference(clean, "points", EXACT)),
            "points of test error above RMD's at 0 % poison",
            above(0.0),
            f"Test error without poison: {_mean(clean, 'points', EXACT):.2f} %, RMD {_mean(clean, 'points'):.2f} %."
            f"{_at_the_optimum(clean, 'points')}",
        ),
        claim(
            "4",
            "RMD and FMD are equivalent if the trajectory of the weights is stored.",
            forward["log_strength"].groupby("split").max(),
            "of λ, the largest distance of a split",
            within(STRENGTH_MARGIN),
            f"Test errors differ by at most {forward['points'].max():.2g} points; λ's derivatives at the same points "
            f"by {_relative(poisoned, FORWARD):.1g} of RMD's (median).",
        ),
        claim(
            "5",
            "Not storing the weights leads also to a good approximation of the test error.",
            _by_split(reversed_["points"]),
            "points of test error from RMD's, either way",
            within(POINTS_MARGIN),
            f"By ratio: {_by_ratio(reversed_['points'])}. λ is {_by_ratio(reversed_['log_strength'])} from RMD's, and "
            f"{response[REVERSED].abs().mean():.2f} from the best response to its own points.",
        ),
        claim(
            "6a",
            "The exact hypergradient requires a higher number of inner iterations (stronger stationary conditions).",
            _by_split(exact["residual_attack"]),
            "of ‖∇L(w0)‖ is left of ‖∇L(wT)‖ after the attack's T and η",
            above(STATIONARY, f"> {STATIONARY:g} (not stationary)"),
            f"First-order distance of A from its value at the optimum: {exact['gap'].mean():.1%}. Statuses of "
            f"its steps: {_statuses(frame, EXACT)}.",
        ),
        claim(
            "6b",
            "… which T = 1500 and η = 1e-2 provide (ten times the steps at a tenth of η).",
            _by_split(gain),
            "% less residual than with the attack's T and η",
            above(0.0),
            f"Residual: {inner['attack']} with the attack's T and η, {inner['finer']} with 10·T and η/10, "
            f"{inner['longer']} with 10·T and η. What counts is η·T, which E.1's setting leaves as it was.",
        ),
        claim(
            "7",
            "SGD with fixed step is not reversible (although for linear classifiers it can work in practice).",
            _by_split(drifts),
            "is log10 of the drift ‖ŵ0 − w0‖/‖wT − w0‖",
            above(float(np.log10(STATIONARY))),
            f"Drift: median {backwards['drift'].median():.3g}, with 10·T and η/10 "
            f"{backwards['drift_finer'].median():.3g}: training contracts, so that rounding grows on the way back.",
        ),
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Return Fig. 4: test error (left) and λ (right) against the share of poison; below, differences from RMD.

    The methods differ by less than the splits, so the paired differences show more than the curves.
    """
    shown = frame.rename(columns={"method": "policy"}).assign(test_error=100 * frame["test_error"])
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 2))
    strength = "λ = log of the L2 strength"
    CurveDisplay(shown, {"test_error": "test error [%]", "log_strength": strength}).plot(axes[0])
    for axis in axes[0]:
        axis.set_xlabel("")
        for band in axis.collections:
            band.set_alpha(0.06)
    axes[0, 0].set_ylim(bottom=0)
    best = frame[frame["method"] == REVERSE].groupby("ratio")["best_log_strength"].mean()
    (line,) = axes[0, 1].plot(100 * best.index, best, ":", color="black", lw=1.5)
    axes[0, 1].legend([line], ["best response to RMD's points"], fontsize=8, loc="lower right")

    # On clean data λ may differ a hundred times as much as on poisoned data.
    axes[1, 1].set_yscale("symlog", linthresh=0.1)
    _draw_difference(axes[1, 0], shown, "test_error", "test error − RMD's [points]")
    _draw_difference(axes[1, 1], shown, "log_strength", "λ − RMD's (linear within ±0.1)")
    return figure


def _draw_difference(axis: Axes, shown: pd.DataFrame, metric: str, label: str) -> None:
    """Draw each method's values minus RMD's on the same split, mean and 95 % interval, the methods side by side."""
    wide = shown.pivot(index=["split", "n_poison", "ratio"], columns="policy", values=metric)
    away = wide.sub(wide[REVERSE], axis=0).melt(ignore_index=False, value_name=metric).reset_index()
    found, width = curves(away, (metric,)), shown["ratio"].max()
    for i, name in enumerate(shown["policy"].unique()):
        if name == REVERSE:
            continue
        curve = found[name]
        mean, low = (np.array(curve[metric][side], dtype=float) for side in ("mean", "low"))
        x = 100 * np.array(curve["ratio"]) + width * (i - 2.5)
        half = np.nan_to_num(mean - low)
        axis.errorbar(x, mean, half, color=COLOURS[i], marker=MARKERS[i], ls="", ms=5, capsize=2)
    axis.axhline(0, color=COLOURS[0], lw=1)
    axis.set(xlabel="poison in the training set [%]", ylabel=label)
    axis.grid(alpha=0.25)


def caption(frame: pd.DataFrame, config: AuditConfig, versions: Mapping[str, str]) -> str:
    """Return the caption: what was done."""
    first, splits = frame.iloc[0], frame["split"].nunique()
    eta, T = config.learning_rate * config.inner_steps / first["inner_steps"], first["inner_steps"]
    exact = frame[(frame["method"] == EXACT) & (frame["n_poison"] > 0)]
    longer = exact["inner_steps"].iloc[0]
    spread = f"Mean over {splits} splits, bands: its 95 % interval" if splits > 1 else "One split, no spread"
    steps = {name: _statuses(frame, name) for name in frame["method"].unique()}
    seconds = frame.groupby("method", sort=False)["seconds"].median()
    if config.victim == "exact":
        victim = "solved to optimality"
    else:
        victim = (
            f"retrained from scratch by SGD (η = {config.train_learning_rate:g}, minibatches of {config.batch_size}, "
            f"{config.epochs} epochs)"
        )
    return "\n".join(
        [
            f"Fig. 4 again on {first['dataset']}: test error (left) and λ (right) against the share of poison, by the "
            f"method of λ's hypergradient. {spread}. Dotted: the best response to the points crafted with RMD. Below: "
            "differences from RMD on the same split, mean and 95 % interval, drawn side by side.",
            f"Logistic regression, {config.train} training and {config.valid} validation rows; {config.points} points "
            f"in batches of {config.batch}, poison {config.budget}; the victim {victim}.",
            f"Attack: Algorithm 1, {config.joint_hyperiterations} outer steps a batch, points by the rule "
            f"{config.poison_rule!r} (step {config.poison_step:g}), λ by the rule {config.hyper_rule!r} (largest step "
            f"{config.hyper_step:g}) within [{config.strength_bounds[0]:g}, {config.strength_bounds[1]:.3g}]. λ "
            "stays where its own descent ends, without a closing solve, and the last step's points are kept; on clean "
            "data it takes 50 steps from the lower bound. Both hypergradients of a step are at the same points.",
            f"X_p: always RMD through T = {T} steps of full-batch gradient descent, η = {eta:g}. λ by RMD, by FMD "
            "(Alg. 3) and by RMD without the weights stored, recomputed by the first-order reversal w + η∇L(w) "
            "(Muñoz-González et al., 2017): through the same steps. λ by the exact hypergradient (Eq. 4, conjugate "
            f"gradient): at the end of T = {longer} steps of η = {eta * T / longer:g}, where ‖∇L(wT)‖/‖∇L(w0)‖ is "
            f"{exact['residual_finer'].mean():.2g} ({exact['residual_attack'].mean():.2g} after the others' steps)."
            + (
                " At the optimum, not in the paper: the same formula where training is solved."
                if SOLVED in steps
                else ""
            ),
            "Statuses of the hypergradients of all poisoned steps (none was left out): "
            + "; ".join(f"{name}: {found}" for name, found in steps.items())
            + ".",
            "Seconds for λ's hypergradient alone (compiled, median over cells): "
            + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())
            + ".",
            f"Seed {config.seed}, {config.precision}. Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()),
        ]
    )


def _difference(frame: pd.DataFrame, column: str, method: str) -> pd.Series:
    """Return a method's values minus RMD's, by split and ratio."""
    wide = frame.pivot(index=["split", "ratio"], columns="method", values=column)
    return wide[method] - wide[REVERSE]


def _by_split(values: pd.Series) -> pd.Series:
    return values.groupby("split").mean()


def _by_ratio(values: pd.Series) -> str:
    return ", ".join(f"{value + 0.0:.2f} at {ratio:.1%}" for ratio, value in values.groupby("ratio").mean().items())


def _at_the_optimum(frame: pd.DataFrame, column: str, sign: float = 1.0) -> str:
    """Return the same difference for the fifth curve, where it was computed."""
    if SOLVED not in set(frame["method"]):
        return ""
    return f" At the optimum: {signed(*mean_and_half(_by_split(sign * _difference(frame, column, SOLVED))))}."


def _mean(frame: pd.DataFrame, column: str, method: str = REVERSE) -> float:
    return float(frame.loc[frame["method"] == method, column].mean())


def _relative(frame: pd.DataFrame, method: str) -> float:
    """Return the median distance of a method's derivatives from RMD's at the same points, in units of RMD's."""
    rows = frame[frame["method"] == method]
    return float(((rows["hyper"] - rows["hyper_rmd"]).abs() / rows["hyper_rmd"].abs()).median())


def _statuses(frame: pd.DataFrame, method: str) -> str:
    """Return the number of a method's steps with each status, over all splits, as text."""
    rows = frame[(frame["method"] == method) & (frame["n_poison"] == frame["n_poison"].max())]
    counts: Counter[str] = Counter()
    for text in rows["hypergradients"]:
        counts.update({name: int(n) for name, n in (entry.split(":") for entry in text.split())})
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())
