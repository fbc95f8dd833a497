"""Fig. 2, 3 and 5 to 8: what the pictures show, and the way from audits to figures, claims and captions."""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

import mithridate as mi
from hand_made import IMAGENET, IMAGES, LARGE, MADE, logistic, network, one_layer, three
from mithridate.reproduction import FIGURES, fig2, fig3, histograms, rates, studies
from mithridate.reproduction.outcome import Reproduction
from mithridate.reproduction.studies import LOGISTIC, NETWORK, by_layer
from mithridate.results.results import AuditResult
from mithridate.results.verdict import Verdict


class Drawn(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def drawn(line: Line2D) -> Drawn:
    return Drawn(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))


def test_fig2_shows_error_strength_and_norm():
    frame = three()
    figure = fig2.draw(frame)
    error, strength, norm = figure.axes[0], figure.axes[3], figure.axes[6]
    own = frame[(frame["dataset"] == "mnist-0v8") & (frame["policy"] == "learned")].groupby("n_poison")
    lines = error.get_lines()
    assert len(lines) == 4
    np.testing.assert_allclose(drawn(lines[3]).y, 100 * own["test_error"].mean())
    np.testing.assert_allclose(drawn(lines[3]).x, 100 * own["ratio"].first())
    np.testing.assert_allclose(drawn(strength.get_lines()[0]).y, own["log_strength"].mean())
    np.testing.assert_allclose(drawn(norm.get_lines()[0]).y, own["weight_norm_sq"].mean())
    assert error.get_title() == "mnist-0v8"
    assert "not the paper's data" in figure.axes[2].get_title()
    assert "%" in error.get_ylabel()
    assert "λ" in strength.get_ylabel()
    assert "‖w‖²" in norm.get_ylabel()
    assert "3 splits" in figure.get_suptitle()


def test_fig3_shows_each_layer():
    frame = network()
    error, strength, norm = fig3.draw(frame).axes
    own = frame[(frame["policy"] == "learned") & (frame["layer"] == 3)].groupby("n_poison")
    assert len(error.get_lines()) == 3
    assert [line.get_label() for line in strength.get_lines()][-1] == "output layer"
    np.testing.assert_allclose(drawn(strength.get_lines()[2]).y, own["log_strength"].mean())
    np.testing.assert_allclose(drawn(norm.get_lines()[2]).y, own["weight_norm"].mean())


def test_fig5_and_fig6_show_both_rates_and_say_which_is_which():
    frame = three()
    axes = rates.fig5.draw(frame).axes
    own = frame[(frame["dataset"] == IMAGENET) & (frame["policy"] == "learned")].groupby("n_poison")
    np.testing.assert_allclose(drawn(axes[2].get_lines()[3]).y, 100 * own["fpr"].mean())
    np.testing.assert_allclose(drawn(axes[5].get_lines()[3]).y, 100 * own["fnr"].mean())
    assert "“0” taken for “8”" in axes[0].get_ylabel()
    assert "“8” taken for “0”" in axes[3].get_ylabel()
    positive, negative = rates.fig6.draw(one_layer(network())).axes
    assert "“springer” taken for “tench”" in positive.get_ylabel()
    assert "“tench” taken for “springer”" in negative.get_ylabel()


def test_wide_bands_do_not_hide_the_lines():
    frame = network(2)
    learned = (frame["policy"] == "learned") & (frame["layer"] == 1) & (frame["n_poison"] > 0)
    frame.loc[learned & (frame["split"] == 1), "log_strength"] += 4
    _, strength, _ = fig3.draw(frame).axes
    low, high = strength.get_ylim()
    lines = np.concatenate([drawn(line).y for line in strength.get_lines()])
    assert low <= lines.min() < lines.max() <= high
    assert high - low < 2.1 * (lines.max() - lines.min())
    level = network().assign(log_strength=-8.0)
    assert fig3.draw(level).axes[1].get_ylim()[0] < -8


# from audits to figures


def made_of(config: mi.AuditConfig, frame: pd.DataFrame, layers: int) -> AuditResult:
    """A hand-made result with weights spread like `value` says: poison and regularisation narrow them."""
    frame = frame[frame["split"] < config.splits]
    draw = np.random.default_rng(0)
    poison = {
        (0, policy): {
            f"weights_{at}_{i}": draw.normal(scale=width, size=500).astype(np.float32)
            for i in range(layers)
            for at, width in (("clean", 1.0), ("poisoned", 0.5 if policy == "learned" else 2.0))
        }
        for policy in config.policies
    }
    return AuditResult(
        dataset={"name": config.dataset, "classes": ["0", "8"]},
        threat_model={},
        config=config.model_dump(mode="json"),
        versions={"jax": "0"},
        frame=frame.assign(dataset=config.dataset, inner_steps=config.inner_steps * 2),
        candidates=frame,
        defenders={},
        verdict=Verdict((), {}, None, ("2 cells are marked weak",)),
        poison=poison,
    )


def wide(frame: pd.DataFrame, layers: int) -> pd.DataFrame:
    """Records as an audit leaves them, with a list of λ and norms in each row."""
    if layers == 1:
        strengths = pd.Series([[value] for value in frame["log_strength"]])
        norms = pd.Series([[value / 784] for value in frame["weight_norm_sq"]])
        return frame.assign(log_strengths=strengths, weight_norms=norms)
    keys = ["split", "policy", "n_poison"]
    grouped = frame.groupby(keys)[["log_strength", "weight_norm"]].agg(list).reset_index()
    lists = grouped.rename(columns={"log_strength": "log_strengths", "weight_norm": "weight_norms"})
    fixed = lists["policy"].str.startswith("fixed")
    lists["log_strengths"] = lists["log_strengths"].where(~fixed, lists["log_strengths"].str[:1])
    return one_layer(frame).drop(columns=["layer", "weight_norm"]).merge(lists, on=keys)


@pytest.fixture
def audits(monkeypatch) -> list[str]:
    """The data sets that audits were asked for; the audits are hand-made."""
    asked: list[str] = []

    def audit(data: mi.Dataset, config: mi.AuditConfig, *, on_progress: Any) -> AuditResult:
        asked.append(data.name)
        on_progress(studies.Progress(0, 1, "split 1/3"))
        if config.model == "mlp":
            return made_of(config, wide(network(), 3), 3)
        frame = logistic(config.dataset)
        names = {LARGE: config.policies[1]}
        return made_of(config, wide(frame.assign(policy=frame["policy"].replace(names)), 1), 1)

    monkeypatch.setattr(studies, "audit", audit)
    monkeypatch.setattr(studies, "_DONE", {})
    monkeypatch.setattr(studies, "load_dataset", lambda name: SimpleNamespace(name=name))
    return asked


def test_the_audits_of_a_study_are_run_once(audits):
    told = []
    fig = FIGURES["fig2"](on_progress=told.append)
    assert audits == [*LOGISTIC.datasets()]
    FIGURES["fig5"]()
    FIGURES["fig7"]()
    assert audits == [*LOGISTIC.datasets()], "shared"
    FIGURES["fig5"](seed=1)
    assert audits == 2 * [*LOGISTIC.datasets()], "another configuration"
    FIGURES["fig3"]()
    FIGURES["fig6"]()
    FIGURES["fig8"]()
    assert audits[6:] == [*NETWORK.datasets()]
    assert all(at.done < at.total for at in told)
    assert {at.total for at in told} == {3 * 5 * 4 * 4}
    assert [at.done for at in told] == [0, 80, 160]
    assert "mnist-0v8 · split 1/3" in told[0].running
    assert isinstance(fig, Reproduction)


@pytest.mark.parametrize("name", MADE)
def test_each_figure_comes_with_claims_caption_and_numbers(audits, tmp_path, name):
    stand_in = name in ("fig3", "fig6", "fig8")
    found = FIGURES[name](IMAGENET if stand_in else "mnist-0v8")
    assert {claim.verdict for claim in found.claims} <= {"holds", "does not hold"}
    target = found.save(tmp_path / name)
    pd.testing.assert_frame_equal(pd.read_parquet(target / f"{name}.parquet"), found.frame)
    assert f"batch {15 if stand_in else 29} (13)" in found.caption
    assert f"splits {3 if stand_in else 5} (10)" in found.caption
    assert "Warning: 2 cells are marked weak." in found.caption
    assert "η·T" in found.caption
    assert stand_in == ("This is not the paper's data." in found.caption)
    if stand_in:
        assert "inner_steps 80 (600)" in found.caption
        assert "learning_rate 0.075 (0.01)" in found.caption
    assert "Versions: jax 0" in found.caption


def test_histograms_count_every_weight_in_the_same_bins(audits):
    frame = FIGURES["fig8"](IMAGENET).frame
    counts = frame[frame["measure"] == "weights"]
    assert set(counts["split"]) == {0}
    assert set(counts["layer"]) == {1, 2, 3}
    total = counts.groupby(["policy", "n_poison", "layer"])["value"].sum()
    assert (total == 500).all()
    assert len(total) == 2 * 2 * 3
    assert counts.groupby("layer")["low"].nunique().eq(22).all(), "√500 bins, the same for all"
    widest = counts[counts["value"] > 0].groupby(["policy", "n_poison"])["high"].max()
    assert widest["learned", 85] < widest["learned", 0] < widest["fixed=-8", 85]
    root = frame[(frame["measure"] == "rms") & (frame["layer"] == 3) & (frame["policy"] == "learned")]
    assert root["value"].iloc[0] == pytest.approx(math.sqrt(0.2))
    figure = histograms.draw(frame)
    assert len(figure.axes) == 6
    assert "λ = −8" in figure.axes[0].get_ylabel()
    assert "learned" in figure.axes[3].get_ylabel()
    assert "output layer" in figure.axes[2].get_title()
    outline = figure.axes[5].patches[1]
    assert isinstance(outline, StepPatch)
    own = counts[(counts["policy"] == "learned") & (counts["n_poison"] == 85) & (counts["layer"] == 3)]
    np.testing.assert_array_equal(outline.get_data()[0], own["value"])


def test_one_strength_for_all_layers_is_every_layer_s(audits):
    config = NETWORK.config(IMAGENET, "quick")
    frame = by_layer([made_of(config, wide(network(), 3), 3)])
    assert len(frame) == 3 * len(one_layer(network()))
    fixed = frame[(frame["policy"] == "fixed=-8") & (frame["split"] == 0)]
    assert (fixed["log_strength"] == -8).all()
    learned = frame[(frame["policy"] == "learned") & (frame["split"] == 0) & (frame["n_poison"] == 85)]
    np.testing.assert_allclose(learned["log_strength"], [-7, -4, -2])


def test_the_paper_s_settings_are_the_paper_s():
    paper = NETWORK.config(IMAGENET, "paper")
    assert (paper.inner_steps, paper.learning_rate, paper.epochs) == (600, 0.01, 4000)
    assert paper.policies == ("fixed=-8", "fixed=log(40)", "learned")
    quick = NETWORK.config(IMAGENET, "quick")
    assert quick.inner_steps * quick.learning_rate == pytest.approx(paper.inner_steps * paper.learning_rate)
    steps = [c.epochs * c.train / c.batch_size * c.train_learning_rate for c in (quick, paper)]
    assert steps[0] == pytest.approx(steps[1])
    big = [LOGISTIC.config(name, "paper").policies[1] for name in (*IMAGES, IMAGENET)]
    assert big == ["fixed=log(200)", "fixed=log(500)", "fixed=log(3000)"]
    assert NETWORK.config(IMAGENET, "quick", epochs=7).epochs == 7
    with pytest.raises(mi.InputError, match="sets model, policies itself"):
        FIGURES["fig2"]("mnist-0v8", model="mlp", policies=("learned",))


def test_dogfish_is_used_where_it_is_at_hand(monkeypatch):
    monkeypatch.setattr(studies, "at_hand", lambda family: family == "dogfish")
    assert NETWORK.datasets() == ("dogfish",)
    monkeypatch.setattr(studies, "at_hand", lambda family: False)
    assert LOGISTIC.datasets() == ("mnist-0v8", "fashion-mnist-0v2", "springer-tench")


TINY: dict[str, Any] = {"splits": 1, "train": 40, "valid": 40, "points": 6, "batch": 3, "epochs": 10, "inner_steps": 20}
TINY |= {"hyperiterations": 5, "joint_hyperiterations": 5}


@pytest.mark.parametrize("name", ["fig2", "fig5", "fig7"])
def test_a_real_audit_of_logistic_regression_becomes_a_figure(name):
    found = FIGURES[name]("digits-0v8", **TINY)
    assert set(found.frame["policy"]) >= {"fixed=-8", "learned"}
    assert {claim.dataset for claim in found.claims} == {"digits-0v8"}
    assert found.figure.axes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig3", "fig6", "fig8"])
def test_a_real_audit_of_a_network_becomes_a_figure(name):
    found = FIGURES[name]("digits-0v8", **TINY, hidden=(6, 4))
    assert len(found.claims) == {"fig3": 11, "fig6": 5, "fig8": 3}[name]
    assert found.figure.axes
    if name != "fig6":
        assert set(found.frame["layer"]) == {1, 2, 3}
