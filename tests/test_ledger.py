"""All figures in one run, the claims of many runs as one table, and what the command line refuses."""

import json
import sys

import pandas as pd
import pytest
from matplotlib.figure import Figure

import mithridate as mi
from mithridate import cli
from mithridate.auditing.audit import Progress
from mithridate.reproduction import FIGURES, Reproduction
from mithridate.reproduction.ledger import read_claims
from mithridate.reproduction.outcome import above, claim


def made(name: str, *values: float) -> Reproduction:
    said = claim("1", f"What {name} says.", pd.Series(values), "points", above(1.0), "So it was.", where="Sect. 9")
    return Reproduction(name, pd.DataFrame({"x": values}), (said,), f"{name} again", {"config": {}}, Figure())


@pytest.fixture
def figures(monkeypatch) -> list[dict]:
    """Two figures and one whose data are missing, instead of the paper's; what each was asked."""
    asked = []

    def missing(dataset, **options):
        raise mi.DataError("the file is not there; put it into the data directory")

    def making(name, *values):
        def make(dataset, *, on_progress, **options):
            asked.append({"figure": name, "dataset": dataset, **options})
            on_progress(Progress(0, 1, "cell"))
            return made(name, *values)

        return make

    for name in list(FIGURES):
        monkeypatch.delitem(FIGURES, name)
    for name, make in {"one": making("one", 2.0, 2.1, 1.9), "gone": missing, "two": making("two", 0.0, 0.1)}.items():
        monkeypatch.setitem(FIGURES, name, make)
    return asked


@pytest.fixture
def mithridate(monkeypatch, tmp_path, capsys):
    """The command line in an empty folder: exit code, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mithridate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "0")  # so that `main` leaves none behind
    return call


def test_everything_goes_on_past_a_figure_whose_data_are_missing(figures, mithridate, tmp_path):
    code, out, err = mithridate("reproduce", "all", "--out", "run", "--splits", 3, "--preset", "paper", "--seed", 4)
    assert code == 3, "something was left out"
    assert "gone was left out: the file is not there" in err
    assert [asked["figure"] for asked in figures] == ["one", "two"]
    assert figures[1] == {"figure": "two", "dataset": None, "preset": "paper", "splits": 3, "seed": 4}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"one", "two", "claims.json"}
    assert (tmp_path / "run" / "two" / "two.png").exists()
    said = json.loads((tmp_path / "run" / "claims.json").read_text())
    assert [figure["figure"] for figure in said["figures"]] == ["one", "two"]
    assert list(said["left_out"]) == ["gone"]
    for word in ("What one says.", "Sect. 9", "+2 ±", "does not hold", "1 holds, 1 does not hold"):
        assert word in out


def test_claims_are_read_from_the_last_run_or_from_what_is_named(figures, mithridate, tmp_path):
    code, _, err = mithridate("reproduce", "claims")
    assert code == 2
    assert "run `mithridate reproduce all` first" in err
    mithridate("reproduce", "all")
    mithridate("reproduce", "one", "--out", "alone")
    code, out, _ = mithridate("reproduce", "claims")
    assert code == 0
    assert "What one says." in out
    assert "What two says." in out
    code, out, _ = mithridate("reproduce", "claims", "--from", "alone")
    assert "What one says." in out
    assert "What two says." not in out
    (run,) = tmp_path.glob("mithridate-all-*")
    (run / "claims.json").unlink()
    assert [entry.figure for entry in read_claims([run, "alone"])] == ["one", "two", "one"], "cut short, still read"


def test_several_figures_go_into_one_directory(figures, mithridate, tmp_path):
    code, out, _ = mithridate("reproduce", "two", "one", "two", "--out", "some")
    assert code == 0
    assert [asked["figure"] for asked in figures] == ["two", "one"]
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"one", "two", "claims.json"}
    assert "What one says." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fig9",), "no figure 'fig9' to reproduce; choose from one, gone, two, or all or claims or page alone"),
        (("one", "all"), "no figure 'all' to reproduce"),
        (("gone",), "the file is not there"),
        (("one", "--out", "taken"), "not an empty directory"),
        (("all", "--out", "taken"), "not an empty directory"),
        (("all", "--splits", "0"), "splits"),
        (("one", "--preset", "slow"), "preset"),
        (("one", "--from", "taken"), "one takes --out"),
        (("claims", "--from", "taken"), "holds no claims"),
        (("claims", "--from", "nowhere"), "holds no claims"),
        (("claims", "--from", "broken"), "does not hold claims"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments, message, figures, mithridate, tmp_path):
    for name, text in (("taken/file", "x"), ("broken/claims.json", '{"figure": "one", "claims": [{"number": 1}]}')):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    code, out, err = mithridate("reproduce", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "broken"}, "nothing is left behind"
    assert not figures, "nothing was computed"


def test_every_figure_and_table_of_the_paper_has_a_name():
    names = [f"fig{n}" for n in range(1, 9)] + [f"table{n}" for n in range(1, 4)]
    assert list(FIGURES) == names
