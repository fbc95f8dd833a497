"""Small bilevel problems whose hypergradients are known in other ways than by the code under test."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mithridate as mi


class LeastSquares(eqx.Module):
    """A linear model without bias; with a squared loss its bilevel problem has a closed form."""

    n_features: int = eqx.field(static=True)

    def init(self, key: jax.Array) -> jax.Array:
        return jnp.zeros(self.n_features)

    def logits(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return x @ params

    def weights(self, params: jax.Array) -> jax.Array:
        return params


def squared(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return 0.5 * (logits - labels) ** 2


class Arrays(NamedTuple):
    """A bilevel problem in NumPy, from which one can be made in either precision."""

    x: np.ndarray
    y: np.ndarray
    x_poison: np.ndarray
    y_poison: np.ndarray
    x_target: np.ndarray
    y_target: np.ndarray
    log_strength: float


def draw(rng: np.random.Generator, n: int = 20, m: int = 4, n_p: int = 3, log_strength: float = 1.0) -> Arrays:
    """Two overlapping classes; the poison's labels are those of the other class."""
    y, y_target = (rng.permutation(np.arange(n) % 2).astype(float) for _ in range(2))
    means = np.array([[-1.0], [1.0]]) * np.ones((2, m))
    x, x_target = (rng.normal(size=(n, m)) + means[labels.astype(int)] for labels in (y, y_target))
    x_poison, y_poison = x_target[:n_p] + 0.1, 1 - y_target[:n_p]
    return Arrays(x, y, x_poison, y_poison, x_target, y_target, log_strength)


def bilevel(arrays: Arrays, learner: mi.Learner) -> mi.Bilevel:
    """The problem on the device, in the precision now in force."""
    target = mi.Rows.of(arrays.x_target, arrays.y_target)
    return mi.Bilevel(learner, mi.Rows.of(arrays.x, arrays.y), jnp.asarray(arrays.y_poison, dtype=float), target)


def hypergradient(method: Any, problem: mi.Bilevel, arrays: Arrays) -> tuple[np.ndarray, float]:
    """Both derivatives as NumPy arrays."""
    x_poison = jnp.asarray(arrays.x_poison, dtype=float)
    found = method(problem, x_poison, jnp.asarray(arrays.log_strength, dtype=float), jax.random.key(0))
    return np.asarray(found.poison, dtype=float), float(found.hyper)


def ridge_closed_form(arrays: Arrays) -> tuple[np.ndarray, float]:
    """Eq. 4 solved exactly for the ridge problem: H v = ∇A, then the two mixed products."""
    x, y = np.vstack([arrays.x, arrays.x_poison]), np.concatenate([arrays.y, arrays.y_poison])
    n, m, strength = len(y), x.shape[1], np.exp(arrays.log_strength)
    w = np.linalg.solve(x.T @ x + strength * np.eye(m), x.T @ y)
    gradient = arrays.x_target.T @ (arrays.x_target @ w - arrays.y_target) / len(arrays.y_target)
    v = np.linalg.solve((x.T @ x + strength * np.eye(m)) / n, gradient)
    residual = arrays.x_poison @ w - arrays.y_poison
    poison = -(np.outer(residual, v) + np.outer(arrays.x_poison @ v, w)) / n
    return poison, float(-strength / n * (v @ w))


def algorithm_2(
    arrays: Arrays,
    learning_rate: float,
    steps: int,
    *,
    sign: float = 1.0,
    cross_term: bool = True,
    penalty: bool = True,
    back_steps: int | None = None,
) -> tuple[np.ndarray, float]:
    """Algorithm 2 for logistic regression written out in NumPy, with switches that break it.

    `cross_term` keeps the term of ∇_Xp ∇_w L in which w answers; `penalty` keeps the regulariser in the backward
    pass; `back_steps` is how many of the steps are walked back (default: all).
    """
    x, y = np.vstack([arrays.x, arrays.x_poison]), np.concatenate([arrays.y, arrays.y_poison])
    n, strength = len(y), np.exp(arrays.log_strength) / len(y)
    w, b, path = np.zeros(x.shape[1]), 0.0, []

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    for _ in range(steps):
        path.append((w, b))
        residual = sigmoid(x @ w + b) - y
        w, b = w - learning_rate * (x.T @ residual / n + strength * w), b - learning_rate * residual.mean()
    residual = sigmoid(arrays.x_target @ w + b) - arrays.y_target
    dw, db = arrays.x_target.T @ residual / len(residual), residual.mean()
    d_poison, d_strength = np.zeros_like(arrays.x_poison), 0.0
    for w, b in path[::-1][: steps if back_steps is None else back_steps]:
        p = sigmoid(x @ w + b)
        curvature, p_poison = p * (1 - p), p[len(arrays.y) :]
        along = x @ dw + db
        mixed = np.outer(p_poison - arrays.y_poison, dw)
        if cross_term:
            mixed += np.outer((curvature * along)[len(arrays.y) :], w)
        d_poison -= learning_rate * mixed / n
        d_strength -= learning_rate * strength * (w @ dw) * penalty
        hessian_w = x.T @ (curvature * along) / n + strength * dw * penalty
        dw, db = dw - learning_rate * hessian_w, db - learning_rate * (curvature * along).mean()
    return sign * d_poison, sign * d_strength


def central_differences(problem: mi.Bilevel, arrays: Arrays) -> tuple[np.ndarray, float]:
    """Derivatives of A by central differences, each with the step at which two step sizes agree best."""
    size = arrays.x_poison.size
    steps = 10.0 ** -np.arange(3, 7)
    # One row per coordinate, step and side; the last coordinate is λ.
    moves = np.einsum("k,h,s->khs", np.ones(size + 1), steps, [1.0, -1.0])[..., None] * np.eye(size + 1)[:, None, None]
    moves = moves.reshape(-1, size + 1)

    def value(move: jax.Array) -> jax.Array:
        x_poison = jnp.asarray(arrays.x_poison) + move[:-1].reshape(arrays.x_poison.shape)
        return problem.value(x_poison, arrays.log_strength + move[-1], jax.random.key(0))

    values = np.asarray(jax.jit(jax.vmap(value))(jnp.asarray(moves))).reshape(size + 1, len(steps), 2)
    slopes = (values[..., 0] - values[..., 1]) / (2 * steps)
    best = 1 + np.argmin(np.abs(np.diff(slopes, axis=1)), axis=1)
    found = slopes[np.arange(size + 1), best]
    return found[:-1].reshape(arrays.x_poison.shape), float(found[-1])


def relative_error(found: tuple[np.ndarray, float], truth: tuple[np.ndarray, float]) -> float:
    """The larger of both derivatives' relative errors; refuses a truth too small to be a test."""
    pairs = list(zip(found, truth, strict=True))
    assert all(np.linalg.norm(t) > 1e-4 for _, t in pairs), "no signal: the test could not fail"
    return max(float(np.linalg.norm(np.asarray(f) - t) / np.linalg.norm(t)) for f, t in pairs)
