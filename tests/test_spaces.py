"""Gram space against the plain way: the same training in other coordinates."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array

import mithridate as mi
from problems import SEED, LeastSquares, Network, bilevel, draw, jit

TOLERANCE = {True: 1e-12, False: 1e-5}


class Pair(NamedTuple):
    """A learner with its λ, and the shape of its data; (n, m)."""

    model: Any
    rule: Any
    log_strength: Any
    shape: tuple[int, int]
    penalty: mi.L2 = mi.L2()

    def learner(self, space: Any) -> mi.Learner:
        return mi.Learner(self.model, self.rule, penalty=self.penalty, space=space)


def linear(m: int) -> mi.LogisticRegression:
    return mi.LogisticRegression(m)


TALL, WIDE = (20, 4), (9, 14)
DESCENT, BALL, SGD = mi.GradientDescent(0.1, 12), mi.HeavyBall(0.05, 0.8, 12), mi.MinibatchSGD(0.1, 5, 3)
PAIRS = {
    "descent, linear, wide": Pair(linear(14), DESCENT, 0.5, WIDE),
    "descent, network, tall": Pair(Network(4, (3,)), DESCENT, (0.5, 1.0), TALL),
    "heavy ball, linear, tall": Pair(linear(4), BALL, 0.5, TALL),
    "heavy ball, network, wide": Pair(Network(14, (3, 2)), BALL, (0.5, 1.0), WIDE, mi.L2((0, 1, 0))),
    "minibatches, linear, wide": Pair(linear(14), SGD, 0.5, WIDE),
    "minibatches, network, tall": Pair(Network(4, (3,)), SGD, 0.5, TALL),
}


@functools.cache
def both(name: str, x64: bool) -> Any:
    """A function of (x, X_p, λ) that returns value and derivatives by the plain way and in Gram space.

    Weights differ; every fourth row has weight 0, and so does the last point.
    """
    case = PAIRS[name]
    n, m = case.shape
    arrays = draw(np.random.default_rng(SEED), n=n, m=m)
    with jax.enable_x64(x64):
        weight, poison_weight = jnp.asarray(np.arange(n) % 4 / 2, dtype=float), jnp.array([1.0, 0.7, 0.0])

    def run(x: jax.Array, x_poison: jax.Array, log_strength: jax.Array) -> Any:
        found = []
        for space in ("plain", "gram"):
            problem = bilevel(arrays, case.learner(space))
            rest = problem.rest._replace(x=x, weight=weight)
            problem = mi.Bilevel(problem.learner, rest, problem.y_poison, problem.target, poison_weight)
            found.append(mi.Reverse()(problem, x_poison, log_strength, jax.random.key(3))[:3])
        return found

    return jit(run)


def compare(name: str, x64: bool, x: np.ndarray, x_poison: np.ndarray, log_strength: Any) -> list[float]:
    """The relative distances of value and both derivatives."""
    with jax.enable_x64(x64):
        given = [jnp.asarray(part, dtype=float) for part in (x, x_poison, log_strength)]
        plain, gram = jax.device_get(both(name, x64)(*given))
    assert min(np.linalg.norm(part) for part in plain) > 1e-4
    assert np.all(plain[1][-1] == 0)
    return [float(np.linalg.norm(g - p) / np.linalg.norm(p)) for p, g in zip(plain, gram, strict=True)]


@pytest.mark.parametrize(
    ("name", "x64"),
    [
        *((name, True) for name in PAIRS),
        ("descent, network, tall", False),
        *(
            pytest.param(name, False, marks=pytest.mark.slow)
            for name in ("heavy ball, network, wide", "minibatches, network, tall")
        ),
    ],
)
def test_gram_space_gives_what_the_plain_way_gives(name, x64):
    n, m = PAIRS[name].shape
    arrays = draw(np.random.default_rng(SEED), n=n, m=m)
    errors = compare(name, x64, arrays.x, arrays.x_poison, PAIRS[name].log_strength)
    assert max(errors) < TOLERANCE[x64]


@given(
    x=any_array(float, WIDE, elements=st.floats(-3, 3, width=32)),
    x_poison=any_array(float, (3, 14), elements=st.floats(-3, 3, width=32)),
    log_strength=st.floats(-6, 3),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_they_agree_for_any_rows(x, x_poison, log_strength):
    run = both("descent, linear, wide", True)
    with jax.enable_x64(True):
        plain, gram = jax.device_get(run(*(jnp.asarray(part) for part in (x, x_poison, log_strength))))
    for p, g in zip(plain, gram, strict=True):
        np.testing.assert_allclose(g, p, rtol=1e-9, atol=1e-12)


class Elastic(mi.L2):
    """L2 with something added: no longer what Gram space can run."""

    def __call__(self, weights: Any, log_strength: jax.Array) -> jax.Array:
        return super().__call__(weights, log_strength) + jnp.sum(jnp.abs(jax.tree.leaves(weights)[0]))


def absolute(weights: Any, log_strength: jax.Array) -> jax.Array:
    return jnp.exp(log_strength) * jnp.sum(jnp.abs(weights))


class Shifted(mi.LogisticRegression):
    """Linear, but not in the way that solving by rows takes for granted."""

    def head(self, params: Any, z: jax.Array) -> jax.Array:
        return 2 * super().head(params, z)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": LeastSquares(4), "rule": DESCENT}, "LeastSquares does not have a linear first layer"),
        ({"model": linear(4), "rule": DESCENT, "penalty": absolute}, "not L2"),
        ({"model": linear(4), "rule": DESCENT, "penalty": Elastic()}, "not L2"),
        ({"model": mi.MLP(4, (3,)), "rule": mi.Exact()}, "MLP does not say that its one logit is"),
        ({"model": Shifted(4), "rule": mi.Exact()}, "Shifted does not say that its one logit is"),
    ],
    ids=["no linear first layer", "no L2", "more than L2", "solved network", "no plain linear model"],
)
def test_what_cannot_run_in_gram_space_is_refused_there_and_chosen_elsewhere(parts, message):
    with pytest.raises(mi.InputError, match=message):
        mi.Learner(**parts, space="gram")
    rows = mi.Rows(jnp.zeros((3, 4)), jnp.zeros(3), jnp.ones(3))
    assert mi.Learner(**parts).chosen_space((rows,)) == "plain"


DESCENT_150, SGD_50 = mi.GradientDescent(0.1, 150), mi.MinibatchSGD(0.1, 32, 50)


@pytest.mark.parametrize(
    ("model", "rule", "n", "m", "unknown", "known"),
    [
        ("linear", DESCENT_150, 512, 784, "gram", "gram"),
        ("linear", mi.GradientDescent(0.1, 40), 512, 784, "plain", "gram"),
        ("linear", mi.GradientDescent(0.1, 600), 512, 2048, "gram", "gram"),
        ("linear", DESCENT_150, 512, 64, "plain", "plain"),
        ("linear", mi.GradientDescent(0.1, 1), 512, 2048, "plain", "plain"),
        ("linear", mi.HeavyBall(0.1, 0.9, 150), 512, 784, "gram", "gram"),
        ("linear", SGD_50, 512, 2048, "gram", "gram"),
        ("linear", mi.MinibatchSGD(0.1, 32, 10), 512, 2048, "plain", "gram"),
        ("linear", SGD_50, 4000, 784, "plain", "plain"),
        ("network", DESCENT_150, 512, 2048, "gram", "gram"),
        ("network", DESCENT_150, 2000, 30, "plain", "plain"),
        ("linear", mi.GradientDescent(0.1, 10**6), 30_000, 10**6, "plain", "plain"),  # K would not fit in memory
        ("linear", mi.Exact(), 512, 784, "gram", "gram"),
        ("linear", mi.Exact(), 5000, 784, "plain", "plain"),
        ("network", mi.Exact(), 512, 784, "plain", "plain"),
    ],
)
def test_the_space_follows_the_shapes(model, rule, n, m, unknown, known):
    """And whether the Gram matrix of the rows that stay is known."""
    learner = mi.Learner(linear(m) if model == "linear" else mi.MLP(m, (16,)), rule)
    rows = jax.eval_shape(lambda: mi.Rows(jnp.zeros((n, m)), jnp.zeros(n), jnp.ones(n)))
    assert learner.chosen_space((rows,)) == unknown
    assert learner.chosen_space((jax.eval_shape(mi.Rows.with_gram, rows),)) == known
    for space in ("plain", "gram"):
        if (model, type(rule)) != ("network", mi.Exact):
            assert mi.Learner(learner.model, rule, space=space).chosen_space((rows,)) == space
