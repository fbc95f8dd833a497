"""The implicit hypergradient at the inner optimum (Eq. 4), with Hessian-vector products only (App. A).

At w* with ∇_w L = 0 the derivative is −(∇_θ ∇_w L)ᵀ v with H v = ∇A and H = ∇²_w L. No training step is differentiated
and no trajectory is kept. This holds only at the optimum, so the status says when w is not there, and when the linear
system was not solved.

Successive outer steps solve almost the same problem. For a victim that is solved to optimality, w* and v therefore
start from the last ones.
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mithridate.errors import InputError
from mithridate.hypergradients.problem import Bilevel, Hypergradient, HypergradientMethod, Status, worst
from mithridate.victims.newton import conjugate_gradient, norm
from mithridate.victims.rules import add
from mithridate.victims.spaces.dual import Leading
from mithridate.victims.spaces.gram import from_rows

Schedule = Literal["constant", "quadratic", "exponential"]


class Oracles(NamedTuple):
    """What the implicit hypergradient needs of a problem at (X_p, λ), as functions of w (and v)."""

    gradient: Any
    """∇_w L(w)"""
    product: Any
    """∇²_w L(w) v (Eq. 7)"""
    mixed: Any
    """(∇_Xp, ∇_λ) of ⟨∇_w L(w), v⟩ (Eq. 8)"""
    outer: Any
    """A(w) and ∇A(w)"""


def oracles(problem: Bilevel, x_poison: Array, log_strength: Array) -> Oracles:
    """Return the four functions of a problem."""

    def gradient(params: Any, x_poison: Array = x_poison, log_strength: Array = log_strength) -> Any:
        blocks = problem.blocks(x_poison)
        n = jnp.sum(jnp.stack([b.size for b in blocks]))
        return jax.grad(problem.learner.objective)(params, blocks, log_strength, n)

    def product(params: Any, v: Any) -> Any:
        return jax.jvp(gradient, (params,), (v,))[1]

    def mixed(params: Any, v: Any) -> tuple[Array, Array]:
        _, back = jax.vjp(lambda x, s: gradient(params, x, s), x_poison, log_strength)
        return back(v)

    return Oracles(gradient, product, mixed, jax.value_and_grad(problem.attacker_loss))


class Memory(NamedTuple):
    """What the next call starts from: the number of calls, w*, v, the rows' leading directions (dual only)."""

    calls: Int[Array, ""]
    solution: Any
    adjoint: Any
    leading: Any


class Implicit(HypergradientMethod):
    """Eq. 4 by conjugate gradient, from four oracles.

    Arguments: `tolerance`, the relative tolerance of the linear solve (default 3e-5 in float32, 1e-8 in float64);
    `schedule`, how it tightens over successive calls: `constant`, `quadratic` (0.1/t²) or `exponential` (0.1·0.9^t), as
    in Pedregosa (2016); `damping` ≥ 0, added to the Hessian; `steps`, the largest number of CG steps; `stationarity`,
    up to which w counts as optimal. It limits both ‖∇L(w)‖/‖∇L(w0)‖ and |⟨v, ∇L(w)⟩|/A(w), the first-order distance of
    A from its value at the optimum. Diagnostics: these two as `residual` and `gap`, the number of CG steps and, if the
    victim is solved, of Newton steps. Raises `InputError` for a number out of range.
    """

    tolerance: float | None = None
    schedule: Schedule = eqx.field(default="constant", static=True)
    damping: float = eqx.field(default=0.0, static=True)
    steps: int = eqx.field(default=500, static=True)
    stationarity: float = 1e-3

    def __check_init__(self):
        for name in ("tolerance", "stationarity"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must lie between 0 and 1")
        if self.schedule not in ("constant", "quadratic", "exponential"):
            raise InputError(f"schedule = {self.schedule!r}: use constant, quadratic or exponential")
        if self.damping < 0 or self.steps < 1:
            raise InputError(f"damping = {self.damping}, steps = {self.steps}: at least 0 and at least 1")

    def start(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
    ) -> Memory:
        """Return the optimum at (X_p, λ), or w0 if w is trained again at every call."""
        if not self._by_rows(problem, x_poison):
            params = problem.learner.model.init(jax.random.split(key)[0])
            if problem.learner.solved:
                params = problem.learner.solve(problem.blocks(x_poison), log_strength, key).params
            return Memory(jnp.zeros((), int), params, jax.tree.map(jnp.zeros_like, params), ())
        features = tuple(b.x for b in problem.blocks(x_poison))
        leading = Leading.of(problem.rest.x)
        dual = problem.learner.dual(problem.blocks(x_poison), log_strength, leading)
        found = dual.solve(dual.origin, problem.learner.rule)
        solution = (found.point, from_rows(features, found.point.coefs), found.point.bias)
        return Memory(jnp.zeros((), int), solution, jnp.zeros_like(dual.y), leading)

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, "*groups"],
        key: Key[Array, ""],
        memory: Any = (),
    ) -> Hypergradient:
        """Return A(w) and its derivatives at (X_p, λ)."""
        memory = memory or self.start(problem, x_poison, log_strength, key)
        way = self._rows if self._by_rows(problem, x_poison) else self._parameters
        return way(problem, x_poison, log_strength, key, memory)

    def _parameters(
        self, problem: Bilevel, x_poison: Array, log_strength: Array, key: Array, memory: Memory
    ) -> Hypergradient:
        if problem.learner.solved:
            blocks = problem.blocks(x_poison)
            params = problem.learner.solve(blocks, log_strength, key, memory.solution).params
        else:
            params = problem.train(x_poison, log_strength, key)
        ask = oracles(problem, x_poison, log_strength)
        value, right = ask.outer(params)

        def product(v: Any) -> Any:
            return add(ask.product(params, v), v, self.damping)

        found = conjugate_gradient(
            product,
            right,
            self._tolerance(memory.calls, value),
            memory.adjoint,
            steps=self.steps,
        )
        v, gradient = found.value, ask.gradient(params)
        poison, hyper = (-part for part in ask.mixed(params, v))
        w0 = problem.learner.model.init(jax.random.split(key)[0])
        residual = norm(gradient) / jnp.maximum(norm(ask.gradient(w0)), jnp.finfo(value.dtype).tiny)
        pairs = jax.tree.map(jnp.vdot, v, gradient)
        gap = jnp.abs(jnp.sum(jnp.stack(jax.tree.leaves(pairs))) / value)
        diagnostics = {"residual": residual, "gap": gap, "cg_steps": found.steps}
        remembered = memory._replace(calls=memory.calls + 1, solution=params, adjoint=_or_zero(v))
        sound = self._sound(product, right, key)
        return self._result(value, poison, hyper, found.converged, sound, diagnostics, remembered)

    def _rows(
        self, problem: Bilevel, x_poison: Array, log_strength: Array, key: Array, memory: Memory
    ) -> Hypergradient:
        learner, blocks, target = problem.learner, problem.blocks(x_poison), problem.target
        features = tuple(b.x for b in blocks)
        point, w, bias = memory.solution
        dual = learner.dual(blocks, log_strength, memory.leading)
        # The last w is nearer to the new optimum than the last coefficients are after the points have moved.
        found = dual.solve(point, learner.rule, jnp.concatenate([x @ w for x in features]) + bias)
        (coefs, bias), (slope, s) = found.point, dual.slopes(found.z)
        w = from_rows(features, coefs)
        value, slope_target = jax.value_and_grad(problem.attained)(target.x @ w + bias)
        h = slope_target @ target.x
        reach = jnp.concatenate([x @ h for x in features])
        tolerance = self._tolerance(memory.calls, value)
        solve, mu = dual.bordered(s, s * reach, jnp.sum(slope_target), tolerance, memory.adjoint, self.steps)
        bend = s * solve.value
        v = (h - from_rows(features, bend)) / dual.rho
        last = slice(len(slope) - len(x_poison), None)
        poison = -(slope[last, None] * v[None, :] + bend[last, None] * w[None, :])
        hyper = -dual.rho * jnp.vdot(w, v).reshape(log_strength.shape)
        along = (reach - dual.kernel @ bend) / dual.rho  # X·v
        gap = jnp.abs((jnp.vdot(along, slope + dual.rho * coefs) + mu / dual.rho * jnp.sum(slope)) / value)
        # The smallest eigenvalue of H is about ρ, the largest of the order of K's.
        sound = dual.rho > jnp.finfo(dual.rho.dtype).eps * dual.largest
        diagnostics = {"residual": found.residual, "gap": gap, "cg_steps": solve.steps}
        diagnostics |= {"newton_steps": found.newton_steps, "newton_cg_steps": found.cg_steps}
        solution = (_or_zero(found.point), *_or_zero((w, bias)))
        remembered = memory._replace(calls=memory.calls + 1, solution=solution, adjoint=_or_zero(solve.value))
        return self._result(value, poison, hyper, solve.converged, sound, diagnostics, remembered)

    def _result(
        self,
        value: Array,
        poison: Array,
        hyper: Array,
        converged: Array,
        sound: Array,
        diagnostics: dict[str, Array],
        memory: Memory,
    ) -> Hypergradient:
        at_optimum = (diagnostics["residual"] <= self.stationarity) & (diagnostics["gap"] <= self.stationarity)
        status = worst(
            (jnp.isfinite(value), Status.non_finite),
            (sound, Status.singular),
            (jnp.all(jnp.isfinite(poison)) & jnp.all(jnp.isfinite(hyper)), Status.singular),
            (converged, Status.unsolved),
            (at_optimum, Status.not_stationary),
            (jnp.any(poison != 0) | jnp.any(hyper != 0), Status.flat),
        )
        return Hypergradient(value, poison, hyper, status, diagnostics, memory)

    def _tolerance(self, calls: Array, like: Array) -> Array:
        wide = like.dtype == jnp.float64
        last = self.tolerance or (1e-8 if wide else 3e-5)
        t = calls.astype(like.dtype) + 1
        match self.schedule:
            case "quadratic":
                return jnp.maximum(last, 0.1 / t**2)
            case "exponential":
                return jnp.maximum(last, 0.1 * 0.9**t)
            case _:
                return jnp.full_like(like, last)

    def _sound(self, product: Any, like: Any, key: Array) -> Array:
        """Return whether the smallest eigenvalue of H, estimated with a random right-hand side, exceeds rounding."""
        leaves, tree = jax.tree.flatten(like)
        keys = jax.random.split(jax.random.fold_in(key, 7), len(leaves))
        draws = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        random = jax.tree.unflatten(tree, draws)

        def power(_: Array, v: Any) -> Any:
            return add(jax.tree.map(jnp.zeros_like, v), product(v), 1 / jnp.maximum(norm(v), 1e-30))

        largest = norm(jax.lax.fori_loop(0, 8, power, random))
        answer = conjugate_gradient(product, random, 1e-2, steps=self.steps).value
        smallest = norm(product(answer)) / norm(answer)
        curved = jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, answer, product(answer))))) > 0
        return (smallest > 10 * jnp.finfo(leaves[0].dtype).eps * largest) & curved

    def _by_rows(self, problem: Bilevel, x_poison: Array) -> bool:
        """Return whether the rows' coordinates can be used; they allow no damping of the Hessian."""
        learner = problem.learner
        return learner.solved and not self.damping and learner.chosen_space(problem.blocks(x_poison)) == "gram"


def _or_zero(tree: Any) -> Any:
    """Return the tree, or zeros where it is not finite: do not start from a failed solve."""
    return jax.tree.map(lambda leaf: jnp.where(jnp.all(jnp.isfinite(leaf)), leaf, 0.0), tree)
