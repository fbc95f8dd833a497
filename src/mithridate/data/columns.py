"""Finds out from the cells what each column of a table holds."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mithridate.configuration.reading import FileOptions
from mithridate.data.categories import check_spread, grouped
from mithridate.data.doubts import LARGEST, check_spelling
from mithridate.data.encoding import Column
from mithridate.data.faults import Constant, Unfit, leave_out
from mithridate.data.kinds import Source
from mithridate.data.numbers import ENOUGH, NUMBER, Spelling, spelled
from mithridate.data.restricting import some
from mithridate.errors import DataError

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>")
"""Cells of a text file that count as empty."""
NOTHING = {
    *("-", "--", ".", "*", "none", "unknown", "missing", "null", "nil", "n.a.", "na", "n/a", "nd", "#n/a", "blank"),
    *("#value!", "#div/0!", "not available", "undefined"),
}
"""Words in a column of numbers that say that there is no number."""
EXACT = 2.0**53
"""The largest whole number up to which float64 represents all of them."""
DECIMALS = 5
"""The most decimals that are kept. A column with more is taken to hold any number."""
FEW = 20
"""If numbers and words are mixed: a column with at most this many different cells is offered as categories."""

_DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}.*|\d{1,2}[./]\d{1,2}[./]\d{4}.*"
_DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period")
_NUMBERS = ("integer", "floating", "mixed-integer-float")
_BOOLEANS = (("False", "True"), ("false", "true"), ("FALSE", "TRUE"))
_PLAIN = FileOptions.of()


def read_column(
    cells: pd.Series, source: Source, options: FileOptions = _PLAIN, is_target: bool = False, place: int = 0
) -> tuple[Column, np.ndarray]:
    """Return what a column holds, and its raw numbers (n,), NaN where a cell is empty.

    `place` is its position in the table, counted from 0. Raises `Constant` for an empty column, `Unfit` or `DataError`
    for one that cannot be used.
    """
    name, kind = str(cells.name), pd.api.types.infer_dtype(cells, skipna=True)
    what, drop = f"column {name!r}", {} if is_target else leave_out(name, place)
    if not is_target and name in options.categorical:
        return _categorical(cells, source, options, drop)
    if kind == "string":
        return _text(cells, source, options, is_target, drop)
    if kind == "categorical":
        codes = np.asarray(cells.cat.codes, dtype=float)
        raw = np.where(codes < 0, np.nan, codes)
        return grouped(name, cells.dtype, tuple(cells.cat.categories), raw, source, options, is_target, drop)
    if kind == "boolean":
        values = cells.astype("boolean").to_numpy(dtype=float, na_value=np.nan)
        if np.isnan(values).any() and options.missing.startswith("category"):
            dtype = "object" if cells.dtype == object else cells.dtype
            return grouped(name, dtype, (False, True), values, source, options, is_target, drop)
        return Column(name, "boolean", "bool" if cells.dtype == object else cells.dtype, (False, True)), values
    if kind in _NUMBERS:
        try:
            numbers = pd.to_numeric(cells)
        except (OverflowError, ValueError):
            raise Unfit(source, f"{what} holds whole numbers that are too large", "mend them", **drop) from None
        values = numbers.to_numpy(dtype=float, na_value=np.nan)
        return _numbers(name, numbers.dtype, _without(values, options), source, drop)
    remedy = "turn it into numbers or text"
    if kind == "mixed" and any(isinstance(cell, list | np.ndarray) for cell in cells.head(100)):
        raise Unfit(source, f"{what} holds lists", remedy, **drop)
    if kind == "empty":
        raise Constant(source, name, "is empty in every row")
    if kind in _DATES:
        raise Unfit(source, f"{what} holds dates or times", "turn them into numbers, such as days since a day", **drop)
    raise Unfit(source, f"{what} holds {kind} values ({cells.dtype})", remedy, **drop)


def _without(values: np.ndarray, options: FileOptions) -> np.ndarray:
    """Return the numbers (n,), with NaN in place of those that mean an empty cell (`na_values`)."""
    said = [float(text) for text in options.entries["na_values"] if re.fullmatch(NUMBER, text)]
    return np.where(np.isin(values, said), np.nan, values) if said else values


def _categorical(
    cells: pd.Series, source: Source, options: FileOptions, drop: dict[str, Any]
) -> tuple[Column, np.ndarray]:
    """Read a column as one of categories, whatever it holds."""
    empty = empties(cells, source, options)
    present = (stripped(cells, source) if source.text else cells)[~empty]
    if present.empty:
        raise Constant(source, str(cells.name), "is empty in every row")
    labels = tuple(sorted(present.unique(), key=str if source.text else lambda cell: (str(type(cell)), cell)))
    raw = np.full(len(cells), np.nan)
    raw[~empty] = present.map({label: code for code, label in enumerate(labels)}).to_numpy(dtype=float)
    dtype = "str" if source.text else cells.dtype
    written = empty_text(cells, empty, source)
    return grouped(str(cells.name), dtype, labels, raw, source, options, False, drop, written)


def empties(cells: pd.Series, source: Source, options: FileOptions) -> np.ndarray:
    """Return which cells (n,) are empty."""
    said = list(options.entries["na_values"])
    if not source.text:
        return (cells.isna() | (cells.astype("str").isin(said) if said else False)).to_numpy(bool)
    text = stripped(cells, source)
    return (text.isna() | text.isin([*(MISSING if options.keep_default_na else MISSING[:1]), *said])).to_numpy(bool)


def empty_text(cells: pd.Series, empty: np.ndarray, source: Source) -> str | None:
    """Return how empty cells are written most often in a text file; None for other files, or if no cell is empty."""
    return str(stripped(cells, source)[empty].value_counts().index[0]) if source.text and empty.any() else None


def _text(
    cells: pd.Series, source: Source, options: FileOptions, is_target: bool, drop: dict[str, Any]
) -> tuple[Column, np.ndarray]:
    """Return what a column of text holds, and its raw numbers (n,). Only in text files can text mean a number."""
    name, spelling = str(cells.name), Spelling.of(options)
    found, empty = stripped(cells, source), empties(cells, source, options)
    written = found[~empty]
    raw = np.full(len(cells), np.nan)
    if written.empty:
        raise Constant(source, name, "is empty in every row")
    present = spelling.read(written)
    numeric = present.str.fullmatch(NUMBER)
    if numeric.all() and (source.text or (present != written).any()):
        raw[~empty] = present.astype(float)
        exact = present.str.fullmatch(r"[+-]?\d+").all()
        return _numbers(name, "int64" if exact else "float64", raw, source, drop)
    if not numeric.all() and (told := spelled(written, spelling)):
        meaning, example, remedy = told
        raise Unfit(
            source,
            f"column {name!r} holds {meaning} ({example!r}), which would be read as words",
            "write plain numbers with a decimal point, such as 1234.5",
            **remedy,
        )
    labels = tuple(sorted(written.unique()))
    if is_target:
        check_spelling(labels, f"column {name!r}", source)
    else:
        _check_words(name, written, numeric, labels, source, options, drop)
    if written.str.fullmatch(_DATE).mean() >= ENOUGH:
        remedy = "turn them into numbers, such as days since a day"
        raise Unfit(source, f"column {name!r} holds dates or times", remedy, **drop)
    pair = next((pair for pair in _BOOLEANS if set(labels) <= set(pair)), None) if source.text else None
    labels = pair or labels
    raw[~empty] = written.map({label: place for place, label in enumerate(labels)}).to_numpy(dtype=float)
    if pair and not (empty.any() and options.missing.startswith("category")):
        spelled_so: tuple[Any, ...] = (False, True) if pair == _BOOLEANS[0] else pair
        return Column(name, "boolean", "bool" if pair == _BOOLEANS[0] else "str", spelled_so), raw
    return grouped(name, "str", labels, raw, source, options, is_target, drop, empty_text(cells, empty, source))


def _check_words(
    name: str,
    written: pd.Series,
    numeric: pd.Series,
    labels: Sequence[str],
    source: Source,
    options: FileOptions,
    drop: dict[str, Any],
) -> None:
    """Raise `Unfit` if most cells of a column of text are numbers and some are not."""
    if numeric.all():
        crowded = len(labels) > max(2, len(written) / 2) or len(labels) > options.max_categories
        if crowded and not source.text:
            raise Unfit(source, f"column {name!r} holds numbers as text", "turn it into numbers", **drop)
        return
    if numeric.mean() < ENOUGH and not (check_spread(labels, len(written), options) and numeric.mean() > 0.5):
        return
    row = int((~numeric).to_numpy().argmax())
    words = list(dict.fromkeys(written[~numeric]))
    options_so: dict[str, Any] = drop
    if {word.casefold() for word in words} <= NOTHING:
        options_so = {"na_values": words}
    elif len(labels) <= FEW and 4 * len(labels) <= len(written):
        options_so = {"categorical": drop["drop"]}
    elif len(words) <= 3:
        options_so = {"na_values": words}
    raise Unfit(
        source,
        f"column {name!r} holds numbers, but {words[0][:40]!r} in {source.at(int(written.index[row]))} is none",
        "mend the cell or leave it empty",
        **options_so,
    )


def stripped(cells: pd.Series, source: Source) -> pd.Series:
    """Return the cells as text without blanks at its ends. Raises `DataError` for text that is not Unicode."""
    try:
        return cells.astype("str").str.strip()
    except ValueError:  # UnicodeEncodeError among them
        raise DataError(f"{source.name}: column {str(cells.name)!r} holds text that is not Unicode; mend it") from None


def _numbers(
    name: str, dtype: Any, values: np.ndarray, source: Source, drop: dict[str, Any]
) -> tuple[Column, np.ndarray]:
    check_size(values[:, None], (name,), source, drop)
    exact = np.abs(values[~np.isnan(values)]).max(initial=0.0) <= EXACT
    if not exact and pd.api.types.is_integer_dtype(dtype):
        fault = f"column {name!r} holds whole numbers above 2^53, which float64 cannot tell apart"
        raise Unfit(source, fault, "give smaller ones", **drop)
    if exact and whole(values):
        return Column(name, "integer", dtype), values
    return Column(name, "number", dtype, decimals=_decimals(values, dtype)), values


def _decimals(values: np.ndarray, dtype: Any) -> int | None:
    """Return the most decimals that the numbers have as written; None for more than `DECIMALS`."""
    known = values[~np.isnan(values)]
    typed = known.astype(np.float32) if str(dtype).lower() == "float32" else known
    return next((k for k in range(1, DECIMALS + 1) if (np.round(typed, k) == typed).all()), None)


def whole(values: np.ndarray) -> bool:
    """Return whether all numbers are whole; NaN counts as whole."""
    return bool((np.isnan(values) | (values == np.rint(values))).all())


def check_size(values: np.ndarray, names: Sequence[str], source: Source, drop: dict[str, Any] | None = None) -> None:
    """Raise `Unfit` if a value (n, columns) is infinite, or too large for float32. `drop`: the option that mends it."""
    bad = np.argwhere(np.abs(values) > LARGEST)
    if len(bad):
        row, place = (int(part) for part in bad[0])
        raise Unfit(
            source,
            f"column {names[place]!r} holds {len(bad)} value(s) that are infinite or above {LARGEST:g}, the first in "
            f"{source.at(row)} ({values[row, place]:g})",
            "mend them or remove the rows",
            **drop or {},
        )


def coded(cells: pd.Series, column: Column, source: Source, options: FileOptions = _PLAIN) -> np.ndarray:
    """Return the raw numbers (n,) of the cells of a known column, NaN where a cell is empty.

    Raises `DataError` for a cell that is not one of its categories, or not a number.
    """
    text, empty = stripped(cells, source), empties(cells, source, options)
    plain = text if column.categories else Spelling.of(options).read(text.fillna(""))
    numeric = plain.str.fullmatch(NUMBER).fillna(False).to_numpy(bool) & ~empty
    raw = np.full(len(cells), np.nan)
    raw[numeric] = plain[numeric].astype(float)
    if column.categories:
        # Labels that are numbers can be written in several ways, such as 1 and 1.0.
        numbers = all(isinstance(category, int) and not isinstance(category, bool) for category in column.categories)
        keys = column.categories if numbers else column.labels
        places = {key: place for place, key in enumerate(keys)} | dict.fromkeys(column.rare, len(keys) - 1)
        found = (pd.Series(raw) if numbers else text.reset_index(drop=True)).map(places)
        unknown = np.nan if column.missing is None else column.missing
        raw = np.where(empty, unknown, found.to_numpy(dtype=float, na_value=np.nan))
    bad = np.isnan(raw) & ~empty
    if bad.any():
        row = int(bad.argmax())
        wanted = f"one of {some(column.labels)}" if column.categories else "a number"
        raise DataError(
            f"{source.name}: column {column.name!r} holds {str(cells.iloc[row])[:40]!r} in {source.at(row)}, which is "
            f"not {wanted}"
        )
    check_size(raw[:, None], (column.name,), source)
    return raw


def numbered(cells: pd.Series, source: Source, options: FileOptions) -> np.ndarray:
    """Return a number for each cell (n,): equal texts get equal numbers, an empty cell gets −1."""
    return np.asarray(pd.factorize(stripped(cells, source).mask(empties(cells, source, options)))[0])


def read_columns(
    frame: pd.DataFrame, places: Sequence[int], source: Source, options: FileOptions
) -> tuple[list[Column], np.ndarray, list[DataError]]:
    """Return the columns of features that can be used, their raw numbers (n, columns), and the faults of the others.

    `places` are the positions of the columns in the whole table, counted from 0. Raises `DataError` if no column is
    left.
    """
    found: list[tuple[Column, np.ndarray]] = []
    faults: list[DataError] = []
    for at, place in enumerate(places):
        cells = frame.iloc[:, at]
        name = str(cells.name)
        try:
            if re.fullmatch(r"Unnamed: \d+", name):
                fault = f"column {name!r} has no name (pandas writes row numbers like this, unless index=False)"
                raise Unfit(source, fault, "name it", **leave_out(name, place))
            column, raw = read_column(cells, source, options, place=place)
            if len(np.unique(raw[~np.isnan(raw)])) < 2:
                empty = bool(np.isnan(raw).all())
                raise Constant(source, name, "is empty in every row" if empty else "holds a single value")
            found.append((column, raw))
        except Constant as error:
            if not options.drop_constant:
                faults.append(error)
        except DataError as error:
            faults.append(error)
    if not found and not faults:
        raise DataError(f"{source.name}: no column besides the target; there is nothing to learn from")
    raw = np.stack([raw for _, raw in found], axis=1) if found else np.empty((len(frame), 0))
    return [column for column, _ in found], raw, faults
