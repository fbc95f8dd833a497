"""Finds the kind of a file from its first bytes and its ending; checks that it can be read and fits into the memory."""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mithridate.errors import DataError
from mithridate.files.limits import opened
from mithridate.files.packed import ENDINGS, packing, unpacked, zip_names
from mithridate.files.resources import free_memory

Kind = Literal["text", "arff", "parquet", "excel", "npz", "svmlight"]
TABLES: dict[str, Kind] = {
    **{".csv": "text", ".tsv": "text", ".txt": "text", ".data": "text", ".arff": "arff"},
    **{".parquet": "parquet", ".pq": "parquet", ".xlsx": "excel"},
}
ARRAYS: dict[str, Kind] = {".npz": "npz", ".svmlight": "svmlight", ".svm": "svmlight", ".libsvm": "svmlight"}
LONGEST = 1000
"""The most characters of a column's name, or of a label."""
MOST_COLUMNS = 100_000
"""The most columns of a table."""
COPIES = 4
"""How many copies of each number are in memory at once: as read, as float64, while it is checked, and in a split."""
HEAD = 2**20
"""How many bytes at the start of a file show how it is written."""
SVMLIGHT = re.compile(r"\s*[^\s:#]+(\s+qid:\d+)?(\s+\d+:[^\s:#]+)*\s*(#.*)?")
MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True)
class Source:
    """Where rows come from, for error messages; `text`: whether the cells are text that can mean numbers."""

    name: str
    text: bool = False
    at: Callable[[int], str] = field(default=lambda row: f"row {row} (counted from 0)", repr=False)
    """Returns the place of row number `row` (counted from 0) in words; in a text file it is a line, counted from 1."""


@dataclass(frozen=True)
class Text:
    """A text file: on the disk, or as UTF-8 in memory if it was packed or in another encoding."""

    path: Path
    content: bytes | None = field(default=None, repr=False)

    def open(self) -> io.BufferedIOBase:
        """Return the bytes as a file."""
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)

    def lines(self) -> io.TextIOWrapper:
        """Return the text as a file; line ends stay as they are."""
        content: Any = self.open()
        return io.TextIOWrapper(content, encoding="utf-8-sig", newline="")

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.path.stat().st_size if self.content is None else len(self.content)


def check_path(path: Path) -> None:
    """Raise `DataError` unless this is a file that can be read."""
    if path.is_dir():
        raise DataError(f"{path} is a directory; name a file in it, or several by a pattern, such as '{path}/*.csv'")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is no regular file")
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!r}: the name is not UTF-8; rename it") from None
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read: you have no permission")


def ending(path: Path) -> str:
    """Return the ending that says what a file holds: the ending before .gz and the like."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return next((suffix for suffix in reversed(suffixes) if suffix not in ENDINGS), "")


def stem(path: Path) -> str:
    """Return the name of a file without `ending` and without the ending of a packed file."""
    bare = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    return bare.stem


def called(paths: Sequence[Path]) -> str:
    """Return the name of the data set in these files: that of the first file, and the number of further files."""
    return stem(paths[0]) + (f"+{len(paths) - 1}" if len(paths) > 1 else "")


def kind_of(path: Path) -> Kind:
    """Return what a file holds. Raises `DataError` if it cannot be read."""
    check_path(path)
    try:
        with opened(path, 2**62) as file:
            start = file.read(8)
        known = (TABLES | ARRAYS).get(ending(path))
        if start.startswith(b"PAR1"):
            return "parquet"
        if packing(start) == "zip" and known not in ("npz", "excel"):
            names = zip_names(path, free_memory())
            if "[Content_Types].xml" in names:
                return "excel"
            if names and all(name.endswith(".npy") for name in names):
                return "npz"
        if known in ("npz", "excel", "parquet"):
            return known
        with text_of(path).open() as file:
            head = file.read(2**16)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if known in ("svmlight", "arff"):
        return known
    return _written(head, path) if head.strip() else "text"


def _written(head: bytes, path: Path) -> Kind:
    """Return what a text file holds."""
    if b"\0" in head and not head.startswith(tuple(MARKS)) and ending(path) not in TABLES:
        raise DataError(
            f"{path}: unknown kind of file {path.suffix!r}; use CSV or other text with separators, ARFF or svmlight "
            "(packed or not), Parquet, .xlsx or NPZ"
        )
    lines = [line.strip() for line in head.decode(errors="replace").splitlines()]
    told = [line for line in lines if line and line[0] not in "#%"][:5]
    if told and re.match(r"(?i)@relation\b", told[0]):
        return "arff"
    if told and re.match(r"[\[{]\s*[\[{\"\]}]", told[0]):
        raise DataError(f"{path}: it looks like JSON, which is not read; write its rows as CSV or Parquet")
    if told and ":" in told[0] and all(SVMLIGHT.fullmatch(line) and _number(line.split()[0]) for line in told[:-1]):
        return "svmlight" if SVMLIGHT.fullmatch(told[0]) and _number(told[0].split()[0]) else "text"
    return "text"


def _number(word: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", word) is not None


def text_of(path: Path, encoding: str = "utf-8") -> Text:
    """Return a text file, packed or not, as UTF-8.

    Raises `ValueError` or `OSError` if it is damaged or too large, `DataError` if it is not in this encoding.
    """
    with opened(path, 2**62) as file:
        start = file.read(8)
    content = unpacked(path, free_memory() // COPIES) if packing(start) else None
    start = start if content is None else content[:8]
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), encoding)
    if marked in ("utf-8", "utf-8-sig"):
        return Text(path, content)
    if content is None:
        check_memory(str(path), 2 * path.stat().st_size, "its text")
        content = path.read_bytes()
    try:
        return Text(path, content.decode(marked).encode())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {marked}: byte {error.start} is 0x{content[error.start]:02x}") from None


def check_memory(name: str, needed: int, what: str) -> None:
    """Raise `DataError` if `needed` bytes are more than the free memory; `what` says what needs them."""
    free = free_memory()
    if needed > free:
        raise DataError(
            f"{name}: too large to be audited here: {what} need about {needed / 2**30:,.1f} GiB, and "
            f"{free / 2**30:,.1f} GiB are free; give a random sample of the rows: by default an audit "
            "trains on a few hundred or thousand"
        )


def check_dense(shape: tuple[int, int], name: str) -> None:
    """Raise `DataError` if a matrix with its zeros written out does not fit into the free memory."""
    n, m = shape
    check_memory(name, 8 * COPIES * n * m, f"{n:,} rows and {m:,} features, zeros included,")


def check_head(names: Sequence[str], path: Path | str) -> None:
    """Raise `DataError` for more columns than can be audited, or for a name that is too long or not Unicode."""
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(names):,} columns; at most {MOST_COLUMNS:,} can be audited")
    for name in names:
        check_text(name, f"{path}: the name of column {name[:40]!r}")


def check_names(names: Sequence[str], source: str) -> None:
    """Raise `DataError` as `check_head` does, and for two columns with the same name."""
    check_head(names, source)
    twice, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"{source}: {times} columns are called {twice!r}; rename all but one")


def check_text(text: str, what: str) -> None:
    """Raise `DataError` for a name or label that is too long, or that files and figures cannot contain."""
    if len(text) > LONGEST:
        raise DataError(f"{what} has more than {LONGEST:,} characters; shorten it")
    if "\0" in text or any("\ud800" <= letter < "\ue000" for letter in text):
        raise DataError(f"{what} holds a control character or is not Unicode; rename it")
