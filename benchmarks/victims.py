"""What an audit of estimators finds for the short list, beside the cheapest rivals in plain scikit-learn.

    python benchmarks/victims.py [--data digits-0v8 …] [--estimators svc …] [--budgets chosen replaced] [--json FILE]

Test error in %, the mean over splits, clean and at each share of poison. The audit's is that of the attack that harms
most on the rows that the attacker sees; test rows choose nothing. The rivals flip as many labels of the same training
rows, and fit the same estimator with its own search: random rows, and the rows of one class of which a logistic
regression is surest, for each class. If rows are drawn, they flip labels of drawn rows. `worst` is the better of the
two classes in hindsight, by the mean over splits, which no attacker can know.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common import machine, write_json
from mithridate.auditing.audit import audit
from mithridate.auditing.refits import Refits
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import ESTIMATORS
from mithridate.data.catalogue import load_dataset

POINTS, BATCH = 21, 7
"""Of 128 training rows: 5.5, 10.9 and 16.4 %."""


def rivals(estimator: Any, x: np.ndarray, y: np.ndarray, drawn: np.ndarray, k: int, seed: int) -> dict[str, np.ndarray]:
    """Return the labels that each rival trains on, at most k of the rows `drawn` being flipped."""
    sure = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).predict_proba(x)
    found = {"random": np.random.default_rng(seed).permutation(drawn)[:k]}
    for label in (0, 1):
        own = drawn[y[drawn] == label]
        found[f"class {label}"] = own[np.argsort(-sure[own, label], kind="stable")][:k]
    flipped = {}
    for name, rows in found.items():
        labels = y.copy()
        labels[rows] = 1 - labels[rows]
        flipped[name] = labels
    return flipped


def case(name: str, estimator: str, budget: str, splits: int, policy: str) -> dict[str, Any]:
    """Return what the audit and the rivals come to."""
    data = load_dataset(name)
    config = AuditConfig.of(
        dataset=name,
        estimators=(estimator,),
        policies=(policy,),
        splits=splits,
        points=POINTS,
        batch=BATCH,
        budget=budget,
    )
    began = time.perf_counter()
    result = audit(data, config)
    seconds = time.perf_counter() - began
    frame = result.frame
    work, found = Refits(data, config), {}
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for index in range(splits):
            fitting = work.fitting(index, 0)
            fold, test = fitting.scene.fold, fitting.scene.test
            for k in work.counts:
                drawn = fold.drawn[:k] if budget == "replaced" else np.arange(len(fold.labels))
                for rival, labels in rivals(estimator, fold.raw, fold.labels, drawn, k, index).items():
                    own: Any = clone(fitting.victim.fitted_for(fitting.clean))
                    wrong = own.fit(fold.cells, fold.classes[labels]).predict(test.cells) != fold.classes[test.labels]
                    found.setdefault((rival, k), []).append(float(np.mean(wrong)))
    by_count = frame.groupby("n_poison")
    kinds = result.candidates.groupby(["n_poison", "attack"])["test_error"].mean()
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    return {
        "data": name,
        "estimator": estimator,
        "policy": policy,
        "budget": budget,
        "splits": splits,
        "error": by_count["test_error"].mean().tolist(),
        "deviation": by_count["test_error"].std().tolist(),
        "winners": {str(k): rows["attack"].value_counts().to_dict() for k, rows in by_count},
        "random": [mean["random", k] for k in work.counts],
        "sure": [max(mean["class 0", k], mean["class 1", k]) for k in work.counts],
        "transfer": [float(kinds.get((k, "transfer"), np.nan)) for k in work.counts],
        "fits": int(frame["fits"].sum() / splits),
        "seconds": seconds / splits,
        "tuned": {str(k): rows["tuned"].tolist() for k, rows in by_count},
    }


def main() -> None:
    """Run the cases that are asked for, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=["breast-cancer", "digits-0v8"])
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS[:8]))
    parser.add_argument("--budgets", nargs="+", default=["chosen", "replaced"])
    parser.add_argument("--policy", default="searched")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print(where := machine())
    rows = []
    for name in asked.data:
        for budget in asked.budgets:
            for estimator in asked.estimators:
                rows.append(one := case(name, estimator, budget, asked.splits, asked.policy))
                parts = (
                    " / ".join(f"{100 * value:.1f}" for value in one[key])
                    for key in ("error", "random", "sure", "transfer")
                )
                print(f"{name:14}{budget:9}{estimator:23}" + "  |  ".join(parts), end="")
                print(f"  |  {one['fits']} fits, {one['seconds']:.0f} s a split; {one['winners']['21']}", flush=True)
                write_json(asked.json, where, rows)


if __name__ == "__main__":
    main()
