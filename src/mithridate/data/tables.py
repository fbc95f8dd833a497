"""Makes a `Dataset` of files, frames and arrays of the user's own, or refuses them and says what to mend.

The cells of a column show what it holds: numbers, whole numbers (if all are whole), booleans, or else categories.
The columns and the table's own units are kept, so that a poisoned row can be written as a row of the table.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mithridate.configuration.reading import FileOptions
from mithridate.data import downloads
from mithridate.data.arrays import read_arrays
from mithridate.data.assembling import Cells, assembled, empty_cells
from mithridate.data.columns import check_size, coded, empties, numbered, read_column, read_columns, whole
from mithridate.data.datasets import Dataset, Split
from mithridate.data.doubts import warn_of, warn_of_names
from mithridate.data.encoding import Column, Schema
from mithridate.data.faults import Constant, Several, Unfit, mended
from mithridate.data.groups import NONE, ROWS
from mithridate.data.kinds import Kind, Source, called, check_dense, check_head, kind_of
from mithridate.data.readers import OF_TEXT, Table, open_tables
from mithridate.data.relations import found_rules
from mithridate.data.restricting import nearest
from mithridate.data.selection import selected
from mithridate.errors import DataError, InputError

OF_TABLES = ("target", "drop", "keep", "drop_constant", "categorical", "decimal", "thousands", "units", "join_rare")
"""The options that only tables have."""


def read_dataset(path: str | Path | Sequence[str | Path], target: str | int | None = None, **options: Any) -> Dataset:
    """Return the data set in a file, or in several files with the same columns. It has the name of the (first) file.

    A table is text with separators (CSV), ARFF, Excel or Parquet; arrays are NPZ (`x`, `y`) or svmlight.

    Arguments: `path`, of the file, or a list of paths; `target`, the column of a table that holds the labels, by name
    or place; the other `options` are the fields of
    [`FileOptions`](data.md#mithridate.configuration.reading.FileOptions), such as `drop` or `missing`.

    Raises `DataError` for a file that cannot be used; its message names the column, the line and the remedy. Raises
    `InputError` for a wrong option.
    """
    given = FileOptions.of(target=target, **options)
    paths = [Path(path)] if isinstance(path, str | Path) else list(map(Path, path))
    kinds: list[tuple[Path, Kind]] = [(path, kind_of(path)) for path in paths]
    name = called(paths)
    if not {kind for _, kind in kinds} & {"npz", "svmlight"}:
        return mended(lambda asked: _of_table(name, open_tables(kinds, asked), asked), given, str(paths[0]))
    if len(paths) > 1:
        raise InputError(f"{paths[0]} and {paths[1]}: several files must all be tables, not arrays")
    _check_arrays(str(paths[0]), given)
    given = given.model_copy(update={"group": given.group or NONE})
    arrays, source = read_arrays(*kinds[0])
    return mended(
        lambda asked: _of_arrays(name, arrays.x, arrays.y, arrays.test, arrays.names, source, asked), given, source.name
    )


def dataset_of(x: Any, y: Any, *, name: str = "own", test: Any = None, **options: Any) -> Dataset:
    """Return the data set in a data frame, in arrays or in a sparse matrix.

    Arguments: `x` (n, m); `y`, the labels (n,), or the name or place of the column of the frame `x` that holds them;
    `name`, of the data set; `test`, official test rows: another frame, or a pair (x, y); `options` as in
    `read_dataset`. Raises `DataError` or `InputError` as `read_dataset` does.

    Example:
        >>> import pandas as pd
        >>> from mithridate.data.tables import dataset_of
        >>> ages = [20 + 7 * row % 40 for row in range(40)]
        >>> frame = pd.DataFrame({"age": ages, "smoker": [True, False] * 20, "ill": ["no", "yes", "yes", "no"] * 10})
        >>> data = dataset_of(frame, "ill", feasible=["age=0:100"])
        >>> data.classes
        ('no', 'yes')
    """
    source, given = Source(name), FileOptions.of(**options)
    if isinstance(x, pd.DataFrame):
        frames = [_with_target(x, y)]
        if test is not None:
            frames.append(_with_target(*((test, y) if isinstance(test, pd.DataFrame) else test)))
            if list(frames[1].columns) != list(frames[0].columns):
                raise InputError(f"{name}: the test rows have other columns than the rows")
        column = str(y) if isinstance(y, str | int) else str(frames[0].columns[-1])
        frame, given = pd.concat(frames, ignore_index=True), given.model_copy(update={"target": column})
        for option in OF_TEXT:
            if getattr(given, option) != FileOptions.model_fields[option].default:
                raise InputError(f"{option} = {getattr(given, option)!r}: only for text files")
        names = tuple(map(str, frame.columns))
        check_head(names, name)
        table = Table(names, source, lambda places: _columns(frame, names, places))
        n_test = len(frame) - len(x)
        return mended(lambda asked: _of_table(name, table, asked, n_test), given, name)
    if isinstance(y, str) or given.drop or given.keep or given.group not in (None, ROWS, NONE):
        raise InputError(f"{name}: arrays have no named columns; give the labels as an array, and the columns you want")
    shape = np.shape(x)
    if len(shape) != 2 or 0 in shape or np.shape(y) != shape[:1]:
        raise InputError(f"{name}: x must be (n, m) and y (n,); got {shape} and {np.shape(y)}")
    if test is not None and (np.shape(test[0])[1:] != shape[1:] or np.shape(test[1]) != np.shape(test[0])[:1]):
        raise InputError(f"{name}: test rows must be (k, {shape[1]}) and (k,); got {[np.shape(t) for t in test]}")
    check_dense(shape, name)
    names = tuple(f"x{place}" for place in range(shape[1]))
    labels, given = np.asarray(y), given.model_copy(update={"group": given.group or NONE})
    return mended(lambda asked: _of_arrays(name, x, labels, test, names, source, asked), given, name)


def _columns(frame: pd.DataFrame, names: Sequence[str], places: Sequence[int]) -> pd.DataFrame:
    chosen = list(places)
    return frame.iloc[:, chosen].set_axis([names[place] for place in chosen], axis="columns")


def _check_arrays(name: str, given: FileOptions) -> None:
    """Raise `InputError` for options that only tables have."""
    if given.group not in (None, ROWS, NONE):
        raise InputError(f"group = {given.group!r}: only tables have named columns; {name} contains its labels")
    for option in (*OF_TABLES, *OF_TEXT):
        if (value := getattr(given, option)) != FileOptions.model_fields[option].default:
            shown = list(value) if isinstance(value, tuple) else value
            raise InputError(f"{option} = {shown!r}: only tables have named columns; {name} contains its labels")


def read_labelled(path: str | Path, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Return further rows of a known table, from a file like the one that the table was read from.

    Returned are raw rows (n, columns), NaN where a cell is empty, and labels (n,), as places in the target's
    categories. Raises `DataError` if a column or a label is missing, or a cell does not fit its column.
    """
    path, reading = Path(path), schema.reading
    kind = kind_of(path)
    if kind in ("npz", "svmlight"):
        arrays, source = read_arrays(path, kind)
        check_dense(arrays.x.shape, source.name)
        names = [*arrays.names, schema.target.name]
        frame = pd.DataFrame(_dense(arrays.x), columns=list(arrays.names)).assign(**{schema.target.name: arrays.y})
    else:
        table, reading = _like(path, kind, schema)
        names, source = list(table.names), table.source
        wanted = [names.index(column.name) for column in (*schema.columns, schema.target)]
        frame = table.cells(wanted).set_axis([names[place] for place in wanted], axis="columns").reset_index(drop=True)
    labels = coded(frame[schema.target.name], schema.target, source, reading)
    if np.isnan(labels).any():
        raise DataError(f"{source.name}: no label in {source.at(int(np.isnan(labels).argmax()))}")
    raw = np.stack([coded(frame[column.name], column, source, reading) for column in schema.columns], axis=1)
    return raw, labels.astype(np.int64)


def _like(path: Path, kind: Kind, schema: Schema) -> tuple[Table, FileOptions]:
    """Open a file that is written like the schema's own file, or like poison: plainly, with commas and a header."""
    usual = {option: FileOptions.model_fields[option].default for option in (*OF_TEXT, "decimal", "thousands", "units")}
    plain = schema.reading.model_copy(update=usual | {"header": "first" if kind == "text" else None})
    needed = [column.name for column in (*schema.columns, schema.target)]
    fault = DataError("")
    for reading in (schema.reading, plain) if kind == "text" else (plain,):
        try:
            table = open_tables([(path, kind)], reading)
            if not (absent := [name for name in needed if name not in table.names]):
                return table, reading
            fault = DataError(f"{path}: no column {absent[0]!r}; {nearest(absent[0], list(table.names))}")
        except DataError as error:
            fault = error
    raise fault


def read_rows(path: str | Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a file: features (n, m) as the victim of a split sees them, and classes (n,) by number.

    For a table, the file must be like the table (see `read_labelled`). For a data set of the catalogue, it must be an
    npz file with arrays `x` (n, m), in the data set's own units, and `y` (n,), labels 0 … K − 1. Raises `DataError` for
    any other file.
    """
    if split.encoder:
        raw, y = read_labelled(path, split.encoder.schema)
        return split.encode(raw), y
    (x, y), m, k = downloads.read_arrays(Path(path), ("x", "y")), len(split.offset), len(split.classes)
    if x.ndim != 2 or x.shape[1] != m or y.shape != x.shape[:1] or not set(y) <= set(range(k)):
        raise DataError(
            f"{path}: arrays x (n, {m}) and y (n,) with labels 0 … {k - 1} are needed; got {x.shape} and {y.shape}"
        )
    return split.encode(x), y


def _with_target(x: pd.DataFrame, y: Any) -> pd.DataFrame:
    if isinstance(y, str | int):
        return x
    name = str(y.name) if isinstance(y, pd.Series) and y.name is not None else "label"
    if name in x.columns:
        raise InputError(f"the labels are called {name!r}, and so is a column; rename one")
    if np.shape(y) != (len(x),):
        raise InputError(f"labels must be ({len(x)},), one for each row; got {np.shape(y)}")
    return x.assign(**{name: np.asarray(y) if not isinstance(y, pd.Series) else y.array})


def _of_table(name: str, table: Table, options: FileOptions, n_test: int = 0) -> Dataset:
    """Return the data set in a table. Its last `n_test` rows are official test rows.

    Raises `Several` for all faults of its columns, labels and empty cells, `InputError` or `DataError` for others.
    """
    chosen, source = selected(table.names, options, table.source.name), table.source
    names = [table.names[place] for place in chosen.places]
    frame = table.cells(chosen.places).set_axis(names, axis="columns").reset_index(drop=True)
    if frame.empty:
        raise DataError(f"{source.name}: a header and no rows" if table.names else f"{source.name}: no columns")
    unnamed = [place for place in chosen.features if re.fullmatch(r"Unnamed: \d+", table.names[place])]
    at = {place: number for number, place in enumerate(chosen.places)}
    # A separator at the end of every line makes no column.
    hollow = {place for place in unnamed if source.text and empties(frame.iloc[:, at[place]], source, options).all()}
    features = [place for place in chosen.features if place not in hollow]
    order = [table.names[place] for place in chosen.places if place not in hollow]
    asked = options.model_copy(update={"categorical": chosen.categorical})
    faults: list[DataError] = _doubles(table.names, [*features, chosen.target], source)
    label, labels = Column(table.names[chosen.target], "category"), np.zeros(len(frame))
    try:
        label, labels = read_column(frame.iloc[:, at[chosen.target]], source, asked, is_target=True)
    except Constant:
        faults.append(DataError(f"{source.name}: the target {table.names[chosen.target]!r} is empty in every row"))
    except DataError as error:
        faults.append(error)
    columns, raw, others = read_columns(frame.iloc[:, [at[place] for place in features]], features, source, asked)
    faults += others
    order = [name for name in order if name in {label.name, *(column.name for column in columns)}]
    cells = Cells(columns, raw, label, labels, tuple(order), options, frame if source.text else None)
    if faults:
        raise Several([*faults, *empty_cells(cells, source, options)])
    if chosen.group is not None:
        cells = replace(cells, groups=numbered(frame.iloc[:, at[chosen.group]], source, options))
    found = assembled(name, cells, source, options, n_test)
    warn_of_names(order, table.names, source, options)
    warn_of(columns, raw, labels, source, table.names, options, found.grouping)
    unkept = found_rules(columns, raw, found.schema.rules if found.schema else ())
    return replace(found, unkept=unkept) if unkept else found


def _doubles(names: Sequence[str], places: Sequence[int], source: Source) -> list[DataError]:
    """Return the faults of columns that have the same name."""
    found: list[DataError] = []
    for name, times in Counter(names[place] for place in places).items():
        if times > 1:
            same = [place for place in places if names[place] == name]
            fault = f"{times} columns are called {name!r}, in places {', '.join(str(place + 1) for place in same)}"
            drop = [f"{'#' * (str(place + 1) in names)}{place + 1}" for place in same[1:]]
            found.append(Unfit(source, fault, "rename all but one", drop=drop))
    return found


def _of_arrays(
    name: str, x: Any, y: np.ndarray, test: Any, names: tuple[str, ...], source: Source, options: FileOptions
) -> Dataset:
    dense = [_dense(part) for part in ([x] if test is None else [x, test[0]])]
    if any(part.dtype.kind not in "biuf" for part in dense):
        raise DataError(f"{source.name}: x holds {dense[0].dtype}, not numbers; encode it, or give a table")
    joined = np.concatenate(dense)
    raw = joined.astype(np.float64)
    check_size(raw, names, source)
    columns = [
        Column(column, "boolean", "bool", (False, True))
        if joined.dtype == bool
        else Column(column, "integer" if whole(raw[:, place]) else "number", joined.dtype)
        for place, column in enumerate(names)
    ]
    both = y if test is None else np.concatenate([y, np.asarray(test[1])])
    target = "y" if "y" not in names else "label"
    label, labels = read_column(pd.Series(both, name=target), source, is_target=True)
    cells = Cells(columns, raw, label, labels, (*names, target), options)
    return assembled(name, cells, source, options, len(both) - len(y))


def _dense(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x)
