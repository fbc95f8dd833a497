"""One cell measured: the victim retrained from scratch on the poisoned rows, and on the baseline.

Training is by minibatch SGD (Table 3), or to optimality. The baseline is the same starting points with flipped labels
and nothing optimised.
"""

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attacks.base import Poisoning
from mithridate.attacks.bilevel import Attack
from mithridate.attacks.objectives import Labelled
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.evaluation import Measured, Retrained, retrain_and_measure
from mithridate.configuration.config import AuditConfig, model_name
from mithridate.data.datasets import Split
from mithridate.defences.base import Checked, Strength
from mithridate.results.records import Record
from mithridate.seeds import key
from mithridate.victims.rows import Rows

RESPONSE_TOLERANCE = 0.1
DIVERGED = "training the victim diverged: lower train_learning_rate or λ, or use precision = float64"


def measured_cell(
    config: AuditConfig, index: int, attack: Attack, poisoning: Poisoning, split: Split, goal: Labelled
) -> tuple[Record, Any]:
    """Return the record of one cell of split `index`, its seconds still 0, and the retrained victim's weights."""
    cell_key, tuning_key = key(attack.seed, "retrain", len(poisoning.y_poison)), attack.key(len(poisoning.y_poison))
    victim = attack.learner.with_rule(evaluation_rule(config))
    valid, test = (split.x_valid, split.y_valid), (split.x_test, split.y_test)
    on = Measured(*(Rows.of(*rows) for rows in (valid, test, attack.target, goal)))

    def measured(train: Rows, log_strength: Strength) -> Retrained:
        strength = jnp.asarray(log_strength, dtype=float)
        return jax.device_get(retrain_and_measure(victim, train, on, jnp.array(attack.specific), strength, cell_key))

    nothing = jnp.zeros((attack.batch or attack.points, split.x_train.shape[1]))
    train = attack.rows(*poisoning.apply(split.x_train, split.y_train))
    weights, found = measured(train, poisoning.log_strength)
    baseline, strength = found, poisoning.log_strength
    if len(poisoning.y_poison):
        flipped = attack.rows(*poisoning.apply_start(split.x_train, split.y_train))
        strength = np.asarray(poisoning.policy.respond(attack.settled(flipped), nothing, strength, tuning_key))
        _, baseline = measured(flipped, strength)
    policy, best = poisoning.policy, np.full_like(poisoning.log_strength, math.nan)
    if isinstance(policy, Checked):
        best = policy.best(attack.settled(train), nothing, poisoning.log_strength, tuning_key)
    statuses = Counter(poisoning.statuses.tolist())
    diverged = not math.isfinite(found.valid_loss)
    faults = {
        "failed": diverged,
        "non-finite": "non_finite" in statuses or diverged,
        "unsound": bool(statuses.keys() - {"ok", "non_finite"}),
        "unstable": poisoning.stability > 2,
        "off-response": bool(np.any(np.abs(best - poisoning.log_strength) > RESPONSE_TOLERANCE)),
        "weak": bool(len(poisoning.y_poison))
        and (found.attack_loss <= baseline.attack_loss or found.attack_success < baseline.attack_success),
    }
    measured_values = {name: value.tolist() for name, value in found._asdict().items()}
    record = Record(
        **_whose(config, index, attack, int(train.size), len(poisoning.y_poison)),
        **measured_values,
        valid_loss_before=poisoning.value_start,
        valid_loss_after=poisoning.value,
        log_strength=float(np.mean(poisoning.log_strength)),
        log_strengths=np.atleast_1d(poisoning.log_strength).tolist(),
        descended_log_strength=float(np.mean(poisoning.descended)),
        best_log_strength=float(np.mean(best)),
        best_log_strengths=np.atleast_1d(best).tolist(),
        baseline_test_error=float(baseline.test_error),
        baseline_attack_success=float(baseline.attack_success),
        baseline_valid_loss=float(baseline.valid_loss),
        baseline_attack_loss=float(baseline.attack_loss),
        baseline_log_strength=float(np.mean(strength)),
        space=attack.learner.chosen_space((train,)),
        hypergradients=" ".join(f"{status}:{count}" for status, count in statuses.items()),
        stability=poisoning.stability,
        status="+".join(fault for fault, present in faults.items() if present) or "ok",
        reason=DIVERGED if diverged else "",
        seconds=0.0,
    )
    return record, weights


def failed_cell(config: AuditConfig, index: int, attack: Attack, ratio: int, split: Split, reason: str) -> Record:
    """Return the record of a cell that could not be computed."""
    points = min(ratio * (attack.batch or attack.points), attack.points)
    rows = len(split.y_train) + (points if attack.budget == "added" else 0)
    learner, n_classes = attack.learner, len(split.classes)
    layers = len(jax.tree.leaves(jax.eval_shape(lambda: learner.model.weights(learner.model.init(jax.random.key(0))))))
    lengths = {"fprs": n_classes, "fnrs": n_classes, "weight_norms": layers}
    lengths |= dict.fromkeys(("log_strengths", "best_log_strengths"), math.prod(learner.strength_shape))
    return Record.failed(reason, lengths, **_whose(config, index, attack, rows, points))


def _whose(config: AuditConfig, index: int, attack: Attack, rows: int, points: int) -> dict[str, Any]:
    """Return what is known of a cell before it is computed."""
    return {
        "dataset": config.dataset,
        "model": model_name(config.model),
        "split": index,
        "policy": attack.policy.name,
        "objective": config.objective,
        "budget": attack.budget,
        "n_train": rows,
        "n_poison": points,
        "ratio": points / rows,
        "inner_steps": getattr(attack.learner.rule, "steps", 0),
    }
