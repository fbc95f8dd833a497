"""Data of the user's own: from files, frames and arrays to a `Dataset`, or a refusal that says what to mend.

What a column holds is found from its cells: numbers; whole numbers, where all are whole; booleans; else categories.
The columns and the table's own units are kept, so that a poisoned row can be written as a row of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mithridate.data import downloads
from mithridate.data.columns import (
    check_size,
    coded,
    nearest,
    numbered,
    read_column,
    read_columns,
    restricted,
    some,
    whole,
)
from mithridate.data.datasets import Dataset, Split
from mithridate.data.doubts import check_header, offer_rules, warn_of
from mithridate.data.encoding import Column, Schema
from mithridate.data.groups import NONE, ROWS, grouping_of
from mithridate.data.readers import TABLES, Source, check_dense, check_names, check_path, read_arrays, read_table
from mithridate.data.relations import found_rules, read_rules
from mithridate.errors import DataError, InputError

MOST_NUMBERS = 20
"""The most different numbers among labels: more are taken for a quantity, which is not a class."""
LEAST_ROWS = 4
"""Of a class: two to train on, one to validate, one to test."""


@dataclass(frozen=True)
class _Options:
    positive: str | None
    missing: str
    feasible: Sequence[str]
    group: str | None = None
    rule: Sequence[str] = ()

    def __post_init__(self):
        if self.missing not in ("refuse", "drop", "impute"):
            raise InputError(f"missing = {self.missing!r}: use refuse, drop or impute")


@dataclass(frozen=True)
class _Cells:
    """Columns with their raw numbers (n, columns), NaN where empty, and the target with its own (n,)."""

    columns: list[Column]
    raw: np.ndarray
    target: Column
    labels: np.ndarray
    order: tuple[str, ...]
    groups: np.ndarray | None = None


def read_dataset(
    path: str | Path,
    target: str | None = None,
    positive: str | None = None,
    missing: str = "refuse",
    feasible: Sequence[str] = (),
    drop: Sequence[str] = (),
    group: str | None = None,
    rule: Sequence[str] = (),
) -> Dataset:
    """Return the data set in a file, named like the file: CSV, Parquet, NPZ (`x`, `y`) or svmlight.

    Arguments: `target`, the column of a table that holds the labels; `positive`, the label to be class 1 of two, or one
    of several against the rest (default: the last in order); `missing`, what becomes of rows in which a cell is empty,
    "refuse", "drop" or "impute"; `feasible`, what poisoned cells may hold, as `COLUMN=LOW:HIGH` or `COLUMN=A|B`
    (default: the range in the training rows, any category); `drop`, columns to leave out; `group`, the column that says
    which rows belong together and stand in one part of every split, or "rows" for rows with the same features, or
    "none" (default: rows, for a table in which some are alike); `rule`, what poisoned rows keep besides, as `A <= B` or
    `A + 5 < B` between two columns of numbers, which every row of the file has to keep.

    Raises `DataError` for a file that cannot be used, with the column and the line, and `InputError` for an option.
    """
    path, options = Path(path), _Options(positive, missing, feasible, group, rule)
    check_path(path)
    if path.suffix.lower() in TABLES:
        frame, source = read_table(path, drop)
        return _of_frame(path.stem, frame, target, drop, source, options)
    for name, given in (("target", target), ("drop", drop), ("group", group not in (None, ROWS, NONE) and group)):
        if given:
            raise InputError(f"{name} = {given!r}: only tables have named columns; the labels of {path} are in it")
    arrays, source = read_arrays(path)
    return _of_arrays(path.stem, arrays.x, arrays.y, arrays.test, arrays.names, source, options)


def dataset_of(
    x: Any,
    y: Any,
    *,
    name: str = "own",
    positive: str | None = None,
    missing: str = "refuse",
    feasible: Sequence[str] = (),
    drop: Sequence[str] = (),
    group: str | None = None,
    rule: Sequence[str] = (),
    test: Any = None,
) -> Dataset:
    """Return the data set in a data frame, in arrays or in a sparse matrix.

    Arguments: `x` (n, m), and `y`, the labels (n,) or the name of the column of `x` that holds them; `test`, official
    test rows, another frame or (x, y); the others as of `read_dataset`. Raises as that does.

    Example:
        >>> import pandas as pd
        >>> from mithridate.data.tables import dataset_of
        >>> ages = [20 + 7 * row % 40 for row in range(40)]
        >>> frame = pd.DataFrame({"age": ages, "smoker": [True, False] * 20, "ill": ["no", "yes", "yes", "no"] * 10})
        >>> data = dataset_of(frame, "ill", feasible=["age=0:100"])
        >>> data.classes
        ('no', 'yes')
    """
    source, options = Source(name), _Options(positive, missing, feasible, group, rule)
    if isinstance(x, pd.DataFrame):
        frames = [_with_target(x, y)]
        if test is not None:
            frames.append(_with_target(*((test, y) if isinstance(test, pd.DataFrame) else test)))
            if list(frames[1].columns) != list(frames[0].columns):
                raise InputError(f"{name}: the test rows have other columns than the rows")
        column = y if isinstance(y, str) else str(frames[0].columns[-1])
        frame = pd.concat(frames, ignore_index=True)
        return _of_frame(name, frame, column, drop, source, options, n_test=len(frame) - len(x))
    if isinstance(y, str) or drop or group not in (None, ROWS, NONE):
        raise InputError(f"{name}: arrays have no named columns; give the labels as an array, and the columns you want")
    shape = np.shape(x)
    if len(shape) != 2 or 0 in shape or np.shape(y) != shape[:1]:
        raise InputError(f"{name}: x must be (n, m) and y (n,); got {shape} and {np.shape(y)}")
    if test is not None and (np.shape(test[0])[1:] != shape[1:] or np.shape(test[1]) != np.shape(test[0])[:1]):
        raise InputError(f"{name}: test rows must be (k, {shape[1]}) and (k,); got {[np.shape(t) for t in test]}")
    check_dense(shape, name)
    return _of_arrays(name, x, np.asarray(y), test, tuple(f"x{place}" for place in range(shape[1])), source, options)


def read_labelled(path: str | Path, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Return further rows of a table that is known, from a file like the one it was read from.

    Raw rows (n, columns), NaN where a cell is empty, and the places of their labels (n,) among the target's categories.
    Raises `DataError` when a column is missing, or a cell is not what its column holds.
    """
    path = Path(path)
    check_path(path)
    if path.suffix.lower() in TABLES:
        frame, source = read_table(path)
        frame = frame.set_axis([str(column) for column in frame.columns], axis="columns").reset_index(drop=True)
    else:
        arrays, source = read_arrays(path)
        check_dense(arrays.x.shape, source.name)
        frame = pd.DataFrame(_dense(arrays.x), columns=list(arrays.names)).assign(**{schema.target.name: arrays.y})
    names = [str(column) for column in frame.columns]
    for column in (*schema.columns, schema.target):
        if column.name not in names:
            raise DataError(f"{source.name}: no column {column.name!r}; {nearest(column.name, names)}")
    labels = coded(frame[schema.target.name], schema.target, source)
    if np.isnan(labels).any():
        raise DataError(f"{source.name}: no label in {source.at(int(np.isnan(labels).argmax()))}")
    raw = np.stack([coded(frame[column.name], column, source) for column in schema.columns], axis=1)
    return raw, labels.astype(np.int64)


def read_rows(path: str | Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a file, features (n, m) as the victim of a split sees them and classes (n,) by number.

    For a table a file like it (see `read_labelled`); for a data set of the catalogue an npz file with arrays `x` (n, m)
    in the data set's own units and `y` (n,), the places of its classes. Raises `DataError` for any other.
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
    if isinstance(y, str):
        return x
    name = str(y.name) if isinstance(y, pd.Series) and y.name is not None else "label"
    if name in x.columns:
        raise InputError(f"the labels are called {name!r}, and so is a column; rename one")
    if np.shape(y) != (len(x),):
        raise InputError(f"labels must be ({len(x)},), one for each row; got {np.shape(y)}")
    return x.assign(**{name: np.asarray(y) if not isinstance(y, pd.Series) else y.array})


def _of_frame(
    name: str,
    frame: pd.DataFrame,
    target: str | None,
    drop: Sequence[str],
    source: Source,
    options: _Options,
    n_test: int = 0,
) -> Dataset:
    frame = frame.set_axis([str(column) for column in frame.columns], axis="columns").reset_index(drop=True)
    names = list(frame.columns)
    if target is None:
        raise InputError(f"{source.name}: say which column holds the labels (target); there are {some(names)}")
    check_header(frame, target, source)
    for wanted in (target, *drop):
        if wanted not in names:
            raise InputError(f"{source.name}: no column {wanted!r}; {nearest(wanted, names)}")
    if target in drop:
        raise InputError(f"drop = {target!r}: this is the target")
    groups = _groups_of(frame, target, drop, source, options.group)
    frame = frame.drop(columns=[*drop, *([options.group] if groups is not None else [])])
    check_names(list(frame.columns), source.name)
    features = [column for column in frame.columns if column != target]
    if not features:
        raise DataError(f"{source.name}: no column besides the target {target!r}; there is nothing to learn from")
    label, labels = read_column(frame[target], source, is_target=True)
    columns, raw = read_columns(frame[features], source)
    cells = _Cells(columns, raw, label, labels, tuple(frame.columns), groups)
    found = _assembled(name, cells, source, options, n_test)
    warn_of(columns, raw, labels, source, found.grouping)
    unkept = found_rules(columns, raw, found.schema.rules if found.schema else ())
    offer_rules(unkept, source)
    return replace(found, unkept=unkept) if unkept else found


def _groups_of(
    frame: pd.DataFrame, target: str, drop: Sequence[str], source: Source, group: str | None
) -> np.ndarray | None:
    """Return the number of each row's group, -1 where its cell is empty; None where no column says it."""
    names = list(frame.columns)
    if group is None or (group in (ROWS, NONE) and group not in names):
        return None
    if group in (ROWS, NONE):
        raise InputError(f"group = {group!r}: this word has a meaning of its own, and a column is called so; rename it")
    if group not in names:
        raise InputError(f"{source.name}: group = {group!r}: no such column; {nearest(group, names)}")
    if group == target or group in drop:
        raise InputError(f"group = {group!r}: this is {'the target' if group == target else 'dropped as well'}")
    return numbered(frame.loc[:, [group]].iloc[:, 0], source)


def _of_arrays(
    name: str, x: Any, y: np.ndarray, test: Any, names: tuple[str, ...], source: Source, options: _Options
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
    cells = _Cells(columns, raw, label, labels, (*names, target))
    return _assembled(name, cells, source, replace(options, group=options.group or NONE), len(both) - len(y))


def _dense(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x)


def _assembled(name: str, cells: _Cells, source: Source, options: _Options, n_test: int) -> Dataset:
    """Return the data set of these cells, whose last `n_test` rows are its official test rows."""
    empty = np.isnan(cells.raw)
    unlabelled = np.isnan(cells.labels)
    if unlabelled.any() and options.missing != "drop":
        raise DataError(
            f"{source.name}: {unlabelled.sum()} row(s) have no label in column {cells.target.name!r}, the first in "
            f"{source.at(int(unlabelled.argmax()))}; remove them, or use missing = drop"
        )
    if empty.any() and options.missing == "refuse":
        places = np.flatnonzero(empty.any(axis=0))
        faults = [
            f"{cells.columns[place].name!r} ({empty[:, place].sum()}, the first in "
            f"{source.at(int(empty[:, place].argmax()))})"
            for place in places[:5]
        ]
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        raise DataError(
            f"{source.name}: cells are empty in column(s) {', '.join(faults)}{more}; use missing = drop to leave such "
            "rows out, or missing = impute to fill in the training rows' median or most frequent category"
        )
    kept = ~unlabelled & (~empty.any(axis=1) if options.missing == "drop" else True)
    if not kept.any():
        raise DataError(f"{source.name}: no row is without empty cells; use missing = impute")
    if cells.groups is not None and options.missing == "drop":
        kept = kept & (cells.groups >= 0)
    target, y, classes = _classes(cells.target, cells.labels, kept, source, options.positive)
    columns = restricted(cells.columns, options.feasible)
    rules = read_rules(options.rule, columns, np.where(kept[:, None], cells.raw, np.nan), source)
    rows, own = np.flatnonzero(kept), np.arange(len(kept)) < len(kept) - n_test
    n_own = int(own.sum())
    of_own, of_test = rows[own[rows]], rows[~own[rows]]
    counts = np.bincount(y[of_own], minlength=len(classes))
    least = LEAST_ROWS - 1 if n_test else LEAST_ROWS
    if counts.min() < least:
        raise DataError(
            f"{source.name}: class {classes[counts.argmin()]!r} of column {target.name!r} has {counts.min()} row(s); "
            f"at least {least} are needed to train, validate and test on; remove them or join classes"
        )
    grouping = grouping_of(cells.groups, cells.raw, y, (of_own, of_test), classes, options.group, source)
    return Dataset(
        name,
        cells.raw[of_own],
        y[of_own].astype(np.int8),
        of_own,
        classes,
        source.name,
        (cells.raw[of_test], y[of_test].astype(np.int8), of_test - n_own) if n_test else None,
        balanced=False,
        schema=Schema(tuple(columns), target, cells.order, rules),
        grouping=grouping,
    )


def _classes(
    target: Column, labels: np.ndarray, kept: np.ndarray, source: Source, positive: str | None
) -> tuple[Column, np.ndarray, tuple[str, ...]]:
    """Return the target with the label of each class, the classes of all rows (-1: not kept) and their names."""
    what = f"{source.name}: target {target.name!r}"
    seen = np.unique(labels[kept])
    if target.kind == "number":
        row = int((kept & (labels != np.rint(labels))).argmax())
        raise DataError(
            f"{what} holds numbers that are not whole ({labels[row]:g} in {source.at(row)}), so a quantity and no "
            "classes; give a column of classes, or cut it into some"
        )
    if target.kind == "integer" and len(seen) > MOST_NUMBERS:
        raise DataError(
            f"{what} holds {len(seen)} different numbers, so it looks like a quantity and not like classes (at most "
            f"{MOST_NUMBERS}); give a column of classes, or cut it into some"
        )
    written = [int(value) if target.kind == "integer" else target.categories[int(value)] for value in seen]
    names = [str(label) for label in written]
    if len(names) < 2:
        raise DataError(f"{what} is {names[0]!r} in every row; two classes or more are needed")
    if target.kind != "integer":
        order = sorted(range(len(names)), key=names.__getitem__)
        seen, written, names = seen[order], [written[i] for i in order], [names[i] for i in order]
    if positive is not None:
        if positive not in names:
            raise InputError(f"positive = {positive!r}: {what} has no such label; {nearest(positive, names)}")
        place = names.index(positive)
        y = np.where(kept, labels == seen[place], -1).astype(np.int64)
        rest = [other for other in range(len(names)) if other != place]
        common = max(rest, key=lambda other: int((labels[kept] == seen[other]).sum()))
        other = names[common] if len(rest) == 1 else f"not {positive}"
        return replace(target, kind="category", categories=(written[common], written[place])), y, (other, positive)
    y = np.full(len(labels), -1)
    for place, value in enumerate(seen):
        y[kept & (labels == value)] = place
    return replace(target, kind="category", categories=tuple(written)), y, tuple(names)
