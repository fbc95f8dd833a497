"""A run of everything, and the claims of one or more runs as one table."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mithridate.auditing.audit import Progress
from mithridate.errors import MithridateError, StorageError
from mithridate.reproduction import FIGURES
from mithridate.reproduction.outcome import Claim, signed

LEDGER = "claims.json"
"""The file with the claims of a run: of one figure or of all."""
RUN = "mithridate-all-"
"""The prefix of the directory of a run of everything, if the user names none."""
STYLES = {"holds": "green", "does not hold": "red", "not enough data": "yellow"}


class Entry(NamedTuple):
    """A claim and the figure it is about."""

    figure: str
    claim: Claim


def make_all(
    names: Iterable[str], on_progress: Callable[[Progress], None], **options: Any
) -> Iterator[tuple[str, Any]]:
    """Yield each of these `FIGURES` by name, made with these options, or the error that says why it could not be made.

    An error that the user can mend, such as a missing data set, leaves out only that figure.
    """
    for name in names:

        def told(at: Progress, name: str = name) -> None:
            on_progress(at._replace(running=f"{name} · {at.running}"))

        try:
            found = FIGURES[name](on_progress=told, **options)
        except MithridateError as error:
            found = error
        yield name, found


def write_ledger(directory: Path, names: Iterable[str], left_out: dict[str, str]) -> Path:
    """Write the claims of the figures in these folders of `directory` into one file, and what was left out and why."""
    said = [_said(directory / name / LEDGER) for name in names if (directory / name / LEDGER).exists()]
    text = json.dumps({"figures": said, "left_out": left_out}, indent=2, ensure_ascii=False, allow_nan=False)
    target = directory / LEDGER
    try:
        target.write_text(text + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def read_claims(directories: Sequence[str | Path]) -> list[Entry]:
    """Return the claims in these directories, each of one figure or of a run of all, in order.

    Raises `StorageError` for a directory without claims.
    """
    found = []
    for directory in map(Path, directories):
        own = directory / LEDGER
        # An interrupted run of all has the files of its figures, but not its own.
        paths = [own] if own.exists() else sorted(directory.glob(f"*/{LEDGER}"))
        if not paths:
            raise StorageError(f"{directory} holds no claims; make them with `mithridate reproduce all --out DIR`")
        for path in paths:
            said = _said(path)
            try:
                for figure in said.get("figures", [said]):
                    found += [Entry(figure["figure"], Claim(**claim)) for claim in figure["claims"]]
            except (LookupError, TypeError, AttributeError) as error:
                raise StorageError(f"{path} does not hold claims: {error!r}") from error
    return found


def last_run(folder: Path) -> Path:
    """Return the last run of everything in this folder whose directory the program named.

    Raises `StorageError` if there is none.
    """
    runs = sorted(path.parent for path in folder.glob(f"{RUN}*/{LEDGER}"))
    if not runs:
        raise StorageError(
            f"no {RUN}* in {folder} to read claims from; run `mithridate reproduce all` first, or name the directories "
            "of figures with --from DIR"
        )
    return runs[-1]


def print_claims(console: Console, entries: Sequence[Entry]) -> None:
    """Print a table: the claim, where it stands in the paper, the effect with its interval, the verdict."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("the paper says", ratio=1, overflow="fold")
    table.add_column("where", no_wrap=True)
    table.add_column("measured here, ± 95 % interval", ratio=1, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for at, (figure, claim) in enumerate(entries):
        on = f" ({claim.dataset})" if claim.dataset else ""
        size = f"{signed(claim.effect, claim.half)} {claim.unit}; expected {claim.expected}"
        verdict = f"[{STYLES[claim.verdict]}]{claim.verdict}[/]"
        last = at + 1 == len(entries) or entries[at + 1].figure != figure
        cells = (f"{figure} ({claim.number})", escape(claim.paper + on), escape(claim.where), escape(size), verdict)
        table.add_row(*cells, end_section=last)
    console.print(table)
    counts = {verdict: sum(entry.claim.verdict == verdict for entry in entries) for verdict in STYLES}
    console.print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()), highlight=False)


def _said(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise StorageError(f"{path} does not hold claims")
    return said
