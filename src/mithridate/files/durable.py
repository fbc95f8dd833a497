"""Files that exist completely or not at all, even if a process is killed or a disk is full.

A file is written beside its place under another name, flushed to the disk and renamed; then its folder is flushed.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mithridate.files.systems import sync

PART = ".part"
"""The ending of the names of unfinished files; anyone who finds one may remove it."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a new file, which then replaces `path`. Raises `OSError` and leaves nothing behind."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=PART)
    try:
        with os.fdopen(number, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # a temporary file is the user's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    flush(path.parent, below=False)


def flush(path: Path, below: bool = True) -> None:
    """Flush a file, or a folder and everything `below` it, to the disk."""
    for found in (path, *(path.rglob("*") if below else ())):
        sync(found)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
