"""Work that is quick to send and to run: chains that count, and some that kill the process that runs them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mithridate.errors import InputError
from mithridate.execution.chains import Pace
from mithridate.files.systems import usable_cores


class Counted(NamedTuple):
    chain: str
    number: int
    process: int
    cores: frozenset[int]
    failed: str = ""


@dataclass(frozen=True)
class Count:
    """Count to `end` from where it was; `deadly` numbers kill the process, the first `times` times that they come."""

    name: str
    end: int
    deadly: tuple[int, ...] = ()
    at: int = 0
    wrong: bool = False


class Counting:
    """Count; whoever is killed at a number leaves a mark in `folder`, and is not killed there again if once is enough.

    `forever` are names of chains that are killed whenever they come there.
    """

    def __init__(self, folder: str, forever: tuple[str, ...] = (), pause: float = 0.0):
        self.folder, self.forever, self.pause = folder, forever, pause

    def precision(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def run(self, chain: Count, pace: Pace) -> Iterator[Counted]:
        if chain.wrong:
            raise InputError(f"{chain.name} is wrong")
        for number in range(chain.at, chain.end):
            mark = os.path.join(self.folder, f"{chain.name}-{number}")
            if number in chain.deadly and (chain.name in self.forever or not os.path.exists(mark)):
                with open(mark, "a") as file:
                    file.write("killed\n")
                time.sleep(0.2)  # what it has yielded is on its way
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            time.sleep(self.pause)
            yield Counted(chain.name, number, os.getpid(), frozenset(usable_cores()))
            if pace.stopped():
                return

    def size(self, chain: Count) -> float:
        return chain.end - chain.at

    def after(self, chain: Count, outcome: Counted) -> Count:
        return replace(chain, at=outcome.number + 1)

    def given_up(self, chain: Count, reason: str) -> Iterator[Counted]:
        yield Counted(chain.name, chain.at, os.getpid(), frozenset(), reason)
