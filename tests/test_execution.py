"""Chains in turn and chains as one batch give the same numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from conftest import SMALL
from mithridate.defences.tuning import validation_losses, validation_slope
from mithridate.execution import devices
from mithridate.execution.devices import shared
from mithridate.victims.learner import _train

calls: list[int] = []


@shared
def double(x: jax.Array, times: int) -> jax.Array:
    calls.append(times)  # once per compilation
    return 2.0**times * x


def chain(start: float, steps: int, times: int = 1) -> float:
    x = jnp.asarray(start)
    for _ in range(steps):
        x = double(x, times) + 1.0
    return float(x)


@pytest.mark.parametrize("how", ["serial", "batched"])
def test_chains_of_different_lengths_and_statics(how):
    """Calls are batched with their like; a chain that has ended is not waited for."""
    chains = [lambda s=s, n=n, k=k: chain(s, n, k) for s, n, k in [(1.0, 3, 1), (2.0, 3, 1), (3.0, 5, 1), (1.0, 2, 3)]]
    assert devices.run(chains, how) == [15.0, 23.0, 127.0, 73.0]


def test_calls_of_the_same_shape_are_one_call():
    before = len(calls)
    devices.run([lambda s=s: chain(float(s), 4, times=7) for s in range(6)], "batched")
    assert len(calls) - before == 1, "six chains, four calls each: compiled once, for the batch"


def test_an_error_in_one_chain_is_raised_and_leaves_nobody_waiting():
    def broken() -> float:
        chain(1.0, 1)
        raise mi.InputError("no")

    with pytest.raises(mi.InputError, match="no"):
        devices.run([lambda: chain(1.0, 4), broken, lambda: chain(2.0, 2)], "batched")


def test_an_error_in_the_batched_call_reaches_every_chain():
    @shared
    def refuse(x: jax.Array) -> jax.Array:
        raise mi.InputError("not this")

    with pytest.raises(mi.InputError, match="not this"):
        devices.run([lambda: refuse(jnp.ones(2)), lambda: refuse(jnp.zeros(2))], "batched")


def test_the_precision_in_force_holds_in_every_chain():
    with jax.enable_x64(True):
        found = devices.run([lambda: double(jnp.ones(()), 1).dtype, lambda: double(jnp.ones(()), 1).dtype], "batched")
    assert found == [jnp.float64, jnp.float64]


@pytest.mark.slow
def test_a_batched_audit_equals_the_serial_one(result):
    """Up to rounding, which a batch may do in another order."""
    batched = mi.audit("digits-0v8", policies=("fixed=-8", "learned"), execution="batched", **SMALL)
    serial = result.frame[result.frame["policy"].isin(("fixed=-8", "learned"))].reset_index(drop=True)
    for column in ("split", "policy", "n_poison", "status", "space"):
        assert (batched.frame[column] == serial[column]).all()
    # Not λ itself: where the loss of 40 rows is flat, rounding moves its minimum.
    for column in ("test_error", "valid_loss", "valid_loss_after"):
        np.testing.assert_allclose(batched.frame[column], serial[column], rtol=2e-2, atol=2e-2, err_msg=column)
    for cell, arrays in batched.poison.items():
        np.testing.assert_array_equal(arrays["x_start"], result.poison[cell]["x_start"])


def test_a_batch_of_exact_victims_is_refused_on_a_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("for LAPACK's batched routines")
    with pytest.raises(mi.InputError, match="execution = batched: not possible with an exact victim on a CPU"):
        mi.audit("digits-0v8", victim="exact", execution="batched", policies=("fixed=2",))


def test_the_switch_follows_the_device():
    assert devices.chosen("auto") == ("serial" if jax.default_backend() == "cpu" else "batched")
    assert devices.chosen("batched") == "batched"


@pytest.mark.parametrize("model", [mi.LogisticRegression(4), mi.MLP(4, (3,))])
@pytest.mark.parametrize("what", ["grid", "slope", "fit"])
def test_no_product_is_rounded_more_than_its_numbers_are(what, model):
    """Seen in what is compiled, since a CPU rounds none; a GPU would round to 10 bits what does not ask for more."""
    rows, key = mi.Rows.of(np.ones((5, 4)), np.ones(5)), jax.random.key(0)
    learner = mi.Learner(model, mi.GradientDescent(0.1, 2), penalty=mi.L2((0,) * (1 + isinstance(model, mi.MLP))))
    problem = mi.Bilevel(learner, rows, jnp.ones(3), rows)
    run: Any = {
        "grid": lambda x, strength: validation_losses(problem, x, strength[None], key),
        "slope": lambda x, strength: validation_slope(problem, x, strength, key),
        "fit": lambda x, strength: _train(learner, (rows, mi.Rows(x, jnp.ones(3), jnp.ones(3))), strength, key),
    }[what]
    compiled = jax.jit(run).lower(jnp.ones((3, 4)), jnp.zeros(1)).as_text()
    products = [line for line in compiled.splitlines() if "dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products), products
