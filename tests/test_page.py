"""The page about what was reproduced: everything that was saved is on it, as it was saved."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

import mithridate as mi
from mithridate.reproduction.outcome import Reproduction, above, claim
from mithridate.reproduction.page import write_page
from mithridate.reproduction.tables import table1


def figure(name: str, gain: float) -> Reproduction:
    said = claim(
        "1", "The error | rises.", pd.Series([gain, gain + 0.1, gain - 0.1]), "points", above(0.0), "Seen.", "Sect. 5.1"
    )
    frame = pd.DataFrame({"split": [0], "test_error": [0.1]})
    return Reproduction(name, frame, (said,), f"Caption of {name}.\nT = 3.", {"preset": "quick"}, Figure())


@pytest.fixture
def run(tmp_path):
    for name, gain in (("fig2", 1.0), ("fig5", -1.0)):
        figure(name, gain).save(tmp_path / "all" / name)
    table1().save(tmp_path / "all" / "table1")
    return tmp_path / "all"


def test_figures_tables_captions_and_claims_are_on_the_page_in_order(run, tmp_path):
    text = write_page([run], tmp_path / "docs" / "made.md").read_text(encoding="utf-8")
    places = [text.index(part) for part in ("## Fig. 2", "Caption of fig2.", "## Fig. 5", "## Table 1", "MNIST")]
    assert places == sorted(places)
    assert r"The error \| rises. [Sect. 5.1]" in text
    second, fifth = text.split("## Fig. 5")
    assert "+1 ± 0.25 points; expected > 0. Seen. | **holds** |" in second
    assert "**does not hold**" in fifth
    for name in ("fig2", "fig5"):
        assert f"(images/made/{name}.png)" in text
        assert (tmp_path / "docs" / "images" / "made" / f"{name}.png").stat().st_size > 0


def test_a_single_figure_s_directory_will_do(run, tmp_path):
    text = write_page([run / "fig5"], tmp_path / "made.md").read_text(encoding="utf-8")
    assert "## Fig. 5" in text
    assert "## Fig. 2" not in text


def test_a_directory_without_figures_is_refused(tmp_path):
    with pytest.raises(mi.StorageError, match="holds no figure or table"):
        write_page([tmp_path], tmp_path / "made.md")
    assert not (tmp_path / "made.md").exists()
