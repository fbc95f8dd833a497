"""What an attack, an audit and a plan may know of a defender."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import optax
from jaxtyping import Array, Float, Key

from mithridate.data.feasible import Box
from mithridate.errors import Unplanned
from mithridate.hypergradients import Bilevel

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
