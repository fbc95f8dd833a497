"""The portfolio against label flips by plain scikit-learn, and what it may and may not do."""

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import mithridate as mi
from mithridate.data.datasets import Dataset

SPLITS = 2
BUDGETS = ("added", "replaced", "chosen")
STRENGTHS = np.linspace(-6, np.log(200), 7)
SMALL = {"splits": SPLITS, "victim": "exact", "batch": 22, "hyperiterations": 40, "joint_hyperiterations": 40}


def fitted(x: np.ndarray, y: np.ndarray, log_strength: float) -> LogisticRegression:
    return LogisticRegression(C=float(np.exp(-log_strength)), tol=1e-6, max_iter=5_000).fit(x, y)


def answered(x: np.ndarray, y: np.ndarray, valid: tuple[np.ndarray, np.ndarray]) -> LogisticRegression:
    """Return the model with the λ of a grid that has the least validation loss, the smallest of those that tie."""

    def loss(model: LogisticRegression) -> float:
        margins = (2 * valid[1] - 1) * model.decision_function(valid[0])
        return float(np.mean(np.logaddexp(0, -margins)))

    return min((fitted(x, y, s) for s in STRENGTHS), key=loss)


def confident_flips(name: str, policy: str, k: int, splits: int = SPLITS) -> float:
    """Return the mean error after the k surest rows of a class are relabelled, of the class that does more harm."""
    errors = []
    for index in range(splits):
        split = mi.load_dataset(name).split(seed=0, index=index, train=128, valid=128)
        x, y = split.x_train.astype(float), split.y_train
        clean = fitted(x, y, 0.0)
        own = []
        for label in (0, 1):
            rows = np.flatnonzero(y == label)
            surest = rows[np.argsort(-np.abs(clean.decision_function(x[rows])))][:k]
            poisoned = y.copy()
            poisoned[surest] = 1 - label
            valid = split.x_valid.astype(float), split.y_valid
            model = fitted(x, poisoned, 0.0) if policy == "fixed=0" else answered(x, poisoned, valid)
            own.append(np.mean(model.predict(split.x_test) != split.y_test))
        errors.append(own)
    return float(np.mean(errors, axis=0).max())


def reported(result: mi.AuditResult, policy: str) -> float:
    last = result.frame[(result.frame["n_poison"] == 22) & (result.frame["policy"] == policy)]
    return float(last["test_error"].mean())


FEW: dict[str, Any] = {"splits": 1, "hyperiterations": 5}


@pytest.mark.parametrize(
    ("name", "policies", "fewer"),
    [
        ("breast-cancer", ("fixed=0",), FEW),
        pytest.param("breast-cancer", ("fixed=0", "learned"), {}, marks=pytest.mark.slow),
        pytest.param("digits-0v8", ("fixed=0", "learned"), {}, marks=pytest.mark.slow),
    ],
)
def test_no_flip_of_the_surest_rows_does_more(name, policies, fewer):
    """And scikit-learn, trained on the stored points, has the errors that are recorded."""
    options: dict[str, Any] = SMALL | fewer
    result = mi.audit(name, policies=policies, **options)
    for policy in policies:
        assert reported(result, policy) > confident_flips(name, policy, 22, options["splits"])
    row: Any
    for row in result.frame.itertuples():
        split = mi.load_dataset(name).split(seed=0, index=row.split, train=128, valid=128)
        arrays, x, y = result.poison[row.split, row.policy], split.x_train.astype(float), split.y_train.copy()
        end = "_0" if not row.n_poison else ""
        x[arrays[f"replaced{end}"]], y[arrays[f"replaced{end}"]] = arrays[f"x_poison{end}"], arrays[f"y_poison{end}"]
        wrong: Any = fitted(x, y, row.log_strength).predict(split.x_test) != split.y_test
        assert np.mean(wrong) == pytest.approx(row.test_error, abs=1.5 / len(wrong))


def test_of_labels_alone_none_does_more(breast_cancer_labels):
    assert reported(breast_cancer_labels, "learned") >= confident_flips("breast-cancer", "learned", 22, 1) - 0.01


@pytest.fixture(scope="module")
def breast_cancer_labels() -> mi.AuditResult:
    return mi.audit("breast-cancer", policies=("learned",), edits="labels", **SMALL | FEW)


def test_the_record_is_never_below_a_candidate_and_names_it(breast_cancer_labels):
    found = breast_cancer_labels.candidates[breast_cancer_labels.candidates["n_poison"] > 0]
    best = found.groupby("split")["target_success"].max()
    own = breast_cancer_labels.frame[breast_cancer_labels.frame["n_poison"] > 0].set_index("split")
    np.testing.assert_array_equal(own["target_success"], best[own.index])
    assert set(own["attack"]) <= {"class flips", "influence flips", "kernel flips", "ALFA", "random flips"}
    assert set(found["attack"]) == {"class flips", "influence flips", "kernel flips", "ALFA", "random flips"}
    assert not own["begun"].eq("").any()


def small_attack(seed: int, **options: Any) -> tuple[mi.Portfolio, np.ndarray, np.ndarray]:
    """Return an attack on a random small data set, of two or three classes, and its training rows."""
    draw = np.random.default_rng(seed)
    classes, m = 2 + seed % 2, 3  # few shapes, so that what is compiled for one serves others
    centres = draw.normal(size=(classes, m)) * 2

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % classes
        return np.clip(centres[y] + draw.normal(size=(n, m)), -5, 5), y

    x, y = rows(30)
    learner = mi.Learner(mi.LogisticRegression(m, classes), mi.GradientDescent(0.3, 30))
    setting = {
        "learner": learner,
        "target": rows(24),
        "feasible": mi.Box(-5.0, 5.0),
        "points": 6,
        "batch": 3,
        "steps": 4,
    }
    return mi.Portfolio(**setting, rounds=2, seed=seed, **options), x, y


REST = [("added", "both"), ("replaced", "both"), ("replaced", "labels"), ("chosen", "labels")]
REST += [("added", "features"), ("chosen", "features"), ("added", "labels")]
SEEDS = {pair: seed for seed, pair in enumerate(itertools.product(BUDGETS, ("both", "labels", "features")))}


@pytest.mark.parametrize(
    ("budget", "edits"),
    [
        *[("chosen", "both"), ("replaced", "features")],
        *[pytest.param(*pair, marks=pytest.mark.slow) for pair in REST],
    ],
)
def test_budgets_hold(budget, edits):
    """As many rows as allowed, features untouched where labels change, labels where features do; inputs stay."""
    seed = SEEDS[budget, edits]
    policy = mi.Learned() if seed % 2 else mi.Fixed(-1.0)
    attack, x, y = small_attack(seed, budget=budget, edits=edits, policy=policy)
    before = x.copy(), y.copy()
    last: Any
    *_, last = attack.run(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert len(last.y_poison) == 6
    assert np.abs(last.x_poison).max() <= 5
    if budget == "added":
        assert last.replaced is None
        if edits == "labels":
            assert all(np.isclose(x, row, atol=1e-6).all(axis=1).any() for row in last.x_poison)
        return
    assert len(set(last.replaced)) == 6
    if edits == "labels":
        np.testing.assert_allclose(last.x_poison, x[last.replaced], rtol=1e-6)
    if edits == "features":
        np.testing.assert_array_equal(last.y_poison, y[last.replaced])
    worst = max(batch.success for batch in (last.batches[-1], *last.others))
    assert last.batches[-1].success == worst


def test_rows_at_random_are_drawn_once():
    """Whichever candidate wins, its points stand in the same rows."""
    attack, x, y = small_attack(2, budget="replaced", policy=mi.Fixed(-1.0))
    *_, last = attack.run(x, y)
    assert len(last.others) > 2
    places = {tuple(sorted(batch.places)) for batch in (last.batches[-1], *last.others)}
    assert len(places) == 1


def test_an_attack_goes_on_between_rounds_to_the_bit():
    attack, x, y = small_attack(0, budget="chosen", policy=mi.Learned())
    stages: list[Any] = list(attack.stages(x, y))
    ends = [at for at, stage in enumerate(stages) if not isinstance(stage, tuple)]
    whole, before = stages[ends[-1]], stages[ends[-2]]
    for at in (ends[-2] + 2, ends[-1] - 1):
        again: Any
        *_, again = attack.stages(x, y, done=before.batches, midways=stages[at])
        np.testing.assert_array_equal(again.x_poison, whole.x_poison)
        assert again.batches[-1].begun == whole.batches[-1].begun


def test_test_rows_have_no_part(monkeypatch):
    """With other test labels the same points come out."""
    found, split_of = [], Dataset.split
    for scrambled in (False, True):
        with monkeypatch.context() as patch:

            def split(self: Any, *given: Any, scrambled: bool = scrambled, **named: Any) -> Any:
                own = split_of(self, *given, **named)
                if scrambled:
                    own.y_test[:] = 1 - own.y_test
                return own

            patch.setattr(Dataset, "split", split)
            result = mi.audit(
                "digits-0v8",
                splits=1,
                policies=("fixed=0",),
                points=6,
                batch=6,
                train=40,
                valid=40,
                hyperiterations=10,
                inner_steps=50,
                epochs=20,
            )
            found.append(result.poison[0, "fixed=0"]["x_poison"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attack": "flips", "edits": "features"}, "there is no label to flip"),
        ({"attack": "bilevel", "edits": "labels"}, "Algorithm 1 moves features"),
        ({"budget": "picked"}, "budget = 'picked'"),
        ({"edits": "rows"}, "edits = 'rows'"),
        ({"attack": "portfolios"}, "did you mean portfolio?"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(mi.InputError, match=said.replace("?", r"\?")):
        mi.AuditConfig.of(dataset="wine", **options)
