"""Files that are there whole or not at all, whatever is killed and whichever disk is full.

A file is written beside its place under another name, flushed to the disk and renamed; then its folder is flushed.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mithridate.files.systems import sync

PART = ".part"
"""How the names of files end that were being written; whoever finds one may remove it."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have `write` fill a new file, which then takes the place of `path`. Raises `OSError`, nothing left behind."""
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
    """Flush a file, or a folder and all that is `below` it, to the disk."""
    for found in (path, *(path.rglob("*") if below else ())):
        sync(found)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
