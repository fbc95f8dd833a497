"""Rules between two columns: read, found, and kept by every row that is crafted."""

import warnings
from dataclasses import fields, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize

import mithridate as mi
from mithridate.auditing.scenario import Scenario
from mithridate.auditing.threat import threat_model
from mithridate.data.feasible import Mixed
from mithridate.data.rules import Rule, tightened
from mithridate.data.sources import prepared
from mithridate.data.tables import dataset_of, read_dataset

RULES = ("whole <= tenths", "whole + 2 < any", "flights > whole", "any <= top")

WAYS = [(budget, edits) for budget in ("added", "replaced", "chosen") for edits in ("both", "features")]
QUICKLY_TESTED = [("added", "both"), ("replaced", "features"), ("chosen", "both")]


def table(n: int = 160, empty: float = 0.0) -> pd.DataFrame:
    """Whole numbers below tenths and below any numbers, by two and more; a label; cells left empty."""
    draw = np.random.default_rng(0)
    ill = draw.random(n) < 0.4
    whole = draw.poisson(3 + 2 * ill)
    frame = pd.DataFrame({"whole": whole, "tenths": (whole + draw.exponential(0.7, n)).round(1) + 0.0})
    frame["tenths"] = frame[["whole", "tenths"]].max(axis="columns")
    frame["any"] = whole + 2.001 + draw.exponential(2, n)
    frame["flights"] = whole + 1 + draw.poisson(1, n)
    frame["top"] = frame["any"] + draw.exponential(1, n)
    for column in ("whole", "tenths", "top") if empty else ():
        frame[column] = frame[column].astype(float).mask(draw.random(n) < empty)
    return frame.assign(ill=np.where(ill, "yes", "no"))


def broken(rows: pd.DataFrame) -> list[str]:
    """The rules that some of the rows break, as they are written."""
    sides = {
        RULES[0]: rows["whole"] <= rows["tenths"],
        RULES[1]: rows["whole"] + 2 < rows["any"],
        RULES[2]: rows["flights"] > rows["whole"],
        RULES[3]: rows["any"] <= rows["top"],
    }
    return [rule for rule, kept in sides.items() if not kept.all()]


def test_a_rule_of_every_kind_is_read_and_one_that_says_nothing_refused():
    data = dataset_of(table(), "ill", rule=RULES)
    assert data.schema is not None
    (a, b, gap, _), (_, _, two, _), (c, d, one, _), _ = data.schema.rules
    assert (a, b, gap) == (0, 1, 0.0)
    assert 2 < two < 2.001
    assert (c, d, one) == (0, 3, 1.0), "one step of whole numbers"
    odd = table().rename(columns={"whole": "a < b", "tenths": "c + 1"})
    found = dataset_of(odd, "ill", rule=["a < b <= c + 1"])
    assert found.schema is not None
    assert found.schema.rules[0][:3] == (0, 1, 0.0)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("whole", "give it as 'A <= B', with two columns of features; there are 'whole', 'tenths'"),
        ("whole <= tops", r"give it as 'A <= B'.*: no column 'tops' among the features; did you mean 'top'\?"),
        ("Tenth > hole", r"no column 'hole' .* mean 'whole'\?; no column 'Tenth' .* did you mean 'tenths'\?"),
        ("whole <= whole", "both are 'whole'"),
        ("whole <= ill", "no column 'ill' among the features; there are 'whole', 'tenths'"),
        ("whole <= ward", "column 'ward' does not hold numbers"),
        ("tenths <= whole", r"rule 'tenths <= whole': \d+ row\(s\) break it, the first in row \d+ \(counted from 0\)"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule, said):
    frame = table().assign(ward=["a", "b"] * 80)
    with pytest.raises((mi.InputError, mi.DataError), match=said):
        dataset_of(frame, "ill", rule=[rule])


def test_a_rule_and_ranges_that_leave_nothing_are_refused(tmp_path):
    table().to_csv(tmp_path / "own.csv", index=False)
    data = read_dataset(tmp_path / "own.csv", "ill", rule=RULES[:1], feasible=["whole=5:9", "tenths=0:4"])
    with pytest.raises(mi.InputError, match="rule 'whole <= tenths': within the ranges of both columns nothing keeps"):
        data.split()
    lines = (tmp_path / "own.csv").read_text().splitlines()
    lines[7] = "9,0.1," + lines[7].split(",", 2)[2]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    with pytest.raises(mi.DataError, match=r"1 row\(s\) break it, the first in line 8"):
        read_dataset(tmp_path / "own.csv", "ill", rule=RULES[:1])


@pytest.mark.parametrize("pairs", [[(0, 1, 0.5), (2, 3, 0.0)], [(0, 1, 0.0), (1, 2, 0.2)]])
def test_a_projection_is_the_nearest_point_that_keeps_the_rules(pairs, rng):
    """Held against a solver of SciPy's, each point on its own; one pair or a chain, with features of other scales."""
    offset, scale = rng.normal(size=4), np.exp(rng.normal(size=4) / 2)
    low, high = tightened([Rule(a, b, gap, "") for a, b, gap in pairs], np.full(4, -2.0), np.full(4, 3.0), [0.0] * 4)
    ends = (low - offset) / scale, (high - offset) / scale
    phi = Mixed(*ends, grid=np.zeros(4), offset=offset, scale=scale, groups=[], rules=pairs)
    x = rng.normal(size=(12, 4)) * 3
    for point, found in zip(x, np.asarray(phi.project(jnp.asarray(x, jnp.float32)), float), strict=True):
        kept: Any = [
            {"type": "ineq", "fun": lambda z, a=a, b=b, g=g: (z * scale + offset)[b] - (z * scale + offset)[a] - g}
            for a, b, g in pairs
        ]
        best = scipy.optimize.minimize(
            lambda z, x=point: np.sum((z - x) ** 2), found, constraints=kept, bounds=list(zip(*ends, strict=True))
        )
        assert np.linalg.norm(found - point) == pytest.approx(np.linalg.norm(best.x - point), abs=1e-4)
        assert all(rule["fun"](found) > -1e-5 for rule in kept)


@pytest.mark.parametrize("empty", [0.0, 0.1])
def test_settled_points_keep_the_rules_on_the_columns_grids(empty, rng):
    data = dataset_of(table(empty=empty), "ill", rule=RULES, missing="impute" if empty else "refuse")
    split = data.split()
    assert split.encoder is not None
    phi = split.encoder.feasible
    points = phi.settle(phi.project(jnp.asarray(rng.normal(0, 3, (400, 5)), jnp.float32)))
    rows = split.decode(np.asarray(points), np.zeros(400, int))
    assert broken(rows) == []
    # What is measured is what is written, and settles to itself.
    raw = rows[[column.name for column in split.encoder.schema.columns]].to_numpy(float)
    np.testing.assert_allclose(split.encoder.transform(raw), points, atol=2e-5)
    np.testing.assert_allclose(phi.settle(phi.project(points)), points, atol=2e-6)
    filled = split.decode(split.x_train, split.y_train)
    assert broken(filled) == [], "empty cells are filled in so that rules are kept"


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    options = {"train": 60, "valid": 40, "points": 8, "batch": 8, "splits": 1, "policies": ("fixed=-2",)}
    options |= {"hyperiterations": 5, "inner_steps": 15, "rule": RULES, "missing": "impute"}
    given = {name: options.pop(name) for name in ("rule", "missing")}
    data = dataset_of(table(empty=0.1), "ill", **given)
    return Scenario.of(*prepared(data, None, options))


@pytest.mark.parametrize(
    ("budget", "edits"),
    [pytest.param(*way, marks=() if way in QUICKLY_TESTED else pytest.mark.slow) for way in WAYS],
)
def test_crafted_rows_keep_the_rules_whatever_the_attacker_may_do(scenario, budget, edits):
    split, attack = scenario.split, replace(scenario.attacks[0], budget=budget, edits=edits)
    attack = mi.Attack(**{field.name: getattr(attack, field.name) for field in fields(mi.Attack) if field.init})
    checked(attack, split)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "edits"), WAYS)
def test_rows_of_every_attacker_keep_the_rules(scenario, budget, edits):
    checked(replace(scenario.attacks[0], budget=budget, edits=edits), scenario.split)


def checked(attack: mi.Attacker, split: mi.Split) -> None:
    found = attack.poison(split.x_train, split.y_train)
    for batch in found.others + found.batches:
        for points in (batch.x_poison, batch.x_start):
            assert broken(split.decode(np.asarray(points), batch.y_poison.astype(int))) == [], batch.attack
            np.testing.assert_allclose(split.feasible.project(jnp.asarray(points)), points, atol=1e-5)


def test_relabelled_rows_keep_the_rules(scenario):
    split = scenario.split
    found = replace(scenario.attacks[0], edits="labels").poison(split.x_train, split.y_train)
    assert broken(split.decode(found.x_poison, found.y_poison.astype(int))) == []
    assert found.replaced is not None
    np.testing.assert_array_equal(found.x_poison, split.x_train[found.replaced])


def test_rules_that_all_rows_keep_are_offered_and_named_where_they_are_not_kept(scenario):
    data = dataset_of(table(), "ill")
    assert {"whole <= tenths", "any <= top", "whole <= flights"} <= set(data.unkept)
    assert "whole <= top" not in data.unkept, "it follows from others"
    said = threat_model(scenario.config, data.classes, scenario.attacks, data.schema, data.unkept)
    given = threat_model(scenario.config, data.classes, scenario.attacks, scenario.split.encoder.schema)
    assert f"so that {' and '.join(RULES)}" in given["may_change"]
    assert said["not_tested"].endswith(f"what all rows of the file do ({'; '.join(data.unkept)}: see option rule)")
    draw = np.random.default_rng(0)
    apart = {"age": draw.integers(20, 80, 200), "pay": draw.integers(900, 9000, 200), "t": ["no", "yes"] * 100}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset_of(pd.DataFrame(apart), "t").unkept == (), "ranges that lie apart tell nothing"
    given = dataset_of(table(), "ill", rule=["whole <= tenths", "any <= top"])
    assert not {"whole <= tenths", "any <= top"} & set(given.unkept)
