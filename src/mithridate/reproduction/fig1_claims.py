"""The claims of Sect. 4 about Fig. 1, compared with the frame; the figure and its caption."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mithridate.configuration.config import AuditConfig
from mithridate.reproduction import outcome
from mithridate.reproduction.outcome import Claim, above, below, mean_and_half, signed, within
from mithridate.results.figures import COLOURS

NONE, STRONG, LEARNED = "fixed=-8", "fixed=log(20)", "learned"
"""The policies: no regularisation, λ = log 20 (Fig. 1, centre), and λ learned by Eq. 1 (right)."""

MARGIN = 5.0
"""A change of at least this many points of error, or per cent of the rows, is significant; otherwise slight."""
MUCH = float(np.log(10))
"""λ that differ by more than this differ significantly: one penalty is ten times the other."""

BLUE, GREEN, RED, GREY = COLOURS[5], COLOURS[2], COLOURS[1], "0.65"

claim = functools.partial(outcome.claim, where="Sect. 4")


def optima(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, by split and policy, the row of the attack's path with the highest A.

    For the learned λ it is the row at the optimum against λ = −8.
    """
    path = frame[frame["kind"] == "path"]
    fixed = path[path["policy"] != LEARNED]
    best = fixed.loc[fixed.groupby(["split", "policy"])["attacker_loss"].idxmax()]
    against_none = best.loc[best["policy"] == NONE, ["split", "step"]]
    relearned = path[path["policy"] == LEARNED].merge(against_none, on=["split", "step"])
    return pd.concat([best, relearned]).set_index(["split", "policy"]).sort_index()


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Return the observations of Sect. 4, each with its verdict. There is one value per draw of the data."""
    best = optima(frame).unstack("policy")
    clean = frame[frame["kind"] == "clean"].pivot(index="split", columns="policy")
    maps = frame[frame["kind"] == "map"].pivot(index=["split", "x1", "x2"], columns="policy")
    errors, losses = (maps[column].groupby("split") for column in ("valid_error", "attacker_loss"))
    changed = 100 * best["changed"]
    rise = 100 * (errors.max() - clean["valid_error"])
    rise_at_best = 100 * (best["valid_error"] - clean["valid_error"])
    letter_changed = 100 * best["minibatch_changed"]
    letter_rise = 100 * (maps["minibatch_valid_error"].groupby("split").max() - clean["minibatch_valid_error"])
    spread = 100 * (errors.max() - errors.min())
    loss_spread = losses.max() - losses.min()
    turned = {
        policy: _degrees(*((of["w1"][policy], of["w2"][policy]) for of in (clean, best))) for policy in (NONE, STRONG)
    }
    reached = 100 * best["attacker_loss"][NONE] / losses.max()[NONE]

    influence = maps["attacker_loss"][NONE]
    harm = influence - clean["attacker_loss"][NONE].reindex(influence.index, level="split")
    half = harm.ge(0.5 * harm.groupby("split").transform("max"))
    strength = maps["log_strength"][LEARNED]
    much, little = (strength[part].groupby("split").mean() for part in (half, ~half))
    ranks = pd.Series(
        {split: _rank_correlation(rows, strength.loc[split]) for split, rows in influence.groupby("split")}
    )
    smallest, largest = strength.groupby("split").min(), strength.groupby("split").max()

    def in_32(values: pd.Series) -> str:
        return f"In minibatches that leave a row over: {_mean(values)}."

    return [
        claim(
            "1",
            "One single poisoning point can significantly alter the decision boundary (no regularisation).",
            changed[NONE],
            "% of the test rows change sides",
            above(MARGIN),
            f"The boundary turns by {_mean(turned[NONE])}°. Test error: {_mean(100 * clean['test_error'][NONE])} % → "
            f"{_mean(100 * best['test_error'][NONE])} %. The attack reaches {_mean(reached)} % of the map's largest "
            f"validation loss. {in_32(letter_changed[NONE])}",
        ),
        claim(
            "2a",
            "With λ = log(20) the effect of the poisoning point on the classifier is very reduced …",
            changed[NONE] - changed[STRONG],
            "points fewer test rows change sides than without regularisation",
            above(0.0),
            f"Each attacked by its own point: {_mean(changed[NONE])} % against {_mean(changed[STRONG])} %.",
        ),
        claim(
            "2b",
            "… and its decision boundary shifts just slightly.",
            changed[STRONG],
            "% of the test rows change sides",
            below(MARGIN),
            f"The boundary turns by {_mean(turned[STRONG])}°. {in_32(letter_changed[STRONG])}",
        ),
        claim(
            "3a",
            "When there is no regularisation the error can significantly increase …",
            rise[NONE],
            "points of validation error above clean at the worst place",
            above(MARGIN),
            f"Validation loss there: {_mean(losses.max()[NONE])}, clean "
            f"{_mean(clean['attacker_loss'][NONE])}. {in_32(letter_rise[NONE])}",
        ),
        claim(
            "3b",
            "… when we inject the poisoning point in certain regions.",
            100 * half.groupby("split").mean(),
            "% of Φ has at least half of the largest rise of the validation loss",
            below(50.0),
            "Anywhere would be 100 %.",
        ),
        claim(
            "4",
            "When regularisation is applied the colour-map is more uniform.",
            spread[NONE] - spread[STRONG],
            "points less between the map's largest and smallest validation error",
            above(0.0),
            f"Range: {_mean(spread[NONE])} points without, {_mean(spread[STRONG])} with; of the loss "
            f"{_mean(loss_spread[NONE])} and {_mean(loss_spread[STRONG])}.",
        ),
        claim(
            "5a",
            "The algorithm is quite stable regardless of the position of the poisoning point (λ = log(20)) …",
            rise[STRONG],
            "points of validation error above clean at the worst place",
            within(MARGIN),
            f"Without regularisation {_mean(rise[NONE])}. {in_32(letter_rise[STRONG])}",
        ),
        claim(
            "5b",
            "… and the increase in the validation error after the attack is very small.",
            rise_at_best[STRONG],
            "points of validation error above clean after the attack",
            within(MARGIN),
            f"Without regularisation {_mean(rise_at_best[NONE])}. One of the {_valid_rows(frame)} validation rows is "
            f"{100 / _valid_rows(frame):.2g} points.",
        ),
        claim(
            "6",
            "The value for λ can change significantly depending on the position of the poisoning point.",
            largest - smallest,
            "between the largest and the smallest λ learned",
            above(MUCH, f"> log(10) = {MUCH:.2g}"),
            f"From {_mean(smallest)} to {_mean(largest)}; on clean data {_mean(clean['log_strength'][LEARNED])}.",
        ),
        claim(
            "7",
            "The value of λ is much bigger for the regions where the poisoning point can influence more the "
            "classifier.",
            much - little,
            "is the mean λ higher where A without regularisation has at least half of its largest rise than elsewhere",
            above(MUCH, f"> log(10) = {MUCH:.2g}"),
            f"Mean λ: {_mean(much)} there, {_mean(little)} elsewhere.",
        ),
        claim(
            "8",
            "When the attack can have a very negative impact, the importance of the regularisation term increases.",
            ranks,
            "is the rank correlation over Φ of the learned λ with A without regularisation",
            above(0.0),
            "1 would be the same order.",
        ),
        claim(
            "9",
            "Selecting appropriately the value of λ can have a significant impact on the robustness of the classifier.",
            rise[NONE] - rise[LEARNED],
            "points less rise of the validation error at the worst place with λ learned there than without",
            above(MARGIN),
            f"Rise at the worst place: {_mean(rise[NONE])} points without regularisation, {_mean(rise[LEARNED])} with "
            f"λ learned, {_mean(rise[STRONG])} with λ = log(20).",
        ),
        claim(
            "10",
            "If we ignore the effect on the hyperparameters, these attacks can overestimate the adversary's "
            "capabilities.",
            100 * (best["valid_error"][NONE] - best["valid_error"][LEARNED]),
            "points less validation error at the same poisoning point once λ is learned again",
            above(0.0),
            f"Validation loss at the point: {_mean(best['attacker_loss'][NONE])} with λ = −8, "
            f"{_mean(best['attacker_loss'][LEARNED])} with λ learned ({_mean(best['log_strength'][LEARNED])}).",
            where="Sect. 3.1",
        ),
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Return Fig. 1 for the first draw of the data: validation error without and with regularisation, and λ learned.

    Both error maps share one scale of colours.
    """
    first = frame[frame["split"] == 0]
    maps, best, clean = first[first["kind"] == "map"], optima(first).loc[0], first[first["kind"] == "clean"]
    clean = clean.set_index("policy")
    figure = Figure(figsize=(14.5, 5.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    both = maps[maps["policy"] != LEARNED]
    levels = MaxNLocator(8).tick_values(both["attacker_loss"].min(), both["attacker_loss"].max())
    scale = {"vmin": 100 * both["valid_error"].min(), "vmax": 100 * both["valid_error"].max()}
    titles = {NONE: "(a) no regularisation, λ = −8", STRONG: "(b) λ = log 20", LEARNED: "(c) λ learned at every place"}
    for axis, (policy, title) in zip(axes, titles.items(), strict=True):
        column = "log_strength" if policy == LEARNED else "valid_error"
        table = maps[maps["policy"] == policy].pivot(index="x2", columns="x1", values=column)
        values, limits = (table, {}) if policy == LEARNED else (100 * table, scale)
        mesh = axis.pcolormesh(table.columns, table.index, values, cmap="cividis", rasterized=True, **limits)
        of_loss = maps[maps["policy"] == (NONE if policy == LEARNED else policy)]
        losses = of_loss.pivot(index="x2", columns="x1", values="attacker_loss")
        axis.contour(losses.columns, losses.index, losses, levels, colors="white", linewidths=0.6)
        low, high = (float(end) for end in (table.columns.min(), table.columns.max()))
        box = Rectangle((low, low), high - low, high - low, fill=False, ls="-.", ec=GREY, lw=2, clip_on=False)
        axis.add_patch(box)
        if policy == LEARNED:
            figure.colorbar(mesh, ax=axis, label="λ learned by Eq. 1 (log of the L2 strength)", shrink=0.9)
        else:
            _boundary(axis, clean.loc[policy], color="white", ls="--")
            _boundary(axis, best.loc[policy], color=RED, ls="-")
            path = first[(first["kind"] == "path") & (first["policy"] == policy)].sort_values("step")
            axis.plot(path["x1"], path["x2"], color=RED, lw=1, marker=".", ms=3)
            axis.plot(*path[["x1", "x2"]].iloc[0], ls="", marker="o", ms=7, mfc="none", mec=RED, mew=1.5)
            axis.plot(
                *best.loc[policy, ["x1", "x2"]], ls="", marker="X", ms=12, mfc=RED, mec="white", clip_on=False, zorder=5
            )
        for label, colour, marker in ((0, BLUE, "o"), (1, GREEN, "^")):
            points = first[(first["kind"] == "train") & (first["label"] == label)]
            axis.plot(points["x1"], points["x2"], ls="", marker=marker, ms=6, mfc=colour, mec="black", mew=0.6)
        pad = 0.04 * (high - low)
        axis.set(
            xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal", title=title, xlabel="$x_1$"
        )
        if axis is axes[1]:
            figure.colorbar(mesh, ax=axes[:2], label="validation error [%]", shrink=0.9)
    axes[0].set_ylabel("$x_2$")
    figure.legend(handles=_legend(levels[1] - levels[0]), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _boundary(axis: Axes, row: Any, **style: str) -> None:
    """Draw the line w·x + b = 0."""
    w = np.array([row["w1"], row["w2"]])
    x, y = -row["bias"] * w / (w @ w)
    axis.axline((x, y), (x - w[1], y + w[0]), lw=2, **style)  # pyright: ignore[reportArgumentType]


def _legend(step: float) -> list[Line2D]:
    """Return the legend's entries. White lines of the panels are grey here, on the white background."""
    points = {"ls": "", "mec": "black", "mew": 0.6}
    return [
        Line2D([], [], marker="o", mfc=BLUE, ms=6, label="training rows, class 0", **points),
        Line2D([], [], marker="^", mfc=GREEN, ms=6, label="training rows, class 1", **points),
        Line2D(
            [], [], ls="", marker="X", mfc=RED, mec="white", ms=12, label="poisoning point, class 1, after the attack"
        ),
        Line2D([], [], color=RED, marker="o", mfc="none", mec=RED, lw=1, label="its path, from the circle"),
        Line2D([], [], color="0.75", ls="--", lw=2, label="decision boundary, clean (white)"),
        Line2D([], [], color=RED, lw=2, label="decision boundary, poisoned"),
        Line2D([], [], color=GREY, ls="-.", lw=2, label="the attacker's constraints Φ"),
        Line2D([], [], color="0.75", lw=0.8, label=f"validation loss A, steps of {step:.2g} (white; in (c): of (a))"),
    ]


def caption(frame: pd.DataFrame, config: AuditConfig, versions: Mapping[str, str]) -> str:
    """Return the caption: what was done."""
    maps = frame[(frame["kind"] == "map") & (frame["split"] == 0)]
    side, (low, high) = maps["x1"].nunique(), (maps["x1"].min(), maps["x1"].max())
    steps = maps.groupby("policy")["inner_steps"].first().astype(int)
    learned = f"T = {steps[LEARNED]}, η = {config.learning_rate * config.inner_steps / steps[LEARNED]:g}"
    statuses = frame.loc[(frame["kind"] == "path") & (frame["step"] > 0) & (frame["policy"] != LEARNED), "status"]
    counted = ", ".join(f"{n} {status}" for status, n in statuses.value_counts().items())
    splits = frame["split"].nunique()
    weakest, strongest = config.strength_bounds
    return "\n".join(
        [
            f"Fig. 1 again: one poisoning point is added to {config.train} training rows of two Gaussians (App. D.1), "
            f"{config.valid} validation rows. (a), (b) Validation error of logistic regression against the place of "
            "the point; the decision boundary without it (dashed) and with it at the attack's optimum (solid); the "
            "attack's path. One scale of colours for both. (c) λ learned by Eq. 1 with the point at each place. The "
            f"first of {splits} draws of the data is shown; the claims are over all of them, intervals 95 %.",
            f"Places: {side} × {side} on Φ(X_p) = [{low:g}, {high:g}]². The point is of class 1, the one on the right.",
            f"Attack: Algorithm 1, {config.hyperiterations} hyperiterations, rule {config.poison_rule!r}, α = "
            f"{config.poison_step:g}, from clones of all validation rows of class 0, by RMD through T = {steps[NONE]} "
            f"steps of gradient descent, η = {config.learning_rate:g}. The figure shows the best of their paths; the "
            f"optimum is its place with the highest validation loss A. Statuses of its steps: {counted}.",
            "Validation error, test error and boundaries: of the victim retrained from scratch by SGD, η = "
            f"{config.train_learning_rate:g}, minibatches of {config.train + config.points}, {config.epochs} epochs. "
            f"Minibatches of {config.batch_size} would leave one row over, which gets its own step; in one epoch of "
            f"{config.train + config.points} this row is the poison, and the last such step would decide the result. "
            "Validation loss A (thin lines, in (c) those of (a)): after the attack's inner training.",
            f"λ: minimiser of A over Φ(λ) = [{weakest:g}, {strongest:.3g}] on three grids, each finer, resolution "
            f"{(strongest - weakest) / 1024:.2g}; {learned}, steps cut where they could diverge within Φ(λ). Penalty: "
            "e^λ/(2n)·‖w‖², n the rows.",
            f"A change is significant if it is at least {MARGIN:g} points of error or {MARGIN:g} % of the test rows, "
            "otherwise slight; for λ, at least log(10). Test rows: all other rows of the data set.",
            f"Seed {config.seed}, {config.precision}. Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()),
        ]
    )


def _degrees(*weights: tuple[Any, Any]) -> pd.Series:
    """Return the angle in degrees between the boundaries of the first weights w1, w2 and the others, by split."""
    before, after = (np.degrees(np.arctan2(w2, w1)) for w1, w2 in weights)
    return ((after - before + 180) % 360 - 180).abs()


def _rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Return Spearman's rank correlation of two maps."""
    return float(np.corrcoef(one.rank(), other.rank())[0, 1])


def _mean(values: pd.Series) -> str:
    return signed(*mean_and_half(values)).removeprefix("+")


def _valid_rows(frame: pd.DataFrame) -> int:
    return int(((frame["kind"] == "valid") & (frame["split"] == 0)).sum())
