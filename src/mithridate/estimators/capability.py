"""What an attacker of a training fold may do: which rows are his, and what he changes in them.

    budget   added: new rows; replaced: rows drawn at random; chosen: rows that he picks
    edits    labels: the features stay; features: the labels stay the true ones (clean-label); both

Every candidate is made here, so that no other module can overstep a capability.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from sklearn.linear_model import LogisticRegression

from mithridate.configuration.parts import one_of
from mithridate.data.encoding import Encoder
from mithridate.data.rules import kept
from mithridate.errors import InputError
from mithridate.estimators.flips import Flips, View
from mithridate.estimators.rows import Table, take, with_points

Budget = Literal["added", "replaced", "chosen"]
Edits = Literal["both", "labels", "features"]


class Capability(NamedTuple):
    """A budget and edits."""

    budget: Budget
    edits: Edits

    @classmethod
    def checked(cls, budget: Any, edits: Any) -> "Capability":
        """Return it, or raise `InputError` for an unknown budget or edits."""
        for name, value, allowed in (("budget", budget, get_args(Budget)), ("edits", edits, get_args(Edits))):
            if value not in allowed:
                raise InputError(one_of(name, value, allowed))
        return cls(budget, edits)


class Points(NamedTuple):
    """Poison of k points, as rows of the user's X: now (`cells`) and at their start (`start`), with labels (k,).

    `raw`, `raw_start` (k, columns): the same as a table's numbers. Labels are class numbers. `rows` (k,): the rows of
    the fold that the points replace, None if they are added. `sources` (k,): the rows of the fold whose features the
    points have now or had at their start. When such a row is held out, no fit may use its copy. `kind`: how they were
    made, of which `name` says more; `plain`: nothing is optimised.
    """

    kind: str
    name: str
    cells: Any
    raw: np.ndarray
    start: Any
    raw_start: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None
    sources: np.ndarray
    plain: bool = False

    def first(self, count: int) -> "Points":
        """Return the first points, at most `count`."""
        return self.only(np.arange(min(count, len(self.labels))))

    def only(self, own: np.ndarray) -> "Points":
        """Return these points, by number."""
        return self._replace(
            cells=take(self.cells, own),
            raw=self.raw[own],
            start=take(self.start, own),
            raw_start=self.raw_start[own],
            labels=self.labels[own],
            rows=None if self.rows is None else self.rows[own],
            sources=self.sources[own],
        )

    def begins(self, other: "Points") -> bool:
        """Return whether these are the first points of another poison, `other`."""
        begun = other.first(len(self.labels))
        same = np.array_equal(self.labels, begun.labels) and np.array_equal(self.sources, begun.sources)
        if self.rows is not None and begun.rows is not None:
            same = same and np.array_equal(self.rows, begun.rows)
        return self.name == other.name and same


@dataclass(frozen=True)
class Fold:
    """A training fold: rows of the user's X (n, …), the same as raw numbers (n, columns), and class numbers (n,).

    `trusted`: raw rows (t, columns) outside the fold and their class numbers (t,), by which the attacker measures; if
    there are none, he holds out rows of the fold.
    """

    table: Table
    cells: Any
    raw: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    seed: int
    trusted: tuple[np.ndarray, np.ndarray] | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """How raw rows become standardised features."""
        return Encoder.fit(self.table.schema, self.raw)

    @cached_property
    def drawn(self) -> np.ndarray:
        """The order in which rows are drawn if the attacker does not choose them."""
        return np.random.default_rng((self.seed, 1)).permutation(len(self.labels))

    @cached_property
    def view(self) -> View:
        """What the attacker sees with any estimator."""
        x = self.encoder.transform(self.raw)
        probabilities = LogisticRegression(max_iter=1000).fit(x, self.labels).predict_proba(x)
        return View(x, None, self.labels, probabilities, np.arange(len(x)))

    def among(self, capability: Capability, count: int) -> np.ndarray:
        """Return the rows whose labels can be flipped with `count` points."""
        return self.drawn[:count] if capability == ("replaced", "labels") else np.arange(len(self.labels))

    def points(self, flips: Flips, capability: Capability, count: int) -> Points:
        """Return at most `count` points with the same effect as these flips, within the capability.

        If only features may change, a flip becomes a row that truly has the wanted label, moved onto the row to be
        flipped.
        """
        wanted, places = np.arange(min(count, len(flips.rows))), flips.rows
        if capability.edits == "features":
            wanted, places = self._by_right(flips.labels, capability, count)
        elif capability == ("replaced", "both"):
            places = self.drawn
        sources, labels, places = flips.rows[wanted], flips.labels[wanted], places[: len(wanted)]
        origin = places if capability.edits == "features" else sources
        start, raw_start = take(self.cells, origin), self.raw[origin]
        cells, raw = take(self.cells, sources), self.raw[sources]
        if capability.edits != "labels" and not np.array_equal(inside := self.within(raw), raw, equal_nan=True):
            raw, cells = inside, self.table.written(inside)
        rows = None if capability.budget == "added" else places
        kind = "copied rows" if capability.edits == "features" else flips.kind
        return Points(kind, flips.name, cells, raw, start, raw_start, labels, rows, sources, flips.plain)

    def within(self, raw: np.ndarray) -> np.ndarray:
        """Return raw rows (k, columns) with the nearest cells that poisoned rows may have."""
        inside = np.clip(raw, self.encoder.low, self.encoder.high)
        for place, column in enumerate(self.table.schema.columns):
            if column.allowed is not None:
                barred = ~np.isin(raw[:, place], column.allowed) & ~np.isnan(raw[:, place])
                inside[barred, place] = column.allowed[0]
        return kept(self.table.schema.rules, inside, self.table.schema.grids)

    def unchanged(self, rows: np.ndarray, capability: Capability) -> Points:
        """Return these rows as points with their own labels and features, from which an attack can move them."""
        own, places = take(self.cells, rows), None if capability.budget == "added" else rows
        raw, labels = self.raw[rows], self.labels[rows]
        return Points("none", "own labels", own, raw, own, raw, labels, places, rows)

    def _by_right(self, labels: np.ndarray, capability: Capability, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return for which of these labels a row that truly has the label is available, and those rows."""
        sure = np.argsort(-self.view.probabilities[np.arange(len(self.labels)), self.labels], kind="stable")
        order = self.drawn[:count] if capability.budget == "replaced" else sure
        left = {number: iter(order[self.labels[order] == number]) for number in range(len(self.classes))}
        found = [(place, next(left[label], None)) for place, label in enumerate(labels)]
        pairs = np.array([pair for pair in found if pair[1] is not None], dtype=int).reshape(-1, 2)[:count]
        return pairs[:, 0], pairs[:, 1]

    def poisoned(self, points: Points, held: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Return the fold's rows and labels with the points in them, without the rows that are `held` out (n,).

        Added points are scattered: otherwise a search that cuts its folds in row order would have them all in one fold.
        """
        n, k = len(self.labels), len(points.labels)
        held = np.zeros(n, dtype=bool) if held is None else held
        rows = np.random.default_rng(self.seed).uniform(0, n, k) if points.rows is None else points.rows
        own = ~held
        if points.rows is not None:
            own[points.rows] = False
        there = np.concatenate([own, ~held[points.sources]])
        order = np.argsort(np.concatenate([np.arange(n), rows]), kind="stable")
        order = order[there[order]]
        labels = np.concatenate([self.labels, points.labels])
        return with_points(self.cells, points.cells, order), self.classes[labels[order]]
