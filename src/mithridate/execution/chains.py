"""How an audit's chains are executed: in turn, in step, or in other processes. Their outcomes form one stream.

In turn and in other processes the numbers are the same to the bit; in step they agree up to rounding. The chains are
generators, written once for all executions.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mithridate.execution import cluster, devices, processes
from mithridate.execution.work import Pace, Work


def check(how: str) -> None:
    """Raise `InputError` if this execution is not possible here."""
    kind = how.partition(":")[0]
    if kind == "processes":
        processes.check()
    elif kind == "ray":
        cluster.check()


def stream(work: Work, chains: Sequence[Any], how: str, stopped: Callable[[], bool]) -> Iterator[Any]:
    """Yield the outcomes of all chains as they come, each chain's in order. The first error of any chain is raised.

    Arguments: `how`, the name of the execution in a configuration; `stopped`, called often, tells whether to stop.
    """
    kind, _, where = how.partition(":")
    if kind == "processes":
        return processes.stream(work, chains, int(where or processes.cores()), stopped)
    if kind == "ray":
        return cluster.stream(work, chains, where, stopped)
    run = _batched if devices.chosen(how) == "batched" else _serial
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
                devices.run([functools.partial(attend, chain) for chain in chains], "batched")
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
