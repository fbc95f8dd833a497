"""`check`: every rung is tried, what is wrong is found, what cannot be tested is not called a test."""

import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import mithridate as mi
from mithridate import cli, differences, ladder
from mithridate.differences import Place
from mithridate.hypergradients import Status
from mithridate.printing import print_check

SMALL: dict[str, Any] = {"train": 40, "valid": 40, "points": 6, "batch": 3, "inner_steps": 30}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Compile fast; how fast the result runs is not the subject here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Bent(mi.Reverse):
    """A test double: the right hypergradient, bent."""

    poison: float = 1.0
    hyper: float = 1.0
    one_point: float = 1.0
    float32: float = 1.0
    status: str = eqx.field(default="ok", static=True)

    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        found = super().__call__(problem, x_poison, log_strength, key)
        rounded = self.float32 if found.poison.dtype == jnp.float32 else 1.0
        poison = (found.poison * self.poison * rounded).at[:1].multiply(self.one_point)
        return found._replace(
            poison=poison, hyper=found.hyper * self.hyper * rounded, status=getattr(Status, self.status)
        )


class Flipped(Bent):
    """As a method of the package that went wrong."""

    poison: float = -1.0


class NoCrossTerm(mi.Reverse):
    """Forgets that the points also act through the later weights: the last step alone is differentiated."""

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


WRONG = {
    "X_p's sign flipped": Bent(poison=-1.0),
    "λ's sign flipped": Bent(hyper=-1.0),
    "5 % too much in λ": Bent(hyper=1.05),
    "one point forgotten": Bent(one_point=0.0),
    "cross term dropped": NoCrossTerm(),
}


@pytest.fixture(scope="module")
def result() -> mi.CheckResult:
    return mi.check("digits-0v8", **SMALL)


@pytest.fixture(scope="module")
def doubles() -> mi.CheckResult:
    others = {
        "unsound and says so": Bent(poison=-1.0, status="drifted"),
        "few tangents": mi.Forward(most=10),
        "refuses": Refusing(),
        "crashes": Crashing(),
    }
    methods = {"right": mi.Reverse()} | WRONG | others
    return mi.check("digits-0v8", precision="float64", space="plain", methods=methods, **SMALL)


def rows(result: mi.CheckResult) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in result.frame.to_dict("records")}


def test_every_rung_is_tried_and_those_that_hold_agree(result):
    frame = result.frame.set_index(["method", "space"])
    unrolled = [(name, "gram") for name in ("Reverse", "Checkpointed", "Forward")] + [("Reverse", "plain")]
    assert sorted(frame.index) == sorted([*unrolled, ("Reversible", "gram"), ("Implicit", "gram")])
    assert result.ok
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


def test_json_holds_all_of_it_and_nothing_that_json_has_not(result, doubles):
    for each in (result, doubles):
        told = json.loads(json.dumps(each.as_dict(), allow_nan=False))
        assert told["ok"] is each.ok
        assert [row["verdict"] for row in told["methods"]] == each.frame["verdict"].tolist()
        assert told["setting"]["directions"] == 8
        assert told["config"]["train"] == 40
    assert told["methods"][-1]["seconds"] is None


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_and_does_not_say_so_is_found(doubles, fault):
    row = rows(doubles)[fault]
    assert row["status"] == "ok"
    assert row["verdict"] == "disagrees"
    assert "off by" in row["note"]
    assert rows(doubles)["right"]["verdict"] == "agrees"
    assert not doubles.ok


def test_the_error_over_random_directions_is_that_of_the_gradient(doubles):
    """A point forgotten is an error of the whole gradient, of which the directions see a sample."""
    row = rows(doubles)["one point forgotten"]
    assert 0.3 < row["poison_error"] / row["poison_difference"] < 3
    assert row["hyper_error"] < 1e-6


def test_what_says_so_what_refuses_and_what_crashes_is_told_apart(doubles):
    found = rows(doubles)
    verdicts = {name: found[name]["verdict"] for name in found if name not in WRONG}
    assert verdicts == {
        "right": "agrees",
        "unsound and says so": "drifted",
        "few tangents": "agrees",
        "refuses": "not run",
        "crashes": "failed",
    }
    assert found["refuses"]["note"] == "never"
    assert found["crashes"]["note"] == "TypeError: a bug"
    few = found["few tangents"]
    assert few["hyper_error"] < 1e-6
    assert math.isnan(few["poison_error"])
    assert re.match(r"run for λ alone.* min: .*3 points × 64 features \+ 1 λ = 193", few["note"])


def test_a_network_starts_from_the_same_weights_in_both_precisions_and_rounding_is_told_from_error():
    methods = {"right": mi.Reverse(), "1 %": Bent(float32=1.01), "twice": Bent(float32=2.0)}
    result = mi.check("synthetic", model="mlp", hidden=(8, 4), points=1, inner_steps=20, methods=methods)
    assert result.frame["verdict"].tolist() == ["agrees", "agrees", "rounding", "disagrees"]
    found = rows(result)
    assert "in float64 by" in found["1 %"]["note"]
    assert "float32 is not enough" in found["twice"]["note"]


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


TRAINING = mi.GradientDescent(0.2, 20)
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


@pytest.fixture
def place() -> Place:
    rows = mi.Rows.of(np.ones((2, 2)), np.array([0, 1]))
    problem = mi.Bilevel(mi.Learner(mi.LogisticRegression(2), TRAINING), rows, jnp.ones(1), rows)
    return Place(problem, jnp.zeros((1, 2)), jnp.zeros(()), jax.random.key(0))


@pytest.mark.parametrize(("jump", "step"), [(math.inf, 1e-5), (3e-5, 1e-6), (3e-8, 1e-9)])
def test_the_step_of_the_differences_avoids_rounding_and_jumps(monkeypatch, place, jump, step):
    """A(h) = sin h, with a jump at h = `jump`."""

    def measured(h: float) -> tuple[np.ndarray, float]:
        return np.full(9, (np.sin(h) + 0.01 * (h > jump)) / h), 1e-3

    monkeypatch.setattr(differences, "_differences", lambda at, ways: measured)
    found = differences.central_differences(place, np.zeros((8, 1, 2)), 1e-4)
    assert [slopes.step for slopes in found.values()] == pytest.approx([step] * 3)
    assert all(slopes.error(np.ones_like(slopes.values)) < 1e-6 for slopes in found.values())


@pytest.mark.parametrize("size", [0.0, 1e-16, math.nan])
def test_differences_of_rounding_are_no_test(monkeypatch, place, rng, size):
    monkeypatch.setattr(differences, "_differences", lambda at, ways: lambda h: (size * rng.normal(size=9) / h, 1.0))
    for slopes in differences.central_differences(place, np.zeros((8, 1, 2)), 1e-4).values():
        assert not slopes.tests
        assert math.isnan(slopes.error(slopes.values))


def printed(result: mi.CheckResult, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    print_check(console, result)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_every_fault_has_its_sentence(result, doubles, width):
    assert "…" not in printed(result, width)
    for each in (result, doubles):
        text = printed(each, width)
        assert max(map(len, text.splitlines())) <= width
        flat = " ".join(text.split())
        for row in each.frame.to_dict("records"):
            assert f"{row['method']} ({row['space']})" in flat or row["verdict"] == "agrees"
            assert row["note"].split(":")[0] in flat
    assert "The check failed" in flat


def test_what_was_no_test_is_said(result):
    doubt = {"uncertainty": 0.4, "rounding": 0.4}
    vague = replace(result, differences=result.differences | {"hyper": result.differences["hyper"] | doubt})
    assert "Central differences in λ are uncertain to 4.0e-01: the derivative is near A's rounding" in printed(
        vague, 120
    )
    untested = replace(result, frame=result.frame.assign(verdict="no test"))
    assert not untested.ok
    assert "no method was found to be right" in printed(untested, 120)


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
    monkeypatch.setattr("mithridate.checking.check", lambda *args, **options: result)
    code, out, err = mithridate("digits-0v8")
    assert (code, err) == (0, "")
    assert "Every method agrees or says why not." in out


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
    config = mi.AuditConfig.of(dataset="synthetic", points=1)
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
