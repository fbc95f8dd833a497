"""An audit of a file of one's own, from the file to the rows that were poisoned."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from mithridate.auditing.threat import sampled
from mithridate.data.sources import prepared
from mithridate.results.verdict import sample_of
from patients import patients, written

QUICK: dict[str, Any] = {"splits": 1, "points": 6, "batch": 3, "hyperiterations": 10, "epochs": 10, "inner_steps": 50}
QUICK |= {"attack": "bilevel", "budget": "replaced"}
COLUMNS = ["radius [mm]", "nodes", "born", "diagnosis", "smoker", "ward", "texture"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("own"), "patients.csv", patients(200, empty=0.03))


@pytest.fixture(scope="module")
def own(file) -> mi.AuditResult:
    return mi.audit(file, target="diagnosis", missing="impute", policies=("fixed=-8",), **QUICK)


def test_an_audit_says_which_file_and_columns_it_was_of(own, file):
    assert own.config["dataset"] == str(file)
    assert own.dataset["name"] == "patients"
    assert own.dataset["classes"] == ["benign", "malignant"]
    assert (own.dataset["train"], own.dataset["valid"], own.dataset["test"]) == (100, 50, 50)
    assert [column["name"] for column in own.dataset["columns"]] == COLUMNS
    assert "ward=north-east" in own.dataset["feature_names"]
    assert "each column's range" in own.threat_model["may_change"]


def test_poisoned_rows_are_rows_of_the_file(own, file):
    """In its columns, whole numbers whole, categories among those there are, within the training rows' ranges."""
    before, after = own.rows[0, "fixed=-8"]
    data, config = prepared(str(file), None, {"target": "diagnosis", "missing": "impute"})
    split = data.split(100, 50, 0, 0)
    table = patients(200)
    for frame in (before, after):
        assert frame.columns.tolist() == COLUMNS
        assert set(frame["ward"]) <= set(table["ward"])
        assert pd.api.types.is_integer_dtype(frame["nodes"])
        assert pd.api.types.is_bool_dtype(frame["smoker"])
        for name in ("radius [mm]", "nodes", "born", "texture"):
            seen = pd.to_numeric(table.loc[split.train_rows, name])
            assert frame[name].between(seen.min() - 1e-3, seen.max() + 1e-3).all()
    assert (before["diagnosis"] != after["diagnosis"]).all(), "a clone's label is another than that of its row"
    assert config.train == 100


def test_what_was_measured_is_what_is_written(own, file):
    """The features that the victim was retrained on are those of the rows in the file's own units."""
    data, _ = prepared(str(file), None, {"target": "diagnosis", "missing": "impute"})
    split, arrays = data.split(100, 50, 0, 0), own.poison[0, "fixed=-8"]
    assert split.encoder is not None
    for name in ("x_start", "x_poison"):
        again = split.encoder.transform(split.encoder.raw(arrays[name]))
        np.testing.assert_allclose(again, arrays[name], atol=2e-6)


@pytest.mark.usefixtures("undrawn")
def test_rows_survive_the_run_directory(own, tmp_path):
    folder = own.save(tmp_path / "run")
    again = mi.load_result(folder)
    for one, two in zip(own.rows[0, "fixed=-8"], again.rows[0, "fixed=-8"], strict=True):
        pd.testing.assert_frame_equal(one.astype(str), two.astype(str))


def test_rows_in_the_file_s_own_form_are_an_objective(file, own, tmp_path):
    aim = tmp_path / "aim.csv"
    own.rows[0, "fixed=-8"][0][:2].to_csv(aim, index=False)
    found = mi.audit(
        file, target="diagnosis", missing="impute", policies=("fixed=-8",), objective=f"rows {aim}", **QUICK
    )
    assert set(found.frame["attack_success"]) <= {0.0, 0.5, 1.0}
    aim.write_text("radius [mm]\n1.0\n")
    with pytest.raises(mi.DataError, match="no column"):
        mi.audit(file, target="diagnosis", missing="impute", objective=f"rows {aim}", **QUICK)


def test_ranges_can_be_set_in_the_file_s_own_units(file):
    options = {"target": "diagnosis", "missing": "impute", "policies": ("fixed=-8",), **QUICK}
    found = mi.audit(file, feasible=("nodes=0:2", "born=1950:", "ward=east|west"), **options)
    _, after = found.rows[0, "fixed=-8"]
    assert after["nodes"].between(0, 2).all()
    assert (after["born"] >= 1950).all()
    assert set(after["ward"]) <= {"east", "west"}
    assert "nodes=0:2" in found.threat_model["may_change"]


@pytest.mark.filterwarnings("ignore:.*same features as another")
def test_options_are_judged_by_the_rows_that_there_are(tmp_path):
    large = written(tmp_path, "large.csv", pd.concat([patients(200)] * 3))
    _, config = prepared(large, None, {"target": "diagnosis", "points": 140})
    assert (config.train, config.valid, config.points) == (300, 150, 140)
    with pytest.raises(mi.InputError, match=r"points = 200 .*: more than the 150 validation rows"):
        prepared(large, None, {"target": "diagnosis", "points": 200, "attack": "bilevel"})
    _, config = prepared(large, None, {"target": "diagnosis", "valid": 60})
    assert (config.train, config.valid, config.points) == (300, 60, 50), "as many points as the rows give, not before"


def test_frames_and_files_give_the_same_numbers(file, own):
    frame = pd.read_csv(file)
    data = mi.dataset_of(frame, "diagnosis", name="patients", missing="impute")
    again = mi.audit(data, policies=("fixed=-8",), **QUICK)
    same = ["attack", "test_error", "valid_loss"]
    pd.testing.assert_frame_equal(own.candidates[same], again.candidates[same], rtol=1e-4)
    assert own.threat_model == again.threat_model


def test_what_cells_may_hold_is_said_of_a_frame_as_of_a_file(file):
    told = ["nodes=0:2", "born=1950:", "ward=east|west", "smoker=False"]
    data = mi.dataset_of(pd.read_csv(file), "diagnosis", missing="impute", feasible=told)
    assert data.schema is not None
    assert [column.feasible for column in data.schema.columns if column.feasible] == [
        "nodes=0:2",
        "born=1950:",
        "smoker=False",
        "ward=east|west",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "target"),
        ({"target": "diagnosis"}, "empty in column"),
        ({"target": "diagnose"}, "did you mean 'diagnosis'"),
        ({"target": "diagnosis", "missing": "impute", "feasible": ("nods=1:2",)}, "did you mean 'nodes'"),
        ({"target": "diagnosis", "missing": "impute", "objective": "target-class sick"}, "classes benign, malignant"),
        ({"target": "diagnosis", "missing": "guess"}, "missing = 'guess'"),
    ],
)
def test_options_that_do_not_suit_the_file_are_refused(file, options, message):
    with pytest.raises(mi.MithridateError, match=message):
        mi.audit(file, **options)


def test_options_of_files_are_refused_for_the_catalogue():
    with pytest.raises(
        mi.InputError, match="target = 'y': only for a file of your own; digits-0v8 is in the catalogue"
    ):
        mi.audit("digits-0v8", target="y")


def test_the_command_line_takes_files(mithridate, file, tmp_path):
    flags = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = mithridate(
        "audit", file, "--target", "diagnosis", "--missing", "drop", "--drop", "ward", "--feasible", "nodes=0:3",
        "--feasible", "texture=:30", "--group", "born", "--train", "60", "--policy", "fixed=-8", *flags, "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on patients (benign v malignant)" in done.stdout
    rows = pd.read_csv(tmp_path / "run" / "poison" / "split0-fixed_-8.csv")
    assert not {"ward", "born"} & set(rows)
    (unused,) = re.findall(r"; (\d+) rows unused, so that no group is divided", " ".join(done.stdout.split()))
    said = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert said["dataset"]["unused"] == int(unused) > 0
    assert f"; {unused} rows of the file are in no part of the first split, because" in said["threat_model"]["groups"]
    kept = pd.read_csv(file).dropna(subset=["radius [mm]", "nodes", "born", "diagnosis", "smoker", "texture"])
    assert int(unused) == len(kept) - sum(said["dataset"][part] for part in ("train", "valid", "test"))
    assert rows["nodes"].between(0, 3).all()
    bad = mithridate("audit", file, "--target", "diagnosis")
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "line" in bad.stderr


@pytest.mark.parametrize(("n", "m", "sizes"), [(900, 3, (450, 225)), (6000, 3, (2500, 1500)), (6000, 100, (512, 512))])
def test_a_file_is_audited_whole_unless_it_is_large(n, m, sizes):
    """50,000 numbers, features fewer than 20 counted as 20, or 512 rows; train = all takes the half of any file."""
    draw = np.random.default_rng(0)
    data = mi.dataset_of(draw.normal(size=(n, m)), np.arange(n) % 2)
    assert data.sizes == sizes
    assert data.whole == (n // 2, n // 4)
    for given in ("all", n // 2):
        _, config = prepared(data, None, {"train": given, "valid": "all"})
        assert (config.train, config.valid, config.points) == (n // 2, n // 4, math.ceil(0.166 * (n // 2)))
        assert config.epochs == math.ceil(1000 * 128 / (n // 2))
        assert sampled(data, config) == {}
    _, config = prepared(data, None, {"train": "60", "points": 3})
    assert (config.train, config.valid) == (60, sizes[1])
    told = {"train": config.train, "sample": sampled(data, config)}
    times = n // 2 * min(n // 2, 2 * m) / (60 * min(60, 2 * m))
    assert sample_of(told) == (
        f"on a sample of the file, 60 of {n // 2:,} possible training rows (train = all takes about "
        f"{times:.2g} times as long)"
    )
    with pytest.raises(mi.InputError, match="valid = all: only for a file of your own; give a number of rows"):
        prepared("digits-0v8", None, {"valid": "all"})
