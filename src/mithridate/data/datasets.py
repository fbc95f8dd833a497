"""Data sets and their splits (paper, Table 1 and App. D)."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from mithridate.configuration.presets import setting
from mithridate.data import groups
from mithridate.data.encoding import Encoder, Schema
from mithridate.data.feasible import Box, FeasibleSet
from mithridate.data.groups import Grouping
from mithridate.errors import InputError
from mithridate.seeds import generator

MOST_ROWS, CELLS, NARROW = 512, 50_000, 20
"""The default size of an audit of own data: `MOST_ROWS` training rows, or `CELLS` numbers in them if those are more
rows. Fewer features than `NARROW` take as long as that many. See docs/planning.md."""
WIDTH, CHUNK = 64, 256
"""The columns and rows that a split handles at once, so that it needs little memory besides its result."""


@dataclass(frozen=True)
class Split:
    """Training, validation and test rows: features (n, m), and labels (n,) in 0 … K − 1, which are places in `classes`.

    `train_rows`, `valid_rows` and `test_rows` (n,) are the numbers of the rows in the source, for MNIST in its official
    training file; official test rows are numbered in their own file. The features are (raw − `offset`) / `scale`; the
    features of a table are made by its `encoder`. `low` and `high` (m,) bound the feasible set. `train_groups` (n,) are
    the numbers of the training rows' groups, None if each row is on its own.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    train_rows: np.ndarray
    valid_rows: np.ndarray
    test_rows: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    classes: tuple[str, ...]
    encoder: Encoder | None = None
    train_groups: np.ndarray | None = None

    @property
    def feasible(self) -> FeasibleSet:
        """Φ: the points that could be rows of this data set."""
        return self.encoder.feasible if self.encoder else Box(self.low, self.high)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the m features: from the `encoder` of a table, otherwise x0, x1, …"""
        return self.encoder.feature_names if self.encoder else tuple(f"x{i}" for i in range(len(self.offset)))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return raw features, (n, m) or for a table (n, columns), as the victim sees them: (n, m), float32."""
        if self.encoder:
            return self.encoder.transform(np.asarray(x, np.float64))
        return ((x - self.offset) / self.scale).astype(np.float32)

    def decode(self, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
        """Return features (n, m) as the victim sees them, and labels (n,), as rows of the user's own table.

        Raises `InputError` for data that are not a table of the user's own.
        """
        if self.encoder is None:
            raise InputError("only a data set from your own table can write rows in the columns of that table")
        return self.encoder.decode(x, y)


@dataclass(frozen=True)
class Dataset:
    """A pool of N labelled rows of K ≥ 2 classes, and official test rows if there are any.

    Arguments:
        x: The features (N, m). With a `schema` they are the raw rows of a table (see `encoding`), NaN where a cell is
            empty; each split then fits its encoder on its own training rows.
        y: The labels (N,) in 0 … K − 1, which are places in `classes`.
        rows: The numbers (N,) of the rows in the source.
        test: The same three for official test rows, or None.
        bounds: The range of feasible features as the model sees them; None: the range of each feature in the training
            rows.
        divisor: What the features are divided by.
        standardise: Whether the training rows' mean is subtracted and the features are divided by their deviation.
        image_shape: Height and width, if the rows are pictures.
        balanced: Whether a split has equally many rows of each class; otherwise the classes keep their shares.
        schema: The columns of a table of the user's own, or None.
        grouping: Rows that belong together: no group is in two parts of a split.
        unkept: Rules between columns, such as `A <= B`, that all rows keep but poison need not keep.

    Raises `InputError` if a shape is wrong, a feature is infinite, or a feature is NaN without a `schema`.
    """

    name: str
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    source: str
    test: tuple[np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    bounds: tuple[float, float] | None = None
    divisor: float = 1.0
    standardise: bool = False
    image_shape: tuple[int, int] | None = None
    balanced: bool = True
    schema: Schema | None = None
    grouping: Grouping | None = field(default=None, repr=False)
    unkept: tuple[str, ...] = ()

    def __post_init__(self):
        own, k = (self.x, self.y, self.rows), len(self.classes)
        if k < 2:
            raise InputError(
                f"data set {self.name}: only one class, {self.classes[0]!r}; there is nothing to tell apart"
            )
        for part, (x, y, rows) in (("rows", own), ("test rows", self.test or own)):
            labelled = x.ndim == 2 and y.shape == rows.shape == x.shape[:1] and set(np.unique(y)) <= set(range(k))
            if not labelled or x.shape[1] != self.x.shape[1]:
                raise InputError(
                    f"data set {self.name}: {part} need features (n, m), labels 0 … {k - 1} (n,) and row numbers (n,); "
                    f"got {x.shape}, {y.shape}, {rows.shape}"
                )
            faulty = np.isinf(x) if self.schema else ~np.isfinite(x)
            if faulty.any():
                where = np.argwhere(faulty)
                raise InputError(
                    f"data set {self.name}: {part} hold {len(where)} NaN or infinite feature value(s), the first in "
                    f"row {where[0, 0]}, column {where[0, 1]}; drop or impute them first"
                )

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of everything that splits are made from."""
        told = (self.name, self.classes, self.bounds, self.divisor, self.standardise, self.balanced, self.schema)
        found = hashlib.sha256(repr(told).encode())
        for array in (self.x, self.y, self.rows, *(self.test or ())):
            found.update(f"{array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array).data)
        if self.grouping:
            found.update(np.ascontiguousarray(self.grouping.numbers).data)
        return found.hexdigest()

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """The default numbers of training and validation rows.

        For own data these are a half and a quarter of the rows; with official test rows, two thirds and a third. They
        are at most `MOST_ROWS`, or as many rows as contain `CELLS` numbers if that is more.
        """
        if self.balanced:
            usual = setting(self.name)
            return usual.train, usual.valid
        width = self.schema.width if self.schema else self.x.shape[1]
        return self._had(max(MOST_ROWS, CELLS // max(width, NARROW)))

    @cached_property
    def whole(self) -> tuple[int, int]:
        """The numbers of training and validation rows of own data if no row of the file is left out."""
        return self._had(len(self.y))

    def _had(self, most: int) -> tuple[int, int]:
        """Return how many training and validation rows are possible, at most `most` each."""
        n = len(self.y)
        train, valid = (n // 2, n // 4) if self.test is None else (2 * n // 3, n // 3)
        asked = min(most, train), min(most, valid)
        return groups.sizes(self.grouping, self.y, self._takes(*asked)) if self.grouping else asked

    def _takes(self, train: int, valid: int) -> np.ndarray:
        """Return the wanted numbers of training and validation rows of each class, (2, classes)."""
        counts = np.bincount(self.y, minlength=len(self.classes))
        weights = np.ones(len(counts)) if self.balanced else counts
        return np.array([_shares(train, weights), _shares(valid, weights)])

    def split(self, train: int | None = None, valid: int | None = None, seed: int = 0, index: int = 0) -> Split:
        """Return split number `index`: training and validation rows are drawn without overlap, every class in both.

        The test rows are the official ones, otherwise all rows that are left; with a `grouping`, rows in groups that
        train or validate are left out. `train` and `valid` are numbers of rows (default: `sizes`). Raises `InputError`
        if more rows are wanted than there are, or fewer than one of each class. Not checked: that features have
        comparable scales.
        """
        train = self.sizes[0] if train is None else train
        valid = self.sizes[1] if valid is None else valid
        least = len(self.classes)
        if train < least or valid < least:
            raise InputError(f"train = {train}, valid = {valid}: each needs at least {least} rows, one of every class")
        draw = generator(seed, self.name, "split", index)
        takes = self._takes(train, valid)
        if self.grouping:
            parts = groups.drawn(self.grouping, self.y, takes, self.test is None, draw)
        else:
            parts = self._drawn(takes, draw)
        of_train, of_valid, of_rest = parts
        pool, y_pool, numbers = self.test or (self.x, self.y, self.rows)
        of_test = np.arange(len(y_pool)) if self.test else of_rest

        offset, scale = np.zeros(self.x.shape[1]), np.full(self.x.shape[1], self.divisor)
        if self.standardise:
            offset, deviation = _moments(self.x, of_train)
            scale = np.where(deviation > 0, deviation, 1.0)

        encoder = Encoder.fit(self.schema, self.x[of_train].astype(np.float64)) if self.schema else None
        if encoder:
            offset, scale = encoder.offset, encoder.scale

        def scaled(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
            if encoder:
                return encoder.transform(x[rows].astype(np.float64))
            found = np.empty((len(rows), x.shape[1]), np.float32)
            for first in range(0, len(rows), CHUNK):
                found[first : first + CHUNK] = (x[rows[first : first + CHUNK]] - offset) / scale
            return found

        x_train = scaled(self.x, of_train)
        low, high = self.bounds or (x_train.min(axis=0), x_train.max(axis=0))
        if encoder:
            low, high = encoder.feasible.box.low, encoder.feasible.box.high
        return Split(
            x_train=x_train,
            y_train=self.y[of_train],
            x_valid=scaled(self.x, of_valid),
            y_valid=self.y[of_valid],
            x_test=scaled(pool, of_test),
            y_test=y_pool[of_test],
            train_rows=self.rows[of_train],
            valid_rows=self.rows[of_valid],
            test_rows=numbers[of_test],
            offset=offset.astype(np.float32),
            scale=scale.astype(np.float32),
            low=np.broadcast_to(np.asarray(low, np.float32), x_train.shape[1:]),
            high=np.broadcast_to(np.asarray(high, np.float32), x_train.shape[1:]),
            classes=self.classes,
            encoder=encoder,
            train_groups=self.grouping.numbers[of_train] if self.grouping else None,
        )

    def unused(self, split: Split) -> int:
        """Return how many rows a split leaves out because other rows of their groups train or validate there.

        Such rows are not tested on, because no group may be in two parts. Without a grouping there are none.
        """
        if self.grouping is None:
            return 0
        drawn = np.isin(self.rows, np.concatenate([split.train_rows, split.valid_rows]))
        numbers = self.grouping.numbers
        return int(np.isin(numbers, numbers[drawn]).sum() - drawn.sum())

    def _drawn(self, takes: np.ndarray, draw: np.random.Generator) -> groups.Parts:
        """Return rows drawn one by one, separately for each class. Raises `InputError` if a class has too few."""
        orders = [draw.permutation(np.flatnonzero(self.y == label)) for label in range(len(self.classes))]
        spare = 0 if self.test else 1
        for order, (n_train, n_valid), label in zip(orders, takes.T, self.classes, strict=True):
            if n_train + n_valid + spare > len(order):
                train, valid = takes.sum(axis=1)
                raise InputError(
                    f"train = {train} and valid = {valid} take {n_train + n_valid} rows of class {label!r}"
                    + (" and leave none to test on" if spare else "")
                    + f", but {self.name} has {len(order)}; ask for fewer"
                )
        of_train = np.concatenate([o[:t] for o, (t, _) in zip(orders, takes.T, strict=True)])
        of_valid = np.concatenate([o[t : t + v] for o, (t, v) in zip(orders, takes.T, strict=True)])
        of_rest = np.sort(np.concatenate([o[t + v :] for o, (t, v) in zip(orders, takes.T, strict=True)]))
        return groups.Parts(of_train, of_valid, of_rest)


def _moments(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each column over these rows, in float64."""
    found = []
    # Parts of nearly the same width: NumPy sums a single column in another order.
    for columns in np.array_split(np.arange(x.shape[1]), -(-x.shape[1] // WIDTH)):
        part = x[rows, columns[0] : columns[-1] + 1].astype(np.float64)
        found.append((part.mean(axis=0), part.std(axis=0)))
    offset, deviation = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return offset, deviation


def _shares(total: int, weights: np.ndarray) -> list[int]:
    """Return how many of `total` rows each class gets: in proportion, but at least one. Ties favour later classes."""
    exact = total * weights / weights.sum()
    found = np.maximum(np.floor(exact).astype(int), 1)
    while found.sum() < total:
        found[::-1][np.argmax((exact - found)[::-1])] += 1
    while found.sum() > total:
        found[np.argmax(found)] -= 1
    return found.tolist()
