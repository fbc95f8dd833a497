"""Feasible sets Φ and their projections Π (Eq. 5)."""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax.projections
from jaxtyping import Array, Float

from mithridate.errors import InputError


@runtime_checkable
class FeasibleSet(Protocol):
    """What an attack asks of Φ(X_p)."""

    def project(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return Π(x), the point of Φ nearest to x."""
        ...


class Box(eqx.Module):
    """Φ = {x : low ≤ x ≤ high}, the same for every point; bounds are () or one per feature (m,).

    Raises `InputError` when a lower bound lies above its upper bound or is not finite.
    """

    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]

    def __init__(self, low: float | np.ndarray, high: float | np.ndarray):
        lows, highs = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise InputError(f"bounds must be finite; got {low} to {high}")
        if np.any(lows > highs):
            raise InputError(
                f"bounds are the wrong way round: {np.max(lows):g} lies above {np.min(highs):g}; "
                "give the lower bound first"
            )
        self.low, self.high = lows, highs

    def project(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return argmin over z in Φ of ‖z − x‖."""
        low, high = (jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape) for b in (self.low, self.high))
        return optax.projections.projection_box(x, low, high)
