"""How independent chains of work share the devices: one after the other, in step as one batch, or each on all of them.

On a CPU chains run in turn, since a batch does not fit into the cache. On an accelerator each chain runs in its own
thread. When all of them wait in a `shared` function, calls with the same shapes are stacked and run as one vmapped
call, whose batch is divided among all devices. For one large problem the chains run in turn and the training rows are
divided instead (see `placed`). The chains are written once, as if each ran alone.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Result = TypeVar("Result")
Execution = Literal["serial", "batched", "sharded"]

_present = threading.local()


def chosen(execution: str) -> Execution:
    """Return how a process runs its chains: as configured, in turn if there are other processes, or by device.

    Example:
        >>> chosen("sharded"), chosen("processes:4")
        ('sharded', 'serial')
    """
    if execution == "auto":
        return "serial" if jax.default_backend() == "cpu" else "batched"
    return "serial" if execution.startswith(("processes", "ray")) else cast(Execution, execution)


def placed(execution: Execution) -> AbstractContextManager[Any]:
    """Return the context that puts training rows on the devices: divided among all of them if `sharded`."""
    devices = jax.local_devices()
    if execution != "sharded" or len(devices) == 1:
        return nullcontext()
    return jax.set_mesh(jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices))


@contextmanager
def surroundings(precision: str, execution: str) -> Iterator[None]:
    """Enter the context of an audit: the precision of its numbers, and the devices of its rows."""
    wide = precision == "float64"
    with jax.enable_x64(wide), jax.default_matmul_precision("highest"), placed(chosen(execution)):
        yield


def exact(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the function with matrix products in full precision.

    On NVIDIA's cards JAX would round their inputs to 10 bits (TF32): a network's hypergradient was off by 3 %.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Result:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **named)

    return call


def shared(function: Callable[..., Any], donate: Any = "none") -> Callable[..., Any]:
    """Return the function compiled, and batched over all chains that call it together.

    Arrays among its arguments may differ between chains, other arguments must be equal. Its results must be arrays.
    """
    function = exact(function)
    alone = eqx.filter_jit(function, donate=donate)

    @eqx.filter_jit
    def together(mesh: Mesh | None, arrays: Any, rest: Any) -> Any:
        each = jax.vmap(lambda own: function(*eqx.combine(own, rest)))
        if mesh is not None:
            # Each device works on its own chains; the devices exchange nothing.
            chains = PartitionSpec(mesh.axis_names)
            each = jax.shard_map(each, mesh=mesh, in_specs=chains, out_specs=chains, check_vma=False)
        return each(arrays)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        meeting = getattr(_present, "meeting", None)
        return alone(*arguments) if meeting is None else meeting.call(alone, together, arguments)

    return call


def stacked(together: Callable[..., Any], arrays: Sequence[Any], rest: Any) -> list[Any]:
    """Return the results of k ≥ 1 calls, run as one; `arrays` are the arguments of each, `rest` the common ones.

    The devices get equal shares, on as few devices as give the smallest shares. If k does not divide evenly, the last
    call is repeated. The results are returned to one device, where the chains' own arrays are.
    """
    devices = jax.local_devices()
    share = -(-len(arrays) // len(devices))
    mesh = Mesh(np.array(devices[: -(-len(arrays) // share)]), "chains")
    filled = [*arrays, *[arrays[-1]] * (share * mesh.size - len(arrays))]
    batch = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *filled)
    if mesh.size == 1:
        found = together(None, batch, rest)
    else:
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("chains")))
        found = jax.device_put(together(mesh, batch, rest), devices[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(arrays))]


def run(chains: Sequence[Callable[[], Result]], execution: Execution) -> list[Result]:
    """Return the results of all chains, in order. The first error of any chain is raised."""
    if execution != "batched":
        return [chain() for chain in chains]
    meeting, wide = _Meeting(len(chains)), jnp.zeros(()).dtype == jnp.float64

    def attend(chain: Callable[[], Result]) -> Result:
        _present.meeting = meeting
        try:
            with jax.enable_x64(wide):  # each thread has its own precision
                return chain()
        finally:
            _present.meeting = None
            meeting.leave()

    with ThreadPoolExecutor(len(chains)) as pool:
        futures = [pool.submit(attend, chain) for chain in chains]
        return [future.result() for future in futures]


class _Meeting:
    """The place where the chains' threads wait for one another. The last to arrive does the work for all."""

    def __init__(self, members: int):
        self.condition, self.members = threading.Condition(), members
        self.waiting: list[tuple[Any, Any, tuple[Any, ...], list[Any]]] = []

    def call(self, alone: Any, together: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the function's result, computed together with all similar calls."""
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
        """Leave; if the others were waiting only for this member, they go on."""
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
                    results = stacked(entries[0][1], arrays, rests[0])
            except Exception as error:  # noqa: BLE001 (it is raised again in every chain that waits for the result)
                results = [error] * len(entries)
            for entry, result in zip(entries, results, strict=True):
                entry[3].append(result)
        self.condition.notify_all()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
