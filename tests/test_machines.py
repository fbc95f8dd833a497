"""Machines as they are: no home, no LaTeX, no λ, a reader who leaves; and exit code 1 means a gate, nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from conftest import posix
from mithridate.cli.terminal import writable


def test_a_fault_of_the_program_has_an_exit_code_of_its_own_and_keeps_its_traceback(mithridate, monkeypatch, tmp_path):
    monkeypatch.setattr("mithridate.data.catalogue.CATALOGUE", None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failed = mithridate("datasets")
    assert failed.returncode == 4
    assert failed.stderr.startswith("mithridate: a fault of the program, not of your input: AttributeError: ")
    assert failed.stderr.count("\n") == 1
    (kept,) = tmp_path.glob("mithridate-*.txt")
    assert f"please report it with {kept}; " in failed.stderr
    assert kept.read_text().startswith("Traceback")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert "please report it; " in mithridate("datasets").stderr


def test_a_user_without_a_home_is_served(mithridate, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name in ("XDG_CACHE_HOME", "MITHRIDATE_DATA_DIR", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    told = mithridate("datasets")
    assert told.returncode == 0, told.stderr
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@posix
def test_a_reader_who_leaves_early_is_no_gate():
    command = f"{sys.executable} -c 'from mithridate.cli import main; main()' audit --help"
    script = f"set -o pipefail; {command} | true; echo ${{PIPESTATUS[0]}}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert told.stdout.strip() in ("0", "141"), told.stderr


def test_what_a_terminal_cannot_show_is_spelled_out():
    assert "λ ≥ 1 ± ½, “a” → ‖w‖²".encode("ascii", writable()) == b'lambda >= 1 +/- ?, "a" -> ||w||^2'


def test_the_users_matplotlibrc_has_no_say(result, tmp_path, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    folder = result.save(tmp_path / "run")
    assert (folder / "figures" / "error.png").stat().st_size > 0
    assert mpl.rcParams["text.usetex"]


@pytest.mark.parametrize("part", ["draw_all", "write_report"])
def test_a_picture_that_fails_takes_no_number_with_it(result, tmp_path, monkeypatch, part):
    def failing(*given):
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(f"mithridate.results.results.{part}", failing)
    named = "figures/" if part == "draw_all" else "report.html"
    with pytest.warns(UserWarning, match=f"{named} could not be drawn: RuntimeError: no font$"):
        folder = result.save(tmp_path / "run")
    there = {path.name for path in Path(folder).iterdir()}
    assert {"audit.json", "records.parquet", "candidates.parquet", "poison", "figures"} <= there
    assert ("report.html" in there) == (part == "draw_all")
