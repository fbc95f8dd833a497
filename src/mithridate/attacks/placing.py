"""Poison put in its places among the training rows on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mithridate.attacks.poison import Batch
from mithridate.execution.devices import shared
from mithridate.victims.rows import Rows


def padded(places: np.ndarray, size: int, rows: Rows) -> Array:
    """Return the places, padded to `size`. The padding lies past the end of the rows, so it replaces nothing."""
    return jnp.asarray(np.pad(places, (0, size - len(places)), constant_values=len(rows.y)))


@jax.jit
def without(weight: Array, places: Array) -> Array:
    """Return the weights of rows, 0 in these places."""
    return weight.at[places].set(0.0, mode="drop")


def poisoned(rows: Rows, own: bool, batch: Batch, size: int) -> tuple[Rows, bool]:
    """Return the rows with a batch in its places, and whether they are our own; rows that are not are copied."""
    if not len(batch.y_poison):
        return rows, own
    put = _put_in_place if own else _put
    return put(rows, padded(batch.places, size, rows), Rows.of(batch.x_poison, batch.y_poison, size)), True


def _replaced(rows: Rows, places: Array, batch: Rows) -> Rows:
    return rows.replaced(places, batch)


_put, _put_in_place = shared(_replaced), shared(_replaced, donate="all")
