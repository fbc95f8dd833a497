"""A run directory belongs to one audit: what is damaged, another's or made to do harm is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mithridate as mi
from conftest import posix
from mithridate.auditing import store
from mithridate.execution.work import Pace
from stopping import DATA, TINY, after


def changed_manifest(**values: Any) -> Callable[[Path], Any]:
    def change(run: Path) -> None:
        said = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(said | values))

    return change


def linked(name: str) -> Callable[[Path], Any]:
    def change(run: Path) -> None:
        (run / name).rename(run.parent / "elsewhere")
        (run / name).symlink_to(run.parent / "elsewhere")

    return change


def cells_of(run: Path) -> list[Path]:
    return sorted((run / "cells").glob("*.npz"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run directory in which some cells are done and one is unfinished."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "EVERY", 0.0)
        with pytest.raises(mi.Interrupted):
            mi.audit(DATA, out=out, stop=after(20), **TINY)
    assert list(out.glob("cells/*midway.npz"))
    return out


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: (run / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda run: (run / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda run: (run / "manifest.json").write_text("[]"), "manifest.json"),
        (changed_manifest(format=1), "its format is 1, and this version goes on with 5"),
        (changed_manifest(data="0" * 64), "was changed: its hash is not that of its configuration"),
        (changed_manifest(versions={}), "another version: mithridate None there"),
        (changed_manifest(place="mnsit"), "cannot be loaded again: unknown data set"),
        (changed_manifest(place="digits-0v1"), "other data"),
        pytest.param(linked("manifest.json"), "symbolic link", marks=posix),
        pytest.param(linked("cells"), "symbolic link", marks=posix),
        pytest.param(linked(".lock"), "symbolic link", marks=posix),
        (lambda run: cells_of(run)[0].write_bytes(b"PK"), "remove it to have it computed again"),
        (lambda run: cells_of(run)[0].write_bytes(cells_of(run)[0].read_bytes()[:-90]), "remove it to have it"),
        (lambda run: np.savez(cells_of(run)[0], record=np.array("{}")), "belongs to another run"),
    ],
)
def test_a_directory_that_is_not_the_runs_own_is_refused(stopped, tmp_path, harm, message):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    harm(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(mi.StorageError, match=message):
        mi.resume(run)
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {**kept, **before} == kept, "nothing is lost"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "another configuration: seed = 0 there, 1 here"),
        ({"policies": ("learned",)}, "another configuration: policies"),
    ],
)
def test_another_audit_is_refused_the_directory(stopped, change, message):
    with pytest.raises(mi.StorageError, match=message):
        mi.audit(DATA, out=stopped, **TINY | change)


def test_code_is_not_run_because_a_directory_says_so(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    said = store.Manifest.read(run)
    config = said.config | {"model": "os:_exit", "execution": "auto"}
    made = store.Manifest.of(config, said.data, said.place, said.versions)
    (run / "manifest.json").write_text(made.model_dump_json())
    with pytest.raises(
        mi.InputError, match="it runs the code of os:_exit; if you trust this code, add --model os:_exit"
    ):
        mi.resume(run)
