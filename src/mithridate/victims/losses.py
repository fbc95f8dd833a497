"""Losses of one row, given its logits and its label.

A loss can describe itself in `words`; otherwise its name is used.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Loss(Protocol):
    """What a learner needs of a loss: the loss of each row, from logits (n,) or (n, K) and labels (n,)."""

    def __call__(self, logits: Float[Array, "n *classes"], labels: Float[Array, " n"], /) -> Float[Array, " n"]:
        """Return the losses (n,), none of them negative."""
        ...


def _in_words(words: str) -> Callable[[Any], Any]:
    def told(loss: Any) -> Any:
        loss.words = words
        return loss

    return told


@jax.custom_jvp
def _softplus(z: Array) -> Array:
    """Return log(1 + e^z), whose derivatives of every order need only σ.

    Optax's cross-entropy has the same value, but its second derivative makes a dozen intermediate arrays, which the
    backward pass through training must keep. A hypergradient took 1.3 times as long with it.
    """
    return jnp.logaddexp(z, 0.0)


@_softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (z,), (dz,) = primals, tangents
    return _softplus(z), jax.lax.logistic(z) * dz


@_in_words("logistic loss (cross-entropy)")
def cross_entropy(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return the cross-entropy of each row. It is finite for all finite logits.

    For one logit (n,), positive for class 1, it is log(1 + e^z) − y·z; for K logits (n, K), log Σ e^z_k − z_y.
    """
    if logits.ndim == 1:
        return _softplus(logits) - labels * logits
    own = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def _signed(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, "n k"]:
    """Return labels as ±1: for a single logit, or one column for each class against the rest."""
    if logits.ndim == 1:
        return (2 * labels - 1)[:, None]
    return jnp.where(labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None], 1.0, -1.0)


@_in_words("squared hinge loss (a linear support vector machine)")
def squared_hinge(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return max(0, 1 − s·z)² of each row, s = ±1 its label; for K logits the sum over each class against the rest.

    Its second derivative is 2 or 0, with a jump at s·z = 1. Newton's method still converges (Mangasarian, 2002).
    Derivatives through training hold if no row lies at the jump.
    """
    sign = _signed(logits, labels)
    return jnp.sum(jnp.maximum(1 - sign * logits.reshape(sign.shape), 0.0) ** 2, axis=1)


@_in_words("squared loss (a ridge classifier)")
def squared(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return (s − z)²/2 of each row, s = ±1 its label; for K logits the sum over each class against the rest."""
    sign = _signed(logits, labels)
    return 0.5 * jnp.sum((sign - logits.reshape(sign.shape)) ** 2, axis=1)


LOSSES: dict[str, Loss] = {"logistic": cross_entropy, "squared-hinge": squared_hinge, "squared": squared}


def curved(loss: Loss, n_classes: int = 2) -> bool:
    """Return whether the loss has a second derivative other than 0, as solvers with second derivatives need."""
    shape = () if n_classes == 2 else (n_classes,)

    def total(z: Array) -> Array:
        return jnp.sum(loss(z, jnp.zeros(len(z))))

    with jax.ensure_compile_time_eval():
        z = jax.random.normal(jax.random.key(0), (64, *shape)) * 2
        along = jax.random.normal(jax.random.key(1), z.shape)
        return bool(jnp.any(jax.jvp(jax.grad(total), (z,), (along,))[1]))
