"""Files that may be harmful are read within limits, or refused.

Sizes are checked before anything is allocated, from the content and not from what a header says. Nothing that is read
is executed. Every fault of a file is a `ValueError` with one sentence, or an `OSError`; the caller turns it into an
error that names the file.
"""

import gzip
import io
import json
import math
import os
import stat
import struct
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mithridate.errors import first_line
from mithridate.files.systems import leads_out, same_path

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = 2**24
"""The largest size of a JSON file in bytes."""
OPTIONS = 2**16
"""The largest size of a TOML file in bytes."""
ARRAYS = 2**30
"""The largest size of an npz file's unpacked arrays in bytes, unless the caller sets another."""
MEMBERS = 1000
DEPTH = 32
DIGITS = 100

DOTS = 1000
LONGEST = 2**16
OPTION = 4096
"""The largest number of characters of a text in a file, and in an option."""

_TABLE = 2**18
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def faults_told() -> Iterator[None]:
    """Turn whatever the standard library, NumPy or pandas raises on damaged files into a `ValueError`."""
    try:
        yield
    except _BROKEN as error:
        raise ValueError(f"it is damaged ({str(error) or type(error).__name__})") from error


def contained(folder: Path, name: str) -> Path:
    """Return the path of `name` in a folder that somebody else may have made, for reading or writing.

    Raises `ValueError` if it leaves the folder, or if any part of it below the folder is a symbolic link.

    Example:
        >>> from pathlib import Path
        >>> contained(Path("run"), "poison/../../x.npz")
        Traceback (most recent call last):
        ValueError: 'poison/../../x.npz' leads out of run
    """
    root = folder.resolve()
    path = root / name
    if leads_out(name):
        raise ValueError(f"{name!r} leads out of {folder}")
    if not same_path(os.path.realpath(path), str(path)):
        raise ValueError(f"{name!r} is a symbolic link, or lies behind one; only files of the folder itself are used")
    return path


def regular_file(folder: Path, name: str, most: int = ARRAYS) -> Path:
    """Return the path of the file `name` in a folder that somebody else may have made.

    Raises `ValueError` as `contained` does, if it is no regular file (a FIFO, a device, a directory) or has more than
    `most` bytes; `FileNotFoundError` if it does not exist.
    """
    path = contained(folder, name)
    with opened(path, most):
        return path


@contextmanager
def opened(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """Open a regular file of at most `most` bytes for reading; FIFOs and devices are refused without waiting.

    Raises `ValueError` or `OSError`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags)
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path.name} is no regular file")
        if found.st_size > most:
            raise ValueError(f"{path.name} has {found.st_size:,} bytes; at most {most:,} are read")
        yield file


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file, at most `most`. Raises `ValueError` or `OSError`."""
    with opened(path, most) as file:
        return _at_most(file, most, path)


def _at_most(file: io.BufferedIOBase, most: int, path: Path) -> bytes:
    # A file can grow after its size was checked.
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} holds more than {most:,} bytes")
    return content


def read_json(path: Path, most: int = TEXT) -> Any:
    """Return the content of a JSON file (UTF-8) of at most `most` bytes; NaN and infinity are refused.

    Raises `ValueError` if it is not JSON, nests more than 32 deep, or holds an integer of more than 100 digits or text
    that is not Unicode; `OSError` if it cannot be read.
    """
    with faults_told():
        found = json.loads(
            read_bytes(path, most).decode("utf-8"), parse_constant=_number, parse_float=_number, parse_int=_integer
        )
    check_plain(found)
    return found


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"an integer has {len(text)} digits; at most {DIGITS} are read")
    return int(text)


def read_toml(path: Path, most: int = OPTIONS) -> dict[str, Any]:
    """Return the content of a TOML file of at most `most` bytes; raises as `read_json` does."""
    text = read_bytes(path, most).decode("utf-8")
    # tomllib's time grows with the square of a dotted key.
    if max(line.count(".") for line in text.split("\n")) > DOTS:
        raise ValueError(f"a line has more than {DOTS:,} dots")
    with faults_told():
        found = tomllib.loads(text)
    check_plain(found)
    return found


def check_plain(value: Any, longest: int = LONGEST) -> None:
    """Raise `ValueError` for plain data that nest more than 32 deep or hold unusable values.

    Unusable are text that is not Unicode or longer than `longest`, and integers of more than 100 digits.
    """
    stack = [(value, 1)]
    while stack:
        found, depth = stack.pop()
        if depth > DEPTH:
            raise ValueError(f"it nests more than {DEPTH} deep")
        if isinstance(found, str):
            if len(found) > longest:
                raise ValueError(f"a text has {len(found):,} characters; at most {longest:,} are read")
            found.encode("utf-8")
        elif isinstance(found, int) and abs(found) >= 10**DIGITS:
            raise ValueError(f"an integer has more than {DIGITS} digits")
        elif isinstance(found, dict):
            stack.extend((part, depth + 1) for pair in found.items() for part in pair)
        elif isinstance(found, list | tuple):
            stack.extend((part, depth + 1) for part in found)


def read_gzip(path: Path, most: int) -> bytes:
    """Return the unpacked content of a gzip file, at most `most` bytes. Raises `ValueError` or `OSError`."""
    with faults_told(), opened(path, most) as file, gzip.GzipFile(fileobj=file) as unpacked:
        return _at_most(unpacked, most, path)


def npz_shapes(path: Path, most: int = ARRAYS) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an npz file's arrays without reading them; raises as `read_npz` does."""
    with _archive(path, most) as (_, found):
        return {name: shape for name, (_, shape) in found.items()}


def read_npz(path: Path, names: Sequence[str] | None = None, most: int = ARRAYS) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name, all of them or those named. They hold numbers, booleans or text.

    Raises `ValueError` if the file is no such archive or is damaged; if it holds pickled objects, records, the same
    array twice, or an array whose size differs from its header; if the unpacked arrays have more than `most` bytes; if
    a named array is missing. Raises `OSError` if it cannot be read.
    """
    with _archive(path, most) as (archive, found):
        absent = [name for name in names or () if name not in found]
        if absent:
            raise ValueError(
                f"there is no array {absent[0]!r}, only {', '.join(map(repr, list(found)[:10])) or 'none'}"
            )
        arrays = {}
        for name in found if names is None else names:
            with archive.open(found[name][0]) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                # The checksum is compared at the end of the member.
                file.read(1)
            _check_text(name, arrays[name])
        return arrays


def _check_text(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "U" and array.size:
        points = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError(f"array {name!r} holds text that is not Unicode")


@contextmanager
def _archive(
    path: Path, most: int
) -> Iterator[tuple[zipfile.ZipFile, dict[str, tuple[zipfile.ZipInfo, tuple[int, ...]]]]]:
    with faults_told(), opened(path, most + _TABLE) as file:
        check_contents(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MEMBERS:
                raise ValueError(f"it holds {len(members):,} arrays; at most {MEMBERS:,} are read")
            size = sum(member.file_size for member in members)
            if size > most:
                raise ValueError(f"its arrays have {size:,} bytes unpacked; at most {most:,} are read")
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if not member.filename.endswith(".npy") or set("/\\:\0") & set(name) or name in found:
                    raise ValueError(f"member {member.filename[:60]!r} is no array's name, or is there twice")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"array {name!r} is packed in an unknown way; save it with numpy.savez")
                found[name] = member, _shape(archive, member, name)
            yield archive, found


def check_contents(file: io.BufferedReader) -> None:
    """Refuse a zip file whose table of contents would fill the memory: Python's reader loads it at once."""
    size = file.seek(0, os.SEEK_END)
    file.seek(-min(size, 98), os.SEEK_END)
    end = file.read().rjust(98, b"\0")
    if not end[-22:].startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        raise ValueError("it is no archive, or is cut short")
    table = int.from_bytes(end[-10:-6], "little")
    if end[-42:].startswith(b"PK\6\7"):
        if int.from_bytes(end[-34:-26], "little") != size - 98:
            raise ValueError("its table of contents is damaged")
        table = int.from_bytes(end[40:48], "little")
    if table > _TABLE:
        raise ValueError(f"its table of contents has {table:,} bytes; at most {_TABLE:,} are read")
    file.seek(0)


def _shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> tuple[int, ...]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"array {name!r} has the unknown format {version}")
        shape, _, dtype = _HEADERS[version](file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{member.filename!r} holds pickled Python objects, which could run code and are not read; save numbers, "
            "or text with dtype=str"
        )
    if dtype.kind not in "biufSU" or dtype.names or dtype.subdtype or (dtype.kind == "f" and dtype.itemsize > 8):
        raise ValueError(f"array {name!r} holds {dtype}; save numbers of at most 8 bytes, or text")
    if math.prod(shape) * dtype.itemsize != member.file_size - header:
        raise ValueError(f"{member.filename!r} says it is {shape} {dtype}, which is not its size; it is damaged")
    if not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"array {name!r} has the shape {shape} of {dtype}, which cannot be")
    return shape


def read_parquet(path: Path, most: int, rows: int = 2**31, columns: list[str] | None = None) -> "pa.Table":
    """Return a Parquet file of at most `rows` rows and `most` bytes, by its metadata and by its real content.

    If `columns` are named, only these are read. Text is read as a dictionary and expanded only if it fits. Raises
    `ValueError` or `OSError`.
    """
    import pyarrow as pa
    import pyarrow.compute
    from pyarrow.parquet import ParquetFile

    pc: Any = pyarrow.compute
    try:
        with opened(path, most) as file, ParquetFile(file) as found:
            types = {field.name: field.type for field in found.schema_arrow}
        text = [name for name, kind in types.items() if _is_text(pa, kind)]
        with opened(path, most) as file, ParquetFile(file, read_dictionary=text) as found:
            about = found.metadata
            # The metadata of single columns are not used: if they are damaged, pyarrow ends the process.
            groups = [about.row_group(group).total_byte_size for group in range(about.num_row_groups)]
            size = sum(max(group, 0) for group in groups) + 8 * about.num_rows * about.num_columns
            if about.num_rows > rows or size > most:
                raise ValueError(f"it has {about.num_rows:,} rows and {size:,} bytes; at most {rows:,} and {most:,}")
            table = found.read(columns=columns, use_threads=False)
        for place, name in enumerate(table.column_names):
            column = table.column(place)
            if pa.types.is_dictionary(column.type) and name in text:
                parts = [(part.dictionary, part.indices) for part in column.chunks]
                size += sum(pc.sum(pc.take(pc.binary_length(words), codes)).as_py() or 0 for words, codes in parts)
                if size > most:
                    raise ValueError(f"its texts have more than {most:,} bytes when written out")
                table = table.set_column(place, name, column.cast(types[name]))
        table.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"it is not Parquet, or is damaged: {first_line(error)[:200]}") from None
    return table


def _is_text(pa: Any, kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
