"""Algorithm 1: the attacker ascends on the poisoning points while the defender descends on λ.

The points come in batches. Each batch starts as clones of trusted validation rows with their labels flipped (App. B; or
of other rows, see `objectives`), takes the place of clean training rows (or is added to them), and is moved by
projected hypergradient ascent; then it is fixed and the next batch begins. λ goes on adapting all the while.

The steps of a batch are taken in rounds. At the end of a round the defender's policy answers the points as they
are, and the attack keeps the points whose objective *after that answer* is the highest. So an attack never ends
below its own start, and against a defender who tunes it ascends on what the tuned defender really loses: with
g(X_p) = min over λ of A(X_p, λ), ∇g is the hypergradient at the minimising λ.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from mithridate.attacks.base import Answered, Batch, Budget, Midway, Poisoning
from mithridate.attacks.objectives import flipped
from mithridate.attacks.outer import OuterStep, begin, take_steps
from mithridate.configuration.objective import Flip
from mithridate.data.feasible import FeasibleSet, Settling
from mithridate.defences.base import Policy, Strength
from mithridate.errors import InputError
from mithridate.execution.devices import exact, shared
from mithridate.hypergradients import STATUSES, Averaged, Bilevel, HypergradientMethod, Implicit, Reverse
from mithridate.hypergradients.steps import poison_rule
from mithridate.seeds import generator, key
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, check_rows


@shared
def _value(problem: Bilevel, x_poison: Array, log_strength: Array, key: Array) -> Array:
    return problem.value(x_poison, log_strength, key)


def _settled(feasible: FeasibleSet, x: Array) -> np.ndarray:
    """Return the points as they can be written down, where the feasible set knows of more than continuous values."""
    return np.asarray(feasible.settle(x) if isinstance(feasible, Settling) else x)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A poisoning attack on a `learner`, crafted for what the attacker measures on `target`.

    Arguments:
        learner: The victim as trained inside the attack.
        target: (x, y), D_target, the rows on which A is measured.
        feasible: Φ(X_p); where it can `settle` points (see `Settling`) they are settled before they are measured.
        policy: The defender.
        points: How many in all, from 1 on.
        valid: (x, y), D_val, the trusted rows on which the defender tunes λ (default: D_target, Eq. 3).
        specific: Whether the attacker wants the labels that D_target has (A = −L) or any others (A = L): the
            error-specific and error-generic attacks of Muñoz-González et al. (2017).
        start: (x, y), the rows that the points begin as clones of, each in turn, with the labels that they keep
            (default: D_target's, labels flipped as `flip` says unless they are the ones wanted, see `flipped`).
        flip: Which other label a clone of D_target gets where there are more than two classes.
        batch: Points crafted together (default: all).
        budget: Whether they replace training rows or are added.
        steps: Hyperiterations a batch, from 1 on.
        rounds: In how many parts they are taken, from 1 on.
        ascent: The outer step rule for X_p.
        hypergradient: The method (default: `Reverse`, or `Implicit` for a victim solved to optimality).
        select: To keep the best round's points or the last's.
        alternate: As in `OuterStep`.
        initial: The w0 of inner training: one for a whole batch of points ("fixed"), a new one at every backward pass
            ("fresh", as the paper trains its networks), or K ≥ 1 new ones over which the hypergradient is averaged (see
            `Averaged`). A of a round's end is always from the same w0.
        seed: What with nothing else decides the starting points and the rows replaced.

    Raises `InputError` when a number is out of its range, before anything is computed.

    Example:
        >>> import mithridate as mi
        >>> rows = mi.load_dataset("digits-0v8").split(train=60, valid=60)
        >>> attack = mi.Attack(learner=mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.2, 50)),
        ...                    target=(rows.x_valid, rows.y_valid), feasible=mi.Box(0.0, 1.0),
        ...                    policy=mi.Fixed(-8.0), points=6, steps=20)
        >>> x_p, y_p = attack.poison(rows.x_train, rows.y_train)
        >>> x_p.shape
        (6, 64)
    """

    learner: Learner
    target: tuple[np.ndarray, np.ndarray]
    feasible: FeasibleSet
    policy: Policy
    points: int
    valid: tuple[np.ndarray, np.ndarray] | None = None
    specific: bool = False
    start: tuple[np.ndarray, np.ndarray] | None = None
    flip: Flip = "random"
    batch: int | None = None
    budget: Budget = "replaced"
    steps: int = 100
    rounds: int = 5
    ascent: optax.GradientTransformation = field(default_factory=lambda: poison_rule("normalised", 0.99))
    hypergradient: HypergradientMethod | None = None
    select: Literal["best", "last"] = "best"
    alternate: bool = False
    initial: Literal["fixed", "fresh"] | int = "fixed"
    seed: Any = 0

    def __post_init__(self):
        if self.hypergradient is None:
            object.__setattr__(self, "hypergradient", Implicit() if self.learner.solved else Reverse())
        for name in ("points", "steps", "rounds", *(("batch",) if self.batch is not None else ())):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not (self.initial in ("fixed", "fresh") or (isinstance(self.initial, int) and self.initial >= 1)):
            raise InputError(
                f"initial = {self.initial!r}: use 'fixed', 'fresh', or how many draws to average, from 1 on"
            )

    def poison(self, x: np.ndarray, y: np.ndarray) -> Poisoning:
        """Return the finished poison for the training set x (n, m), y (n,); `x_p, y_p = attack.poison(x, y)`.

        The inputs are not changed.
        """
        *_, last = self.run(x, y)
        return last

    def run(self, x: np.ndarray, y: np.ndarray, rows: Rows | None = None) -> Iterator[Poisoning]:
        """Yield the poisoning of the training set x (n, m), y (n,) at every ratio: first 0, then batch by batch.

        `rows`, where another attack on the same set has them already, is the set on the device (see `rows`). The inputs
        are checked at once, the batches are computed as they are asked for.
        """
        stages = self.stages(x, y, rows)
        return (stage for stage in stages if isinstance(stage, Poisoning))

    def stages(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rows: Rows | None = None,
        done: Sequence[Batch] = (),
        midway: Midway | None = None,
    ) -> Iterator[Poisoning | Midway]:
        """Yield as `run` does, and between two rounds of a batch a `Midway`; all can be stored, and gone on from.

        Given the batches `done`, and where the next one stood `midway`, an attack goes on to the same numbers, to the
        bit. The batches done are yielded again first.
        """
        n_classes = self.learner.n_classes(np.shape(self.target[0])[-1])
        x, y = check_rows("training rows", x, y, n_classes)
        given = {"target rows": self.target, "validation rows": self.valid, "starting rows": self.start}
        others = {
            name: check_rows(name, rows[0], rows[1], n_classes) for name, rows in given.items() if rows is not None
        }
        for name, (features, _) in others.items():
            if features.shape[1] != x.shape[1]:
                raise InputError(f"training rows have {x.shape[1]} features, {name} {features.shape[1]}")
        if self.start is None and self.points > len(self.target[1]):
            raise InputError(
                f"points = {self.points}: at most {len(self.target[1])}, since each is cloned from its own target row"
            )
        if self.budget == "replaced" and self.points > len(x):
            raise InputError(f"points = {self.points}: at most {len(x)}, the training rows there are to replace")
        return self._batches(x, y, rows or self.rows(x, y), rows is None, done, midway)

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where the points start (k, m), their labels (k,), and the rows of x (n, m), y (n,) that they replace.

        Points that are added take the numbers from n on.
        """
        draw = generator(self.seed, "points")
        pool_x, pool_y = map(np.asarray, self.start or self.target)
        order = draw.permutation(len(pool_x))
        clones = order[np.arange(self.points) % len(order)]
        replacing = self.budget == "replaced"
        # The training set has room for every point from the start, and every batch is padded to the same size with
        # points of weight 0: all ratios have the same shapes, and one compilation serves them.
        places = draw.permutation(len(y))[: self.points] if replacing else len(y) + np.arange(self.points)
        labels = pool_y[clones]
        if self.start is None and not self.specific:
            labels = flipped(labels, self.flip, draw, x, y, self.learner.n_classes(x.shape[1]))
        settled = _settled(self.feasible, self.feasible.project(jnp.asarray(pool_x[clones], dtype=float)))
        return settled, labels.astype(np.float64), places

    def _batches(
        self, x: np.ndarray, y: np.ndarray, rows: Rows, own: bool, done: Sequence[Batch], midway: Midway | None
    ) -> Iterator[Poisoning | Midway]:
        x_start, y_poison, places = self.starting_points(x, y)
        replacing, step, batches = self.budget == "replaced", self.batch or self.points, []
        target, valid = Rows.of(*self.target), Rows.of(*self.valid) if self.valid else None
        policy = self.policy
        strength = np.array(np.broadcast_to(policy.strengths.low, self.learner.strength_shape))

        firsts = range(0, self.points, step)
        for first, end in ((0, 0), *((first, min(first + step, self.points)) for first in firsts)):
            new, spare = slice(first, end), (0, step - (end - first))
            begun = Rows.of(x_start[new], y_poison[new], step)
            where = jnp.asarray(np.pad(places[new], spare, constant_values=len(rows.y)))
            if len(batches) < len(done):
                batch = done[len(batches)]
                rows, own = _poisoned(rows, own, where, begun, batch)
            else:
                rest = rows.with_weight(rows.weight.at[where].set(0.0, mode="drop"))
                problem = Bilevel(self.learner, rest, begun.y, target, begun.weight, valid, self.specific)
                batch = yield from self._craft(problem, policy, begun.x, strength, self.key(end), midway)
                midway = None
                rows, own = _poisoned(rows, own, where, begun, batch)
                batch = batch._replace(stability=self.learner.stability(rows, batch.log_strength))
            batches.append(batch)
            strength = batch.log_strength
            if not end:
                policy = policy.after_clean(strength)
            yield Poisoning(
                x_poison=np.concatenate([b.x_poison for b in batches[1:]] or [x_start])[:end],
                y_poison=y_poison[:end],
                x_start=x_start[:end],
                replaced=places[:end] if replacing else None,
                ratio=end / (len(y) if replacing else len(y) + end),
                policy=policy,
                log_strength=strength,
                descended=batch.descended,
                value_start=batch.value_start,
                value=batch.value,
                stability=batch.stability,
                history=np.concatenate([b.history for b in batches]),
                statuses=np.concatenate([b.statuses for b in batches]),
                batches=tuple(batches),
            )

    def rows(self, x: np.ndarray, y: np.ndarray) -> Rows:
        """Return a training set as the attack has it on the device: with room for its points, and K where it helps."""
        rows = Rows.of(x, y, None if self.budget == "replaced" else len(y) + self.points, divided=True)
        return exact(rows.with_gram)() if self.learner.chosen_space((rows,), reused=True) == "gram" else rows

    def key(self, points: int) -> Key[Array, ""]:
        """Return the key of the batch that ends with so many points, from which the defender's w0 are drawn as well."""
        return jax.random.fold_in(key(self.seed, "attack"), points)

    def settled(self, rows: Rows, put: Callable[[np.ndarray, np.ndarray], Rows] = Rows.of) -> Bilevel:
        """Return the problem of training on these rows alone, in the shapes of the attack's own problems.

        `put` makes rows of arrays: it may return their shapes alone.
        """
        nothing, valid = jnp.zeros(self.batch or self.points), put(*self.valid) if self.valid else None
        return Bilevel(self.learner, rows, nothing, put(*self.target), nothing, valid, self.specific)

    def _craft(
        self,
        problem: Bilevel,
        policy: Policy,
        x_start: Array,
        log_strength: Strength,
        key: Array,
        midway: Midway | None,
    ) -> Generator[Midway, None, Batch]:
        """Return one batch, its stability not yet known; yield between two rounds, and go on from `midway`."""
        rules, fresh = (policy.strengths, self.ascent, policy.descent), self.initial != "fixed"
        method = self.hypergradient
        assert method is not None  # see __post_init__
        if isinstance(self.initial, int):
            method = Averaged(method, self.initial)
        outer = OuterStep(method, self.feasible, *rules, self.alternate, fresh)

        def answered(x_poison: Array, descended: Strength) -> Answered:
            strength = np.asarray(policy.respond(problem, x_poison, descended, key), dtype=float)
            value = float(_value(problem, x_poison, jnp.asarray(strength, dtype=float), key))
            return Answered(np.array(x_poison), strength, descended, value)

        if midway:
            taken, start, best, leaves, history, statuses = midway
        else:
            taken, leaves, history, statuses = 0, (), np.empty(0), np.empty(0, dtype=str)
            start = best = answered(x_start, log_strength)
        empty = problem.poison_weight is not None and not problem.poison_weight.any()
        state = begin(outer, problem, x_start, jnp.asarray(start.log_strength, dtype=float), key)
        if leaves:
            state = jax.tree.unflatten(jax.tree.structure(state), map(jnp.asarray, leaves))
        length, steps = math.ceil(self.steps / self.rounds), 0 if empty else self.steps
        while taken < steps:
            step_key = jax.random.fold_in(key, taken) if fresh else key
            state, info = take_steps((outer, problem, step_key), state, min(length, steps - taken))
            history = np.append(history, info.value)
            statuses = np.append(statuses, np.array(STATUSES)[np.asarray(info.status)])
            x_end = jnp.asarray(_settled(self.feasible, state.x_poison))
            end = answered(x_end, np.asarray(state.log_strength, dtype=float))
            if self.select == "last" or end.value > best.value:
                best = end
            state = state._replace(log_strength=jnp.asarray(end.log_strength, dtype=float))
            taken += length
            if taken < steps:
                # Copies: the next round takes over the state's buffers.
                yield Midway(taken, start, best, tuple(map(np.array, jax.tree.leaves(state))), history, statuses)
        ends = best.log_strength, best.descended, start.value, best.value
        return Batch(best.x_poison, *ends, math.nan, history, statuses)


def _poisoned(rows: Rows, own: bool, places: Array, begun: Rows, batch: Batch) -> tuple[Rows, bool]:
    """Return the rows with a batch in its places, and whether nobody else has them; only of others' is a copy made."""
    if not begun.weight.any():
        return rows, own
    put = _put_in_place if own else _put
    return put(rows, places, begun._replace(x=jnp.asarray(batch.x_poison))), True


def _replaced(rows: Rows, places: Array, batch: Rows) -> Rows:
    return rows.replaced(places, batch)


_put, _put_in_place = shared(_replaced), shared(_replaced, donate="all")
