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
    """How a defender sets λ; the attacker knows it."""

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
        """The rule by which λ descends during the attack (Eq. 5), or None where it stands still between responses."""
        ...

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the λ that the defender sets when trained on `problem` with these points; now it is λ."""
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
        """Return λ as `respond` should have found it, by a slow, independent search."""
        ...


@runtime_checkable
class Folding(Protocol):
    """A policy that holds out folds of the training rows: with poison, where `on_poisoned`, or clean ones."""

    @property
    def on_poisoned(self) -> bool:
        """Whether the poisoned rows are divided."""
        ...

    @property
    def k(self) -> int:
        """The folds that are wanted."""
        ...

    def folds_of(self, labels: np.ndarray, task: Task, groups: np.ndarray | None = None) -> int:
        """Return how many folds rows with these labels (n,) give, at most k; fewer than 2 are none."""
        ...


@runtime_checkable
class Sanitiser(Protocol):
    """What a defender does to his rows before he trains and tunes: some are taken out. The attacker knows it."""

    @property
    def name(self) -> str:
        """The defence's name in records and figures."""
        ...

    def sanitise(self, rows: Rows) -> Float[Array, " n"]:
        """Return the weights of the rows, poison included, that are trained on; 0 for those taken out.

        Compiled with the training: JAX alone, and no derivative passes through it.
        """
        ...


@runtime_checkable
class Accepting(Protocol):
    """A sanitiser that tells an attacker where a point has to lie to stay in."""

    def accepts(self, feasible: FeasibleSet) -> bool:
        """Return whether it can tell so of this Φ."""
        ...

    def accepted(self, rows: Rows, y: Float[np.ndarray, " k"], feasible: FeasibleSet) -> FeasibleSet:
        """Return the part of Φ in which k more points with these labels pass among `rows`."""
        ...


class Defender(NamedTuple):
    """How λ is set, and what is done to the rows first, if anything: one who is audited."""

    policy: Policy
    sanitiser: Sanitiser | None = None

    @property
    def name(self) -> str:
        """The policy's name, and the sanitiser's if there is one."""
        return f"{self.policy.name} + {self.sanitiser.name}" if self.sanitiser else self.policy.name

    @property
    def fixed(self) -> bool:
        """Whether poison changes neither λ nor the rows; a policy that does not say so answers it."""
        return getattr(self.policy, "fixed", False) and not self.sanitiser

    def words(self) -> str:
        """Return what the defender does, in plain words."""
        said = described(self.policy)
        return f"{said}; before, {described(self.sanitiser)}" if self.sanitiser else said


class Effort(NamedTuple):
    """What one answer of a defender computes.

    `trainings`, one for each λ that is tried (and each fold): by cross-validation with so many `folds`, or where these
    are 0 on the validation rows; `slopes`, derivatives of the validation loss in λ; `checks`, the trainings by which an
    answer is checked; `again`, whether poisoned rows are answered anew, or the clean ones alone.
    """

    trainings: int = 0
    folds: int = 0
    slopes: int = 0
    checks: int = 0
    again: bool = True


@runtime_checkable
class Counted(Protocol):
    """A policy that says what it computes: others cannot be planned."""

    def work(self, groups: tuple[int, ...]) -> Effort:
        """Return what an answer computes for a λ of this shape."""
        ...


def effort_of(policy: Policy, groups: tuple[int, ...]) -> Effort:
    """Return what an answer computes for a λ of this shape. Raises `Unplanned` where the policy does not say."""
    if isinstance(policy, Counted):
        return policy.work(groups)
    raise Unplanned(f"time and memory unknown: the policy {policy.name} does not say what it computes (see `Counted`)")
