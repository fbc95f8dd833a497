"""What a victim does once it is retrained from scratch on a poisoned set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from mithridate.execution import shared
from mithridate.learner import Learner
from mithridate.rows import Rows


class Metrics(NamedTuple):
    """Errors and rates are shares of the test rows; class 1 is the positive one. `weight_norms`: ‖w_layer‖²/d_layer."""

    test_error: Float[Array, ""]
    fpr: Float[Array, ""]
    fnr: Float[Array, ""]
    valid_loss: Float[Array, ""]
    weight_norm_sq: Float[Array, ""]
    weight_norms: Float[Array, " layers"]


class Retrained(NamedTuple):
    """A victim's weights, one leaf per layer, and how it does."""

    weights: PyTree[Array]
    metrics: Metrics


@shared
def retrain_and_measure(
    victim: Learner,
    train: Rows,
    valid: Rows,
    test: Rows,
    log_strength: Float[Array, "*groups"],
    key: Key[Array, ""],
) -> Retrained:
    """Train `victim` on `train` from scratch and measure it.

    A rate without rows to measure is 0. Where training diverged every figure is NaN: its predictions mean nothing.
    """
    params = victim.train((train,), log_strength, key)
    weights = victim.model.weights(params)
    predicted, positive = victim.model.logits(params, test.x) > 0, test.y > 0
    found = Metrics(
        jnp.mean(predicted != positive),
        jnp.sum(predicted & ~positive) / jnp.maximum(jnp.sum(~positive), 1),
        jnp.sum(~predicted & positive) / jnp.maximum(jnp.sum(positive), 1),
        victim.mean_loss(params, (valid,)),
        victim.weight_norm_sq(params),
        jnp.stack([jnp.mean(leaf**2) for leaf in jax.tree.leaves(weights)]),
    )
    sound = jnp.isfinite(found.valid_loss) & jnp.isfinite(found.weight_norm_sq)
    return Retrained(weights, Metrics(*(jnp.where(sound, value, jnp.nan) for value in found)))
