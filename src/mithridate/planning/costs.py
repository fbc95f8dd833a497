"""Reads from a jaxpr what a computation costs, before anything is compiled or allocated.

Operations are counted through loops. The memory is the largest sum of all arrays that exist at once. We count each
array from the equation that creates it to the last equation that reads it. The body of a loop counts once; arrays that
the loop stacks up count in full. So the trajectory that reverse mode keeps is counted, for every training rule,
coordinates and method.

JAX documents what a jaxpr is, but not the parameters of its equations. Only this file reads these parameters, and only
a few (`versions` has the tested range of JAX). A form that is unknown here raises an error, and `plan` then says that
time and memory are unknown.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax

from mithridate.victims.spaces.gram import NARROW

UNKNOWN = 20
"""The assumed number of turns of a loop that ends on convergence, as in Newton's method and conjugate gradients
(measured)."""

CUBIC = {"cholesky": 1 / 3, "lu": 2 / 3, "qr": 2.0, "eigh": 9.0, "svd": 20.0, "triangular_solve": 1.0}
"""Operations of LAPACK's routines on an n × n matrix, divided by n³."""

VIEWS = ("reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "stop_gradient", "iota", "transpose")
"""Primitives that XLA computes when their result is read: they need no memory of their own."""

CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat2", "checkpoint", "shard_map"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    "vprim",  # Equinox's
)
"""Primitives that run each of their inner programs once."""

HIDDEN = ("call_hi_primitive",)
"""Primitives whose inner programs are not among their parameters: `jax.lax.custom_root`, since JAX 0.12."""

Jaxpr = Any
"""A program of JAX with `invars`, `outvars` and `eqns`, or an object that has it as `jaxpr` (a program with constants
before JAX 0.12)."""


class Cost(NamedTuple):
    """The operations (`flops`), the started `kernels`, and the most bytes at once besides the arguments (`peak`)."""

    flops: float
    kernels: float
    peak: int


def cost_of(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Return what a call costs; nothing is computed. Arguments may be shapes (`jax.ShapeDtypeStruct`).

    Raises `LookupError` or another error for a program that is not understood.

    Example:
        >>> import jax.numpy as jnp
        >>> cost_of(lambda x: x @ x.T, jax.ShapeDtypeStruct((100, 50), jnp.float32))
        Cost(flops=1000000.0, kernels=1.0, peak=40000)
    """
    return _cost(opened(eqx.filter_make_jaxpr(function)(*arguments)[0]))


def size_of(tree: Any) -> int:
    """Return the bytes of all arrays in a tree, or of the arrays with these shapes."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _bytes(value: Any) -> int:
    # The type of a random key does not say its size, which is small.
    return math.prod(value.shape) * getattr(value.dtype, "itemsize", 8)


def _cost(jaxpr: Jaxpr) -> Cost:
    last: dict[Any, int] = {}
    for place, equation in enumerate(jaxpr.eqns):
        last |= {v: place for v in equation.invars if not _is_literal(v)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not _is_literal(v)}
    alive: dict[Any, int] = {}
    flops = kernels = 0.0
    held = peak = 0
    for place, equation in enumerate(jaxpr.eqns):
        inner = _equation(equation)
        flops, kernels = flops + inner.flops, kernels + inner.kernels
        view = equation.primitive.name in VIEWS
        dying = {v for v in equation.invars if not _is_literal(v) and last[v] == place}
        made = {} if view else {v: _bytes(v.aval) for v in equation.outvars}
        freed = sum(alive.pop(v, 0) for v in dying)
        # An equation that reads its arguments once, in order, can write its results over them.
        reused = min(freed, sum(made.values())) if not inner.peak and equation.primitive.name != "dot_general" else 0
        peak = max(peak, held + sum(made.values()) - reused + inner.peak)
        held += sum(made.values()) - freed
        alive |= made
        unread = [v for v in made if v not in last]
        held -= sum(alive.pop(v) for v in unread)
    return Cost(flops, kernels, peak)


def _equation(equation: Any) -> Cost:
    """Return the cost of one equation; `peak` does not include its arguments and results."""
    name, params = equation.primitive.name, equation.params
    outputs = sum(math.prod(v.aval.shape) for v in equation.outvars)
    match name:
        case "scan":
            (body,) = _parts(params)
            # The carry has the same shape outside as inside; all other outputs are stacked up.
            pairs = zip(body.outvars, equation.outvars, strict=True)
            carry = sum(_bytes(inside.aval) for inside, out in pairs if inside.aval.shape == out.aval.shape)
            step = _cost(body)
            return Cost(step.flops * params["length"], step.kernels * params["length"], step.peak + carry)
        case "while" | "linear_solve":  # Lineax solves the latter by conjugate gradients
            steps = [_cost(part) for part in _parts(params)]
            flops, kernels = UNKNOWN * sum(s.flops for s in steps), UNKNOWN * sum(s.kernels for s in steps)
            handed = sum(_bytes(v.aval) for v in equation.outvars)
            return Cost(flops, kernels, max((s.peak for s in steps), default=0) + handed)
        case "cond":
            branches = [_cost(branch) for branch in _parts(params)]
            return Cost(max(b.flops for b in branches), max(b.kernels for b in branches), max(b.peak for b in branches))
        case "custom_linear_solve":
            return _cost(opened(params["jaxprs"].solve))
        case "dot_general":
            (contracted, _), (batched, _) = params["dimension_numbers"]
            left, right = (v.aval.shape for v in equation.invars)
            inside = math.prod(left[i] for i in contracted)
            batch = math.prod(left[i] for i in batched)
            sides = (math.prod(left) // (inside * batch), math.prod(right) // (inside * batch))
            # As in `gram.pays`: a very narrow product takes as long as one with `NARROW` columns.
            rows, columns = max(sides), min(max(NARROW, min(sides)), max(sides))
            return Cost(2.0 * batch * inside * rows * columns, 1.0, 0)
        case _ if name in CUBIC:
            matrix = equation.invars[0].aval.shape
            return Cost(CUBIC[name] * math.prod(matrix) * matrix[-1], 1.0, size_of([v.aval for v in equation.invars]))
    if name in HIDDEN:
        raise LookupError(f"the programs that JAX's {name!r} runs cannot be read")
    inner = [_cost(part) for part in _parts(params)] if outputs else []
    if name.startswith(("scatter", "reduce", "cumsum", "sort")) or not inner:
        return Cost(0.0 if name in VIEWS else float(outputs), 0.0 if name in VIEWS else 1.0, 0)
    if name not in CALLS:
        raise LookupError(f"it is not known how JAX's {name!r} runs its inner programs")
    return Cost(sum(p.flops for p in inner), sum(p.kernels for p in inner), max(p.peak for p in inner))


def _parts(params: dict[str, Any]) -> list[Jaxpr]:
    """Return the programs that an equation runs, wherever they are in its parameters."""
    return [opened(leaf) for leaf in jax.tree.leaves(params, is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _is_literal(value: Any) -> bool:
    return hasattr(value, "val")


def opened(jaxpr: Jaxpr) -> Jaxpr:
    """Return the program itself, without an object around it."""
    return getattr(jaxpr, "jaxpr", jaxpr)
