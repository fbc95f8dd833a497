"""The command `reproduce`: the paper's figures and tables."""

import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.terminal import console, errors, progress
from mithridate.configuration.config import AuditConfig
from mithridate.errors import InputError, MithridateError, StorageError
from mithridate.results.style import plain_style

if TYPE_CHECKING:
    from mithridate.reproduction import Reproduction


@plain_style()
def reproduce(
    figures: Annotated[
        list[str],
        typer.Argument(
            metavar="FIGURE...",
            help="one or more of fig1 to fig8 and table1 to table3; or one of all, claims, page",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="data set; for Fig. 2, 3, 5 to 8 also two, as A,B [default: the figure's own]", show_default=False
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="how much is run: quick or paper")] = "quick",
    splits: Annotated[
        int | None, typer.Option(help="number of random splits [default: the preset's]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of everything that is random")] = 0,
    out: Annotated[Path | None, typer.Option(help="directory for data, pictures, captions and claims")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with options of an audit that differ from the preset, for Fig. 2 to 8"),
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="for claims and page: a directory with one figure or with all; repeatable [default: the last all]",
        ),
    ] = None,
) -> None:
    """Make figures and tables of the paper again, and check the paper's claims about them.

    For several figures, or `all`, each gets a folder, and what they share is computed once. The exit code is 3 if
    something could not be made. `claims` prints the claims about what was made before. `page` writes them, with figures
    and tables, as a Markdown page (--out).
    """
    from mithridate.reproduction import FIGURES, STUDIES
    from mithridate.reproduction.ledger import RUN, last_run, print_claims, read_claims
    from mithridate.reproduction.page import write_page
    from mithridate.results.results import check_free

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
        raise InputError(f"--from is only for claims and page; {figure} takes --out")
    AuditConfig.of(
        dataset=dataset or "synthetic", preset=preset, splits=splits, seed=seed
    )  # raises InputError for a wrong option
    named = RUN if figure == "all" else "-".join(filter(None, ("mithridate", *figures, dataset, "")))
    target = out or Path(f"{named}{datetime.now():%Y%m%d-%H%M%S}")
    check_free(target)
    options = {"dataset": dataset, "preset": preset, "splits": splits, "seed": seed}
    if config:
        if other := [name for name in figures if name not in STUDIES]:
            raise InputError(f"--config is only for {', '.join(STUDIES)}; {other[0]} has no audit to configure")
        options |= AuditConfig.read(config) | {name: value for name, value in options.items() if value is not None}
    if figure == "all" or len(figures) > 1:
        _reproduce_all(tuple(FIGURES) if figure == "all" else tuple(dict.fromkeys(figures)), target, options)
        return
    with progress(hidden=False) as show:
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
    with progress(hidden=False) as show:
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
        raise typer.Exit(3)


def _save(result: "Reproduction", target: Path) -> Path:
    """Write the figure, or elsewhere if `target` cannot be written, so that a full disk does not lose hours of work.

    Raises `StorageError` in either case.
    """
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
