"""How much harm poison does, measured within the training fold, on rows that the estimator was not fitted on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from mithridate.estimators.capability import Fold, Points
from mithridate.estimators.rows import take


class Outcome(NamedTuple):
    """The held-out score, and which rows are wrong when they are held out (n,)."""

    score: float
    wrong: np.ndarray


class Trials:
    """Fits of an estimator on all parts of a poisoned training fold but one, scored on that part's true labels.

    The fold is cut again for each seed. The seed None cuts in row order, so that rows which belong together stay
    together. Points that copy a row of the held-out part are held out too: a copied row would be no fair test.
    """

    def __init__(self, estimator: Any, scorer: Any, fold: Fold, parts: int, seeds: Sequence[int | None]):
        self.estimator, self.scorer, self.fold = estimator, scorer, fold
        parts = min(parts, int(np.bincount(fold.labels).min()))
        self.parts: list[np.ndarray] = []
        for seed in seeds:
            cut = StratifiedKFold(parts, shuffle=seed is not None, random_state=seed)
            self.parts += [held for _, held in cut.split(fold.labels, fold.labels)]

    def outcome(self, points: Points, parts: int | None = None) -> Outcome:
        """Return the outcome of the poison on the first `parts` (default: all)."""
        fold, wrong, scores = self.fold, np.zeros(len(self.fold.labels)), []
        own = self.parts[:parts]
        for rows in own:
            held = np.isin(np.arange(len(fold.labels)), rows)
            fitted: Any = clone(self.estimator)
            fitted.fit(*fold.poisoned(points, held))
            cells, labels = take(fold.cells, rows), fold.classes[fold.labels[rows]]
            scores.append(float(self.scorer(fitted, cells, labels)))
            wrong[rows] = fitted.predict(cells) != labels
        return Outcome(float(np.average(scores, weights=[len(rows) for rows in own])), wrong)
