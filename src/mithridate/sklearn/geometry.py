"""The space in which a fitted estimator compares rows: near in it is alike to the estimator."""

from typing import Any

import numpy as np

WIDTH = 64
"""How many random directions stand for the leaves of trees."""


def own_space(fitted: Any, cells: Any, seed: int) -> np.ndarray | None:
    """Return rows (n, …) as the fitted estimator compares them, (n, d); None where it does not say.

    Of trees and forests the leaves that a row falls into: the inner product of two rows is about the number of leaves
    that they share. Of boosting that has no `apply`, by how much each stage moves its answer. Of anything else, as
    nearest neighbours and kernels, the features that reach it through its pipeline.
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
    """Return whether an estimator of this kind is quickly fitted: linear, a kernel, or nearest neighbours."""
    final = _final(fitted)
    return any(hasattr(final, name) for name in ("coef_", "support_", "kneighbors"))


def _unwrapped(fitted: Any, cells: Any) -> tuple[Any, Any]:
    """Return the estimator that decides, out of searches and pipelines, and the rows as they reach it."""
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
    """Return leaves by number (n, trees) in random directions, one for each leaf of each tree, added up."""
    draw, found = np.random.default_rng(seed), np.zeros((len(leaves), WIDTH))
    for tree in leaves.T:
        names, numbers = np.unique(tree, return_inverse=True)
        found += draw.choice((-1.0, 1.0), size=(len(names), WIDTH))[numbers]
    return found / np.sqrt(WIDTH)
