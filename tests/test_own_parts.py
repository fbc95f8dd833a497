"""Parts of the user's own: each example of docs/extending.md through an audit, its plan, its resumption, its report."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from attackers import Relabelling
from mithridate.data.sources import prepared
from mithridate.planning import plan
from mithridate.results.report import render

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SMALL: dict[str, Any] = {
    **{"splits": 1, "train": 60, "valid": 60, "points": 4, "batch": 2, "inner_steps": 30, "epochs": 10},
    **{"hyperiterations": 4, "joint_hyperiterations": 4, "policies": ("fixed=-8",), "attack": "bilevel"},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Any]:
    """What the page defines, in a module of that name, without what it runs."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert all(len(block.splitlines()) <= 40 for block in blocks)
    text = "\n".join(blocks)
    run = r"^(?:result|attack|split|problem|found|print|rng|y|x|mine)\b.*?(?=^\S|\Z)(?:^\).*?$)?"
    folder = tmp_path_factory.mktemp("own")
    (folder / "extending_page.py").write_text(re.sub(run, "", text, flags=re.DOTALL | re.MULTILINE), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = __import__("extending_page")
    sys.modules.pop("extending_page")
    return vars(module)


Made = Callable[[dict[str, Any]], Any]
OWN: dict[str, tuple[str, Made, str]] = {
    "attack": ("outermost", lambda page: page["Outermost"], "outermost: the attacker flips the labels of the rows"),
    "defences": ("extremes", lambda page: (page["Extremes"](),), "leaves out rows that lie more than 4 deviations"),
    "penalty": ("SmoothL1", lambda page: page["SmoothL1"](), "a smooth L1"),
    "loss": ("smoothed", lambda page: page["smoothed"], "cross-entropy of labels smoothed by 5 %"),
    "policies": ("cautious", lambda page: (page["Cautious"](),), "takes twice the strength that cross-validation on"),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("own", [("attack", "defences", "policies"), ("penalty", "loss")], ids="+".join)
def test_parts_of_one_s_own_are_planned_stored_resumed_and_told_of(parts, own, tmp_path):
    options = SMALL | {option: OWN[option][1](parts) for option in own}
    found = plan(*prepared("digits-0v8", None, options), calibrate=False)
    # The clean set, and at two shares the attack and two kinds of flips.
    assert (found.cells, found.chains[0].evaluations) == (3, 7)
    assert found.chains[0].hyperiterations == (0 if "attack" in own else 8)
    assert (found.chains[0].trainings > 0) == ("policies" in own)
    whole = mi.audit("digits-0v8", **options)
    seen: list[int] = []
    with pytest.raises(mi.Interrupted):
        mi.audit(
            "digits-0v8",
            **options,
            out=tmp_path / "run",
            stop=lambda: len(seen) > 1,
            on_progress=lambda at: seen.append(at.done),
        )
    resumed = mi.audit("digits-0v8", **options, out=tmp_path / "run")
    for table in ("frame", "candidates"):
        one, other = (getattr(result, table).drop(columns=["seconds"]).to_dict("list") for result in (whole, resumed))
        np.testing.assert_equal(one, other)
    report = render([mi.load_result(tmp_path / "run")])
    assert whole.frame["status"].isin(("ok", "weak")).all()
    wanted = {OWN[option][0]: OWN[option][2] for option in own}
    assert all(words in report for words in wanted.values())
    policy = "cautious + extremes" if "policies" in own else "fixed=-8"
    columns = {option: {"policies": "policy", "defences": "defence"}.get(option, option) for option in own}
    for option, column in columns.items():
        assert whole.frame[column].unique().tolist() == [policy if option == "policies" else OWN[option][0]]
    assert whole.frame["policy"].unique().tolist() == [policy]


@pytest.mark.usefixtures("undrawn")
def test_a_run_belongs_to_parts_with_the_same_numbers(parts, tmp_path):
    options: dict[str, Any] = SMALL | {"attack": Relabelling}
    mi.audit("digits-0v8", defences=(parts["Extremes"](4.0),), out=tmp_path / "run", **options)
    with pytest.raises(mi.StorageError, match="belongs to other data"):
        mi.audit("digits-0v8", defences=(parts["Extremes"](5.0),), out=tmp_path / "run", **options)
    assert len(mi.audit("digits-0v8", defences=(parts["Extremes"](4.0),), out=tmp_path / "run", **options).frame) == 3


def test_an_attack_flips_the_labels_that_it_says(parts):
    split = mi.load_dataset("digits-0v8").split(60, 60)
    x, y = split.x_train, split.y_train
    result = mi.audit("digits-0v8", **SMALL | {"attack": parts["Outermost"]})
    arrays, own = result.poison[0, "fixed=-8"], y.astype(int)
    far = np.linalg.norm(x - np.stack([x[own == k].mean(axis=0) for k in (0, 1)])[own], axis=1)
    assert set(arrays["replaced"]) == set(np.argsort(-far, kind="stable")[:4])
    np.testing.assert_array_equal(arrays["y_poison"], 1 - own[arrays["replaced"]])
    np.testing.assert_allclose(arrays["x_poison"], x[arrays["replaced"]], rtol=1e-6)


def test_own_code_is_named_on_the_command_line_and_trusted_again_to_resume(parts, tmp_path, mithridate, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(Path(parts["__file__"]).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "policies"]
    told = mithridate(
        "audit", "digits-0v8", *sizes, "--policy", "fixed=-8", "--attack", "mine:Outermost", "--out", "run", "--quiet"
    )
    assert told.returncode == 0, told.stderr
    assert mi.load_result("run").frame["attack"].unique().tolist() == ["outermost"]
    (tmp_path / "run" / "audit.json").unlink()
    (tmp_path / "run" / "cells").mkdir()
    refused = mithridate("resume", "run")
    assert refused.returncode == 2
    assert "it runs the code of mine:Outermost" in refused.stderr
    assert mithridate("resume", "run", "--own", "mine:Outermost", "--quiet").returncode == 0


@dataclass(frozen=True, kw_only=True)
class Wrong(mi.Attacker):
    """Points that are not within the budget, each in a way of its own."""

    name: ClassVar[str] = "wrong"
    kind: ClassVar[str] = ""

    def starting_points(self, x, y):
        k, n = self.points, len(y)
        points: dict[str, Any] = {"x": x[:k], "y": 1 - y[:k], "places": np.arange(k)}
        points |= {
            "shape": {"x": x[: k - 1]},
            "labels": {"y": y[:k] + 7},
            "twice": {"places": np.zeros(k, int)},
            "beyond": {"places": np.arange(n, n + k)},
            "broken": {"x": x[:k] * np.nan},
        }[self.kind]
        return mi.Points(**points)

    def words(self):
        return "does wrong"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shape", r"its points must be 4 rows of 64 features, each with a label and a place; got features \(3, 64\)"),
        ("labels", "attack wrong: its points: labels must be 0 or 1"),
        ("twice", "two of its points have the place 0"),
        ("beyond", "its places must be whole numbers from 0 to 59"),
        ("broken", "feature value.s. are NaN or infinite"),
    ],
)
def test_an_attack_outside_its_budget_is_refused_before_anything_is_computed(kind, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Wrong, "kind", kind)
    options: dict[str, Any] = SMALL | {"attack": Wrong}
    with pytest.raises(mi.InputError, match=message):
        mi.audit("digits-0v8", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1 - (2 * labels - 1) * logits)


def unlabelled(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hnge"}, r"loss = 'hnge': use logistic, squared-hinge, squared, or module:attribute"),
        ({"loss": "squared-hing"}, "did you mean squared-hinge"),
        ({"loss": 3}, "loss = 3"),
        ({"loss": "math:nothing"}, "module math has no attribute 'nothing'"),
        ({"loss": unlabelled}, r"for 3 rows it must return 3 losses; got \(\)"),
        ({"loss": hinge, "victim": "exact"}, "hinge has no second derivative but 0"),
        ({"penalty": "l3"}, "penalty = 'l3': use l2, or module:attribute"),
        ({"penalty": lambda weights: 0.0}, "differentiating it in the model's weights failed: TypeError"),
        ({"attack": "flip"}, "attack = 'flip': use portfolio, bilevel, flips, .*did you mean flips"),
        ({"attack": dict}, "attack = dict: dict is no attack"),
        (
            {"attack": type("Flips", (mi.Flips,), {"__doc__": ""})},
            "give it a `name`, a text that is not portfolio or bilevel or flips",
        ),
        ({"policies": ("lerned",)}, "unknown policy 'lerned'.*did you mean learned"),
        ({"policies": (object(),)}, "object is no policy"),
        ({"defences": ("spher=5%",)}, "unknown defence 'spher=5%'.*did you mean sphere"),
        ({"defences": ("sphere=0",)}, r"defence = sphere=0: the share of rows to take out must lie between 0 and 1"),
        ({"defences": ("sphere=100%",)}, "must lie between 0 and 1"),
        ({"defences": ("sphere=x",)}, "must lie between 0 and 1"),
        ({"defences": (object(),)}, "object is no defence"),
        ({"defences": ("none", "none")}, "given twice"),
    ],
)
def test_parts_that_cannot_be_used_are_named(options, message):
    with pytest.raises(mi.InputError, match=message):
        mi.audit("digits-0v8", **SMALL | options)


class Leaves:
    """A defence that is none, each in a way of its own."""

    def __init__(self, sanitise: Callable[[Any], Any], name: str = "leaves"):
        self.sanitise, self.name = sanitise, name


def nothing_of(rows: mi.Rows) -> jax.Array:
    return rows.weight * (rows.y == 0)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Leaves(lambda rows: rows.weight * 0), "leaves 0 of 30 clean rows of class 0; 2 must stay"),
        (Leaves(nothing_of), "leaves 0 of 30 clean rows of class 8"),
        (Leaves(lambda rows: rows.weight[1:]), r"it must return 60 weights, one a row; got the shape \(59,\)"),
        (Leaves(lambda rows: -rows.weight), "its weights must lie between 0 and those that the rows have"),
        (Leaves(lambda rows: rows.weight * jnp.nan), "its weights must lie between 0"),
        (Leaves(lambda rows: np.where(np.asarray(rows.y), 0, 1)), "sanitise failed: TracerArrayConversionError"),
        (Leaves(lambda rows: rows.weight, "none"), "give it another name than none"),
        (mi.Sphere(0.99), "defence sphere=99%: it leaves 1 of 30"),
    ],
)
def test_a_defence_is_tried_before_anything_is_computed(made, message, tmp_path):
    with pytest.raises(mi.InputError, match=message):
        mi.audit("digits-0v8", defences=(made,), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "part", "message"),
    [
        ("loss", lambda logits, labels: -jnp.abs(logits) - 1, "must be finite and not negative"),
        ("loss", lambda logits, labels: (logits > 0) * 1.0, "its derivative in the logits is 0 or not finite"),
        ("penalty", lambda weights, log_strength: jnp.nan * jnp.sum(weights), "is NaN or infinite if all weights"),
    ],
)
def test_losses_and_penalties_that_teach_nothing_are_refused(option, part, message):
    options: dict[str, Any] = SMALL | {option: part}
    with pytest.raises(mi.InputError, match=message):
        mi.audit("digits-0v8", **options)


def test_a_policy_that_answers_outside_its_box_is_named(parts):
    class Beyond(parts["Cautious"]):
        def respond(self, problem: Any, x_poison: Any, log_strength: Any, key: Any) -> Any:
            return log_strength + 99.0

    options: dict[str, Any] = SMALL | {"policies": (Beyond(),)}
    with pytest.raises(mi.InputError, match=r"policy cautious: its answer λ = .* must lie within its strengths"):
        mi.audit("digits-0v8", **options)


def test_points_that_are_added_need_no_places_and_an_attack_that_fails_says_so(parts):
    options: dict[str, Any] = SMALL | {"attack": parts["Outermost"], "budget": "added"}
    result = mi.audit("digits-0v8", **options)
    assert result.frame["n_train"].tolist() == [60, 62, 64]
    assert not len(result.poison[0, "fixed=-8"]["replaced"])

    class Fails(parts["Outermost"]):
        def starting_points(self, x: np.ndarray, y: np.ndarray) -> Any:
            raise KeyError("boom")

    options |= {"attack": Fails}
    with pytest.raises(mi.InputError, match="attack outermost: starting_points failed: KeyError: 'boom'"):
        mi.audit("digits-0v8", **options)
