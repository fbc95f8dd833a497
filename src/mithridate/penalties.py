"""Penalties R(w, λ), added to the *sum* of the rows' losses.

The objective divides by the number of rows n, so L2 reads e^λ/(2n)·‖w‖² in the mean loss. The paper's Eq. 6
leaves n out; with it, λ means the same for any n (it is scikit-learn's −log C), and the paper's bounds on λ lie
within the stability limit 2n/η of its inner gradient descent, which they do not without.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def squared_norm(weights: PyTree[Array]) -> Float[Array, ""]:
    """Return ‖w‖² over every leaf."""
    leaves = jax.tree.leaves(weights)
    return jnp.sum(jnp.stack([jnp.vdot(leaf, leaf) for leaf in leaves]))


@runtime_checkable
class Penalty(Protocol):
    """What a learner asks of a penalty."""

    def __call__(self, weights: PyTree[Array], log_strength: Float[Array, ""]) -> Float[Array, ""]:
        """Return R(w, λ)."""
        ...


class L2(eqx.Module):
    """L2 regularisation R(w, λ) = e^λ/2·‖w‖² (Eq. 6); λ is the log of the strength."""

    def __call__(self, weights: PyTree[Array], log_strength: Float[Array, ""]) -> Float[Array, ""]:
        """Return R(w, λ)."""
        return 0.5 * jnp.exp(log_strength) * squared_norm(weights)
