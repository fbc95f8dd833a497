"""The mixed feasible set: its projection and its settling are the nearest points, whatever the point."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mithridate as mi
from mithridate.data.feasible import FeasibleSet, Mixed, Settling

OFFSET, SCALE = np.array([2.3, 0.0, 0.5, 0, 0, 0, 0, 0, 0]), np.array([1.7, 1.0, 2.0, 1, 1, 1, 1, 1, 1])
RAW_LOW, RAW_HIGH = np.array([0.0, 0.0, -1.0]), np.array([3.0, 1.0, 4.0])
# A whole number in 0 … 3, a flag, a number, a category of two, one of four of which the last is not allowed.
GROUPS = [[3, 4], [5, 6, 7]]


def mixed() -> Mixed:
    low, high = np.zeros(9), np.zeros(9)
    low[:3], high[:3] = (RAW_LOW - OFFSET[:3]) / SCALE[:3], (RAW_HIGH - OFFSET[:3]) / SCALE[:3]
    high[3:8] = 1.0
    grid = (np.arange(9) < 2).astype(float)
    return Mixed(low, high, grid=grid, offset=OFFSET, scale=SCALE, groups=GROUPS)


PHI = mixed()
project, settle = eqx.filter_jit(PHI.project), eqx.filter_jit(PHI.settle)
any_points = arrays(np.float32, (7, 9), elements=st.floats(-1e4, 1e4, width=32))
near_points = arrays(np.float32, (7, 9), elements=st.floats(-3, 3, width=32))


def gap(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The most of (x − p)·(z − p) over z in Φ: p is the projection of x if and only if it is in Φ and this is 0."""
    g = np.asarray(x, np.float64) - p
    low, high = PHI.box.low, PHI.box.high
    alone = np.array([0, 1, 2, 8])
    most = np.maximum(g * low, g * high)[:, alone].sum(axis=1) + sum(g[:, group].max(axis=1) for group in GROUPS)
    return most - (g * p).sum(axis=1)


def inside(p: np.ndarray) -> None:
    assert (p >= PHI.box.low - 1e-6).all()
    assert (p <= PHI.box.high + 1e-6).all()
    for group in GROUPS:
        np.testing.assert_allclose(p[:, group].sum(axis=1), 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(any_points | near_points)
def test_the_projection_is_the_nearest_point(x):
    p = np.asarray(project(jnp.asarray(x)), np.float64)
    inside(p)
    assert (gap(x, p) <= 1e-5 * (1 + np.abs(x).max(axis=1))).all()
    np.testing.assert_allclose(project(jnp.asarray(p, jnp.float32)), p, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(any_points | near_points)
def test_settled_points_are_whole_one_hot_feasible_and_stay(x):
    p = np.asarray(settle(jnp.asarray(x)))
    inside(p)
    raw = p[:, :2] * SCALE[:2] + OFFSET[:2]
    np.testing.assert_allclose(raw, np.rint(raw), atol=1e-5)
    for group in GROUPS:
        assert set(np.unique(p[:, group])) <= {0.0, 1.0}
    np.testing.assert_array_equal(settle(jnp.asarray(p)), p)
    np.testing.assert_allclose(project(jnp.asarray(p)), p, atol=1e-6)


def test_settling_finds_the_nearest_of_all_points_that_can_be_had(rng):
    x = rng.normal(size=(200, 9)).astype(np.float32) * 2
    choices = itertools.product(range(4), range(2), np.eye(2), np.eye(3))
    corners = np.array([[count, flag, 0, *two, *three, 0] for count, flag, two, three in choices])
    corners[:, :2] = (corners[:, :2] - OFFSET[:2]) / SCALE[:2]
    others = [0, 1, *range(3, 9)]
    distances = ((x[:, None, others] - corners[None, :, others]) ** 2).sum(axis=2)
    p = np.asarray(settle(jnp.asarray(x)))
    np.testing.assert_allclose(((x - p)[:, others] ** 2).sum(axis=1), distances.min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(p[:, 2], np.clip(x[:, 2], PHI.box.low[2], PHI.box.high[2]), rtol=1e-6)


@pytest.mark.parametrize("way", ["project", "settle"])
def test_it_works_on_one_point_on_many_and_on_several_sets_at_once(way, rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 9)), jnp.float32)
    move = eqx.filter_jit(lambda phi, x: getattr(phi, way)(x))
    expected = move(PHI, x)
    np.testing.assert_array_equal(move(PHI, x[0, 0]), expected[0, 0])
    np.testing.assert_array_equal(move(PHI, x[1]), expected[1])
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), PHI)
    np.testing.assert_array_equal(eqx.filter_vmap(move)(stacked, x), expected)


@pytest.mark.parametrize(("offset", "grid"), [(1e6 + 0.25, 1.0), (-3e8 + 0.7, 1.0), (98.6034, 0.1), (0.333, 0.01)])
def test_numbers_settle_on_their_grid_however_large(offset, grid):
    phi = Mixed(
        np.array([-5.0]),
        np.array([5.0]),
        grid=np.array([grid]),
        offset=np.array([offset]),
        scale=np.array([20.0 * grid]),
        groups=[],
    )
    found = np.asarray(phi.settle(jnp.linspace(-4, 4, 1000)[:, None]), np.float64) * 20 + offset / grid
    np.testing.assert_allclose(found, np.rint(found), atol=1e-4)
    assert len(np.unique(np.rint(found))) in (160, 161)


def test_a_table_without_categories_is_a_box(rng):
    low, high = -np.ones(3), np.ones(3)
    phi = Mixed(low, high, grid=np.zeros(3), offset=np.zeros(3), scale=np.ones(3), groups=[])
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) * 2
    for found in (phi.project(x), phi.settle(x)):
        np.testing.assert_array_equal(found, mi.Box(low, high).project(x))


def test_what_can_settle_is_a_type():
    assert isinstance(PHI, Settling)
    assert isinstance(mi.Box(0.0, 1.0), FeasibleSet)
    assert not isinstance(mi.Box(0.0, 1.0), Settling)
