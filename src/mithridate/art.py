"""The attack as one of the Adversarial Robustness Toolbox (ART), beside its own `PoisoningAttackSVM`.

ART's contract: the constructor takes a classifier and its training and validation rows; `poison(x, y)` moves the
points x, keeps their labels y, and returns both, to be added to the training rows.
"""

from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import clone

from mithridate.attacks.base import Edits
from mithridate.attacks.bilevel import Attack
from mithridate.configuration.parts import one_of, tried
from mithridate.data.feasible import Box
from mithridate.defences.base import Policy
from mithridate.defences.policies import Fixed, Learned
from mithridate.errors import InputError
from mithridate.hypergradients.steps import poison_rule
from mithridate.victims.learner import Learner
from mithridate.victims.models import LogisticRegression
from mithridate.victims.rules import Exact

try:
    from art.attacks.attack import PoisoningAttackWhiteBox
    from art.estimators.classification.scikitlearn import ScikitlearnClassifier, ScikitlearnLogisticRegression
except ImportError:
    PoisoningAttackWhiteBox = object
    ScikitlearnClassifier = ScikitlearnLogisticRegression = type(None)

REACH = 0.05
"""A step of the points, as a share of the feasible set's diagonal."""
WEAKEST = -8.0
"""The least λ: weaker regularisation leaves the surrogate without a unique optimum on separable rows."""


class BilevelPoisoningAttack(PoisoningAttackWhiteBox):  # pyright: ignore[reportGeneralTypeIssues]
    """Poisoning by bilevel optimisation (Eq. 3), of scikit-learn's classifiers in ART's wrappers.

    `ScikitlearnLogisticRegression` is attacked as it is: solved to optimality on the features it sees, with its own C,
    λ = −log C (L2, with intercept, classes weighted alike). Any other classifier is attacked by transfer: the points
    are crafted against logistic regression with the classifier's C (1 where it has none) on the features it sees, and
    against one on standardised features whose λ is tuned on the validation rows; those are taken with which the
    classifier itself, fitted again, makes more errors on the validation rows.

    Arguments: `classifier`, ART's; `x_train` (n, m) and `x_val` (k, m) with labels `y_train`, `y_val`, one-hot (n, K)
    or by number (n,), as classes of two or more; A is measured on the validation rows; `steps` hyperiterations for each
    batch of points; `batch`, how many points are crafted together (default: all). Points stay within the classifier's
    `clip_values`, or, where it has none, within each feature's range in `x_train`.

    Points are added, as ART's contract has it. `edits` says what of them may change: "features" (the default; the
    caller's labels stay, as of ART's own attack), "labels" or "both". Labels are tried as given and all of one class,
    for each class. Attackers who choose rows of the training set and relabel them harm forests, kernels, boosting and
    neighbours far more: see `mithridate.sklearn.poisoning_curve`.

    Raises `InputError` when ART is not installed, for a number out of its range, for arrays that do not agree, and for
    a classifier with preprocessing or a logistic regression of another kind; ART's own `EstimatorError` for what is no
    classifier of scikit-learn.

    Example:
        >>> import numpy as np
        >>> from art.estimators.classification import SklearnClassifier
        >>> from sklearn.linear_model import LogisticRegression
        >>> from mithridate.art import BilevelPoisoningAttack
        >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
        >>> victim = SklearnClassifier(LogisticRegression(), clip_values=(-3.0, 3.0))
        >>> attack = BilevelPoisoningAttack(victim, x, y, x, y, steps=10)
        >>> x_poison, y_poison = attack.poison(np.array([[1.0]]), np.array([0]))
        >>> x_poison.tolist(), y_poison.tolist()
        ([[3.0]], [0])
    """

    attack_params: ClassVar[list[str]] = [
        *getattr(PoisoningAttackWhiteBox, "attack_params", ()),
        *("x_train", "y_train", "x_val", "y_val", "steps", "batch", "edits", "seed"),
    ]
    _estimator_requirements = (ScikitlearnClassifier,)

    def __init__(
        self,
        classifier: Any,
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_val: np.ndarray,
        y_val: np.ndarray,
        *,
        steps: int = 100,
        batch: int | None = None,
        edits: str = "features",
        seed: int = 0,
    ):
        if PoisoningAttackWhiteBox is object:
            raise InputError("ART is not installed: pip install 'mithridate[art]'")
        super().__init__(classifier)
        self.x_train, self.y_train = x_train, y_train
        self.x_val, self.y_val = x_val, y_val
        self.steps, self.batch, self.edits, self.seed = steps, batch, edits, seed
        self._check_params()

    def poison(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the points x (p, m) and their labels y, as `edits` says changed, in the order and form given.

        They are to be added to the training rows. Raises `InputError` without labels, for unknown options, and for a
        classifier that cannot be fitted, before anything is crafted.
        """
        if y is None or kwargs:
            fault = (
                "y is missing: give the labels that the points keep" if y is None else f"unknown: {', '.join(kwargs)}"
            )
            raise InputError(f"poison(x, y): {fault}")
        labels, trained, valid = (_numbers(name, part) for name, part in (("y", y), *self._labels().items()))
        points, rows = np.asarray(x), (trained, valid)
        doing = "fitting it on x_train, y_train and predicting x_val"
        tried("classifier", doing, self._score, self.x_train[:0], trained[:0], *rows)
        candidates = [
            (moved, given) for given in self._labellings(labels, trained) for moved in self._moved(points, given, *rows)
        ]
        # The most harmful on the validation rows, once the classifier itself is fitted on it.
        best, found = min(candidates, key=lambda one: self._score(*one, *rows))
        return np.copy(best), _like(np.asarray(y), labels, found)

    def _labellings(self, labels: np.ndarray, trained: np.ndarray) -> list[np.ndarray]:
        """Return the labels as given, and where they may change, all of one class, for each class."""
        classes = () if self.edits == "features" else np.unique(trained)
        return [labels, *(np.full_like(labels, own) for own in classes if (labels != own).any())]

    def _moved(self, x: np.ndarray, labels: np.ndarray, trained: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
        """Return the points as each surrogate has them moved; as they are where labels alone may change."""
        if self.edits == "labels":
            return [x]
        return [self._crafted(x, labels, trained, valid, *how) for how in self._surrogates()]

    def _crafted(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        trained: np.ndarray,
        valid: np.ndarray,
        offset: np.ndarray,
        scale: np.ndarray,
        policy: Policy,
    ) -> np.ndarray:
        """Return the points moved against one surrogate, which sees (raw − offset)/scale."""
        low, high = self._bounds()
        feasible = Box((low - offset) / scale, (high - offset) / scale)
        x_train, x_valid, start = ((part - offset[None]) / scale[None] for part in (self.x_train, self.x_val, x))
        n_classes = 1 + int(max(part.max() for part in (labels, trained, valid)))
        with jax.enable_x64(True):
            attack = Attack(
                learner=Learner(LogisticRegression(x.shape[1], n_classes), Exact()),
                target=(x_valid, valid),
                start=(start, labels),
                feasible=feasible,
                policy=policy,
                points=len(x),
                batch=self.batch,
                budget="added",
                steps=self.steps,
                ascent=poison_rule("normalised", REACH * float(np.linalg.norm(feasible.high - feasible.low))),
                seed=self.seed,
            )
            found = attack.poison(x_train, trained)
            start = np.asarray(feasible.project(jnp.asarray(start, dtype=float)))
        moved = np.empty(x.shape, dtype=np.result_type(x, np.float32))
        # The attack takes its starting points in an order of its own.
        own, given = (
            np.lexsort(np.column_stack(pair).T) for pair in ((found.x_start, found.y_poison), (start, labels))
        )
        moved[given] = np.clip(found.x_poison[own] * scale[None] + offset[None], low, high)
        return moved

    def _surrogates(self) -> list[tuple[np.ndarray, np.ndarray, Policy]]:
        """Return the offset and scale of the features and how λ is set, for each surrogate to be tried."""
        x = np.asarray(self.x_train, dtype=np.float64)
        as_seen = np.zeros(x.shape[1]), np.ones(x.shape[1])
        strength = getattr(self._model, "C", 1.0)
        own = (*as_seen, Fixed(max(WEAKEST, -float(np.log(strength)))))
        if isinstance(self.estimator, ScikitlearnLogisticRegression):
            return [own]
        deviation = x.std(axis=0)
        return [own, (x.mean(axis=0), np.where(deviation > 0, deviation, 1.0), Learned())]

    def _score(self, x_poison: np.ndarray, labels: np.ndarray, trained: np.ndarray, valid: np.ndarray) -> float:
        model: Any = clone(self._model)
        model.fit(np.concatenate([self.x_train, x_poison]), np.concatenate([trained, labels]))
        return float(np.mean(model.predict(self.x_val) == valid))

    @property
    def _model(self) -> Any:
        return self.estimator.model

    def _labels(self) -> dict[str, np.ndarray]:
        return {"y_train": self.y_train, "y_val": self.y_val}

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        x, clips = np.asarray(self.x_train, dtype=np.float64), self.estimator.clip_values
        ends = (x.min(axis=0), x.max(axis=0)) if clips is None else clips
        return tuple(np.broadcast_to(np.asarray(end, dtype=np.float64), x.shape[1:]) for end in ends)  # pyright: ignore[reportReturnType]

    def _check_params(self) -> None:
        for name in ("steps", *(("batch",) if self.batch is not None else ())):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise InputError(f"{name} = {getattr(self, name)!r}: must be a whole number from 1 on")
        if self.edits not in get_args(Edits):
            raise InputError(one_of("edits", self.edits, get_args(Edits)))
        for name, labels in self._labels().items():
            _numbers(name, labels)
        for step in self.estimator.preprocessing_operations:
            # ART always has one; by default it takes off 0 and divides by 1.
            if not (np.all(getattr(step, "mean", None) == 0) and np.all(getattr(step, "std", None) == 1)):
                raise InputError(
                    "classifier: preprocessing cannot be attacked through; apply it to the rows beforehand"
                )
        if isinstance(self.estimator, ScikitlearnLogisticRegression):
            options = self._model.get_params()
            usual = {"fit_intercept": (True,), "class_weight": (None,), "l1_ratio": (0, None)}
            usual["penalty"] = ("l2", "deprecated")
            if any(options.get(name) not in allowed for name, allowed in usual.items() if name in options):
                raise InputError(
                    "classifier: logistic regression is attacked with an L2 penalty, an intercept and no class "
                    "weights; wrap another kind in ART's ScikitlearnClassifier, and it is attacked by transfer"
                )


def _numbers(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels, one-hot (n, K) or by number (n,), by number."""
    found = np.asarray(labels)
    if found.ndim == 2 and found.shape[1] > 1 and np.isin(found, (0, 1)).all() and (found.sum(axis=1) == 1).all():
        return found.argmax(axis=1)
    if found.ndim == 1 and len(found) and (found == np.rint(found)).all() and found.min() >= 0:
        return found.astype(int)
    raise InputError(f"{name}: labels must be one-hot (n, K), or numbers 0 … K − 1 (n,); got shape {found.shape}")


def _like(given: np.ndarray, before: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels (n,) by number in the form of `given`, which are `before` by number."""
    if (labels == before).all():
        return np.copy(given)
    return (np.eye(given.shape[1])[labels] if given.ndim == 2 else labels).astype(given.dtype)
