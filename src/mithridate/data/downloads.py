"""Public data files: where they come from, their checksums, and where they are kept.

Files are in `MITHRIDATE_DATA_DIR/<family>/`, by default in the user's cache directory. Pooch downloads them on first
use. A file that exists is verified and never overwritten.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pooch

from mithridate.errors import DataError
from mithridate.files.limits import read_gzip, read_npz

VARIABLE = "MITHRIDATE_DATA_DIR"
LARGEST = 2**28
"""The most bytes of a file's arrays, unpacked: five times those of the largest file in the catalogue."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """The files of one family: name → SHA-256 (None if none was published), and where they can be downloaded.

    `origin` says where the files come from. Without `urls` the user must put them in place. Files with `urls` have
    checksums.
    """

    files: Mapping[str, str | None]
    origin: str
    urls: tuple[str, ...] = ()


_IDX = tuple(f"{p}-{k}-ubyte.gz" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))

SOURCES: dict[str, Source] = {
    "mnist": Source(
        dict(
            zip(
                _IDX,
                (
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
                strict=True,
            )
        ),
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": Source(
        dict(
            zip(
                _IDX,
                (
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
                strict=True,
            )
        ),
        "Xiao, Rasul and Vollgraf, Fashion-MNIST (MIT licence)",
        ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
    ),
    "dogfish": Source(
        {f"dogfish_900_300_inception_features_{part}.npz": None for part in ("train", "test")},
        "Koh and Liang (2017), Understanding Black-box Predictions via Influence Functions; "
        "http://mitra.stanford.edu/kundaje/pangwei/",
    ),
    "springer-tench": Source(
        {
            "train.npz": "50b45fa19d32a5f97fd0780921713fd32c3b66f572b3f959d4186312c7d954f6",
            "test.npz": "041855d65cb270d1b6bec9e7ea9a837881bf29adee4d78de9e0076664fc339e3",
        },
        "ResNet-50 features of two ImageNet classes, arrays `features` (n, 2048) and `labels` (n,)",
    ),
}


def directory() -> Path:
    """Return the folder that holds one folder per family."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    try:
        return Path(pooch.os_cache("mithridate"))
    except RuntimeError:  # a user without a home; files in the temporary folder must have the right checksum
        return Path(tempfile.gettempdir()) / "mithridate"


def at_hand(family: str) -> bool:
    """Return whether every file of `family` exists; it is not checked whether the files are intact."""
    return all((directory() / family / name).is_file() for name in SOURCES[family].files)


def fetch(family: str) -> dict[str, Path]:
    """Return the verified paths of the files of `family`, downloading those that are missing.

    Raises `DataError`, naming the file and the remedy, if a file is corrupt, or missing and cannot be downloaded.
    """
    return {name: _fetch_one(family, name) for name in SOURCES[family].files}


def _fetch_one(family: str, name: str) -> Path:
    source, path = SOURCES[family], directory() / family / name
    expected = source.files[name]
    if path.is_file():
        if expected is not None and (found := pooch.file_hash(str(path))) != expected:
            remedy = "delete it and run again to download it anew" if source.urls else "replace it"
            raise DataError(f"{path} is corrupt: its SHA-256 is {found[:12]}…, not {expected[:12]}…; {remedy}")
        return path
    place = f"put it there yourself, or set {VARIABLE} to a folder that holds {family}/{name}"
    if not source.urls:
        raise DataError(f"{path} is missing and cannot be downloaded (source: {source.origin}); {place}")
    pooch.get_logger().setLevel(logging.WARNING)
    reasons = []
    for url in source.urls:
        try:
            pooch.retrieve(url + name, known_hash=expected, fname=name, path=path.parent)
        except ValueError:
            reasons.append(f"{url}: the download is truncated or was tampered with (its SHA-256 does not match)")
        except OSError as error:
            reasons.append(f"{url}: {type(error).__name__}")
        else:
            return path
    raise DataError(f"{path} is missing and could not be downloaded ({'; '.join(reasons)}); {place}")


def read_arrays(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Return the named arrays of an npz file, in this order.

    Raises `DataError` if it is not an npz file, an array is missing or holds pickled objects, or it is too large.
    """
    return _reading(path, lambda: _npz(path, names))


def read_idx(path: Path) -> np.ndarray:
    """Return the array of a gzipped IDX file of bytes (the format of MNIST).

    Raises `DataError` if the file is truncated, too large or of another kind.
    """
    return _reading(path, lambda: _idx(path))


def _npz(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    return tuple(read_npz(path, names, LARGEST).values())


def _idx(path: Path) -> np.ndarray:
    raw = read_gzip(path, LARGEST)
    if not raw.startswith(b"\x00\x00\x08") or len(raw) < 4 or len(raw) < 4 + 4 * raw[3]:
        raise ValueError("not an IDX file of unsigned bytes")
    header = 4 + 4 * raw[3]
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist()
    if math.prod(shape) != len(raw) - header:
        raise ValueError(f"its header gives the shape {shape}, which does not match its size")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _reading(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and fetch it again") from error
