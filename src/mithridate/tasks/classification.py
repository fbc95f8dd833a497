"""Classification: labels 0 … K − 1. Two classes need one logit per row, K classes need K."""

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
    """False positive and false negative rates of each class against the rest (`fprs`, `fnrs`).

    `fpr`, `fnr`: those of class 1 if there are two classes, else the means over classes.
    """

    fpr: Float[Array, ""]
    fnr: Float[Array, ""]
    fprs: Float[Array, " classes"]
    fnrs: Float[Array, " classes"]


@dataclass(frozen=True)
class Classification:
    """Rows of `n_classes` = K classes. An error is a row that gets a class other than its own."""

    n_classes: int = 2
    name = "classification"

    def check(self, name: str, y: np.ndarray) -> np.ndarray:
        """Return labels 0 … K − 1 (n,) in float64. Raises `InputError` for others."""
        if not np.isin(y, range(self.n_classes)).all():
            allowed = "0 or 1" if self.n_classes == 2 else f"0 … {self.n_classes - 1}"
            raise InputError(f"{name}: labels must be {allowed}, the model's classes; got {np.unique(y)[:5].tolist()}")
        return y.astype(np.float64)

    def predicted(self, logits: Float[Array, "n *classes"]) -> Float[Array, " n"]:
        """Return the class of each row: the one with the largest logit, or 1 where a single logit is positive."""
        classes = logits > 0 if logits.ndim == 1 else jnp.argmax(logits, axis=1)
        return classes.astype(logits.dtype)

    def wrong(self, given: Float[Array, " n"], y: Float[Array, " n"]) -> Bool[Array, " n"]:
        """Return which rows got a class other than their own."""
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
        """Return another class for each of `labels` (k,); with two classes, the other one.

        With more classes `rule` decides: any other class, drawn at random; or the class whose mean is nearest to, or
        farthest from, the mean of the row's own class, among the rows x (n, m), y (n,).
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
        """Return the number of rows in the smallest class (with `groups` (n,), of groups), 0 if a class is missing."""
        if groups is not None:
            y = pd.DataFrame({"y": y, "group": groups}).drop_duplicates()["y"].to_numpy()
        return int(np.bincount(y.astype(int), minlength=2).min())

    def folds(self, y: np.ndarray, k: int, seed: int, groups: np.ndarray | None = None) -> Bool[np.ndarray, "k n"]:
        """Return k stratified folds of labels y (n,), True where a row is held out; no group of `groups` is divided.

        Raises `InputError` if a class has fewer than k rows, or fewer than k groups.
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
    """Return the share of `whole` that is in `part`, column by column."""
    return jnp.sum(part, axis=0) / jnp.maximum(jnp.sum(whole, axis=0), 1)
