"""One split of an audit, and everything that is made from it once for chains, plan and check."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.objectives import Objective
from mithridate.attacks.portfolio import Flips
from mithridate.auditing.assembly import attack_of, defenders_of, model_of, objective_on
from mithridate.configuration.config import AuditConfig
from mithridate.data.datasets import Dataset, Split
from mithridate.defences.base import Defender
from mithridate.results.intervals import Shared
from mithridate.victims.models import Model
from mithridate.victims.rows import Rows


@dataclass(frozen=True)
class Scenario:
    """Split `index` of an audit: who attacks whom, on which rows.

    Everything that is drawn there comes from `seed`. `shared` is what two splits have in common.
    """

    config: AuditConfig
    index: int
    split: Split
    seed: str
    model: Model
    objective: Objective
    defenders: tuple[Defender, ...]
    shared: Shared

    @classmethod
    def of(cls, data: Dataset, config: AuditConfig, index: int = 0, other: "Scenario | None" = None) -> "Scenario":
        """Return the scenario of one split. `other`, of the same audit, saves making model and defenders again.

        Raises `InputError` for options that do not fit the data.
        """
        split, seed = data.split(config.train, config.valid, config.seed, index), f"{config.seed}/{data.name}/{index}"
        model = other.model if other else model_of(config, split)
        defenders = other.defenders if other else tuple(defenders_of(config))
        objective = objective_on(config, split, seed, to_come(data, split))
        n, n_test = len(data.y), len(split.y_test)
        shared = Shared(len(split.y_train) / n, 0.0 if data.test else n_test / n, n_test)
        return cls(config, index, split, seed, model, objective, defenders, shared)

    def attack(self, defender: Defender) -> Attacker:
        """Return the attack on one defender."""
        return attack_of(self.config, self.split, defender, self.seed, self.model, self.objective)

    @cached_property
    def attacks(self) -> list[Attacker]:
        """The attacks, in the order of the defenders."""
        return [self.attack(defender) for defender in self.defenders]

    @cached_property
    def rows(self) -> Rows:
        """D_tr on the device; all attacks share it."""
        return self.attacks[0].rows(self.split.x_train, self.split.y_train)


def to_come(data: Dataset, split: Split) -> np.ndarray:
    """Return the shares (K,) of the classes among rows to come: those not drawn, or all if official rows test."""
    counts = np.bincount(data.y, minlength=len(data.classes)).astype(float)
    if data.test is None:
        counts -= np.bincount(np.concatenate([split.y_train, split.y_valid]), minlength=len(counts))
    return counts / counts.sum()


def rival_of(attack: Attacker) -> Attacker | None:
    """Return the cheapest attack with the same setting, which this one must beat: label flips.

    None if the attack tries flips itself or may not change labels.
    """
    if not attack.nested or attack.edits == "features":
        return None
    names = [field.name for field in fields(Attacker)]
    return Flips(**{name: getattr(attack, name) for name in names})
