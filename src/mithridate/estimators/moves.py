"""Features moved by refits: poison whose cells come from other rows, kept where the estimator's errors do not fall.

An evolutionary search in which nothing is asked of the estimator but to be fitted again. A child takes some points and
gives each some columns of another row, or all of them: a point near the most harmful place then stands there as well.
Every cell is one that the column has, so that the points stay rows that the table could hold.
"""

from collections.abc import Callable

import numpy as np

from mithridate.estimators.capability import Fold, Points
from mithridate.estimators.trials import Outcome

MOVED = "moved rows"
PART = 0.3
"""The share of the points that the first children change."""
SHRINKING = 0.85
"""The factor by which this share shrinks after a child that did less harm."""


def moved(
    start: Points,
    outcome: Outcome,
    fold: Fold,
    measure: Callable[[Points], Outcome],
    tries: int,
    draw: np.random.Generator,
) -> tuple[Points, Outcome]:
    """Return the points after so many tries, and their outcome; labels and places stay as they are.

    Donors are the points themselves, by turns with rows of the fold, all of the class that the point is not labelled
    with: a wrong label does most where rows of another class are. If only features may change, the labels are true, and
    a donor may be any row of another class.
    """
    best, kept, part = start, outcome, PART
    lines = draw.permutation(len(fold.labels))
    others = {number: lines[fold.labels[lines] != number] for number in np.unique(start.labels)}
    for turn in range(tries):
        raw, sources, k = best.raw.copy(), best.sources.copy(), len(best.labels)
        for point in draw.permutation(k)[: max(1, int(part * k))]:
            label = best.labels[point]
            if turn % 2 == 0:
                other = draw.choice(np.flatnonzero(best.labels == label))
                donor, source = best.raw[other], best.sources[other]
            else:
                source = draw.choice(others[label])
                donor = fold.raw[source]
            columns = np.ones(raw.shape[1], dtype=bool) if turn % 4 < 2 else draw.random(raw.shape[1]) < 0.5
            raw[point, columns], sources[point] = donor[columns], source
        raw = fold.within(raw)
        child = best._replace(
            kind=MOVED,
            name=f"moved from {start.name}",
            raw=raw,
            cells=fold.table.written(raw),
            sources=sources,
            plain=False,
        )
        found = measure(child)
        if found.score <= kept.score:
            best, kept = child, found
        else:
            part = max(part * SHRINKING, 1 / k)
    return best, kept
