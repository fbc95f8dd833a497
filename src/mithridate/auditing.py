"""The audit: splits × policies × poison ratios → records.

Each split and policy is one chain of nested poison sets (App. B). In each cell the victim is retrained from
scratch, by minibatch SGD (Table 3), on the poisoned rows and on the baseline: the same starting points with
flipped labels and nothing optimised.
"""

import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attack import Attack, Poisoning
from mithridate.config import AuditConfig
from mithridate.datasets import Dataset, Split, load_dataset
from mithridate.errors import InputError
from mithridate.evaluation import Metrics, retrain_and_measure
from mithridate.feasible import Box
from mithridate.hypergradients import Bilevel
from mithridate.learner import Learner
from mithridate.models import LogisticRegression
from mithridate.policies import Learned, Policy, parse_policy
from mithridate.records import Record, to_frame
from mithridate.results import AuditResult
from mithridate.rows import Rows
from mithridate.seeds import key
from mithridate.steps import hyper_rule, poison_rule
from mithridate.training import GradientDescent, MinibatchSGD
from mithridate.tuning import minimise_on_fine_grid, validation_losses
from mithridate.verdict import verdict

RESPONSE_TOLERANCE = 0.1
PACKAGES = ("mithridate", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn", "pandas", "pyarrow")


class Progress(NamedTuple):
    """Where an audit stands: cells finished of all, and what is running."""

    done: int
    total: int
    running: str


def audit(
    dataset: str | Dataset,
    config: AuditConfig | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> AuditResult:
    """Find out how much poison a pipeline takes: run every split, policy and ratio.

    Arguments: `dataset`, a name or a `Dataset`; either a `config` or its fields as `options`; `on_progress`,
    called before every cell and at the end. Everything is checked before anything is computed: raises
    `InputError` or `DataError`.

    Example:
        >>> import mithridate as mi
        >>> result = mi.audit("synthetic", splits=2, points=2, hyperiterations=5, policies=("fixed=-8",))
        >>> result.frame["n_poison"].tolist()
        [0, 1, 2, 0, 1, 2]
    """
    if config is not None and options:
        raise InputError(f"give a config or options, not both: {', '.join(options)}")
    name = dataset if isinstance(dataset, str) else dataset.name
    config = config or AuditConfig.of(dataset=name, **options)
    if config.dataset != name:
        raise InputError(f"the configuration is for {config.dataset!r}, the data set is {name!r}")
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset
    policies = _policies(config)
    splits = [data.split(config.train, config.valid, config.seed, index) for index in range(config.splits)]
    attacks = [
        [_attack(config, split, policy, f"{config.seed}/{name}/{index}") for policy in policies]
        for index, split in enumerate(splits)
    ]
    rule = MinibatchSGD(config.train_learning_rate, config.batch_size, config.epochs)

    ratios = 1 + math.ceil(config.points / config.batch)
    total = len(splits) * len(policies) * ratios
    records: list[Record] = []
    poison: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for index, split in enumerate(splits):
        for attack in attacks[index]:
            policy = attack.policy.name
            chain: list[Poisoning] = []
            stages = attack.run(split.x_train, split.y_train)
            for ratio in range(ratios):
                where = f"split {index + 1}/{len(splits)} · {policy} · ratio {ratio + 1}/{ratios}"
                on_progress(Progress(len(records), total, where))
                started = time.perf_counter()
                chain.append(next(stages))
                records.append(_record(name, index, attack, chain[-1], split, rule, started))
            poison[index, policy] = _poison_arrays(chain, split)
    on_progress(Progress(total, total, "done"))
    frame = to_frame(records)
    return AuditResult(
        dataset={
            "name": data.name,
            "classes": list(data.classes),
            "features": data.x.shape[1],
            "image_shape": data.image_shape,
            "train": config.train,
            "valid": config.valid,
            "test": len(splits[0].y_test),
            "official_test_rows": data.test is not None,
            "source": data.source,
        },
        threat_model=_threat_model(config),
        config=config.model_dump(mode="json"),
        versions={package: version(package) for package in PACKAGES}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
        frame=frame,
        verdict=verdict(frame),
        poison=poison,
    )


def _policies(config: AuditConfig) -> list[Policy]:
    """Return the defenders, each of whom the evaluation can train."""
    descent, strengths = hyper_rule(config.hyper_rule, config.hyper_step), Box(*config.strength_bounds)
    policies = [
        parse_policy(text, strengths, descent, config.closing, config.folds, config.seed) for text in config.policies
    ]
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise InputError(f"policies are named twice: {', '.join(names)}")
    for policy in policies:
        shrinkage = config.train_learning_rate * math.exp(float(policy.strengths.high)) / config.train
        if shrinkage >= 2:
            raise InputError(
                f"policy {policy.name}: with λ up to {float(policy.strengths.high):g} the evaluation's SGD diverges "
                f"(η·e^λ/n = {shrinkage:.3g}, must be below 2); lower λ or train_learning_rate"
            )
    return policies


def _attack(config: AuditConfig, split: Split, policy: Policy, seed: str) -> Attack:
    """Return the attack on one split and policy; it depends on no other."""
    inner = GradientDescent(config.learning_rate, config.inner_steps)
    learner = Learner(LogisticRegression(split.x_train.shape[1]), inner)
    if config.stabilise:
        curvature = learner.curvature(Rows.of(split.x_train, split.y_train), float(policy.strengths.high))
        learner = learner.with_rule(inner.subdivided(curvature))
    return Attack(
        learner=learner,
        target=(split.x_valid, split.y_valid),
        feasible=Box(*config.bounds) if config.bounds else Box(split.low, split.high),
        policy=policy,
        points=config.points,
        batch=config.batch,
        budget=config.budget,
        steps=config.joint_hyperiterations if policy.descent else config.hyperiterations,
        ascent=poison_rule(config.poison_rule, config.poison_step),
        select=config.select,
        alternate=config.alternate,
        seed=seed,
    )


def _record(
    dataset: str,
    index: int,
    attack: Attack,
    poisoning: Poisoning,
    split: Split,
    rule: MinibatchSGD,
    started: float,
) -> Record:
    """Return the record of one cell: the victim retrained on the poison, and on the baseline."""
    cell_key = key(attack.seed, "retrain", len(poisoning.y_poison))
    victim = attack.learner.with_rule(rule)
    valid, test = Rows.of(*attack.target), Rows.of(split.x_test, split.y_test)

    def measured(train: Rows, log_strength: float) -> Metrics:
        strength = jnp.asarray(log_strength, dtype=float)
        return Metrics(*map(float, retrain_and_measure(victim, train, valid, test, strength, cell_key)))  # pyright: ignore[reportArgumentType]

    def settled(train: Rows) -> Bilevel:
        return Bilevel(attack.learner, train, jnp.zeros(0), valid)

    nothing = jnp.zeros((0, split.x_train.shape[1]))
    train = Rows.of(*poisoning.apply(split.x_train, split.y_train))
    found = measured(train, poisoning.log_strength)
    baseline, strength = found, poisoning.log_strength
    if len(poisoning.y_poison):
        flipped = Rows.of(*poisoning.apply_start(split.x_train, split.y_train))
        strength = poisoning.policy.respond(settled(flipped), nothing, strength, cell_key)
        baseline = measured(flipped, strength)
    best = math.nan
    if isinstance(poisoning.policy, Learned):
        problem = settled(train)
        best = minimise_on_fine_grid(
            lambda grid: validation_losses(problem, nothing, grid, cell_key), poisoning.policy.strengths
        )
    faults = {
        "non-finite": bool((poisoning.statuses != "ok").any()) or not math.isfinite(found.valid_loss),
        "unstable": poisoning.stability > 2,
        "off-response": abs(best - poisoning.log_strength) > RESPONSE_TOLERANCE,
        "weak": bool(len(poisoning.y_poison))
        and (found.valid_loss <= baseline.valid_loss or found.test_error < baseline.test_error),
    }
    return Record(
        dataset=dataset,
        split=index,
        policy=attack.policy.name,
        budget=attack.budget,
        n_train=len(train.y),
        n_poison=len(poisoning.y_poison),
        ratio=poisoning.ratio,
        **found._asdict(),
        valid_loss_before=poisoning.value_start,
        valid_loss_after=poisoning.value,
        log_strength=poisoning.log_strength,
        descended_log_strength=poisoning.descended,
        best_log_strength=best,
        baseline_test_error=float(baseline.test_error),
        baseline_valid_loss=float(baseline.valid_loss),
        baseline_log_strength=strength,
        inner_steps=len(attack.learner.rule.schedule(len(train.y), cell_key)),
        stability=poisoning.stability,
        status="+".join(fault for fault, present in faults.items() if present) or "ok",
        seconds=time.perf_counter() - started,
    )


def _poison_arrays(chain: list[Poisoning], split: Split) -> dict[str, np.ndarray]:
    """Return what it takes to retrain on the poisoned sets of one chain without this program.

    The first `counts[i]` points are the poison at ratio i; raw features are x·scale + offset.
    """
    last = chain[-1]
    added = last.replaced is None
    return {
        "x_poison": last.x_poison.astype(np.float32),
        "y_poison": last.y_poison.astype(np.int8),
        "x_start": last.x_start.astype(np.float32),
        "replaced": np.empty(0, np.int64) if added else np.asarray(last.replaced),
        "replaced_rows": np.empty(0, np.int64) if added else split.train_rows[last.replaced],
        "counts": np.array([len(p.y_poison) for p in chain]),
        "log_strength": np.array([p.log_strength for p in chain]),
        "history": last.history.astype(np.float32),
        "train_rows": split.train_rows,
        "valid_rows": split.valid_rows,
        "test_rows": split.test_rows,
        "offset": split.offset,
        "scale": split.scale,
    }


def _threat_model(config: AuditConfig) -> dict[str, str]:
    """Return what the attacker knows, controls and may change, in plain words."""
    replaced = config.budget == "replaced"
    within = f"within {list(config.bounds)}" if config.bounds else "within the data set's feasible range"
    cut = ", cut into smaller ones of the same sum where they would come near divergence (`inner_steps` in the records)"
    return {
        "goal": "indiscriminate: the largest loss on the validation rows (Eq. 3)",
        "knows": "everything: training and validation rows, model, loss, training, and how the defender sets λ "
        "(perfect knowledge, the worst case)",
        "controls": f"up to {config.points} poisoning points, {config.batch} crafted at a time, which "
        + ("take the place of training rows drawn at random" if replaced else "are added to the training rows"),
        "may_change": f"every feature of its points, {within}; each starts as a clone of a validation row, drawn at "
        "random, with the other class's label, which it keeps",
        "may_not_change": "the other training rows, the validation rows, the test rows, the training program",
        "budget": f"{config.budget}: ratio = poison / "
        + ("training rows, whose number stays" if replaced else "(training rows + poison)"),
        "validation_set": "owned by the defender and trusted; the policy 'learned' tunes λ on it, the others do not",
        "inner_training": f"full-batch gradient descent, η = {config.learning_rate:g}, T = {config.inner_steps}"
        + (f"; its steps{cut}" if config.stabilise else ""),
        "evaluation": f"retrained from scratch: SGD, η = {config.train_learning_rate:g}, minibatches of "
        f"{config.batch_size}, {config.epochs} epochs",
        "not_tested": "other choices of rows and labels, targeted and backdoor attacks, attackers with less knowledge, "
        "outlier filters, other models",
    }
