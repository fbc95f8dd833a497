"""From what scikit-learn takes as X (arrays, data frames, sparse matrices) to a table's raw numbers and back."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import vstack
from sklearn.utils.multiclass import type_of_target

from mithridate.data.columns import check_size, read_column, whole
from mithridate.data.encoding import Column, Kind, Schema
from mithridate.data.kinds import Source, check_dense, check_names
from mithridate.errors import InputError

Bounds = tuple[Any, Any]


@dataclass(frozen=True)
class Table:
    """X as raw numbers (n, columns), and the kinds of its columns.

    `cells` are the user's rows: a data frame, an array, or a CSR matrix.
    """

    cells: Any
    raw: np.ndarray
    schema: Schema

    @classmethod
    def of(cls, X: Any, feasible: Bounds | None) -> "Table":
        """Read X. `feasible`, if given, bounds its numbers, in X's units.

        Raises `InputError` or `DataError` if X cannot be read.
        """
        if isinstance(X, pd.DataFrame):
            cells, frame = X, X.set_axis([str(name) for name in X.columns], axis="columns").reset_index(drop=True)
            check_names(list(frame.columns), "X")
            parts = [read_column(frame.iloc[:, place], Source("X")) for place in range(frame.shape[1])]
            columns, raw = [column for column, _ in parts], np.stack([values for _, values in parts], axis=1)
        elif hasattr(X, "tocsr"):
            check_dense(X.shape, "X")
            cells = X.tocsr()
            columns, raw = _of_array(cells.toarray())
        else:
            cells = np.asarray(X)
            columns, raw = _of_array(cells)
        bounded = tuple(columns if feasible is None else _bounded(columns, feasible))
        return cls(cells, raw, Schema(bounded, Column("y", "category"), tuple(column.name for column in columns)))

    @classmethod
    def within(cls, schema: Schema, raw: np.ndarray) -> "Table":
        """Return raw rows (n, columns) of a table that is known, as a data frame with its columns."""
        return cls(_framed(schema, raw), raw, schema)

    def written(self, raw: np.ndarray) -> Any:
        """Return raw rows as rows of X."""
        if isinstance(self.cells, pd.DataFrame):
            return _framed(self.schema, raw).set_axis(self.cells.columns, axis="columns")
        rows = raw.astype(self.cells.dtype)
        return rows if isinstance(self.cells, np.ndarray) else type(self.cells)(rows)


def _framed(schema: Schema, raw: np.ndarray) -> pd.DataFrame:
    series = [column.written(raw[:, place]) for place, column in enumerate(schema.columns)]
    return pd.concat(series, axis="columns")


def _of_array(x: np.ndarray) -> tuple[list[Column], np.ndarray]:
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise InputError(f"X must be rows of numbers (n, m), or a data frame; got {x.dtype} of shape {x.shape}")
    raw, names = x.astype(np.float64), [f"x{place}" for place in range(x.shape[1])]
    check_size(raw, names, Source("X"))
    if x.dtype == bool:
        return [Column(name, "boolean", "bool", (False, True)) for name in names], raw
    kinds: list[Kind] = ["integer" if whole(raw[:, place]) else "number" for place in range(x.shape[1])]
    return [Column(name, kind, x.dtype) for name, kind in zip(names, kinds, strict=True)], raw


def _bounded(columns: list[Column], feasible: Bounds) -> list[Column]:
    try:
        low, high = (np.broadcast_to(np.asarray(end, dtype=float), len(columns)) for end in feasible)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"feasible = {feasible!r}: give (low, high), each a number or one for each of {len(columns)} columns"
        ) from error
    if not (low <= high).all():
        raise InputError(
            f"feasible: low must not lie above high, as in column {columns[int((low > high).argmax())].name}"
        )
    return [
        replace(column, low=float(low[place]), high=float(high[place]))
        if column.kind in ("number", "integer")
        else column
        for place, column in enumerate(columns)
    ]


def classes_of(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and each row's class number. Raises `InputError` if y does not hold classes."""
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise InputError(f"y must be ({n},), one label for each row of X; got {labels.shape}")
    kind = type_of_target(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if kind not in ("binary", "multiclass") or len(classes) < 2:
        raise InputError(f"y must hold the labels of two or more classes; got {kind} with {len(classes)} value(s)")
    return classes, numbers


def take(cells: Any, rows: np.ndarray) -> Any:
    """Return these rows of a data frame, an array or a sparse matrix."""
    return cells.iloc[rows].reset_index(drop=True) if isinstance(cells, pd.DataFrame) else cells[rows]


def stacked(parts: list[Any]) -> Any:
    """Return the rows of several data frames, arrays or sparse matrices of one kind, stacked."""
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True).astype(parts[0].dtypes.to_dict())
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else type(parts[0])(vstack(parts, format="csr"))


def with_points(cells: Any, points: Any, order: np.ndarray) -> Any:
    """Return rows and points in this order; points have the numbers after the rows. A data frame keeps its types."""
    return take(stacked([cells, points]), order)
