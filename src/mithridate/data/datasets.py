"""Data sets and their splits (paper, Table 1 and App. D)."""

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import sklearn.datasets

from mithridate.configuration.presets import setting
from mithridate.data.downloads import at_hand, fetch, read_arrays, read_idx
from mithridate.data.encoding import Encoder, Schema
from mithridate.data.feasible import Box, FeasibleSet
from mithridate.errors import DataError, InputError
from mithridate.seeds import generator

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
Pick = tuple[int, ...]
"""Some classes of a family, by number; their places here become the labels."""
MOST_ROWS = 512
"""The training rows, and the validation rows, of own data where nothing else is asked for."""
WIDTH, CHUNK = 64, 256
"""Columns and rows that a split looks at together, so that it needs little memory besides its own."""
DIGITS = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class Split:
    """Training, validation and test rows, features (n, m) and labels (n,) in 0 … K − 1, the places of `classes`.

    `train_rows` and `valid_rows` number the rows in the data set's own order (for MNIST: in the official training
    file), `test_rows` likewise, in the official test file where `official_test`. Features are (raw − `offset`) /
    `scale`, or of a table what its `encoder` makes of it. `low` and `high` bound the feasible set.
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

    @property
    def feasible(self) -> FeasibleSet:
        """Φ: the points that could be rows of this data set."""
        return self.encoder.feasible if self.encoder else Box(self.low, self.high)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each feature is called: numbered, or for a table as its `encoder` says."""
        return self.encoder.feature_names if self.encoder else tuple(f"x{i}" for i in range(len(self.offset)))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return raw features (n, m) as the victim sees them."""
        if self.encoder:
            return self.encoder.transform(np.asarray(x, np.float64))
        return ((x - self.offset) / self.scale).astype(np.float32)

    def decode(self, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
        """Return features (n, m) as the victim sees them and labels (n,) as rows of the user's own table."""
        if self.encoder is None:
            raise InputError("only rows of data of the user's own can be written as its rows")
        return self.encoder.decode(x, y)


@dataclass(frozen=True)
class Dataset:
    """A pool of labelled rows of K ≥ 2 classes, with an official test set where there is one.

    `x` (N, m), `y` (N,) in 0 … K − 1, the places of `classes`, `rows` (N,) their numbers in the source; `test` the same
    triple or None; features are divided by `divisor` or, with `standardise`, by the training rows' deviation after
    their mean is taken off; `bounds` is the range of feasible features after that, or None for each feature's range in
    the training rows; `image_shape` where rows are pictures. Unless `balanced`, splits have the classes' shares as they
    are. With a `schema`, `x` is the raw rows of a table (see `encoding`), whose empty cells are NaN, and each split is
    encoded as its own training rows say.

    Raises `InputError` when a feature is infinite, or NaN without a schema, or a shape is off.
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
        """Return the SHA-256 of all that splits are made of."""
        told = (self.name, self.classes, self.bounds, self.divisor, self.standardise, self.balanced, self.schema)
        found = hashlib.sha256(repr(told).encode())
        for array in (self.x, self.y, self.rows, *(self.test or ())):
            found.update(f"{array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def sizes(self) -> tuple[int, int]:
        """Training and validation rows unless others are asked for.

        Of own data a half and a quarter, or where the test rows are apart two thirds and a third, at most 512 each.
        """
        if self.balanced:
            usual = setting(self.name)
            return usual.train, usual.valid
        n = len(self.y)
        train, valid = (n // 2, n // 4) if self.test is None else (2 * n // 3, n // 3)
        return min(MOST_ROWS, train), min(MOST_ROWS, valid)

    def split(self, train: int | None = None, valid: int | None = None, seed: int = 0, index: int = 0) -> Split:
        """Return split number `index`: training and validation rows, drawn without overlap, every class in both.

        The test rows are the official ones, else all rows left over. Raises `InputError` when more rows are asked
        for than there are. Checked: sizes. Not checked: that features are on comparable scales.
        """
        train = self.sizes[0] if train is None else train
        valid = self.sizes[1] if valid is None else valid
        least = len(self.classes)
        if train < least or valid < least:
            raise InputError(f"train = {train}, valid = {valid}: at least {least} rows each, one of every class")
        draw = generator(seed, self.name, "split", index)
        orders = [draw.permutation(np.flatnonzero(self.y == label)) for label in range(least)]
        weights = np.ones(least) if self.balanced else np.array([len(order) for order in orders])
        takes = list(zip(_shares(train, weights), _shares(valid, weights), strict=True))
        spare = 0 if self.test else 1
        for order, (n_train, n_valid), label in zip(orders, takes, self.classes, strict=True):
            if n_train + n_valid + spare > len(order):
                raise InputError(
                    f"train = {train} and valid = {valid} take {n_train + n_valid} rows of class {label!r}"
                    + (" and leave none to test on" if spare else "")
                    + f", but {self.name} has {len(order)}; ask for fewer"
                )
        of_train = np.concatenate([o[:t] for o, (t, _) in zip(orders, takes, strict=True)])
        of_valid = np.concatenate([o[t : t + v] for o, (t, v) in zip(orders, takes, strict=True)])
        of_rest = np.sort(np.concatenate([o[t + v :] for o, (t, v) in zip(orders, takes, strict=True)]))
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
        )


def _moments(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the deviation of each column over these rows, in float64, a few columns at a time."""
    found = []
    # Parts of nearly the same width: of a column alone NumPy takes the sum in another order.
    for columns in np.array_split(np.arange(x.shape[1]), -(-x.shape[1] // WIDTH)):
        part = x[rows, columns[0] : columns[-1] + 1].astype(np.float64)
        found.append((part.mean(axis=0), part.std(axis=0)))
    offset, deviation = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return offset, deviation


def _shares(total: int, weights: np.ndarray) -> list[int]:
    """Return how many of `total` rows each class gets: in proportion, but at least one; of equals the later more."""
    exact = total * weights / weights.sum()
    found = np.maximum(np.floor(exact).astype(int), 1)
    while found.sum() < total:
        found[::-1][np.argmax((exact - found)[::-1])] += 1
    while found.sum() > total:
        found[np.argmax(found)] -= 1
    return found.tolist()


def _some(x: np.ndarray, labels: np.ndarray, chosen: Pick) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of these classes, labelled by their places in `chosen`, with their numbers."""
    rows = np.flatnonzero(np.isin(labels, chosen))
    places = {number: place for place, number in enumerate(chosen)}
    return x[rows], np.array([places[int(label)] for label in labels[rows]], np.int8), rows


def _idx(family: str, name: str, chosen: Pick, classes: list[str]) -> Dataset:
    files = fetch(family)

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = read_idx(files[f"{prefix}-images-idx3-ubyte.gz"])
        x, y, rows = _some(images, read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"]), chosen)
        return x.reshape(len(x), -1), y, rows

    x, y, rows = part("train")
    names = tuple(classes[number] for number in chosen)
    source = f"official files of {family}"
    return Dataset(name, x, y, rows, names, source, part("t10k"), (0.0, 1.0), 255.0, image_shape=(28, 28))


def _mnist(name: str, chosen: Pick) -> Dataset:
    return _idx("mnist", name, chosen, DIGITS)


def _fashion(name: str, chosen: Pick) -> Dataset:
    return _idx("fashion-mnist", name, chosen, FASHION)


def _digits(name: str, chosen: Pick) -> Dataset:
    data: Any = sklearn.datasets.load_digits()
    x, y, rows = _some(data["data"], data["target"], chosen)
    names = tuple(DIGITS[number] for number in chosen)
    return Dataset(name, x, y, rows, names, "scikit-learn's load_digits", None, (0.0, 1.0), 16.0, image_shape=(8, 8))


def _breast_cancer() -> Dataset:
    data: Any = sklearn.datasets.load_breast_cancer()
    # The positive class is the one to be found: malignant, 0 in the source.
    y = (data["target"] == 0).astype(np.int8)
    x = data["data"].astype(np.float64)
    source = "scikit-learn's load_breast_cancer"
    return Dataset(
        "breast-cancer",
        x,
        y,
        np.arange(len(y)),
        ("benign", "malignant"),
        source,
        standardise=True,
    )


def _wine() -> Dataset:
    data: Any = sklearn.datasets.load_wine()
    x, y, source = data["data"].astype(np.float64), data["target"].astype(np.int8), "scikit-learn's load_wine"
    return Dataset(
        "wine", x, y, np.arange(len(y)), ("cultivar 0", "cultivar 1", "cultivar 2"), source, standardise=True
    )


def _synthetic() -> Dataset:
    """Two Gaussians with means (∓3, 0) and covariance diag(2.5, 1.5) (App. D.1), 2,048 rows of each."""
    draw, n = generator("synthetic"), 2048
    x = draw.normal(size=(2 * n, 2)) * np.sqrt([2.5, 1.5]) + np.repeat([[-3.0, 0.0], [3.0, 0.0]], n, axis=0)
    y = np.repeat([0, 1], n).astype(np.int8)
    source = "two bivariate Gaussians (paper, App. D.1)"
    return Dataset("synthetic", x, y, np.arange(2 * n), ("0", "1"), source, bounds=(-9.5, 9.5))


def _features(family: str, arrays: tuple[str, str], classes: tuple[str, str]) -> Dataset:
    paths = fetch(family)

    def part(word: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        path = next(p for name, p in paths.items() if word in name)
        x, labels = read_arrays(path, arrays)
        if x.ndim != 2 or labels.shape != x.shape[:1] or len(np.unique(labels)) != 2:
            raise DataError(f"{path}: arrays {arrays} must be (n, m) and (n,) with two classes; got {x.shape}")
        return x, (labels == labels.max()).astype(np.int8), np.arange(len(x))

    x, y, rows = part("train")
    source = "features as found in the data directory"
    return Dataset(family, x, y, rows, classes, source, part("test"), (-0.5, 0.5), standardise=True)


def _dogfish() -> Dataset:
    return _features("dogfish", ("inception_features_val", "labels"), ("dog", "fish"))


def _springer_tench() -> Dataset:
    return _features("springer-tench", ("features", "labels"), ("springer", "tench"))


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue; with `pairs`, any two of its ten classes are a data set `FAMILY-AvB` too."""

    name: str
    rows: int
    test_rows: int | None
    features: int
    classes: str
    load: Callable[..., Dataset]
    example: str
    pairs: bool = False

    @property
    def family(self) -> str:
        """The family's name, which is also its folder in the data directory."""
        return self.name.removesuffix("-AvB")

    @property
    def available(self) -> str:
        """Whether it can be used now: bundled, at hand, to be downloaded on first use, or missing."""
        if self.load in (_digits, _breast_cancer, _wine, _synthetic):
            return "bundled"
        if at_hand(self.family):
            return "at hand"
        return "to download" if self.pairs else "missing"


CATALOGUE = {
    entry.family: entry
    for entry in (
        Entry("digits-AvB", 1797, None, 64, "ten, or any two", _digits, "digits-0v8", True),
        Entry("breast-cancer", 569, None, 30, "benign, malignant", _breast_cancer, "breast-cancer"),
        Entry("wine", 178, None, 13, "three cultivars", _wine, "wine"),
        Entry("synthetic", 4096, None, 2, "0, 1", _synthetic, "synthetic"),
        Entry("mnist-AvB", 60000, 10000, 784, "ten, or any two", _mnist, "mnist-0v8", True),
        Entry("fashion-mnist-AvB", 60000, 10000, 784, "ten, or any two", _fashion, "fashion-mnist-0v2", True),
        Entry("dogfish", 1800, 600, 2048, "dog, fish", _dogfish, "dogfish"),
        Entry("springer-tench", 1800, 600, 2048, "springer, tench", _springer_tench, "springer-tench"),
    )
}


def load_dataset(name: str) -> Dataset:
    """Return the data set `name`: one of the catalogue's, with all its classes, or two of them as in `mnist-3v5`.

    Raises `InputError` for an unknown name or class, `DataError` when a file is missing or corrupt.

    Example:
        >>> import mithridate as mi
        >>> mi.load_dataset("digits-0v8").classes
        ('0', '8')
    """
    if (found := re.fullmatch(r"(.+)-(\w+)v(\w+)", name)) and found[1] in CATALOGUE and CATALOGUE[found[1]].pairs:
        unknown = [c for c in found.group(2, 3) if c not in DIGITS]
        if unknown or found[2] == found[3]:
            fault = f"no class {unknown[0]!r}" if unknown else "the two classes are the same"
            raise InputError(f"data set {name!r}: {fault}; name two different classes of 0 … 9, as in {found[1]}-0v8")
        return CATALOGUE[found[1]].load(name, (int(found[2]), int(found[3])))
    if name in CATALOGUE:
        entry = CATALOGUE[name]
        return entry.load(name, tuple(range(len(DIGITS)))) if entry.pairs else entry.load()
    known = [entry.example for entry in CATALOGUE.values()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise InputError(f"unknown data set {name!r}; did you mean {', '.join(near)}? `mithridate datasets` lists all")
