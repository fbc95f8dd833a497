"""The bilevel problem that hypergradient methods take, and what they return."""

import abc
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mithridate.errors import InputError
from mithridate.tasks.scores import ALIKE, Scoring
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows, join, sanitised
from mithridate.victims.spaces.run import Loop, scan


class Status(eqx.Enumeration):
    """Whether a hypergradient can be trusted. The text of each member says what is wrong and what to do."""

    ok = ""
    non_finite = "the hypergradient is NaN or infinite: lower the inner learning rate or the bound on λ"
    flat = "the derivative is exactly 0: the learner is not differentiable, or nothing depends on the points"
    drifted = "the weights recomputed backwards missed w0: use Checkpointed, or train for a shorter time η·T"
    overflowed = "the weights left the range of fixed-point numbers: give Reversible fewer bits"
    not_stationary = "inner training is not at its optimum, where the implicit hypergradient holds: train longer"
    unsolved = "conjugate gradient did not reach its tolerance: raise its steps, λ or the damping"
    singular = "the Hessian is singular or indefinite to rounding: raise λ or the damping, or compute in float64"


STATUSES = ("ok", "non_finite", "flat", "drifted", "overflowed", "not_stationary", "unsolved", "singular")
"""The members by name, in order."""


def number(status: Status) -> Int[Array, "..."]:
    """Return a status as its index in `STATUSES`."""
    places = [i * (status == getattr(Status, name)) for i, name in enumerate(STATUSES)]
    return jnp.sum(jnp.stack(places), axis=0)


class Hypergradient(NamedTuple):
    """A(wT) and its derivatives in the poisoning points (n_p, m) and in λ. Every method returns one.

    `diagnostics`: more numbers about the computation, by name. `memory`: what the method's next call may start from.
    """

    value: Float[Array, ""]
    poison: Float[Array, "n_p m"]
    hyper: Float[Array, "*groups"]
    status: Status
    diagnostics: dict[str, Array] = {}  # noqa: RUF012 (never mutated)
    memory: Any = ()


class Bilevel(eqx.Module):
    """One outer problem: the fixed training rows, the poisoning points, and what is measured (Eq. 2).

    Arguments: the `learner`; `rest`, the training rows that stay fixed; `y_poison` (n_p,), the labels of the poisoning
    points; `target`, D_target, the rows on which the attacker's A is measured; `poison_weight` (n_p,), default ones: a
    point of weight 0 is ignored, without changing any shape; `valid`, D_val, on which the defender measures (default:
    D_target); `specific`: if true, the attacker wants the labels that D_target has, A = −L, otherwise any others,
    A = L; `defence`, which removes rows before the victim is trained (see `Sanitiser`); `aim`, a loss whose mean on
    D_target the attacker maximises instead of L (see `attacks.aims`); `scoring`, the weight of each row of D_target in
    his success and in an `aim` (default: equal); `groups` (n_rest + n_p,), the group number of each row and each
    point, if rows must stay together in folds. With D_val = D_target and A = L the outer problem is the minimax of
    Eq. 3.
    """

    learner: Learner
    rest: Rows
    y_poison: Float[Array, " n_p"]
    target: Rows
    poison_weight: Float[Array, " n_p"] | None = None
    valid: Rows | None = None
    specific: bool = eqx.field(default=False, static=True)
    defence: Any = None
    aim: Any = None
    scoring: Scoring = ALIKE
    groups: Float[Array, " n"] | None = None

    @property
    def minimax(self) -> bool:
        """Whether attacker and defender have the same objective (Eq. 3)."""
        return self.valid is None and not self.specific and self.aim is None

    def defended(self) -> "Bilevel":
        """Return the problem with the defender's loss instead of A, for its derivative in λ."""
        target = self.target if self.valid is None else self.valid
        return replace(self, target=target, valid=None, specific=False, aim=None, scoring=ALIKE)

    def blocks(self, x_poison: Float[Array, "n_p m"]) -> tuple[Rows, ...]:
        """Return D'_tr = rest ∪ D_p; rows that the defence removes have weight 0."""
        if not self.y_poison.size:
            return sanitised((self.rest,), self.defence)
        weight = jnp.ones_like(self.y_poison) if self.poison_weight is None else self.poison_weight
        return sanitised((self.rest, Rows(x_poison, self.y_poison, weight)), self.defence)

    def settled(self, x_poison: Float[Array, "n_p m"]) -> "Bilevel":
        """Return the problem in which these points are fixed rows and only λ is learned."""
        nothing = jnp.zeros(0, self.y_poison.dtype)
        return replace(self, rest=join(self.blocks(x_poison)), y_poison=nothing, poison_weight=None, defence=None)

    def train(
        self,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        loop: Loop = scan,
    ) -> Any:
        """Return wT, trained on D'_tr from a w0 drawn with `key`."""
        return self.learner.train(self.blocks(x_poison), log_strength, key, loop)

    def attacker_loss(self, params: Any) -> Float[Array, ""]:
        """Return A(D_target, w): the mean loss without the penalty, or its negative."""
        return self.attained(self.learner.model.logits(params, self.target.x))

    def attained(self, logits: Float[Array, "n *classes"]) -> Float[Array, ""]:
        """Return A if D_target's rows have these logits."""
        if self.aim is None:
            loss = jnp.vdot(self.target.weight, self.learner.loss(logits, self.target.y)) / self.target.size
        else:
            loss = self.scoring.mean(self.aim(logits, self.target.y))
        return -loss if self.specific else loss

    def success(self, params: Any) -> Float[Array, ""]:
        """Return the attacker's score on D_target: by default the share of its rows classified as he wants."""
        task = self.learner.task(self.target.x.shape[1])
        return self.scoring.success(
            task, self.learner.model.logits(params, self.target.x), self.target.y, self.specific
        )

    def value(
        self,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        loop: Loop = scan,
    ) -> Float[Array, ""]:
        """Return A(wT(X_p, λ))."""
        return self.attacker_loss(self.train(x_poison, log_strength, key, loop))


class HypergradientMethod(eqx.Module):
    """A method that computes A's derivatives in X_p and λ at once. An attack holds one as a field."""

    def start(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> Any:
        """Return the memory for the first call. Each later call gets the memory that the call before returned."""
        return ()

    @abc.abstractmethod
    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = (),
    ) -> Hypergradient:
        """Return A and its two derivatives at (X_p, λ)."""


def finite_status(*arrays: Any) -> Status:
    """Return non_finite if any number is NaN or infinite, flat if all derivatives are 0, otherwise ok.

    The first array is the value, the others are derivatives.
    """
    leaves = jax.tree.leaves(arrays)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    flat = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in leaves[1:]]))
    return worst((finite, Status.non_finite), (~flat, Status.flat))


def worst(*checks: tuple[Bool[Array, ""], Status]) -> Status:
    """Return the status of the first check that is false, or ok if all are true."""
    status = Status.ok
    for passed, otherwise in reversed(checks):
        status = Status.where(passed, status, otherwise)
    return status


def check_unrolled(problem: Bilevel, method: Any) -> None:
    """Raise `InputError` if the victim has no training steps to differentiate."""
    if problem.learner.solved:
        raise InputError(
            f"{type(method).__name__} differentiates the steps of inner training, but this victim is solved to "
            "optimality; use Implicit"
        )
