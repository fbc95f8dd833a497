"""Measures one cell: the victim is retrained from scratch on the rows that each attack has poisoned.

Training is by minibatch SGD (Table 3), or to optimality. The audited attack is measured as it ended. Beside it we
measure the other attacks that it tried, or its rival: the worst label flips, after the defender's answer. The same code
measures all of them.
"""

import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Batch, Poisoning, placed
from mithridate.attacks.portfolio import worst_flips
from mithridate.attacks.proposals import plain_flips_of
from mithridate.attacks.stage import Stage
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.evaluation import Measured, retrain_and_measure
from mithridate.auditing.scenario import Scenario, rival_of
from mithridate.configuration.parts import FLIPS, name_of
from mithridate.defences.base import Checked, Folding, Strength
from mithridate.results.records import NOISE, Record
from mithridate.seeds import key
from mithridate.tasks.scores import telling_nothing
from mithridate.victims.rows import Rows, sanitised

RESPONSE_TOLERANCE = 0.1
"""How far λ may be from the defender's best response before a cell is marked off-response."""
DIVERGED = "training the victim diverged: lower train_learning_rate or λ, or use precision = float64"


class Trained(NamedTuple):
    """One attack's record, the weights of the victim, and the rows that the victim was trained on."""

    record: Record
    weights: Any
    train: Rows


class Bench:
    """Retrains and measures the victims of one split and attack, once for each batch."""

    def __init__(self, scenario: Scenario, attack: Attacker):
        self.scenario, self.attack = scenario, attack
        self._known: list[tuple[Batch, Trained]] = []

    def trained(self, batch: Batch, attack: Attacker | None = None) -> Trained:
        """Return the victim trained on the training set with this batch in its places and the λ of the answer to it."""
        for known, found in self._known:
            if known.x_poison is batch.x_poison:  # an attack adds fields to a batch, so compare the points
                return found
        attack, split = attack or self.attack, self.scenario.split
        places = None if attack.budget == "added" else batch.places
        rows = placed(batch.x_poison, batch.y_poison, places, split.x_train, split.y_train)
        found = _trained(self.scenario, attack, len(batch.y_poison), rows, batch.log_strength)
        found = found._replace(record=replace(found.record, attack=batch.attack, begun=batch.begun))
        self._known.append((batch, found))
        return found

    def judge(self, batch: Batch) -> tuple[float, float]:
        """Return the attacker's success on D_target, and A, for the victim retrained on a batch."""
        record = self.trained(batch).record
        return record.target_success, record.attack_loss

    def cell(self, poisoning: Poisoning) -> tuple[list[Record], Any]:
        """Return the records of one cell, the audited attack's first, and the weights of the retrained victim.

        The other records are the attacks that the audited one tried; if it tries no others, the worst label flips of
        plainly picked rows. The seconds of the first record are still 0.
        """
        attack, split, k = self.attack, self.scenario.split, len(poisoning.y_poison)
        if attack.nested:
            rows = poisoning.apply(split.x_train, split.y_train)
            own = _trained(self.scenario, attack, k, rows, poisoning.log_strength)
        else:
            own = self.trained(poisoning.batches[-1])
        others = [self.trained(batch).record for batch in poisoning.others]
        rival = rival_of(attack)
        if k and rival:
            started = time.perf_counter()
            flips = worst_flips(rival, self._stage(rival, poisoning), plain_flips_of, 1)
            others = [self.trained(batch, rival).record for batch in flips]
            others[0] = replace(others[0], seconds=time.perf_counter() - started)
        self._known.clear()
        few = few_folds(attack, own.train, self.scenario.rows)
        return [_judged(own, attack, poisoning, others, few), *others], own.weights

    def _stage(self, rival: Attacker, poisoning: Poisoning) -> Stage:
        split, defender = self.scenario.split, (poisoning.policy, poisoning.log_strength)
        rows = rival.rows(split.x_train, split.y_train)
        return rival.stage(split.x_train, split.y_train, rows, (0, len(poisoning.y_poison)), None, defender)


def _trained(
    scenario: Scenario, attack: Attacker, k: int, rows: tuple[np.ndarray, np.ndarray], log_strength: Strength
) -> Trained:
    """Return the victim of an attack with k points, trained on these rows with the defender's λ."""
    split, aim, strength = scenario.split, scenario.objective, jnp.asarray(log_strength, dtype=float)
    valid, test = Rows.of(split.x_valid, split.y_valid), Rows.of(split.x_test, split.y_test)
    victim, on = (
        attack.learner.with_rule(evaluation_rule(scenario.config)),
        Measured(valid, test, attack.target_rows(), Rows.of(*aim.goal)),
    )
    train, where = attack.rows(*rows), key(attack.seed, "retrain", k)
    specific = jnp.array(attack.specific)
    given = victim, train, on, specific, strength, where, attack.defence, (aim.scoring, aim.goal_scoring)
    weights, found = jax.device_get(retrain_and_measure(*given))
    diverged = not math.isfinite(found.valid_loss)
    record = Record(
        **_whose(scenario, attack, int(train.size), k),
        **{name: value.tolist() for name, value in found._asdict().items()},
        log_strength=float(np.mean(log_strength)),
        log_strengths=np.atleast_1d(log_strength).tolist(),
        best_log_strengths=[math.nan] * int(np.size(log_strength)),
        space=attack.learner.chosen_space((train,)),
        status="failed" if diverged else "ok",
        reason=DIVERGED if diverged else "",
        seconds=0.0,
    )
    return Trained(record, weights, train)


def few_folds(attack: Attacker, poisoned: Rows, clean: Rows) -> bool:
    """Return whether the policy holds out folds and can have only fewer of them than it should."""
    if not isinstance(attack.policy, Folding):
        return False
    rows = poisoned if attack.policy.on_poisoned else clean
    (held, *_), groups = sanitised((rows,), attack.defence), attack.grouped(rows)
    there = np.asarray(held.weight) > 0
    labels, own = np.asarray(rows.y)[there], None if groups is None else np.asarray(groups)[there]
    return attack.policy.folds_of(labels, attack.task, own) < attack.policy.k


def _judged(own: Trained, attack: Attacker, poisoning: Poisoning, others: list[Record], few_folds: bool) -> Record:
    """Return the audited attack's record with the fields that only it has, and its faults."""
    policy, best, found = poisoning.policy, np.full_like(poisoning.log_strength, math.nan), own.record
    if isinstance(policy, Checked):
        nothing = jnp.zeros((attack.width, own.train.x.shape[1]))
        where = attack.key(len(poisoning.y_poison))
        best = policy.best(attack.settled(own.train), nothing, poisoning.log_strength, where)
    statuses, diverged = Counter(poisoning.statuses.tolist()), bool(found.reason)
    faults = {
        "failed": diverged,
        "non-finite": "non_finite" in statuses or diverged,
        "unsound": bool(statuses.keys() - {"ok", "non_finite"}),
        "unstable": poisoning.stability > 2,
        "off-response": bool(np.any(np.abs(best - poisoning.log_strength) > RESPONSE_TOLERANCE)),
        "few-folds": few_folds,
        "constant": (found.test_error if found.score == "error" else found.attack_success)
        >= found.constant_error - NOISE,
        "weak": any(found.target_success < other.target_success for other in others if other.attack in FLIPS),
    }
    return replace(
        found,
        valid_loss_before=poisoning.value_start,
        valid_loss_after=poisoning.value,
        descended_log_strength=float(np.mean(poisoning.descended)),
        best_log_strength=float(np.mean(best)),
        best_log_strengths=np.atleast_1d(best).tolist(),
        hypergradients=" ".join(f"{status}:{count}" for status, count in statuses.items()),
        stability=poisoning.stability,
        status="+".join(fault for fault, present in faults.items() if present) or "ok",
    )


def failed_cell(scenario: Scenario, attack: Attacker, ratio: int, reason: str) -> list[Record]:
    """Return the records of a cell that could not be computed; the first is that of the audited attack."""
    points = min(ratio * (attack.batch or attack.points), attack.points)
    rows = len(scenario.split.y_train) + (points if attack.budget == "added" else 0)
    learner, n_classes = attack.learner, len(scenario.split.classes)
    layers = len(jax.tree.leaves(jax.eval_shape(lambda: learner.model.weights(learner.model.init(jax.random.key(0))))))
    lengths = {"fprs": n_classes, "fnrs": n_classes, "weight_norms": layers}
    lengths |= dict.fromkeys(("log_strengths", "best_log_strengths"), math.prod(learner.strength_shape))
    rivals = [rival] if points and (rival := rival_of(attack)) else []
    return [Record.failed(reason, lengths, **_whose(scenario, each, rows, points)) for each in (attack, *rivals)]


def _whose(scenario: Scenario, attack: Attacker, rows: int, points: int) -> dict[str, Any]:
    """Return the fields of a record that are known before its cell is computed."""
    config, defender = scenario.config, attack.defender
    return {
        "dataset": config.dataset,
        "model": name_of(config.model),
        "loss": name_of(config.loss),
        "penalty": name_of(config.penalty),
        "task": attack.task.name,
        "split": scenario.index,
        "policy": defender.name,
        "defence": defender.sanitiser.name if defender.sanitiser else "none",
        "attack": attack.name,
        "begun": "",
        "objective": config.objective,
        "score": config.score,
        "budget": attack.budget,
        "edits": attack.edits,
        "n_train": rows,
        "n_test": scenario.shared.n_test,
        "shared_train": scenario.shared.train,
        "shared_test": scenario.shared.test,
        "n_goal": scenario.objective.goal_scoring.rows(scenario.objective.goal[1]),
        "shared_goal": 0.0 if scenario.objective.given else scenario.shared.test,
        "n_poison": points,
        "ratio": points / rows,
        "constant_error": float(telling_nothing(config.score, scenario.split.y_test)),
        "inner_steps": getattr(attack.learner.rule, "steps", 0),
    }
