"""What candidates are made from: the rows that an attacker may touch, and their margins under clean victims."""

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
"""How many rows of a class always keep their label: without any, the class could not be learned."""


class Proposal(NamedTuple):
    """Points from which an attack may start. `kind`: the algorithm; `begun`: which rows they are, in words."""

    kind: str
    begun: str
    points: Points


@shared
def _margins(problem: Bilevel, log_strength: Array, key: Array, x: Array, y: Array) -> Array:
    params = problem.train(jnp.zeros((0, x.shape[1]), x.dtype), log_strength, key)
    return margins(problem.learner.model.logits(params, x), y)


@dataclass(frozen=True)
class Ground:
    """The state of an attack, with what its candidates have in common.

    `pool` (p,): the training rows whose labels or clones the attacker can use; `places` (k,): the rows that are his if
    he cannot pick; `strengths`: the λ with which clean victims are trained; `margins` (n,) for each: the victim's
    margins on the training rows, largest where it is surest of the label.
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
        """Train clean victims and return the ground at this stage."""
        n, k = len(at.y), at.end
        # Random rows are drawn once, for all candidates: an attacker who could draw again could pick.
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
        """K, the number of classes among the training rows."""
        return 1 + int(np.max(self.at.y))

    def surest(self, labels: np.ndarray) -> np.ndarray:
        """Return the pool: rows not of the most common of these labels first; within both parts the surest first."""
        common = np.bincount(labels.astype(int)).argmax()
        own = self.at.y[self.pool] == common
        return self.pool[np.lexsort((-self.margins[0][self.pool], own))]

    def draw(self, *names: object) -> np.random.Generator:
        """Return the generator of one candidate."""
        return generator(self.attack.seed, "points", *names)

    def of_class(self, *classes: int) -> np.ndarray:
        """Return the pool's rows of these classes."""
        return self.pool[np.isin(self.at.y[self.pool], classes)]

    def most(self, rows: np.ndarray) -> int:
        """Return the largest number of these rows whose labels can change."""
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
        """Return the name of a clean victim: its λ."""
        return f"λ = {float(np.mean(self.strengths[number])):.3g}"

    def flipped(self, labels: Array, order: Array) -> tuple[np.ndarray, np.ndarray]:
        """Return the first k rows by their rank in `order` (n,), sorted, and their `labels`."""
        places = np.asarray(order)[: len(self.at.y)]
        picked = np.argsort(places, kind="stable")[: int(np.sum(places < self.at.end))]
        return picked, np.asarray(labels)[picked]

    def laid(self, picked: np.ndarray, labels: np.ndarray) -> Points:
        """Return k points with these labels, made of the rows `picked` (their numbers) in this order.

        The points stay in their own places if the attacker picks rows, or if only labels or features change. Otherwise
        they are clones in his places. If there are too few, other rows of his stay unchanged, or clones repeat.
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
