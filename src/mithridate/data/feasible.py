"""Feasible sets Φ and their projections Π (Eq. 5)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax.projections
from jaxtyping import Array, Bool, Float, Int

from mithridate.errors import InputError


@runtime_checkable
class FeasibleSet(Protocol):
    """What an attack needs of Φ(X_p)."""

    def project(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return Π(x), the point of Φ nearest to x."""
        ...


@runtime_checkable
class Settling(FeasibleSet, Protocol):
    """A Φ that is a relaxation: not every point in it is possible data, and `settle` finds one that is."""

    def settle(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the nearest point to x that is possible data. It lies in Φ and settles to itself."""
        ...


class Box(eqx.Module):
    """Φ = {x : low ≤ x ≤ high}, the same for every point; each bound is () or one per feature (m,).

    Raises `InputError` if a bound is not finite or a lower bound lies above its upper bound.
    """

    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]

    def __init__(self, low: float | np.ndarray, high: float | np.ndarray):
        lows, highs = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise InputError(f"bounds must be finite; got {low} to {high}")
        if np.any(lows > highs):
            raise InputError(
                f"bounds are the wrong way round: {np.max(lows):g} lies above {np.min(highs):g}; "
                "give the lower bound first"
            )
        self.low, self.high = lows, highs

    def project(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return argmin over z in Φ of ‖z − x‖."""
        low, high = (jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape) for b in (self.low, self.high))
        return optax.projections.projection_box(x, low, high)


class Balls(eqx.Module):
    """A box cut by a ball for each point: Φ = {x_i : low ≤ x_i ≤ high, ‖x_i − c_i‖ ≤ r_i}.

    Arguments: the `box`; `centres` c (k, m), which should lie in it; `radii` r (k,), infinite for a point without a
    ball. Points after the k-th are bounded by the box alone.
    """

    box: Box
    centres: Float[np.ndarray, "k m"]
    radii: Float[np.ndarray, " k"]

    def project(self, x: Float[Array, "b m"]) -> Float[Array, "b m"]:
        """Return argmin over z in Φ of ‖z − x‖, row by row.

        With the Lagrange multiplier ν of the ball, z = Π_box((x + ν·c)/(1 + ν)). As t = ν/(1 + ν) goes from 0 to 1, z
        moves from Π_box(x) to c. Bisection finds t.
        """
        more = len(x) - len(self.radii)
        centres = jnp.asarray(jnp.pad(self.centres, ((0, more), (0, 0))), x.dtype)
        radii = jnp.asarray(jnp.pad(self.radii, (0, more), constant_values=jnp.inf), x.dtype)

        def at(t: Float[Array, " b"]) -> Float[Array, "b m"]:
            return self.box.project(x + t[:, None] * (centres - x))

        def outside(t: Float[Array, " b"]) -> Bool[Array, " b"]:
            return jnp.linalg.norm(at(t) - centres, axis=1) > radii

        def halved(_: Array | int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            far = outside(middle)
            return jnp.where(far, middle, low), jnp.where(far, high, middle)

        zero = jnp.zeros(len(x), x.dtype)
        _, high = jax.lax.fori_loop(0, 40, halved, (zero, zero + 1))
        return at(jnp.where(outside(zero), high, 0.0))


SWEEPS = 60
"""The number of sweeps of Dykstra's projections if rules share features."""


class Mixed(eqx.Module):
    """Φ of the rows of a table: numbers within ranges, on a grid if they have one, and one category in each group.

        Φ = {x : low ≤ x ≤ high, Σ x[g] = 1 and x[g] ≥ 0 for every group g, raw[a] + gap ≤ raw[b] for every rule}

    is the relaxation in which an attack moves. A table can hold a point of Φ if its raw features raw = x·scale + offset
    are multiples of their `grid` (1 for whole numbers, 0.01 for two decimals, 0 for any number) and one feature of
    every group is 1. `settle` finds the nearest such point. If rounding breaks a rule, `settle` raises the larger side.

    Arguments: `low`, `high`, `grid` ≥ 0, `scale` > 0 and `offset`, each (m,), one number for each feature; `groups`,
    for each the list of features among which one category is chosen; `rules`, each with the features a and b and the
    gap. Features of categories that are not allowed belong to no group and have the range 0 to 0. Raises `InputError`
    as `Box`. Not checked: that bounds lie on the grid, and that a rule can be kept for every value of a and of b.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> phi = Mixed(np.array([0.0, 0.0, 0.0]), np.array([9.0, 1.0, 1.0]), grid=np.array([1.0, 0.0, 0.0]),
        ...             offset=np.zeros(3), scale=np.ones(3), groups=[[1, 2]])
        >>> phi.project(jnp.array([9.75, 0.75, 0.75])).tolist()
        [9.0, 0.5, 0.5]
        >>> phi.settle(jnp.array([4.3, 0.8, 0.4])).tolist()
        [4.0, 1.0, 0.0]
    """

    box: Box
    grid: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]
    fraction: Float[np.ndarray, " m"]
    groups: Int[np.ndarray, "groups width"]
    pairs: Int[np.ndarray, "rules 2"]
    gaps: Float[np.ndarray, " rules"]
    sweeps: int = eqx.field(static=True)

    def __init__(
        self,
        low: Float[np.ndarray, " m"],
        high: Float[np.ndarray, " m"],
        *,
        grid: Float[np.ndarray, " m"],
        offset: Float[np.ndarray, " m"],
        scale: Float[np.ndarray, " m"],
        groups: Sequence[Sequence[int]],
        rules: Sequence[tuple[int, int, float]] = (),
    ):
        self.box, self.grid, self.scale = Box(low, high), grid, scale
        # Count steps of the grid from the grid point nearest to the offset: float32 could not round years to the day.
        step = np.where(grid > 0, grid, 1.0)
        self.fraction = offset - np.rint(offset / step) * step
        self.groups = np.full((len(groups), max(map(len, groups), default=0)), len(low))
        for row, group in zip(self.groups, groups, strict=True):
            row[: len(group)] = group
        self.pairs = np.array([rule[:2] for rule in rules], dtype=int).reshape(-1, 2)
        # Gaps between numbers that are counted from those points.
        base = offset - self.fraction
        self.gaps = np.array([base[a] - base[b] + gap for a, b, gap in rules], dtype=float)
        self.sweeps = 0 if not rules else 1 if len(set(self.pairs.flat)) == self.pairs.size else SWEEPS

    def project(self, x: Float[Array, "*points m"]) -> Float[Array, "*points m"]:
        """Return argmin over z in Φ of ‖z − x‖, for each of the points."""
        within = self.box.project(x)
        if self.sweeps:
            within = self._raised(self.box.project(self._ruled(x)))
        if not self.groups.size:
            return within
        members = self._members(x)
        # Anything 1 or more below the largest is projected to 0, so the padding has no effect.
        real = jnp.broadcast_to(jnp.asarray(self.groups < len(self.grid)), members.shape)
        members = jnp.where(real, members - members.max(axis=-1, keepdims=True), -2.0)
        flat = jax.vmap(optax.projections.projection_simplex)(members.reshape(-1, members.shape[-1]))
        return within.at[..., self.groups].set(flat.reshape(members.shape), mode="drop")

    def settle(self, x: Float[Array, "*points m"]) -> Float[Array, "*points m"]:
        """Return the nearest point that a table can hold: numbers on their grids, one category in each group."""
        grid, scale, fraction = (
            jnp.broadcast_to(part, x.shape).astype(x.dtype) for part in (self.grid, self.scale, self.fraction)
        )
        step = jnp.where(grid > 0, grid, 1.0)
        counts = jnp.rint((self.box.project(x) * scale + fraction) / step)
        settled = self.box.project(jnp.where(grid > 0, (counts * step - fraction) / scale, x))
        if self.sweeps:
            settled = self.box.project(self._raised(settled, on_grid=True))
        if not self.groups.size:
            return settled
        members = self._members(x)
        chosen = jax.nn.one_hot(members.argmax(axis=-1), members.shape[-1], dtype=x.dtype)
        return settled.at[..., self.groups].set(chosen, mode="drop")

    def _members(self, x: Float[Array, "*points m"]) -> Float[Array, "*points groups width"]:
        return jnp.asarray(x).at[..., self.groups].get(mode="fill", fill_value=-jnp.inf)

    def _ruled(self, x: Float[Array, "*points m"]) -> Float[Array, "*points m"]:
        """Return the nearest point that keeps the rules; features without a rule stay as they are.

        For one rule, with u = x·scale and s the scale: the point is clipped to its ranges. If it then breaks the rule,
        it moves to the nearest point of u_a + gap = u_b, where u_a = (u_a·s_b² + (u_b − gap)·s_a²)/(s_a² + s_b²),
        clipped to the ranges. Rules that share features take turns (Dykstra's projections).
        """
        scale, fraction = (jnp.asarray(part, x.dtype) for part in (self.scale, self.fraction))
        low, high = (jnp.asarray(end, x.dtype) * scale + fraction for end in (self.box.low, self.box.high))

        def one(rule: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
            x, corrections = state
            (a, b), gap = jnp.asarray(self.pairs)[rule], jnp.asarray(self.gaps, x.dtype)[rule]
            given = jnp.stack([x[..., a], x[..., b]]) + corrections[rule]
            u, v = given[0] * scale[a] + fraction[a], given[1] * scale[b] + fraction[b]
            t = (u * scale[b] ** 2 + (v - gap) * scale[a] ** 2) / (scale[a] ** 2 + scale[b] ** 2)
            t = jnp.clip(t, jnp.maximum(low[a], low[b] - gap), jnp.minimum(high[a], high[b] - gap))
            u, v = jnp.clip(u, low[a], high[a]), jnp.clip(v, low[b], high[b])
            broken = u + gap > v
            u, v = jnp.where(broken, t, u), jnp.where(broken, t + gap, v)
            found = jnp.stack([(u - fraction[a]) / scale[a], (v - fraction[b]) / scale[b]])
            return x.at[..., a].set(found[0]).at[..., b].set(found[1]), corrections.at[rule].set(given - found)

        def sweep(_: Array | int, state: tuple[Array, Array]) -> tuple[Array, Array]:
            return jax.lax.fori_loop(0, len(self.pairs), one, state)

        nothing = jnp.zeros((len(self.pairs), 2, *x.shape[:-1]), x.dtype)
        return jax.lax.fori_loop(0, self.sweeps, sweep, (x, nothing))[0]

    def _raised(self, x: Float[Array, "*points m"], on_grid: bool = False) -> Float[Array, "*points m"]:
        """Return points in which the larger side of each broken rule is raised; if `on_grid`, to a grid point."""
        scale, fraction, grid = (jnp.asarray(part, x.dtype) for part in (self.scale, self.fraction, self.grid))
        tiny = 8 * jnp.finfo(x.dtype).eps

        def one(number: Int[Array, ""], x: Array) -> Array:
            rule = number % len(self.pairs)
            a, b = jnp.asarray(self.pairs)[rule]
            least = x[..., a] * scale[a] + fraction[a] + jnp.asarray(self.gaps, x.dtype)[rule]
            if on_grid:
                step = jnp.where(grid[b] > 0, grid[b], 1.0)
                counts = least / step
                up = jnp.ceil(counts - jnp.minimum(tiny * (1 + jnp.abs(counts)), 0.4)) * step
                least = jnp.where(grid[b] > 0, up, least)
            return x.at[..., b].max((least - fraction[b]) / scale[b])

        return jax.lax.fori_loop(0, len(self.pairs) ** 2, one, x)
