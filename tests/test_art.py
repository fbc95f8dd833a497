"""The attack in ART's own form."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import mithridate as mi
import mithridate.art
from mithridate.art import BilevelPoisoningAttack

pytest.importorskip("art")

from art.attacks.attack import PoisoningAttackWhiteBox
from art.attacks.poisoning import PoisoningAttackSVM
from art.estimators.classification import SklearnClassifier
from art.estimators.classification.scikitlearn import ScikitlearnClassifier
from art.exceptions import EstimatorError

POINTS = 10


@pytest.fixture(scope="module")
def starts(digits) -> tuple[np.ndarray, np.ndarray]:
    return digits.x_valid[:POINTS], 1 - digits.y_valid[:POINTS]


@pytest.fixture(scope="module")
def attack(digits) -> BilevelPoisoningAttack:
    victim = SklearnClassifier(LogisticRegression(C=1.0), clip_values=(0.0, 1.0))
    rows = digits.x_train, np.eye(2)[digits.y_train], digits.x_valid, np.eye(2)[digits.y_valid]
    return BilevelPoisoningAttack(victim, *rows, steps=30)


@pytest.fixture(scope="module")
def poison(attack, starts) -> tuple[np.ndarray, np.ndarray]:
    return attack.poison(starts[0], np.eye(2)[starts[1]])


def error(model, digits: mi.Split, x: np.ndarray, y: np.ndarray) -> float:
    model.fit(np.concatenate([digits.x_train, x]), np.concatenate([digits.y_train, y]))
    return float(np.mean(model.predict(digits.x_test) != digits.y_test))


def test_it_keeps_the_contract_of_art(attack, poison, starts):
    assert isinstance(attack, PoisoningAttackWhiteBox)
    x, y = poison
    assert x.shape == starts[0].shape
    assert x.dtype == starts[0].dtype
    assert (y == np.eye(2)[starts[1]]).all()
    assert x.min() >= 0
    assert x.max() <= 1
    assert set(attack.attack_params) >= {"x_train", "y_train", "x_val", "y_val", "steps"}


def test_labels_by_number_are_the_same_as_one_hot_and_come_back_as_given(attack, poison, starts):
    x, y = attack.poison(*starts)
    assert (y == starts[1]).all()
    assert (x == poison[0]).all()


def test_points_stay_in_the_order_in_which_they_were_given(attack, digits, starts):
    """One step moves a point little, so that each is still nearest to its own start."""
    short = BilevelPoisoningAttack(attack.estimator, *(digits.x_train, digits.y_train) * 2, steps=1)
    moved, _ = short.poison(*starts)
    distance = np.linalg.norm(moved[:, None] - starts[0][None], axis=2)
    assert (distance.argmin(axis=1) == np.arange(POINTS)).all()
    assert (distance.diagonal() > 0).any()


def test_it_harms_the_classifier_more_than_its_starting_points(digits, poison, starts):
    x, _ = poison
    assert error(LogisticRegression(C=1.0), digits, x, starts[1]) > error(LogisticRegression(C=1.0), digits, *starts)


def test_labels_change_where_they_may(digits, starts):
    victim = SklearnClassifier(LogisticRegression(C=1.0), clip_values=(0.0, 1.0))
    rows = digits.x_train, digits.y_train, digits.x_valid, digits.y_valid
    held = {}
    for edits in ("labels", "both", "features"):
        x, y = BilevelPoisoningAttack(victim, *rows, steps=10, edits=edits).poison(starts[0], np.eye(2)[starts[1]])
        assert (x == starts[0]).all() == (edits == "labels")
        assert y.shape == (POINTS, 2)
        assert (y.argmax(axis=1) == starts[1]).all() or edits != "features"
        model = LogisticRegression(C=1.0)
        model.fit(np.concatenate([digits.x_train, x]), np.concatenate([digits.y_train, y.argmax(axis=1)]))
        held[edits] = np.mean(model.predict(digits.x_valid) != digits.y_valid)
    assert held["both"] >= max(held["labels"], held["features"])
    # Rows of one class under the other's label do more than as many flips both ways.
    assert held["labels"] > 0.02


@pytest.mark.slow
def test_any_other_classifier_of_scikit_learn_is_attacked_by_transfer(digits, starts):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    rows = digits.x_train, digits.y_train, digits.x_valid, digits.y_valid
    x, _ = BilevelPoisoningAttack(SklearnClassifier(model), *rows, steps=15).poison(*starts)
    low, high = digits.x_train.min(axis=0), digits.x_train.max(axis=0)
    assert ((x >= low) & (x <= high)).all()
    assert error(model, digits, x, starts[1]) > error(model, digits, *starts)


@pytest.mark.slow
def test_three_classes(rng):
    y = np.arange(45) % 3
    x = rng.normal(size=(45, 4)) + 2 * np.eye(3, 4)[y]
    victim = SklearnClassifier(LogisticRegression(), clip_values=(-3.0, 5.0))
    attack = BilevelPoisoningAttack(victim, x[:30], y[:30], x[30:], y[30:], steps=5)
    moved, labels = attack.poison(x[30:35], np.eye(3)[(y[30:35] + 1) % 3])
    assert moved.shape == (5, 4)
    assert labels.shape == (5, 3)
    assert (moved != x[30:35]).any()


def test_mistakes_are_named(attack, digits, starts):
    rows = digits.x_train, digits.y_train, digits.x_valid, digits.y_valid
    plain = SklearnClassifier(LogisticRegression())
    with pytest.raises(mi.InputError, match="steps = 0"):
        BilevelPoisoningAttack(plain, *rows, steps=0)
    with pytest.raises(mi.InputError, match="edits = 'all': use both, labels, features"):
        BilevelPoisoningAttack(plain, *rows, edits="all")
    with pytest.raises(mi.InputError, match="y_train: labels must be one-hot"):
        BilevelPoisoningAttack(plain, rows[0], np.ones((60, 2)), *rows[2:])
    with pytest.raises(mi.InputError, match="L2 penalty, an intercept"):
        BilevelPoisoningAttack(SklearnClassifier(LogisticRegression(class_weight="balanced")), *rows)
    with pytest.raises(mi.InputError, match="apply it to the rows beforehand"):
        BilevelPoisoningAttack(SklearnClassifier(LogisticRegression(), preprocessing=(0.5, 2.0)), *rows)
    with pytest.raises(mi.InputError, match="y is missing"):
        attack.poison(starts[0])
    with pytest.raises(mi.InputError, match="unknown: speed"):
        attack.poison(*starts, speed=1)
    with pytest.raises(EstimatorError):
        BilevelPoisoningAttack(LogisticRegression(), *rows)


def test_a_classifier_that_cannot_be_fitted_is_found_before_anything_is_crafted(digits, starts, monkeypatch):
    class Unlucky(LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            raise ValueError("no luck")

    monkeypatch.setattr(BilevelPoisoningAttack, "_crafted", None)
    rows = digits.x_train, digits.y_train, digits.x_valid, digits.y_valid
    attack = BilevelPoisoningAttack(ScikitlearnClassifier(Unlucky()), *rows)
    with pytest.raises(mi.InputError, match=r"classifier: fitting it on x_train.* failed: ValueError: no luck"):
        attack.poison(*starts)


def test_without_art_the_remedy_is_said(monkeypatch, digits):
    monkeypatch.setattr(mithridate.art, "PoisoningAttackWhiteBox", object)
    with pytest.raises(mi.InputError, match=r"pip install 'mithridate\[art\]'"):
        BilevelPoisoningAttack(None, digits.x_train, digits.y_train, digits.x_valid, digits.y_valid)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `probability` parameter was deprecated:FutureWarning")
def test_it_harms_a_linear_svm_more_than_arts_own_attack_on_it():
    """The same starting points, as many of them, within the same bounds."""
    split = mi.load_dataset("digits-0v8").split()
    one_hot = [np.eye(2)[labels] for labels in (split.y_train, split.y_valid)]
    rows = split.x_train.astype(float), one_hot[0], split.x_valid.astype(float), one_hot[1]
    x, y = split.x_valid[::5].astype(float), 1 - split.y_valid[::5]
    # ART measures its own success by probabilities, which the model has to have for that.
    model = SVC(kernel="linear").set_params(probability=True)
    victim: Any = SklearnClassifier(model, clip_values=(0.0, 1.0))
    victim.fit(*rows[:2])
    ours = BilevelPoisoningAttack(victim, *rows)
    theirs = PoisoningAttackSVM(victim, 0.4, 1.0, *rows, max_iter=100, verbose=False)
    harm = [
        error(SVC(kernel="linear"), split, attack.poison(x.copy(), np.eye(2)[y])[0], y) for attack in (ours, theirs)
    ]
    assert harm[0] > harm[1]
