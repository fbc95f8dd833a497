"""Makes a data set from columns and their raw numbers: which rows are kept, and the class of each row."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mithridate.configuration.reading import FileOptions, told
from mithridate.data.datasets import Dataset
from mithridate.data.doubts import warn
from mithridate.data.encoding import Column, Schema
from mithridate.data.faults import Empty, Several, Unfit
from mithridate.data.groups import grouping_of
from mithridate.data.kinds import Source
from mithridate.data.relations import read_rules
from mithridate.data.restricting import check_reach, nearest, restricted
from mithridate.errors import DataError, InputError

MOST_NUMBERS = 20
"""The most different numbers that labels may have: a column with more is taken for a quantity, not for classes."""
LEAST_ROWS = 4
"""The fewest rows of a class: two to train on, one to validate on, one to test on."""


@dataclass(frozen=True)
class Cells:
    """The cells of a table.

    `columns`: the features; `raw` (n, columns): their raw numbers, NaN where a cell is empty; `target` and `labels`
    (n,): the same for the target; `order`: the names of all columns as the file has them; `reading`: the options given.
    """

    columns: list[Column]
    raw: np.ndarray
    target: Column
    labels: np.ndarray
    order: tuple[str, ...]
    reading: FileOptions
    table: pd.DataFrame | None = None
    """The cells as they are written; None unless the file is text."""
    groups: np.ndarray | None = None
    """The number of each row's group (n,), −1 where its cell is empty; None if no column gives the groups."""

    def first(self, name: str, empty: np.ndarray, source: Source) -> str:
        """Return the place of the first empty cell of a column, and what is written there; `empty` (n,) marks them."""
        row = int(empty.argmax())
        cell = None if self.table is None else self.table[name].iloc[row]
        held = cell.strip() if isinstance(cell, str) else ""
        remedy = f" (if that is a label, {told({'keep_default_na': False})})" * (name == self.target.name)
        return f"the first in {source.at(row)}" + (f": {held!r}{remedy}" if held else "")


def assembled(name: str, cells: Cells, source: Source, options: FileOptions, n_test: int) -> Dataset:
    """Return the data set of these cells. The last `n_test` rows are its official test rows.

    Raises `InputError` or `DataError` for cells, labels or options that cannot be used (see `read_dataset`).
    """
    empty = np.isnan(cells.raw)
    unlabelled = np.isnan(cells.labels)
    faults = empty_cells(cells, source, options)
    leave = options.missing in ("drop", "category,drop")
    kept = ~unlabelled & (~empty.any(axis=1) if leave else True)
    if cells.groups is not None and leave:
        kept = kept & (cells.groups >= 0)
    if not kept.any():
        raise DataError(f"{source.name}: every row has an empty cell; use {told({'missing': 'impute'}, options)}")
    if faults:
        raise Several(faults)
    if unlabelled.any():
        warn(f"{source.name}: {unlabelled.sum()} row(s) have no label and are left out")
    target, y, classes = _classes(cells.target, cells.labels, kept, source, options.positive)
    columns = restricted(cells.columns, options.feasible)
    check_reach(columns, cells.raw[kept], source)
    rules = read_rules(options.rule, columns, np.where(kept[:, None], cells.raw, np.nan), source)
    rows, own = np.flatnonzero(kept), np.arange(len(kept)) < len(kept) - n_test
    n_own = int(own.sum())
    of_own, of_test = rows[own[rows]], rows[~own[rows]]
    counts = np.bincount(y[of_own], minlength=len(classes))
    least = LEAST_ROWS - 1 if n_test else LEAST_ROWS
    if counts.min() < least:
        often = classes[counts.argmax()]
        raise Unfit(
            source,
            f"class {classes[counts.argmin()]!r} of column {target.name!r} has {counts.min()} row(s); at least {least} "
            "are needed for training, validation and test",
            "remove them or join classes",
            **{"positive": often} if len(classes) > 2 and least <= counts.max() <= n_own - least else {},
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
        schema=Schema(tuple(columns), target, cells.order, rules, cells.reading),
        grouping=grouping,
    )


def empty_cells(cells: Cells, source: Source, options: FileOptions) -> list[DataError]:
    """Return what is wrong with empty cells, if no option says what becomes of them."""
    empty, unlabelled = np.isnan(cells.raw), np.isnan(cells.labels)
    own = [column.kind in ("category", "boolean") for column in cells.columns]
    numbers, kinds = bool(empty[:, np.logical_not(own)].any()), bool(empty[:, own].any())
    if options.missing not in ("refuse", "category") or (options.missing == "category" and not numbers):
        return []
    faults: list[DataError] = []
    if unlabelled.any() and options.missing == "refuse":
        remedy: dict[str, Any] = {"missing": "impute" if numbers or kinds else "drop"}
        if len(np.unique(cells.labels[~unlabelled])) < 2:  # probably the text of the other class counts as empty
            remedy = {"keep_default_na": False}
        faults.append(
            Empty(
                source,
                f"{unlabelled.sum()} row(s) have no label in column {cells.target.name!r}, "
                f"{cells.first(cells.target.name, unlabelled, source)}",
                "remove them",
                **remedy,
            )
        )
    if numbers or kinds:
        places = np.flatnonzero(empty.any(axis=0))
        shown = [
            f"{cells.columns[place].name!r} ({empty[:, place].sum()}, "
            f"{cells.first(cells.columns[place].name, empty[:, place], source)})"
            for place in places[:5]
        ]
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        alone = f", or category{',impute' * numbers} (empty cells of text become a category of their own)" * kinds
        ways = (
            f"drop (leaves out {empty.any(axis=1).mean():.0%} of the rows), impute (fills in the training rows' median "
            f"or most frequent category){alone}"
        )
        fault = f"cells are empty in column(s) {', '.join(shown)}{more}"
        if options.missing == "category":
            fault = f"{fault}, and numbers have no category of their own for them"
            faults.append(Empty(source, fault, missing="category,impute"))
        else:
            faults.append(Empty(source, f"{fault}; missing can be {ways}", missing="impute"))
    return faults


def _classes(
    target: Column, labels: np.ndarray, kept: np.ndarray, source: Source, positive: str | None
) -> tuple[Column, np.ndarray, tuple[str, ...]]:
    """Return the target with the label of each class, the class of each row (n,) by number, and the classes' names.

    Rows that are not kept get −1.
    """
    what = f"{source.name}: target {target.name!r}"
    seen = np.unique(labels[kept])
    if target.kind == "number":
        row = int((kept & (labels != np.rint(labels))).argmax())
        raise DataError(
            f"{what} holds numbers that are not whole ({labels[row]:g} in {source.at(row)}), so it is a quantity and "
            "not classes; name a column of classes, or divide the quantity into some"
        )
    if target.kind == "integer" and len(seen) > MOST_NUMBERS:
        raise DataError(
            f"{what} holds {len(seen)} different numbers, so it looks like a quantity and not like classes (at most "
            f"{MOST_NUMBERS}); name a column of classes, or divide the quantity into some"
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
