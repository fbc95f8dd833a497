"""Sanitisers: which rows a defender removes before he trains."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mithridate.data.feasible import Balls, Box, FeasibleSet
from mithridate.errors import InputError
from mithridate.victims.rows import Rows

CLASSES = 128
"""Labels are below this."""


class Sphere(eqx.Module):
    """The sphere filter (Steinhardt et al., 2017; Koh et al., 2018): it removes the rows far from their class's mean.

    In each class with n rows, poison included, it removes the ⌊`share`·n⌋ rows that lie farthest from the mean of all n
    rows. A row at the same distance as a row that stays, stays too. Raises `InputError` for a share outside (0, 1).

    Example:
        >>> import numpy as np
        >>> from mithridate import Rows
        >>> rows = Rows.of(np.array([[0.0], [1.0], [2.0], [9.0], [5.0]]), np.array([0, 0, 0, 0, 1]))
        >>> Sphere(0.25).sanitise(rows).tolist()
        [1.0, 1.0, 1.0, 0.0, 1.0]
    """

    share: float

    def __check_init__(self):
        if not 0 < self.share < 1:
            raise InputError(f"sphere = {self.share:g}: the share of rows to take out must lie between 0 and 1")

    @property
    def name(self) -> str:
        """`sphere=SHARE`."""
        return f"sphere={100 * self.share:g}%"

    def words(self) -> str:
        """Return which rows are removed."""
        return f"leaves out the {100 * self.share:g}% of each class's training rows farthest from the class's mean"

    def sanitise(self, rows: Rows) -> Float[Array, " n"]:
        """Return the weights of the rows, 0 for removed rows."""
        there, label = rows.weight > 0, rows.y.astype(int)

        def of_class(values: Array) -> Array:
            return jax.ops.segment_sum(
                jnp.where(there.reshape(-1, *(1 for _ in values.shape[1:])), values, 0), label, CLASSES
            )

        many = of_class(jnp.ones_like(label))
        means = of_class(rows.x) / jnp.maximum(many, 1)[:, None]
        distance = jnp.where(there, jnp.linalg.norm(rows.x - means[label], axis=1), jnp.inf)
        # Sorted by class, then by distance: `nearest` at an index is the last row of the class that stays.
        nearest = distance[jnp.lexsort((distance, label))]
        first = jnp.cumsum(jnp.bincount(label, length=CLASSES)) - jnp.bincount(label, length=CLASSES)
        stay = jnp.maximum(many - jnp.floor(self.share * many).astype(int), 1)
        return jnp.where(distance <= nearest[first + stay - 1][label], rows.weight, 0.0)

    def accepts(self, feasible: FeasibleSet) -> bool:
        """Return whether Φ is a box, the only set that `accepted` can cut."""
        return isinstance(feasible, Box)

    def accepted(self, rows: Rows, y: Float[np.ndarray, " k"], feasible: FeasibleSet) -> FeasibleSet:
        """Return the parts of the box in which points with these labels pass: balls about the class means of `rows`.

        The radius is the distance of the last row that stays if all new points lie nearer. The points also move the
        means; this is ignored.
        """
        assert isinstance(feasible, Box)  # see accepts
        x, labels, there = np.asarray(rows.x), np.asarray(rows.y), np.asarray(rows.weight) > 0
        centres, radii = np.zeros((len(y), x.shape[1])), np.full(len(y), np.inf)
        for label in np.unique(y):
            own, new = x[there & (labels == label)].astype(float), y == label
            if not len(own):
                continue
            centre, total = own.mean(axis=0), len(own) + int(new.sum())
            stay = max(1, total - math.floor(self.share * total) - int(new.sum()))
            centres[new], radii[new] = centre, np.sort(np.linalg.norm(own - centre, axis=1))[stay - 1]
        return Balls(feasible, centres, radii)
