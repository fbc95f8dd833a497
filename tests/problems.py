"""Small bilevel problems whose hypergradients are known in other ways than by the code under test.

CASES are the problems, METHODS the ways to their hypergradients and SUBJECTS the pairs that go together. A subject is
compiled once per precision, as `jit(vmap(method))` over the settings of its case, and shared by all tests.
"""

import collections
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import compiling
import mithridate as mi

SEED = int(os.environ.get("MITHRIDATE_TEST_SEED", "20260101"))
LADDER_SEED = 20260101
"""Whatever the seed, the ladder's problems are these: a kink of a network or a steep loss would take a rung away."""
N, M, N_P = 20, 4, 3


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile fast."""
    return eqx.filter_jit(function, compiler_options=compiling.known())  # pyright: ignore[reportCallIssue]


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


class Network(mi.MLP):
    """A network with the same w0 in both precisions, whatever the key."""

    def init(self, key: jax.Array) -> Any:
        rng = np.random.default_rng(LADDER_SEED)
        shapes = jax.eval_shape(super().init, key)
        return jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), dtype=float), shapes)


class Smooth(eqx.Module):
    """A user's own network: parameters in a dictionary, no first layer to speak of, twice differentiable."""

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        rng = np.random.default_rng(3)
        into, out = rng.normal(size=(M, 3)), rng.normal(size=3)
        return {"in": jnp.asarray(into, dtype=float), "bias": jnp.zeros(3), "out": jnp.asarray(out, dtype=float)}

    def logits(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"]

    def weights(self, params: dict[str, jax.Array]) -> list[jax.Array]:
        return [params["in"], params["out"]]


class Arrays(NamedTuple):
    """A bilevel problem in NumPy, from which one can be made in either precision. λ is a number or a vector."""

    x: np.ndarray
    y: np.ndarray
    x_poison: np.ndarray
    y_poison: np.ndarray
    x_target: np.ndarray
    y_target: np.ndarray
    log_strength: Any


Pair = tuple[np.ndarray, np.ndarray]
"""The derivatives in X_p (n_p, m) and λ."""


def draw(rng: np.random.Generator, n: int = N, m: int = M, n_p: int = N_P, log_strength: Any = 1.0) -> Arrays:
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


def point(arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(X_p, λ, key) in the precision now in force."""
    x_poison, log_strength = (jnp.asarray(a, dtype=float) for a in (arrays.x_poison, arrays.log_strength))
    return x_poison, log_strength, jax.random.key(0)


def pair(found: Any) -> Pair:
    """Both derivatives as NumPy arrays of float64."""
    return np.asarray(found.poison, dtype=float), np.asarray(found.hyper, dtype=float)


class Case(NamedTuple):
    """A learner, and the settings of λ at which its hypergradients are looked at."""

    learner: mi.Learner
    settings: tuple[Any, ...]

    @property
    def arrays(self) -> list[Arrays]:
        """One problem per setting, which differ in λ and a little in X_p."""
        base = draw(np.random.default_rng(LADDER_SEED))
        return [
            base._replace(x_poison=base.x_poison + 0.05 * i, log_strength=np.asarray(setting))
            for i, setting in enumerate(self.settings)
        ]


RATE, STEPS, SCALARS = 0.2, 15, (-3.0, 1.0, 3.0)
LOGISTIC, OPTIMAL = mi.LogisticRegression(M), mi.GradientDescent(0.5, 1500)
NETWORK = Network(M, (3, 2))
CASES = {
    "logistic": Case(mi.Learner(LOGISTIC, mi.GradientDescent(RATE, STEPS)), SCALARS),
    "network": Case(
        mi.Learner(NETWORK, mi.GradientDescent(0.05, 16), penalty=mi.L2((1, 0, 1))), ((0.0, 1.0), (2.0, 1.0))
    ),
    "heavy ball": Case(mi.Learner(LOGISTIC, mi.HeavyBall(0.1, 0.9, STEPS)), SCALARS),
    "ridge": Case(mi.Learner(LeastSquares(M), mi.GradientDescent(0.2, 1600), loss=squared), (0.0, 1.0)),
    "ridge, solved": Case(mi.Learner(LeastSquares(M), mi.Exact(1e-12), loss=squared), (0.0, 1.0)),
    "logistic, long": Case(mi.Learner(LOGISTIC, OPTIMAL), (0.0, 2.0)),
    "network, long": Case(mi.Learner(Smooth(), OPTIMAL), ((0.5, 1.0), (1.0, 1.0))),
}
METHODS = {
    "Reverse": mi.Reverse(),
    "Checkpointed": mi.Checkpointed(),
    "Reversible": mi.Reversible(),
    "Forward": mi.Forward(),
    "Combined": mi.Combined(mi.Reverse(), mi.Forward()),
    "Implicit": mi.Implicit(),
}
UNROLLED = tuple(name for name in METHODS if name != "Implicit")
SUBJECTS = [
    *((method, case) for case in ("logistic", "network") for method in UNROLLED),
    *((method, "heavy ball") for method in ("Reverse", "Reversible")),
    *(("Reverse", case) for case in ("ridge", "logistic, long", "network, long")),
    *(("Implicit", case) for case in ("ridge", "ridge, solved", "network, long")),
]


def stack(arrays: list[Arrays]) -> tuple[jax.Array, jax.Array]:
    """Every setting's X_p and λ, one below the other."""
    points = [point(a) for a in arrays]
    return jnp.stack([p[0] for p in points]), jnp.stack([p[1] for p in points])


TRACES: collections.Counter[tuple[str, str, bool]] = collections.Counter()
"""How often each subject has been traced, which is once per compilation."""


@functools.cache
def runner(method: str, case: str, x64: bool) -> Callable[..., Any]:
    """The method on several (X_p, λ) at once, compiled."""
    with jax.enable_x64(x64):
        problem = bilevel(CASES[case].arrays[0], CASES[case].learner)

    def run(x_poison: jax.Array, log_strength: jax.Array, key: jax.Array) -> Any:
        TRACES[method, case, x64] += 1
        return METHODS[method](problem, x_poison, log_strength, key)

    return jit(jax.vmap(run, (0, 0, None)))


@functools.cache
def compiled(method: str, case: str, x64: bool) -> Any:
    """What the method returns at the settings of a case."""
    with jax.enable_x64(x64):
        return jax.device_get(runner(method, case, x64)(*stack(CASES[case].arrays), jax.random.key(0)))


def hypergradients(method: str, case: str, x64: bool) -> list[Pair]:
    """Both derivatives at every setting of a case."""
    return list(zip(*pair(compiled(method, case, x64)), strict=True))


@functools.cache
def truths(case: str) -> list[Pair]:
    """Both derivatives of A at every setting of a case by central differences in float64.

    Each coordinate is taken at the step at which two step sizes agree best.
    """
    steps = 10.0 ** -np.arange(2, 6)
    arrays = CASES[case].arrays
    shape, groups = arrays[0].x_poison.shape, arrays[0].log_strength.shape
    size, points = int(np.prod(shape)), len(arrays)
    inputs = size + int(np.prod(groups))
    # One row per coordinate, step and side; λ comes last.
    moves = np.einsum("k,h,s->khs", np.ones(inputs), steps, [1.0, -1.0])[..., None] * np.eye(inputs)[:, None, None]
    with jax.enable_x64(True):
        problem = bilevel(arrays[0], CASES[case].learner)

        def value(x_poison: jax.Array, log_strength: jax.Array, move: jax.Array) -> jax.Array:
            moved = log_strength + move[size:].reshape(groups)
            return problem.value(x_poison + move[:size].reshape(shape), moved, jax.random.key(0))

        along = jax.vmap(jax.vmap(value, (None, None, 0)), (0, 0, None))
        values = jit(along)(*stack(arrays), jnp.asarray(moves.reshape(-1, inputs)))
    values = np.asarray(values).reshape(points, inputs, len(steps), 2)
    slopes = (values[..., 0] - values[..., 1]) / (2 * steps)
    # The error of order h² is taken out (Richardson, 1911).
    slopes = slopes[..., 1:] + np.diff(slopes, axis=-1) / 99
    best = np.argmin(np.abs(np.diff(slopes, axis=-1)), axis=-1)[..., None]
    found = np.take_along_axis(slopes, best, axis=-1)[..., 0]
    return [(row[:size].reshape(shape), row[size:].reshape(groups)) for row in found]


def relative_error(found: Pair, truth: Pair) -> float:
    """The larger of both derivatives' relative errors; refuses a truth too small to be a test."""
    pairs = list(zip(found, truth, strict=True))
    assert all(np.linalg.norm(t) > 1e-4 for _, t in pairs), "no signal: the test could not fail"
    return max(float(np.linalg.norm(np.asarray(f) - t) / np.linalg.norm(t)) for f, t in pairs)


def worst_error(found: list[Pair], truth: list[Pair]) -> float:
    """The largest relative error over all settings."""
    return max(relative_error(f, t) for f, t in zip(found, truth, strict=True))


def ridge_closed_form(arrays: Arrays) -> Pair:
    """Eq. 4 solved exactly for the ridge problem: H v = ∇A, then the two mixed products."""
    x, y = np.vstack([arrays.x, arrays.x_poison]), np.concatenate([arrays.y, arrays.y_poison])
    n, m, strength = len(y), x.shape[1], np.exp(arrays.log_strength)
    w = np.linalg.solve(x.T @ x + strength * np.eye(m), x.T @ y)
    gradient = arrays.x_target.T @ (arrays.x_target @ w - arrays.y_target) / len(arrays.y_target)
    v = np.linalg.solve((x.T @ x + strength * np.eye(m)) / n, gradient)
    residual = arrays.x_poison @ w - arrays.y_poison
    poison = -(np.outer(residual, v) + np.outer(arrays.x_poison @ v, w)) / n
    return poison, -strength / n * (v @ w)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def dense_implicit(arrays: Arrays, damping: float = 0.0) -> Pair:
    """Eq. 4 for logistic regression in NumPy: Newton's method and the adjoint with a dense Hessian.

    `damping` is added to the Hessian of the adjoint alone.
    """
    x, y = np.vstack([arrays.x, arrays.x_poison]), np.concatenate([arrays.y, arrays.y_poison])
    n, m = x.shape
    ones = np.hstack([x, np.ones((n, 1))])
    penalty = np.exp(arrays.log_strength) / n * np.diag([1.0] * m + [0.0])

    def at(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = sigmoid(ones @ w)
        return p, ones.T @ (ones * (p * (1 - p))[:, None]) / n + penalty

    w = np.zeros(m + 1)
    for _ in range(100):
        p, hessian = at(w)
        move = np.linalg.solve(hessian, ones.T @ (p - y) / n + penalty @ w)
        w = w - move / max(1.0, np.linalg.norm(move) / (1 + np.linalg.norm(w)))
    p, hessian = at(w)
    target = np.hstack([arrays.x_target, np.ones((len(arrays.y_target), 1))])
    gradient = target.T @ (sigmoid(target @ w) - arrays.y_target) / len(target)
    v = np.linalg.solve(hessian + damping * np.eye(m + 1), gradient)
    last = slice(len(arrays.y), None)
    answer = (p * (1 - p) * (ones @ v))[last]
    poison = -(np.outer((p - y)[last], v[:m]) + np.outer(answer, w[:m])) / n
    return poison, np.asarray(-(v @ penalty @ w))


def algorithm_2(arrays: Arrays, learning_rate: float, steps: int, momentum: float = 0.0) -> Pair:
    """Algorithm 2 for logistic regression written out in NumPy, by gradient descent or heavy ball."""
    x, y = np.vstack([arrays.x, arrays.x_poison]), np.concatenate([arrays.y, arrays.y_poison])
    n, strength = len(y), np.exp(arrays.log_strength) / len(y)
    w, b, path = np.zeros(x.shape[1]), 0.0, []
    move_w, move_b = np.zeros_like(w), 0.0
    for _ in range(steps):
        path.append((w, b))
        residual = sigmoid(x @ w + b) - y
        move_w = momentum * move_w - learning_rate * (x.T @ residual / n + strength * w)
        move_b = momentum * move_b - learning_rate * residual.mean()
        w, b = w + move_w, b + move_b
    residual = sigmoid(arrays.x_target @ w + b) - arrays.y_target
    dw, db = arrays.x_target.T @ residual / len(residual), residual.mean()
    d_poison, d_strength = np.zeros_like(arrays.x_poison), 0.0
    push_w, push_b = np.zeros_like(dw), 0.0  # the velocity's adjoint
    for w, b in path[::-1]:
        p = sigmoid(x @ w + b)
        push_w, push_b = push_w + dw, push_b + db
        answer = p * (1 - p) * (x @ push_w + push_b)
        mixed = np.outer((p - y)[len(arrays.y) :], push_w) + np.outer(answer[len(arrays.y) :], w)
        d_poison -= learning_rate * mixed / n
        d_strength -= learning_rate * strength * (w @ push_w)
        dw = dw - learning_rate * (x.T @ answer / n + strength * push_w)
        db = db - learning_rate * answer.mean()
        push_w, push_b = momentum * push_w, momentum * push_b
    return d_poison, np.asarray(d_strength)
