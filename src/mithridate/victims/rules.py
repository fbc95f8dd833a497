"""Training rules: how w moves, one step at a time.

A rule has a `schedule` (the input of each step, stacked along the first axis), a `start`, a `step` and a `final`. It
sees the objective only through its gradient, and w only through sums and multiples. So it runs in any coordinates of w
(see `gram`), and a hypergradient can replay, reverse or checkpoint a run without knowing the rule.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mithridate.errors import InputError


class Batch(NamedTuple):
    """Some of the rows: their numbers, and which of them are real (the others pad the batch)."""

    index: Int[Array, "*steps batch"]  # pyright: ignore[reportIncompatibleMethodOverride]
    real: Bool[Array, "*steps batch"]


Gradient = Callable[[Any, Batch | None], Any]
"""∇L at w on a batch, or on all rows, in the coordinates of w."""


def _check_rate(learning_rate: float) -> None:
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InputError(f"learning_rate = {learning_rate}: must be a positive number")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"steps = {steps}: inner training must have at least 1 step")


def cuts(learning_rate: float, curvature: float, limit: float) -> int:
    """Return the smallest k with η/k·curvature ≤ `limit`. Raises `InputError` if it would exceed 1000."""
    needed = learning_rate * curvature / limit
    if not needed <= 1000:
        raise InputError(
            f"inner training would need {needed:.3g} times as many steps to be stable (its curvature is "
            f"{curvature:.3g}): lower learning_rate, the upper bound on λ or a fixed λ, or scale the features"
        )
    return max(1, math.ceil(needed))


def add(params: Any, move: Any, size: float | Array = 1.0) -> Any:
    """Return params + size·move, leaf by leaf."""
    return jax.tree.map(lambda p, m: p + size * m, params, move)


@runtime_checkable
class TrainingRule(Protocol):
    """What a learner needs of a training rule."""

    @property
    def learning_rate(self) -> float:
        """The size η of a step."""
        ...

    def schedule(self, weight: Float[Array, " n"], key: Key[Array, ""]) -> PyTree[Array]:
        """Return the inputs of the T steps, stacked. Rows with weight 0 are ignored."""
        ...

    def start(self, params: Any) -> Any:
        """Return the state before the first step, at w0."""
        ...

    def step(self, gradient: Gradient, state: Any, item: PyTree[Array]) -> Any:
        """Return the state after one step."""
        ...

    def final(self, state: Any) -> Any:
        """Return w."""
        ...


class GradientDescent(eqx.Module):
    """Full-batch gradient descent w ← w − η·∇L(w), T times (Algorithm 2, forward pass).

    Arguments: `learning_rate` = η > 0, `steps` = T ≥ 1. Raises `InputError` otherwise.
    """

    learning_rate: float
    steps: int = eqx.field(static=True)

    def __check_init__(self):
        _check_rate(self.learning_rate)
        _check_steps(self.steps)

    def schedule(self, weight: Float[Array, " n"], key: Key[Array, ""]) -> Int[Array, " steps"]:
        """Return 0 … T − 1; every step is alike."""
        return jnp.arange(self.steps)

    def start(self, params: Any) -> Any:
        """Return w0."""
        return params

    def step(self, gradient: Gradient, state: Any, item: PyTree[Array]) -> Any:
        """Return w − η·∇L(w)."""
        return add(state, gradient(state, None), -self.learning_rate)

    def final(self, state: Any) -> Any:
        """Return w."""
        return state

    def subdivided(self, curvature: float, limit: float = 1.6) -> "GradientDescent":
        """Return the rule with each step cut into k, the smallest k with η/k·curvature ≤ `limit`.

        η·T, the time for which gradient flow is followed, stays the same. Gradient descent diverges if η·curvature > 2.
        With the paper's η = 0.1 this happens on Fashion-MNIST (curvature about 39), and an attack then poisons the step
        size, not the victim. The limit is below 2 because the poison raises the curvature. Raises `InputError` if k
        would exceed 1000.
        """
        k = cuts(self.learning_rate, curvature, limit)
        return type(self)(self.learning_rate / k, self.steps * k)


class HeavyBall(eqx.Module):
    """Gradient descent with momentum (Polyak, 1964): v ← γ·v − η·∇L(w), w ← w + v, T times from v = 0.

    Arguments: `learning_rate` = η > 0, `momentum` = γ in (0, 1), `steps` = T ≥ 1. Raises `InputError` otherwise.
    """

    learning_rate: float
    momentum: float
    steps: int = eqx.field(static=True)

    def __check_init__(self):
        _check_rate(self.learning_rate)
        _check_steps(self.steps)
        if not 0 < self.momentum < 1:
            raise InputError(f"momentum = {self.momentum}: must lie between 0 and 1 (0 is `GradientDescent`)")

    def schedule(self, weight: Float[Array, " n"], key: Key[Array, ""]) -> Int[Array, " steps"]:
        """Return 0 … T − 1; every step is alike."""
        return jnp.arange(self.steps)

    def start(self, params: Any) -> tuple[Any, Any]:
        """Return (w0, 0)."""
        return params, jax.tree.map(jnp.zeros_like, params)

    def step(self, gradient: Gradient, state: tuple[Any, Any], item: PyTree[Array]) -> tuple[Any, Any]:
        """Return (w + v, v) with the new v."""
        params, velocity = state
        slope = gradient(params, None)
        velocity = jax.tree.map(lambda v, g: self.momentum * v - self.learning_rate * g, velocity, slope)
        return add(params, velocity), velocity

    def final(self, state: tuple[Any, Any]) -> Any:
        """Return w."""
        return state[0]


class MinibatchSGD(eqx.Module):
    """Minibatch stochastic gradient descent with a fixed step (Table 3).

    Every epoch visits the rows in a new random order; the last batch of an epoch may be smaller. Arguments:
    `learning_rate` = η_tr > 0, `batch_size` ≥ 1, and either `epochs` ≥ 1 or, to stop within an epoch, `steps` = T ≥ 1
    (the other is 0). Raises `InputError` otherwise.
    """

    learning_rate: float
    batch_size: int = eqx.field(static=True)
    epochs: int = eqx.field(default=0, static=True)
    steps: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        _check_rate(self.learning_rate)
        if self.batch_size < 1 or self.epochs < 0 or self.steps < 0 or bool(self.epochs) == bool(self.steps):
            raise InputError(
                f"batch_size = {self.batch_size}, epochs = {self.epochs}, steps = {self.steps}: batch_size and either "
                "epochs or steps must be at least 1, the other 0"
            )

    def schedule(self, weight: Float[Array, " n"], key: Key[Array, ""]) -> Batch:
        """Return all batches of all epochs, or the first T of them. Rows with weight 0 come last in an epoch."""
        n = len(weight)
        per_epoch = math.ceil(n / self.batch_size)
        padding = per_epoch * self.batch_size - n
        epochs = self.epochs or math.ceil(self.steps / per_epoch)

        def epoch(key: Key[Array, ""]) -> Batch:
            order = jax.random.permutation(key, n)
            order = order[jnp.argsort(weight[order] == 0, stable=True)]
            return Batch(order, weight[order] > 0)

        every = jax.vmap(epoch)(jax.random.split(key, epochs))
        shape = (epochs * per_epoch, self.batch_size)
        return Batch(*(jnp.pad(part, ((0, 0), (0, padding))).reshape(shape)[: self.steps or None] for part in every))

    def subdivided(self, curvature: float, limit: float = 1.6) -> "MinibatchSGD":
        """Return the rule with each step, or each epoch, cut into k, as in `GradientDescent.subdivided`.

        A few rows have a higher curvature than all rows together: give the curvature of batches.
        """
        k = cuts(self.learning_rate, curvature, limit)
        return replace(self, learning_rate=self.learning_rate / k, epochs=self.epochs * k, steps=self.steps * k)

    def start(self, params: Any) -> Any:
        """Return w0."""
        return params

    def step(self, gradient: Gradient, state: Any, item: Batch) -> Any:
        """Return w − η·∇L(w) on the batch, or w if no row of the batch is real."""
        return add(state, gradient(state, item), -self.learning_rate * jnp.any(item.real))

    def final(self, state: Any) -> Any:
        """Return w."""
        return state


class Exact(eqx.Module):
    """Training to optimality: w = argmin L(w), with any solver, like scikit-learn's `LogisticRegression`.

    Arguments: `tolerance`, the largest ‖∇L(w)‖/‖∇L(w0)‖ that counts as optimal (default 2e-5 in float32, 1e-8 in
    float64); `most`, the largest number of Newton steps. Only for convex objectives. Raises `InputError` if a number is
    out of its range.
    """

    tolerance: float | None = None
    most: int = eqx.field(default=100, static=True)

    def __check_init__(self):
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"tolerance = {self.tolerance}: must lie between 0 and 1")
        if self.most < 1:
            raise InputError(f"most = {self.most}: must be at least 1")

    @property
    def relative(self) -> float:
        """The tolerance in the precision in force."""
        return self.tolerance or (1e-8 if jnp.zeros(()).dtype == jnp.float64 else 2e-5)
