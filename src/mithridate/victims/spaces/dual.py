"""The optimum of a linear model with an L2 penalty, and its adjoint, in the coordinates of the training rows.

At the optimum w = Xᵀ·a with ρ·a = −r, r = ℓ'(z)/n, z = K·a + b and Σ r = 0; K = X·Xᵀ, ρ = e^λ/n. With D = ℓ''(z)/n and
S = √D, a Newton step and the implicit hypergradient's adjoint are both bordered systems

    (ρ·I + S·K·S) y = c + μ·S1,   1ᵀS y = d,

solved by conjugate gradient on the complement of S1 (by Cholesky where ρ is very small). K of real data has a few
large eigenvalues and a long tail, so the system is preconditioned with K ≈ B·Bᵀ, B (n, q) the rows in a basis of the
leading directions: by Woodbury's identity

    (ρ·I + S·B·Bᵀ·S)⁻¹ = (I − S·B·(ρ·I + Bᵀ·D·B)⁻¹·Bᵀ·S)/ρ,

which leaves a condition number of about 1 + (largest eigenvalue left out)/ρ. The basis moves slowly from one outer step
to the next, so it is found once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mithridate.victims.newton import CG_STEPS, Solve, conjugate_gradient
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact

ILL_CONDITIONED = 1e-6
"""The ratio of ρ to K's largest diagonal entry below which the systems are factorised."""


class Point(NamedTuple):
    """A linear model in the rows' coordinates: w = Xᵀ·a, bias b."""

    coefs: Float[Array, " n"]
    bias: Float[Array, ""]


class Leading(NamedTuple):
    """An approximate basis of the leading right singular vectors of some rows, and these rows in it, as columns."""

    basis: Float[Array, "m q"]
    first: Float[Array, "q n"]

    @classmethod
    def of(cls, x: Float[Array, "n m"], most: int = 64) -> "Leading":
        """Return at most `most` directions, by subspace iteration (Halko et al., 2011)."""
        basis = jax.random.normal(jax.random.key(0), (x.shape[1], min(most, *x.shape)), x.dtype)
        for _ in range(2):
            basis, _ = jnp.linalg.qr(x.T @ (x @ basis))
        return cls(basis, (x @ basis).T)


class DualSolution(NamedTuple):
    """A minimiser: the point, z = K·a + b, ‖∇L‖ relative to that at w = 0, Newton and CG steps taken."""

    point: Point
    z: Float[Array, " n"]
    residual: Float[Array, ""]
    newton_steps: Int[Array, ""]
    cg_steps: Int[Array, ""]


class Dual(eqx.Module):
    """The training problem of a linear model: K (n, n), labels, row weights, ρ, and Bᵀ (q, n)."""

    loss: Any
    kernel: Float[Array, "n n"]
    y: Float[Array, " n"]
    weight: Float[Array, " n"]
    rho: Float[Array, ""]
    leading: Float[Array, "q n"]
    largest: Float[Array, ""]
    """K's largest diagonal entry."""

    @classmethod
    def of(
        cls,
        loss: Any,
        blocks: tuple[Rows, ...],
        kernel: Float[Array, "n n"],
        rho: Float[Array, ""],
        leading: Leading,
    ) -> "Dual":
        """Return the problem on `blocks`, with `leading` directions found from the first block."""
        y, weight = jnp.concatenate([b.y for b in blocks]), jnp.concatenate([b.weight for b in blocks])
        rows = jnp.concatenate([leading.first, *((b.x @ leading.basis).T for b in blocks[1:])], axis=1)
        return cls(loss, kernel, y, weight, rho, rows, jnp.max(jnp.diagonal(kernel)))

    @property
    def origin(self) -> Point:
        """w = 0."""
        return Point(jnp.zeros_like(self.y), jnp.zeros((), self.y.dtype))

    def slopes(self, z: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return r and S at z."""

        def total(z: Array) -> Array:
            return jnp.vdot(self.weight, self.loss(z, self.y)) / jnp.sum(self.weight)

        first, second = jax.jvp(jax.grad(total), (z,), (jnp.ones_like(z),))
        return first, jnp.sqrt(jnp.maximum(second, 0.0))

    def solve(self, start: Point, rule: Exact, z: Float[Array, " n"] | None = None) -> DualSolution:
        """Return the optimum, by Newton's method from `start`.

        `z` (n,), if given, are the rows' logits under some w near the optimum that is not of the form Xᵀ·a, such as the
        last optimum before the rows moved. The first step then starts from there, and is kept if its value is lower
        than that of `start`.
        """
        scale = jnp.maximum(self._gradient_norm(self.origin, self.origin.coefs), jnp.finfo(start.coefs.dtype).tiny)

        eps = jnp.finfo(start.coefs.dtype).eps

        def measured(point: Point, z: Array, newton_steps: Array, cg_steps: Array) -> DualSolution:
            return DualSolution(point, z, self._gradient_norm(point, z) / scale, newton_steps, cg_steps)

        def unfinished(state: tuple[DualSolution, Array]) -> Array:
            at, moving = state
            return (at.residual > rule.relative) & (at.newton_steps < rule.most) & moving

        def step(state: tuple[DualSolution, Array]) -> tuple[DualSolution, Array]:
            at, _ = state
            tolerance = jnp.clip(1e-2 * at.residual, 10 * eps, 1e-3)
            toward, taken = self._newton(at.point, at.z, tolerance)
            along = self.logits(toward)

            def moved(size: Array) -> tuple[Point, Array]:
                point = Point(at.point.coefs + size * toward.coefs, at.point.bias + size * toward.bias)
                return point, at.z + size * along

            def shorter(state: tuple[Array, Array]) -> tuple[Array, Array]:
                return 0.5 * state[0], self.value(*moved(0.5 * state[0]))

            value, whole = self.value(at.point, at.z), jnp.ones(())
            rounding = 4 * eps * jnp.abs(value)
            # Near the optimum rounding hides the fall of the objective, but the gradient still falls.
            halved = self._gradient_norm(*moved(whole)) / scale < 0.5 * at.residual
            size, reached = jax.lax.while_loop(
                lambda state: ~halved & ~(state[1] <= value + rounding) & (state[0] > 1e-4),
                shorter,
                (whole, self.value(*moved(whole))),
            )
            new = measured(*moved(size), at.newton_steps + 1, at.cg_steps + taken)
            better = (reached < value - rounding) | (new.residual < 0.5 * at.residual)
            return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, at), better

        here, zero = self.logits(start), jnp.zeros((), int)
        first = measured(start, here, zero, zero)
        if z is not None:
            toward, taken = self._newton(start, z, 1e-3)
            there = Point(start.coefs + toward.coefs, start.bias + toward.bias)
            logits = self.logits(there)
            lower = self.value(there, logits) <= self.value(start, here)
            point, logits = jax.tree.map(lambda a, b: jnp.where(lower, a, b), (there, logits), (start, here))
            first = measured(point, logits, zero + 1, taken)
        return jax.lax.while_loop(unfinished, step, (first, jnp.ones((), bool)))[0]

    def logits(self, point: Point) -> Float[Array, " n"]:
        """Return K·a + b."""
        return self.kernel @ point.coefs + point.bias

    def _newton(self, point: Point, z: Array, tolerance: float | Array) -> tuple[Point, Array]:
        """Return the step from `point` to the minimiser of L's second-order model at z, and the number of CG steps."""
        slope, s = self.slopes(z)
        fault = slope + self.rho * point.coefs
        right = -s * (self.kernel @ fault + self.rho * (z - self.logits(point)))
        found, mu = self.bordered(s, right, -jnp.sum(slope), tolerance)
        return Point(-(fault + s * found.value) / self.rho, mu / self.rho), found.steps

    def bordered(
        self,
        s: Float[Array, " n"],
        right: Float[Array, " n"],
        border: Float[Array, ""],
        tolerance: float | Array,
        start: Float[Array, " n"] | None = None,
        steps: int = CG_STEPS,
    ) -> tuple[Solve, Float[Array, ""]]:
        """Return y and μ of the bordered system with c = `right`, d = `border`.

        It uses conjugate gradient, or Cholesky if ρ is so small against K that Cholesky is faster and more accurate.
        """
        ill = self.rho < ILL_CONDITIONED * self.largest
        start = jnp.zeros_like(right) if start is None else start
        return jax.lax.cond(
            ill,
            lambda: self._factorised(s, right, border, tolerance),
            lambda: self._iterated(s, right, border, tolerance, start, steps),
        )

    def _factorised(
        self, s: Array, right: Array, border: Array, tolerance: float | Array
    ) -> tuple[Solve, Float[Array, ""]]:
        matrix = self.kernel * s[:, None] * s[None, :] + self.rho * jnp.eye(len(s), dtype=s.dtype)
        both = jnp.stack([right, s], 1)
        alone, along = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), both).T
        mu = (border - jnp.vdot(s, alone)) / jnp.maximum(jnp.vdot(s, along), jnp.finfo(s.dtype).tiny)
        y = alone + mu * along
        missed = jnp.linalg.norm(right + mu * s - matrix @ y)
        return Solve(y, missed <= tolerance * jnp.linalg.norm(right), jnp.zeros((), int)), mu

    def _iterated(
        self, s: Array, right: Array, border: Array, tolerance: float | Array, start: Array, steps: int
    ) -> tuple[Solve, Float[Array, ""]]:
        length = jnp.maximum(jnp.linalg.norm(s), jnp.finfo(s.dtype).tiny)
        unit = s / length

        def project(y: Array) -> Array:
            return y - unit * jnp.vdot(unit, y)

        def spread(y: Array) -> Array:
            return s * (self.kernel @ (s * y))

        along, precondition = unit * (border / length), self._preconditioner(s)
        found = conjugate_gradient(
            lambda y: self.rho * y + project(spread(project(y))),
            project(right - spread(along)),
            tolerance,
            project(start),
            lambda r: project(precondition(project(r))),
            steps,
        )
        y = project(found.value) + along
        return found._replace(value=y), jnp.vdot(unit, self.rho * y + spread(y) - right) / length

    def _preconditioner(self, s: Array) -> Callable[[Array], Array]:
        """Return the product with ρ·(ρ·I + S·B·Bᵀ·S)⁻¹."""
        lead = self.leading * s[None, :]
        one = jnp.eye(len(lead), dtype=s.dtype)
        factor = jax.scipy.linalg.cho_factor(lead @ lead.T + self.rho * one, lower=True)
        small = jax.scipy.linalg.cho_solve(factor, one)
        return lambda right: right - (small @ (lead @ right)) @ lead

    def _gradient_norm(self, point: Point, z: Array) -> Array:
        slope, _ = self.slopes(z)
        fault = slope + self.rho * point.coefs
        return jnp.sqrt(jnp.maximum(jnp.vdot(fault, self.kernel @ fault), 0.0) + jnp.sum(slope) ** 2)

    def value(self, point: Point, z: Float[Array, " n"]) -> Float[Array, ""]:
        """Return L."""
        mean = jnp.vdot(self.weight, self.loss(z, self.y)) / jnp.sum(self.weight)
        return mean + 0.5 * self.rho * jnp.vdot(point.coefs, z - point.bias)
