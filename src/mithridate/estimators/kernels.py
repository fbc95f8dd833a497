"""Flips that are worst for kernel smoothers, of which those imitate the estimator that err where it errs.

Each way to flip that was tried by a fit tells which held-out rows the estimator loses. A smoother of the same labels
loses rows as well; the more it agrees, the more the flips that are worst for it will harm the estimator.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist

from mithridate.attacks.proposals import KERNEL
from mithridate.attacks.smoothing import Smoothed, extended, sampled, smoothers
from mithridate.estimators.flips import Flips, View, spare_of

COMPARED = 64
SHARPNESS = (3.0, 10.0)


class Seen(NamedTuple):
    """What a fit has told: `labels` (n,) of the training rows, and of which rows (`held`) it is known who was lost."""

    labels: np.ndarray
    held: np.ndarray
    wrong: np.ndarray


class Kernels:
    """The smoothers of a training fold.

    `view`: its n rows; `trusted`: other rows by which the attacker measures, standardised (v, m), in the estimator's
    own space (v, d) or None, and their labels (v,). `importance` (K,): how much each class counts. `wanted`: the class
    that a targeted attacker wants, if any.
    """

    def __init__(
        self,
        view: View,
        trusted: tuple[np.ndarray, np.ndarray | None, np.ndarray],
        importance: np.ndarray,
        wanted: int | None,
        seed: int,
    ):
        self.view, self.trusted, self.wanted, self.n_classes = view, trusted, wanted, len(importance)
        self.sample = sampled(view.labels, np.random.default_rng((seed, 2)))
        self.truth = np.concatenate([view.labels[self.sample], trusted[2]])
        sizes = np.bincount(self.truth, minlength=self.n_classes)
        self.weight = (importance / np.maximum(sizes, 1))[self.truth]

    @cached_property
    def smoothers(self) -> list[tuple[str, np.ndarray]]:
        """Names, and the weights of each smoother."""
        spaces = {"features": (self.view.x, self.trusted[0])}
        if self.view.own is not None and self.trusted[1] is not None and not _alike(self.view.x, self.view.own):
            spaces["own space"] = self.view.own, self.trusted[1]
        return [
            (f"{name}, {space}", weights)
            for space, (own, held) in spaces.items()
            for name, weights in smoothers(own[self.sample], held)
        ]

    def smoothed(self, weights: np.ndarray, sharpness: float = 1.0, wanted: int | None = None) -> Smoothed:
        """Return the harm to a smoother."""
        truth = self.truth if wanted is None else np.full_like(self.truth, wanted)
        given = self.view.labels[self.sample], truth, self.weight, self.n_classes
        return Smoothed(weights, *given, sharpness, wanted is not None)

    def ranked(self, seen: Sequence[Seen]) -> list[int]:
        """Return the smoothers' numbers, those first that lose the rows that the estimator has lost."""
        agreement = []
        for _, weights in self.smoothers:
            one, agreed = self.smoothed(weights), []
            for fit in seen:
                known = np.flatnonzero(fit.held[self.sample])
                lost = one.lost(fit.labels[self.sample])[known]
                agreed.append(np.mean(lost == fit.wrong[self.sample][known]))
            agreement.append(np.mean(agreed))
        return np.argsort(-np.array(agreement), kind="stable").tolist()

    def flips(self, seen: Sequence[Seen], k: int, among: np.ndarray) -> Iterator[Flips]:
        """Yield flips of at most k of the rows `among`, those of the smoothers first that agree with what was seen."""
        part, allowed = len(self.sample) / len(self.view.labels), np.isin(self.sample, among)
        available = np.bincount(self.view.labels[self.sample[allowed]], minlength=self.n_classes)
        spare = np.minimum((part * spare_of(self.view.labels, self.n_classes)).astype(int), available)
        order = self.ranked(seen)
        for turn, rank in itertools.product(range(2), range(len(order))):
            name, weights = self.smoothers[order[rank]]
            one = self.smoothed(weights, SHARPNESS[(rank + turn) % 2], self.wanted)
            for whose, rows, labels in one.flips(round(part * k), allowed, spare):
                picked = extended((self.sample[rows], labels), self.view.x, self.view.labels, self.sample, k, among)
                yield Flips(KERNEL, f"{name}, {whose}", *picked, False)


def _alike(x: np.ndarray, own: np.ndarray) -> bool:
    """Return whether distances in two spaces, (n, m) and (n, d), are almost proportional."""
    few = np.linspace(0, len(x) - 1, COMPARED).astype(int)
    with np.errstate(invalid="ignore"):  # all rows may be equal
        return float(np.corrcoef(pdist(x[few]), pdist(own[few]))[0, 1]) > 1 - 1e-6
