"""Files of rows: text tables, ARFF, Excel and Parquet. Opening a file reads the names of its columns, not its cells.

The memory that a file needs is estimated before it is read, from its size and first lines, or from its header. Nothing
in a file is executed.
"""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from scipy.io import arff

from mithridate.configuration.reading import FileOptions
from mithridate.data.delimited import Delimited, Layout, open_delimited
from mithridate.data.doubts import warn
from mithridate.data.kinds import COPIES, HEAD, Kind, Source, Text, check_head, check_memory, text_of
from mithridate.errors import DataError, InputError, first_line
from mithridate.files.limits import faults_told, opened, read_parquet
from mithridate.files.packed import UNPACKED, zip_names
from mithridate.files.resources import free_memory

CELL = 100
"""Bytes that a cell of an Excel file takes while it is read."""
OF_TEXT = ("header", "separator", "encoding")
"""The options that only text files have."""
_TEXT = re.compile(r"(?i)^(\s*@attribute\s+(?:'[^']*'|\"[^\"]*\"|\S+)\s+)(?:string|date\b.*)\s*$")
"""An attribute of ARFF that SciPy does not read; its cells are read like those of a text file."""


@dataclass(frozen=True)
class Table:
    """An opened table: the `names` of the columns in the order of the file, and where the rows come from.

    `cells` reads the columns at given places; it raises `DataError` if the file is damaged. A column without a name
    gets the name that pandas gives it, “Unnamed: 0” for the first column.
    """

    names: tuple[str, ...]
    source: Source
    cells: Callable[[Sequence[int]], pd.DataFrame]


def open_tables(paths: Sequence[tuple[Path, Kind]], options: FileOptions) -> Table:
    """Return the table in these files, one below the other. They must have the same columns.

    Raises `DataError` if a file is not of its kind, is damaged or is too large, or if columns differ; `InputError` for
    an option that its kind of file does not have.
    """
    tables = [_open(path, kind, options) for path, kind in paths]
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables[1:]:
        other = set(table.names) ^ set(first.names)
        if other or len(set(table.names)) != len(first.names) or table.source.text != first.source.text:
            what = (
                f"only one of them has {sorted(other)[0]!r}"
                if other
                else "one is text and the other is not, or a column is there twice"
            )
            raise DataError(
                f"{first.source.name} and {table.source.name} must have the same columns, each once; {what}"
            )
    sizes: list[int] = []

    def read(places: Sequence[int]) -> pd.DataFrame:
        names = [first.names[place] for place in places]
        frames = [table.cells([table.names.index(name) for name in names]) for table in tables]
        sizes[:] = [len(frame) for frame in frames]
        return pd.concat([frame.set_axis(names, axis="columns") for frame in frames], ignore_index=True)

    def at(row: int) -> str:
        ends = np.cumsum(sizes)
        number = int(np.searchsorted(ends, row, side="right"))
        return f"{tables[number].source.at(row - int(ends[number - 1] if number else 0))} of {paths[number][0].name}"

    name = f"{first.source.name} and {len(tables) - 1} more"
    return Table(first.names, Source(name, first.source.text, at), read)


def _open(path: Path, kind: Kind, options: FileOptions) -> Table:
    if kind not in ("text", "arff"):
        for name in OF_TEXT if kind != "excel" else OF_TEXT[1:]:
            if (value := getattr(options, name)) != FileOptions.model_fields[name].default:
                raise InputError(f"{name} = {value!r}: only for text files, and {path} is not one")
    try:
        match kind:
            case "parquet":
                return _parquet(path)
            case "excel":
                return _excel(path, options)
            case _:
                text = text_of(path, options.encoding)
                if kind == "arff":
                    return _arff(text)
                found = open_delimited(text, options)
                return Table(found.names, found.source, found.cells)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None


def _parquet(path: Path) -> Table:
    said = "cannot be read as Parquet"
    try:
        with opened(path, free_memory()) as content, pyarrow.parquet.ParquetFile(content) as file:
            found, columns = file.metadata, file.schema_arrow
            names = tuple(columns.names)
            check_head(names, path)
            what = f"{found.num_rows:,} rows of {found.num_columns} columns"
            check_memory(str(path), 8 * COPIES * found.num_rows * found.num_columns, what)
            # No model takes lists, and reading them may take much memory.
            nested = {column.name for column in columns if pa.types.is_nested(column.type)}
            rows = found.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} {said}: {first_line(error)}") from None

    def read(places: Sequence[int]) -> pd.DataFrame:
        wanted = [name for place, name in enumerate(names) if place in places and name not in nested]
        try:
            table = read_parquet(path, free_memory() // COPIES, columns=list(dict.fromkeys(wanted)))
            with faults_told():
                frame = _with_index(table).to_pandas()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} {said}: {first_line(error)}") from None
        # Two columns with the same name are both read, in the order of the file.
        there = [place for place, name in enumerate(names) if name in wanted]
        parts = {
            place: pd.Series([[]] * rows, dtype=object)
            if names[place] in nested
            else frame.iloc[:, there.index(place)].reset_index(drop=True)
            for place in places
        }
        return pd.concat(parts, axis="columns").set_axis([names[place] for place in places], axis="columns")

    return Table(names, Source(str(path)), read)


def _with_index(table: pa.Table) -> pa.Table:
    """Return the table with its pandas index as a column like the others."""
    notes = table.schema.metadata or {}
    if b"pandas" not in notes:
        return table
    told = json.loads(notes[b"pandas"])
    return table.replace_schema_metadata({**notes, b"pandas": json.dumps(told | {"index_columns": []}).encode()})


def _arff(text: Any) -> Table:
    """Open an ARFF file: SciPy reads its header; its rows are read as text with commas."""
    with text.open() as file:
        if not file.read(HEAD).strip():
            raise DataError(f"{text.path} is empty")
    head, first = [], ""
    with text.lines() as file:
        for line in file:
            if re.match(r"(?i)\s*@data\b", line):
                break
            head.append(_TEXT.sub(r"\1numeric\n", line))
            if len(head) > HEAD:
                break
        else:
            raise DataError(f"{text.path}: no line @data; it is not an ARFF file, or it is cut off")
        first = next((line for line in file if line.strip() and line.lstrip()[0] != "%"), "").strip()
    if first.startswith("{"):
        raise DataError(f"{text.path}: sparse ARFF is not read; write all values, or use svmlight")
    try:
        with faults_told():
            _, meta = arff.loadarff(io.StringIO("".join(head) + "@data\n"))
    except (arff.ArffError, ValueError, NotImplementedError, StopIteration) as error:
        raise DataError(f"{text.path} cannot be read as ARFF: {first_line(error)}") from None
    names = tuple(meta.names())
    check_head(names, text.path)
    check_memory(str(text.path), 2 * text.size, "its text")
    quote = '"' if '"' in first else "'"
    table = Delimited(text, Layout(names, ",", len(head) + 1, header=False, quote=quote))
    told: dict[str, Any] = {name: meta[name] for name in names}
    levels = {place: told[name][1] for place, name in enumerate(names) if told[name][0] == "nominal"}

    def read(places: Sequence[int]) -> pd.DataFrame:
        frame = table.cells(places).set_axis([names[place] for place in places], axis="columns")
        for at, place in enumerate(places):
            if place in levels:
                frame[names[place]] = _nominal(frame.iloc[:, at], levels[place], table.source)
        return frame

    return Table(names, table.source, read)


def _nominal(cells: pd.Series, levels: Sequence[str], source: Source) -> pd.Series:
    known = [level.strip().strip("'\"") for level in levels]
    text = cells.str.strip()
    bad = ~text.isin([*known, "?", ""])
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise DataError(
            f"{source.name}: {cells.name!r} holds {text.iloc[row][:40]!r} in {source.at(row)}, which is not a "
            "value that its header lists"
        )
    return pd.Series(
        pd.Categorical(text.where(text.isin(known)), categories=list(dict.fromkeys(known))), name=cells.name
    )


def _excel(path: Path, options: FileOptions) -> Table:
    """Open an Excel file: its first sheet is read like a text file with the same cells."""
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise DataError(
            f"{path}: reading Excel files needs openpyxl: pip install 'mithridate[excel]'; or save it as CSV"
        ) from None
    members = zip_names(path, free_memory())
    size = sum(members.values())
    if size > UNPACKED:
        raise ValueError(f"it has {size:,} bytes unpacked, and at most {UNPACKED:,} are read; save it as CSV")
    check_memory(str(path), CELL * size // 8, "its cells")
    with faults_told(), opened(path, free_memory()) as content, pd.ExcelFile(content, engine="openpyxl") as book:
        found = pd.read_excel(book, header=None, dtype=str, na_filter=False)
        if len(book.sheet_names) > 1:
            warn(f"{path}: it has {len(book.sheet_names)} sheets; only the first, {book.sheet_names[0]!r}, is read")
    found = found.loc[(found != "").any(axis=1)]
    if found.empty:
        raise DataError(f"{path} is empty")
    text = Text(path, found.to_csv(header=False, index=False).encode())
    table = open_delimited(text, options.model_copy(update={"separator": ","}))

    def at(row: int) -> str:
        above = len(found) - sum(1 for _ in table.layout.records(text))
        return f"row {found.index[above + row] + 1} of the sheet"

    return Table(table.names, Source(str(path), True, at), table.cells)
