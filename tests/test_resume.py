"""Whatever stops an audit, it goes on to the same bits; and a run directory belongs to one audit and one process."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from conftest import SEED, posix
from mithridate.auditing import measuring, store
from mithridate.execution.work import Pace
from mithridate.files import durable
from stopping import CELLS, DATA, FLAGS, TINY, after, assert_same


@pytest.fixture(scope="module")
def whole() -> mi.AuditResult:
    """The audit that nothing interrupted."""
    return mi.audit(DATA, **TINY)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Save unfinished cells at every round; write no pictures, which take long and have tests of their own."""
    monkeypatch.setattr(Pace, "EVERY", 0.0)
    monkeypatch.setattr(mi.AuditResult, "plot", lambda self: {})
    monkeypatch.setattr("mithridate.results.results.write_report", lambda path, results: path.write_text("report"))


def test_stopped_again_and_again_it_comes_to_the_same_bits(tmp_path, whole, monkeypatch):
    """It goes on from the middle of a cell, by the number of steps taken: none is taken twice."""
    import mithridate.attacks.bilevel

    taken, take = [], mithridate.attacks.bilevel.take_steps
    monkeypatch.setattr("mithridate.attacks.bilevel.take_steps", lambda *given: taken.append(given[2]) or take(*given))
    stops, found, said = 0, None, ""
    while found is None:
        try:
            found = mi.audit(DATA, out=tmp_path / "run", stop=after(12), **TINY)
        except mi.Interrupted as interrupted:
            stops, said = stops + 1, str(interrupted)
            assert not (tmp_path / "run" / "audit.json").exists()
    assert stops > 5, "within cells as well"
    assert sum(taken) == 2 * 2 * 2 * 10
    assert f"`mithridate resume {tmp_path / 'run'}` goes on" in said
    assert_same(found, whole)
    assert_same(mi.load_result(tmp_path / "run"), whole)
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name[0] != "."} == {
        *("manifest.json", "audit.json", "records.parquet", "candidates.parquet", "report.html", "poison", "figures")
    }


def test_what_is_reported_is_on_the_disk(tmp_path):
    """Each cell, before progress counts it."""
    seen = []

    def look(at: Any) -> None:
        cells = list((tmp_path / "run" / "cells").glob("*-ratio*.npz"))
        assert len(cells) >= at.done
        seen.append(at.done)

    mi.audit(DATA, out=tmp_path / "run", on_progress=look, **CHEAP)
    assert seen[-1] == 2


class Killed(BaseException):
    """What a process feels that is killed: nothing of it runs any more."""


WRITES, REMOVES = ("mkstemp", "fsync", "replace", "mkdir", "rename"), ("unlink", "rmdir")


class Fault:
    """The file system's calls, counted; the nth fails, and if it is death all that come after it.

    A full disk stops what may need room.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException):
        self.at, self.error, self.count, self.struck = at, error, 0, ""
        names = WRITES + (REMOVES if isinstance(error, Killed) else ())
        for module, name in ((durable.tempfile, "mkstemp"), *((os, name) for name in names[1:])):
            patch.setattr(module, name, self._counted(getattr(module, name), name))

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            if not any("run" in str(value) or isinstance(value, int) for value in (*given, *named.values())):
                return call(*given, **named)
            self.count += 1
            if self.count == self.at or (self.count > self.at and isinstance(self.error, Killed)):
                self.struck = self.struck or name
                raise self.error
            return call(*given, **named)

        return counted


def struck(tmp_path: Path, error: BaseException, options: dict[str, Any], every: int) -> Iterator[tuple[int, str]]:
    """Audit with a fault at the first write, at the second and so on, or every nth, until all are through."""
    for at in range(1, 1000, every):
        out = tmp_path / f"run{at}"
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, error)
            said = ""
            try:
                mi.audit(DATA, out=out, **options)
            except Killed:
                pass
            except mi.StorageError as told:
                said = str(told)
            if not fault.struck:
                return
        # Some it can do without, such as making a directory that is there.
        assert not said or "No space left" in said
        yield at, fault.struck


LEAST = TINY | {"splits": 1, "policies": ("learned",), "points": 3, "joint_hyperiterations": 4}
CHEAP = LEAST | {"policies": ("fixed=-2",), "hyperiterations": 4}


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "every"),
    [
        pytest.param(Killed(), 7, id="killed"),
        pytest.param(FULL, 7, id="full"),
        pytest.param(Killed(), 1, id="killed-every", marks=pytest.mark.slow),
        pytest.param(FULL, 1, id="full-every", marks=pytest.mark.slow),
    ],
)
def test_a_fault_at_any_write_loses_nothing(tmp_path, error, every):
    expected, kinds, count = mi.audit(DATA, **CHEAP), set(), 0
    for at, kind in struck(tmp_path, error, CHEAP, every):
        kinds.add(kind)
        count += 1
        out = tmp_path / f"run{at}"
        assert_same(mi.audit(DATA, out=out, **CHEAP), expected)
        assert_same(mi.load_result(out), expected)
        left = [path for path in out.rglob("*") if durable.PART in path.name or path.name == "cells"]
        assert left == [], "what was being written is cleared away"
    assert count > 40 / every
    assert kinds >= {"mkstemp", "fsync", "replace"} if every > 1 else {*WRITES}


def begun(tmp_path: Path, *arguments: str, every: float = 0.0) -> "subprocess.Popen[str]":
    """The command line in a process of its own, which saves at every round."""
    program = (
        f"from mithridate.execution.work import Pace; Pace.EVERY = {every}; from mithridate.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "100"},
    )


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@posix
def test_stopped_before_anything_is_computed_it_says_so_in_one_line(tmp_path):
    """Wherever the imports stand, for whatever is raised in a library's callback is lost."""
    asked = "audits.asked_for = lambda *given: os.kill(os.getpid(), signal.SIGINT)"
    code = f"import os, signal; from mithridate.cli import audits, main; {asked}; main()"
    found = subprocess.run([sys.executable, "-c", code, "audit", DATA], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (130, "\nmithridate: stopped before anything was computed\n")
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_says_how_to_go_on_and_leaves_with_130(tmp_path, whole, mithridate, number):
    """And while it runs, another process is refused its directory."""
    first = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run")
    wait_for(tmp_path / "run", "cells/*", first)
    second = mithridate("audit", DATA, *FLAGS, "--out", "run")
    assert second.returncode == 2
    assert "run is in use: another process computes there" in second.stderr
    first.send_signal(number)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "finishing the current step to save it" in said
    assert "`mithridate resume run` goes on" in said
    assert "Traceback" not in said
    done = mithridate("resume", "run", "--quiet")
    assert done.returncode == 0, done.stderr
    assert_same(mi.load_result(tmp_path / "run"), whole)


def kill_and_resume(tmp_path: Path, moments: list[float], wholly: mi.AuditResult) -> int:
    """Kill the audit at these moments of its run, one after the other, and have the last go on."""
    killed = 0
    for moment in moments:
        process = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run", "--quiet")
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate()
    last = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run", "--quiet")
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert_same(mi.load_result(tmp_path / "run"), wholly)
    return killed


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path, whole, mithridate):
    first = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run")
    wait_for(tmp_path / "run", "cells/*-midway.npz", first)
    first.kill()
    first.communicate()
    assert mithridate("audit", DATA, *FLAGS, "--out", "run", "--quiet").returncode == 0
    assert_same(mi.load_result(tmp_path / "run"), whole)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_goes_on(tmp_path, whole):
    """Ten runs, each killed twice at moments spread over all that it does, start, computing and writing its result."""
    draw, killed, length = random.Random(SEED), 0, 0.0
    for number in range(11):
        place, started = tmp_path / str(number), time.monotonic()
        place.mkdir()
        killed += kill_and_resume(place, [draw.uniform(0, length) for _ in range(2 if number else 0)], whole)
        length = length or time.monotonic() - started
    assert killed >= 15, "the others were through before"


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path, whole):
    """A small file system of its own: filled while the audit runs, emptied before it goes on."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "none", tmp_path]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("file systems can be mounted by root only")
    try:
        first = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run")
        wait_for(tmp_path / "run", "cells/*-ratio*.npz", first)
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "ballast").write_bytes(bytes(2**27))
        _, said = first.communicate(timeout=120)
        assert first.returncode == 2, said
        assert "No space left on device" in said
        assert "`mithridate resume run`" in said
        refused = begun(tmp_path, "audit", DATA, *FLAGS, "--out", "run")
        _, said = refused.communicate(timeout=120)
        assert refused.returncode == 2
        assert "No space left on device" in said
        (tmp_path / "ballast").unlink()
        assert kill_and_resume(tmp_path, [], whole) == 0
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_failed_cell_is_a_row_and_is_tried_again(tmp_path, whole, monkeypatch, mithridate):
    """Also in pictures and report, as they are."""
    monkeypatch.undo()
    measured = measuring.Bench.cell

    def fails(bench: Any, poisoning: Any) -> Any:
        where = bench.scenario.index, bench.attack.policy.name, len(poisoning.y_poison)
        if where == (1, "learned", 3):
            raise MemoryError("Unable to allocate 7 TiB")
        return measured(bench, poisoning)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.Bench, "cell", fails)
        patch.setattr(Pace, "EVERY", 0.0)
        done = mithridate("audit", DATA, *FLAGS, "--out", "run")
    assert done.returncode == 3
    assert "`mithridate resume run` tries them again" in done.stderr
    found = mi.load_result(tmp_path / "run")
    assert found.status == "failed"
    failed = found.frame[found.frame["status"] == "failed"]
    assert failed[["split", "policy", "n_poison"]].to_numpy().tolist() == [[1, "learned", 3], [1, "learned", 5]]
    assert failed["test_error"].isna().all()
    assert "out of memory (Unable to allocate 7 TiB): use hypergradient = checkpointed" in failed["reason"].iloc[0]
    assert "ratio 2 failed" in failed["reason"].iloc[1]
    assert "cells are marked failed" in done.stdout
    assert "out of memory" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    again = mithridate("resume", "run", "--quiet")
    assert again.returncode == 0, again.stderr
    assert_same(mi.load_result(tmp_path / "run"), whole)
    assert not (tmp_path / "run" / "cells").exists()


def test_a_victim_whose_training_diverges_has_failed(tmp_path):
    """Its attack has not: when it is tried again, only the measuring is."""
    measure = measuring.retrain_and_measure

    def diverged(*given: Any) -> Any:
        found = measure(*given)
        return found._replace(metrics=jax.tree.map(lambda value: value * np.nan, found.metrics))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "retrain_and_measure", diverged)
        found = mi.audit(DATA, out=tmp_path / "run", **LEAST)
    assert found.frame["status"].str.startswith("failed+non-finite").all()
    assert found.frame["reason"].str.contains("training the victim diverged").all()
    assert len(found.poison[0, "learned"]["x_poison"]) == 3
    assert mi.load_result(tmp_path / "run").status == "failed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mithridate.attacks.bilevel.take_steps", None)
        again = mi.audit(DATA, out=tmp_path / "run", **LEAST)
    assert_same(again, mi.audit(DATA, **LEAST))


def test_a_chain_that_fails_at_once_leaves_the_others(tmp_path, whole, monkeypatch):
    run = mi.Attack.stages

    def fails(self: Any, *given: Any) -> Any:
        if self.policy.name == "cv-clean":
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return run(self, *given)

    monkeypatch.setattr(mi.Attack, "stages", fails)
    found = mi.audit(DATA, out=tmp_path / "run", **TINY)
    own = found.frame["policy"] == "learned"
    pd.testing.assert_series_equal(found.frame[own]["test_error"], whole.frame[own]["test_error"])
    assert found.frame[~own]["test_error"].isna().all()
    assert {policy for _, policy in found.poison} == {"learned"}
    assert len(mi.load_result(tmp_path / "run").frame) == CELLS


def test_an_audit_goes_on_with_another_execution(tmp_path, whole):
    run = tmp_path / "run"
    with pytest.raises(mi.Interrupted):
        mi.audit(DATA, out=run, stop=after(20), **TINY)
    assert store.Manifest.read(run).execution == "auto"
    assert_same(mi.resume(run, execution="serial"), whole)


def test_the_same_command_again_goes_on_without_naming_the_directory(tmp_path, whole, mithridate, monkeypatch):
    monkeypatch.setattr("mithridate.cli.audits.stopping", lambda: __import__("contextlib").nullcontext(after(20)))
    stopped = mithridate("audit", DATA, *FLAGS)
    assert stopped.returncode == 130
    assert "goes on" in stopped.stderr
    monkeypatch.setattr("mithridate.cli.audits.stopping", lambda: __import__("contextlib").nullcontext(lambda: False))
    done = mithridate("audit", DATA, *FLAGS, "--json")
    assert done.returncode == 0
    (run,) = tmp_path.glob("mithridate-*")
    assert_same(mi.load_result(run), whole)
    # Now that it is finished, it is shown again.
    monkeypatch.setattr("mithridate.auditing.audit.stream", None)
    for again in (mithridate("audit", DATA, *FLAGS, "--out", run, "--json"), mithridate("resume", run, "--json")):
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == json.loads(done.stdout)
