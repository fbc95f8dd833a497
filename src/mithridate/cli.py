"""The command line: `mithridate audit DATASET` and `mithridate datasets`.

The flags of `audit` are made from `AuditConfig`, so that flags, file and Python cannot differ. Exit codes: 0 done,
1 the gate of `--fail-above` was exceeded, 2 bad input or nowhere to write.
"""

import inspect
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
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
from mithridate.errors import InputError, MithridateError, StorageError

if TYPE_CHECKING:
    from mithridate.auditing import Progress as Standing
    from mithridate.results import AuditResult

SHOWN_SHARES = (0.0, 0.05, 0.10, 0.166)

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


console, errors = _Console(), _Console(stderr=True)


def _print_version(asked: bool) -> None:
    if asked:
        console.print(__version__)
        raise typer.Exit


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
    console.print("AvB: any two classes, as in mnist-0v8. Missing files have to be put into the data directory.")
    console.print(f"Data directory ({VARIABLE}): {directory()}", soft_wrap=True, highlight=False)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes `**given`, one flag per field of `AuditConfig`."""
    signature = inspect.signature(command)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = []
    for name, info in AuditConfig.model_fields.items():
        kind, flag = info.annotation, f"--{name.replace('_', '-')}"
        if name == "policies":
            kind, flag = list[str], "--policy"
        elif name == "hidden":
            kind = str
        elif kind is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        default = f" [default: {info.default}]" if info.default and not info.is_required() else ""
        option = typer.Option(flag, help=f"{info.description}{default}", show_default=False)
        if name == "dataset":
            option = typer.Argument(help="Name of a data set, see `mithridate datasets`.", show_default=False)
        annotation = Annotated[kind | None, option]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = signature.replace(parameters=[*fixed, *made])
    command.__annotations__ = {p.name: p.annotation for p in [*fixed, *made]}
    return command


@app.command()
@_with_flags
def audit(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these options; flags override it.")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; must not hold a run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print audit.json instead of the table")] = False,
    fail_above: Annotated[
        str | None, typer.Option(metavar="ERROR@SHARE", help="exit with 1 above this error, such as 10%@5%")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but warnings and errors")] = False,
    **given: Any,
) -> None:
    """Audit a data set: how bad can it get, for which defender?"""
    from mithridate.auditing import audit as run
    from mithridate.datasets import load_dataset
    from mithridate.results import check_free
    from mithridate.verdict import gate_failures, parse_gate

    options = AuditConfig.read(config) if config else {}
    flags = {name: value for name, value in given.items() if value is not None}
    for one, other in (("points", "poison"), ("poison", "points")):
        if one in flags:
            options.pop(other, None)
    options |= flags
    if "dataset" not in options:
        raise InputError("no data set named; `mithridate datasets` lists them")
    asked = AuditConfig.of(**options)
    data = load_dataset(asked.dataset)
    gate = parse_gate(fail_above, asked.most_poison) if fail_above else None
    target = out or Path(f"mithridate-{data.name}-{datetime.now():%Y%m%d-%H%M%S}")
    check_free(target)
    with _progress(hidden=quiet or as_json) as show:
        result = run(data, asked, on_progress=show)
    try:
        written = _save(result, target)
    finally:  # whatever happens to the files, the answer is told
        for warning in result.verdict.warnings if quiet or as_json else ():
            errors.print(f"warning: {warning}", style="yellow", soft_wrap=True, highlight=False)
        if as_json:
            console.out(json.dumps(result.summary(), indent=2, ensure_ascii=False), highlight=False)
        elif not quiet:
            _print(result)
    if not (quiet or as_json):
        console.print(f"\nRecords, poison and pictures: {written}", soft_wrap=True, highlight=False)
    if failures := gate_failures(result.frame, *gate) if gate else []:
        for failure in failures:
            errors.print(f"fail-above: {failure}", style="bold red", soft_wrap=True, highlight=False)
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


def _save(result: "AuditResult", target: Path) -> Path:
    """Write the run, elsewhere if `target` fails by now: hours of computing are not lost to a full disk."""
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


def _print(result: "AuditResult") -> None:
    """Print the tables and the verdict."""
    from mithridate.verdict import METRICS, curves

    found = curves(result.frame, (*METRICS, "baseline_test_error"))
    ratios = next(iter(found.values()))["ratio"]
    nearest = {min(range(len(ratios)), key=lambda i: abs(ratios[i] - share)) for share in SHOWN_SHARES}
    shown = sorted(nearest | {len(ratios) - 1})
    data, config, splits = result.dataset, result.config, result.frame["split"].nunique()
    console.print(
        f"\n{config['model']} regression on {data['name']} ({' v '.join(data['classes'])}): {data['train']} training, "
        f"{data['valid']} validation, {data['test']} test rows, {splits} split(s)",
        highlight=False,
    )
    error = Table("policy", *(f"{ratios[i]:.1%}" for i in shown), box=SIMPLE_HEAD)
    error.title = "Test error by share of poison"
    did = "takes the place of training rows" if config["budget"] == "replaced" else "is added to the training rows"
    error.caption = f"poison {did}; mean ± half the 95 % interval over splits"
    end = Table("policy", "tolerates", "flips alone", "λ clean → end", "‖w‖² clean → end", box=SIMPLE_HEAD)
    end.title = f"At {ratios[-1]:.1%} poison"
    for policy, curve in found.items():
        error.add_row(policy, *(_cell(curve["test_error"], i) for i in shown))
        tolerance = result.verdict.tolerance[policy]
        sign = "≥ " if tolerance >= ratios[-1] - 1e-9 else ""
        ends = (
            " → ".join("—" if (value := curve[metric]["mean"][at]) is None else f"{value:.2f}" for at in (0, -1))
            for metric in ("log_strength", "weight_norm_sq")
        )
        end.add_row(policy, f"{sign}{tolerance:.1%}", _cell(curve["baseline_test_error"], -1), *ends)
    for table in (error, end):
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    console.print("Verdict", style="bold")
    for sentence in result.verdict.summary:
        console.print(f"• {sentence}", highlight=False)
    for warning in result.verdict.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False)
    threat = result.threat_model
    console.print(
        f"Threat model: the attacker knows {threat['knows']}; controls {threat['controls']}; may change "
        f"{threat['may_change']}. Validation rows: {threat['validation_set']}.",
        highlight=False,
    )


def _cell(curve: dict[str, Any], i: int) -> str:
    mean, low = curve["mean"][i], curve["low"][i]
    if mean is None:
        return "unknown"
    return f"{mean:.1%}" if low is None else f"{mean:.1%} ± {100 * (mean - low):.1f}"


def main() -> None:
    """Run the command line; an error the user can mend is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without λ gets a question mark, not a traceback
    # Compiled steps are kept between runs, unless the user's environment says where or that they are not.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(platformdirs.user_cache_path("mithridate") / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    try:
        app()
    except MithridateError as error:
        errors.print(f"mithridate: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(2) from None
