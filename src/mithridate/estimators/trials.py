"""How much harm poison does, measured by fits, on rows that the estimator was not fitted on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from mithridate.estimators.capability import Fold, Points
from mithridate.estimators.harm import Judged, Labelled
from mithridate.estimators.rows import take

Judge = Callable[[Any, Labelled], Judged]
"""Returns how a fitted estimator does on rows."""


FAILED = 2.0
"""The score of poison on which the estimator cannot be fitted; others go up to 1."""


class Outcome(NamedTuple):
    """The score on rows that were held out, lower being more harm, and which training rows are wrong there (n,)."""

    score: float
    wrong: np.ndarray


class Trials(Protocol):
    """What tries poison."""

    def outcome(self, points: Points, parts: int | None = None) -> Outcome:
        """Return the outcome of the poison, by the first `parts` fits (default: all)."""
        ...


class HeldOut:
    """Fits on all parts of a poisoned training fold but one, scored on that part's true labels.

    The fold is cut again for each seed. The seed None cuts in row order, so that rows which belong together stay
    together. Points that copy a row of the held-out part are held out too: a copied row would be no fair test. If there
    are `trusted` rows outside the fold, each fit is scored on them as well; all fits together count as one fit there.
    """

    def __init__(
        self,
        estimator: Any,
        judge: Judge,
        fold: Fold,
        parts: int,
        seeds: Sequence[int | None],
        trusted: Labelled | None = None,
    ):
        self.estimator, self.judge, self.fold, self.trusted = estimator, judge, fold, trusted
        parts = min(parts, int(np.bincount(fold.labels).min()))
        self.held: list[np.ndarray] = []
        for seed in seeds:
            cut = StratifiedKFold(parts, shuffle=seed is not None, random_state=seed)
            self.held += [held for _, held in cut.split(fold.labels, fold.labels)]

    @property
    def parts(self) -> int:
        """The number of fits of a full trial: of parts that are held out in turn."""
        return len(self.held)

    @property
    def first(self) -> np.ndarray:
        """Which training rows (n,; bool) the first fit of a trial holds out."""
        return np.isin(np.arange(len(self.fold.labels)), self.held[0])

    def outcome(self, points: Points, parts: int | None = None) -> Outcome:
        """Return the outcome of the poison on the first `parts` (default: all)."""
        fold, wrong = self.fold, np.zeros(len(self.fold.labels))
        own, found = self.held[:parts], list[tuple[float, float]]()
        for rows in own:
            held = np.isin(np.arange(len(fold.labels)), rows)
            fitted: Any = clone(self.estimator)
            fitted.fit(*fold.poisoned(points, held))
            one = self.judge(fitted, Labelled(take(fold.cells, rows), fold.labels[rows]))
            found.append((one.score, one.weight))
            wrong[rows] = one.wrong
            if self.trusted:
                one = self.judge(fitted, self.trusted)
                found.append((one.score, one.weight / len(own)))
        scores, weights = np.array(found).T
        return Outcome(float(np.average(scores, weights=weights)) if weights.any() else 1.0, wrong)


class Journal:
    """Trials that are written down: begun again with what was tried, an attack goes on where it had stopped.

    Poison on which the estimator cannot be fitted is no poison: its outcome is worse than any other for the attacker.

    `tried`: the outcomes so far, in their order; what is tried next is added. `tick` is called after each trial.
    `fits`: how many there were.
    """

    def __init__(self, trials: HeldOut, tried: list[Outcome], tick: Callable[[], None]):
        self.trials, self.tried, self.tick = trials, tried, tick
        self.at = self.fits = 0

    @property
    def parts(self) -> int:
        """The number of fits of a full trial."""
        return self.trials.parts

    @property
    def first(self) -> np.ndarray:
        """Which training rows (n,; bool) the first fit of a trial holds out."""
        return self.trials.first

    def outcome(self, points: Points, parts: int | None = None) -> Outcome:
        """Return the outcome of the poison, as it was written down if it was tried before."""
        if self.at == len(self.tried):
            try:
                found = self.trials.outcome(points, parts)
            except Exception:  # noqa: BLE001 (it is the user's code; other points may do)
                found = Outcome(FAILED, np.zeros(len(self.trials.fold.labels)))
            self.tried.append(found)
            self.tick()
        self.at, self.fits = self.at + 1, self.fits + (parts or self.parts)
        return self.tried[self.at - 1]
