"""The plan of an audit: its counts are what the audit does, its memory what XLA takes, and what it advises fits."""

import functools
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console

import mithridate as mi
from mithridate.auditing.sweep import Sweep
from mithridate.cli.printing import print_plan
from mithridate.data.sources import prepared
from mithridate.defences.base import Effort
from mithridate.errors import Unplanned
from mithridate.files.resources import free_memory
from mithridate.planning import Plan, calibration, costs, duration, gib, plan, plans
from mithridate.planning.costs import cost_of
from mithridate.planning.workload import Work
from mithridate.seeds import key
from stopping import FLAGS

TINY: dict[str, Any] = {
    "train": 30, "valid": 30, "points": 5, "batch": 2, "splits": 1, "hyperiterations": 7, "joint_hyperiterations": 6,
    "inner_steps": 8, "epochs": 2, "folds": 3, "stabilise": False, "attack": "bilevel",
}  # fmt: skip
NETWORK: dict[str, Any] = {**TINY, "model": "mlp", "hidden": (16, 4), "inner_steps": 200, "policies": ("fixed=-8",)}
ONE: dict[str, Any] = TINY | {"policies": ("fixed=-8",)}
PLENTY = 2**60
COUNTS = ("hyperiterations", "responses", "trainings", "checks", "evaluations")


@pytest.fixture(scope="module", autouse=True)
def rated() -> Iterator[None]:
    """How fast products are here is measured once for all plans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "rate", Mock(return_value=calibration.rate()))
        yield


def planned(free: int = PLENTY, **options: Any) -> Plan:
    return plan(*prepared("digits-0v8", None, options), free, calibrate=False)


def work(**options: Any) -> Work:
    return Work.of(*prepared("digits-0v8", None, options))


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often the parts of an audit are called, wherever they are, each call counted as what it is asked for."""
    counts: Counter[str] = Counter()
    sizes = {
        "take_steps": lambda given, state, length: length,
        "validation_losses": lambda problem, x_poison, grid, key, *by: len(grid),
        "cross_validation_losses": lambda learner, rows, held_out, grid, key, *by: len(grid) * len(held_out),
        "retrain_and_measure": lambda *arguments: 1,
        "minimise": lambda *arguments: 1,
    }

    def counted(name, function):
        @functools.wraps(function)
        def call(*arguments):
            counts[name] += sizes[name](*arguments)
            return function(*arguments)

        return call

    for module in [module for name, module in sys.modules.items() if name.startswith("mithridate.")]:
        for name in sizes:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return counts


@pytest.mark.parametrize("by", ["loss", pytest.param("error", marks=pytest.mark.slow)])
def test_an_audit_does_what_was_planned(by, calls):
    options: Any = TINY | {"policies": ("fixed=-8", "cv-clean", "learned", "cv-poisoned"), "tune_by": by}
    found = planned(**options)
    calls.clear()
    result = mi.audit("digits-0v8", **options)
    counts = {name: sum(getattr(chain, name) for chain in found.chains) for name in COUNTS}
    assert found.cells == len(result.frame) == 4 * 4
    assert counts["hyperiterations"] == calls["take_steps"] == 3 * (7 + 7 + 6 + 7)
    assert counts["responses"] == calls["minimise"]
    assert counts["trainings"] + counts["checks"] == calls["validation_losses"] + calls["cross_validation_losses"]
    assert counts["evaluations"] == calls["retrain_and_measure"]


def test_the_plan_of_the_whole_audit(result):
    found = plan(mi.load_dataset("digits-0v8"), mi.AuditConfig(**result.config), PLENTY, calibrate=False)
    assert found.cells == len(result.frame)
    assert repr(found).startswith(f"Plan(digits-0v8: {found.cells} cells, about ")
    assert found._repr_html_().count("<tr>") == 1 + len(found.chains)
    assert [chain.policy for chain in found.chains] == list(result.frame["policy"].unique())
    for chain in found.chains:
        own = result.frame[result.frame["policy"] == chain.policy]
        assert chain.inner_steps == own["inner_steps"].iloc[0]
        assert chain.space == own["space"].iloc[0]
        counted = own["hypergradients"].iloc[-1].split()
        assert chain.hyperiterations == sum(int(entry.rpartition(":")[2]) for entry in counted)


def test_labels_alone_are_planned_without_hypergradients_and_beyond_the_validation_rows():
    """Flips are of training rows: they can be more than the validation rows, from which others are cloned."""
    data, config = prepared("synthetic", None, {"edits": "labels", "train": 64, "valid": 8, "points": 16, "splits": 1})
    Sweep(data, config).check()
    screen = Console(record=True, width=200, file=io.StringIO())
    print_plan(screen, plan(data, config, PLENTY, calibrate=False))
    assert "serial; no hypergradients: only labels change" in screen.export_text()


class Cautious(eqx.Module):
    """A policy of a user's own: one more than what cross-validation says."""

    inner: mi.CrossValidated = mi.CrossValidated(on_poisoned=True, k=3)
    name: str = "cautious"
    strengths: mi.Box = mi.Box(-8.0, 2.0)
    descent: None = None

    def respond(self, problem: Any, x_poison: Any, log_strength: Any, key: Any) -> Any:
        return self.inner.respond(problem, x_poison, log_strength, key) + 1

    def after_clean(self, log_strength: Any) -> "Cautious":
        return self


class Counting(Cautious):
    def work(self, groups: tuple[int, ...]) -> Effort:
        return self.inner.work(groups)


def test_a_policy_of_ones_own_is_counted_where_it_says_what_it_computes():
    made = work(**TINY, policies=("cv-poisoned",))
    (own,) = replace(made, attacks=[replace(made.attacks[0], policy=Counting())]).chains
    (built_in,) = made.chains
    assert own == replace(built_in, policy="cautious")
    assert own.trainings == 3 * 51 * own.responses > 0
    with pytest.raises(Unplanned, match="the policy cautious does not say what it computes"):
        _ = replace(made, attacks=[replace(made.attacks[0], policy=Cautious())]).chains


@pytest.mark.parametrize(
    ("options", "times"),
    [({"initial": 3}, 3), ({"alternate": True}, 2), ({"objective": "target-class 8"}, 2), ({}, 1)],
)
def test_a_hyperiteration_can_take_several_hypergradients(options: dict[str, Any], times):
    (chain,) = work(**TINY, policies=("learned",), **options).chains
    assert chain.hypergradients == times * chain.hyperiterations == times * 3 * 6


def test_the_trajectory_grows_with_the_steps_and_checkpoints_with_their_root():
    stored, kept = (
        [work(**NETWORK | {"inner_steps": steps, "hypergradient": method}).step for steps in (400, 1600)]
        for method in ("reverse", "checkpointed")
    )
    assert stored[1] / stored[0] == pytest.approx(4, rel=0.1)
    assert kept[1] / kept[0] == pytest.approx(2, rel=0.25)
    assert kept[1] < stored[1] / 5


@pytest.mark.parametrize("options", [{"model": "mlp", "hidden": (16, 4)}, {"space": "gram"}])
def test_the_memory_is_what_xla_plans(options):
    made = work(**TINY | {"inner_steps": 300, "policies": ("fixed=-8",)} | options)
    (attack,), split = made.attacks, made.split
    problem = attack.settled(attack.rows(split.x_train, split.y_train))
    others = problem.y_poison, problem.target, problem.poison_weight

    def hypergradient(rest, x_poison, strength):
        found = mi.Reverse()(mi.Bilevel(attack.learner, rest, *others), x_poison, strength, key(0))
        return found.value, found.poison, found.hyper

    at = problem.rest, jnp.zeros((2, 64)), jnp.zeros(attack.learner.strength_shape)
    taken: Any = jax.jit(hypergradient).lower(*at).compile().memory_analysis()
    assert 0.8 * taken.temp_size_in_bytes <= cost_of(hypergradient, *at).peak <= 2 * taken.temp_size_in_bytes


def test_operations_are_counted_through_loops():
    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    once = cost_of(lambda x: x @ x, square)
    looped = cost_of(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: jnp.tanh(y @ x), x), square)
    assert once == (2 * 64**3, 1, 64 * 64 * 4)
    assert looped.flops == pytest.approx(10 * once.flops, rel=0.02)


def test_a_refusal_names_what_fits():
    wide: Any = NETWORK | {"train": 100, "hidden": (64, 8), "inner_steps": 2000}
    needed = planned(**wide)
    assert needed.refusals == needed.warnings == ()
    free = needed.memory - needed.step // 3
    refused = planned(free, **wide)
    assert gib(needed.memory) in refused.refusals[0]
    with pytest.raises(mi.InputError, match="checkpointed needs"):
        refused.check()
    better = planned(free, **wide, hypergradient="checkpointed")
    assert better.refusals == better.warnings == ()
    assert f"checkpointed needs {gib(better.memory)}" in refused.refusals[0]
    better.check()


def test_what_is_nearly_too_much_is_warned_of_and_what_is_too_much_is_printed():
    needed = planned(**ONE).memory
    warned = planned(math.ceil(needed / 0.9), **ONE)
    assert "are free: use fewer training rows" in warned.warnings[0]
    assert warned.refusals == ()
    found = planned(1000, **ONE)
    assert found.warnings == ()
    console = Console(record=True, width=110, file=io.StringIO())
    print_plan(console, found)
    told = console.export_text()
    for part in (
        "1 split(s) × 1 policies × 4 ratios = 4 cells",
        "fixed=-8",
        "Reverse (gram)",
        "use fewer training rows",
    ):
        assert part in told
    assert json.loads(json.dumps(found.as_dict()))["cells"] == 4


def test_workers_share_the_chains_and_need_memory_each():
    data, config = prepared("digits-0v8", None, ONE | {"splits": 4})
    free = math.ceil(2 * (plans.IMPORTED + plans.PROCESS) / plans.TIGHT) + 2**26
    four = plan(data, config, free, calibrate=False, workers=4)
    assert four.seconds == pytest.approx(four.chain_seconds[0] + plans.WRITING)
    assert four.memory > 4 * (plans.IMPORTED + plans.PROCESS)
    assert "execution = processes:2 needs" in four.refusals[0]
    one = plan(data, config, free, calibrate=False)
    assert one.seconds == pytest.approx(4 * one.chain_seconds[0] + plans.WRITING)
    assert one.refusals == ()


def test_a_chain_takes_its_parts_as_often_as_they_are_run():
    (chain,) = work(**TINY, policies=("learned",)).chains
    assert (chain.batches, chain.steps, chain.rounds) == (3, 6, 3)
    parts = [calibration.Timed(run, 1e9) for run in (1.0, 1e2, 1e3, 1e5, 1e8, 1e10)]
    trainings = chain.trainings + chain.checks
    assert plans._of_chain(chain, *parts) == 4 * 1 + 9 * 1e2 + 3 * 1e3 + trainings * 1e5 + 0 + 10 * 1e10


def told_of(broken: Exception) -> str:
    return f"time and memory unknown: the audit cannot be planned here ({type(broken).__name__}: {broken})"


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("costs._equation", KeyError("num_carry")),
        ("plans._free", AttributeError("no such\nmethod")),
        ("calibration.rate", MemoryError("no room")),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(part, broken, monkeypatch, mithridate, tmp_path):
    monkeypatch.setattr(f"mithridate.planning.{part}", Mock(side_effect=broken))
    refused = mithridate("audit", "digits-0v8", *FLAGS, "--out", "run", "--dry-run")
    said = "mithridate: " + told_of(broken).replace("\n", " ")
    assert (refused.returncode, refused.stderr.strip(), refused.stdout) == (2, said, "")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_planned_is_audited_nevertheless(monkeypatch, mithridate, tmp_path):
    broken = KeyError("num_carry")
    monkeypatch.setattr("mithridate.planning.costs._equation", Mock(side_effect=broken))
    sizes = ("--splits", 1, "--points", 1, "--policy", "fixed=3", "--inner-steps", 50, "--epochs", 5)
    told = mithridate(
        "audit", "synthetic", "--attack", "bilevel", "--hyperiterations", 2, *sizes, "--out", "run", planned=True
    )
    assert told.returncode == 0
    assert f"warning: {told_of(broken)}" in told.stderr
    assert mi.load_result(tmp_path / "run").status != "failed"


def test_many_rows_are_planned_by_their_number_alone(tmp_path, monkeypatch):
    """Nothing is sent to the device, however many rows there are."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(9000, 3)).round(3), columns=["a", "b", "c"])
    table.assign(y=table["a"] + draw.normal(size=9000) > 0).to_csv(tmp_path / "many.csv", index=False)
    data, config = prepared(str(tmp_path / "many.csv"), None, ONE | {"target": "y", "train": 4200, "valid": 4200})
    monkeypatch.setattr("mithridate.victims.rows._with_part", lambda *rows: pytest.fail("rows were sent"))
    found = plan(data, config, PLENTY, calibrate=False)
    assert found.rows > 8 * 4 * 4200


def test_what_a_loop_hands_on_is_held_once_and_what_it_stacks_up_in_full():
    def loop(x: jax.Array) -> Any:
        return jax.lax.scan(lambda c, i: ((c[0] @ c[1], c[1]), (c[0][:2], i)), (x, x), jnp.arange(9.0))

    found = cost_of(loop, jax.ShapeDtypeStruct((50, 50), jnp.float32))
    assert found.flops >= 9 * 2 * 50**3
    matrix, stacked = 4 * 50**2, 9 * 4 * (2 * 50 + 1)
    # The two that come out, the copies of them that a step has, its product.
    assert 3 * matrix + stacked <= found.peak <= 5 * matrix + 2 * stacked


def test_what_is_not_known_is_not_taken_for_free(monkeypatch):
    """A loop by another name would be counted once, and the audit called a small one."""
    square = jax.ShapeDtypeStruct((9, 9), jnp.float32)
    monkeypatch.setattr(costs, "CALLS", ())
    with pytest.raises(LookupError, match="'jit'"):
        cost_of(jax.jit(lambda x: x @ x), square)
    monkeypatch.setattr(costs, "HIDDEN", ("sin",))
    with pytest.raises(LookupError, match="'sin'"):
        cost_of(jnp.sin, square)


def test_a_calibration_is_short_and_writes_nothing(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = TINY | {"policies": ("fixed=-8", "fixed=1", "learned"), "splits": 5}
    found = plan(*prepared("digits-0v8", None, options), PLENTY)
    assert found.calibrated
    assert list(tmp_path.iterdir()) == []
    assert calls["take_steps"] == 2 * 2 + 2 * 2  # two policies of one kind, and one of another; a round, twice each
    assert calls["retrain_and_measure"] == 2 * (1 + 2)  # seen once by shapes
    assert found.compiling > 0
    assert found.seconds > plans.WRITING
    fixed, same, learned = found.chain_seconds
    assert fixed == same > 0
    assert learned > 0


def test_what_takes_long_is_shortened_and_scaled(calls):
    made = work(**ONE | {"hyperiterations": 50})
    rows = made.attacks[0].rows(made.split.x_train, made.split.y_train)
    parts = made.attacks[0], made.split, rows, np.array(-8.0)
    calls.clear()
    calibration.steps(*parts, seconds=calibration.LONG)
    assert calls["take_steps"] == 2 * 1
    calls.clear()
    calibration.steps(*parts, seconds=0.0)
    assert calls["take_steps"] == 2 * 10


def test_a_training_that_takes_long_is_cut_short_and_scaled(monkeypatch):
    made = work(**TINY, policies=("learned", "cv-clean"))
    learner = made.attacks[0].learner
    short, factor = calibration.shortened(learner, "plain", 4 * calibration.LONG)
    assert (short.rule.steps, short.space, factor) == (TINY["inner_steps"] // 4, "plain", 4.0)
    assert calibration.shortened(learner, "plain", calibration.LONG) == (learner, 1.0)
    seen: list[int] = []

    def train(learner: mi.Learner, *given: Any) -> Any:
        seen.append(learner.rule.steps)
        return np.zeros(17)

    monkeypatch.setattr(calibration, "timed", lambda run: (calibration.Timed(1.0, 0.0), run()))
    monkeypatch.setattr(calibration, "validation_losses", lambda problem, *given: train(problem.learner))
    monkeypatch.setattr(calibration, "cross_validation_losses", train)
    for attack, trainings in zip(made.attacks, (17, 17 * TINY["folds"]), strict=True):
        rows = attack.rows(made.split.x_train, made.split.y_train)
        once, _, _ = calibration.response(attack, rows, 4 * calibration.LONG)
        assert once.run == pytest.approx(4.0 / trainings)
    assert seen == [2, 2]


def group(folder, limit: str, used: int, cached: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("own", "below", "names"),
    [("0::/a/b\n", "", VERSION_2), ("9:cpu:/\n4:memory:/a/b\n0::/\n", "memory", VERSION_1)],
)
def test_the_container_has_a_limit(tmp_path, own, below, names, monkeypatch):
    mounted, file = tmp_path / "cgroup", tmp_path / "own"
    file.write_text(own)
    machine = psutil.virtual_memory()._replace(available=2**40)
    monkeypatch.setattr("mithridate.files.resources.psutil.virtual_memory", lambda: machine)
    assert free_memory(mounted, file) == free_memory(mounted, tmp_path / "none") == 2**40
    group(mounted / below, "max", 1, 0, names)
    group(mounted / below / "a", "9000", 5000, 1000, names)
    assert free_memory(mounted, file) == 5000
    group(mounted / below / "a" / "b", "7000", 5500, 500, names)
    assert free_memory(mounted, file) == 2000
    group(mounted / below / "a" / "b", "7000", 9000, 500, names)
    assert free_memory(mounted, file) == 0


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (42.0, "42 s"), (100.0, "1.7 min"), (8000.0, "2.2 h")])
def test_a_duration_is_told_in_words(seconds, text):
    assert duration(seconds) == text
