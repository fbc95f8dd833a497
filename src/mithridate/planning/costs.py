"""What a computation costs, read from its jaxpr before anything is compiled or allocated.

Operations are counted through loops. The memory is that of all values that are alive at once: each lives from the
equation that makes it to the last that reads it, a loop's body in one copy and what the loop stacks up in full. So the
trajectory that reverse mode keeps is counted as it is, whatever the rule of training, its coordinates and the method.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from mithridate.gram import NARROW

UNKNOWN = 20
"""Times that a loop runs which ends when its solution is good: Newton's and conjugate gradient's, measured."""

CUBIC = {"cholesky": 1 / 3, "lu": 2 / 3, "qr": 2.0, "eigh": 9.0, "svd": 20.0, "triangular_solve": 1.0}
"""Operations of LAPACK's routines on an n × n matrix, over n³."""

VIEWS = ("reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "stop_gradient", "iota", "transpose")
"""What XLA computes where it is read; it has no memory of its own."""


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
    return _cost(eqx.filter_make_jaxpr(function)(*arguments)[0].jaxpr)


def size_of(tree: Any) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _bytes(value: Any) -> int:
    # The bits of a random key are not in its type; they are a few.
    return math.prod(value.shape) * getattr(value.dtype, "itemsize", 8)


def _cost(jaxpr: Jaxpr) -> Cost:
    last: dict[Any, int] = {}
    for place, equation in enumerate(jaxpr.eqns):
        last |= {v: place for v in equation.invars if not isinstance(v, Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    alive: dict[Any, int] = {}
    flops = kernels = 0.0
    held = peak = 0
    for place, equation in enumerate(jaxpr.eqns):
        inner = _equation(equation)
        flops, kernels = flops + inner.flops, kernels + inner.kernels
        view = equation.primitive.name in VIEWS
        dying = {v for v in equation.invars if not isinstance(v, Literal) and last[v] == place}
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
            carry = sum(_bytes(v.aval) for v in params["jaxpr"].jaxpr.outvars[: params["num_carry"]])
            body = _cost(params["jaxpr"].jaxpr)
            return Cost(body.flops * params["length"], body.kernels * params["length"], body.peak + carry)
        case "while":
            body, test = (_cost(params[part].jaxpr) for part in ("body_jaxpr", "cond_jaxpr"))
            flops, kernels = UNKNOWN * (body.flops + test.flops), UNKNOWN * (body.kernels + test.kernels)
            return Cost(flops, kernels, body.peak + sum(_bytes(v.aval) for v in equation.outvars))
        case "cond":
            branches = [_cost(branch.jaxpr) for branch in params["branches"]]
            return Cost(max(b.flops for b in branches), max(b.kernels for b in branches), max(b.peak for b in branches))
        case "custom_linear_solve":
            return _cost(params["jaxprs"].solve.jaxpr)
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
    inner = [_cost(part) for part in _parts(params)] if outputs else []
    if name.startswith(("scatter", "reduce", "cumsum", "sort")) or not inner:
        return Cost(0.0 if name in VIEWS else float(outputs), 0.0 if name in VIEWS else 1.0, 0)
    return Cost(sum(p.flops for p in inner), sum(p.kernels for p in inner), max(p.peak for p in inner))


def _parts(params: dict[str, Any]) -> list[Jaxpr]:
    """Return the jaxprs that an equation calls."""
    found = [part.jaxpr if isinstance(part, ClosedJaxpr) else part for part in params.values()]
    return [part for part in found if isinstance(part, Jaxpr)]
