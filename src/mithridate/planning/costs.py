"""What a computation costs, read from its jaxpr before anything is compiled or allocated.

Operations are counted through loops. The memory is that of all values that are alive at once: each lives from the
equation that makes it to the last that reads it, a loop's body in one copy and what the loop stacks up in full. So the
trajectory that reverse mode keeps is counted as it is, whatever the rule of training, its coordinates and the method.

JAX documents what a jaxpr is, but not the parameters of its equations. Only this file reads them, and it reads few (the
tested range of JAX is in `versions`). A form that is not known here raises some error, and `plan` then says that time
and memory are unknown.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax

from mithridate.victims.spaces.gram import NARROW

UNKNOWN = 20
"""Times that a loop runs which ends when its solution is good: Newton's and conjugate gradient's, measured."""

CUBIC = {"cholesky": 1 / 3, "lu": 2 / 3, "qr": 2.0, "eigh": 9.0, "svd": 20.0, "triangular_solve": 1.0}
"""Operations of LAPACK's routines on an n × n matrix, over n³."""

VIEWS = ("reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "stop_gradient", "iota", "transpose")
"""What XLA computes where it is read; it has no memory of its own."""

CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat2", "checkpoint", "shard_map"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    "vprim",  # Equinox's
)
"""What computes what its inner programs compute, once each."""

HIDDEN = ("call_hi_primitive",)
"""What computes programs that are not among its parameters: `jax.lax.custom_root`, from JAX 0.12 on."""

Jaxpr = Any
"""A program of JAX: with `invars`, `outvars` and `eqns`, or around one in `jaxpr`, as before JAX 0.12 where it has
constants."""


class Cost(NamedTuple):
    """Operations (`flops`), the number of kernels started, and the most bytes alive at once, arguments left out."""

    flops: float
    kernels: float
    peak: int


def cost_of(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Return what a call costs; arguments may be shapes (`jax.ShapeDtypeStruct`), and nothing is computed.

    Example:
        >>> import jax.numpy as jnp
        >>> cost_of(lambda x: x @ x.T, jax.ShapeDtypeStruct((100, 50), jnp.float32))
        Cost(flops=1000000.0, kernels=1.0, peak=40000)
    """
    return _cost(opened(eqx.filter_make_jaxpr(function)(*arguments)[0]))


def size_of(tree: Any) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _bytes(value: Any) -> int:
    # The bits of a random key are not in its type; they are a few.
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
        # What reads its arguments once, in order, can write where they were.
        reused = min(freed, sum(made.values())) if not inner.peak and equation.primitive.name != "dot_general" else 0
        peak = max(peak, held + sum(made.values()) - reused + inner.peak)
        held += sum(made.values()) - freed
        alive |= made
        unread = [v for v in made if v not in last]
        held -= sum(alive.pop(v) for v in unread)
    return Cost(flops, kernels, peak)


def _equation(equation: Any) -> Cost:
    """Return the cost of one equation; `peak` is what it holds besides its arguments and results."""
    name, params = equation.primitive.name, equation.params
    outputs = sum(math.prod(v.aval.shape) for v in equation.outvars)
    match name:
        case "scan":
            (body,) = _parts(params)
            # What is handed from step to step comes out in the shape that it has inside; the rest is stacked up.
            pairs = zip(body.outvars, equation.outvars, strict=True)
            carry = sum(_bytes(inside.aval) for inside, out in pairs if inside.aval.shape == out.aval.shape)
            step = _cost(body)
            return Cost(step.flops * params["length"], step.kernels * params["length"], step.peak + carry)
        case "while" | "linear_solve":  # the latter is Lineax's, by conjugate gradients
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
            # As in `gram.pays`: a narrow product takes as long as one with a few columns.
            rows, columns = max(sides), min(max(NARROW, min(sides)), max(sides))
            return Cost(2.0 * batch * inside * rows * columns, 1.0, 0)
        case _ if name in CUBIC:
            matrix = equation.invars[0].aval.shape
            return Cost(CUBIC[name] * math.prod(matrix) * matrix[-1], 1.0, size_of([v.aval for v in equation.invars]))
    if name in HIDDEN:
        raise LookupError(f"what JAX's {name!r} computes cannot be seen")
    inner = [_cost(part) for part in _parts(params)] if outputs else []
    if name.startswith(("scatter", "reduce", "cumsum", "sort")) or not inner:
        return Cost(0.0 if name in VIEWS else float(outputs), 0.0 if name in VIEWS else 1.0, 0)
    if name not in CALLS:
        raise LookupError(f"what JAX's {name!r} does with the programs in it is not known here")
    return Cost(sum(p.flops for p in inner), sum(p.kernels for p in inner), max(p.peak for p in inner))


def _parts(params: dict[str, Any]) -> list[Jaxpr]:
    """Return the programs that an equation calls, in whatever its parameters hold them."""
    return [opened(leaf) for leaf in jax.tree.leaves(params, is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _is_literal(value: Any) -> bool:
    return hasattr(value, "val")


def opened(jaxpr: Jaxpr) -> Jaxpr:
    """Return a program itself."""
    return getattr(jaxpr, "jaxpr", jaxpr)
