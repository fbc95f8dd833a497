"""The worst that an attacker finds in one training fold: many candidates, each tried on the estimator itself."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from mithridate.sklearn.capability import Fold, Points
from mithridate.sklearn.crafting import Plan, craft
from mithridate.sklearn.flips import Flips, View, flips_of
from mithridate.sklearn.geometry import own_space, quick
from mithridate.sklearn.growth import grown
from mithridate.sklearn.trials import Outcome, Trials
from mithridate.sklearn.tuned import settled, tuned_hyperparameters

FITS = {True: 240, False: 120}
"""How often the attacker fits an estimator in a split, by whether its kind is quickly fitted."""
PARTS = 3
"""Into how many parts a training fold is cut, each held out once."""
SCREENED = 0.4
"""The share of the fits that may go into a first look at every way of flipping."""
KEPT = 6
"""How many ways of flipping are looked at in full after the first look."""
FINALISTS = {True: (2, 4, 4), False: (2, 1, 1)}
"""How many candidates are tried anew, the best of all and the best in which nothing is optimised, and on how many new
cuts, by whether the estimator is quickly fitted and searches nothing."""


class Found(NamedTuple):
    """The poison of one share that harms most on held-out rows, and the most harmful that nothing was optimised in."""

    attack: Points
    baseline: Points


class _Tried(NamedTuple):
    points: Points
    flips: Flips | None
    outcome: Outcome


def search(estimator: Any, scorer: Any, fold: Fold, plan: Plan) -> list[Found]:
    """Return what is found for each of the plan's counts of points.

    Ways of flipping are tried on one part of the fold, the best of them on all; the best of these is grown by swaps.
    The transfer from a surrogate joins in where features may change. All this is done on the estimator without its own
    search, if it has one, with what it tunes on clean rows. The finalists are tried anew, on the estimator as it is
    and on other cuts of the fold: what was selected on a cut looks better there than it is.
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
    """Return ways of flipping tried in full, the most harmful first, grown ones included."""
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
    """Return what is crafted on a surrogate: from places at random, and from the best flips."""
    largest, capability = plan.counts[-1], plan.capability
    anew = fold.unchanged(fold.drawn[:largest], capability) if capability.edits == "features" else None
    return [*craft(fold, plan, anew), *(craft(fold, plan, best) if len(best.labels) else [])]
