"""How much poison a scikit-learn estimator takes, in the style of scikit-learn's learning curves."""

from mithridate.sklearn.curves import PoisoningCurve, poisoning_curve
from mithridate.sklearn.display import PoisoningCurveDisplay
from mithridate.sklearn.tables import Poison
from mithridate.sklearn.tuned import tuned_hyperparameters

__all__ = ["Poison", "PoisoningCurve", "PoisoningCurveDisplay", "poisoning_curve", "tuned_hyperparameters"]
