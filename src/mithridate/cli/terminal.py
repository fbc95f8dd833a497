"""The terminal: what is printed where, progress, and being asked to stop."""

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
"""The exit codes after a fault of the program, after Ctrl-C or SIGTERM, and where nobody reads the output any more."""
PLAIN = {
    **{"≥": ">=", "≤": "<=", "±": "+/-", "→": "->", "—": "-", "–": "-", "−": "-", "…": "...", "•": "*", "×": "x"},
    **{"λ": "lambda", "Φ": "Phi", "‖": "||", "²": "^2", "·": "*", "“": '"', "”": '"', "’": "'", "η": "eta", "ε": "eps"},
}
"""What stands for a character that a terminal cannot show."""


class _Console(Console):
    """A console whose reader may leave early, as in `mithridate audit … | head`, without changing the exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console, errors = _Console(), _Console(stderr=True)


def writable() -> str:
    """Return the name of an error handler by which a terminal without λ gets a word for it, not a traceback."""
    codecs.register_error("plain", _plain)
    return "plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def told(error: Exception) -> str:
    """Return in one line what a fault of the program is, and where its traceback was put for a report."""
    said = f"a fault of the program, not of your input: {type(error).__name__}: {first_line(error)}"
    kept = "what an audit had computed is in its run directory, and `mithridate resume` goes on from there"
    try:
        with tempfile.NamedTemporaryFile("wb", prefix="mithridate-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(error)).encode())
        return f"{said}; please report it with {file.name}; {kept}"
    except OSError:
        return f"{said}; please report it; {kept}"


@contextmanager
def progress(hidden: bool) -> Iterator[Callable[["Standing"], None]]:
    """Yield a callback that shows what is done, what is running and the time left, on standard error."""
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
    """Have Ctrl-C and SIGTERM end the process at once, in one line: nothing is computed yet, or half-written.

    An exception would be lost where it is raised in a callback of a library that is being imported.
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
    """Yield whether Ctrl-C or SIGTERM has asked to stop; asked a second time the process ends at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        # Not by the console, which may be in the middle of a line; and what is saved is safe, however it ends.
        if asked.is_set():
            os.write(2, b"\nmithridate: stopped at once; what was saved before is safe\n")
            os._exit(INTERRUPTED)
        asked.set()
        os.write(2, b"\nmithridate: finishing the current step to save it; once more to stop at once\n")

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
