"""What audits, plans and stores may know of an attack, and what all attacks have in common.

An attack has a setting (`Attacker`'s fields), says where its points start, and may craft them batch by batch. The code
here enforces the budget, lets the defender answer every batch, and nests the poison sets.
"""

import abc
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from mithridate.attacks.placing import padded, poisoned, without
from mithridate.attacks.poison import Answered, Batch, Crafted, Midway, Points, Poisoning
from mithridate.attacks.stage import Judge, Stage, groups_of
from mithridate.configuration.parts import tried
from mithridate.data.feasible import Box, FeasibleSet, Settling
from mithridate.defences.base import Accepting, Defender, Policy, Sanitiser, Strength
from mithridate.errors import InputError
from mithridate.execution.devices import exact, shared
from mithridate.hypergradients import Bilevel, HypergradientMethod
from mithridate.seeds import key
from mithridate.tasks.base import Flip, Task
from mithridate.tasks.scores import ALIKE, Scoring
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, check_rows

Budget = Literal["added", "replaced", "chosen"]
Edits = Literal["both", "labels", "features"]


class Crafting(NamedTuple):
    """What crafting one batch computes: `steps` of `method` in `rounds`; a step has `derivatives` backward passes.

    The defender answers after each round, and `answers` more times.
    """

    steps: int = 0
    rounds: int = 0
    derivatives: int = 0
    method: HypergradientMethod | None = None
    answers: int = 1


@shared
def _value(problem: Bilevel, x_poison: Array, log_strength: Array, key: Array) -> tuple[Array, Array]:
    params = problem.train(x_poison, log_strength, key)
    return problem.attacker_loss(params), problem.success(params)


@dataclass(frozen=True, kw_only=True)
class Attacker(abc.ABC):
    """An attack: subclasses have a `name`, say where the points start, and may craft them.

    Arguments:
        learner: The victim as trained inside the attack.
        target: (x, y), D_target, the rows on which A is measured.
        feasible: Φ(X_p). If it can `settle` points (see `Settling`), they are settled before they are measured.
        policy: How the defender sets λ.
        defence: What the defender does to the rows before he trains, if anything (see `Sanitiser`).
        points: The number of points, at least 1.
        valid: (x, y), D_val, the trusted rows on which the defender tunes λ (default: D_target, Eq. 3).
        specific: True if the attacker wants the labels that D_target has (error-specific, A = −L), False if he wants
            any others (error-generic, A = L): the two attacks of Muñoz-González et al. (2017).
        start: (x, y), rows and labels. Each point starts as a clone of one of them and keeps its label. Default:
            D_target's rows; their labels are flipped by the rule `flip`, unless they are the wanted ones.
        flip: Which other label a clone of D_target gets if there are more than two classes.
        batch: How many points are crafted together (default: all).
        budget: Which rows are the attacker's: new rows (added), rows drawn at random (replaced), or rows that he picks
            (chosen).
        edits: What he changes: labels (label control), features alone (clean-label), or both.
        scoring: How success on D_target is scored. If D_val is another set, A weights rows in the same way.
        groups: (n,), the group number of each training row, if rows belong together. A point that replaces a row is
            in the row's group; an added point is a group of its own.
        seed: The seed of everything that is drawn.

    Raises `InputError` when a number is out of its range, before anything is computed.
    """

    name: ClassVar[str]
    nested: ClassVar[bool] = True

    learner: Learner
    target: tuple[np.ndarray, np.ndarray]
    feasible: FeasibleSet
    policy: Policy
    points: int
    defence: Sanitiser | None = None
    valid: tuple[np.ndarray, np.ndarray] | None = None
    specific: bool = False
    start: tuple[np.ndarray, np.ndarray] | None = None
    flip: Flip = "random"
    batch: int | None = None
    budget: Budget = "replaced"
    edits: Edits = "both"
    scoring: Scoring = ALIKE
    groups: np.ndarray | None = None
    seed: Any = 0

    def __post_init__(self):
        self.check_counts("points", *(("batch",) if self.batch is not None else ()))

    def check_counts(self, *names: str) -> None:
        """Raise `InputError` if one of these fields is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")

    @property
    def defender(self) -> Defender:
        """The defender who is attacked."""
        return Defender(self.policy, self.defence)

    @property
    def task(self) -> Task:
        """What the victim is trained to do."""
        return self.learner.task(np.shape(self.target[0])[-1])

    @abc.abstractmethod
    def starting_points(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Return the starting points for a training set x (n, m), y (n,): their features, labels and places."""

    @abc.abstractmethod
    def words(self) -> str:
        """Return what the attack does to its points, in plain words that can follow “the attacker …”."""

    def crafting(self) -> Crafting:
        """Return what crafting one batch computes. By default nothing: subclasses that craft override this."""
        return Crafting()

    def craft(
        self,
        problem: Bilevel,
        policy: Policy,
        x_start: Array,
        log_strength: Strength,
        key: Array,
        midway: Midway | None = None,
    ) -> Generator[Midway, None, Crafted]:
        """Return one crafted batch. Yield between two rounds; continue from `midway`. By default points do not move."""
        start = self.answered(problem, policy, x_start, log_strength, key)
        return Crafted(start, start.value)
        yield

    def answered(self, problem: Bilevel, policy: Policy, x_poison: Array, descended: Strength, key: Array) -> Answered:
        """Return these points, the policy's answer to them, and A after that answer. λ has `descended` so far."""
        strength = np.asarray(policy.respond(problem, x_poison, descended, key), dtype=float)
        if strength.shape != np.shape(descended) or not _within(policy.strengths, strength):
            raise InputError(
                f"policy {policy.name}: its answer λ = {strength.tolist()} must lie within its strengths and have the "
                f"shape {np.shape(descended)}"
            )
        value, success = _value(problem, x_poison, jnp.asarray(strength, dtype=float), key)
        return Answered(np.array(x_poison), strength, descended, float(value), float(success))

    def poison(self, x: np.ndarray, y: np.ndarray) -> Poisoning:
        """Return the finished poison for the training set x (n, m), y (n,); `x_p, y_p = attack.poison(x, y)`.

        The inputs are not changed.
        """
        *_, last = self.run(x, y)
        return last

    def run(self, x: np.ndarray, y: np.ndarray, rows: Rows | None = None) -> Iterator[Poisoning]:
        """Yield the poisoning of the training set x (n, m), y (n,) at every ratio: first 0, then batch by batch.

        `rows` is the set on the device (see the method `rows`), if another attack on the same set has it already. The
        inputs are checked at once; each batch is computed when it is asked for.
        """
        stages = self.stages(x, y, rows)
        return (stage for stage in stages if isinstance(stage, Poisoning))

    def stages(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rows: Rows | None = None,
        done: Sequence[Batch] = (),
        midways: tuple[Midway, ...] = (),
        judge: Judge | None = None,
    ) -> Iterator[Poisoning | tuple[Midway, ...]]:
        """Yield as `run` does. Between two rounds also yield the state of each set of points being crafted.

        Everything yielded can be stored. Given the batches `done` and the next batch's state `midways`, an attack
        continues to the same numbers, to the bit, after it has yielded `done` again. `judge` measures success on
        D_target and A of a batch, if the measured victim is not the one trained inside the attack.
        """
        x, y = self._checked(x, y)
        return self._batches(x, y, rows or self.rows(x, y), rows is None, done, midways, judge)

    def _checked(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = check_rows("training rows", x, y, self.task)
        given = {"target rows": self.target, "validation rows": self.valid, "starting rows": self.start}
        others = {
            name: check_rows(name, rows[0], rows[1], self.task) for name, rows in given.items() if rows is not None
        }
        for name, (features, _) in others.items():
            if features.shape[1] != x.shape[1]:
                raise InputError(f"training rows have {x.shape[1]} features, {name} {features.shape[1]}")
        if self.budget != "added" and self.points > len(x):
            raise InputError(f"points = {self.points}: at most {len(x)}, the number of training rows to replace")
        return x, y

    def started(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Return `starting_points`, projected onto Φ and settled. Raises `InputError` for points outside the budget.

        There must be `points` of them, with m features and labels of the model's classes. Each needs its own place, the
        number of a row of x. Added points get the numbers from n on; their places are ignored.
        """
        n, m, name, k = len(y), x.shape[1], f"attack {self.name}", self.points
        found = tried(name, "starting_points", self.starting_points, x, y)
        if not isinstance(found, tuple) or len(found) != len(Points._fields):
            raise InputError(f"{name}: starting_points must return Points(x, y, places); got {type(found).__name__}")
        points, labels, places = (np.asarray(part) for part in found)
        if self.budget == "added":
            places = n + np.arange(k)
        if points.shape != (k, m) or labels.shape != (k,) or places.shape != (k,):
            raise InputError(
                f"{name}: its points must be {k} rows of {m} features, each with a label and a place; got features "
                f"{points.shape}, labels {labels.shape} and places {places.shape}"
            )
        check_rows(f"{name}: its points", points, labels, self.task)
        if self.budget != "added" and (places.dtype.kind not in "iu" or places.min() < 0 or places.max() >= n):
            raise InputError(f"{name}: its places must be whole numbers from 0 to {n - 1}; got {places[:5]}…")
        if len(np.unique(places)) < k:
            again = np.flatnonzero(np.bincount(places) > 1)[0]
            raise InputError(f"{name}: two of its points have the place {again}; give each one of its own")
        within = self.feasible.project(jnp.asarray(points, dtype=float))
        return Points(self.settle(within), labels.astype(float), places)

    def settle(self, x: Array) -> np.ndarray:
        """Return points in the form in which they can be written down, if Φ has other than continuous values."""
        return np.asarray(self.feasible.settle(x) if isinstance(self.feasible, Settling) else x)

    def _batches(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rows: Rows,
        own: bool,
        done: Sequence[Batch],
        midways: tuple[Midway, ...],
        judge: Judge | None,
    ) -> Iterator[Poisoning | tuple[Midway, ...]]:
        # The training set has room for every point from the start, and every batch is padded to the same size with
        # points of weight 0: all ratios have the same shapes, and one compilation serves them.
        step, batches, policy, clean = self.batch or self.points, [], self.policy, rows
        ends = [0, *range(step, self.points, step), self.points]
        start = self.started(x, y) if self.nested and len(done) < len(ends) else None
        strength = np.array(np.broadcast_to(policy.strengths.low, self.learner.strength_shape))

        for begun, end in itertools.pairwise((0, *ends)):
            others, first = (), begun if self.nested else 0
            before, own = (rows, own) if self.nested else (clean, False)
            if len(batches) < len(done):
                batch = done[len(batches)]
                rows, own = poisoned(before, own, batch, self.width)
            else:
                new = Points(*(part[first:end] for part in start)) if start else None
                last = batches[-1] if batches else None
                at = self.stage(x, y, before, (first, end), new, (policy, strength), last, judge)
                batch, *others = yield from self.crafted(at, midways)
                midways = ()
                rows, own = poisoned(before, own, batch, self.width)
                batch = batch._replace(stability=self.learner.stability(rows, batch.log_strength))
            batches.append(batch)
            strength = batch.log_strength
            if not end:
                policy = policy.after_clean(strength)
            parts = batches if self.nested else batches[-1:]
            yield Poisoning.of(parts, batches, others, policy, len(y), added=self.budget == "added")

    def stage(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rows: Rows,
        ends: tuple[int, int],
        points: Points | None,
        defender: tuple[Policy, Strength],
        last: Batch | None = None,
        judge: Judge | None = None,
    ) -> Stage:
        """Return the state of the attack before it crafts the points between the two `ends`."""
        valid = Rows.of(*self.valid) if self.valid else None
        return Stage(x, y, rows, *ends, points, *defender, self.target_rows(), valid, last, judge)

    def crafted(self, at: Stage, midways: tuple[Midway, ...]) -> Generator[tuple[Midway, ...], None, tuple[Batch, ...]]:
        """Return one ratio's batch, without its stability, and the other algorithms' results there.

        Yields its state between two rounds, and continues from such a state, `midways`.
        """
        assert at.points is not None
        problem, x_start = self.problem(at, at.points)
        crafting = self.craft(problem, at.policy, x_start, at.log_strength, self.key(at.end), *midways)
        found = yield from _each_alone(crafting)
        return (self.made(at.points, found, self.name, ""),)

    def problem(self, at: Stage, points: Points) -> tuple[Bilevel, Array]:
        """Return the outer problem of these points (k, m), and their features padded to (width, m)."""
        begun = Rows.of(points.x, points.y, self.width)
        rest = at.rows.with_weight(without(at.rows.weight, padded(points.places, self.width, at.rows)))
        setting = self.learner, rest, begun.y, at.target, begun.weight, at.valid, self.specific, self.defence
        groups = self.grouped(at.rows, points.places)
        return Bilevel(*setting, scoring=self.scoring, groups=groups), begun.x

    def grouped(self, rows: Rows, places: np.ndarray | None = None) -> Array | None:
        """Return the groups of these rows, then of the points in these places, padded to the width; None if unused."""
        return None if self.groups is None else groups_of(self.groups, len(rows.y), places, self.width)

    def target_rows(self) -> Rows:
        """Return D_target."""
        rows, counted = Rows.of(*self.target), self.scoring.counted
        return rows if self.valid is None or counted is None else rows.with_weight(counted)

    def made(self, points: Points, found: Crafted, attack: str, begun: str) -> Batch:
        """Return the batch made of these crafted points, with unknown stability."""
        best, k = found.best, len(points.y)
        return Batch(
            *(attack, begun, points.x, best.x_poison[:k], points.y, points.places, best.log_strength),
            *(best.descended, found.value_start, best.value, best.success, math.nan, found.history, found.statuses),
        )

    @property
    def width(self) -> int:
        """The number of points that fit into a batch."""
        return self.batch if self.batch and self.nested else self.points

    @property
    def evasive(self) -> bool:
        """Whether the defence tells where points pass, so that the attack can keep them there."""
        return isinstance(self.defence, Accepting) and self.defence.accepts(self.feasible)

    def within(self, problem: Bilevel) -> FeasibleSet:
        """Return Φ, limited to where the defence lets this problem's points pass, if it tells."""
        if not (isinstance(self.defence, Accepting) and self.evasive):
            return self.feasible
        labels = np.asarray(problem.y_poison)
        there = np.asarray(jnp.ones_like(problem.y_poison) if problem.poison_weight is None else problem.poison_weight)
        return self.defence.accepted(problem.rest, labels[there > 0], self.feasible)

    def rows(self, x: np.ndarray, y: np.ndarray) -> Rows:
        """Return the training set on the device, with room for the attack's points, and with K if that is faster."""
        rows = Rows.of(x, y, len(y) + self.points if self.budget == "added" else None, divided=True)
        return exact(rows.with_gram)() if self.learner.chosen_space((rows,), reused=True) == "gram" else rows

    def key(self, points: int) -> Key[Array, ""]:
        """Return the key of the batch that ends with this many points. The defender's w0 are drawn from it too."""
        return jax.random.fold_in(key(self.seed, "attack"), points)

    def settled(self, rows: Rows, put: Callable[[np.ndarray, np.ndarray], Rows] = Rows.of) -> Bilevel:
        """Return the problem of training on these rows alone, in the attack's shapes; `put` may return only shapes."""
        nothing, valid = jnp.zeros(self.width), put(*self.valid) if self.valid else None
        return Bilevel(self.learner, rows, nothing, put(*self.target), nothing, valid, self.specific, self.defence)


def _within(strengths: Box, found: Strength) -> bool:
    """Return whether λ lies in its box, up to rounding; NaN does not."""
    return bool(np.all((found >= strengths.low - 1e-3) & (found <= strengths.high + 1e-3)))


def _each_alone(crafting: Generator[Midway, None, Crafted]) -> Generator[tuple[Midway, ...], None, Crafted]:
    """Return the result of crafting; yield its states as tuples of one."""
    while True:
        try:
            yield (next(crafting),)
        except StopIteration as end:
            return end.value
