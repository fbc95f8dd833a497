"""Fig. 2, 3 and 5 to 8 from hand-made records: claims hold where they should, fail where they should, need splits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hand_made import IMAGENET, IMAGES, LARGE, MADE, logistic, put, three, until
from mithridate.reproduction import fig2, fig3, histograms, rates
from mithridate.reproduction.effects import at, by_ratio, change, gap, large, nearest, rise, up_to
from mithridate.reproduction.outcome import below

BROKEN: list[tuple[str, str, Any]] = [
    ("fig2", "1a", lambda f: put(f, "fixed=-8", "test_error", lambda r: 0.01 + 0.04 * r)),
    ("fig2", "1b", lambda f: put(f, "cv-clean", "test_error", lambda r: 0.01 + 0.04 * r)),
    ("fig2", "2a", lambda f: put(f, LARGE, "test_error", lambda r: 0.03 + 0.06 * r)),
    ("fig2", "2b", lambda f: put(f, LARGE, "test_error", lambda r: 0.03 + 0.2 * r)),
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
    frame = MADE[name](3)
    if number != "10":  # which compares data sets; all else is judged in each by the same code
        frame = frame[frame["dataset"] == frame["dataset"].iloc[0]]
    found = verdicts(name, change(frame))
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
