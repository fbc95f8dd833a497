"""The worst that an attacker finds in one training fold: many candidates, each tried on the estimator itself."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from mithridate.estimators.capability import Fold, Points
from mithridate.estimators.crafting import Plan, craft
from mithridate.estimators.flips import Flips, View, flips_of
from mithridate.estimators.geometry import own_space, quick
from mithridate.estimators.growth import grown
from mithridate.estimators.kernels import Kernels, Seen
from mithridate.estimators.moves import moved
from mithridate.estimators.trials import HeldOut, Journal, Judge, Outcome, Trials
from mithridate.estimators.tuned import settled, tuned_hyperparameters

FITS = {True: 240, False: 120}
"""How often the attacker fits an estimator in a split, by whether it is quick to fit."""
PARTS = 3
"""The number of parts into which a training fold is cut; each is held out once."""
SCREENED = 0.3
"""The largest share of the fits for a first, cheap trial of every way to flip."""
KERNELS = 0.3
"""The share of the fits for flips that are worst for kernel smoothers."""
KEPT = 4
"""The number of ways that are tried in full after the first trial."""
FINALISTS = {True: (4, 2, 4), False: (3, 1, 1)}
"""How many candidates are tried again: the best of all, the best without optimisation, and the number of new cuts; by
whether the estimator is quick to fit and has no search."""
MOVES = 0.25
"""The share of the fits for moving features, where these may change."""


class Found(NamedTuple):
    """The poison of one share that harms most on held-out rows, and the most harmful without optimisation.

    `finalists`: all that were tried to the end, these two among them, the most harmful first; `crafted`: what was
    crafted on surrogates, of which lower shares take the first points.
    """

    attack: Points
    baseline: Points
    finalists: tuple[Points, ...] = ()
    crafted: tuple[Points, ...] = ()


class Tried(NamedTuple):
    """Poison that was tried; `flips`, if it is nothing else."""

    points: Points
    flips: Flips | None
    outcome: Outcome


class Search(NamedTuple):
    """An attack on one fold: `trials` try every candidate, `anew` the finalists, on the defender as he is.

    `view`: what the attacker sees, `kernels` what imitates the estimator, `fits` how many fits each share may take,
    `finalists` how many of all and of those without optimisation are tried anew; `each`: whether the best of
    every kind is, in any case.
    """

    fold: Fold
    plan: Plan
    view: View
    kernels: Kernels
    trials: HeldOut | Journal
    anew: Trials
    fits: int
    finalists: tuple[int, int]
    each: bool = False

    def found(
        self,
        count: int,
        craft: Callable[[Points], Sequence[Points]],
        crafted: Sequence[Points] | None,
        won: Sequence[Points],
    ) -> Found:
        """Return what is found with this many points.

        `crafted`: what was crafted for a larger share; None has it crafted now, by `craft`, from the best flips. `won`:
        what won at the next larger share. Their first points are tried too.
        """
        tried = self._flips(count)
        if crafted is None:
            crafted = [] if self.plan.capability.edits == "labels" else craft(tried[0].points)
        others = [points.first(count) for points in (*crafted, *won)]
        tried += [Tried(points, None, self.trials.outcome(points)) for points in others]
        tried.sort(key=lambda one: one.outcome.score)
        tried += self._moved(tried[0], count)
        tried.sort(key=lambda one: one.outcome.score)
        best_of, plain_of = self.finalists
        plain = [one for one in tried if one.points.plain][:plain_of]
        best = [one for one in tried if not any(one is other for other in plain)][:best_of]
        known = {one.points.kind for one in (*plain, *best)}
        for one in tried if self.each else ():
            if one.points.kind not in known:
                known.add(one.points.kind)
                best.append(one)
        ended = [one._replace(outcome=self._ended(one)) for one in (*plain, *best)]
        ended.sort(key=lambda one: one.outcome.score)
        baseline = next(one.points for one in ended if one.points.plain)
        return Found(ended[0].points, baseline, tuple(one.points for one in ended), tuple(crafted))

    def _ended(self, one: Tried) -> Outcome:
        """Return the outcome of new trials; of the same kind as the first, they count together with these."""
        again = self.anew.outcome(one.points)
        if not isinstance(self.anew, HeldOut):
            return again
        first, new = self.trials.parts, self.anew.parts
        return again._replace(score=(first * one.outcome.score + new * again.score) / (first + new))

    def most_fits(self, count: int, others: int) -> int:
        """Return how many fits `found` takes at most with this many points and so many `others` to try."""
        parts, draw = self.trials.parts, np.random.default_rng((self.fold.seed, count))
        fits, view = self.fits - self._moves, self.view._replace(among=self.fold.among(self.plan.capability, count))
        ways = min(len(flips_of(view, count, draw)), max(2, int(SCREENED * fits)))
        full = max((fits - ways) // parts, min(KEPT, ways) + 2 + self._kernel_trials)
        return ways + parts * (full + self._moves // parts + others)

    def random(self, count: int) -> Points:
        """Return so many random flips, the first of the ways to flip."""
        view, draw = self.view._replace(among=self.fold.among(self.plan.capability, count)), np.random.default_rng(0)
        return self.fold.points(flips_of(view, count, draw)[0], self.plan.capability, count)

    def transfers(self, best: Points, surrogates: Sequence[Any]) -> list[Points]:
        """Return the points crafted on each surrogate, from random places and from the best flips."""
        largest, capability, fold = self.plan.counts[-1], self.plan.capability, self.fold
        anew = fold.unchanged(fold.drawn[:largest], capability) if capability.edits == "features" else None
        plans = [self.plan._replace(surrogate=surrogate) for surrogate in surrogates]
        starts = [anew, *([best] if len(best.labels) else [])]
        return [points for plan in plans for start in starts for points in craft(fold, plan, start)]

    def _moved(self, best: Tried, count: int) -> list[Tried]:
        tries = self._moves // self.trials.parts
        if not tries or not len(best.points.labels):
            return []
        draw = np.random.default_rng((self.fold.seed, count, 1))
        points, outcome = moved(best.points, best.outcome, self.fold, self.trials.outcome, tries, draw)
        return [] if points is best.points else [Tried(points, None, outcome)]

    @property
    def _moves(self) -> int:
        return 0 if self.plan.capability.edits == "labels" else int(MOVES * self.fits)

    def _flips(self, count: int) -> list[Tried]:
        """Return the flips that were tried in full: the grown ones first, then the others, the most harmful first."""
        fold, capability, parts = self.fold, self.plan.capability, self.trials.parts
        draw = np.random.default_rng((fold.seed, count))
        view = self.view._replace(among=fold.among(capability, count))
        fits = self.fits - self._moves
        ways = flips_of(view, count, draw)[: max(2, int(SCREENED * fits))]
        first = [self.trials.outcome(self._points(flips, count), 1) for flips in ways]
        order: list[int] = np.argsort([outcome.score for outcome in first], kind="stable").tolist()
        chosen = order[:KEPT]
        if self.each and 0 not in chosen:  # the first way is random rows
            chosen.append(0)
        if not any(ways[place].plain for place in chosen):
            chosen.append(next(place for place in order if ways[place].plain))
        tried = [self._tried(ways[place], count) for place in chosen]
        seen = [self._seen(flips, outcome, self.trials.first) for flips, outcome in zip(ways, first, strict=True)]
        seen += [self._seen(one.flips, one.outcome) for one in tried if one.flips]
        likely = itertools.islice(self.kernels.flips(seen, count, view.among), self._kernel_trials)
        tried += [self._tried(flips, count) for flips in likely]
        tried.sort(key=lambda one: one.outcome.score)
        best, swaps = tried[0], (fits - len(ways) - parts * len(tried)) // parts
        assert best.flips is not None
        flips, outcome = grown(best.flips, best.outcome, view, lambda new: self._tried(new, count).outcome, swaps, draw)
        return [Tried(self._points(flips, count), flips, outcome), *tried]

    @property
    def _kernel_trials(self) -> int:
        return max(1, int(KERNELS * (self.fits - self._moves)) // self.trials.parts)

    def _points(self, flips: Flips, count: int) -> Points:
        return self.fold.points(flips, self.plan.capability, count)

    def _tried(self, flips: Flips, count: int) -> Tried:
        points = self._points(flips, count)
        return Tried(points, flips, self.trials.outcome(points))

    def _seen(self, flips: Flips, outcome: Outcome, held: np.ndarray | None = None) -> Seen:
        """Return what a trial has told of the rows that were `held` out (default: all)."""
        labels = self.fold.labels.copy()
        labels[flips.rows] = flips.labels
        return Seen(labels, np.ones(len(labels), dtype=bool) if held is None else held, outcome.wrong)


def search(estimator: Any, judge: Judge, fold: Fold, plan: Plan) -> list[Found]:
    """Return what is found for each of the plan's numbers of points.

    All ways to flip are tried on one part of the fold, the best of them on all parts, and the best of these is grown by
    swaps. If features may change, the transfer from a surrogate is tried too, and the best of all is moved. All this
    uses the estimator without its own search, with the hyperparameters that it tunes on clean rows. The finalists are
    tried again, with the original estimator and on other cuts of the fold, because a candidate looks too good on the
    cut that selected it.
    """
    clean: Any = clone(estimator)
    clean.fit(fold.cells, fold.classes[fold.labels])
    best_of, plain_of, cuts = FINALISTS[quick(clean) and not tuned_hyperparameters(clean)]
    counts = sorted({count for count in plan.counts if count}, reverse=True)
    view, n_classes = fold.view._replace(own=own_space(clean, fold.cells, fold.seed)), len(fold.classes)
    nobody = view.x[:0], None if view.own is None else view.own[:0], view.labels[:0]
    attack = Search(
        fold,
        plan,
        view,
        Kernels(view, nobody, np.bincount(view.labels, minlength=n_classes) / len(view.labels), None, fold.seed),
        HeldOut(settled(clean), judge, fold, PARTS, [None]),
        HeldOut(estimator, judge, fold, PARTS, [fold.seed + cut for cut in range(cuts)]),
        (plan.fits or FITS[quick(clean)]) // len(counts),
        (best_of, plain_of),
    )
    found: dict[int, Found] = {}
    crafted, won = None, []
    for count in counts:
        found[count] = one = attack.found(count, lambda best: attack.transfers(best, [plan.surrogate]), crafted, won)
        crafted, won = one.crafted, [one.attack]
    nothing = fold.unchanged(np.empty(0, dtype=int), plan.capability)._replace(name="none")
    return [found.get(count, Found(nothing, nothing)) for count in plan.counts]
