"""Audits of estimators: a plain fit on the stored poison gives what is recorded, and what was stopped goes on."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mithridate as mi
from mithridate.auditing.refits import Refits
from mithridate.configuration.parts import ESTIMATORS
from mithridate.data.sources import prepared
from mithridate.estimators.named import SHORT, estimator_of
from mithridate.estimators.rows import Table
from mithridate.estimators.victims import searches, victims_of
from mithridate.planning import plan_refits
from mithridate.results import tuned
from mithridate.results.report import render
from mithridate.results.report.command import command
from patients import patients

CELLS = ["radius [mm]", "nodes", "born", "texture"]
SMALL: dict[str, Any] = {"splits": 1, "train": 80, "valid": 60, "points": 8, "batch": 4, "edits": "labels", "fits": 44}


def pipeline(model: Any) -> Any:
    """An estimator for `patients`, empty cells and texts included."""
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    parts = [("numbers", make_pipeline(SimpleImputer(), StandardScaler()), CELLS), ("texts", texts, ["ward"])]
    return make_pipeline(ColumnTransformer(parts, sparse_threshold=0), model)


def searched() -> GridSearchCV:
    """The same with a search around it."""
    return GridSearchCV(pipeline(GaussianNB()), {"gaussiannb__var_smoothing": [1e-9, 0.1]}, cv=2)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A table with empty cells, as pandas reads it from a file; booleans that are empty are left out."""
    text = patients(320, empty=0.05).drop(columns="smoker").to_csv(index=False)
    return pd.read_csv(io.StringIO(text))


@pytest.fixture(scope="module")
def run(table, tmp_path_factory) -> Path:
    """A run directory: one estimator, its search on poisoned and on clean rows."""
    out = tmp_path_factory.mktemp("run") / "run"
    found = mi.audit(table, target="diagnosis", estimators=(searched(),), out=out, **SMALL)
    assert found.status != "failed"
    return out


def test_a_plain_fit_on_the_stored_rows_gives_what_is_recorded(run, table):
    result = mi.load_result(run)
    at = result.frame["n_poison"] == 8
    assert list(result.frame["policy"].unique()) == ["GridSearchCV, searched", "GridSearchCV, searched-clean"]
    arrays = result.poison[0, "GridSearchCV, searched"]
    features, labels = table.drop(columns="diagnosis"), table["diagnosis"]
    train, test = arrays["train_rows"], arrays["test_rows"]
    poison = pd.read_csv(run / "poison" / "split0-GridSearchCV_searched.csv")
    assert poison["poison_contribution"].notna().all()
    assert (poison["diagnosis"].to_numpy() != labels.iloc[arrays["replaced_rows"]].to_numpy()).all()
    own = labels.iloc[train].to_numpy().copy()
    own[arrays["replaced"]] = poison["diagnosis"]
    fitted = searched().fit(features.iloc[train], own)
    record = result.frame[at & (result.frame["policy"] == "GridSearchCV, searched")].iloc[0]
    wrong = fitted.predict(features.iloc[test]) != labels.iloc[test]
    assert record["test_error"] == pytest.approx(wrong.mean(), abs=1e-12)
    assert tuned.found(record["tuned"]) == {k: float(v) for k, v in fitted.best_params_.items()}
    # What was found on clean rows is kept.
    fixed = result.frame[result.frame["policy"] == "GridSearchCV, searched-clean"]["tuned"]
    assert len(set(fixed)) == 1


def test_a_result_says_what_was_done_to_whom(run):
    result = mi.load_result(run)
    frame, page = result.frame, render([result])
    assert (frame["fits"][frame["n_poison"] > 0] > 22).all()
    assert frame["attack"].iloc[-1] in ("class flips", "grown flips", "random flips", "thinned flips")
    assert {"random flips"} <= set(result.candidates["attack"])
    assert re.search(r"fitting the estimator again, at most \d+ times in a split", result.threat_model["attack"])
    assert "How the defenders set hyperparameters" in page
    assert "‖w‖²" not in page
    assert "hyperparameters" in result.plot()
    assert "λ" not in tuned.ends(frame[frame["policy"] == "GridSearchCV, searched"])
    assert "other estimators (--estimator)" in result.advice[-1]
    assert "regularisation" not in json.dumps(result.summary()["advice"])


def test_what_was_stopped_between_two_fits_comes_to_the_same(run, table, tmp_path):
    asked = iter([False] * 7)
    options = {"target": "diagnosis", "estimators": (searched(),), "out": tmp_path / "again", **SMALL}
    with pytest.raises(mi.Interrupted):
        mi.audit(table, stop=lambda: next(asked, True), **options)
    assert list((tmp_path / "again" / "cells").glob("*midway*"))
    found, whole = mi.audit(table, **options), mi.load_result(run)
    for name in ("frame", "candidates"):
        own, other = (getattr(one, name).drop(columns="seconds") for one in (found, whole))
        pd.testing.assert_frame_equal(own, other)
    for at, arrays in whole.poison.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.poison[at][name], array)


@pytest.mark.parametrize(
    ("budget", "edits"), [("chosen", "both"), ("replaced", "both"), ("replaced", "labels"), ("added", "features")]
)
def test_every_capability_is_kept(budget, edits, monkeypatch):
    monkeypatch.setattr("mithridate.estimators.search.craft", lambda fold, plan, begun: [])
    data = mi.dataset_of(
        patients(200), "diagnosis", feasible=["born=1930:1960", "ward=east|west"], rule=["nodes < born"]
    )
    options = SMALL | {"budget": budget, "edits": edits, "points": 12, "batch": 12, "fits": 30}
    estimator = pipeline(GaussianNB())
    result = mi.audit(data, estimators=(estimator,), **options)
    arrays, (before, after) = result.poison[0, "Pipeline, as-is"], result.rows[0, "Pipeline, as-is"]
    assert len(after) <= 12
    assert set(result.candidates["n_poison"]) == {0, 12}, "a way to flip that has fewer rows is of the same share"
    place = arrays["replaced"]
    assert len(place) == (0 if budget == "added" else len(after))
    if budget == "replaced":
        drawn = np.random.default_rng((Refits(*prepared(data, result_config(result), {})).scene(0).seed, 1))
        assert set(place) <= set(drawn.permutation(80)[:12])
    if edits == "labels":
        pd.testing.assert_frame_equal(before.drop(columns="diagnosis"), after.drop(columns="diagnosis"))
    else:
        moved_rows = after[(before.drop(columns="diagnosis") != after.drop(columns="diagnosis")).any(axis=1)]
        assert moved_rows["born"].between(1930, 1960).all()
        assert set(moved_rows["ward"]) <= {"east", "west"}
    if edits == "features":
        assert (before["diagnosis"] == after["diagnosis"]).all()


def result_config(result: mi.AuditResult) -> mi.AuditConfig:
    """The configuration of a result, its estimators as they were given."""
    estimator = pipeline(GaussianNB())
    return mi.AuditConfig.of(**result.config | {"estimators": (estimator,)})


def test_flips_that_look_plain_do_no_more_harm():
    data = mi.load_dataset("breast-cancer")
    options = {
        "estimators": ("knn",),
        "policies": ("as-is",),
        "splits": 2,
        "points": 21,
        "batch": 21,
        "edits": "labels",
    }
    result = mi.audit(data, **options)
    work, rivals = Refits(*prepared(data, None, options)), {"0": [], "1": [], "random": []}
    for index in range(2):
        scene = work.scene(index)
        fold, test = scene.fold, scene.test
        sure = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(fold.raw, fold.labels)
        for name, errors in rivals.items():
            own = np.flatnonzero(fold.labels == int(name)) if name != "random" else np.arange(128)
            order = np.argsort(-sure.predict_proba(fold.raw[own])[:, int(name)]) if name != "random" else own
            rows = own[order][:21] if name != "random" else np.random.default_rng(index).permutation(own)[:21]
            labels = fold.labels.copy()
            labels[rows] = 1 - labels[rows]
            rival = make_pipeline(StandardScaler(), GaussianNB()).fit(fold.raw, labels)
            errors.append((rival.predict(test.cells) != test.labels).mean())
    error = result.frame[result.frame["n_poison"] == 21]["test_error"].mean()
    assert error > max(map(np.mean, rivals.values()))


def test_the_plan_counts_the_fits(table):
    options = {"target": "diagnosis", "estimators": (searched(),), "policies": ("searched",), **SMALL}
    found, result = plan_refits(*prepared(table, None, dict(options))), mi.audit(table, **options)
    done = result.frame["fits"].sum()
    assert done <= found.victims[0].fits + found.victims[0].searches <= 1.5 * done
    assert (found.cells, found.crafted, found.compiling) == (3, 0, 0.0)


class Stubborn(ClassifierMixin, BaseEstimator):
    """A classifier that takes no labels but 0, 1, … and has neither probabilities nor a decision."""

    def fit(self, X, y):
        if np.asarray(y).dtype.kind not in "iu":
            raise ValueError("labels must be 0, 1, …")
        self.inner_ = RidgeClassifier().fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, X):
        return self.inner_.predict(X)


def test_an_estimator_that_takes_numbers_as_labels_gets_them():
    options = {"target": "diagnosis", "estimators": (pipeline(Stubborn()),), "points": 4, "batch": 4}
    work = Refits(*prepared(patients(200), None, SMALL | options))
    assert work.fitting(0, 0).scene.fold.classes.tolist() == [0, 1]
    assert np.isnan(work.fitting(0, 0).nothing().measures.valid_loss)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"estimators": ("random-forrest",)}, "estimator = 'random-forrest'.*did you mean random-forest"),
        ({"estimators": ("model.pkl",)}, "a stored model is fitted already.*name the code that makes it"),
        ({"estimators": ("pipe.py",)}, "say what in the file it is, as pipe.py:pipeline"),
        ({"estimators": ("nowhere.py:it",)}, "there is no file nowhere.py"),
        ({"estimators": (7,)}, "estimator = 7: use a name"),
        ({"estimators": ("knn", "knn")}, "'knn, searched' is audited twice"),
        ({"estimators": ("knn",), "loss": "squared"}, "loss = 'squared': with estimator"),
        ({"estimators": ("knn",), "defences": ["sphere=5%"]}, "defences = .*with estimator"),
        ({"estimators": ("knn",), "policies": ("learned",)}, "policy = 'learned': use as-is, searched, searched-clean"),
        ({"estimators": ("knn",), "objective": "rows x.csv"}, "objective = rows x.csv: not with estimator"),
        ({"estimators": ("knn",), "execution": "batched"}, "an estimator runs on no accelerator"),
        ({"policies": ("as-is",), "fits": None}, "policy = as-is: only with estimator"),
        ({"fits": 100}, "fits = 100: only with estimator"),
        ({"missing": "keep", "fits": None}, "missing = 'keep': only with estimator"),
        ({"estimators": ("knn",), "fits": 1}, "fits = 1"),
        ({"estimators": (GaussianNB(),)}, "could not convert string.*OneHotEncoder"),
        ({"estimators": (pipeline(LinearRegression()),)}, "it is a regressor"),
        (
            {"estimators": (pipeline(RidgeClassifier()),), "policies": ("searched",)},
            "has no search of its own; use as-is",
        ),
        ({"estimators": (object(),)}, "object has no fit"),
        ({"estimators": ("knn",), "surrogates": ("tree",)}, "surrogates = 'tree': use logistic, mlp"),
        ({"estimators": (lambda: 3,)}, "int has no fit"),
        (
            {"estimators": (pipeline(Stubborn()),), "score": "one-minus-auc"},
            "neither predict_proba nor decision_function",
        ),
    ],
)
def test_a_mistake_is_named(options, said):
    with pytest.raises(mi.InputError, match=said):
        mi.audit(patients(200), target="diagnosis", **SMALL | {"budget": "chosen"} | options)


def test_empty_cells_and_few_rows_are_named(table):
    search = GridSearchCV(pipeline(GaussianNB()), {"gaussiannb__var_smoothing": [1e-9]}, cv=StratifiedKFold(50))
    with pytest.raises(mi.InputError, match="its search holds out 50 folds, and a class has"):
        mi.audit(table, target="diagnosis", estimators=(search,), **SMALL)
    numbers = table[[*CELLS, "diagnosis"]]
    with pytest.raises(mi.InputError, match=r"NaN.*SimpleImputer before it"):
        mi.audit(numbers, target="diagnosis", estimators=(LogisticRegression(),), **SMALL)


def test_an_estimator_in_a_file_is_found_and_told_again(tmp_path, monkeypatch):
    (tmp_path / "own_pipe.py").write_text(
        "from sklearn.naive_bayes import GaussianNB\nmodel = GaussianNB()\n\n\ndef make():\n    return GaussianNB()\n"
    )
    monkeypatch.chdir(tmp_path)
    for part in ("own_pipe.py:model", f"{tmp_path}/own_pipe.py:make"):
        assert isinstance(estimator_of(part, None), GaussianNB)
    with pytest.raises(mi.InputError, match=r"has no attribute 'modell'; did you mean model\?"):
        estimator_of("own_pipe.py:modell", None)
    config = mi.AuditConfig.of(dataset="wine", estimators=("own_pipe.py:model", "svc"), policies=("as-is",))
    assert command(config.model_dump(mode="json")) == (
        "mithridate audit wine --estimator own_pipe.py:model --estimator svc --policy as-is"
    )


def test_the_short_list_fits_tables_and_arrays(table):
    assert set(SHORT) == set(ESTIMATORS)
    data = mi.dataset_of(patients(120), "diagnosis")
    assert data.schema
    cells = Table.within(data.schema, data.x).cells
    for name in ESTIMATORS[:8]:
        (victim,) = victims_of([name], ["as-is"], data.schema)
        own: Any = victim.estimator
        assert set(own.fit(cells, data.y).predict(cells)) <= {0, 1}
        assert searches(estimator_of(name, data.schema))
        assert not searches(victim.estimator)
    with pytest.raises(mi.InputError, match="is not installed"):
        estimator_of("catboost", None)


def test_a_seed_is_set_wherever_none_is():
    cv = StratifiedKFold(3, shuffle=True)
    search = GridSearchCV(make_pipeline(RandomForestClassifier(5)), {}, cv=cv)
    (victim,) = victims_of([search], ["searched"], None)
    seeded = victim.seeded(7).estimator
    assert seeded.get_params()["estimator__randomforestclassifier__random_state"] == seeded.cv.random_state == 7
    assert cv.random_state is None
    both = victims_of([pipeline(GaussianNB()), pipeline(RidgeClassifier())], ["as-is"], None)
    assert [one.name for one in both] == ["Pipeline, as-is", "Pipeline 2, as-is"]
    kept = victims_of([RandomForestClassifier(random_state=3)], ["as-is"], None)[0].seeded(7)
    assert kept.estimator.random_state == 3


def test_cells_may_stay_empty_and_are_written_so(table, run):
    result = mi.load_result(run)
    before, _ = result.rows[0, "GridSearchCV, searched"]
    rows = table.iloc[result.poison[0, "GridSearchCV, searched"]["replaced_rows"]]
    assert before["nodes"].isna().tolist() == rows["nodes"].isna().tolist()
    assert before["ward"].fillna("").tolist() == rows["ward"].fillna("").tolist()
