"""Several λ: which layers share one, how a vector is tuned, what an audit says of it."""

import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from mithridate.auditing.assembly import penalty_of
from mithridate.defences.named import parse_policy
from mithridate.defences.tuning import best_response, minimise_vector
from mithridate.hypergradients.steps import hyper_rule

PHI = mi.Box(-8.0, 4.0)
SMALL = {
    "model": "mlp",
    "attack": "bilevel",
    "hidden": (6, 4),
    "train": 60,
    "valid": 60,
    "points": 4,
    "batch": 4,
    "splits": 1,
    "hyperiterations": 4,
    "joint_hyperiterations": 4,
    "inner_steps": 40,
    "epochs": 5,
}


def bowl(centre, tilt):
    """Return the losses and the slope of a quadratic whose entries depend on one another."""
    matrix = np.array([[1.0, tilt], [tilt, 1.0]])

    def losses(grid):
        away = np.asarray(grid, dtype=float) - centre
        return jnp.asarray(1 + 0.02 * np.einsum("ki,ij,kj->k", away, matrix, away))

    def slope(point):
        away = np.asarray(point, dtype=float) - centre
        return jnp.asarray(1 + 0.02 * away @ matrix @ away), jnp.asarray(0.04 * matrix @ away)

    return losses, slope


@pytest.mark.parametrize("tilt", [0.0, 0.9])
@pytest.mark.parametrize("start", [(-8.0, -8.0), (4.0, -8.0)])
def test_a_vector_is_tuned_jointly(tilt, start):
    centre = np.array([1.3, -2.2])
    found = minimise_vector(*bowl(centre, tilt), PHI, np.array(start))
    np.testing.assert_allclose(found, centre, atol=0.05)
    np.testing.assert_allclose(best_response(bowl(centre, tilt)[0], PHI, found), found, atol=0.05)


def test_a_vector_s_minimum_may_lie_at_a_bound():
    found = minimise_vector(*bowl(np.array([9.0, -2.0]), 0.0), PHI, np.array([-8.0, -8.0]))
    np.testing.assert_allclose(found, [4.0, -2.0], atol=0.05)


def test_a_vector_leaves_a_local_minimum_and_a_flat_place():
    def loss(x):
        return jnp.sum(jnp.minimum(0.1 * (x + 6) ** 2 + 1, 0.1 * (x - 3) ** 2 + 0.5), axis=-1)

    def slope(x):
        near = 0.1 * (x + 6) ** 2 + 1 < 0.1 * (x - 3) ** 2 + 0.5
        return loss(x), jnp.where(near, 0.2 * (x + 6), 0.2 * (x - 3))

    for start in ([-6.0, -6.0], [-8.0, 3.0]):
        np.testing.assert_allclose(minimise_vector(loss, slope, PHI, np.array(start)), [3.0, 3.0], atol=0.05)


def test_no_finite_loss_is_not_a_number():
    found = minimise_vector(
        lambda grid: jnp.sum(grid, -1) * jnp.nan, lambda s: (jnp.sum(s) * jnp.nan, s * jnp.nan), PHI, np.zeros(2)
    )
    assert np.isnan(found).all()


def test_the_check_sees_an_entry_that_is_off():
    losses, _ = bowl(np.array([1.3, -2.2]), 0.0)
    found = best_response(losses, PHI, np.array([1.3, -1.0]))
    np.testing.assert_allclose(found, [1.3, -2.2], atol=0.3)


@pytest.mark.parametrize(
    ("strengths", "groups"), [("one", None), ("layers", (0, 1, 2)), ("0,0,1", (0, 0, 1)), ("1,0,1", (1, 0, 1))]
)
def test_layers_share_the_strengths_that_they_are_given(strengths, groups):
    config = mi.AuditConfig.of(dataset="digits-0v8", model="mlp", policies=("learned",), strengths=strengths)
    assert penalty_of(config, mi.MLP(64, (6, 4))) == mi.L2(groups)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strengths": "0,1"}, "strengths = 0,1: mlp has 3 layer"),
        ({"strengths": "0,2,2"}, "counted from 0, as 0,1,2"),
        ({"strengths": "each"}, "strengths = 'each'"),
        ({"policies": ("cv-clean",)}, "search-clean=60"),
        ({"policies": ("search-clean=0",)}, "unknown policy 'search-clean=0'"),
        ({"hidden": (6, 0)}, "must be from 1 to 65,536"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(mi.InputError, match=said):
        mi.audit("digits-0v8", **SMALL | options)


def test_random_search_finds_the_best_of_its_draws():
    policy = parse_policy("search-poisoned=7", PHI, hyper_rule("rprop", 0.1))
    assert policy.name == "search-poisoned=7"
    assert (
        parse_policy("search-clean=7", PHI, hyper_rule("rprop", 0.1)).after_clean(np.zeros(2)).name == "search-clean=7"
    )


@pytest.fixture(scope="module")
def result():
    return mi.audit("digits-0v8", policies=("fixed=-8", "search-clean=3", "learned"), **SMALL)


def test_an_audit_of_a_network_tells_every_strength(result):
    frame = result.frame
    assert (frame["log_strengths"].map(len) == 3).all()
    assert (frame["weight_norms"].map(len) == 3).all()
    np.testing.assert_allclose(frame["log_strength"], [np.mean(s) for s in frame["log_strengths"]])
    learned, fixed = (frame[frame["policy"] == p] for p in ("learned", "fixed=-8"))
    assert all(s == [-8.0] * 3 for s in fixed["log_strengths"])
    searched = frame[frame["policy"] == "search-clean=3"]["log_strengths"].to_list()
    assert searched[0] == searched[1], "found on clean data"
    assert len(set(searched[0])) == 3, "one for each layer"
    best, used = (np.array(learned[name].to_list()) for name in ("best_log_strengths", "log_strengths"))
    far = np.abs(best - used).max(axis=1) > 0.1
    assert (learned["status"].str.contains("off-response") == far).all()


def test_weights_are_kept_as_the_records_have_them(result):
    for policy, rows in result.frame.groupby("policy"):
        arrays = result.poison[0, policy]
        for row, when in zip(rows.to_dict("records"), ("clean", "poisoned"), strict=True):
            norms = [np.mean(np.square(arrays[f"weights_{when}_{layer}"])) for layer in range(3)]
            np.testing.assert_allclose(norms, row["weight_norms"], rtol=1e-5)


def test_a_run_with_several_strengths_is_stored_and_drawn(result, tmp_path, monkeypatch):
    figure = result.plot()["regularisation"]
    figure.draw_without_rendering()
    monkeypatch.setattr(mi.AuditResult, "plot", lambda self: {})
    again = mi.load_result(result.save(tmp_path / "run"))
    for column in ("log_strengths", "best_log_strengths", "weight_norms"):
        np.testing.assert_array_equal(again.frame[column].to_list(), result.frame[column].to_list())
    names = {line.get_label() for line in figure.axes[0].lines}
    assert {"learned, λ 1", "learned, λ 2", "learned, λ 3", "fixed=-8"} <= names
