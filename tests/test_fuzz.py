"""Whatever a file, an option or a run directory says, nothing but an error of our own comes of it."""

import functools
import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import targets
from mithridate.configuration.config import AuditConfig
from mithridate.data.tables import dataset_of
from targets import TARGETS, refused, seeds, seen, used

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
QUICK = settings(derandomize=True, max_examples=15, deadline=None, suppress_health_check=SLOW, database=None)
LONG = settings(QUICK, derandomize=False, max_examples=1000)

NASTY = (
    "", " ", "\0", "a\rb", "\u202e", "$\\frac{$", "$x_", "%s{}", "<script>", "=cmd()", "../x", "9" * 400, "x" * 5000,
    "NaN", "-inf", "1e999", "0x1F", "١٢", "1_0", "05", "True", "2024-01-01", "λ, λ 1", "learned, λ 7", "\udc80", "null",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**90, 10**400, 0.5, -0.0, 1e-320, 1e38, 1e200, 1e308)
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *NASTY]) | st.integers() | st.floats() | st.text(max_size=8)
PLAIN = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part), max_leaves=6
)


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    for kind in targets.RUNS:
        original(kind)
    yield
    targets.clean_up()


@st.composite
def changed(draw: st.DrawFn, target: str, good: list[bytes]) -> bytes:
    """Bytes near those of a file that is in order: pieces taken out, put in, doubled."""
    content = bytearray(draw(st.sampled_from(good)))
    first = int(target == "run")
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(first, max(first, len(content))))
        end = start + draw(st.integers(0, 12))
        words = st.sampled_from([word.encode("utf-8", "surrogateescape") for word in NASTY])
        piece = draw(st.binary(max_size=4) | words | st.just(bytes(content[start:end]) * 2))
        content[start:end] = piece
    return bytes(content)


def each_target(tries: settings) -> Any:
    def check(target: str) -> None:
        @tries
        @given(changed(target, seeds(target)))
        def run(content: bytes) -> None:
            TARGETS[target](content)

        run()

    return check


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_are_refused(target):
    each_target(QUICK)(target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_many_damaged_files_are_refused(target):
    each_target(LONG)(target)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> None:
    *way, last = at
    functools.reduce(lambda part, key: part[key], way, value)[last] = new


def original(kind: str) -> tuple[dict[str, Any], pd.DataFrame, dict[str, np.ndarray]]:
    run = targets.saved(kind)
    with np.load(run / ARRAYS_OF) as arrays:
        return json.loads((run / "audit.json").read_text()), pd.read_parquet(run / "records.parquet"), dict(arrays)


ARRAYS_OF = "poison/split0-fixed_-8.npz"
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.array(1.0),
        np.full((4, 3), np.nan),
        np.full(7, 1e38),
        np.array(["x"]),
        np.arange(4) * 100,
        np.ones(4),
    ]
)


@st.composite
def changed_runs(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    """A run, and the files of its directory that differ, all of them well-formed."""
    kind = draw(st.sampled_from(list(targets.RUNS)))
    summary, frame, arrays = original(kind)
    match draw(st.sampled_from(["audit.json", "records.parquet", "npz"])):
        case "audit.json":
            for _ in range(draw(st.integers(1, 2))):
                put(summary, draw(st.sampled_from(list(places(summary)))), draw(PLAIN))
            return kind, {"audit.json": json.dumps(summary).encode()}
        case "records.parquet":
            for _ in range(draw(st.integers(1, 2))):
                column = draw(st.sampled_from(list(frame.columns)))
                value = frame[column].iloc[0]
                new = draw(st.floats() | st.sampled_from([1e300, -1e300, 1e-300, np.nan]))
                if isinstance(value, str):
                    new = draw(st.sampled_from([word for word in NASTY if word != "\udc80"]))
                elif isinstance(value, np.ndarray | list):
                    new = [new] * draw(st.integers(0, 3))
                if not isinstance(value, str | np.ndarray | list) and draw(st.booleans()):
                    new = type(value)(draw(st.sampled_from([0, 1, 3, 99])))
                rows = range(len(frame)) if draw(st.booleans()) else [draw(st.integers(0, len(frame) - 1))]
                cells: list[Any] = list(frame[column])
                for row in rows:
                    cells[row] = new
                frame[column] = cells
                if isinstance(new, str) and column == "policy":
                    summary["verdict"]["tolerance"][new] = 0.1
            try:
                packed = targets.parquet(frame)
            except (ValueError, TypeError, OverflowError):
                packed = b""
            return kind, {"records.parquet": packed, "audit.json": json.dumps(summary).encode()}
        case _:
            name = draw(st.sampled_from(list(arrays)))
            old = arrays[name]
            arrays[name] = draw(ARRAYS | st.builds(lambda v: np.full_like(old, v), st.sampled_from([0, 1, -1, 100])))
            if old.dtype.kind == "f":
                limits = st.sampled_from([np.nan, np.inf, 3e38, 1e30, -3e38])
                arrays[name] = draw(st.just(arrays[name]) | st.builds(lambda v: np.full_like(old, v), limits))
            return kind, {ARRAYS_OF: targets.npz(**arrays)}


def check_run(run: tuple[str, dict[str, bytes]], draw: bool) -> None:
    kind, files = run
    folder = targets.FOLDER / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(targets.saved(kind), folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    seen(folder, draw=draw)


def test_the_runs_that_are_changed_load():
    assert all(seen(targets.saved(kind), draw=True) for kind in targets.RUNS)


@settings(QUICK, max_examples=12)
@given(changed_runs())
def test_a_run_that_loads_can_be_shown(run):
    check_run(run, draw=False)


@pytest.mark.slow
@LONG
@given(changed_runs())
def test_many_runs_that_load_can_be_drawn(run):
    check_run(run, draw=True)


OPTIONS = st.dictionaries(st.sampled_from(list(AuditConfig.model_fields)), PLAIN, max_size=4)


@settings(QUICK, max_examples=80)
@given(OPTIONS)
def test_options_are_taken_or_refused(options):
    refused(lambda: AuditConfig.of(**{"dataset": "digits-0v8", **options}))


CELLS = st.lists(SCALARS, min_size=1, max_size=4).map(lambda cells: (cells * 16)[:16])


COLUMNS = st.dictionaries(SCALARS.map(str).filter(lambda name: "\udc80" not in name), CELLS, min_size=1, max_size=3)
MISSING = st.sampled_from(["refuse", "drop", "impute"])


@settings(QUICK, max_examples=12)
@given(COLUMNS, MISSING)
def test_frames_are_taken_or_refused(columns, missing):
    check_frame(columns, missing)


@pytest.mark.slow
@LONG
@given(COLUMNS, MISSING)
def test_many_frames_are_taken_or_refused(columns, missing):
    check_frame(columns, missing)


def check_frame(columns: dict[str, list[Any]], missing: str) -> None:
    frame = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
    frame = frame.assign(t=["p", "q"] * 8)
    used(refused(lambda: dataset_of(frame, "t", missing=missing)))
    text = io.BytesIO(frame.to_csv(index=False, errors="surrogateescape").encode("utf-8", "surrogateescape"))
    TARGETS["csv"](text.getvalue())
