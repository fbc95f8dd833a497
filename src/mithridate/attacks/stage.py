"""The state of an attack before a batch: everything that crafting the batch may use."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mithridate.attacks.poison import Batch, Points
from mithridate.defences.base import Policy, Strength
from mithridate.victims.rows import Rows

Judge = Callable[[Batch], tuple[float, float]]
"""What a batch is worth: the attacker's success on D_target, and A."""


class Stage(NamedTuple):
    """The state of an attack before a batch.

    `x` (n, m) and `y` (n,): D_tr; `rows`: D_tr with the poison so far. The batch has the points `first` to `end`;
    `points`: their starting points, if known. `policy`, `log_strength`: the defender and his present λ; `target`,
    `valid`: as in `Bilevel`; `last`: the batch before; `judge`: compares batches (default: by the victim that is
    trained inside the attack).
    """

    x: np.ndarray
    y: np.ndarray
    rows: Rows
    first: int
    end: int
    points: Points | None
    policy: Policy
    log_strength: Strength
    target: Rows
    valid: Rows | None
    last: Batch | None
    judge: Judge | None
