"""What points can maximise instead of the loss: functions of D_target's logits and labels that follow its errors.

A loss grows with how far a row is on the wrong side, so a few rows far away outweigh many that are just lost. These two
functions count each lost row as little more than one. Margins are divided by their mean size, so that the scale of the
weights, which λ sets, does not matter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WIDTH = 0.5
"""The width of the step from right to wrong, in mean margins."""


def margins(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return each row's margin: its class's logit minus the best other one; for one logit, ± that logit."""
    if logits.ndim == 1:
        return (2 * labels - 1) * logits
    own = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1) - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def smooth_error(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return the 0-1 loss of each row with a smooth step, σ(−margin/width)."""
    lead = margins(logits, labels)
    return jax.nn.sigmoid(-lead / _width(lead))


def clipped(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return a soft hinge that levels off about a mean margin on the wrong side, but is never flat."""
    lead = margins(logits, labels)
    return jnp.tanh(jax.nn.softplus(-lead / _width(lead)))


def _width(lead: Array) -> Array:
    return jax.lax.stop_gradient(WIDTH * jnp.mean(jnp.abs(lead)) + jnp.finfo(lead.dtype).tiny)
