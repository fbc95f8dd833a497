"""How an indiscriminate attacker's harm is scored: from 0 to 1, larger is more harm.

error           the share of rows that are wrong
balanced-error  the share of wrong rows within each class, averaged over the classes
fnr             the share of the second class's rows (those of `positive`) that are missed
one-minus-auc   how often a row of the first class gets a higher score than one of the second; a tie counts half
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mithridate.errors import InputError
from mithridate.tasks.base import Task


class Score(NamedTuple):
    """The name of a score in words, and an uninformative model that has the same score, in words."""

    words: str
    telling_nothing: str
    two_classes: bool = False


SCORES = {
    "error": Score("test error", "always giving the most frequent answer"),
    "balanced-error": Score("balanced test error", "always giving the same answer"),
    "fnr": Score("false negative rate", "never finding a row of the class", two_classes=True),
    "one-minus-auc": Score("1 − AUC", "ranking rows at random", two_classes=True),
}


def check_score(name: str, classes: int) -> None:
    """Raise `InputError` if a score is not defined for this number of classes."""
    if SCORES[name].two_classes and classes > 2:
        raise InputError(
            f"score = {name}: it needs two classes, and there are {classes}; name the one to be found with positive, "
            "or use score = balanced-error"
        )


def telling_nothing(name: str, labels: np.ndarray) -> float:
    """Return the score of an uninformative model on rows with these labels 0 … K − 1."""
    shares = np.bincount(labels.astype(int)) / len(labels)
    return {
        "error": 1 - shares.max(),
        "balanced-error": 1 - 1 / np.count_nonzero(shares),
        "fnr": 1.0,
        "one-minus-auc": 0.5,
    }[name]


class Scoring(eqx.Module):
    """How rows are scored. `counted` (n,): the weight of each row (default: equal); `ranked`: only the order counts."""

    counted: Float[Array, " n"] | None = None
    ranked: bool = eqx.field(default=False, static=True)

    def mean(self, each: Float[Array, " n"]) -> Float[Array, ""]:
        """Return the mean over rows."""
        return jnp.mean(each) if self.counted is None else jnp.vdot(self.counted, each) / jnp.sum(self.counted)

    def success(
        self, task: Task, logits: Float[Array, "n *classes"], y: Float[Array, " n"], specific: bool | Bool[Array, ""]
    ) -> Float[Array, ""]:
        """Return the share of rows that are classified as the attacker wants.

        If `specific`, these are the rows that get the labels y, otherwise all others. A `ranked` score is one minus the
        area under the ROC curve; it is never specific.
        """
        if self.ranked:
            return _one_minus_auc(logits, y)
        return self.mean((task.wrong(task.predicted(logits), y) != specific).astype(y.dtype))

    def rows(self, y: np.ndarray) -> float:
        """Return the number of equally weighted rows that would give the score as precisely as these (n,) do.

        This is Kish's effective sample size. For ranks it is the number of rows with the rarer label, because they
        limit how precisely an AUC is known.
        """
        if self.ranked:
            return float(np.bincount(y.astype(int), minlength=2).min())
        counted = np.ones(len(y)) if self.counted is None else np.asarray(self.counted, float)
        return float(counted.sum() ** 2 / (counted**2).sum())


ALIKE = Scoring()
"""All rows have the same weight."""


def balanced(y: np.ndarray, shares: Any) -> Float[Array, " n"]:
    """Return the weight of each of these labels (n,) so that the classes get these shares (K,) of the total."""
    labels = np.asarray(y).astype(int)
    there = np.bincount(labels, minlength=len(shares))
    return jnp.asarray((np.asarray(shares) / np.maximum(there, 1))[labels] * len(labels), dtype=float)


def _one_minus_auc(logits: Float[Array, "n *classes"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Return 1 − AUC from the mean rank of the rows labelled 1 (Mann and Whitney, 1947); ties count half."""
    scores = logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]
    ordered, n = jnp.sort(scores), len(y)
    rank = (jnp.searchsorted(ordered, scores, side="left") + jnp.searchsorted(ordered, scores, side="right")) / (2 * n)
    share = jnp.mean(y)
    mean_rank = jnp.sum(rank * y) / jnp.sum(y)
    return 1 - (mean_rank - share / 2) / (1 - share)
