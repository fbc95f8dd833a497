"""Labelled rows: the form in which all training and validation data reach the numerical code."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mithridate.errors import InputError
from mithridate.tasks.base import Task
from mithridate.tasks.classification import Classification

AXIS = "rows"
"""The axis of a JAX mesh along which rows are divided among devices."""
CHUNK = 4096
"""How many rows are checked, or sent to the device, at once, so that a large set needs no second copy in memory."""


class Rows(NamedTuple):
    """n labelled rows with weights. Weight 0 removes a row without changing any shape.

    `x` is (n, m), `y` (n,) with labels 0 … K − 1, `weight` (n,). `gram`, if known, is x·xᵀ (n, n); Gram space then need
    not compute it.
    """

    x: Float[Array, "n m"]
    y: Float[Array, " n"]
    weight: Float[Array, " n"]
    gram: Float[Array, "n n"] | None = None

    @classmethod
    def of(
        cls, x: np.ndarray | Array, y: np.ndarray | Array, capacity: int | None = None, divided: bool = False
    ) -> "Rows":
        """Put rows on the device in the default float type, each with weight 1.

        With a `capacity`, they are padded to that number by rows of zeros with weight 0. With `divided`, each device of
        the JAX mesh in force gets its share of the features, if the mesh has an axis "rows" (`jax.set_mesh`). Raises
        `InputError` if the shares are not equal.
        """
        n = capacity or len(y)
        devices = dict(zip(_mesh().axis_names, _mesh().axis_sizes, strict=True)).get(AXIS, 1) if divided else 1
        if n % devices:
            raise InputError(
                f"{n} rows, with room for added poison, do not divide evenly among {devices} devices; use a "
                f"multiple of {devices}"
            )
        spare = (0, n - len(y))
        dtype = jnp.zeros(()).dtype
        labels = jnp.asarray(np.pad(np.asarray(y), spare).astype(dtype))
        weight = jnp.asarray(np.pad(np.ones(len(y)), spare).astype(dtype))
        return cls(_features(np.asarray(x), n, divided=devices > 1), labels, weight)

    @property
    def size(self) -> Float[Array, ""]:
        """The sum of the weights: the number of rows that are not removed."""
        return jnp.sum(self.weight)

    def with_gram(self) -> "Rows":
        """Return the rows with their Gram matrix."""
        return self._replace(gram=self.x @ self.x.T)

    def replaced(self, places: Int[Array, " k"], others: "Rows") -> "Rows":
        """Return the rows with `others` (k rows) in these places; a place past the end replaces nothing."""

        def put(old: Array, new: Array) -> Array:
            return old.at[places].set(new, mode="drop")

        x, y, weight = (put(old, new) for old, new in zip(self[:3], others[:3], strict=True))
        if self.gram is None:
            return Rows(x, y, weight)
        across = others.x @ x.T
        gram = self.gram.at[places, :].set(across, mode="drop").at[:, places].set(across.T, mode="drop")
        return Rows(x, y, weight, gram)

    def with_weight(self, weight: Float[Array, " n"]) -> "Rows":
        """Return the rows with another `weight`."""
        return self._replace(weight=weight)


def join(blocks: tuple[Rows, ...]) -> Rows:
    """Stack blocks of rows into one."""
    if len(blocks) == 1:
        return blocks[0]
    return Rows(*(jnp.concatenate(parts) for parts in zip(*(b[:3] for b in blocks), strict=True)))


def sanitised(blocks: tuple[Rows, ...], defence: Any) -> tuple[Rows, ...]:
    """Return blocks of rows with the weights that a defence gives them. No derivative passes through the weights.

    `defence`, if not None, has a method `sanitise`, from rows to their weights (see `defences.base.Sanitiser`).
    """
    if defence is None:
        return blocks
    ends = np.cumsum([len(block.y) for block in blocks])[:-1]
    weight = jax.lax.stop_gradient(defence.sanitise(jax.lax.stop_gradient(join(blocks))))
    return tuple(block.with_weight(own) for block, own in zip(blocks, jnp.split(weight, ends), strict=True))


def take(blocks: tuple[Rows, ...], index: Int[Array, " b"], real: Bool[Array, " b"]) -> Rows:
    """Return the rows with these numbers, counted through all blocks. Rows that are not `real` get weight 0.

    No block is copied. If the blocks are divided among devices, so is the result.
    """
    parts, begin = [], 0
    for block in blocks:
        end = begin + len(block.y)
        own, at = (index >= begin) & (index < end), jnp.clip(index, begin, end - 1) - begin
        parts.append((own, tuple(part[at] for part in block[:3])))
        begin = end
    *others, (_, (x, y, weight)) = parts
    for own, (own_x, own_y, own_weight) in reversed(others):
        x, y, weight = (
            jnp.where(own[:, None], own_x, x),
            jnp.where(own, own_y, y),
            jnp.where(own, own_weight, weight),
        )
    if AXIS in _mesh().axis_names:
        x = jax.lax.with_sharding_constraint(x, PartitionSpec(AXIS))
    return Rows(x, y, weight * real)


def _mesh() -> Any:
    """Return the mesh in force. JAX is moving this function from one module to another, so both are tried."""
    module: Any = jax if hasattr(jax, "get_abstract_mesh") else jax.sharding
    return module.get_abstract_mesh()


def _features(x: np.ndarray, n: int, divided: bool) -> Float[Array, "n m"]:
    """Return features on the device, or on all of them, with rows of zeros up to n."""
    shape = n, x.shape[1]

    def some(part: Any) -> np.ndarray:
        rows = range(n)[part[0]]
        found = np.zeros((len(rows), shape[1]), jnp.zeros(()).dtype)
        here = x[rows.start : rows.stop]
        found[: len(here)] = here
        return found

    # Many rows are sent in parts, because a whole array would be copied on the way.
    if divided:
        sharding = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(AXIS))
        shares = sharding.addressable_devices_indices_map(shape).items()
        on_each = [jax.block_until_ready(jax.device_put(some(part), device)) for device, part in shares]
        return jax.make_array_from_single_device_arrays(shape, sharding, on_each)
    if n <= CHUNK:
        return jnp.asarray(some((slice(n),)))
    found = jnp.zeros(shape)
    for first in range(0, len(x), CHUNK):
        found = jax.block_until_ready(_with_part(found, jnp.asarray(x[first : first + CHUNK], dtype=float), first))
    return found


@functools.partial(jax.jit, donate_argnums=0)
def _with_part(whole: Float[Array, "n m"], part: Float[Array, "k m"], first: Int[Array, ""]) -> Float[Array, "n m"]:
    return jax.lax.dynamic_update_slice(whole, part, (first, jnp.zeros_like(first)))


TWO = Classification()


def check_rows(name: str, x: np.ndarray, y: np.ndarray, task: Task = TWO) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, m) and labels (n,), or raise `InputError` that names the first fault.

    Returns copies in float64, except that float32 features are returned unchanged. Checked: shapes agree, there is at
    least one row, every feature is finite, the labels are those of the task.
    """
    x, y = np.asarray(x), np.array(y)
    x = x if x.dtype == np.float32 else np.array(x, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise InputError(f"{name}: features must be (n, m) with n ≥ 1 and labels (n,); got {x.shape} and {y.shape}")
    chunks = [slice(first, first + CHUNK) for first in range(0, len(x), CHUNK)]
    bad = [x[rows].size - int(np.isfinite(x[rows]).sum()) for rows in chunks]
    if any(bad):
        first = chunks[int(np.argmax(np.array(bad) > 0))]
        row, column = np.argwhere(~np.isfinite(x[first]))[0] + (first.start, 0)
        raise InputError(
            f"{name}: {sum(bad)} feature value(s) are NaN or infinite, the first in row {row}, "
            f"column {column} ({x[row, column]}); drop or impute them first"
        )
    return x, task.check(name, y)
