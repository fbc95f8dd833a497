"""One hyperiteration of Algorithm 1, and many in one compiled loop."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mithridate.data.feasible import Box, FeasibleSet
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel, HypergradientMethod, number


class State(NamedTuple):
    """What the next outer step needs; `memory` is the hypergradient's."""

    x_poison: Float[Array, "n_p m"]
    log_strength: Float[Array, "*groups"]
    poison_state: optax.OptState
    hyper_state: optax.OptState
    memory: Any


class Info(NamedTuple):
    """A before one outer step, and the status of its hypergradient (the first that is not ok; see `STATUSES`)."""

    value: Float[Array, ""]
    status: Int[Array, ""]


class OuterStep(eqx.Module):
    """One hyperiteration of Algorithm 1: both hypergradients, both moves, both projections (Eq. 5).

    If attacker and defender have the same objective (Eq. 3), one backward pass serves both. Otherwise λ's move takes a
    second pass, through the defender's loss. With `alternate` it always does, at the points already moved, as in the
    paper. With `fresh`, every backward pass draws its own w0.
    """

    hypergradient: HypergradientMethod
    feasible: FeasibleSet
    strengths: Box
    ascent: optax.GradientTransformation
    descent: optax.GradientTransformation | None
    alternate: bool = False
    fresh: bool = False

    def init(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> State:
        """Return the state before a batch's first step, its points projected onto Φ."""
        x_poison = self.feasible.project(x_poison)
        hyper_state = self.descent.init(log_strength) if self.descent else optax.EmptyState()
        memory = self.hypergradient.start(problem, x_poison, log_strength, key)
        return State(x_poison, log_strength, self.ascent.init(x_poison), hyper_state, memory)

    def __call__(self, problem: Bilevel, state: State, key: Key[Array, ""]) -> tuple[State, Info]:
        """Take one step."""
        found = self.hypergradient(problem, state.x_poison, state.log_strength, key, state.memory)
        status, hyper, memory = number(found.status), found.hyper, found.memory

        # Optax descends, so the attacker's derivative changes its sign.
        move, poison_state = self.ascent.update(-found.poison, state.poison_state, state.x_poison)
        x_poison = self.feasible.project(optax.apply_updates(state.x_poison, move))  # pyright: ignore[reportArgumentType]

        strength, hyper_state = state.log_strength, state.hyper_state
        if self.descent:
            if self.alternate or not problem.minimax:
                again = jax.random.fold_in(key, 1) if self.fresh else key
                at = x_poison if self.alternate else state.x_poison
                second = self.hypergradient(problem.defended(), at, strength, again, memory)
                status = jnp.where(status, status, number(second.status))
                hyper, memory = second.hyper, second.memory if problem.minimax else memory
            move, hyper_state = self.descent.update(hyper, hyper_state, strength)
            strength = self.strengths.project(optax.apply_updates(strength, move))  # pyright: ignore[reportArgumentType]
        moved = State(x_poison, strength, poison_state, hyper_state, ())
        # A step is not taken if its derivative is not finite. Any other step is taken, and the end of the round shows
        # what it was worth.
        finite = jnp.all(jnp.isfinite(found.poison)) & jnp.all(jnp.isfinite(hyper))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state._replace(memory=()))
        return kept._replace(memory=memory), Info(found.value, status)


@shared
def begin(step: OuterStep, problem: Bilevel, x_poison: Array, log_strength: Array, key: Array) -> State:
    """Return the state before a batch's first step, compiled."""
    return step.init(problem, x_poison, log_strength, key)


@functools.partial(shared, donate="all-except-first")
def take_steps(given: tuple[OuterStep, Bilevel, Key[Array, ""]], state: State, length: int) -> tuple[State, Info]:
    """Take `length` outer steps in one compiled loop; the state's buffers are reused."""
    step, problem, key = given

    def body(state: State, t: Array) -> tuple[State, Info]:
        return step(problem, state, jax.random.fold_in(key, t) if step.fresh else key)

    return jax.lax.scan(body, state, jnp.arange(length))
