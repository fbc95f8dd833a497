"""The command line: output, exit codes, and nothing lost or left behind.

In a process of its own where the process is the subject: a poor terminal, a broken pipe, a full disk.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from conftest import posix

COMMAND = [sys.executable, "-c", "from mithridate.cli import main; main()"]


def in_bash(script: str, cwd: Path, **env: str) -> Any:
    """The smallest of audits, as `"$@"` of a script."""
    command = ["bash", "-c", script, "-", *COMMAND, "audit", *map(str, LEAST), "--out", "run"]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | {"COLUMNS": "100"} | env, capture_output=True, encoding="utf-8", check=False
    )


SHORT = ("--attack", "bilevel", "--inner-steps", 50, "--epochs", 5)
LEAST = ("synthetic", "--splits", 1, "--points", 1, "--policy", "fixed=3", "--attack", "flips", *SHORT[2:])
QUICK = ("synthetic", "--splits", 2, "--points", 1, "--joint-hyperiterations", 3, "--policy", "learned", *SHORT)


def test_the_command_line_from_start_to_end(mithridate, tmp_path):
    done = mithridate("audit", *QUICK, "--out", "run", "--fail-above", "99%@3%", drawn=True)
    assert done.returncode == 0, done.stderr
    for word in ("Test error by share of poison", "learned", "Verdict", "Threat model", "run"):
        assert word in done.stdout
    assert mi.load_result(tmp_path / "run").frame["split"].nunique() == 2
    assert (tmp_path / "run" / "figures" / "error.png").exists()
    file = tmp_path / "audit.toml"
    options = (
        "splits = 3",
        "points = 1",
        "attack = 'bilevel'",
        "joint_hyperiterations = 3",
        "inner_steps = 50",
        "epochs = 5",
    )
    file.write_text("\n".join(['dataset = "synthetic"', *options]))
    said = mithridate("audit", "--config", file, "--splits", 2, "--policy", "learned", "--json")
    assert said.returncode == 0, said.stderr
    again = json.loads(said.stdout)
    assert again["config"]["splits"] == 2, "flags go before the file"
    assert again["policies"] == json.loads((tmp_path / "run" / "audit.json").read_text())["policies"]
    failed = mithridate("audit", *QUICK, "--out", "gate", "--fail-above", "0%@3%", "--quiet")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "above 0.0%" in failed.stderr
    assert (tmp_path / "gate" / "audit.json").exists()


def test_the_list_of_data_sets(mithridate, tmp_path, monkeypatch):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    listed = mithridate("datasets")
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
    failed = mithridate("audit", *BAD[fault], "--out", tmp_path / "run")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""
    if fault != "unknown flag":
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.startswith("mithridate: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a run", "a file", "something else"])
def test_what_exists_is_never_overwritten(mithridate, there, tmp_path):
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("audit.json" if there == "a run" else "notes.txt")).write_text("mine")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    failed = mithridate("audit", *QUICK, "--out", out)
    assert failed.returncode == 2
    assert ("already holds a run" if there == "a run" else "exists and is not") in failed.stderr
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


@posix
def test_a_place_that_cannot_be_written_is_refused_before_computing(mithridate, tmp_path):
    failed = mithridate("audit", *QUICK, "--out", "/proc/run")
    assert failed.returncode == 2
    assert "/proc cannot be written" in failed.stderr


@posix
@pytest.mark.parametrize(
    ("env", "tail"), [({"PYTHONIOENCODING": "ascii"}, ""), pytest.param({}, "| true", marks=pytest.mark.slow)]
)
def test_a_terminal_that_cannot_show_it_all_loses_nothing(env, tail, tmp_path):
    done = in_bash(f'set -o pipefail; "$@" {tail}', cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "audit.json").exists()


@posix
def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path, mithridate):
    """Every write beyond 20 kB fails, so that of the report; the cells are there, and it goes on when there is room."""
    # What others have compiled is read, and nothing that might be cut off added to it.
    env = {"TMPDIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}
    failed = in_bash('ulimit -f 20; exec "$@"', cwd=tmp_path, **env)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert re.search("cannot write run: .*File too large; .* then `mithridate resume run`", failed.stderr)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"manifest.json", "cells", ".lock"}
    done = mithridate("resume", "run")
    assert done.returncode == 0, done.stderr
    assert "Verdict" in done.stdout


def test_a_run_whose_place_is_gone_is_rescued(tmp_path, result, monkeypatch):
    from mithridate.cli.reproducing import _save

    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(mi.AuditResult, "plot", lambda self: {})
    with pytest.raises(mi.StorageError, match="the run was saved to"):
        _save(result, blocked / "run")
    (rescued,) = tmp_path.glob("mithridate-rescued-*/run")
    assert len(mi.load_result(rescued).frame) == len(result.frame)


def test_reports_of_runs_side_by_side(mithridate, run, tmp_path):
    done = mithridate("report", run, run, "--out", "both.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    missing = mithridate("report", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "does not hold a readable run" in missing.stderr


def test_a_run_is_logged_where_it_is_asked_for(mithridate, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr("mithridate.mlflow.check_installed", lambda: None)
    monkeypatch.setattr("mithridate.mlflow.log_run", lambda run, tracking_uri: logged.append((run.name, tracking_uri)))
    done = mithridate("audit", *LEAST, "--out", "run", "--mlflow", "sqlite:///store.db")
    assert done.returncode == 0, done.stderr
    assert logged == [("run", "sqlite:///store.db")]


@pytest.mark.slow
def test_a_compiled_step_cut_short_by_a_kill_is_compiled_anew(tmp_path):
    cache = tmp_path / "compiled"
    first = in_bash('"$@" --quiet', tmp_path, JAX_COMPILATION_CACHE_DIR=str(cache))
    assert first.returncode == 0, first.stderr
    entries = list(cache.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:40])
    again = in_bash('"$@" --quiet --out again', tmp_path, JAX_COMPILATION_CACHE_DIR=str(cache))
    assert again.returncode == 0, again.stderr
    assert "UserWarning" not in again.stderr
