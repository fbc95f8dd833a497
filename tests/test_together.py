"""Rows that belong together stand in one part of every split, and in one fold."""

import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from mithridate.auditing.scenario import Scenario
from mithridate.auditing.threat import threat_model
from mithridate.data.groups import Grouping, drawn, sizes
from mithridate.data.sources import prepared
from mithridate.data.tables import dataset_of, read_dataset
from mithridate.tasks.classification import Classification


def people(n: int = 360, persons: int = 30) -> pd.DataFrame:
    """A table of persons whose rows are much alike, a third of them ill; `who` names them."""
    draw = np.random.default_rng(0)
    who = np.sort(draw.integers(0, persons, n))
    x = draw.normal(size=(persons, 3))[who] + 0.1 * draw.normal(size=(n, 3))
    frame = pd.DataFrame(x.round(2), columns=["a", "b", "c"])
    return frame.assign(who=[f"p{one}" for one in who], ill=np.where(who % 3 == 0, "yes", "no"))


def apart(*parts) -> bool:
    """Whether no number is in two of the parts."""
    return len(np.unique(np.concatenate([np.unique(part) for part in parts]))) == sum(map(len, map(np.unique, parts)))


@pytest.mark.parametrize("size", [1, 2, 12, 40])
@pytest.mark.parametrize("labels", ["of the group", "of the row"])
def test_no_group_is_in_two_parts_and_classes_keep_their_shares(size, labels):
    n = 480
    numbers = np.random.default_rng(0).permutation(np.arange(n) // size)
    y = (numbers % 3 == 0 if labels == "of the group" else np.arange(n) % 3 == 0).astype(int)
    takes, grouping = np.array([[160, 80], [80, 40]]), Grouping(numbers, "who")
    had = sizes(grouping, y, takes)
    assert 200 <= had[0] <= 240
    assert 80 <= had[1] <= 120
    takes = np.array([[had[0] - had[0] // 3, had[0] // 3], [had[1] - had[1] // 3, had[1] // 3]])
    for seed in range(5):
        parts = drawn(grouping, y, takes, True, np.random.default_rng(seed))
        assert (len(parts.train), len(parts.valid)) == had
        assert apart(*(numbers[rows] for rows in parts))
        assert apart(*parts)
        for rows in parts:
            assert np.mean(y[rows]) == pytest.approx(1 / 3, abs=0.1)


def test_groups_of_all_sizes_are_split_and_a_sample_comes_from_many():
    frame = people()
    frame["who"] = np.random.default_rng(0).zipf(1.5, len(frame)) % 40
    data = dataset_of(frame, "ill", group="who")
    assert data.sizes[0] > 150
    for index in range(5):
        split = data.split(index=index)
        who = frame["who"].to_numpy()
        assert apart(*(who[rows] for rows in (split.train_rows, split.valid_rows, split.test_rows)))
    few = dataset_of(people(), "ill", group="who").split(30, 15)
    assert len(np.unique(people()["who"].to_numpy()[few.train_rows])) > 8
    assert len(few.y_test) > 60


def test_the_column_is_no_feature_and_is_named_in_the_file_or_in_python(tmp_path):
    people().to_csv(tmp_path / "own.csv", index=False)
    data, config = prepared(str(tmp_path / "own.csv"), None, {"target": "ill", "group": "who", "valid": 60})
    assert data.schema is not None
    assert data.schema.order == ("a", "b", "c", "ill")
    assert (config.group, config.train) == ("who", data.sizes[0])
    scenario = Scenario.of(data, config)
    said = threat_model(config, data.classes, scenario.attacks)["groups"]
    assert said.startswith("all rows of one 'who' stand in one of training, validation and test rows, and in one fold")
    assert "owns whole groups with equally many rows in all can do no more" in said
    np.testing.assert_array_equal(scenario.attacks[0].groups, scenario.split.train_groups)
    assert data.digest() != read_dataset(tmp_path / "own.csv", "ill", drop=["who"]).digest()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "whom"}, "group = 'whom': no such column; did you mean 'who'"),
        ({"group": "ill"}, "group = 'ill': this is the target"),
        ({"group": "who", "drop": ["who"]}, "group = 'who': this is dropped as well"),
        (
            {"group": "two"},
            r"class 'no' is in 2 of 2 group\(s\) of 'two'; at least 3 are needed to train, validate and .*group='none'",
        ),
        ({"group": "one"}, r"class 'yes' is in 2 of 22 group\(s\) of 'one'"),
        ({"group": "gaps"}, r"2 row\(s\) have no group in column 'gaps', the first in row 7 .*missing='drop'"),
        ({"group": "rows"}, "this word has its own meaning, and a column has it as a name"),
    ],
)
def test_groups_that_cannot_be_are_refused(options, said):
    frame = people()
    ill, who, number = frame["ill"] == "yes", frame["who"], np.arange(len(frame))
    more = {
        "two": number % 2,
        "one": who.mask(ill, (number % 2).astype(str)),
        "gaps": who.mask(np.isin(number, [7, 9])),
        "rows": who,
    }
    frame = frame.assign(**{name: cells for name, cells in more.items() if name == options["group"]})
    with pytest.raises((mi.DataError, mi.InputError), match=said):
        dataset_of(frame, "ill", **options)


def test_rows_without_a_group_are_left_out_on_demand_and_a_column_that_groups_nothing_is_warned_of():
    frame = people()
    frame["who"] = frame["who"].mask(np.isin(np.arange(len(frame)), [7, 9]))
    assert len(dataset_of(frame, "ill", group="who", missing="drop").y) == len(frame) - 2
    with pytest.warns(
        UserWarning, match="group = 'each': no two rows have the same value, so no rows are kept together"
    ):
        dataset_of(people().assign(each=np.arange(len(frame)) ** 2), "ill", group="each", drop=["who"])


def test_more_rows_than_the_groups_give_are_refused():
    with pytest.raises(mi.InputError, match=r"train = 250 and valid = 100: the groups of 'who' cannot be .* 2\d\d and"):
        dataset_of(people(persons=9), "ill", group="who").split(250, 100)


def test_official_test_rows_are_of_other_groups():
    frame = people()
    late = frame["who"].isin(["p3", "p4", "p8"])
    data = dataset_of(frame[~late], "ill", group="who", test=frame[late])
    assert apart(*(frame["who"][~late].to_numpy()[rows] for rows in (data.split().train_rows, data.split().valid_rows)))
    with pytest.raises(mi.DataError, match=r"60 of the 60 test rows are in group\(s\) of 'who' that other rows are in"):
        dataset_of(frame[60:], "ill", group="who", test=frame[:60].assign(who="p20"))


def test_rows_alike_are_kept_together_unless_told_otherwise():
    frame = people().drop(columns="who")
    frame = pd.concat([frame, frame[:90], frame[:20]], ignore_index=True)
    with pytest.warns(UserWarning, match="rows alike are kept in one part of a split, so that no row is both trained"):
        data = dataset_of(frame, "ill")
    assert data.grouping is not None
    assert data.grouping.name == "rows"
    split = data.split()
    assert apart(*(data.grouping.numbers[rows] for rows in (split.train_rows, split.valid_rows, split.test_rows)))
    assert data.sizes == (len(frame) // 2, len(frame) // 4), "rows that are alone fill up the parts"
    with pytest.warns(UserWarning, match="some are both trained and tested on"):
        assert dataset_of(frame, "ill", group="none").grouping is None
    config = mi.AuditConfig.of(dataset="frame.csv", target="ill", train=60, valid=60, budget="added")
    said = threat_model(config, data.classes, Scenario.of(data, config).attacks)["groups"]
    assert said.startswith("rows with the same features stand in one of")
    assert said.endswith("each row that the attacker adds is a group of its own")


@pytest.mark.filterwarnings("ignore:.*rows have the same features")
def test_cells_that_tell_too_little_make_no_copies():
    draw = np.random.default_rng(0)
    few = pd.DataFrame({"a": draw.integers(0, 3, 200), "b": draw.integers(0, 2, 200), "t": ["no", "yes"] * 100})
    assert dataset_of(few, "t").grouping is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset_of(people().drop(columns="who"), "ill").grouping is None, "all rows differ"


def test_folds_do_not_divide_groups():
    who = np.repeat(np.arange(20), 6)
    y = (who % 4 == 0).astype(float)
    masks = Classification().folds(y, 5, seed=1, groups=who)
    assert (masks.sum(axis=0) == 1).all()
    assert apart(*(who[mask] for mask in masks))
    assert all(y[mask].any() for mask in masks)
    with pytest.raises(
        mi.InputError, match="folds = 6: must be from 2 to 5, the number of groups of the smaller class"
    ):
        Classification().folds(y, 6, seed=1, groups=who)


@pytest.mark.parametrize("budget", ["chosen", "added"])
def test_points_are_of_the_groups_in_whose_places_they_stand(budget):
    """Cross-validation sees the groups of the rows that stay, and of the points; added points are alone."""
    data = dataset_of(people(), "ill", group="who")
    options = {"train": 90, "valid": 40, "points": 6, "batch": 6, "budget": budget, "policies": ("cv-poisoned",)}
    scenario = Scenario.of(data, mi.AuditConfig.of(dataset="frame.csv", target="ill", **options))
    attack, split = scenario.attacks[0], scenario.split
    places = np.arange(90, 96) if budget == "added" else np.array([3, 50, 7, 8, 80, 81])
    at = attack.stage(split.x_train, split.y_train, scenario.rows, (0, 6), None, (attack.policy, np.array(-8.0)))
    points = mi.Points(split.x_train[:6], 1.0 - split.y_train[:6], places)
    problem, x = attack.problem(at, points)
    groups = np.asarray(problem.groups)
    assert split.train_groups is not None
    np.testing.assert_array_equal(groups[:90], split.train_groups)
    if budget == "added":
        assert len(np.unique(groups[90:96])) == 6
        assert groups[90:].min() > split.train_groups.max()
        np.testing.assert_array_equal(groups[90:96], groups[96:])
    else:
        np.testing.assert_array_equal(groups[90:], split.train_groups[places])
    seen = []

    class Watched(Classification):
        def folds(self, y, k, seed, groups=None):
            found = super().folds(y, k, seed, groups)
            seen.append((np.asarray(groups), found))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(problem.learner), "task", lambda self, m: Watched())
        attack.policy.respond(problem, x, np.array(-8.0), jax.random.key(0))
    (given, masks), there = seen[0], np.append(np.asarray(problem.rest.weight), np.ones(6)) > 0
    np.testing.assert_array_equal(given, groups[there])
    assert apart(*(given[mask] for mask in masks))
