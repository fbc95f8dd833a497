"""The chains of an audit whose victims are trained by this program, attacked by hypergradients among others."""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mithridate.attacks.poison import Batch, Poisoning
from mithridate.auditing.assembly import defenders_of
from mithridate.auditing.cells import Begun, Cell, Paused
from mithridate.auditing.chains import Chain, Chains, reason_of
from mithridate.auditing.measuring import Bench, failed_cell
from mithridate.auditing.scenario import Scenario
from mithridate.auditing.threat import threat_model
from mithridate.auditing.written import poison_arrays
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import own_parts, source_of
from mithridate.data.datasets import Dataset, Split
from mithridate.defences.base import Counted, Effort
from mithridate.defences.named import check_folds, check_sanitiser
from mithridate.errors import InputError, MithridateError
from mithridate.execution import devices
from mithridate.execution.chains import check
from mithridate.execution.work import Pace
from mithridate.victims.rows import Rows


class Sweep(Chains):
    """The chains of an audit whose victims have hypergradients (App. B: the poison sets of a chain can be nested)."""

    def __init__(self, data: Dataset, config: AuditConfig):
        self.defenders = defenders_of(config)
        super().__init__(data, config, [defender.name for defender in self.defenders])
        self._scenarios: dict[int, Scenario] = {}

    def scenario(self, index: int) -> Scenario:
        """Return split `index` and what its chains share; it is made once. Raises `InputError`."""
        if index not in self._scenarios:
            other = next(iter(self._scenarios.values()), None)
            self._scenarios[index] = made = Scenario.of(self.data, self.config, index, other)
            _ = made.rows
        return self._scenarios[index]

    def check(self) -> None:
        """Make and check everything that is possible before anything is computed. Raises `InputError`."""
        check(self.config.execution)
        batched, exact = devices.chosen(self.config.execution) == "batched", (self.config.victim, self.config.inner)
        if batched and "exact" in exact and jax.default_backend() == "cpu":
            # On a CPU, LAPACK's batched routines can wait for each other for ever.
            raise InputError("execution = batched: not possible with an exact victim on a CPU; use execution = serial")
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
        """Return the SHA-256 of everything besides the configuration that decides the numbers.

        That is the data, the attacker's rows, and the user's own code: for a model, loss or penalty what JAX traces of
        it, for other parts their source.
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
                # The numbers in an object count as well; if JAX does not know the object, its text has them.
                found.update(re.sub("0x[0-9a-f]+", "", repr(part)).encode())
                for leaf in jax.tree.leaves(part):
                    found.update(np.asarray(leaf).tobytes() if eqx.is_array_like(leaf) else b"")
        return found.hexdigest()

    def run(self, chain: Chain, pace: Pace) -> Iterator[Begun | Cell | Paused]:
        """Compute the missing cells of a chain, to its end or until `pace` says to stop.

        A cell that cannot be computed is yielded as failed, and so are the cells after it, which start from its poison.
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
            if self.missing(chain, ratio):
                yield Begun(*at, ratio)
            for stage in stages:
                if not isinstance(stage, Poisoning):
                    if pace.due():
                        yield Paused(*at, ratio, stage, spent())
                else:
                    if self.missing(chain, ratio):
                        (record, *others), weights = bench.cell(stage)
                        kept = jax.tree.leaves(weights) if not chain.split and ratio in (0, self.ratios - 1) else []
                        flat = tuple(np.asarray(leaf, np.float32).ravel() for leaf in kept)
                        record = replace(record, seconds=spent())
                        yield Cell(*at, ratio, record, stage.batches[-1], flat, tuple(others))
                    ratio, earlier, started = ratio + 1, 0.0, time.perf_counter()
                    if ratio < self.ratios and self.missing(chain, ratio) and not pace.stopped():
                        yield Begun(*at, ratio)
                if pace.stopped():
                    return
        except MithridateError:
            raise
        except Exception as error:  # noqa: BLE001 (the record has the reason, and other chains go on)
            for cell in self.failed(chain, ratio if ratio < self.ratios else None, reason_of(error)):
                yield cell._replace(record=replace(cell.record, seconds=spent()))
                earlier, started = 0.0, time.perf_counter()

    def size(self, chain: Chain) -> int:
        """Return about how many steps a chain has left; a cross-validated answer counts once for each fold."""
        config, policy = self.config, self.defenders[chain.policy].policy
        steps = config.joint_hyperiterations if policy.descent else config.hyperiterations
        effort = policy.work(()) if isinstance(policy, Counted) else Effort()
        folds = max(1, effort.folds * effort.again)
        return steps * folds * sum(self.missing(chain, ratio) for ratio in range(self.ratios))

    def split(self, index: int) -> Split:
        """Return the rows of a split."""
        return self.scenario(index).split

    def described(self) -> dict[str, dict[str, Any]]:
        """Return what a result says of each defender: see `AuditResult`."""
        found = {}
        for one in self.defenders:
            low, high = (float(end) for end in (np.min(one.policy.strengths.low), np.max(one.policy.strengths.high)))
            bounds = [low, high] if low < high else None
            found[one.name] = {"fixed": one.fixed, "words": one.words(), "bounds": bounds}
        return found

    def threat_model(self) -> dict[str, str]:
        """Return what the attacker knows, controls and may change, in plain words."""
        data = self.data
        attacks, unused = self.scenario(0).attacks, data.unused(self.split(0))
        return threat_model(self.config, data.classes, attacks, data.schema, data.unkept, unused)

    def poison(self, index: int, number: int, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """Return what it takes to retrain on the poisoned sets of one chain without this program."""
        return poison_arrays(cells, self.split(index), self.scenario(index).attacks[number])

    def rows(self, index: int, poison: Mapping[str, np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the points of one chain, at their start and at their end, as rows of the user's own table."""
        split, labels, changed = self.split(index), poison["y_start"], poison["y_poison"]
        before = split.decode(poison["x_start"], np.where(labels < 0, changed, labels))
        return before, split.decode(poison["x_poison"], changed)

    def failed_cell(self, chain: Chain, ratio: int, reason: str) -> Cell:
        """Return the cell of a chain that could not be computed."""
        scenario = self.scenario(chain.split)
        record, *others = failed_cell(scenario, scenario.attacks[chain.policy], ratio, reason)
        return Cell(chain.split, chain.policy, ratio, record, None, (), tuple(others))
