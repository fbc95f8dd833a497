"""Sanitisers: who is left out, that training and tuning see the others alone, and where an attack stays to pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array
from sklearn.linear_model import LogisticRegression

import mithridate as mi
from attackers import Relabelling
from mithridate.data.feasible import Balls
from mithridate.hypergradients import Bilevel
from mithridate.victims.rows import Rows, sanitised


def left_out(x: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """The same by plain NumPy."""
    out = np.zeros(len(y), bool)
    for k in np.unique(y):
        own = np.flatnonzero(y == k)
        far = np.linalg.norm(x[own] - x[own].mean(axis=0), axis=1)
        out[own[np.argsort(far)[len(own) - int(share * len(own)) :]]] = True
    return out


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_farthest_rows_of_each_class_are_left_out(rng, share):
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    rows = Rows.of(np.concatenate([x, 99 * np.ones((5, 4))]), np.concatenate([y, np.zeros(5)]))
    rows = rows.with_weight(rows.weight.at[60:].set(0.0))
    kept = np.asarray(mi.Sphere(share).sanitise(rows))
    np.testing.assert_array_equal(kept[:60] == 0, left_out(x, y, share))
    assert not kept[60:].any(), "rows that are not there stay away, and move no mean"


def test_it_is_the_victim_that_scikit_learn_trains_on_the_rows_left(digits):
    x, y, share = digits.x_train, digits.y_train, 0.2
    learner = mi.Learner(mi.LogisticRegression(x.shape[1]), mi.Exact())
    with jax.enable_x64(True):
        blocks = sanitised((Rows.of(x[:40], y[:40]), Rows.of(x[40:], y[40:])), mi.Sphere(share))
        params = learner.train(blocks, jnp.array(0.5), jax.random.key(0))
    out = left_out(x.astype(float), y, share)
    assert out.any()
    model = LogisticRegression(C=np.exp(-0.5), tol=1e-10, max_iter=10_000).fit(x[~out].astype(float), y[~out])
    np.testing.assert_allclose(params.weight, model.coef_[0], rtol=1e-4, atol=1e-6)


def test_no_derivative_passes_through_who_is_left_out(digits):
    """Points that are left out have the derivative 0; those that stay have the one of a smaller training set."""
    x, y = digits.x_train, digits.y_train
    learner = mi.Learner(mi.LogisticRegression(x.shape[1]), mi.GradientDescent(0.3, 30))
    target = Rows.of(digits.x_valid, digits.y_valid)
    with jax.enable_x64(True):
        points = jnp.asarray(np.stack([x[0], np.full(x.shape[1], 9.0)]), dtype=float)
        given = (jnp.array(-1.0), jax.random.key(0))
        problem = Bilevel(learner, Rows.of(x, y), jnp.asarray([1 - y[0], 1.0]), target, defence=mi.Sphere(0.06))
        weights = problem.blocks(points)[1].weight
        assert weights.tolist() == [1.0, 0.0]
        found = mi.Reverse()(problem, points, *given)
        rest = problem.blocks(points)[0]
        smaller = Bilevel(learner, rest, problem.y_poison, target, poison_weight=weights)
        wanted = mi.Reverse()(smaller, points, *given)
    assert not np.asarray(found.poison)[1].any()
    assert np.asarray(found.poison)[0].any()
    np.testing.assert_allclose(found.poison, wanted.poison, rtol=1e-10)


@given(
    x=any_array(float, (5, 3), elements=st.floats(-4, 4, allow_subnormal=False)),
    radii=any_array(float, (4,), elements=st.floats(0, 3, allow_subnormal=False)),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_points_are_projected_to_the_nearest_in_box_and_ball(x, radii):
    """Feasible, idempotent, and no feasible point is nearer: the variational inequality of a projection."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (4, 3))
    with jax.enable_x64(True):
        found, again = (np.asarray(each) for each in projected(Balls(mi.Box(-1.0, 1.0), centres, radii), x))
    assert np.abs(found).max() <= 1
    assert (np.linalg.norm(found[:4] - centres, axis=1) <= radii + 1e-9).all()
    np.testing.assert_allclose(again, found, atol=1e-8)
    np.testing.assert_array_equal(found[4], x[4].clip(-1, 1))
    # Clipping moves no point away from a centre in the box, so that these are feasible.
    towards = rng.normal(size=(200, 4, 3))
    towards *= rng.random((200, 4, 1)) / np.linalg.norm(towards, axis=2, keepdims=True)
    others = centres + radii[:, None] * towards
    angle = np.sum((x[:4] - found[:4]) * (others.clip(-1, 1) - found[:4]), axis=2)
    assert angle.max() <= 1e-6


@jax.jit
def projected(phi: Balls, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    once = phi.project(x)
    return once, phi.project(once)


def test_an_attack_that_knows_the_filter_keeps_its_points_where_they_pass():
    """It harms the filtered defender, and its points survive; the threat model says so."""
    options = {
        "splits": 1,
        "attack": "bilevel",
        "points": 12,
        "batch": 12,
        "hyperiterations": 30,
        "policies": ("fixed=-8",),
    }
    result = mi.audit("digits-0v8", defences=("none", "sphere=10%"), **options)
    assert result.frame["defence"].tolist() == ["none", "none", "sphere=10%", "sphere=10%"]
    assert result.frame["policy"].unique().tolist() == ["fixed=-8", "fixed=-8 + sphere=10%"]
    assert not result.defenders["fixed=-8 + sphere=10%"]["fixed"]
    split = mi.load_dataset("digits-0v8").split(128, 128)
    inside = {}
    for policy in result.frame["policy"].unique():
        arrays = result.poison[0, policy]
        x, y = split.x_train.copy(), split.y_train.copy()
        x[arrays["replaced"]], y[arrays["replaced"]] = arrays["x_poison"], arrays["y_poison"]
        out = left_out(x, y, 0.1)
        inside[policy] = 1 - out[arrays["replaced"]].mean()
        if "sphere" in policy:
            np.testing.assert_array_equal(arrays["kept"][-1], ~out)
    assert inside["fixed=-8 + sphere=10%"] >= 0.9 > inside["fixed=-8"]
    last = result.frame.set_index(["policy", "n_poison"])["test_error"]
    assert last["fixed=-8 + sphere=10%", 12] > last["fixed=-8 + sphere=10%", 0] + 0.02
    assert "keeps them where the defence sphere=10% lets them pass" in result.threat_model["attack"]


def test_the_victim_that_is_measured_is_trained_on_the_rows_that_are_kept():
    """Scikit-learn, on the rows that the run says, has the recorded errors; on all rows it has others."""
    options = {"splits": 1, "points": 21, "batch": 21, "policies": ("fixed=-2",), "victim": "exact"}
    result = mi.audit("digits-0v8", attack=Relabelling, defences=("sphere=30%",), **options)
    split, errors = mi.load_dataset("digits-0v8").split(128, 128), []
    for policy in result.frame["policy"].unique():
        own, arrays = result.frame[result.frame["policy"] == policy], result.poison[0, policy]
        for count, said in zip(arrays["counts"], own["test_error"], strict=True):
            x, y, places = split.x_train.copy(), split.y_train.copy(), arrays["replaced"][:count]
            x[places], y[places] = arrays["x_poison"][:count], arrays["y_poison"][:count]
            kept = arrays["kept"][list(arrays["counts"]).index(count)]
            for rows in (kept, np.full(len(y), True)):
                model = LogisticRegression(C=np.exp(2.0), tol=1e-10, max_iter=100_000).fit(x[rows], y[rows])
                errors.append(1 - model.score(split.x_test, split.y_test))
            assert errors[-2] == pytest.approx(said, abs=1e-6)
    assert errors[-2] != errors[-1]
