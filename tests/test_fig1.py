"""Fig. 1: each map is what single solves give place by place, the attack is one, the claims are judged."""

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh

import mithridate as mi
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.scenario import Scenario
from mithridate.defences.tuning import minimise, validation_losses
from mithridate.reproduction import fig1
from mithridate.reproduction.fig1 import answered, ascend, best_responses, problem_of, run
from mithridate.reproduction.fig1_claims import LEARNED, NONE, STRONG, claims, optima
from mithridate.seeds import key

STEPS = 12
PLACES = np.array([[-9.5, 9.5], [-9.5, 0.0], [3.0, 1.0], [9.5, -9.5], [-4.0, -6.0]])


@pytest.fixture(scope="module")
def config() -> mi.AuditConfig:
    return mi.AuditConfig.of(dataset="synthetic", attack="bilevel", points=1, policies=(NONE, STRONG, LEARNED))


@pytest.fixture(scope="module")
def split(config) -> mi.Split:
    return mi.load_dataset("synthetic").split(config.train, config.valid)


@pytest.fixture(scope="module")
def attacks(config) -> dict[str, Any]:
    return {attack.policy.name: attack for attack in Scenario.of(mi.load_dataset("synthetic"), config).attacks}


@pytest.fixture(scope="module")
def found():
    """With fewer steps of the attack than the figure has, and fewer places at once."""
    fewer = SimpleNamespace(of=functools.partial(mi.AuditConfig.of, hyperiterations=STEPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fig1, "AuditConfig", fewer)
        patch.setattr(fig1, "TOGETHER", 16)
        return run(splits=2, side=3)


def test_the_map_of_the_learned_strength_is_tuning_place_by_place(attacks, split):
    policy = attacks[LEARNED].policy
    with jax.enable_x64(True):
        problem = problem_of(attacks[LEARNED], split)
        given = (jnp.asarray(PLACES, dtype=float), jnp.ones(len(PLACES)))
        together = np.asarray(best_responses(problem, policy.strengths, *given, key(0)))
        alone = [
            minimise(lambda grid, x=x: validation_losses(problem, x[None], grid, key(0)), policy.strengths)
            for x in given[0]
        ]
    np.testing.assert_allclose(together, alone, atol=1e-9)
    assert np.ptp(together) > 1, "λ is the same everywhere: the test could not fail"


def test_a_point_without_weight_is_not_there(attacks, split):
    policy, problem = attacks[LEARNED].policy, problem_of(attacks[LEARNED], split)
    absent = best_responses(problem, policy.strengths, jnp.asarray(PLACES[:2]), jnp.zeros(2), key(0))
    target = mi.Rows.of(split.x_valid, split.y_valid)
    clean = mi.Bilevel(problem.learner, mi.Rows.of(split.x_train, split.y_train), jnp.zeros(0), target)
    expected = mi.Learned(policy.strengths).respond(clean, jnp.zeros((0, 2)), np.array(-8.0), key(0))
    np.testing.assert_allclose(np.asarray(absent), expected, atol=0.05)


@pytest.mark.parametrize("name", [NONE, pytest.param(STRONG, marks=pytest.mark.slow)])
def test_the_maps_are_victims_trained_one_by_one(name, config, attacks, split):
    attack, there = attacks[name], np.arange(1 + len(PLACES)) > 0
    places = np.concatenate([np.zeros((1, 2)), PLACES])
    frame = answered(attack, config, split, places, there)
    whole = attack.learner.with_rule(mi.MinibatchSGD(0.2, 33, 100))
    to_the_letter = attack.learner.with_rule(evaluation_rule(config))
    strength, retrain = float(attack.policy.strengths.low), key(attack.seed, "retrain")
    target = (mi.Rows.of(split.x_valid, split.y_valid),)
    for i, (place, poisoned) in enumerate(zip(places, there, strict=True)):
        row = frame.iloc[i]
        x = np.concatenate([split.x_train, place[None]]) if poisoned else split.x_train
        y = np.append(split.y_train, 1) if poisoned else split.y_train
        params = whole.fit(x, y, strength, retrain)
        np.testing.assert_allclose(row[["w1", "w2"]].to_numpy(dtype=float), params.weight, rtol=1e-3, atol=1e-4)
        assert row["bias"] == pytest.approx(float(params.bias), rel=1e-3, abs=1e-4)
        assert row["valid_error"] == pytest.approx(whole.error(params, split.x_valid, split.y_valid), abs=1e-6)
        assert row["test_error"] == pytest.approx(whole.error(params, split.x_test, split.y_test), abs=1e-3)
        params = to_the_letter.fit(x, y, strength, retrain)
        error = to_the_letter.error(params, split.x_valid, split.y_valid)
        assert row["minibatch_valid_error"] == pytest.approx(error, abs=1e-6)
        inner = attack.learner.fit(x, y, strength, key(attack.seed, "attack"))
        assert row["attacker_loss"] == pytest.approx(float(whole.mean_loss(inner, target)), rel=1e-3)
    assert frame["changed"][0] == 0
    assert frame["changed"].max() > 0
    assert frame["w1"].nunique() == len(places), "the same victim everywhere: the test could not fail"
    assert (frame["minibatch_valid_error"] != frame["valid_error"]).any(), "the remainder of one row is seen"


def test_the_attack_starts_at_a_clone_stays_within_its_constraints_and_does_harm(attacks, split, config):
    shorter = attacks[NONE].learner.with_rule(mi.GradientDescent(0.2, 100))
    attack = replace(attacks[NONE], learner=shorter, steps=30)
    path, statuses = ascend(attack, split)
    assert path.shape == (31, 2)
    assert (statuses == "ok").all()
    start = np.flatnonzero((split.x_valid == path[0].astype(np.float32)).all(axis=1))
    assert split.y_valid[start].tolist() == [0], "a clone of class 0, which it no longer says it is"
    assert (np.abs(path) <= 9.5).all()
    assert (np.abs(path) == 9.5).any(), "no constraint was met: the test could not fail"
    moves = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert moves.max() <= config.poison_step * (1 + 1e-5)
    assert np.isclose(moves[0], config.poison_step)
    axis = np.linspace(-9.5, 9.5, 9)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    places = np.concatenate([path, grid])
    losses = answered(attack, config, split, places, np.ones(len(places), bool))["attacker_loss"]
    assert losses[: len(path)].max() > 0.98 * losses[len(path) :].max(), "the attack misses the worst place"
    assert losses[: len(path)].max() > 1.2 * losses[0]


def test_the_frame_has_the_data_the_paths_and_the_maps(found):
    frame = found.frame
    for index, own in frame.groupby("split"):
        kinds = {"map": 27, "path": 3 * (STEPS + 1), "valid": 64, "train": 32, "clean": 3}
        assert own["kind"].value_counts().to_dict() == kinds, index
        assert own[own["kind"] == "map"].groupby("policy")[["x1", "x2"]].nunique().eq(3).all(axis=None)
    measured = frame[frame["kind"].isin(["map", "path", "clean"])]
    columns = [
        "log_strength",
        "attacker_loss",
        "valid_loss",
        "valid_error",
        "test_error",
        "changed",
        "w1",
        "w2",
        "bias",
    ]
    assert measured[columns].notna().all(axis=None)
    strengths = measured.groupby("policy")["log_strength"].unique()
    assert strengths[NONE].tolist() == [-8]
    assert strengths[STRONG].tolist() == pytest.approx([np.log(20)])
    clean = frame[(frame["kind"] == "clean")].groupby("policy")["w1"]
    assert clean.nunique().eq(2).all(), "the data are drawn anew for each split"


def test_the_optimum_is_the_worst_place_of_the_path(found):
    best, path = optima(found.frame), found.frame[found.frame["kind"] == "path"]
    for split in (0, 1):
        own = path[(path["split"] == split) & (path["policy"] == NONE)]
        assert best.loc[(split, NONE), "attacker_loss"] == own["attacker_loss"].max()
        one, other = (best.loc[(split, name), ["x1", "x2"]].to_numpy(dtype=float) for name in (NONE, LEARNED))
        np.testing.assert_array_equal(one, other)


def test_every_claim_is_judged_and_a_figure_without_the_effect_is_found_out(found):
    assert [claim.number for claim in found.claims] == [
        "1",
        "2a",
        "2b",
        "3a",
        "3b",
        "4",
        "5a",
        "5b",
        "6",
        "7",
        "8",
        "9",
        "10",
    ]
    assert {claim.where for claim in found.claims} == {"Sect. 4", "Sect. 3.1"}
    assert all(claim.effect is not None and claim.half is not None for claim in found.claims)
    # A world in which regularisation makes no difference, and λ none of the place.
    flat = found.frame.copy()
    of_none = flat[flat["policy"] == NONE].drop(columns=["policy", "inner_steps"]).reset_index(drop=True)
    for name in (STRONG, LEARNED):
        rows = of_none.assign(policy=name, inner_steps=500.0, log_strength=-8.0)
        flat = pd.concat([flat[flat["policy"] != name], rows], ignore_index=True)
    flat["log_strength"] += 1e-9 * flat["x1"].fillna(0)
    verdicts = {claim.number: claim.verdict for claim in claims(flat)}
    for number in ("2a", "4", "6", "7", "9", "10"):
        assert verdicts[number] == "does not hold", number


def test_the_figure_shows_the_maps_of_the_first_split(found, tmp_path):
    panels = [axis for axis in found.figure.axes if axis.get_title()]
    assert len(panels) == 3
    for axis, (name, column, scale) in zip(
        panels, [(NONE, "valid_error", 100), (STRONG, "valid_error", 100), (LEARNED, "log_strength", 1)], strict=True
    ):
        rows = found.frame[
            (found.frame["kind"] == "map") & (found.frame["policy"] == name) & (found.frame["split"] == 0)
        ]
        mesh = next(part for part in axis.collections if isinstance(part, QuadMesh))
        shown, expected = np.ravel(np.asarray(mesh.get_array())), rows.sort_values(["x2", "x1"])[column]
        np.testing.assert_allclose(shown, scale * expected)
        assert axis.get_xlabel() == "$x_1$"
    assert panels[0].collections[0].get_clim() == panels[1].collections[0].get_clim() != (0, 1)
    names = {path.name for path in found.save(tmp_path / "fig1").iterdir()}
    assert names == {"fig1.parquet", "fig1.png", "fig1.svg", "caption.txt", "claims.json"}
    for word in (
        "3 × 3",
        "2 draws",
        "T = 500 steps of gradient descent, η = 0.2",
        "minibatches of 33, 100 epochs",
        "α = 0.4",
        "Seed 0",
        "jax ",
    ):
        assert word in found.caption


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(mi.InputError, match="plane"):
        run("mnist-0v8")
    with pytest.raises(mi.InputError, match="side = 1"):
        run(side=1)
    with pytest.raises(mi.InputError, match="preset"):
        run(preset="slow")
