"""Penalties R(w, λ), added to the *sum* of the rows' losses.

The objective divides by the number of rows n, so L2 is e^λ/(2n)·‖w‖² in the mean loss. The paper's Eq. 6 has no n.
With n, λ means the same for any number of rows (it is scikit-learn's −log C), and the paper's bounds on λ lie within
the stability limit 2n/η of its inner gradient descent. Without n they do not.
"""

from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mithridate.errors import InputError


def squared_norm(weights: PyTree[Array]) -> Float[Array, ""]:
    """Return ‖w‖² over every leaf."""
    leaves = jax.tree.leaves(weights)
    return jnp.sum(jnp.stack([jnp.vdot(leaf, leaf) for leaf in leaves]))


@runtime_checkable
class Penalty(Protocol):
    """What a learner needs of a penalty."""

    def __call__(self, weights: PyTree[Array], log_strength: Float[Array, "*groups"]) -> Float[Array, ""]:
        """Return R(w, λ)."""
        ...


@runtime_checkable
class Shrinking(Penalty, Protocol):
    """A penalty that is exactly Σ s_layer/2·‖w_layer‖²: its gradient only shrinks each layer's weights."""

    def strengths(self, weights: PyTree, log_strength: Float[Array, "*groups"]) -> list[Float[Array, ""]]:
        """Return s of each layer."""
        ...


class L2(eqx.Module):
    """L2 regularisation R(w, λ) = Σ_g e^λ_g/2·‖w_g‖² (in the mean loss Σ_g e^λ_g/(2n)·‖w_g‖²); λ is the log strength.

    A scalar λ acts on all weights. A vector λ has one entry per group of layers. `groups` gives the entry of each
    layer; by default each layer has its own.
    """

    words: ClassVar[str] = "L2: e^λ/(2n)·‖w‖² added to the mean of the n rows' losses"

    groups: tuple[int, ...] | None = eqx.field(default=None, static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the λ that is tuned: () for a number, or one entry for each named group."""
        return () if self.groups is None else (len(set(self.groups)),)

    def strengths(self, weights: PyTree, log_strength: Float[Array, "*groups"]) -> list[Float[Array, ""]]:
        """Return e^λ of each layer. Raises `InputError` when λ does not fit the layers."""
        layers = len(jax.tree.leaves(weights))
        strength = jnp.exp(log_strength)
        if not strength.ndim:
            return [strength] * layers
        groups = self.groups or tuple(range(layers))
        if len(groups) != layers or set(groups) != set(range(len(strength))):
            raise InputError(f"{len(strength)} λ for {layers} layers in groups {groups}: give one λ for every group")
        return [strength[group] for group in groups]

    def __call__(self, weights: PyTree[Array], log_strength: Float[Array, "*groups"]) -> Float[Array, ""]:
        """Return R(w, λ)."""
        layers = zip(self.strengths(weights, log_strength), jax.tree.leaves(weights), strict=True)
        return 0.5 * jnp.sum(jnp.stack([strength * jnp.vdot(leaf, leaf) for strength, leaf in layers]))
