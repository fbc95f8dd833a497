"""What the columns of a table hold, found from their cells, and what poisoned cells may hold, as the user says it."""

import difflib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mithridate.data.doubts import LARGEST, check_spelling, check_written
from mithridate.data.encoding import Column
from mithridate.data.readers import Source, check_text, leave_out
from mithridate.errors import DataError, InputError

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>")
"""Cells of a CSV file that count as empty."""
MOST_CATEGORIES = 50
EXACT = 2.0**53
DECIMALS, EDGE = 5, 1e-9
"""The most decimals that are kept: with more a column is taken to hold any number."""

# A leading zero is a code's, not a number's.
_NUMBER = r"(?i)[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[+-]?inf(?:inity)?"
_DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}.*|\d{1,2}[./]\d{1,2}[./]\d{4}.*"
_DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period")
_NUMBERS = ("integer", "floating", "mixed-integer-float")
_BOOLEANS = (("False", "True"), ("false", "true"), ("FALSE", "TRUE"))


def read_column(cells: pd.Series, source: Source, is_target: bool = False) -> tuple[Column, np.ndarray]:
    """Return what a column holds, and its raw numbers (n,)."""
    name, kind = str(cells.name), pd.api.types.infer_dtype(cells, skipna=True)
    what = f"{source.name}: column {name!r}"
    remedy = "turn it into numbers or text" + ("" if is_target else f", or {leave_out(name)}")
    if kind == "string":
        return _text(cells, source, is_target)
    if kind == "categorical":
        codes = np.asarray(cells.cat.codes, dtype=float)
        column = Column(name, "category", cells.dtype, tuple(cells.cat.categories))
        _check_categories(column, len(cells), what, is_target)
        return column, np.where(codes < 0, np.nan, codes)
    if kind == "boolean":
        values = cells.astype("boolean").to_numpy(dtype=float, na_value=np.nan)
        return Column(name, "boolean", "bool" if cells.dtype == object else cells.dtype, (False, True)), values
    if kind in _NUMBERS:
        try:
            numbers = pd.to_numeric(cells)
        except (OverflowError, ValueError):
            raise DataError(f"{what} holds whole numbers that are too large; {remedy}") from None
        return _numbers(name, numbers.dtype, numbers.to_numpy(dtype=float, na_value=np.nan), source)
    if kind == "mixed" and any(isinstance(cell, list | np.ndarray) for cell in cells.head(100)):
        raise DataError(f"{what} holds lists; {remedy}")
    if kind == "empty":
        raise DataError(f"{what} is empty in every row; remove it, or {leave_out(name)}")
    if kind in _DATES:
        raise DataError(f"{what} holds dates or times; turn them into numbers, such as days since a day")
    raise DataError(f"{what} holds {kind} values ({cells.dtype}); {remedy}")


def _text(cells: pd.Series, source: Source, is_target: bool) -> tuple[Column, np.ndarray]:
    """Find what the text of a column stands for; numbers and empty cells are looked for in CSV files only."""
    name, typed = str(cells.name), not source.separator
    what = f"{source.name}: column {name!r}"
    found = stripped(cells, source)
    empty = found.isna() | (False if typed else found.isin(MISSING))
    present = found[~empty]
    raw = np.full(len(cells), np.nan)
    if present.empty:
        raise DataError(f"{what} is empty in every row; remove it, or {leave_out(name)}")
    numeric = present.str.fullmatch(_NUMBER)
    if numeric.all() and not typed:
        raw[~empty] = present.astype(float)
        exact = present.str.fullmatch(r"[+-]?\d+").all()
        return _numbers(name, "int64" if exact else "float64", raw, source)
    check_written(present, what)
    labels = tuple(sorted(present.unique()))
    if is_target:
        check_spelling(labels, what)
    crowded = _crowded(len(labels), len(present))
    if not is_target and (numeric.mean() >= 0.9 or (crowded and numeric.mean() > 0.5)) and not numeric.all():
        row = int((~numeric).to_numpy().argmax())
        raise DataError(
            f"{what} holds numbers, but {present.iloc[row][:40]!r} in {source.at(int(present.index[row]))} is none; "
            "mend the cell or leave it empty" + ("" if typed else f" (or as one of {' '.join(MISSING[1:])})")
        )
    if present.str.fullmatch(_DATE).mean() >= 0.9:
        raise DataError(f"{what} holds dates or times; turn them into numbers, such as days since a day")
    pair = next((pair for pair in _BOOLEANS if set(labels) <= set(pair)), None)
    if pair and not typed:
        spelled: tuple[Any, ...] = (False, True) if pair == _BOOLEANS[0] else pair
        column = Column(name, "boolean", "bool" if pair == _BOOLEANS[0] else "str", spelled)
        labels = pair
    else:
        column = Column(name, "category", "str", labels)
        _check_categories(column, len(present), what, is_target)
    places = {label: place for place, label in enumerate(labels)}
    raw[~empty] = present.map(places).to_numpy(dtype=float)
    return column, raw


def stripped(cells: pd.Series, source: Source) -> pd.Series:
    """Return the cells as text without blanks around it. Raises `DataError` for text that is not Unicode."""
    try:
        return cells.astype("str").str.strip()
    except ValueError:  # UnicodeEncodeError among them
        raise DataError(f"{source.name}: column {str(cells.name)!r} holds text that is not Unicode; mend it") from None


def _numbers(name: str, dtype: Any, values: np.ndarray, source: Source) -> tuple[Column, np.ndarray]:
    check_size(values[:, None], (name,), source)
    exact = np.abs(values[~np.isnan(values)]).max(initial=0.0) <= EXACT
    if not exact and pd.api.types.is_integer_dtype(dtype):
        raise DataError(
            f"{source.name}: column {name!r} holds whole numbers above 2^53, which are not told apart; if they name "
            f"the rows, {leave_out(name)}"
        )
    if exact and whole(values):
        return Column(name, "integer", dtype), values
    return Column(name, "number", dtype, decimals=_decimals(values, dtype)), values


def _decimals(values: np.ndarray, dtype: Any) -> int | None:
    """Return how many decimals numbers have at most, as they are typed; None for more than `DECIMALS`."""
    known = values[~np.isnan(values)]
    typed = known.astype(np.float32) if str(dtype).lower() == "float32" else known
    return next((k for k in range(1, DECIMALS + 1) if (np.round(typed, k) == typed).all()), None)


def whole(values: np.ndarray) -> bool:
    """Return whether all numbers, where there are some, are whole."""
    return bool((np.isnan(values) | (values == np.rint(values))).all())


def check_size(values: np.ndarray, names: Sequence[str], source: Source) -> None:
    """Raise `DataError` where one of the values (n, columns) is infinite, or too large for results in float32."""
    bad = np.argwhere(np.abs(values) > LARGEST)
    if len(bad):
        row, place = (int(part) for part in bad[0])
        raise DataError(
            f"{source.name}: column {names[place]!r} holds {len(bad)} value(s) that are infinite or above "
            f"{LARGEST:g}, the first in {source.at(row)} ({values[row, place]:g}); mend them or remove the rows"
        )


def _crowded(levels: int, rows: int) -> bool:
    return levels > MOST_CATEGORIES or levels > max(2, rows / 2)


def _check_categories(column: Column, rows: int, what: str, is_target: bool) -> None:
    for label in column.labels:
        check_text(label, f"{what}: the text {label[:40]!r}")
    if _crowded(len(column.categories), rows):
        shown = ", ".join(map(repr, column.labels[:3]))
        remedy = "join classes" if is_target else f"if they name the rows, {leave_out(column.name)}, else join some"
        raise DataError(
            f"{what} holds {len(column.categories)} different texts in {rows} rows ({shown}, …), too many for "
            f"categories (at most {MOST_CATEGORIES}, and half of the rows); {remedy}"
        )


def coded(cells: pd.Series, column: Column, source: Source) -> np.ndarray:
    """Return the raw numbers (n,) of cells of a column that is known, NaN where empty.

    Raises `DataError` for a cell that is none of its categories, or not a number.
    """
    text = stripped(cells, source)
    empty = text.isna() | text.isin(MISSING if source.separator else ())
    numeric = text.str.fullmatch(_NUMBER).fillna(False).astype(bool) & ~empty
    raw = np.full(len(cells), np.nan)
    raw[numeric] = text[numeric].astype(float)
    if column.categories:
        # Labels that are numbers can be written in several ways.
        numbers = all(isinstance(category, int) and not isinstance(category, bool) for category in column.categories)
        keys = column.categories if numbers else column.labels
        found = (pd.Series(raw) if numbers else text).map({key: place for place, key in enumerate(keys)})
        raw = np.where(empty, np.nan, found.to_numpy(dtype=float, na_value=np.nan))
    bad = np.isnan(raw) & ~empty.to_numpy()
    if bad.any():
        row = int(bad.argmax())
        wanted = f"one of {some(column.labels)}" if column.categories else "a number"
        raise DataError(
            f"{source.name}: column {column.name!r} holds {str(cells.iloc[row])[:40]!r} in {source.at(row)}, which is "
            f"not {wanted}"
        )
    check_size(raw[:, None], (column.name,), source)
    return raw


def numbered(cells: pd.Series, source: Source) -> np.ndarray:
    """Return for each cell the number of its text among all (n,), -1 where it is empty."""
    text = stripped(cells, source)
    return np.asarray(pd.factorize(text.mask(text.isna() | text.isin(MISSING if source.separator else ("",))))[0])


def read_columns(frame: pd.DataFrame, source: Source) -> tuple[list[Column], np.ndarray]:
    """Return what each column of features holds, and the raw numbers (n, columns).

    Raises `DataError` for columns that cannot be used: for one in a line, for several in a table, with what leaves them
    all out.
    """
    found, faults = [], {}
    for name in frame.columns:
        try:
            if re.fullmatch(r"Unnamed: \d+", str(name)):
                raise DataError(
                    f"{source.name}: column {name!r} has no name (pandas writes row numbers so, unless told "
                    f"index=False); name it, or {leave_out(str(name))}"
                )
            column, raw = read_column(frame[name], source)
            seen = np.unique(raw[~np.isnan(raw)])
            if len(seen) < 2:
                fault = "holds a single value" if len(seen) else "is empty in every row"
                raise DataError(f"{source.name}: column {name!r} {fault}; remove it, or {leave_out(name)}")
            found.append((column, raw))
        except DataError as error:
            faults[str(name)] = error
    if len(faults) == 1:
        raise next(iter(faults.values()))
    if faults:
        lines = [f"  {str(error).removeprefix(f'{source.name}: ')}" for error in faults.values()]
        flags = " ".join(f"--drop {shlex.quote(name)}" for name in faults)
        raise DataError(
            "\n".join([f"{source.name}: {len(faults)} of {frame.shape[1]} columns cannot be used:", *lines])
            + f"\nTo leave them out: drop = {json.dumps(list(faults), ensure_ascii=False)}, or {flags}"
        )
    return [column for column, _ in found], np.stack([raw for _, raw in found], axis=1)


def restricted(columns: list[Column], feasible: Sequence[str]) -> list[Column]:
    """Return the columns with what `COLUMN=LOW:HIGH` and `COLUMN=A|B` say their poisoned cells may hold."""
    found = {column.name: column for column in columns}
    done = set()
    for text in feasible:
        # Names and categories may contain an equals sign.
        cuts = [cut.start() for cut in re.finditer("=", text)]
        cut = next((cut for cut in cuts if text[:cut] in found), None)
        if not cuts:
            raise InputError(f"feasible {text!r}: give it as COLUMN=LOW:HIGH or COLUMN=A|B")
        if cut is None:
            wanted = text[: cuts[0]]
            raise InputError(f"feasible {text!r}: no column {wanted!r}; {nearest(wanted, list(found))}")
        name, value = text[:cut], text[cut + 1 :]
        if name in done:
            raise InputError(f"feasible {text!r}: column {name!r} is given twice")
        done.add(name)
        found[name] = (_chosen if found[name].categories else _bounded)(found[name], text, value)
    return list(found.values())


def _bounded(column: Column, text: str, value: str) -> Column:
    ends = [end.strip() for end in value.split(":")]
    if len(ends) != 2 or not any(ends) or not all(re.fullmatch(_NUMBER, end) for end in ends if end):
        raise InputError(f"feasible {text!r}: {column.name!r} holds numbers; give LOW:HIGH, LOW: or :HIGH")
    low, high = (float(end) if end else None for end in ends)
    if low is not None and high is not None and low > high:
        raise InputError(f"feasible {text!r}: {low:g} lies above {high:g}; give the lower end first")
    if any(end is not None and abs(end) > LARGEST for end in (low, high)):
        raise InputError(f"feasible {text!r}: the ends must be finite")
    if column.grid:
        # Ends that are on the grid but for rounding stay where they are.
        low = None if low is None else float(np.ceil(low / column.grid - EDGE) * column.grid)
        high = None if high is None else float(np.floor(high / column.grid + EDGE) * column.grid)
        if low is not None and high is not None and low > high:
            what = "whole numbers" if column.whole else f"numbers of {column.decimals} decimals"
            raise InputError(f"feasible {text!r}: {column.name!r} holds {what}, and none lies between")
    kind = pd.Series([1], dtype=column.dtype).to_numpy().dtype
    if kind.kind in "iu":
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
        if any(end is not None and not least <= end <= most for end in (low, high)):
            raise InputError(f"feasible {text!r}: {column.name!r} holds {kind}, from {least} to {most}")
    return replace(column, low=low, high=high)


def _chosen(column: Column, text: str, value: str) -> Column:
    wanted = [label.strip() for label in value.split("|")]
    for label in wanted:
        if label not in column.labels:
            near = nearest(label, list(column.labels), "categories")
            raise InputError(f"feasible {text!r}: {column.name!r} has no category {label!r}; {near}")
    allowed = tuple(sorted({column.labels.index(label) for label in wanted}))
    if column.kind == "boolean":
        return replace(column, low=float(allowed[0]), high=float(allowed[-1]))
    return replace(column, allowed=allowed)


def nearest(name: str, known: list[str], what: str = "there are") -> str:
    """Return which of the known names may have been meant, or some of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return f"{what if what == 'there are' else f'the {what} are'} {some(known)}"


def some(names: Sequence[str]) -> str:
    """Return the first few of these names, for a message."""
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
