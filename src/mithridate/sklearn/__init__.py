"""How much poison a scikit-learn estimator takes, in the style of scikit-learn's learning curves."""

from mithridate.estimators.tuned import tuned_hyperparameters
from mithridate.sklearn.curves import Poison, PoisoningCurve, poisoning_curve
from mithridate.sklearn.display import PoisoningCurveDisplay

__all__ = ["Poison", "PoisoningCurve", "PoisoningCurveDisplay", "poisoning_curve", "tuned_hyperparameters"]
