"""The settings of each data set: Tables 1 to 3 of the paper, and the same for the data sets it does not use.

`learning_rate` and `inner_steps` are the attack's inner training (η, T), `hyperiterations` the outer steps per batch of
points, `large` the very large λ of Sect. 5.1; `train_learning_rate`, `batch_size` and `epochs` train the victim from
scratch to be measured.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One row of Tables 1, 2 and 3 joined."""

    train: int
    valid: int
    hyperiterations: int
    poison_step: float
    hyper_step: float
    strength_bounds: tuple[float, float]
    learning_rate: float
    inner_steps: int
    train_learning_rate: float
    batch_size: int
    epochs: int
    large: str
    budget: str = "replaced"

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies of an audit: those of Sect. 5.1, and cross-validation on the poisoned set."""
        return ("fixed=-8", self.large, "cv-clean", "learned", "cv-poisoned")


_PHI = (-8.0, math.log(200))
_IMAGENET = Setting(512, 512, 100, 0.90, 0.40, (-8.0, math.log(20000)), 0.05, 200, 1e-3, 64, 300, "fixed=log(3000)")

SETTINGS = {
    "mnist": Setting(512, 512, 100, 0.99, 0.99, _PHI, 0.10, 150, 1e-2, 64, 200, "fixed=log(200)"),
    "fashion-mnist": Setting(512, 512, 100, 0.99, 0.99, _PHI, 0.10, 180, 1e-2, 64, 200, "fixed=log(500)"),
    "dogfish": _IMAGENET,
    "springer-tench": _IMAGENET,
    "synthetic": Setting(32, 64, 50, 0.40, 0.40, _PHI, 0.20, 500, 0.2, 32, 100, "fixed=log(20)", budget="added"),
    "digits": Setting(128, 128, 100, 0.99, 0.99, _PHI, 0.40, 500, 0.1, 32, 500, "fixed=log(200)"),
    "breast-cancer": Setting(128, 128, 100, 0.99, 0.99, _PHI, 0.05, 800, 1e-2, 32, 1000, "fixed=log(200)"),
}

MOST_POISON = 0.166
"""The largest share of poison in the paper: 85 of 512."""

PRESETS = {
    "quick": {"splits": 3, "ratios": 3},
    "paper": {"splits": 10, "ratios": 7},
}
"""How much is run; what is attacked, and how hard, is the same. `ratios`: batches up to the most poison."""


def setting(dataset: str) -> Setting:
    """Return the setting for a data set's name: its own, its family's (mnist for mnist-0v8), or the tabular one."""
    return SETTINGS.get(dataset) or SETTINGS.get(dataset.rpartition("-")[0]) or SETTINGS["breast-cancer"]
