"""The settings of each data set: Tables 1 to 3 of the paper, and similar ones for data sets that it does not use."""

import math
import re
from dataclasses import dataclass, replace

PAPER_STRENGTHS = (-8.0, math.log(200))
"""Φ(λ) of Table 2 for MNIST and Fashion-MNIST."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of Tables 1, 2 and 3 joined.

    `train`, `valid`: numbers of rows; `hyperiterations`: outer steps per batch of points if λ is fixed (T_Dp);
    `joint_hyperiterations`: the same if λ is learned as well (T_mult); `poison_step` α and `hyper_step` β: outer step
    sizes; `strength_bounds`: Φ(λ); `learning_rate` η and `inner_steps` T: the attack's inner training;
    `train_learning_rate`, `batch_size` and `epochs`: the training from scratch that is measured; `large`: the policy
    with the very large λ of Sect. 5.1; `budget`, `strengths`: as in the configuration.
    """

    train: int = 512
    valid: int = 512
    hyperiterations: int = 100
    joint_hyperiterations: int = 100
    poison_step: float = 0.99
    hyper_step: float = 0.99
    strength_bounds: tuple[float, float] = PAPER_STRENGTHS
    learning_rate: float = 0.1
    inner_steps: int
    train_learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: int = 200
    large: str = "fixed=log(200)"
    budget: str = "replaced"
    strengths: str = "one"

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies of an audit: those of Sect. 5.1, and cross-validation on the poisoned set.

        With a λ for every layer, only those of Sect. 5.2, because a grid for cross-validation would have too many
        points.
        """
        if self.strengths != "one":
            return ("fixed=-8", self.large, "learned")
        return ("fixed=-8", self.large, "cv-clean", "learned", "cv-poisoned")


_IMAGENET = Setting(
    joint_hyperiterations=200,
    poison_step=0.90,
    hyper_step=0.40,
    strength_bounds=(-8.0, math.log(20000)),
    learning_rate=0.05,
    inner_steps=200,
    train_learning_rate=1e-3,
    epochs=300,
    large="fixed=log(3000)",
)
_SMALL = Setting(train=128, valid=128, inner_steps=500, batch_size=32)

SETTINGS = {
    "mnist": Setting(inner_steps=150),
    "fashion-mnist": Setting(inner_steps=180, large="fixed=log(500)"),
    "dogfish": _IMAGENET,
    "springer-tench": _IMAGENET,
    # App. D.1. There the paper has one poisoning point and does not learn λ by Eq. 5.
    "synthetic": Setting(
        train=32,
        valid=64,
        hyperiterations=50,
        joint_hyperiterations=50,
        poison_step=0.4,
        hyper_step=0.4,
        learning_rate=0.2,
        inner_steps=500,
        train_learning_rate=0.2,
        batch_size=32,
        epochs=100,
        large="fixed=log(20)",
        budget="added",
    ),
    # Not in the paper. Inner training and evaluation have the same η·T and come near convergence.
    "digits": replace(_SMALL, train=400, valid=400, learning_rate=0.4, train_learning_rate=0.1, epochs=154),
    "digits-AvB": replace(_SMALL, learning_rate=0.4, train_learning_rate=0.1, epochs=500),
    "wine": replace(_SMALL, train=60, valid=60, learning_rate=0.05, inner_steps=800, epochs=2000),
    "breast-cancer": replace(_SMALL, learning_rate=0.05, inner_steps=800, epochs=1000),
}

MOST_POISON = 0.166
"""The largest share of poison in the paper: 85 of 512."""

PRESETS = {
    "quick": {"splits": 3, "ratios": 3},
    "paper": {"splits": 10, "ratios": 7},
}
"""How much is run: `splits`, and `ratios`, the number of batches up to the most poison."""


_NETWORK = replace(
    _IMAGENET,
    joint_hyperiterations=150,
    poison_step=0.99,
    hyper_step=0.05,
    strength_bounds=(-8.0, math.log(60)),
    learning_rate=0.01,
    inner_steps=600,
    train_learning_rate=1e-4,
    epochs=4000,
    large="fixed=log(40)",
    strengths="layers",
)


def setting(dataset: str, model: str = "logistic") -> Setting:
    """Return the setting of a data set: that of its pairs (digits-AvB for digits-0v8), its family, or the tabular one.

    Any model but `logistic` counts as a network. The paper trains networks on ImageNet features; for other data a
    network trains with η·T = 20, in the attack and in the evaluation.
    """
    family, _, pair = dataset.rpartition("-")
    names = (f"{family}-AvB", family) if re.fullmatch(r"\w+v\w+", pair) else (dataset,)
    own = next((SETTINGS[name] for name in names if name in SETTINGS), SETTINGS["breast-cancer"])
    if model == "logistic":
        return own
    epochs = math.ceil(200 * own.batch_size / own.train)
    network = (
        _NETWORK
        if own is _IMAGENET
        else replace(
            own,
            strength_bounds=_NETWORK.strength_bounds,
            learning_rate=0.1,
            inner_steps=200,
            train_learning_rate=0.1,
            epochs=epochs,
            large=_NETWORK.large,
            strengths=_NETWORK.strengths,
        )
    )
    return network if model == "mlp" else replace(network, strengths="one")
