"""The audit: splits × policies × poison ratios → records, and a run directory that survives interruptions.

The chains (see `sweep`) run in this process or in others (see `execution`). What they yield is stored at once (see
`store`), so a stopped audit continues from there and gives the same bits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mithridate.auditing.cells import Begun, Cell, Paused, restored
from mithridate.auditing.chains import Chain, Chains
from mithridate.auditing.refits import Refits
from mithridate.auditing.store import CELLS, MANIFEST, Manifest, Store, opened
from mithridate.auditing.sweep import Sweep
from mithridate.auditing.threat import capability, mismatch
from mithridate.configuration.config import OPTIONS, AuditConfig, most_poison
from mithridate.configuration.parts import own_parts
from mithridate.data.datasets import Dataset
from mithridate.data.sources import loaded, place_of, prepared
from mithridate.errors import InputError, Interrupted, MithridateError, StorageError
from mithridate.execution.chains import stream
from mithridate.execution.devices import surroundings
from mithridate.notebooks import with_parameters
from mithridate.results.records import to_frame
from mithridate.results.results import AuditResult, load_result
from mithridate.results.verdict import sample_of, verdict
from mithridate.versions import versions


class Progress(NamedTuple):
    """The state of an audit: the finished cells, all cells, and what is running."""

    done: int
    total: int
    running: str


@with_parameters(OPTIONS)
def audit(
    dataset: str | Path | Sequence[str | Path] | Dataset | pd.DataFrame,
    config: AuditConfig | None = None,
    *,
    out: str | Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> AuditResult:
    """Find out how much poison a pipeline takes: run every split, policy and ratio.

    Arguments:
        dataset: A name, a file, a list of files with the same columns, a `Dataset`, or a data frame; a data frame needs
            the option `target`, its column of labels.
        config: The configuration. Give either this or `options`.
        out: The run directory. Each finished cell is stored there before `on_progress` is called. If it contains cells
            of the same audit, the audit continues from them. Default: nothing is stored.
        on_progress: Called before every cell and at the end.
        stop: Called between steps. If it returns True, the state is saved and `Interrupted` is raised.
        options: The fields of `AuditConfig`.

    Raises `InputError`, `DataError` or `StorageError` before anything is computed.

    Example:
        >>> import mithridate as mi
        >>> result = mi.audit("synthetic", splits=2, points=2, hyperiterations=5, policies=("fixed=-8",))
        >>> result.frame["n_poison"].tolist()
        [0, 1, 2, 0, 1, 2]
    """
    data, config = prepared(dataset, config, options)
    with surroundings(config.precision, config.execution):
        if out is None:
            return _computed(_checked(data, config), None, on_progress, stop)
        return _kept(data, config, place_of(config.dataset), Path(out), on_progress, stop)


def resume(
    directory: str | Path,
    *,
    model: str | None = None,
    own: Sequence[str] = (),
    execution: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> AuditResult:
    """Continue the audit of a run directory and return its result. Failed cells are tried again.

    Arguments:
        directory: The run directory.
        model: The name of the model again if it is the user's own code: code is not run just because a directory names
            it.
        own: Likewise the names of all other parts that are the user's own code.
        execution: How to execute the rest (default: as before).
        on_progress: As for `audit`; likewise `stop`.

    Raises `StorageError` if the directory has no unfinished run, is in use, or belongs to other data or versions, and
    otherwise as `audit` does.
    """
    folder = Path(directory)
    if (folder / "audit.json").exists() and not (folder / CELLS).exists():
        return load_result(folder)
    found = Manifest.read(folder)
    again = f"if they were made in Python, call audit(…, out={str(directory)!r}) again to continue"
    if unnamed := [named for named in own_parts(found.config) if named not in (model, *own)]:
        flags = [("--model " if named == found.config.get("model") else "--own ") + named for named in unnamed]
        told = f"it runs the code of {', '.join(unnamed)}; if you trust this code, add {' '.join(flags)}"
        raise InputError(f"{folder}: {told} ({again})")
    try:
        config = AuditConfig.of(**found.config | {"execution": execution or found.execution})
        data = loaded(found.place, config)
    except MithridateError as error:
        raise StorageError(f"{folder}: its data and model cannot be loaded again: {error}; {again}") from None
    with surroundings(config.precision, config.execution):
        return _kept(data, config, found.place, folder, on_progress, stop)


def audited_poison(directory: str | Path) -> float:
    """Return the largest share of poison, from 0 to 1, that the run in a directory audits; nothing is run.

    Raises `StorageError` if the directory has no readable run.
    """
    folder = Path(directory)
    found = load_result(folder).config if (folder / "audit.json").exists() else Manifest.read(folder).config
    try:
        return most_poison(found["points"], found["train"], found["budget"])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise StorageError(f"{folder}: its configuration cannot be read: {error!r}") from None


def unfinished(data: Dataset, config: AuditConfig, directories: Iterable[Path]) -> Path | None:
    """Return the last directory (by name) with an unfinished run of this audit, or None."""
    digest: str | None = None
    for directory in sorted(directories, reverse=True):
        if (directory / CELLS).is_dir() and (directory / MANIFEST).is_file():
            with surroundings(config.precision, config.execution):
                digest = digest or chains_of(data, config).digest()
            own = Manifest.of(config.model_dump(mode="json"), digest, "", versions())
            try:
                own.check(Manifest.read(directory), directory)
            except StorageError:
                continue
            return directory
    return None


def _kept(
    data: Dataset,
    config: AuditConfig,
    place: str,
    directory: Path,
    on_progress: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> AuditResult:
    """Compute the result in a run directory and write it there, or load it if it is complete; return it."""
    sweep = _checked(data, config)
    manifest = Manifest.of(config.model_dump(mode="json"), sweep.digest(), place, versions())
    with opened(directory, manifest) as store:
        if store.complete:
            return load_result(directory)
        result = _computed(sweep, store, on_progress, stop)
        result.save_into(directory)
        if result.status != "failed":
            store.clear()
    return result


def chains_of(data: Dataset, config: AuditConfig) -> Chains:
    """Return the chains of an audit: of an estimator by refits, of any other victim by hypergradients."""
    return Refits(data, config) if config.estimators else Sweep(data, config)


def _checked(data: Dataset, config: AuditConfig) -> Chains:
    sweep = chains_of(data, config)
    sweep.check()
    return sweep


def _computed(
    sweep: Chains, store: Store | None, on_progress: Callable[[Progress], None], stop: Callable[[], bool]
) -> AuditResult:
    config, splits, policies = sweep.config, sweep.config.splits, sweep.names
    cells, paused = _read(store)
    chains = [
        Chain(
            split,
            policy,
            {ratio: cells[split, policy, ratio] for ratio in range(sweep.ratios) if (split, policy, ratio) in cells},
            paused.get((split, policy)),
        )
        for split in range(splits)
        for policy in range(len(policies))
    ]
    done, total = sum(not cell.failed for cell in cells.values()), len(chains) * sweep.ratios
    for outcome in stream(sweep, [chain for chain in chains if sweep.unfinished(chain)], config.execution, stop):
        match outcome:
            case Begun(split, policy, ratio):
                at = f"split {split + 1}/{splits} · {policies[policy]} · ratio {ratio + 1}/{sweep.ratios}"
                on_progress(Progress(done, total, at))
            case Paused() if store:
                store.write(outcome.name, outcome.arrays())
            case Cell(split, policy, ratio):
                if store:
                    store.write(outcome.name, outcome.arrays())
                    store.remove(Paused.name_of(split, policy))
                cells[split, policy, ratio] = outcome
                done += 1
    if len(cells) < total or (stop() and any(cell.failed for cell in cells.values())):
        remedy = f"; `mithridate resume {store.directory}` goes on" if store else ""
        raise Interrupted(f"stopped with {done} of {total} cells done{remedy}")
    on_progress(Progress(total, total, "done"))
    return _assembled(sweep, cells)


def _read(store: Store | None) -> tuple[dict[tuple[int, int, int], Cell], dict[tuple[int, int], Paused]]:
    cells, paused = {}, {}
    if store is None:
        return cells, paused
    for name, arrays in store.read().items():
        try:
            found = restored(name, arrays)
        except ValueError as error:
            where = store.directory / CELLS / f"{name}.npz"
            raise StorageError(f"{where} cannot be used: {error}; remove it to have it computed again") from None
        if isinstance(found, Cell):
            cells[found[:3]] = found
        elif found:
            paused[found[:2]] = found
    return cells, paused


def _assembled(sweep: Chains, cells: Mapping[tuple[int, int, int], Cell]) -> AuditResult:
    """Return the result of all cells."""
    config, ordered = sweep.config, [cells[key] for key in sorted(cells)]
    frame = to_frame(cell.record for cell in ordered)
    candidates = to_frame(record for cell in ordered for record in (cell.record, *cell.others))
    defenders, dataset = sweep.described(), sweep.dataset()
    tuned = {name: told["bounds"] for name, told in defenders.items() if told["bounds"]}
    found = verdict(frame, candidates, [name for name, told in defenders.items() if told["fixed"]], tuned)
    sample = sample_of(dataset)
    first = f"{sample}, {capability(config)}" if sample else capability(config)
    found = replace(found, summary=(first, *found.summary))
    if warning := mismatch(config):
        found = replace(found, warnings=(*found.warnings, warning))
    poison = {}
    for index in range(config.splits):
        for number, name in enumerate(sweep.names):
            own = [cells[index, number, ratio] for ratio in range(sweep.ratios)]
            if own[0].batch:
                poison[index, name] = sweep.poison(index, number, own)
    return AuditResult(
        dataset=dataset,
        threat_model=sweep.threat_model(),
        config=config.model_dump(mode="json"),
        versions=versions(),
        frame=frame,
        candidates=candidates,
        defenders=defenders,
        verdict=found,
        poison=poison,
        rows={at: sweep.rows(at[0], own) for at, own in poison.items()} if sweep.data.schema else {},
    )
