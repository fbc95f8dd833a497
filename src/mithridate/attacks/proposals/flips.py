"""Label flips of rows that are picked without any derivative.

The rows are random rows of all classes, or rows of one class: those of which a clean victim is surest, those nearest to
its boundary, their tightest ball, or random ones. One-sided flips move the bias, which no penalty limits. Rows near to
each other change the predictions around them. Flips of two classes in unequal shares turn the boundary.
"""

from collections.abc import Iterator

import numpy as np

from mithridate.attacks.picking import by_score, tightest_ball
from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.attacks.starts import clones

MIXES = (0.25, 0.5, 0.75)
"""Shares of the flips labelled 1, when two classes are mixed."""


def random_flips(ground: Ground) -> Iterator[Proposal]:
    """Yield random rows of all classes with other labels; for a targeted attack its own starting points."""
    attack, at = ground.attack, ground.at
    if attack.budget == "chosen" and attack.start is None and not attack.specific:
        rows = ground.draw("random").permutation(ground.pool)[: at.end]
        labels = attack.task.flipped(at.y[rows].astype(float), attack.flip, ground.draw("random labels"), at.x, at.y)
        points = ground.laid(rows, labels)
    else:
        points = clones(attack, at.x, at.y, at.end)
    yield Proposal("random flips", "random rows", points)


def class_flips(ground: Ground) -> Iterator[Proposal]:
    """Yield flips from one class to another, for each pair of classes and each way to pick the rows."""
    k = ground.at.end
    for sources, label in _pairs(ground):
        rows = ground.of_class(*sources)
        most = min(k, ground.most(rows))
        whose = f"class {sources[0]}" if len(sources) == 1 else "all other classes"
        for way, order in _orders(ground, rows, most).items() if most else ():
            points = ground.laid(order[:most], np.full(most, label))
            yield Proposal("class flips", f"{way} of {whose}, labelled {label}", points)


def mixed_flips(ground: Ground) -> Iterator[Proposal]:
    """Yield flips of two classes in several shares, for each way to pick the rows."""
    if ground.n_classes != 2:
        return
    k = ground.at.end
    for share in MIXES:
        parts = []
        for label, many in ((1, round(share * k)), (0, k - round(share * k))):
            rows = ground.of_class(1 - label)
            orders = _orders(ground, rows, min(many, ground.most(rows)))
            parts.append((label, min(many, ground.most(rows)), orders))
        for way in parts[0][2]:
            picked = np.concatenate([orders[way][:many] for _, many, orders in parts])
            labels = np.concatenate([np.full(many, label) for label, many, _ in parts])
            if len(picked):
                yield Proposal(
                    "class flips", f"{way} of both classes, {share:.0%} labelled 1", ground.laid(picked, labels)
                )


def _orders(ground: Ground, rows: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Return the ways to pick k of these rows: an order of the rows for each way's name."""
    ways = {"random rows": ground.draw("random").permutation(rows)}
    for number, margins in enumerate(ground.margins):
        ways[f"surest rows ({ground.named(number)})"] = by_score(margins, rows)
    ways["rows nearest to the boundary"] = by_score(-ground.margins[0], rows)
    ways["the tightest ball"] = tightest_ball(ground.at.x, rows, max(k, 1)) if len(rows) else rows
    return ways


def _pairs(ground: Ground) -> list[tuple[tuple[int, ...], int]]:
    """Return pairs: the classes whose labels are flipped, and the label that they get.

    With two classes, both directions. With more, all other classes to one, and each class to the nearest.
    """
    classes = range(ground.n_classes)
    to_one = [(tuple(c for c in classes if c != label), label) for label in classes]
    if ground.n_classes == 2:
        return to_one
    every = np.arange(ground.n_classes)
    nearest = ground.attack.task.flipped(every, "nearest", ground.draw("pairs"), ground.at.x, ground.at.y)
    return to_one + [((c,), int(label)) for c, label in enumerate(nearest)]
