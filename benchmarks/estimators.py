"""What `poisoning_curve` finds for classifiers of scikit-learn, beside label flips in plain scikit-learn.

    python benchmarks/estimators.py [--data digits-0v8 …] [--estimators forest svc …] [--edits labels] [--json FILE]

Test error in %, the mean of three folds, at 5 % and 16.7 % of the training rows, and the seconds of the whole curve.
"Winner" is what harmed most on held-out rows (`test_scores`), "worst" the worse of it and its baseline in each fold
(`worst_scores`). Plain flips relabel the most confident rows of one class, or its tightest ball, of the whole training
fold, as many as the curve; the best in hindsight of both classes is shown, which no attacker can know. Random flips
relabel rows of any class, the mean of three draws.
"""

import argparse
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
DRAWS = 3
SEARCH: dict[str, Any] = {
    "Cs": [1e-3, 1e-2, 0.1, 1, 10],
    "scoring": "accuracy",
    "l1_ratios": (0,),
    "use_legacy_attributes": False,
    "max_iter": 1000,
}


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
    "searched logistic": scaled(LogisticRegressionCV(**SEARCH)),
}
CASES = {"breast-cancer": tuple(ESTIMATORS), "digits-0v8": ("forest", "svc", "neighbours")}


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a data set of two classes, 0 and 1."""
    if name == "breast-cancer":
        x, y = load_breast_cancer(return_X_y=True)
        return np.asarray(x), np.asarray(y)
    x, y = map(np.asarray, load_digits(return_X_y=True))
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


def flip_errors(estimator: Any, x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """Return the mean test error with each plain flip of k rows, and with random ones ("random")."""
    found: dict[str, list[float]] = {}
    for fold, (train, test) in enumerate(StratifiedKFold(3).split(x, y)):
        ways = [
            (f"{name} {own}", rows) for own in (0, 1) for name, rows in plain_flips(x[train], y[train], own, k).items()
        ]
        draw = np.random.default_rng(fold)
        ways += [("random", draw.permutation(len(train))[:k]) for _ in range(DRAWS)]
        for name, rows in ways:
            labels = y[train].copy()
            labels[rows] = 1 - labels[rows]
            fitted: Any = clone(estimator)
            error = 1 - fitted.fit(x[train], labels).score(x[test], y[test])
            found.setdefault(name, []).append(100 * error)
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def main() -> None:
    """Print a row of the table for each data set and estimator."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", choices=list(CASES), default=list(CASES))
    options.add_argument("--estimators", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    options.add_argument("--edits", choices=["labels", "features", "both"], default="labels")
    options.add_argument("--json", type=Path, help="write the results to this file as well")
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    names = [f"{share:.1%}: {what}" for share in SHARES for what in ("winner", "worst", "plain flips", "random flips")]
    print(f"| | clean | {' | '.join(names)} | seconds |\n|{'---|' * (len(names) + 3)}")
    rows = []
    for data, name in [(case, own) for case in given.data for own in CASES[case] if own in given.estimators]:
        x, y = rows_of(data)
        began = time.perf_counter()
        curve = poisoning_curve(ESTIMATORS[name], x, y, shares=[0, *SHARES], edits=given.edits, cv=3, random_state=0)
        seconds = time.perf_counter() - began
        winner, worst = (
            (100 * (1 - scores.mean(axis=1))).tolist() for scores in (curve.test_scores, curve.worst_scores)
        )
        flips = [flip_errors(ESTIMATORS[name], x, y, int(k)) for k in curve.counts[1:]]
        cells = [f"{data}, {name}", f"{winner[0]:.1f}"]
        for ours, worse, errors in zip(winner[1:], worst[1:], flips, strict=True):
            plain = max((flip for flip in errors if flip != "random"), key=lambda flip, errors=errors: errors[flip])
            cells += [f"{ours:.1f}", f"{worse:.1f}", f"{errors[plain]:.1f} ({plain})", f"{errors['random']:.1f}"]
        print(f"| {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        rows.append(
            {
                "case": cells[0],
                "winner": winner,
                "worst": worst,
                "flips": flips,
                "seconds": seconds,
                "attack": curve.attack.tolist(),
            }
        )
    write_json(given.json, machine(), rows)


if __name__ == "__main__":
    main()
