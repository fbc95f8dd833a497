"""The worst that an attacker finds in one training fold: many candidates, each tried on the estimator itself."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from mithridate.estimators.capability import Fold, Points
from mithridate.estimators.crafting import Plan, craft
from mithridate.estimators.flips import Flips, View, flips_of
from mithridate.estimators.geometry import own_space, quick
from mithridate.estimators.growth import grown
from mithridate.estimators.trials import Outcome, Trials
from mithridate.estimators.tuned import settled, tuned_hyperparameters

FITS = {True: 240, False: 120}
"""How often the attacker fits an estimator in a split, by whether it is quick to fit."""
PARTS = 3
"""The number of parts into which a training fold is cut; each is held out once."""
SCREENED = 0.4
"""The largest share of the fits for a first, cheap trial of every way to flip."""
KEPT = 6
"""The number of ways that are tried in full after the first trial."""
FINALISTS = {True: (2, 4, 4), False: (2, 1, 1)}
"""How many candidates are tried again: the best of all, the best without optimisation, and the number of new cuts; by
whether the estimator is quick to fit and has no search."""


class Found(NamedTuple):
    """The poison of one share that harms most on held-out rows, and the most harmful without optimisation."""

    attack: Points
    baseline: Points


class _Tried(NamedTuple):
    points: Points
    flips: Flips | None
    outcome: Outcome


def search(estimator: Any, scorer: Any, fold: Fold, plan: Plan) -> list[Found]:
    """Return what is found for each of the plan's numbers of points.

    All ways to flip are tried on one part of the fold, the best of them on all parts, and the best of these is grown by
    swaps. If features may change, the transfer from a surrogate is tried too. All this uses the estimator without its
    own search, with the hyperparameters that it tunes on clean rows. The finalists are tried again, with the original
    estimator and on other cuts of the fold, because a candidate looks too good on the cut that selected it.
    """
    clean: Any = clone(estimator)
    clean.fit(fold.cells, fold.classes[fold.labels])
    view = fold.view._replace(own=own_space(clean, fold.cells, fold.seed))
    trials = Trials(settled(clean), scorer, fold, PARTS, [None])
    best_of, plain_of, cuts = FINALISTS[quick(clean) and not tuned_hyperparameters(clean)]
    anew = Trials(estimator, scorer, fold, PARTS, [fold.seed + cut for cut in range(cuts)])
    counts = sorted({count for count in plan.counts if count}, reverse=True)
    fits = (plan.fits or FITS[quick(clean)]) // len(counts)
    found, crafted, won = {}, [], None
    for count in counts:
        tried = _flips(fold, view, plan, trials, count, fits)
        if count == counts[0] and plan.capability.edits != "labels":
            crafted = _transfers(fold, plan, tried[0].points)
        others = [points.first(count) for points in (*crafted, *([won] if won else []))]
        tried += [_Tried(points, None, trials.outcome(points)) for points in others]
        tried.sort(key=lambda one: one.outcome.score)
        plain = [one for one in tried if one.points.plain][:plain_of]
        best = [one for one in tried if not any(one is other for other in plain)][:best_of]
        tried = [one._replace(outcome=anew.outcome(one.points)) for one in (*plain, *best)]
        plain = [one for one in tried if one.points.plain]
        won, baseline = (min(those, key=lambda one: one.outcome.score).points for those in (tried, plain))
        found[count] = Found(won, baseline)
    nothing = fold.unchanged(np.empty(0, dtype=int), plan.capability)._replace(name="none")
    return [found.get(count, Found(nothing, nothing)) for count in plan.counts]


def _flips(fold: Fold, view: View, plan: Plan, trials: Trials, count: int, fits: int) -> list[_Tried]:
    """Return the flips that were tried in full: the grown ones first, then the others, the most harmful first."""
    capability, parts = plan.capability, len(trials.parts)
    draw = np.random.default_rng((fold.seed, count))
    view = view._replace(among=fold.among(capability, count))

    def points(flips: Flips) -> Points:
        return fold.points(flips, capability, count)

    ways = flips_of(view, count, draw)[: max(2, int(SCREENED * fits))]
    first = [trials.outcome(points(flips), 1).score for flips in ways]
    order = np.argsort(first, kind="stable")[:KEPT]
    if not any(ways[place].plain for place in order):
        order = np.append(order, next(place for place in np.argsort(first, kind="stable") if ways[place].plain))
    tried = [_Tried(points(ways[place]), ways[place], trials.outcome(points(ways[place]))) for place in order]
    tried.sort(key=lambda one: one.outcome.score)
    best, swaps = tried[0], (fits - len(ways) - parts * len(order)) // parts
    assert best.flips is not None
    flips, outcome = grown(best.flips, best.outcome, view, lambda new: trials.outcome(points(new)), swaps, draw)
    return [_Tried(points(flips), flips, outcome), *tried]


def _transfers(fold: Fold, plan: Plan, best: Points) -> list[Points]:
    """Return the points crafted on a surrogate, from random places and from the best flips."""
    largest, capability = plan.counts[-1], plan.capability
    anew = fold.unchanged(fold.drawn[:largest], capability) if capability.edits == "features" else None
    return [*craft(fold, plan, anew), *(craft(fold, plan, best) if len(best.labels) else [])]
