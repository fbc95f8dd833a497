"""Training rules: how w moves, one step at a time.

A rule is a `schedule` (what each step needs to know, stacked along the first axis) and a `step`. Keeping the two
apart lets a hypergradient replay, reverse or checkpoint a run without knowing the rule.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mithridate.errors import InputError
from mithridate.rows import Rows, join

Objective = Callable[[Any, tuple[Rows, ...]], Float[Array, ""]]
"""L(w, rows): the inner objective with λ and n already given."""


def _descend(params: Any, gradient: Any, learning_rate: float) -> Any:
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)


@runtime_checkable
class TrainingRule(Protocol):
    """What a learner asks of a rule."""

    @property
    def learning_rate(self) -> float:
        """The size η of a step."""
        ...

    def schedule(self, n_rows: int, key: Key[Array, ""]) -> PyTree[Array]:
        """Return each step's input, stacked; its length is the number of steps T."""
        ...

    def step(self, objective: Objective, params: Any, blocks: tuple[Rows, ...], item: PyTree[Array]) -> Any:
        """Return w after one step."""
        ...


class GradientDescent(eqx.Module):
    """Full-batch gradient descent w ← w − η·∇L(w), T times (Algorithm 2, forward pass).

    Arguments: `learning_rate` = η > 0, `steps` = T ≥ 1. Raises `InputError` otherwise.
    """

    learning_rate: float
    steps: int = eqx.field(static=True)

    def __check_init__(self):
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate = {self.learning_rate}: must be a positive number")
        if self.steps < 1:
            raise InputError(f"steps = {self.steps}: inner training must have at least 1 step")

    def schedule(self, n_rows: int, key: Key[Array, ""]) -> Int[Array, " steps"]:
        """Return 0 … T − 1; every step is alike."""
        return jnp.arange(self.steps)

    def step(self, objective: Objective, params: Any, blocks: tuple[Rows, ...], item: PyTree[Array]) -> Any:
        """Return w − η·∇L(w)."""
        return _descend(params, jax.grad(objective)(params, blocks), self.learning_rate)

    def subdivided(self, curvature: float, limit: float = 1.6) -> "GradientDescent":
        """Return the rule with each step cut into k, the smallest k with η/k·curvature ≤ `limit`.

        η·T, the time for which gradient flow is followed, stays the same. Gradient descent diverges once
        η·curvature > 2; the paper's η = 0.1 does so on Fashion-MNIST (curvature about 39), and an attack on it then
        poisons the step size, not the victim. The margin to 2 is for the poison, which raises the curvature. Raises
        `InputError` when k would exceed 1000.
        """
        cuts = self.learning_rate * curvature / limit
        if not cuts <= 1000:
            raise InputError(
                f"the inner training would need {cuts:.3g} times as many steps to be stable (its curvature is "
                f"{curvature:.3g}): lower learning_rate, the upper bound on λ or a fixed λ, or scale the features"
            )
        k = max(1, math.ceil(cuts))
        return type(self)(self.learning_rate / k, self.steps * k)


class MinibatchSGD(eqx.Module):
    """Minibatch stochastic gradient descent with a fixed step (Table 3).

    Every epoch visits a fresh permutation of the rows; the last batch of an epoch may be smaller. Arguments:
    `learning_rate` = η_tr > 0, `batch_size` ≥ 1, `epochs` ≥ 1. Raises `InputError` otherwise.
    """

    learning_rate: float
    batch_size: int = eqx.field(static=True)
    epochs: int = eqx.field(static=True)

    def __check_init__(self):
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate = {self.learning_rate}: must be a positive number")
        if self.batch_size < 1 or self.epochs < 1:
            raise InputError(f"batch_size = {self.batch_size}, epochs = {self.epochs}: both must be at least 1")

    def schedule(
        self, n_rows: int, key: Key[Array, ""]
    ) -> tuple[Int[Array, "steps batch"], Bool[Array, "steps batch"]]:
        """Return each batch's row numbers and which of them count (the rest pad the last batch)."""
        per_epoch = math.ceil(n_rows / self.batch_size)
        padding = per_epoch * self.batch_size - n_rows
        keys = jax.random.split(key, self.epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, n_rows))(keys)
        real = jnp.ones_like(order, dtype=bool)
        shape = (self.epochs * per_epoch, self.batch_size)
        order, real = (jnp.pad(part, ((0, 0), (0, padding))).reshape(shape) for part in (order, real))
        return order, real

    def step(self, objective: Objective, params: Any, blocks: tuple[Rows, ...], item: PyTree[Array]) -> Any:
        """Return w after one step on the batch `item`."""
        index, real = item
        rows = join(blocks)
        batch = Rows(rows.x[index], rows.y[index], rows.weight[index] * real)
        return _descend(params, jax.grad(objective)(params, (batch,)), self.learning_rate)
