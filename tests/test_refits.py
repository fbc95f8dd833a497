"""The parts of attacks on estimators: scores, moves, who does the harm, and trials that are written down."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, recall_score, roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mithridate.data.encoding import Column, Schema
from mithridate.data.rules import Rule
from mithridate.estimators.capability import Capability, Fold, Points
from mithridate.estimators.explaining import contributions
from mithridate.estimators.harm import Harm, Labelled, measured
from mithridate.estimators.moves import moved
from mithridate.estimators.rows import Table
from mithridate.estimators.trials import HeldOut, Journal, Outcome


class Told(ClassifierMixin, BaseEstimator):
    """A fitted estimator that says what it is told to."""

    def __init__(self, shares: np.ndarray):
        self.shares, self.classes_ = shares, np.array(["a", "b"])

    def predict(self, X):
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]

    def predict_proba(self, X):
        own = self.shares[np.asarray(X).ravel()]
        return np.stack([1 - own, own], axis=1)


def test_scores_are_those_of_scikit_learn(rng):
    labels, shares = rng.integers(0, 2, 200), expit(rng.normal(size=200)).round(2)
    fitted, rows = Told(shares), Labelled(np.arange(200)[:, None], labels)
    given, classes = (shares > 0.5).astype(int), np.array(["a", "b"])
    wanted = {
        "error": 1 - accuracy_score(labels, given),
        "balanced-error": 1 - balanced_accuracy_score(labels, given),
        "fnr": 1 - recall_score(labels, given),
        "one-minus-auc": 1 - roc_auc_score(labels, shares),
    }
    even = np.array([0.5, 0.5])
    for score, value in wanted.items():
        assert Harm(classes, even, score).of(fitted, rows) == pytest.approx(value)
    # Where the classes have other shares than among the rows to come, errors are weighted.
    assert Harm(classes, even).judged(fitted, rows).score == pytest.approx(balanced_accuracy_score(labels, given))
    own = Harm(classes, even, target=1, wanted=0)
    assert own.of(fitted, own.aimed(rows)) == pytest.approx(1 - recall_score(labels, given))
    found = measured(fitted, Harm(classes, even), rows, rows)
    assert found.valid_loss == pytest.approx(log_loss(labels, shares))
    assert (found.fnr, found.fpr) == pytest.approx(
        (1 - recall_score(labels, given), 1 - recall_score(1 - labels, 1 - given))
    )


def fold_of(x: np.ndarray, y: np.ndarray, **limits: Any) -> Fold:
    """A fold of two numbers and a category, with a rule: the first number is at most the second."""
    columns = (
        Column("a", "number", "float64"),
        Column("b", "number", "float64"),
        Column("c", "category", "str", ("u", "v"), **limits),
    )
    schema = Schema(columns, Column("y", "category"), ("a", "b", "c", "y"), (Rule(0, 1, 0.0, "a <= b"),))
    table = Table.within(schema, x)
    return Fold(table, table.cells, x, y, np.array([0, 1]), 0)


def test_moved_rows_are_rows_that_the_table_could_hold(rng):
    x = np.column_stack([np.sort(rng.normal(size=(60, 2)), axis=1), rng.integers(0, 2, 60)])
    y = np.arange(60) % 2
    fold = fold_of(x, y, allowed=(0,))
    start = fold.unchanged(np.arange(10), Capability("chosen", "both"))
    seen: list[Points] = []

    def measure(points: Points) -> Outcome:
        seen.append(points)
        return Outcome(-float(points.raw[:, 0].sum()), np.zeros(60))

    best, outcome = moved(start, measure(start), fold, measure, 40, rng)
    assert outcome.score < -start.raw[:, 0].sum()
    for points in seen[1:]:
        assert (points.raw[:, 0] <= points.raw[:, 1]).all()
        assert (points.raw[:, 2] == 0).all()
        assert set(points.raw[:, 0].round(12)) <= set(x[:, 0].round(12)) | set(fold.within(x)[:, 0].round(12))
    np.testing.assert_array_equal(best.labels, start.labels)
    np.testing.assert_array_equal(best.rows, start.rows)


def test_the_points_that_do_the_harm_are_told_from_the_others(rng):
    x = np.column_stack([np.sort(rng.normal(size=(60, 2)), axis=1), np.zeros(60)])
    x[:5, :2] += 50
    fold = fold_of(x, np.zeros(60, dtype=int))
    points = fold.unchanged(np.arange(20), Capability("chosen", "both"))
    found = contributions(points, fold, lambda own: 0.1 * float((own.raw[:, 0] > 20).sum()), 0)
    assert found[:5] == pytest.approx(0.1)
    assert found[5:] == pytest.approx(0.0)


def test_the_same_journal_goes_on_where_it_stopped(rng):
    x = np.column_stack([np.sort(rng.normal(size=(60, 2)), axis=1), np.zeros(60)])
    fold = fold_of(x, (x[:, 0] > 0).astype(int))
    harm = Harm(np.array([0, 1]), np.array([0.5, 0.5]))
    own = make_pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False), GaussianNB())
    trials = HeldOut(own, harm.judged, fold, 3, [None])
    sets = [fold.unchanged(np.arange(k), Capability("chosen", "both")) for k in (2, 4, 6)]
    whole, written = Journal(trials, [], lambda: None), list[Outcome]()
    wanted = [whole.outcome(one, 1 if number else None).score for number, one in enumerate(sets)]
    first = Journal(trials, written, lambda: None)
    _ = first.outcome(sets[0])
    again = Journal(trials, written, lambda: None)
    assert [again.outcome(one, 1 if number else None).score for number, one in enumerate(sets)] == wanted
    assert (whole.fits, again.fits) == (5, 5)
    # Poison on which an estimator cannot be fitted is worse for the attacker than any other.
    broken = Journal(HeldOut(KNeighborsClassifier(1000), harm.judged, fold, 3, [None]), [], lambda: None)
    assert broken.outcome(sets[0]).score > 1
