"""Poisoning curves of scikit-learn's estimators."""

import itertools
import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_iris, make_blobs
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import mithridate as mi
from mithridate.estimators.crafting import counts_of
from mithridate.sklearn import PoisoningCurveDisplay, curves, poisoning_curve

matplotlib.use("agg")

QUICK = {"shares": (0.0, 0.1, 0.2), "steps": 10, "cv": 2, "random_state": 0}


def surrogate(m: int, classes: int = 2) -> mi.Learner:
    """Return one that compiles quickly."""
    return mi.Learner(mi.LogisticRegression(m, classes), mi.GradientDescent(0.3, 40))


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Ninety rows of two classes that only the first of twelve features tells apart."""
    centers = np.zeros((2, 12))
    centers[:, 0] = -1.5, 1.5
    return make_blobs(90, centers=centers, random_state=1)  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def options() -> dict:
    return QUICK | {"surrogate": surrogate(12), "policy": mi.Fixed(-4.0), "steps": 3, "fits": 20}


@pytest.fixture(scope="module")
def curve(blobs, options):
    return poisoning_curve(GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0, 100.0]}, cv=2), *blobs, **options)


class Spy(DummyClassifier):
    """Keep what every fit was given."""

    seen: list = []  # noqa: RUF012 (clones share it)

    def fit(self, X, y, sample_weight=None):
        Spy.seen.append((X, y))
        return super().fit(X, y)


@pytest.fixture
def spy() -> Spy:
    Spy.seen.clear()
    return Spy()


def test_a_curve_has_the_shapes_of_a_learning_curve(curve):
    assert curve.test_scores.shape == curve.baseline_scores.shape == curve.fit_times.shape == (3, 2)
    assert curve.shares == pytest.approx([0.0, 1 / 9, 0.2])
    assert curve.counts.tolist() == [0, 5, 9]
    assert (curve.worst_scores == np.minimum(curve.test_scores, curve.baseline_scores)).all()
    assert (curve.test_scores[0] == curve.baseline_scores[0]).all()
    assert set(curve.hyperparameters) == set(curve.baseline_hyperparameters) == {"C"}
    assert np.isin(curve.hyperparameters["C"], [0.01, 1.0, 100.0]).all()
    assert repr(curve).startswith("PoisoningCurve(worst score by share of poison, mean of 2 splits: 0.0%: ")
    assert curve._repr_html_().count("<tr>") == 4
    assert repr(curve.poison[0]).startswith("Poison(")


def test_the_worst_poison_harms(curve):
    assert curve.worst_scores[-1].mean() < curve.worst_scores[0].mean() - 0.1
    assert curve.attack[0].tolist() == ["none"] * 2


CAPABILITIES = list(itertools.product(["added", "replaced", "chosen"], ["labels", "features", "both"]))
QUICKLY_TESTED = [("chosen", "features"), *(pair for pair in CAPABILITIES if pair[1] == "labels")]


@pytest.mark.parametrize(
    ("budget", "edits"),
    [pytest.param(*pair, marks=() if pair in QUICKLY_TESTED else pytest.mark.slow) for pair in CAPABILITIES],
)
def test_every_capability_is_kept(blobs, options, spy, budget, edits):
    """Points are rebuilt from what the curve returns, and found again in what the estimator was fitted on."""
    X, y = blobs[0].copy(), np.array(["low", "high"])[blobs[1]]
    found = poisoning_curve(spy, X, y, **options | {"budget": budget, "edits": edits, "fits": 30})
    assert (blobs[0] == X).all()
    for (train, _), poison in zip(StratifiedKFold(2).split(X, y), found.poison, strict=True):
        low, high = X[train].min(axis=0), X[train].max(axis=0)
        assert np.abs(poison.X - np.clip(poison.X, low, high)).max(initial=0) < 1e-5
        assert (poison.rows is None) == (budget == "added")
        for part, count in zip(poison.parts, found.counts, strict=True):
            points, start, labels = poison.X[part], poison.X_start[part], poison.y[part]
            assert len(points) <= count
            if edits == "labels":
                assert (points == start).all()
            begun = (start[:, None] == X[train][None]).all(axis=2)
            if edits == "features":
                assert (y[train][begun.argmax(axis=1)] == labels).all()
            if poison.rows is None:
                assert any(len(rows) == len(train) + len(points) for rows, _ in Spy.seen)
                assert edits == "both" or begun.any(axis=1).all()
                continue
            rows = poison.rows[part]
            assert len(set(rows)) == len(rows)
            assert np.isin(rows, train).all()
            assert edits != "labels" or (X[rows] == points).all()
            assert edits != "features" or (y[rows] == labels).all()
            changed, relabelled = X.copy(), y.copy()
            changed[rows], relabelled[rows] = points, labels
            fitted = [(a, b) for a, b in Spy.seen if len(a) == len(train) and (a == changed[train]).all()]
            assert any((labels_seen == relabelled[train]).all() for _, labels_seen in fitted)


def test_rows_at_random_are_not_chosen(blobs, options):
    """Whatever the estimator, only the rows drawn are the attacker's, at every share."""
    own = options | {"budget": "replaced", "edits": "labels"}
    one, other = (poisoning_curve(model, *blobs, **own) for model in (GaussianNB(), DecisionTreeClassifier()))
    for a, b in zip(one.poison, other.poison, strict=True):
        assert a.rows is not None
        assert b.rows is not None
        assert len(set(a.rows) | set(b.rows)) <= one.counts[-1]


def flips(X: np.ndarray, y: np.ndarray, own: int, k: int) -> list[np.ndarray]:
    """Return the k most confident rows of a class and its tightest ball, by plain scikit-learn."""
    seen, rows = StandardScaler().fit_transform(X), np.flatnonzero(y == own)
    sure = LogisticRegression(max_iter=1000).fit(seen, y).predict_proba(seen)[rows, own]
    distances, _ = NearestNeighbors(n_neighbors=k).fit(seen[rows]).kneighbors()
    ball = (
        NearestNeighbors(n_neighbors=k)
        .fit(seen[rows])
        .kneighbors(seen[rows][[distances[:, -1].argmin()]], return_distance=False)
    )
    return [rows[np.argsort(-sure)[:k]], rows[ball[0]]]


VICTIMS: dict[str, Any] = {
    "neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier()),
    "svc": make_pipeline(StandardScaler(), SVC()),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}


@pytest.mark.parametrize(
    "name", ["svc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("neighbours", "logistic"))]
)
def test_no_plain_flip_of_the_same_budget_harms_more(name):
    X, y = map(np.asarray, load_breast_cancer(return_X_y=True))
    own: Any = {"shares": (0.167,), "cv": 3, "random_state": 0, "edits": "labels", "fits": 150}
    curve = poisoning_curve(VICTIMS[name], X, y, **own)
    harm: dict[tuple[int, int], list[float]] = {}
    for train, test in StratifiedKFold(3).split(X, y):
        for label in (0, 1):
            for kind, rows in enumerate(flips(X[train], y[train], label, int(curve.counts[0]))):
                labels = y[train].copy()
                labels[rows] = 1 - label
                fitted: Any = clone(VICTIMS[name])
                score = fitted.fit(X[train], labels).score(X[test], y[test])
                harm.setdefault((label, kind), []).append(score)
    assert curve.worst_scores.mean() <= min(np.mean(scores) for scores in harm.values())
    assert curve.worst_scores.mean() < 0.8


def test_the_test_fold_plays_no_part_in_the_attack(blobs, options):
    X, y = blobs
    (train, test) = next(StratifiedKFold(2).split(X, y))
    changed = X.copy()
    changed[test] += 100.0
    one, other = (poisoning_curve(DummyClassifier(), x, y, **options | {"cv": [(train, test)]}) for x in (X, changed))
    assert (one.poison[0].X == other.poison[0].X).all()


@pytest.mark.slow
def test_results_do_not_depend_on_n_jobs(blobs, options, curve):
    again = poisoning_curve(
        GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0, 100.0]}, cv=2), *blobs, **options | {"n_jobs": 2}
    )
    assert (again.test_scores == curve.test_scores).all()
    assert all((a.X == b.X).all() for a, b in zip(again.poison, curve.poison, strict=True))


@pytest.mark.parametrize("make", [csr_array, pytest.param(csr_matrix, marks=pytest.mark.slow)])
def test_sparse_rows_stay_sparse(blobs, options, spy, make):
    X, y = blobs
    dense = poisoning_curve(DummyClassifier(), X, y, **options)
    found = poisoning_curve(spy, make(X), y, **options)
    assert isinstance(found.poison[0].X, make)
    assert all(isinstance(rows, make) for rows, _ in Spy.seen)
    assert found.poison[0].X.toarray() == pytest.approx(dense.poison[0].X)


def test_a_frame_is_poisoned_in_its_own_columns(rng):
    n = 90
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 80, n),
            "pressure": rng.normal(120, 15, n),
            "smoker": rng.random(n) < 0.4,
            "town": rng.choice(["north", "south", "east"], n),
        },
        index=np.arange(n) + 100,
    )
    ill = (frame["age"] - 50) / 10 + (frame["pressure"] - 120) / 20 + frame["smoker"]
    labels = pd.cut(ill, [-np.inf, -0.5, 1.0, np.inf], labels=["well", "ill", "dead"]).astype(str)
    seen = []

    def watched(rows: pd.DataFrame) -> pd.DataFrame:
        seen.append(rows)
        return rows

    columns = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    estimator = make_pipeline(FunctionTransformer(watched), columns, StandardScaler(), GaussianNB())
    own = QUICK | {
        "surrogate": surrogate(6, 3),
        "policy": mi.Fixed(-4.0),
        "shares": (0.2,),
        "steps": 3,
        "fits": 20,
    }
    found = poisoning_curve(estimator, frame, labels, **own)
    for rows in seen + [poison.X for poison in found.poison]:
        assert (rows.dtypes == frame.dtypes).all()
        assert rows["age"].between(20, 79).all()
        assert set(rows["town"]) <= {"north", "south", "east"}
    assert not all(rows["pressure"].isin(frame["pressure"]).all() for rows in seen)  # features were moved
    assert {label for poison in found.poison for label in poison.y} <= {"well", "ill", "dead"}


def test_the_same_random_state_gives_the_same_poison_and_another_does_not(blobs, options):
    found = [
        poisoning_curve(GaussianNB(), *blobs, **options | {"edits": "labels", "random_state": state}).poison
        for state in (0, 0, np.random.RandomState(5))
    ]
    one, again, other = ([(np.asarray(part.rows), part.X) for part in poison] for poison in found)
    assert all((a == b).all() and (x == z).all() for (a, x), (b, z) in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


def test_whole_numbers_stay_whole_and_bounds_are_kept(blobs, options):
    X = np.rint(10 * blobs[0]).astype(np.int16)
    found = poisoning_curve(DummyClassifier(), X, blobs[1], **options | {"feasible": ([-5] + 11 * [-50], 12)})
    points = found.poison[0].X
    assert points.dtype == np.int16
    assert points[:, 0].min() >= -5
    assert points.max() <= 12


@pytest.mark.slow
def test_three_classes_with_labels_of_any_kind():
    X, y = load_iris(return_X_y=True)
    own = QUICK | {
        "surrogate": surrogate(4, 3),
        "policy": mi.Fixed(-4.0),
        "shares": (0.2,),
        "steps": 3,
        "fits": 20,
        "cv": 2,
    }
    found = poisoning_curve(GaussianNB(), X, 10.0 * y, **own)
    assert {label for poison in found.poison for label in poison.y} <= {0.0, 10.0, 20.0}
    assert found.worst_scores.mean() < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_surrogates_by_name(blobs, kind):
    own = QUICK | {"surrogate": kind, "shares": (0.0, 0.2), "cv": 2, "policy": mi.Fixed(-1.0)}
    found = poisoning_curve(LogisticRegression(), *blobs, **own)
    assert found.test_scores[-1].mean() < found.test_scores[0].mean() - 0.05


def test_shares_are_rounded_up_to_points_and_batches():
    for n, shares in itertools.product((101, 356), ((0.0, 0.05, 0.1, 0.166), (0.01, 0.3), (0.2,))):
        for budget in ("replaced", "added"):
            counts, batch = counts_of(shares, n, budget, n)
            for share, count in zip(shares, counts, strict=True):
                wanted = n * share / (1 - share if budget == "added" else 1)
                assert wanted - 1e-6 <= count < 1.05 * (wanted + 1)
                assert count % batch == 0 or count == counts[-1]


MISTAKES = {
    "shares = .*rise": {"shares": (0.1, 0.05)},
    "shares = .*below 0.5": {"shares": (0.5,)},
    "not be 0 alone": {"shares": (0.0,)},
    "give numbers": {"shares": "many"},
    "half of the rows": {"shares": (0.49,)},
    "surrogate = 'forest'": {"surrogate": "forest"},
    "budget = 'choosen': use added, replaced, chosen; did you mean chosen": {"budget": "choosen"},
    "edits = 'rows': use both, labels, features": {"edits": "rows"},
    "fits = 0": {"fits": 0},
    "one for each of 12 columns": {"feasible": ([0, 0, 0], 1)},
    "low must not lie above high": {"feasible": (1, 0)},
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_named(blobs, options, said):
    with pytest.raises(mi.InputError, match=said):
        poisoning_curve(DummyClassifier(), *blobs, **options | MISTAKES[said])


class Failing(DummyClassifier):
    """An estimator that cannot be fitted."""

    def fit(self, X, y, sample_weight=None):
        raise ValueError("no luck")


def test_an_estimator_that_cannot_be_used_is_found_before_anything_is_crafted(blobs, options, monkeypatch):
    monkeypatch.setattr(curves, "search", None)
    with pytest.raises(mi.InputError, match="it has no predict; give a classifier"):
        poisoning_curve(StandardScaler(), *blobs, **options)
    with pytest.raises(mi.InputError, match="fit on the clean rows of the first split failed: ValueError: no luck"):
        poisoning_curve(Failing(), *blobs, **options)


def test_labels_and_rows_that_cannot_be_used(blobs, options):
    X, y = blobs
    for labels, said in ((y + 0.5 * (X[:, 0] > 0), "continuous"), (0 * y, "two or more"), (y[:-1], "one label for")):
        with pytest.raises(mi.InputError, match=said):
            poisoning_curve(DummyClassifier(), X, labels, **options)
    with pytest.raises(mi.InputError, match="rows of numbers"):
        poisoning_curve(DummyClassifier(), [["a"]] * 4, [0, 1] * 2, **options)
    rare = np.where(np.arange(90) == 0, 2, y)
    with pytest.raises(mi.InputError, match="use fewer folds"), pytest.warns(UserWarning, match="least populated"):
        poisoning_curve(DummyClassifier(), X, rare, **options)


@pytest.mark.parametrize("style", ["fill_between", "errorbar", None])
def test_the_display_draws_what_it_stores(curve, style):
    display = PoisoningCurveDisplay(
        shares=curve.shares, test_scores=curve.test_scores, baseline_scores=curve.baseline_scores
    )
    assert display.plot(std_display_style=style) is display
    drawn = display.errorbar_ if style == "errorbar" else display.lines_
    assert drawn is not None
    lines = [line[0] if style == "errorbar" else line for line in drawn]
    for line, scores in zip(lines, (curve.worst_scores, curve.test_scores, curve.baseline_scores), strict=True):
        assert line.get_ydata() == pytest.approx(scores.mean(axis=1))
        assert line.get_xdata() == pytest.approx(100 * curve.shares)
    assert (display.fill_between_ is None) == (style != "fill_between")
    assert display.figure_ is display.ax_.figure
    with pytest.raises(mi.InputError, match="std_display_style"):
        display.plot(std_display_style="bars")


def test_from_estimator_names_the_score_and_draws_the_hyperparameters(blobs, options):
    estimator = GridSearchCV(SVC(), {"C": [0.01, 1.0, 100.0], "kernel": ["linear", "rbf"]})
    options = options | {"edits": "labels", "shares": (0.0, 0.2), "cv": 2}
    display = PoisoningCurveDisplay.from_estimator(estimator, *blobs, scoring="balanced_accuracy", **options)
    assert display.ax_.get_ylabel() == "Balanced accuracy"
    assert [len(drawn or ()) for drawn in (display.lines_, display.fill_between_)] == [3, 3]
    display.plot_hyperparameters()
    assert [axis.get_ylabel() for axis in display.axes_] == ["C", "kernel"]
    assert {text.get_text() for text in display.axes_[1].get_yticklabels()} <= {"linear", "rbf"}
    with pytest.raises(mi.InputError, match="axes: 1 for 2"):
        display.plot_hyperparameters([display.ax_])


def test_without_tuning_there_is_nothing_to_draw(curve):
    display = PoisoningCurveDisplay(
        shares=curve.shares, test_scores=curve.test_scores, baseline_scores=curve.baseline_scores
    )
    with pytest.raises(mi.InputError, match="tunes none"):
        display.plot_hyperparameters()


def test_the_package_itself_imports_none_of_its_faces_to_other_libraries():
    found = "{'mithridate.sklearn', 'mithridate.art', 'mithridate.mlflow', 'art', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import mithridate, sys; sys.exit(bool({found}))"], check=True)
