"""The victim: its conventions against scikit-learn, its training rules against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Reference

import mithridate as mi
from mithridate.victims.rows import join


@pytest.mark.parametrize("log_strength", [0.0, 1.0, 3.0])
def test_strength_means_what_it_means_to_scikit_learn(log_strength, digits):
    """λ = −log C: run to convergence, both reach the same weights."""
    x, y = digits.x_train.astype(float), digits.y_train
    reference = Reference(C=np.exp(-log_strength), tol=1e-10, max_iter=10000).fit(x, y)
    with jax.enable_x64(True):
        learner = mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.5, 20000))
        params = learner.fit(x, y, log_strength)
        error = learner.error(params, digits.x_test, digits.y_test)
    np.testing.assert_allclose(params.weight, reference.coef_[0], atol=2e-4)
    np.testing.assert_allclose(params.bias, reference.intercept_[0], rtol=1e-3)
    assert error == pytest.approx(1 - reference.score(digits.x_test, digits.y_test))


def test_biases_are_not_penalised(learner, digits):
    params = learner.fit(digits.x_train, digits.y_train * 0 + 1, log_strength=5.0)
    assert float(learner.weight_norm_sq(params)) < 1e-2
    assert float(params.bias) > 1


def test_a_weight_of_zero_takes_a_row_out(learner, digits):
    rows = mi.Rows.of(digits.x_train, digits.y_train)
    keep = np.arange(60) % 3 != 0
    masked = learner.train((rows.with_weight(jnp.asarray(keep, dtype=float)),), jnp.asarray(1.0), jax.random.key(0))
    alone = learner.fit(digits.x_train[keep], digits.y_train[keep], 1.0)
    np.testing.assert_allclose(masked.weight, alone.weight, rtol=1e-4, atol=1e-6)


def test_blocks_train_as_one(learner, digits):
    rows = mi.Rows.of(digits.x_train, digits.y_train)
    parts = tuple(mi.Rows(*(a[s] for a in rows[:3])) for s in (slice(0, 50), slice(50, 60)))
    split = learner.train(parts, jnp.asarray(1.0), jax.random.key(0))
    whole = learner.train((join(parts),), jnp.asarray(1.0), jax.random.key(0))
    np.testing.assert_allclose(split.weight, whole.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("n", "batch"), [(64, 16), (50, 16), (5, 16)])
def test_sgd_visits_every_row_once_an_epoch(n, batch):
    rule = mi.MinibatchSGD(0.1, batch, 4)
    index, real = rule.schedule(jnp.ones(n), jax.random.key(3))
    per_epoch = -(-n // batch)
    assert index.shape == real.shape == (4 * per_epoch, batch)
    orders = []
    for epoch in range(4):
        part = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        orders.append(np.asarray(index[part])[np.asarray(real[part])])
        assert sorted(orders[-1]) == list(range(n))
    assert not np.array_equal(orders[0], orders[1])


def test_sgd_ignores_the_padding_of_a_last_batch(digits):
    """One epoch of a batch larger than the data is one step of gradient descent."""
    sgd = mi.Learner(mi.LogisticRegression(64), mi.MinibatchSGD(0.3, 100, 1))
    once = mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.3, 1))
    found, truth = (learner.fit(digits.x_train, digits.y_train, 2.0) for learner in (sgd, once))
    np.testing.assert_allclose(found.weight, truth.weight, rtol=1e-5, atol=1e-7)


def test_curvature_is_the_hessian_s_largest_eigenvalue(digits):
    learner = mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.1, 1))
    x = np.hstack([digits.x_train.astype(float), np.ones((60, 1))])
    penalty = np.exp(3.0) / 60 * np.diag([1.0] * 64 + [0.0])
    truth = np.linalg.eigvalsh(x.T @ x / 60 / 4 + penalty)[-1]
    assert learner.curvature(mi.Rows.of(digits.x_train, digits.y_train), 3.0) == pytest.approx(truth, rel=1e-3)


def test_subdividing_keeps_the_time_and_obeys_the_limit():
    rule = mi.GradientDescent(0.1, 180)
    cut = rule.subdivided(39.0)
    assert cut.learning_rate * 39.0 <= 1.6 < 2 * cut.learning_rate * 39.0
    assert cut.learning_rate * cut.steps == pytest.approx(18.0)
    assert rule.subdivided(14.8) == rule


@pytest.mark.parametrize(
    "make",
    [
        lambda: mi.GradientDescent(0.0, 5),
        lambda: mi.GradientDescent(-0.1, 5),
        lambda: mi.GradientDescent(float("nan"), 5),
        lambda: mi.GradientDescent(0.1, 0),
        lambda: mi.MinibatchSGD(0.1, 0, 1),
        lambda: mi.MinibatchSGD(0.1, 1, 0),
        lambda: mi.MinibatchSGD(-1.0, 1, 1),
    ],
)
def test_rules_refuse_numbers_out_of_range(make):
    with pytest.raises(mi.InputError, match="must"):
        make()
