"""What candidates are made from: the rows that an attacker may touch, and what clean victims make of them."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mithridate.attacks.aims import margins
from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Points
from mithridate.attacks.stage import Stage
from mithridate.attacks.starts import clones
from mithridate.execution.devices import shared
from mithridate.hypergradients import Bilevel
from mithridate.seeds import generator

LEFT = 2
"""Rows of a class that keep their label, whatever is flipped: without any there is nothing left to be learned."""


class Proposal(NamedTuple):
    """Points that an attack may begin from: `kind`, by which algorithm, and `begun`, which rows they are, in words."""

    kind: str
    begun: str
    points: Points


@shared
def _margins(problem: Bilevel, log_strength: Array, key: Array, x: Array, y: Array) -> Array:
    params = problem.train(jnp.zeros((0, x.shape[1]), x.dtype), log_strength, key)
    return margins(problem.learner.model.logits(params, x), y)


@dataclass(frozen=True)
class Ground:
    """Where an attack stands, with what its candidates have in common.

    `pool` (p,): the training rows whose labels or clones he can use; `places` (k,): those that are his where he cannot
    pick; `strengths`: λ at which clean victims are trained, `margins` (n,) theirs of each training row, largest where
    they are surest of its label.
    """

    attack: Attacker
    at: Stage
    pool: np.ndarray
    places: np.ndarray
    strengths: tuple[np.ndarray, ...]
    margins: tuple[np.ndarray, ...]
    clean: Bilevel

    @classmethod
    def of(cls, attack: Attacker, at: Stage) -> "Ground":
        """Look around."""
        n, k = len(at.y), at.end
        # Rows at random are drawn once, for all candidates: who could draw again would pick.
        places = clones(attack, at.x, at.y, k).places
        pool = places if attack.budget == "replaced" and attack.edits != "both" else np.arange(n)
        ends = at.policy.strengths.low, at.policy.strengths.high
        low, high = (np.array(np.broadcast_to(end, np.shape(at.log_strength)), dtype=float) for end in ends)
        strengths = tuple(
            {each.tobytes(): each for each in (np.asarray(at.log_strength, dtype=float), low, high)}.values()
        )
        nothing = jnp.zeros(0, at.rows.y.dtype)
        setting = None, at.valid, attack.specific, attack.defence
        clean = Bilevel(attack.learner, at.rows, nothing, at.target, *setting, scoring=attack.scoring)
        x, y = at.rows.x[:n], at.rows.y[:n]
        found = [_margins(clean, jnp.asarray(s, dtype=float), attack.key(k), x, y) for s in strengths]
        return cls(attack, at, pool, places, strengths, tuple(map(np.asarray, found)), clean)

    @property
    def n_classes(self) -> int:
        """K, as many as there are labels among the training rows."""
        return 1 + int(np.max(self.at.y))

    def surest(self, labels: np.ndarray) -> np.ndarray:
        """Return all rows of the pool, first those of other classes than most of these labels, the surest first."""
        common = np.bincount(labels.astype(int)).argmax()
        own = self.at.y[self.pool] == common
        return self.pool[np.lexsort((-self.margins[0][self.pool], own))]

    def draw(self, *names: object) -> np.random.Generator:
        """Return the generator of one candidate."""
        return generator(self.attack.seed, "points", *names)

    def of_class(self, *classes: int) -> np.ndarray:
        """Return the rows of the pool that are of these classes."""
        return self.pool[np.isin(self.at.y[self.pool], classes)]

    def most(self, rows: np.ndarray) -> int:
        """Return of how many of these rows, at most, the labels can change."""
        if self.attack.budget == "added" or (self.attack.budget == "replaced" and self.attack.edits == "both"):
            return len(rows)
        kept = sum(min(LEFT, int(np.sum(self.at.y == label))) for label in np.unique(self.at.y[rows]))
        return max(0, min(self.at.end, len(rows) - kept))

    def open_rows(self) -> Array:
        """Return which rows on the device are in the pool."""
        found = np.zeros(len(self.at.rows.y), bool)
        found[self.pool] = True
        return jnp.asarray(found)

    def named(self, number: int) -> str:
        """Return in words which clean victim this is, by its λ."""
        return f"λ = {float(np.mean(self.strengths[number])):.3g}"

    def flipped(self, labels: Array, order: Array) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows whose place in an `order` (n,) is below k, in order, and which of `labels` are theirs."""
        places = np.asarray(order)[: len(self.at.y)]
        picked = np.argsort(places, kind="stable")[: int(np.sum(places < self.at.end))]
        return picked, np.asarray(labels)[picked]

    def laid(self, picked: np.ndarray, labels: np.ndarray) -> Points:
        """Return k points: the rows `picked` (their numbers), the first of them first, with these labels.

        In their own places where he picks rows, and where only labels or features change; else as clones in his places.
        Where there are too few, other rows of his stay as they are, or clones repeat.
        """
        x, y, attack, k = self.at.x, self.at.y, self.attack, self.at.end
        picked, labels = picked[:k], np.asarray(labels, dtype=float)[:k]
        if attack.budget == "added" or (attack.budget == "replaced" and attack.edits == "both"):
            again = np.arange(k) % len(picked)
            picked, labels, places = picked[again], labels[again], self.places
        else:
            others = np.setdiff1d(self.pool, picked)
            spare = self.draw("spare").permutation(others)[: k - len(picked)]
            picked, labels = np.concatenate([picked, spare]), np.concatenate([labels, y[spare]])
            places = picked
        if attack.edits == "features":
            labels = y[picked]
        return Points(x[picked], labels.astype(float), places)
