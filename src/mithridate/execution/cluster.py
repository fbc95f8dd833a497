"""Chains as tasks of a Ray cluster, here or on many machines; Ray is optional.

Each chain is one task that asks for a core, or for an accelerator if the driver computes on one. The work is in Ray's
object store once. If a task is lost with its worker or node, Ray does not retry it, since it would start from the
beginning. The driver submits it again from the last state that it has stored.
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
"""Seconds between the driver's checks whether to stop."""

CARRIED = ("JAX_", "XLA_")
"""Prefixes of the environment variables that control JAX: tasks get the driver's values."""


def check() -> None:
    """Raise `InputError` if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("execution = ray: Ray is not installed: pip install 'mithridate[ray]'")


def stream(work: Work, chains: Sequence[Any], address: str, stopped: Callable[[], bool]) -> Iterator[Any]:
    """Yield the outcomes of all chains, run on the cluster at this address, or on a new local one if it is empty.

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
        # References inside a list are not fetched by Ray: the task decides when to fetch them.
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
                    # A task cannot be asked to stop, but it reports its state so often that it can be cancelled.
                    if stopped() and attempt.chain is not before:
                        ray.cancel(each)
                        del running[each]
    finally:
        for each in running:
            ray.cancel(each)


_made: dict[Any, Work] = {}
"""The work that this worker process fetched last; the next chain reuses what it has compiled."""


@no_type_check  # Ray needs a generator function; with run-time type checks it would not be one
def _serve(held: list[Any], every: float, expected: dict[str, str], path: list[str]) -> Iterator[Any]:
    """Run one chain as a task. The user's own modules are looked for where the driver finds them."""
    import ray

    found = versions()
    if other := [name for name in expected if found.get(name) != expected[name]]:
        here, there = expected[other[0]], found.get(other[0])
        raise InputError(
            f"execution = ray: {other[0]} is {there} on a worker and {here} here, which would give other numbers; "
            "install the same everywhere"
        )
    sys.path += [place for place in path if place not in sys.path]
    if held[0] not in _made:
        _made.clear()
        _made[held[0]] = ray.get(held[0])
    work = _made[held[0]]
    with work.precision():
        yield from work.run(ray.get(held[1]), Pace(lambda: False, every))


def _variables(accelerated: bool) -> dict[str, str]:
    """Return the environment of a task: the driver's settings for JAX, and one core."""
    carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
    return carried if accelerated else carried | surroundings(1) | {"JAX_PLATFORMS": "cpu"}


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster: the one that the caller is in, the one at this address, or one that is started here."""
    import ray

    if ray.is_initialized():
        yield
        return
    started: dict[str, Any] = {"address": address}
    if not address:
        # Send no usage statistics, and save the process of the dashboard.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        started = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    with _quiet():
        try:
            if ":" in address:  # if nobody listened, Ray would wait for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
            ray.init(**started, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        except Exception as error:  # noqa: BLE001 (Ray does not document which; the user gets the message)
            said = " ".join(str(error).split())[:200]
            raise InputError(f"execution = ray:{address}: no connection to a cluster ({said})") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's output off the terminal, and our signal handlers from being replaced by Ray's.

    JAX warns about every fork; here that is harmless, since the forked processes start Ray's own programs at once.
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
