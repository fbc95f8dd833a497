"""The paper's figures made again, tiny: files, frame, claims, refusals. What they show is shown at full size only."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from mithridate.auditing.scenario import Scenario
from mithridate.reproduction import FIGURES, Reproduction
from mithridate.reproduction.fig4 import FIXED, attacked_by
from mithridate.reproduction.fig4_claims import EXACT, FORWARD, REVERSE, REVERSED, SOLVED
from mithridate.reproduction.outcome import above, claim, within

TINY: dict[str, Any] = {
    "dataset": "digits-0v8",
    "splits": 2,
    "train": 40,
    "valid": 40,
    "points": 6,
    "batch": 6,
    "joint_hyperiterations": 50,
    "learning_rate": 0.13,
    "inner_steps": 200,
    "epochs": 20,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Reproduction, Any]:
    target = tmp_path_factory.mktemp("reproduction") / "fig4"
    return FIGURES["fig4"](out=target, optimum=False, **TINY), target


def test_the_directory_holds_frame_figure_caption_and_claims(written):
    found, target = written
    names = {"fig4.parquet", "fig4.png", "fig4.svg", "caption.txt", "claims.json"}
    assert {path.name for path in target.iterdir()} == names
    assert [path.name for path in target.parent.iterdir()] == ["fig4"], "nothing is left beside it"
    pd.testing.assert_frame_equal(pd.read_parquet(target / "fig4.parquet"), found.frame)
    caption = (target / "caption.txt").read_text()
    assert "digits-0v8" in caption
    assert "2 splits" in caption
    assert "Seed 0" in caption
    assert "jax " in caption


def test_there_is_one_row_per_split_method_and_ratio(written):
    frame = written[0].frame
    assert list(frame["method"].unique()) == [REVERSE, REVERSED, FORWARD, EXACT]
    assert len(frame) == 2 * 4 * 2
    assert not frame.duplicated(["split", "method", "n_poison"]).any()
    columns = {"test_error", "log_strength", "best_log_strength", "hypergradients", "status", "drift", "seconds"}
    assert columns | {"residual_attack", "residual_finer", "gap"} <= set(frame.columns)
    last = frame[frame["n_poison"] == 6]
    counts = last["hypergradients"].map(lambda text: sum(int(entry.split(":")[1]) for entry in text.split()))
    assert (counts == 50).all(), "every step's status is counted"
    assert frame["seconds"].gt(0).all()
    assert frame["drift"].notna().equals(frame["method"] == REVERSED)
    steps = frame.groupby("method")["inner_steps"].first()
    assert (steps[EXACT], steps[REVERSE]) == (2000, 200)


def test_only_the_method_for_lambda_differs(written):
    frame = written[0].frame
    one, two = (frame[frame["method"] == m].reset_index(drop=True) for m in (REVERSE, FORWARD))
    np.testing.assert_allclose(one["log_strength"], two["log_strength"], atol=1e-3)
    np.testing.assert_allclose(one["value"], two["value"], rtol=1e-3)
    np.testing.assert_allclose(two["hyper"], two["hyper_rmd"], rtol=0.05, atol=1e-6)
    np.testing.assert_array_equal(one["hyper"], one["hyper_rmd"])
    moved = one["log_strength"] > -8
    assert moved.any()
    assert (one["log_strength"] != one["best_log_strength"])[moved].all(), "λ is where the descent left it"
    for method in (REVERSED, EXACT):
        other = frame[frame["method"] == method].reset_index(drop=True)
        assert (other["log_strength"] != one["log_strength"])[moved].all()


def test_on_clean_data_as_well_lambda_descends_by_itself():
    config = mi.AuditConfig.of(**TINY, **FIXED)
    scenario = Scenario.of(mi.load_dataset("digits-0v8"), config)
    split, own = scenario.split, scenario.attacks[0]
    assert isinstance(own, mi.Attack)
    attack = attacked_by(own, mi.Reverse())
    labels = np.where(np.arange(40) < 15, 1 - split.y_train, split.y_train)  # noise, so that λ has somewhere to go
    given = (attack.settled(attack.rows(split.x_train, labels)), jnp.zeros((6, 64)), np.array(-8.0), jax.random.key(0))
    found, best = attack.policy.respond(*given), mi.Learned().respond(*given)
    assert best > -7
    assert found == pytest.approx(best, abs=0.1)
    assert found != best, "no closing solve"
    assert attack.policy.after_clean(found).respond(given[0], given[1], np.array(1.0), given[3]) == 1.0


def test_every_claim_has_an_effect_and_a_verdict(written):
    found, target = written
    said = json.loads((target / "claims.json").read_text())
    assert [claim["number"] for claim in said["claims"]] == ["1", "2", "3a", "3b", "4", "5", "6a", "6b", "7"]
    for one in said["claims"]:
        assert one["verdict"] in ("holds", "does not hold", "not enough data")
        assert one["effect"] is not None
        assert one["half"] >= 0
        assert f"({one['number']}) {one['verdict'].upper()}" in found.report()
    verdicts = {one["number"]: one["verdict"] for one in said["claims"]}
    assert verdicts["4"] == "holds"
    assert said["config"]["dataset"] == "digits-0v8"
    assert {"mithridate", "jax", "python"} <= said["versions"].keys()


def test_a_claim_is_judged_by_its_whole_interval():
    def verdict(expected, *values):
        return claim("1", "", pd.Series(values), "", expected, "").verdict

    assert verdict(above(0.0), 1.0, 1.1, 0.9) == "holds"
    assert verdict(above(0.0), -1.0, -1.1, -0.9) == "does not hold"
    assert verdict(above(0.0), 0.0, 0.0) == "does not hold"
    assert verdict(above(0.0), 1.0, -0.5) == "not enough data"
    assert verdict(above(0.0), 1.0) == "not enough data"
    assert verdict(within(1.0), 0.1, -0.1, 0.1) == "holds"
    assert verdict(within(1.0), 2.0, 2.1, 1.9) == "does not hold"
    assert verdict(within(1.0), 0.9, -0.9) == "not enough data"
    assert verdict(within(1.0), 0.1, np.nan) == "not enough data"


def test_the_figure_shows_the_frame(written):
    found, _ = written
    error, strength, difference, _ = found.figure.axes
    rows = found.frame[found.frame["method"] == EXACT].groupby("ratio")
    line = next(line for line in error.get_lines() if line.get_label() == EXACT)
    np.testing.assert_allclose(line.get_xdata(), 100 * rows["ratio"].first())
    np.testing.assert_allclose(line.get_ydata(), 100 * rows["test_error"].mean())
    assert "%" in error.get_ylabel()
    assert "λ" in strength.get_ylabel()
    assert "RMD" in difference.get_ylabel()
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in error.get_lines()}
    assert len(styles) == 4


def test_what_cannot_be_run_is_refused_before_anything_is_computed(written, tmp_path):
    run = FIGURES["fig4"]
    with pytest.raises(mi.StorageError, match="not an empty directory"):
        run(out=written[1], **TINY)
    with pytest.raises(mi.InputError, match="unknown data set"):
        run("nonsuch", tmp_path / "new")
    with pytest.raises(mi.InputError, match="fig4 sets closing itself"):
        run(out=tmp_path / "new", closing=True, **TINY)
    wrong: dict[str, Any] = TINY | {"splits": -1}
    with pytest.raises(mi.InputError, match="splits"):
        run(out=tmp_path / "new", **wrong)
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(written, tmp_path, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(mi.StorageError, match="No space left"):
        written[0].save(tmp_path / "new")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_where_training_is_solved_the_exact_hypergradient_is_sound():
    found = FIGURES["fig4"](**TINY)
    gap = found.frame.groupby("method")["gap"].mean()
    assert gap[SOLVED] < 0.1 * gap[EXACT]
    poisoned = found.frame[found.frame["n_poison"] > 0].pivot(index="split", columns="method", values="log_strength")
    assert (poisoned[SOLVED] != poisoned[REVERSE]).all()
    assert "At the optimum" in found.report()
    assert SOLVED in found.caption
