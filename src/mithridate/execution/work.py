"""Chains of work: the interface for those that execute them, and how often chains report their state."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


class Pace:
    """When a chain should report its state, and whether it should then stop."""

    EVERY = 10.0
    """Seconds between two saves of an unfinished cell."""

    def __init__(self, stopped: Callable[[], bool], every: float | None = None):
        self.stopped, self.every, self.last = stopped, self.EVERY if every is None else every, time.monotonic()

    def due(self) -> bool:
        """Return whether an unfinished cell should be saved now; if so, restart the clock."""
        if self.stopped() or time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            return True
        return False


@runtime_checkable
class Work(Protocol):
    """Chains that can be run here, or in another process to which the work is sent."""

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which all of the work must run."""
        ...

    def run(self, chain: Any, pace: Pace) -> Iterator[Any]:
        """Yield the outcomes of a chain, until it ends or `pace` says stop."""
        ...

    def size(self, chain: Any) -> float:
        """Return how much work is left in a chain, in any unit: if several run at once, the largest go first."""
        ...

    def after(self, chain: Any, outcome: Any) -> Any:
        """Return the chain's state after it has yielded `outcome`; run again, it goes on from there."""
        ...

    def given_up(self, chain: Any, reason: str) -> Iterator[Any]:
        """Yield the outcomes of a chain that is given up because it lost its worker too often."""
        ...
