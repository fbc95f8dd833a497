"""The optimum of a convex objective by Newton's method with conjugate gradient, in any pytree of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from mithridate.victims.rules import Exact, add

CG_STEPS = 500
SCALE = 2.0**-20
"""Lineax also waits until v moves less than the tolerance of the *residual*, and treats a curvature below 100·ε·size as
0. With v in units this small, neither matters; a power of two rounds nothing."""


class Solution(NamedTuple):
    """A minimiser and how good it is: ‖∇L‖ relative to that at w0, Newton and CG steps taken."""

    params: Any
    residual: Float[Array, ""]
    newton_steps: Int[Array, ""]
    cg_steps: Int[Array, ""]

    def or_nan(self) -> Any:
        """Return the minimiser, or NaN if the gradient is not small: an unsolved problem must not look solved."""
        solved = self.residual <= 1e-3
        return jax.tree.map(lambda leaf: jnp.where(solved, leaf, jnp.nan), self.params)


class Solve(NamedTuple):
    """The solution of one linear system, whether CG reached its tolerance, and the number of its steps."""

    value: Any
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


def conjugate_gradient(
    product: Callable[[Any], Any],
    right: Any,
    tolerance: float | Array,
    start: Any = None,
    preconditioner: Callable[[Any], Any] | None = None,
    steps: int = CG_STEPS,
) -> Solve:
    """Solve the positive definite system product(v) = right to ‖right − product(v)‖ ≤ tolerance·‖right‖.

    It begins at `start` (default: 0). One more product checks the residual at the end, so `converged` can be trusted.
    """
    structure = jax.eval_shape(lambda: right)
    tags = lx.positive_semidefinite_tag
    options = {"y0": jax.tree.map(jnp.zeros_like, right) if start is None else _times(start, SCALE)}
    if preconditioner is not None:
        options["preconditioner"] = lx.FunctionLinearOperator(preconditioner, structure, tags)
    operator = lx.FunctionLinearOperator(lambda v: product(_times(v, 1 / SCALE)), structure, tags)
    aim = tolerance * norm(right)
    solver = lx.CG(rtol=0.0, atol=0.5 * aim, norm=norm, max_steps=steps)  # pyright: ignore[reportArgumentType]
    found = lx.linear_solve(operator, right, solver, options=options, throw=False)
    value = _times(found.value, 1 / SCALE)
    missed = norm(add(right, product(value), -1.0))
    return Solve(value, missed <= aim, jnp.asarray(found.stats.get("num_steps", -1)))


def minimise_convex(objective: Callable[[Any], Array], w0: Any, start: Any, rule: Exact) -> Solution:
    """Return the minimiser of `objective`, found from `start`; `w0` sets the scale of the gradient.

    Newton steps by CG to a tolerance that tightens with the gradient (Eisenstat and Walker, 1996), halved until the
    objective falls.
    """
    gradient = jax.grad(objective)
    scale = jnp.maximum(norm(gradient(w0)), jnp.finfo(objective(w0).dtype).tiny)

    def residual(params: Any) -> Array:
        return norm(gradient(params)) / scale

    def unfinished(state: tuple[Solution, Array]) -> Array:
        at, moving = state
        return (at.residual > rule.relative) & (at.newton_steps < rule.most) & moving

    def step(state: tuple[Solution, Array]) -> tuple[Solution, Array]:
        at, _ = state
        slope, product = jax.linearize(gradient, at.params)
        forcing = jnp.minimum(0.1, jnp.sqrt(at.residual))
        found = conjugate_gradient(product, slope, forcing)
        sizes = 0.5 ** jnp.arange(12.0)
        values = jax.lax.map(lambda size: objective(add(at.params, found.value, -size)), sizes)
        values, value = jnp.where(jnp.isfinite(values), values, jnp.inf), objective(at.params)
        rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        # Take the longest step that rounding cannot tell from the best. If the whole step halves the gradient, take it
        # without looking at the objective: near the optimum its rounding, not its fall, would decide.
        longest = jnp.argmax(values <= jnp.min(values) + rounding)
        whole = residual(add(at.params, found.value, -1.0)) < 0.5 * at.residual
        best = jnp.where(whole, 0, longest)
        params = add(at.params, found.value, -sizes[best])
        after = residual(params)
        # Where rounding hides the fall of the objective, the gradient still falls.
        fallen = values[best] < value - rounding
        moving = fallen | (after < 0.5 * at.residual)
        new = Solution(params, after, at.newton_steps + 1, at.cg_steps + found.steps)
        return jax.tree.map(lambda a, b: jnp.where(moving, a, b), new, at), moving

    zero = jnp.zeros((), int)
    state = Solution(start, residual(start), zero, zero), jnp.ones((), bool)
    return jax.lax.while_loop(unfinished, step, state)[0]


def _times(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def norm(tree: Any) -> Array:
    """Return the Euclidean norm of all leaves together."""
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))
