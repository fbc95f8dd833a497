"""Which rows an attacker relabels, and how: every simple way to pick them, as orders of rows.

Each way is tried for each pair of classes, from one to another. It picks rows of the first class: those of which a
logistic regression on standardised features is surest ("confident") or least sure ("near"), random rows, or a tight
ball, in standardised features or in the space in which the estimator itself compares rows ("own ball"). A thinned way
reaches further and leaves rows in between unchanged: if most neighbours have a wrong label, these rows are lost too.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mithridate.attacks.picking import by_score, tightest_ball

RANDOM = "random flips"
THINNED = (0.75, 0.6)
"""The share of the rows within reach that a thinned way relabels."""
KEPT = 0.1
"""The share of a class that keeps its labels: an estimator needs rows of every class."""
FEWEST = 6
"""The smallest number of a class's rows that keep their labels: searches need them for their own folds."""


Cut = Callable[[np.ndarray], np.ndarray]


class Flips(NamedTuple):
    """Rows of a training fold (k,) and their new labels (k,).

    `kind` and `name`: how the rows were picked; `plain`: nothing is optimised, as in the baseline.
    """

    kind: str
    name: str
    rows: np.ndarray
    labels: np.ndarray
    plain: bool = True


class View(NamedTuple):
    """What the attacker sees of a training fold of n rows.

    `x` (n, m), its features standardised; `own` (n, d), in the estimator's own space, or None; `labels` (n,);
    `probabilities` (n, K), of logistic regression; `among`, the rows that can be relabelled.
    """

    x: np.ndarray
    own: np.ndarray | None
    labels: np.ndarray
    probabilities: np.ndarray
    among: np.ndarray


def flips_of(view: View, k: int, draw: np.random.Generator) -> list[Flips]:
    """Return all ways to relabel at most k rows, each for every pair of classes."""
    names = ["confident", "near", "ball", "own ball", "random"]
    pairs, limited = _pairs(view), _spare(view)
    orders = {pair: dict(_orders(view, pair[0], k, draw)) for pair in pairs}
    found = []
    for share, name in itertools.product((1.0, *THINNED), names):
        for first in range(len(pairs)):
            parts = [orders[pair].get((name, share)) for pair in _from(pairs, first)]
            if parts[0] is None:
                continue
            rows = limited(np.concatenate([part for part in parts if part is not None]))[:k]
            to = dict(_from(pairs, first))
            labels = np.array([to[own] for own in view.labels[rows]], dtype=int)
            thinned = "thinned " if share < 1 else ""
            title = f"{thinned}{name} {share:g}, " if thinned else f"{name}, "
            whose = f"{title}class {pairs[first][0]} to {pairs[first][1]}"
            found.append(Flips("class flips", whose, rows, labels, share == 1))
    return [_mixed(view, k, draw, limited), *found]


def _pairs(view: View) -> list[tuple[int, int]]:
    """Return (from, to) for each class and its nearest class; pairs that are easily confused come first."""
    classes = range(view.probabilities.shape[1])
    confused = np.array([view.probabilities[view.labels == own].mean(axis=0) for own in classes])
    np.fill_diagonal(confused, -1.0)
    nearest = confused.argmax(axis=1)
    return [(int(own), int(nearest[own])) for own in np.argsort(-confused.max(axis=1), kind="stable")]


def _from(pairs: list[tuple[int, int]], first: int) -> list[tuple[int, int]]:
    """Return this pair and the pairs to continue with when its class is used up; none of them undoes another."""
    found = [pairs[first]]
    for own, other in pairs[first + 1 :] + pairs[:first]:
        if own not in [to for _, to in found] and other not in [begun for begun, _ in found]:
            found.append((own, other))
    return found


def spare_of(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return how many rows each class can spare (K,), for labels (n,)."""
    sizes = np.bincount(labels, minlength=n_classes)
    return np.maximum(0, sizes - np.maximum(FEWEST, np.ceil(KEPT * sizes))).astype(int)


def _spare(view: View) -> Cut:
    """Return a function that limits an order of rows to those that their classes can spare."""
    spare = spare_of(view.labels, view.probabilities.shape[1])

    def cut(rows: np.ndarray) -> np.ndarray:
        kept = np.zeros(len(rows), dtype=bool)
        for own, most in enumerate(spare):
            kept[np.flatnonzero(view.labels[rows] == own)[:most]] = True
        return rows[kept]

    return cut


def _orders(view: View, own: int, k: int, draw: np.random.Generator) -> Iterator[tuple[tuple[str, float], np.ndarray]]:
    """Yield ((name, share of the rows within reach), order) for the rows of a class."""
    rows = view.among[view.labels[view.among] == own]
    if not len(rows):
        return
    spaces = {"ball": view.x} | ({} if view.own is None else {"own ball": view.own})
    yield ("random", 1.0), draw.permutation(rows)
    yield ("near", 1.0), by_score(-view.probabilities[:, own], rows)
    for share in (1.0, *THINNED):
        reach = min(len(rows), int(k / share))
        orders = {"confident": by_score(view.probabilities[:, own], rows)}
        orders |= {name: tightest_ball(space, rows, reach) for name, space in spaces.items()}
        for name, order in orders.items():
            yield (name, share), order if share == 1 else np.append(draw.permutation(order[:reach]), order[reach:])


def _mixed(view: View, k: int, draw: np.random.Generator, limited: Cut) -> Flips:
    """Return random rows of all classes, each with another random label."""
    rows, n_classes = limited(draw.permutation(view.among))[:k], view.probabilities.shape[1]
    return Flips(RANDOM, "random", rows, (view.labels[rows] + draw.integers(1, n_classes, len(rows))) % n_classes)
