"""Strict JAX, checked shapes, printed seeds, and the data directory."""

import os
import sys
import warnings
from pathlib import Path

# Shape annotations of the package are checked in every test; this has to precede its first import.
from jaxtyping import install_import_hook

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    install_import_hook("mithridate", "beartype.beartype")

import jax
import numpy as np
import pytest

import mithridate as mi

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if SHARED.is_dir():
    os.environ.setdefault("MITHRIDATE_DATA_DIR", str(SHARED))

SEED = int(os.environ.get("MITHRIDATE_TEST_SEED", "20260101"))


def pytest_report_header() -> str:
    return f"MITHRIDATE_TEST_SEED={SEED} jax={jax.__version__} python={sys.version.split()[0]}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def digits() -> mi.Split:
    """Sixty training and sixty validation rows of digits 0 and 8."""
    return mi.load_dataset("digits-0v8").split(train=60, valid=60)


@pytest.fixture(scope="session")
def learner() -> mi.Learner:
    return mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.4, 250))
