"""Your own model as the victim: two pure functions, an Equinox module, or the name of either to import."""

from collections.abc import Callable
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from mithridate.configuration.parts import found, name_of, tried
from mithridate.errors import InputError
from mithridate.victims.models import Model


class FunctionModel(eqx.Module):
    """A model made of two pure functions: w0 = init(key), logits = apply(w, x).

    Arguments: `init`, from a JAX key to w0, any pytree of floating arrays; `apply`, from w and rows (n, m) to their
    logits, (n,) or (n, 1), positive for class 1, or (n, K); it must be twice differentiable and without randomness;
    `weights`, from w to what the penalty acts on, any pytree with one leaf per layer (default: every leaf of w with two
    or more axes whose name is not "bias", in the order of `jax.tree.leaves`, each as a layer); `name`, the model's name
    in results (default: the name of `apply`).

    w has the precision in force, whatever `init` returns. A model is compiled once: make it once and reuse it. It does
    not run in Gram space (see `LinearFirstLayer` for a model that does).

    Raises `InputError`, when the model is first traced, for parameters that are not floating arrays or are empty, if
    there are no weights to penalise, and for an output of another shape. Not checked: that `apply` is pure.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import mithridate as mi
        >>> def init(key):
        ...     return {"hidden": 0.3 * jax.random.normal(key, (2, 8)), "out": jnp.zeros((8, 1))}
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["hidden"]) @ params["out"]
        >>> model = mi.FunctionModel(init, apply)
        >>> model.logits(model.init(jax.random.key(0)), jnp.ones((5, 2))).shape
        (5,)
    """

    _init: Callable[..., Any]
    _apply: Callable[..., Any]
    _weights: Callable[..., Any] | None
    name: str = eqx.field(static=True)

    def __init__(
        self,
        init: Callable[..., Any],
        apply: Callable[..., Any],
        weights: Callable[..., Any] | None = None,
        name: str | None = None,
    ):
        self._init, self._apply, self._weights = init, apply, weights
        self.name = name or name_of(apply)

    def init(self, key: Key[Array, ""]) -> Any:
        """Draw w0."""
        params = self._init(key)
        _check_params(params)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=float), params)

    def logits(self, params: Any, x: Float[Array, "n m"]) -> Float[Array, "n *classes"]:
        """Return apply(w, x), as (n,) where it is (n, 1)."""
        out, n = self._apply(params, x), len(x)
        columns = getattr(out, "shape", (0, 0, 0))[1:]
        _check_logits(out, f"({n},), ({n}, 1) or ({n}, K)", *((n, *own) for own in ((), columns) if len(own) < 2))
        return jnp.reshape(out, n) if columns in ((), (1,)) else out

    def weights(self, params: Any) -> PyTree[Array]:
        """Return what the penalty acts on."""
        if self._weights is not None:
            return self._weights(params)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return tuple(leaf for path, leaf in leaves if leaf.ndim >= 2 and _name(path[-1:]) != "bias")


def from_equinox(
    make: Callable[..., Any], weights: Callable[..., Any] | None = None, name: str | None = None
) -> FunctionModel:
    """Return a model from an Equinox module: w are its arrays, everything else in it is constant.

    Arguments: `make`, from a JAX key to the module, which maps the features (m,) of *one* row to its logit, () or (1,),
    or to K logits (K,); `weights` and `name` as in `FunctionModel`, where w is the module with its arrays only (default
    name: the module's class). For fine-tuning, write a `make` that ignores the key: every training then starts from the
    module's weights.

    Raises `InputError` when `make` fails or returns something else, and for a module that is not a function of w and
    the row alone: one with layers with state or with active dropout (give `eqx.nn.inference_mode(module)`).

    Example:
        >>> import equinox as eqx
        >>> import mithridate as mi
        >>> model = mi.from_equinox(lambda key: eqx.nn.MLP(64, "scalar", width_size=16, depth=2, key=key))
        >>> learner = mi.Learner(model, mi.GradientDescent(0.1, 100))
    """
    made = f"model = {name or name_of(make)}"
    module = tried(made, "make(key)", eqx.filter_eval_shape, make, jax.random.key(0))
    if not isinstance(module, eqx.Module) or not callable(module):
        raise InputError(
            f"{made}: make(key) returned {type(module).__name__}, not an Equinox module that can be called on a row "
            "(one with state, as of eqx.nn.make_with_state, cannot be used)"
        )
    name = name or type(module).__name__
    for part in jax.tree.leaves(module, is_leaf=_impure):
        if _impure(part):
            why = "keeps state" if isinstance(part, eqx.nn.StateIndex) else "draws at random at every call"
            raise InputError(
                f"model = {name}: it holds a {type(part).__name__}, which {why}; a victim has to be a function of its "
                "parameters and a row (see eqx.nn.inference_mode)"
            )
    constant = eqx.filter(module, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))

    def init(key: Key[Array, ""]) -> Any:
        return eqx.filter(make(key), eqx.is_array)

    def apply(params: Any, x: Float[Array, "n m"]) -> Array:
        return jax.vmap(eqx.combine(params, constant))(x)

    return FunctionModel(init, apply, weights, name)


def _impure(part: Any) -> bool:
    dropping = isinstance(part, eqx.nn.Dropout) and not part.inference and bool(part.p)
    return dropping or isinstance(part, eqx.nn.StateIndex)


def find_model(source: Any, n_features: int) -> Model:
    """Return a model from `source`: a model, its name "module:attribute", or a function of the number of features.

    Raises `InputError` if it cannot be imported, does not exist, fails or is no model.
    """
    name, made = f"model = {name_of(source)}", found("model", source)
    if callable(made) and not _is_model(made):
        made = tried(name, f"calling it with {n_features} features", made, n_features)
    if not _is_model(made):
        raise InputError(
            f"{name}: {type(made).__name__} is not a model; give a FunctionModel, from_equinox(…), an object with "
            "init, logits and weights, or a function of the number of features that returns one"
        )
    return made


def _is_model(thing: Any) -> TypeGuard[Model]:
    return isinstance(thing, Model) and not isinstance(thing, type)  # a class has the methods, but no fields


def check_model(model: Model, x: np.ndarray, name: str, n_classes: int = 2) -> None:
    """Raise `InputError` unless the model can be trained on rows x (n, m) and differentiated.

    First it checks shapes: w0, the weights to penalise, one logit per row (or per class), and that JAX can
    differentiate the logits twice. Then it checks numbers at one w0: the logits and their derivative in w are finite,
    and that derivative is not 0. Not checked: other w0, and the derivative in the features.
    """
    n, m = x.shape
    at = f"model = {name}"
    rows, key = jax.ShapeDtypeStruct((n, m), jnp.zeros(()).dtype), jax.random.key(0)
    params = tried(at, "init", jax.eval_shape, model.init, key)
    tried(at, "init", _check_params, params)
    weights = tried(at, "weights", jax.eval_shape, model.weights, params)
    if not jax.tree.leaves(weights):
        raise InputError(f"{at}: there are no weights to penalise; say with weights= which parameters they are")
    out = tried(at, f"applying it to rows of {m} features", jax.eval_shape, model.logits, params, rows)
    shapes = [(n,), (n, 2)] if n_classes == 2 else [(n, n_classes)]
    tried(at, "applying it", _check_logits, out, " or ".join(map(str, shapes)), *shapes)

    def total(params: Any, x: Array, along: Array) -> Array:
        return jnp.vdot(along, model.logits(params, x))

    def steepness(params: Any, x: Array) -> Array:
        slopes = jax.grad(total, (0, 1))(params, x, jnp.ones(out.shape))
        return jnp.sum(jnp.stack([jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(slopes)]))

    tried(at, "differentiating its logits twice", jax.eval_shape, jax.grad(steepness, (0, 1)), params, rows)

    @jax.jit
    def measured(x: Array) -> tuple[Array, Any]:
        w0, along = model.init(key), jax.random.normal(key, out.shape)
        return model.logits(w0, x), jax.grad(total)(w0, x, along)

    logits, slopes = tried(at, "applying it at w0", measured, jnp.asarray(x, dtype=float))
    if bad := int(jnp.sum(~jnp.isfinite(logits).reshape(n, -1).all(axis=1))):
        raise InputError(f"{at}: at w0 the logits of {bad} of {n} training rows are NaN or infinite")
    parts = [np.asarray(leaf) for leaf in jax.tree.leaves(slopes)]
    if not all(np.isfinite(part).all() for part in parts):
        raise InputError(f"{at}: at w0 the derivative of the logits in the parameters is NaN or infinite")
    if not any(part.any() for part in parts):
        raise InputError(
            f"{at}: at w0 the derivative of the logits in every parameter is 0, so that nothing can be learned (does "
            "it round, compare or stop gradients?)"
        )


def _check_params(params: Any) -> None:
    """Raise `InputError` unless there is at least one parameter and all are non-empty floating arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        shape, kind = getattr(leaf, "shape", ()), getattr(leaf, "dtype", None)
        where = f"the model's parameter {_name(path)!r} is {kind or type(leaf).__name__} {shape}"
        if not (isinstance(leaf, float) if kind is None else jnp.issubdtype(kind, jnp.floating)):
            raise InputError(f"{where}; only floating arrays can be trained, keep others outside of the parameters")
        if 0 in shape:
            raise InputError(f"{where}; every width must be at least 1")
    if not leaves:
        raise InputError("the model has no parameters; init must return at least one array")


def _check_logits(out: Any, expected: str, *allowed: tuple[int, ...]) -> None:
    """Raise `InputError` unless the output is one floating array in an allowed shape, which `expected` describes."""
    shape = getattr(out, "shape", None)
    if shape not in allowed:
        came = f"shape {shape}" if shape is not None else f"the type {type(out).__name__}"
        raise InputError(f"the model's logits have {came}; expected {expected}")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputError(f"the model's logits are {out.dtype}; expected floating numbers")


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
