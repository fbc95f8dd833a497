"""Models: pure `init` and `logits`, and which of their parameters a penalty may touch."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree


@runtime_checkable
class Model(Protocol):
    """What a learner asks of a model; parameters are any pytree."""

    def init(self, key: Key[Array, ""]) -> Any:
        """Draw w0 ~ p(w0)."""
        ...

    def logits(self, params: Any, x: Float[Array, "n m"]) -> Float[Array, " n"]:
        """Return one score per row; positive means class 1."""
        ...

    def weights(self, params: Any) -> PyTree[Array]:
        """Return the parameters that regularisation acts on (never the biases)."""
        ...


class LinearParams(NamedTuple):
    """Weights (m,) and bias () of a linear model."""

    weight: Float[Array, " m"]
    bias: Float[Array, ""]


class LogisticRegression(eqx.Module):
    """Logistic regression, logits x·w + b (paper, Sect. 5.1).

    Arguments: `n_features` = m; `init_std`, the standard deviation of the initial weights. The default 0
    starts from the origin, the usual choice for a convex problem: gradient descent stopped early keeps in w
    whatever part of w0 the data do not see, and that would be counted in ‖w‖².
    """

    n_features: int = eqx.field(static=True)
    init_std: float = 0.0

    def init(self, key: Key[Array, ""]) -> LinearParams:
        """Draw w0 ~ N(0, init_std²), b0 = 0."""
        return LinearParams(self.init_std * jax.random.normal(key, (self.n_features,)), jnp.zeros(()))

    def logits(self, params: LinearParams, x: Float[Array, "n m"]) -> Float[Array, " n"]:
        """Return x·w + b."""
        return x @ params.weight + params.bias

    def weights(self, params: LinearParams) -> Float[Array, " m"]:
        """Return w."""
        return params.weight
