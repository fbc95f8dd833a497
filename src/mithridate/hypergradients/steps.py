"""Outer step rules: how a hypergradient becomes a move of X_p or of λ (Eq. 5).

Each is an Optax transformation, so any other Optax rule can replace it. The rules by name are cached: asking twice for
the same rule gives the same object, and compiled steps are reused.

The derivative of a mean loss over hundreds of rows is so small that the paper's α = 0.99 would not move the points. So
the normalised rules are the defaults.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mithridate.errors import InputError

POISON_RULES = ("normalised", "raw", "adam", "restarting")
CYCLE = 20
"""Steps after which `restarting` begins again."""
HYPER_RULES = ("rprop", "decay", "constant", "raw")


def normalise_rows() -> optax.GradientTransformation:
    """Divide each point's derivative by its own Euclidean norm; a point whose derivative is 0 stays."""

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        def rows(g: jax.Array) -> jax.Array:
            norm = jnp.linalg.norm(g, axis=-1, keepdims=True)
            return g / jnp.where(norm > 0, norm, 1)

        return jax.tree.map(rows, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@functools.cache
def poison_rule(name: str, size: float) -> optax.GradientTransformation:
    """Return the rule `name` for X_p with step size `size` = α > 0.

    `normalised`: a step of length α along each point's derivative; `raw`: α times the derivative; `adam`: Adam with
    rate α; `restarting`: as `normalised`, but the length falls to a twentieth within 20 steps and then restarts at half
    its last starting value.
    """
    _check(name, size, POISON_RULES, "poison_step")
    if name == "restarting":

        def length(t: Any) -> Any:
            return size * 0.5 ** (t // CYCLE) * 0.05 ** (t % CYCLE / CYCLE)

        return optax.chain(normalise_rows(), optax.sgd(length))
    if name == "adam":
        return optax.adam(size)
    return optax.chain(normalise_rows(), optax.sgd(size)) if name == "normalised" else optax.sgd(size)


@functools.cache
def hyper_rule(name: str, size: float) -> optax.GradientTransformation:
    """Return the rule `name` for λ with largest step `size` = β > 0.

    `constant` is the paper's rule on the normalised derivative: in the end λ oscillates by the size of β. `decay`
    divides that step by √t. `rprop` (Riedmiller and Braun, 1993) halves the step when the derivative changes its sign
    and lengthens it otherwise, within [0.01, β]: it does not oscillate, and does not stop while the points still move.
    `raw` is β times the derivative.
    """
    _check(name, size, HYPER_RULES, "hyper_step")
    # Optax's default eps of 1e-6 is larger than λ's derivative where regularisation is weak.
    normalised = optax.normalize_by_update_norm(eps=1e-30)
    match name:
        case "rprop":
            smallest = min(0.01, size)
            return optax.rprop(size / 2, min_step_size=smallest, max_step_size=size)
        case "decay":
            return optax.chain(normalised, optax.sgd(lambda t: size / jnp.sqrt(t + 1.0)))
        case "constant":
            return optax.chain(normalised, optax.sgd(size))
        case _:
            return optax.sgd(size)


def _check(name: str, size: float, allowed: tuple[str, ...], option: str) -> None:
    if name not in allowed:
        raise InputError(f"no {option} rule {name!r}; choose one of {', '.join(allowed)}")
    if not size > 0:
        raise InputError(f"{option} = {size}: a step must be positive")
