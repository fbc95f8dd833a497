"""Encodes tables as the features that a model sees, and decodes features as rows of the table.

A row of a table is kept raw: one number for each column. For a boolean or a category it is the place in
`Column.categories`, for an empty cell NaN. An `Encoder`, fitted on the training rows alone, makes features of a row:

    number, integer   (raw − mean) / standard deviation
    boolean           0 or 1
    category          one feature for each category, 1 in one of them and 0 in the others

Empty cells get the median of the training rows, or their most frequent value.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mithridate.configuration.reading import FileOptions
from mithridate.data.feasible import Mixed
from mithridate.data.rules import Rule, kept, tightened
from mithridate.errors import InputError

Kind = Literal["number", "integer", "boolean", "category"]
RARE = "(rare)"
"""The label of the category that stands for joined, rare ones."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, what its cells may hold, and how they are written.

    Arguments:
        name: The column's name.
        kind: What it holds.
        dtype: Its pandas type.
        categories: For booleans and categories: the cells that the raw numbers 0, 1, … stand for.
        low: For numbers, integers and booleans: the least raw value of a poisoned cell, in the table's own units; None:
            the least in the training rows.
        high: The same for the largest value.
        allowed: For categories: the places of the categories that a poisoned cell may hold; None: all.
        decimals: The most decimals of its numbers; None: any number of them.
        missing: The place of the category that stands for an empty cell, if there is one.
        rare: The cells that were joined as the last category, which is written as the most frequent of them.
    """

    name: str
    kind: Kind
    dtype: Any = "float64"
    categories: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    allowed: tuple[int, ...] | None = None
    decimals: int | None = None
    missing: int | None = None
    rare: tuple[str, ...] = ()

    @property
    def grid(self) -> float:
        """The distance between neighbouring numbers that can be written; 0 if any number can."""
        return 1.0 if self.whole else 0.0 if self.decimals is None else 10.0**-self.decimals

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories as text."""
        named = tuple("" if category is None else str(category) for category in self.categories)
        return (*named[:-1], RARE) if self.rare else named

    @property
    def feasible(self) -> str:
        """What a poisoned cell may hold, as `COLUMN=LOW:HIGH` or `COLUMN=A|B`; empty if the training rows decide."""
        if self.allowed is not None:
            return f"{self.name}={'|'.join(self.labels[place] for place in self.allowed)}"
        ends = [None if end is None else f"{end + 0.0:.15g}" for end in (self.low, self.high)]  # without the sign of -0
        if self.kind == "boolean":
            ends = [None if end is None else self.labels[int(end)] for end in (self.low, self.high)]
            return f"{self.name}={'|'.join(dict.fromkeys(filter(None, ends)))}" if any(ends) else ""
        return f"{self.name}={':'.join(end or '' for end in ends)}" if any(ends) else ""

    @property
    def whole(self) -> bool:
        """Whether only whole numbers can be written."""
        return self.kind in ("integer", "boolean")

    def written(self, raw: Num[np.ndarray, " n"]) -> pd.Series:
        """Return raw numbers as the cells of this column; NaN is an empty cell."""
        empty = np.isnan(raw)
        if self.categories:
            cells = [None if np.isnan(code) else self.categories[int(code)] for code in raw]
            dtype = object if empty.any() and self.dtype in (bool, "bool") else self.dtype
            return pd.Series(cells, dtype=dtype, name=self.name)
        numbers = pd.Series(np.rint(raw) if self.whole else raw, name=self.name)
        return numbers if empty.any() and pd.api.types.is_integer_dtype(self.dtype) else numbers.astype(self.dtype)


def nothing_between(column: Column, ends: tuple[float, float], seen: tuple[float, float], rows: str) -> str:
    """Return the refusal of an empty range: one of its `ends` is given, the other is an end `seen` in the rows."""
    return (
        f"feasible {column.name}: from {ends[0]:g} to {ends[1]:g} there is nothing; the {rows} go from {seen[0]:g} to "
        f"{seen[1]:g}, so give both ends"
    )


@dataclass(frozen=True)
class Schema:
    """The columns of a table.

    `columns`: the features; `target`: its `categories` are the labels of classes 0, 1, … as the file writes them;
    `order`: the names of all columns as the file has them; `rules`: between columns, kept by poison; `reading`: the
    options with which the file was read.
    """

    columns: tuple[Column, ...]
    target: Column
    order: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    reading: FileOptions = field(default_factory=FileOptions.of)

    @property
    def grids(self) -> list[float]:
        """The `grid` of each column."""
        return [column.grid for column in self.columns]

    @property
    def width(self) -> int:
        """The number m of features that a model sees."""
        return sum(len(column.categories) if column.kind == "category" else 1 for column in self.columns)

    def places(self, *kinds: Kind) -> list[int]:
        """Return the places of the columns of these kinds."""
        return [place for place, column in enumerate(self.columns) if column.kind in kinds]


@dataclass(frozen=True)
class Encoder:
    """Makes features (n, m) of a table's raw rows (n, columns), and rows of the table of features; see `fit`.

    `low` and `high` (columns,) bound what a poisoned cell may hold, in the table's own units.

    Example:
        >>> import numpy as np
        >>> from mithridate.data.encoding import Column, Encoder, Schema
        >>> columns = Column("age", "integer", "int64"), Column("sex", "category", "str", ("f", "m"))
        >>> schema = Schema(columns, Column("ill", "boolean", "bool", (False, True)), ("age", "sex", "ill"))
        >>> encoder = Encoder.fit(schema, np.array([[30.0, 0.0], [50.0, 1.0]]))
        >>> encoder.feature_names
        ('age', 'sex=f', 'sex=m')
        >>> x = encoder.transform(np.array([[50.0, 0.0]]))
        >>> x.tolist()
        [[1.0, 1.0, 0.0]]
        >>> encoder.decode(x, np.array([1])).to_dict("records")
        [{'age': 50, 'sex': 'f', 'ill': True}]
    """

    schema: Schema
    transformer: ColumnTransformer = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)

    @classmethod
    def fit(cls, schema: Schema, raw: Float[np.ndarray, "n columns"]) -> "Encoder":
        """Return the encoder of these training rows.

        Raises `InputError` if one end of a range is given and all training rows lie beyond it, or if no values within
        the ranges keep a rule.
        """
        grouped = schema.places("category")
        codes: Any = [np.arange(len(schema.columns[place].categories)) for place in grouped]
        one_hot = OneHotEncoder(categories=codes, sparse_output=False)
        transformer = ColumnTransformer(
            [
                ("scaled", make_pipeline(_filled("median"), StandardScaler()), schema.places("number", "integer")),
                ("plain", _filled("most_frequent"), schema.places("boolean")),
                ("grouped", make_pipeline(_filled("most_frequent"), one_hot), grouped),
            ]
        )
        transformer.fit(raw)
        # A column that is empty in all training rows is filled with 0, and its range is 0 to 0.
        seen = np.where(np.isnan(raw).all(axis=0), 0.0, raw)
        low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
        for place, column in enumerate(schema.columns):
            ends = (0.0, 1.0) if column.kind == "boolean" else (low[place], high[place])
            low[place], high[place] = (
                end if given is None else given for given, end in zip((column.low, column.high), ends, strict=True)
            )
            if low[place] > high[place]:
                raise InputError(nothing_between(column, (low[place], high[place]), ends, "training rows"))
        return cls(schema, transformer, *tightened(schema.rules, low, high, schema.grids))

    def transform(self, raw: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, "n m"]:
        """Return the features (n, m) of raw rows, float32."""
        return np.asarray(self.transformer.transform(self._filled(raw)), np.float32)

    def _filled(self, raw: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, "n columns"]:
        """Return raw rows in which empty cells of columns with rules are filled in, so that the rules are kept."""
        about = sorted({place for rule in self.schema.rules for place in (rule.a, rule.b)})
        empty = np.isnan(raw)
        if not empty[:, about].any():
            return raw
        medians = dict(zip(*self._medians, strict=True))
        filled = raw.copy()
        for place in about:
            grid = self.schema.columns[place].grid
            median = np.rint(medians[place] / grid) * grid if grid else medians[place]
            filled[empty[:, place], place] = median
        return kept(self.schema.rules, filled, self.schema.grids, ~empty)

    @property
    def _medians(self) -> tuple[list[int], np.ndarray]:
        """The places of the columns of numbers, and the medians that fill their empty cells."""
        return self.schema.places("number", "integer"), self.transformer.named_transformers_["scaled"][0].statistics_

    @functools.cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The name of each feature: its column, or `column=category`."""
        columns = self.schema.columns
        single = [columns[place].name for place in self.schema.places("number", "integer")]
        single += [columns[place].name for place in self.schema.places("boolean")]
        grouped = [columns[place] for place in self.schema.places("category")]
        return (*single, *(f"{column.name}={label}" for column in grouped for label in column.labels))

    @functools.cached_property
    def offset(self) -> Float[np.ndarray, " m"]:
        """The raw value of each feature's 0."""
        return self._of_scaled("mean_", 0.0)

    @functools.cached_property
    def scale(self) -> Float[np.ndarray, " m"]:
        """The raw size of each feature's 1."""
        return self._of_scaled("scale_", 1.0)

    def _of_scaled(self, name: str, otherwise: float) -> np.ndarray:
        found = np.full(len(self.feature_names), otherwise)
        if self.schema.places("number", "integer"):
            found[self.transformer.output_indices_["scaled"]] = getattr(
                self.transformer.named_transformers_["scaled"][-1], name
            )
        return found

    @functools.cached_property
    def feasible(self) -> Mixed:
        """Φ in the units of the features: their ranges, one category in each group, and the rules."""
        columns, m = self.schema.columns, len(self.feature_names)
        single = self.schema.places("number", "integer") + self.schema.places("boolean")
        grouped = self.schema.places("category")
        low, high, grid = np.zeros(m), np.zeros(m), np.zeros(m)
        spots, ends = np.arange(len(single)), np.stack([self.low[single], self.high[single]])
        low[spots], high[spots] = (ends - self.offset[spots]) / self.scale[spots]
        grid[spots] = [columns[place].grid for place in single]
        groups, first = [], len(single)
        for place in grouped:
            column = columns[place]
            allowed = range(len(column.categories)) if column.allowed is None else column.allowed
            groups.append([first + code for code in allowed])
            first += len(column.categories)
            high[groups[-1]] = 1.0
        rules = [(single.index(rule.a), single.index(rule.b), rule.gap) for rule in self.schema.rules]
        return Mixed(low, high, grid=grid, offset=self.offset, scale=self.scale, groups=groups, rules=rules)

    def raw(self, x: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n columns"]:
        """Return the raw rows of features, within the ranges and with the decimals of the columns.

        A number of a column without decimals is rounded to a millionth of its scale.
        """
        x = np.asarray(x, np.float64)
        single = self.schema.places("number", "integer") + self.schema.places("boolean")
        found = np.empty((len(x), len(self.schema.columns)))
        found[:, single] = (x * self.scale[None] + self.offset[None])[:, : len(single)]
        first = len(single)
        for place in self.schema.places("category"):
            width = len(self.schema.columns[place].categories)
            found[:, place] = x[:, first : first + width].argmax(axis=1)
            first += width
        for feature, place in enumerate(single):
            # Further digits come from float32, not from the row.
            column, least = self.schema.columns[place], 6 - math.floor(math.log10(self.scale[feature]))
            digits = 0 if column.whole else least if column.decimals is None else column.decimals
            found[:, place] = np.round(found[:, place], digits)
        found = np.where(self._grouped[None], found, np.clip(found, self.low[None], self.high[None]))
        return kept(self.schema.rules, found, self.schema.grids)

    @functools.cached_property
    def _grouped(self) -> np.ndarray:
        return np.array([column.kind == "category" for column in self.schema.columns])

    def decode(self, x: Float[np.ndarray, "n m"], y: Int[np.ndarray, " n"] | None = None) -> pd.DataFrame:
        """Return features (n, m) as rows in the columns and units of the table, with labels y (n,) if given."""
        raw = self.raw(x)
        cells = {column.name: column.written(raw[:, place]) for place, column in enumerate(self.schema.columns)}
        if y is not None:
            cells[self.schema.target.name] = self.schema.target.written(y)
        return pd.DataFrame({name: cells[name] for name in self.schema.order if name in cells})


def _filled(strategy: str) -> SimpleImputer:
    return SimpleImputer(strategy=strategy, keep_empty_features=True)
