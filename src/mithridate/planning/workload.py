"""The work of an audit: what each of its chains computes and how often, and what a part costs, from shapes alone.

A chain is one split of one policy. Nothing as large as a Gram matrix or a trajectory is computed here.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.bilevel import Attack
from mithridate.attacks.objectives import Objective
from mithridate.attacks.portfolio import KINDS
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.evaluation import Measured, retrain_and_measure
from mithridate.auditing.scenario import Scenario, rival_of
from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Dataset, Split
from mithridate.defences.base import effort_of
from mithridate.defences.tuning import (
    POINTS,
    cross_validation_losses,
    grid_over,
    validation_losses,
    validation_slope,
)
from mithridate.hypergradients import Bilevel
from mithridate.planning.costs import Cost, cost_of, size_of
from mithridate.seeds import key
from mithridate.victims.learner import Space
from mithridate.victims.rows import Rows, join

LANCZOS = 24
"""How many vectors of the size of w, in float64, are needed to find the curvature."""


@dataclass(frozen=True)
class ChainPlan:
    """How often one chain computes what.

    Arguments:
        policy: Name of the defender.
        batches: Batches of points.
        steps: Hyperiterations in a batch, divided into `rounds` rounds.
        hyperiterations: Hyperiterations in all batches, with `hypergradients` hypergradients.
        inner_steps: T of inner training, 0 if the victim is solved to optimality.
        space: Coordinates of inner training.
        method: Method of the hypergradient.
        responses: Answers of the defender. Together they train for `trainings` λ (and folds) and take `slopes`
            derivatives in λ.
        checks: Trainings that check a learned λ.
        evaluations: Victims that are retrained and measured.
    """

    policy: str
    batches: int
    steps: int
    rounds: int
    hyperiterations: int
    hypergradients: int
    inner_steps: int
    space: str
    method: str
    responses: int
    trainings: int
    slopes: int
    checks: int
    evaluations: int


@dataclass(frozen=True)
class Work:
    """The attacks on the first split, one for each defender, and what they compute."""

    config: AuditConfig
    split: Split
    aim: Objective
    attacks: list[Attacker]

    @classmethod
    def of(cls, data: Dataset, config: AuditConfig) -> "Work":
        """Return the work of an audit. Raises `InputError` if the audit is impossible."""
        scenario = Scenario.of(data, config)
        return cls(config, scenario.split, scenario.objective, scenario.attacks)

    def changed(self, execution: str | None = None, space: Space | None = None, **options: Any) -> "Work":
        """Return the same work with another execution, another space, or other options of its attacks."""
        config = self.config.model_copy(update={"execution": execution} if execution else {})
        attacks = self.attacks
        if space:
            attacks = [replace(attack, learner=replace(attack.learner, space=space)) for attack in attacks]
        if options:
            attacks = [replace(attack, **options) if isinstance(attack, Attack) else attack for attack in attacks]
        return replace(self, config=config, attacks=attacks)

    @cached_property
    def problems(self) -> list[Bilevel]:
        """The outer problems of the attacks, as shapes."""
        return [_problem(attack, self.split) for attack in self.attacks]

    @cached_property
    def chains(self) -> list[ChainPlan]:
        """What one split of each policy computes."""
        return [_chain(*each) for each in zip(self.attacks, self.problems, strict=True)]

    @cached_property
    def kinds(self) -> list[Any]:
        """Keys: two policies have the same key if their parts compute the same at the same cost."""
        return [_kind(*each) for each in zip(self.attacks, self.chains, strict=True)]

    @cached_property
    def costs(self) -> list[dict[str, Cost]]:
        """For each policy the cost of a hypergradient, a grid of λ, a derivative in λ, a check and a retraining."""
        known: dict[Any, dict[str, Cost]] = {}
        for kind, attack, problem in zip(self.kinds, self.attacks, self.problems, strict=True):
            if kind not in known:
                known[kind] = _costs(self.config, attack, problem, self.split, self.aim)
        return [known[kind] for kind in self.kinds]

    @property
    def step(self) -> int:
        """The bytes of the largest step of any part."""
        parameters = jax.eval_shape(lambda: self.attacks[0].learner.model.init(jax.random.key(0)))
        curvature = 8 * LANCZOS * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
        return max(curvature, *(cost.peak for costs in self.costs for cost in costs.values()))

    @property
    def own(self) -> int:
        """The bytes of a running chain's rows: its problem's, poisoned copies, and the rows it is measured on."""
        rows = max(size_of(problem.rest) for problem in self.problems)
        others = sum(
            array.nbytes for array in (self.split.x_valid, self.split.x_test, *self.aim.target, *self.aim.goal)
        )
        return 3 * rows + 2 * others

    @property
    def shared(self) -> int:
        """The bytes of a split's rows while the audit runs, on the host, and on the device with the Gram matrix."""
        held = (value for value in vars(self.split).values() if isinstance(value, np.ndarray))
        return sum(array.nbytes for array in held) + size_of(self.problems[0].rest)


def _problem(attack: Attacker, split: Split) -> Bilevel:
    """Return the attack's problem as shapes; no Gram matrix is computed."""
    n, m = split.x_train.shape
    rows = _rows(n + attack.points * (attack.budget == "added"), m)
    if attack.learner.chosen_space((rows,), reused=True) == "gram":
        rows = rows._replace(gram=_shape(len(rows.y), len(rows.y)))
    return attack.settled(rows, put=lambda x, y: _rows(len(y), x.shape[1]))


def _shape(*sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, jnp.zeros(()).dtype)


def _rows(n: int, m: int) -> Rows:
    return Rows(_shape(n, m), _shape(n), _shape(n))


def _length(attack: Attacker, problem: Bilevel) -> int:
    """Return T, the number of inner steps after dividing them; 0 for a victim that is solved to optimality."""
    if attack.learner.solved:
        return 0
    schedule = jax.eval_shape(attack.learner.rule.schedule, problem.rest.weight, jax.random.key(0))
    return len(jax.tree.leaves(schedule)[0])


def _kind(attack: Attacker, chain: ChainPlan) -> Any:
    """Return a key of what decides the cost of a chain's parts: shapes, and λ if the victim is solved to optimality."""
    policy, effort = attack.policy, effort_of(attack.policy, attack.learner.strength_shape)
    parts = attack.defence, effort.folds, effort.trainings > 0, effort.slopes > 0, policy.descent is not None
    return parts, str(policy.strengths) if attack.learner.solved else "", chain.inner_steps


def _costs(config: AuditConfig, attack: Attacker, problem: Bilevel, split: Split, aim: Objective) -> dict[str, Cost]:
    learner, policy, method = attack.learner, attack.policy, attack.crafting().method
    m, where, groups = split.x_train.shape[1], key(0), learner.strength_shape
    points, strength, grid = (
        _shape(attack.width, m),
        _shape(*groups),
        _shape(*grid_over(policy.strengths, groups).shape),
    )
    costs = {}
    if method is not None:
        memory = eqx.filter_eval_shape(method.start, problem, points, strength, where)
        costs["hypergradient"] = cost_of(method, problem, points, strength, where, memory)
    effort = effort_of(policy, groups)
    if effort.folds:
        rows = eqx.filter_eval_shape(lambda problem, points: join(problem.blocks(points)), problem, points)
        held_out = jax.ShapeDtypeStruct((effort.folds, len(rows.y)), bool)
        costs["grid"] = cost_of(cross_validation_losses, learner, rows, held_out, grid, where)
    elif effort.trainings:
        costs["grid"] = cost_of(validation_losses, problem, points, grid, where)
    if effort.checks:
        costs["check"] = cost_of(validation_losses, problem, points, _shape(2 * POINTS, *groups), where)
    if effort.slopes:
        costs["slope"] = cost_of(validation_slope, problem, points, strength, where)
    sizes = (len(split.y_valid), len(split.y_test), len(attack.target[1]), len(aim.goal[1]))
    on, victim = Measured(*(_rows(n, m) for n in sizes)), learner.with_rule(evaluation_rule(config))
    specific = jax.ShapeDtypeStruct((), bool)
    sizes = victim, problem.rest, on, specific, strength, where
    scorings = aim.scoring, aim.goal_scoring
    return costs | {"retraining": cost_of(retrain_and_measure, *sizes, attack.defence, scorings)}


def _chain(attack: Attacker, problem: Bilevel) -> ChainPlan:
    policy, crafting = attack.policy, attack.crafting()
    batches, rival = math.ceil(attack.points / (attack.batch or attack.points)), rival_of(attack)
    # There are two kinds of plain flips: those of random rows and those of picked rows.
    rivals = 2 if rival else 0 if attack.nested else KINDS
    # Answers: to the clean set; at the start of each batch, after each of its rounds, and to its rivals.
    effort = effort_of(policy, attack.learner.strength_shape)
    responses = (
        (1 + batches * (crafting.answers + crafting.rounds + (rivals if rival else 0)) if effort.again else 1)
        if effort.trainings
        else 0
    )
    return ChainPlan(
        policy=attack.defender.name,
        batches=batches,
        steps=crafting.steps,
        rounds=crafting.rounds,
        hyperiterations=batches * crafting.steps,
        hypergradients=batches * crafting.steps * crafting.derivatives,
        inner_steps=_length(attack, problem),
        space=attack.learner.chosen_space((problem.rest,), reused=True),
        method=type(getattr(crafting.method, "method", crafting.method)).__name__ if crafting.method else "",
        responses=responses,
        trainings=responses * effort.trainings,
        slopes=responses * effort.slopes,
        checks=(1 + batches) * effort.checks,
        evaluations=1 + (1 + rivals) * batches,
    )
