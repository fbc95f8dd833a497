"""The six questions that the rest of the program asks a task."""

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float

Flip = Literal["random", "nearest", "farthest"]


@runtime_checkable
class Task(Protocol):
    """What a victim is trained to do, for labels of one kind."""

    @property
    def name(self) -> str:
        """The task's name in records."""
        ...

    def check(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return the labels (n,) in float64. Raises `InputError`, which calls the rows `name`, for invalid labels."""
        ...

    def predicted(self, logits: Float[Array, "n *classes"]) -> Float[Array, " n"]:
        """Return the label that a victim with these logits gives each row."""
        ...

    def wrong(self, given: Float[Array, " n"], y: Float[Array, " n"]) -> Bool[Array, " n"]:
        """Return which rows have a `given` label that counts as an error. Their share is the score, from 0 to 1."""
        ...

    def flipped(
        self, labels: np.ndarray, rule: Flip, draw: np.random.Generator, x: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """Return a wrong label for each of `labels` (k,), by a rule that may look at the rows x (n, m), y (n,)."""
        ...

    def fewest(self, y: np.ndarray, groups: np.ndarray | None = None) -> int:
        """Return the largest number of folds of rows with labels y (n,), without dividing any of `groups` (n,)."""
        ...

    def folds(self, y: np.ndarray, k: int, seed: int, groups: np.ndarray | None = None) -> Bool[np.ndarray, "k n"]:
        """Return k folds of rows with labels y (n,), True where a row is held out. Raises `InputError` for wrong k."""
        ...
