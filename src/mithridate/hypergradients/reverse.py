"""Reverse-mode hypergradient, with the trajectory stored (Algorithm 2) or recomputed from checkpoints.

With the update w(t+1) = Φ(w(t), X_p, λ) the adjoint runs backwards from dw = ∇A(w(T)):

    dX_p ← dX_p + (∂Φ/∂X_p)ᵀ dw = dX_p − η·(∇_Xp ∇_w L(w(t)))ᵀ dw
    dλ   ← dλ   + (∂Φ/∂λ)ᵀ dw   = dλ   − η·(∇_λ ∇_w L(w(t)))ᵀ dw
    dw   ← (∂Φ/∂w)ᵀ dw          = dw   − η·∇²_w L(w(t)) dw

JAX's reverse mode through the training loop is this recursion. The forward pass keeps what the T steps need of the
trajectory, and one backward pass serves X_p and λ with the same dw. The derivative is exact for the T steps taken,
whether or not they reach the optimum.
"""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PyTree

from mithridate.errors import InputError
from mithridate.hypergradients.problem import (
    Bilevel,
    Hypergradient,
    HypergradientMethod,
    check_unrolled,
    finite_status,
)
from mithridate.victims.spaces.run import Step, scan


class Reverse(HypergradientMethod):
    """Algorithm 2, for X_p and λ in one backward pass. Memory grows with T."""

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

        def value(x_poison: Array, log_strength: Array) -> Array:
            return problem.value(x_poison, log_strength, key, self.loop)

        value_, (poison, hyper) = jax.value_and_grad(value, argnums=(0, 1))(x_poison, log_strength)
        return Hypergradient(value_, poison, hyper, finite_status(value_, poison, hyper))

    def loop(self, step: Step, run: Any, state: Any, schedule: PyTree[Array]) -> Any:
        """Take all steps; reverse mode keeps what it needs of each step."""
        return scan(step, run, state, schedule)


class Checkpointed(Reverse):
    """Algorithm 2 with checkpoints (Griewank, 1992): the same number in less memory.

    The T steps are divided into segments of `every` steps (default ⌈√T⌉). The forward pass keeps the state at the start
    of each segment. The backward pass repeats the steps of a segment before it goes back through them. So T/every + 1
    states and the intermediate values of `every` steps are in memory at a time, O(√T) by default, at the cost of T more
    forward steps. Raises `InputError` if `every` < 1.
    """

    every: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if self.every is not None and self.every < 1:
            raise InputError(f"every = {self.every}: must be at least 1 step")

    def loop(self, step: Step, run: Any, state: Any, schedule: PyTree[Array]) -> Any:
        """Take all steps, segment by segment."""
        total = len(jax.tree.leaves(schedule)[0])
        every = min(total, self.every or math.ceil(math.sqrt(total)))
        whole = total // every * every

        @jax.checkpoint
        def segment(state: Any, items: PyTree[Array]) -> tuple[Any, None]:
            return scan(step, run, state, items), None

        def cut(items: Array) -> Array:
            return items[:whole].reshape(-1, every, *items.shape[1:])

        state, _ = jax.lax.scan(segment, state, jax.tree.map(cut, schedule))
        if whole < total:
            state, _ = segment(state, jax.tree.map(lambda items: items[whole:], schedule))
        return state
