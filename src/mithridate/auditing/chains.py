"""What all chains of an audit have in common: each split and defender is a chain, with a cell for each share of poison.

A chain depends on no other, and yields what it has come to as it goes: `Begun`, `Cell`, and where an attack can stop,
`Paused`. Given what was stored of these, it goes on from there to the same numbers.
"""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mithridate.auditing.cells import Begun, Cell, Paused
from mithridate.auditing.threat import sampled
from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Dataset, Split
from mithridate.execution import devices
from mithridate.execution.work import Pace


@dataclass(frozen=True)
class Chain:
    """One split and policy, by number, and what is known of it: its finished cells by ratio, and where one paused."""

    split: int
    policy: int
    cells: Mapping[int, Cell] = field(default_factory=dict)
    paused: Paused | None = None


class Chains(abc.ABC):
    """All chains of an audit on `data`; they can be sent to another process, and make there what they need.

    `names`: those of the defenders.
    """

    def __init__(self, data: Dataset, config: AuditConfig, names: Sequence[str]):
        self.data, self.config, self.names = data, config, list(names)
        self.ratios = 1 + math.ceil(config.points / config.batch)

    def __reduce__(self):
        return _remade, (type(self), self.data, self.config)

    @abc.abstractmethod
    def check(self) -> None:
        """Make all that can be made before anything is computed; raises `InputError`."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of what the numbers come from besides the configuration."""

    @abc.abstractmethod
    def run(self, chain: Chain, pace: Pace) -> Iterator[Begun | Cell | Paused]:
        """Compute what is missing of a chain, to its end or until it is asked to stop.

        A cell that cannot be computed is yielded as failed, and those that build on it.
        """

    @abc.abstractmethod
    def size(self, chain: Chain) -> float:
        """Return about how much work a chain has left."""

    @abc.abstractmethod
    def failed_cell(self, chain: Chain, ratio: int, reason: str) -> Cell:
        """Return the cell of a chain that could not be computed."""

    @abc.abstractmethod
    def split(self, index: int) -> Split:
        """Return the rows of a split."""

    @abc.abstractmethod
    def described(self) -> dict[str, dict[str, Any]]:
        """Return what a result says of each defender: see `AuditResult`."""

    @abc.abstractmethod
    def threat_model(self) -> dict[str, str]:
        """Return what the attacker knows, controls and may change, in plain words."""

    @abc.abstractmethod
    def poison(self, index: int, number: int, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """Return what it takes to retrain on the poisoned sets of one chain without this program."""

    @abc.abstractmethod
    def rows(self, index: int, poison: Mapping[str, np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the points of one chain, at their start and at their end, as rows of the user's own table."""

    @property
    def order(self) -> Sequence[int]:
        """The ratios in the order in which a chain computes them."""
        return range(self.ratios)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which everything must run: precision and devices."""
        return devices.surroundings(self.config.precision, self.config.execution)

    def dataset(self) -> dict[str, Any]:
        """Return `AuditResult.dataset`."""
        data, config, split = self.data, self.config, self.split(0)
        return {
            "name": data.name,
            "classes": list(data.classes),
            "features": split.x_train.shape[1],
            "feature_names": list(split.feature_names),
            "columns": self._columns(),
            "image_shape": data.image_shape,
            "train": config.train,
            "valid": config.valid,
            "test": len(split.y_test),
            "official_test_rows": data.test is not None,
            "source": data.source,
            **({"sample": sample} if (sample := sampled(data, config)) else {}),
            **({"unused": unused} if (unused := data.unused(split)) else {}),
        }

    def unfinished(self, chain: Chain) -> bool:
        """Return whether any cell of a chain is missing or has failed."""
        return any(self.missing(chain, ratio) for ratio in self.order)

    def after(self, chain: Chain, outcome: Begun | Cell | Paused) -> Chain:
        """Return the chain after it has yielded this outcome."""
        match outcome:
            case Cell():
                return replace(chain, cells={**chain.cells, outcome.ratio: outcome}, paused=None)
            case Paused():
                return replace(chain, paused=outcome)
        return chain

    def given_up(self, chain: Chain, reason: str) -> Iterator[Cell]:
        """Yield what is missing of a chain as failed."""
        yield from self.failed(chain, next((ratio for ratio in self.order if self.missing(chain, ratio)), None), reason)

    def failed(self, chain: Chain, first: int | None, reason: str) -> Iterator[Cell]:
        """Yield as failed what is missing of a chain from the ratio `first` on; nothing if there is none."""
        order = list(self.order)
        for ratio in () if first is None else order[order.index(first) :]:
            if self.missing(chain, ratio):
                yield self.failed_cell(chain, ratio, reason)
                reason = f"ratio {ratio + 1} failed, on whose poison it builds"

    @staticmethod
    def missing(chain: Chain, ratio: int) -> bool:
        """Return whether a cell has not been computed, or has failed."""
        return ratio not in chain.cells or chain.cells[ratio].failed

    def _columns(self) -> list[dict[str, str]]:
        """Return name and kind of each column of the user's own table, the target's kind "target"; else nothing."""
        schema = self.data.schema
        if schema is None:
            return []
        kinds = {column.name: column.kind for column in schema.columns} | {schema.target.name: "target"}
        return [{"name": name, "kind": kinds[name]} for name in schema.order]


def reason_of(error: Exception) -> str:
    """Return in one line why a cell has failed."""
    said = (str(error).strip() or "no message").splitlines()[0][:300]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
        return f"out of memory ({said}): use hypergradient = checkpointed, or a smaller batch"
    return f"{type(error).__name__}: {said}"


def _remade(kind: type[Chains], data: Dataset, config: AuditConfig) -> Chains:
    with devices.surroundings(config.precision, config.execution):
        return kind(data, config)  # pyright: ignore[reportCallIssue]
