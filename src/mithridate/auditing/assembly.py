"""Makes the objects that a configuration names: victim, defenders, attack."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.bilevel import Attack
from mithridate.attacks.objectives import Objective, objective_of
from mithridate.attacks.portfolio import Flips, Portfolio
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import BUILT_IN, found, name_of, tried
from mithridate.data.datasets import Split
from mithridate.data.feasible import Box
from mithridate.data.tables import read_rows
from mithridate.defences.base import Defender, Policy
from mithridate.defences.named import policy_of, sanitiser_of
from mithridate.errors import InputError
from mithridate.hypergradients import METHODS, Checkpointed, HypergradientMethod
from mithridate.hypergradients.steps import hyper_rule, poison_rule
from mithridate.seeds import generator
from mithridate.tasks.classification import Classification
from mithridate.victims.adapters import check_model, find_model
from mithridate.victims.learner import Learner
from mithridate.victims.losses import LOSSES
from mithridate.victims.models import MLP, LogisticRegression, Model
from mithridate.victims.penalties import L2, Penalty
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, GradientDescent, MinibatchSGD

TRIED = 10
"""How many minibatches are searched for the largest curvature before inner SGD starts."""
AGAINST_THE_REST = ("squared-hinge", "squared")
"""The losses that compare each class with the rest."""


def defenders_of(config: AuditConfig) -> list[Defender]:
    """Return the defenders: each sanitiser combined with each policy.

    Raises `InputError` for an unknown name, a name that is given twice, or a λ with which the evaluation would diverge.
    """
    descent, strengths = hyper_rule(config.hyper_rule, config.hyper_step), Box(*config.strength_bounds)
    how = config.closing, config.folds, config.seed, config.tune_by
    policies = [policy_of(part, strengths, descent, *how) for part in config.policies]
    made = [Defender(policy, sanitiser_of(part)) for part in config.defences for policy in policies]
    for kind, names in (("policy", [one.name for one in policies]), ("defence", list(map(name_of, config.defences)))):
        if double := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{kind} {double[0]} is given twice; give it once")
    for policy in policies if config.victim == "sgd" else ():
        shrinkage = config.train_learning_rate * math.exp(float(np.max(policy.strengths.high))) / config.train
        if shrinkage >= 2:
            raise InputError(
                f"policy {policy.name}: with λ up to {float(np.max(policy.strengths.high)):g} the evaluation's SGD "
                f"diverges (η·e^λ/n = {shrinkage:.3g}, must be below 2); lower λ or train_learning_rate"
            )
    return made


def model_of(config: AuditConfig, split: Split) -> Model:
    """Return the victim's model. Raises `InputError` if the user's own model does not fit the data."""
    n_features, n_classes = split.x_train.shape[1], len(split.classes)
    if config.model == "mlp":
        return MLP(n_features, config.hidden, n_classes=n_classes)
    if config.model == "logistic":
        return LogisticRegression(n_features, n_classes, free=config.loss in AGAINST_THE_REST)
    model = find_model(config.model, n_features)
    check_model(model, split.x_train, name_of(config.model), n_classes)
    return model


def penalty_of(config: AuditConfig, model: Model) -> Penalty:
    """Return the penalty: the user's own, or L2 with one λ or with a λ for each group of layers.

    Raises `InputError` for a penalty or groups that do not fit the model.
    """
    weights = jax.eval_shape(lambda: model.weights(model.init(jax.random.key(0))))
    layers = len(jax.tree.leaves(weights))
    if config.penalty != "l2":
        return _own_penalty(config.penalty, weights)
    if config.strengths == "one" or (config.strengths == "layers" and layers == 1):
        return L2()
    groups = range(layers) if config.strengths == "layers" else map(int, config.strengths.split(","))
    penalty = L2(tuple(groups))
    if len(penalty.groups or ()) != layers or set(penalty.groups or ()) != set(range(*penalty.shape)):
        raise InputError(
            f"strengths = {config.strengths}: {name_of(config.model)} has {layers} layer(s) of weights; give the "
            f"group of each, counted from 0, as {','.join(map(str, range(layers)))}"
        )
    return penalty


def _own_penalty(part: Any, weights: Any) -> Any:
    name, made = f"penalty = {name_of(part)}", found("penalty", part)
    if isinstance(made, type):
        made = tried(name, "making it", made)
    if not callable(made):
        raise InputError(f"{name}: {type(made).__name__} is no penalty; give a function of (weights, log_strength)")
    strength = jax.ShapeDtypeStruct(getattr(made, "shape", ()), jnp.zeros(()).dtype)
    tried(name, "differentiating it in the model's weights", jax.eval_shape, jax.grad(made), weights, strength)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), (weights, strength))
    value: Any = made(*ones)
    if not jnp.isfinite(value):
        raise InputError(f"{name}: it is NaN or infinite if all weights and λ are 1; it must be finite")
    return made


def loss_of(config: AuditConfig, n_classes: int) -> Any:
    """Return the victim's loss.

    Raises `InputError` if the user's own loss does not return one number per row, finite and not negative, with a
    finite derivative that is not 0.
    """
    if isinstance(config.loss, str) and config.loss in LOSSES:
        return LOSSES[config.loss]
    name, made = f"loss = {name_of(config.loss)}", found("loss", config.loss)
    if isinstance(made, type):
        made = tried(name, "making it", made)
    if not callable(made):
        raise InputError(f"{name}: {type(made).__name__} is no loss; give a function of (logits, labels)")
    kind = jnp.zeros(()).dtype
    logits, labels = (jax.ShapeDtypeStruct((3, *more), kind) for more in ((n_classes,) * (n_classes > 2), ()))
    doing = f"applying it to logits {logits.shape} and labels {labels.shape}"
    out = tried(name, doing, jax.eval_shape, made, logits, labels)
    if getattr(out, "shape", None) != (3,):
        raise InputError(f"{name}: for 3 rows it must return 3 losses; got {getattr(out, 'shape', type(out).__name__)}")
    z = 2 * jax.random.normal(jax.random.key(0), (64, *logits.shape[1:]))
    y = jnp.arange(64.0) % n_classes
    given: Any = made
    losses = given(z, y)
    slopes: Any = tried(name, "differentiating it", jax.grad(lambda z: jnp.sum(given(z, y))), z)
    if not (jnp.all(jnp.isfinite(losses)) and jnp.all(losses >= 0)):
        raise InputError(f"{name}: it must be finite and not negative, and for normally distributed logits it is not")
    if not (jnp.all(jnp.isfinite(slopes)) and jnp.any(slopes)):
        raise InputError(f"{name}: its derivative in the logits is 0 or not finite, so that nothing can be learned")
    return made


def learner_of(config: AuditConfig, model: Model, split: Split, policy: Policy) -> Learner:
    """Return the victim as trained inside the attack; its steps are divided if they would come near divergence."""
    parts = {"loss": loss_of(config, len(split.classes)), "penalty": penalty_of(config, model), "space": config.space}
    if config.inner == "exact":
        return Learner(model, Exact(), **parts)
    if config.inner == "sgd":
        inner = MinibatchSGD(config.learning_rate, config.inner_batch or config.batch_size, steps=config.inner_steps)
    else:
        inner = GradientDescent(config.learning_rate, config.inner_steps)
    learner = Learner(model, inner, **parts)
    if not config.stabilise:
        return learner
    steepest = _steepest(learner, split, np.full(learner.strength_shape, np.max(policy.strengths.high)), config.seed)
    return learner.with_rule(inner.subdivided(steepest))


def _steepest(learner: Learner, split: Split, log_strength: np.ndarray, seed: int) -> float:
    """Return the curvature of the loss in a step: of all training rows, or the largest of `TRIED` minibatches."""
    n = len(split.y_train)
    size = min(getattr(learner.rule, "batch_size", n), n)
    if size == n:
        return learner.curvature(Rows.of(split.x_train, split.y_train, divided=True), log_strength)
    draw = generator(seed, "minibatches")
    samples = [draw.choice(n, size, replace=False) for _ in range(TRIED)]
    # The penalty is e^λ/n, however few of the n rows a step uses.
    own = log_strength + math.log(size / n)
    return max(learner.curvature(Rows.of(split.x_train[rows], split.y_train[rows]), own) for rows in samples)


def objective_on(config: AuditConfig, split: Split, seed: str, to_come: np.ndarray) -> Objective:
    """Return what the attacker wants on one split. `seed` is as in `Scenario`, `to_come` as in `objective_of`."""
    task = Classification(len(split.classes))
    return objective_of(
        config.objective,
        split.classes,
        (split.x_valid, split.y_valid),
        (split.x_test, split.y_test),
        lambda path: read_rows(path, split),
        lambda labels: task.flipped(labels, config.flip, generator(seed, "flip"), split.x_train, split.y_train),
        config.score,
        to_come,
    )


def attack_of(
    config: AuditConfig,
    split: Split,
    defender: Defender,
    seed: str,
    model: Model,
    aim: Objective,
) -> Attacker:
    """Return the attack on one split and defender. It depends on no other split or defender."""
    policy = defender.policy
    setting = {
        "learner": learner_of(config, model, split, policy),
        "target": aim.target,
        "valid": aim.valid,
        "specific": aim.specific,
        "start": aim.start,
        "flip": config.flip,
        "feasible": Box(*config.bounds) if config.bounds else split.feasible,
        "policy": policy,
        "defence": defender.sanitiser,
        "points": config.points,
        "batch": config.batch,
        "budget": config.budget,
        "edits": config.edits,
        "scoring": aim.scoring,
        "groups": split.train_groups,
        "seed": seed,
    }
    if config.attack == "flips":
        return Flips(**setting)
    if config.attack not in ("portfolio", "bilevel"):
        return _own_attack(config.attack, setting)
    made = Portfolio if config.attack == "portfolio" else Attack
    return made(
        **setting,
        steps=config.joint_hyperiterations if policy.descent else config.hyperiterations,
        ascent=poison_rule(config.poison_rule, config.poison_step),
        hypergradient=method_of(config),
        select=config.select,
        alternate=config.alternate,
        initial=config.initial,
    )


def _own_attack(part: Any, setting: dict[str, Any]) -> Attacker:
    name, make = f"attack = {name_of(part)}", found("attack", part)
    if not callable(make):
        raise InputError(
            f"{name}: {type(make).__name__} is no attack; give a subclass of Attacker, or a function that returns one"
        )
    made = tried(name, "making it", make, **setting)
    if not isinstance(made, Attacker):
        raise InputError(
            f"{name}: {type(made).__name__} is no attack; give a subclass of Attacker, or a function that returns one"
        )
    if not isinstance(getattr(made, "name", None), str) or made.name in BUILT_IN["attack"]:
        raise InputError(f"{name}: give it a `name`, a text that is not {' or '.join(BUILT_IN['attack'])}")
    return made


def method_of(config: AuditConfig) -> HypergradientMethod | None:
    """Return the method of the hypergradient, or None for the attack's default."""
    if config.hypergradient != "auto":
        return METHODS[config.hypergradient]()
    # The stored minibatches of an epoch would be a second copy of the training rows.
    return Checkpointed() if config.inner == "sgd" else None


def evaluation_rule(config: AuditConfig) -> MinibatchSGD | Exact:
    """Return the training rule of the evaluation."""
    if config.victim == "exact":
        return Exact()
    return MinibatchSGD(config.train_learning_rate, config.batch_size, config.epochs)
