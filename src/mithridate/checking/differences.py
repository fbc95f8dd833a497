"""Central differences of A in float64, a check that uses no derivatives:

    ⟨∇A, d⟩ = (A(· + h·d) − A(· − h·d))/2h + O(h²).

No h suits every problem. The rounding of A is divided by h. If a network has kinks, its training gradient jumps, and so
does A: even a small jump between the two points is divided by h too. So h is varied until two neighbouring steps agree.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mithridate.hypergradients import Bilevel
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact

LEAST, MOST = 9, 2
"""h goes from 10⁻⁹ to 10⁻², by factors of ten."""
ROUGH = 0.1
"""The largest relative uncertainty at which differences are a test."""


class Place(NamedTuple):
    """A problem, and the point at which to compute its derivatives."""

    problem: Bilevel
    x_poison: Float[Array, "n_p m"]
    log_strength: Float[Array, "*groups"]
    key: Key[Array, ""]

    @property
    def space(self) -> str:
        """The space in which training runs."""
        return self.problem.learner.chosen_space(self.problem.blocks(self.x_poison))

    def within(self, space: str) -> "Place":
        """Return the place with training in this space."""
        return self._replace(problem=replace(self.problem, learner=replace(self.problem.learner, space=space)))

    def settled(self) -> "Place":
        """Return the place in the problem with λ as its only variable."""
        return self._replace(problem=self.problem.settled(self.x_poison), x_poison=self.x_poison[:0])

    def widened(self) -> "Place":
        """Return the same numbers in float64: the rows, the point, and w0 as drawn in the precision in force.

        An `Exact` victim is solved to the tolerance of float64.
        """
        learner, space = self.problem.learner, self.space
        w0 = learner.model.init(jax.random.split(self.key)[0])
        with jax.enable_x64(True):
            if learner.solved:
                learner = learner.with_rule(Exact(1e-12))
            else:
                learner = replace(learner, model=Started(learner.model, jax.tree.map(_wide, w0)))
            given = self.problem
            rest, target = (Rows(*map(_wide, rows[:3])) for rows in (given.rest, given.target))
            rest, learner = rest.with_gram() if space == "gram" else rest, replace(learner, space=space)
            problem = Bilevel(learner, rest, _wide(given.y_poison), target, specific=given.specific)
            return Place(problem, _wide(self.x_poison), _wide(self.log_strength), self.key)


def _wide(array: Array) -> Array:
    return jnp.asarray(array, dtype=float)


class Started(eqx.Module):
    """A model whose w0 is given; the last three methods are for a model with a linear first layer."""

    model: Any
    params: Any

    def init(self, key: Key[Array, ""]) -> Any:
        """Return w0."""
        return self.params

    def logits(self, params: Any, x: Float[Array, "n m"]) -> Float[Array, " n"]:
        """Return the model's logits."""
        return self.model.logits(params, x)

    def weights(self, params: Any) -> Any:
        """Return the model's weights."""
        return self.model.weights(params)

    def first_layer(self, params: Any) -> Float[Array, "m *h"]:
        """Return the model's W."""
        return self.model.first_layer(params)

    def with_first_layer(self, params: Any, weight: Any) -> Any:
        """Return the parameters with W replaced."""
        return self.model.with_first_layer(params, weight)

    def head(self, params: Any, z: Float[Array, "n *h"]) -> Float[Array, " n"]:
        """Return the logits, given z = x·W."""
        return self.model.head(params, z)


class Slopes(NamedTuple):
    """A's derivatives along some directions (k,), the h used, and their relative uncertainty.

    The uncertainty is the distance to the slopes at the next larger h, or the effect of A's rounding if that is larger.
    """

    values: np.ndarray
    step: float
    uncertainty: float
    rounding: float

    @property
    def tests(self) -> bool:
        """Whether they are certain enough to test anything."""
        return self.uncertainty <= ROUGH

    def error(self, products: np.ndarray) -> float:
        """Return the relative error of a gradient's products with the directions, NaN if this is no test."""
        return float(np.linalg.norm(products - self.values) / np.linalg.norm(self.values)) if self.tests else math.nan


def central_differences(at: Place, ways: np.ndarray, sharp: float) -> dict[str, Slopes]:
    """Return A's slopes at a widened place: along each λ (`hyper`), X_p's first direction (`first`), the `others`.

    `ways` (k, n_p, m), k ≥ 2, are the directions, each of norm 1. h is varied until all slopes are certain to `sharp`:
    first downwards while jumps may be the cause, then upwards.
    """
    groups = at.log_strength.size
    parts = {"hyper": slice(groups), "first": slice(groups, groups + 1), "others": slice(groups + 1, None)}
    differences = _differences(at, ways)
    found = {exponent: differences(10.0**-exponent) for exponent in (4, 5)}
    while True:
        best = {name: _best(found, part) for name, part in parts.items()}
        doubt = max(slopes.uncertainty for slopes in best.values())
        smaller, larger = max(found) + 1, min(found) - 1
        onwards = (smaller, larger) if doubt > 1e-3 else (larger, smaller)
        left = [exponent for exponent in onwards if MOST <= exponent <= LEAST]
        if doubt <= sharp or not left:
            return best
        found[left[0]] = differences(10.0 ** -left[0])


def _differences(at: Place, ways: np.ndarray) -> Callable[[float], tuple[np.ndarray, float]]:
    """Return the function from h to the central differences (groups + k,), along λ and all directions, and to |A|."""
    units = np.eye(at.log_strength.size).reshape(-1, *at.log_strength.shape)
    groups = len(units)
    signs, numbers = (part.ravel() for part in np.meshgrid([1.0, -1.0], np.arange(groups + len(ways))))
    rows, m = sum(len(b.y) for b in at.problem.blocks(at.x_poison)), at.x_poison.shape[1]
    together = int(np.clip(2**26 // (rows * max(rows, m)), 1, len(signs)))  # within a few hundred MB
    if at.problem.learner.solved:
        together = None  # LAPACK's batched routines can wait for each other for ever on a CPU
    arrays, static = eqx.partition(at, eqx.is_array)

    def values(arrays: Any, ways: Array, h: Array) -> Array:
        problem, x_poison, log_strength, key = eqx.combine(arrays, static)

        def value(side: tuple[Array, Array]) -> Array:
            move, way = side[0] * h, side[1]
            moved = x_poison + jnp.where(way >= groups, move, 0.0) * ways[jnp.maximum(way - groups, 0)]
            unit = jnp.asarray(units)[jnp.minimum(way, groups - 1)]
            return problem.value(moved, log_strength + jnp.where(way < groups, move, 0.0) * unit, key)

        return jax.lax.map(value, (jnp.asarray(signs), jnp.asarray(numbers)), batch_size=together)

    with jax.enable_x64(True):
        given = (arrays, jnp.asarray(ways))
        compiled = jax.jit(values).lower(*given, jnp.zeros(())).compile()

    def differences(h: float) -> tuple[np.ndarray, float]:
        with jax.enable_x64(True):
            both = np.asarray(compiled(*given, jnp.asarray(h))).reshape(-1, 2)
        return (both[:, 0] - both[:, 1]) / (2 * h), float(np.abs(both).max())

    return differences


def _best(found: dict[int, tuple[np.ndarray, float]], part: slice) -> Slopes:
    """Return the slopes at the step that agrees best with the next larger one."""

    def doubted(exponent: int) -> Slopes:
        (here, scale), (there, _) = found[exponent], found[exponent - 1]
        here, there, h = here[part], there[part], 10.0**-exponent
        size = np.linalg.norm(here)
        if not (size > 0 and np.isfinite(here).all() and np.isfinite(there).all()):
            return Slopes(here, h, math.inf, math.inf)
        rounding = 10 * np.finfo(float).eps * scale / h * math.sqrt(len(here))
        return Slopes(here, h, float(max(np.linalg.norm(here - there), rounding) / size), float(rounding / size))

    return min(map(doubted, sorted(found)[1:]), key=lambda slopes: slopes.uncertainty)
