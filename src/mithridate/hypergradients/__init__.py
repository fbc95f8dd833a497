"""Ways to the derivative of the outer objective through training: same problem in, same result out."""

from mithridate.hypergradients.forward import Combined, Forward
from mithridate.hypergradients.implicit import Implicit
from mithridate.hypergradients.problem import Bilevel, Hypergradient, HypergradientMethod, Status
from mithridate.hypergradients.reverse import Checkpointed, Reverse
from mithridate.hypergradients.reversible import Reversible

__all__ = [
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
]
