"""Flips grown by refits: batches of relabelled rows are swapped for others where held-out errors rise.

A row that is wrong when held out, amid rows that are all wrong as well, needs no label of its own: it is given back,
and a row at the edge of what is lost is relabelled in its stead. (Greedy flips as of Paudice et al. 2018, in batches;
on forests the principle of Timber, Calzavara et al. 2024, by refits.)
"""

from collections.abc import Callable

import numpy as np
from sklearn.neighbors import NearestNeighbors

from mithridate.sklearn.flips import Flips, View
from mithridate.sklearn.trials import Outcome

NEIGHBOURS = 10
FIRST = 6
"""The first batch is a sixth of the rows."""
SHRINKING = 0.85
"""By how much a batch shrinks after a swap that failed."""


def grown(
    start: Flips,
    outcome: Outcome,
    view: View,
    measure: Callable[[Flips], Outcome],
    swaps: int,
    draw: np.random.Generator,
) -> tuple[Flips, Outcome]:
    """Return flips after so many swaps, those kept that did not lower the harm, and their outcome.

    Rows come from the classes that `start` relabels, and get the label that it gives them.
    """
    to = dict(zip(view.labels[start.rows].tolist(), start.labels.tolist(), strict=True))
    rows, best = start.rows, outcome
    pool = view.among[np.isin(view.labels[view.among], list(to))]
    size = max(1, len(rows) // FIRST)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(view.x) - 1)).fit(view.x).kneighbors(return_distance=False)
    for swap in range(swaps):
        rest = np.setdiff1d(pool, rows)
        batch = min(size, len(rest), len(rows))
        if not batch:
            break
        lost = best.wrong[near].mean(axis=1) + 1e-3 * draw.random(len(view.x))
        # In turn: those given back are the surest to be lost, any, or those that lie alone.
        out = (rows[np.argsort(-lost[rows])], draw.permutation(rows), rows[np.argsort(lost[rows])])[swap % 3]
        # Those relabelled lie at the edge of what is lost; every other time they may be lost already.
        gain = lost[rest] - (swap % 2) * best.wrong[rest]
        changed = np.concatenate([out[batch:], rest[np.argsort(-gain)][:batch]])
        new = Flips(start.name, changed, np.array([to[own] for own in view.labels[changed].tolist()]), False)
        found = measure(new)
        if found.score <= best.score:
            rows, best = changed, found
        else:
            size = max(1, int(SHRINKING * size))
    labels = np.array([to[own] for own in view.labels[rows].tolist()], dtype=int)
    return Flips(f"grown from {start.name}", rows, labels, False), best
