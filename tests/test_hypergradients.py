"""The gradient ladder and the mutants that must fall off it.

Rungs: central differences over a range of steps, closed forms, independent implementations, and the identity between
forward and reverse mode. Every method and every case climb in both precisions. Logistic regression that is solved to
its optimum climbs in `test_exact`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from mithridate.hypergradients import Status
from problems import (
    CASES,
    METHODS,
    OPTIMAL,
    RATE,
    SEED,
    STEPS,
    SUBJECTS,
    TRACES,
    UNROLLED,
    M,
    Pair,
    algorithm_2,
    bilevel,
    compiled,
    dense_implicit,
    hypergradients,
    jit,
    pair,
    point,
    relative_error,
    ridge_closed_form,
    runner,
    stack,
    truths,
    worst_error,
)

TOLERANCE = {True: 2e-7, False: 1e-4}
"""By whether in float64."""

INDEPENDENT = {
    "logistic": lambda arrays: algorithm_2(arrays, RATE, STEPS),
    "heavy ball": lambda arrays: algorithm_2(arrays, 0.1, STEPS, 0.9),
    "ridge": ridge_closed_form,
    "ridge, solved": ridge_closed_form,
    "logistic, long": dense_implicit,
}

QUICK = [
    *((method, "logistic") for method in UNROLLED),
    *(("Reverse", case) for case in ("network", "ridge", "logistic, long")),
    *(("Reversible", "heavy ball"), ("Implicit", "ridge, solved")),
]
"""Every method and every case, if not every pair: all pairs climb in `make test-slow`."""


def subjects(*cases: str, precisions: tuple[bool, ...] = (True, False), slow: tuple[str, ...] = ()) -> Any:
    """All subjects of these cases, in float64 (True) and in float32; those of the cases `slow` not in a hurry."""

    def quick(method: str, case: str, x64: bool) -> bool:
        smooth = (method, case) == (("Implicit" if x64 else "Reverse"), "network, long")
        return case not in slow and ((method, case) in QUICK or smooth)

    chosen = [
        pytest.param(
            *(method, case, x64),
            id=f"{'float64' if x64 else 'float32'}-{method}: {case}",
            marks=() if quick(method, case, x64) else pytest.mark.slow,
        )
        for x64 in precisions
        for method, case in SUBJECTS
        if case in cases
    ]
    return pytest.mark.parametrize(("method", "case", "x64"), chosen)


@subjects("logistic", "network", "heavy ball", "network, long")
def test_central_differences(method, case, x64):
    assert worst_error(hypergradients(method, case, x64), truths(case)) < TOLERANCE[x64]


@subjects(*INDEPENDENT)
def test_closed_forms_and_independent_implementations(method, case, x64):
    truth = [INDEPENDENT[case](arrays) for arrays in CASES[case].arrays]
    assert worst_error(hypergradients(method, case, x64), truth) < TOLERANCE[x64]


@subjects(*CASES)
def test_a_sound_derivative_says_so(method, case, x64):
    assert np.all(compiled(method, case, x64).status == Status.ok)


@functools.cache
def along(case: str, x64: bool) -> tuple[list[Pair], np.ndarray, np.ndarray]:
    """Directions, A, and its derivative along them by forward mode, at every setting of a case."""
    rng = np.random.default_rng(SEED)
    arrays = CASES[case].arrays
    ways = [(rng.normal(size=a.x_poison.shape), rng.normal(size=a.log_strength.shape)) for a in arrays]
    with jax.enable_x64(x64):
        problem = bilevel(arrays[0], CASES[case].learner)
        tangents = stack([a._replace(x_poison=x, log_strength=s) for a, (x, s) in zip(arrays, ways, strict=True)])

        def slope(at: Any, tangent: Any) -> Any:
            return jax.jvp(lambda x, s: problem.value(x, s, jax.random.key(0)), at, tangent)

        values, slopes = jit(jax.vmap(slope))(stack(arrays), tangents)
    return ways, np.asarray(values), np.asarray(slopes)


@subjects("logistic", "network", "heavy ball")
def test_forward_and_reverse_are_adjoint(method, case, x64):
    ways, values, slopes = along(case, x64)
    found = hypergradients(method, case, x64)
    products = [np.vdot(f[0], w[0]) + np.vdot(f[1], w[1]) for f, w in zip(found, ways, strict=True)]
    assert np.all(np.abs(slopes) > 1e-5)
    np.testing.assert_allclose(np.array(products), slopes, rtol=10 * TOLERANCE[x64])
    np.testing.assert_allclose(compiled(method, case, x64).value, values, rtol=TOLERANCE[x64])


@subjects("logistic", "network", "heavy ball", "ridge", "network, long", slow=("heavy ball", "network, long"))
def test_methods_agree(method, case, x64):
    assert worst_error(hypergradients(method, case, x64), hypergradients("Reverse", case, x64)) < TOLERANCE[x64]


@subjects(*CASES)
def test_one_compilation_serves_all_values(method, case, x64):
    found = compiled(method, case, x64)
    with jax.enable_x64(x64):
        x_poison, log_strength = stack(CASES[case].arrays)
        other = runner(method, case, x64)(x_poison + 0.1, log_strength - 0.1, jax.random.key(1)).value
    assert np.all(found.value != np.asarray(other))
    assert TRACES[method, case, x64] == 1


@subjects("logistic", "network", "heavy ball", "network, long", precisions=(False,))
def test_the_direction_is_right_in_float32(method, case, x64):
    for found, truth in zip(hypergradients(method, case, x64), truths(case), strict=True):
        f, t = (np.concatenate([part.ravel() for part in both]) for both in (found, truth))
        assert f @ t > 0.999 * np.linalg.norm(f) * np.linalg.norm(t)


# Mutants: the victim trains as it should, and one part of its derivative is wrong.


@jax.custom_jvp
def product(x: jax.Array, w: jax.Array, cross: jax.Array) -> jax.Array:
    """x·w; with `cross` = 0 its derivative in x is forgotten, and with it the term of ∇_Xp ∇_w L in which w answers."""
    return x @ w


@product.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x, w, cross), (dx, dw, _) = primals, tangents
    return product(x, w, cross), x @ dw + cross * (dx @ w)


@jax.custom_jvp
def half_square(w: jax.Array, kept: jax.Array) -> jax.Array:
    """‖w‖²/2; with `kept` = 0 its second derivative is forgotten."""
    return 0.5 * (w @ w)


@half_square.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (w, kept), (dw, _) = primals, tangents
    return half_square(w, kept), (kept * w + (1 - kept) * jax.lax.stop_gradient(w)) @ dw


class MutantModel(mi.LogisticRegression):
    cross: Any = None

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        return product(x, params.weight, self.cross) + params.bias


class MutantPenalty(mi.L2):
    kept: Any = None

    def __call__(self, weights: Any, log_strength: jax.Array) -> jax.Array:
        return jnp.exp(log_strength) * half_square(weights, self.kept)


class MutantRule(mi.GradientDescent):
    skipped: Any = None

    def step(self, gradient: Any, state: Any, item: jax.Array) -> Any:
        new = super().step(gradient, state, item)
        return jax.tree.map(lambda leaf: jnp.where(item < self.skipped, jax.lax.stop_gradient(leaf), leaf), new)


FAULTS = {
    "none": (1.0, 1.0, 0),
    "cross term dropped": (0.0, 1.0, 0),
    "regulariser forgotten": (1.0, 0.0, 0),
    "one step too few": (1.0, 1.0, 1),
}


def original(method: str) -> tuple[str, mi.GradientDescent]:
    """The case that a method's mutants are made from, and its rule: Implicit needs an optimum."""
    return ("logistic, long", OPTIMAL) if method == "Implicit" else ("logistic", mi.GradientDescent(RATE, STEPS))


@functools.cache
def mutants(method: str) -> dict[str, Pair]:
    """What a method makes of each fault, all in one compilation."""
    case, rule = original(method)
    arrays = CASES[case].arrays[1]
    x_poison, log_strength, key = point(arrays)

    def found(cross: jax.Array, kept: jax.Array, skipped: jax.Array) -> Any:
        model, penalty = MutantModel(M, cross=cross), MutantPenalty(kept=kept)
        learner = mi.Learner(model, MutantRule(rule.learning_rate, rule.steps, skipped), penalty=penalty, space="plain")
        return METHODS[method](bilevel(arrays, learner), x_poison, log_strength, key)

    poison, hyper = pair(jit(jax.vmap(found))(*(jnp.asarray(part) for part in zip(*FAULTS.values(), strict=True))))
    return dict(zip(FAULTS, zip(poison, hyper, strict=True), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_mutants_fall_off_the_ladder(method):
    """Each is at least five of float32's tolerances from the truth, and so far more of float64's."""
    found = mutants(method)
    truth = dense_implicit(CASES["logistic, long"].arrays[1]) if method == "Implicit" else truths("logistic")[1]
    assert relative_error(found["none"], truth) < TOLERANCE[False]
    broken = {fault: found[fault] for fault in found if fault != "none"}
    broken["sign flipped"] = (-found["none"][0], -found["none"][1])
    if method == "Implicit":  # differentiates no step
        del broken["one step too few"]
    errors = {fault: relative_error(derivatives, truth) for fault, derivatives in broken.items()}
    assert min(errors.values()) > 5 * TOLERANCE[False], errors
