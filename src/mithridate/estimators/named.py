"""The estimators that an audit knows by name: a pipeline with sensible defaults, and the usual search around it.

    mithridate audit patients.csv --target ill --estimator random-forest

Numbers are imputed, and scaled where the estimator depends on scale; texts are one-hot encoded. Any other estimator is
code of the user's own, named as `module:attribute` or `file.py:attribute`.
"""

import importlib
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mithridate.configuration.parts import found, name_of, tried
from mithridate.data.encoding import Schema
from mithridate.errors import InputError

FOLDS = 5
"""The folds of the usual search."""


class Entry(NamedTuple):
    """Where an estimator is, how it is made, what is usually searched, and whether its features are `scaled`."""

    path: str
    options: Mapping[str, Any]
    searched: Mapping[str, tuple[Any, ...]]
    scaled: bool = True


SHORT = {
    "random-forest": Entry("sklearn.ensemble:RandomForestClassifier", {}, {"min_samples_leaf": (1, 5, 20)}, False),
    "hist-gradient-boosting": Entry(
        "sklearn.ensemble:HistGradientBoostingClassifier",
        {"max_iter": 60},
        {"learning_rate": (0.03, 0.1, 0.3), "max_leaf_nodes": (4, 31)},
        False,
    ),
    "svc": Entry("sklearn.svm:SVC", {}, {"C": (0.1, 1.0, 10.0, 100.0), "gamma": ("scale", 0.01)}),
    "knn": Entry("sklearn.neighbors:KNeighborsClassifier", {}, {"n_neighbors": (1, 5, 15, 31)}),
    "logistic": Entry(
        "sklearn.linear_model:LogisticRegression", {"max_iter": 2000}, {"C": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)}
    ),
    "ridge": Entry("sklearn.linear_model:RidgeClassifier", {}, {"alpha": (0.1, 1.0, 10.0, 100.0, 1000.0)}),
    "gaussian-nb": Entry("sklearn.naive_bayes:GaussianNB", {}, {"var_smoothing": (1e-9, 1e-5, 1e-2, 1e-1)}),
    "linear-svc": Entry("sklearn.svm:LinearSVC", {"dual": False}, {"C": (0.001, 0.01, 0.1, 1.0, 10.0)}),
    "xgboost": Entry(
        "xgboost:XGBClassifier", {"n_estimators": 60}, {"learning_rate": (0.03, 0.1, 0.3), "max_depth": (2, 6)}, False
    ),
    "lightgbm": Entry(
        "lightgbm:LGBMClassifier",
        {"n_estimators": 60, "verbose": -1},
        {"learning_rate": (0.03, 0.1, 0.3), "num_leaves": (4, 31)},
        False,
    ),
    "catboost": Entry(
        "catboost:CatBoostClassifier",
        {"iterations": 60, "verbose": False, "allow_writing_files": False},
        {"learning_rate": (0.03, 0.1, 0.3), "depth": (3, 6)},
        False,
    ),
}
"""The short list; the last three are there where their packages are installed."""


def estimator_of(part: Any, schema: Schema | None) -> Any:
    """Return the estimator, not fitted, that a configuration holds or names, for rows of this kind.

    A name of the short list, an estimator, `module:attribute` or `file.py:attribute` of one, or a function without
    arguments that returns one. Raises `InputError`.
    """
    if isinstance(part, str) and part in SHORT:
        return _listed(part, schema)
    name, made = f"estimator = {name_of(part)}", found("estimator", part)
    if not hasattr(made, "fit") or isinstance(made, type):
        if not callable(made):
            raise InputError(f"{name}: {type(made).__name__} has no fit; give a scikit-learn classifier")
        made = tried(name, "making it", made)
    for needed in ("fit", "predict", "get_params"):
        if not hasattr(made, needed):
            raise InputError(f"{name}: {type(made).__name__} has no {needed}; give a scikit-learn classifier")
    return made


def _listed(name: str, schema: Schema | None) -> Any:
    path, options, searched, scaled = SHORT[name]
    module, attribute = path.split(":")
    try:
        kind = operator.attrgetter(attribute)(importlib.import_module(module))
    except ImportError as error:
        raise InputError(f"estimator = {name}: {module} is not installed ({error}); pip install {module}") from None
    pipeline = Pipeline([("prepare", _preparing(schema, scaled)), ("model", kind(**options))])
    return GridSearchCV(pipeline, {f"model__{key}": list(values) for key, values in searched.items()}, cv=FOLDS)


def _preparing(schema: Schema | None, scaled: bool) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), *([StandardScaler()] if scaled else []))
    if schema is None:
        return numbers
    texts = [schema.columns[place].name for place in schema.places("category", "boolean")]
    others = [schema.columns[place].name for place in schema.places("number", "integer")]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer([("numbers", numbers, others), ("texts", one_hot, texts)])
