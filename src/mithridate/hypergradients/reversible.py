"""Reverse mode with the weights recomputed backwards instead of stored (App. E.1).

Two kinds of rules can be run backwards. Gradient descent (full-batch or minibatch): w(t) solves w = w(t+1) + η·∇L(w),
by fixed-point iteration, which contracts if η·curvature < 1. Errors grow on the way back; the drift ‖ŵ0 − w0‖ shows by
how much. Heavy ball is reversed exactly, bit for bit: it runs in fixed-point numbers, and a buffer keeps the bits that
the multiplication by the momentum drops (Maclaurin, Duvenaud and Adams, 2015, Algorithm 3).
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from mithridate.errors import InputError
from mithridate.hypergradients.problem import (
    Bilevel,
    Hypergradient,
    HypergradientMethod,
    Status,
    check_unrolled,
    finite_status,
    worst,
)
from mithridate.victims.rules import Gradient, GradientDescent, HeavyBall, MinibatchSGD, TrainingRule, add


@runtime_checkable
class Reversal(Protocol):
    """A rule that can also be run backwards."""

    def start(self, state: Any, steps: int) -> Any:
        """Return the rule's state before the first of `steps` steps, in a form that can be reversed."""
        ...

    def step(self, gradient: Gradient, carry: Any, number: Array, item: PyTree[Array]) -> Any:
        """Return the carry after one step."""
        ...

    def unstep(self, gradient: Gradient, carry: Any, number: Array, item: PyTree[Array]) -> Any:
        """Return the carry before that step."""
        ...

    def state(self, carry: Any) -> Any:
        """Return the rule's state."""
        ...


class FixedPoint(eqx.Module):
    """Descent run backwards by fixed-point iteration from w(t) ≈ w(t+1)."""

    rule: TrainingRule
    iterations: int = eqx.field(static=True)

    def start(self, state: Any, steps: int) -> Any:
        """Return w0."""
        return state

    def step(self, gradient: Gradient, carry: Any, number: Array, item: PyTree[Array]) -> Any:
        """Return w(t+1)."""
        return self.rule.step(gradient, carry, item)

    def unstep(self, gradient: Gradient, carry: Any, number: Array, item: PyTree[Array]) -> Any:
        """Return w(t): the solution of step(w) = w(t+1) by w ← w + (w(t+1) − step(w))."""

        def closer(_: Array, guess: Any) -> Any:
            return add(guess, add(carry, self.rule.step(gradient, guess, item), -1.0))

        return jax.lax.fori_loop(0, self.iterations, closer, carry)

    def state(self, carry: Any) -> Any:
        """Return w."""
        return carry


class Carry(NamedTuple):
    """Heavy ball in fixed-point numbers: integers for w, v and the dropped bits, and the buffers that are full."""

    params: Any
    velocity: Any
    buffer: Any
    shelf: Any
    overflowed: Array


class BitExact(eqx.Module):
    """Heavy ball in fixed-point numbers with `bits` binary places; γ must be a ratio n/d with d ≤ 1024.

    v·γ is v // d · n. The remainder of the division, and the values that the product cannot take, go into a buffer. It
    grows by log2(d/n) bits a step, and is stored and emptied before it overflows.
    """

    rule: HeavyBall
    bits: int = eqx.field(static=True)
    ratio: tuple[int, int] = eqx.field(static=True)
    period: int = eqx.field(static=True)

    def __init__(self, rule: HeavyBall, bits: int | None):
        wide = jnp.zeros(()).dtype == jnp.float64
        ratio = Fraction(rule.momentum).limit_denominator(1024)
        if abs(float(ratio) - rule.momentum) > 1e-9:
            raise InputError(
                f"momentum = {rule.momentum}: to be reversed exactly it must be a ratio with a denominator up to 1024, "
                f"such as {float(ratio)!r} = {ratio}"
            )
        n, d = ratio.numerator, ratio.denominator
        most, held, period = 2 ** (62 if wide else 30), 0, 0
        while (held + 1) * d <= most and period < 10_000:
            held, period = (held * d + d - 1) // n, period + 1
        self.rule, self.bits = rule, bits or (50 if wide else 24)
        self.ratio, self.period = (n, d), period

    def start(self, state: Any, steps: int) -> Carry:
        """Return (w0, 0), rounded to the fixed-point grid."""
        params, velocity = (self._integers(part) for part in state)
        empty = jax.tree.map(jnp.zeros_like, params)
        shelf = jax.tree.map(lambda i: jnp.zeros((-(-steps // self.period), *i.shape), i.dtype), params)
        return Carry(params, velocity, empty, shelf, jnp.zeros((), bool))

    def step(self, gradient: Gradient, carry: Carry, number: Array, item: PyTree[Array]) -> Carry:
        """Return the carry after v ← γ·v − η·∇L(w), w ← w + v in integers."""
        n, d = self.ratio
        full, place = number % self.period == 0, number // self.period
        shelf = jax.tree.map(
            lambda s, b: jnp.where(full, jax.lax.dynamic_update_index_in_dim(s, b, place, 0), s),
            carry.shelf,
            carry.buffer,
        )
        buffer = jax.tree.map(lambda b: jnp.where(full, 0, b), carry.buffer)
        # `unstep` undoes each integer operation below.
        buffer = jax.tree.map(lambda b, v: b * d + v % d, buffer, carry.velocity)
        velocity = jax.tree.map(lambda b, v: v // d * n + b % n, buffer, carry.velocity)
        buffer = jax.tree.map(lambda b: b // n, buffer)
        move, sound = self._move(gradient, carry.params)
        velocity = jax.tree.map(jnp.subtract, velocity, move)
        params = jax.tree.map(jnp.add, carry.params, velocity)
        return Carry(params, velocity, buffer, shelf, carry.overflowed | ~sound)

    def unstep(self, gradient: Gradient, carry: Carry, number: Array, item: PyTree[Array]) -> Carry:
        """Return the carry before that step, bit for bit."""
        n, d = self.ratio
        params = jax.tree.map(jnp.subtract, carry.params, carry.velocity)
        move, _ = self._move(gradient, params)
        velocity = jax.tree.map(jnp.add, carry.velocity, move)
        buffer = jax.tree.map(lambda b, v: b * n + v % n, carry.buffer, velocity)
        velocity = jax.tree.map(lambda b, v: v // n * d + b % d, buffer, velocity)
        buffer = jax.tree.map(lambda b: b // d, buffer)
        full, place = number % self.period == 0, number // self.period
        buffer = jax.tree.map(lambda b, s: jnp.where(full, s[place], b), buffer, carry.shelf)
        return Carry(params, velocity, buffer, carry.shelf, carry.overflowed)

    def state(self, carry: Carry) -> tuple[Any, Any]:
        """Return (w, v)."""
        return self._floats(carry.params), self._floats(carry.velocity)

    def _move(self, gradient: Gradient, params: Any) -> tuple[Any, Array]:
        # The barriers keep the compiler from rounding the gradient differently forwards and backwards.
        at = jax.lax.optimization_barrier(self._floats(params))
        slope = jax.lax.optimization_barrier(gradient(at, None))
        move = jax.tree.map(lambda g: self.rule.learning_rate * g, slope)
        largest = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves((at, move))]
        return self._integers(move), jnp.all(jnp.stack(largest) < self._range)

    @property
    def _range(self) -> float:
        return 2.0 ** ((63 if jnp.zeros(()).dtype == jnp.float64 else 31) - self.bits - 2)

    def _integers(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.round(leaf * 2.0**self.bits).astype(int), tree)

    def _floats(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(float) * 2.0**-self.bits, tree)


class Reversible(HypergradientMethod):
    """Reverse mode that stores no trajectory: each step is undone, then differentiated.

    Arguments: `iterations` of the fixed point (1 is the first-order reversal of Muñoz-González et al., 2017); `bits`,
    the binary places of heavy ball's fixed-point numbers (default 24 in float32, 50 in float64); `drift`, the largest
    accepted ‖ŵ0 − w0‖/‖wT − w0‖. Diagnostics: that ratio as `drift`. Raises `InputError` for a rule that cannot be run
    backwards.
    """

    iterations: int = eqx.field(default=20, static=True)
    bits: int | None = eqx.field(default=None, static=True)
    drift: float = 1e-3

    def __check_init__(self):
        if self.iterations < 1:
            raise InputError(f"iterations = {self.iterations}: must be at least 1")

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = (),
    ) -> Hypergradient:
        """Return A(wT) and its derivatives at (X_p, λ)."""
        check_unrolled(problem, self)
        learner, reversal = problem.learner, self._reversal(problem.learner.rule)
        if isinstance(reversal, BitExact) and learner.space == "auto":
            # Fixed-point numbers suit weights of about 1, not the small coefficients of Gram space.
            learner = replace(learner, space="plain")

        def begin(x_poison: Array, log_strength: Array) -> tuple[Any, Any]:
            run, start, _ = learner.begin(problem.blocks(x_poison), log_strength, key)
            return run.learned, start

        run, start, schedule = learner.begin(problem.blocks(x_poison), log_strength, key)
        total = len(jax.tree.leaves(schedule)[0])
        numbered = (jnp.arange(total), schedule)
        first = reversal.start(start, total)

        def forwards(carry: Any, item: tuple[Array, Any]) -> tuple[Any, None]:
            return reversal.step(run.gradient, carry, *item), None

        last, _ = jax.lax.scan(forwards, first, numbered)

        def outer(state: Any, learned: Any) -> Array:
            return problem.attacker_loss(run.with_learned(learned).final(learner.rule.final(state)))

        value, (adjoint, total_learned) = jax.value_and_grad(outer, (0, 1))(reversal.state(last), run.learned)

        def backwards(carry: tuple[Any, Any, Any], item: tuple[Array, Any]) -> tuple[Any, None]:
            at, adjoint, learned = carry
            at = reversal.unstep(run.gradient, at, *item)

            def step(state: Any, learned: Any) -> Any:
                return learner.step(run.with_learned(learned), state, item[1])

            _, back = jax.vjp(step, reversal.state(at), run.learned)
            adjoint, more = back(adjoint)
            return (at, adjoint, jax.tree.map(jnp.add, learned, more)), None

        (found, adjoint, total_learned), _ = jax.lax.scan(
            backwards, (last, adjoint, total_learned), numbered, reverse=True
        )
        _, back = jax.vjp(begin, x_poison, log_strength)
        poison, hyper = back((total_learned, adjoint))

        began, ended, missed = (learner.rule.final(reversal.state(carry)) for carry in (first, last, found))
        drift = _distance(missed, began) / jnp.maximum(_distance(ended, began), jnp.finfo(value.dtype).tiny)
        overflowed = getattr(last, "overflowed", jnp.zeros((), bool))
        status = worst(
            (~overflowed, Status.overflowed),
            (finite_status(value, poison, hyper) == Status.ok, finite_status(value, poison, hyper)),
            (drift <= self.drift, Status.drifted),
        )
        return Hypergradient(value, poison, hyper, status, {"drift": drift})

    def _reversal(self, rule: TrainingRule) -> Reversal:
        if isinstance(rule, HeavyBall):
            return BitExact(rule, self.bits)
        if isinstance(rule, GradientDescent | MinibatchSGD):
            return FixedPoint(rule, self.iterations)
        raise InputError(f"Reversible cannot run {type(rule).__name__} backwards; use Checkpointed")


def _distance(one: Any, other: Any) -> Array:
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), one, other)
    return jnp.sqrt(jnp.sum(jnp.stack(jax.tree.leaves(squares))))
