"""Classification: labels 0 … K − 1, of which one logit a row tells two apart, or K logits K."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mithridate.errors import InputError
from mithridate.tasks.base import Flip


class Rates(NamedTuple):
    """Each class against the rest: others taken for it, its own missed; `fpr`, `fnr`, class 1's of two, or means."""

    fpr: Float[Array, ""]
    fnr: Float[Array, ""]
    fprs: Float[Array, " classes"]
    fnrs: Float[Array, " classes"]


@dataclass(frozen=True)
class Classification:
    """Rows of `n_classes` = K classes; an error is a row that is given another class than its own."""

    n_classes: int = 2
    name = "classification"

    def check(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return labels 0 … K − 1 (n,) in float64. Raises `InputError` for others."""
        if not np.isin(y, range(self.n_classes)).all():
            allowed = "0 or 1" if self.n_classes == 2 else f"0 … {self.n_classes - 1}"
            raise InputError(f"{name}: labels must be {allowed}, the model's classes; got {np.unique(y)[:5].tolist()}")
        return y.astype(np.float64)

    def predicted(self, logits: Float[Array, "n *classes"]) -> Float[Array, " n"]:
        """Return the class of each row: that of the largest logit, or 1 where the only one is positive."""
        classes = logits > 0 if logits.ndim == 1 else jnp.argmax(logits, axis=1)
        return classes.astype(logits.dtype)

    def wrong(self, given: Float[Array, " n"], y: Float[Array, " n"]) -> Bool[Array, " n"]:
        """Return which rows are given another class."""
        return given != y

    def rates(self, given: Float[Array, " n"], y: Float[Array, " n"]) -> Rates:
        """Return the rates of each class. A rate without rows to measure is 0."""
        classes = jnp.arange(self.n_classes, dtype=given.dtype)
        taken, there = given[:, None] == classes[None], y[:, None] == classes[None]
        fprs, fnrs = _share(taken & ~there, ~there), _share(~taken & there, there)
        two = self.n_classes == 2
        return Rates(fprs[1] if two else jnp.mean(fprs), fnrs[1] if two else jnp.mean(fnrs), fprs, fnrs)

    def flipped(
        self, labels: np.ndarray, rule: Flip, draw: np.random.Generator, x: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """Return another class for each of `labels` (k,): of two the other one.

        Of more classes, by `rule`: any other, drawn at random; or that whose mean lies nearest to, or farthest from,
        the mean of the row's own, in the rows x (n, m), y (n,).
        """
        if self.n_classes == 2:
            return 1 - labels
        if rule == "random":
            return (labels + draw.integers(1, self.n_classes, len(labels))) % self.n_classes
        means = np.full((self.n_classes, x.shape[1]), np.nan)
        for k in np.unique(y).astype(int):
            means[k] = x[y == k].mean(axis=0, dtype=np.float64)
        distances = np.linalg.norm(means[:, None] - means[None], axis=2)
        np.fill_diagonal(distances, np.nan)
        pick = np.nanargmin if rule == "nearest" else np.nanargmax
        return np.array([pick(distances[int(label)]) for label in labels], labels.dtype)

    def fewest(self, y: np.ndarray, groups: np.ndarray | None = None) -> int:
        """Return the number of rows in the smallest class that there is, or could be; with `groups` (n,), of these."""
        if groups is not None:
            y = pd.DataFrame({"y": y, "group": groups}).drop_duplicates()["y"].to_numpy()
        return int(np.bincount(y.astype(int), minlength=2).min())

    def folds(self, y: np.ndarray, k: int, seed: int, groups: np.ndarray | None = None) -> Bool[np.ndarray, "k n"]:
        """Return k stratified folds of labels y (n,), True where a row is held out; none divides a group of `groups`.

        Raises `InputError` when a class has fewer than k rows, or is in fewer groups.
        """
        fewest = self.fewest(y, groups)
        if not 2 <= k <= fewest:
            what = "rows in" if groups is None else "groups of"
            raise InputError(f"folds = {k}: must be from 2 to {fewest}, the number of {what} the smaller class")
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        split = kind(k, shuffle=True, random_state=seed % 2**32).split(np.zeros((len(y), 1)), y, groups)
        masks = np.zeros((k, len(y)), dtype=bool)
        for fold, (_, held_out) in enumerate(split):
            masks[fold, held_out] = True
        return masks


def _share(part: Bool[Array, "n k"], whole: Bool[Array, "n k"]) -> Float[Array, " k"]:
    """Return how many of `whole` are in `part`, column by column."""
    return jnp.sum(part, axis=0) / jnp.maximum(jnp.sum(whole, axis=0), 1)
