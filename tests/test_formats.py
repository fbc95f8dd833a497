"""Files as people have them: packed, without a header, with other separators, of other programs."""

import bz2
import gzip
import lzma
import shlex
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.datasets import dump_svmlight_file

import mithridate as mi
from mithridate.configuration.reading import asked_by, joined, parts, told
from mithridate.data.sources import files_of, place_of, prepared
from mithridate.data.tables import dataset_of, read_dataset, read_labelled
from mithridate.files import packed
from patients import patients

pytestmark = pytest.mark.filterwarnings("ignore:.*same features as another", "ignore:.*alone tells the label")
TARGET = "diagnosis"
FRAME = patients(120)
TEXT = FRAME.to_csv(index=False)
NAMES = [column for column in FRAME.columns if column != TARGET]


def names_of(data: mi.Dataset) -> list[str]:
    assert data.schema is not None
    return [column.name for column in data.schema.columns]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(text: str, *more: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/x", "")
            for name in ("own.csv", *more):
                archive.writestr(name, text)

    return write


PACKED: dict[str, Callable[[Path], Any]] = {
    "own.csv.gz": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
    "own.csv.bz2": lambda path: path.write_bytes(bz2.compress(TEXT.encode())),
    "own.csv.xz": lambda path: path.write_bytes(lzma.compress(TEXT.encode())),
    "own.csv.zst": lambda path: path.write_bytes(bytes(pa.compress(TEXT.encode(), codec="zstd", asbytes=True))),
    "own.zip": zipped(TEXT),
    "own.csv": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_are_read_and_bombs_are_not(tmp_path, name, monkeypatch):
    PACKED[name](tmp_path / name)
    found = read_dataset(tmp_path / name, TARGET)
    assert found.name == "own"
    np.testing.assert_array_equal(found.x, dataset_of(FRAME, TARGET).x)
    monkeypatch.setattr(packed, "UNPACKED", len(TEXT) - 1)
    with pytest.raises(mi.DataError, match=r"holds more than [\d,]+ bytes unpacked; unpack it first"):
        read_dataset(tmp_path / name, TARGET)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(mi.DataError, match="cannot be read"):
        read_dataset(tmp_path / name, TARGET)


def test_an_archive_of_several_files_is_refused(tmp_path):
    zipped(TEXT, "other.csv")(tmp_path / "own.zip")
    with pytest.raises(mi.DataError, match="it holds 2 files, not one; unpack it first"):
        read_dataset(tmp_path / "own.zip", TARGET)


BARE = FRAME.drop(columns="smoker").assign(ward=FRAME["ward"].str.replace("-", " "))
LINES = BARE.to_csv(index=False, sep=";")
KINDS = ["real", "integer", "numeric", "string", "{east, north,west,'north east'}", "real"]
DIALECTS = {
    "bars": ("own.txt", BARE.to_csv(index=False, sep="|"), {}),
    "said in the first line": ("own.csv", f"sep=;\r\n{LINES}", {}),
    "said by the user": ("own.csv", BARE.to_csv(index=False, sep="^"), {"separator": "^"}),
    "UTF-16": ("own.csv", LINES.encode("utf-16"), {}),
    "no ending": ("own", LINES, {}),
    "comments": ("own.data", f"# of\n# two lines\n{LINES}# and, one; at the end\n\n", {}),
    "comments with commas": ("own.csv", f"# a, b\n{LINES}", {}),
    "the header in a comment": ("own.data", f"# {LINES}", {}),
    "blanks": ("own.dat", BARE.to_csv(index=False, sep="\t", quoting=2).replace("\t", "   "), {}),
    "single quotes": ("own.csv", BARE.to_csv(index=False, quotechar="'", quoting=2), {}),
    "the end of each line": ("own.csv", LINES.replace("\n", ";\n"), {}),
    "the end of each line but the first": ("own.csv", LINES.replace("\n", ";\n").replace(";\n", "\n", 1), {}),
    "the end of the first line": ("own.csv", LINES.replace("\n", ";\n", 1), {}),
    "no header": ("own.data", LINES.partition("\n")[2], {"header": "none"}),
    "Latin": ("own.csv", LINES.replace("east", "Süd").encode("latin-1"), {"encoding": "latin-1"}),
    "ARFF": (
        "own.arff",
        "% of Weka\n@RELATION own\n"
        + "".join(
            f"@attribute {name!r} {kind}\n"
            for name, kind in zip(BARE.columns, KINDS, strict=True)
        )
        + f"@DATA\n% none\n{BARE.to_csv(index=False, quotechar=chr(39)).partition(chr(10))[2]}",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIALECTS)
def test_text_in_any_dialect_is_the_same_table(tmp_path, case):
    name, content, options = DIALECTS[case]
    found = read_dataset(written(tmp_path, name, content), 4, **options)
    same = dataset_of(BARE, TARGET, name="own")
    places = [place for place, column in enumerate(names_of(same)) if column != "ward"]
    np.testing.assert_array_equal(found.x[:, places], same.x[:, places])
    np.testing.assert_array_equal(found.y, same.y)
    assert names_of(found) == (["1", "2", "3", "5", "6"] if case == "no header" else names_of(same))


def test_what_r_writes_and_a_remark_above_a_table(tmp_path):
    rows = BARE.to_csv(sep=" ", quoting=2).replace('"" ', "", 1)
    with pytest.raises(mi.DataError, match=r"'Unnamed: 0' has no name .* or use drop=\['Unnamed: 0'\]"):
        read_dataset(written(tmp_path, "own.txt", rows), TARGET)
    found = read_dataset(tmp_path / "own.txt", TARGET, drop=["Unnamed: 0"])
    assert names_of(found) == names_of(dataset_of(BARE, TARGET))
    with pytest.warns(UserWarning, match="'Report of Monday' above the table is taken for a remark"):
        found = read_dataset(written(tmp_path, "own.csv", f"Report of Monday\n\n{TEXT}"), TARGET)
    assert len(found.y) == 120


def test_what_cannot_be_read_is_told_with_what_to_do(tmp_path):
    arff = written(tmp_path, "own.arff", "@relation x\n@attribute a numeric\n@attribute t {p,q}\n@data\n{0 1, 1 q}\n")
    with pytest.raises(mi.DataError, match="sparse ARFF is not read; write all values, or use svmlight"):
        read_dataset(arff, "t")
    arff.write_text(arff.read_text().replace("{0 1, 1 q}", "1,p\n2,r"))
    with pytest.raises(mi.DataError, match="'t' holds 'r' in line 6, which is not a value that its header lists"):
        read_dataset(arff, "t")
    fixed = written(tmp_path, "own.txt", "a   b\n1  one\n2  two or so\n3  xx and all\n")
    with pytest.raises(mi.DataError, match=r"no comma, .* name it, as separator=':'"):
        read_dataset(fixed, "b")
    text = {"separator": ";", "header": "none", "encoding": "cp1252"}
    for name, value in text.items():
        with pytest.raises(mi.InputError, match=f"{name} = '{value}': only for text files"):
            dataset_of(FRAME, TARGET, **{name: value})


def test_svmlight_is_known_by_what_it_holds(tmp_path, rng):
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2 * 2 - 1
    dump_svmlight_file(x, y, str(tmp_path / "a1a"))
    np.testing.assert_allclose(read_dataset(tmp_path / "a1a").x, x, rtol=1e-12)
    content = gzip.compress((tmp_path / "a1a").read_bytes())
    np.testing.assert_allclose(read_dataset(written(tmp_path, "own.svm.gz", content)).x, x, rtol=1e-12)


def test_excel_is_read_as_text_is(tmp_path, monkeypatch):
    pytest.importorskip("openpyxl")
    path = tmp_path / "own.xlsx"
    shown = FRAME.assign(born=pd.to_datetime(FRAME["born"].astype(str)), empty=None)
    with pd.ExcelWriter(path) as book:
        shown.to_excel(book, index=False, startrow=2)
        shown.to_excel(book, sheet_name="more")
    with pytest.warns(UserWarning, match="it has 2 sheets; only the first, 'Sheet1', is read"):
        found = read_dataset(path, TARGET, drop=["empty", "born"])
    np.testing.assert_array_equal(found.x, dataset_of(FRAME, TARGET, drop=["born"]).x)
    with pytest.raises(mi.DataError, match="'born' holds dates"), pytest.warns(UserWarning, match="2 sheets"):
        read_dataset(path, TARGET, drop_constant=True)
    shown.loc[3, "nodes"] = np.nan
    shown.to_excel(path, index=False, startrow=2)
    with pytest.raises(mi.DataError, match=r"'nodes' \(1, the first in row 7 of the sheet\)"):
        read_dataset(path, TARGET, drop=["empty", "born"])
    monkeypatch.setattr("mithridate.data.readers.UNPACKED", 1000)
    with pytest.raises(mi.DataError, match="bytes unpacked, and at most 1,000 are read; save it as CSV"):
        read_dataset(path, TARGET)


def test_excel_without_its_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(mi.DataError, match=r"needs openpyxl: pip install 'mithridate\[excel\]'; or save it as CSV"):
        read_dataset(written(tmp_path, "own.xlsx", "PK"), TARGET)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"drop": ["nodes,born", "smoker"]}, ["radius [mm]", "ward", "texture"]),
        ({"drop": "#1,-1"}, ["nodes", "born", "smoker", "ward"]),
        ({"drop": [2, "last"]}, ["radius [mm]", "born", "smoker", "ward"]),
        ({"drop": ["*[mo]*"]}, ["ward", "texture"]),
        ({"drop": ["radius [mm]"]}, NAMES[1:]),
        ({"keep": ["*s*,born"]}, ["radius [mm]", "nodes", "born", "smoker"]),
        ({"keep": ["nodes", "born"], "drop": ["born"]}, ["nodes"]),
    ],
)
@pytest.mark.parametrize("target", [TARGET, 4, "-4"])
def test_columns_are_named_by_name_place_or_pattern(options, kept, target):
    assert names_of(dataset_of(FRAME, target, **options)) == kept


def test_a_name_with_a_comma_and_one_of_digits_are_names(tmp_path):
    frame = FRAME.rename(columns={"nodes": "a, b", "born": "a", "ward": "b", "texture": "2"})
    found = dataset_of(frame, TARGET, drop=["a, b"])
    assert names_of(found) == ["radius [mm]", "a", "smoker", "b", "2"]
    assert names_of(dataset_of(frame, TARGET, drop=['a,"a, b",2'])) == ["radius [mm]", "smoker", "b"]
    twice = frame.set_axis(["x", "x", *frame.columns[2:]], axis="columns")
    with pytest.raises(mi.DataError, match=r"2 columns are called 'x', in places 1, 2; .*, or use drop=\['#2'\]"):
        dataset_of(twice, TARGET)
    assert names_of(dataset_of(twice, TARGET, drop=["#2"])) == ["x", "a", "smoker", "b", "2"]
    twice.to_csv(tmp_path / "own.csv", index=False)
    assert names_of(read_dataset(tmp_path / "own.csv", TARGET, drop=["#2"])) == ["x", "a", "smoker", "b", "2"]


def test_remedies_can_be_pasted():
    options = {"drop": ["row id", 'a, "b"', "it's"], "drop_constant": True, "thousands": " "}
    with asked_by("flags"):
        assert shlex.split(told(options)) == ["--drop", joined(options["drop"]), "--drop-constant", "--thousands", " "]
        assert told({"drop": ["a, b"]}) == "--drop 'a, b'"
    assert parts(joined(options["drop"])) == options["drop"]
    given = mi.AuditConfig.of(dataset="own.csv", drop=["x"])
    assert told({"drop": ["y"]}, given) == "drop=['x', 'y']"
    with asked_by("toml"):
        assert told({"drop": ['ÿ"']}, given) == 'drop = ["x", "ÿ\\""]'


def test_several_files_are_one_table(tmp_path, monkeypatch):
    FRAME[:50].to_csv(tmp_path / "p1.csv", index=False)
    FRAME[50:].iloc[:, ::-1].to_csv(tmp_path / "p2.csv", index=False)
    monkeypatch.chdir(tmp_path)
    same = dataset_of(FRAME, TARGET)
    for dataset in ("p*.csv", "p1.csv,p2.csv", ["p1.csv", "p2.csv"]):
        data, config = prepared(dataset, None, {"target": TARGET})
        np.testing.assert_array_equal(data.x, same.x)
        assert prepared(data, config, {})[0] is data, "as the command line gives them"
    assert (data.name, config.dataset) == ("p1+1", "p1.csv,p2.csv")
    assert files_of(place_of("p*.csv")) == [tmp_path / "p1.csv", tmp_path / "p2.csv"]
    FRAME[50:].assign(nodes="").to_csv(tmp_path / "p2.csv", index=False)
    with pytest.raises(mi.DataError, match=r"'nodes' \(70, the first in line 2 of p2.csv\)"):
        read_dataset(["p1.csv", "p2.csv"], TARGET)
    FRAME[50:].rename(columns={"nodes": "n"}).to_csv(tmp_path / "p2.csv", index=False)
    with pytest.raises(mi.DataError, match=r"p1.csv and p2.csv must have the same columns, .*only one .*'n'"):
        read_dataset(["p1.csv", "p2.csv"], TARGET)
    with pytest.raises(mi.DataError, match=r"q\*.csv: no file matches this pattern"):
        prepared("q*.csv", None, {"target": TARGET})


MONEY = {"a": ["$1,000.50", "$20", "$3", "$1,250,000"], "b": ["5%", "12.5 %", "7%", "3 %"], "c": ["1", "2", "3", "x"]}


def test_numbers_are_read_as_they_are_said_to_be_written(tmp_path):
    frame = pd.DataFrame(MONEY | {"t": ["p", "q", "q", "p"]}).loc[np.arange(40) % 4].reset_index(drop=True)
    options = {"units": ["%,$"], "thousands": ",", "na_values": "x", "missing": "impute"}
    for data in (
        dataset_of(frame, "t", **options),
        read_dataset(written(tmp_path, "own.csv", frame.to_csv(index=False)), "t", **options),
    ):
        np.testing.assert_array_equal(data.x[:4, :2], [[1000.5, 5], [20, 12.5], [3, 7], [1.25e6, 3]])
    assert np.isnan(data.x[3, 2])
    german = ["1.000,5", "0,25", "3", "1.250"]
    found = dataset_of(frame.assign(a=german * 10), "t", decimal=",", thousands=".", keep="a")
    np.testing.assert_array_equal(found.x[:4, 0], [1000.5, 0.25, 3, 1250])
    found = dataset_of(frame.assign(a=["1'000", "1 250", "1\u00a0000", "3"] * 10), "t", thousands=" ", keep="a")
    np.testing.assert_array_equal(found.x[:4, 0], [1000, 1250, 1000, 3])


@pytest.mark.parametrize("name", ["own.csv", "own.parquet", "frame"])
def test_empty_cells_and_rare_categories_are_categories_that_are_written_back(tmp_path, name):
    n = 120
    ward = [["east", "?" if name == "own.csv" else None, "north", "east"][i % 4] for i in range(n)]
    city = [f"c{i % 60}" if i < 60 else "c7" if i < 70 else "c3" for i in range(n)]
    code = [1 + i * 7 % 3 for i in range(n)]
    frame = pd.DataFrame({"ward": ward, "city": city, "code": code, "t": ["p", "q", "q"] * (n // 3)})
    options: dict[str, Any] = {"missing": "category", "max_categories": 2, "join_rare": True, "categorical": ["code"]}
    path = tmp_path / name
    if name != "frame":
        frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    with pytest.raises(mi.DataError, match=r"cells are empty in column\(s\) 'ward' .*, or category .*missing='impute'"):
        dataset_of(frame.replace("?", None), "t", **options | {"missing": "refuse", "max_categories": 60})
    data = dataset_of(frame, "t", **options) if name == "frame" else read_dataset(path, "t", **options)
    assert data.schema is not None
    first, second, third = data.schema.columns
    assert first.labels == ("east", "north", "?" if name == "own.csv" else "")
    assert second.labels == ("c3", "(rare)")
    assert third.labels == ("1", "(rare)") or third.labels == ("2", "(rare)") or third.labels == ("3", "(rare)")
    split = data.split()
    rows = split.decode(split.x_train, split.y_train)
    was = frame.iloc[split.train_rows].reset_index(drop=True)
    assert rows["ward"].fillna("").tolist() == was["ward"].fillna("").tolist()
    assert set(rows["city"]) == {"c3", "c7"}
    assert (rows["city"] == was["city"].where(was["city"] == "c3", "c7")).all()
    assert set(rows["code"].astype(int)) <= set(code)
    # What is written is read as what was measured.
    rows.to_csv(tmp_path / "rows.csv", index=False)
    raw, y = read_labelled(tmp_path / "rows.csv", data.schema)
    np.testing.assert_array_equal(split.encode(raw), split.x_train)
    np.testing.assert_array_equal(y, split.y_train)
    was.assign(city="c59").to_csv(tmp_path / "rows.csv", index=False)
    np.testing.assert_array_equal(read_labelled(tmp_path / "rows.csv", data.schema)[0][:, 1], 1)


def test_empty_numbers_are_no_category():
    frame = patients(120, empty=0.05)
    with pytest.raises(mi.DataError, match=r"numbers have no category of their own .*missing='category,impute'"):
        dataset_of(frame, TARGET, missing="category")
    found = dataset_of(frame, TARGET, missing="category,impute")
    assert found.schema is not None
    kinds = {column.name: (column.kind, column.missing) for column in found.schema.columns}
    assert kinds["smoker"] == ("category", 2)
    assert kinds["ward"] == ("category", 4)
    assert kinds["nodes"] == ("integer", None)
    dropped = dataset_of(frame, TARGET, missing="category,drop")
    assert frame[["radius [mm]", "nodes", "born", "texture"]].notna().all(axis=1).sum() == len(dropped.y)


def test_words_that_say_that_a_cell_is_empty_may_be_labels(tmp_path):
    path = written(tmp_path, "own.csv", TEXT.replace("benign", "None"))
    with pytest.raises(mi.DataError, match=r"'None' \(if that is a label, keep_.*\); .*or use keep_default_na=False"):
        read_dataset(path, TARGET)
    assert read_dataset(path, TARGET, keep_default_na=False).classes == ("None", "malignant")
    labelled = FRAME.assign(diagnosis=FRAME[TARGET].where(np.arange(120) > 9))
    with pytest.warns(UserWarning, match="10 row.s. have no label and are left out"):
        assert len(dataset_of(labelled, TARGET, missing="impute").y) == 110


def test_further_rows_are_read_as_the_file_was(tmp_path):
    options = {"decimal": ",", "header": "none", "separator": ";"}
    path = written(tmp_path, "own.data", BARE.to_csv(index=False, header=False, sep=";", decimal=","))
    data = read_dataset(path, 4, **options)
    assert data.schema is not None
    np.testing.assert_array_equal(read_labelled(path, data.schema)[0], data.x)
    split = data.split()
    split.decode(split.x_train, split.y_train).to_csv(tmp_path / "poison.csv", index=False)
    raw, _ = read_labelled(tmp_path / "poison.csv", data.schema)
    np.testing.assert_allclose(split.encode(raw), split.x_train, atol=1e-6)


def test_constant_columns_are_left_out_at_a_word():
    frame = FRAME.assign(**{f"k{place}": 1 for place in range(5)}, none=None)
    with pytest.raises(mi.DataError, match=r"6 columns are empty .*'k0', .* and 1 more\nTo mend this, use drop=\['w"):
        dataset_of(frame.assign(city=[f"p{i}" for i in range(120)]), TARGET, drop="ward")
    assert names_of(dataset_of(frame, TARGET, drop_constant=True)) == NAMES


def test_a_table_without_features_is_refused():
    with pytest.raises(mi.DataError, match="there is nothing to learn from"):
        dataset_of(FRAME[[TARGET]].assign(a=1), TARGET, drop_constant=True)
