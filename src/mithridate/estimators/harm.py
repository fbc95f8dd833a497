"""What a fitted estimator does on rows with known labels, and how much of that the attacker wants."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from mithridate.errors import InputError
from mithridate.estimators.rows import take


class Labelled(NamedTuple):
    """Rows as the estimator takes them (n, …), and their class numbers (n,)."""

    cells: Any
    labels: np.ndarray

    def of_class(self, number: int) -> "Labelled":
        """Return the rows of one class."""
        own = np.flatnonzero(self.labels == number)
        return Labelled(take(self.cells, own), self.labels[own])


class Judged(NamedTuple):
    """The score of an estimator on rows, lower being more harm, how much it counts, and which rows are wrong (n,)."""

    score: float
    weight: float
    wrong: np.ndarray


@dataclass(frozen=True)
class Harm:
    """How an attacker scores an estimator, from 0 to 1, more being more harm.

    `classes` (K,): the labels that the estimator is given for class 0 … K − 1. An indiscriminate attacker has a `score`
    (see `SCORES`); a targeted one wants the rows of class `target` wrong, or if there is a `wanted` class, given that.
    `shares` (K,): the classes' shares of the rows to come. Where the attacker measures they may have others: the error
    there is weighted, so that it tells of the rows to come.
    """

    classes: np.ndarray
    shares: np.ndarray
    score: str = "error"
    target: int | None = None
    wanted: int | None = None

    @property
    def importance(self) -> np.ndarray:
        """How much each class counts for the attacker (K,)."""
        only = self.target if self.target is not None else 1 if self.score == "fnr" else None
        if only is not None:
            return np.eye(len(self.classes))[only]
        return self.shares if self.score == "error" else np.full(len(self.classes), 1 / len(self.classes))

    def aimed(self, rows: Labelled) -> Labelled:
        """Return the rows that the attacker aims at. Raises `InputError` if there are none."""
        if self.target is None:
            return rows
        found = rows.of_class(self.target)
        if not len(found.labels):
            raise InputError(f"objective: there are no rows of {self.classes[self.target]!r} to aim at")
        return found

    def judged(self, fitted: Any, rows: Labelled) -> Judged:
        """Return 1 − what the attacker expects of the rows to come, by these rows, and how many of them tell of it."""
        given, labels = self.predicted(fitted, rows.cells), rows.labels
        aimed = np.ones(len(labels), dtype=bool) if self.target is None else labels == self.target
        missing = self.target is None and len(np.unique(labels)) < len(self.classes)
        if missing or not aimed.any():
            return Judged(1.0, 0.0, given != labels)
        own = Labelled(rows.cells if self.target is None else None, labels[aimed])
        return Judged(1 - self.of(fitted, own, self.shares, given[aimed]), float(aimed.sum()), given != labels)

    def of(
        self, fitted: Any, rows: Labelled, shares: np.ndarray | None = None, given: np.ndarray | None = None
    ) -> float:
        """Return the harm on these rows, those aimed at; an error by the rows' own shares of the classes, or these.

        `given`: the classes that they are given, if these are known.
        """
        if self.score == "one-minus-auc" and self.target is None:
            return float(1 - roc_auc_score(rows.labels == 1, self.ranked(fitted, rows.cells)))
        given = self.predicted(fitted, rows.cells) if given is None else given
        if self.wanted is not None:
            return float(np.mean(given == self.wanted))
        wrong = given != rows.labels
        if self.target is not None:
            return float(np.mean(wrong))
        if self.score == "fnr":
            return float(np.mean(wrong[rows.labels == 1]))
        if self.score == "error" and shares is None:
            return float(np.mean(wrong))
        missed = [wrong[rows.labels == number].mean() for number in np.unique(rows.labels)]
        return float(np.average(missed, weights=shares if self.score == "error" else None))

    def predicted(self, fitted: Any, cells: Any) -> np.ndarray:
        """Return the class number that each row is given, −1 for a label that is no class."""
        known = {label: number for number, label in enumerate(self.classes.tolist())}
        return np.array([known.get(label, -1) for label in np.asarray(fitted.predict(cells)).ravel().tolist()])

    def ranked(self, fitted: Any, cells: Any) -> np.ndarray:
        """Return how much each row looks like class 1 of two. Raises `InputError` if the estimator does not say."""
        place = np.asarray(fitted.classes_).tolist().index(self.classes.tolist()[1])
        if hasattr(fitted, "predict_proba"):
            return np.asarray(fitted.predict_proba(cells))[:, place]
        if hasattr(fitted, "decision_function"):
            return np.asarray(fitted.decision_function(cells)) * (1 if place == 1 else -1)
        raise InputError(
            "score = one-minus-auc: the estimator has neither predict_proba nor decision_function, so that rows have "
            "no order; use score = balanced-error, or an estimator that has one of them"
        )


class Measures(NamedTuple):
    """How a fitted estimator does, as `Record` has it; `valid_loss` is NaN without probabilities."""

    test_error: float
    attack_success: float
    fpr: float
    fnr: float
    fprs: list[float]
    fnrs: list[float]
    valid_loss: float
    target_success: float


def measured(fitted: Any, harm: Harm, valid: Labelled, test: Labelled) -> Measures:
    """Return the measures of a fitted estimator on the validation rows and on the test rows."""
    given, k = harm.predicted(fitted, test.cells), len(harm.classes)
    counts = confusion_matrix(test.labels, given, labels=[*range(k), -1])[:k, :k]
    own = np.bincount(test.labels, minlength=k)
    hits, taken = counts.diagonal(), counts.sum(axis=0)
    fnrs = ((own - hits) / np.maximum(own, 1)).tolist()
    fprs = ((taken - hits) / np.maximum(own.sum() - own, 1)).tolist()
    return Measures(
        test_error=float(np.mean(given != test.labels)),
        attack_success=harm.of(fitted, harm.aimed(test)),
        fpr=fprs[1] if k == 2 else float(np.mean(fprs)),
        fnr=fnrs[1] if k == 2 else float(np.mean(fnrs)),
        fprs=fprs,
        fnrs=fnrs,
        valid_loss=_loss(fitted, harm, valid),
        target_success=harm.of(fitted, harm.aimed(valid), harm.shares),
    )


def _loss(fitted: Any, harm: Harm, rows: Labelled) -> float:
    """Return the mean cross-entropy, NaN if the estimator gives no probabilities of all classes."""
    if not hasattr(fitted, "predict_proba"):
        return float("nan")
    order = [np.asarray(fitted.classes_).tolist().index(label) for label in harm.classes.tolist()]
    return float(
        log_loss(rows.labels, np.asarray(fitted.predict_proba(rows.cells))[:, order], labels=range(len(order)))
    )
