"""Describes the threat model: what the attacker knows, controls and may change, and what was not tested."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.objective import parse_objective
from mithridate.configuration.parts import BUILT_IN, described, name_of
from mithridate.data.datasets import Dataset
from mithridate.data.encoding import Schema
from mithridate.data.groups import ROWS
from mithridate.defences.tuning import LEAST
from mithridate.estimators.victims import Victim

BUDGETS = {
    "added": "all of them new rows that he adds",
    "replaced": "drawn at random; his points replace them",
    "chosen": "which he picks",
}
"""budget → which rows are the attacker's, in words."""

EDITS = {"both": "labels and features", "labels": "labels alone", "features": "features alone"}
"""edits → what he changes in them, in words."""


def capability(config: AuditConfig) -> str:
    """Return in one clause what the attacker may do."""
    return (
        f"the attacker controls up to {config.most_poison:.1%} of the training rows ({BUDGETS[config.budget]}) and "
        f"changes {EDITS[config.edits]}"
    )


def sampled(data: Dataset, config: AuditConfig) -> dict[str, Any]:
    """Return what a result says of a sample of own data; empty if no row was left out.

    `train`: the training rows that the whole file would give; `rows`: its rows; `times`: how many times as long the
    whole file takes. A step with n rows and m features takes 2·n·m products, or n·n in the coordinates of the rows,
    whichever is less.
    """
    if data.balanced or config.train >= data.whole[0]:
        return {}
    width = data.schema.width if data.schema else data.x.shape[1]
    small, large = (n * min(n, 2 * width) for n in (config.train, data.whole[0]))
    return {"train": data.whole[0], "rows": len(data.y), "times": large / small}


def mismatch(config: AuditConfig) -> str:
    """Return a warning if the attack and the evaluation use different kinds of victim; empty if they use the same."""
    if (config.inner == "exact") == (config.victim == "exact"):
        return ""
    how = {"exact": "solved to optimality", "sgd": "trained by SGD", "gd": "trained by gradient descent"}
    return (
        f"the attack uses a victim {how[config.inner]}, and the evaluation uses one {how[config.victim]}: an attack on "
        "the evaluated victim itself may do more harm (see options victim and inner)"
    )


def aim_of(config: AuditConfig, classes: Sequence[str]) -> tuple[str, str]:
    """Return in plain words what the attacker wants, and what his points are at the start."""
    kind, what = parse_objective(config.objective, classes)
    if kind == "indiscriminate":
        goal = "errors of any kind (indiscriminate): the largest loss on the validation rows (Eq. 3)"
        if config.score != "error":
            goal = f"errors of any kind (indiscriminate), as scored by {config.score}, on the validation rows"
        return goal, "a validation row, drawn at random, with another class's label"
    if isinstance(what, str):
        goal = f"the labels that {what} gives to its rows (error-specific): the least loss on these rows (Eq. 2)"
        return goal, "one of those rows with the wanted label"
    names = [classes[number] for number in what]
    if kind == "target-class":
        goal = f"errors on class {names[0]} (error-generic): the largest loss on its validation rows (Eq. 2)"
        return goal, "a validation row of that class with another class's label"
    first, second = names
    goal = f"class {first} taken for {second} (error-specific): the least loss on the validation rows of {first} "
    return goal + f"labelled {second} (Eq. 2)", "a validation row of the first class with the second's label"


def belonging(config: AuditConfig, groups: np.ndarray, unused: int) -> str:
    """Return what is said of rows that belong together.

    `groups` (n,) are the numbers of the training rows' groups; `unused` as from `Dataset.unused`.
    """
    what = "rows with the same features" if config.group in (None, ROWS) else f"all rows of one {config.group!r}"
    said = f"{what} stand in one of training, validation and test rows, and in one fold of cross-validation"
    if unused:
        said += (
            f"; {unused:,} rows of the file are in no part of the first split, because other rows of their groups are "
            "training or validation rows"
        )
    if config.budget == "added":
        return f"{said}; each row that the attacker adds is a group of its own"
    whole = (
        "an attacker who owns whole groups with equally many rows in all can do no more"
        if config.budget == "chosen"
        else "an attacker who owns whole groups was not tested"
    )
    share = np.bincount(groups).max() / len(groups)
    return (
        f"{said}; the attacker's rows may be in any groups, and stay in these groups: {whole} (the largest group has "
        f"{share:.1%} of the training rows)"
    )


def threat_model(
    config: AuditConfig,
    classes: Sequence[str],
    attacks: Sequence[Attacker],
    schema: Schema | None = None,
    unkept: Sequence[str] = (),
    unused: int = 0,
) -> dict[str, str]:
    """Return what the attacker knows, controls and may change, in plain words.

    Arguments: `classes`, their names; `attacks`, one on each defender; `schema` of a table, which says what its columns
    may hold; `unkept`, the rules between columns that all rows of the file keep and poison need not; `unused` as from
    `Dataset.unused`.
    """
    w0 = {"fixed": "from one w0 for each batch of points", "fresh": "from a w0 drawn again at every outer step"}
    within = f"within {list(config.bounds)}" if config.bounds else "within the data set's feasible range"
    if schema:
        within = f"within {_ranges(schema)}"
    learner, words = attacks[0].learner, dict.fromkeys(attack.words() for attack in attacks)
    goal, cloned = aim_of(config, classes)
    built_in = isinstance(config.attack, str) and config.attack in BUILT_IN["attack"]
    may_change = {
        "labels": "the labels of his rows, and no feature",
        "features": f"every feature of his rows, {within}, and no label (clean-label)",
    }.get(config.edits, f"the labels of his rows, and every feature, {within}")
    if config.attack == "bilevel" and config.edits == "both":
        may_change = f"every feature of his points, {within}; each starts as a clone of {cloned} and keeps this label"
    if not built_in:
        may_change = f"everything in his points, {within}, as the attack's code decides"
    how = f" for {LEAST[config.tune_by]}" + "; the other policies do not" * (len(config.policies) > 1)
    tunes = f"; the policy 'learned' tunes λ on it{how}" if "learned" in map(name_of, config.policies) else ""
    filtered = config.defences != ("none",)
    filters, cleaned = (" and filters the rows", "") if filtered else ("", "outlier filters, ")
    epochs = f"{config.epochs} epoch" + "s" * (config.epochs != 1)
    grouped = {} if attacks[0].groups is None else {"groups": belonging(config, attacks[0].groups, unused)}
    cut = (
        ", divided into smaller ones of the same sum if they would come near divergence (`inner_steps` in the records)"
    )
    return {
        "model": name_of(config.model) + (f", hidden layers {config.hidden}" if config.model == "mlp" else ""),
        "loss": described(learner.loss),
        "penalty": described(learner.penalty),
        "goal": goal,
        "attack": f"{attacks[0].name}: the attacker {'; or '.join(words)}",
        "knows": "everything: training and validation rows, model, loss, training, and how the defender sets "
        f"λ{filters} "
        "(perfect knowledge, the worst case)",
        "controls": f"up to {config.points} of the training rows, {BUDGETS[config.budget]}",
        "may_change": may_change,
        "may_not_change": "the other training rows, the validation rows, the test rows, the training program",
        "budget": f"{config.budget}: ratio = poison / "
        + ("(training rows + poison)" if config.budget == "added" else "training rows, whose number stays the same"),
        "validation_set": "owned by the defender and trusted" + tunes,
        **grouped,
        "inner_training": "solved to optimality"
        if config.inner == "exact"
        else (f"SGD, minibatches of {config.inner_batch}" if config.inner == "sgd" else "full-batch gradient descent")
        + f", η = {config.learning_rate:g}, T = {config.inner_steps}"
        + (f"; its steps{cut}" if config.stabilise else "")
        + f"; {w0.get(str(config.initial), f'the mean over {config.initial} w0 drawn again at every outer step')}",
        "evaluation": "solved to optimality on the poisoned rows"
        if config.victim == "exact"
        else f"retrained from scratch: SGD, η = {config.train_learning_rate:g}, minibatches of "
        f"{config.batch_size}, {epochs}",
        "not_tested": ("" if config.attack == "portfolio" else "other choices of rows and labels, ")
        + ("targeted and " if config.objective == "indiscriminate" else "other aims, ")
        + f"backdoor attacks, attackers with less knowledge, {cleaned}other models"
        + f", attackers whose rows must keep what all rows of the file do ({'; '.join(unkept)}: see option rule)"
        * bool(unkept),
    }


def threat_of_estimators(
    config: AuditConfig,
    classes: Sequence[str],
    victims: Sequence[Victim],
    fits: int,
    schema: Schema | None = None,
    unkept: Sequence[str] = (),
) -> dict[str, str]:
    """Return what an attacker of estimators knows, controls and may change, in plain words.

    `fits`: how often an estimator is fitted in a split, at most; the others as in `threat_model`.
    """
    within = f"within {_ranges(schema)}" if schema else "within the data set's feasible range"
    may_change = {
        "labels": "the labels of his rows, and no feature",
        "features": f"every feature of his rows, {within}, and no label (clean-label)",
        "both": f"the labels of his rows, and every feature, {within}",
    }[config.edits]
    crafted = (
        ""
        if config.edits == "labels"
        else (
            f"; points that are crafted on the derivatives of a surrogate ({', '.join(config.surrogates)}); and cells "
            "that are moved from row to row"
        )
    )
    return {
        "model": "; ".join(dict.fromkeys(victim.model for victim in victims)),
        "goal": aim_of(config, classes)[0].partition(":")[0],
        "attack": "the attacker flips labels of rows that are picked in many ways, and swaps rows as long as that does "
        f"more harm{crafted}. Each is tried by fitting the estimator again, at most {fits:,} times in a split; what "
        "does most harm on the validation rows counts. No derivative passes through the estimator, and not everything "
        "is tried: the figures are a lower bound of the worst case",
        "knows": "everything: training and validation rows, the estimator, its hyperparameters and its search",
        "controls": f"up to {config.points} of the training rows, {BUDGETS[config.budget]}",
        "may_change": may_change,
        "may_not_change": "the other training rows, the validation rows, the test rows, the training program",
        "budget": f"{config.budget}: ratio = poison / "
        + ("(training rows + poison)" if config.budget == "added" else "training rows, whose number stays the same"),
        "validation_set": "trusted rows that the attacker knows; the estimator's own search sees training rows alone",
        "evaluation": "the estimator fitted from scratch on the poisoned rows; where it draws at random and its seed "
        "is not set, by one seed for all fits of a split",
        "not_tested": ("targeted and " if config.objective == "indiscriminate" else "other aims, ")
        + "backdoor attacks, attackers with less knowledge, more fits than these, outlier filters, other estimators"
        + f", attackers whose rows must keep what all rows of the file do ({'; '.join(unkept)}: see option rule)"
        * bool(unkept),
    }


def _ranges(schema: Schema) -> str:
    """Return in words what cells of poisoned rows may hold."""
    told = [column.feasible for column in schema.columns if column.feasible]
    others = f", except {'; '.join(told)}" if told else ""
    rules = f", so that {' and '.join(rule.text for rule in schema.rules)}" if schema.rules else ""
    kept = "with the column's decimals, whole numbers and categories"
    return f"each column's range in the training rows, {kept}{others}{rules}"
