"""Whether the hypergradients of an audit are right, on the user's own configuration and data (see `ladder`).

A method may say of itself that it does not hold here: that is its status. One that is wrong and does not say so fails
the check.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mithridate.attacks.bilevel import Attack
from mithridate.auditing.scenario import Scenario
from mithridate.checking.differences import Place
from mithridate.checking.ladder import TOLERANCE, Rung, Truth, climb, judged, tried, try_parts
from mithridate.configuration.config import OPTIONS, AuditConfig
from mithridate.configuration.parts import name_of
from mithridate.data.datasets import Dataset, Split
from mithridate.data.feasible import Box
from mithridate.data.sources import prepared
from mithridate.defences.base import Defender
from mithridate.defences.named import LARGEST
from mithridate.defences.policies import Learned
from mithridate.errors import InputError
from mithridate.execution.devices import surroundings
from mithridate.hypergradients import Bilevel, HypergradientMethod
from mithridate.notebooks import table, with_parameters
from mithridate.seeds import generator, key
from mithridate.tasks.classification import Classification
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, join

PASSING, FAILING = ("agrees", "rounding"), ("disagrees", "failed")


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    `frame`: one row per method and space. `hyper_error` and `poison_error`: the relative errors of its derivatives in λ
    and X_p against central differences; `hyper_difference` and `poison_difference`: those against `reference`; NaN
    where unknown. `seconds`: per compiled call (median). `temp_bytes`: the temporary memory that XLA plans for a call,
    its inputs and results left out. `status`: the method's own (see `STATUSES`). `verdict`: "agrees"; "rounding", it
    agrees in float64 alone; "disagrees" though its status is ok; "failed" with an error; "not run", since it refused;
    "no test", the differences being too uncertain; or the status. `note`: why, where it does not agree.

    `differences`: the central differences by part (λ, X_p along the hypergradient, X_p along random directions): their
    `size`, their `step`, and relative to the size their `uncertainty` and what of it is `rounding` of A. `setting`:
    where and how the methods were compared.
    """

    dataset: str
    config: dict[str, Any]
    setting: dict[str, Any]
    reference: str
    differences: dict[str, dict[str, float]]
    frame: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        told = ", ".join(f"{row.method} ({row.space}) {row.verdict}" for row in self.frame.itertuples())
        return f"CheckResult({self.dataset}: {'ok' if self.ok else 'failed'}; {told})"

    def _repr_html_(self) -> str:
        shown = ["method", "space", "hyper_error", "poison_error", "seconds", "verdict", "note"]
        rows = [
            [f"{cell:.2g}" if isinstance(cell, float) else cell for cell in row] for row in self.frame[shown].to_numpy()
        ]
        return table(f"check on {self.dataset}: {'ok' if self.ok else 'failed'}", shown, rows)

    @property
    def ok(self) -> bool:
        """Whether no method disagrees or fails, and at least one agrees."""
        verdicts = self.frame["verdict"]
        return bool(verdicts.isin(PASSING).any() and not verdicts.isin(FAILING).any())

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data; what is not known is None."""
        told = {"format": 1, "ok": self.ok, "dataset": self.dataset, "setting": self.setting}
        told |= {"reference": self.reference, "differences": self.differences}
        return _plain(told | {"methods": self.frame.to_dict("records"), "config": self.config})


@with_parameters(OPTIONS)
def check(
    dataset: str | Path | Dataset,
    config: AuditConfig | None = None,
    *,
    log_strength: float | None = None,
    learner: Learner | None = None,
    methods: Mapping[str, HypergradientMethod] | None = None,
    on_progress: Callable[[str], None] = lambda running: None,
    **options: Any,
) -> CheckResult:
    """Compare the hypergradients of an audit, on its first split and batch, with differences and with one another.

    Arguments: `dataset`, a name, a file or a `Dataset`; either a `config` or its fields as `options` (as for `audit`);
    λ = `log_strength`, by default the middle of `strength_bounds`; `learner`, a victim of your own instead of the
    configuration's; `methods` by name, by default all that apply: the first is run in the plain and in Gram space, the
    others in the space that an audit uses; `on_progress`, called with what is about to run.

    Raises `InputError` or `DataError` for what cannot be used, a learner that JAX cannot differentiate included.

    Example:
        >>> import mithridate as mi
        >>> result = mi.check("synthetic", points=1, inner_steps=20, methods={"mine": mi.Checkpointed()})
        >>> result.ok, result.frame["verdict"].tolist()
        (True, ['agrees', 'agrees'])
    """
    data, config = prepared(dataset, config, options)
    low, high = config.strength_bounds
    strength = (low + high) / 2 if log_strength is None else log_strength
    if not abs(strength) <= LARGEST:
        raise InputError(f"log_strength = {strength:g}: λ must lie between −{LARGEST:g} and {LARGEST:g}")
    if methods is not None and not methods:
        raise InputError("no methods to check; leave methods out for all that apply")
    with surroundings(config.precision, config.execution):
        scenario = Scenario.of(data, config.model_copy(update={"attack": "bilevel"}))
        split, policy = scenario.split, Learned(Box(min(low, strength), max(high, strength)))
        attack = scenario.attack(Defender(policy, scenario.defenders[0].sanitiser))
        assert isinstance(attack, Attack)
        if learner is not None:
            method = None if config.hypergradient == "auto" else attack.hypergradient
            attack = replace(attack, learner=learner, hypergradient=method)
        at = _place(attack, split, strength)
        try_parts(at)
        rungs = []
        for rung in tried(at, methods):
            on_progress(rung.label)
            rungs.append(climb(rung))
        on_progress("central differences")
        tolerance = TOLERANCE[config.precision]
        truth = Truth.of(at, rungs, max(tolerance / 10, 1e-6), generator(config.seed, "directions"))
        reference = _reference(rungs, truth, tolerance)
        on_progress("verdict")
        rungs = [judged(rung, truth, reference, config.precision) for rung in rungs]
        return CheckResult(
            dataset=data.name,
            config=config.model_dump(mode="json"),
            setting=_setting(attack, at, truth, strength, config.precision),
            reference=reference.label if reference else "",
            differences={
                name: {"size": float(np.linalg.norm(slopes.values))} | slopes._asdict()
                for name, slopes in truth.slopes.items()
            },
            frame=pd.DataFrame([_record(rung, truth, reference) for rung in rungs]),
        )


def _place(attack: Attack, split: Split, strength: float) -> Place:
    """Return the first batch of an attack, each point moved part of the way to another validation row."""
    draw, k = generator(attack.seed, "check"), attack.batch or attack.points
    clones, others = (draw.permutation(len(split.y_valid))[:k] for _ in range(2))
    start, end = (attack.feasible.project(jnp.asarray(split.x_valid[i], dtype=float)) for i in (clones, others))
    x_poison = start + jnp.asarray(draw.uniform(0.1, 0.4, (k, 1)), dtype=float) * (end - start)  # Φ is convex
    rows = attack.rows(split.x_train, split.y_train)
    if attack.budget != "added":
        replaced = draw.permutation(len(split.y_train))[:k]
        rows = rows.with_weight(rows.weight.at[replaced].set(0.0))
    labels = Classification(len(split.classes)).flipped(
        split.y_valid[clones], attack.flip, draw, split.x_train, split.y_train
    )
    y_poison = jnp.asarray(labels, dtype=float)
    problem = Bilevel(attack.learner, rows, y_poison, Rows.of(*attack.target), specific=attack.specific)
    log_strength = jnp.full(attack.learner.strength_shape, strength)
    return Place(problem, x_poison, log_strength, key(attack.seed, "check"))


def _reference(rungs: list[Rung], truth: Truth, tolerance: float) -> Rung | None:
    """Return the first sound method that agrees with the differences, else the first sound one."""
    sound = [rung for rung in rungs if rung.sound]
    agreeing = [rung for rung in sound if rung.found and truth.agrees(rung.found, tolerance)]
    return next(iter(agreeing or sound), None)


def _setting(attack: Attack, at: Place, truth: Truth, strength: float, precision: str) -> dict[str, Any]:
    rows = join(at.problem.blocks(at.x_poison))
    return {
        "model": name_of(attack.learner.model),
        "log_strength": strength,
        "points": len(at.x_poison),
        "features": at.x_poison.shape[1],
        "train": int(rows.size),
        "valid": int(at.problem.target.size),
        "inner_steps": getattr(attack.learner.rule, "steps", 0),
        "stability": attack.learner.stability(rows, strength),
        "directions": len(truth.ways) - 1,
        "precision": precision,
        "tolerance": TOLERANCE[precision],
        "method": type(attack.hypergradient).__name__,
        "space": at.space,
        "device": jax.devices()[0].device_kind,
    }


def _record(rung: Rung, truth: Truth, reference: Rung | None) -> dict[str, Any]:
    found = rung.found
    unknown = (math.nan, math.nan)
    with np.errstate(over="ignore"):  # of a method that diverged, and says so
        errors = truth.worst(found) if found else unknown
        apart = found.distance(reference.found if reference else None) if found else unknown
    return {
        "method": rung.name,
        "space": rung.place.space,
        "hyper_error": errors[0],
        "hyper_difference": apart[0],
        "poison_error": errors[1],
        "poison_difference": apart[1],
        "seconds": found.seconds if found else math.nan,
        "temp_bytes": found.temp_bytes if found else math.nan,
        "status": found.status if found else "",
        "verdict": rung.verdict,
        "note": rung.note,
    }


def _plain(value: Any) -> Any:
    """Return the value as JSON has it; numbers that are not finite are None."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
