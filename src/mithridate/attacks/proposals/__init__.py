"""Points from which attacks can start: candidates of every kind, one algorithm per file."""

from collections.abc import Iterator

from mithridate.attacks.proposals.alfa import alfa
from mithridate.attacks.proposals.flips import class_flips, mixed_flips, random_flips
from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.attacks.proposals.grown import grown
from mithridate.attacks.proposals.influence import influence_flips
from mithridate.attacks.proposals.kernels import KERNEL, kernel_flips
from mithridate.attacks.proposals.minmax import minmax

__all__ = ["KERNEL", "Ground", "Proposal", "flips_of", "plain_flips_of", "proposals_of"]


def plain_flips_of(ground: Ground) -> Iterator[Proposal]:
    """Yield label flips of rows that are picked without any derivative."""
    yield from random_flips(ground)
    yield from class_flips(ground)
    yield from mixed_flips(ground)


def flips_of(ground: Ground) -> Iterator[Proposal]:
    """Yield all candidates that change no feature."""
    for kind in (plain_flips_of, alfa, influence_flips, kernel_flips):
        yield from kind(ground)


def proposals_of(ground: Ground) -> Iterator[Proposal]:
    """Yield all candidates of an attack that moves features. If labels must stay, start from unchanged rows."""
    first, *picked = plain_flips_of(ground)
    if ground.attack.edits == "features":
        yield from (proposal._replace(kind="untouched rows") for proposal in (first, *picked))
    else:
        yield from (first, *picked)
        yield from alfa(ground)
        yield from influence_flips(ground)
        yield from kernel_flips(ground)
    yield from minmax(ground, picked)
    yield from grown(ground)
