"""The plan of an audit of estimators: how often they are fitted, by count, and how long that takes, by a few fits."""

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from mithridate.auditing.refits import Refits
from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Dataset
from mithridate.execution.processes import cores
from mithridate.notebooks import table

CRAFTING = 2.0
"""Seconds of crafting one set of points on a surrogate, once it is compiled (measured: 128 rows, 30 features)."""
COMPILING = 45.0
"""Seconds of compiling it, in each process (measured)."""
WRITING = 4.0
"""Seconds for the report and its pictures (measured)."""
SURE = 1.5
"""By what factor the time can be wrong (measured)."""


class VictimPlan(NamedTuple):
    """What a split of one victim computes: `fits` of the estimator by itself, `searches` as the defender fits it.

    `fit`, `search`: the seconds of one of each, as measured on clean rows.
    """

    policy: str
    fits: int
    searches: int
    fit: float
    search: float

    @property
    def seconds(self) -> float:
        """The seconds of all of them."""
        return self.fits * self.fit + self.searches * self.search


@dataclass(frozen=True)
class RefitPlan:
    """What an audit of estimators computes, and how long it takes. `cells` = splits × victims × ratios.

    `victims`, what one split of each computes; `crafted`, how many sets of points are crafted on surrogates in a split
    of each; `seconds` of all, `compiling` those before; `sure`, the factor by which both can be wrong.
    """

    dataset: str
    splits: int
    ratios: int
    cells: int
    victims: tuple[VictimPlan, ...]
    crafted: int
    seconds: float
    compiling: float
    sure: float
    workers: int
    execution: str

    def __repr__(self) -> str:
        return f"RefitPlan({self.dataset}: {self.cells} cells, about {self.seconds + self.compiling:.0f} s)"

    def _repr_html_(self) -> str:
        rows = [(one.policy, one.fits, one.searches, f"{one.seconds:.1f} s") for one in self.victims]
        return table(repr(self), ("defender", "fits", "fits as he does", "a split takes"), rows)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return asdict(self) | {"victims": [one._asdict() for one in self.victims]}


def plan_refits(data: Dataset, config: AuditConfig, workers: int = 0) -> RefitPlan:
    """Return the plan; each victim is fitted a few times on clean rows of the first split. Raises as the audit does."""
    work = Refits(data, config)
    work.check()
    with warnings.catch_warnings(), work.threads():
        warnings.simplefilter("ignore")
        victims = tuple(_victim(work, number) for number in range(len(work.victims)))
    kind, _, number = config.execution.partition(":")
    workers = workers or (min(int(number or cores()), config.splits * len(victims)) if kind == "processes" else 1)
    crafted = work.fitting(0, 0).crafts
    chains = [one.seconds + crafted * CRAFTING for one in victims for _ in range(config.splits)]
    return RefitPlan(
        dataset=data.name,
        splits=config.splits,
        ratios=work.ratios,
        cells=len(chains) * work.ratios,
        victims=victims,
        crafted=crafted,
        seconds=max(sum(chains) / workers, *chains, 0.0) + WRITING,
        compiling=COMPILING * bool(crafted),
        sure=SURE,
        workers=workers,
        execution=config.execution if workers == 1 else f"processes:{workers}",
    )


def _victim(work: Refits, number: int) -> VictimPlan:
    own = work.fitting(0, number)
    trial, whole, points = own.trying(work.counts)
    one, parts = _timed(lambda: trial.outcome(points)), trial.parts
    both = _timed(lambda: whole.outcome(points))
    fits, searches = own.planned(work.counts)
    return VictimPlan(work.names[number], fits, searches, one / parts, max(both - one, one / parts))


def _timed(run: Callable[[], Any]) -> float:
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
