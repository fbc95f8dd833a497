"""Fig. 2, 3 and 5 to 8 from hand-made audits: claims hold where they should, fail where they should, need splits."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

import mithridate as mi
from mithridate.reproduction import FIGURES, fig2, fig3, histograms, rates, studies
from mithridate.reproduction.effects import at, by_ratio, change, gap, large, nearest, rise, up_to
from mithridate.reproduction.outcome import Reproduction, below
from mithridate.reproduction.studies import LOGISTIC, NETWORK, by_layer
from mithridate.results import AuditResult
from mithridate.verdict import Verdict

POINTS = (0, 13, 26, 39, 52, 65, 78, 85)
MOST = 85 / 512
LARGE = "fixed=log(200)"
IMAGES, IMAGENET = ("mnist-0v8", "fashion-mnist-0v2"), "springer-tench"
Curve = Callable[[float], float]
Curves = dict[str, dict[str, Curve]]


def rows(dataset: str, curves: Curves, splits: int = 3) -> pd.DataFrame:
    """Records whose quantities are functions of r, the poison as a share of the most; splits differ a little."""
    return pd.DataFrame(
        {
            "dataset": dataset,
            "split": split,
            "policy": policy,
            "n_poison": n_poison,
            "ratio": n_poison / 512,
            "status": "ok",
            **{name: f(n_poison / POINTS[-1]) * (1 + 0.002 * split) for name, f in quantities.items()},
        }
        for policy, quantities in curves.items()
        for split in range(splits)
        for n_poison in POINTS
    )


def put(frame: pd.DataFrame, policy: str, column: str, curve: Curve, **only: Any) -> pd.DataFrame:
    """The frame with another curve for a policy's quantity, in the rows where `only` says."""
    frame, chosen = frame.copy(), frame["policy"] == policy
    for name, value in only.items():
        chosen &= frame[name] == value
    found = [curve(n / POINTS[-1]) for n in frame.loc[chosen, "n_poison"]]
    frame.loc[chosen, column] = np.array(found) * (1 + 0.002 * frame.loc[chosen, "split"])
    return frame


def until(share: float, inside: float, beyond: float) -> Curve:
    """A step: one value up to a share of poison, another beyond it."""
    return lambda r: inside if r * MOST <= share else beyond


def logistic(dataset: str, splits: int = 3) -> pd.DataFrame:
    """Records in which all that Sect. 5.1 and E.2.1 say is so."""
    most = 4.0 if dataset in IMAGES else 9.0
    over = "fpr" if dataset == "mnist-0v8" else "fnr"
    other = "fnr" if over == "fpr" else "fpr"
    ruined: dict[str, Curve] = {
        "test_error": lambda r: 0.01 + 0.14 * r,
        "fpr": lambda r: 0.01 + 0.16 * r,
        "fnr": lambda r: 0.01 + 0.12 * r,
        "log_strength": lambda _: -8.0,
        "weight_norm_sq": lambda _: 3.0,
    }
    curves: Curves = {
        "fixed=-8": ruined,
        LARGE: {
            "test_error": lambda r: 0.03 + 0.01 * r,
            over: lambda r: 0.05 + 0.0 * r,
            other: lambda r: 0.01 + 0.0 * r,
            "log_strength": lambda _: math.log(200),
            "weight_norm_sq": lambda _: 0.3,
        },
        "cv-clean": ruined,
        "learned": {
            "test_error": lambda r: 0.01 + 0.07 * min(r / 0.6, 1),
            "fpr": lambda r: 0.01 + 0.08 * r,
            "fnr": lambda r: 0.01 + 0.04 * r,
            "log_strength": lambda r: -8 + (most + 8) * r,
            "weight_norm_sq": lambda r: 3 / (1 + 3 * r),
        },
    }
    frame = rows(dataset, curves, splits)
    return frame.assign(
        baseline_test_error=0.02, best_log_strength=math.nan, inner_steps=200, negative="0", positive="8"
    )


def three(splits: int = 3) -> pd.DataFrame:
    return pd.concat([logistic(name, splits) for name in (*IMAGES, IMAGENET)], ignore_index=True)


def network(splits: int = 3) -> pd.DataFrame:
    """One row per layer, in which all that Sect. 5.2 and E.2.2 say is so."""

    def peaked(top: float, end: float) -> Curve:
        # Up to 13 % poison a rise, then a fall.
        return lambda r: 0.01 + (top - 0.01) * r / 0.765 if r < 0.77 else top + (end - top) * (r - 0.765) / 0.235

    def layer(i: int) -> pd.DataFrame:
        strengths: list[Curve] = [lambda r: -8 + r, lambda r: -8 + 4 * r * r, lambda r: -8 + 6 * r * r]
        norms: list[Curve] = [lambda _: 0.002, lambda r: 0.01 - 0.005 * r, lambda r: 0.2 - 0.1 * r]
        ruined: dict[str, Curve] = {
            "test_error": lambda r: 0.02 + 0.13 * r,
            "fpr": lambda r: 0.02 + 0.12 * r,
            "fnr": lambda r: 0.02 + 0.14 * r,
            "log_strength": lambda _: -8.0,
            "weight_norm": lambda r: [0.003, 0.02, 0.3][i - 1],
        }
        curves: Curves = {
            "fixed=-8": ruined,
            "fixed=log(40)": {
                "test_error": lambda r: 0.03 + 0.01 * r,
                "fpr": lambda r: 0.02 + 0.01 * r,
                "fnr": lambda r: 0.04 + 0.01 * r,
                "log_strength": lambda _: math.log(40),
                "weight_norm": lambda r: 0.001,
            },
            "learned": {
                "test_error": peaked(0.08, 0.06),
                "fpr": peaked(0.07, 0.05),
                "fnr": peaked(0.09, 0.07),
                "log_strength": strengths[i - 1],
                "weight_norm": norms[i - 1],
            },
        }
        return rows(IMAGENET, curves, splits).assign(layer=i, negative="springer", positive="tench")

    return pd.concat([layer(i) for i in (1, 2, 3)], ignore_index=True)


def spread(dataset: str, layers: int, splits: int = 3) -> pd.DataFrame:
    """The widths of Fig. 7 or 8, narrower with regularisation and with poison."""
    curves: Curves = {
        "fixed=-8": {"value": lambda r: 0.1 + 0.01 * r},
        "learned": {"value": lambda r: 0.08 - 0.04 * r},
    }
    found = pd.concat([rows(dataset, curves, splits).assign(layer=i + 1, measure="rms") for i in range(layers)])
    return found[found["n_poison"].isin([0, 85])].reset_index(drop=True)


def one_layer(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["layer"] == 1]


BROKEN: list[tuple[str, str, Any]] = [
    ("fig2", "1a", lambda f: put(f, "fixed=-8", "test_error", lambda r: 0.01 + 0.04 * r)),
    ("fig2", "1b", lambda f: put(f, "cv-clean", "test_error", lambda r: 0.01 + 0.04 * r)),
    ("fig2", "2a", lambda f: put(f, LARGE, "test_error", lambda r: 0.03 + 0.06 * r)),
    ("fig2", "2b", lambda f: put(f, "fixed=-8", "test_error", lambda _: 0.01)),
    ("fig2", "3", lambda f: put(f, "cv-clean", "test_error", lambda r: 0.04 + 0.1 * r)),
    ("fig2", "4a", lambda f: put(f, "learned", "test_error", lambda r: 0.01 + 0.15 * r)),
    ("fig2", "4b", lambda f: put(f, "learned", "test_error", lambda r: 0.01 + 0.07 * r)),
    ("fig2", "5", lambda f: put(f, "learned", "test_error", lambda r: 0.03 + 0.05 * min(r / 0.6, 1))),
    ("fig2", "6", lambda f: put(f, "cv-clean", "test_error", lambda r: 0.01 + 0.06 * r)),
    ("fig2", "7", lambda f: put(f, LARGE, "test_error", lambda r: 0.05 + 0.04 * r)),
    ("fig2", "8", lambda f: put(f, "learned", "log_strength", lambda r: -2 - r)),
    ("fig2", "9", lambda f: put(f, "learned", "weight_norm_sq", lambda r: 3.0 + r)),
    ("fig2", "10", lambda f: put(f, "learned", "log_strength", lambda r: -8 + 9 * r, dataset=IMAGENET)),
    ("fig3", "1", lambda f: put(f, "fixed=-8", "test_error", lambda r: 0.05 + 0.09 * r)),
    ("fig3", "2", lambda f: put(f, "fixed=log(40)", "test_error", lambda r: 0.03 + 0.06 * r)),
    ("fig3", "3a", lambda f: put(f, "fixed=-8", "test_error", lambda r: 0.02 + 0.04 * r)),
    ("fig3", "3b", lambda f: put(f, "learned", "test_error", until(0.11, 0.08, 0.07))),
    ("fig3", "3c", lambda f: put(f, "learned", "test_error", lambda r: 0.01 + 0.05 * r)),
    ("fig3", "4", lambda f: put(f, "learned", "log_strength", until(0.12, -8, -3), layer=2)),
    ("fig3", "5", lambda f: put(f, "fixed=-8", "test_error", lambda r: 0.005 + 0.13 * r)),
    ("fig3", "6", lambda f: put(f, "fixed=log(40)", "test_error", lambda r: 0.01 + 0.01 * r)),
    ("fig3", "7", lambda f: put(f, "learned", "log_strength", lambda r: -8 + 5 * r, layer=1)),
    ("fig3", "8", lambda f: put(f, "learned", "weight_norm", lambda r: 0.01 + 0.005 * r, layer=2)),
    ("fig3", "9", lambda f: put(f, "learned", "weight_norm", lambda r: 0.05 + 0.1 * r, layer=1)),
    ("fig5", "1a", lambda f: put(f, "learned", "fpr", until(0.06, 0.09, 0.02))),
    ("fig5", "1b", lambda f: put(f, "learned", "fnr", lambda r: 0.03 + 0.12 * r)),
    ("fig5", "2", lambda f: put(f, "learned", "fpr", lambda r: 0.01 + 0.03 * r)),
    ("fig5", "3", lambda f: put(put(f, LARGE, "fpr", until(0.02, 0.011, 0.0)), LARGE, "fnr", until(0.02, 0.011, 0.0))),
    ("fig6", "1a", lambda f: put(f, "learned", "fpr", until(0.06, 0.2, 0.02))),
    ("fig6", "1b", lambda f: put(f, "fixed=-8", "fnr", lambda r: 0.02 + 0.01 * r)),
    ("fig6", "2a", lambda f: put(f, "learned", "fpr", lambda r: 0.01 + 0.05 * r)),
    ("fig6", "2b", lambda f: put(f, "learned", "fnr", lambda r: 0.01 + 0.05 * r)),
    ("fig6", "3", lambda f: put(f, "fixed=log(40)", "fnr", lambda r: 0.01 + 0.01 * r)),
    ("fig7", "1a", lambda f: put(f, "learned", "value", lambda r: 0.1 - 0.04 * r)),
    ("fig7", "1b", lambda f: put(f, "fixed=-8", "value", lambda r: 0.1 - 0.08 * r)),
    ("fig7", "2", lambda f: put(f, "learned", "value", lambda r: 0.08 + 0.01 * r)),
    ("fig8", "1a", lambda f: put(f, "learned", "value", lambda r: 0.11 - 0.04 * r, layer=2)),
    ("fig8", "1b", lambda f: put(f, "fixed=-8", "value", lambda r: 0.1 - 0.08 * r, layer=3)),
    ("fig8", "2", lambda f: put(f, "learned", "value", lambda r: 0.08 + 0.01 * r, layer=1)),
]
"""Figure, claim, and a change to the records after which it does not hold."""

MADE: dict[str, Callable[[int], pd.DataFrame]] = {
    "fig2": three,
    "fig3": network,
    "fig5": three,
    "fig6": lambda splits: one_layer(network(splits)),
    "fig7": lambda splits: pd.concat([spread(name, 1, splits) for name in (*IMAGES, IMAGENET)]),
    "fig8": lambda splits: spread(IMAGENET, 3, splits),
}
CLAIMS: dict[str, Callable[[pd.DataFrame], list[Any]]] = {
    "fig2": fig2.run.claims,
    "fig3": fig3.run.claims,
    "fig5": rates.fig5.claims,
    "fig6": rates.fig6.claims,
    "fig7": histograms.fig7.claims,
    "fig8": histograms.fig8.claims,
}


def verdicts(name: str, frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {(claim.dataset, claim.number): claim.verdict for claim in CLAIMS[name](frame)}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_frame_as_the_paper_says_holds_every_claim(name):
    found = CLAIMS[name](MADE[name](3))
    assert [str(claim) for claim in found if claim.verdict != "holds"] == []
    for claim in found:
        assert claim.where.startswith(("Sect. 5.", "App. E."))
        assert claim.dataset in (*IMAGES, IMAGENET)
        assert claim.effect is not None
        assert "nan" not in str(claim)


@pytest.mark.parametrize("name", CLAIMS)
def test_one_split_is_never_enough(name):
    assert set(verdicts(name, MADE[name](1)).values()) == {"not enough data"}


@pytest.mark.parametrize(("name", "number", "change"), BROKEN, ids=[f"{n}-{i}" for n, i, _ in BROKEN])
def test_a_claim_does_not_hold_where_it_is_not_so(name, number, change):
    found = verdicts(name, change(MADE[name](3)))
    assert {verdict for (_, own), verdict in found.items() if own == number} == {"does not hold"}


def test_every_claim_of_every_figure_has_been_broken():
    every = {(name, number) for name, make in MADE.items() for _, number in verdicts(name, make(3))}
    assert every == {(name, number) for name, number, _ in BROKEN}


def test_data_sets_are_judged_apart():
    broken = put(three(), "fixed=-8", "test_error", lambda _: 0.01, dataset="mnist-0v8")
    found, before = verdicts("fig2", broken), verdicts("fig2", three())
    changed = {key for key in found if found[key] != before[key]}
    assert {dataset for dataset, _ in changed} == {"mnist-0v8"}


def test_sentences_about_one_data_set_are_asked_of_it_alone():
    assert {d for d, n in verdicts("fig5", three()) if n == "2"} == {"mnist-0v8"}
    assert {d for d, n in verdicts("fig2", three()) if n == "10"} == {IMAGENET}
    assert not {d for d, n in verdicts("fig2", logistic(IMAGENET)) if n == "10"}
    assert not {d for d, n in verdicts("fig2", logistic("mnist-0v8")) if n == "10"}


def test_a_victim_that_diverged_in_a_split_leaves_the_claim_open():
    frame = three()
    lost = (frame["policy"] == "fixed=-8") & (frame["split"] == 1) & (frame["n_poison"] == 85)
    frame.loc[lost, "test_error"] = math.nan
    found = verdicts("fig2", frame)
    assert {found[name, "1a"] for name in IMAGES} == {"not enough data"}
    assert {found[name, "1b"] for name in IMAGES} == {"holds"}


@pytest.mark.parametrize(("name", "numbers"), [("fig2", {"4b"}), ("fig3", {"3b", "3c", "4"}), ("fig5", {"2", "3"})])
def test_what_happens_at_a_share_of_poison_that_was_not_audited_stays_open(name, numbers):
    frame = MADE[name](3)
    found = verdicts(name, frame[frame["n_poison"].isin([0, 85])])
    open_ = {number for (_, number), verdict in found.items() if verdict == "not enough data"}
    assert open_ == numbers


# effects


def test_effects_are_read_per_split():
    frame = logistic("mnist-0v8")
    np.testing.assert_allclose(at(frame, "test_error", "fixed=-8"), 0.15 * np.array([1, 1.002, 1.004]))
    np.testing.assert_allclose(rise(frame, "test_error", "fixed=-8"), 0.14 * np.array([1, 1.002, 1.004]))
    np.testing.assert_allclose(change(frame, "weight_norm_sq", "learned"), -75)
    assert nearest(frame, 0.13) == 65 / 512
    assert math.isnan(nearest(frame[frame["n_poison"] < 14], 0.13))
    assert at(frame[frame["n_poison"] < 14], "test_error", "learned", 0.13).isna().all()
    assert large(frame) == LARGE
    apart = gap(frame, "test_error", "fixed=-8", "learned")
    assert apart.loc[0, 85 / 512] == pytest.approx(0.07)
    np.testing.assert_allclose(up_to(apart, 0.0), 0, atol=1e-12)
    assert up_to(apart, 13 / 512)[0] == pytest.approx((0 + apart.loc[0, 13 / 512]) / 2)
    assert by_ratio(frame.query("n_poison == 85"), "test_error", "fixed=-8") == "0.15 at 16.6%"


def test_below_needs_the_whole_interval():
    _, judge = below(1.0)
    assert judge(0.1, 0.9) == "holds"
    assert judge(0.1, 1.1) == "not enough data"
    assert judge(1.0, 1.1) == "does not hold"


# pictures


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


TINY: dict[str, Any] = {"splits": 2, "train": 40, "valid": 40, "points": 6, "batch": 3, "epochs": 20, "inner_steps": 60}
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
