"""What `poisoning_curve` finds for classifiers of scikit-learn, beside label flips in plain scikit-learn.

    python benchmarks/estimators.py [--estimators forest svc …] [--edits labels] [--json FILE]

Test error in %, the mean of three folds, at 5 % and 16.7 % of the training rows, and the seconds of the whole curve.
Plain flips relabel the most confident rows of one class, or its tightest ball, of the whole training fold; the best in
hindsight of both classes is shown, which no attacker can know.
"""

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common import machine, write_json
from mithridate.sklearn import poisoning_curve

SHARES = (0.05, 0.167)
SEARCH = {"scoring": "accuracy", "l1_ratios": (0,), "use_legacy_attributes": False, "max_iter": 1000}


def scaled(estimator: Any) -> Any:
    """Return the estimator behind a scaler."""
    return make_pipeline(StandardScaler(), estimator)


ESTIMATORS: dict[str, Any] = {
    "forest": RandomForestClassifier(random_state=0),
    "boosting": HistGradientBoostingClassifier(random_state=0),
    "svc": scaled(SVC()),
    "neighbours": scaled(KNeighborsClassifier()),
    "logistic": scaled(LogisticRegression(max_iter=1000)),
    "searched svc": GridSearchCV(scaled(SVC()), {"svc__C": [0.1, 1, 10], "svc__gamma": ["scale", 0.01]}, cv=3),
    "searched logistic": scaled(LogisticRegressionCV(Cs=[1e-3, 1e-2, 0.1, 1, 10], **SEARCH)),
}
CASES = {"breast-cancer": tuple(ESTIMATORS), "digits-0v8": ("forest", "svc", "neighbours")}


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a data set of two classes, 0 and 1."""
    if name == "breast-cancer":
        return load_breast_cancer(return_X_y=True)  # pyright: ignore[reportReturnType]
    x, y = load_digits(return_X_y=True)
    own = (y == 0) | (y == 8)
    return x[own], (y[own] == 8).astype(int)


def plain_flips(x: np.ndarray, y: np.ndarray, own: int, k: int) -> dict[str, np.ndarray]:
    """Return the k rows of one class that a logistic regression is surest of, and those of its tightest ball."""
    seen = StandardScaler().fit_transform(x)
    sure = LogisticRegression(max_iter=1000).fit(seen, y).predict_proba(seen)[:, own]
    rows = np.flatnonzero(y == own)
    distances = np.linalg.norm(seen[rows][:, None] - seen[rows][None], axis=2)
    centre = np.sort(distances, axis=1)[:, k - 1].argmin()
    return {"confident": rows[np.argsort(-sure[rows])[:k]], "ball": rows[np.argsort(distances[centre])[:k]]}


def plain_errors(estimator: Any, x: np.ndarray, y: np.ndarray, share: float) -> dict[str, float]:
    """Return the mean test error with each plain flip."""
    found: dict[str, list[float]] = {}
    for train, test in StratifiedKFold(3).split(x, y):
        k = math.ceil(share * len(train))
        for own in (0, 1):
            for name, rows in plain_flips(x[train], y[train], own, k).items():
                labels = y[train].copy()
                labels[rows] = 1 - own
                score = clone(estimator).fit(x[train], labels).score(x[test], y[test])
                found.setdefault(f"{name} {own}", []).append(100 * (1 - score))
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def main() -> None:
    """Print a row of the table for each data set and estimator."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--estimators", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    options.add_argument("--edits", choices=["labels", "features", "both"], default="labels")
    options.add_argument("--json", type=Path, help="write the results to this file as well")
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    print("| | clean | 5 % | 16.7 % | plain flips, 5 % | 16.7 % | seconds |\n|---|---|---|---|---|---|---|")
    rows = []
    for data, names in CASES.items():
        x, y = rows_of(data)
        for name in (name for name in names if name in given.estimators):
            began = time.perf_counter()
            curve = poisoning_curve(
                ESTIMATORS[name], x, y, shares=[0, *SHARES], edits=given.edits, cv=3, random_state=0
            )
            seconds = time.perf_counter() - began
            errors = (100 * (1 - curve.worst_scores.mean(axis=1))).tolist()
            plain = [plain_errors(ESTIMATORS[name], x, y, share) for share in SHARES]
            best = [max(found, key=lambda flip, found=found: found[flip]) for found in plain]
            shown = [f"{found[flip]:.1f} ({flip})" for found, flip in zip(plain, best, strict=True)]
            cells = [f"{data}, {name}", *(f"{error:.1f}" for error in errors), *shown, f"{seconds:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            winners = curve.attack.tolist()
            rows.append({"case": cells[0], "errors": errors, "plain": plain, "seconds": seconds, "attack": winners})
    write_json(given.json, machine(), rows)


if __name__ == "__main__":
    main()
