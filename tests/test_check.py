"""`check`: every rung is tried, what is wrong is found, what cannot be tested is not called a test."""

import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import compiling
import mithridate as mi
from mithridate import cli
from mithridate.checking import differences, ladder
from mithridate.checking.differences import Place
from mithridate.cli.printing import print_check
from problems import SEED, M, bilevel, draw, point

SMALL: dict[str, Any] = {"train": 40, "valid": 40, "points": 6, "batch": 3, "inner_steps": 30, "attack": "bilevel"}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Compile fast; how fast the result runs is not the subject here."""
    compiled = jax.stages.Lowered.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", lambda self: compiled(self, compiler_options=compiling.known()))
        yield


class Flipped(mi.Reverse):
    """The attacker's derivative with its sign flipped."""

    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        found = super().__call__(problem, x_poison, log_strength, key)
        return found._replace(poison=-found.poison)


class NoCrossTerm(mi.Reverse):
    """Forgets that the points act through all later weights: the last step alone is differentiated."""

    def loop(self, step, run, state, schedule):
        def body(state, item):
            return jax.lax.stop_gradient(step(run, state, item)), None

        state, _ = jax.lax.scan(body, state, schedule[:-1])
        return step(run, state, schedule[-1])


class Refusing(mi.HypergradientMethod):
    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        raise mi.InputError("never")


class Crashing(mi.HypergradientMethod):
    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        raise TypeError("a bug\nand its traceback")


@pytest.fixture(scope="module")
def result() -> mi.CheckResult:
    """A network's, all of whose w0 are drawn in float32."""
    return mi.check("digits-0v8", model="mlp", hidden=(8, 4), **SMALL)


def test_every_rung_is_tried_and_those_that_hold_agree(result):
    frame = result.frame.set_index(["method", "space"])
    unrolled = [(name, "gram") for name in ("Reverse", "Checkpointed", "Forward")] + [("Reverse", "plain")]
    assert sorted(frame.index) == sorted([*unrolled, ("Reversible", "gram"), ("Implicit", "gram")])
    assert result.ok
    assert repr(result).startswith("CheckResult(digits-0v8: ok; Reverse (")
    assert result._repr_html_().count("<tr>") == 1 + len(frame)
    assert result.reference == "Reverse (plain)"
    for rung in unrolled:
        row = frame.loc[rung]
        assert row["verdict"] == "agrees"
        assert max(row[f"{part}_{kind}"] for part in ("hyper", "poison") for kind in ("error", "difference")) < 1e-4
        assert row["seconds"] > 0
        assert row["temp_bytes"] > 0
    stated = frame.drop(unrolled)
    assert (stated["status"] != "ok").all()
    assert (stated["verdict"] == stated["status"].str.replace("_", " ")).all()
    assert (stated["note"] != "").all()
    assert frame.loc[("Implicit", "gram"), "poison_error"] > 0.1, "or its status would be a false alarm"


def test_json_holds_all_of_it_and_nothing_that_json_has_not(result):
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert told["ok"] is True
    assert [row["verdict"] for row in told["methods"]] == result.frame["verdict"].tolist()
    assert told["setting"]["directions"] == 8
    assert told["config"]["hidden"] == [8, 4]
    assert told["methods"][3]["status"] == "non_finite"
    assert told["methods"][3]["poison_error"] is None


TRAINING = mi.GradientDescent(0.2, 20)


@pytest.fixture(scope="module")
def place() -> Place:
    """A problem in float64; use it there."""
    with jax.enable_x64(True):
        arrays = draw(np.random.default_rng(SEED))
        return Place(bilevel(arrays, mi.Learner(mi.LogisticRegression(M), TRAINING)), *point(arrays))


@pytest.fixture(scope="module")
def climbed(place) -> tuple[ladder.Rung, ladder.Truth]:
    """The right hypergradient, and the differences."""
    with jax.enable_x64(True):
        rung = ladder.climb(ladder.Rung("right", mi.Reverse(), place))
        return rung, ladder.Truth.of(place, [rung], 1e-6, np.random.default_rng(SEED))


WRONG = {
    "X_p's sign": lambda f: f._replace(poison=-f.poison),
    "λ's sign": lambda f: f._replace(hyper=np.asarray(-f.hyper)),
    "5 % too much in λ": lambda f: f._replace(hyper=np.asarray(1.05 * f.hyper)),
    "1e-4 too much in X_p": lambda f: f._replace(poison=(1 + 1e-4) * f.poison),
    "a point forgotten": lambda f: f._replace(poison=np.concatenate([0 * f.poison[:1], f.poison[1:]])),
    "one feature of one point": lambda f: f._replace(poison=f.poison * (np.arange(f.poison.size) > 0).reshape(3, -1)),
}


@pytest.fixture
def wide() -> Iterator[None]:
    """What was climbed in float64 is judged there."""
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_and_does_not_say_so_is_found(climbed, fault):
    right, truth = climbed
    assert ladder.judged(right, truth, right, "float64").verdict == "agrees"
    wrong = right._replace(found=WRONG[fault](right.found))
    for reference in (right, wrong, None):
        said = ladder.judged(wrong, truth, reference, "float64")
        assert said.verdict == "disagrees"
        assert said.note.startswith("its status is ok, but it is off by")
    said = ladder.judged(wrong._replace(found=wrong.found._replace(status="drifted")), truth, right, "float64")
    assert (said.verdict, said.note[:29]) == ("drifted", "the weights recomputed backwa")


@pytest.mark.usefixtures("wide")
def test_a_dropped_cross_term_is_found(climbed):
    right, truth = climbed
    wrong = ladder.climb(right._replace(method=NoCrossTerm()))
    assert ladder.judged(wrong, truth, right, "float64").verdict == "disagrees"


def test_the_error_over_random_directions_is_about_that_of_the_whole_gradient(climbed):
    right, truth = climbed
    wrong = WRONG["a point forgotten"](right.found)
    assert 1 / 3 < truth.worst(wrong)[1] / wrong.distance(right.found)[1] < 3


def test_rounding_is_told_from_error(climbed, monkeypatch):
    """What is off in float32 and right in float64; too much of it is no use either."""
    right, truth = climbed
    monkeypatch.setattr(ladder, "_in_float64", lambda rung: right.found)
    for factor, verdict in ((1 + 1e-5, "agrees"), (1.01, "rounding"), (1.5, "disagrees")):
        bent = right._replace(found=right.found._replace(hyper=np.asarray(factor * right.found.hyper)))
        said = ladder.judged(bent, truth, right, "float32")
        assert said.verdict == verdict
        assert ("in float64 by" in said.note) == (verdict != "agrees")


def test_what_refuses_what_crashes_and_what_refuses_the_points_alone(climbed):
    right, truth = climbed
    with jax.enable_x64(True):
        refused, crashed, few = (
            ladder.climb(right._replace(method=method, found=None))
            for method in (Refusing(), Crashing(), mi.Forward(most=10))
        )
    assert (refused.verdict, refused.note) == ("not run", "never")
    assert (crashed.verdict, crashed.note) == ("failed", "TypeError: a bug")
    said = ladder.judged(few, truth, right, "float64")
    assert said.verdict == "agrees"
    assert math.isnan(truth.worst(said.found)[1])
    assert re.match(r"run for λ alone.* min: .*3 points × 4 features \+ 1 λ = 13", said.note)


@pytest.mark.slow
def test_a_solved_victim():
    result = mi.check("digits-0v8", inner="exact", **SMALL)
    assert result.frame[["method", "space"]].values.tolist() == [["Implicit", "plain"], ["Implicit", "gram"]]
    assert result.ok
    assert result.frame["poison_error"].max() < 1e-6
    assert result.setting["inner_steps"] == 0


class HiddenStrength(mi.L2):
    def __call__(self, weights, log_strength):
        return super().__call__(weights, jax.lax.stop_gradient(log_strength))


class NumpyLogits(mi.LogisticRegression):
    def logits(self, params, x):
        return jnp.asarray(np.asarray(x) @ np.asarray(params.weight))


def branching(logits, labels):
    return logits**2 if logits[0] > 0 else logits


UNFIT = {
    "model.logits": mi.Learner(NumpyLogits(2), TRAINING),
    "loss": mi.Learner(mi.LogisticRegression(2), TRAINING, loss=branching),
}


@pytest.mark.parametrize("part", UNFIT)
def test_a_learner_that_jax_cannot_differentiate_is_refused_by_name(part):
    with pytest.raises(mi.InputError, match=rf"the learner's {re.escape(part)}: .*; write it in jax.numpy"):
        mi.check("synthetic", points=1, learner=UNFIT[part])


def test_a_learner_that_hides_what_it_depends_on_is_found():
    learner = mi.Learner(mi.LogisticRegression(2), TRAINING, penalty=HiddenStrength())
    result = mi.check("synthetic", points=1, learner=learner, methods={"Reverse": mi.Reverse()})
    assert result.frame["verdict"].tolist() == ["disagrees"]
    assert result.frame["hyper_error"].tolist() == [1.0]
    assert result.frame["poison_error"].max() < 1e-3


@pytest.mark.parametrize(("jump", "step"), [(math.inf, 1e-5), (3e-5, 1e-6), (3e-8, 1e-9)])
def test_the_step_of_the_differences_avoids_rounding_and_jumps(monkeypatch, place, jump, step):
    """A(h) = sin h, with a jump at h = `jump`."""

    def measured(h: float) -> tuple[np.ndarray, float]:
        return np.full(9, (np.sin(h) + 0.01 * (h > jump)) / h), 1e-3

    monkeypatch.setattr(differences, "_differences", lambda at, ways: measured)
    found = differences.central_differences(place, np.zeros((8, 3, 4)), 1e-4)
    assert [slopes.step for slopes in found.values()] == pytest.approx([step] * 3)
    assert all(slopes.error(np.ones_like(slopes.values)) < 1e-6 for slopes in found.values())


@pytest.mark.parametrize("size", [0.0, 1e-16, math.nan])
def test_differences_of_rounding_are_no_test(monkeypatch, place, rng, size):
    monkeypatch.setattr(differences, "_differences", lambda at, ways: lambda h: (size * rng.normal(size=9) / h, 1.0))
    for slopes in differences.central_differences(place, np.zeros((8, 3, 4)), 1e-4).values():
        assert not slopes.tests
        assert math.isnan(slopes.error(slopes.values))


def printed(result: mi.CheckResult, width: int) -> str:
    file = io.StringIO()
    print_check(Console(width=width, file=file), result)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_every_fault_has_its_sentence(result, width):
    text = printed(result, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = " ".join(text.split())
    for row in result.frame.to_dict("records"):
        label = f"{row['method']} ({row['space']})"
        assert (f"{label} — {row['verdict']}: {row['note']}." in flat) == bool(row["note"])
    assert "uses Reverse (gram): agrees." in flat
    assert "Every method agrees, or says why it does not." in flat


def test_what_was_no_test_is_said(result):
    doubt = {"uncertainty": 0.4, "rounding": 0.4}
    vague = replace(result, differences=result.differences | {"hyper": result.differences["hyper"] | doubt})
    assert "Central differences in λ are uncertain to 4.0e-01" in printed(vague, 200)
    untested = replace(result, frame=result.frame.assign(verdict="no test"))
    assert not untested.ok
    assert "no method was found to be right" in printed(untested, 200)
    wrong = replace(result, frame=result.frame.assign(verdict=["agrees", *5 * ["disagrees"]]))
    assert not wrong.ok
    assert "a method is wrong and does not say so" in printed(wrong, 200)


Told = tuple[Any, str, str]


@pytest.fixture
def mithridate(monkeypatch, capsys) -> Callable[..., Told]:
    """The command line in this process: exit code, standard output and standard error."""

    def run(*arguments: object) -> Told:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "")
        monkeypatch.setattr(sys, "argv", ["mithridate", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_line_fails_a_method_that_is_wrong(mithridate, monkeypatch, tmp_path):
    """With the file of an audit, of which a check needs but a part."""
    monkeypatch.setattr(ladder, "METHODS", {"reverse": mi.Reverse, "flipped": Flipped})
    file = tmp_path / "audit.toml"
    file.write_text('dataset = "synthetic"\npoints = 3\npolicies = ["fixed=-8"]\nsplits = 2\ninner_steps = 7\n')
    code, out, _ = mithridate("--config", file, "--points", 1, "--log-strength", -2, "--json")
    told = json.loads(out)
    assert code == 1
    assert [row["verdict"] for row in told["methods"]] == ["agrees", "agrees", "disagrees"]
    assert told["setting"]["log_strength"] == -2
    assert told["setting"]["points"] == 1
    assert told["config"]["inner_steps"] == 7


def test_the_command_line_prints_and_passes(mithridate, monkeypatch, result):
    monkeypatch.setattr("mithridate.checking.check.check", lambda *args, **options: result)
    code, out, err = mithridate("digits-0v8")
    assert (code, err) == (0, "")
    assert "Every method agrees, or says why it does not." in out


BAD = {
    "unknown data set": ["mnsit-0v8"],
    "more rows than there are": ["digits-0v8", "--train", "5000"],
    "no data set": [],
    "λ beyond all bounds": ["digits-0v8", "--log-strength", "31"],
    "λ that is no number": ["digits-0v8", "--log-strength", "nan"],
    "no such file": ["--config", "missing.toml"],
    "unknown flag": ["digits-0v8", "--pionts", "3"],
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_exit_code_2(mithridate, fault):
    code, out, err = mithridate(*BAD[fault])
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_bad_input_in_python(result):
    config = mi.AuditConfig.of(dataset="synthetic", attack="bilevel", points=1)
    wrongs: list[dict[str, Any]] = [
        {"config": config, "seed": 1},
        {"methods": {}},
        {"log_strength": math.inf},
        {"inner": "sideways"},
    ]
    for wrong in wrongs:
        with pytest.raises(mi.InputError):
            mi.check("synthetic", **wrong)
    with pytest.raises(mi.InputError, match="the configuration is for 'synthetic'"):
        mi.check("digits-0v8", config)
