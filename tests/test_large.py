"""One large problem: minibatches inside the attack, and no second copy of the training rows anywhere."""

import tracemalloc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compiling
import mithridate as mi
from mithridate.auditing.scenario import Scenario
from mithridate.auditing.threat import mismatch, threat_model
from mithridate.data.datasets import Dataset
from mithridate.victims.rows import CHUNK, Rows, check_rows, join, take
from problems import SEED, draw

FEW: dict[str, Any] = {"train": 40, "valid": 40, "points": 4, "batch": 4, "splits": 1, "policies": ("fixed=-2",)}
FEW |= {"attack": "bilevel"}


def blocks(*sizes: int, m: int = 3) -> tuple[Rows, ...]:
    rng = np.random.default_rng(SEED)
    return tuple(
        Rows(*(jnp.asarray(rng.normal(size=shape), dtype=float) for shape in ((n, m), (n,), (n,)))) for n in sizes
    )


@pytest.mark.parametrize("sizes", [(7,), (5, 2), (1, 4, 3)])
def test_rows_are_taken_from_blocks_as_from_one(sizes):
    parts, index = blocks(*sizes), jnp.array([0, 6, 4, 4, 1])
    real = jnp.array([True, True, False, True, True])
    whole = join(parts)
    found = take(parts, index, real)
    for one, other in zip(found[:3], (whole.x[index], whole.y[index], whole.weight[index] * real), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_derivative_reaches_the_rows_taken_and_no_others():
    first, second = blocks(5, 4)
    index = jnp.array([1, 8, 6, 8])

    def total(x: jax.Array, joined: bool) -> jax.Array:
        parts = (first, second._replace(x=x))
        found = join(parts).x[index] if joined else take(parts, index, jnp.ones(4, bool)).x
        return jnp.sum(found * jnp.arange(12.0).reshape(4, 3))

    found, truth = (jax.grad(total)(second.x, joined) for joined in (False, True))
    np.testing.assert_array_equal(found, truth)
    assert np.flatnonzero(np.any(found != 0, axis=1)).tolist() == [1, 3]


def temporary(method: Any, n: int, steps: int) -> int:
    """Bytes that XLA plans for a hypergradient besides the training rows, which are n × 250 in float32."""
    arrays = draw(np.random.default_rng(SEED), n=12, m=250)
    learner = mi.Learner(mi.LogisticRegression(250), mi.MinibatchSGD(0.1, 8, steps=steps), space="plain")
    target = mi.Rows.of(arrays.x_target, arrays.y_target)
    rest = jax.eval_shape(lambda: Rows(jnp.zeros((n, 250)), jnp.zeros(n), jnp.ones(n)))
    problem = mi.Bilevel(learner, rest, jnp.asarray(arrays.y_poison, dtype=float), target)
    given, static = eqx.partition((method, problem), lambda leaf: hasattr(leaf, "shape"))

    def hypergradient(given: Any, *at: Any) -> Any:
        method, problem = eqx.combine(given, static)
        return method(problem, *at)[:3]

    at = jnp.asarray(arrays.x_poison, dtype=float), jnp.array(-2.0), jax.random.key(0)
    found: Any = jax.jit(hypergradient).lower(given, *at).compile(compiler_options=compiling.known()).memory_analysis()
    return found.temp_size_in_bytes


def test_a_hypergradient_holds_no_copy_of_the_training_rows():
    """What it plans besides is numbers of rows: a few for each row, whatever the features."""
    small, large = (temporary(mi.Checkpointed(), n, steps=9) for n in (1000, 9000))
    assert large - small <= 40 * 8000
    assert large < 9000 * 250 * 4 / 10


def test_checkpoints_keep_the_minibatches_of_one_segment():
    """Of 36 steps, six."""
    stored, kept = (temporary(method, 1000, steps=36) for method in (mi.Reverse(), mi.Checkpointed()))
    batch = 8 * 250 * 4
    assert stored >= 36 * batch
    assert kept < 16 * batch


def test_the_batches_are_those_that_they_have_always_been():
    rule, weight, key = mi.MinibatchSGD(0.1, 4, 3), jnp.array([1.0, 0, 1, 1, 0, 1, 1, 1, 1, 1]), jax.random.key(2)
    index, real = rule.schedule(weight, key)
    for epoch, own in enumerate(jax.random.split(key, 3)):
        order = jax.random.permutation(own, 10)
        order = order[jnp.argsort(weight[order] == 0, stable=True)]
        part = slice(3 * epoch, 3 * epoch + 3)
        np.testing.assert_array_equal(index[part].reshape(-1), jnp.pad(order, (0, 2)))
        np.testing.assert_array_equal(real[part].reshape(-1), jnp.pad(weight[order] > 0, (0, 2)))


@pytest.mark.parametrize(("steps", "epochs"), [(2, 1), (3, 1), (7, 3)])
def test_steps_end_on_the_way_through_an_epoch(steps, epochs):
    weight, key = jnp.ones(10), jax.random.key(2)
    whole = mi.MinibatchSGD(0.1, 4, epochs).schedule(weight, key)
    found = mi.MinibatchSGD(0.1, 4, steps=steps).schedule(weight, key)
    for part, all_of_them in zip(found, whole, strict=True):
        assert part.shape == (steps, 4)
        np.testing.assert_array_equal(part, all_of_them[:steps])


@pytest.mark.parametrize("numbers", [(0, 0), (3, 3), (-1, 0), (0, -1)])
def test_either_epochs_or_steps_are_given(numbers):
    with pytest.raises(mi.InputError, match=f"epochs = {numbers[0]}, steps = {numbers[1]}: .* the other 0"):
        mi.MinibatchSGD(0.1, 4, *numbers)


def test_smaller_steps_are_more_steps():
    cut = mi.MinibatchSGD(0.3, 4, steps=10).subdivided(curvature=16.0)
    assert (cut.steps, cut.epochs) == (30, 0)
    assert cut.learning_rate == pytest.approx(0.1)


# From the user's array to the device.


def many(dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    return rng.normal(size=(2 * CHUNK + 5, 3)).astype(dtype), rng.integers(0, 2, 2 * CHUNK + 5)


def test_float32_is_checked_without_a_copy():
    x, y = many()
    found, labels = check_rows("rows", x, y)
    assert found is x
    assert labels.dtype == np.float64
    wide = x.astype(np.float64)
    assert not np.shares_memory(check_rows("rows", wide, y)[0], wide)


def test_the_first_of_all_faults_is_named():
    x, y = many()
    x[CHUNK + 7, 2], x[CHUNK + 7, 1], x[-1, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(mi.InputError, match=rf"3 feature .* first in row {CHUNK + 7}, column 1 \(inf\)"):
        check_rows("rows", x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spare", [0, 4])
def test_many_rows_reach_the_device_in_parts(dtype, spare):
    """And stay what they were when the user's own array changes."""
    x, y = many(dtype)
    before = x.astype(np.float32)
    rows = Rows.of(x, y, len(y) + spare)
    x[:] = 0
    np.testing.assert_array_equal(rows.x[: len(y)], before)
    assert not np.any(rows.x[len(y) :])
    assert float(rows.size) == len(y)
    assert rows.x.dtype == rows.weight.dtype == jnp.zeros(()).dtype


def pool(n: int, m: int) -> Dataset:
    rng = np.random.default_rng(SEED)
    x, y = rng.normal(50, 9, size=(n, m)).astype(np.float32), rng.integers(0, 2, n).astype(np.int8)
    return Dataset("own", x, y, np.arange(n), ("a", "b"), "here", standardise=True, balanced=False)


@pytest.mark.parametrize("m", [1, 2, 65, 129])
def test_a_split_is_standardised_to_the_bit_as_in_float64(m):
    data = pool(30_000, m)
    split = data.split(train=29_000, valid=100)
    wide = data.x[split.train_rows].astype(np.float64)
    for rows, found in ((split.train_rows, split.x_train), (split.test_rows, split.x_test)):
        np.testing.assert_array_equal(found, ((data.x[rows] - wide.mean(0)) / wide.std(0)).astype(np.float32))


def test_a_split_takes_little_memory_besides_its_own():
    data = pool(3000, 1000)
    tracemalloc.start()
    split = data.split(train=2500, valid=100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = sum(part.nbytes for part in (split.x_train, split.x_valid, split.x_test))
    assert peak < 1.8 * own, "a copy in float64 would be twice its size"


# Minibatches inside the attack, by the configuration.


def configured(**options: Any) -> tuple[mi.AuditConfig, Any]:
    config = mi.AuditConfig.of(dataset="digits-0v8", **FEW | options)
    return config, Scenario.of(mi.load_dataset("digits-0v8"), config).attacks[0]


def test_inner_sgd_is_trained_by_minibatches_and_differentiated_with_checkpoints():
    config, attack = configured(inner="sgd", inner_batch=8, inner_steps=20, learning_rate=0.05)
    assert attack.learner.rule == mi.MinibatchSGD(0.05, 8, steps=20)
    assert attack.hypergradient == mi.Checkpointed()
    assert "SGD, minibatches of 8, η = 0.05, T = 20" in threat_model(config, ("0", "8"), [attack])["inner_training"]
    assert configured(inner="sgd", hypergradient="reverse")[1].hypergradient == mi.Reverse()
    config, attack = configured(inner="sgd", batch_size=16)
    assert attack.learner.rule.batch_size == config.inner_batch == 16
    assert mi.AuditConfig.of(**config.model_dump()) == config


def test_steps_are_cut_by_the_curvature_of_minibatches():
    """Which is higher than that of all rows."""
    options: dict[str, Any] = {"inner": "sgd", "inner_steps": 20, "learning_rate": 10.0, "inner_batch": 2}
    steep, whole = (configured(**options | own)[1].learner.rule for own in ({}, {"inner": "gd", "inner_batch": None}))
    assert steep.steps > whole.steps > 20
    assert steep.steps * steep.learning_rate == pytest.approx(200.0)
    assert configured(**options, stabilise=False)[1].learner.rule.steps == 20
    every = configured(**options | {"inner_batch": 64})[1].learner.rule
    assert (every.steps, every.learning_rate) == (whole.steps, whole.learning_rate), "a batch of all rows is all rows"
    strong: dict[str, Any] = {"policies": ("fixed=6",)}
    cut, same = (
        configured(**options | strong | own)[1].learner.rule for own in ({}, {"inner": "gd", "inner_batch": None})
    )
    assert cut.steps == pytest.approx(same.steps, rel=0.2), "the penalty's curvature is e^λ/n in every batch"
    assert same.steps > 2 * whole.steps


def test_what_has_no_batches_refuses_their_size():
    with pytest.raises(mi.InputError, match="inner_batch = 8: inner = gd has no batches; use inner = sgd"):
        mi.AuditConfig.of(dataset="digits-0v8", inner_batch=8)


def test_an_exact_victim_attacked_through_sgd_is_told():
    config = mi.AuditConfig.of(dataset="digits-0v8", inner="sgd", victim="exact")
    assert "uses a victim trained by SGD, and the evaluation uses one solved to optimality" in mismatch(config)
    assert not mismatch(mi.AuditConfig.of(dataset="digits-0v8", inner="sgd"))


def test_hypergradients_through_minibatches_agree_with_central_differences(monkeypatch):
    compiled = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: compiled(self, compiler_options=compiling.known()))
    options: dict[str, Any] = FEW | {"inner": "sgd", "inner_batch": 8, "inner_steps": 12, "precision": "float64"}
    found = mi.check("digits-0v8", methods={"mine": mi.Checkpointed()}, **options)
    assert found.frame["verdict"].tolist() == ["agrees", "agrees"]
    assert found.frame["space"].tolist() == ["plain", "gram"]
    assert found.setting["inner_steps"] >= 12
    assert found.setting["tolerance"] == 1e-6


def test_an_audit_attacks_through_minibatches():
    result = mi.audit("synthetic", inner="sgd", inner_batch=8, inner_steps=20, hyperiterations=4, epochs=20, **FEW)
    assert (result.frame["inner_steps"] >= 20).all()
    assert result.frame["hypergradients"].tolist() == ["", "ok:4"]
    assert result.config["inner_batch"] == 8
    after, before = (result.frame[f"valid_loss_{when}"].iloc[-1] for when in ("after", "before"))
    assert after > before
