"""Retrains a victim from scratch on a poisoned set and measures it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from mithridate.execution.devices import shared
from mithridate.tasks.scores import ALIKE, Scoring
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, sanitised


class Metrics(NamedTuple):
    """How a retrained victim does; errors and rates are shares of the test rows, from 0 to 1.

    `attack_success`: the share of the goal rows that are classified as the attacker wants, or his score there;
    `target_success`: the same on D_target, by which attacks are compared; `attack_loss`: A on D_target. `fnrs` and
    `fprs`: for each class the share of its rows that are missed, and the share of other rows that are taken for it;
    `fpr` and `fnr`: those of class 1 if there are two classes, otherwise the means over the classes. `valid_loss`: the
    mean loss on D_val. `weight_norm_sq`: ‖w‖². `weight_norms`: ‖w_layer‖²/d_layer.
    """

    test_error: Float[Array, ""]
    attack_success: Float[Array, ""]
    fpr: Float[Array, ""]
    fnr: Float[Array, ""]
    fprs: Float[Array, " classes"]
    fnrs: Float[Array, " classes"]
    valid_loss: Float[Array, ""]
    attack_loss: Float[Array, ""]
    target_success: Float[Array, ""]
    weight_norm_sq: Float[Array, ""]
    weight_norms: Float[Array, " layers"]


class Measured(NamedTuple):
    """The rows on which a victim is measured: `goal` and `target` as in `Objective`, the others as in `Split`."""

    valid: Rows
    test: Rows
    target: Rows
    goal: Rows


class Retrained(NamedTuple):
    """A victim's weights, one leaf per layer, and its metrics."""

    weights: PyTree[Array]
    metrics: Metrics


@shared
def retrain_and_measure(
    victim: Learner,
    train: Rows,
    on: Measured,
    specific: Bool[Array, ""],
    log_strength: Float[Array, "*groups"],
    key: Key[Array, ""],
    defence: Any = None,
    scorings: tuple[Scoring, Scoring] = (ALIKE, ALIKE),
) -> Retrained:
    """Train `victim` from scratch on the rows of `train` that the `defence` leaves, and measure it.

    `specific` and `defence` are as in `Attacker`; `log_strength` is λ; `key` draws w0 and minibatches; `scorings` are
    those of D_target and of the goal. If training diverges, every metric is NaN, because predictions mean nothing then.
    """
    params = victim.train(sanitised((train,), defence), log_strength, key)
    weights, logits = victim.model.weights(params), victim.model.logits(params, on.test.x)
    task = victim.task(on.test.x.shape[1])
    own, (scoring, goal_scoring) = task.predicted(logits), scorings
    loss = victim.mean_loss(params, (on.target,))
    found = Metrics(
        test_error=jnp.mean(task.wrong(own, on.test.y)),
        attack_success=goal_scoring.success(task, victim.model.logits(params, on.goal.x), on.goal.y, specific),
        **task.rates(own, on.test.y)._asdict(),
        valid_loss=victim.mean_loss(params, (on.valid,)),
        target_success=scoring.success(task, victim.model.logits(params, on.target.x), on.target.y, specific),
        attack_loss=jnp.where(specific, -loss, loss),
        weight_norm_sq=victim.weight_norm_sq(params),
        weight_norms=jnp.stack([jnp.mean(leaf**2) for leaf in jax.tree.leaves(weights)]),
    )
    sound = jnp.isfinite(found.valid_loss) & jnp.isfinite(found.weight_norm_sq)
    return Retrained(weights, Metrics(*(jnp.where(sound, value, jnp.nan) for value in found)))
