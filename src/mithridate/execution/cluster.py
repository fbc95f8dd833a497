"""Chains as tasks of a Ray cluster, here or on many machines; Ray is optional.

Each chain is one task that asks for a core, or for an accelerator where the driver computes on one; the work lies in
Ray's object store once. A task that is lost with its worker or node is not retried by Ray, which would begin anew, but
given out again by the driver, which has stored what the chain had come to.
"""

import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, no_type_check

import jax

from mithridate.errors import InputError, MithridateError
from mithridate.execution.attempts import Attempt, attempts
from mithridate.execution.processes import PATIENCE, cores, surroundings
from mithridate.execution.work import Pace, Work
from mithridate.files.systems import STOPPING
from mithridate.versions import versions

POLL = 0.1
"""Seconds between two times that the driver looks whether to stop."""

CARRIED = ("JAX_", "XLA_")
"""How the variables begin that decide how JAX computes: tasks get the driver's."""


def check() -> None:
    """Raise `InputError` when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("execution = ray: Ray is not installed: pip install 'mithridate[ray]'")


def stream(work: Work, chains: Sequence[Any], address: str, stopped: Callable[[], bool]) -> Iterator[Any]:
    """Yield what all chains yield, run on the cluster at this address, or on one started here for them if it is empty.

    See `chains.stream`.
    """
    check()
    with _connected(address):
        yield from _streamed(work, chains, stopped)


def _streamed(work: Work, chains: Sequence[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    accelerated = jax.default_backend() != "cpu"
    task = ray.remote(_serve).options(
        num_cpus=1,
        num_gpus=int(accelerated),
        max_retries=0,
        num_returns="streaming",
        runtime_env={"env_vars": _variables(accelerated)},
    )
    held, running, begun = ray.put(work), {}, set()

    def begin(attempt: Attempt) -> None:
        # In a list, which leaves it to the task when to fetch them, and how often.
        running[task.remote([held, ray.put(attempt.chain)], Pace.EVERY, versions(), sys.path)] = attempt

    for attempt in attempts(work, chains):
        begin(attempt)
    try:
        while running:
            for idle in [each for each in running if each not in begun] if stopped() else ():
                ray.cancel(idle)
                del running[idle]
            ready: list[Any] = ray.wait([*running], timeout=POLL)[0] if running else []
            for each in ready:
                attempt = running[each]
                try:
                    outcome = ray.get(next(each))
                except StopIteration:
                    del running[each]
                except RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, MithridateError) else error) from None
                except RayError as error:
                    del running[each]
                    yield from attempt.lost(f"the worker was lost ({type(error).__name__})")
                    if attempt.hopeful and not stopped():
                        begin(attempt)
                else:
                    begun.add(each)
                    before = attempt.chain
                    yield attempt.told(outcome)
                    # A task is not asked to stop; it says so often where it stands that it can just be left there.
                    if stopped() and attempt.chain is not before:
                        ray.cancel(each)
                        del running[each]
    finally:
        for each in running:
            ray.cancel(each)


_made: dict[Any, Work] = {}
"""The work that this process, a worker's, has fetched last; what it has compiled serves the next chain."""


@no_type_check  # Ray wants a generator function, and one whose types are checked at run time is none
def _serve(held: list[Any], every: float, expected: dict[str, str], path: list[str]) -> Iterator[Any]:
    """Run one chain, as a task; modules of the user's own are looked for where the driver finds them."""
    import ray

    found = versions()
    if other := [name for name in expected if found.get(name) != expected[name]]:
        here, there = expected[other[0]], found.get(other[0])
        raise InputError(
            f"execution = ray: {other[0]} is {there} on a worker and {here} here, which would give other numbers; have "
            "the same everywhere"
        )
    sys.path += [place for place in path if place not in sys.path]
    if held[0] not in _made:
        _made.clear()
        _made[held[0]] = ray.get(held[0])
    work = _made[held[0]]
    with work.precision():
        yield from work.run(ray.get(held[1]), Pace(lambda: False, every))


def _variables(accelerated: bool) -> dict[str, str]:
    """Return the environment of a task: the driver's as far as JAX is concerned, and one core."""
    carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
    return carried if accelerated else carried | surroundings(1) | {"JAX_PLATFORMS": "cpu"}


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Be connected to a cluster: the one at this address, one that is started here, or that which the caller is in."""
    import ray

    if ray.is_initialized():
        yield
        return
    started: dict[str, Any] = {"address": address}
    if not address:
        # Nobody is told of it, and the dashboard would be one process more.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        started = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    with _quiet():
        try:
            if ":" in address:  # where nobody listens Ray would wait for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
            ray.init(**started, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        except Exception as error:  # noqa: BLE001 (Ray does not say which; it is told to the user)
            said = " ".join(str(error).split())[:200]
            raise InputError(f"execution = ray:{address}: no connection to a cluster ({said})") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from the terminal, and the handlers of signals from Ray.

    JAX warns of every fork; the processes that Ray forks here are replaced by its own programs at once.
    """
    logger = logging.getLogger("ray")
    level, main = logger.level, threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in STOPPING} if main else {}
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            yield
    finally:
        logger.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)
