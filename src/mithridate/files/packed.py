"""Packed files, unpacked within limits: counted by what comes out, not by what a header says."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mithridate.files.limits import check_contents, faults_told, opened

UNPACKED = 2**30
"""The most bytes that a packed file may hold."""
ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
_STARTS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst", b"PK\3\4": "zip"}
_CHUNK = 2**22
_DICTIONARY = 2**27
"""The most memory that unpacking xz may take."""


def packing(start: bytes) -> str:
    """Return how a file that starts with these bytes is packed: gz, bz2, xz, zst or zip; empty for any other."""
    return next((name for begins, name in _STARTS.items() if start.startswith(begins)), "")


def unpacked(path: Path, most: int) -> bytes:
    """Return what a packed file holds, at most `most` bytes and `UNPACKED`. Raises `ValueError` or `OSError`."""
    most = min(most, UNPACKED)
    with faults_told(), opened(path, 2 * most) as file:
        match packing(file.peek(8)):
            case "gz":
                return _at_most(gzip.GzipFile(fileobj=file).read, most)
            case "bz2":
                return _at_most(bz2.BZ2File(file).read, most)
            case "zst":
                return _at_most(_zst(file), most)
            case "zip":
                return _member(file, most)
            case _:
                return _xz(file, most)


def _at_most(read: Callable[[int], bytes], most: int) -> bytes:
    parts, left = [], most
    while part := read(_CHUNK):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ValueError(f"it holds more than {most:,} bytes unpacked; unpack it first, or give a sample of rows")
    return b"".join(parts)


def _zst(file: Any) -> Callable[[int], bytes]:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd").read


def _xz(file: Any, most: int) -> bytes:
    decoder = lzma.LZMADecompressor(memlimit=_DICTIONARY)
    try:
        found = _at_most(lambda size: b"" if decoder.eof else _decoded(decoder, file, size), most)
    except lzma.LZMAError as error:
        raise ValueError(f"it is damaged ({error})") from None
    if decoder.unused_data:
        raise ValueError("it holds several parts; unpack it first")
    return found


def _decoded(decoder: lzma.LZMADecompressor, file: Any, size: int) -> bytes:
    while not decoder.eof:
        content = file.read(_CHUNK) if decoder.needs_input else b""
        if decoder.needs_input and not content:
            raise ValueError("it is cut short")
        if found := decoder.decompress(content, size):
            return found
    return b""


def zip_names(path: Path, most: int) -> dict[str, int]:
    """Return the names of what a zip file holds, with their sizes unpacked; raises as `unpacked`."""
    with faults_told(), opened(path, most) as file:
        check_contents(file)
        with zipfile.ZipFile(file) as archive:
            return {member.filename: member.file_size for member in archive.infolist()}


def _member(file: Any, most: int) -> bytes:
    check_contents(file)
    with zipfile.ZipFile(file) as archive:
        names = [
            name for name in archive.namelist() if not name.endswith("/") and not name.startswith(("__MACOSX/", "."))
        ]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files, not one; unpack it first")
        with archive.open(names[0]) as member:
            return _at_most(member.read, most)
