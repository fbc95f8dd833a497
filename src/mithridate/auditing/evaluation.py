"""What a victim does once it is retrained from scratch on a poisoned set."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from mithridate.execution.devices import shared
from mithridate.tasks.scores import ALIKE, Scoring
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, sanitised


class Metrics(NamedTuple):
    """What a retrained victim does; errors and rates are shares of the test rows.

    `attack_success`, `attack_loss`: how the attacker scores on his goal rows (the share that goes his way), and A on
    D_target. `target_success`: how he scores on D_target, by which attacks are compared. `fprs` and `fnrs`: each class
    against the rest, its rows missed and others taken for it; `fpr`, `fnr`: class 1's of two, their means of more.
    `valid_loss`: the mean loss on D_val. `weight_norms`: ‖w_layer‖²/d_layer.
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
    """The rows on which a victim is measured: `goal` as in `Objective`, all others as in a `Split`."""

    valid: Rows
    test: Rows
    target: Rows
    goal: Rows


class Retrained(NamedTuple):
    """A victim's weights, one leaf per layer, and how it does."""

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
    """Train `victim` from scratch on `train`, as far as the `defence` lets it pass, and measure it.

    `specific` and `defence` as in `Attacker`; `scorings` of D_target and of the goal.

    Where training diverged every figure is NaN: its predictions mean nothing.
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
