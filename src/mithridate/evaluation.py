"""What a victim does once it is retrained from scratch on a poisoned set."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mithridate.execution import shared
from mithridate.learner import Learner
from mithridate.rows import Rows


class Metrics(NamedTuple):
    """Errors and rates are shares of the test rows; class 1 is the positive one."""

    test_error: Float[Array, ""]
    fpr: Float[Array, ""]
    fnr: Float[Array, ""]
    valid_loss: Float[Array, ""]
    weight_norm_sq: Float[Array, ""]


@shared
def retrain_and_measure(
    victim: Learner,
    train: Rows,
    valid: Rows,
    test: Rows,
    log_strength: Float[Array, ""],
    key: Key[Array, ""],
) -> Metrics:
    """Train `victim` on `train` from scratch and measure it.

    A rate without rows to measure is 0. Where training diverged every figure is NaN: its predictions mean nothing.
    """
    params = victim.train((train,), log_strength, key)
    predicted, positive = victim.model.logits(params, test.x) > 0, test.y > 0
    found = Metrics(
        jnp.mean(predicted != positive),
        jnp.sum(predicted & ~positive) / jnp.maximum(jnp.sum(~positive), 1),
        jnp.sum(~predicted & positive) / jnp.maximum(jnp.sum(positive), 1),
        victim.mean_loss(params, (valid,)),
        victim.weight_norm_sq(params),
    )
    sound = jnp.isfinite(found.valid_loss) & jnp.isfinite(found.weight_norm_sq)
    return Metrics(*(jnp.where(sound, value, jnp.nan) for value in found))
