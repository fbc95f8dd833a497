"""The whole path: records, files, verdict, gate, and what it does with bad input. Small data, real runs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import mithridate as mi
from mithridate.auditing import Progress
from mithridate.records import FAULTS, Record
from mithridate.verdict import METRICS, curves, gate_failures, parse_gate, verdict

SMALL: dict[str, Any] = dict(train=40, valid=40, points=6, batch=3, splits=2, hyperiterations=10, epochs=60)  # noqa: C408
ONE_FIXED: dict[str, Any] = dict(SMALL, splits=1, policies=("fixed=-8",))
POLICIES = ("fixed=-8", "cv-clean", "learned", "cv-poisoned")


@pytest.fixture(scope="module")
def steps_seen() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def result(steps_seen) -> mi.AuditResult:
    return mi.audit("digits-0v8", policies=POLICIES, on_progress=steps_seen.append, **SMALL)


@pytest.fixture(scope="module")
def run(result, tmp_path_factory) -> Path:
    return result.save(tmp_path_factory.mktemp("runs") / "run")


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
    clean = frame[frame["n_poison"] == 0]
    np.testing.assert_array_equal(clean["test_error"], clean["baseline_test_error"])


def test_two_runs_agree_and_a_policy_more_changes_no_other(result):
    numbers = [c for c in result.frame.columns if c != "seconds"]
    again = mi.audit("digits-0v8", policies=("fixed=6", "learned", "fixed=-8"), **SMALL)
    for policy in ("learned", "fixed=-8"):
        one, two = (r.frame[r.frame["policy"] == policy][numbers].reset_index(drop=True) for r in (result, again))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    for key, arrays in again.poison.items():
        if key[1] == "fixed=6":
            continue
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, result.poison[key][name])


def test_another_seed_gives_other_numbers(result):
    other = mi.audit("digits-0v8", policies=("fixed=-8",), seed=1, **SMALL)
    mine = result.frame[result.frame["policy"] == "fixed=-8"]
    assert not np.array_equal(other.frame["valid_loss"], mine["valid_loss"])


def test_the_run_directory_holds_what_is_promised(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    figures = {"error", "regularisation", "rates", *(f"poison-{p.replace('=', '_')}" for p in POLICIES)}
    expected = {"records.parquet", "audit.json"} | {f"figures/{f}.{k}" for f in figures for k in ("png", "svg")}
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
        for _ in range(500):
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
    pd.testing.assert_frame_equal(read.frame, result.frame, check_exact=True)
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
    result = mi.audit("synthetic", points=3, batch=2, splits=1, hyperiterations=3, policies=("fixed=log(20)",))
    np.testing.assert_allclose(result.frame["ratio"], [0, 2 / 34, 3 / 35])
    assert result.frame["n_train"].tolist() == [32, 34, 35]
    assert result.poison[0, "fixed=log(20)"]["replaced"].size == 0
    assert "added" in result.threat_model["budget"]
    assert any("one split only" in warning for warning in result.verdict.warnings)


def test_bounds_and_the_inner_training_are_obeyed():
    result = mi.audit("digits-0v8", bounds=(0.25, 0.75), learning_rate=2.0, **ONE_FIXED)
    points = result.poison[0, "fixed=-8"]["x_poison"]
    assert points.min() >= 0.25
    assert points.max() <= 0.75
    assert result.frame["stability"].max() < 2
    assert result.frame["inner_steps"].unique().tolist() == [2500], "T = 500 cut by five"
    assert "cut into smaller ones" in result.threat_model["inner_training"]
    unstable = mi.audit("digits-0v8", learning_rate=2.0, stabilise=False, **ONE_FIXED)
    assert "unstable" in "+".join(unstable.frame["status"])
    assert any("diverges" in warning for warning in unstable.verdict.warnings)


def frame_of(errors: dict[str, list[list[float]]], baseline: float = 0.0, status: str = "ok") -> pd.DataFrame:
    """Records with the given test errors: policy → one list over ratios per split."""
    rows = [
        {"split": s, "policy": p, "n_poison": 10 * i, "ratio": 0.05 * i, "test_error": e, "status": status}
        for p, splits in errors.items()
        for s, values in enumerate(splits)
        for i, e in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(baseline_test_error=baseline)


def test_the_verdict_s_arithmetic():
    found = verdict(
        frame_of(
            {
                "fixed=-8": [[0.01, 0.04, 0.20, 0.05], [0.01, 0.06, 0.20, 0.05]],
                "cv-clean": [[0.01, 0.02, 0.10, 0.30], [0.01, 0.02, 0.10, 0.20]],
                "learned": [[0.01, 0.02, 0.03, 0.04], [0.01, 0.02, 0.03, 0.04]],
            }
        )
    )
    assert found.tolerance == pytest.approx({"fixed=-8": 0.05, "cv-clean": 0.05, "learned": 0.15})
    assert found.saved == pytest.approx(1.0)
    assert "+1.0 ± 0.0 against fixed=-8, +21.0 ± 63.5 against cv-clean" in found.summary[3]
    assert "at least 15.0%" in found.summary[2]
    assert not found.warnings


def test_the_worse_of_attack_and_label_flipping_counts():
    errors = {"learned": [[0.01, 0.02, 0.03], [0.01, 0.02, 0.03]]}
    assert verdict(frame_of(errors)).tolerance["learned"] == pytest.approx(0.10)
    worse = frame_of(errors)
    worse.loc[worse["n_poison"] == 20, "baseline_test_error"] = 0.2
    assert verdict(worse).tolerance["learned"] == pytest.approx(0.05)
    assert gate_failures(worse, 0.1, 0.10)


def test_without_the_closing_solve_the_baseline_answers_as_the_attack_does():
    options = ONE_FIXED | {"policies": ("learned",), "closing": False, "hyper_rule": "constant"}
    frame = mi.audit("digits-0v8", **options).frame
    np.testing.assert_array_equal(frame["log_strength"], frame["baseline_log_strength"])
    assert "off-response" in "+".join(frame["status"])


def test_a_victim_that_diverged_has_no_error_and_passes_no_gate():
    broken = frame_of({"learned": [[0.01, np.nan, 0.03], [0.01, 0.02, 0.03]]}, status="non-finite")
    found = verdict(broken)
    assert found.tolerance["learned"] == 0
    assert "unknown" in gate_failures(broken, 0.5, 0.05)[0]
    assert curves(broken, ("test_error",))["learned"]["test_error"]["mean"][1] is None
    with pytest.raises(mi.InputError, match="the evaluation's SGD diverges"):
        mi.audit("synthetic", policies=("fixed=10",))
    with pytest.raises(mi.InputError, match="times as many steps"):
        mi.audit("synthetic", policies=("fixed=20",), train_learning_rate=1e-9)


def test_a_configuration_is_for_its_own_data_set():
    config = mi.AuditConfig.of(dataset="breast-cancer")
    with pytest.raises(mi.InputError, match="for 'breast-cancer'"):
        mi.audit("digits-0v8", config)


@pytest.mark.parametrize("fault", FAULTS)
def test_marked_cells_are_warned_of(fault):
    found = verdict(frame_of({"learned": [[0.01, 0.02], [0.01, 0.02]]}, status=f"{fault}"))
    assert any(fault in warning and FAULTS[fault] in warning for warning in found.warnings)


def test_an_attack_that_does_not_beat_its_start_is_marked():
    """With a negligible step the points never leave their start."""
    result = mi.audit("digits-0v8", poison_step=1e-30, **ONE_FIXED)
    poisoned = result.frame[result.frame["n_poison"] > 0]
    assert poisoned["status"].tolist() == ["weak", "weak"]
    assert result.status == "warnings"


def test_the_gate():
    frame = frame_of({"learned": [[0.01, 0.08, 0.20]], "cv-clean": [[0.01, 0.02, 0.05]]})
    assert parse_gate("10%@5%", 0.1) == pytest.approx((0.1, 0.05))
    assert parse_gate("0.1@0.05", 0.1) == pytest.approx((0.1, 0.05))
    assert gate_failures(frame, 0.1, 0.05) == []
    assert len(gate_failures(frame, 0.1, 0.06)) == 1, "a share between two audited ones is judged by the higher"
    assert len(gate_failures(frame, 0.04, 0.1)) == 2
    for text in ("10%", "2@0.05", "a@b", "0.1@0.05@0.2", "0.1@-1", ""):
        with pytest.raises(mi.InputError, match="ERROR@SHARE"):
            parse_gate(text, 0.1)
    with pytest.raises(mi.InputError, match=r"only up to 10\.0% poison is audited"):
        parse_gate("10%@20%", 0.1)


class CommandLine(NamedTuple):
    """The command line in its own process; what one process compiles the next one need not."""

    cache: Path

    def __call__(self, *arguments: object, cwd: Path, limit: int | None = None, **env: str):
        """Run it; no file larger than `limit` kB can be written, the cache of compilations included."""
        command = [sys.executable, "-c", "from mithridate.cli import main; main()", *map(str, arguments)]
        own = {"COLUMNS": "100"} | ({} if limit else self.variables)
        return subprocess.run(
            ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "-", *command] if limit else command,
            cwd=cwd,
            env=os.environ | own | env,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def variables(self) -> dict[str, str]:
        return {"JAX_COMPILATION_CACHE_DIR": str(self.cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module")
def mithridate(tmp_path_factory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("cache"))


LEAST = ("synthetic", "--splits", 1, "--points", 1, "--hyperiterations", 1, "--policy", "fixed=3")
QUICK = ("synthetic", "--splits", 2, "--points", 1, "--joint-hyperiterations", 3, "--policy", "learned")


def test_the_command_line_from_start_to_end(mithridate, tmp_path):
    done = mithridate("audit", *QUICK, "--out", "run", "--fail-above", "99%@3%", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("Test error by share of poison", "learned", "Verdict", "Threat model", "run"):
        assert word in done.stdout
    assert mi.load_result(tmp_path / "run").frame["split"].nunique() == 2
    file = tmp_path / "audit.toml"
    file.write_text('dataset = "synthetic"\nsplits = 3\npoints = 1\njoint_hyperiterations = 3\n')
    said = mithridate("audit", "--config", file, "--splits", 2, "--policy", "learned", "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    again = json.loads(said.stdout)
    assert again["config"]["splits"] == 2, "flags go before the file"
    assert again["policies"] == json.loads((tmp_path / "run" / "audit.json").read_text())["policies"]
    failed = mithridate("audit", *QUICK, "--out", "gate", "--fail-above", "0%@3%", "--quiet", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "above 0.0%" in failed.stderr
    assert (tmp_path / "gate" / "audit.json").exists()


def test_the_list_of_data_sets(mithridate, tmp_path):
    listed = mithridate("datasets", cwd=tmp_path, MITHRIDATE_DATA_DIR=str(tmp_path))
    assert listed.returncode == 0
    for word in ("digits-AvB", "bundled", "mnist-AvB", "to download", "dogfish", "missing", str(tmp_path)):
        assert word in listed.stdout.replace("\n", "")


BAD = {
    "unknown data set": ["mnsit-0v8"],
    "class that does not exist": ["mnist-0vx"],
    "more points than rows": ["digits-0v8", "--train", "20", "--points", "30"],
    "more rows than there are": ["digits-0v8", "--train", "5000"],
    "negative steps": ["digits-0v8", "--hyperiterations", "-1"],
    "zero steps": ["digits-0v8", "--inner-steps", "0"],
    "bounds the wrong way round": ["digits-0v8", "--bounds", "1", "0"],
    "unknown policy": ["digits-0v8", "--policy", "best"],
    "a policy twice": ["digits-0v8", "--policy", "fixed=-8", "--policy", "fixed=-8.0"],
    "a strength beyond all bounds": ["digits-0v8", "--policy", "fixed=800"],
    "too many folds": ["digits-0v8", "--train", "10", "--points", "1", "--folds", "9", "--policy", "cv-clean"],
    "gate beyond the audit": ["digits-0v8", "--fail-above", "10%@90%"],
    "no data set": [],
    "no such file": ["--config", "missing.toml"],
    "unknown flag": ["digits-0v8", "--pionts", "3"],
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_one_line_exit_code_2_and_nothing_left_behind(mithridate, fault, tmp_path):
    failed = mithridate("audit", *BAD[fault], "--out", tmp_path / "run", cwd=tmp_path)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""
    if fault != "unknown flag":
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.startswith("mithridate: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a run", "a file", "something else"])
def test_what_exists_is_never_overwritten(mithridate, there, tmp_path, run):
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("audit.json" if there == "a run" else "notes.txt")).write_text("mine")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    failed = mithridate("audit", *QUICK, "--out", out, cwd=tmp_path)
    assert failed.returncode == 2
    assert ("already holds a run" if there == "a run" else "exists and is not") in failed.stderr
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_refused_before_computing(mithridate, tmp_path):
    failed = mithridate("audit", *QUICK, "--out", "/proc/run", cwd=tmp_path)
    assert failed.returncode == 2
    assert "/proc cannot be written" in failed.stderr


def test_a_disk_that_fills_up_leaves_nothing_half_written(mithridate, tmp_path):
    """Every write beyond 20 kB fails, also in the place of rescue; the answer has been printed by then."""
    failed = mithridate("audit", *LEAST, "--out", "run", cwd=tmp_path, limit=20, TMPDIR=str(tmp_path))
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "run: File too large" in failed.stderr
    assert "Verdict" in failed.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_place_is_gone_is_rescued(tmp_path, result, monkeypatch):
    from mithridate.cli import _save

    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(mi.StorageError, match="the run was saved to"):
        _save(result, blocked / "run")
    (rescued,) = tmp_path.glob("mithridate-rescued-*/run")
    assert len(mi.load_result(rescued).frame) == len(result.frame)


def test_a_run_can_be_written_where_one_stands(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mi.load_result(result.save(".")).config == result.config


@pytest.mark.parametrize(("env", "tail"), [({"PYTHONIOENCODING": "ascii"}, ""), ({}, "| true")])
def test_a_terminal_that_cannot_show_it_all_loses_nothing(mithridate, env, tail, tmp_path):
    quick = " ".join(map(str, LEAST))
    command = f'set -o pipefail; {sys.executable} -c "from mithridate.cli import main; main()" audit {quick} --out run'
    done = subprocess.run(
        ["bash", "-c", f"{command} {tail}"],
        cwd=tmp_path,
        env=os.environ | mithridate.variables | env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "audit.json").exists()


def test_a_result_is_refused_where_a_run_stands(result, run):
    with pytest.raises(mi.StorageError, match="already holds a run"):
        result.save(run)
    assert replace(result, poison={}).summary() == result.summary()
