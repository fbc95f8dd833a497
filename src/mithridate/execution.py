"""How independent chains of work share a device: one after the other, or in step as one batch.

On a CPU chains run in turn, since a batch leaves the cache. On an accelerator each chain runs in its own thread; where
all of them wait in a `shared` function, calls of the same shapes are stacked and run as one vmapped call. The chains
are written once, as if each were alone, and know nothing of it.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

Result = TypeVar("Result")
Execution = Literal["auto", "serial", "batched"]

_present = threading.local()


def chosen(execution: Execution) -> Literal["serial", "batched"]:
    """Return the execution that suits the device, unless one is asked for."""
    if execution != "auto":
        return execution
    return "serial" if jax.default_backend() == "cpu" else "batched"


def shared(function: Callable[..., Any], donate: Any = "none") -> Callable[..., Any]:
    """Return the function compiled, and batched over all chains that call it together.

    Every array among its arguments is its own in every chain; its results have to be arrays.
    """
    alone = eqx.filter_jit(function, donate=donate)
    together = eqx.filter_jit(eqx.filter_vmap(function))

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        meeting = getattr(_present, "meeting", None)
        return alone(*arguments) if meeting is None else meeting.call(alone, together, arguments)

    return call


def run(chains: Sequence[Callable[[], Result]], execution: Literal["serial", "batched"]) -> list[Result]:
    """Return the results of all chains, in order. The first error of any chain is raised."""
    if execution == "serial":
        return [chain() for chain in chains]
    meeting, wide = _Meeting(len(chains)), jnp.zeros(()).dtype == jnp.float64

    def attend(chain: Callable[[], Result]) -> Result:
        _present.meeting = meeting
        try:
            with jax.enable_x64(wide):  # the precision in force belongs to a thread
                return chain()
        finally:
            _present.meeting = None
            meeting.leave()

    with ThreadPoolExecutor(len(chains)) as pool:
        futures = [pool.submit(attend, chain) for chain in chains]
        return [future.result() for future in futures]


class _Meeting:
    """Where the chains' threads wait for one another; the last to arrive does the work for all."""

    def __init__(self, members: int):
        self.condition, self.members = threading.Condition(), members
        self.waiting: list[tuple[Any, Any, tuple[Any, ...], list[Any]]] = []

    def call(self, alone: Any, together: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the function's result, computed with all calls like it."""
        place: list[Any] = []
        with self.condition:
            self.waiting.append((alone, together, arguments, place))
            if len(self.waiting) == self.members:
                self._work()
            else:
                self.condition.wait_for(lambda: place)
        if isinstance(place[0], BaseException):
            raise place[0]
        return place[0]

    def leave(self) -> None:
        """Go; those who waited for this member alone go on."""
        with self.condition:
            self.members -= 1
            if self.waiting and len(self.waiting) == self.members:
                self._work()

    def _work(self) -> None:
        groups: dict[Any, list[Any]] = {}
        for entry in self.waiting:
            arrays, rest = eqx.partition(entry[2], _is_array)
            shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(arrays))
            statics, tree = jax.tree.flatten(rest)
            groups.setdefault((id(entry[0]), tree, tuple(statics), shapes), []).append((entry, arrays, rest))
        self.waiting = []
        for group in groups.values():
            entries, arrays, rests = zip(*group, strict=True)
            try:
                if len(entries) == 1:
                    results = [entries[0][0](*entries[0][2])]
                else:
                    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *arrays)
                    found = entries[0][1](*eqx.combine(stacked, rests[0]))
                    results = [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(entries))]
            except Exception as error:  # noqa: BLE001 (it is raised again in every chain that waits for the result)
                results = [error] * len(entries)
            for entry, result in zip(entries, results, strict=True):
                entry[3].append(result)
        self.condition.notify_all()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
