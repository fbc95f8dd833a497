"""Victims that are solved to optimality, in both spaces, and the linear solves behind them."""

import functools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Reference

import mithridate as mi
from mithridate.hypergradients import Hypergradient, Status
from mithridate.victims.newton import Solve, conjugate_gradient
from problems import (
    SEED,
    Arrays,
    LeastSquares,
    bilevel,
    dense_implicit,
    draw,
    jit,
    pair,
    point,
    relative_error,
    squared,
)

SPACES = ("plain", "gram")
spaces = pytest.mark.parametrize("space", SPACES)
precisions = pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
PLACES = [pytest.param("plain", True, id="float64-plain"), pytest.param("gram", False, id="float32-gram")]
PLACES += [pytest.param("gram", True, id="float64-gram", marks=pytest.mark.slow)]
PLACES += [pytest.param("plain", False, id="float32-plain", marks=pytest.mark.slow)]
places = pytest.mark.parametrize(("space", "x64"), PLACES)
"""Both spaces and both precisions, each once."""


def exact(m: int, space: Any, tolerance: float | None = None) -> mi.Learner:
    return mi.Learner(mi.LogisticRegression(m), mi.Exact(tolerance), space=space)


# The victim.


@pytest.fixture(scope="module")
def weighted(digits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of digits, every third of which does not count."""
    return digits.x_train.astype(float), digits.y_train, np.arange(60) % 3 > 0


@spaces
def test_the_optimum_is_scikit_learn_s(space, weighted):
    x, y, counts = weighted
    strengths = np.array([-4.0, 0.0, 4.0])
    with jax.enable_x64(True):
        rows = mi.Rows.of(x, y).with_weight(jnp.asarray(counts, dtype=float))
        solve = functools.partial(exact(64, space, 1e-12).solve, (rows,), key=jax.random.key(0))
        found = jax.device_get(jit(jax.vmap(solve))(jnp.asarray(strengths)))
    assert np.all(found.residual <= 1e-12)
    for i, strength in enumerate(strengths):
        reference = Reference(C=np.exp(-strength), tol=1e-10, solver="newton-cholesky").fit(x[counts], y[counts])
        np.testing.assert_allclose(found.params.weight[i], reference.coef_[0], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.params.bias[i], reference.intercept_[0], rtol=1e-6)


# The hypergradient, its memory and its status.


class Implicitly:
    """An implicit hypergradient on one problem, its two halves compiled apart so that memory can be carried."""

    def __init__(self, method: mi.HypergradientMethod, arrays: Arrays, learner: mi.Learner, x64: bool):
        self.x64 = x64
        with jax.enable_x64(x64):
            self.problem = bilevel(arrays, learner)
        self._start, self._call = jit(method.start), jit(method)

    def start(self, arrays: Arrays) -> Any:
        with jax.enable_x64(self.x64):
            return jax.device_get(self._start(self.problem, *point(arrays)))

    def __call__(self, arrays: Arrays, memory: Any = None) -> Hypergradient:
        memory = self.start(arrays) if memory is None else memory
        with jax.enable_x64(self.x64):
            return jax.device_get(self._call(self.problem, *point(arrays), memory))

    def on(self, x: np.ndarray) -> "Implicitly":
        """The same with other rows that stay, which need no new compilation."""
        other = object.__new__(Implicitly)
        other.__dict__.update(self.__dict__)
        with jax.enable_x64(self.x64):
            rest = self.problem.rest._replace(x=jnp.asarray(x, dtype=float))
            other.problem = eqx.tree_at(lambda problem: problem.rest, self.problem, rest)
        return other


BASE = draw(np.random.default_rng(SEED), n=24, m=30, n_p=4)
"""More features than rows, and separable."""


def test_who_wants_the_labels_that_others_fear_climbs_the_other_way():
    with jax.enable_x64(True):
        problem, at, method = bilevel(BASE, exact(30, "gram", 1e-12)), point(BASE), mi.Implicit()
        memory = jit(method.start)(problem, *at)
        generic, specific = (jit(method)(each, *at, memory) for each in (problem, replace(problem, specific=True)))
    for one, other in zip((generic.value, *pair(generic)), (specific.value, *pair(specific)), strict=True):
        assert np.linalg.norm(one) > 1e-6
        np.testing.assert_allclose(other, -one, rtol=1e-6)


@functools.cache
def implicitly(space: str, x64: bool) -> Implicitly:
    return Implicitly(mi.Implicit(), BASE, exact(30, space), x64)


def moving(steps: int = 4, log_strength: float = 0.0) -> list[Arrays]:
    """Points that wander, and λ with them."""
    way = np.random.default_rng(SEED).normal(size=BASE.x_poison.shape)
    return [BASE._replace(x_poison=BASE.x_poison + 0.1 * t * way, log_strength=0.1 * t) for t in range(steps)]


@places
def test_a_chain_of_warm_starts_ends_where_cold_ones_do(space, x64):
    """Both at the optimum, to which long gradient descent leads (see `test_hypergradients`)."""
    method = implicitly(space, x64)
    memory = method.start(moving()[0])
    for arrays in moving():
        warm, cold = method(arrays, memory), method(arrays)
        memory = warm.memory
        for found in (warm, cold):
            assert found.status == Status.ok
            assert relative_error(pair(found), dense_implicit(arrays)) < (1e-6 if x64 else 2e-3)
    assert memory.calls == 4


@places
def test_a_problem_that_was_just_solved_is_not_solved_again(space, x64):
    method = implicitly(space, x64)
    first = method(BASE)
    again = method(BASE, first.memory)
    assert again.diagnostics["cg_steps"] <= 1 < first.diagnostics["cg_steps"]
    assert relative_error(pair(again), pair(first)) < (1e-7 if x64 else 1e-3)


@places
def test_what_is_called_ok_is_right(space, x64):
    """From strong to hardly any regularisation; float32 has to give up before float64."""
    method, ok = implicitly(space, x64), {}
    for strength in (4.0, 0.0, -4.0, -8.0, -12.0, -16.0):
        arrays = BASE._replace(log_strength=strength)
        found = method(arrays)
        ok[strength] = bool(found.status == Status.ok)
        if ok[strength]:
            assert relative_error(pair(found), dense_implicit(arrays)) < 0.03, strength
    assert all(ok[strength] for strength in ((4.0, 0.0, -4.0, -8.0) if x64 else (4.0, 0.0)))
    assert x64 or not ok[-16.0]


@places
def test_a_singular_hessian_says_so(space, x64):
    method = implicitly(space, x64)
    twins, no_penalty = method.on(np.repeat(BASE.x[:, :15], 2, axis=1)), BASE._replace(log_strength=-np.inf)
    assert method(no_penalty).status != Status.ok
    assert twins(no_penalty).status != Status.ok
    assert twins(BASE).status == Status.ok


def test_without_points_and_with_lambda_in_a_vector():
    """The points are rows like any other, and λ's derivative has λ's shape."""
    arrays = BASE._replace(log_strength=np.array([BASE.log_strength]))
    method = Implicitly(mi.Implicit(), arrays, exact(30, "gram"), True)
    with jax.enable_x64(True):
        method.problem = method.problem.settled(jnp.asarray(BASE.x_poison))
    found = method(arrays._replace(x_poison=BASE.x_poison[:0]))
    assert found.status == Status.ok
    assert found.poison.shape == (0, 30)
    np.testing.assert_allclose(found.hyper, dense_implicit(BASE)[1][None], rtol=1e-6)


# Options, each of which has to change what it says.


def test_damping_is_added_to_the_hessian():
    method = Implicitly(mi.Implicit(damping=0.1), BASE, exact(30, "gram"), True)
    damped = method(BASE, implicitly("plain", True).start(BASE))
    assert relative_error(pair(damped), dense_implicit(BASE, damping=0.1)) < 1e-6
    assert relative_error(dense_implicit(BASE, damping=0.1), dense_implicit(BASE)) > 0.05


RIDGE = draw(np.random.default_rng(SEED), m=8)


@functools.cache
def before_ridge() -> Any:
    """What is remembered before the first call, the same whatever the options."""
    return ridge().start(RIDGE)


@functools.cache
def ridge(**options: Any) -> Implicitly:
    learner = mi.Learner(LeastSquares(8), mi.GradientDescent(0.15, 600), loss=squared)
    return Implicitly(mi.Implicit(**options), RIDGE, learner, True)


@pytest.mark.parametrize(("schedule", "later"), [("quadratic", 4), ("exponential", 20)])
def test_schedules_tighten_with_the_calls(schedule, later):
    constant, scheduled, memory = ridge(), ridge(schedule=schedule), before_ridge()
    steps = [
        int(scheduled(RIDGE, memory._replace(calls=np.asarray(calls, memory.calls.dtype))).diagnostics["cg_steps"])
        for calls in (0, later, 10_000)
    ]
    assert steps[0] < steps[1] < steps[2] == constant(RIDGE, memory).diagnostics["cg_steps"]


LOOSE = {"tolerance": 0.3, "stationarity": 1e-18}


def test_tolerance_and_stationarity_are_obeyed():
    usual, loose = (ridge(**options)(RIDGE, before_ridge()) for options in ({}, LOOSE))
    assert loose.diagnostics["cg_steps"] < usual.diagnostics["cg_steps"]
    assert usual.status == Status.ok
    assert loose.status == Status.not_stationary


def test_running_out_of_steps_says_so():
    short = ridge(steps=2)(RIDGE, before_ridge())
    assert short.diagnostics["cg_steps"] == 2
    assert short.status == Status.unsolved


@spaces
def test_exact_stops_where_it_is_told(space, weighted):
    x, y, _ = weighted
    at = (mi.Rows.of(x, y),), jnp.asarray(0.0), jax.random.key(0)
    rough, short = (
        jit(mi.Learner(mi.LogisticRegression(64), rule, space=space).solve)(*at)
        for rule in (mi.Exact(0.1), mi.Exact(1e-5, most=2))
    )
    assert 1e-5 < rough.residual <= 0.1
    assert short.newton_steps == 2
    assert short.residual > 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: mi.Implicit(tolerance=0.0),
        lambda: mi.Implicit(stationarity=1.0),
        lambda: mi.Implicit(damping=-1.0),
        lambda: mi.Implicit(steps=0),
        lambda: mi.Exact(0.0),
        lambda: mi.Exact(most=0),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(mi.InputError, match=r"must|at least"):
        make()


# Conjugate gradient, on a pytree.


@functools.cache
def solver(x64: bool, preconditioned: bool) -> Any:
    """Solve systems on two leaves of 9 and 3 numbers, from NumPy to NumPy."""

    def solve(matrix: jax.Array, right: Any, tolerance: jax.Array, start: Any, weights: jax.Array) -> Solve:
        def product(v: Any) -> Any:
            flat = matrix @ jnp.concatenate([v["a"], v["b"]])
            return {"a": flat[:9], "b": flat[9:]}

        def precondition(v: Any) -> Any:
            return {"a": weights[:9] * v["a"], "b": weights[9:] * v["b"]}

        return conjugate_gradient(product, right, tolerance, start, precondition if preconditioned else None)

    def run(matrix: np.ndarray, right: np.ndarray, tolerance: float, start: np.ndarray) -> tuple[np.ndarray, Any]:
        with jax.enable_x64(x64):
            trees = [{"a": jnp.asarray(v[:9], float), "b": jnp.asarray(v[9:], float)} for v in (right, start)]
            numbers = [jnp.asarray(v, dtype=float) for v in (matrix, tolerance, 1 / (0.1 + np.diag(matrix)))]
            found = jax.device_get(compiled(numbers[0], trees[0], numbers[1], trees[1], numbers[2]))
        return np.concatenate([found.value["a"], found.value["b"]]).astype(float), found

    compiled = jit(solve)
    return run


@pytest.fixture
def system(rng) -> tuple[np.ndarray, np.ndarray]:
    half = rng.normal(size=(12, 12))
    return half @ half.T + np.diag(10.0 ** np.linspace(-1, 3, 12)), rng.normal(size=12)


@precisions
@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradient_against_a_dense_solve(x64, preconditioned, system, rng):
    """From nowhere, from anywhere and from the solution itself; a peer returned its last iterate but one."""
    matrix, right = system
    truth, tolerance = np.linalg.solve(matrix, right), 1e-11 if x64 else 3e-5
    for start in (np.zeros(12), rng.normal(size=12), truth):
        value, found = solver(x64, preconditioned)(matrix, right, tolerance, start)
        assert found.converged
        assert np.linalg.norm(right - matrix @ value) <= 1.01 * tolerance * np.linalg.norm(right)
        assert np.linalg.norm(value - truth) < np.linalg.cond(matrix) * tolerance * np.linalg.norm(truth)
        assert found.steps <= 1 if start is truth else found.steps >= 5


@precisions
def test_conjugate_gradient_says_when_it_failed(x64, system):
    matrix, right = system
    unreachable = solver(x64, False)(matrix, right, 1e-25, np.zeros(12))[1]
    indefinite = solver(x64, False)(matrix - 5 * np.eye(12), right, 1e-2, np.zeros(12))
    singular = solver(x64, False)(np.diag(np.arange(12.0)), np.ones(12), 1e-4, np.zeros(12))[1]
    assert not unreachable.converged
    assert not singular.converged
    missed = np.linalg.norm(right - (matrix - 5 * np.eye(12)) @ indefinite[0])
    assert bool(indefinite[1].converged) == bool(missed <= 1e-2 * np.linalg.norm(right))
