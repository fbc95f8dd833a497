"""Which rows an attacker picks: orders of rows, the first to be picked at the front. Plain NumPy, no victim."""

import numpy as np

CENTRES = 1024
"""The largest number of rows that are tried as the centre of a ball."""


def by_score(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the rows `among` (their numbers), sorted by `scores` (n,), largest first; ties keep their order."""
    return among[np.argsort(-scores[among], kind="stable")]


def tightest_ball(x: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """Return the rows `among` of x (n, m), sorted by distance to the centre of the tightest ball of k of them.

    The centre is the row whose k-th nearest row is nearest (Euclidean distance). Of more than 1,024 rows only an even
    selection is tried as centres.
    """
    rows = np.asarray(x[among], dtype=np.float64)
    tried = rows[:: max(1, len(rows) // CENTRES)]
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = np.einsum("ij,ij->i", tried, tried)[:, None] + squares[None] - 2 * tried @ rows.T
    reach = np.partition(distances, min(k, len(rows)) - 1, axis=1)[:, min(k, len(rows)) - 1]
    return among[np.argsort(distances[np.argmin(reach)], kind="stable")]
