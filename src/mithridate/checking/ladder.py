"""The gradient ladder at one place: every method is compared with central differences and with the other methods.

X_p has too many coordinates to move each of them. So the differences are taken along the hypergradient itself and along
random directions d of X_p. Over these, the relative error of ⟨∇A, d⟩ estimates that of ∇A.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JAXIndexError, JaxRuntimeError, JAXTypeError
from jaxtyping import Array

from mithridate.checking.differences import ROUGH, Place, Slopes, central_differences
from mithridate.errors import InputError, first_line
from mithridate.hypergradients import METHODS, STATUSES, HypergradientMethod, Implicit, Status, number
from mithridate.victims.spaces import gram

TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
"""The relative error up to which a hypergradient agrees."""
DIRECTIONS = 8
FAULTS = (JAXTypeError, JAXIndexError, JaxRuntimeError, TypeError, ValueError, NotImplementedError)
"""What JAX raises for a program that it cannot trace, differentiate or hold in memory."""


class Found(NamedTuple):
    """A method's result: derivatives (X_p's if asked for), status, diagnostics, time and memory."""

    poison: np.ndarray | None
    hyper: np.ndarray
    status: str
    diagnostics: dict[str, float]
    seconds: float
    temp_bytes: float

    def distance(self, other: "Found | None") -> tuple[float, float]:
        """Return the relative distances from another result's derivatives in λ and in X_p; NaN if there are none."""
        if other is None:
            return math.nan, math.nan
        return _relative(self.hyper, other.hyper), _relative(self.poison, other.poison)


def _relative(one: np.ndarray | None, other: np.ndarray | None) -> float:
    if one is None or other is None:
        return math.nan
    apart, size = np.linalg.norm(one - other), np.linalg.norm(other)
    return float(apart / size) if size else (math.inf if apart else 0.0)


class Rung(NamedTuple):
    """One method at one place, its result, verdict and note."""

    name: str
    method: HypergradientMethod
    place: Place
    found: Found | None = None
    verdict: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """Name and space."""
        return f"{self.name} ({self.place.space})"

    @property
    def sound(self) -> bool:
        """Whether it was run and its status is ok."""
        return self.found is not None and self.found.status == "ok"


class Truth(NamedTuple):
    """The directions of X_p (k, n_p, m), the first that of a hypergradient, and the central differences along them."""

    ways: np.ndarray
    slopes: dict[str, Slopes]

    @classmethod
    def of(cls, at: Place, rungs: list[Rung], sharp: float, draw: np.random.Generator) -> "Truth":
        """Take the differences, along the first sound hypergradient and random directions."""
        found = [r.found.poison for r in rungs if r.sound and r.found and r.found.poison is not None]
        ways = np.stack([*found[:1], *draw.normal(size=(DIRECTIONS + (not found), *at.x_poison.shape))])
        ways /= np.linalg.norm(ways, axis=(1, 2), keepdims=True)
        return cls(ways, central_differences(at.widened(), ways, sharp))

    def errors(self, found: Found) -> dict[str, float]:
        """Return the relative error of each part that was asked for and that the differences can test."""
        products = {"hyper": found.hyper.reshape(-1)}
        if found.poison is not None:
            along = np.tensordot(self.ways, found.poison, axes=2)
            products |= {"first": along[:1], "others": along[1:]}
        return {part: self.slopes[part].error(p) for part, p in products.items() if self.slopes[part].tests}

    def agrees(self, found: Found, tolerance: float) -> bool | None:
        """Return whether all errors are within the tolerance plus the differences' uncertainty; None if untested."""
        errors = self.errors(found)
        return all(e <= tolerance + 3 * self.slopes[part].uncertainty for part, e in errors.items()) if errors else None

    def worst(self, found: Found) -> tuple[float, float]:
        """Return the relative errors in λ and in X_p, NaN if unknown."""
        errors = self.errors(found)
        poison = [errors[part] for part in ("first", "others") if part in errors]
        return errors.get("hyper", math.nan), max(poison, default=math.nan)


def try_parts(at: Place) -> None:
    """Raise `InputError` naming the part of the learner that JAX cannot trace or differentiate."""
    learner, (problem, x, strength, key) = at.problem.learner, at
    model, y, shapes = learner.model, problem.y_poison, {}
    trials: dict[str, Callable[[], Any]] = {
        "model.init": lambda: shapes.update(params=jax.eval_shape(model.init, key)),
        "model.logits": lambda: _slope(lambda params, x: jnp.sum(model.logits(params, x)), shapes["params"], x),
        "loss": lambda: _slope(lambda z: jnp.sum(learner.loss(z, y)), y),
        "penalty": lambda: _slope(lambda p: learner.penalty(model.weights(p), strength), shapes["params"]),
        "rule": lambda: jax.eval_shape(problem.value, x, strength, key),
    }
    for part, trial in trials.items():
        try:
            trial()
        except FAULTS as error:
            raise InputError(
                f"JAX cannot trace and differentiate the learner's {part}: {first_line(error)}; write it in jax.numpy, "
                "without NumPy, float() or a Python `if` on values"
            ) from error


def _slope(function: Callable[..., Array], *arguments: Any) -> None:
    jax.eval_shape(jax.grad(function, tuple(range(len(arguments)))), *arguments)


def tried(at: Place, methods: Mapping[str, HypergradientMethod] | None) -> list[Rung]:
    """Return the rungs to run: the first method in every space, the others in the audit's space.

    The default is all methods; for a victim solved to optimality only `Implicit` applies.
    """
    learner, n = at.problem.learner, sum(len(b.y) for b in at.problem.blocks(at.x_poison))
    if methods is None:
        methods = {kind.__name__: kind() for kind in ([Implicit] if learner.solved else METHODS.values())}
    parts = learner.model, learner.penalty
    runs = gram.solves(*parts) if learner.solved else not gram.why_not(*parts)
    small = n * n * at.x_poison.dtype.itemsize <= gram.MOST_BYTES
    spaces = ("plain", "gram") if runs and small else ("plain",)
    (first, method), *others = methods.items()
    return [Rung(first, method, at.within(space)) for space in spaces] + [Rung(*other, at) for other in others]


def climb(rung: Rung) -> Rung:
    """Run a method; if it refuses X_p, run it for λ alone."""
    try:
        return rung._replace(found=_measure(rung.method, rung.place))
    except InputError as refusal:
        alone = rung.place.settled()
        try:
            found = _measure(rung.method, alone)._replace(poison=None)
        except (InputError, *FAULTS):
            return rung._replace(verdict="not run", note=str(refusal))
        minutes = found.seconds * rung.place.x_poison.size / 60
        note = f"run for λ alone; at that pace X_p would take {minutes:.3g} min: {refusal}"
        return rung._replace(place=alone, found=found, note=note)
    except MemoryError as refusal:
        return rung._replace(verdict="not run", note=str(refusal))
    except FAULTS as error:
        return rung._replace(verdict="failed", note=f"{type(error).__name__}: {first_line(error)}")


def _measure(method: HypergradientMethod, place: Place) -> Found:
    """Compile a method and call it, up to five times in two seconds."""
    arrays, static = eqx.partition(place, eqx.is_array)

    def hypergradient(arrays: Any) -> Any:
        found = method(*eqx.combine(arrays, static))
        return found.poison, found.hyper, number(found.status), found.diagnostics

    compiled = jax.jit(hypergradient).lower(arrays).compile()
    planned, seconds = compiled.memory_analysis(), []
    temp_bytes = float(getattr(planned, "temp_size_in_bytes", math.nan))
    if temp_bytes > (room := _memory()):
        raise MemoryError(f"it needs {temp_bytes / 2**30:.3g} GiB of memory, and {room / 2**30:.3g} are there")
    while True:
        started = time.perf_counter()
        poison, hyper, status, diagnostics = jax.block_until_ready(compiled(arrays))
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 5 or sum(seconds) > 2:
            break
    return Found(
        np.asarray(poison, dtype=float),
        np.asarray(hyper, dtype=float),
        STATUSES[int(status)],
        {name: float(value) for name, value in diagnostics.items()},
        float(np.median(seconds)),
        temp_bytes,
    )


def _memory() -> float:
    """Return the bytes of memory on the device; infinite if it does not tell."""
    if stats := jax.devices()[0].memory_stats():
        return float(stats.get("bytes_limit", math.inf))
    known = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES") if known else math.inf


def judged(rung: Rung, truth: Truth, reference: Rung | None, precision: str) -> Rung:
    """Return the rung with its verdict and, if it does not agree, the reason.

    A method that misses its tolerance in float32 is run again in float64, where rounding cannot be the reason.
    """
    found, tolerance = rung.found, TOLERANCE[precision]
    if found is None:
        return rung

    def said(verdict: str, *why: str) -> Rung:
        return rung._replace(verdict=verdict, note="; ".join(note for note in (*why, rung.note) if note))

    if found.status != "ok":
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in found.diagnostics.items() if value == value)
        remedy = Status[getattr(Status, found.status)]
        return said(found.status.replace("_", " "), f"{remedy} ({numbers})" if numbers else remedy)
    held, apart = truth.agrees(found, tolerance), found.distance(reference.found if reference else None)
    if held is None:
        return said("no test", "the central differences are too uncertain to test it")
    if held and not any(distance > tolerance for distance in apart):
        return said("agrees")
    errors = told(*truth.worst(found))
    if precision == "float32":
        wide = _in_float64(rung)
        if wide.status == "ok" and truth.agrees(wide, TOLERANCE["float64"]):
            small = max(d for d in found.distance(wide) if not math.isnan(d)) <= ROUGH
            note = f"off by {errors}, in float64 by {told(*truth.worst(wide))}"
            return said(*("rounding", note) if small else ("disagrees", f"float32 is not enough: {note}"))
    between = f"; from {reference.label} by {told(*apart)}" if reference and reference is not rung else ""
    return said("disagrees", f"its status is ok, but it is off by {errors}{between}")


def _in_float64(rung: Rung) -> Found:
    place = rung.place.widened()
    with jax.enable_x64(True):
        found = _measure(rung.method, place)
    return found if rung.found and rung.found.poison is not None else found._replace(poison=None)


def told(hyper: float, poison: float) -> str:
    """Return the known relative errors in words."""
    known = [(name, e) for name, e in (("λ", hyper), ("X_p", poison)) if not math.isnan(e)]
    return " and ".join(f"{e:.1e} in {name}" for name, e in known)
