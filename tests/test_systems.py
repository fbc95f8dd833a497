"""Other systems than this one: what they lack is taken away, what they do otherwise is done so here."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import mithridate as mi
from chains import Count, Counting
from mithridate.execution.chains import stream
from mithridate.files import durable, limits, systems
from stopping import DATA, TINY, assert_same


@pytest.fixture
def windows(monkeypatch):
    """Opens no folder, flushes no file that is open to be read only, and has neither these calls nor this signal."""
    opened, synced, writable = os.open, os.fsync, set()

    def open_file(path, flags, *rest, **named):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        number = opened(path, flags, *rest, **named)
        (writable.add if flags & (os.O_RDWR | os.O_WRONLY) else writable.discard)(number)
        return number

    def sync(number):
        if number not in writable:
            raise OSError(9, "Bad file descriptor")
        synced(number)

    monkeypatch.setattr(systems, "WINDOWS", True)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    lacking = {name: value for name, value in vars(signal).items() if name not in ("pthread_sigmask", "SIGKILL")}
    monkeypatch.setattr(systems, "signal", SimpleNamespace(**lacking))
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # it opens the folders that it removes


@pytest.mark.usefixtures("undrawn")
def test_an_audit_is_stored_and_gone_on_with_where_folders_cannot_be_opened(tmp_path, windows):
    whole = mi.audit(DATA, **TINY)
    asked = iter((False,) * 5)
    with pytest.raises(mi.Interrupted):
        mi.audit(DATA, out=tmp_path / "run", stop=lambda: next(asked, True), **TINY)
    assert_same(mi.resume(tmp_path / "run"), whole)
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)


def test_a_folder_is_still_flushed_where_it_can_be(tmp_path, monkeypatch):
    """Or the above would pass for a program that flushes nothing."""
    flushed, synced = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (flushed.append(os.fstat(number).st_ino), synced(number)))
    durable.write_whole(tmp_path / "file", lambda file: file.write(b"whole"))
    assert flushed == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


class Listening(Counting):
    """Count, and say what the process does when it is asked to stop, where it would say what failed."""

    def run(self, chain, pace):
        for counted in super().run(chain, pace):
            yield counted._replace(failed=f"{signal.getsignal(signal.SIGINT)}, {signal.getsignal(signal.SIGTERM)}")


def test_workers_start_where_neither_signals_are_blocked_nor_cores_given_out(tmp_path, windows):
    found = list(stream(Listening(str(tmp_path)), [Count("a", 3), Count("b", 2)], "processes:2", lambda: False))
    assert sorted(counted.number for counted in found) == [0, 0, 1, 1, 2]
    assert os.getpid() not in {counted.process for counted in found}
    assert {counted.failed for counted in found} == {f"{signal.SIG_IGN}, {signal.SIG_IGN}"}, "they ignore Ctrl-C"


@pytest.mark.parametrize(
    ("code", "told"),
    [(0, "ended (exit code 0)"), (3, "ended (exit code 3)"), (-15, "was killed (signal 15)")],
)
def test_how_a_process_ended_is_told_without_the_signal_that_windows_lacks(code, told, windows):
    assert systems.how_it_ended(code) == told


def test_a_killed_process_may_have_been_out_of_memory():
    assert systems.how_it_ended(-9) == "was killed (signal 9): out of memory?"


@pytest.mark.parametrize("name", ["C:\\poison.npz", "C:poison.npz", "\\poison.npz", "//host/share/a", "a\\..\\..\\b"])
def test_names_that_lead_out_on_windows_are_refused_everywhere(name, tmp_path):
    with pytest.raises(ValueError, match="leads out"):
        limits.contained(tmp_path, name)


def test_a_path_that_is_spelled_otherwise_is_the_same_where_case_does_not_count(monkeypatch):
    assert not systems.same_path("/A/b", "/a/B")
    monkeypatch.setattr(os.path, "normcase", str.lower)
    assert systems.same_path("/A/b", "/a/B")


def test_a_terminal_of_another_encoding_gets_the_whole_table(tmp_path):
    """A Windows console of old has no λ; nothing is lost but the letter."""
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    code = "import sys; from mithridate.cli import main; sys.argv = ['mithridate', 'datasets']; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, check=True)
    assert b"breast-cancer" in done.stdout
    assert not done.stderr


def test_files_have_the_same_line_ends_everywhere(run):
    assert b"\r\n" not in (run / "audit.json").read_bytes()
