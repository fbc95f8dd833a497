"""Losses: each victim that is solved is the one that scikit-learn fits, and its hypergradients are right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import LinearSVC

import mithridate as mi
from mithridate.victims.losses import LOSSES, curved

STRENGTH = 0.7
SVM: dict[str, Any] = {
    **{"C": float(np.exp(-STRENGTH)), "loss": "squared_hinge", "dual": False},
    **{"tol": 1e-12, "max_iter": 1_000_000},
}


def rows(n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_classes)
    y = rng.permutation(np.arange(60) % n_classes)
    return rng.normal(size=(60, 5)) + 0.7 * np.eye(n_classes, 5)[y], y


def without_bias(m: int, n_classes: int) -> mi.FunctionModel:
    shape = (m, *([n_classes] if n_classes > 2 else []))
    return mi.FunctionModel(lambda key: {"w": jnp.zeros(shape)}, lambda p, x: x @ p["w"], lambda p: p["w"])


def fitted(model: Any, loss: str, x: np.ndarray, y: np.ndarray) -> Any:
    with jax.enable_x64(True):
        learner = mi.Learner(model, mi.Exact(tolerance=1e-13), loss=LOSSES[loss])
        return jax.device_get(learner.fit(x, y, STRENGTH))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_squared_hinge_is_scikit_learn_s_linear_svm(n_classes):
    """LinearSVC penalises its bias as the weight of a column of ones: so is it here, in a model without another."""
    x, y = rows(n_classes)
    peer: Any = LinearSVC(**SVM).fit(x, y)
    found = fitted(without_bias(6, n_classes), "squared-hinge", np.column_stack([x, np.ones(len(x))]), y)
    wanted = np.column_stack([peer.coef_, peer.intercept_]).T
    np.testing.assert_allclose(found["w"].reshape(wanted.shape), wanted, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_squared_loss_is_scikit_learn_s_ridge_classifier(n_classes):
    """Its bias is not penalised, nor is ours."""
    x, y = rows(n_classes)
    peer: Any = RidgeClassifier(alpha=np.exp(STRENGTH)).fit(x, y)
    found = fitted(mi.LogisticRegression(5, n_classes, free=True), "squared", x, y)
    np.testing.assert_allclose(found.weight.T.reshape(peer.coef_.shape), peer.coef_, atol=1e-6)
    np.testing.assert_allclose(found.bias, peer.intercept_, atol=1e-6)


@pytest.mark.parametrize("space", ["plain", "gram"])
def test_both_spaces_solve_a_support_vector_machine(space):
    """With a bias that nothing penalises: LinearSVC's is penalised as little as its scaling says."""
    x, y = rows(2)
    options: dict[str, Any] = SVM | {"intercept_scaling": 1e3}
    peer: Any = LinearSVC(**options).fit(x, y)
    with jax.enable_x64(True):
        parts = {"loss": LOSSES["squared-hinge"], "space": space}
        found = mi.Learner(mi.LogisticRegression(5), mi.Exact(tolerance=1e-12), **parts).fit(x, y, STRENGTH)
    np.testing.assert_allclose(found.weight, peer.coef_[0], atol=1e-5)
    np.testing.assert_allclose(found.bias, peer.intercept_[0], atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "victim", "method"), [("squared-hinge", "exact", mi.Implicit()), ("squared", "sgd", mi.Reverse())]
)
def test_hypergradients_through_other_losses_agree_with_differences(loss, victim, method):
    options = {"points": 4, "batch": 4, "train": 60, "valid": 60, "inner_steps": 40, "precision": "float64"}
    result = mi.check("digits-0v8", loss=loss, victim=victim, log_strength=0.5, methods={"own": method}, **options)
    assert result.ok, result.frame[["method", "verdict", "note"]]


def test_a_loss_without_a_second_derivative_is_told_from_one_that_has_it():
    assert all(curved(loss) and curved(loss, 4) for loss in LOSSES.values())
    assert not curved(lambda logits, labels: jnp.maximum(0.0, 1 - (2 * labels - 1) * logits))
    assert not curved(lambda logits, labels: jnp.abs(logits - labels))
