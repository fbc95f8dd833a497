"""Algorithm 1: the attacker ascends on the poisoning points while the defender descends on λ.

The points come in batches. Each batch starts as clones of trusted validation rows with their labels flipped
(App. B), takes the place of clean training rows (or is added to them), and is moved by projected hypergradient
ascent; then it is fixed and the next batch begins. λ goes on adapting all the while.

The steps of a batch are taken in rounds. At the end of a round the defender's policy answers the points as they
are, and the attack keeps the points whose objective *after that answer* is the highest. So an attack never ends
below its own start, and against a defender who tunes it ascends on what the tuned defender really loses: with
g(X_p) = min over λ of A(X_p, λ), ∇g is the hypergradient at the minimising λ.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from mithridate.errors import InputError
from mithridate.feasible import Box, FeasibleSet
from mithridate.hypergradients import Bilevel, HypergradientMethod, Reverse, Status
from mithridate.learner import Learner
from mithridate.policies import Policy
from mithridate.rows import Rows, check_rows
from mithridate.seeds import generator, key
from mithridate.steps import poison_rule

Budget = Literal["replaced", "added"]


class State(NamedTuple):
    """What the next outer step needs."""

    x_poison: Float[Array, "n_p m"]
    log_strength: Float[Array, ""]
    poison_state: optax.OptState
    hyper_state: optax.OptState


class Info(NamedTuple):
    """A before one outer step, and whether its hypergradients were sound."""

    value: Float[Array, ""]
    good: Bool[Array, ""]


class OuterStep(eqx.Module):
    """One hyperiteration of Algorithm 1: both hypergradients, both moves, both projections (Eq. 5).

    With `alternate`, λ's move uses a second backward pass at the points already moved, as the paper writes it;
    otherwise one backward pass serves both. With `fresh`, every backward pass draws its own w0.
    """

    hypergradient: HypergradientMethod
    feasible: FeasibleSet
    strengths: Box
    ascent: optax.GradientTransformation
    descent: optax.GradientTransformation | None
    alternate: bool = False
    fresh: bool = False

    def init(self, x_poison: Float[Array, "n_p m"], log_strength: float) -> State:
        """Return the state before a batch's first step, its points projected onto Φ."""
        strength = jnp.asarray(log_strength, dtype=x_poison.dtype)
        hyper_state = self.descent.init(strength) if self.descent else optax.EmptyState()
        return State(self.feasible.project(x_poison), strength, self.ascent.init(x_poison), hyper_state)

    def __call__(self, problem: Bilevel, state: State, key: Key[Array, ""]) -> tuple[State, Info]:
        """Take one step."""
        found = self.hypergradient(problem, state.x_poison, state.log_strength, key)
        good, hyper = found.status == Status.ok, found.hyper

        # Optax descends, so the attacker's derivative changes its sign.
        move, poison_state = self.ascent.update(-found.poison, state.poison_state, state.x_poison)
        x_poison = self.feasible.project(optax.apply_updates(state.x_poison, move))  # pyright: ignore[reportArgumentType]

        strength, hyper_state = state.log_strength, state.hyper_state
        if self.descent:
            if self.alternate:
                again = jax.random.fold_in(key, 1) if self.fresh else key
                second = self.hypergradient(problem, x_poison, strength, again)
                good, hyper = good & (second.status == Status.ok), second.hyper
            move, hyper_state = self.descent.update(hyper, hyper_state, strength)
            strength = self.strengths.project(optax.apply_updates(strength, move))  # pyright: ignore[reportArgumentType]
        moved = State(x_poison, strength, poison_state, hyper_state)
        # A step from a broken derivative is not taken, whatever the rules remember.
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        return kept, Info(found.value, good)


@eqx.filter_jit
def take_steps(step: OuterStep, problem: Bilevel, state: State, key: Key[Array, ""], length: int) -> tuple[State, Info]:
    """Take `length` outer steps in one compiled loop."""

    def body(state: State, t: Array) -> tuple[State, Info]:
        return step(problem, state, jax.random.fold_in(key, t) if step.fresh else key)

    return jax.lax.scan(body, state, jnp.arange(length))


@eqx.filter_jit
def _value(problem: Bilevel, x_poison: Array, log_strength: Array, key: Array) -> Array:
    return problem.value(x_poison, log_strength, key)


@dataclass(frozen=True)
class Poisoning:
    """The poison at one ratio, and how it was come by. Unpacks as `x_poison, y_poison`.

    `x_poison` (k, m), `y_poison` (k,) and `x_start` (k, m), where they started; `replaced` (k,), the rows of the
    training set they stand in for, or None when they are added; `ratio`, the share of the training set that is
    poison; `policy`, the defender from here on, and its `log_strength` on this set; `descended`, where λ's own
    descent had ended before the policy answered. `history` (steps,) is A at each hyperiteration of all batches so
    far, `statuses` (steps,) "ok" or "non-finite" for each; `value_start` and `value` are A at this batch's starting
    points and at its end, as the policy answers each. `stability` is η·curvature of the inner training on this set:
    above 2 gradient descent diverges, and the points exploit that rather than the data.
    """

    x_poison: np.ndarray
    y_poison: np.ndarray
    x_start: np.ndarray
    replaced: np.ndarray | None
    ratio: float
    policy: Policy
    log_strength: float
    descended: float
    value_start: float
    value: float
    stability: float
    history: np.ndarray = field(repr=False)
    statuses: np.ndarray = field(repr=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.x_poison, self.y_poison))

    def apply(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the poisoned copy of the training set (x, y) that the attack was given."""
        return _place(self.x_poison, self.y_poison, self.replaced, x, y)

    def apply_start(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same with the starting points, nothing optimised: label flipping, the attack's baseline."""
        return _place(self.x_start, self.y_poison, self.replaced, x, y)


def _place(
    points: np.ndarray, labels: np.ndarray, places: np.ndarray | None, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if places is None:
        return np.concatenate([x, points]), np.concatenate([y, labels])
    x, y = x.astype(np.result_type(x, points)), y.astype(np.result_type(y, labels))
    x[places], y[places] = points, labels
    return x, y


class _Crafted(NamedTuple):
    x_poison: np.ndarray
    log_strength: float
    descended: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A poisoning attack on a `learner`, crafted for what the attacker measures on `target`.

    Arguments: `learner`, the victim as trained inside the attack; `target` = (x, y), the trusted rows on which
    A is measured, the defender tunes λ and from which the points are cloned; `feasible`, Φ(X_p); `policy`, the
    defender; `points` ≥ 1 in all, in batches of `batch` (default: one batch); `budget`, whether they replace training
    rows or are added; `steps` hyperiterations a batch, in `rounds`; `ascent`, the outer step rule for X_p;
    `hypergradient`; `select`, to keep the best round's points or the last's; `alternate` and `fresh` as in
    `OuterStep`; `seed`, which with nothing else decides the starting points and the rows replaced.

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
    batch: int | None = None
    budget: Budget = "replaced"
    steps: int = 100
    rounds: int = 5
    ascent: optax.GradientTransformation = field(default_factory=lambda: poison_rule("normalised", 0.99))
    hypergradient: HypergradientMethod = field(default_factory=Reverse)
    select: Literal["best", "last"] = "best"
    alternate: bool = False
    fresh: bool = False
    seed: Any = 0

    def __post_init__(self):
        for name in ("points", "steps", "rounds", *(("batch",) if self.batch is not None else ())):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")

    def poison(self, x: np.ndarray, y: np.ndarray) -> Poisoning:
        """Return the finished poison for the training set x (n, m), y (n,); `x_p, y_p = attack.poison(x, y)`.

        The inputs are not changed.
        """
        *_, last = self.run(x, y)
        return last

    def run(self, x: np.ndarray, y: np.ndarray) -> Iterator[Poisoning]:
        """Yield the poisoning of the training set x (n, m), y (n,) at every ratio: first 0, then batch by batch.

        The inputs are checked at once, the batches are computed as they are asked for.
        """
        x, y = check_rows("training rows", x, y)
        x_valid, y_valid = check_rows("target rows", *self.target)
        if x.shape[1] != x_valid.shape[1]:
            raise InputError(f"training rows have {x.shape[1]} features, target rows {x_valid.shape[1]}")
        if self.points > len(x_valid):
            raise InputError(
                f"points = {self.points}: at most {len(x_valid)}, since each is cloned from its own target row"
            )
        if self.budget == "replaced" and self.points > len(x):
            raise InputError(f"points = {self.points}: at most {len(x)}, the training rows there are to replace")
        return self._batches(x, y, x_valid, y_valid)

    def _batches(self, x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray) -> Iterator[Poisoning]:
        draw = generator(self.seed, "points")
        clones = draw.permutation(len(x_valid))[: self.points]
        places = draw.permutation(len(x))[: self.points] if self.budget == "replaced" else None
        x_start = np.asarray(self.feasible.project(jnp.asarray(x_valid[clones], dtype=float)))
        x_poison, y_poison = x_start.copy(), 1 - y_valid[clones]
        target, root = Rows.of(x_valid, y_valid), key(self.seed, "attack")
        policy, strength = self.policy, float(self.policy.strengths.low)
        history, statuses = np.empty(0), np.empty(0, dtype=str)

        step = self.batch or self.points
        firsts = range(0, self.points, step)
        for first, end in ((0, 0), *((first, min(first + step, self.points)) for first in firsts)):
            new = slice(first, end)
            keep = np.ones(len(y), dtype=bool)
            if places is not None:
                keep[places[new]] = False
            rest = Rows.of(x[keep], y[keep])
            problem = Bilevel(self.learner, rest, jnp.asarray(y_poison[new], dtype=float), target)
            start, best, infos = self._craft(
                problem, policy, jnp.asarray(x_start[new]), strength, jax.random.fold_in(root, end)
            )
            x_poison[new], strength = best.x_poison, best.log_strength
            x, y = _place(x_poison[new], y_poison[new], None if places is None else places[new], x, y)
            if not end:
                policy = policy.after_clean(strength)
            for info in infos:
                history = np.append(history, info.value)
                statuses = np.append(statuses, np.where(info.good, "ok", "non-finite"))
            yield Poisoning(
                x_poison=x_poison[:end].copy(),
                y_poison=y_poison[:end],
                x_start=x_start[:end],
                replaced=None if places is None else places[:end],
                ratio=end / len(y),
                policy=policy,
                log_strength=strength,
                descended=best.descended,
                value_start=start.value,
                value=best.value,
                stability=self.learner.stability(Rows.of(x, y), strength),
                history=history,
                statuses=statuses,
            )

    def _craft(
        self, problem: Bilevel, policy: Policy, x_start: Array, log_strength: float, key: Array
    ) -> tuple[_Crafted, _Crafted, list[Info]]:
        """Return one batch's start, its best end, and what its steps had to say."""
        rules = (policy.strengths, self.ascent, policy.descent)
        outer = OuterStep(self.hypergradient, self.feasible, *rules, self.alternate, self.fresh)

        def answered(x_poison: Array, descended: float) -> _Crafted:
            strength = policy.respond(problem, x_poison, descended, key)
            value = float(_value(problem, x_poison, jnp.asarray(strength, dtype=float), key))
            return _Crafted(np.asarray(x_poison), strength, descended, value)

        start = best = answered(x_start, log_strength)
        state, infos = outer.init(x_start, start.log_strength), []
        length = math.ceil(self.steps / self.rounds)
        for first in range(0, self.steps if len(x_start) else 0, length):
            step_key = jax.random.fold_in(key, first) if self.fresh else key
            state, info = take_steps(outer, problem, state, step_key, min(length, self.steps - first))
            infos.append(info)
            end = answered(state.x_poison, float(state.log_strength))
            if self.select == "last" or end.value > best.value:
                best = end
            state = state._replace(log_strength=jnp.asarray(end.log_strength, dtype=float))
        return start, best, infos
