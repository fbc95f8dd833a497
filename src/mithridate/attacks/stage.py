"""Where an attack stands before a batch: all that crafting it may look at."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mithridate.attacks.poison import Batch, Points
from mithridate.defences.base import Policy, Strength
from mithridate.victims.rows import Rows

Judge = Callable[[Batch], tuple[float, float]]
"""What a batch is worth: the attacker's success on D_target, and A."""


class Stage(NamedTuple):
    """Where an attack stands before a batch: on D_tr, x (n, m) and y (n,), and `rows`, it with the poison so far.

    The batch's points are those from `first` to `end`, `points` where they start if that is known; `policy` and
    `log_strength`, the defender as he stands; `target` and `valid` as in `Bilevel`; `last`, the batch
    before; `judge`, by whom batches are compared (default: by the victim as trained inside the attack).
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
