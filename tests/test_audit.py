"""The whole path in Python: records, files, pictures. Small data, real runs."""

import json
import shutil
from dataclasses import fields
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import mithridate as mi
from conftest import ONE_FIXED, POLICIES, SMALL
from mithridate.auditing import measuring
from mithridate.results.records import FAULTS, LISTS, Record
from mithridate.results.verdict import METRICS, curves


def test_there_is_one_row_per_split_policy_and_ratio(result):
    frame = result.frame
    assert list(frame.columns) == [f.name for f in fields(Record)]
    assert len(frame) == 2 * 4 * 3
    assert not frame.duplicated(["split", "policy", "n_poison"]).any()
    np.testing.assert_allclose(frame["ratio"], frame["n_poison"] / 40)
    assert frame["test_error"].between(0, 1).all()
    assert set("+".join(frame["status"]).split("+")) <= {"ok", *FAULTS}
    # Classes are not balanced in the test rows, so the error lies between both rates.
    assert (frame["test_error"] <= frame[["fpr", "fnr"]].max(axis=1) + 1e-6).all()


def test_progress_says_what_is_done_and_what_is_running(steps_seen, result):
    assert [p.done for p in steps_seen] == list(range(25))
    assert {p.total for p in steps_seen} == {24}
    assert "split 2/2 · cv-poisoned · ratio 3/3" in steps_seen[-2].running


def test_policies_do_what_their_names_say(result):
    frame = result.frame
    assert (frame[frame["policy"] == "fixed=-8"]["log_strength"] == -8).all()
    cv = frame[frame["policy"] == "cv-clean"].groupby("split")["log_strength"]
    assert (cv.nunique() == 1).all()
    learned = frame[frame["policy"] == "learned"]
    assert (np.abs(learned["log_strength"] - learned["best_log_strength"]) <= 0.1).all()


def test_every_poisoned_cell_is_measured_with_flipped_labels_beside_it(result):
    own = result.candidates["attack"] == "bilevel"
    pd.testing.assert_frame_equal(result.candidates[own].reset_index(drop=True), result.frame)
    flips = result.candidates[~own]
    poisoned = result.frame[result.frame["n_poison"] > 0]
    cells = ["split", "policy", "n_poison", "n_train"]
    kinds = flips.groupby(cells, sort=False)["attack"].agg(set)
    assert sorted(kinds.index) == sorted(map(tuple, poisoned[cells].to_numpy().tolist()))
    assert all(found == {"random flips", "class flips"} for found in kinds)
    assert flips["stability"].isna().all()
    assert (flips["hypergradients"] == "").all()


def assert_same(one: pd.DataFrame, two: pd.DataFrame):
    pd.testing.assert_frame_equal(one.drop(columns=[*LISTS]), two.drop(columns=[*LISTS]), check_exact=True)
    for name in LISTS:
        assert all(isinstance(entry, list) for frame in (one, two) for entry in frame[name])
        np.testing.assert_array_equal(one[name].to_list(), two[name].to_list())


def test_two_runs_agree_and_a_policy_more_changes_no_other(result):
    numbers = [c for c in result.frame.columns if c != "seconds"]
    options: dict[str, Any] = ONE_FIXED | {"policies": ("fixed=6", "learned")}
    again = mi.audit("digits-0v8", **options)
    first = result.frame[(result.frame["policy"] == "learned") & (result.frame["split"] == 0)]
    assert_same(*(f[numbers].reset_index(drop=True) for f in (first, again.frame[again.frame["policy"] == "learned"])))
    for key, arrays in again.poison.items():
        if key[1] == "fixed=6":
            continue
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, result.poison[key][name])


def test_another_seed_gives_other_numbers(result):
    other = mi.audit("digits-0v8", seed=1, **ONE_FIXED)
    mine = result.frame[(result.frame["policy"] == "fixed=-8") & (result.frame["split"] == 0)]
    assert len(mine) == len(other.frame)
    assert not np.array_equal(other.frame["valid_loss"], mine["valid_loss"])


def test_the_run_directory_holds_what_is_promised(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    figures = {"error", "regularisation", "rates", *(f"poison-{p.replace('=', '_')}" for p in POLICIES)}
    expected = {"records.parquet", "candidates.parquet", "audit.json", "report.html"} | {
        f"figures/{f}.{k}" for f in figures for k in ("png", "svg")
    }
    expected |= {f"poison/split{s}-{p.replace('=', '_')}.npz" for s in (0, 1) for p in POLICIES}
    assert found == expected
    for path in run.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays)


def test_audit_json_says_it_all(run, result):
    said = json.loads((run / "audit.json").read_text())
    assert {"dataset", "threat_model", "config", "versions", "seed", "status", "verdict", "policies"} <= said.keys()
    assert {"knows", "controls", "may_change", "budget", "validation_set"} <= said["threat_model"].keys()
    assert said["config"]["points"] == 6
    for policy in POLICIES:
        curve = said["policies"][policy]
        assert curve["points"] == [0, 3, 6]
        rows = result.frame[(result.frame["policy"] == policy) & (result.frame["n_poison"] == 6)]
        for metric in METRICS:
            assert curve[metric]["mean"][2] == pytest.approx(rows[metric].mean())
            assert curve[metric]["std"][2] == pytest.approx(rows[metric].std())
            assert curve[metric]["low"][2] <= curve[metric]["mean"][2] <= curve[metric]["high"][2]


def test_anyone_can_retrain_on_the_poison_without_this_program(run, result):
    """With NumPy and scikit-learn's digits alone, from the npz file: the attack's own objective."""
    with np.load(run / "poison" / "split1-fixed_-8.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    digits: Any = load_digits()
    rows = arrays["train_rows"]
    np.testing.assert_array_equal(rows[arrays["replaced"]], arrays["replaced_rows"])

    def objective(points: np.ndarray, places: np.ndarray) -> float:
        x, y = digits["data"][rows].astype(float), (digits["target"][rows] == 8).astype(float)
        x[places], y[places] = points * arrays["scale"] + arrays["offset"], arrays["y_poison"]
        x, valid = x / 16, digits["data"][arrays["valid_rows"]] / 16
        w, b = np.zeros(64), 0.0
        for _ in range(SMALL["inner_steps"]):
            residual = 1 / (1 + np.exp(-(x @ w + b))) - y
            w, b = w - 0.4 * (x.T @ residual / 40 + np.exp(-8) / 40 * w), b - 0.4 * residual.mean()
        z, labels = valid @ w + b, digits["target"][arrays["valid_rows"]] == 8
        return float(np.mean(np.logaddexp(0, z) - labels * z))

    said = result.frame.query("split == 1 and policy == 'fixed=-8' and n_poison == 6")["valid_loss_after"].item()
    assert objective(arrays["x_poison"], arrays["replaced"]) == pytest.approx(said, rel=1e-3)
    assert objective(arrays["x_poison"], np.arange(6)) != pytest.approx(said, rel=1e-2)
    assert objective(arrays["x_start"], arrays["replaced"]) != pytest.approx(said, rel=1e-2)


def test_a_saved_run_is_read_back_whole(run, result):
    read = mi.load_result(run)
    assert_same(read.frame, result.frame)
    assert read.summary() == json.loads(json.dumps(result.summary()))
    assert read.verdict == result.verdict
    assert read.poison.keys() == result.poison.keys()
    assert read.plot().keys() == result.plot().keys()


HARMS = ["no directory", "no records", "broken json", "no object", "other format", "no poison", "cut npz", "empty npz"]


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_not_a_run_is_refused(run, tmp_path, harm):
    copy = tmp_path / "copy"
    if harm != "no directory":
        shutil.copytree(run, copy)
    match harm:
        case "no records":
            (copy / "records.parquet").unlink()
        case "broken json":
            (copy / "audit.json").write_text("{")
        case "no object":
            (copy / "audit.json").write_text("[]")
        case "cut npz" | "empty npz":
            npz = copy / "poison" / "split1-learned.npz"
            npz.write_bytes(npz.read_bytes()[: 500 if harm == "cut npz" else 0])
        case "other format":
            (copy / "audit.json").write_text('{"format": 99}')
        case "no poison":
            shutil.rmtree(copy / "poison")
    with pytest.raises(mi.StorageError, match="copy"):
        mi.load_result(copy)


def test_figures_show_the_records(result):
    drawn = result.plot()
    (axis,) = drawn["error"].axes
    curve = curves(result.frame)["learned"]
    line = next(line for line in axis.get_lines() if line.get_label() == "learned")
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(curve["test_error"]["mean"]))
    np.testing.assert_allclose(line.get_xdata(), 100 * np.array(curve["ratio"]))
    assert "%" in axis.get_ylabel()
    assert "2 splits" in drawn["error"].get_suptitle()
    strength, norm = drawn["regularisation"].axes
    assert "λ" in strength.get_ylabel()
    assert "‖w‖²" in norm.get_ylabel()
    image = drawn["poison-learned"].axes[6].get_images()[0].get_array()
    assert image is not None
    raw = 16 * result.poison[0, "learned"]["x_poison"][0].reshape(8, 8)  # load_digits counts from 0 to 16
    np.testing.assert_allclose(image, raw, rtol=1e-5)


def test_added_poison_is_counted_as_added():
    result = mi.audit(
        "synthetic", attack="bilevel", points=3, batch=2, splits=1, hyperiterations=3, policies=("fixed=log(20)",),
        inner_steps=20, epochs=5,
    )  # fmt: skip
    np.testing.assert_allclose(result.frame["ratio"], [0, 2 / 34, 3 / 35])
    assert result.frame["n_train"].tolist() == [32, 34, 35]
    assert result.poison[0, "fixed=log(20)"]["replaced"].size == 0
    assert "added" in result.threat_model["budget"]
    assert any("there is only one split" in warning for warning in result.verdict.warnings)


def test_bounds_and_the_inner_training_are_obeyed():
    result = mi.audit("digits-0v8", bounds=(0.25, 0.75), learning_rate=2.0, **ONE_FIXED)
    points = result.poison[0, "fixed=-8"]["x_poison"]
    assert points.min() >= 0.25
    assert points.max() <= 0.75
    assert result.frame["stability"].max() < 2
    assert result.frame["inner_steps"].unique().tolist() == [250], "T = 50 cut by five"
    assert "divided into smaller ones" in result.threat_model["inner_training"]
    unstable = mi.audit("digits-0v8", learning_rate=2.0, stabilise=False, **ONE_FIXED)
    assert "unstable" in "+".join(unstable.frame["status"])
    assert any("diverges" in warning for warning in unstable.verdict.warnings)


def test_without_the_closing_solve_the_baseline_answers_as_the_attack_does():
    options = ONE_FIXED | {"policies": ("learned",), "closing": False, "hyper_rule": "constant"}
    result = mi.audit("digits-0v8", **options)
    frame = result.frame
    for _, cell in result.candidates[result.candidates["n_poison"] > 0].groupby("n_poison"):
        assert len(cell) == 3
        assert cell["log_strength"].nunique() == 1
    assert "off-response" in "+".join(frame["status"])


def test_the_baseline_is_retrained_with_its_own_answer(monkeypatch):
    used, train = [], measuring.retrain_and_measure

    def noted(victim: Any, rows: Any, on: Any, specific: Any, strength: Any, *others: Any) -> Any:
        used.append(float(strength))
        return train(victim, rows, on, specific, strength, *others)

    monkeypatch.setattr(measuring, "retrain_and_measure", noted)
    options: dict[str, Any] = ONE_FIXED | {"policies": ("learned",)}
    found = mi.audit("digits-0v8", **options).candidates
    last = found[found["n_poison"] == found["n_poison"].max()]["log_strength"].to_list()
    assert len(set(last)) > 1
    assert used[-len(last) :] == pytest.approx(last)


def test_a_configuration_is_for_its_own_data_set():
    config = mi.AuditConfig.of(dataset="breast-cancer")
    with pytest.raises(mi.InputError, match="for 'breast-cancer'"):
        mi.audit("digits-0v8", config)


def test_an_attack_that_does_not_beat_its_start_is_marked():
    """With a negligible step the points never leave their start."""
    result = mi.audit("digits-0v8", poison_step=1e-30, **ONE_FIXED)
    poisoned = result.frame[result.frame["n_poison"] > 0]
    assert poisoned["status"].tolist() == ["weak", "weak"]
    assert result.status == "warnings"


def test_a_run_can_be_written_into_the_current_directory(result, tmp_path, monkeypatch):
    monkeypatch.setattr(mi.AuditResult, "plot", lambda self: {})  # the pictures take long and are in `run`
    monkeypatch.chdir(tmp_path)
    assert mi.load_result(result.save(".")).config == result.config


def test_a_result_is_refused_where_a_run_stands(result, run):
    with pytest.raises(mi.StorageError, match="already holds a run"):
        result.save(run)


@pytest.mark.parametrize("policy", ["learned", pytest.param("cv-poisoned", marks=pytest.mark.slow)])
def test_more_ratios_need_no_more_compilations(policy):
    """Every ratio has the shapes of the first, the last and smaller batch of points included."""
    compiled = []

    def listen(event: str, duration: float, **about: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)  # pyright: ignore[reportArgumentType]
    options: dict[str, Any] = SMALL | {"splits": 1, "policies": (policy,), "epochs": 9}
    options |= {"inner_steps": 20, "hyperiterations": 4, "joint_hyperiterations": 4}
    options |= {"attack": "portfolio", "poison_rule": "restarting", "budget": "chosen"}
    mi.audit("digits-0v8", **options)
    before = len(compiled)
    mi.audit("digits-0v8", **{**options, "batch": 2})
    assert "jit(retrain_and_measure)" in compiled
    # The starting points are projected all at once, by their number.
    assert set(compiled[before:]) <= {"jit(convert_element_type)", "jit(broadcast_in_dim)", "jit(clip)"}
