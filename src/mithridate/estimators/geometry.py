"""The space in which a fitted estimator compares rows: rows that are near there look alike to the estimator."""

from typing import Any

import numpy as np

WIDTH = 64
"""The number of random directions that represent the leaves of trees."""


def own_space(fitted: Any, cells: Any, seed: int) -> np.ndarray | None:
    """Return rows (n, …) as the fitted estimator compares them, (n, d), or None if that is not known.

    For trees and forests these are the leaves that a row falls into: the inner product of two rows is about the number
    of leaves that they share. For boosting without `apply`, it is by how much each stage changes the output. For
    others, such as nearest neighbours and kernels, these are the features that reach it through its pipeline.
    """
    final, seen = _unwrapped(fitted, cells)
    if hasattr(final, "apply"):
        leaves = np.asarray(final.apply(seen))
        return _sketched(leaves.reshape(len(leaves), -1), seed)
    if hasattr(final, "staged_decision_function"):
        answers = np.stack([np.asarray(answer) for answer in final.staged_decision_function(seen)], axis=1)
        return np.diff(answers.reshape(len(answers), answers.shape[1], -1), axis=1).reshape(len(answers), -1)
    dense = seen.toarray() if hasattr(seen, "toarray") else np.asarray(seen)
    usable = dense.ndim == 2 and dense.dtype.kind in "biuf" and np.isfinite(dense).all()
    return dense.astype(np.float64) if usable else None


def quick(fitted: Any) -> bool:
    """Return whether this kind of estimator is quick to fit: linear, a kernel machine, or nearest neighbours."""
    final = _final(fitted)
    return any(hasattr(final, name) for name in ("coef_", "support_", "kneighbors"))


def _unwrapped(fitted: Any, cells: Any) -> tuple[Any, Any]:
    """Return the final estimator inside searches and pipelines, and the rows as they reach it."""
    if hasattr(fitted, "best_estimator_"):
        return _unwrapped(fitted.best_estimator_, cells)
    if hasattr(fitted, "steps"):
        return _unwrapped(fitted.steps[-1][1], fitted[:-1].transform(cells) if len(fitted.steps) > 1 else cells)
    return fitted, cells


def _final(fitted: Any) -> Any:
    if hasattr(fitted, "best_estimator_"):
        return _final(fitted.best_estimator_)
    return _final(fitted.steps[-1][1]) if hasattr(fitted, "steps") else fitted


def _sketched(leaves: np.ndarray, seed: int) -> np.ndarray:
    """Return the sum over trees of one random direction for each leaf, for leaf numbers (n, trees)."""
    draw, found = np.random.default_rng(seed), np.zeros((len(leaves), WIDTH))
    for tree in leaves.T:
        names, numbers = np.unique(tree, return_inverse=True)
        found += draw.choice((-1.0, 1.0), size=(len(names), WIDTH))[numbers]
    return found / np.sqrt(WIDTH)
