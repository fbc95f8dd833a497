"""Flips grown by refits: batches of relabelled rows are swapped for others if held-out errors do not fall.

If a row and all its neighbours are wrong when held out, the row need not be relabelled. It gets its label back, and a
row at the edge of the wrong region is relabelled instead. (These are greedy flips as in Paudice et al. 2018, in
batches; for forests the principle of Timber, Calzavara et al. 2024, by refits.)
"""

from collections.abc import Callable

import numpy as np
from sklearn.neighbors import NearestNeighbors

from mithridate.estimators.flips import Flips, View
from mithridate.estimators.trials import Outcome

GROWN = "grown flips"
NEIGHBOURS = 10
FIRST = 6
"""The first batch is a sixth of the rows."""
SHRINKING = 0.85
"""The factor by which a batch shrinks after a swap that failed."""


def grown(
    start: Flips,
    outcome: Outcome,
    view: View,
    measure: Callable[[Flips], Outcome],
    swaps: int,
    draw: np.random.Generator,
) -> tuple[Flips, Outcome]:
    """Return the flips after `swaps` swaps, and their outcome; a swap is kept if it does not lower the harm.

    Rows come from the classes that `start` relabels, and get the labels that `start` gives them.
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
        # Rows that get their labels back, in turn: the surest to be wrong, random ones, the least sure to be wrong.
        out = (rows[np.argsort(-lost[rows])], draw.permutation(rows), rows[np.argsort(lost[rows])])[swap % 3]
        # Relabelled rows lie at the edge of the wrong region; every other time they may lie inside it.
        gain = lost[rest] - (swap % 2) * best.wrong[rest]
        changed = np.concatenate([out[batch:], rest[np.argsort(-gain)][:batch]])
        new = Flips(GROWN, start.name, changed, np.array([to[own] for own in view.labels[changed].tolist()]), False)
        found = measure(new)
        if found.score <= best.score:
            rows, best = changed, found
        else:
            size = max(1, int(SHRINKING * size))
    labels = np.array([to[own] for own in view.labels[rows].tolist()], dtype=int)
    return Flips(GROWN, f"grown from {start.name}", rows, labels, False), best
