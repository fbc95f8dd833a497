"""Fig. 2 (Sect. 5.1): logistic regression under attack, for four ways of setting λ.

Test error against the share of poison above; λ and ‖w‖² of the learned policy below.
"""

import functools
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from mithridate.reproduction import outcome
from mithridate.reproduction.effects import (
    AS_GOOD,
    CLEAN,
    EFFECTIVE,
    LEARNED,
    SMALL,
    at,
    by_ratio,
    change,
    large,
    rise,
    size,
)
from mithridate.reproduction.outcome import Claim, above, below
from mithridate.reproduction.panels import curve, fit, grid, shares, shown_as, titled
from mithridate.reproduction.studies import FEATURES, LOGISTIC, Remade, records
from mithridate.results.figures import COLOURS
from mithridate.results.results import AuditResult

LEVEL = 0.11
"""From this share of poison on, the learned policy's error must be level: two thirds of the largest share."""
STRENGTH, NORM = 3, 6
"""Styles of λ (the same as of the learned policy's error) and of ‖w‖²."""


def frame(results: Sequence[AuditResult]) -> pd.DataFrame:
    """Return one row per data set, split, policy and ratio (see `Record`)."""
    return records(results, "test_error", "log_strength", "best_log_strength", "weight_norm_sq")


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Return the observations of Sect. 5.1 for each data set, with verdicts; errors are in points."""
    frame = frame.assign(points=100 * frame["test_error"])
    found = [one for name, rows in frame.groupby("dataset", sort=False) for one in _of(str(name), rows)]
    return found + _across(frame)


def _of(dataset: str, rows: pd.DataFrame) -> list[Claim]:
    claim = functools.partial(outcome.claim, where="Sect. 5.1", dataset=dataset)
    big, points = large(rows), functools.partial(by_ratio, rows, "points", unit=" %")
    clean = {policy: at(rows, "points", policy, 0.0) for policy in (SMALL, big, CLEAN, LEARNED)}
    poisoned = {policy: at(rows, "points", policy) for policy in clean}
    rises = {policy: poisoned[policy] - clean[policy] for policy in clean}
    effective = above(EFFECTIVE, f"> {EFFECTIVE:g} (more than the audit tolerates)")
    return [
        claim(
            "1a",
            "For the small λ the attacks are very effective: the test error significantly increases.",
            rises[SMALL],
            "points of test error at the most poison",
            effective,
            f"Test error: {points(policy=SMALL)}.",
        ),
        claim(
            "1b",
            "For λ_CLEAN the attacks are very effective: the test error significantly increases.",
            rises[CLEAN],
            "points of test error at the most poison",
            effective,
            f"Test error: {points(policy=CLEAN)}. λ_CLEAN: {at(rows, 'log_strength', CLEAN).mean():.2f}.",
        ),
        claim(
            "2a",
            "For the biggest λ the test error slightly increases, showing a very stable performance.",
            rises[big],
            "points of test error at the most poison",
            below(EFFECTIVE, f"< {EFFECTIVE:g} (as much as the audit tolerates)"),
            f"Test error under {big}: {points(policy=big)}.",
        ),
        claim(
            "2b",
            "… in contrast to the small λ.",
            rises[SMALL] - rises[big],
            f"points less than under {SMALL}",
            above(0.0),
            "",
        ),
        claim(
            "3",
            "For the biggest λ, in the absence of an attack, the algorithm underfits and the error is significantly "
            "higher compared to the other models.",
            clean[big] - pd.concat([clean[policy] for policy in clean if policy != big], axis=1).max(axis=1),
            "points above the worst of the others at 0 % poison",
            above(0.0),
            "Without poison: " + ", ".join(f"{policy} {clean[policy].mean():.2f} %" for policy in clean) + ".",
        ),
        claim(
            "4a",
            "When λ is adapted to the attack (λ_RMD) the increase of the test error is quite moderate.",
            rises[SMALL] - rises[LEARNED],
            f"points less than under {SMALL}",
            above(0.0),
            f"Test error: {points(policy=LEARNED)}.",
        ),
        claim(
            "4b",
            "… and stabilises at some point: the error does not increase further by injecting more poisoning points.",
            rise(rows, "points", LEARNED, LEVEL),
            f"points of test error from about {LEVEL:.0%} poison to the most",
            below(AS_GOOD),
            f"Before that: {size(at(rows, 'points', LEARNED, LEVEL) - clean[LEARNED])}.",
        ),
        claim(
            "5",
            "In the absence of an attack, the performance for λ_RMD is as good as in the case of λ_CLEAN.",
            clean[LEARNED] - clean[CLEAN],
            "points of test error above λ_CLEAN's at 0 % poison",
            below(AS_GOOD),
            f"λ without poison: {at(rows, 'log_strength', LEARNED, 0.0).mean():.2f}, "
            f"λ_CLEAN {at(rows, 'log_strength', CLEAN, 0.0).mean():.2f}.",
        ),
        claim(
            "6",
            "Holding λ fixed (Xiao et al., 2015) is overly pessimistic: selecting λ reduces the impact of the attacks.",
            poisoned[CLEAN] - poisoned[LEARNED],
            "points of test error at the most poison that λ_RMD saves against λ_CLEAN",
            above(0.0),
            "",
        ),
        claim(
            "7",
            "Over-regularising makes the algorithm more robust to the attack (but worse when there is none, 3).",
            poisoned[LEARNED] - poisoned[big],
            f"points of test error at the most poison less than λ_RMD's under {big}",
            above(0.0),
            "",
        ),
        claim(
            "8",
            "The regularisation parameter increases as we increase the fraction of poisoning points.",
            rise(rows, "log_strength", LEARNED),
            "of λ from clean to the most poison",
            above(0.0),
            f"λ: {by_ratio(rows, 'log_strength', LEARNED)}.",
        ),
        claim(
            "9",
            "When λ increases, the norm of the weights decreases.",
            change(rows, "weight_norm_sq", LEARNED),
            "% of ‖w‖² from clean to the most poison",
            below(0.0),
            f"‖w‖²: {by_ratio(rows, 'weight_norm_sq', LEARNED)}.",
        ),
    ]


def _across(frame: pd.DataFrame) -> list[Claim]:
    """Return the claims about ImageNet against the others, if both were run; splits are paired by their number."""
    strengths = {str(name): at(rows, "log_strength", LEARNED) for name, rows in frame.groupby("dataset", sort=False)}
    own, others = [{n: s for n, s in strengths.items() if (n in FEATURES) is it} for it in (True, False)]
    return [
        outcome.claim(
            "10",
            "In the case of ImageNet, the order of magnitude of λ is higher as there are more features in the model.",
            values - pd.concat(others, axis=1).max(axis=1),
            "of λ at the most poison above the highest of the others",
            above(0.0),
            "λ: " + ", ".join(f"{name} {found.mean():.2f}" for name, found in strengths.items()) + ".",
            where="Sect. 5.1",
            dataset=name,
        )
        for name, values in own.items()
        if others
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Return Fig. 2: a column per data set."""
    names = list(frame["dataset"].unique())
    figure, axes = grid(2, len(names))
    for column, name in enumerate(names):
        rows = frame[frame["dataset"] == name]
        error, strength = axes[:, column]
        shares(rows, {"test_error": "test error [%]"}, [error])
        error.set_title(shown_as(name))
        learned, norm = rows[rows["policy"] == LEARNED], strength.twinx()
        curve(strength, learned, "log_strength", "λ learned (left)", STRENGTH)
        curve(norm, learned, "weight_norm_sq", "‖w‖² (right)", NORM)
        fit(strength)
        fit(norm)
        norm.grid(visible=False)
        norm.set_ylim(bottom=0)
        for axis, style, label in ((strength, STRENGTH, "λ = log of the L2 strength"), (norm, NORM, "‖w‖²")):
            axis.set_ylabel(label, color=COLOURS[style])
        lines = [*strength.get_lines(), *norm.get_lines()]
        strength.legend(handles=lines, fontsize=8, ncols=2, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    titled(figure, frame, "Logistic regression, most harmful poison")
    return figure


run = Remade(
    "fig2",
    LOGISTIC,
    frame,
    claims,
    draw,
    "Fig. 2 again, logistic regression: test error of the victim retrained on the poisoned rows (above), and λ with "
    "‖w‖² of the learned policy (below), against the share of poison. Splits: {splits}; lines: their mean, bands: its "
    "95 % interval.",
)
"""Reproduce Fig. 2 (see `Remade`)."""
