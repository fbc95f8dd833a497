"""Files of arrays, NPZ and svmlight: they are read whole or refused. NPZ arrays of pickled objects are refused."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.datasets import load_svmlight_file

from mithridate.data.kinds import COPIES, SVMLIGHT, Source, Text, check_dense, check_memory, text_of
from mithridate.errors import DataError
from mithridate.files.limits import npz_shapes, read_npz
from mithridate.files.resources import free_memory


class Arrays(NamedTuple):
    """The arrays of a file.

    `x` (n, m): features; `y` (n,): labels; `test`: the same pair for official test rows, or None; `names`: the m names
    of the features.
    """

    x: Any
    y: np.ndarray
    test: tuple[Any, np.ndarray] | None
    names: tuple[str, ...]


def read_arrays(path: Path, kind: str) -> tuple[Arrays, Source]:
    """Return the arrays of a file, and where they come from. `kind` is "npz" or "svmlight".

    An NPZ file has the arrays x and y, and x_test and y_test if it has official test rows. Raises `DataError` if the
    file is of another kind, damaged or too large, or if its arrays do not fit together.
    """
    return (_npz(path) if kind == "npz" else _svmlight(path)), Source(str(path))


def _npz(path: Path) -> Arrays:
    try:
        free = free_memory()
        shapes = npz_shapes(path, free)
        names = ("x", "y", "x_test", "y_test") if shapes.keys() & {"x_test", "y_test"} else ("x", "y")
        absent = [name for name in names if name not in shapes]
        if absent:
            raise DataError(
                f"{path}: no array {absent[0]!r}, only {', '.join(map(repr, shapes)) or 'nothing'}; save x (n, m) and "
                "y (n,), and for official test rows also x_test and y_test"
            )
        for x, y in zip(names[::2], names[1::2], strict=True):
            fits = len(shapes[x]) == 2 and shapes[y] == shapes[x][:1] and shapes[x][1] == shapes["x"][1]
            if not fits or 0 in shapes[x]:
                raise DataError(
                    f"{path}: {x} has the shape {shapes[x]}, {y} {shapes[y]}; (n, m) and (n,) are needed"
                    + (", with the m of x" if x == "x_test" else "")
                )
        needed = 8 * COPIES * sum(math.prod(shapes[name]) for name in names)
        check_memory(str(path), needed, f"arrays of {shapes['x'][0]:,} rows and {shapes['x'][1]:,} features")
        x, y, *test = read_npz(path, names, free).values()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as NPZ: {error}") from None
    return Arrays(x, y, (test[0], test[1]) if test else None, tuple(f"x{place}" for place in range(x.shape[1])))


def _svmlight(path: Path) -> Arrays:
    try:
        text = text_of(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    check_memory(str(path), COPIES * text.size, "its entries")
    load: Any = load_svmlight_file
    try:
        with text.open() as file:
            found, labels = load(file, zero_based=True)
    except (ValueError, OverflowError, OSError) as error:
        _check_lines(text)
        raise DataError(f"{path} cannot be read as svmlight: {error}") from None
    x, y = csr_matrix(found), np.asarray(labels)
    if not x.nnz:
        raise DataError(f"{path}: no features" if len(y) else f"{path} is empty")
    # Indices start at 1, unless there is an index 0.
    x, base = (x, 0) if x.indices.min() == 0 else (x[:, 1:], 1)
    check_dense(x.shape, str(path))
    return Arrays(x, y, None, tuple(str(place + base) for place in range(x.shape[1])))


def _check_lines(text: Text) -> None:
    """Raise `DataError` for the first line that is not svmlight."""
    with text.open() as file:
        for number, line in enumerate(file, 1):
            told = line.decode(errors="replace")
            if told.split("#")[0].strip() and not _svmlight_line(told):
                raise DataError(
                    f"{text.path}: line {number} is not svmlight: {told.strip()[:60]!r}; write LABEL INDEX:VALUE "
                    "INDEX:VALUE …, with the indices in rising order"
                ) from None


def _svmlight_line(text: str) -> bool:
    if not SVMLIGHT.fullmatch(text.rstrip("\r\n")):
        return False
    label, *entries = text.split("#")[0].split()
    pairs = [entry.split(":") for entry in entries if not entry.startswith("qid")]
    try:
        [float(number) for number in (label, *(value for _, value in pairs))]
    except ValueError:
        return False
    indices = [int(index) for index, _ in pairs]
    return indices == sorted(set(indices))
