"""The command line: `mithridate audit DATASET`, `resume DIR`, `report`, `check`, `reproduce` and `datasets`.

The flags of `audit` and `check` are made from `AuditConfig`, so flags, file and Python cannot differ.

Exit codes: 0 done; 1 the gate of `--fail-above` was exceeded, or a check failed; 2 bad input, or output that cannot be
written; 3 some cells of an audit or some figures of `reproduce` could not be computed; 4 a fault of the program;
130 interrupted by Ctrl-C or SIGTERM; 141 nobody reads the output any more.
"""

import contextlib
import io
import os
import sys
import warnings
from typing import Annotated

import platformdirs
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mithridate._version import __version__
from mithridate.cli import audits, reproducing
from mithridate.cli.terminal import CLOSED, FAULT, INTERRUPTED, console, errors, told, writable
from mithridate.errors import Interrupted, MithridateError

app = typer.Typer(
    help="How much poison can your machine-learning pipeline take? Worst-case data-poisoning audits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> bool:
    if asked:
        console.print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def datasets() -> None:
    """List the data sets: their rows, features and classes, and whether they are at hand."""
    from mithridate.data.catalogue import CATALOGUE
    from mithridate.data.downloads import VARIABLE, directory

    table = Table("name", "rows", "test rows", "features", "classes", "available", box=SIMPLE_HEAD, padding=0)
    for entry in CATALOGUE.values():
        test = "—" if entry.test_rows is None else f"{entry.test_rows:,}"
        sizes = (f"{entry.rows:,}", test, f"{entry.features:,}")
        table.add_row(entry.name, *sizes, entry.classes, entry.available)
    for column in table.columns:
        column.no_wrap = True
    console.print(table)
    console.print("AvB: any two classes, as in mnist-0v8; without it, as in mnist, all of them.")
    console.print("You must put missing files into the data directory yourself.")
    console.print(f"Data directory ({VARIABLE}): {directory()}", soft_wrap=True, highlight=False)


for command in (audits.audit, audits.resume, audits.report, audits.check, reproducing.reproduce):
    app.command()(command)


def main() -> None:
    """Run the command line. An error that the user can mend is one line on standard error, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=writable())
    warnings.formatwarning = lambda message, *where: f"warning: {message}\n"
    sys.path.append(os.getcwd())  # --model may name a module there
    # Compiled steps are kept between runs; the user's environment can change where, or that they are.
    with contextlib.suppress(RuntimeError):  # a user without a home
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(platformdirs.user_cache_path("mithridate") / "compiled"))
    # A damaged entry is compiled again; one that cannot be written costs time only.
    for fault in ("reading", "writing"):
        warnings.filterwarnings("ignore", f"Error {fault} persistent compilation cache entry")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise SystemExit(CLOSED) from None
        raise
    except Interrupted as error:
        errors.print(f"mithridate: {error}", style="yellow", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(INTERRUPTED) from None
    except MithridateError as error:
        errors.print(f"mithridate: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
    except Exception as error:  # noqa: BLE001 (exit code 1 is only for gates)
        errors.print(f"mithridate: {told(error)}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(FAULT) from None
