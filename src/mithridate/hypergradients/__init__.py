"""Ways to the derivative of the outer objective through training: same problem in, same result out."""

from mithridate.hypergradients.problem import Bilevel, Hypergradient, HypergradientMethod, Status
from mithridate.hypergradients.reverse import Reverse

__all__ = ["Bilevel", "Hypergradient", "HypergradientMethod", "Reverse", "Status"]
