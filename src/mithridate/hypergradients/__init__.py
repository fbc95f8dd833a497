"""Methods for the derivative of the outer objective through training; all take the same problem."""

from mithridate.hypergradients.averaged import Averaged
from mithridate.hypergradients.forward import Combined, Forward
from mithridate.hypergradients.implicit import Implicit
from mithridate.hypergradients.problem import (
    STATUSES,
    Bilevel,
    Hypergradient,
    HypergradientMethod,
    Status,
    number,
)
from mithridate.hypergradients.reverse import Checkpointed, Reverse
from mithridate.hypergradients.reversible import Reversible

METHODS: dict[str, type[HypergradientMethod]] = {
    method.__name__.lower(): method for method in (Reverse, Checkpointed, Reversible, Forward, Implicit)
}
"""The five ways of the paper, by the names of the configuration."""

__all__ = [
    "METHODS",
    "STATUSES",
    "Averaged",
    "Bilevel",
    "Checkpointed",
    "Combined",
    "Forward",
    "Hypergradient",
    "HypergradientMethod",
    "Implicit",
    "Reverse",
    "Reversible",
    "Status",
    "number",
]
