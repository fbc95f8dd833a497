"""How an audit's chains are executed: in turn, in step, or in other processes; what they yield comes as one stream.

In turn or in other processes the numbers are the same to the bit; in step, to rounding. The chains are written once, as
generators, and know nothing of it.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from mithridate import execution

EVERY = 10.0
"""Seconds between two times that an unfinished cell is saved."""


class Pace:
    """When a chain should say where it stands, and whether it should stop then."""

    def __init__(self, stopped: Callable[[], bool], every: float | None = None):
        self.stopped, self.every, self.last = stopped, EVERY if every is None else every, time.monotonic()

    def due(self) -> bool:
        """Return whether an unfinished cell should be saved now; if so the time runs anew."""
        if self.stopped() or time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            return True
        return False


@runtime_checkable
class Work(Protocol):
    """Chains that can be run, here or where it is sent."""

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which all of it has to run."""
        ...

    def run(self, chain: Any, pace: Pace) -> Iterator[Any]:
        """Yield what a chain comes to, until it ends or `pace` says stop."""
        ...

    def size(self, chain: Any) -> float:
        """Return how much of a chain is left to do, in any unit: where several run at once the largest go first."""
        ...

    def after(self, chain: Any, outcome: Any) -> Any:
        """Return a chain as it is once it has yielded this; run again, it goes on from there."""
        ...

    def given_up(self, chain: Any, reason: str) -> Iterator[Any]:
        """Yield what a chain comes to that no worker has outlived."""
        ...


def check(how: str) -> None:
    """Raise `InputError` where this execution cannot be had."""
    kind = how.partition(":")[0]
    if kind == "processes":
        from mithridate.workers import processes

        processes.check()
    elif kind == "ray":
        from mithridate.workers import cluster

        cluster.check()


def stream(work: Work, chains: Sequence[Any], how: str, stopped: Callable[[], bool]) -> Iterator[Any]:
    """Yield what all chains yield, each in its own order, as it comes. The first error of any chain is raised.

    Arguments: `how`, the execution as a configuration names it; `stopped`, which is asked all the time.
    """
    kind, _, where = how.partition(":")
    if kind == "processes":
        from mithridate.workers import processes

        return processes.stream(work, chains, int(where or processes.cores()), stopped)
    if kind == "ray":
        from mithridate.workers import cluster

        return cluster.stream(work, chains, where, stopped)
    run = _batched if execution.chosen(how) == "batched" else _serial
    return run(work, chains, stopped)


def _serial(work: Work, chains: Sequence[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    for chain in chains:
        if stopped():
            return
        yield from work.run(chain, Pace(stopped))


def _batched(work: Work, chains: Sequence[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ended = object()

    def attend(chain: Any) -> None:
        for outcome in work.run(chain, Pace(stopped)):
            outcomes.put(outcome)

    def run() -> None:
        error: BaseException | None = None
        try:
            with work.precision():
                execution.run([functools.partial(attend, chain) for chain in chains], "batched")
        except BaseException as caught:  # noqa: BLE001 (raised where the stream is read)
            error = caught
        outcomes.put((ended, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        outcome = outcomes.get()
        if isinstance(outcome, tuple) and outcome[0] is ended:
            if outcome[1]:
                raise outcome[1]
            return
        yield outcome
