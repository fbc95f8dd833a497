"""Differences between operating systems: each is one function here, and no other module asks which system it is.

Tested on Linux. For macOS and Windows the tests remove what these systems lack (`tests/test_systems.py`).
"""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath

WINDOWS = os.name == "nt"

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a process to stop: Ctrl-C, and what a service manager sends."""


def sync(path: Path) -> None:
    """Flush a file or folder to the disk. Windows cannot open folders, and flushes only files opened for writing."""
    if WINDOWS and path.is_dir():
        return
    number = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def leads_out(name: str) -> bool:
    r"""Return whether a name in a folder leads out of it on any operating system, not only this one.

    Example:
        >>> [leads_out(name) for name in ("cells/a.npz", "../a", "/etc/a", "C:a", r"\\server\share\a", r"a\..\..\b")]
        [False, True, True, True, True, True]
    """
    path = PureWindowsPath(name)  # it takes both kinds of slash
    return "\0" in name or bool(path.anchor) or ".." in path.parts


def same_path(one: str, other: str) -> bool:
    """Return whether two absolute paths have the same spelling, as far as the system distinguishes spellings."""
    return os.path.normcase(one) == os.path.normcase(other)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Make processes that start meanwhile ignore signals to stop, on systems where they inherit that (not Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    with suppress(ImportError, AttributeError):  # no part of Python's documented library
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which would unblock the signals if it began later
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def deafen() -> None:
    """Make this process ignore signals to stop."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def how_it_ended(code: int) -> str:
    """Return in words how a process ended, from its exit code in `multiprocessing`."""
    if code >= 0:
        return f"ended (exit code {code})"
    doubt = ": out of memory?" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"was killed (signal {-code}){doubt}"


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use; empty if the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def bind(cores: Iterable[int]) -> None:
    """Limit this process to these cores; do nothing on systems where `usable_cores` is empty."""
    if cores := set(cores):
        os.sched_setaffinity(0, cores)
