"""Fig. 4 (App. E.1): does the method for λ's hypergradient matter?

Algorithm 1 is run once per method. The points' hypergradient always uses reverse mode (RMD) through the same inner
training; only `hypGradL` differs. λ stays where its own descent ends: with a closing solve every method would end at
the same best response, and there would be nothing to compare.

By default λ moves by Rprop, so it stops where a method's own derivative changes its sign. On MNIST 0 v 8 (one split, 3
batches) λ by RMD ends at most 0.04 from the best response to its points. With `decay` it ends 0.08 from it; with
`constant`, the paper's β, 0.58, which is more than the difference between the methods. With `raw`, which is Eq. 5
unchanged, it does not leave the lower end of Φ(λ), where the derivative is 1e-7.

The paper computes the exact hypergradient after T = 1500 steps with η = 1e-2, which is as far from the optimum as
T = 150 with η = 0.1. A fifth curve shows the same formula (Eq. 4) where it holds: at the minimum of the training loss.
"""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, Key

from mithridate.attacks.bilevel import Attack
from mithridate.attacks.outer import OuterStep, begin, take_steps
from mithridate.attacks.poison import Poisoning
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.audit import Progress, versions
from mithridate.auditing.evaluation import Measured, retrain_and_measure
from mithridate.auditing.scenario import Scenario
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.presets import setting
from mithridate.data.catalogue import load_dataset
from mithridate.data.datasets import Dataset, Split
from mithridate.data.feasible import Box, FeasibleSet
from mithridate.defences.base import Strength
from mithridate.defences.policies import Learned
from mithridate.errors import InputError
from mithridate.execution import devices
from mithridate.hypergradients import (
    STATUSES,
    Bilevel,
    Combined,
    Forward,
    Hypergradient,
    HypergradientMethod,
    Implicit,
    Reverse,
    Reversible,
    number,
)
from mithridate.reproduction import fig4_claims
from mithridate.reproduction.fig4_claims import EXACT, FORWARD, REVERSE, REVERSED, SOLVED
from mithridate.reproduction.outcome import Reproduction
from mithridate.results.results import check_free
from mithridate.seeds import key
from mithridate.victims.newton import norm
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, GradientDescent, add

CLEAN_ROUNDS, CLEAN_ROUND = 5, 10
"""The number of λ's own steps on clean data: T_λ = 50 of Table 2."""
FINER = 10
"""The exact hypergradient has this many times the inner steps: T = 1500 for 150, η = 1e-2 for 0.1 on MNIST."""
FIXED: dict[str, Any] = {
    "model": "logistic",
    "inner": "gd",
    "policies": ("learned",),
    "hypergradient": "auto",
    "closing": False,
    "select": "last",
    "alternate": False,
}
"""The options that define this experiment. All other options of an audit can be changed."""


class Retrained(HypergradientMethod):
    """A method's hypergradient of the same problem, but with another training rule."""

    method: HypergradientMethod
    rule: GradientDescent | Exact

    def start(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> Any:
        """Return the method's memory."""
        return self.method.start(self._retrained(problem), x_poison, log_strength, key)

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = (),
    ) -> Hypergradient:
        """Return A(wT) and its derivatives at (X_p, λ), with wT from the other rule."""
        return self.method(self._retrained(problem), x_poison, log_strength, key, memory)

    def _retrained(self, problem: Bilevel) -> Bilevel:
        return replace(problem, learner=problem.learner.with_rule(self.rule))


class Descended(eqx.Module):
    """A defender whose λ moves only by its own descent.

    On clean data it takes T_λ steps from the lower end of Φ(λ), while `Learned` would solve. After that λ moves within
    the attack's outer step, and the policy does not change it.
    """

    strengths: Box
    descent: optax.GradientTransformation
    hypergradient: HypergradientMethod
    feasible: FeasibleSet
    ascent: optax.GradientTransformation
    poisoned: bool = False
    name: str = eqx.field(default="learned", static=True)

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return λ: on clean data where the descent ends, later unchanged."""
        if self.poisoned:
            return log_strength
        # Points of weight 0 have a derivative of 0 and stay.
        outer = OuterStep(self.hypergradient, self.feasible, self.strengths, self.ascent, self.descent)
        state = begin(outer, problem, x_poison, jnp.asarray(log_strength, dtype=float), key)
        for _ in range(CLEAN_ROUNDS):
            state, _ = take_steps((outer, problem, key), state, CLEAN_ROUND)
        return np.asarray(state.log_strength, dtype=float)

    def after_clean(self, log_strength: Strength) -> "Descended":
        """Return the same policy, for data that may be poisoned."""
        return replace(self, poisoned=True)


def rules(attack: Attack) -> dict[str, GradientDescent]:
    """Return three rules of inner training: the attack's, one with smaller steps (App. E.1), and one with more steps.

    `finer` follows gradient flow for the same time η·T as the attack's rule; `longer` keeps η and follows it further.
    """
    rule = attack.learner.rule
    assert isinstance(rule, GradientDescent)
    eta, T = rule.learning_rate, rule.steps
    return {
        "attack": rule,
        "finer": GradientDescent(eta / FINER, FINER * T),
        "longer": GradientDescent(eta, FINER * T),
    }


def methods(attack: Attack) -> dict[str, HypergradientMethod]:
    """Return the paper's four ways to λ's hypergradient, and the exact one at the optimum.

    `Reversible(iterations=1)` is the reversal of Muñoz-González et al. (2017).
    """
    return {
        REVERSE: Reverse(),
        REVERSED: Reversible(iterations=1),
        FORWARD: Forward(),
        EXACT: Retrained(Implicit(), rules(attack)["finer"]),
        SOLVED: Retrained(Implicit(), Exact()),
    }


def run(
    dataset: str | Dataset = "mnist-0v8",
    out: str | Path | None = None,
    *,
    preset: str = "quick",
    splits: int | None = None,
    optimum: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Reproduction:
    """Reproduce Fig. 4 and, with `out`, write it there.

    Arguments: `dataset`, a name or a `Dataset`; `preset`, quick (3 splits × 4 ratios) or paper (10 × 8, in batches of
    13 points); `splits`, another number of splits; `optimum`, whether to draw the fifth curve; `on_progress` as in
    `audit`; `options`, fields of `AuditConfig` except those of `FIXED`. Raises `InputError`, `DataError` or
    `StorageError` before anything is computed.
    """
    if given := sorted(options.keys() & FIXED.keys()):
        raise InputError(f"fig4 sets {', '.join(given)} itself; leave them out")
    if out is not None:
        check_free(Path(out))
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset
    whose = {"attack": "bilevel", "budget": setting(data.name).budget}
    config = AuditConfig.of(**whose, dataset=data.name, preset=preset, splits=splits, **FIXED, **options)
    with jax.enable_x64(config.precision == "float64"):
        frame = compute(data, config, optimum, on_progress)
    settings = {"config": config.model_dump(mode="json"), "versions": versions()}
    caption = fig4_claims.caption(frame, config, versions())
    found = Reproduction("fig4", frame, tuple(fig4_claims.claims(frame)), caption, settings, fig4_claims.draw(frame))
    if out is not None:
        found.save(out)
    return found


def compute(data: Dataset, config: AuditConfig, optimum: bool, on_progress: Callable[[Progress], None]) -> pd.DataFrame:
    """Return one row per split, method and ratio (see `_row`)."""
    cells = []
    for index in range(config.splits):
        scenario = Scenario.of(data, config, index)
        split, rows, attack = scenario.split, scenario.rows, scenario.attacks[0]
        assert isinstance(attack, Attack)  # by the configuration
        cells += [
            (index, split, name, attacked_by(attack, method), rows)
            for name, method in methods(attack).items()
            if optimum or name != SOLVED
        ]
    ratios = 1 + math.ceil(config.points / config.batch)
    total, done = len(cells) * ratios, []

    def chain(index: int, split: Split, name: str, attack: Attack, rows: Rows) -> list[tuple[Poisoning, Any]]:
        found, stages = attack.run(split.x_train, split.y_train, rows), []
        victim = attack.learner.with_rule(evaluation_rule(config))
        valid, test = Rows.of(*attack.target), Rows.of(split.x_test, split.y_test)
        on, generic = Measured(valid, test, valid, test), jnp.zeros((), bool)
        for ratio in range(ratios):
            at = f"split {index + 1}/{config.splits} · {name} · ratio {ratio + 1}/{ratios}"
            on_progress(Progress(len(done), total, at))
            poisoning = next(found)
            train = attack.rows(*poisoning.apply(split.x_train, split.y_train))
            strength = jnp.asarray(poisoning.log_strength, dtype=float)
            cell_key = key(attack.seed, "retrain", len(poisoning.y_poison))
            stages.append((poisoning, retrain_and_measure(victim, train, on, generic, strength, cell_key).metrics))
            done.append(at)
        return stages

    outcomes = devices.run([functools.partial(chain, *cell) for cell in cells], devices.chosen(config.execution))
    on_progress(Progress(total, total, "derivatives at the final points"))
    # Apart from the chains, which may share the device: a hypergradient is timed when nothing else runs.
    return pd.DataFrame(
        {"dataset": data.name} | _row(cell, poisoning, metrics)
        for cell, stages in zip(cells, outcomes, strict=True)
        for poisoning, metrics in stages
    )


def attacked_by(attack: Attack, method: HypergradientMethod) -> Attack:
    """Return the attack that moves only λ along this method's hypergradient, and the points along reverse mode's."""
    both, policy = Combined(Reverse(), method), attack.policy
    assert policy.descent is not None
    defender = Descended(policy.strengths, policy.descent, both, attack.feasible, attack.ascent)
    return replace(attack, hypergradient=both, policy=defender)


def _row(cell: tuple[int, Split, str, Attack, Rows], poisoning: Poisoning, metrics: Any) -> dict[str, Any]:
    """Return what was measured in one cell.

    `test_error` to `weight_norm_sq`: of the victim retrained from scratch; `log_strength`: the defender's λ;
    `best_log_strength`: the closing solve's best response to the same points; `value`: the attack's objective;
    `hypergradients`: the statuses of all steps so far. The rest is about λ's derivative at the final points. `hyper`:
    by this method, with its `status` and `seconds` (compiled, best of three); `hyper_rmd`: by RMD; `drift`: of the
    weights recomputed backwards; `drift_finer`: the same with finer steps; `gap`: |⟨v, ∇L(w)⟩|/A, and `cg_steps` (see
    `Implicit`); `residual_*`: ‖∇L(wT)‖/‖∇L(w0)‖ after inner training as in `rules`; `inner_steps`: T for λ, 0 at the
    optimum.
    """
    index, split, name, attack, _ = cell
    train = attack.rows(*poisoning.apply(split.x_train, split.y_train))
    nothing = jnp.zeros((attack.width, split.x_train.shape[1]))
    cell_key = key(attack.seed, "retrain", len(poisoning.y_poison))
    problem = attack.settled(train)
    best = Learned(attack.policy.strengths).respond(problem, nothing, poisoning.log_strength, cell_key)
    given = (problem.settled(nothing), nothing[:0], jnp.asarray(poisoning.log_strength, dtype=float), cell_key)
    method = methods(attack)[name]
    own, seconds = _timed(method, given)

    def left(rule: GradientDescent) -> float:
        eta, T = jnp.asarray(rule.learning_rate, dtype=float), jnp.asarray(rule.steps)
        return float(_residual(given[0], given[2], cell_key, eta, T))

    finer = Retrained(method, rules(attack)["finer"])
    drift_finer = float(_derivative(finer, *given).diagnostics["drift"]) if name == REVERSED else math.nan
    return {
        "split": index,
        "method": name,
        "n_poison": len(poisoning.y_poison),
        "ratio": poisoning.ratio,
        **{metric: float(value) for metric, value in metrics._asdict().items() if not value.ndim},
        "log_strength": float(poisoning.log_strength),
        "best_log_strength": float(best),
        "value": poisoning.value,
        "stability": poisoning.stability,
        "hypergradients": " ".join(f"{s}:{n}" for s, n in Counter(poisoning.statuses.tolist()).items()),
        "status": STATUSES[int(number(own.status))],
        "hyper": float(own.hyper),
        "hyper_rmd": float(_derivative(Reverse(), *given).hyper),
        "drift": float(own.diagnostics.get("drift", math.nan)),
        "drift_finer": drift_finer,
        "cg_steps": float(own.diagnostics.get("cg_steps", math.nan)),
        "gap": float(own.diagnostics.get("gap", math.nan)),
        **{f"residual_{at}": left(rule) for at, rule in rules(attack).items()},
        "inner_steps": getattr(getattr(method, "rule", attack.learner.rule), "steps", 0),
        "seconds": seconds,
    }


@eqx.filter_jit
def _derivative(
    method: HypergradientMethod, problem: Bilevel, x_poison: Array, log_strength: Array, key: Array
) -> Hypergradient:
    return method(problem, x_poison, log_strength, key)


@eqx.filter_jit
def _residual(problem: Bilevel, log_strength: Array, key: Array, eta: Array, T: Array) -> Array:
    """Return ‖∇L(wT)‖/‖∇L(w0)‖ after T steps of full-batch gradient descent with η."""
    learner, rows = problem.learner, problem.rest
    w0 = learner.model.init(jax.random.split(key)[0])

    def slope(params: Any) -> Any:
        return jax.grad(learner.objective)(params, (rows,), log_strength, rows.size)

    wT = jax.lax.fori_loop(0, T, lambda _, w: add(w, slope(w), -eta), w0)
    return norm(slope(wT)) / norm(slope(w0))


def _timed(method: HypergradientMethod, given: tuple[Any, ...]) -> tuple[Hypergradient, float]:
    found, taken = _derivative(method, *given), []
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(_derivative(method, *given).hyper)
        taken.append(time.perf_counter() - started)
    return found, float(np.min(taken))
