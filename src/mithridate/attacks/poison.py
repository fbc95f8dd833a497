"""Poison: what an attack yields at each ratio, and what the rest of it depends on. Plain arrays, all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mithridate.defences.base import Policy, Strength


class Points(NamedTuple):
    """Poisoning points: features (k, m), labels (k,), and places (k,), the rows that they replace.

    Points that are added take the numbers from n on.
    """

    x: np.ndarray
    y: np.ndarray
    places: np.ndarray


class Answered(NamedTuple):
    """Points of a batch (b, m), the λ that the policy answers them with, where λ's own descent had ended, A then.

    `success`: the share of D_target that goes the attacker's way.
    """

    x_poison: np.ndarray
    log_strength: Strength
    descended: Strength
    value: float
    success: float


class Crafted(NamedTuple):
    """What crafting a batch came to: its best points, A at its starting points, and of each step A and the status."""

    best: Answered
    value_start: float
    history: np.ndarray = np.empty(0)
    statuses: np.ndarray = np.empty(0, dtype=str)


class Batch(NamedTuple):
    """One batch of k points as crafted: what the next batch depends on, and what `Poisoning` says of this one.

    `attack`, by which algorithm, and `begun` from which points; `x_start` and `x_poison` (k, m), `y_poison` (k,),
    `places` (k,): with these it is retrained on, without the attack.
    """

    attack: str
    begun: str
    x_start: np.ndarray
    x_poison: np.ndarray
    y_poison: np.ndarray
    places: np.ndarray
    log_strength: Strength
    descended: Strength
    value_start: float
    value: float
    success: float
    stability: float
    history: np.ndarray
    statuses: np.ndarray


class Midway(NamedTuple):
    """A batch between two rounds: all that the rest of it depends on.

    `taken`, the steps so far; `start` and `best`, the round's ends that count; `state`, the leaves of the outer step's
    `State`, the rules' memory included; `history` and `statuses` of the steps so far. The keys follow from `taken`.
    """

    taken: int
    start: Answered
    best: Answered
    state: tuple[np.ndarray, ...]
    history: np.ndarray
    statuses: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """The poison at one ratio, and how it was come by. Unpacks as `x_poison, y_poison`.

    `x_poison` (k, m), `y_poison` (k,) and `x_start` (k, m), where they started, of a portfolio the training rows in
    whose places they stand; `replaced` (k,), the rows of the
    training set they stand in for, or None when they are added; `ratio`, the share of the training set that is
    poison; `policy`, the defender from here on, and its `log_strength` on this set; `descended`, where λ's own
    descent had ended before the policy answered. `history` (steps,) is A at each hyperiteration of all batches so
    far, `statuses` (steps,) their hypergradients' (see `STATUSES`); `value_start` and `value` are A at this batch's
    starting points and at its end, as the policy answers each. `stability` is η·curvature of the inner training on
    this set: above 2 gradient descent diverges, and the points exploit that rather than the data. `attack` and
    `begun`: by which algorithm, and from which points it began. `batches`: each batch so far, from which
    `Attacker.stages` can go on. `others`: the best that each other algorithm came to, where the attack has tried any.
    """

    x_poison: np.ndarray
    y_poison: np.ndarray
    x_start: np.ndarray
    replaced: np.ndarray | None
    ratio: float
    policy: Policy
    log_strength: Strength
    descended: Strength
    value_start: float
    value: float
    stability: float
    history: np.ndarray = field(repr=False)
    statuses: np.ndarray = field(repr=False)
    attack: str
    begun: str
    batches: tuple[Batch, ...] = field(repr=False)
    others: tuple[Batch, ...] = field(repr=False)

    def __repr__(self) -> str:
        k, m = self.x_poison.shape
        how = f"{self.attack}{f', {self.begun}' if self.begun else ''}, against {self.policy.name}"
        raised = f"A {self.value_start:.3g} → {self.value:.3g}"
        return f"Poisoning({k} points of {m} features, {self.ratio:.1%}: {how}; {raised})"

    @classmethod
    def of(
        cls,
        parts: Sequence[Batch],
        batches: Sequence[Batch],
        others: Sequence[Batch],
        policy: Policy,
        n: int,
        added: bool,
    ) -> "Poisoning":
        """Return what `parts` come to on a training set of n rows, each point replacing one or `added`.

        `parts`: those of all `batches` so far that are in this ratio's poison.
        """
        last, end = parts[-1], sum(len(batch.y_poison) for batch in parts)

        def all_of(name: str) -> np.ndarray:
            return np.concatenate([getattr(batch, name) for batch in parts])

        return cls(
            x_poison=all_of("x_poison"),
            y_poison=all_of("y_poison"),
            x_start=all_of("x_start"),
            replaced=None if added else all_of("places"),
            ratio=end / (n + end * added),
            policy=policy,
            log_strength=last.log_strength,
            descended=last.descended,
            value_start=last.value_start,
            value=last.value,
            stability=last.stability,
            history=all_of("history"),
            statuses=all_of("statuses"),
            attack=last.attack,
            begun=last.begun,
            batches=tuple(batches),
            others=tuple(others),
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.x_poison, self.y_poison))

    def apply(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the poisoned copy of the training set (x, y) that the attack was given."""
        return placed(self.x_poison, self.y_poison, self.replaced, x, y)

    def apply_start(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same with the starting points, nothing optimised."""
        return placed(self.x_start, self.y_poison, self.replaced, x, y)


def placed(
    points: np.ndarray, labels: np.ndarray, places: np.ndarray | None, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the training set (x, y) with points in these places, or after its end where there are none."""
    if places is None:
        return np.concatenate([x, points]), np.concatenate([y, labels])
    x, y = x.astype(np.result_type(x, points)), y.astype(np.result_type(y, labels))
    x[places], y[places] = points, labels
    return x, y
