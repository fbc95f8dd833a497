"""Files of rows: CSV, Parquet, NPZ and svmlight, read whole or refused.

What a file needs in memory is estimated before it is read, from its size and first lines or from its own headers.
Nothing in a file is executed: NPZ arrays of pickled objects are refused.
"""

import csv
import itertools
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from scipy.sparse import csr_matrix
from sklearn.datasets import load_svmlight_file

from mithridate.errors import DataError, first_line
from mithridate.files.limits import faults_told, npz_shapes, opened, read_npz, read_parquet
from mithridate.files.resources import free_memory

TABLES = (".csv", ".tsv", ".parquet", ".pq")
ARRAYS = (".npz", ".svmlight", ".svm", ".libsvm")
SEPARATORS = ",;\t"
LONGEST = 1000
"""The most characters of a column's name, or of a label."""
MOST_COLUMNS = 100_000
COPIES = 4
"""How often every number of a file is held at once: as read, as float64, while it is checked, and in a split."""

_SVMLIGHT = re.compile(r"\s*[^\s:#]+(\s+qid:\d+)?(\s+\d+:[^\s:#]+)*\s*(#.*)?")


@dataclass(frozen=True)
class Source:
    """Where rows come from, to speak of them in errors; `separator`, of a CSV file, whose lines can be counted."""

    name: str
    separator: str = ""

    def at(self, row: int) -> str:
        """Say where row number `row` (from 0 on) is: its line in a CSV file, counted from 1 with the header."""
        if not self.separator:
            return f"row {row} (counted from 0)"
        line, _ = next(itertools.islice(_records(Path(self.name), self.separator), row + 1, None))
        return f"line {line}"


class Arrays(NamedTuple):
    """Features (n, m) and labels (n,), the same for official test rows or None, and the features' names."""

    x: Any
    y: np.ndarray
    test: tuple[Any, np.ndarray] | None
    names: tuple[str, ...]


def check_path(path: Path) -> None:
    """Raise `DataError` unless this is a file of a kind that can be read."""
    if path.is_dir():
        raise DataError(f"{path} is a directory; name a file in it")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is no regular file")
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!r}: the name is not UTF-8; rename it") from None
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read: you are not permitted to")
    if path.suffix.lower() not in TABLES + ARRAYS:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(TABLES + ARRAYS)}")


def check_memory(name: str, needed: int, what: str) -> None:
    """Raise `DataError` when `needed` bytes are more than there are free."""
    free = free_memory()
    if needed > free:
        raise DataError(
            f"{name}: too large to be audited here: {what} need about {needed / 2**30:,.1f} GiB, and "
            f"{free / 2**30:,.1f} GiB are free; give a random sample of the rows, of which an audit trains on a few "
            "hundred anyway"
        )


def check_dense(shape: tuple[int, int], name: str) -> None:
    """Raise `DataError` when a matrix, its zeros written out, is larger than the memory."""
    n, m = shape
    check_memory(name, 8 * COPIES * n * m, f"{n:,} rows and {m:,} features, zeros included,")


def check_names(names: Sequence[str], source: str) -> None:
    """Raise `DataError` for a column with a name that cannot be shown, or two of the same."""
    for name in names:
        check_text(name, f"{source}: the name of column {name[:40]!r}")
    twice, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"{source}: {times} columns are called {twice!r}; rename all but one")


def leave_out(name: str) -> str:
    """Return how a column is left out, to be pasted: as an option, and where the name has blanks as a flag too."""
    if re.fullmatch(r"[\w.-]+", name):
        return f"use drop = {name}"
    return f"use drop = {json.dumps(name, ensure_ascii=False)}, or --drop {shlex.quote(name)}"


def check_text(text: str, what: str) -> None:
    """Raise `DataError` for a name or label that no file or figure could hold."""
    if len(text) > LONGEST:
        raise DataError(f"{what} has more than {LONGEST:,} characters; shorten it")
    if "\0" in text or any("\ud800" <= letter < "\ue000" for letter in text):
        raise DataError(f"{what} holds a control character or is not Unicode; rename it")


def read_table(path: Path, drop: Sequence[str] = ()) -> tuple[pd.DataFrame, Source]:
    """Return the cells of a CSV file, all as text, or of a Parquet file, as they are typed.

    A column without a name is called as pandas calls it, “Unnamed: 0” if it is the first. Of a Parquet file the columns
    to `drop` come back empty.
    Raises `DataError` when the file is not one, is damaged, holds no rows or is too large.
    """
    frame, source = _parquet(path, drop) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
    if frame.empty:
        raise DataError(f"{path}: a header and no rows" if frame.columns.size else f"{path}: no columns")
    return frame, source


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV file, blank lines left out, each with the number of the line it starts on."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, line = csv.reader(file, delimiter=separator), 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}: line {line} cannot be read ({error}); is a quotation mark left open?") from None


def _csv(path: Path) -> tuple[pd.DataFrame, Source]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**20)
    if not head.strip():
        raise DataError(f"{path} is empty")
    first = head.lstrip().splitlines()[0][: csv.field_size_limit()].decode(errors="replace")
    widths = {separator: len(next(csv.reader([first], delimiter=separator))) for separator in SEPARATORS}
    separator = "\t" if path.suffix.lower() == ".tsv" else max(widths, key=lambda separator: widths[separator])
    rows = math.ceil(size * head.count(b"\n") / len(head))
    cells = rows * widths[separator]
    check_memory(str(path), 2 * size + 8 * (COPIES + 1) * cells, f"{rows:,} rows of {widths[separator]} columns")
    _check_utf8(path)

    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(next(_records(path, separator))[1])]
    _check_head(names, path)
    keys = [str(place) for place in range(len(names))]
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=keys, block_size=2**24),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(keys, pa.string())),
        )
    except pa.ArrowInvalid as error:
        for line, record in _records(path, separator):
            if len(record) != len(names):
                raise DataError(
                    f"{path}: line {line} has {len(record)} cells, the header {len(names)}; quote cells in which there "
                    f"is a {separator!r}"
                ) from None
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    # The header was read as a row, so that all rows are held to its width.
    return table.slice(1).rename_columns(names).to_pandas(), Source(str(path), separator)


def _check_head(names: Sequence[str], path: Path) -> None:
    """Raise `DataError` for more columns than can be audited, or a name that cannot be shown."""
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(names):,} columns; at most {MOST_COLUMNS:,} can be audited")
    for name in names:
        check_text(name, f"{path}: the name of column {name[:40]!r}")


def _check_utf8(path: Path) -> None:
    lines = offset = 0
    with path.open("rb") as file:
        while block := b"".join(file.readlines(2**24)):
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                line = lines + block[: error.start].count(b"\n") + 1
                raise DataError(
                    f"{path} is not UTF-8: line {line}, byte {offset + error.start} is 0x{block[error.start]:02x}; "
                    "save it as UTF-8"
                ) from None
            lines, offset = lines + block.count(b"\n"), offset + len(block)


def _parquet(path: Path, drop: Sequence[str]) -> tuple[pd.DataFrame, Source]:
    try:
        with opened(path, free_memory()) as content, pyarrow.parquet.ParquetFile(content) as file:
            found, columns = file.metadata, file.schema_arrow
            _check_head(columns.names, path)
            what = f"{found.num_rows:,} rows of {found.num_columns} columns"
            check_memory(str(path), 8 * COPIES * found.num_rows * found.num_columns, what)
        # What is dropped is not read, nor what no model takes; both keep their places.
        lists = [column.name for column in columns if pa.types.is_nested(column.type)]
        read = [name for name in columns.names if name not in {*lists, *drop}]
        table = read_parquet(path, free_memory() // COPIES, columns=read)
        with faults_told():
            frame = table.to_pandas()
        left_out = {name: [[]] * len(frame) if name in lists else None for name in columns.names if name not in read}
        if len(set(columns.names)) < len(columns.names):  # refused later, by name
            return frame, Source(str(path))
        return frame.assign(**left_out)[columns.names], Source(str(path))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from None


def read_arrays(path: Path) -> tuple[Arrays, Source]:
    """Return the arrays of an NPZ file (x, y and, where it has them, x_test and y_test) or of an svmlight file.

    Raises `DataError` when the file is not one, is damaged or too large, or its arrays do not fit together.
    """
    return (_npz(path) if path.suffix.lower() == ".npz" else _svmlight(path)), Source(str(path))


def _npz(path: Path) -> Arrays:
    try:
        free = free_memory()
        shapes = npz_shapes(path, free)
        names = ("x", "y", "x_test", "y_test") if shapes.keys() & {"x_test", "y_test"} else ("x", "y")
        absent = [name for name in names if name not in shapes]
        if absent:
            raise DataError(
                f"{path}: no array {absent[0]!r}, only {', '.join(map(repr, shapes)) or 'nothing'}; save x (n, m), "
                "y (n,) and, for official test rows, x_test and y_test"
            )
        for x, y in zip(names[::2], names[1::2], strict=True):
            fits = len(shapes[x]) == 2 and shapes[y] == shapes[x][:1] and shapes[x][1] == shapes["x"][1]
            if not fits or 0 in shapes[x]:
                raise DataError(
                    f"{path}: {x} has the shape {shapes[x]}, {y} {shapes[y]}; (n, m) and (n,) are needed"
                    + (", m as in x" if x == "x_test" else "")
                )
        needed = 8 * COPIES * sum(math.prod(shapes[name]) for name in names)
        check_memory(str(path), needed, f"arrays of {shapes['x'][0]:,} rows and {shapes['x'][1]:,} features")
        x, y, *test = read_npz(path, names, free).values()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as NPZ: {error}") from None
    return Arrays(x, y, (test[0], test[1]) if test else None, tuple(f"x{place}" for place in range(x.shape[1])))


def _svmlight(path: Path) -> Arrays:
    check_memory(str(path), COPIES * path.stat().st_size, "its entries")
    load: Any = load_svmlight_file
    try:
        found, labels = load(str(path), zero_based=True)
    except (ValueError, OverflowError, OSError) as error:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line, text in enumerate(file, 1):
                if text.split("#")[0].strip() and not _svmlight_line(text):
                    raise DataError(
                        f"{path}: line {line} is not svmlight: {text.strip()[:60]!r}; LABEL INDEX:VALUE INDEX:VALUE … "
                        "is needed, indices in rising order"
                    ) from None
        raise DataError(f"{path} cannot be read as svmlight: {error}") from None
    x, y = csr_matrix(found), np.asarray(labels)
    if not x.nnz:
        raise DataError(f"{path}: no features" if len(y) else f"{path} is empty")
    # Indices count from 1, unless there is a 0.
    x, base = (x, 0) if x.indices.min() == 0 else (x[:, 1:], 1)
    check_dense(x.shape, str(path))
    return Arrays(x, y, None, tuple(str(place + base) for place in range(x.shape[1])))


def _svmlight_line(text: str) -> bool:
    if not _SVMLIGHT.fullmatch(text.rstrip("\n")):
        return False
    label, *entries = text.split("#")[0].split()
    pairs = [entry.split(":") for entry in entries if not entry.startswith("qid")]
    try:
        [float(number) for number in (label, *(value for _, value in pairs))]
    except ValueError:
        return False
    indices = [int(index) for index, _ in pairs]
    return indices == sorted(set(indices))
