"""Chains of work: what whoever executes them asks of them, and how often they say where they stand."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


class Pace:
    """When a chain should say where it stands, and whether it should stop then."""

    EVERY = 10.0
    """Seconds between two times that an unfinished cell is saved."""

    def __init__(self, stopped: Callable[[], bool], every: float | None = None):
        self.stopped, self.every, self.last = stopped, self.EVERY if every is None else every, time.monotonic()

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
