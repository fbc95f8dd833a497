"""The worst case that a portfolio of attackers finds (successive halving).

At every share of poison all candidates (`proposals`) are first measured unchanged, with a guess of the defender's
answer. The best few are answered by the defender himself and moved by Algorithm 1 for a part of the steps, and the best
of those for the rest. They are ranked by the attacker's success on D_target; A breaks ties. Test rows are not used.
Each share starts again: its points need not contain those of a lower share.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array

from mithridate.attacks.aims import clipped, smooth_error
from mithridate.attacks.base import Attacker, Crafting
from mithridate.attacks.bilevel import Attack
from mithridate.attacks.poison import Answered, Batch, Crafted, Midway, Points
from mithridate.attacks.proposals import KERNEL, Ground, Proposal, flips_of, proposals_of
from mithridate.attacks.screening import Guess, guessed
from mithridate.attacks.stage import Stage
from mithridate.attacks.starts import clones
from mithridate.hypergradients import Bilevel

ANSWERED = 4
"""How many candidates of a share the defender answers himself."""
HALVING = ((8, 1), (2, 2), (1, 5))
"""Pairs (number of candidates, round): so many candidates are crafted up to that round."""
KINDS = 5
"""The number of other kinds. The defender answers the best candidate of each, and a victim is retrained on it."""
AIMS = (None, smooth_error, clipped)
"""What points maximise: A itself (None) or errors. The best candidate is crafted for each, the others for errors."""


class Candidate(NamedTuple):
    """A proposal with its outer problem, its padded points, and a guess of what it is worth."""

    proposal: Proposal
    problem: Bilevel
    x_start: Array
    guess: Guess


def tried(attack: Attacker, at: Stage, kinds: Callable[[Ground], Iterator[Proposal]]) -> list[Candidate]:
    """Return all candidates of these kinds, the most harmful first."""
    found = []
    for proposal in kinds(Ground.of(attack, at)):
        problem, x_start = attack.problem(at, proposal.points)
        found.append(Candidate(proposal, problem, x_start, guessed(problem, x_start, at, attack.key(at.end))))
    return sorted(found, key=lambda one: worth(one.guess.success, one.guess.value), reverse=True)


def worth(success: float, value: float) -> tuple[float, float]:
    """Return the values by which points are compared, larger is better: success on D_target, then A.

    Points with which training diverged come last: the predictions mean nothing.
    """
    return (success, value) if math.isfinite(value) else (-math.inf, -math.inf)


def as_it_is(attack: Attacker, at: Stage, one: Candidate) -> Batch:
    """Return a candidate's batch with the defender's answer; no point is moved."""
    start = attack.answered(one.problem, at.policy, one.x_start, at.log_strength, attack.key(at.end))
    return attack.made(stood(attack, at, one.proposal.points), Crafted(start, start.value), *one.proposal[:2])


def stood(attack: Attacker, at: Stage, points: Points) -> Points:
    """Return the rows before the attack: the training rows in the points' places; added points as they started."""
    return points if attack.budget == "added" else points._replace(x=at.x[points.places])


def best_of_each(attack: Attacker, at: Stage, found: list[Batch], candidates: list[Candidate]) -> tuple[Batch, ...]:
    """Return the most harmful batch of each kind, the worst first.

    Within a kind, batches are compared by their harm inside the attack; the kinds are compared by the judge. If a kind
    has no batch yet, the defender answers its best candidate now.
    """
    for one in candidates:
        if one.proposal.kind not in {batch.attack for batch in found}:
            found.append(as_it_is(attack, at, one))
    inside = sorted(found, key=inner_worth, reverse=True)
    kinds = list({batch.attack: batch for batch in reversed(inside)}.values())
    judge = at.judge or inner_worth
    return tuple(sorted(kinds, key=lambda batch: worth(*judge(batch)), reverse=True))


def inner_worth(batch: Batch) -> tuple[float, float]:
    """Return what a batch is worth, measured on the victim that is trained inside the attack."""
    return worth(batch.success, batch.value)


@dataclass(frozen=True, kw_only=True)
class Flips(Attacker):
    """The most harmful of many ways to pick rows and flip their labels; no feature is changed."""

    name: ClassVar[str] = "flips"
    nested: ClassVar[bool] = False

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Return clones with flipped labels (see `starts.clones`)."""
        return clones(self, x, y)

    def words(self) -> str:
        """Return that labels are flipped and nothing is moved."""
        return "flips labels and moves nothing: no feature of its points changes"

    def crafting(self) -> Crafting:
        """Return how many candidates the defender answers."""
        return Crafting(answers=ANSWERED + KINDS)

    def crafted(self, at: Stage, midways: tuple[Midway, ...]) -> Generator[tuple[Midway, ...], None, tuple[Batch, ...]]:
        """Return the best flips, and the best of each other kind."""
        if not at.end:
            return (yield from super().crafted(at._replace(points=nothing(at)), ()))
        return worst_flips(self, at)


def worst_flips(
    attack: Attacker, at: Stage, kinds: Callable[[Ground], Iterator[Proposal]] = flips_of, many: int = ANSWERED
) -> tuple[Batch, ...]:
    """Return the worst label flips at a stage, and the best of each other of these kinds.

    The defender answers the best `many` candidates, and the best of each kind.
    """
    candidates = tried(attack, at, kinds)
    return best_of_each(attack, at, [as_it_is(attack, at, one) for one in candidates[:many]], candidates)


@dataclass(frozen=True, kw_only=True)
class Portfolio(Attack):
    """All attackers together: label flips, min-max points, and Algorithm 1 started from the worst of them.

    At every share of poison the most harmful points are kept, judged by the success on D_target. Fields as in `Attack`,
    which moves the points.
    """

    name: ClassVar[str] = "portfolio"
    nested: ClassVar[bool] = False

    def words(self) -> str:
        """Return which attacks are tried, and which points they move."""
        tried = "flips labels in rows that it picks in many ways"
        moved = f"{super().words()}, started from the worst of these, for the loss and for errors"
        if self.edits == "labels":
            ways = "at random, by a clean model's margins, in balls, ALFA, by influence, by kernels"
            return f"{tried} ({ways}) and keeps the worst"
        first = "picks rows in many ways" if self.edits == "features" else tried
        return f"{first}, puts points where the loss is largest, and {moved}; the worst is kept"

    def crafting(self) -> Crafting:
        """Return the steps and backward passes for one share."""
        if self.edits == "labels":
            return Crafting(answers=ANSWERED + KINDS)
        length, before, rounds = math.ceil(self.steps / self.rounds), 0, 0
        for many, until in HALVING:
            rounds, before = rounds + many * (until - before), until
        draws = self.initial if isinstance(self.initial, int) else 1
        return Crafting(rounds * length, rounds, draws, self.method, HALVING[0][0] + KINDS)

    def rank(self, found: Answered) -> tuple[float, ...]:
        """Return the values by which rounds are compared: success on D_target, then A."""
        return worth(found.success, found.value)

    def crafted(self, at: Stage, midways: tuple[Midway, ...]) -> Generator[tuple[Midway, ...], None, tuple[Batch, ...]]:
        """Return the most harmful points, and those of each other kind."""
        if not at.end:
            return (yield from super().crafted(at._replace(points=nothing(at)), ()))
        if self.edits == "labels":
            return worst_flips(self, at)
        candidates, found = tried(self, at, proposals_of), []
        finalists = self.finalists(at, candidates)
        stands = yield from self._halved(at, finalists, dict(enumerate(midways)))
        for number, stand in stands.items():
            one, aim = finalists[number]
            crafted = Crafted(stand.best, stand.start.value, stand.history, stand.statuses)
            begun = f"{one.proposal.begun}, for {aim.__name__.replace('_', ' ') if aim else 'the loss'}"
            found.append(self.made(stood(self, at, one.proposal.points), crafted, Attack.name, begun))
        return best_of_each(self, at, found, candidates)

    def finalists(self, at: Stage, candidates: list[Candidate]) -> list[tuple[Candidate, Any]]:
        """Return the candidates to be crafted, with their aims: the best of each mix of labels, best first.

        Kernel flips and the last share's points have mixes of their own: if they did most harm unmoved, other starts
        can still lead further.
        """
        mixes: dict[Any, Candidate] = {}
        for one in candidates:
            counts = np.bincount(one.proposal.points.y.astype(int), minlength=2)
            kind = one.proposal.kind if one.proposal.kind in (KERNEL, Attack.name) else ""
            key = tuple(np.rint(4 * counts / at.end)), kind
            mixes.setdefault(key, one)
        chosen = list(mixes.values())[: HALVING[0][0] - 2]
        return [*((chosen[0], aim) for aim in AIMS), *((one, smooth_error) for one in chosen[1:])]

    def _halved(
        self, at: Stage, finalists: list[tuple[Candidate, Any]], stands: dict[int, Midway]
    ) -> Generator[tuple[Midway, ...], None, dict[int, Midway]]:
        """Return the end state of each finalist: all are crafted for a part of the steps, the best for the rest."""
        length, survivors = math.ceil(self.steps / self.rounds), list(range(len(finalists)))
        for many, rounds in HALVING:
            survivors = survivors[:many]
            for number in survivors:
                one, aim = finalists[number]
                given = one.problem, at.policy, one.x_start, at.log_strength, self.key(at.end)
                until = min(rounds * length, self.steps)
                while number not in stands or stands[number].taken < until:
                    stands[number] = next(self.craft(*given, stands.get(number), aim))
                    yield tuple(stands[each] for each in sorted(stands))
            survivors.sort(key=lambda number: self.rank(stands[number].best), reverse=True)
        return stands


def nothing(at: Stage) -> Points:
    """Return no points."""
    return Points(at.x[:0], at.y[:0], np.zeros(0, dtype=int))
