"""Tables that can be read and are likely not meant: refused or warned of, with what to do."""

import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from mithridate.configuration.reading import FileOptions, asked_by
from mithridate.data.columns import read_columns
from mithridate.data.kinds import Source
from mithridate.data.tables import dataset_of, read_dataset

N = 40
LABELS = ["no", "yes", "yes", "no"] * (N // 4)


def file_of(folder: Path, columns: dict[str, list], separator: str = ";", header: bool = True) -> Path:
    """A CSV file with these columns, and `t`, the labels."""
    lines = [separator.join([*columns, "t"])] * header
    lines += [separator.join(map(str, row)) for row in zip(*columns.values(), LABELS, strict=True)]
    path = folder / "own.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


USUAL = {"a": [i * 7 % 19 / 2 for i in range(N)], "b": [i * 5 % 11 for i in range(N)]}
WRITTEN = {
    "numbers with a decimal comma": ["0,5", "1,25", "3", "2,5"],
    "comma between thousands": ["1,000", "12,500", "1,000,000.5", "900"],
    "marks between thousands": ["1 000", "12'500", "900", "3 000"],
    "amounts of money": ["$1000", "12 €", "£3.50", "$7"],
    "percentages": ["5%", "12.5 %", "0,5%", "3 %"],
}


@pytest.mark.parametrize("meaning", WRITTEN)
def test_numbers_in_another_way_of_writing_are_not_taken_for_words(tmp_path, meaning):
    cells = WRITTEN[meaning] * (N // 4)
    with pytest.raises(mi.DataError, match=f"column 'c' holds .*{meaning}.*would be read as words"):
        read_dataset(file_of(tmp_path, USUAL | {"c": cells}), "t")
    with pytest.raises(mi.DataError, match=meaning):
        dataset_of(pd.DataFrame(USUAL | {"c": cells, "t": LABELS}), "t")


def test_words_with_commas_and_a_few_of_them_are_words(tmp_path):
    found = read_dataset(file_of(tmp_path, USUAL | {"c": ["3,5 bar", "no, thanks", "x", "a,b", "u"] * (N // 5)}), "t")
    assert found.schema is not None
    assert found.schema.columns[-1].kind == "category"


def test_a_first_row_is_not_taken_for_a_header(tmp_path):
    rows = {str(k): list(cells) for k, cells in enumerate(USUAL.values())}
    path = file_of(tmp_path, rows | {"2": [f"{i / 8:.3f}" for i in range(N)]}, header=False)
    first = path.read_text().splitlines()[0].split(";")
    with pytest.raises(mi.DataError, match="the first line looks like data and not like a header"):
        read_dataset(path, first[-1])
    path.write_text("u;v;q\n" * 5 + "x;v;r\n" * 5 + "u;w;q\n" * 5)
    with pytest.raises(mi.DataError, match=r"looks like data .*u, v, q"):
        read_dataset(path, "q")


def test_names_that_are_numbers_are_names(tmp_path):
    found = read_dataset(file_of(tmp_path, {"0": USUAL["a"], "1": USUAL["b"], "2": USUAL["b"][::-1]}), "t")
    assert found.schema is not None
    assert [column.name for column in found.schema.columns] == ["0", "1", "2"]


FORMS = {
    "python": "drop=['Unnamed: 0', 'id no', 'day'], drop_constant=True",
    "flags": "--drop 'Unnamed: 0,id no,day' --drop-constant",
    "toml": '\n  drop = ["Unnamed: 0", "id no", "day"]\n  drop_constant = true',
}


@pytest.mark.parametrize("form", FORMS)
def test_all_faults_of_a_file_are_told_at_once_with_what_mends_them(tmp_path, form):
    bad = {"id no": [f"p{i}" for i in range(N)], "same": [3] * N, "day": [f"2024-01-{1 + i % 9:02}" for i in range(N)]}
    path = file_of(tmp_path, {"": list(range(N)), **USUAL, **bad})
    with asked_by(form), pytest.raises(mi.DataError) as told:
        read_dataset(path, "t")
    said, _, remedy = str(told.value).partition("\nTo mend this, use ")
    first, *lines = said.splitlines()
    assert first.endswith("own.csv: it cannot be used as it is:")
    assert [line.split("'")[1] for line in lines] == ["Unnamed: 0", *bad]
    assert remedy == FORMS[form]
    found = read_dataset(path, "t", drop=["Unnamed: 0,id no", "day"], drop_constant=True)
    assert found.schema is not None
    assert [column.name for column in found.schema.columns] == list(USUAL)


def test_faults_behind_others_are_told_with_them_and_the_remedy_is_enough(tmp_path):
    """No header, decimal commas, a word for empty cells and a rare class: one refusal, and then the file is read."""
    path = tmp_path / "own.data"
    rows = [f"{i * 7 % 19 / 2:.1f};p{i};{'none' if i % 15 == 0 else i % 5};{'abc'[i % 3]}" for i in range(90)]
    path.write_text("\n".join([*rows, "1.5;q;2;d"]).replace(".", ","))
    with pytest.raises(mi.DataError) as told:
        read_dataset(path, "last")
    said, _, remedy = str(told.value).partition("\nTo mend this, use ")
    for word in ("the first line looks like data", "'0,0'", "'p0'", "'none'", "cells are empty", "class 'd'"):
        assert word in said
    found = read_dataset(path, "last", **eval(f"dict({remedy})"))
    assert found.classes == ("not a", "a")
    assert found.schema is not None
    assert [column.kind for column in found.schema.columns] == ["number", "integer"]


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ({"t": ["no", "No", "yes", "yes"] * (N // 4)}, "missing='impute'"),
        ({"c": [*(f"{i * 7 % 11}%" for i in range(N - 1)), None]}, "units=['%'], missing='impute'"),
    ],
)
def test_empty_cells_are_told_with_all_other_faults(fault, remedy):
    """Also where no option mends the others, and of a column that can be read only with an option."""
    frame = pd.DataFrame(USUAL | {"t": LABELS} | fault)
    frame["a"] = frame["a"].where(frame.index != 3)
    with pytest.raises(mi.DataError) as told:
        dataset_of(frame, "t")
    for name, row in ({"a": 3} | dict.fromkeys(fault.keys() - {"t"}, N - 1)).items():
        assert f"'{name}' (1, the first in row {row}" in str(told.value)
    assert str(told.value).endswith(f"use {remedy}")


def test_a_column_that_is_dropped_is_not_judged(tmp_path):
    frame = pd.DataFrame(USUAL | {"lists": [[i] for i in range(N)], "t": LABELS})
    frame.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(mi.DataError, match=r"'lists' holds lists; .*use drop=\['lists'\]"):
        read_dataset(tmp_path / "own.parquet", "t")
    found = read_dataset(tmp_path / "own.parquet", "t", drop=["lists"])
    assert found.schema is not None
    assert found.schema.order == ("a", "b", "t")
    np.testing.assert_array_equal(found.x, frame[["a", "b"]])


def test_names_that_differ_by_capitals_or_blanks_are_warned_of():
    frame = pd.DataFrame({"Net pay": USUAL["a"], "netpay": USUAL["b"], "c": USUAL["b"][::-1], "t": LABELS})
    with pytest.warns(UserWarning, match=r"capitals or blanks: 'Net pay' and 'netpay'; .*use drop=\['netpay'\]"):
        dataset_of(frame, "t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset_of(frame, "t", drop=["netpay"])


def test_labels_that_differ_by_capitals_are_refused(tmp_path):
    path = file_of(tmp_path, USUAL)
    path.write_text(path.read_text().replace("yes", "Yes", 3))
    with pytest.raises(mi.DataError, match="'t' holds the labels 'Yes' and 'yes', alike but for capitals"):
        read_dataset(path, "t")


@pytest.mark.parametrize("first", [0, 1, 1001])
def test_row_numbers_and_columns_that_tell_the_label_are_warned_of(tmp_path, first):
    told = [{"no": 0.25, "yes": 7.5}[label] + i / 100 for i, label in enumerate(LABELS)]
    path = file_of(tmp_path, USUAL | {"row": list(range(first, first + N)), "after": told})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read_dataset(path, "t")
    said = [str(one.message).split("own.csv: ")[1] for one in found]
    assert said[0] == "column 'row' numbers the rows; use drop=['row']"
    assert said[1].startswith("column 'after' alone tells the label of every row; ")
    assert len(said) == 2


def test_rows_that_occur_twice_are_counted(tmp_path):
    path = file_of(tmp_path, USUAL)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[1:11]]) + "\n")
    with pytest.warns(UserWarning, match="40% of the rows have the same features as another"):
        read_dataset(path, "t")


def test_decimals_are_those_of_the_file(tmp_path, rng):
    cells = {
        "tenths": [f"{v:.1f}" for v in rng.normal(300, 4, N)],
        "hundredths": [f"{v:.2f}" for v in rng.normal(0, 1, N)],
        "any": [f"{v:.9f}" for v in rng.normal(0, 1, N)],
    }
    data = read_dataset(file_of(tmp_path, cells), "t", feasible=["tenths=290.04:310.06"])
    assert data.schema is not None
    assert [column.decimals for column in data.schema.columns] == [1, 2, None]
    assert (data.schema.columns[0].low, data.schema.columns[0].high) == pytest.approx((290.1, 310.0))
    split = data.split()
    assert split.encoder is not None
    points = split.encoder.feasible.settle(jnp.asarray(rng.normal(0, 3, (50, 3)), jnp.float32))
    rows = split.encoder.decode(np.asarray(points), np.zeros(50, int))
    written = rows.to_csv(index=False).splitlines()[1:]
    assert {len(line.split(",")[0].split(".")[1]) for line in written} == {1}
    assert max(len(line.split(",")[1].split(".")[1]) for line in written) == 2
    # What is measured is what is written.
    again = split.encoder.transform(np.column_stack([rows["tenths"], rows["hundredths"], rows["any"]]))
    np.testing.assert_allclose(again, points, atol=2e-5)


def test_columns_of_float32_have_decimals_too():
    cells = pd.DataFrame({"a": np.array([0.1, 0.25, 3.5], np.float32), "b": np.array([0.1, 0.25, 3.5])})
    columns, _, _ = read_columns(cells, [0, 1], Source("own"), FileOptions.of())
    assert [column.decimals for column in columns] == [2, 2]


def test_a_data_frame_is_audited_as_it_is():
    frame = pd.DataFrame(USUAL | {"same": 1, "t": LABELS})
    options = {"attack": "flips", "points": 2, "splits": 1, "policies": ("fixed=3",), "epochs": 5}
    result = mi.audit(frame, target="t", drop=["same"], positive="yes", **options)
    assert result.dataset["classes"] == ["no", "yes"]
    assert result.rows[0, "fixed=3"][1].columns.tolist() == ["a", "b", "t"]
    with pytest.raises(mi.InputError, match="say which column holds the labels, target = one of 'a', 'b', 'same', 't'"):
        mi.audit(frame)
    with pytest.raises(mi.InputError, match=r"bounds = \[0.0, 1.0\]: .*by feasible = COLUMN=LOW:HIGH"):
        mi.audit(frame, target="t", drop=["same"], bounds=(0.0, 1.0), **options)
    with pytest.raises(mi.InputError, match=r"a data frame and a config: .*dataset_of"):
        mi.audit(frame, mi.AuditConfig.of(dataset="synthetic"))
