"""Every way by which a file gets in, as a function of its bytes that may raise nothing but errors of our own.

`TARGETS` is what `fuzz/run.py` feeds to atheris, and `tests/test_fuzz.py` to Hypothesis; `seeds`, where it starts.
"""

import bz2
import functools
import gzip
import io
import json
import lzma
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.datasets import dump_svmlight_file

import mithridate as mi
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.objective import parse_objective
from mithridate.configuration.presets import PAPER_STRENGTHS
from mithridate.data import downloads
from mithridate.data.datasets import Dataset, Split
from mithridate.data.encoding import Schema
from mithridate.data.feasible import Box
from mithridate.data.restricting import restricted
from mithridate.data.tables import read_dataset, read_labelled, read_rows
from mithridate.defences.named import parse_policy
from mithridate.errors import MithridateError
from mithridate.hypergradients.steps import hyper_rule
from mithridate.results.records import Record, file_name, to_frame
from mithridate.results.report.document import render
from mithridate.results.verdict import parse_gate, verdict
from patients import patients

FOLDER = Path(tempfile.mkdtemp(prefix="mithridate-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
CLASSES = ("a", "b-as-c", "c", "0")


def refused(act: Callable[[], Any]) -> Any:
    """Return what `act` returns, or None where it raises an error of our own; anything else is a crash."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return act()
        except MithridateError:
            return None


def used(data: Dataset | None) -> None:
    """Go on with what was read: split it, write its rows back."""
    if data is None:
        return
    split = refused(data.split)
    if split is not None:
        assert np.isfinite(split.x_train).all()
        assert len(split.decode(split.x_valid, split.y_valid)) == len(split.y_valid)


def put(name: str, content: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


def from_csv(content: bytes) -> None:
    path = put("own.csv", content)
    own = {"missing": "category,impute", "join_rare": True, "max_categories": 2, "decimal": ",", "units": "%"}
    for options in ({"missing": "impute"}, {"missing": "drop"}, own | {"header": "none", "drop_constant": True}):
        used(refused(functools.partial(read_dataset, path, "last" if "header" in options else "t", **options)))
    refused(lambda: read_labelled(path, schema()))


def from_arff(content: bytes) -> None:
    used(refused(lambda: read_dataset(put("own.arff", content), "t", missing="impute")))


def from_packed(content: bytes) -> None:
    """A packed file, and any file whose name says nothing."""
    used(refused(lambda: read_dataset(put("own", content), "last", missing="impute")))


def from_parquet(content: bytes) -> None:
    used(refused(lambda: read_dataset(put("own.parquet", content), "t", missing="impute")))


def from_npz(content: bytes) -> None:
    used(refused(lambda: read_dataset(put("own.npz", content), missing="impute")))
    refused(lambda: read_rows(put("own.npz", content), pictures()))


def from_npy(content: bytes) -> None:
    """Two arrays, headers and all, in an archive that is in order."""
    x, _, y = content.partition(b"|--|")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", y)
    from_npz(packed.getvalue())


def from_svmlight(content: bytes) -> None:
    used(refused(lambda: read_dataset(put("own.svm", content), missing="impute")))


def from_idx(content: bytes) -> None:
    """Bytes in a gzip file that is in order, and as the gzip file itself."""
    refused(lambda: downloads.read_idx(put("packed.gz", gzip.compress(content, 1))))
    refused(lambda: downloads.read_idx(put("own.gz", content)))


def from_toml(content: bytes) -> None:
    path = put("own.toml", content)
    options = refused(lambda: AuditConfig.read(path)) or {}
    config = refused(lambda: AuditConfig.of(**{"dataset": "digits-0v8", **options}))
    if config is not None:
        for policy in config.policies:
            refused(lambda: parse_policy(policy, Box(*config.strength_bounds), hyper_rule("rprop", 0.9)))  # noqa: B023
        refused(lambda: parse_objective(config.objective, CLASSES))


def from_words(content: bytes) -> None:
    """Text of an option, as each of the options that are parsed."""
    text = content.decode("utf-8", "surrogateescape")
    refused(lambda: parse_policy(text, Box(*PAPER_STRENGTHS), hyper_rule("rprop", 0.9)))
    refused(lambda: parse_objective(text, CLASSES))
    refused(lambda: parse_gate(text, 0.2))
    for name in ("dataset", "objective", "strengths", "initial", "hidden", "train", "bounds", "model"):
        refused(lambda: AuditConfig.of(**{"dataset": "digits-0v8", name: text}))  # noqa: B023
    if "mnist" not in text:  # a large one is read for seconds, which is no fault
        refused(lambda: mi.load_dataset(text))
    refused(lambda: restricted(list(schema().columns), [text]))


def from_run(content: bytes) -> None:
    """One file of a run directory changed: the first byte says which."""
    files = run_files()
    name = list(files)[content[0] % len(files)] if content else "audit.json"
    folder = FOLDER / "run"
    if not folder.exists():
        folder.mkdir()
        (folder / "poison").mkdir()
        for other, text in files.items():
            (folder / other).write_bytes(text)
    if name.endswith(".npz"):
        packed = io.BytesIO()
        changed, _, array = content[1:].partition(b"|--|")
        with zipfile.ZipFile(io.BytesIO(files[name])) as old, zipfile.ZipFile(packed, "w") as new:
            for member in old.namelist():
                new.writestr(member, array if member.encode() == changed else old.read(member))
        (folder / name).write_bytes(packed.getvalue())
    else:
        (folder / name).write_bytes(content[1:])
    try:
        # Showing takes a hundred times as long as loading, in which nearly all there is to find lies.
        seen(folder, show=zlib.crc32(content) % 16 == 0)
    finally:
        (folder / name).write_bytes(files[name])


def seen(folder: Path, show: bool = True, draw: bool = False) -> mi.AuditResult | None:
    """Load a run directory and show all that is in it: what loads has to be drawn and rendered."""
    found = refused(lambda: mi.load_result(folder))
    if found is not None and show:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            render([found]).encode()
            for figure in found.plot().values() if draw else ():
                figure.draw_without_rendering()
    return found


@functools.cache
def schema() -> Schema:
    """The columns of a table, of every kind."""
    found = mi.dataset_of(patients(80).rename(columns={"diagnosis": "t"}), "t").schema
    assert found is not None
    return found


@functools.cache
def pictures() -> Split:
    return mi.load_dataset("digits-0v8").split(20, 20)


def made_run(image: bool) -> mi.AuditResult:
    """A result as an audit might have it, of a table or of pictures of three classes."""
    rows, m, k = patients(4), 6, 3 if image else 2
    names = [f"x{i}" for i in range(m)]
    kinds = ["number", "integer", "integer", "target", "boolean", "category", "number"]
    config = mi.AuditConfig.of(dataset="own.csv", train=40, valid=40, points=4, batch=2, splits=2, seed=7)
    anything: dict[str, Any] = {field.name: _any(field, k) for field in fields(Record)} | {"score": "error"}
    cells = [
        Record(**(anything | cell))
        for policy in ("fixed=-8", "learned")
        for split in range(2)
        for cell in ({"split": split, "policy": policy, "n_poison": n, "ratio": n / 40} for n in (0, 2, 4))
    ]
    frame = to_frame(cells)
    bounds = {"fixed=-8": None, "learned": [-8.0, 5.0]}
    defenders = {name: {"fixed": not ends, "words": "as it says", "bounds": ends} for name, ends in bounds.items()}
    arrays = {
        "x_poison": np.ones((4, m), "f4"),
        "x_start": np.zeros((4, m), "f4"),
        "y_poison": np.array([0, 1, 1, 0], "i1"),
        "y_start": np.array([1, 1, -1, 1], "i1"),
        "offset": np.zeros(m, "f4"),
        "scale": np.ones(m, "f4"),
        "history": np.linspace(0, 1, 7, dtype="f4"),
        "counts": np.array([0, 2, 4]),
        "weights_clean_0": np.linspace(-1, 1, m, dtype="f4"),
        "weights_poisoned_0": np.linspace(-2, 1, m, dtype="f4"),
    }
    columns = [{"name": name, "kind": kind} for name, kind in zip(rows.columns, kinds, strict=True)]
    keys = [(split, policy) for policy in ("fixed=-8", "learned") for split in range(2)]
    return mi.AuditResult(
        {
            "name": "own",
            "classes": ["benign", "malignant", "<b>"][:k],
            "features": m,
            "feature_names": names,
            "columns": [] if image else columns,
            "image_shape": [2, 3] if image else None,
            **dict.fromkeys(("train", "valid", "test"), 40),
            "official_test_rows": False,
            "source": "own.csv",
        },
        {"goal": "errors", "not_tested": "all else"},
        config.model_dump(mode="json"),
        {"mithridate": "0.1.0"},
        frame,
        frame,
        defenders,
        verdict(frame, frame, ["fixed=-8"]),
        dict.fromkeys(keys, arrays),
        {} if image else dict.fromkeys(keys, (rows, rows[::-1])),
    )


def _any(field: Any, k: int) -> Any:
    """Any value that a field of a record may have."""
    if field.name == "tuned":
        return ""
    if field.name == "status":
        return "ok"
    if field.name == "objective":
        return "indiscriminate"
    return {str: "own", int: 40, float: 0.25}.get(field.type, [0.1 * place for place in range(k)])


RUNS = {"table": FOLDER / "table", "image": FOLDER / "image"}


def saved(kind: str) -> Path:
    """The directory of a run, with the files that are read."""
    if not (folder := RUNS[kind]).exists():
        result = made_run(kind == "image")
        (folder / "poison").mkdir(parents=True)
        result.frame.to_parquet(folder / "records.parquet", index=False)
        result.candidates.to_parquet(folder / "candidates.parquet", index=False)
        (folder / "audit.json").write_text(json.dumps(result.summary()))
        for (split, policy), arrays in result.poison.items():
            start = folder / "poison" / f"split{split}-{file_name(policy)}"
            start.with_suffix(".npz").write_bytes(npz(**arrays))
            for end, rows in zip(("-start.csv", ".csv"), result.rows.get((split, policy), ()), strict=False):
                rows.to_csv(f"{start}{end}", index=False)
    return folder


@functools.cache
def run_files() -> dict[str, bytes]:
    """The files of a run directory of a table."""
    run = saved("table")
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.*"))}


def npz(**arrays: Any) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def npy(array: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.lib.format.write_array(packed, array)
    return packed.getvalue()


def parquet(frame: pd.DataFrame, **options: Any) -> bytes:
    packed = io.BytesIO()
    frame.to_parquet(packed, **options)
    return packed.getvalue()


def seeds(target: str) -> list[bytes]:
    """Return well-formed inputs for a target, from which a fuzzer starts."""
    frame = patients(40, empty=0.05).rename(columns={"diagnosis": "t"})
    x, y = np.arange(24.0).reshape(12, 2), np.arange(12) % 2
    match target:
        case "csv":
            plain = b"a,b,t\n" + b"".join(b"%d.5,%c,%d\n" % (i, b"xyz"[i % 3], i % 2) for i in range(16))
            dates = b"a;d;t\n" + b"".join(b"%d;2024-01-%02d;y%d\n" % (i, i + 1, i % 2) for i in range(16))
            return [frame.to_csv(index=False).encode(), plain, dates, plain.replace(b",", b"\t"), b'"a\n",t\n"x",1\n']
        case "arff":
            head = "@relation own\n@attribute 'a b' numeric\n@attribute b {x,'y z'}\n@attribute c string\n"
            return [
                (
                    head
                    + "@attribute t {p,q}\n@data\n"
                    + "".join(f"{i},{'xy'[i % 2]},u,{'pq'[i % 2]}\n" for i in range(16))
                ).encode()
            ]
        case "packed":
            content = frame.to_csv(index=False).encode()
            with zipfile.ZipFile(archived := io.BytesIO(), "w") as archive:
                archive.writestr("own.csv", content)
            zst = pa.compress(content, codec="zstd", asbytes=True)
            return [gzip.compress(content), bz2.compress(content), lzma.compress(content), zst, archived.getvalue()]
        case "parquet":
            packed = [parquet(frame, compression=how) for how in ("snappy", "none", "zstd")]
            typed = pd.DataFrame({"a": x[:, 0], "c": pd.Categorical(["u", "v"] * 6), "d": [[1.0]] * 12, "t": y})
            return [*packed, parquet(typed)]
        case "npz":
            return [npz(x=x, y=y), npz(x=x, y=y, x_test=x, y_test=y), npz(x=x, y=y.astype(str))]
        case "npy":
            pairs = [(x, y), (x.astype(">f4"), y.astype("i1")), (np.asfortranarray(x), y.astype(str)), (x > 3, y)]
            return [npy(one) + b"|--|" + npy(other) for one, other in pairs]
        case "svmlight":
            packed = io.BytesIO()
            dump_svmlight_file(x, y, packed)
            return [packed.getvalue(), b"1 qid:3 1:2 5:0.5 # c\n-1 qid:3 2:1e3\n" * 6]
        case "idx":
            raw = b"\0\0\x08\2" + struct.pack(">II", 3, 4) + bytes(12)
            return [raw, gzip.compress(raw), b"\0\0\x08\1" + struct.pack(">I", 5) + bytes(5)]
        case "toml":
            said = 'policies = ["fixed=log(20)", "learned"]\nhidden = [8, 4]\nbounds = [-1.0, 1.0]\ninitial = 3\n'
            return [said.encode(), b'objective = "misclassify a-as-c"\npoison = 0.1\n[a.b]\nc = 1979-05-27T07:32:00Z\n']
        case "words":
            texts = "fixed=log(20)", "search-clean=60", "misclassify b-as-c-as-a", "10%@5%", "mnist-0v8", "nodes=1:2"
            return [text.encode() for text in (*texts, "ward=east|west", "0,0,1", "128,32", "a.b:c", "rows own.csv")]
        case _:
            files = list(run_files().items())
            found = [bytes([place]) + text for place, (name, text) in enumerate(files) if not name.endswith(".npz")]
            for place, (name, text) in enumerate(files):
                if name.endswith(".npz"):
                    with zipfile.ZipFile(io.BytesIO(text)) as archive:
                        members = {member: archive.read(member) for member in archive.namelist()}
                    found += [bytes([place]) + m.encode() + b"|--|" + array for m, array in members.items()]
            return found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "csv": from_csv,
    "arff": from_arff,
    "packed": from_packed,
    "parquet": from_parquet,
    "npz": from_npz,
    "npy": from_npy,
    "svmlight": from_svmlight,
    "idx": from_idx,
    "toml": from_toml,
    "words": from_words,
    "run": from_run,
}


def clean_up() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
