"""Randomness from names.

A seed is the hash of its purpose (`"mnist-0v8", split, role, …`). So a cell draws the same numbers whatever else is
run, in any order and on any machine, and adding a policy changes no other policy's numbers.
"""

import hashlib

import jax
import numpy as np
from jaxtyping import Key


def seed_of(*names: object) -> int:
    """Return the 64-bit seed that belongs to `names`."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def generator(*names: object) -> np.random.Generator:
    """Return NumPy's generator for `names`: splits, starting points, folds."""
    return np.random.default_rng(seed_of(*names))


def key(*names: object) -> Key[jax.Array, ""]:
    """Return JAX's key for `names`: initial weights, minibatches."""
    return jax.random.key(seed_of(*names) >> 33)
