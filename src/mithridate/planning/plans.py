"""The plan of an audit before it starts: what it computes, the memory and time it needs, and whether that fits.

Counts follow from the configuration (`workload`). The memory follows from shapes alone: the rows, and the most that one
step needs at once (`costs`). The time comes from a short calibration (`calibration`), or from the number of operations
and the measured rate of one matrix product.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax

from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Dataset
from mithridate.defences.base import effort_of
from mithridate.defences.tuning import grid_over
from mithridate.errors import InputError, MithridateError, Unplanned
from mithridate.execution import devices
from mithridate.execution.devices import surroundings
from mithridate.execution.processes import cores
from mithridate.files.resources import free_memory
from mithridate.hypergradients import Checkpointed
from mithridate.notebooks import table
from mithridate.planning import calibration
from mithridate.planning.calibration import Timed
from mithridate.planning.workload import ChainPlan, Work
from mithridate.victims.models import LinearFirstLayer
from mithridate.victims.spaces.gram import width_of

PROCESS = 340 * 2**20
"""Bytes that compiler, compiled programs and pictures need on the host, besides the arrays of the audit (measured)."""
IMPORTED = 450 * 2**20
"""Bytes of another process after all imports (measured)."""
WRITING = 4.0
"""Seconds for the report and its pictures (measured)."""
REPORT = 6 * 2**20
"""Bytes of the report and its pictures (measured)."""
TIGHT = 0.8
"""The share of the free memory above which a plan warns."""
SURE = {True: 1.5, False: 4.0}
"""The factor by which the time can be wrong, with and without calibration (measured)."""


@dataclass(frozen=True)
class Plan:
    """What an audit computes, and the time, memory and disk space that it needs.

    Arguments:
        dataset: Name of the data set.
        splits: Number of splits.
        ratios: Number of poison ratios, the clean one included.
        cells: splits × policies × ratios.
        chains: What one split of each policy computes.
        chain_seconds: Seconds of each of `chains`.
        memory: The most bytes at once, besides what is in use now. `step` of them are for the largest step, `rows` for
            rows and their Gram matrices.
        free: Free bytes.
        seconds: Seconds of the whole audit if everything is compiled already.
        compiling: Seconds of compiling, 0 if unknown.
        calibrated: Whether the time was measured by calibration.
        sure: The factor by which the times can be wrong.
        disk: Bytes of the run directory.
        execution: How the chains are executed.
        workers: Number of processes, with `threads` threads each.
        warnings: Reasons to change the audit, with the remedy; `refusals`: reasons why it cannot run.
    """

    dataset: str
    splits: int
    ratios: int
    cells: int
    chains: tuple[ChainPlan, ...]
    chain_seconds: tuple[float, ...]
    memory: int
    step: int
    rows: int
    free: int
    seconds: float
    compiling: float
    calibrated: bool
    sure: float
    disk: int
    execution: str
    workers: int
    threads: int
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Plan({self.dataset}: {self.cells} cells, {self._cost}{', refused' * bool(self.refusals)})"

    def _repr_html_(self) -> str:
        head = ("policy", "hypergradients", "trainings tuning λ", "retrainings", "a split takes")
        rows = [
            (chain.policy, chain.hypergradients, chain.trainings, chain.evaluations, duration(seconds))
            for chain, seconds in zip(self.chains, self.chain_seconds, strict=True)
        ]
        title = f"{self.dataset}: {self.cells} cells, {self._cost}"
        return table(title, head, rows, (*self.refusals, *self.warnings))

    @property
    def _cost(self) -> str:
        return f"about {duration(self.seconds + self.compiling)}, {gib(self.memory)}"

    def check(self) -> None:
        """Raise `InputError` if the audit cannot run as planned."""
        if self.refusals:
            raise InputError("; ".join(self.refusals))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def plan(
    data: Dataset, config: AuditConfig, free_memory: int | None = None, calibrate: bool = True, workers: int = 0
) -> Plan:
    """Return the plan of the audit of `data` with `config`; nothing is written.

    Arguments:
        data: The data set.
        config: The configuration.
        free_memory: Free bytes (default: those of the device on which the audit will run).
        calibrate: Whether to time the parts, which takes some seconds and their compilation. Otherwise the time is
            estimated from counted operations. An audit that does not fit into the memory is not calibrated.
        workers: Number of processes that share the chains (default: as in the configuration; one for a cluster).

    Raises `InputError` if the audit cannot run at all, and `Unplanned` if only the plan fails; then the audit may run.

    Example:
        >>> from mithridate.data.sources import prepared
        >>> found = plan(*prepared("synthetic", None, {"splits": 2, "points": 2}), calibrate=False)
        >>> found.cells, found.chains[0].hyperiterations, found.refusals
        (30, 260, ())
    """
    try:
        return _plan(data, config, free_memory, calibrate, workers or _workers(config))
    except MithridateError:
        raise
    except Exception as error:
        # Another version of a library may lack something or differ. An audit does not depend on that.
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Unplanned(f"time and memory unknown: the audit cannot be planned here ({said})") from error


def _plan(data: Dataset, config: AuditConfig, most: int | None, calibrate: bool, workers: int) -> Plan:
    with surroundings(config.precision, config.execution):
        work, free = Work.of(data, config), _free() if most is None else most
        memory = _memory(work, workers)
        said = f"the audit needs about {gib(memory)} of memory, and {gib(free)} are free"
        remedy = f"{said}: {_remedy(work, workers, free)}" if memory > TIGHT * free else ""
        calibrated = calibrate and memory <= free
        seconds, compiling = _calibrated(work) if calibrated else _reckoned(work)
        chains = [each for each in seconds for _ in range(config.splits)]
        return Plan(
            dataset=data.name,
            splits=config.splits,
            ratios=1 + work.chains[0].batches,
            cells=len(chains) * (1 + work.chains[0].batches),
            chains=tuple(work.chains),
            chain_seconds=tuple(seconds),
            memory=memory,
            step=work.step,
            rows=config.splits * work.shared + work.own,
            free=free,
            seconds=max(sum(chains) / workers, *chains) + WRITING,
            compiling=compiling,
            calibrated=calibrated,
            sure=SURE[calibrated],
            disk=_disk(work),
            execution=_execution(config) if workers == 1 else f"processes:{workers}",
            workers=workers,
            threads=max(1, (os.cpu_count() or 1) // workers),
            warnings=(remedy,) if remedy and memory <= free else (),
            refusals=(remedy,) if memory > free else (),
        )


def gib(size: int) -> str:
    """Return a number of bytes as text: 3.4 GiB, 120 MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _workers(config: AuditConfig) -> int:
    kind, _, number = config.execution.partition(":")
    return (
        min(int(number or cores()), config.splits * len(config.policies) * len(config.defences))
        if kind == "processes"
        else 1
    )


def _execution(config: AuditConfig) -> str:
    return devices.chosen(config.execution)


def _free() -> int:
    """Return the free bytes of the device on which the steps will run: the accelerator or the host."""
    if stats := jax.devices()[0].memory_stats():
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return free_memory()


def _memory(work: Work, workers: int) -> int:
    """Return the most bytes at once, besides what is in use now; on an accelerator, for one device."""
    config, on_host = work.config, jax.default_backend() == "cpu"
    how = _execution(config) if workers == 1 else "serial"
    together = config.splits * len(work.attacks) if how == "batched" else 1
    arrays = together * (work.step + work.own) + config.splits * work.shared
    if how == "sharded" and not on_host:
        arrays = math.ceil(arrays / jax.local_device_count())
    needed = arrays + (PROCESS if on_host else 0)
    return needed if workers == 1 else workers * (IMPORTED + needed)


def _changes(work: Work) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield changes that may need less memory: in words, and as arguments of `Work.changed`."""
    chain, batch = work.chains[0], work.config.batch
    other = "plain" if chain.space == "gram" else "gram"
    if _execution(work.config) == "batched":
        yield "execution = serial", {"execution": "serial"}
    if chain.method == "Reverse":
        yield "hypergradient = checkpointed", {"hypergradient": Checkpointed()}
    yield f"space = {other}", {"space": other}
    if chain.method == "Reverse":
        yield f"hypergradient = checkpointed with space = {other}", {"hypergradient": Checkpointed(), "space": other}
    if batch > 1:
        yield f"batch = {batch // 4 or 1}", {"batch": batch // 4 or 1}


def _remedy(work: Work, workers: int, free: int) -> str:
    """Return in words which changes would fit into the memory, by the same estimate."""
    now, found = _memory(work, workers), []
    for text, change in _changes(work):
        try:
            needed = _memory(work.changed(**change), workers)
        except InputError:  # impossible with this victim
            continue
        if needed <= free and needed < 0.95 * now:
            found.append(f"{text} needs {gib(needed)}")
    for fewer in range(workers - 1, 0, -1):
        if (needed := _memory(work, fewer)) <= TIGHT * free:
            name = f"processes:{fewer}" if fewer > 1 else "serial"
            found.append(f"execution = {name} needs {gib(needed)}")
            break
    return "; ".join(found) or "use fewer training rows (train), or a machine with more memory"


def _calibrated(work: Work) -> tuple[list[float], float]:
    """Return the seconds of each policy's compiled chain, and the seconds of compiling all of them."""
    known, compiling, first = {}, 0.0, work.attacks[0]
    rows, model = first.rows(work.split.x_train, work.split.y_train), first.learner.model
    width = width_of(model) if isinstance(model, LinearFirstLayer) else 1
    flops = calibration.rate(rows.x if rows.gram is None else rows.gram, width)
    for kind, attack, chain, costs in zip(work.kinds, work.attacks, work.chains, work.costs, strict=True):
        if kind in known:
            continue
        expected = {name: calibration.analytic(cost, flops) for name, cost in costs.items()}
        training, slope, strength = calibration.response(attack, rows, expected.get("grid", 0.0))
        draws = attack.crafting().derivatives
        hyperiteration = draws * expected.get("hypergradient", 0.0)
        clean, lap, rest = calibration.steps(attack, work.split, rows, strength, hyperiteration)
        victim = calibration.retraining(
            attack, work.split, rows, work.config, work.aim, strength, expected["retraining"]
        )
        known[kind] = clean, lap, rest, training, slope, victim
        compiling += sum(part.compiling for part in known[kind]) + (training.compiling if chain.checks else 0.0)
    return [_of_chain(chain, *known[kind]) for kind, chain in zip(work.kinds, work.chains, strict=True)], compiling


def _of_chain(
    chain: ChainPlan, clean: Timed, lap: Timed, rest: Timed, training: Timed, slope: Timed, victim: Timed
) -> float:
    laps = chain.batches * chain.steps / math.ceil(chain.steps / chain.rounds) if chain.steps else 0
    return (
        (1 + chain.batches) * clean.run
        + laps * lap.run
        + chain.batches * rest.run
        + (chain.trainings + chain.checks) * training.run
        + chain.slopes * slope.run
        + chain.evaluations * victim.run
    )


def _reckoned(work: Work) -> tuple[list[float], float]:
    """Return the seconds of each policy's chain from counted operations, and 0, because compiling is unknown."""
    flops, seconds = calibration.rate(), []
    for attack, chain, costs in zip(work.attacks, work.chains, work.costs, strict=True):
        one = {name: calibration.analytic(cost, flops) for name, cost in costs.items()}
        groups = attack.learner.strength_shape
        tried = len(grid_over(attack.policy.strengths, groups)) * max(1, effort_of(attack.policy, groups).folds)
        seconds.append(
            chain.hypergradients * one.get("hypergradient", 0.0)
            + (chain.trainings + chain.checks) * one.get("grid", 0.0) / tried
            + chain.slopes * one.get("slope", 0.0)
            + chain.evaluations * one["retraining"]
        )
    return seconds, 0.0


def _disk(work: Work) -> int:
    """Return the bytes of the run directory: report, points, and numbers of rows."""
    config, split = work.config, work.split
    points = 4 * config.points * split.x_train.shape[1] * 4
    numbers = 8 * (len(split.y_train) + len(split.y_valid) + len(split.y_test))
    return REPORT + config.splits * len(work.chains) * (points + numbers)


def duration(seconds: float) -> str:
    """Return seconds as text: 0.4 s, 12 s, 3 min, 2.5 h."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.{1 if seconds < 10 else 0}f} s"
