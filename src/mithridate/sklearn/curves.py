"""An estimator's score against the share of poison in its training data, tuned again at each share."""

import itertools
import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from mithridate.defences.base import Policy
from mithridate.defences.policies import Learned
from mithridate.errors import InputError
from mithridate.sklearn.crafting import (
    Plan,
    Points,
    Surrogate,
    check_surrogate,
    counts_of,
    craft,
)
from mithridate.sklearn.tables import Bounds, Poison, Table, classes_of, take, with_points
from mithridate.sklearn.tuned import tuned_hyperparameters

SHARES = (0.0, 0.05, 0.1, 0.166)


class PoisoningCurve(NamedTuple):
    """What `poisoning_curve` returns. Arrays are (n_shares, n_splits), unless said.

    `shares` (n_shares,), poison's real share of the training fold, the mean over splits; `test_scores`, fitted on the
    optimised poison; `baseline_scores`, on the same points where they started, labels flipped and nothing optimised;
    `hyperparameters` and `baseline_hyperparameters`, what each fit tuned, an array for each name (objects where some
    are no numbers); `fit_times` and `baseline_fit_times` in seconds; `poison`, one `Poison` for each split, and
    `counts` (n_shares,), how many of its points are the poison at each share.
    """

    shares: np.ndarray
    test_scores: np.ndarray
    baseline_scores: np.ndarray
    hyperparameters: dict[str, np.ndarray]
    baseline_hyperparameters: dict[str, np.ndarray]
    fit_times: np.ndarray
    baseline_fit_times: np.ndarray
    counts: np.ndarray
    poison: tuple[Poison, ...]

    @property
    def worst_scores(self) -> np.ndarray:
        """The worse of attack and baseline, split by split: what the estimator has been seen to lose."""
        return np.minimum(self.test_scores, self.baseline_scores)


def poisoning_curve(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    shares: Any = SHARES,
    surrogate: Surrogate = "logistic",
    policy: Policy | None = None,
    feasible: Bounds | None = None,
    budget: str = "replaced",
    steps: int = 60,
    groups: Any = None,
    cv: Any = None,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: Any = None,
) -> PoisoningCurve:
    """Return how an estimator's cross-validated score falls with poison, and how its hyperparameters move.

    Threat model. In every split of `cv` the attacker knows the training fold and nothing of the test fold. Half of the
    training fold, drawn at random class by class, is open to him: his points take the place of rows drawn from it (or
    are added). On the other half, which stays clean, he measures his success. He crafts the points against a
    `surrogate` trained on the open half, whose λ is tuned on the clean one (`policy`), once with standardised features
    and once with features scaled to their range. He knows the estimator as well: he fits it on both, and keeps those
    with which it scores less on the clean half. Then it is cloned and fitted on the whole poisoned fold at every share,
    its own search included, and scored on the clean test fold: a transfer attack. Who could compute the estimator's own
    hypergradient could do more harm, so a curve is a lower bound of the worst case. One attack serves all shares of a
    split: the poison at a share contains that of every lower one (App. B of the paper).

    Both the optimised poison and the baseline, its starting points with flipped labels, are fitted and scored; where a
    surrogate misleads, the baseline can be the worse, and the worse counts (`worst_scores`).

    Arguments: `estimator`, any classifier, cloned for each fit; `X` (n, m), an array, a sparse matrix or a data frame
    with numbers, booleans and categories, in whose own columns and units the poison is handed over; columns of whole
    numbers stay whole; `y` (n,), labels of two or more classes of any kind; `shares` of poison in the training fold,
    rising from 0 on to below 0.5: each is rounded up to a whole number of points, and of batches of points within 5 %;
    `surrogate`, "logistic" (solved to optimality), "mlp" (32 hidden units), or a `Learner` or `Model` of mithridate;
    `policy`, how the surrogate's λ is set (default: `Learned()`); `feasible` = (low, high) for the numbers of poisoned
    rows, each a number or one a column (default: each column's range in the training fold); `budget`, whether points
    are "replaced" rows, so that the training fold's size and the meaning of hyperparameters such as C stay, or "added",
    at places drawn at random; `steps` hyperiterations for each batch of points; `groups`, `cv`, `scoring` and `n_jobs`
    as of scikit-learn's `learning_curve`; `random_state`, which decides the halves and the points, whatever `n_jobs`.

    Raises `InputError` or `DataError` for arguments and data that cannot be used, before anything is computed; what
    the estimator raises is passed on. Not checked: that the estimator's own randomness is fixed.

    Example:
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn.linear_model import LogisticRegression
        >>> from mithridate.sklearn import poisoning_curve
        >>> X, y = make_blobs(60, centers=[[-1, 0], [1, 0]], random_state=0)
        >>> curve = poisoning_curve(LogisticRegression(), X, y, shares=[0, 0.25], steps=10, cv=3, random_state=0)
        >>> curve.shares, curve.test_scores.shape
        (array([0.  , 0.25]), (2, 3))
    """
    table = Table.of(X, feasible)
    classes, numbers = classes_of(y, len(table.raw))
    wide = check_surrogate(surrogate) or jnp.zeros(()).dtype == jnp.float64
    if budget not in ("replaced", "added"):
        raise InputError(f"budget = {budget!r}: use 'replaced' or 'added'")
    wanted = _checked(shares)
    folds: Any = check_cv(cv, numbers, classifier=True)
    splits = list(folds.split(table.cells, classes[numbers], groups))
    for train, _ in splits:
        fewest = np.bincount(numbers[train], minlength=len(classes))
        if fewest.min() < 2:
            raise InputError(
                f"class {classes[fewest.argmin()]!r} has {fewest.min()} row(s) in a training fold; each class needs 2, "
                "one open and one clean: use fewer folds or leave the class out"
            )
    sizes = np.array([len(train) for train, _ in splits])
    half = int(sizes.min()) // 2
    counts, batch = counts_of(wanted, int(sizes.max()), budget, half)
    policy = Learned() if policy is None else policy
    plan = Plan(table.schema, len(classes), half, counts, batch, surrogate, policy, budget, steps, bool(wide))
    scorer = check_scoring(estimator, scoring)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=len(splits))
    task = delayed(_of_split)
    found = Parallel(n_jobs=n_jobs)(
        task(clone(estimator), scorer, table, classes, numbers, split, plan, int(seed))
        for split, seed in zip(splits, seeds, strict=True)
    )
    attacked, baseline, poison = zip(*found, strict=True)
    totals = sizes[None] + (0 if budget == "replaced" else np.array(counts)[:, None])
    return PoisoningCurve(
        shares=(np.array(counts)[:, None] / totals).mean(axis=1),
        test_scores=_array(attacked, "score"),
        baseline_scores=_array(baseline, "score"),
        hyperparameters=_by_name(attacked),
        baseline_hyperparameters=_by_name(baseline),
        fit_times=_array(attacked, "seconds"),
        baseline_fit_times=_array(baseline, "seconds"),
        counts=np.array(counts),
        poison=poison,
    )


def _checked(shares: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(share) for share in shares)
    except (TypeError, ValueError) as error:
        raise InputError(f"shares = {shares!r}: give numbers from 0 to below 0.5, rising") from error
    rising = all(a < b for a, b in itertools.pairwise(found))
    if not found or not rising or not (found[0] >= 0 and 0 < found[-1] < 0.5):
        raise InputError(f"shares = {found}: must rise, from 0 on to below 0.5, and not be 0 alone")
    return found


class _Fit(NamedTuple):
    score: float
    seconds: float
    tuned: dict[str, Any]


def _of_split(
    estimator: Any,
    scorer: Any,
    table: Table,
    classes: np.ndarray,
    numbers: np.ndarray,
    split: tuple[np.ndarray, np.ndarray],
    plan: Plan,
    seed: int,
) -> tuple[list[_Fit], list[_Fit], Poison]:
    """Return the fits on the poison of each share and on its baseline, and the poison."""
    train, test = split
    fold, own_labels = take(table.cells, train), classes[numbers[train]]
    candidates = craft(table.raw[train], numbers[train], plan, seed)
    labels = classes[candidates[0].labels]

    def fitted(raw: np.ndarray, order: np.ndarray) -> tuple[Any, float]:
        own: Any = clone(estimator)
        began = time.perf_counter()
        own.fit(with_points(fold, table.written(raw), order), np.concatenate([own_labels, labels[: len(raw)]])[order])
        return own, time.perf_counter() - began

    def harmed(points: Points) -> float:
        own, _ = fitted(points.raw, _order(points, len(points.raw), len(train), seed))
        return float(scorer(own, take(fold, points.trusted), own_labels[points.trusted]))

    def measured(raw: np.ndarray, order: np.ndarray) -> _Fit:
        own, seconds = fitted(raw, order)
        score = float(scorer(own, take(table.cells, test), classes[numbers[test]]))
        return _Fit(score, seconds, tuned_hyperparameters(own))

    points = min(candidates, key=harmed)
    attacked, baseline = [], []
    for count in plan.counts:
        order = _order(points, count, len(train), seed)
        attacked.append(measured(points.raw[:count], order))
        baseline.append(measured(points.start[:count], order) if count else attacked[-1])
    rows = None if points.rows is None else train[points.rows]
    return attacked, baseline, Poison(table.written(points.raw), table.written(points.start), labels, rows)


def _order(points: Points, count: int, n: int, seed: int) -> np.ndarray:
    """Return where the rows of the fold and, numbered on from n, its first points stand in the poisoned fold.

    Points that are added are scattered: a search that cuts its folds in the order of the rows would have them all in
    one.
    """
    if points.rows is None:
        places = np.random.default_rng(seed).uniform(0, n, len(points.labels))[:count]
        return np.argsort(np.concatenate([np.arange(n), places]), kind="stable")
    order = np.arange(n)
    order[points.rows[:count]] = n + np.arange(count)
    return order


def _array(fits: tuple[list[_Fit], ...], name: str) -> np.ndarray:
    return np.array([[getattr(fit, name) for fit in own] for own in fits]).T


def _by_name(fits: tuple[list[_Fit], ...]) -> dict[str, np.ndarray]:
    """Return an array (n_shares, n_splits) for each hyperparameter, NaN or None where a fit did not tune it."""
    found = {}
    for name in dict.fromkeys(name for own in fits for fit in own for name in fit.tuned):
        values = [[fit.tuned.get(name) for fit in own] for own in fits]
        plain = all(value is None or isinstance(value, float) for own in values for value in own)
        array = np.empty((len(fits[0]), len(fits)), dtype=float if plain else object)
        for column, own in enumerate(values):
            for row, value in enumerate(own):
                array[row, column] = value
        found[name] = array
    return found
