"""Finds the answer in the records: curves over splits, tolerance, what tuning saves, and what to distrust."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mithridate.configuration.parts import share_of
from mithridate.errors import InputError
from mithridate.results.intervals import ERRORS, Shared, half_width, paired
from mithridate.results.records import FAULTS, NOISE
from mithridate.tasks.scores import SCORES

METRICS = ("test_error", "attack_success", "fpr", "fnr", "log_strength", "weight_norm_sq", "valid_loss")
TOLERATED = 0.05
"""How far the attacker's success (or test error) may rise above its clean value and still count as tolerated."""

PLAIN = ("indiscriminate", "error")
"""The objective and the score with which the attacker's success is the test error."""

RARE = 0.2
"""If always giving the most frequent answer has an error below this, errors say little about the other rows."""

WIDE, MANY = 0.1, 100
"""Half the width of an interval above which it is too wide to rely on, and the most splits proposed to narrow it."""

OUTDONE = 0.01
"""How much worse another attack may be on the test rows without a warning, because validation rows differ from them."""

RESOLUTION = 1 / 1024
"""How finely λ is tuned, as a share of its interval. A λ that is closer to an end counts as at the bound."""


@dataclass(frozen=True)
class Verdict:
    """The answer in sentences and figures.

    `summary`: one sentence for each thing that matters. `tolerance`: policy → the largest audited share of poison up to
    which the worst attack stays within 5 points of the clean score (or of a targeted attacker's clean success) and the
    model stays better than an uninformative one; None if nothing can be said (see `untold`). `saved`: how many points
    tuning under attack saves at the most poison, compared with the best fixed choice; None if one of the two was not
    audited. `warnings`: reasons not to rely on the numbers.
    """

    summary: tuple[str, ...]
    tolerance: dict[str, float | None]
    saved: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return asdict(self) | {"summary": list(self.summary), "warnings": list(self.warnings)}


def curves(frame: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> dict[str, dict[str, Any]]:
    """Return for each policy `points`, `ratio` and for each metric the lists `mean`, `std`, `low`, `high`, by ratio.

    `std` is the sample deviation over splits. `low` and `high` are the ends of the mean's 95 % interval (see
    `half_width`); that of a share is cut at 0 and 1. With one split all three are None.
    """
    found, shared = {}, {metric: Shared.of(frame, metric) for metric in metrics}
    for policy, rows in frame.groupby("policy", sort=False):
        groups = rows.groupby("n_poison", sort=True)
        counts = groups.size().to_numpy()
        found[str(policy)] = {
            "points": groups.size().index.tolist(),
            "ratio": groups["ratio"].first().tolist(),
        } | {metric: _spread(groups[metric], counts, shared[metric], metric) for metric in metrics}
    return found


def _spread(groups: Any, counts: np.ndarray, shared: Shared, metric: str) -> dict[str, list[float | None]]:
    mean, std, share = groups.mean(skipna=False), groups.std(), metric.startswith(ERRORS)
    half = half_width(std, counts, shared, mean * (1 - mean) / shared.n_test if share else 0.0)
    least, most = (0, 1) if share else (-math.inf, math.inf)
    lists = {"mean": mean, "std": std, "low": (mean - half).clip(least, most), "high": (mean + half).clip(least, most)}
    return {name: [float(v) if math.isfinite(v) else None for v in values] for name, values in lists.items()}


def worst_of(candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the worst attack of each cell: columns `split`, `policy`, `n_poison`, `ratio`, and `worst`, its success.

    It is the worst on the rows that the attacker sees; ties go to the larger loss. If the test rows chose, the maximum
    over many attacks would be biased upwards. `worst` is NaN if an attack of the cell could not be measured.
    """
    ranked = candidates.sort_values(["target_success", "attack_loss"], kind="stable", na_position="last")
    last = ranked.groupby(["split", "policy", "n_poison", "ratio"], sort=False, as_index=False).tail(1)
    found = last.sort_index()[["split", "policy", "n_poison", "ratio", "attack_success"]]
    return found.rename(columns={"attack_success": "worst"}).reset_index(drop=True)


def worst_by_ratio(candidates: pd.DataFrame) -> pd.Series:
    """Return for each ratio the success of the worst attack, mean over splits; NaN if it is NaN in a split."""
    return worst_of(candidates).groupby("ratio")["worst"].agg(lambda errors: errors.mean(skipna=False))


def baseline(candidates: pd.DataFrame) -> str:
    """Return in words what an uninformative model does, and its score."""
    if candidates["objective"].iloc[0] != "indiscriminate":
        return ""
    nothing = SCORES[candidates["score"].iloc[0]].telling_nothing
    return f"{nothing} ({_percent(candidates['constant_error'].mean())})"


def kinds_by_ratio(candidates: pd.DataFrame) -> pd.Series:
    """Return for each ratio the success of the kind of attack that is worst on the test rows, mean over splits."""
    means = candidates.groupby(["ratio", "attack"])["attack_success"].mean()
    return means.groupby("ratio").max()


def constant_by_ratio(candidates: pd.DataFrame) -> pd.Series:
    """Return for each ratio whether the worst attack leaves a model that is no better than an uninformative one.

    This is never so for a targeted attacker, because his success is not an error.
    """
    if candidates["objective"].iloc[0] != "indiscriminate":
        return worst_by_ratio(candidates).map(lambda _: False)
    single = candidates.groupby("ratio")["constant_error"].mean()
    return worst_by_ratio(candidates) >= single - NOISE


def meaning_of(fault: str, records: pd.DataFrame) -> str:
    """Return what a fault (see `FAULTS`) means for these records, and what to do about it."""
    if fault != "constant":
        return FAULTS[fault]
    score = str(records["score"].iloc[0])
    remedy = {
        "error": "look at the error rates of each class, or audit with --score balanced-error or --objective "
        "'target-class CLASS'"
    }.get(score, "use more training rows, or train the model in another way")
    return f"by its {SCORES[score].words} the model is no better than {baseline(records)}: {FAULTS[fault]}; {remedy}"


def untold(candidates: pd.DataFrame) -> str:
    """Return in words why nothing can be said of what a defender tolerates, from his cells; empty if it can."""
    worst, named = worst_by_ratio(candidates).iloc[0], measure(*candidates[["objective", "score"]].iloc[0])
    if math.isnan(worst):
        return f"{named} unknown even without poison"
    if constant_by_ratio(candidates).iloc[0]:
        return f"{_percent(worst)} {named} clean, no better than {baseline(candidates)}"
    return f"{_percent(worst)} {named} clean, so that it can hardly rise" if worst > 1 - TOLERATED else ""


def measure(objective: str, score: str = "error") -> str:
    """Return the name of an attacker's success in words."""
    return SCORES[score].words if objective == "indiscriminate" else f"success of “{objective}”"


def sample_of(dataset: Mapping[str, Any]) -> str:
    """Return in words that a sample of a file was audited, and what the whole file costs; empty for a whole file."""
    if not (found := dataset.get("sample")):
        return ""
    return (
        f"on a sample of the file, {dataset['train']:,} of {found['train']:,} possible training rows (train = all "
        f"takes about {found['times']:.2g} times as long)"
    )


def _percent(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{share:.1%}"


def verdict(
    frame: pd.DataFrame,
    candidates: pd.DataFrame,
    fixed: Sequence[str],
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> Verdict:
    """Return the verdict on an audit.

    Arguments: `frame` and `candidates` as in `AuditResult`; `fixed`, the names of the defenders who do not answer to
    poison; `bounds`, the ends of Φ(λ) for each defender who tunes λ (without them, λ at a bound is not reported).
    """
    summary, tolerance, name_of_it = [], {}, measure(*frame[["objective", "score"]].iloc[0])
    for name, rows in candidates.groupby("policy", sort=False):
        worst, policy = worst_by_ratio(rows), str(name)
        constant = constant_by_ratio(rows)
        within = ((worst <= worst.iloc[0] + TOLERATED + NOISE) & ~constant).cummin()
        tolerance[policy] = None
        if reason := untold(rows):
            summary.append(f"{policy}: {reason}: nothing can be said of what it tolerates")
            continue
        tolerance[policy] = float(worst.index[within].max())
        summary.append(
            f"{policy}: {_percent(worst.iloc[0])} {name_of_it} clean, {_percent(worst.iloc[-1])} at "
            f"{worst.index[-1]:.1%} poison; {_borne(worst, within)}"
            + f"; from {constant.idxmax():.1%} on it is no better than {baseline(rows)}"
            * bool(constant.any())
        )
    saved, sentences = _saved(frame, candidates, fixed)
    ends = [
        f"{policy}: λ ends at its {one.which} bound {one.value:.3g} in {one.told}: the bound, not the data, "
        f"decides there; {one.remedy}"
        for policy, pair in (bounds or {}).items()
        for one in at_bounds(frame, policy, pair)
    ]
    warned = tuple(_warnings(frame) + _outdone(candidates))
    return Verdict(tuple(summary + sentences + ends), tolerance, saved, warned)


def _borne(worst: pd.Series, within: pd.Series) -> str:
    """Return in words up to which share of poison a defender is within tolerance. Without poison he always is."""
    points, held = f"{100 * TOLERATED:g} points of clean", worst.index[within]
    if within.all():
        return f"stays within {points} at every share tried, so up to at least {held.max():.1%}"
    beyond = worst.index[~within][0]
    if worst.isna()[beyond]:
        return f"stays within {points} up to {held.max():.1%}; at {beyond:.1%} it is unknown"
    if not held.max():
        return f"stays within {points} only below {beyond:.1%}, the lowest share tried"
    return f"stays within {points} up to {held.max():.1%}, not at {beyond:.1%}, the next share tried"


def _outdone(candidates: pd.DataFrame) -> list[str]:
    """Warn if a kind of attack is worse on the test rows than the attack that was worst on the validation rows."""
    found, named = [], measure(*candidates[["objective", "score"]].iloc[0])
    for policy, rows in candidates.groupby("policy", sort=False):
        more = kinds_by_ratio(rows) - worst_by_ratio(rows)
        if more.max() > OUTDONE:
            own = rows[rows["ratio"] == more.idxmax()].groupby("attack")["attack_success"].mean()
            found.append(
                f"{policy}: at {more.idxmax():.1%} poison the worst attack on the test rows is {own.idxmax()}: it "
                f"brings the {named} to {_percent(own.max())}, {100 * more.max():.1f} points above the reported "
                "attack, which was the worst on the validation rows"
            )
    return found


def errors_at_most(candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the worst attack's success at the most poison: a row for each split, a column for each defender."""
    last = worst_of(candidates[candidates["n_poison"] == candidates["n_poison"].max()])
    return last.pivot(index="split", columns="policy", values="worst")[list(last["policy"].unique())]


def _saved(frame: pd.DataFrame, candidates: pd.DataFrame, stands: Sequence[str]) -> tuple[float | None, list[str]]:
    """Compare tuning under attack with each fixed choice at the most poison, split by split."""
    errors = errors_at_most(candidates)
    fixed = [str(policy) for policy in errors if policy in stands]
    if "learned" not in errors or not fixed or errors.isna().any(axis=None):
        return None, []
    shared = Shared.of(frame, "attack_success")
    saved = {policy: paired(errors, policy, "learned", shared) for policy in fixed}
    best = min(fixed, key=lambda policy: saved[policy][0])
    named = f"the {measure(*frame[['objective', 'score']].iloc[0])}"
    clean = frame[frame["n_poison"] == 0].groupby("policy")["attack_success"].mean()
    extra = apart(100 * (clean[best] - clean["learned"]))
    return saved[best][0], [
        f"paired over splits, {named} with learned at {frame['ratio'].max():.1%} poison is "
        + ", ".join(f"{apart(-more, half)} {policy}" for policy, (more, half) in saved.items()),
        f"the best fixed choice at that much poison is {best}; clean, {named} with it is {extra} learned",
    ]


def apart(points: float, half: float = math.nan) -> str:
    """Return a difference in words: `2.5 ± 1.0 points below that with`; the name of the other defender follows."""
    within = "" if math.isnan(half) else f" ± {half:.1f}"
    if abs(points) >= 0.05:
        return f"{abs(points):.1f}{within} points {'above' if points > 0 else 'below'} that with"
    return f"on average the same (± {half:.1f} points) as with" if half >= 0.05 else "the same as with"


class End(NamedTuple):
    """A bound at which some λ ended: which bound, its value, in which cells (`told`), and what to do (`remedy`)."""

    which: str
    value: float
    told: str
    remedy: str


def at_bounds(frame: pd.DataFrame, policy: str, bounds: Sequence[float]) -> list[End]:
    """Return the bounds at which some λ of a policy ends. If there are several λ, one of them is enough."""
    found, (low, high), rows = [], bounds, frame[frame["policy"] == policy]
    near = RESOLUTION * (high - low)
    for which, end, remedy in (
        ("lower", low, "still less regularisation may make no difference; widen strength_bounds to be sure"),
        ("upper", high, "widen strength_bounds to see what tuning would do"),
    ):
        there = [bool(np.any(np.abs(np.asarray(several) - end) <= near)) for several in rows["log_strengths"]]
        if any(there):
            first, last = (f"{share(rows['ratio'][there]):.1%}" for share in (min, max))
            where = f"at {first}" + f" to {last}" * (first != last) + " poison"
            clean = rows["ratio"][there].max() == 0
            found.append(
                End(which, end, f"{sum(there)} of {len(rows)} cells, {'all clean' if clean else where}", remedy)
            )
    return found


def _wide(frame: pd.DataFrame) -> list[str]:
    """Warn of intervals at the most poison that are too wide to rely on, and say how many splits narrow them."""
    shared, splits, found = Shared.of(frame, "attack_success"), frame["split"].nunique(), []
    last = frame[frame["n_poison"] == frame["n_poison"].max()]
    for policy, rows in last.groupby("policy", sort=False):
        mean, std = rows["attack_success"].mean(skipna=False), rows["attack_success"].std()
        widths = [half_width(std, n, shared, mean * (1 - mean) / shared.n_test) for n in range(splits, MANY + 1)]
        if not widths or not widths[0] > WIDE:
            continue
        enough = next((splits + more for more, width in enumerate(widths) if width <= WIDE), None)
        remedy = f"about {enough} splits narrow it to ± {100 * WIDE:g}" if enough else "only more rows narrow it"
        wide = f"known only to ± {100 * widths[0]:.0f} points"
        found.append(f"{policy}: {_percent(mean)} at the most poison is {wide}; {remedy}")
    return found


def _warnings(frame: pd.DataFrame) -> list[str]:
    found = []
    for fault in FAULTS:
        cells = frame[frame["status"].str.split("+").map(lambda faults, fault=fault: fault in faults)]
        if len(cells):
            where = ", ".join(f"{policy} ({len(rows)})" for policy, rows in cells.groupby("policy", sort=False))
            found.append(
                f"{len(cells)} of {len(frame)} cells are marked {fault}, by policy: {where}; {meaning_of(fault, frame)}"
            )
    single = frame["constant_error"].mean()
    if tuple(frame[["objective", "score"]].iloc[0]) == PLAIN and single < RARE:
        found.append(
            f"{SCORES['error'].telling_nothing} is wrong for only {_percent(single)} of the rows, so the error says "
            "little about the others: --score balanced-error counts all classes equally, --score fnr counts the misses "
            "of one class"
        )
    if frame["split"].nunique() > 1:
        found += _wide(frame)
    else:
        found.append(
            "there is only one split, so no interval can be given; use more splits before you rely on a figure"
        )
    return found


def parse_gate(text: str, most: float) -> tuple[float, float]:
    """Return (error, share) of a gate `ERROR@SHARE`, such as `0.1@0.05` or `10%@5%`.

    `most` is the largest audited share of poison. Raises `InputError` if error or share is not from 0 to 1, or if the
    share is above `most`.
    """
    try:
        error, share = map(share_of, text.split("@"))
    except ValueError:
        error = share = math.nan
    if not (0 <= error <= 1 and 0 <= share <= 1):
        raise InputError(f"fail-above = {text!r}: must be ERROR@SHARE, both from 0 to 1 or in %, such as 10%@5%")
    if share > most + 1e-9:
        raise InputError(
            f"fail-above = {text!r}: only {most:.1%} poison is audited; for more, audit with more points or poison"
        )
    return error, share


def gate_failures(candidates: pd.DataFrame, error: float, share: float, allow_constant: bool = False) -> list[str]:
    """Return a sentence for each policy whose error (see `measure`) exceeds `error` at an audited share up to `share`.

    `candidates` are as in `AuditResult`; `error` and `share` are from 0 to 1, `share` at most the largest audited one.
    The worst attack by the validation rows counts, and also the worst by the test rows. The first audited share at or
    above `share` is included, so a share between two audited ones is judged by the higher one. An unknown error fails,
    and unless `allow_constant` also a model that is no better than an uninformative one.
    """
    found, named = [], measure(*candidates[["objective", "score"]].iloc[0])
    for policy, rows in candidates.groupby("policy", sort=False):
        worst = worst_by_ratio(rows)
        up_to = worst[worst.index <= worst.index[worst.index >= share - 1e-9][0]]
        any_kind = kinds_by_ratio(rows)[up_to.index]
        if up_to.isna().any():
            where = up_to.index[up_to.isna()][0]
            found.append(f"{policy}: {named} unknown at {where:.1%} poison: training diverged, or a cell failed")
        elif any_kind.max() > max(up_to.max(), error) + NOISE:
            found.append(
                f"{policy}: {named} {any_kind.max():.1%} at {any_kind.idxmax():.1%} poison, above {error:.1%}, by an "
                "attack that was not the worst on the validation rows"
            )
        elif up_to.max() > error + NOISE:
            found.append(f"{policy}: {named} {up_to.max():.1%} at {up_to.idxmax():.1%} poison, above {error:.1%}")
        elif not allow_constant and (single := constant_by_ratio(rows)[up_to.index]).any():
            where = single.idxmax()
            found.append(
                f"{policy}: {named} {up_to[where]:.1%} at {where:.1%} poison is no better than "
                f"{baseline(rows)}, so it is uninformative; look at fpr and fnr, use --score or "
                "--objective 'target-class CLASS', or let it pass with --allow-constant"
            )
    return found
