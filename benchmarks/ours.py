"""This project's methods and JAXopt's as subjects of a benchmark, and the converged references of the implicit ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mithridate as mi
from common import Case, Subject
from mithridate.hypergradients import Status
from peers import jaxopt_step

OUTER_STEPS = 20
POISON_STEP = 0.99
FAULTS = ("non_finite", "flat", "drifted", "overflowed", "not_stationary", "unsolved", "singular")


class Found(NamedTuple):
    """∂X_p, ∂λ, at which points, which faults of `FAULTS` a method reports, and its diagnostics."""

    poison: Any
    hyper: Any
    points: Any
    faults: Any
    diagnostics: dict[str, Any]

    @classmethod
    def of(cls, found: mi.Hypergradient, points: Any) -> "Found":
        """Return what a benchmark needs of a hypergradient."""
        faults = jnp.stack([found.status == getattr(Status, name) for name in FAULTS])
        return cls(found.poison, found.hyper, points, faults, found.diagnostics)

    def remark(self) -> str:
        """Return faults, and the mean numbers of iterations."""
        seen = np.atleast_2d(self.faults).any(axis=0)
        counts = [name for name in ("newton_steps", "newton_cg_steps", "cg_steps") if name in self.diagnostics]
        parts = [f"{np.mean(self.diagnostics[name]):.1f} {name}" for name in counts]
        return ", ".join([name.upper() for name, bad in zip(FAULTS, seen, strict=True) if bad] + parts)


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[[], Any], int | None]:
    """Return the compiled call, which returns when it has finished, and the bytes XLA will allocate meanwhile.

    Arrays are arguments of what is compiled, not constants in it.
    """
    arrays, static = eqx.partition(args, eqx.is_array)
    program = jax.jit(lambda arrays: function(*eqx.combine(arrays, static))).lower(arrays).compile()
    memory = program.memory_analysis()
    return lambda: jax.block_until_ready(program(arrays)), memory and memory.temp_size_in_bytes


def once(method: mi.HypergradientMethod, problem: mi.Bilevel, points: Any, *at: Any) -> Found:
    """Return what one call finds."""
    return Found.of(method(problem, points, *at), points)


def subject(name: str, truth: Any, function: Callable[..., Any], *args: Any, calls: int = 1) -> Subject:
    """Return a compiled function as a subject; `truth`, the derivatives or how to find them from a result."""
    run, temporary = compiled(function, *args)
    true = truth if callable(truth) else lambda _: truth
    remark = Found.remark if function is once or calls > 1 else None
    return Subject(name, run, calls, temporary, truth=true if truth else None, remark=remark)


def unrolled(
    name: str, method: mi.HypergradientMethod, case: Case, space: str, truth: Any, rule: Any = None
) -> Subject:
    """Return a method that differentiates the T steps."""
    return subject(name, truth, once, method, case.problem(space, rule), *case.at())


def forward(name: str, case: Case, space: str, truth: Any) -> Subject:
    """Return Algorithm 3 for λ alone: the points are rows like the others then, their part of K at hand as well."""
    points, *at = case.at()
    problem = case.problem(space).settled(points)
    if space == "gram":
        problem = replace(problem, rest=problem.rest.with_gram())
    return subject(name, (np.zeros(0), truth[1]), once, mi.Forward(), problem, points[:0], *at)


def implicit_cold(case: Case) -> Subject:
    """Return the implicit hypergradient with nothing known beforehand."""
    problem, truth = case.problem(rule=mi.Exact()), converged(case, case.poison[0][None])
    return subject(f"Implicit, cold, λ = {case.log_strength:g}", truth, once, mi.Implicit(), problem, *case.at())


def implicit_warm(case: Case) -> Subject:
    """Return the outer steps of an attack on a solved victim, each from the memory of the one before."""
    return within_attack("Implicit, warm", mi.Implicit(), case, case.problem(rule=mi.Exact()), _converged_at(case))


def within_attack(name: str, method: mi.HypergradientMethod, case: Case, problem: mi.Bilevel, truth: Any) -> Subject:
    """Return an attack's outer steps at fixed λ in one compiled loop, as an attack takes them.

    The first memory (for a solved victim, its optimum at the starting points) is made beforehand, as it is once for a
    whole attack.
    """
    at = case.at()
    memory = eqx.filter_jit(method.start)(problem, *at)

    def attack(
        method: mi.HypergradientMethod, problem: mi.Bilevel, points: Any, log_strength: Any, key: Any, memory: Any
    ) -> Found:
        def step(carry: Any, _: None) -> tuple[Any, Found]:
            points, memory = carry
            found = method(problem, points, log_strength, key, memory)
            return (_moved(case.box, points, found.poison), found.memory), Found.of(found, points)

        return jax.lax.scan(step, (points, memory), length=OUTER_STEPS)[1]

    name = f"{name}, λ = {case.log_strength:g}"
    return subject(name, truth, attack, method, problem, *at, memory, calls=OUTER_STEPS)


def jaxopt_cold(case: Case) -> Subject:
    """Return JAXopt's implicit differentiation, the victim solved from w0."""
    name, start = f"JAXopt, cold, λ = {case.log_strength:g}", (jnp.zeros(case.m), jnp.zeros(()))
    step, truth = jaxopt_step(case), converged(case, case.poison[0][None])
    return subject(name, truth, lambda *args: step(*args)[1:], start, *case.at()[:2])


def jaxopt_warm(case: Case) -> Subject:
    """Return the same outer steps with JAXopt, its solver started from the last w*; the first is found beforehand."""
    step, (points, strength, _) = jaxopt_step(case), case.at()
    start, *_ = jax.jit(step)((jnp.zeros(case.m), jnp.zeros(())), points, strength)

    def attack(start: Any, points: Any, log_strength: Any) -> Found:
        def outer(carry: Any, _: None) -> tuple[Any, Found]:
            params, points = carry
            params, poison, hyper = step(params, points, log_strength)
            found = Found(poison, hyper, points, jnp.zeros(len(FAULTS), bool), {})
            return (params, _moved(case.box, points, poison)), found

        return jax.lax.scan(outer, (start, points), length=OUTER_STEPS)[1]

    name = f"JAXopt, warm, λ = {case.log_strength:g}"
    return subject(name, _converged_at(case), attack, start, points, strength, calls=OUTER_STEPS)


def converged(case: Case, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ∂X_p and ∂λ at each of the points (k, n_p, m), converged in float64."""
    with jax.enable_x64(True):
        problem, (_, *at), method = case.problem(rule=mi.Exact(1e-10)), case.at(), mi.Implicit(tolerance=1e-10)
        found = [_once(method, problem, jnp.asarray(np.asarray(x), dtype=float), *at) for x in points]
        if bad := [f.remark() for f in found if np.any(f.faults)]:
            raise RuntimeError(f"the float64 reference is none: {bad[0]}")
        return np.stack([f.poison for f in found]), np.stack([f.hyper for f in found])


_once = eqx.filter_jit(once)


def _converged_at(case: Case) -> Callable[[Found], tuple[np.ndarray, np.ndarray]]:
    return lambda found: converged(case, found.points)


def _moved(box: mi.Box, points: jax.Array, slope: jax.Array) -> jax.Array:
    """Return the points after a normalised step of ascent, projected onto the box."""
    return box.project(points + POISON_STEP * slope / jnp.linalg.norm(slope, axis=1, keepdims=True))
