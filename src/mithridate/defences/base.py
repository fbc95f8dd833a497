"""What an attack, an audit and a plan may know of a defender."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import optax
from jaxtyping import Array, Float, Key

from mithridate.configuration.parts import described
from mithridate.data.feasible import Box, FeasibleSet
from mithridate.errors import Unplanned
from mithridate.hypergradients import Bilevel
from mithridate.tasks.base import Task
from mithridate.victims.rows import Rows

Strength = Float[np.ndarray, "*groups"]
"""λ: a number, or one entry for each group of layers."""


@runtime_checkable
class Policy(Protocol):
    """How a defender sets λ. The attacker knows the policy."""

    @property
    def name(self) -> str:
        """The policy's name in records and figures."""
        ...

    @property
    def strengths(self) -> Box:
        """Φ(λ)."""
        ...

    @property
    def descent(self) -> optax.GradientTransformation | None:
        """The rule by which λ descends during the attack (Eq. 5), or None if λ stays fixed between responses."""
        ...

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the λ that the defender sets for `problem` with these points. `log_strength` is his present λ."""
        ...

    def after_clean(self, log_strength: Strength) -> "Policy":
        """Return the policy for poisoned data, given the λ found on clean data."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A policy whose answers can be checked."""

    def best(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the λ that `respond` should have found, by a slow, independent search."""
        ...


@runtime_checkable
class Folding(Protocol):
    """A policy that holds out folds of the training rows: of the poisoned rows if `on_poisoned`, else of clean rows."""

    @property
    def on_poisoned(self) -> bool:
        """Whether the poisoned rows are divided into folds."""
        ...

    @property
    def k(self) -> int:
        """The wanted number of folds."""
        ...

    def folds_of(self, labels: np.ndarray, task: Task, groups: np.ndarray | None = None) -> int:
        """Return the number of folds for rows with these labels (n,), at most k; below 2 there are no folds."""
        ...


@runtime_checkable
class Sanitiser(Protocol):
    """How a defender filters his rows before he trains and tunes: it removes some. The attacker knows it."""

    @property
    def name(self) -> str:
        """The defence's name in records and figures."""
        ...

    def sanitise(self, rows: Rows) -> Float[Array, " n"]:
        """Return the training weights of the rows, poison included; 0 for removed rows.

        It is compiled with the training, so use JAX only. No derivative passes through it.
        """
        ...


@runtime_checkable
class Accepting(Protocol):
    """A sanitiser that tells an attacker where a point must lie so that it is not removed."""

    def accepts(self, feasible: FeasibleSet) -> bool:
        """Return whether it can tell this for the feasible set Φ."""
        ...

    def accepted(self, rows: Rows, y: Float[np.ndarray, " k"], feasible: FeasibleSet) -> FeasibleSet:
        """Return the part of Φ in which k new points with these labels (k,) pass when they are added to `rows`."""
        ...


class Defender(NamedTuple):
    """A defender under audit: how he sets λ, and how he filters the rows before, if at all."""

    policy: Policy
    sanitiser: Sanitiser | None = None

    @property
    def name(self) -> str:
        """The policy's name, and the sanitiser's if there is one."""
        return f"{self.policy.name} + {self.sanitiser.name}" if self.sanitiser else self.policy.name

    @property
    def fixed(self) -> bool:
        """Whether poison changes neither λ nor the rows. A policy without `fixed` is taken to react."""
        return getattr(self.policy, "fixed", False) and not self.sanitiser

    def words(self) -> str:
        """Return what the defender does, in plain words."""
        said = described(self.policy)
        return f"{said}; before, {described(self.sanitiser)}" if self.sanitiser else said


class Effort(NamedTuple):
    """What one answer of a defender computes.

    `trainings`: one for each λ that is tried (and each fold); `folds`: the folds of cross-validation, 0 if λ is tuned
    on the validation rows; `slopes`: derivatives of the validation loss in λ; `checks`: the trainings that check an
    answer; `again`: whether he answers again on poisoned rows, or only once on clean rows.
    """

    trainings: int = 0
    folds: int = 0
    slopes: int = 0
    checks: int = 0
    again: bool = True


@runtime_checkable
class Counted(Protocol):
    """A policy that says what it computes. Audits with other policies cannot be planned."""

    def work(self, groups: tuple[int, ...]) -> Effort:
        """Return what one answer computes for a λ of this shape."""
        ...


def effort_of(policy: Policy, groups: tuple[int, ...]) -> Effort:
    """Return what one answer computes for a λ of this shape. Raises `Unplanned` if the policy does not say."""
    if isinstance(policy, Counted):
        return policy.work(groups)
    raise Unplanned(f"time and memory unknown: the policy {policy.name} does not say what it computes (see `Counted`)")
