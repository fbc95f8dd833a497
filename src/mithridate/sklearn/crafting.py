"""One training fold poisoned: the attack on a surrogate, from raw rows to raw points."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from mithridate.attacks.base import Budget
from mithridate.attacks.bilevel import Attack
from mithridate.data.encoding import Encoder, Schema
from mithridate.data.feasible import Mixed
from mithridate.defences.base import Policy
from mithridate.errors import InputError
from mithridate.hypergradients.steps import poison_rule
from mithridate.victims.learner import Learner
from mithridate.victims.models import MLP, LogisticRegression, Model
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, GradientDescent

Surrogate = str | Learner | Model

REACH = 0.05
"""A step of the points, as a share of the feasible set's diagonal."""
BATCHES = 3
"""The fewest batches of points that are crafted one after the other."""
SLACK = 1.05
"""By how much a number of points may be rounded up to whole batches."""
INNER = GradientDescent(0.1, 200)
"""The training of a surrogate that cannot be solved."""


class Plan(NamedTuple):
    """What is the same for every fold, so that one compilation serves them all.

    `half`, the number of rows that are open, and of those that stay clean; `counts`, how many points are the poison at
    each share, in whole batches of `batch`; `wide` is float64.
    """

    schema: Schema
    n_classes: int
    half: int
    counts: tuple[int, ...]
    batch: int
    surrogate: Surrogate
    policy: Policy
    budget: Budget
    steps: int
    wide: bool


class Points(NamedTuple):
    """Raw points (k, columns), where they started, their labels; the rows of the fold they replace, or None.

    `trusted`: the rows of the fold on which the attacker measures.
    """

    raw: np.ndarray
    start: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None
    trusted: np.ndarray


def check_surrogate(surrogate: Any) -> bool:
    """Return whether the surrogate wants float64. Raises `InputError` for what is none."""
    if isinstance(surrogate, Learner):
        return surrogate.solved
    if surrogate in ("logistic", "mlp") if isinstance(surrogate, str) else isinstance(surrogate, Model):
        return surrogate == "logistic"
    raise InputError(f"surrogate = {surrogate!r}: use 'logistic', 'mlp', or a Learner or Model of mithridate")


def counts_of(shares: tuple[float, ...], n: int, budget: Budget, half: int) -> tuple[tuple[int, ...], int]:
    """Return the least number of points for each share of a training set of n rows, in whole batches, and the batch.

    Batches are as large as leaves every number within 5 %; the most points may end with a smaller batch. Raises
    `InputError` for more points than the `half` of the rows in which they have to find their places.
    """
    exact = [math.ceil(n * share / (1 if budget == "replaced" else 1 - share) - 1e-9) for share in shares]
    most = max(exact)
    if most >= half:
        raise InputError(
            f"shares: {shares[-1]:g} of a training fold of {n} rows are {most} points; below {half} can be crafted, as "
            "half of the rows stay clean for the attacker to measure on"
        )
    for batch in range(max(1, math.ceil(most / BATCHES)), 0, -1):
        counts = tuple(min(batch * math.ceil(count / batch), most) for count in exact)
        if all(count <= SLACK * wanted for count, wanted in zip(counts, exact, strict=True)):
            return counts, batch
    return tuple(exact), 1


def craft(raw: np.ndarray, labels: np.ndarray, plan: Plan, seed: int) -> list[Points]:
    """Return points that poison a training fold of raw rows (n, columns) with these labels (n,), one set a scaling.

    What is near, and what a penalty makes dear, depends on the scale of the features, which an estimator may change or
    not: the surrogate sees them standardised in one set, each with a feasible range of 1 in the other.
    """
    halves = StratifiedShuffleSplit(1, train_size=plan.half, test_size=plan.half, random_state=seed)
    open_rows, trusted = next(halves.split(labels, labels))
    encoder = Encoder.fit(plan.schema, raw)
    x, standardised = encoder.transform(raw), encoder.feasible
    ranges = standardised.box.high - standardised.box.low
    found = []
    for factor in (np.ones_like(ranges), 1 / np.where(ranges > 0, ranges, 1.0)):
        own, feasible = x * factor[None], _stretched(standardised, factor)
        with jax.enable_x64(plan.wide):
            attack = Attack(
                learner=_learner(plan, own[open_rows], labels[open_rows]),
                target=(own[trusted], labels[trusted]),
                feasible=feasible,
                policy=plan.policy,
                points=plan.counts[-1],
                batch=plan.batch,
                budget=plan.budget,
                steps=plan.steps,
                ascent=poison_rule("normalised", _reach(float(np.linalg.norm(factor * ranges)))),
                seed=seed,
            )
            poison = attack.poison(own[open_rows], labels[open_rows])
        ends, starts = (encoder.raw(part / factor[None]) for part in (poison.x_poison, poison.x_start))
        places = None if poison.replaced is None else open_rows[poison.replaced]
        found.append(Points(ends, starts, poison.y_poison.astype(int), places, trusted))
    return found


def _reach(diagonal: float) -> float:
    """Return the size of a step, rounded to a power of 2: every other size has to be compiled anew."""
    return 2.0 ** round(math.log2(REACH * diagonal)) if diagonal > 0 else REACH


def _stretched(feasible: Mixed, factor: np.ndarray) -> Mixed:
    """Return Φ of the features times `factor`, which is 1 where they are categories."""
    m = len(factor)
    return Mixed(
        feasible.box.low * factor,
        feasible.box.high * factor,
        whole=feasible.whole,
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
