"""Losses of one row, given its logit and its label."""

import optax.losses
from jaxtyping import Array, Float


def cross_entropy(logits: Float[Array, " n"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return the binary cross-entropy log(1 + e^z) − y·z of each row, finite for every finite z."""
    return optax.losses.sigmoid_binary_cross_entropy(logits, labels)
