"""Strict JAX, checked shapes, printed seeds, and the data directory."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

# The tests' time goes into compiling small programs, not into running them; `make test-slow` compiles as users do.
if "slow" not in sys.argv:
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

# Shape annotations of the package are checked in every test; this has to precede its first import.
from jaxtyping import install_import_hook

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    install_import_hook("mithridate", "beartype.beartype")

import jax
import numpy as np
import pytest

import mithridate as mi
from mithridate.auditing import Progress

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


SMALL: dict[str, Any] = dict(train=40, valid=40, points=6, batch=3, splits=2, hyperiterations=10, epochs=60)  # noqa: C408
SMALL["joint_hyperiterations"] = 10
ONE_FIXED: dict[str, Any] = dict(SMALL, splits=1, policies=("fixed=-8",))
POLICIES = ("fixed=-8", "cv-clean", "learned", "cv-poisoned")


@pytest.fixture(scope="session")
def steps_seen() -> list[Progress]:
    return []


@pytest.fixture(scope="session")
def result(steps_seen) -> mi.AuditResult:
    return mi.audit("digits-0v8", policies=POLICIES, on_progress=steps_seen.append, **SMALL)


@pytest.fixture(scope="session")
def run(result, tmp_path_factory) -> Path:
    return result.save(tmp_path_factory.mktemp("runs") / "run")
