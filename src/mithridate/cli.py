"""The command line: `mithridate audit DATASET`, `resume DIR`, `report`, `check`, `reproduce` and `datasets`.

The flags of `audit` and `check` are made from `AuditConfig`, so that flags, file and Python cannot differ. Exit codes:
0 done, 1 the gate of `--fail-above` was exceeded, a check failed or `reproduce all` had to leave something out, 2 bad
input or nowhere to write, 3 some cells of an audit could not be computed, 130 interrupted by Ctrl-C or SIGTERM.
"""

import functools
import inspect
import io
import json
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mithridate._version import __version__
from mithridate.config import AuditConfig
from mithridate.errors import InputError, Interrupted, MithridateError, StorageError

if TYPE_CHECKING:
    from mithridate.auditing import Progress as Standing
    from mithridate.datasets import Dataset
    from mithridate.reproduction import Reproduction
    from mithridate.results import AuditResult

app = typer.Typer(
    help="How much poison can your machine-learning pipeline take? Worst-case data-poisoning audits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class _Console(Console):
    """A console whose reader may leave early, as in `mithridate audit … | head`, without changing the exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


INTERRUPTED = 130
console, errors = _Console(), _Console(stderr=True)


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
    """List the data sets: rows, features, classes, whether they are at hand."""
    from mithridate.datasets import CATALOGUE
    from mithridate.downloads import VARIABLE, directory

    table = Table("name", "rows", "test rows", "features", "classes", "available", box=SIMPLE_HEAD, padding=0)
    for entry in CATALOGUE.values():
        test = "—" if entry.test_rows is None else f"{entry.test_rows:,}"
        sizes = (f"{entry.rows:,}", test, f"{entry.features:,}")
        table.add_row(entry.name, *sizes, entry.classes, entry.available)
    for column in table.columns:
        column.no_wrap = True
    console.print(table)
    console.print("AvB: any two classes, as in mnist-0v8; without it, as in mnist, all of them.")
    console.print("Missing files have to be put into the data directory.")
    console.print(f"Data directory ({VARIABLE}): {directory()}", soft_wrap=True, highlight=False)


def _with_flags(command: Callable[..., None], shown: Collection[str] = AuditConfig.model_fields) -> Callable[..., None]:
    """Give `command`, which takes `**given`, one flag per field of `AuditConfig`; its help has those that are shown."""
    signature = inspect.signature(command)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = []
    for name, info in AuditConfig.model_fields.items():
        kind, flag = info.annotation, f"--{name.replace('_', '-')}"
        if name == "policies":
            kind, flag = list[str], "--policy"
        elif name in ("feasible", "drop"):
            kind = list[str]
        elif name in ("model", "hidden", "initial"):
            kind = str
        elif kind is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        default = f" [default: {info.default}]" if info.default and not info.is_required() else ""
        text = f"{info.description}{default}"
        option = typer.Option(flag, help=text, show_default=False, hidden=name not in shown)
        if name == "dataset":
            text = "A data set, see `mithridate datasets`, or a file: CSV, Parquet, NPZ or svmlight."
            option = typer.Argument(help=text, show_default=False)
        annotation = Annotated[kind | None, option]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = signature.replace(parameters=[*fixed, *made])
    command.__annotations__ = {p.name: p.annotation for p in [*fixed, *made]}
    return command


def _asked(file: Path | None, given: dict[str, Any]) -> tuple["Dataset", AuditConfig]:
    """Return the data and the configuration that a file and flags, which override it, ask for."""
    from mithridate.sources import prepared

    options = AuditConfig.read(file) if file else {}
    flags = {name: value for name, value in given.items() if value is not None}
    for one, other in (("points", "poison"), ("poison", "points")):
        if one in flags:
            options.pop(other, None)
    options |= flags
    if "dataset" not in options:
        raise InputError("no data set named; `mithridate datasets` lists them")
    return prepared(str(options.pop("dataset")), None, options)


AsJson = Annotated[bool, typer.Option("--json", help="print audit.json instead of the table")]
MLflow = Annotated[
    str | None, typer.Option(metavar="URI", help="also log the run to this MLflow store, as sqlite:///mlflow.db")
]
Gate = Annotated[str | None, typer.Option(metavar="ERROR@SHARE", help="exit with 1 above this error, such as 10%@5%")]
Quiet = Annotated[bool, typer.Option("--quiet", help="print nothing but warnings and errors")]


@app.command()
@_with_flags
def audit(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these options; flags override it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="run directory; goes on with the same audit's if it is not finished there")
    ] = None,
    as_json: AsJson = False,
    mlflow: MLflow = None,
    fail_above: Gate = None,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Audit a data set: how bad can it get, for which defender?

    The same command again goes on with a run that was stopped, as `mithridate resume` does.
    """
    from mithridate.auditing import audit as run
    from mithridate.auditing import unfinished
    from mithridate.verdict import parse_gate

    data, asked = _asked(config, given)
    gate = parse_gate(fail_above, asked.most_poison) if fail_above else None
    named = f"mithridate-{data.name}-"
    target = out or unfinished(data, asked, Path().glob(f"{named}*")) or Path(f"{named}{datetime.now():%Y%m%d-%H%M%S}")
    run = functools.partial(run, data, asked, out=target)
    _finished(run, target, gate, as_json=as_json, mlflow=mlflow, quiet=quiet)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="run directory", show_default=False)],
    *,
    model: Annotated[
        str | None, typer.Option(help="the run's model again, if it is your own: module:attribute, code to be run")
    ] = None,
    execution: Annotated[str | None, typer.Option(help="another execution than before, see audit")] = None,
    as_json: AsJson = False,
    mlflow: MLflow = None,
    fail_above: Gate = None,
    quiet: Quiet = False,
) -> None:
    """Go on with an audit that was stopped, or whose cells have failed, in its run directory."""
    from mithridate.auditing import resume as run
    from mithridate.verdict import parse_gate

    gate = parse_gate(fail_above, 1.0) if fail_above else None
    run = functools.partial(run, directory, model=model, execution=execution)
    _finished(run, directory, gate, as_json=as_json, mlflow=mlflow, quiet=quiet)


def _finished(
    run: Callable[..., "AuditResult"],
    target: Path,
    gate: tuple[float, float] | None,
    *,
    as_json: bool,
    mlflow: str | None,
    quiet: bool,
) -> None:
    """Run an audit into its directory, tell what it found, and leave with the exit code that says how it went."""
    from mithridate.printing import print_audit
    from mithridate.verdict import gate_failures

    if mlflow:
        from mithridate.mlflow import check_installed

        check_installed()
    with _progress(hidden=quiet or as_json) as show, _stopping() as stop:
        result = run(on_progress=show, stop=stop)
    for warning in result.verdict.warnings if quiet or as_json else ():
        errors.print(f"warning: {warning}", style="yellow", soft_wrap=True, highlight=False)
    if as_json:
        console.out(json.dumps(result.summary(), indent=2, ensure_ascii=False), highlight=False)
    elif not quiet:
        print_audit(console, result)
        console.print(f"\nReport, records, poison and pictures: {target.absolute()}", soft_wrap=True, highlight=False)
    if mlflow:
        from mithridate.mlflow import log_run

        log_run(target, tracking_uri=mlflow)
    for failure in (failures := gate_failures(result.frame, *gate) if gate else []):
        errors.print(f"fail-above: {failure}", style="bold red", soft_wrap=True, highlight=False)
    if result.status == "failed":
        again = f"some cells failed; `mithridate resume {target}` tries them again"
        errors.print(again, style="bold red", soft_wrap=True, highlight=False)
    if failures or result.status == "failed":
        raise typer.Exit(1 if failures else 3)


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="run directories", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="the file to write [default: report.html in the one directory, or here]", show_default=False),
    ] = None,
) -> None:
    """Write the report of a run again, or of several side by side, as one HTML file."""
    from mithridate.report import write_report
    from mithridate.results import load_result

    results = [load_result(directory) for directory in directories]
    names = [directory.resolve().name for directory in directories]
    titles = names if len(set(names)) == len(names) else [str(directory) for directory in directories]
    target = out or (directories[0] if len(directories) == 1 else Path()) / "report.html"
    console.print(f"Report: {write_report(target, results, titles)}", soft_wrap=True, highlight=False)


CHECKED = (
    *("dataset", "target", "positive", "missing", "drop", "feasible", "objective", "model", "hidden", "inner", "train"),
    *("valid", "points", "poison", "batch", "budget", "seed"),
    *("hypergradient", "space", "precision", "learning_rate", "inner_steps", "stabilise", "bounds", "strength_bounds"),
)
"""The options that matter to a check; it takes any of an audit's, so that one file serves both."""


@app.command()
@functools.partial(_with_flags, shown=CHECKED)
def check(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file, as of an audit; flags override it.")] = None,
    log_strength: Annotated[
        float | None, typer.Option(help="λ at which to check; by default the middle of strength-bounds")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of the table")] = False,
    **given: Any,
) -> None:
    """Check the hypergradients of an audit, on its own data, against central differences and one another.

    Exit code 1 when a method is wrong without saying so.
    """
    from mithridate.checking import check as run
    from mithridate.printing import print_check

    data, asked = _asked(config, given)
    with errors.status("") as status:
        if as_json:
            status.stop()
        result = run(data, asked, log_strength=log_strength, on_progress=status.update)
    if as_json:
        console.out(json.dumps(result.as_dict(), indent=2, ensure_ascii=False, allow_nan=False), highlight=False)
    else:
        print_check(console, result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def reproduce(
    figures: Annotated[
        list[str],
        typer.Argument(
            metavar="FIGURE...",
            help="any of fig1 to fig8 and table1 to table3, or all, claims, page",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="data set; for Fig. 2, 3, 5 to 8 also A,B [default: the figure's own]", show_default=False),
    ] = None,
    preset: Annotated[str, typer.Option(help="quick or paper")] = "quick",
    splits: Annotated[int | None, typer.Option(help="random splits [default: preset's]", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    out: Annotated[Path | None, typer.Option(help="directory for data, pictures, captions and claims")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with options of an audit, for Fig. 2 to 8: departures from the preset"),
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", help="claims, page: a directory of a figure or of all; repeatable [default: last all]"),
    ] = None,
) -> None:
    """Make figures and tables of the paper again, and say of each claim about them whether it came out.

    Several, or `all`, go into one folder each, and what they share is computed once; exit code 1 when something had to
    be left out. `claims` prints the claims of what was made before; `page` writes them, with figures and tables, as a
    Markdown page (--out).
    """
    from mithridate.reproduction import FIGURES, STUDIES
    from mithridate.reproduction.ledger import RUN, last_run, print_claims, read_claims
    from mithridate.reproduction.page import write_page
    from mithridate.results import check_free

    alone, figure = ("all", "claims", "page"), figures[0]
    for name in figures:
        if name not in FIGURES and (name not in alone or len(figures) > 1):
            raise InputError(
                f"no figure {name!r} to reproduce; choose from {', '.join(FIGURES)}, or {' or '.join(alone)} alone"
            )
    if figure == "claims":
        print_claims(console, read_claims(sources or [last_run(Path.cwd())]))
        return
    if figure == "page":
        page = write_page(sources or [last_run(Path.cwd())], out or Path("reproduction.md"))
        console.print(f"Page: {page}", soft_wrap=True, highlight=False)
        return
    if sources:
        raise InputError(f"--from is where claims and page read from; {figure} takes --out")
    AuditConfig.of(dataset=dataset or "synthetic", preset=preset, splits=splits, seed=seed)  # raises where one is wrong
    named = RUN if figure == "all" else "-".join(filter(None, ("mithridate", *figures, dataset, "")))
    target = out or Path(f"{named}{datetime.now():%Y%m%d-%H%M%S}")
    check_free(target)
    options = {"dataset": dataset, "preset": preset, "splits": splits, "seed": seed}
    if config:
        if other := [name for name in figures if name not in STUDIES]:
            raise InputError(f"--config is for {', '.join(STUDIES)}; {other[0]} has no audit to configure")
        options |= AuditConfig.read(config) | {name: value for name, value in options.items() if value is not None}
    if figure == "all" or len(figures) > 1:
        _reproduce_all(tuple(FIGURES) if figure == "all" else tuple(dict.fromkeys(figures)), target, options)
        return
    with _progress(hidden=False) as show:
        found = FIGURES[figure](on_progress=show, **options)
    try:
        written = _save(found, target)
    finally:
        console.print(found.report(), soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nWritten to {written}", soft_wrap=True, highlight=False)


def _reproduce_all(names: tuple[str, ...], target: Path, options: dict[str, Any]) -> None:
    """Make these figures and tables, save each as soon as it is made, and print all claims."""
    from mithridate.reproduction.ledger import make_all, print_claims, read_claims, write_ledger

    made, left_out = [], {}
    with _progress(hidden=False) as show:
        for name, found in make_all(names, show, **options):
            if isinstance(found, MithridateError):
                left_out[name] = str(found)
            else:
                _save(found, target / name)
                made.append(name)
    write_ledger(target, made, left_out)
    print_claims(console, read_claims([target]))
    for name, reason in left_out.items():
        errors.print(f"{name} was left out: {reason}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nWritten to {target}", soft_wrap=True, highlight=False)
    if left_out:
        raise typer.Exit(1)


@contextmanager
def _progress(hidden: bool) -> Iterator[Callable[["Standing"], None]]:
    """Yield a callback that shows what is done, what is running and the time left, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"))
    times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    bar = Progress(*columns, *times, console=errors, disable=hidden)
    task = bar.add_task("", total=None)

    def show(at: "Standing") -> None:
        bar.start()
        bar.update(task, completed=at.done, total=at.total, description=at.running)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C or SIGTERM has asked to stop; asked a second time the process ends at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        # Not by the console, which may be in the middle of a line; and what is saved is safe, however it ends.
        if asked.is_set():
            os.write(2, b"\nmithridate: stopped at once; what was saved before is safe\n")
            os._exit(INTERRUPTED)
        asked.set()
        os.write(2, b"\nmithridate: finishing the current step to save it; once more to stop at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _save(result: "Reproduction", target: Path) -> Path:
    """Write the figure, elsewhere if `target` fails by now: hours of computing are not lost to a full disk."""
    try:
        return result.save(target)
    except StorageError as error:
        rescue = Path(tempfile.mkdtemp(prefix="mithridate-rescued-")) / target.name
        try:
            result.save(rescue)
        except StorageError:
            rescue.parent.rmdir()
            raise error from None
        raise StorageError(f"{error}; the run was saved to {rescue} instead") from None


def main() -> None:
    """Run the command line; an error the user can mend is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without λ gets a question mark, not a traceback
    sys.path.append(os.getcwd())  # where a model named with --model may be
    # Compiled steps are kept between runs, unless the user's environment says where or that they are not.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(platformdirs.user_cache_path("mithridate") / "compiled"))
    # An entry whose writer was killed: compiled anew.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    try:
        app()
    except Interrupted as error:
        errors.print(f"mithridate: {error}", style="yellow", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(INTERRUPTED) from None
    except MithridateError as error:
        errors.print(f"mithridate: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
