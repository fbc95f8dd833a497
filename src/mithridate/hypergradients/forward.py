"""Forward-mode hypergradient (Algorithm 3): tangents of w carried along with training.

There is one tangent per input θ: Z ← (∂Φ/∂w) Z + ∂Φ/∂θ, and at the end ∇A = Zᵀ ∇A(w(T)). The trajectory is not stored.
The cost is one tangent of training for each λ and one for every feature of every point.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mithridate.errors import InputError
from mithridate.hypergradients.problem import (
    Bilevel,
    Hypergradient,
    HypergradientMethod,
    Status,
    check_unrolled,
    finite_status,
)


class Forward(HypergradientMethod):
    """Algorithm 3. Memory does not grow with T; time grows with the number of inputs.

    Arguments: `most`, the largest allowed number of tangents; `at_once`, how many are carried together. Raises
    `InputError` if the points and λ need more than `most`: use `Combined` to compute only λ's derivative with it, or
    raise `most`.
    """

    most: int = eqx.field(default=1000, static=True)
    at_once: int = eqx.field(default=64, static=True)

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
        size = x_poison.size + log_strength.size
        if size > self.most:
            raise InputError(
                f"forward mode carries one tangent of training per input: {len(x_poison)} points × {x_poison.shape[1]} "
                f"features + {log_strength.size} λ = {size:,} of them, more than most = {self.most:,}, at about that "
                "many times the cost of training; use Reverse for the points (Combined(Reverse(), Forward())) or "
                "raise most"
            )

        def value(flat: Array) -> Array:
            points = flat[: x_poison.size].reshape(x_poison.shape)
            return problem.value(points, flat[x_poison.size :].reshape(log_strength.shape), key)

        at = jnp.concatenate([x_poison.ravel(), log_strength.ravel()])

        def along(number: Array) -> tuple[Array, Array]:
            tangent = jnp.zeros_like(at).at[number].set(1.0)
            return jax.jvp(value, (at,), (tangent,))

        values, slopes = jax.lax.map(along, jnp.arange(size), batch_size=min(size, self.at_once))
        poison = slopes[: x_poison.size].reshape(x_poison.shape)
        hyper = slopes[x_poison.size :].reshape(log_strength.shape)
        return Hypergradient(values[0], poison, hyper, finite_status(values[0], poison, hyper))


class Combined(HypergradientMethod):
    """X_p's derivative by one method, λ's by another (App. E.1). The status is the worse of the two."""

    poison: HypergradientMethod
    hyper: HypergradientMethod

    def start(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> Any:
        """Return both methods' memories."""
        alone, none = problem.settled(x_poison), x_poison[:0]
        return (
            self.poison.start(problem, x_poison, log_strength, key),
            self.hyper.start(alone, none, log_strength, key),
        )

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = ((), ()),
    ) -> Hypergradient:
        """Return A(wT) and its derivatives at (X_p, λ)."""
        points = self.poison(problem, x_poison, log_strength, key, memory[0])
        # With the points as fixed rows, the method differentiates λ alone and costs no more than that.
        hyper = self.hyper(problem.settled(x_poison), x_poison[:0], log_strength, key, memory[1])
        status = Status.where(points.status == Status.ok, hyper.status, points.status)
        diagnostics = points.diagnostics | hyper.diagnostics
        return Hypergradient(
            points.value, points.poison, hyper.hyper, status, diagnostics, (points.memory, hyper.memory)
        )
