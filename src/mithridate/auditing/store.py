"""A run directory while its audit runs: what is computed is on the disk before it is reported.

    manifest.json   configuration, data and versions, and the hash of the first two
    cells/*.npz     the finished cells, and the state of unfinished ones
    .lock           held by the process that computes

Only one process at a time works in a run directory. A directory that belongs to another audit is refused.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mithridate.errors import StorageError
from mithridate.files.durable import PART, flush, write_whole
from mithridate.files.limits import contained, read_json, read_npz, regular_file
from mithridate.results.results import check_free

FORMAT = 5
MANIFEST, CELLS, LOCK = "manifest.json", "cells", ".lock"


class Manifest(BaseModel):
    """Says which audit a run directory belongs to.

    `format`: of the directory; `hash`: of `config` and `data`; `config`: all options except `execution`, which changes
    no number; `data`: the digest of the data; `place`: their files, or their name in the catalogue; `versions`: of
    everything that numbers depend on; `execution`: how the audit was started.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    hash: str
    config: dict[str, Any]
    data: str
    place: str
    versions: dict[str, str]
    execution: str

    @classmethod
    def of(cls, config: Mapping[str, Any], data: str, place: str, versions: dict[str, str]) -> "Manifest":
        """Return the manifest of an audit; the arguments are as in the fields, `config` is as in audit.json."""
        kept = {name: value for name, value in config.items() if name != "execution"}
        told = {"config": kept, "data": data, "place": place, "versions": versions, "execution": config["execution"]}
        return cls(format=FORMAT, hash=_hash(kept, data), **told)

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Return the manifest of a run directory.

        Raises `StorageError` if it is missing, damaged or of another format.
        """
        try:
            content = read_json(regular_file(directory, MANIFEST))
            if isinstance(content, dict) and content.get("format") != FORMAT:
                raise ValueError(
                    f"its format is {content.get('format')!r}, and this version goes on with {FORMAT}: finish it with "
                    "the version that started it, or start again in another directory"
                )
            found = cls(**content)
        except FileNotFoundError:
            raise StorageError(f"{directory} holds no run that could go on: there is no {MANIFEST} in it") from None
        except ValidationError as error:
            raise StorageError(f"{directory / MANIFEST} is damaged: {error.errors()[0]['msg']}") from None
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(f"{directory / MANIFEST} cannot be read: {error}") from None
        if found.hash != _hash(found.config, found.data):
            raise StorageError(f"{directory / MANIFEST} was changed: its hash is not that of its configuration")
        return found

    def check(self, found: "Manifest", directory: Path) -> None:
        """Raise `StorageError` if the manifest found in a directory belongs to another audit."""
        names = [name for name in self.config | found.config if self.config.get(name) != found.config.get(name)]
        if names:
            theirs, own = (manifest.config.get(names[0]) for manifest in (found, self))
            what = f"another configuration: {names[0]} = {theirs!r} there, {own!r} here"
        elif found.data != self.data:
            what = "other data or other code of your own with the same name: it has changed since"
        elif other := [name for name in self.versions if found.versions.get(name) != self.versions[name]]:
            theirs = found.versions.get(other[0])
            what = f"another version: {other[0]} {theirs} there, {self.versions[other[0]]} here"
        else:
            return
        raise StorageError(f"{directory} belongs to {what}; give another directory")


def _hash(config: Mapping[str, Any], data: str) -> str:
    return hashlib.sha256(json.dumps([config, data], sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Store:
    """The cells of one audit, by name, in a locked run directory. See `opened`."""

    def __init__(self, directory: Path, manifest: Manifest):
        self.directory, self.manifest = directory, manifest

    @property
    def complete(self) -> bool:
        """Whether there is a result and no cell is left to compute."""
        return (self.directory / "audit.json").exists() and not (self.directory / CELLS).exists()

    def read(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the arrays under each name. Raises `StorageError` if a file is damaged or belongs to another audit."""
        found = {}
        for path in sorted((self.directory / CELLS).glob("*.npz")):
            try:
                arrays = read_npz(regular_file(self.directory, f"{CELLS}/{path.name}"))
                if str(arrays.pop("run", "")) != self.manifest.hash:
                    raise ValueError("it belongs to another run")
            except (OSError, ValueError) as error:
                raise StorageError(f"{path} cannot be used: {error}; remove it to have it computed again") from None
            found[path.stem] = arrays
        return found

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under a name. Once this returns, they survive any interruption. Raises `StorageError`."""
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays, run=np.array(self.manifest.hash))
        with self._told():
            write_whole(self._path(name), lambda file: file.write(content.getvalue()))

    def remove(self, name: str) -> None:
        """Delete what is stored under a name, if anything. Raises `StorageError`."""
        with self._told():
            self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all cells, because the run is finished. Raises `StorageError`."""
        with self._told():
            # All at once: if some cells were left, the others would be computed again.
            gone = self.directory / f".{CELLS}{PART}"
            (self.directory / CELLS).rename(gone)
            flush(self.directory, below=False)
            shutil.rmtree(gone)

    def _path(self, name: str) -> Path:
        return self.directory / CELLS / f"{name}.npz"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write {self.directory}: {error.strerror or error}; what was computed before is safe: mend "
                f"this, then `mithridate resume {self.directory}` goes on"
            ) from error


@contextmanager
def opened(directory: Path, manifest: Manifest) -> Iterator[Store]:
    """Open a run directory for one audit and one process; it is made if it does not exist.

    Raises `StorageError` if it contains something else, belongs to another audit, is in use by another process, or
    cannot be written.
    """
    if not (directory / MANIFEST).exists():
        check_free(directory, hidden=True)
    store = Store(directory, manifest)
    with store._told():
        directory.mkdir(parents=True, exist_ok=True)
    try:
        for name in (LOCK, CELLS):
            contained(directory, name)
        lock = filelock.FileLock(directory / LOCK, timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise StorageError(
            f"{directory} is in use: another process computes there; wait for it, or give another directory"
        ) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{directory} cannot be used: {error}; give another directory") from None
    try:
        if (directory / MANIFEST).exists():
            manifest.check(Manifest.read(directory), directory)
        else:
            content = manifest.model_dump_json(indent=2).encode() + b"\n"
            with store._told():
                write_whole(directory / MANIFEST, lambda file: file.write(content))
        with store._told():
            if not store.complete:
                (directory / CELLS).mkdir(exist_ok=True)
            for path in (*directory.glob(f".*{PART}"), *(directory / CELLS).glob(f".*{PART}")):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield store
    finally:
        lock.release()
