"""The terminal: where output goes, how progress is shown, and how a user stops a run."""

import codecs
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mithridate.errors import first_line
from mithridate.files.systems import STOPPING

if TYPE_CHECKING:
    from mithridate.auditing.audit import Progress as Standing

FAULT, INTERRUPTED, CLOSED = 4, 130, 141
"""The exit codes after a fault of the program, after Ctrl-C or SIGTERM, and if nobody reads the output any more."""
PLAIN = {
    **{"≥": ">=", "≤": "<=", "±": "+/-", "→": "->", "—": "-", "–": "-", "−": "-", "…": "...", "•": "*", "×": "x"},
    **{"λ": "lambda", "Φ": "Phi", "‖": "||", "²": "^2", "·": "*", "“": '"', "”": '"', "’": "'", "η": "eta", "ε": "eps"},
}
"""Replacements for characters that a terminal cannot show."""


class _Console(Console):
    """A console whose reader may stop early, as in `mithridate audit … | head`, without changing the exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console, errors = _Console(emoji=False), _Console(stderr=True, emoji=False)


def writable() -> str:
    """Return the name of an encoding error handler that writes a word for λ if a terminal cannot show it."""
    codecs.register_error("plain", _plain)
    return "plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def told(error: Exception) -> str:
    """Return one line on a fault of the program: what it is, and the file that has its traceback, for a report."""
    said = f"a fault of the program, not of your input: {type(error).__name__}: {first_line(error)}"
    kept = "what an audit has computed is in its run directory; `mithridate resume` continues from there"
    try:
        with tempfile.NamedTemporaryFile("wb", prefix="mithridate-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(error)).encode())
        return f"{said}; please report it with {file.name}; {kept}"
    except OSError:
        return f"{said}; please report it; {kept}"


@contextmanager
def progress(hidden: bool) -> Iterator[Callable[["Standing"], None]]:
    """Yield a callback that shows on standard error what is done, what is running and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"))
    times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    bar = Progress(*columns, *times, console=errors, disable=hidden)
    task, shown = bar.add_task("", total=None), threading.Event()

    def show(at: "Standing") -> None:
        shown.set()
        bar.start()
        bar.update(task, completed=at.done, total=at.total, description=at.running)

    try:
        yield show
    finally:
        if shown.is_set():
            bar.stop()


@contextmanager
def not_begun() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once, with one line: nothing has been computed or written yet.

    An exception could be lost in a callback of a library that is being imported.
    """

    def leave(number: int, frame: Any) -> None:
        os.write(2, b"\nmithridate: stopped before anything was computed\n")
        os._exit(INTERRUPTED)

    before = {number: signal.signal(number, leave) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM has asked to stop. The second time the process ends."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        # The console may be in the middle of a line. Whatever happens, saved cells are safe.
        if asked.is_set():
            os.write(2, b"\nmithridate: stopped at once; all that was saved is safe\n")
            os._exit(INTERRUPTED)
        asked.set()
        os.write(2, b"\nmithridate: finishing the current step to save it; ask again to stop at once\n")

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
