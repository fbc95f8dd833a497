"""Hyperparameters that an estimator has tuned, wherever scikit-learn keeps them."""

from typing import Any

import pytest
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mithridate.sklearn import tuned_hyperparameters

SEARCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "best_params_": (GridSearchCV(SVC(), {"C": [1], "kernel": ["rbf"]}), {"C": 1.0, "kernel": "rbf"}),
    "random": (RandomizedSearchCV(SVC(), {"C": [2]}, n_iter=1), {"C": 2.0}),
    "inside a pipeline": (
        make_pipeline(StandardScaler(), RidgeClassifierCV([3.0, 3.0])),
        {"ridgeclassifiercv__alpha": 3.0},
    ),
    "around a pipeline": (
        GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [4]}),
        {"svc__C": 4.0},
    ),
    "a search in a search": (
        GridSearchCV(
            make_pipeline(StandardScaler(with_std=False), RidgeClassifierCV([5.0, 5.0])),
            {"standardscaler__with_mean": [True]},
        ),
        {"standardscaler__with_mean": True, "ridgeclassifiercv__alpha": 5.0},
    ),
    "one for each class": (
        LogisticRegressionCV().set_params(
            Cs=[6.0, 6.0], l1_ratios=(0.0,), use_legacy_attributes=True, scoring="accuracy"
        ),
        {"C": 6.0},
    ),
    "a threshold": (
        TunedThresholdClassifierCV(LogisticRegression()).set_params(thresholds=[0.4, 0.6]),
        {"threshold": 0.4},
    ),
    "nothing tuned": (SVC(), {}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_hyperparameters_are_found_wherever_they_are(name):
    estimator, expected = SEARCHES[name]
    assert tuned_hyperparameters(estimator.fit(*make_blobs(90, random_state=0, centers=[[-1, 0], [1, 0]]))) == expected
