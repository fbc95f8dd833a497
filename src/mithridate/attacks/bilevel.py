"""Algorithm 1: the attacker ascends on the poisoning points while the defender descends on λ.

The points come in batches. Each batch starts as clones of trusted validation rows with their labels flipped (App. B; or
of other rows, see `objectives`). It replaces clean training rows (or is added to them), and is moved by projected
hypergradient ascent. Then it is fixed and the next batch begins. λ keeps adapting all the time.

The steps of a batch are taken in rounds. At the end of a round the defender's policy answers the points, and the attack
keeps the points whose objective *after that answer* is the highest. So an attack never ends below its start. Against
a defender who tunes λ, it maximises the loss of the tuned defender: with g(X_p) = min over λ of A(X_p, λ), ∇g is the
hypergradient at the minimising λ.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from mithridate.attacks.base import Attacker, Crafting
from mithridate.attacks.outer import OuterStep, begin, take_steps
from mithridate.attacks.poison import Answered, Crafted, Midway, Points
from mithridate.attacks.starts import clones
from mithridate.defences.base import Policy, Strength
from mithridate.errors import InputError
from mithridate.hypergradients import STATUSES, Averaged, Bilevel, HypergradientMethod, Implicit, Reverse
from mithridate.hypergradients.steps import poison_rule


@dataclass(frozen=True, kw_only=True)
class Attack(Attacker):
    """Algorithm 1: a poisoning attack on a `learner` that maximises A, measured on the rows `target`.

    Arguments, besides those of every `Attacker`:
        steps: Hyperiterations per batch, at least 1.
        rounds: The number of rounds into which they are divided, at least 1.
        ascent: The outer step rule for X_p.
        hypergradient: The method (default: `Reverse`, or `Implicit` for a victim solved to optimality).
        select: Whether to keep the points of the best round or of the last.
        alternate: As in `OuterStep`.
        initial: The w0 of inner training: the same for a whole batch of points ("fixed"), a new one at every backward
            pass ("fresh", as the paper trains its networks), or K ≥ 1 new ones over which the hypergradient is averaged
            (see `Averaged`). At the end of a round, A is always computed from the same w0.

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

    name: ClassVar[str] = "bilevel"

    steps: int = 100
    rounds: int = 5
    ascent: optax.GradientTransformation = field(default_factory=lambda: poison_rule("normalised", 0.99))
    hypergradient: HypergradientMethod | None = None
    select: Literal["best", "last"] = "best"
    alternate: bool = False
    initial: Literal["fixed", "fresh"] | int = "fixed"

    def __post_init__(self):
        super().__post_init__()
        if self.hypergradient is None:
            object.__setattr__(self, "hypergradient", Implicit() if self.learner.solved else Reverse())
        self.check_counts("steps", "rounds")
        if not (self.initial in ("fixed", "fresh") or (isinstance(self.initial, int) and self.initial >= 1)):
            raise InputError(
                f"initial = {self.initial!r}: use 'fixed', 'fresh', or the number of draws to average, at least 1"
            )

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Return clones with flipped labels (see `starts.clones`)."""
        return clones(self, x, y)

    def words(self) -> str:
        """Return how points are moved, and where a defence keeps them."""
        moved = "moves every feature of its points along the derivative through the whole training (Algorithm 1)"
        if self.defence is None:
            return moved
        kept = "keeps them where" if self.evasive else "ignores where"
        return f"{moved}, and {kept} the defence {self.defence.name} lets them pass"

    def rank(self, found: Answered) -> tuple[float, ...]:
        """Return the value by which rounds are compared, larger is better: A after the defender's answer."""
        return (found.value,)

    def crafting(self) -> Crafting:
        """Return the steps and backward passes of a batch."""
        twice = self.policy.descent is not None and (self.alternate or self.valid is not None or self.specific)
        draws = self.initial if isinstance(self.initial, int) else 1
        rounds = len(range(0, self.steps, math.ceil(self.steps / self.rounds)))
        return Crafting(self.steps, rounds, draws * (2 if twice else 1), self.method)

    @property
    def method(self) -> HypergradientMethod:
        """The hypergradient method, averaged over w0 if `initial` is a number."""
        assert self.hypergradient is not None  # see __post_init__
        return Averaged(self.hypergradient, self.initial) if isinstance(self.initial, int) else self.hypergradient

    def craft(
        self,
        problem: Bilevel,
        policy: Policy,
        x_start: Array,
        log_strength: Strength,
        key: Array,
        midway: Midway | None = None,
        aim: Any = None,
    ) -> Generator[Midway, None, Crafted]:
        """Return one batch whose points are moved by projected hypergradient ascent on A, or on `aim` if given.

        The points are still judged by A. With an `aim`, λ stays fixed between the defender's answers.
        """
        descent, fresh = policy.descent if aim is None else None, self.initial != "fixed"
        rules = policy.strengths, self.ascent, descent
        outer = OuterStep(self.method, self.within(problem), *rules, self.alternate, fresh)

        def answered(x_poison: Array, descended: Strength) -> Answered:
            return self.answered(problem, policy, x_poison, descended, key)

        if midway:
            taken, start, best, leaves, history, statuses = midway
        else:
            taken, leaves, history, statuses = 0, (), np.empty(0), np.empty(0, dtype=str)
            start = best = answered(x_start, log_strength)
        empty = problem.poison_weight is not None and not problem.poison_weight.any()
        pursued = problem if aim is None else replace(problem, aim=aim)

        state = begin(outer, pursued, x_start, jnp.asarray(start.log_strength, dtype=float), key)
        if leaves:
            state = jax.tree.unflatten(jax.tree.structure(state), map(jnp.asarray, leaves))
        length, steps = math.ceil(self.steps / self.rounds), 0 if empty or self.edits == "labels" else self.steps
        while taken < steps:
            step_key = jax.random.fold_in(key, taken) if fresh else key
            state, info = take_steps((outer, pursued, step_key), state, min(length, steps - taken))
            history = np.append(history, info.value)
            statuses = np.append(statuses, np.array(STATUSES)[np.asarray(info.status)])
            x_end = jnp.asarray(self.settle(state.x_poison))
            end = answered(x_end, np.asarray(state.log_strength, dtype=float))
            if self.select == "last" or self.rank(end) > self.rank(best):
                best = end
            state = state._replace(log_strength=jnp.asarray(end.log_strength, dtype=float))
            taken += length
            if taken < steps or not self.nested:
                # Copies: the next round takes over the state's buffers.
                yield Midway(taken, start, best, tuple(map(np.array, jax.tree.leaves(state))), history, statuses)
        return Crafted(best, start.value, history, statuses)
