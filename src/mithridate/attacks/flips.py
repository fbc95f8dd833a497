"""Labels flipped and nothing optimised: the cheapest attack, which every other one has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Points
from mithridate.attacks.starts import clones


@dataclass(frozen=True, kw_only=True)
class Flips(Attacker):
    """Clones of the rows that the attacker aims at, their labels flipped, as Algorithm 1 starts from (App. B)."""

    name: ClassVar[str] = "flips"

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Return the clones (see `starts.clones`)."""
        return clones(self, x, y)

    def words(self) -> str:
        """Return that nothing is moved."""
        return "flips labels and moves nothing: no feature of its points changes"
