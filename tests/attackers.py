"""The cheapest of attackers: what it does to a victim is not what is tested."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import mithridate as mi


@dataclass(frozen=True, kw_only=True)
class Relabelling(mi.Attacker):
    """Gives the first training rows the labels that they do not have; nothing of it is compiled."""

    name: ClassVar[str] = "relabelling"

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> mi.Points:
        k = self.points
        return mi.Points(x=x[:k], y=1 - y[:k], places=np.arange(k))

    def words(self) -> str:
        return "relabels the first rows"
