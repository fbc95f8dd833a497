"""The words of the report: numbers as text, defenders, the threat model, and the verdict in a sentence."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mithridate.configuration.parts import FLIPS
from mithridate.results import tuned
from mithridate.results.report.source import Audited
from mithridate.results.terms import CHECKED, terms
from mithridate.results.verdict import TOLERATED, baseline, constant_by_ratio, measure, sample_of, worst_by_ratio

UNKNOWN = "unknown"

CAPABILITIES = {
    "labels, at random": ("random flips",),
    "labels, the worst found": FLIPS,
    "labels and features, the worst found": (),
}
"""What an attacker may be able to change → the kinds of attack that do it; an empty tuple stands for all kinds."""

THREAT = {
    "goal": "The attacker wants",
    "attack": "The attack",
    "knows": "The attacker knows",
    "controls": "The attacker controls",
    "may_change": "The attacker may change",
    "may_not_change": "The attacker may not change",
    "budget": "How poison is counted",
    "validation_set": "The validation rows",
    "groups": "Rows that belong together",
    "model": "The model under attack",
    "loss": "Its loss",
    "penalty": "Its penalty",
    "inner_training": "How the attack trains it",
    "evaluation": "How it is trained to be measured",
    "not_tested": "Not tested",
}
"""The headings of the threat model's entries, in the order of the report; other entries come before the last."""

GLOSSARY = {
    "poison": "training rows that the attacker made or changed; a share of poison is a share of all training rows",
    "clean": "without any poison",
    "defender": "a rule for setting the regularisation, also called policy",
    "λ (lambda)": "the regularisation: the log of the L2 penalty's strength. A higher λ keeps the weights small, so "
    "that a few rows cannot sway the model much",
    "test error": "the share of held-out rows, which neither side has seen, that the model gets wrong",
    "labels alone": "the harm of an attacker who only flips labels: of all flips that were tried, those that were "
    "worst on the validation rows. On the test rows simpler flips can be worse",
    "tolerated": "the largest audited share of poison up to which the worst attack stays within "
    f"{100 * TOLERATED:g} points of the clean figure; unknown if the clean model is no better than an uninformative "
    "one, such as one that always gives the most frequent answer",
    "split": "one random draw of training and validation rows; figures are means over splits",
    "±": "half the 95 % interval of the mean over splits; it allows for the rows that splits have in common, and is "
    "wide with few splits",
    "cell": "one model trained and measured: one split, one defender, one share of poison",
    "hypergradient": "the derivative through the whole training, which tells the attacker where to move his points",
}


def known(value: float | None) -> bool:
    """Return whether a number is given and finite."""
    return value is not None and math.isfinite(value)


def percent(share: float | None) -> str:
    """Return a share as text, as the command line prints it: 14.9%."""
    return f"{share:.1%}" if share is not None and math.isfinite(share) else UNKNOWN


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as text with `digits` decimals."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else UNKNOWN


def cell(curve: Mapping[str, Any], at: int, share: bool, digits: int = 2) -> str:
    """Return the mean of a curve and half its interval at ratio number `at`: `14.9% ± 1.5`."""
    mean, low, high = (curve[part][at] for part in ("mean", "low", "high"))
    text = percent(mean) if share else number(mean, digits)
    if not known(mean) or not known(low):
        return text
    half = max(mean - low, high - mean)  # the interval of a share is cut at 0 and 1
    return f"{text} ± {100 * half:.1f}" if share else f"{text} ± {half:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time in words: 48 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def model(config: Mapping[str, Any]) -> str:
    """Return the victim's model in words, or the estimators."""
    if estimators := config.get("estimators"):
        return f"the estimator{'s' * (len(estimators) > 1)} {', '.join(map(str, estimators))}"
    named = {"logistic": "logistic regression", "mlp": f"neural network ({' × '.join(map(str, config['hidden']))})"}
    return named.get(config["model"], str(config["model"]))


def threat(results: Sequence[Audited], titles: Sequence[str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return key, heading and texts of each entry of the threat models; not tested and official terms come last.

    A text is a pair of its run's title and itself; if all runs have the same text, it is there once, without a title.
    """
    known_names = [name for name in THREAT if name != "not_tested"]
    own = [name for result in results for name in result.threat_model if name not in THREAT]
    entries = [dict(result.threat_model) | dict(filed(result.config)) for result in results]
    sources = [source for result in results for source, _ in filed(result.config)]
    found = []
    for name in [*known_names, *dict.fromkeys(own), "not_tested", *dict.fromkeys(sources)]:
        said = [(title, each[name]) for title, each in zip(titles, entries, strict=True) if name in each]
        if len({text for _, text in said}) == 1:
            said = [("", said[0][1])]
        if said:
            other = name if name in sources else name.replace("_", " ").capitalize()
            found.append((name, THREAT.get(name, other), said))
    return found


def filed(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the official terms of an audit with this configuration: each source, and its terms in one text."""
    return [
        (f"{source}, checked {CHECKED}", "; ".join(term.words for term in own))
        for source, own in itertools.groupby(terms(config), key=lambda term: term.source)
    ]


class Outcome(NamedTuple):
    """How a defender does: the attacker's success `clean` and at the most poison (`worst`), and the `tolerance`.

    The worst attack counts; figures are means over splits.
    """

    policy: str
    clean: float
    worst: float
    tolerance: str

    @property
    def said(self) -> dict[str, str]:
        """The three as text."""
        return {"clean": percent(self.clean), "worst": percent(self.worst), "tolerance": self.tolerance}


class Headline(NamedTuple):
    """The verdict in one sentence.

    `what`: what is measured; `most`: the most poison as text; `best` and `worst`: the strongest and the weakest
    defender, who are the same if there is only one.
    """

    sentence: str
    what: str
    most: str
    best: Outcome
    worst: Outcome


def headline(result: Audited) -> Headline:
    """Return the verdict at the most poison. The worst attack counts, as in `verdict`."""
    frame = result.frame
    most, points, n_train = frame["ratio"].max(), frame["n_poison"].max(), frame["n_train"].iloc[-1]
    outcomes = [outcome(result, policy) for policy in frame["policy"].unique()]
    # An unknown error counts as the worst.
    best, *_ = order = sorted(outcomes, key=lambda found: found.worst if known(found.worst) else math.inf)
    worst = next(found for found in order if found.worst == order[-1].worst or not known(found.worst))
    what, sample = measure(*frame[["objective", "score"]].iloc[0]), sample_of(result.dataset)
    sentence = f"{sample}, an attacker" if sample else "An attacker"
    sentence = (
        f"{sentence[:1].upper()}{sentence[1:]} who controls {percent(most)} of the training rows ({points} of "
        f"{n_train}) takes the {what} "
        f"from {percent(worst.clean)} to {percent(worst.worst)}"
    )
    if len(outcomes) == 1:
        sentence += f", against the only defender that was tried ({best.policy})."
    elif best.policy == worst.policy:
        sentence += f" against {best.policy}, and equally far against all other defenders ({len(outcomes)} in all)."
    else:
        sentence += (
            f" against the weakest of {len(outcomes)} defenders ({worst.policy}), and from {percent(best.clean)} to "
            f"{percent(best.worst)} against the strongest ({best.policy})."
        )
    rows = result.candidates[result.candidates["policy"] == worst.policy]
    if constant_by_ratio(rows).iloc[0]:
        sentence += f" Without poison it is no better than {baseline(rows)}: these figures say nothing about poison."
    return Headline(sentence, what, percent(most), best, worst)


def outcome(result: Audited, policy: str) -> Outcome:
    """Return how a policy does."""
    rows = result.candidates[result.candidates["policy"] == policy]
    by_ratio, tolerated = worst_by_ratio(rows), result.verdict.tolerance[policy]
    if tolerated is None:
        told = UNKNOWN
    elif tolerated < by_ratio.index[1:2].min():
        told = f"below {percent(by_ratio.index[1])}"
    else:
        told = ("≥ " if tolerated >= by_ratio.index.max() - 1e-9 else "") + percent(tolerated)
    return Outcome(policy, float(by_ratio.iloc[0]), float(by_ratio.iloc[-1]), told)


def strengths(rows: pd.DataFrame) -> str:
    """Return a policy's λ, clean and at the most poison, means over splits; group by group where they differ.

    Of an estimator, what it has tuned.
    """
    if tuned.has_any(rows):
        return tuned.ends(rows)
    ends = []
    for points in (rows["n_poison"].min(), rows["n_poison"].max()):
        ends.append(np.mean(np.stack(rows.loc[rows["n_poison"] == points, "log_strengths"].to_list()), axis=0))
    alike = all((end == end[0]).all() for end in ends)
    return " → ".join(", ".join(map(number, (end[:1] if alike else end).tolist())) for end in ends)
