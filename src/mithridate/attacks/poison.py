"""Poison: what an attack yields at each ratio, and the state from which it can continue; all plain arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mithridate.defences.base import Policy, Strength


class Points(NamedTuple):
    """Poisoning points: features (k, m), labels (k,), and places (k,), the numbers of the rows that they replace.

    Added points have the numbers from n on.
    """

    x: np.ndarray
    y: np.ndarray
    places: np.ndarray


class Answered(NamedTuple):
    """Points of a batch (b, m) and the policy's answer: its λ, the λ where descent had ended, and A after the answer.

    `success`: the share of D_target's rows that are classified as the attacker wants.
    """

    x_poison: np.ndarray
    log_strength: Strength
    descended: Strength
    value: float
    success: float


class Crafted(NamedTuple):
    """The result of crafting a batch: its best points, A at its starting points, and A and the status of each step."""

    best: Answered
    value_start: float
    history: np.ndarray = np.empty(0)
    statuses: np.ndarray = np.empty(0, dtype=str)


class Batch(NamedTuple):
    """One crafted batch of k points: what the next batch depends on, and what `Poisoning` reports of this one.

    `attack`: the algorithm; `begun`: the points from which it started, in words. `x_start` and `x_poison` (k, m),
    `y_poison` (k,) and `places` (k,) are enough to retrain on the batch without the attack.
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
    """A batch between two rounds: everything needed to continue it.

    `taken`: the number of steps so far; `start`, `best`: the answered starting points and the best so far; `state`: the
    leaves of the outer step's `State`, with the rules' memory; `history`, `statuses`: A and the status of each step so
    far. The random keys follow from `taken`.
    """

    taken: int
    start: Answered
    best: Answered
    state: tuple[np.ndarray, ...]
    history: np.ndarray
    statuses: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """The poison at one ratio, and how it was made. Unpacks as `x_poison, y_poison`.

    `x_poison` (k, m) and `y_poison` (k,): the points; `x_start` (k, m): the points at their start, or for a portfolio
    the training rows that they replace; `replaced` (k,): the numbers of the replaced training rows, None if the points
    are added; `ratio`: the share of the training set that is poison. `policy`: the defender from here on;
    `log_strength`: his λ on this set; `descended`: the λ where descent had ended before the policy answered. `history`
    (steps,): A at each hyperiteration of all batches so far; `statuses` (steps,): the statuses of their hypergradients
    (see `STATUSES`); `value_start`, `value`: A at this batch's start and at its end, each after the policy's answer.
    `stability`: η·curvature of the inner training on this set. Above 2 gradient descent diverges, and the points
    exploit that rather than the data. `attack`: the algorithm; `begun`: the points from which it started, in words.
    `batches`: the batches so far, from which `Attacker.stages` can continue. `others`: the best result of each other
    algorithm, if the attack tried any.
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
        """Return the poisoning by the batches `parts` of a training set of n rows; points replace rows or are `added`.

        `parts`: those of the `batches` so far that belong to this ratio's poison.
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
        """Return the copy with the starting points instead, before any optimisation."""
        return placed(self.x_start, self.y_poison, self.replaced, x, y)


def placed(
    points: np.ndarray, labels: np.ndarray, places: np.ndarray | None, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the training set (x, y) with points in these places, or after its end if `places` is None."""
    if places is None:
        return np.concatenate([x, points]), np.concatenate([y, labels])
    x, y = x.astype(np.result_type(x, points)), y.astype(np.result_type(y, labels))
    x[places], y[places] = points, labels
    return x, y
