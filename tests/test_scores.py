"""Scores of an attacker's harm, against scikit-learn's metrics of the same rows."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

import mithridate as mi
from attackers import Relabelling
from mithridate.attacks.objectives import objective_of
from mithridate.data.tables import read_dataset
from mithridate.tasks.classification import Classification
from mithridate.tasks.scores import SCORES, telling_nothing

CALLED = {
    "error": lambda y, scores: np.mean((scores > 0) != y),
    "balanced-error": lambda y, scores: 1 - metrics.balanced_accuracy_score(y, scores > 0),
    "fnr": lambda y, scores: 1 - metrics.recall_score(y, scores > 0),
    "one-minus-auc": lambda y, scores: 1 - metrics.roc_auc_score(y, scores),
}


@pytest.fixture(scope="module")
def rare(tmp_path_factory) -> str:
    """A table in which one row of eight is a yes, which two columns tell of."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("rare") / "rare.csv"
    y = np.arange(800) % 8 == 0
    x = rng.normal(size=(800, 4)) + 1.5 * y[:, None] * [1, 1, 0, 0]
    pd.DataFrame(x, columns=[*"abcd"]).assign(y=np.where(y, "yes", "no")).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_what_scikit_learn_says_of_the_same_rows(score, rng):
    y = (rng.random(400) < 0.1).astype(float)
    logits = np.round(rng.normal(size=400) + y, 1).astype(np.float32)  # with ties
    rows = np.zeros((400, 1)), y
    objective = objective_of("indiscriminate", ("no", "yes"), rows, rows, lambda _: rows, lambda y: 1 - y, score)
    own = y == 1 if score == "fnr" else np.ones(400, bool)
    for given in (logits, np.stack([-logits / 2, logits / 2], axis=1)):
        found = objective.goal_scoring.success(Classification(), jnp.asarray(given[own]), jnp.asarray(y[own]), False)
        assert float(found) == pytest.approx(CALLED[score](y, logits), abs=1e-6)
    assert telling_nothing(score, y) == pytest.approx(CALLED[score](y, np.zeros(400)))


def test_of_several_classes_the_balanced_error_counts_each_alike(rng):
    y, given = rng.choice(3, 300, p=[0.7, 0.2, 0.1]), rng.normal(size=(300, 3))
    rows = np.zeros((300, 1)), y.astype(float)
    objective = objective_of("indiscriminate", "abc", rows, rows, lambda _: rows, lambda y: y, "balanced-error")
    found = objective.goal_scoring.success(Classification(3), jnp.asarray(given), jnp.asarray(rows[1]), False)
    assert float(found) == pytest.approx(1 - metrics.balanced_accuracy_score(y, given.argmax(1)), abs=1e-6)
    for score in ("fnr", "one-minus-auc"):
        with pytest.raises(mi.InputError, match=f"score = {score}: it needs two classes, and there are 3"):
            objective_of("indiscriminate", "abc", rows, rows, lambda _: rows, lambda y: y, score)


def test_as_many_rows_stand_behind_a_score_as_tell_of_it():
    y = np.repeat([0.0, 1.0], [90, 10])
    rows = np.zeros((100, 1)), y
    many = {}
    for score in SCORES:
        objective = objective_of("indiscriminate", "ab", rows, rows, lambda _: rows, lambda y: 1 - y, score)
        many[score] = objective.goal_scoring.rows(objective.goal[1])
    # The variance of (a + b) / 2, of shares a of 90 rows and b of 10: p (1 − p) (1/90 + 1/10) / 4.
    assert many == pytest.approx({"error": 100, "balanced-error": 36, "fnr": 10, "one-minus-auc": 10})


def test_what_is_recorded_is_the_score_of_a_plain_retraining(rare):
    options = {"target": "y", "train": 120, "valid": 120, "points": 20, "batch": 20, "splits": 1, "seed": 3}
    options |= {"budget": "added", "edits": "labels", "attack": Relabelling, "victim": "exact"}
    result = mi.audit(rare, policies=["fixed=0"], score="one-minus-auc", **options)
    split, poison = read_dataset(rare, target="y").split(120, 120, 3, 0), result.poison[0, "fixed=0"]
    for k, record in zip((0, 20), result.frame.to_dict("records"), strict=True):
        x = np.concatenate([split.x_train, poison["x_poison"][:k]])
        y = np.concatenate([split.y_train, poison["y_poison"][:k]])
        scores = LogisticRegression(C=1, tol=1e-10, max_iter=10_000).fit(x, y).decision_function(split.x_test)
        assert record["attack_success"] == pytest.approx(CALLED["one-minus-auc"](split.y_test, scores), abs=1e-4)
