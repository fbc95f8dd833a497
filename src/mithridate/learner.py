"""The victim: model + loss + penalty + training rule.

Its objective is the mean loss of the rows plus the penalty over their number,

    L(D, w, λ) = (1/n)·Σ ℓ(w; x, y) + R(w, λ)/n,

and `train` runs the rule from w0 to wT.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key
from scipy.sparse.linalg import LinearOperator, eigsh

from mithridate.losses import cross_entropy
from mithridate.models import Model
from mithridate.penalties import L2, Penalty, squared_norm
from mithridate.rows import Rows
from mithridate.training import TrainingRule


class Learner(eqx.Module):
    """A victim whose training can be run, and differentiated, as a pure function.

    Arguments: a `model`, the `rule` that trains it, the `loss` of one row, the `penalty`.

    Example:
        >>> import numpy as np
        >>> import mithridate as mi
        >>> learner = mi.Learner(mi.LogisticRegression(1), mi.GradientDescent(1.0, 50))
        >>> params = learner.fit(np.array([[-1.0], [1.0]]), np.array([0, 1]), log_strength=0.0)
        >>> learner.error(params, np.array([[-2.0], [2.0]]), np.array([0, 1]))
        0.0
    """

    model: Model
    rule: TrainingRule
    loss: Callable[[Array, Array], Array] = cross_entropy
    penalty: Penalty = L2()

    def mean_loss(self, params: Any, blocks: tuple[Rows, ...]) -> Float[Array, ""]:
        """Return the weighted mean loss over all blocks of rows."""
        # Blocks are summed, not stacked: the derivative in one block then costs only that block's rows.
        total = sum(jnp.vdot(b.weight, self.loss(self.model.logits(params, b.x), b.y)) for b in blocks)
        size = _size(blocks)
        return total / jnp.where(size > 0, size, 1.0)  # a minibatch of rows that do not count has no loss

    def objective(
        self, params: Any, blocks: tuple[Rows, ...], log_strength: Float[Array, ""], n: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Return L on `blocks` with the penalty of a training set of n rows (`blocks` may be a minibatch)."""
        penalty = self.penalty(self.model.weights(params), log_strength)
        return self.mean_loss(params, blocks) + penalty / n

    def train(self, blocks: tuple[Rows, ...], log_strength: Float[Array, ""], key: Key[Array, ""]) -> Any:
        """Return wT, trained on `blocks` from a w0 drawn with `key`."""
        n = _size(blocks)
        init_key, rule_key = jax.random.split(key)

        def objective(params: Any, rows: tuple[Rows, ...]) -> Float[Array, ""]:
            return self.objective(params, rows, log_strength, n)

        def step(params: Any, item: Any) -> tuple[Any, None]:
            return self.rule.step(objective, params, blocks, item), None

        schedule = self.rule.schedule(sum(b.x.shape[0] for b in blocks), rule_key)
        return jax.lax.scan(step, self.model.init(init_key), schedule)[0]

    def weight_norm_sq(self, params: Any) -> Float[Array, ""]:
        """Return ‖w‖², biases left out."""
        return squared_norm(self.model.weights(params))

    def with_rule(self, rule: TrainingRule) -> "Learner":
        """Return the same victim trained by another rule."""
        return eqx.tree_at(lambda learner: learner.rule, self, rule)

    def fit(self, x: np.ndarray, y: np.ndarray, log_strength: float, key: Key[Array, ""] | None = None) -> Any:
        """Return wT for arrays x (n, m) and labels y (n,) in {0, 1}."""
        key = jax.random.key(0) if key is None else key
        return _train(self, (Rows.of(x, y),), jnp.asarray(log_strength, dtype=float), key)

    def error(self, params: Any, x: np.ndarray, y: np.ndarray) -> float:
        """Return the share of rows of (x, y) that are misclassified."""
        return float(np.mean((np.asarray(self.model.logits(params, jnp.asarray(x, dtype=float))) > 0) != (y == 1)))

    def curvature(self, rows: Rows, log_strength: float) -> float:
        """Return the largest eigenvalue of ∇²L at w0, by Lanczos with Hessian-vector products (Eq. 7).

        At w0 = 0 this is the maximum over all w for logistic regression, whose σ' is largest there.
        """
        flat, restore = ravel_pytree(self.model.init(jax.random.key(0)))
        strength = jnp.asarray(log_strength, dtype=float)

        def product(v: np.ndarray) -> np.ndarray:
            tangent = restore(jnp.asarray(v.ravel(), dtype=flat.dtype))
            out = _hessian_product(self, restore(flat), rows, strength, tangent)
            return np.asarray(ravel_pytree(out)[0], dtype=np.float64)

        operator = LinearOperator((flat.size, flat.size), matvec=product, dtype=np.float64)
        start = np.ones(flat.size)
        return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)[0])

    def stability(self, rows: Rows, log_strength: float) -> float:
        """Return η·curvature on these rows: full-batch gradient descent diverges from w0 when it exceeds 2."""
        return self.rule.learning_rate * self.curvature(rows, log_strength)


def _size(blocks: tuple[Rows, ...]) -> Float[Array, ""]:
    return jnp.sum(jnp.stack([b.size for b in blocks]))


@eqx.filter_jit
def _train(learner: Learner, blocks: tuple[Rows, ...], log_strength: Array, key: Array) -> Any:
    return learner.train(blocks, log_strength, key)


@eqx.filter_jit
def _hessian_product(learner: Learner, params: Any, rows: Rows, log_strength: Array, tangent: Any) -> Any:
    gradient = jax.grad(lambda p: learner.objective(p, (rows,), log_strength, rows.size))
    return jax.jvp(gradient, (params,), (tangent,))[1]
