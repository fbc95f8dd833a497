"""Poison for one training fold: the attack on a surrogate, from raw rows to raw points."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import NearestNeighbors

from mithridate.attacks.bilevel import Attack
from mithridate.attacks.poison import Points as AttackPoints
from mithridate.configuration.parts import one_of
from mithridate.data.encoding import Schema
from mithridate.data.feasible import Mixed
from mithridate.defences.base import Policy
from mithridate.errors import InputError
from mithridate.estimators.capability import Budget, Capability, Fold, Points
from mithridate.hypergradients.steps import poison_rule
from mithridate.victims.learner import Learner
from mithridate.victims.models import MLP, LogisticRegression, Model
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, GradientDescent

Surrogate = str | Learner | Model

TRANSFER = "transfer"
REACH = 0.05
"""The step of the points, as a share of the feasible set's diagonal."""
BATCHES = 3
"""The smallest number of batches that are crafted one after the other."""
SLACK = 1.05
"""The factor by which a number of points may be rounded up to whole batches."""
INNER = GradientDescent(0.1, 200)
"""The training rule of a surrogate that cannot be solved to optimality."""


class Plan(NamedTuple):
    """Everything that is the same for every fold, so that one compilation serves all folds.

    `rows`: the smallest number of rows in a fold; `counts`: the number of points at each share, in whole batches of
    `batch`; `fits`: how often the attacker fits the estimator in a split, or None; `wide`: whether to use float64.
    """

    schema: Schema
    n_classes: int
    rows: int
    counts: tuple[int, ...]
    batch: int
    surrogate: Surrogate
    policy: Policy
    capability: Capability
    fits: int | None
    steps: int
    wide: bool


@dataclass(frozen=True, kw_only=True)
class _Begun(Attack):
    """The attack, started from given points in given places."""

    begun: AttackPoints

    def starting_points(self, x: np.ndarray, y: np.ndarray) -> AttackPoints:
        return self.begun


def check_surrogate(surrogate: Any) -> bool:
    """Return whether the surrogate needs float64. Raises `InputError` if it is no surrogate."""
    if isinstance(surrogate, Learner):
        return surrogate.solved
    if surrogate in ("logistic", "mlp") if isinstance(surrogate, str) else isinstance(surrogate, Model):
        return surrogate == "logistic"
    raise InputError(one_of("surrogate", surrogate, ("logistic", "mlp"), ", or a Learner or Model of mithridate"))


def counts_of(shares: tuple[float, ...], n: int, budget: Budget, half: int) -> tuple[tuple[int, ...], int]:
    """Return the number of points for each share of a training set of n rows, in whole batches, and the batch size.

    The batch size is the largest that rounds every number up by at most 5 %; the last batch may be smaller. Raises
    `InputError` if there are more points than `half` of the rows, in which they must find their places.
    """
    exact = [math.ceil(n * share / (1 - share if budget == "added" else 1) - 1e-9) for share in shares]
    most = max(exact)
    if most >= half:
        raise InputError(
            f"shares: {shares[-1]:g} of a training fold of {n} rows are {most} points; fewer than {half} can be "
            "crafted, because half of the rows stay clean for the attacker to measure on"
        )
    for batch in range(max(1, math.ceil(most / BATCHES)), 0, -1):
        counts = tuple(min(batch * math.ceil(count / batch), most) for count in exact)
        if all(count <= SLACK * wanted for count, wanted in zip(counts, exact, strict=True)):
            return counts, batch
    return tuple(exact), 1


def craft(fold: Fold, plan: Plan, begun: Points | None = None) -> list[Points]:
    """Return points that poison a training fold, crafted on a surrogate, one set per scaling.

    They start from the points `begun`. By default they start as clones of the rows on which the attacker measures, with
    labels flipped, in random places among the other rows; each part is half of the fold. Given points can have any
    places, so then he measures on a third of the fold. If the fold has trusted rows, he measures on these, and all rows
    of the fold are trained on.

    Distances and penalties depend on the scale of the features, and an estimator may rescale them or not. So one set is
    crafted on standardised features, the other on features scaled to a feasible range of 1.
    """
    x, standardised = fold.view.x, fold.encoder.feasible
    ranges = standardised.box.high - standardised.box.low
    scalings = {"standardised": np.ones_like(ranges), "ranges of 1": 1 / np.where(ranges > 0, ranges, 1.0)}
    return [
        _crafted(fold, plan, begun, x, standardised, factor)._replace(name=f"transfer, {scaling}")
        if begun is None
        else _crafted(fold, plan, begun, x, standardised, factor)._replace(
            name=f"transfer from {begun.name}, {scaling}"
        )
        for scaling, factor in scalings.items()
    ]


def _crafted(
    fold: Fold, plan: Plan, begun: Points | None, x: np.ndarray, standardised: Mixed, factor: np.ndarray
) -> Points:
    own, ranges = x * factor[None], standardised.box.high - standardised.box.low
    train, trusted, moved = _rows(fold, plan, begun)
    aimed = own[trusted], fold.labels[trusted]
    if fold.trusted:
        raw, labels = fold.trusted
        aimed = fold.encoder.transform(raw) * factor[None], labels
    given = {}
    if begun is not None:
        start = own[begun.sources]
        places = np.searchsorted(train, moved) if len(moved) else np.arange(len(start))
        given = {"begun": AttackPoints(start, begun.labels, places), "start": (start, begun.labels)}
    feasible = _stretched(standardised, factor)
    with jax.enable_x64(plan.wide):
        attack = (_Begun if given else Attack)(
            learner=_learner(plan, own[train], fold.labels[train]),
            target=aimed,
            feasible=feasible,
            policy=plan.policy,
            points=plan.counts[-1] if begun is None else len(begun.labels),
            batch=plan.batch,
            budget="added" if plan.capability.budget == "added" else "replaced",
            steps=plan.steps,
            ascent=poison_rule("normalised", _reach(float(np.linalg.norm(factor * ranges)))),
            seed=fold.seed,
            **given,
        )
        poison = attack.poison(own[train], fold.labels[train])
    raw, raw_start = (fold.encoder.raw(part / factor[None]) for part in (poison.x_poison, poison.x_start))
    ends, starts = fold.table.written(raw), fold.table.written(raw_start)
    if begun is not None:
        return begun._replace(kind=TRANSFER, cells=ends, raw=raw, plain=False)
    places = None if poison.replaced is None else train[poison.replaced]
    sources = _sources(own[trusted], trusted, poison.x_start)
    return Points(TRANSFER, "", ends, raw, starts, raw_start, poison.y_poison.astype(int), places, sources)


def _rows(fold: Fold, plan: Plan, begun: Points | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows that train the surrogate, the rows on which the attacker measures, and the replaced rows."""
    labels, everything = fold.labels, np.arange(len(fold.labels))
    if fold.trusted:
        return everything, everything, everything[:0] if begun is None or begun.rows is None else begun.rows
    if begun is None:
        half = plan.rows // 2
        halves = StratifiedShuffleSplit(1, train_size=half, test_size=half, random_state=fold.seed)
        train, trusted = next(halves.split(labels, labels))
        return train, trusted, np.empty(0, dtype=int)
    moved = np.empty(0, dtype=int) if begun.rows is None else begun.rows
    rest = np.random.default_rng(fold.seed).permutation(np.setdiff1d(np.arange(len(labels)), moved))
    third = plan.rows // 3
    return np.sort(np.append(rest[third : plan.rows - len(moved)], moved)), rest[:third], moved


def _sources(x: np.ndarray, rows: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the rows, with features x, of which the points are clones: the nearest ones."""
    return rows[NearestNeighbors(n_neighbors=1).fit(x).kneighbors(start, return_distance=False)[:, 0]]


def _reach(diagonal: float) -> float:
    """Return the step size, rounded to a power of 2, because each new size must be compiled."""
    return 2.0 ** round(math.log2(REACH * diagonal)) if diagonal > 0 else REACH


def _stretched(feasible: Mixed, factor: np.ndarray) -> Mixed:
    """Return Φ of the features multiplied by `factor`, which is 1 for categories."""
    m = len(factor)
    return Mixed(
        feasible.box.low * factor,
        feasible.box.high * factor,
        grid=feasible.grid,
        offset=feasible.fraction,
        scale=feasible.scale / factor,
        groups=[group[group < m].tolist() for group in feasible.groups],
    )


def _learner(plan: Plan, x: np.ndarray, labels: np.ndarray) -> Learner:
    if isinstance(plan.surrogate, Learner):
        return plan.surrogate
    if plan.surrogate == "logistic":
        return Learner(LogisticRegression(x.shape[1], plan.n_classes), Exact())
    model = MLP(x.shape[1], (32,), n_classes=plan.n_classes) if isinstance(plan.surrogate, str) else plan.surrogate
    learner = Learner(model, INNER)
    return learner.with_rule(INNER.subdivided(learner.curvature(Rows.of(x, labels), float(plan.policy.strengths.high))))
