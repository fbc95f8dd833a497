"""The chains of an audit, computed: each split and policy is a chain of nested poison sets (App. B).

A chain depends on no other, and yields what it has come to as it goes: `Begun`, `Cell`, and between two rounds of an
attack, when it is wanted, `Paused`. Given what was stored of these, it goes on from there to the same numbers.
"""

import hashlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attacks.poison import Batch, Poisoning
from mithridate.auditing.assembly import defenders_of
from mithridate.auditing.cells import Begun, Cell, Paused
from mithridate.auditing.measuring import Bench, failed_cell
from mithridate.auditing.scenario import Scenario
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import own_parts, source_of
from mithridate.data.datasets import Dataset
from mithridate.defences.base import Counted, Effort
from mithridate.defences.named import check_folds, check_sanitiser
from mithridate.errors import InputError, MithridateError
from mithridate.execution import devices
from mithridate.execution.chains import check
from mithridate.execution.work import Pace
from mithridate.victims.rows import Rows


@dataclass(frozen=True)
class Chain:
    """One split and policy, by number, and what is known of it: its finished cells by ratio, and where one paused."""

    split: int
    policy: int
    cells: Mapping[int, Cell] = field(default_factory=dict)
    paused: Paused | None = None


class Sweep:
    """All chains of an audit on `data`; it can be sent to another process, and makes there what it needs."""

    def __init__(self, data: Dataset, config: AuditConfig):
        self.data, self.config = data, config
        self.defenders = defenders_of(config)
        self.ratios = 1 + math.ceil(config.points / config.batch)
        self._scenarios: dict[int, Scenario] = {}

    def __reduce__(self):
        return _remade, (self.data, self.config)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which all of it has to run."""
        return devices.surroundings(self.config.precision, self.config.execution)

    def scenario(self, index: int) -> Scenario:
        """Return split `index` and what its chains share, made once; raises `InputError`."""
        if index not in self._scenarios:
            other = next(iter(self._scenarios.values()), None)
            self._scenarios[index] = made = Scenario.of(self.data, self.config, index, other)
            _ = made.rows
        return self._scenarios[index]

    def check(self) -> None:
        """Make all that can be made before anything is computed; raises `InputError`."""
        check(self.config.execution)
        batched, exact = devices.chosen(self.config.execution) == "batched", (self.config.victim, self.config.inner)
        if batched and "exact" in exact and jax.default_backend() == "cpu":
            # LAPACK's batched routines can wait for each other for ever on a CPU.
            raise InputError("execution = batched: not with an exact victim on a CPU; use serial")
        for index in range(self.config.splits):
            scenario = self.scenario(index)
            if scenario.attacks[0].nested:
                scenario.attacks[0].started(scenario.split.x_train, scenario.split.y_train)
            for defender, attack in zip(self.defenders, scenario.attacks, strict=True):
                split = scenario.split
                check_folds(defender.policy, split.y_train, split.classes, attack.task, split.train_groups)
                if defender.sanitiser:
                    check_sanitiser(defender.sanitiser, scenario.rows, scenario.split.classes)

    def digest(self) -> str:
        """Return the SHA-256 of what the numbers come from besides the configuration: data, the attacker's rows, code.

        Of a model, loss or penalty of the user's own the code is what JAX traces of it, of other parts their source.
        """
        scenario = self.scenario(0)
        found, attack = hashlib.sha256(self.data.digest().encode()), scenario.attacks[0]
        for array in attack.target:
            found.update(np.ascontiguousarray(array).data)
        if own_parts(self.config):
            learner, m = attack.learner, scenario.split.x_train.shape[1]
            row, w0 = Rows.of(np.zeros((1, m)), np.zeros(1)), learner.model.init(jax.random.key(0))
            code = jax.make_jaxpr(lambda w, s: learner.objective(w, (row,), s, row.size))(
                w0, jnp.zeros(learner.strength_shape)
            )
            found.update(re.sub("0x[0-9a-f]+", "", str(code)).encode())
            for constant in code.consts:
                found.update(np.ascontiguousarray(constant).data)
            for part in (self.config.attack, type(attack), *(one for each in self.defenders for one in each)):
                found.update(source_of(part).encode())
                # An object is its numbers as well; those of one that JAX does not know are in its text.
                found.update(re.sub("0x[0-9a-f]+", "", repr(part)).encode())
                for leaf in jax.tree.leaves(part):
                    found.update(np.asarray(leaf).tobytes() if eqx.is_array_like(leaf) else b"")
        return found.hexdigest()

    def unfinished(self, chain: Chain) -> bool:
        """Return whether any cell of a chain is missing or has failed."""
        return any(self._missing(chain, ratio) for ratio in range(self.ratios))

    def run(self, chain: Chain, pace: Pace) -> Iterator[Begun | Cell | Paused]:
        """Compute what is missing of a chain, to its end or until it is asked to stop.

        A cell that cannot be computed is yielded as failed, and those after it, which start from its poison.
        """
        scenario = self.scenario(chain.split)
        split, attack, at, ratio = scenario.split, scenario.attacks[chain.policy], (chain.split, chain.policy), 0
        done: list[Batch] = []
        while (cell := chain.cells.get(len(done))) and cell.batch:
            done.append(cell.batch)
        paused = chain.paused if chain.paused and chain.paused.ratio == len(done) else None
        earlier, started = paused.seconds if paused else 0.0, time.perf_counter()

        def spent() -> float:
            return earlier + time.perf_counter() - started

        try:
            bench, midways = Bench(scenario, attack), paused.midways if paused else ()
            stages = attack.stages(split.x_train, split.y_train, scenario.rows, done, midways, bench.judge)
            if self._missing(chain, ratio):
                yield Begun(*at, ratio)
            for stage in stages:
                if not isinstance(stage, Poisoning):
                    if pace.due():
                        yield Paused(*at, ratio, stage, spent())
                else:
                    if self._missing(chain, ratio):
                        (record, *others), weights = bench.cell(stage)
                        kept = jax.tree.leaves(weights) if not chain.split and ratio in (0, self.ratios - 1) else []
                        flat = tuple(np.asarray(leaf, np.float32).ravel() for leaf in kept)
                        record = replace(record, seconds=spent())
                        yield Cell(*at, ratio, record, stage.batches[-1], flat, tuple(others))
                    ratio, earlier, started = ratio + 1, 0.0, time.perf_counter()
                    if ratio < self.ratios and self._missing(chain, ratio) and not pace.stopped():
                        yield Begun(*at, ratio)
                if pace.stopped():
                    return
        except MithridateError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it was, the other chains go on, and the record says it)
            for cell in self._failed(chain, ratio, _reason(error)):
                yield cell._replace(record=replace(cell.record, seconds=spent()))
                earlier, started = 0.0, time.perf_counter()

    def size(self, chain: Chain) -> int:
        """Return about how many steps a chain has left, a cross-validated answer counted for each of its folds."""
        config, policy = self.config, self.defenders[chain.policy].policy
        steps = config.joint_hyperiterations if policy.descent else config.hyperiterations
        effort = policy.work(()) if isinstance(policy, Counted) else Effort()
        folds = max(1, effort.folds * effort.again)
        return steps * folds * sum(self._missing(chain, ratio) for ratio in range(self.ratios))

    def after(self, chain: Chain, outcome: Begun | Cell | Paused) -> Chain:
        """Return a chain as it is once it has yielded this."""
        match outcome:
            case Cell():
                return replace(chain, cells={**chain.cells, outcome.ratio: outcome}, paused=None)
            case Paused():
                return replace(chain, paused=outcome)
        return chain

    def given_up(self, chain: Chain, reason: str) -> Iterator[Cell]:
        """Yield what is missing of a chain as failed."""
        first = next((ratio for ratio in range(self.ratios) if self._missing(chain, ratio)), self.ratios)
        yield from self._failed(chain, first, reason)

    def _failed(self, chain: Chain, first: int, reason: str) -> Iterator[Cell]:
        scenario = self.scenario(chain.split)
        for ratio in (each for each in range(first, self.ratios) if self._missing(chain, each)):
            record, *others = failed_cell(scenario, scenario.attacks[chain.policy], ratio, reason)
            yield Cell(chain.split, chain.policy, ratio, record, None, (), tuple(others))
            reason = f"ratio {first + 1} failed, on whose poison it builds"

    @staticmethod
    def _missing(chain: Chain, ratio: int) -> bool:
        return ratio not in chain.cells or chain.cells[ratio].failed


def _remade(data: Dataset, config: AuditConfig) -> Sweep:
    with devices.surroundings(config.precision, config.execution):
        return Sweep(data, config)


def _reason(error: Exception) -> str:
    said = (str(error).strip() or "no message").splitlines()[0][:300]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
        return f"out of memory ({said}): use hypergradient = checkpointed, or a smaller batch"
    return f"{type(error).__name__}: {said}"
