"""Which points of a poison do the harm: groups of similar points are left out, and the estimator is fitted again."""

from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans

from mithridate.estimators.capability import Fold, Points

GROUPS = 8
"""The most groups that are left out in turn."""


def contributions(points: Points, fold: Fold, harm: Callable[[Points], float], seed: int) -> np.ndarray:
    """Return how much of the harm each point does (k,): the harm that is gone without its group, an equal part each.

    Groups have the same label and similar features. Parts need not add up to the whole: points can stand in for each
    other, or do harm only together.
    """
    k = len(points.labels)
    found = np.zeros(k)
    if not k:
        return found
    x, whole = fold.encoder.transform(points.raw), harm(points)
    groups = np.zeros(k, dtype=int)
    labels = np.unique(points.labels)
    for label in labels:
        own = np.flatnonzero(points.labels == label)
        many = min(max(1, GROUPS // len(labels)), len(np.unique(x[own], axis=0)))
        cut = KMeans(many, n_init="auto", random_state=seed).fit_predict(x[own])
        groups[own] = cut + groups.max() + 1
    for group in np.unique(groups):
        own = groups == group
        found[own] = (whole - harm(points.only(np.flatnonzero(~own)))) / own.sum()
    return found
