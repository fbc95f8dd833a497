"""The commands around an audit: `audit`, `resume`, `report` and `check`."""

import functools
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import AllowConstant, AsJson, Gate, MLflow, Quiet, asked_for, with_flags
from mithridate.cli.terminal import console, errors, not_begun, progress, stopping
from mithridate.configuration.config import FILE_OPTIONS, AuditConfig
from mithridate.configuration.parts import one_of
from mithridate.errors import InputError, Unplanned

if TYPE_CHECKING:
    from mithridate.data.datasets import Dataset
    from mithridate.results.results import AuditResult


@with_flags
def audit(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these options; flags override it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="run directory; an unfinished run of the same audit there is continued")
    ] = None,
    as_json: AsJson = False,
    mlflow: MLflow = None,
    fail_above: Gate = None,
    allow_constant: AllowConstant = False,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be computed, with its time and memory, and stop")
    ] = False,
    **given: Any,
) -> None:
    """Audit a data set: how much harm can poison do, for each defender?

    If a run was stopped, the same command continues it, as `mithridate resume` does.
    """
    with not_begun():
        from mithridate.auditing.audit import audit as run
        from mithridate.auditing.audit import unfinished
        from mithridate.results.verdict import parse_gate

        data, asked = asked_for(config, given)
        gate = (*parse_gate(fail_above, asked.most_poison), allow_constant) if fail_above else None
        if _planned(data, asked, dry_run, as_json):
            return
        named = f"mithridate-{data.name}-"
        fresh = f"{named}{datetime.now():%Y%m%d-%H%M%S}"
        target = out or unfinished(data, asked, Path().glob(f"{named}*")) or Path(fresh)
    run = functools.partial(run, data, asked, out=target)
    _finished(run, target, gate, as_json=as_json, mlflow=mlflow, quiet=quiet)


def _planned(data: "Dataset", config: AuditConfig, shown: bool, as_json: bool) -> bool:
    """Refuse an audit that does not fit into the memory, warn of one that barely fits; print the plan if `shown`.

    Return whether to stop after the plan. Raises `InputError` for an audit that does not fit.
    """
    from mithridate.planning import plan, plan_refits

    if config.estimators:
        if shown:
            from mithridate.cli.printing import print_refits

            refits = plan_refits(data, config)
            if as_json:
                console.out(json.dumps(refits.as_dict(), indent=2, ensure_ascii=False), highlight=False)
            else:
                print_refits(console, refits)
        return shown
    try:
        found = plan(data, config, calibrate=shown)
    except Unplanned as error:
        if shown:
            raise
        errors.print(f"warning: {error}", style="yellow", soft_wrap=True, highlight=False, markup=False)
        return False
    if shown and as_json:
        console.out(json.dumps(found.as_dict(), indent=2, ensure_ascii=False), highlight=False)
    elif shown:
        from mithridate.cli.printing import print_plan

        print_plan(console, found)
    found.check()
    for warning in () if shown else found.warnings:
        errors.print(f"warning: {warning}", style="yellow", soft_wrap=True, highlight=False)
    return shown


def resume(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="run directory", show_default=False)],
    *,
    model: Annotated[
        str | None,
        typer.Option(help="the run's model again if it is your own code, as module:attribute; the code is run"),
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option(help="the same for any other part that is your own code: attack, policy, …; repeatable"),
    ] = None,
    execution: Annotated[str | None, typer.Option(help="how to execute the rest, if not as before; see audit")] = None,
    as_json: AsJson = False,
    mlflow: MLflow = None,
    fail_above: Gate = None,
    allow_constant: AllowConstant = False,
    quiet: Quiet = False,
) -> None:
    """Continue an audit that was stopped, or some of whose cells failed, in its run directory."""
    with not_begun():
        from mithridate.auditing.audit import audited_poison
        from mithridate.auditing.audit import resume as run
        from mithridate.results.verdict import parse_gate

        gate = (*parse_gate(fail_above, audited_poison(directory)), allow_constant) if fail_above else None
    run = functools.partial(run, directory, model=model, own=own or (), execution=execution)
    _finished(run, directory, gate, as_json=as_json, mlflow=mlflow, quiet=quiet)


def _finished(
    run: Callable[..., "AuditResult"],
    target: Path,
    gate: tuple[float, float, bool] | None,
    *,
    as_json: bool,
    mlflow: str | None,
    quiet: bool,
) -> None:
    """Run an audit, print what it found, and exit with the code for how it went. `target` is the run directory."""
    with not_begun():
        from mithridate.cli.printing import print_audit
        from mithridate.results.verdict import gate_failures

        if mlflow:
            from mithridate.mlflow import check_installed

            check_installed()
    with progress(hidden=quiet or as_json) as show, stopping() as stop:
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
    for failure in (failures := gate_failures(result.candidates, *gate) if gate else []):
        errors.print(f"fail-above: {failure}", style="bold red", soft_wrap=True, highlight=False)
    if result.status == "failed":
        reasons = result.frame["reason"][result.frame["reason"] != ""].value_counts()
        told = [f"{count} failed: {reason}" for reason, count in reasons.items()]
        for line in (*told, f"`mithridate resume {target}` tries them again"):
            errors.print(line, style="bold red", soft_wrap=True, highlight=False, markup=False)
    if failures or result.status == "failed":
        raise typer.Exit(1 if failures else 3)


def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="run directories", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="the file to write [default: report.html in the run directory; for several runs, here]",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="html, json, markdown, or junit (each defender is a test of a build)")
    ] = "html",
    fail_above: Gate = None,
    allow_constant: AllowConstant = False,
) -> None:
    """Write the report of a run again, or of several runs side by side, as one file.

    With --fail-above, a defender who exceeds the gate is a failed test of JUnit. The exit code does not depend on it.
    """
    from mithridate.results.exports import SUFFIXES, write_export
    from mithridate.results.report import write_report
    from mithridate.results.results import load_result
    from mithridate.results.verdict import parse_gate

    if form not in SUFFIXES:
        raise InputError(one_of("format", form, tuple(SUFFIXES)))
    if fail_above and form != "junit":
        raise InputError(
            f"fail-above = {fail_above!r}: only with --format junit; for the gate's exit code use `mithridate resume`"
        )

    results = [load_result(directory) for directory in directories]
    names = [directory.resolve().name for directory in directories]
    titles = names if len(set(names)) == len(names) else [str(directory) for directory in directories]
    target = out or (directories[0] if len(directories) == 1 else Path()) / f"report{SUFFIXES[form]}"
    if form == "html":
        written = write_report(target, results, titles)
    else:
        most = min(result.frame["ratio"].max() for result in results)
        gate = (*parse_gate(fail_above, most), allow_constant) if fail_above else None
        written = write_export(target, form, results, titles, gate)  # pyright: ignore[reportArgumentType]
    console.print(f"Report: {written}", soft_wrap=True, highlight=False)


CHECKED = (
    *("dataset", *FILE_OPTIONS, "objective", "model", "hidden", "inner"),
    *("train", "valid", "points", "poison", "batch", "budget", "seed"),
    *(
        "loss",
        "penalty",
        "hypergradient",
        "space",
        "precision",
        "learning_rate",
        "inner_steps",
        "inner_batch",
        "stabilise",
        "bounds",
    ),
    "strength_bounds",
)
"""The options that a check uses. It accepts all options of an audit, so that one file serves both."""


@functools.partial(with_flags, shown=CHECKED)
def check(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with options, as for an audit; flags override it.")
    ] = None,
    log_strength: Annotated[
        float | None, typer.Option(help="λ at which to check; by default the middle of strength-bounds")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of the table")] = False,
    **given: Any,
) -> None:
    """Check the hypergradients of an audit on its own data: compare them with central differences and each other.

    The exit code is 1 if a method is wrong without a warning.
    """
    from mithridate.checking.check import check as run
    from mithridate.cli.printing import print_check

    data, asked = asked_for(config, given)
    if asked.estimators:
        raise InputError("a check is of hypergradients, and an estimator has none; leave estimator out")
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
