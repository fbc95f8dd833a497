"""What follows from an audit's figures alone: who held best, where each defender failed, what was not tried.

No sentence guesses. A defender is called better than another only if their difference, paired over splits, is larger
than half its 95 % interval.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mithridate.results.intervals import Shared, paired
from mithridate.results.records import NOISE
from mithridate.results.verdict import (
    TOLERATED,
    at_bounds,
    baseline,
    constant_by_ratio,
    errors_at_most,
    measure,
    worst_by_ratio,
)


def advice(
    frame: pd.DataFrame,
    candidates: pd.DataFrame,
    config: Mapping[str, Any],
    defenders: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the sentences. The arguments are as in `AuditResult`."""
    most = f"{candidates['ratio'].max():.1%}"
    return [
        *_best(frame, candidates, most),
        *_failing(candidates),
        *_at_ends(frame, defenders),
        _untried(config, defenders, most),
    ]


def _best(frame: pd.DataFrame, candidates: pd.DataFrame, most: str) -> list[str]:
    """Say who held best at the most poison, and than whom he is clearly better."""
    errors, named = errors_at_most(candidates), measure(*frame[["objective", "score"]].iloc[0])
    known = errors.loc[:, errors.notna().all()]
    unknown = ", ".join(str(policy) for policy in errors if policy not in known)
    said = [f"at {most} poison the {named} of {unknown} is unknown, so nothing follows for it"] if unknown else []
    if known.empty:
        return said
    mean = known.mean()
    best, splits = str(mean.idxmin()), len(known)
    lowest = f"at {most} poison {best} has the lowest {named}, {mean[best]:.1%}"
    if constant_by_ratio(candidates[candidates["policy"] == best]).iloc[-1]:
        return [*said, f"{lowest}, no better than {baseline(frame)}: no defender that was tried holds there"]
    if len(errors.columns) == 1:
        return [*said, f"{best} is the only defender that was tried: another one may hold better"]
    if splits == 1:
        return [*said, f"{lowest}; with one split no difference has an interval, so no defender is called better"]
    better, open_ = [], []
    for other in mean.index.drop(best):
        more, half = paired(known, other, best, Shared.of(frame, "attack_success"))
        (better if more > half + NOISE else open_).append(f"{other} ({more:.1f} ± {half:.1f})")
    said.append(lowest)
    over = f"in points, paired over {splits} splits"
    if better:
        said.append(f"{best} is better there than {', '.join(better)}: the differences, {over}, exceed their intervals")
    if open_:
        said.append(
            f"{best} is not called better there than {', '.join(open_)}: the difference, {over}, is within its interval"
        )
    return said


def _failing(candidates: pd.DataFrame) -> list[str]:
    """Say at which share of poison each defender is no longer within tolerance, and how."""
    found, points = [], f"{100 * TOLERATED:g} points"
    for policy, rows in candidates.groupby("policy", sort=False):
        worst, constant = worst_by_ratio(rows), constant_by_ratio(rows)
        more = 100 * (worst - worst.iloc[0])
        fails = (worst > worst.iloc[0] + TOLERATED + NOISE) | worst.isna() | constant
        if fails.iloc[0]:
            found.append(
                f"{policy}: nothing can be said of its tolerance, because the model is of no use even without poison"
            )
        elif worst[fails].isna().head(1).any():
            found.append(f"{policy}: at {fails.idxmax():.1%} poison nothing is known of its tolerance")
        elif not fails.any():
            found.append(f"{policy} stays within its tolerance of {points} at every share that was tried")
        else:
            at = fails.idxmax()
            how = f"is {more[at]:.1f} points above clean"
            how += f" and no better than {baseline(rows)}" * bool(constant[at])
            named = measure(*rows[["objective", "score"]].iloc[0])
            first = "the lowest share that was tried" if at == worst.index[1] else "the first share at which it does"
            found.append(f"{policy} fails its tolerance of {points} at {at:.1%} poison, {first}: its {named} {how}")
    return found


def _at_ends(frame: pd.DataFrame, defenders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which defenders' λ ended at a bound."""
    return [
        f"{policy}: in {one.told}, the {one.which} bound of λ, {one.value:.3g}, decided and not the data: tuning with "
        "wider --strength-bounds was not tried"
        for policy, said in defenders.items()
        if said.get("bounds")
        for one in at_bounds(frame, policy, said["bounds"])
    ]


def _other_victims(config: Mapping[str, Any], defenders: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Return which victims the audit may have left out, and whether it has."""
    if config.get("estimators"):
        reacting = any(not said["fixed"] for said in defenders.values())
        searching = any(name.endswith(", searched-clean") for name in defenders)
        return {
            "other estimators (--estimator)": True,
            "a search that is run again on the poisoned rows (--policy searched)": not reacting and searching,
        }
    return {
        f"models other than {config['model']} (--model)": True,
        f"losses other than {config['loss']} (--loss)": True,
        "λ tuned on data (--policy learned, --policy cv-clean)": not any(
            said.get("bounds") for said in defenders.values()
        ),
        "defences that leave rows out (--defence sphere=5%)": set(config["defences"]) == {"none"},
    }


def _untried(config: Mapping[str, Any], defenders: Mapping[str, Mapping[str, Any]], most: str) -> str:
    """Say what the audit did not try, with the options that would try it."""
    targeted, edits = config["objective"] != "indiscriminate", config["edits"]
    others = {
        f"more than {most} poison (--poison)": True,
        "an attacker who picks his rows (--budget chosen)": config["budget"] != "chosen",
        "changes of features (--edits both)": edits == "labels",
        "changes of labels (--edits both)": edits == "features",
        "the attackers of the portfolio (--attack portfolio)": config["attack"] != "portfolio",
        "attackers who want errors of any kind (--objective indiscriminate), or another aim": targeted,
        "targeted attackers (--objective 'target-class A', 'misclassify A-as-B' or 'rows FILE')": not targeted,
        "other scores (--score)": not targeted,
        "backdoors (no option tries them)": True,
        **_other_victims(config, defenders),
    }
    return f"not tried, so nothing follows for it: {'; '.join(what for what, left in others.items() if left)}"
