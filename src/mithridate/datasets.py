"""Data sets and their splits (paper, Table 1 and App. D)."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn.datasets

from mithridate.downloads import at_hand, fetch, read_arrays, read_idx
from mithridate.errors import DataError, InputError
from mithridate.presets import setting
from mithridate.seeds import generator

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DIGITS = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class Split:
    """Training, validation and test rows, features (n, m) and labels (n,) in {0, 1}.

    `train_rows` and `valid_rows` number the rows in the data set's own order (for MNIST: in the official training
    file), `test_rows` likewise, in the official test file where `official_test`. Features are (raw − `offset`) /
    `scale`. `low` and `high` bound the feasible set.
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


@dataclass(frozen=True)
class Dataset:
    """A pool of labelled rows of two classes, with an official test set where there is one.

    `x` (N, m), `y` (N,) in {0, 1}, `rows` (N,) their numbers in the source; `test` the same triple or None;
    features are divided by `divisor` or, with `standardise`, by the training rows' deviation after their mean is
    taken off; `bounds` is the range of feasible features after that, or None for each feature's range in the training
    rows; `image_shape` where rows are pictures.

    Raises `InputError` when a feature is NaN or infinite or a shape is off.
    """

    name: str
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)
    classes: tuple[str, str]
    source: str
    test: tuple[np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    bounds: tuple[float, float] | None = None
    divisor: float = 1.0
    standardise: bool = False
    image_shape: tuple[int, int] | None = None

    def __post_init__(self):
        own = (self.x, self.y, self.rows)
        for part, (x, y, rows) in (("rows", own), ("test rows", self.test or own)):
            labelled = x.ndim == 2 and y.shape == rows.shape == x.shape[:1] and set(np.unique(y)) <= {0, 1}
            if not labelled or x.shape[1] != self.x.shape[1]:
                raise InputError(
                    f"data set {self.name}: {part} need features (n, m), labels 0 or 1 (n,) and row numbers (n,); got "
                    f"{x.shape}, {y.shape}, {rows.shape}"
                )
            if not np.isfinite(x).all():
                where = np.argwhere(~np.isfinite(x))
                raise InputError(
                    f"data set {self.name}: {part} hold {len(where)} NaN or infinite feature value(s), the first in "
                    f"row {where[0, 0]}, column {where[0, 1]}; drop or impute them first"
                )

    def split(self, train: int | None = None, valid: int | None = None, seed: int = 0, index: int = 0) -> Split:
        """Return split number `index`: class-balanced training and validation rows, drawn without overlap.

        The test rows are the official ones, else all rows left over. Raises `InputError` when more rows are asked
        for than there are. Checked: sizes. Not checked: that features are on comparable scales.
        """
        usual = setting(self.name)
        train = usual.train if train is None else train
        valid = usual.valid if valid is None else valid
        if train < 2 or valid < 2:
            raise InputError(f"train = {train}, valid = {valid}: at least 2 rows each, one of either class")
        draw = generator(seed, self.name, "split", index)
        orders = [draw.permutation(np.flatnonzero(self.y == label)) for label in (0, 1)]
        takes = [((train + label) // 2, (valid + label) // 2) for label in (0, 1)]
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
        x_test, y_test, test_rows = self.test or (self.x[of_rest], self.y[of_rest], self.rows[of_rest])

        x_train = self.x[of_train].astype(np.float64)
        offset, scale = np.zeros(self.x.shape[1]), np.full(self.x.shape[1], self.divisor)
        if self.standardise:
            offset, deviation = x_train.mean(axis=0), x_train.std(axis=0)
            scale = np.where(deviation > 0, deviation, 1.0)

        def scaled(x: np.ndarray) -> np.ndarray:
            return ((x - offset) / scale).astype(np.float32)

        x_train = scaled(x_train)
        low, high = self.bounds or (x_train.min(axis=0), x_train.max(axis=0))
        return Split(
            x_train=x_train,
            y_train=self.y[of_train],
            x_valid=scaled(self.x[of_valid]),
            y_valid=self.y[of_valid],
            x_test=scaled(x_test),
            y_test=y_test,
            train_rows=self.rows[of_train],
            valid_rows=self.rows[of_valid],
            test_rows=test_rows,
            offset=offset.astype(np.float32),
            scale=scale.astype(np.float32),
            low=np.broadcast_to(np.asarray(low, np.float32), x_train.shape[1:]),
            high=np.broadcast_to(np.asarray(high, np.float32), x_train.shape[1:]),
        )


def _two(x: np.ndarray, labels: np.ndarray, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of two classes, labelled 0 and 1, with their numbers."""
    rows = np.flatnonzero(np.isin(labels, pair))
    return x[rows], (labels[rows] == pair[1]).astype(np.int8), rows


def _idx_pair(family: str, name: str, pair: tuple[int, int], classes: list[str]) -> Dataset:
    files = fetch(family)

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = read_idx(files[f"{prefix}-images-idx3-ubyte.gz"])
        x, y, rows = _two(images, read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"]), pair)
        return x.reshape(len(x), -1), y, rows

    x, y, rows = part("train")
    names = (classes[pair[0]], classes[pair[1]])
    source = f"official files of {family}"
    return Dataset(name, x, y, rows, names, source, part("t10k"), (0.0, 1.0), 255.0, image_shape=(28, 28))


def _mnist(name: str, pair: tuple[int, int]) -> Dataset:
    return _idx_pair("mnist", name, pair, DIGITS)


def _fashion(name: str, pair: tuple[int, int]) -> Dataset:
    return _idx_pair("fashion-mnist", name, pair, FASHION)


def _digits(name: str, pair: tuple[int, int]) -> Dataset:
    data: Any = sklearn.datasets.load_digits()
    x, y, rows = _two(data["data"], data["target"], pair)
    names = (DIGITS[pair[0]], DIGITS[pair[1]])
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
    """A line of the catalogue; `pairs` maps a class's name in `FAMILY-AvB` to its number."""

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
        if self.load in (_digits, _breast_cancer, _synthetic):
            return "bundled"
        if at_hand(self.family):
            return "at hand"
        return "to download" if self.pairs else "missing"


CATALOGUE = {
    entry.family: entry
    for entry in (
        Entry("digits-AvB", 1797, None, 64, "any two of ten", _digits, "digits-0v8", True),
        Entry("breast-cancer", 569, None, 30, "benign, malignant", _breast_cancer, "breast-cancer"),
        Entry("synthetic", 4096, None, 2, "0, 1", _synthetic, "synthetic"),
        Entry("mnist-AvB", 60000, 10000, 784, "any two of ten", _mnist, "mnist-0v8", True),
        Entry("fashion-mnist-AvB", 60000, 10000, 784, "any two of ten", _fashion, "fashion-mnist-0v2", True),
        Entry("dogfish", 1800, 600, 2048, "dog, fish", _dogfish, "dogfish"),
        Entry("springer-tench", 1800, 600, 2048, "springer, tench", _springer_tench, "springer-tench"),
    )
}


def load_dataset(name: str) -> Dataset:
    """Return the data set `name`: one of the catalogue's, or a pair of classes such as `mnist-3v5`.

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
    if name in CATALOGUE and not CATALOGUE[name].pairs:
        return CATALOGUE[name].load()
    known = [entry.example for entry in CATALOGUE.values()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise InputError(f"unknown data set {name!r}; did you mean {', '.join(near)}? `mithridate datasets` lists all")
