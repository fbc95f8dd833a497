"""A hostile file can do no more than be refused: bombs, lies, links, and whatever a fuzzer has found."""

import ast
import gzip
import io
import json
import os
import re
import struct
import tomllib
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

import mithridate as mi
import targets
from conftest import posix
from mithridate.configuration.config import AuditConfig
from mithridate.data import downloads
from mithridate.data.tables import read_dataset
from mithridate.files import limits
from mithridate.results.report.document import render
from targets import npy, npz, parquet, saved

SOURCE = Path(mi.__file__).parent
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def leave_nothing() -> Iterator[None]:
    yield
    targets.clean_up()


def zipped(*members: tuple[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


X, Y = npy(np.ones((9, 2))), npy(np.arange(9) % 2)
TWICE = zipped(("x.npy", X), ("z.npy", X)).replace(b"z.npy", b"x.npy")


# fmt: off
ARCHIVES = {
    "bomb": (zipped(("a.npy", header("(134217728,)", "|u1") + bytes(2**27))), "unpacked; at most"),
    "path": (zipped(("../a.npy", X)), "is no array's name"),
    "backslash": (zipped(("a\\b.npy", X)), "is no array's name"),
    "no array": (zipped(("a.txt", b"hello")), "is no array's name"),
    "twice": (TWICE, "is there twice"),
    "many": (zipped(*((f"a{i}.npy", X) for i in range(1001)), how=0), "1,001 arrays"),
    "another packing": (zipped(("a.npy", X), how=zipfile.ZIP_BZIP2), "packed in an unknown way"),
    "pickle": (npz(a=np.array([{}], object)), "pickled Python objects"),
    "records": (npz(a=np.zeros(3, "i4,f4")), "save numbers"),
    "dates": (npz(a=np.zeros(3, "M8[s]")), "save numbers"),
    "long double": (npz(a=np.zeros(3, np.longdouble)), "save numbers"),
    "lying shape": (zipped(("a.npy", header("(1000000000000,)") + bytes(72))), "which is not its size"),
    "negative shape": (zipped(("a.npy", header("(-3, -3)") + bytes(72))), "cannot be|damaged"),
    "deep header": (zipped(("a.npy", header("(" * 3000 + ")" * 3000))), "."),
    "wrong checksum": (zipped(("a.npy", X), how=0).replace(b"\xf0\x3f", b"\xf0\x40", 1), "CRC"),
    "surrogates": (npz(a=np.array(["\ud800"])), "not Unicode"),
    "no code point": (zipped(("a.npy", header("(1,)", "<U1") + b"\xff" * 4)), "not Unicode"),
    "trailing comment": (zipped(("a.npy", X)) + b"PK\5\6", "no archive"),
    "cut": (zipped(("a.npy", X))[:-9], "no archive"),
    "empty": (b"", "no archive"),
}
# fmt: on


@pytest.mark.parametrize(("content", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, content, message):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            limits.read_npz(path, most=MIB)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(mi.DataError):
        read_dataset(tmp_path / "own.npz")


def test_a_huge_table_of_contents_is_refused(tmp_path):
    packed = bytearray(zipped(("a.npy", X)))
    packed[-10:-6] = struct.pack("<I", 2**30)
    (tmp_path / "a.npz").write_bytes(packed)
    with pytest.raises(ValueError, match="table of contents has 1,073,741,824 bytes"):
        limits.read_npz(tmp_path / "a.npz")


def test_arrays_of_every_honest_kind_are_read(tmp_path):
    arrays: dict[str, Any] = {
        "scalar": np.array(3.0),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array([["x", "é𝄞"]], ">U2"),
        "none": np.zeros((0, 4)),
        "flags": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = limits.read_npz(tmp_path / "a.npz")
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        assert limits.npz_shapes(tmp_path / "a.npz") == {name: array.shape for name, array in arrays.items()}


# fmt: off
PLAIN = {
    "deep": ("toml", "a = " + "[" * 40 + "]" * 40, "nests more than 32"),
    "very deep": ("toml", "a = " + "[" * 20000, "damaged"),
    "dotted": ("toml", "a" + ".a" * 20000 + " = 1", "more than 1,000 dots"),
    "large": ("toml", "#" * 2**17, "at most 65,536"),
    "digits": ("toml", "seed = " + "9" * 5000, "digits"),
    "hexadecimal": ("toml", "seed = 0x" + "f" * 5000, "digits"),
    "not UTF-8": ("toml", b"a = '\xff'", "utf-8"),
    "JSON deep": ("json", "[" * 40 + "]" * 40, "nests more than 32"),
    "JSON very deep": ("json", "[" * 10**6, "damaged"),
    "JSON keys": ("json", '{"\\ud800": 1}', "surrogates"),
    "JSON infinite": ("json", "[Infinity]", "not a finite number"),
    "JSON overflow": ("json", "[1e999]", "not a finite number"),
    "JSON digits": ("json", "[" + "9" * 200 + "]", "200 digits"),
    "JSON text": ("json", '"' + "x" * 70000 + '"', "at most 65,536"),
}
# fmt: on


@pytest.mark.parametrize(("kind", "text", "message"), PLAIN.values(), ids=PLAIN)
def test_hostile_text_is_refused(tmp_path, kind, text, message):
    path = tmp_path / f"own.{kind}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        (limits.read_toml if kind == "toml" else limits.read_json)(path)
    if kind == "toml":
        with pytest.raises(mi.InputError, match=r"own\.toml"):
            AuditConfig.read(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 10**400}, "'train' cannot be used: an integer has more than 100 digits"),
        ({"dataset": "a-" + "v" * 60000 + "!"}, "at most 4,096"),
        ({"hidden": ["1" * 5000]}, "at most 4,096"),
        ({"policies": ["\udc80"]}, "'policies' cannot be used"),
        ({"drop": [[[]]]}, "drop"),
        ({"initial": "9" * 4000}, "at most 100"),
        ({"train": "9" * 400}, "at most 100"),
    ],
)
def test_hostile_options_are_refused(options, message):
    with pytest.raises(mi.InputError, match=message):
        AuditConfig.of(**{"dataset": "wine", **options})


@posix
def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "audit.json")
    with pytest.raises(ValueError, match="no regular file"):
        limits.regular_file(tmp_path, "audit.json")
    with pytest.raises(mi.StorageError, match="no regular file"):
        mi.load_result(tmp_path)
    os.mkfifo(tmp_path / "own.csv")
    with pytest.raises(mi.DataError, match="no regular file"):
        read_dataset(tmp_path / "own.csv", "t")


@pytest.mark.parametrize("name", ["/etc/hostname", "../x", "a/../../x", "a\0b"])
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        limits.contained(tmp_path, name)


@posix
def test_links_in_a_run_directory_are_not_followed(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.npz").write_bytes(npz(a=np.ones(3)))
    run = tmp_path / "run"
    run.mkdir()
    (run / "poison").symlink_to(tmp_path / "secret")
    (run / "audit.json").symlink_to("/etc/hostname")
    (run / "loop").symlink_to("loop")
    for name in ("poison/x.npz", "audit.json", "loop"):
        with pytest.raises((ValueError, OSError), match="symbolic link"):
            limits.regular_file(run, name)
    with pytest.raises(mi.StorageError, match="symbolic link"):
        mi.load_result(run)
    # Where the folder itself stands is its user's own choice.
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert limits.regular_file(tmp_path / "link", "x.npz")


# fmt: off
IDX = {
    "bomb": gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 2**29) + bytes(2**29 // 64), 9) * 1,
    "lying": gzip.compress(b"\0\0\x08\3" + struct.pack(">III", 2**31, 2**31, 4) + bytes(9)),
    "many axes": gzip.compress(b"\0\0\x08\xff" + bytes(4 * 255)),
    "no header": gzip.compress(b"\0\0\x08"),
    "cut": gzip.compress(bytes(100))[:-12],
    "nothing": b"",
}
# fmt: on


@pytest.mark.parametrize("content", IDX.values(), ids=IDX)
def test_hostile_images_are_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", MIB)
    (tmp_path / "own.gz").write_bytes(content)
    with pytest.raises(mi.DataError, match=r"own\.gz cannot be read"):
        downloads.read_idx(tmp_path / "own.gz")


def test_what_is_downloaded_has_checksums_and_comes_over_https():
    for source in downloads.SOURCES.values():
        assert all(url.startswith("https://") for url in source.urls)
        assert not source.urls or all(len(known or "") == 64 for known in source.files.values())


def csv(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def with_cells(cells: list[Any], name: str = "a") -> bytes:
    return csv(pd.DataFrame({name: cells, "t": [i % 2 for i in range(len(cells))]}).to_csv(index=False))


def lying_pandas() -> bytes:
    """A Parquet file whose notes for pandas are not what pandas expects."""
    return parquet(pd.DataFrame({"a": [1.5] * 9, "t": [0] * 9})).replace(b'"numpy_type"', b'"numpy_tipe"')


def text_bomb() -> bytes:
    """A small Parquet file of one long text in every row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2**16, pa.int32()), pa.array(["x" * 2**16]))
    packed = io.BytesIO()
    pq.write_table(pa.table({"a": texts, "t": [0, 1] * 2**15}), packed, store_schema=False)
    return packed.getvalue()


# fmt: off
FILES = {
    "carriage return in the header": ("own.csv", b" a\0\0\0\r,1\n", "control character"),
    "wide header": ("own.csv", b"," * 10**6 + b"\n1\n", "1,000,001 columns; at most"),
    "one open quote": ("own.csv", b'a,t\n"' + b"x\n" * 10**6, "cannot be read|cells"),
    "name with a NUL": ("own.csv", with_cells([*range(20)], "a\0"), "column 'a.x00' .*control"),
    "long name": ("own.csv", with_cells([*range(20)], "a" * 2000), "more than 1,000 characters"),
    "long category": ("own.csv", with_cells(["u" * 2000, "v"] * 10), "more than 1,000 characters"),
    "more than float32 holds": ("own.csv", with_cells([1e99, *range(19)]), "infinite or above 1e.30"),
    "dates": ("own.csv", with_cells([f"2024-01-{i:02}" for i in range(1, 21)]), "dates"),
    "huge index": ("own.svm", b"1 99999999999999999999:1\n0 1:1\n" * 9, "svmlight"),
    "index above 2^31": ("own.svm", b"1 3000000000:1\n0 1:1\n" * 9, "svmlight|too large"),
    "labels that are NaN": ("own.svm", b"nan 1:1\n0 1:2\n" * 9, "label"),
    "notes for pandas": ("own.parquet", lying_pandas(), "cannot be read as Parquet"),
    "lists": ("own.parquet", parquet(pd.DataFrame({"a": [[1.5]] * 9, "t": [0] * 9})), "holds lists"),
}
# fmt: on


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_hostile_tables_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(mi.DataError, match=message):
        read_dataset(tmp_path / name, None if name.endswith("svm") else "t")


def test_texts_of_a_dictionary_are_not_written_out_where_they_do_not_fit(tmp_path):
    (tmp_path / "own.parquet").write_bytes(text_bomb())
    assert (tmp_path / "own.parquet").stat().st_size < MIB
    with pytest.raises(ValueError, match="bytes when written out"):
        limits.read_parquet(tmp_path / "own.parquet", 2**30)


def test_a_file_whose_name_is_not_unicode_is_refused(tmp_path):
    path = tmp_path / "own\udc80.csv"
    path.write_bytes(with_cells([*range(20)]))
    with pytest.raises(mi.DataError, match="name"):
        read_dataset(path, "t")


def test_whole_numbers_beyond_any_float_are_refused():
    frame = pd.DataFrame({"a": pd.Series([10**400, 1, 2, 3] * 5, dtype=object), "t": [0, 1] * 10})
    with pytest.raises(mi.DataError, match="column 'a' holds whole numbers that are too large"):
        mi.dataset_of(frame, "t")


def test_text_of_a_frame_that_is_not_unicode_is_refused():
    with pytest.raises(mi.DataError, match="'a' holds text that is not Unicode"):
        mi.dataset_of(pd.DataFrame({"a": pd.Series(["\udc80"] * 8, dtype=object), "t": [0, 1] * 4}), "t")


def test_names_are_drawn_as_they_are(tmp_path):
    """Neither as formulas, which a dollar sign would begin, nor as HTML."""
    run = tmp_path / "run"
    run.mkdir()
    for path in saved("image").rglob("*.*"):
        (run / path.relative_to(saved("image"))).parent.mkdir(exist_ok=True)
        (run / path.relative_to(saved("image"))).write_bytes(path.read_bytes())
    said = json.loads((run / "audit.json").read_text())
    said["dataset"] |= {"name": "$\\frac{$", "classes": ["$_", "$^{$", "<script>alert(1)</script>"]}
    (run / "audit.json").write_text(json.dumps(said))
    frame = pd.read_parquet(run / "records.parquet").assign(objective="target-class $\\x$", dataset="$\\$$")
    for name in ("records", "candidates"):
        frame.to_parquet(run / f"{name}.parquet", index=False)
    found = mi.load_result(run)
    for figure in found.plot().values():
        figure.draw_without_rendering()
    assert "<script>alert" not in render([found])


def test_weights_as_large_as_their_type_holds_are_drawn():
    """Those of a victim whose training all but diverged."""
    made = targets.made_run(image=False)
    for arrays in made.poison.values():
        arrays["weights_poisoned_0"] = np.array([-3e38, 0.0, 3e38] * 5, "f4")
    page = render([made])
    assert "Infinity" not in page
    assert "NaN" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_nothing_is_pickled_and_nothing_is_evaluated():
    """Neither imported nor called, anywhere; but workers, which trust one another, are sent their work by joblib."""
    for path in SOURCE.rglob("*.py"):
        workers = {"joblib"} if path.parent.name == "execution" else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
                assert (
                    not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} - workers
                ), path
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called not in {"eval", "exec", "read_pickle", "to_pickle"}, path
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("allow_pickle", "False") == "False", path
                assert called != "load" or "np" not in ast.unparse(node.func) or "allow_pickle" in given, path


def test_the_lock_fits_what_the_package_asks_for():
    root = Path(__file__).resolve().parents[1]
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (root / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", lock, re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name]), f"{requirement}: run `make lock`"
    assert "://" not in lock
    assert lock.count("--hash=sha256:") >= len(locked)
