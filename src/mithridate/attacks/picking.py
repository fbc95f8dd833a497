"""Which rows an attacker picks: orders of rows, those that he takes first at the front. Plain NumPy, no victim."""

import numpy as np

CENTRES = 1024
"""The most rows that are tried as the centre of a ball."""


def by_score(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the rows `among` (their numbers), the one with the largest of `scores` (n,) first; ties in their order."""
    return among[np.argsort(-scores[among], kind="stable")]


def tightest_ball(x: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """Return the rows `among` of x (n, m), those nearest to the centre of the tightest ball of k of them first.

    The centre is the row whose k-th nearest is nearest (Euclidean distance); of more than 1,024 rows an even selection
    is tried.
    """
    rows = np.asarray(x[among], dtype=np.float64)
    tried = rows[:: max(1, len(rows) // CENTRES)]
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = np.einsum("ij,ij->i", tried, tried)[:, None] + squares[None] - 2 * tried @ rows.T
    reach = np.partition(distances, min(k, len(rows)) - 1, axis=1)[:, min(k, len(rows)) - 1]
    return among[np.argsort(distances[np.argmin(reach)], kind="stable")]
