"""Labelled rows: the one form in which training and validation data reach the numerical code."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mithridate.errors import InputError


class Rows(NamedTuple):
    """n labelled rows with weights; a weight of 0 takes a row out without changing any shape.

    `x` is (n, m), `y` (n,) with labels 0 … K − 1, `weight` (n,); `gram`, where at hand, is x·xᵀ (n, n), which Gram
    space then need not compute.
    """

    x: Float[Array, "n m"]
    y: Float[Array, " n"]
    weight: Float[Array, " n"]
    gram: Float[Array, "n n"] | None = None

    @classmethod
    def of(cls, x: np.ndarray | Array, y: np.ndarray | Array, capacity: int | None = None) -> "Rows":
        """Put rows on the device in the default float type, each with weight 1.

        With a `capacity`, rows of zeros and weight 0 follow up to that number.
        """
        spare = (0, (capacity or len(y)) - len(y))
        features = jnp.asarray(np.pad(np.asarray(x), (spare, (0, 0))), dtype=float)
        labels = jnp.asarray(np.pad(np.asarray(y), spare), dtype=float)
        return cls(features, labels, jnp.asarray(np.pad(np.ones(len(y)), spare), dtype=float))

    @property
    def size(self) -> Float[Array, ""]:
        """The number of rows that count."""
        return jnp.sum(self.weight)

    def with_gram(self) -> "Rows":
        """Return the same rows with their Gram matrix."""
        return self._replace(gram=self.x @ self.x.T)

    def replaced(self, places: Int[Array, " k"], others: "Rows") -> "Rows":
        """Return the rows with `others` (k rows) in these places; a place past the end takes nothing."""

        def put(old: Array, new: Array) -> Array:
            return old.at[places].set(new, mode="drop")

        x, y, weight = (put(old, new) for old, new in zip(self[:3], others[:3], strict=True))
        if self.gram is None:
            return Rows(x, y, weight)
        across = others.x @ x.T
        gram = self.gram.at[places, :].set(across, mode="drop").at[:, places].set(across.T, mode="drop")
        return Rows(x, y, weight, gram)

    def take(self, index: Int[Array, " b"], real: Bool[Array, " b"]) -> "Rows":
        """Return the rows of these numbers, those that are not `real` with weight 0."""
        return Rows(self.x[index], self.y[index], self.weight[index] * real)

    def with_weight(self, weight: Float[Array, " n"]) -> "Rows":
        """Return the same rows counted by `weight`."""
        return self._replace(weight=weight)


def join(blocks: tuple[Rows, ...]) -> Rows:
    """Stack blocks of rows into one."""
    if len(blocks) == 1:
        return blocks[0]
    return Rows(*(jnp.concatenate(parts) for parts in zip(*(b[:3] for b in blocks), strict=True)))


def check_rows(name: str, x: np.ndarray, y: np.ndarray, n_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of features (n, m) and labels (n,), or raise `InputError` naming the first fault.

    Checked: shapes agree, at least one row, every feature finite, labels 0 … K − 1.
    """
    x, y = np.array(x, dtype=np.float64), np.array(y)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise InputError(f"{name}: features must be (n, m) with n ≥ 1 and labels (n,); got {x.shape} and {y.shape}")
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{name}: {int(bad.sum())} feature value(s) are NaN or infinite, the first in row {row}, "
            f"column {column} ({x[row, column]}); drop or impute them first"
        )
    if not np.isin(y, range(n_classes)).all():
        allowed = "0 or 1" if n_classes == 2 else f"0 … {n_classes - 1}"
        raise InputError(f"{name}: labels must be {allowed}, the model's classes; got {np.unique(y)[:5].tolist()}")
    return x, y.astype(np.float64)
