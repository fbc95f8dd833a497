"""An audit logged to a real local MLflow store, and read back from it."""

import importlib.util
import math
import re

import pytest

import mithridate as mi
from mithridate.mlflow import log_run

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'store.db'}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """MLflow puts the files of a local store into the working directory."""
    monkeypatch.chdir(tmp_path)


def test_a_result_reads_back_from_the_store(result, store):
    run_id = log_run(result, experiment="audits", run_name="first", tracking_uri=store)
    client = mlflow.MlflowClient(store)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.info.experiment_id == client.get_experiment_by_name("audits").experiment_id
    assert run.data.params["policies"] == str(result.config["policies"])
    assert run.data.params["dataset.name"] == "digits-0v8"
    assert run.data.tags["mithridate.verdict"].splitlines() == list(result.verdict.summary)
    assert run.data.tags["mithridate.threat_model.goal"] == result.threat_model["goal"]
    assert run.data.metrics["learned/tolerance"] == result.verdict.tolerance["learned"]
    assert {"records.parquet", "audit.json", "figures", "poison"} <= {f.path for f in client.list_artifacts(run_id)}


@pytest.mark.parametrize(("policy", "name"), [("fixed=-8", "fixed_-8"), ("learned", "learned")])
def test_metrics_are_curves_over_the_number_of_points(result, run, store, policy, name):
    client = mlflow.MlflowClient(store)
    run_id = log_run(run, tracking_uri=store)
    rows = result.frame[result.frame["policy"] == policy]
    for column in ("test_error", "weight_norm_sq"):
        history = client.get_metric_history(run_id, f"{name}/{column}")
        found = {metric.step: metric.value for metric in history}
        assert found == pytest.approx(rows.groupby("n_poison")[column].mean().to_dict())


def test_an_unknown_value_is_logged_as_unknown(run, store):
    """`best_log_strength` exists for learned policies only."""
    metrics = mlflow.MlflowClient(store).get_run(log_run(run, tracking_uri=store)).data.metrics
    assert math.isnan(metrics["fixed_-8/best_log_strength"])


def test_a_directory_keeps_every_file(run, store):
    (run / "report.html").write_text("<p>what came out</p>")
    try:
        run_id = log_run(str(run), tracking_uri=store)
    finally:
        (run / "report.html").unlink()
    assert "report.html" in {f.path for f in mlflow.MlflowClient(store).list_artifacts(run_id)}


def test_inside_an_active_run_the_audit_is_its_child(run, store):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        with mlflow.start_run() as outer:
            run_id = log_run(run)
            assert mlflow.active_run().info.run_id == outer.info.run_id
        assert mlflow.active_run() is None
    finally:
        mlflow.set_tracking_uri(before)
    client = mlflow.MlflowClient(store)
    child = client.get_run(run_id)
    assert child.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert child.info.experiment_id == outer.info.experiment_id
    assert not client.get_run(outer.info.run_id).data.metrics


def test_what_cannot_be_logged_is_marked_as_failed(run, store, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifacts", full)
    with pytest.raises(OSError, match="no space left"):
        log_run(run, experiment="broken", tracking_uri=store)
    client = mlflow.MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("broken").experiment_id])
    assert found.info.status == "FAILED"


def test_a_store_that_refuses_is_named(run, store):
    client = mlflow.MlflowClient(store)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(mi.StorageError, match=re.escape(store)):
        log_run(run, experiment="gone", tracking_uri=store)


def test_without_mlflow_the_remedy_is_said(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mi.InputError, match=re.escape("pip install 'mithridate[mlflow]'")):
        log_run(run)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(mi.StorageError, match="nowhere"):
        log_run(tmp_path / "nowhere")
