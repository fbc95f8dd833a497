"""Reads a run directory and checks everything in it, because somebody else may have made it.

Whatever is returned can be drawn and rendered. Anything else raises `ValueError` or `OSError` with a message that names
the file and the place in it. Nothing in a run directory is executed.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from mithridate.files.limits import TEXT, read_json, read_npz, read_parquet, regular_file
from mithridate.results import tuned
from mithridate.results.records import LISTS, Record
from mithridate.tasks.scores import SCORES

CELLS = 100_000
POLICIES = 64
CLASSES = 127
LARGEST = 1e300
"""The most cells, policies and classes, and the largest number of a record."""
TABLE = 2**26
"""The most bytes of records.parquet, unpacked, and of a file of points as rows."""

POINTS = 2**31
"""The most bytes of all poison/*.npz together, unpacked."""

_Text = Annotated[str, StringConstraints(max_length=2**16)]
_Name = Annotated[str, StringConstraints(max_length=4096)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Plain = bool | int | float | _Text | None


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Column(_Checked):
    name: _Text
    kind: _Name


class _Sample(_Checked):
    train: _Count
    times: float


class _Dataset(_Checked):
    name: _Name
    classes: Annotated[list[_Text], Field(min_length=2, max_length=CLASSES)]
    features: _Count
    feature_names: list[_Text]
    columns: list[_Column]
    image_shape: Annotated[list[_Count], Field(min_length=2, max_length=2)] | None
    train: _Count
    valid: _Count
    test: _Count
    official_test_rows: bool
    source: _Text
    sample: _Sample | None = None
    unused: _Count = 0


class _Config(_Checked):
    dataset: _Name
    model: _Name
    hidden: list[_Count]
    loss: _Name
    objective: _Name
    score: _Name
    budget: _Name
    attack: _Name
    edits: Literal["both", "labels", "features"]
    policies: list[_Name]
    defences: list[_Name]
    seed: Annotated[int, Field(ge=0)]


class _Verdict(_Checked):
    summary: list[_Text]
    tolerance: dict[str, float | None]
    saved: float | None
    warnings: list[_Text]


class _Defender(_Checked):
    fixed: bool
    words: _Text
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class _Summary(_Checked):
    dataset: _Dataset
    threat_model: dict[_Name, _Text]
    defenders: dict[_Name, _Defender]
    config: _Config
    versions: dict[str, _Text]
    verdict: _Verdict


_OPTIONS = TypeAdapter(dict[str, _Plain | list[_Plain]], config=ConfigDict(strict=True, allow_inf_nan=False))


def read_summary(folder: Path, version: int) -> dict[str, Any]:
    """Return the contents of audit.json, with every part of the right type; its `format` must be `version`.

    Raises `ValueError` or `OSError`.
    """
    found = read_json(regular_file(folder, "audit.json", TEXT))
    said = found.get("format") if isinstance(found, dict) else None
    if said != version or isinstance(said, bool):
        raise ValueError(
            f"its format is {str(said)[:40]!r}, and this version reads {version}: read it with the version that wrote "
            "it, or run the audit again"
        )
    try:
        _OPTIONS.validate_python(_Summary.model_validate(found).config.model_dump())
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ValueError(f"audit.json: {place[:80]}: {fault['msg']}") from None
    data = found["dataset"]
    if data["feature_names"] and len(data["feature_names"]) != data["features"]:
        raise ValueError(f"audit.json: {len(data['feature_names'])} feature_names for {data['features']} features")
    if data["image_shape"] and math.prod(data["image_shape"]) != data["features"]:
        raise ValueError(f"audit.json: image_shape {data['image_shape']} for {data['features']} features")
    names = [column["name"] for column in data["columns"]] or data["feature_names"]
    if "mithridate" not in found["versions"]:
        raise ValueError("audit.json: versions do not say which mithridate wrote it")
    if len(set(names)) != len(names):
        raise ValueError("audit.json: two columns or features have the same name")
    return found


_TYPES = {"str": (pa.string(), pa.large_string()), "int": (pa.int64(),), "float": (pa.float64(),)}
_KINDS = {field.name: getattr(field.type, "__name__", str(field.type)) for field in fields(Record)}
_SHARES = (
    *("ratio", "shared_train", "shared_test", "shared_goal", "constant_error"),
    *("test_error", "attack_success", "target_success", "fpr", "fnr"),
)


def read_records(folder: Path, summary: dict[str, Any], name: str = "records") -> pd.DataFrame:
    """Return NAME.parquet, with the columns of `Record`, if it agrees with a summary from `read_summary`.

    There may be `CELLS` cells and `POLICIES` policies; shares are from 0 to 1; other numbers are at most `LARGEST` in
    size, or not finite. Raises `ValueError` or `OSError`.
    """
    file = f"{name}.parquet"
    table = read_parquet(regular_file(folder, file, TABLE), TABLE, CELLS)
    if table.column_names != list(_KINDS) or not table.num_rows:
        raise ValueError(f"{file}: the columns are not those of an audit's records, or there is no cell")
    for column_name, kind in _KINDS.items():
        column = table.column(column_name)
        # In Parquet, an unknown number (NaN) can be null.
        right = pa.types.is_list(column.type) and column.type.value_type in (pa.float64(), pa.null())
        right = right if column_name in LISTS else column.type in _TYPES[kind]
        if not right or (kind != "float" and column.null_count):
            raise ValueError(f"{file}: column {column_name} holds {str(column.type)[:40]} or nothing, not {kind}")
    frame = table.to_pandas(ignore_metadata=True)
    frame = frame.assign(**{each: [np.asarray(one, float).tolist() for one in frame[each]] for each in LISTS})
    _check_records(frame, len(summary["dataset"]["classes"]), file)
    policies = frame["policy"].unique()
    told = summary["verdict"]["tolerance"].keys() & summary["defenders"].keys()
    absent = [policy for policy in policies if policy not in told]
    if len(policies) > POLICIES or absent:
        fault = f"audit.json does not speak of policy {absent[0][:60]!r}" if absent else f"at most {POLICIES} are read"
        raise ValueError(f"{file}: {len(policies)} policies; {fault}")
    return frame


def read_candidates(folder: Path, summary: dict[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """Return candidates.parquet, checked as records.parquet is; it must contain every cell of `frame`."""
    found, at = read_records(folder, summary, "candidates"), ["split", "policy", "n_poison", "attack"]
    own = found.merge(frame[at], on=at)
    others = set(map(tuple, found[at[:3]].to_numpy())) - set(map(tuple, frame[at[:3]].to_numpy()))
    if len(own) != len(frame) or others:
        raise ValueError("candidates.parquet: its cells are not those of records.parquet")
    return found


def _check_records(frame: pd.DataFrame, k: int, file: str) -> None:
    def told(right: Any, name: str, wanted: str) -> None:
        if not np.all(right):
            raise ValueError(f"{file}: column {name} must hold {wanted}")

    for name, kind in _KINDS.items():
        column = frame[name]
        if kind == "str":
            told(column.str.len() <= 4096, name, "texts of at most 4,096 characters")
            told(name != "tuned" or column.map(_is_tuned), name, "values by name, as JSON")
        elif kind == "int":
            told((column >= 0) & (column < 2**53), name, "whole numbers from 0 to 2^53")
        elif name in LISTS:
            lengths = column.map(len).groupby(frame["policy"]).agg(["min", "max"])
            told((lengths["min"] == lengths["max"]) & (lengths["min"] > 0), name, "lists, equally long in a policy")
            values = np.concatenate(column.to_list())
            told(~np.isfinite(values) | (np.abs(values) <= LARGEST), name, f"numbers to {LARGEST:g}")
        else:
            told(~np.isfinite(column) | (np.abs(column) <= LARGEST), name, f"numbers to {LARGEST:g}")
    for name in _SHARES:
        told(frame[name].isna() | frame[name].between(0, 1), name, "shares from 0 to 1")
    for name in ("fprs", "fnrs"):
        told(frame[name].map(len) == k, name, f"lists of {k} shares")
        rates = np.stack(frame[name].to_list())
        told(np.isnan(rates) | ((rates >= 0) & (rates <= 1)), name, "shares from 0 to 1")
    told(frame["ratio"].notna(), "ratio", "shares from 0 to 1")
    told(frame["score"].isin(SCORES), "score", f"one of {', '.join(SCORES)}")
    each = ["split", "policy", "n_poison"] + ["attack"] * (file != "records.parquet")
    told(~frame.duplicated(each), "n_poison", "every cell once")


def _is_tuned(text: str) -> bool:
    try:
        return all(isinstance(value, str | int | float | bool | list | None) for value in tuned.found(text).values())
    except (ValueError, RecursionError):
        return False


CONTRIBUTION = "poison_contribution"
"""The column of a file of points that says how much of the harm each does."""
_ROWS = ("x_poison", "x_start")
_ONE = ("offset", "scale")
_LEAST = (*_ROWS, "y_poison", "y_start", *_ONE, "history")


def read_poison(folder: Path, name: str, summary: dict[str, Any], most: int) -> dict[str, np.ndarray]:
    """Return the arrays of a poison/*.npz file of at most `most` bytes, if they agree with the summary.

    Checked: the arrays that figures and report use are there, are numbers, have the right shapes, and are finite if
    they must be. Raises `ValueError` or `OSError`.
    """
    arrays = read_npz(regular_file(folder, name, most), most=most)
    absent = [wanted for wanted in _LEAST if wanted not in arrays]
    layers = [key for key in arrays if key.startswith("weights_clean_")]
    absent += [key for layer in layers if (key := layer.replace("clean", "poisoned")) not in arrays]
    if absent:
        raise ValueError(f"{name}: no array {absent[0]!r}")
    if "contribution" in arrays and arrays["contribution"].shape != arrays["y_poison"].shape:
        raise ValueError(f"{name}: array contribution must hold a number for each point")
    k, m = len(arrays["y_poison"].reshape(-1)), summary["dataset"]["features"]
    shapes = dict.fromkeys(_ROWS, (k, m)) | dict.fromkeys(_ONE, (m,)) | {"y_poison": (k,), "y_start": (k,)}
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise ValueError(f"{name}: array {key} has the shape {arrays[key].shape}, not {shape}")
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: array {key} holds {array.dtype}, not numbers")
    for key in ("history", *layers, *(layer.replace("clean", "poisoned") for layer in layers)):
        if arrays[key].ndim != 1 or arrays[key].dtype.kind != "f":
            raise ValueError(f"{name}: array {key} must hold a list of real numbers")
        if (np.abs(arrays[key][np.isfinite(arrays[key])].astype(float)) > LARGEST).any():
            raise ValueError(f"{name}: array {key} must hold numbers to {LARGEST:g}, or not finite")
    if not all((np.abs(arrays[key]) <= 1e30).all() for key in _ONE):
        raise ValueError(f"{name}: offset and scale must be numbers to 1e30")
    for key, least in (("y_poison", 0), ("y_start", -1)):
        labels = arrays[key]
        if labels.dtype.kind not in "iu" or (
            k and not least <= labels.min() <= labels.max() < len(summary["dataset"]["classes"])
        ):
            raise ValueError(f"{name}: {key} holds labels of no class")
    return arrays


def read_points(folder: Path, name: str, summary: dict[str, Any], rows: int, more: Sequence[str] = ()) -> pd.DataFrame:
    """Return a poison/*.csv file: so many rows of the columns that the summary names, numbers where they have to be.

    `more`: further columns of numbers. Of an estimator, cells of numbers may be empty.
    """
    columns = [*summary["dataset"]["columns"], *({"name": column, "kind": "number"} for column in more)]
    names = [column["name"] for column in columns]
    path = regular_file(folder, name, TABLE)
    _check_width(path, names, rows)
    numbers = [column["name"] for column in columns if column["kind"] in ("number", "integer")]
    text = {column: str for column in names if column not in numbers}
    empty = {column: [""] for column in numbers}
    found = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty, index_col=False)
    if list(found.columns) != names or len(found) != rows:
        raise ValueError(f"{name}: the columns or the number of rows are not those of the audit")
    for column in numbers:
        values = found[column]
        number = pd.api.types.is_numeric_dtype(values) or values.empty
        told = values.dropna() if summary["config"].get("estimators") else values
        if not number or not (np.abs(told.to_numpy(float)) <= 1e100).all():
            raise ValueError(f"{name}: column {column[:60]!r} must hold numbers to 1e100")
    return found


def _check_width(path: Path, names: Sequence[str], rows: int) -> None:
    """Raise `ValueError` for a file that is too wide or too long, before it is read whole."""
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(names)
    wanted = header.getvalue().rstrip("\n")
    with path.open(encoding="utf-8", newline="") as file:
        if file.read(len(wanted)) != wanted:
            raise ValueError(f"{path.name}: the header is not that of the audit")
        file.seek(0)
        try:
            for number, cells in enumerate(csv.reader(file)):
                if len(cells) != len(names) or number > rows:
                    raise ValueError(f"{path.name}: {len(names)} columns and {rows} rows are needed")
        except csv.Error as error:
            raise ValueError(f"{path.name}: {error}") from None


class Run(NamedTuple):
    """The contents of a run directory: audit.json as `summary`, all others as in `AuditResult`."""

    summary: dict[str, Any]
    frame: pd.DataFrame
    candidates: pd.DataFrame
    poison: dict[tuple[int, str], dict[str, np.ndarray]]
    rows: dict[tuple[int, str], tuple[pd.DataFrame, pd.DataFrame]]


def read_run(folder: Path, version: int, file: Callable[[int, str, str], str], ends: tuple[str, str]) -> Run:
    """Return the checked contents of a run directory of format `version`.

    `file` returns the name of the file for a split, a policy and an ending; `ends` are the endings of the files of rows
    before and after. Raises `ValueError` or `OSError`.
    """
    summary = read_summary(folder, version)
    frame = read_records(folder, summary)
    candidates = read_candidates(folder, summary, frame)
    poison, rows, left = {}, {}, POINTS
    # A chain whose first cell failed has no points.
    begun = frame[(frame["n_poison"] == 0) & (frame["status"] != "failed")]
    for split, policy in begun[["split", "policy"]].itertuples(index=False):
        key = int(split), str(policy)
        poison[key] = read_poison(folder, file(*key, ".npz"), summary, left)
        left -= sum(array.nbytes for array in poison[key].values())
        if summary["dataset"]["columns"]:
            count = len(poison[key]["y_poison"])
            more = (CONTRIBUTION,) if "contribution" in poison[key] else ()
            before, after = (
                read_points(folder, file(*key, end), summary, count, more if end == ends[-1] else ()) for end in ends
            )
            rows[key] = before, after.drop(columns=list(more))
    return Run(summary, frame, candidates, poison, rows)
