"""Measures how long the parts of an audit take on this machine: each part runs twice on the first split.

The first run includes compilation, the second does not. A part that would take long runs for fewer steps, and its time
is scaled.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from mithridate.attacks.base import Attacker
from mithridate.attacks.bilevel import Attack
from mithridate.attacks.objectives import Objective
from mithridate.attacks.portfolio import HALVING
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.evaluation import Measured, retrain_and_measure
from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Split
from mithridate.data.feasible import Box
from mithridate.defences.base import Strength, effort_of
from mithridate.defences.tuning import (
    cross_validation_losses,
    first_minimiser,
    grid_over,
    validation_losses,
    validation_slope,
)
from mithridate.planning.costs import Cost
from mithridate.seeds import key
from mithridate.victims.learner import Learner, Space
from mithridate.victims.rows import Rows, join

LONG = 3.0
"""A part is shortened if the analytic estimate of its time is longer than this, in seconds."""

TURNS = 4
"""How many pairs of products X·W and Xᵀ·R measure the rate of operations."""

KERNEL = 2e-7
"""Seconds to start one kernel in a compiled loop on a CPU (measured)."""


class Timed(NamedTuple):
    """Seconds that a compiled part takes, and seconds of its compilation."""

    run: float
    compiling: float

    def times(self, factor: float) -> "Timed":
        """Return the time of a part that runs `factor` times as long and is compiled once."""
        return self._replace(run=self.run * factor)


NOTHING = Timed(0.0, 0.0)


@dataclass(frozen=True)
class Still:
    """A policy that never changes λ but has another policy's descent: it times the attack's own steps alone."""

    name: str
    strengths: Box
    descent: optax.GradientTransformation | None
    at: Strength

    def respond(self, problem: Any, x_poison: Any, log_strength: Strength, key: Any) -> Strength:
        """Return the fixed λ."""
        return self.at

    def after_clean(self, log_strength: Strength) -> "Still":
        """Return itself."""
        return self


def rate(rows: Array | None = None, width: int = 1024) -> float:
    """Return the operations per second of products X·W and Xᵀ·R, as in training, with the present precision.

    `rows` is X (default: 1024 × 1024 numbers); `width` is the number of columns of W. With few columns memory limits
    the rate.
    """
    rows = jnp.ones((1024, 1024)) if rows is None else rows

    @jax.jit
    def products(x: Array, w: Array) -> Array:
        return jax.lax.fori_loop(0, TURNS, lambda _, w: x.T @ (x @ w) / x.size, w)

    weights = jnp.ones((rows.shape[1], width))
    return TURNS * 4.0 * rows.size * width / timed(lambda: products(rows, weights), 3)[0].run


def analytic(cost: Cost, flops: float) -> float:
    """Return the estimated seconds of a call on a device with a rate of `flops` operations per second."""
    return cost.flops / flops + cost.kernels * KERNEL


def timed(run: Callable[[], Any], times: int = 1) -> tuple[Timed, Any]:
    """Time a first run, and the best of `times` more; return the times and the result of the last run."""
    seconds, found = [], None
    for _ in range(times + 1):
        started = time.perf_counter()
        found = run()
        jax.block_until_ready(eqx.filter(found, eqx.is_array))
        seconds.append(time.perf_counter() - started)
    best = min(seconds[1:])
    return Timed(best, max(0.0, seconds[0] - best)), found


def shortened(learner: Learner, space: Space, seconds: float) -> tuple[Learner, float]:
    """Return a learner whose training takes at most about `LONG`, and the factor by which it was shortened.

    `seconds` is the estimate for the whole training in this space.
    """
    rule = learner.rule
    counted = next((name for name in ("epochs", "steps") if getattr(rule, name, 0)), None)
    if seconds <= LONG or counted is None:
        return learner, 1.0
    whole = getattr(rule, counted)
    short = max(1, int(whole * LONG / seconds))
    return replace(learner.with_rule(replace(rule, **{counted: short})), space=space), whole / short


def response(attack: Attacker, rows: Rows, seconds: float) -> tuple[Timed, Timed, Strength]:
    """Return the times of one training for tuning λ (one λ and fold) and of one derivative in λ, and the λ found.

    `seconds` is the estimate for all λ that are tried together; long trainings are shortened and scaled. The derivative
    is needed only if λ is a vector. A policy that does not tune λ takes no time.
    """
    policy, groups = attack.policy, attack.learner.strength_shape
    effort, tried = effort_of(policy, groups), grid_over(policy.strengths, groups)
    grid = jnp.asarray(tried, dtype=float)
    problem, where = attack.settled(rows), key(attack.seed, "plan")
    nothing = jnp.zeros((attack.width, rows.x.shape[1]))
    if not effort.trainings:
        return NOTHING, NOTHING, np.array(np.broadcast_to(policy.strengths.low, groups), dtype=float)
    blocks = problem.blocks(nothing)
    joined = join(blocks)
    space = attack.learner.chosen_space((joined,) if effort.folds else blocks)
    learner, factor = shortened(attack.learner, space, seconds)
    problem = replace(problem, learner=learner)
    if effort.folds:
        # Only the size of the folds matters for the time, not their content.
        there = np.flatnonzero(np.asarray(joined.weight) > 0)
        held_out = np.zeros((effort.folds, len(joined.y)), dtype=bool)
        held_out[np.arange(len(there)) % effort.folds, there] = True

        def losses() -> Any:
            return cross_validation_losses(learner, joined, jnp.asarray(held_out), grid, where)

    else:

        def losses() -> Any:
            return validation_losses(problem, nothing, grid, where)

    found, values = timed(losses)
    best = np.asarray(tried[first_minimiser(np.asarray(values))])
    slope = NOTHING
    if effort.slopes:
        slope, _ = timed(lambda: validation_slope(problem, nothing, jnp.asarray(best, dtype=float), where))
    return found.times(factor / (len(tried) * max(1, effort.folds))), slope.times(factor), best


def steps(attack: Attacker, split: Split, rows: Rows, at: Strength, seconds: float) -> tuple[Timed, Timed, Timed]:
    """Return the times of the clean ratio, of one round of a batch, and of the rest of a batch.

    The defender's answers are not included. `seconds` is the estimate for one hyperiteration; a long round is shortened
    and scaled. The rest of a batch is for a portfolio, which measures all its candidates besides its rounds.
    """
    crafting = attack.crafting()
    length = math.ceil(crafting.steps / max(1, crafting.rounds))
    short = max(1, min(length, int(LONG / max(seconds, 1e-9))))
    learner, factor = shortened(attack.learner, attack.learner.chosen_space((rows,), reused=True), seconds)
    still = Still(attack.policy.name, attack.policy.strengths, attack.policy.descent, at)
    trial = replace(attack, learner=learner, policy=still)
    if isinstance(trial, Attack):
        trial = replace(trial, steps=short, rounds=1)
    clean, batch = _first_batch(trial, split, rows)
    if attack.nested:
        return clean.times(factor), batch.times(factor * length / short), NOTHING
    lap, crafted = NOTHING, 0
    if isinstance(trial, Attack) and crafting.steps:
        alone = Attack(**{field.name: getattr(trial, field.name) for field in fields(Attack) if field.init})
        (_, lap), crafted = _first_batch(alone, split, rows), HALVING[0][0]
    rest = Timed(max(0.0, batch.run - crafted * lap.run), max(0.0, batch.compiling - lap.compiling))
    return clean.times(factor), lap.times(factor * length / short), rest.times(factor)


def _first_batch(attack: Attacker, split: Split, rows: Rows) -> tuple[Timed, Timed]:
    """Return the times of the clean ratio of an attack and of its first batch."""
    laps: list[tuple[float, float]] = []
    for _ in range(2):
        found = attack.run(split.x_train, split.y_train, rows)
        seen = [time.perf_counter()]
        for _ in range(2):
            next(found)
            seen.append(time.perf_counter())
        laps.append((seen[1] - seen[0], seen[2] - seen[1]))
    (clean_first, first), (clean, lap) = laps
    own = max(lap - clean, 0.0)
    return Timed(clean, max(0.0, clean_first - clean)), Timed(own, max(0.0, first - lap))


def retraining(
    attack: Attacker, split: Split, rows: Rows, config: AuditConfig, aim: Objective, at: Strength, seconds: float
) -> Timed:
    """Return the time to retrain and measure one victim. `seconds` is the estimate; a long training is shortened."""
    learner = attack.learner.with_rule(evaluation_rule(config))
    victim, factor = shortened(learner, learner.chosen_space((rows,)), seconds)
    valid, test = Rows.of(split.x_valid, split.y_valid), Rows.of(split.x_test, split.y_test)
    on = Measured(valid, test, attack.target_rows(), Rows.of(*aim.goal))
    strength, where = jnp.asarray(at, dtype=float), key(attack.seed, "plan")

    def once() -> Any:
        train = attack.rows(split.x_train, split.y_train)
        given = victim, train, on, jnp.array(attack.specific), strength, where, attack.defence
        return retrain_and_measure(*given, (aim.scoring, aim.goal_scoring))

    return timed(once)[0].times(factor)
