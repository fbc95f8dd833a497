"""Gram space: the same training in the coordinates of the training rows.

With an L2 penalty, and any rule that moves w by sums and multiples of gradients, the first layer's weights always have
the form W0·c + Xᵀ·A. So c and A (n, h) are kept instead of W (m, h), and a step needs K·A, with the Gram matrix
K = X·Xᵀ, instead of X·W and Xᵀ·δ. With δ = ∂(mean loss)/∂(X·W) and ρ the layer's strength over n, the gradient
Xᵀ·δ + ρ·W has the coordinates ρ·c and δ + ρ·A. This is exact, and cheaper if n is small against 2m.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mithridate.errors import InputError
from mithridate.victims.models import LinearFirstLayer, Model
from mithridate.victims.penalties import Penalty, Shrinking
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Batch

MOST_BYTES = 2**30
"""The largest Gram matrix that is used unless the user asks for Gram space."""

NARROW = 8
"""Up to so many columns, a product takes the time of reading the matrix (measured: n = 512, float32, 2 cores)."""


class Coordinates(NamedTuple):
    """w in Gram space: the first layer is c·W0 + Xᵀ·A; `others` are the other parameters (W is None)."""

    scale: Float[Array, ""]
    coefs: Float[Array, "n *h"]
    others: Any


class Gram(eqx.Module):
    """A training run's gradient in Gram space.

    `kernel` K (n, n) is a constant for differentiation, as are the first block's features. Derivatives in the features
    of all other blocks (k rows) pass through `varied`, a second copy of their inner products.
    """

    model: Any
    loss: Any
    x: tuple[Float[Array, "_ m"], ...]
    y: Float[Array, " n"]
    weight: Float[Array, " n"]
    w0: Float[Array, "m *h"]
    z0: Float[Array, "n *h"]
    kernel: Float[Array, "n n"]
    varied: "Varied"
    shrinkage: list[Float[Array, ""]]

    @classmethod
    def of(
        cls,
        model: LinearFirstLayer,
        loss: Any,
        penalty: Shrinking,
        blocks: tuple[Rows, ...],
        log_strength: Float[Array, "*groups"],
        n: Float[Array, ""],
        params: Any,
    ) -> "Gram":
        """Return the run from w0 = `params` on `blocks`, with the penalty of n rows."""
        kernel, varied = gram_matrix(blocks)
        w0 = model.first_layer(params)
        z0 = jnp.concatenate([b.x @ w0 for b in blocks])
        shrinkage = [strength / n for strength in penalty.strengths(model.weights(params), log_strength)]
        y, weight = jnp.concatenate([b.y for b in blocks]), jnp.concatenate([b.weight for b in blocks])
        features = tuple(b.x for b in blocks)
        return cls(model, loss, features, y, weight, w0, z0, kernel, varied, shrinkage)

    def start(self, params: Any) -> Coordinates:
        """Return the coordinates of w0."""
        return Coordinates(jnp.ones(()), jnp.zeros_like(self.z0), self.model.with_first_layer(params, None))

    def gradient(self, at: Coordinates, batch: Batch | None) -> Coordinates:
        """Return the coordinates of ∇L on a batch, or on all rows."""
        y, weight = self.y, self.weight
        varied = _variation(self.varied, at.coefs)
        if batch is None:
            z = product(self.kernel, at.coefs) + varied + at.scale * self.z0
        else:
            index, real = batch
            z = self.kernel[index] @ at.coefs + varied[index] + at.scale * self.z0[index]
            y, weight = y[index], weight[index] * real
        size = jnp.sum(weight)
        size = jnp.where(size > 0, size, 1.0)

        def mean_loss(z: Array, others: Any) -> Array:
            return jnp.vdot(weight, self.loss(self.model.head(others, z), y)) / size

        def penalty(others: Any) -> Array:
            layers = zip(self.shrinkage[1:], jax.tree.leaves(self.model.weights(others)), strict=True)
            return 0.5 * sum((rho * jnp.vdot(leaf, leaf) for rho, leaf in layers), start=jnp.zeros(()))

        # The backward pass keeps only z and the parameters: recomputing the rest is as fast as reading it.
        slopes = jax.checkpoint(jax.grad(mean_loss, (0, 1)), prevent_cse=False)
        slope, others = slopes(z, at.others)
        others = jax.tree.map(jnp.add, others, jax.grad(penalty)(at.others))
        if batch is not None:
            slope = jnp.zeros_like(at.coefs).at[batch.index].add(slope)
        rho = self.shrinkage[0]
        return Coordinates(rho * at.scale, rho * at.coefs + slope, others)

    def final(self, at: Coordinates) -> Any:
        """Return w."""
        return self.model.with_first_layer(at.others, at.scale * self.w0 + from_rows(self.x, at.coefs))

    @property
    def learned(self) -> tuple[Any, ...]:
        """The part of the run that depends on X_p and λ."""
        return self.x[1:], self.z0, self.varied, self.shrinkage

    def with_learned(self, learned: tuple[Any, ...]) -> "Gram":
        """Return the run with this part replaced."""
        x, z0, varied, shrinkage = learned
        return replace(self, x=(self.x[0], *x), z0=z0, varied=varied, shrinkage=shrinkage)


def from_rows(features: tuple[Float[Array, "_ m"], ...], coefs: Float[Array, "n *h"]) -> Float[Array, "m *h"]:
    """Return Xᵀ·a, where X stacks the blocks' features."""
    parts = jnp.split(coefs, np.cumsum([len(x) for x in features])[:-1])
    return sum(((part.T @ x).T for x, part in zip(features, parts, strict=True)), start=jnp.zeros((), coefs.dtype))


class Varied(NamedTuple):
    """Inner products of the k rows of all blocks except the first: with the first block's rows and with one another."""

    across: Float[Array, "k first"]
    own: Float[Array, "k k"]


def gram_matrix(blocks: tuple[Rows, ...]) -> tuple[Float[Array, "n n"], Varied]:
    """Return K of all blocks, a constant for differentiation, and a differentiable copy of its last rows."""
    first = blocks[0]
    kernel = first.x @ first.x.T if first.gram is None else first.gram
    x = jnp.concatenate([jnp.zeros_like(first.x, shape=(0, first.x.shape[1])), *(b.x for b in blocks[1:])])
    varied = Varied(x @ first.x.T, x @ x.T)
    if len(x):
        n = len(kernel)
        kernel = jnp.pad(kernel, (0, len(x))).at[n:, :n].set(varied.across).at[:n, n:].set(varied.across.T)
        kernel = kernel.at[n:, n:].set(varied.own)
    return jax.lax.stop_gradient(kernel), varied


def product(kernel: Float[Array, "n n"], coefs: Float[Array, "n *h"]) -> Float[Array, "n *h"]:
    """Return K·A with K·A as its transpose: JAX would write Kᵀ·A, for which XLA on a CPU takes twice as long.

    Only `custom_linear_solve` lets JAX know of the symmetry: this is the solution of K⁻¹·X = A with a constant K.
    """
    return jax.lax.custom_linear_solve(lambda x: x, coefs, lambda _, right: kernel @ right, symmetric=True)


@jax.custom_jvp
def _variation(varied: Varied, coefs: Array) -> Array:
    """Return 0 with the derivative in `varied` that K·A has in the last rows and columns of K."""
    return jnp.zeros_like(coefs)


@_variation.defjvp
def _(primals: tuple[Varied, Array], tangents: tuple[Varied, Array]) -> tuple[Array, Array]:
    (_, coefs), ((across, own), _) = primals, tangents
    first, last = jnp.split(coefs, [across.shape[1]])
    return jnp.zeros_like(coefs), jnp.concatenate([across.T @ last, across @ first + own @ last])


def vouches(part: Any, claim: str, *about: str) -> bool:
    """Return whether a part has the method that makes a claim, and no subclass has changed the code it describes."""
    order = type(part).__mro__

    def first(name: str) -> int:
        return next((i for i, one in enumerate(order) if name in vars(one)), len(order))

    return first(claim) < len(order) and all(first(claim) <= first(name) for name in about)


def solves(model: Model, penalty: Penalty) -> bool:
    """Return whether `dual` can solve a learner with these parts: one logit x·w + b per row, and L2."""
    if not (vouches(model, "bias", "head", "logits") and vouches(penalty, "strengths", "__call__")):
        return False
    return not jax.eval_shape(lambda: model.bias(model.init(jax.random.key(0)))).shape  # pyright: ignore[reportAttributeAccessIssue]


def why_not(model: Model, penalty: Penalty) -> str:
    """Return why a learner with these parts cannot run in Gram space, or "" if it can."""
    if not isinstance(model, LinearFirstLayer):
        return f"{type(model).__name__} does not have a linear first layer (see `LinearFirstLayer`)"
    if not vouches(penalty, "strengths", "__call__"):
        return f"its penalty is {type(penalty).__name__}, not L2 (see `Shrinking`)"
    return ""


def check(model: Model, penalty: Penalty, solved: bool) -> None:
    """Raise `InputError` if a learner with these parts cannot run (or be `solved`) in Gram space."""
    reason = why_not(model, penalty)
    if solved and not reason and not solves(model, penalty):
        reason = f"{type(model).__name__} does not say that its one logit is x·w + b, and only that is solved there"
    if reason:
        raise InputError(f"Gram space cannot run this learner: {reason}; use space='plain'")


def pays(blocks: tuple[Rows, ...], width: int, steps: int, batch: int | None, reused: bool) -> bool:
    """Return whether Gram space takes fewer multiplications than the plain way, within `MOST_BYTES`.

    `width` is h of the first layer, `steps` T, `batch` the rows per step (default: all). A step costs 2·batch·m·h in
    the plain space (X·W and Xᵀ·δ), batch·n·h + n·h in Gram space. Gram space also needs, once, the missing rows of K
    and the product that gives W. (The first block's rows of K are known if it has them, or if they are `reused` in many
    runs.) Products with fewer than `NARROW` columns wait for memory and take as long as with `NARROW`.
    """
    width = max(width, NARROW)
    n, m = sum(len(b.y) for b in blocks), blocks[0].x.shape[1]
    batch = batch or n
    known = len(blocks[0].y) if reused or blocks[0].gram is not None else 0
    once = (n - known) * n * m + 2 * n * m * width
    small = n * n * blocks[0].x.dtype.itemsize <= MOST_BYTES
    return small and steps * (batch + 1) * n * width + once < steps * 2 * batch * m * width


def width_of(model: LinearFirstLayer) -> int:
    """Return h, the width of the first layer."""
    shape = jax.eval_shape(lambda: model.first_layer(model.init(jax.random.key(0)))).shape
    return math.prod(shape[1:])
