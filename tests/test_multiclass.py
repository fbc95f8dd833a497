"""More than two classes, and objectives other than errors of any kind: the ladder's rungs, and what an attack reaches."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

import mithridate as mi
from mithridate.hypergradients import number
from mithridate.losses import cross_entropy
from mithridate.objectives import flipped, objective_of, parse_objective
from mithridate.seeds import generator
from mithridate.tuning import validation_losses

K, M = 3, 4
MODELS = {"softmax": mi.LogisticRegression(M, K), "mlp": mi.MLP(M, (5,), n_classes=K)}
DESCENT = mi.GradientDescent(0.3, 12)


@pytest.fixture
def three(rng) -> tuple[np.ndarray, np.ndarray]:
    """Thirty rows of three classes that overlap."""
    y = np.arange(30) % K
    return rng.normal(size=(30, M)) + np.eye(K, M)[y], y


def problem_of(model, rows, *, rule=DESCENT, space="plain", specific=False) -> mi.Bilevel:
    x, y = rows
    learner = mi.Learner(model, rule, space=space)
    return mi.Bilevel(
        learner, mi.Rows.of(x[:16], y[:16]), jnp.array([1.0, 2.0]), mi.Rows.of(x[16:], y[16:]), specific=specific
    )


@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize(
    ("model", "method", "space"),
    [
        ("softmax", mi.Reverse(), "plain"),
        ("softmax", mi.Reverse(), "gram"),
        ("softmax", mi.Forward(), "plain"),
        ("softmax", mi.Implicit(), "exact"),
        ("mlp", mi.Reverse(), "gram"),
    ],
)
def test_hypergradients_agree_with_central_differences(three, model, method, space, specific):
    with jax.enable_x64(True):
        rule = mi.Exact(1e-12) if space == "exact" else DESCENT
        plain = "plain" if space == "exact" else space
        problem = problem_of(MODELS[model], three, rule=rule, space=plain, specific=specific)
        at, strength, key = jnp.asarray(three[0][:2] * 0.5), jnp.asarray(0.5), jax.random.key(1)
        memory = method.start(problem, at, strength, key)
        found = eqx.filter_jit(method)(problem, at, strength, key, memory)
        assert int(number(found.status)) == 0
        value = eqx.filter_jit(lambda x, s: problem.value(x, s, key))
        along, h = jax.random.normal(jax.random.key(2), at.shape, at.dtype), 1e-5
        for derivative, (dx, ds) in (
            (jnp.vdot(found.poison, along), (along, 0.0)),
            (found.hyper, (jnp.zeros_like(at), 1.0)),
        ):
            ends = [float(value(at + sign * h * dx, strength + sign * h * ds)) for sign in (1, -1)]
            np.testing.assert_allclose(float(derivative), (ends[0] - ends[1]) / (2 * h), rtol=2e-6)


def test_two_softmax_logits_are_one_logit(rng):
    z, y = rng.normal(size=(9, 2)), np.arange(9.0) % 2
    one, two = (cross_entropy(jnp.asarray(logits), jnp.asarray(y)) for logits in (z[:, 1] - z[:, 0], z))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_the_exact_softmax_victim_is_scikit_learn_s(three):
    x, y = three
    with jax.enable_x64(True):
        learner = mi.Learner(MODELS["softmax"], mi.Exact(1e-12))
        params = learner.fit(x, y, 1.0)
        logits = np.asarray(learner.model.logits(params, jnp.asarray(x)))
    peer = SklearnLogisticRegression(C=1 / np.exp(1.0), tol=1e-10, max_iter=10_000).fit(x, y).decision_function(x)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), peer - peer.mean(1, keepdims=True), atol=1e-6)
