"""The audit: splits × policies × poison ratios → records.

Each split and policy is one chain of nested poison sets (App. B). In each cell the victim is retrained from
scratch, by minibatch SGD (Table 3), on the poisoned rows and on the baseline: the same starting points with
flipped labels and nothing optimised.
"""

import functools
import math
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mithridate import execution
from mithridate.assembly import (
    attack_of,
    evaluation_rule,
    mismatch,
    model_of,
    objective_on,
    policies_of,
    threat_model,
)
from mithridate.attack import Attack, Poisoning
from mithridate.config import AuditConfig, model_name
from mithridate.datasets import Dataset, Split
from mithridate.errors import InputError
from mithridate.evaluation import Measured, Retrained, retrain_and_measure
from mithridate.objectives import Labelled
from mithridate.policies import Learned, Strength
from mithridate.records import Record, to_frame
from mithridate.results import AuditResult
from mithridate.rows import Rows
from mithridate.seeds import key
from mithridate.sources import prepared
from mithridate.tuning import best_response, validation_losses
from mithridate.verdict import verdict

RESPONSE_TOLERANCE = 0.1
PACKAGES = ("mithridate", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn", "pandas", "pyarrow")


class Progress(NamedTuple):
    """Where an audit stands: cells finished of all, and what is running."""

    done: int
    total: int
    running: str


def audit(
    dataset: str | Path | Dataset,
    config: AuditConfig | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> AuditResult:
    """Find out how much poison a pipeline takes: run every split, policy and ratio.

    Arguments: `dataset`, a name, a file or a `Dataset`; either a `config` or its fields as `options`; `on_progress`,
    called before every cell and at the end. Everything is checked before anything is computed: raises
    `InputError` or `DataError`.

    Example:
        >>> import mithridate as mi
        >>> result = mi.audit("synthetic", splits=2, points=2, hyperiterations=5, policies=("fixed=-8",))
        >>> result.frame["n_poison"].tolist()
        [0, 1, 2, 0, 1, 2]
    """
    data, config = prepared(dataset, config, options)
    with jax.enable_x64(config.precision == "float64"):
        return _audit(data, config, on_progress)


def _audit(data: Dataset, config: AuditConfig, on_progress: Callable[[Progress], None]) -> AuditResult:
    policies, how = policies_of(config), execution.chosen(config.execution)
    if how == "batched" and "exact" in (config.victim, config.inner) and jax.default_backend() == "cpu":
        # LAPACK's batched routines can wait for each other for ever on a CPU.
        raise InputError("execution = batched: not with an exact victim on a CPU; use serial")
    splits = [data.split(config.train, config.valid, config.seed, index) for index in range(config.splits)]
    model = model_of(config, splits[0])
    seeds = [f"{config.seed}/{data.name}/{index}" for index in range(config.splits)]
    aims = [objective_on(config, *cell) for cell in zip(splits, seeds, strict=True)]
    attacks = [
        [attack_of(config, split, policy, seed, model, aim) for policy in policies]
        for split, seed, aim in zip(splits, seeds, aims, strict=True)
    ]
    # What the policies of a split share is put on the device once, its Gram matrix included.
    rows = [own[0].rows(split.x_train, split.y_train) for own, split in zip(attacks, splits, strict=True)]
    ratios = 1 + math.ceil(config.points / config.batch)
    counter = _Counter(len(splits) * len(policies) * ratios, on_progress)

    def chain(index: int, attack: Attack) -> tuple[list[Record], dict[str, np.ndarray]]:
        split, records, stages, weights = splits[index], [], [], []
        found = attack.run(split.x_train, split.y_train, rows[index])
        for ratio in range(ratios):
            counter.begin(f"split {index + 1}/{len(splits)} · {attack.policy.name} · ratio {ratio + 1}/{ratios}")
            started = time.perf_counter()
            stages.append(next(found))
            record, own = _record(config, index, attack, stages[-1], split, aims[index].goal, started)
            records.append(record)
            weights.append(own)
            counter.done += 1
        kept = _weight_arrays(weights) if not index else {}
        return records, _poison_arrays(stages, split) | kept

    cells = [(index, attack) for index, own in enumerate(attacks) for attack in own]
    chains = [functools.partial(chain, *cell) for cell in cells]
    outcomes = execution.run(chains, how)
    counter.begin("done")
    frame = to_frame(record for records, _ in outcomes for record in records)
    found = verdict(frame)
    if warning := mismatch(config):
        found = replace(found, warnings=(*found.warnings, warning))
    keys = [(index, attack.policy.name) for index, attack in cells]
    poison = dict(zip(keys, (arrays for _, arrays in outcomes), strict=True))
    as_rows = {cell: _rows_of(arrays, splits[cell[0]]) for cell, arrays in poison.items()} if data.schema else {}
    return AuditResult(
        dataset={
            "name": data.name,
            "classes": list(data.classes),
            "features": splits[0].x_train.shape[1],
            "feature_names": list(splits[0].feature_names),
            "columns": _columns(data),
            "image_shape": data.image_shape,
            "train": config.train,
            "valid": config.valid,
            "test": len(splits[0].y_test),
            "official_test_rows": data.test is not None,
            "source": data.source,
        },
        threat_model=threat_model(config, data.classes),
        config=config.model_dump(mode="json"),
        versions=versions(),
        frame=frame,
        verdict=found,
        poison=poison,
        rows=as_rows,
    )


def versions() -> dict[str, str]:
    """Return what numbers depend on besides the configuration: packages, Python, device."""
    device = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    return {package: version(package) for package in PACKAGES} | device


class _Counter:
    """Cells done of all, told to the caller one at a time whichever thread they are done in."""

    def __init__(self, total: int, tell: Callable[[Progress], None]):
        self.done, self.total, self.tell, self.lock = 0, total, tell, threading.Lock()

    def begin(self, what: str) -> None:
        with self.lock:
            self.tell(Progress(self.done, self.total, what))


def _record(
    config: AuditConfig,
    index: int,
    attack: Attack,
    poisoning: Poisoning,
    split: Split,
    goal: Labelled,
    started: float,
) -> tuple[Record, Any]:
    """Return the record of one cell, the victim retrained on the poison and on the baseline, and its weights."""
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
    best = np.full_like(poisoning.log_strength, math.nan)
    if isinstance(poisoning.policy, Learned):
        problem = attack.settled(train)
        best = best_response(
            lambda grid: validation_losses(problem, nothing, grid, tuning_key),
            poisoning.policy.strengths,
            poisoning.log_strength,
        )
    statuses = Counter(poisoning.statuses.tolist())
    faults = {
        "non-finite": "non_finite" in statuses or not math.isfinite(found.valid_loss),
        "unsound": bool(statuses.keys() - {"ok", "non_finite"}),
        "unstable": poisoning.stability > 2,
        "off-response": bool(np.any(np.abs(best - poisoning.log_strength) > RESPONSE_TOLERANCE)),
        "weak": bool(len(poisoning.y_poison))
        and (found.attack_loss <= baseline.attack_loss or found.attack_success < baseline.attack_success),
    }
    measured_values = {name: value.tolist() for name, value in found._asdict().items()}
    record = Record(
        dataset=config.dataset,
        model=model_name(config.model),
        split=index,
        policy=attack.policy.name,
        objective=config.objective,
        budget=attack.budget,
        n_train=int(train.size),
        n_poison=len(poisoning.y_poison),
        ratio=poisoning.ratio,
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
        inner_steps=getattr(attack.learner.rule, "steps", 0),
        space=attack.learner.chosen_space((train,)),
        hypergradients=" ".join(f"{status}:{count}" for status, count in statuses.items()),
        stability=poisoning.stability,
        status="+".join(fault for fault, present in faults.items() if present) or "ok",
        seconds=time.perf_counter() - started,
    )
    return record, weights


def _columns(data: Dataset) -> list[dict[str, str]]:
    """Return name and kind of each column of the user's own table, the target's kind "target"; nothing for others."""
    if data.schema is None:
        return []
    kinds = {column.name: column.kind for column in data.schema.columns} | {data.schema.target.name: "target"}
    return [{"name": name, "kind": kinds[name]} for name in data.schema.order]


def _rows_of(poison: dict[str, np.ndarray], split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the points of one chain, at their start and at their end, as rows of the user's own table."""
    before, after = (split.decode(poison[name], poison["y_poison"]) for name in ("x_start", "x_poison"))
    return before, after


def _weight_arrays(chain: list[Any]) -> dict[str, np.ndarray]:
    """Return the victim's weights, layer by layer, retrained on clean data and at the most poison."""
    ends = {"clean": chain[0], "poisoned": chain[-1]}
    return {
        f"weights_{name}_{layer}": np.asarray(leaf, np.float32).ravel()
        for name, weights in ends.items()
        for layer, leaf in enumerate(jax.tree.leaves(weights))
    }


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
