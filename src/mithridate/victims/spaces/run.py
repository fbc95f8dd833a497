"""A training run without its rule, in w itself. Other coordinates have their own files."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from mithridate.victims.rows import Rows, take
from mithridate.victims.rules import Batch


@runtime_checkable
class Run(Protocol):
    """One training run without its rule: the gradient in some coordinates of w, and the maps to them and back."""

    def start(self, params: Any) -> Any:
        """Return the coordinates of w0."""
        ...

    def gradient(self, at: Any, batch: Batch | None) -> Any:
        """Return the coordinates of ∇L on a batch, or on all rows."""
        ...

    def final(self, at: Any) -> Any:
        """Return w."""
        ...

    @property
    def learned(self) -> Any:
        """The part of the run that depends on X_p and λ."""
        ...

    def with_learned(self, learned: Any) -> "Run":
        """Return the run with this part replaced."""
        ...


Step = Callable[[Any, Any, PyTree[Array]], Any]
Loop = Callable[[Step, Any, Any, PyTree[Array]], Any]
"""(step, run, state, schedule) → the state after step(run, state, item) for every item of the schedule."""


def scan(step: Step, run: Any, state: Any, schedule: PyTree[Array]) -> Any:
    """Take all steps in one compiled loop."""
    return jax.lax.scan(lambda state, item: (step(run, state, item), None), state, schedule)[0]


class Plain(eqx.Module):
    """A training run in w itself."""

    objective: Callable[..., Float[Array, ""]]
    blocks: tuple[Rows, ...]
    log_strength: Float[Array, "*groups"]
    n: Float[Array, ""]

    def start(self, params: Any) -> Any:
        """Return w0."""
        return params

    def gradient(self, at: Any, batch: Batch | None) -> Any:
        """Return ∇L on a batch, or on all rows."""
        blocks = self.blocks if batch is None else (take(self.blocks, *batch),)
        return jax.grad(self.objective)(at, blocks, self.log_strength, self.n)

    def final(self, at: Any) -> Any:
        """Return w."""
        return at

    @property
    def learned(self) -> tuple[Any, ...]:
        """The part of the run that depends on X_p and λ."""
        return self.blocks[1:], self.log_strength

    def with_learned(self, learned: tuple[Any, ...]) -> "Plain":
        """Return the run with this part replaced."""
        blocks, log_strength = learned
        return replace(self, blocks=(self.blocks[0], *blocks), log_strength=log_strength)
