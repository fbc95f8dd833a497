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

from mithridate.configuration.parts import tried
from mithridate.defences.base import Policy
from mithridate.defences.policies import Learned
from mithridate.errors import InputError
from mithridate.estimators.capability import Capability, Fold, Points
from mithridate.estimators.crafting import Plan, Surrogate, check_surrogate, counts_of
from mithridate.estimators.harm import Judged, Labelled
from mithridate.estimators.rows import Bounds, Table, classes_of, stacked, take
from mithridate.estimators.search import search
from mithridate.estimators.tuned import tuned_hyperparameters
from mithridate.notebooks import table

SHARES = (0.0, 0.05, 0.1, 0.166)


class Poison(NamedTuple):
    """The points of one split, in the form of the user's X and y.

    `X` (k, …): the crafted points; `X_start`: the points at their start (the same if only labels change); `y` (k,):
    their labels; `rows` (k,): the rows of the user's X that they replace, None if they are added. `parts` (n_shares,):
    which points are the poison of each share, `X[parts[i]]`, `y[parts[i]]`. If one attack wins at every share, these
    are the first points, and the poison of a share contains that of every lower share.
    """

    X: Any
    X_start: Any
    y: np.ndarray
    rows: np.ndarray | None
    parts: tuple[slice, ...]

    def __repr__(self) -> str:
        of = "added" if self.rows is None else "in rows of X"
        return f"Poison({len(self.y)} points {of}; by share {[part.stop - part.start for part in self.parts]})"


class PoisoningCurve(NamedTuple):
    """What `poisoning_curve` returns. Arrays are (n_shares, n_splits) unless stated otherwise.

    `shares` (n_shares,): the actual share of poison in the training fold, as a mean over splits. `test_scores`: the
    score after fitting on the poison that did most harm on held-out rows. `baseline_scores`: the same for the most
    harmful poison without optimisation, flipped labels of rows picked by a simple rule (or, if only features may
    change, rows made equal to such rows). `hyperparameters`, `baseline_hyperparameters`: what each fit tuned, an array
    for each name (of objects if some are not numbers). `fit_times`, `baseline_fit_times`: in seconds. `poison`: one
    `Poison` for each split. `counts` (n_shares,): the largest number of points at each share. `attack`: the winner's
    name (objects).
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
    attack: np.ndarray

    def __repr__(self) -> str:
        worst = ", ".join(f"{share:.1%}: {score:.3g}" for share, score in self._means)
        return f"PoisoningCurve(worst score by share of poison, mean of {self.test_scores.shape[1]} splits: {worst})"

    def _repr_html_(self) -> str:
        means = zip(
            self._means, self.test_scores.mean(axis=1), self.baseline_scores.mean(axis=1), self.attack, strict=True
        )
        rows = [
            (f"{share:.1%}", f"{worst:.3g}", f"{attacked:.3g}", f"{plain:.3g}", ", ".join(dict.fromkeys(names)))
            for (share, worst), attacked, plain, names in means
        ]
        head = ("poison", "worst score", "worst poison found", "nothing optimised", "attack")
        return table(f"poisoning curve, means of {self.test_scores.shape[1]} splits", head, rows)

    @property
    def _means(self) -> list[tuple[float, float]]:
        return list(zip(self.shares.tolist(), self.worst_scores.mean(axis=1).tolist(), strict=True))

    @property
    def worst_scores(self) -> np.ndarray:
        """The lower of attack and baseline score in each split: the worst that was found."""
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
    budget: str = "chosen",
    edits: str = "both",
    steps: int = 60,
    fits: int | None = None,
    groups: Any = None,
    cv: Any = None,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: Any = None,
) -> PoisoningCurve:
    """Return how an estimator's cross-validated score falls with poison, and how its hyperparameters change.

    Threat model. In every split of `cv` the attacker knows the training fold and the estimator. He knows nothing about
    the test fold. `budget` says which rows are his: rows that he picks ("chosen"), rows drawn at random ("replaced"),
    or new rows ("added"). `edits` says what he changes: "labels" (features stay), "features" (labels stay true,
    clean-label; features may go anywhere within `feasible`), or "both". The worst case is "chosen" with "both".

    He tries many candidates: flips of rows picked by simple rules, and flips improved by swapping rows. If features may
    change, he also tries the transfer from a `surrogate` whose λ is tuned (`policy`). It starts at random places and at
    the best flips, with standardised features and with features scaled to their range. To judge a candidate, he fits
    the estimator on poisoned parts of the training fold and scores it on the rows held out, with their true labels. For
    each share he keeps the most harmful candidate (`attack`). Then the estimator is cloned and fitted on the whole
    poisoned fold, with its own search, and scored on the clean test fold. There is no derivative through the estimator,
    and not every candidate is tried, so the curve is a lower bound of the worst case.

    The winner and the baseline (the best flips without optimisation) are both fitted and scored. Held-out rows can
    mislead, so the worse of the two counts (`worst_scores`). If one attack wins at every share, the poison at a share
    contains that of every lower share, except for attacks whose rows depend on their number, such as a tightest ball.

    Arguments: `estimator`, any classifier, cloned for each fit; `X` (n, m), an array, a sparse matrix or a data frame
    with numbers, booleans and categories (the poison is returned in its columns and units, and whole numbers stay
    whole); `y` (n,), labels of two or more classes of any kind; `shares` of poison in the training fold, rising, from 0
    to below 0.5 (each is rounded up to whole points, and to whole batches within 5 %); `surrogate`, "logistic" (solved
    to optimality), "mlp" (32 hidden units), or a `Learner` or `Model` of mithridate; `policy`, how the surrogate's λ is
    set (default: `Learned()`); `feasible` = (low, high), the limits of numbers in poisoned rows whose features may
    change, each one number or one per column (default: each column's range in the training fold); `budget` and `edits`,
    see above ("replaced" and "chosen" keep the size of the training fold, and so the meaning of hyperparameters such as
    C; "added" rows are put in at random places); `steps`, the hyperiterations for each batch of points; `fits`, about
    how often the estimator is fitted in a split to find flips (default: 240 if it is linear, a kernel machine or
    nearest neighbours, else 120; more fits find more); `groups`, `cv`, `scoring` and `n_jobs` as in scikit-learn's
    `learning_curve`; `random_state`, the seed of everything that is drawn, with any `n_jobs`.

    Raises `InputError` or `DataError` for arguments and data that cannot be used. It also raises if the estimator
    cannot fit, predict and be scored on the clean rows of the first split, before anything is crafted. Errors that the
    estimator raises later are passed on. Not checked: that the estimator's own randomness is fixed.

    Example:
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn.linear_model import LogisticRegression
        >>> from mithridate.sklearn import poisoning_curve
        >>> X, y = make_blobs(60, centers=[[-1, 0], [1, 0]], random_state=0)
        >>> curve = poisoning_curve(LogisticRegression(), X, y, shares=[0, 0.25], edits="labels", cv=3, random_state=0)
        >>> curve.shares, curve.test_scores.shape
        (array([0.  , 0.25]), (2, 3))
    """
    table = Table.of(X, feasible)
    classes, numbers = classes_of(y, len(table.raw))
    wide = check_surrogate(surrogate) or jnp.zeros(()).dtype == jnp.float64
    capability = Capability.checked(budget, edits)
    wanted = _checked(shares)
    if fits is not None and not (isinstance(fits, int) and fits >= 1):
        raise InputError(f"fits = {fits!r}: give a whole number from 1 on, or None")
    folds: Any = check_cv(cv, numbers, classifier=True)
    splits = list(folds.split(table.cells, classes[numbers], groups))
    for train, _ in splits:
        fewest = np.bincount(numbers[train], minlength=len(classes))
        if fewest.min() < 2:
            raise InputError(
                f"class {classes[fewest.argmin()]!r} has {fewest.min()} row(s) in a training fold; each class needs 2, "
                "so that one can be held out: use fewer folds or leave the class out"
            )
    sizes = np.array([len(train) for train, _ in splits])
    counts, batch = counts_of(wanted, int(sizes.max()), capability.budget, int(sizes.min()) // 2)
    policy = Learned() if policy is None else policy
    rows = int(sizes.min())
    plan = Plan(table.schema, len(classes), rows, counts, batch, surrogate, policy, capability, fits, steps, bool(wide))
    seeds = check_random_state(random_state).randint(2**31 - 1, size=len(splits))
    parts = [
        Fold(table, take(table.cells, train), table.raw[train], numbers[train], classes, int(seed))
        for (train, _), seed in zip(splits, seeds, strict=True)
    ]
    tests = [(take(table.cells, test), classes[numbers[test]]) for _, test in splits]
    scorer = _tried(estimator, scoring, parts[0], tests[0])
    task = delayed(_of_split)
    found = Parallel(n_jobs=n_jobs)(
        task(estimator, scorer, fold, train, test, plan)
        for fold, (train, _), test in zip(parts, splits, tests, strict=True)
    )
    attacked, baseline, poison, names = zip(*found, strict=True)
    totals = sizes[None] + (np.array(counts)[:, None] if capability.budget == "added" else 0)
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
        attack=np.array(names, dtype=object).T,
    )


def _tried(estimator: Any, scoring: Any, fold: Fold, test: tuple[Any, np.ndarray]) -> Any:
    """Return the scorer, after a check that the estimator can fit, predict and be scored without poison."""
    doing = "on the clean rows of the first split"
    own: Any = tried("estimator", "clone", clone, estimator)
    if not hasattr(own, "fit"):
        raise InputError(f"estimator = {estimator!r}: it has no fit; give a scikit-learn classifier")
    tried("estimator", f"fit {doing}", own.fit, fold.cells, fold.classes[fold.labels])
    if not hasattr(own, "predict"):
        raise InputError(f"estimator = {estimator!r}: it has no predict; give a classifier")
    tried("estimator", f"predict {doing}", own.predict, test[0])
    scorer = tried("estimator", "scoring", check_scoring, own, scoring)
    tried("estimator", f"the score {doing}", scorer, own, *test)
    return scorer


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
    estimator: Any, scorer: Any, fold: Fold, train: np.ndarray, test: tuple[Any, np.ndarray], plan: Plan
) -> tuple[list[_Fit], list[_Fit], Poison, list[str]]:
    """Return the fits on the poison and on the baseline of each share, the poison, and the names of the winners."""

    def measured(points: Points) -> _Fit:
        own: Any = clone(estimator)
        rows, labels = fold.poisoned(points)
        began = time.perf_counter()
        own.fit(rows, labels)
        seconds = time.perf_counter() - began
        return _Fit(float(scorer(own, *test)), seconds, tuned_hyperparameters(own))

    def judge(fitted: Any, rows: Labelled) -> Judged:
        labels = fold.classes[rows.labels]
        score = float(scorer(fitted, rows.cells, labels))
        return Judged(score, float(len(labels)), fitted.predict(rows.cells) != labels)

    found = search(estimator, judge, fold, plan)
    attacked = [measured(one.attack) for one in found]
    baseline = [
        fit if one.baseline is one.attack else measured(one.baseline) for one, fit in zip(found, attacked, strict=True)
    ]
    return attacked, baseline, _together([one.attack for one in found], fold, train), [one.attack.name for one in found]


def _together(attacks: list[Points], fold: Fold, train: np.ndarray) -> Poison:
    """Return the points of all shares, the largest share first. Shared first points are stored once."""
    kept: list[Points] = []
    parts = []
    for points in reversed(attacks):
        first = 0
        for other in kept:
            if points.begins(other):
                break
            first += len(other.labels)
        else:
            kept.append(points)
        parts.append(slice(first, first + len(points.labels)))
    rows = None if kept[0].rows is None else train[np.concatenate([one.rows for one in kept if one.rows is not None])]
    cells, starts = (stacked([getattr(one, name) for one in kept]) for name in ("cells", "start"))
    labels = fold.classes[np.concatenate([one.labels for one in kept])]
    return Poison(cells, starts, labels, rows, tuple(reversed(parts)))


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
