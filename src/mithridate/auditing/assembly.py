"""From a configuration to the objects it names: victim, defenders, attack, and the threat model in words."""

import math
from collections.abc import Sequence

import jax

from mithridate.attacks.bilevel import Attack
from mithridate.attacks.objectives import Objective, flipped, objective_of
from mithridate.configuration.config import BUILT_IN, AuditConfig, model_name
from mithridate.configuration.objective import parse_objective
from mithridate.data.datasets import Split
from mithridate.data.feasible import Box
from mithridate.data.tables import read_rows
from mithridate.defences.base import Policy
from mithridate.defences.policies import parse_policy
from mithridate.errors import InputError
from mithridate.hypergradients import METHODS, Checkpointed, HypergradientMethod
from mithridate.hypergradients.steps import hyper_rule, poison_rule
from mithridate.seeds import generator
from mithridate.victims.adapters import check_model, find_model
from mithridate.victims.learner import Learner
from mithridate.victims.models import MLP, LogisticRegression, Model
from mithridate.victims.penalties import L2
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, GradientDescent, MinibatchSGD

TRIED = 10
"""Minibatches whose curvature is looked at before inner SGD begins."""


def policies_of(config: AuditConfig) -> list[Policy]:
    """Return the defenders, each of whom the evaluation can train."""
    descent, strengths = hyper_rule(config.hyper_rule, config.hyper_step), Box(*config.strength_bounds)
    policies = [
        parse_policy(text, strengths, descent, config.closing, config.folds, config.seed) for text in config.policies
    ]
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise InputError(f"policies are named twice: {', '.join(names)}")
    for policy in policies if config.victim == "sgd" else ():
        shrinkage = config.train_learning_rate * math.exp(float(policy.strengths.high)) / config.train
        if shrinkage >= 2:
            raise InputError(
                f"policy {policy.name}: with λ up to {float(policy.strengths.high):g} the evaluation's SGD diverges "
                f"(η·e^λ/n = {shrinkage:.3g}, must be below 2); lower λ or train_learning_rate"
            )
    return policies


def model_of(config: AuditConfig, split: Split) -> Model:
    """Return the victim's model. Raises `InputError` when one of the user's own does not suit the data."""
    n_features, n_classes = split.x_train.shape[1], len(split.classes)
    if isinstance(config.model, str) and config.model in BUILT_IN:
        network = MLP(n_features, config.hidden, n_classes=n_classes)
        return network if config.model == "mlp" else LogisticRegression(n_features, n_classes)
    model = find_model(config.model, n_features)
    check_model(model, split.x_train, model_name(config.model), n_classes)
    return model


def penalty_of(config: AuditConfig, model: Model) -> L2:
    """Return the penalty, with one λ, or one for each group of layers; the groups have to fit the model's layers."""
    layers = len(jax.tree.leaves(jax.eval_shape(lambda: model.weights(model.init(jax.random.key(0))))))
    if config.strengths == "one" or (config.strengths == "layers" and layers == 1):
        return L2()
    groups = range(layers) if config.strengths == "layers" else map(int, config.strengths.split(","))
    penalty = L2(tuple(groups))
    if len(penalty.groups or ()) != layers or set(penalty.groups or ()) != set(range(*penalty.shape)):
        raise InputError(
            f"strengths = {config.strengths}: {model_name(config.model)} has {layers} layer(s) of weights; give the "
            f"group of each, counted from 0, as {','.join(map(str, range(layers)))}"
        )
    return penalty


def learner_of(config: AuditConfig, model: Model, split: Split, policy: Policy) -> Learner:
    """Return the victim as trained inside the attack, its steps cut where they would come near divergence."""
    penalty = penalty_of(config, model)
    if config.inner == "exact":
        return Learner(model, Exact(), penalty=penalty, space=config.space)
    if config.inner == "sgd":
        inner = MinibatchSGD(config.learning_rate, config.inner_batch or config.batch_size, steps=config.inner_steps)
    else:
        inner = GradientDescent(config.learning_rate, config.inner_steps)
    learner = Learner(model, inner, penalty=penalty, space=config.space)
    if not config.stabilise:
        return learner
    return learner.with_rule(inner.subdivided(_steepest(learner, split, float(policy.strengths.high), config.seed)))


def _steepest(learner: Learner, split: Split, log_strength: float, seed: int) -> float:
    """Return the curvature that a step sees: of all training rows, or the largest of `TRIED` minibatches."""
    n = len(split.y_train)
    size = min(getattr(learner.rule, "batch_size", n), n)
    if size == n:
        return learner.curvature(Rows.of(split.x_train, split.y_train, divided=True), log_strength)
    draw = generator(seed, "minibatches")
    samples = [draw.choice(n, size, replace=False) for _ in range(TRIED)]
    # A penalty of e^λ/n, however few of the n rows a step sees.
    own = log_strength + math.log(size / n)
    return max(learner.curvature(Rows.of(split.x_train[rows], split.y_train[rows]), own) for rows in samples)


def objective_on(config: AuditConfig, split: Split, seed: str) -> Objective:
    """Return what the attacker wants on one split; `seed` as of `attack_of`."""
    own = split.x_train, split.y_train, len(split.classes)
    return objective_of(
        config.objective,
        split.classes,
        (split.x_valid, split.y_valid),
        (split.x_test, split.y_test),
        lambda path: read_rows(path, split),
        lambda labels: flipped(labels, config.flip, generator(seed, "flip"), *own),
    )


def attack_of(
    config: AuditConfig,
    split: Split,
    policy: Policy,
    seed: str,
    model: Model | None = None,
    objective: Objective | None = None,
) -> Attack:
    """Return the attack on one split and policy; it depends on no other.

    `model` and `objective`, where another attack of the same audit has them already, save making them again.
    """
    aim = objective or objective_on(config, split, seed)
    return Attack(
        learner=learner_of(config, model or model_of(config, split), split, policy),
        target=aim.target,
        valid=aim.valid,
        specific=aim.specific,
        start=aim.start,
        flip=config.flip,
        feasible=Box(*config.bounds) if config.bounds else split.feasible,
        policy=policy,
        points=config.points,
        batch=config.batch,
        budget=config.budget,
        steps=config.joint_hyperiterations if policy.descent else config.hyperiterations,
        ascent=poison_rule(config.poison_rule, config.poison_step),
        hypergradient=method_of(config),
        select=config.select,
        alternate=config.alternate,
        initial=config.initial,
        seed=seed,
    )


def method_of(config: AuditConfig) -> HypergradientMethod | None:
    """Return the hypergradient's method, or None for the attack's own default."""
    if config.hypergradient != "auto":
        return METHODS[config.hypergradient]()
    # Stored, an epoch of minibatches would be a second copy of the training rows.
    return Checkpointed() if config.inner == "sgd" else None


def evaluation_rule(config: AuditConfig) -> MinibatchSGD | Exact:
    """Return how the victim is trained to be measured."""
    if config.victim == "exact":
        return Exact()
    return MinibatchSGD(config.train_learning_rate, config.batch_size, config.epochs)


def mismatch(config: AuditConfig) -> str:
    """Return what to say when one victim is attacked and another evaluated; empty when they are alike."""
    if (config.inner == "exact") == (config.victim == "exact"):
        return ""
    how = {"exact": "solved to optimality", "sgd": "trained by SGD", "gd": "trained by gradient descent"}
    return (
        f"the attack is crafted on a victim {how[config.inner]} and evaluated on one {how[config.victim]}: the worst "
        "case for the latter may be worse (see victim and inner)"
    )


def aim_of(config: AuditConfig, classes: Sequence[str]) -> tuple[str, str]:
    """Return what the attacker wants and what his points start as, in plain words."""
    kind, what = parse_objective(config.objective, classes)
    if kind == "indiscriminate":
        goal = "errors of any kind (indiscriminate): the largest loss on the validation rows (Eq. 3)"
        return goal, "a validation row, drawn at random, with another class's label"
    if isinstance(what, str):
        goal = (
            f"the rows of {what} given the labels that they have there (error-specific): the least loss on them (Eq. 2)"
        )
        return goal, "one of those rows with the label wanted"
    names = [classes[number] for number in what]
    if kind == "target-class":
        goal = f"errors on class {names[0]} (error-generic): the largest loss on its validation rows (Eq. 2)"
        return goal, "a validation row of that class with another class's label"
    first, second = names
    goal = f"class {first} taken for {second} (error-specific): the least loss on the validation rows of {first} "
    return goal + f"labelled {second} (Eq. 2)", "a validation row of the first class with the second's label"


def threat_model(config: AuditConfig, classes: Sequence[str]) -> dict[str, str]:
    """Return what the attacker knows, controls and may change, in plain words."""
    replaced = config.budget == "replaced"
    w0 = {"fixed": "from one w0 for each batch of points", "fresh": "from a w0 drawn anew at every outer step"}
    within = f"within {list(config.bounds)}" if config.bounds else "within the data set's feasible range"
    if config.target and not config.bounds:
        within = "within each column's range in the training rows, whole numbers and categories kept as such" + (
            f", except {'; '.join(config.feasible)}" if config.feasible else ""
        )
    goal, cloned = aim_of(config, classes)
    cut = ", cut into smaller ones of the same sum where they would come near divergence (`inner_steps` in the records)"
    return {
        "model": model_name(config.model) + (f", hidden layers {config.hidden}" if config.model == "mlp" else ""),
        "goal": goal,
        "knows": "everything: training and validation rows, model, loss, training, and how the defender sets λ "
        "(perfect knowledge, the worst case)",
        "controls": f"up to {config.points} poisoning points, {config.batch} crafted at a time, which "
        + ("take the place of training rows drawn at random" if replaced else "are added to the training rows"),
        "may_change": f"every feature of its points, {within}; each starts as a clone of {cloned}, which it keeps",
        "may_not_change": "the other training rows, the validation rows, the test rows, the training program",
        "budget": f"{config.budget}: ratio = poison / "
        + ("training rows, whose number stays" if replaced else "(training rows + poison)"),
        "validation_set": "owned by the defender and trusted; the policy 'learned' tunes λ on it, the others do not",
        "inner_training": "solved to optimality"
        if config.inner == "exact"
        else (f"SGD, minibatches of {config.inner_batch}" if config.inner == "sgd" else "full-batch gradient descent")
        + f", η = {config.learning_rate:g}, T = {config.inner_steps}"
        + (f"; its steps{cut}" if config.stabilise else "")
        + f"; {w0.get(str(config.initial), f'the mean over {config.initial} w0 drawn anew at every outer step')}",
        "evaluation": "solved to optimality on the poisoned rows"
        if config.victim == "exact"
        else f"retrained from scratch: SGD, η = {config.train_learning_rate:g}, minibatches of "
        f"{config.batch_size}, {config.epochs} epochs",
        "not_tested": "other choices of rows and labels, "
        + ("targeted and " if config.objective == "indiscriminate" else "other aims, ")
        + "backdoor attacks, attackers with less knowledge, outlier filters, other models",
    }
