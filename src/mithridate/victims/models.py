"""Models: pure `init` and `logits`, and which of their parameters a penalty may touch.

A model whose first layer is linear also says how it splits into that layer and its `head`, logits = head(x·W). Gram
space needs no more.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree
from scipy.linalg import helmert

from mithridate.errors import InputError


@runtime_checkable
class Model(Protocol):
    """What a learner needs of a model; the parameters are any pytree."""

    def init(self, key: Key[Array, ""]) -> Any:
        """Draw w0 ~ p(w0)."""
        ...

    def logits(self, params: Any, x: Float[Array, "n m"]) -> Float[Array, "n *classes"]:
        """Return one logit per row (n,), positive for class 1, or one for each of K classes (n, K)."""
        ...

    def weights(self, params: Any) -> PyTree[Array]:
        """Return the parameters that regularisation acts on (never the biases), one leaf per layer."""
        ...


@runtime_checkable
class LinearFirstLayer(Model, Protocol):
    """A model with logits(params, x) = head(params, x·W), W (m,) or (m, h) its first layer's weights.

    W must be the first leaf of `weights`, and the head must not use W.
    """

    def first_layer(self, params: Any) -> Float[Array, "m *h"]:
        """Return W."""
        ...

    def with_first_layer(self, params: Any, weight: Any) -> Any:
        """Return the parameters with W replaced."""
        ...

    def head(self, params: Any, z: Float[Array, "n *h"]) -> Float[Array, "n *classes"]:
        """Return the logits, given z = x·W."""
        ...


class LinearParams(NamedTuple):
    """Weights (m,) and bias () of a linear model, or (m, K) and (K − 1,); no weights while Gram space has them."""

    weight: Any
    bias: Float[Array, "*free"]


class LogisticRegression(eqx.Module):
    """Logistic regression, logits x·w + b (paper, Sect. 5.1); with K > 2 classes softmax regression, x·W + Q·b.

    Arguments: `n_features` = m; `n_classes` = K; `init_std`, the standard deviation of the initial weights. The default
    0 starts from the origin, the usual choice for a convex problem. Otherwise gradient descent that stops early keeps
    the part of w0 that the data do not see, and ‖w‖² would count it. A constant added to all K logits changes nothing,
    so K biases would make the Hessian singular. There are only K − 1, along the orthonormal columns of Q (K, K − 1),
    which are orthogonal to that constant (Helmert's). With `free` there are K: a loss of each class against the rest
    does depend on that constant. Raises `InputError` for fewer than 2 classes.
    """

    n_features: int = eqx.field(static=True)
    n_classes: int = eqx.field(default=2, static=True)
    init_std: float = 0.0
    free: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        _check_classes(self.n_classes)

    def init(self, key: Key[Array, ""]) -> LinearParams:
        """Draw w0 ~ N(0, init_std²), b0 = 0."""
        classes = (self.n_classes,) if self.n_classes > 2 else ()
        weight = self.init_std * jax.random.normal(key, (self.n_features, *classes))
        return LinearParams(weight, jnp.zeros([k - (not self.free) for k in classes]))

    def logits(self, params: LinearParams, x: Float[Array, "n m"]) -> Float[Array, "n *classes"]:
        """Return x·w + b."""
        return self.head(params, x @ params.weight)

    def weights(self, params: LinearParams) -> PyTree[Array]:
        """Return w."""
        return params.weight

    def first_layer(self, params: LinearParams) -> Float[Array, "m *classes"]:
        """Return w."""
        return params.weight

    def with_first_layer(self, params: LinearParams, weight: Any) -> LinearParams:
        """Return the parameters with another w."""
        return LinearParams(weight, params.bias)

    def head(self, params: LinearParams, z: Float[Array, "n *classes"]) -> Float[Array, "n *classes"]:
        """Return z + b."""
        return z + self.bias(params)

    def bias(self, params: LinearParams) -> Float[Array, "*classes"]:
        """Return b. A model with this method claims that a row's logits are exactly x·w + b."""
        if self.n_classes == 2:
            return params.bias
        if self.free:
            return params.bias[None]
        return (params.bias @ jnp.asarray(helmert(self.n_classes), params.bias.dtype))[None]


def _check_classes(n_classes: int) -> None:
    if n_classes < 2:
        raise InputError(f"n_classes = {n_classes}: a classifier needs at least 2")


class Layer(NamedTuple):
    """Weights (inputs, outputs) of a layer, None while Gram space has them, and its biases (outputs,)."""

    weight: Any
    bias: Float[Array, " outputs"]


class MLP(eqx.Module):
    """A fully connected network with leaky ReLUs and one logit (paper, Sect. 5.2), or K logits for K > 2 classes.

    Arguments: `n_features` = m; `hidden`, the widths of the hidden layers; `slope`, the leaky ReLU's slope for negative
    inputs; `n_classes` = K. Raises `InputError` for a width below 1 or fewer than 2 classes.
    """

    n_features: int = eqx.field(static=True)
    hidden: tuple[int, ...] = eqx.field(default=(128, 32), static=True)
    slope: float = eqx.field(default=0.01, static=True)
    n_classes: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        _check_classes(self.n_classes)
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden = {self.hidden}: give at least one layer, each at least 1 wide")

    def init(self, key: Key[Array, ""]) -> tuple[Layer, ...]:
        """Draw w0 by He's normal initialisation (He et al., 2015): variance 2/inputs, cut at 2 σ; biases 0."""
        widths = (self.n_features, *self.hidden, self.n_classes if self.n_classes > 2 else 1)
        draw = jax.nn.initializers.he_normal()
        keys = jax.random.split(key, len(widths) - 1)
        # Samples have the precision in force by default.
        return tuple(
            Layer(draw(k, (a, b), jnp.zeros(()).dtype), jnp.zeros(b))
            for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
        )

    def logits(self, params: tuple[Layer, ...], x: Float[Array, "n m"]) -> Float[Array, "n *classes"]:
        """Return the output of the last layer."""
        return self.head(params, x @ params[0].weight)

    def weights(self, params: tuple[Layer, ...]) -> PyTree[Array]:
        """Return every layer's weights."""
        return tuple(layer.weight for layer in params)

    def first_layer(self, params: tuple[Layer, ...]) -> Float[Array, "m h"]:
        """Return the first layer's weights."""
        return params[0].weight

    def with_first_layer(self, params: tuple[Layer, ...], weight: Any) -> tuple[Layer, ...]:
        """Return the parameters with other weights in the first layer."""
        return (params[0]._replace(weight=weight), *params[1:])

    def head(self, params: tuple[Layer, ...], z: Float[Array, "n h"]) -> Float[Array, "n *classes"]:
        """Return the logits, given the first layer's x·W."""
        z = z + params[0].bias[None]
        for weight, bias in params[1:]:
            z = jax.nn.leaky_relu(z, self.slope) @ weight + bias[None]
        return z if self.n_classes > 2 else z[:, 0]
