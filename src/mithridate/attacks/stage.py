"""The state of an attack before a batch: everything that crafting the batch may use."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

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


def groups_of(groups: np.ndarray, n: int, places: np.ndarray | None, width: int) -> Array:
    """Return the group of each of n rows, then of the points in these places, up to the width.

    Rows past those whose `groups` are known were added, and each is a group of its own.
    """
    known = np.append(groups, groups.max() + 1 + np.arange(n - len(groups)))
    points = known[:0] if places is None else known[np.pad(places, (0, width - len(places)))]
    return jnp.asarray(np.append(known, points), dtype=float)
