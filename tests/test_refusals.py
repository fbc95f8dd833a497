"""Data that cannot be used are refused, with the column, the line and the remedy, before anything is computed."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import mithridate as mi
from mithridate.data.tables import dataset_of, read_dataset
from patients import written


def csv(text: str | bytes, name: str = "own.csv", **options: Any) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        path = folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path, {"target": "t", **options}

    return write


def table(**changed: Any) -> str:
    """A CSV file with columns a (numbers), b (categories) and t (labels), changed at {line: text}."""
    lines = ["a,b,t", *(f"{i}.5,{'xyz'[i % 3]},{i % 2}" for i in range(20))]
    for line, text in changed.items():
        lines[int(line.removeprefix("line")) - 1] = text
    return "\n".join(lines) + "\n"


def with_a(cells: list[Any], labels: list[Any] | None = None, **options: Any) -> Callable[[Path], Any]:
    """A CSV file with columns a, these cells, b, and t, these labels or 0 and 1 in turn."""
    labels = labels or [i % 2 for i in range(len(cells))]
    rows = [f"{cell},{i / 3},{label}" for i, (cell, label) in enumerate(zip(cells, labels, strict=True))]
    return csv("\n".join(["a,b,t", *rows]) + "\n", **options)


def npz(**arrays: Any) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        np.savez(folder / "own.npz", **arrays)
        return folder / "own.npz", {}

    return write


def svm(text: str) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    return lambda folder: (csv(text, "own.svm")(folder)[0], {})


def parquet(frame: pd.DataFrame) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    return lambda folder: (written(folder, "own.parquet", frame), {"target": "t"})


def huge(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Far more text than there is memory, none of it on the disk."""
    path, options = csv(table())(folder)
    os.truncate(path, 2**42)
    return path, options


def lying(folder: Path) -> tuple[Path, dict[str, Any]]:
    """An npz file whose x says it has a million million rows."""
    path, options = npz(x=np.ones((9, 2)), y=np.arange(9))(folder)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["x.npy"] = content["x.npy"].replace(b"(9, 2), }            ", b"(1000000000000, 2), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in content.items():
            archive.writestr(name, part)
    return path, options


def cut(path: Path, keep: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


Y = np.arange(20) % 2
X = np.arange(40.0).reshape(20, 2)
FRAME = pd.DataFrame({"a": X[:, 0] + 0.5, "t": Y})

# fmt: off
REFUSED = {
    "no such file": (lambda folder: (folder / "none.csv", {}), "none.csv does not exist"),
    "a directory": (lambda folder: (folder, {}), "is a directory"),
    "unknown kind": (csv("%PDF\0", "own.pdf"), r"unknown kind of file '\.pdf'; use CSV or .*ARFF.*Parquet"),
    "JSON": (csv('[{"a": 1}]', "own.json"), "looks like JSON, which is not read"),
    "no such pattern": (lambda folder: (folder / "*.csv", {}), "does not exist"),
    "empty file": (csv(""), "own.csv is empty"),
    "blank file": (csv(" \n\n"), "own.csv is empty"),
    "header only": (csv("a,b,t\n"), "a header and no rows"),
    "no target": (csv(table(), target=None), "which column holds the labels, as target='last' .*are 'a', 'b', 't'"),
    "unknown target": (csv(table(), target="tt"), r"own.csv: no column 'tt'; did you mean 't'\?"),
    "unknown drop": (csv(table(), drop=["id"]), "no column 'id'; there are 'a', 'b', 't'"),
    "unknown place": (csv(table(), drop=["b,4"]), "drop = '4': there are 3 columns"),
    "unknown pattern": (csv(table(), keep=["id*"]), r"keep = 'id\*': no column's name matches; there are 'a'"),
    "target by pattern": (csv(table(), target="t*"), r"no column 't\*'"),
    "separator": (csv(table(), separator="::"), "separator = '::': give one character, tab or space"),
    "dropped target": (csv(table(), drop=["t"]), "drop = 't': this is the target"),
    "no features": (csv(table(), drop=["a", "b"]), "no column besides the target 't'"),
    "no label": (csv(table(line7="1,x,", line9="1,x,NA")), "2 row.* no label in column 't', .* line 7; .*drop"),
    "one class": (with_a([*range(20)], [1] * 20), "target 't' is '1' in every row"),
    "rare class": (with_a([*range(20)], ["p"] * 17 + ["q"] * 3), "class 'q' of column 't' has 3 row.*at least 4"),
    "words among numbers": (with_a([*range(1, 8), *"nmoq", *range(2)]), "'a' holds numbers, but 'n' in line 9 is none"),
    "codes among numbers": (with_a([*"123+" * 4, *"123" * 12]), r"numbers, but '\+' .*mend.*categorical=\['a'\]"),
    "leading zeros": (with_a([f"{i:02}" for i in range(5, 45)]), "'a' holds numbers, but '05' in line 2 is none"),
    "identifiers": (with_a([f"p{i}" for i in range(20)]), "'a' holds 20 different values in 20 rows.*use drop=.'a'."),
    "many categories": (with_a([f"p{i % 51}" for i in range(200)]), "51 different values in 200 .*max_categories=51"),
    "far too many": (with_a([f"p{i % 201}" for i in range(804)]), "201 different values .*use join_rare=True"),
    "many classes": (with_a([*range(204)], [f"c{i % 51}" for i in range(204)]), "51 different values.*join classes"),
    "constant": (with_a([3] * 20), "column 'a' holds a single value; .*drop_constant=True"),
    "constant text": (with_a(["u"] * 20), "column 'a' holds a single value"),
    "all empty": (with_a(["", "NA"] * 10), "column 'a' is empty in every row"),
    "infinite": (csv(table(line6="-inf,x,0", line8="inf,x,1")), "column 'a' holds 2 value.* line 6 .-inf"),
    "huge number": (csv(table(line6="1e200,x,0")), "infinite or above 1e.30, the first in line 6"),
    "whole number too large": (with_a([2**60 + i for i in range(20)]), r"'a' holds whole numbers above 2\^53"),
    "empty cells": (csv(table(line4=",x,0", line6="1,?,1")), r"'a' \(1, the first in line 4\), 'b' \(1, .*line 6"),
    "all rows dropped": (csv("a,b,t\n" + "1,,0\n,2,1\n2,,0\n,1,1\n", missing="drop"), "every row has an empty cell"),
    "unknown missing": (csv(table(), missing="ignore"), "missing = 'ignore': use refuse, drop, impute"),
    "too few cells": (csv(table(line7="5.5,0")), "line 7 has 2 cells, the header 3"),
    "too many cells": (csv('a,b,t\n1,"u\n\nv",0\n\n2,x,1,9\n'), "line 6 has 4 cells, the header 3; quote .*','"),
    "open quote": (csv('a,b,t\n1,"x,0\n' + "2,y,1\n" * 30000), "cannot be read|line 2|3 cells"),
    "not UTF-8": (csv(table(line9="7.5,é,0").encode("latin-1")), r"not UTF-8: line 9, byte \d+ is 0xe9; .*='cp1252'"),
    "too large": (huge, r"too large to be audited here: .* rows of 3 columns need about .* GiB are free; .*sample"),
    "double names": (csv(table(line1="a,a,t")), r"2 columns are called 'a', in places 1, 2; .*drop=\['2'\]"),
    "no name": (csv(table(line1=",b,t")), r"'Unnamed: 0' has no name .*index=False.*, or use drop=\['Unnamed: 0'\]"),
    "regression": (with_a([*range(20)], [i / 4 for i in range(20)]), r"not whole \(0.25 in line 3\), so it is a"),
    "many numbers": (with_a([*range(84)], [i % 21 for i in range(84)]), "21 different numbers, so it looks like a"),
    "dates": (with_a([f"2024-01-{i:02}" for i in range(10, 30)]), "'a' holds dates or times; turn them into numbers"),
    "positive": (csv(table(), positive="2"), "positive = '2': .*no such label; there are '0', '1'"),
    "feasible: form": (csv(table(), feasible=["a"]), "feasible 'a': .*COLUMN=LOW:HIGH"),
    "feasible: column": (csv(table(), feasible=["aa=1:2"]), r"no column 'aa'; did you mean 'a'\?"),
    "feasible: twice": (csv(table(), feasible=["a=1:2", "a=1:"]), "'a' is given twice"),
    "feasible: order": (csv(table(), feasible=["a=2:1"]), "2 lies above 1"),
    "feasible: numbers": (csv(table(), feasible=["a=x|y"]), "'a' holds numbers; give LOW:HIGH"),
    "feasible: nothing": (csv(table(), feasible=["a=:"]), "give LOW:HIGH, LOW: or :HIGH"),
    "feasible: infinite": (csv(table(), feasible=["a=:inf"]), "must be finite"),
    "feasible: category": (csv(table(), feasible=["b=x|w"]), "'b' has no category 'w'; the categories are 'x', "),
    "feasible: whole": (with_a([*range(20)], feasible=["a=1.2:1.8"]), "whole numbers, and none lies between"),
    "feasible: type": (lambda f: (npz(x=X.astype("u1"), y=Y)(f)[0], {"feasible": ["x1=0:256"]}), "from 0 to 255"),
    "parquet: another file": (csv("PAR1 no", "own.parquet"), "cannot be read as Parquet"),
    "parquet: cut": (lambda folder: (cut(written(folder, "own.parquet", FRAME), 0.7), {}), "cannot be read as Parquet"),
    "parquet: dates": (parquet(FRAME.assign(d=pd.Timestamp("2024"))), "'d' holds dates or times"),
    "parquet: lists": (parquet(FRAME.assign(d=pd.Series([[1]] * 20))), r"'d' holds lists; .*use drop=\['d'\]"),
    "parquet: text": (parquet(FRAME.assign(d=["1.5"] * 19 + ["x"])), "'x' in row 19 .counted from 0. is none"),
    "parquet: no rows": (parquet(FRAME[:0]), "a header and no rows"),
    "parquet: empty cells": (parquet(FRAME.assign(a=FRAME["a"].where(Y > 0))), r"'a' \(10, the first in row 0"),
    "npz: pickled": (npz(x=X, y=Y.astype(object)), "'y.npy' holds pickled Python objects, which could run code"),
    "npz: no x": (npz(features=X, y=Y), "no array 'x', only 'features', 'y'"),
    "npz: no y_test": (npz(x=X, y=Y, x_test=X), "no array 'y_test'"),
    "npz: shapes": (npz(x=X, y=Y[:5]), r"x has the shape \(20, 2\), y \(5,\)"),
    "npz: pictures": (npz(x=X.reshape(20, 1, 2), y=Y), r"\(n, m\) and \(n,\) are needed"),
    "npz: test features": (npz(x=X, y=Y, x_test=X[:, :1], y_test=Y), "x_test has the shape .* with the m of x"),
    "npz: no rows": (npz(x=X[:0], y=Y[:0]), r"x has the shape \(0, 2\)"),
    "npz: text": (npz(x=X.astype(str), y=Y), "x holds <U.*, not numbers"),
    "npz: NaN": (npz(x=np.where(X == 7, np.nan, X), y=Y), r"'x1' \(1, the first in row 3 .*missing"),
    "npz: infinite": (npz(x=np.where(X == 7, np.inf, X), y=Y), "column 'x1' holds 1 value.*row 3"),
    "npz: target": (lambda folder: (npz(x=X, y=Y)(folder)[0], {"target": "y"}), "target = 'y': only tables"),
    "npz: another file": (csv("hello", "own.npz", target=None), "cannot be read as NPZ"),
    "npz: cut": (lambda folder: (cut(npz(x=X, y=Y)(folder)[0], 0.7), {}), "cannot be read as NPZ"),
    "npz: damaged": (lambda folder: ((folder / "own.npz"), {}) if lying(folder) else None, "which is not its size"),
    "svmlight: word": (svm("1 1:2 2:3\n0 1:1\n\n1 1:x\n"), "line 4 is not svmlight: '1 1:x'"),
    "svmlight: order": (svm("1 2:2 1:3\n0 1:1\n"), "line 1 is not svmlight.*rising order"),
    "svmlight: empty": (svm(""), "is empty|no features"),
    "svmlight: several labels": (svm("1,2 1:1\n0 1:2\n"), "line 1 is not svmlight"),
    "svmlight: too wide": (svm("1 1:1 2000000000:1\n0 1:2\n" * 40), "zeros included, need about"),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path, case):
    write, message = REFUSED[case]
    path, options = write(tmp_path)
    with pytest.raises((mi.DataError, mi.InputError), match=message) as caught:
        read_dataset(path, **options)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "gone off"),)

    content = pickle.dumps(Bomb())
    (tmp_path / "own.npz").write_bytes(content)
    np.savez(tmp_path / "inside.npz", x=np.array([Bomb()] * 9, dtype=object), y=np.arange(9))
    for name in ("own.npz", "inside.npz"):
        with pytest.raises(mi.DataError):
            read_dataset(tmp_path / name)
    assert not (tmp_path / "gone off").exists()


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((X, Y[:3]), {}, r"x must be \(n, m\) and y \(n,\)"),
        ((X, "y"), {}, "no named columns"),
        ((X, Y), {"test": (X[:, :1], Y)}, r"test rows must be \(k, 2\)"),
        ((FRAME, "u"), {}, "no column 'u'"),
        ((FRAME, FRAME["t"]), {}, "the labels are called 't', and so is a column"),
        ((FRAME, Y[:3]), {}, r"labels must be \(20,\)"),
        ((FRAME, "t"), {"test": FRAME[["t"]]}, "other columns"),
        ((FRAME.assign(c=[1, "u"] * 10), "t"), {}, "'c' holds mixed-integer values"),
        ((FRAME.set_axis(["t", "t"], axis=1), "t"), {}, "several columns are called 't'; give its place, one of 1, 2"),
        ((scipy.sparse.csr_array((20, 10**12)), Y), {}, "zeros included, need about"),
    ],
)
def test_what_cannot_be_used_in_memory_is_refused(given, options, message):
    with pytest.raises((mi.DataError, mi.InputError), match=message):
        dataset_of(*given, **options)
