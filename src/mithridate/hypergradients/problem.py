"""The bilevel problem as a hypergradient method sees it, and what every method returns."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mithridate.learner import Learner
from mithridate.rows import Rows


class Status(eqx.Enumeration):
    """How a number was come by; the text of each member is what to do about it."""

    ok = ""
    non_finite = "the hypergradient is NaN or infinite: lower the inner learning rate or the bound on λ"


class Hypergradient(NamedTuple):
    """A(wT) and its derivatives in the poisoning points (n_p, m) and in λ; the same from every method."""

    value: Float[Array, ""]
    poison: Float[Array, "n_p m"]
    hyper: Float[Array, ""]
    status: Status


class Bilevel(eqx.Module):
    """One outer problem: which rows stay, which are learned, and what is measured (Eq. 2 and 3).

    Arguments: the `learner`; `rest`, the training rows that stay fixed; `y_poison` (n_p,), the labels of the
    poisoning points; `target`, the rows on which the attacker's loss A is measured. With D_target = D_val, A is
    also the defender's loss and the outer problem is the minimax of Eq. 3.
    """

    learner: Learner
    rest: Rows
    y_poison: Float[Array, " n_p"]
    target: Rows

    def blocks(self, x_poison: Float[Array, "n_p m"]) -> tuple[Rows, ...]:
        """Return D'_tr = rest ∪ D_p."""
        if not self.y_poison.size:
            return (self.rest,)
        return self.rest, Rows(x_poison, self.y_poison, jnp.ones_like(self.y_poison))

    def train(self, x_poison: Float[Array, "n_p m"], log_strength: Float[Array, ""], key: Key[Array, ""]) -> Any:
        """Return wT, trained on D'_tr from a w0 drawn with `key`."""
        return self.learner.train(self.blocks(x_poison), log_strength, key)

    def attacker_loss(self, params: Any) -> Float[Array, ""]:
        """Return A(D_target, w), the mean loss without the penalty."""
        return self.learner.mean_loss(params, (self.target,))

    def value(
        self, x_poison: Float[Array, "n_p m"], log_strength: Float[Array, ""], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """Return A(wT(X_p, λ))."""
        return self.attacker_loss(self.train(x_poison, log_strength, key))


@runtime_checkable
class HypergradientMethod(Protocol):
    """A way to ∇A in X_p and λ at once; held by the attack as a field."""

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, ""],
        key: Key[Array, ""],
    ) -> Hypergradient:
        """Return A and its two derivatives at (X_p, λ)."""
        ...
