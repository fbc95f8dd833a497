"""Data of the user's own: read as they are, split and attacked as what the file could hold."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file, load_digits

import mithridate as mi
from mithridate.data.delimited import Delimited, Layout
from mithridate.data.kinds import Text
from mithridate.data.tables import dataset_of, read_dataset, read_labelled
from patients import patients, written

TARGET = "diagnosis"


@pytest.mark.parametrize("name", ["patients.csv", "patients.tsv", "patients.parquet"])
def test_a_file_is_read_as_its_frame(tmp_path, name):
    frame = patients(120, empty=0.05)
    found = read_dataset(written(tmp_path, name, frame), TARGET, missing="impute")
    same = dataset_of(frame, TARGET, missing="impute", name="patients")
    assert (found.name, found.classes, same.classes) == ("patients", ("benign", "malignant"), ("benign", "malignant"))
    np.testing.assert_array_equal(found.x, same.x)
    np.testing.assert_array_equal(found.y, same.y)
    assert found.schema is not None
    assert same.schema is not None
    kinds = ["number", "integer", "integer", "boolean", "category", "number"]
    for schema in (found.schema, same.schema):
        assert [column.kind for column in schema.columns] == kinds
        assert schema.order == tuple(frame.columns)


def test_rows_with_empty_cells_are_left_out_and_numbers_stay(tmp_path):
    frame = patients(120, empty=0.05)
    found = read_dataset(written(tmp_path, "patients.csv", frame), TARGET, missing="drop")
    np.testing.assert_array_equal(found.rows, np.flatnonzero(frame.notna().all(axis=1)))
    assert not np.isnan(found.x).any()


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.filterwarnings("ignore:.*alone tells the label")
def test_csv_in_its_usual_dialects(tmp_path, separator, encoding):
    text = f'"naïve, or not"{separator} size {separator}label\n' + "".join(
        f'"a{separator} ""{"bc"[i % 2]}"" \n{"x" * (i % 3)}"{separator} {i / 7!r} {separator}{("yes", "no")[i % 2]}\n\n'
        for i in range(40)
    )
    path = tmp_path / "own.csv"
    path.write_text(text.replace("\n", "\r\n"), encoding=encoding, newline="")
    found = read_dataset(path, "label")
    assert found.schema is not None
    assert [column.name for column in found.schema.columns] == ["naïve, or not", "size"]
    assert len(found.schema.columns[0].categories) == 6
    np.testing.assert_array_equal(found.x[:, 1], np.arange(40) / 7)


@pytest.mark.parametrize(
    ("labels", "classes", "target"),
    [
        (["no", "yes"], ("no", "yes"), ["no", "yes"]),
        (["1", "0"], ("0", "1"), [0, 1]),
        (["-1", "+1"], ("-1", "1"), [-1, 1]),
        (["2.0", "10.0"], ("2", "10"), [2, 10]),
        (["True", "False"], ("False", "True"), [False, True]),
        (["true", "false"], ("false", "true"), ["false", "true"]),
        (["b", "c", "a"], ("a", "b", "c"), ["a", "b", "c"]),
        (["3", "x"], ("3", "x"), ["3", "x"]),
    ],
)
def test_labels_are_sorted_as_numbers_or_as_text(tmp_path, labels, classes, target):
    path = tmp_path / "own.csv"
    path.write_text("a,t\n" + "".join(f"{i}.5,{labels[i % len(labels)]}\n" for i in range(24)))
    found = read_dataset(path, "t")
    assert found.classes == classes
    assert found.schema is not None
    assert list(found.schema.target.categories) == target
    kind = int if "." not in labels[0] else float
    cells = [str(kind(float(label))) if classes[0] in ("-1", "0", "2") else label for label in labels]
    assert [str(cell) for cell in found.schema.target.written(found.y)[: len(labels)]] == cells


def test_labels_that_are_categories_are_sorted_as_text_and_written_as_they_were():
    frame = patients(40).astype({TARGET: pd.CategoricalDtype(["malignant", "benign", "unknown"])})
    found = dataset_of(frame, TARGET)
    assert found.classes == ("benign", "malignant")
    assert found.schema is not None
    pd.testing.assert_series_equal(found.schema.target.written(found.y), frame[TARGET])


def test_the_positive_class_is_named():
    frame = patients(60)
    assert dataset_of(frame, TARGET, positive="benign").classes == ("malignant", "benign")
    found = dataset_of(frame, "ward", positive="north")
    assert found.classes == ("not north", "north")
    np.testing.assert_array_equal(found.y, frame["ward"] == "north")
    assert found.schema is not None
    assert found.schema.target.categories == (frame["ward"][frame["ward"] != "north"].mode()[0], "north")


def test_npz_with_and_without_official_test_rows(tmp_path):
    x, y = load_digits(return_X_y=True)
    np.savez(tmp_path / "own.npz", x=x[:800].astype(np.uint8), y=y[:800], x_test=x[800:900], y_test=y[800:900])
    found = read_dataset(tmp_path / "own.npz")
    assert found.classes == tuple("0123456789")
    np.testing.assert_array_equal(found.x, x[:800])
    assert found.test is not None
    np.testing.assert_array_equal(found.test[0], x[800:900])
    np.testing.assert_array_equal(found.test[2], np.arange(100))
    np.savez_compressed(tmp_path / "text.npz", x=x[:90], y=np.where(y[:90] > 4, "much", "little"), other=y)
    found = read_dataset(tmp_path / "text.npz", positive="little")
    assert (found.classes, found.test) == (("much", "little"), None)


@pytest.mark.parametrize("zero_based", [True, False])
def test_svmlight_and_sparse_matrices(tmp_path, zero_based, rng):
    dense, y = rng.normal(size=(50, 7)) * (rng.random((50, 7)) < 0.4), np.arange(50) % 2 * 2.0 - 1
    dense[0, 0] = 1.25
    x = scipy.sparse.csr_array(dense)
    dump_svmlight_file(x, y, str(tmp_path / "own.svm"), zero_based=zero_based)
    found, same = read_dataset(tmp_path / "own.svm"), dataset_of(x, y)
    assert found.classes == same.classes == ("-1", "1")
    np.testing.assert_allclose(found.x, dense, rtol=1e-12)
    np.testing.assert_array_equal(same.x, dense)
    assert found.schema is not None
    assert found.schema.columns[0].name == ("0" if zero_based else "1")


def test_frames_with_a_column_of_labels_apart_and_official_test_rows():
    frame = patients(90)
    x, y = frame.drop(columns=TARGET), frame[TARGET]
    found = dataset_of(x[:60], y[:60], test=(x[60:], y[60:]))
    assert found.schema is not None
    assert found.schema.target.name == TARGET
    np.testing.assert_array_equal(found.x, dataset_of(frame[:60], TARGET).x)
    assert found.test is not None
    np.testing.assert_array_equal(found.test[1], (y[60:] == "malignant").astype(int))
    same = dataset_of(frame[:60], TARGET, test=frame[60:])
    assert same.test is not None
    np.testing.assert_array_equal(same.test[0], found.test[0])


@pytest.mark.filterwarnings("ignore:.*same features as another")
def test_splits_have_the_shares_of_the_file_and_every_class():
    frame = patients(103)
    frame[TARGET] = np.repeat(["a", "b", "c"], [80, 19, 4])
    found = dataset_of(frame, TARGET)
    assert found.sizes == (51, 25)
    split = found.split(seed=1)
    assert np.bincount(split.y_train).tolist() == [40, 9, 2]
    assert np.bincount(split.y_valid).tolist() == [19, 5, 1]
    assert np.bincount(split.y_test).tolist() == [21, 5, 1]
    rows = np.concatenate([split.train_rows, split.valid_rows, split.test_rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(103))
    np.testing.assert_allclose(split.x_train[:, :4].mean(axis=0), 0, atol=1e-5)
    for part in ("train", "valid", "test"):
        labels = np.array(found.classes)[getattr(split, f"y_{part}")]
        np.testing.assert_array_equal(labels, frame[TARGET].to_numpy()[getattr(split, f"{part}_rows")])
    assert dataset_of(pd.concat([frame] * 60), TARGET).sizes == (2500, 1545), "at most 50,000 numbers"


def test_an_attack_moves_among_rows_that_the_file_could_hold():
    table = patients(160, empty=0.03)
    split = dataset_of(table, TARGET, missing="impute", feasible=["smoker=False", "ward=west|north"]).split()
    assert split.encoder is not None
    attack = mi.Attack(
        learner=mi.Learner(mi.LogisticRegression(split.x_train.shape[1]), mi.GradientDescent(0.1, 30)),
        target=(split.x_valid, split.y_valid),
        feasible=split.feasible,
        policy=mi.Fixed(-8.0),
        points=8,
        steps=10,
    )
    found = attack.poison(split.x_train, split.y_train)
    assert found.value > found.value_start
    frame = split.encoder.decode(found.x_poison, found.y_poison.astype(int))
    np.testing.assert_allclose(split.encoder.transform(split.encoder.raw(found.x_poison)), found.x_poison, atol=1e-5)
    assert list(frame.columns) == list(table.columns)
    assert not frame["smoker"].any()
    assert set(frame["ward"]) <= {"west", "north"}
    assert frame["born"].between(table["born"].min(), table["born"].max()).all()


@pytest.mark.parametrize("name", ["more.csv", "more.parquet"])
def test_further_rows_are_read_as_the_table_that_is_known(tmp_path, name):
    frame = patients(120, empty=0.05)
    frame["diagnosis"] = (frame["diagnosis"] == "malignant").astype(int)
    known = dataset_of(frame, TARGET, missing="impute")
    assert known.schema is not None
    more = frame[7:10].assign(extra=1)[["extra", *reversed(frame.columns)]]
    x, y = read_labelled(written(tmp_path, name, more), known.schema)
    np.testing.assert_array_equal(x, known.x[7:10])
    np.testing.assert_array_equal(y, known.y[7:10])
    for changed, message in (
        (more.assign(ward="south"), r"'ward' holds 'south' in (line 2|row 0).*not one of 'east', 'north'"),
        (more.assign(nodes="few"), "'nodes' holds 'few' in .* not a number"),
        (more.assign(diagnosis=None), "no label in "),
        (more.rename(columns={"ward": "wards"}), r"no column 'ward'; did you mean 'wards'\?"),
    ):
        with pytest.raises(mi.DataError, match=message):
            read_labelled(written(tmp_path, name, changed), known.schema)


def test_further_rows_of_arrays(tmp_path, rng):
    known = dataset_of(x_own := rng.normal(size=(20, 2)), np.where(np.arange(20) % 2, 5, 3))
    np.savez(tmp_path / "more.npz", x=x_own[:3], y=[5, 3, 5.0])
    assert known.schema is not None
    x, y = read_labelled(tmp_path / "more.npz", known.schema)
    np.testing.assert_array_equal(x, x_own[:3])
    assert y.tolist() == [1, 0, 1]


@pytest.mark.filterwarnings("ignore:.*alone tells the label")
def test_types_of_frames_are_kept(rng):
    n = 40
    frame = pd.DataFrame(
        {
            "cat": pd.Categorical(["z", "a", "m", "a"] * 10, categories=["z", "a", "m"]),
            "small": (np.arange(n) % 5).astype("int8"),
            "nullable": pd.array(np.arange(n) % 7, dtype="Int64"),
            "single": rng.normal(size=n).astype("float32"),
            "flag": pd.array(np.arange(n) % 2 == 0, dtype="boolean"),
            "object": pd.Series([True, False] * 20, dtype=object),
            0: np.arange(n) % 4,
            "y": np.arange(n) % 2 == 1,
        }
    )
    found = dataset_of(frame, "y")
    assert found.schema is not None
    split = found.split()
    assert split.encoder is not None
    back = split.encoder.decode(split.x_train, split.y_train)
    expected = frame.rename(columns=str).astype({"object": bool}).iloc[split.train_rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, expected, rtol=1e-5, atol=1e-6)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n\r\n2,z\r\n')
    text = Text(path)
    source = Delimited(text, Layout(("a", "b"), ",")).source
    assert [source.at(0), source.at(1)] == ["line 2", "line 5"]
