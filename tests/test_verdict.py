"""The verdict and the gate: arithmetic on records made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mithridate as mi
from mithridate.results.advice import advice
from mithridate.results.intervals import Shared, half_width, paired
from mithridate.results.records import FAULTS
from mithridate.results.terms import terms
from mithridate.results.verdict import Verdict, curves, gate_failures, parse_gate, verdict
from mithridate.tasks.scores import SCORES


def judged(frame: pd.DataFrame, candidates: pd.DataFrame | None = None) -> Verdict:
    """The verdict on records, λ standing still for all policies but the learned one."""
    fixed = [policy for policy in frame["policy"].unique() if policy != "learned"]
    return verdict(frame, frame if candidates is None else candidates, fixed)


def frame_of(errors: dict[str, list[list[float]]], status: str = "ok") -> pd.DataFrame:
    """Records with the given test errors: policy → one list over ratios per split."""
    rows = [
        {"split": s, "policy": p, "n_poison": 10 * i, "ratio": 0.05 * i, "attack_success": e, "status": status}
        for p, splits in errors.items()
        for s, values in enumerate(splits)
        for i, e in enumerate(values)
    ]
    found = pd.DataFrame(rows).assign(
        attack="bilevel", objective="indiscriminate", score="error", attack_loss=0.0, constant_error=0.6
    )
    return found.assign(target_success=found["attack_success"])


def test_the_verdict_s_arithmetic():
    found = judged(
        frame_of(
            {
                "fixed=-8": [[0.03, 0.04, 0.20, 0.05], [0.04, 0.06, 0.20, 0.05]],
                "cv-clean": [[0.01, 0.02, 0.10, 0.30], [0.01, 0.02, 0.10, 0.20]],
                "learned": [[0.01, 0.02, 0.03, 0.04], [0.01, 0.02, 0.03, 0.04]],
            }
        )
    )
    assert found.tolerance == pytest.approx({"fixed=-8": 0.05, "cv-clean": 0.05, "learned": 0.15})
    assert found.saved == pytest.approx(1.0)
    below = "1.0 ± 0.0 points below that with fixed=-8, 21.0 ± 63.5 points below that with cv-clean"
    assert found.summary[3] == f"paired over splits, the test error with learned at 15.0% poison is {below}"
    assert found.summary[0].endswith("stays within 5 points of clean up to 5.0%, not at 10.0%, the next share tried")
    assert found.summary[2].endswith("stays within 5 points of clean at every share tried, so up to at least 15.0%")
    assert found.summary[4].endswith("is fixed=-8; clean, the test error with it is 2.5 points above that with learned")
    assert found.warnings == (
        "cv-clean: 25.0% at the most poison is known only to ± 64 points; about 5 splits narrow it to ± 10",
    )


def test_the_worse_of_attack_and_label_flipping_counts():
    errors = {"learned": [[0.01, 0.02, 0.03], [0.01, 0.02, 0.03]]}
    assert judged(frame_of(errors)).tolerance["learned"] == pytest.approx(0.10)
    frame = frame_of(errors)
    flips = frame[frame["n_poison"] == 20].assign(attack="class flips", attack_success=0.2, target_success=0.2)
    both = pd.concat([frame, flips])
    assert judged(frame, both).tolerance["learned"] == pytest.approx(0.05)
    assert gate_failures(both, 0.1, 0.10)
    assert not gate_failures(frame, 0.1, 0.10)


def test_a_victim_that_diverged_has_no_error_and_passes_no_gate():
    broken = frame_of({"learned": [[0.01, np.nan, 0.03], [0.01, 0.02, 0.03]]}, status="non-finite")
    found = judged(broken)
    assert found.tolerance["learned"] == 0
    assert "unknown" in gate_failures(broken, 0.5, 0.05)[0]
    assert curves(broken, ("attack_success",))["learned"]["attack_success"]["mean"][1] is None
    with pytest.raises(mi.InputError, match="the evaluation's SGD diverges"):
        mi.audit("synthetic", policies=("fixed=10",))
    with pytest.raises(mi.InputError, match="times as many steps"):
        mi.audit("synthetic", policies=("fixed=20",), train_learning_rate=1e-9)


@pytest.mark.parametrize("fault", FAULTS)
def test_marked_cells_are_warned_of(fault):
    found = judged(frame_of({"learned": [[0.01, 0.02], [0.01, 0.02]]}, status=f"{fault}"))
    assert any(fault in warning and FAULTS[fault] in warning for warning in found.warnings)


@pytest.mark.parametrize("score", SCORES)
def test_a_constant_model_is_told_by_the_score_that_it_was_judged_by(score):
    frame = frame_of({"learned": [[0.5, 0.5], [0.5, 0.5]]}, status="constant").assign(score=score, constant_error=0.5)
    (said,) = (warning for warning in judged(frame).warnings if "marked constant" in warning)
    assert f"by its {SCORES[score].words} the model is no better than {SCORES[score].telling_nothing} (50.0%)" in said
    assert ("--score balanced-error" in said) == (score == "error")


def test_a_λ_that_ends_at_its_bound_is_told():
    """Of each defender who tunes: which bound, in how many cells, between which shares; not what is near it alone."""
    high = float(np.log(200))
    frame = frame_of({"learned": [[0.01, 0.02, 0.03], [0.01, 0.02, 0.03]], "fixed=-8": [[0.01, 0.02, 0.03]]})
    ends = [[1.0, -8.0], [high, 1.0], [1.0, high - 0.012], [1.0, 1.0], [1.0, high - 0.014], [high, high]]
    frame["log_strengths"] = [*ends, *([[-8.0]] * 3)]
    before, found = judged(frame), verdict(frame, frame, ["fixed=-8"], {"learned": (-8.0, high)})
    assert found.summary[: len(before.summary)] == before.summary
    assert found.warnings == before.warnings
    assert found.summary[len(before.summary) :] == (
        "learned: λ ends at its lower bound -8 in 1 of 6 cells, all clean: the bound, not the data, decides "
        "there; still less regularisation may make no difference; widen strength_bounds to be sure",
        "learned: λ ends at its upper bound 5.3 in 3 of 6 cells, at 5.0% to 10.0% poison: the bound, not the data, "
        "decides there; widen strength_bounds to see what tuning would do",
    )


def test_of_a_success_that_can_hardly_rise_nothing_can_be_told():
    won = frame_of({"learned": [[1.0, 1.0, 1.0]], "fixed=-8": [[0.3, 0.3, 0.5]]}).assign(objective="rows aim.csv")
    found = judged(won)
    assert found.tolerance == {"learned": None, "fixed=-8": 0.05}
    assert "can hardly rise: nothing can be said of what it tolerates" in found.summary[0]


def test_a_model_with_one_single_answer_tolerates_nothing_that_can_be_told():
    rare = frame_of({"learned": [[0.04, 0.04, 0.04]], "fixed=-8": [[0.01, 0.02, 0.05]]}).assign(constant_error=0.04)
    found = judged(rare)
    assert found.tolerance == {"learned": None, "fixed=-8": 0.05}
    single = "no better than always giving the most frequent answer (4.0%)"
    assert found.summary[0] == f"learned: 4.0% test error clean, {single}: nothing can be said of what it tolerates"
    assert found.summary[1].endswith(f"not at 10.0%, the next share tried; from 10.0% on it is {single}")
    (failure,) = gate_failures(rare, 0.1, 0.05)
    assert failure.startswith(f"learned: test error 4.0% at 0.0% poison is {single}, so it is uninformative; ")
    assert gate_failures(rare, 0.1, 0.05, allow_constant=True) == []
    assert gate_failures(rare.assign(objective="target-class yes"), 0.1, 0.05) == []


def test_an_interval_holds_the_truth_where_splits_share_rows(rng):
    """Of 200 tables of 200 rows, ten splits each: Student's interval misses the error on new rows too often."""

    def table(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 2, n)
        return np.column_stack([rng.normal(size=(n, 6)) + 0.4 * y[:, None], np.ones(n)]), y

    new, truth = table(4000)
    truths, halves, means = [], {"plain": [], "shared": []}, []
    for _ in range(200):
        x, y = table(200)
        errors, on_new = [], []
        for _ in range(10):
            order = rng.permutation(200)
            train, test = order[:100], order[150:]
            weights = np.linalg.lstsq(x[train], 2 * y[train] - 1, rcond=None)[0]
            errors.append(np.mean((x[test] @ weights > 0) != y[test]))
            on_new.append(np.mean((new @ weights > 0) != truth))
        means.append(np.mean(errors))
        truths.append(np.mean(on_new))
        std, sampled = np.std(errors, ddof=1), means[-1] * (1 - means[-1]) / 50
        halves["plain"].append(half_width(std, 10, Shared()))
        halves["shared"].append(half_width(std, 10, Shared(0.5, 0.25, 50), sampled))
    missed = np.abs(np.array(means) - np.mean(truths))
    covered = {name: np.mean(missed <= half) for name, half in halves.items()}
    assert covered["plain"] < 0.85
    assert 0.93 <= covered["shared"] < 1
    assert np.mean(halves["shared"]) < 3 * np.mean(halves["plain"])


def test_without_anything_shared_it_is_students_interval(rng):
    frame = frame_of({"learned": [[0.1 * e] for e in rng.random(7)]})
    low, high = stats.t.interval(0.95, 6, frame["attack_success"].mean(), stats.sem(frame["attack_success"]))
    found = curves(frame, ("attack_success",))["learned"]["attack_success"]
    assert (found["low"][0], found["high"][0]) == pytest.approx((low, high))
    wider = curves(frame.assign(shared_train=0.3, shared_goal=0.0, n_goal=100), ("attack_success",))["learned"]
    assert wider["attack_success"]["low"][0] < low


def test_a_share_s_interval_ends_at_0_and_1_and_a_wide_one_is_told_of():
    frame = frame_of({"learned": [[0.0, 0.1], [0.02, 0.5]]})
    found = curves(frame, ("attack_success",))["learned"]["attack_success"]
    assert (found["low"], found["high"][1]) == ([0.0, 0.0], 1.0)
    (said,) = judged(frame).warnings
    assert said.startswith("learned: 30.0% at the most poison is known only to ± 254 points; about ")
    assert said.endswith(" splits narrow it to ± 10")
    alike = judged(frame.assign(shared_train=0.9, shared_goal=0.0, n_goal=100)).warnings
    assert alike[0].endswith("only more rows narrow it")


def test_an_attack_that_did_more_on_the_test_rows_is_told_and_fails_the_gate():
    frame = frame_of({"learned": [[0.01, 0.08], [0.01, 0.10]]})
    other = frame[frame["n_poison"] == 10].assign(attack="ALFA", attack_success=0.2, target_success=0.0)
    both = pd.concat([frame, other])
    said = judged(frame, both).warnings[-1]
    assert said == (
        "learned: at 5.0% poison the worst attack on the test rows is ALFA: it brings the test error to 20.0%, 11.0 "
        "points above the reported attack, which was the worst on the validation rows"
    )
    (failure,) = gate_failures(both, 0.15, 0.05)
    assert failure.endswith(
        "20.0% at 5.0% poison, above 15.0%, by an attack that was not the worst on the validation rows"
    )
    assert gate_failures(both, 0.2, 0.05) == []


def test_equal_errors_and_a_first_share_that_is_too_much_are_said_as_such():
    found = judged(frame_of({"learned": [[0.01, 0.20], [0.01, 0.20]], "fixed=-8": [[0.01, 0.1], [0.01, 0.3]]}))
    assert found.summary[0].endswith("stays within 5 points of clean only below 5.0%, the lowest share tried")
    assert found.summary[2].endswith("at 5.0% poison is on average the same (± 127.1 points) as with fixed=-8")
    assert found.summary[3].endswith("clean, the test error with it is the same as with learned")


def test_the_attacker_s_success_has_an_interval_of_the_rows_that_he_aims_at(rng):
    frame = frame_of({"learned": [[0.3 + 0.1 * e] for e in rng.random(5)]})
    frame = frame.assign(test_error=frame["attack_success"], n_test=400, n_goal=[21, 20, 20, 22, 23])
    frame = frame.assign(shared_train=0.2, shared_test=0.6, shared_goal=0.6)
    assert Shared.of(frame, "attack_success") == (0.2, 0.6, 20)
    found = curves(frame, ("test_error", "attack_success"))["learned"]
    assert found["attack_success"]["high"] > found["test_error"]["high"]
    own = curves(frame.assign(shared_goal=0.0), ("attack_success",))["learned"]
    assert own["attack_success"]["high"] < found["attack_success"]["high"], "rows of a file are the same in all splits"


def test_what_follows_is_said_of_the_figures_alone():
    errors = {
        "learned": [[0.01, 0.02, 0.04], [0.01, 0.02, 0.05], [0.01, 0.02, 0.06]],
        "fixed=1": [[0.01, 0.02, 0.24], [0.01, 0.02, 0.25], [0.01, 0.02, 0.26]],
        "cv-clean": [[0.01, 0.09, 0.10], [0.01, 0.09, 0.05], [0.01, 0.09, 0.03]],
        "broken": [[0.01, 0.02, np.nan]] * 3,
    }
    frame = frame_of(errors)
    frame["log_strengths"] = [[1.0]] * 36
    config = mi.AuditConfig.of(dataset="synthetic", budget="chosen").model_dump(mode="json")
    said = advice(frame, frame, config, {"learned": {"bounds": [-8.0, 1.0]}, "fixed=1": {"bounds": None}})
    more, half = paired(
        frame[frame["ratio"] == 0.1].pivot(index="split", columns="policy", values="attack_success"),
        *("fixed=1", "learned", Shared.of(frame)),
    )
    assert said[:4] == [
        "at 10.0% poison the test error of broken is unknown, so nothing follows for it",
        "at 10.0% poison learned has the lowest test error, 5.0%",
        "learned is better there than fixed=1 (20.0 ± 0.0): the differences, in points, paired over 3 splits, exceed "
        "their intervals",
        "learned is not called better there than cv-clean (1.0 ± 11.4): the difference, in points, paired over 3 "
        "splits, is within its interval",
    ]
    assert (more, half) == pytest.approx((20, 0), abs=1e-6)
    assert said[4:9] == [
        "learned stays within its tolerance of 5 points at every share that was tried",
        "fixed=1 fails its tolerance of 5 points at 10.0% poison, the first share at which it does: its test "
        "error is 24.0 points above clean",
        "cv-clean fails its tolerance of 5 points at 5.0% poison, the lowest share that was tried: its test error is "
        "8.0 points above clean",
        "broken: at 10.0% poison nothing is known of its tolerance",
        "learned: in 9 of 9 cells, at 0.0% to 10.0% poison, the upper bound of λ, 1, decided and not the data: tuning "
        "with wider --strength-bounds was not tried",
    ]
    assert "targeted attackers" in said[9]
    assert "--budget" not in said[9]
    assert "--edits" not in said[9]
    limited = config | {"objective": "target-class 1", "edits": "labels", "budget": "added", "policies": ["fixed=1"]}
    (left,) = advice(frame, frame, limited, {})[-1:]
    for option in ("--edits both", "--budget chosen", "--objective indiscriminate", "--policy learned"):
        assert option in left
    one = frame[(frame["split"] == 0) & (frame["policy"] != "broken")]
    assert advice(one, one, config, {})[0].endswith("no difference has an interval, so no defender is called better")
    alone = one[one["policy"] == "learned"]
    assert advice(alone, alone, config, {})[0].startswith("learned is the only defender that was tried")
    ruined = frame[frame["policy"] == "fixed=1"].assign(constant_error=0.2)
    assert advice(ruined, ruined, config, {})[0].endswith("(20.0%): no defender that was tried holds there")


@pytest.mark.parametrize(
    ("options", "given", "left_out"),
    [
        ({}, {"NISTAML.01", "NISTAML.013", "AML.T0020", "AML.T0031", "ML02:2023"}, {"NISTAML.012", "NISTAML.024"}),
        ({"edits": "features"}, {"NISTAML.01", "NISTAML.012", "AML.T0020"}, {"NISTAML.013", "NISTAML.02"}),
        ({"objective": "target-class 1"}, {"NISTAML.02", "NISTAML.024"}, {"NISTAML.012", "NISTAML.01", "AML.T0031"}),
        ({"objective": "rows a.csv", "edits": "features"}, {"NISTAML.024", "NISTAML.012"}, {"NISTAML.013"}),
    ],
)
def test_official_terms_follow_from_what_the_attacker_wants_and_may_do(options, given, left_out):
    found = terms(mi.AuditConfig.of(dataset="synthetic", **options).model_dump(mode="json"))
    ids = {term.id for term in found}
    assert given <= ids
    assert not left_out & ids
    names = {term.name for term in found}
    assert "white-box" in names
    assert ("label limit" in names) == (options.get("edits") == "features")


def test_the_gate():
    frame = frame_of({"learned": [[0.01, 0.08, 0.20]], "cv-clean": [[0.01, 0.02, 0.05]]})
    assert parse_gate("10%@5%", 0.1) == pytest.approx((0.1, 0.05))
    assert parse_gate("0.1@0.05", 0.1) == pytest.approx((0.1, 0.05))
    assert gate_failures(frame, 0.1, 0.05) == []
    assert len(gate_failures(frame, 0.1, 0.06)) == 1, "a share between two audited ones is judged by the higher"
    assert len(gate_failures(frame, 0.04, 0.1)) == 2
    fallen = frame_of({"learned": [[0.01, 0.20, 0.08]]})
    assert gate_failures(fallen, 0.1, 0.1) == ["learned: test error 20.0% at 5.0% poison, above 10.0%"]
    count = frame_of({"learned": [[0.01, float(np.float32(0.4))]]})
    assert gate_failures(count, 0.4, 0.05) == [], "8 of 20 rows are not above 40 %, in whatever precision"
    for text in ("10%", "1_0%@5%", "١٠%@5%", "1e-1@5%", "2@0.05", "a@b", "0.1@0.05@0.2", "0.1@-1", ""):
        with pytest.raises(mi.InputError, match="ERROR@SHARE"):
            parse_gate(text, 0.1)
    with pytest.raises(mi.InputError, match=r"only 10\.0% poison is audited"):
        parse_gate("10%@20%", 0.1)
