"""Reverse-mode hypergradient with the trajectory stored (Algorithm 2).

With the update w(t+1) = Φ(w(t), X_p, λ) the adjoint runs backwards from dw = ∇A(w(T)):

    dX_p ← dX_p + (∂Φ/∂X_p)ᵀ dw = dX_p − η·(∇_Xp ∇_w L(w(t)))ᵀ dw
    dλ   ← dλ   + (∂Φ/∂λ)ᵀ dw   = dλ   − η·(∇_λ ∇_w L(w(t)))ᵀ dw
    dw   ← (∂Φ/∂w)ᵀ dw          = dw   − η·∇²_w L(w(t)) dw

JAX's reverse mode through the scan that trains is this recursion: the forward pass keeps what the T steps need
of the trajectory, one backward pass serves X_p and λ with the same dw. The derivative is exact for the T steps
taken, whether or not they reach the optimum. Memory grows with T.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mithridate.hypergradients.problem import Bilevel, Hypergradient, Status


class Reverse(eqx.Module):
    """Algorithm 2, for X_p and λ in one backward pass."""

    def __call__(
        self,
        problem: Bilevel,
        x_poison: Float[Array, "n_p m"],
        log_strength: Float[Array, ""],
        key: Key[Array, ""],
    ) -> Hypergradient:
        """Return A(wT) and its derivatives at (X_p, λ)."""
        value, (poison, hyper) = jax.value_and_grad(problem.value, argnums=(0, 1))(x_poison, log_strength, key)
        finite = jnp.isfinite(value) & jnp.isfinite(hyper) & jnp.all(jnp.isfinite(poison))
        return Hypergradient(value, poison, hyper, Status.where(finite, Status.ok, Status.non_finite))
