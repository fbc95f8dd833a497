"""The data sets that have names: the data sets of the paper, and small ones that need no download."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.datasets

from mithridate.data.datasets import Dataset
from mithridate.data.downloads import at_hand, fetch, read_arrays, read_idx
from mithridate.errors import DataError, InputError
from mithridate.seeds import generator

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
Pick = tuple[int, ...]
"""Some classes of a family, by number. A class's place in this tuple becomes its label."""
DIGITS = [str(digit) for digit in range(10)]


def _some(x: np.ndarray, labels: np.ndarray, chosen: Pick) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the features, the labels and the numbers of the rows of these classes; labels are places in `chosen`."""
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
    # Class 1 is the one to be found: malignant, which is 0 in the source.
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
    """Two Gaussians with means (∓3, 0) and covariance diag(2.5, 1.5) (App. D.1), 2,048 rows each."""
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
    """An entry of the catalogue. With `pairs`, any two of its ten classes are also a data set, `FAMILY-AvB`."""

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
        """Whether it can be used now: "bundled", "at hand", "to download" (on first use) or "missing"."""
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
    """Return the data set `name` of the catalogue, with all its classes, or with two of them, as in `mnist-3v5`.

    Raises `InputError` for an unknown name or class, `DataError` if a file is missing or corrupt.

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
