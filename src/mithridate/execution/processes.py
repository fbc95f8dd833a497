"""Chains in processes of this machine, each with its share of the cores.

A worker is spawned, gets the work once and then one chain after another, the largest first. It shares only a pipe with
the driver. If one of them is killed, the pipe ends and the other notices: the driver has the chain run again from its
last reported state, and a worker without a driver ends at once.
"""

import atexit
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import jax
import joblib

from mithridate.errors import InputError
from mithridate.execution.attempts import Attempt, attempts
from mithridate.execution.work import Pace, Work
from mithridate.files import systems

POLL = 0.1
"""Seconds between the driver's checks whether to stop."""

PATIENCE = 5.0
"""Seconds within which a worker must end before it is killed, and a cluster must answer."""

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""The variables that limit the threads of linear algebra libraries; they are read when these are loaded."""

UNGUARDED = "in a script, call it under `if __name__ == '__main__':`, since every worker imports the script"

_context = multiprocessing.get_context("spawn")


def cores() -> int:
    """Return how many cores this process may use: those of its affinity, within its container's limit."""
    return joblib.cpu_count()


def parts() -> int:
    """Return the number of parts into which XLA divides a large sum here (its threads), which affects rounding."""
    return int(os.environ.get("NPROC") or 0) or len(systems.usable_cores()) or os.cpu_count() or 1


def surroundings(threads: int) -> dict[str, str]:
    """Return the environment of a process with this many cores that divides its sums as this process does."""
    return dict.fromkeys(LIBRARIES, str(threads)) | {"NPROC": str(parts())}


def check() -> None:
    """Raise `InputError` on an accelerator: the first process would take all of its memory."""
    if (device := jax.default_backend()) != "cpu":
        raise InputError(f"execution = processes: needs CPU cores, but JAX computes on a {device}; use batched")


def stream(work: Work, chains: Sequence[Any], most: int, stopped: Callable[[], bool]) -> Iterator[Any]:
    """Yield the outcomes of all chains, run by at most `most` workers; see `chains.stream`."""
    waiting, crew, stopping = attempts(work, chains), _Crew(work, min(most, len(chains))), False
    try:
        while True:
            if not stopping and stopped():
                stopping = True
                waiting.clear()
                crew.stop()
            while len(crew.members) < crew.most and len(waiting) > crew.starting():
                crew.add()
            if not crew.members:
                return
            for pipe in wait([*crew.members], POLL):
                worker = crew.members[pipe]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    attempt, end = worker.attempt, crew.remove(worker)
                    if attempt is None:
                        remedy = UNGUARDED if "exit code" in end else "give fewer processes"
                        raise InputError(f"execution = processes: {end}, as it started; {remedy}") from None
                    yield from attempt.lost(end)
                    if attempt.hopeful and not stopping:
                        waiting.insert(0, attempt)
                    continue
                if kind == "error":
                    raise content
                if kind == "outcome" and worker.attempt:
                    yield worker.attempt.told(content)
                elif waiting:
                    worker.give(waiting.pop(0))
                else:
                    crew.remove(worker)
    finally:
        crew.close()


class _Worker:
    """A process, the pipe to it, and its present attempt (None until it has reported that it is ready)."""

    def __init__(self, packed: Any, own: list[int], threads: int):
        self.pipe, theirs = _context.Pipe()
        self.packed, self.attempt, self.own = packed, None, own
        self.process = _context.Process(target=_serve, args=(theirs, own, Pace.EVERY))
        try:
            with _surroundings(surroundings(threads)):
                self.process.start()
        except Exception as error:  # noqa: BLE001 (Python does not document which; the user gets the message)
            said = " ".join(str(error).split())[:120]
            raise InputError(f"execution = processes: no worker can be started here ({said}); {UNGUARDED}") from None
        theirs.close()

    def give(self, attempt: Attempt) -> None:
        self.attempt = attempt
        with suppress(OSError):  # it was killed; the next read of the pipe shows it
            if self.packed is not None:
                self.pipe.send_bytes(self.packed)
                self.packed = None
            self.pipe.send(attempt.chain)

    def end(self, patience: float = PATIENCE) -> str:
        """Wait for its end, or kill it; return how it ended, in words."""
        self.pipe.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return f"the worker process {systems.how_it_ended(self.process.exitcode or 0)}"


class _Crew:
    """The workers, by their pipes: at most `most` at once, each with its share of the cores."""

    def __init__(self, work: Work, most: int):
        try:
            self.packed = bytes(ForkingPickler.dumps(work))
        except Exception as error:
            raise InputError(
                f"execution = processes: the audit cannot be sent to another process ({error}); put your own parts "
                "in a module that can be imported"
            ) from error
        self.most, self.threads = most, max(1, cores() // max(1, most))
        usable = sorted(systems.usable_cores())
        self.shares = [usable[i * self.threads :][: self.threads] for i in range(self.most)]
        self.members: dict[Any, _Worker] = {}
        atexit.register(self.close)

    def starting(self) -> int:
        return sum(worker.attempt is None for worker in self.members.values())

    def add(self) -> None:
        worker = _Worker(self.packed, self.shares.pop(0), self.threads)
        self.members[worker.pipe] = worker

    def remove(self, worker: _Worker, patience: float = PATIENCE) -> str:
        del self.members[worker.pipe]
        self.shares.append(worker.own)
        return worker.end(patience)

    def stop(self) -> None:
        """Tell all chains to stop where they are."""
        for worker in [*self.members.values()]:
            if worker.attempt is None:
                self.remove(worker, patience=0.0)
            else:
                with suppress(OSError):
                    worker.pipe.send(None)

    def close(self) -> None:
        atexit.unregister(self.close)
        for worker in self.members.values():
            worker.pipe.close()
        for worker in [*self.members.values()]:
            self.remove(worker, PATIENCE if worker.attempt else 0.0)


@contextmanager
def _surroundings(variables: dict[str, str]) -> Iterator[None]:
    """Give processes that start meanwhile these variables, and make them ignore Ctrl-C and SIGTERM.

    Both signals may go to the whole process group. The driver tells the workers by the pipe what to do.
    """
    before = {name: os.environ.get(name) for name in variables}
    with systems.deaf_children():
        os.environ |= variables
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _serve(pipe: Connection, own: Sequence[int], every: float) -> None:
    """Run the chains that come through the pipe: the main function of a worker process, on its own cores."""
    systems.deafen()
    systems.bind(own)  # XLA starts its threads with the first computation; they keep this thread's cores
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop = threading.Event()

    def listen() -> None:
        while True:
            try:
                order = pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the driver is gone: do not even finish the current step
            except Exception as error:  # noqa: BLE001 (the driver is told; it cannot be read here)
                order = error
            stop.set() if order is None else orders.put(order)

    threading.Thread(target=listen, daemon=True).start()
    with suppress(OSError):  # the driver is gone
        _work(pipe, orders, Pace(stop.is_set, every))


def _work(pipe: Connection, orders: "queue.SimpleQueue[Any]", pace: Pace) -> None:
    """Report ready, then do what comes: first receive the work, then run chain after chain."""
    work: Work | None = None
    pipe.send(("ready", None))
    while True:
        order = orders.get()
        try:
            if isinstance(order, Exception):
                raise order
            if work is None:
                work = order
                continue
            with work.precision():
                for outcome in work.run(order, pace):
                    pipe.send(("outcome", outcome))
        except Exception as error:  # noqa: BLE001 (raised where the stream is read)
            pipe.send(("error", _portable(error)))
        else:
            pipe.send(("ready", None))


def _portable(error: Exception) -> Exception:
    """Return the error, or one with its message if the error itself cannot be sent."""
    try:
        ForkingPickler.dumps(error)
    except Exception:  # noqa: BLE001 (whatever kept it)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
