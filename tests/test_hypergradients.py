"""The gradient ladder and the mutants that must fall off it.

Rungs: a closed form, an independent implementation, central differences over a range of steps, and the identity
between forward and reverse mode. Every method of METHODS climbs all of them in both precisions.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from mithridate.hypergradients import Status
from problems import (
    LeastSquares,
    algorithm_2,
    bilevel,
    central_differences,
    draw,
    hypergradient,
    relative_error,
    ridge_closed_form,
    squared,
)

METHODS = [mi.Reverse()]
PRECISIONS = [(True, 1e-6), (False, 1e-3)]
RATE, STEPS = 0.3, 15

methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
precisions = pytest.mark.parametrize(("x64", "tolerance"), PRECISIONS, ids=["float64", "float32"])


def logistic(m: int) -> mi.Learner:
    return mi.Learner(mi.LogisticRegression(m), mi.GradientDescent(RATE, STEPS))


@methods
@precisions
def test_ridge_closed_form(method, x64, tolerance, rng):
    arrays = draw(rng)
    with jax.enable_x64(x64):
        learner = mi.Learner(LeastSquares(4), mi.GradientDescent(0.2, 2000), loss=squared)
        found = hypergradient(method, bilevel(arrays, learner), arrays)
    assert relative_error(found, ridge_closed_form(arrays)) < tolerance


@methods
@precisions
@pytest.mark.parametrize("log_strength", [-3.0, 1.0, 3.0])
def test_central_differences(method, x64, tolerance, log_strength, rng):
    arrays = draw(rng, log_strength=log_strength)
    with jax.enable_x64(True):
        truth = central_differences(bilevel(arrays, logistic(4)), arrays)
    with jax.enable_x64(x64):
        found = hypergradient(method, bilevel(arrays, logistic(4)), arrays)
    assert relative_error(found, truth) < tolerance


@methods
@precisions
def test_independent_implementation(method, x64, tolerance, rng):
    arrays = draw(rng, n=40, m=7, n_p=5)
    with jax.enable_x64(x64):
        found = hypergradient(method, bilevel(arrays, logistic(7)), arrays)
    assert relative_error(found, algorithm_2(arrays, RATE, STEPS)) < tolerance


@methods
@precisions
def test_forward_and_reverse_are_adjoint(method, x64, tolerance, rng):
    """⟨∇A, d⟩ from the method equals the derivative of A along d by forward mode."""
    arrays = draw(rng)
    with jax.enable_x64(x64):
        problem = bilevel(arrays, logistic(4))
        at = (jnp.asarray(arrays.x_poison, dtype=float), jnp.asarray(arrays.log_strength, dtype=float))
        along = (jnp.asarray(rng.normal(size=arrays.x_poison.shape), dtype=float), jnp.asarray(1.0))
        forward = jax.jvp(lambda x, s: problem.value(x, s, jax.random.key(0)), at, along)[1]
        poison, hyper = hypergradient(method, problem, arrays)
    product = float(np.vdot(poison, np.asarray(along[0], dtype=float)) + hyper)
    assert abs(float(forward)) > 1e-4
    assert product == pytest.approx(float(forward), rel=tolerance)


@methods
def test_works_under_jit_and_vmap(method, rng):
    arrays = draw(rng)
    problem = bilevel(arrays, logistic(4))
    points = jnp.stack([jnp.asarray(arrays.x_poison, dtype=float)] * 3) + jnp.arange(3.0)[:, None, None] / 10
    strengths, key = jnp.array([0.0, 1.0, 2.0]), jax.random.key(0)
    batched = eqx.filter_jit(eqx.filter_vmap(lambda x, s: method(problem, x, s, key)))(points, strengths)
    for i in range(3):
        alone = method(problem, points[i], strengths[i], key)
        np.testing.assert_allclose(batched.poison[i], alone.poison, rtol=2e-4, atol=1e-8)
        np.testing.assert_allclose(batched.hyper[i], alone.hyper, rtol=2e-4)


@methods
def test_a_broken_derivative_says_so(method, rng):
    arrays = draw(rng)
    diverging = mi.Learner(LeastSquares(4), mi.GradientDescent(1e6, 200), loss=squared)
    found = method(
        bilevel(arrays, diverging), jnp.asarray(arrays.x_poison, dtype=float), jnp.asarray(1.0), jax.random.key(0)
    )
    assert found.status == Status.non_finite
    good = method(
        bilevel(arrays, logistic(4)), jnp.asarray(arrays.x_poison, dtype=float), jnp.asarray(1.0), jax.random.key(0)
    )
    assert good.status == Status.ok


MUTANTS = {
    "sign flipped": {"sign": -1.0},
    "cross term dropped": {"cross_term": False},
    "regulariser forgotten": {"penalty": False},
    "one step too few": {"back_steps": STEPS - 1},
}


@pytest.mark.parametrize("mutant", MUTANTS)
@precisions
def test_mutants_of_algorithm_2_fall_off_the_ladder(mutant, x64, tolerance, rng):
    """The rungs are steep enough: each broken recursion is at least five tolerances away from the truth."""
    arrays = draw(rng)
    with jax.enable_x64(True):
        truth = central_differences(bilevel(arrays, logistic(4)), arrays)
    assert relative_error(algorithm_2(arrays, RATE, STEPS), truth) < 1e-6
    assert relative_error(algorithm_2(arrays, RATE, STEPS, **MUTANTS[mutant]), truth) > 5 * tolerance


class _FrozenPenalty(mi.L2):
    def __call__(self, weights, log_strength):
        return jax.lax.stop_gradient(super().__call__(weights, log_strength))


def _mutated_learners(m: int) -> dict[str, mi.Learner]:
    good = logistic(m)
    return {
        "regulariser forgotten": mi.Learner(good.model, good.rule, penalty=_FrozenPenalty()),
        "one step too few": good.with_rule(mi.GradientDescent(RATE, STEPS - 1)),
    }


@methods
@precisions
@pytest.mark.parametrize("mutant", ["regulariser forgotten", "one step too few"])
def test_mutants_of_the_victim_fall_off_the_ladder(method, x64, tolerance, mutant, rng):
    arrays = draw(rng)
    with jax.enable_x64(x64):
        found = hypergradient(method, bilevel(arrays, _mutated_learners(4)[mutant]), arrays)
    assert relative_error(found, algorithm_2(arrays, RATE, STEPS)) > 5 * tolerance
