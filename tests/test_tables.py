"""Tables 1 to 3: what is printed is what the program uses, and every difference from the paper is named."""

from dataclasses import replace

import pandas as pd
import pytest

import mithridate as mi
from mithridate.configuration import presets
from mithridate.reproduction import FIGURES
from mithridate.reproduction.tables import OTHERS, PAPER

VICTIMS = [*PAPER, *OTHERS]


@pytest.fixture(scope="module")
def tables():
    return {name: FIGURES[name]() for name in ("table1", "table2", "table3")}


def row(table, victim: str) -> pd.Series:
    (found,) = [r for _, r in table.frame.iterrows() if r.iloc[0] == victim]
    return found


def test_the_tables_are_the_presets(tables):
    for dataset, model in VICTIMS:
        own, victim = presets.setting(dataset, model), f"{dataset} ({'DNN' if model == 'mlp' else 'LR'})"
        attack, training = row(tables["table2"], victim), row(tables["table3"], victim)
        assert attack["T_Dp"] == f"{own.hyperiterations:,}"
        assert attack["T_mult"] == f"{own.joint_hyperiterations:,}"
        assert (float(attack["α"]), float(attack["β"])) == (own.poison_step, own.hyper_step)
        assert (float(attack["η"]), attack["T"]) == (own.learning_rate, f"{own.inner_steps:,}")
        assert float(training["η_tr"]) == own.train_learning_rate
        assert training["batch size"] == f"{own.batch_size:,}"
        assert training["epochs"] == f"{own.epochs:,}"


def test_a_preset_that_departs_from_the_paper_is_named(monkeypatch):
    other = replace(presets.SETTINGS["mnist"], poison_step=0.5, epochs=7, strength_bounds=(-8.0, 3.0))
    monkeypatch.setitem(presets.SETTINGS, "mnist", other)
    attack, training = (row(FIGURES[name]("mnist-0v8"), "mnist-0v8 (LR)") for name in ("table2", "table3"))
    assert attack["α"] == "0.5"
    assert "α: 0.99 in the paper" in attack["differences"]
    assert "Φ(λ): [-8, log(200)] in the paper" in attack["differences"]
    assert "β" not in attack["differences"]
    assert training["differences"] == "epochs: 200 in the paper"


def test_the_rows_are_counted_in_the_data(tables):
    synthetic = row(tables["table1"], "synthetic")
    assert (synthetic["training rows"], synthetic["validation rows"], synthetic["features"]) == ("16/16", "32/32", "2")
    assert synthetic["differences"] == "none"
    digits = row(tables["table1"], "digits-0v8")
    split = mi.load_dataset("digits-0v8").split()
    assert digits["test rows"] == f"{(split.y_test == 0).sum()}/{(split.y_test == 1).sum()}"
    assert digits["differences"] == "not in the paper"


def test_inner_training_is_told_as_it_runs(monkeypatch):
    faster = replace(presets.setting("breast-cancer"), learning_rate=0.5)
    monkeypatch.setitem(presets.SETTINGS, "breast-cancer", faster)
    cut = row(FIGURES["table2"]("breast-cancer"), "breast-cancer (LR)")["differences"]
    assert cut.startswith("not in the paper; η and T: run as")
    eta, _, T = cut.partition("run as ")[2].partition(" and ")
    own = presets.setting("breast-cancer")
    assert float(eta) * float(T.replace(",", "")) == pytest.approx(own.learning_rate * own.inner_steps, rel=1e-3)
    assert int(T.replace(",", "")) > own.inner_steps


def test_data_that_are_not_at_hand_are_neither_loaded_nor_made_up(monkeypatch, tmp_path):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    frames = [FIGURES[name]() for name in ("table1", "table2")]
    assert not any(tmp_path.iterdir()), "nothing is downloaded"
    sizes, attack = row(frames[0], "dogfish"), row(frames[1], "mnist-0v8 (LR)")
    assert (sizes["test rows"], sizes["features"], sizes["differences"]) == ("600", "2,048", "none")
    assert attack["Φ(X_p)"] == "—"
    assert "Φ(X_p): unknown, the data are not at hand; [0, 1] in the paper" in attack["differences"]
    with pytest.raises(mi.DataError):
        FIGURES["table1"]("dogfish")
    with pytest.raises(mi.InputError, match="unknown data set"):
        FIGURES["table2"]("nonsuch")


def test_a_table_is_saved_as_data_and_as_text(tables, tmp_path):
    target = tables["table3"].save(tmp_path / "table3")
    assert {path.name for path in target.iterdir()} == {"table3.parquet", "table3.md", "settings.json"}
    pd.testing.assert_frame_equal(pd.read_parquet(target / "table3.parquet"), tables["table3"].frame)
    lines = (target / "table3.md").read_text().splitlines()
    assert lines[0].startswith("| victim")
    assert len({len(line) for line in lines[: 2 + len(VICTIMS)]}) == 1
    assert "ImageNet (dog vs fish) (DNN)" in "\n".join(lines)
    with pytest.raises(mi.StorageError, match="not an empty directory"):
        tables["table3"].save(target)
