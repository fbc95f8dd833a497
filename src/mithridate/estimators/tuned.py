"""The hyperparameters that a scikit-learn estimator has tuned in `fit`, wherever in it they are.

scikit-learn reports them in two ways. A search has `best_params_`. An estimator that cross-validates by itself has an
attribute for each hyperparameter with several candidates, such as `C_` for `Cs` and `alpha_` for `alphas`.
"""

from typing import Any

import numpy as np
from sklearn.base import clone

INSIDE = ("best_estimator_", "estimator_", "final_estimator_")
"""The attributes in which a fitted meta-estimator keeps its final estimator."""


def tuned_hyperparameters(fitted: Any, whole: bool = False) -> dict[str, Any]:
    """Return what `fitted` has tuned, by scikit-learn's names (`step__C` for C of a pipeline's step).

    Numbers are floats; `whole` leaves whole numbers whole. A list with one number for each class becomes a number if
    they agree, else a tuple. For a search within a search, the names are those of the inner search.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import RidgeClassifierCV
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> X, y = load_iris(return_X_y=True)
        >>> tuned_hyperparameters(make_pipeline(StandardScaler(), RidgeClassifierCV()).fit(X, y))
        {'ridgeclassifiercv__alpha': 1.0}
    """
    found = {name: _plain(value, whole) for name, value in getattr(fitted, "best_params_", {}).items()}
    for name, candidates in fitted.get_params(deep=False).items() if hasattr(fitted, "get_params") else ():
        own = name.removesuffix("s")
        # A word, such as "warn", stands for a default.
        several = len(candidates) > 1 if hasattr(candidates, "__len__") else isinstance(candidates, int)
        several = several and not isinstance(candidates, str)
        if own != name and several and getattr(fitted, f"{own}_", None) is not None:
            found[own] = _plain(getattr(fitted, f"{own}_"), whole)
    if hasattr(fitted, "best_threshold_"):
        found["threshold"] = _plain(fitted.best_threshold_, whole)
    for name in INSIDE:
        if hasattr(fitted, name):
            found |= tuned_hyperparameters(getattr(fitted, name), whole)
    for name, step in getattr(fitted, "steps", ()):
        found |= {f"{name}__{own}": value for own, value in tuned_hyperparameters(step, whole).items()}
    return found


def settled(fitted: Any) -> Any:
    """Return an unfitted copy of an estimator that keeps what `fitted` has tuned and no longer searches, if possible.

    A search becomes its best estimator. An estimator that cross-validates by itself keeps one candidate and two folds.
    """
    if hasattr(fitted, "best_estimator_"):
        return settled(fitted.best_estimator_)
    own: Any = clone(fitted)
    if hasattr(fitted, "steps"):
        return own.set_params(**{name: settled(step) for name, step in fitted.steps if hasattr(step, "get_params")})
    options = own.get_params(deep=False) if hasattr(own, "get_params") else {}
    for name, value in tuned_hyperparameters(fitted).items():
        if f"{name}s" in options:
            own.set_params(**{f"{name}s": [value[0] if isinstance(value, tuple) else value]})
            if "cv" in options:
                own.set_params(cv=2)
    return own


def _plain(value: Any, whole: bool) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        parts = [_plain(part, whole) for part in np.ravel(value)]
        return parts[0] if parts and all(part == parts[0] for part in parts) else tuple(parts)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if number and whole:
        return value.item() if isinstance(value, np.number) else value
    return float(value) if number else value
