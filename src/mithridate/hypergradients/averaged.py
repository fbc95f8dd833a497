"""The mean of a hypergradient over several w0: the derivative of E[A(wT)], w0 ~ p(w0), from K draws.

Poison made for one w0 need not do harm with another. The paper (Sect. 5.2) draws a new w0 for every update of the
points, so that they see many w0 in turn. The mean over K draws is an update on which K of them agree.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mithridate.errors import InputError
from mithridate.hypergradients.problem import Bilevel, Hypergradient, HypergradientMethod, number


class Averaged(HypergradientMethod):
    """The mean of the results of `method` with K = `draws` keys, which are split from the key of the call.

    A, its derivatives and the diagnostics are means over the draws; the status is the first that is not ok. The K
    trainings run one after the other: they need the memory of one and K times its time. Raises `InputError` if
    `draws` < 1.
    """

    method: HypergradientMethod
    draws: int = eqx.field(static=True)

    def __check_init__(self):
        if self.draws < 1:
            raise InputError(f"draws = {self.draws}: must be at least 1")

    def start(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> Any:
        """Return the method's memory for every draw, stacked."""

        def begin(key: Key[Array, ""]) -> Any:
            return self.method.start(problem, x_poison, log_strength, key)

        return jax.lax.map(begin, jax.random.split(key, self.draws))

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = (),
    ) -> Hypergradient:
        """Return the means of A(wT) and of its derivatives at (X_p, λ)."""

        def draw(given: tuple[Key[Array, ""], Any]) -> Hypergradient:
            return self.method(problem, x_poison, log_strength, *given)

        found = jax.lax.map(draw, (jax.random.split(key, self.draws), memory))
        fault = jnp.argmax(number(found.status) > 0)
        value, poison, hyper, diagnostics = jax.tree.map(
            lambda stacked: jnp.mean(stacked, axis=0), (*found[:3], found.diagnostics)
        )
        status = jax.tree.map(lambda stacked: stacked[fault], found.status)
        return Hypergradient(value, poison, hyper, status, diagnostics, found.memory)
