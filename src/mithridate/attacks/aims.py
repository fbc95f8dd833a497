"""What a crafted point pursues in place of the loss: functions of D_target's logits and labels that follow its errors.

A loss grows with how far a row is on the wrong side, and a few rows far off outweigh many that are just lost. These
two count a row that is lost for little more than one. Margins are measured by their mean size, so that the scale of the
weights, which λ sets, does not matter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WIDTH = 0.5
"""The width of the step from right to wrong, in mean margins."""


def margins(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return by how much each row's own class leads the best other one; of one logit, how far it lies on its side."""
    if logits.ndim == 1:
        return (2 * labels - 1) * logits
    own = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1) - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def smooth_error(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return the 0-1 loss of each row with a smooth step, σ(−margin/width)."""
    lead = margins(logits, labels)
    return jax.nn.sigmoid(-lead / _width(lead))


def clipped(logits: Float[Array, "n *classes"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return a hinge that stops growing a mean margin on the wrong side: softly, it never is flat."""
    lead = margins(logits, labels)
    return jnp.tanh(jax.nn.softplus(-lead / _width(lead)))


def _width(lead: Array) -> Array:
    return jax.lax.stop_gradient(WIDTH * jnp.mean(jnp.abs(lead)) + jnp.finfo(lead.dtype).tiny)
