"""Losses of one row, given its logits and its label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def _softplus(z: Array) -> Array:
    """Return log(1 + e^z), whose derivatives of every order go by σ alone.

    Optax's cross-entropy has the same value; its second derivative takes a dozen intermediate arrays, which the
    backward pass through training has to keep: a hypergradient took 1.3 times as long with it.
    """
    return jnp.logaddexp(z, 0.0)


@_softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (z,), (dz,) = primals, tangents
    return _softplus(z), jax.lax.logistic(z) * dz


def cross_entropy(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return the cross-entropy of each row, finite for all finite logits.

    Of one logit (n,), positive for class 1, it is log(1 + e^z) − y·z; of K logits (n, K), log Σ e^z_k − z_y.
    """
    if logits.ndim == 1:
        return _softplus(logits) - labels * logits
    own = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def predicted(logits: Float[Array, "n *classes"]) -> Float[Array, " n"]:
    """Return the class of each row: that of the largest logit, or 1 where the only one is positive."""
    classes = logits > 0 if logits.ndim == 1 else jnp.argmax(logits, axis=1)
    return classes.astype(logits.dtype)
