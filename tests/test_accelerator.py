"""The benchmark of the accelerator runs on a CPU, and what it cannot do is a row with the reason."""

import importlib
import json
import time
from pathlib import Path

import jax
import pytest


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    return importlib.import_module("accelerator")


@pytest.fixture
def small(accelerator, monkeypatch, tmp_path):
    """Run the command on tiny problems; return what it wrote."""

    def run(*options: str) -> dict:
        file = tmp_path / "runs" / "found.json"
        monkeypatch.setattr("sys.argv", ["accelerator.py", "--small", "--json", str(file), *options])
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
        before = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        try:
            accelerator.main()
        finally:
            jax.config.update("jax_default_matmul_precision", before)
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        return json.loads(file.read_text())

    return run


def test_products_of_float32_are_not_rounded_further(small):
    found = small("--parts", "precision")
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["JAX's matmul precision"] == "highest"
    assert all(0 < row["value"] < 1e-6 for row in found["results"]["precision"]["rows"])


def test_a_case_is_timed_and_compared_with_float64(accelerator):
    rows = accelerator.hypergradients("mnist", accelerator.Run(time.monotonic() + 600, small=True, repeats=1))
    ours = [row for row in rows if row.what.startswith("here")]
    assert len(ours) == 4
    assert all(row.value > 0 for row in ours)
    assert all(0 < error < 1e-5 for row in ours for error in row.more["error_poison_hyper"])


@pytest.mark.slow
def test_all_parts_run(small):
    results = small()["results"]
    assert list(results) == ["precision", "mnist", "imagenet", "network", "batch", "fig2", "split"]
    rows = [row for part in results.values() for row in part["rows"]]
    assert not [row for row in rows if row["note"].startswith(("failed", "stopped"))]
    apart = results["batch"]["rows"][-1]
    assert apart["what"] == "largest difference of test error"
    assert apart["value"] < 1


def test_what_fails_or_does_not_fit_is_a_row(accelerator):
    def broken(run):
        yield accelerator.Row("one", 1.5, "ms")
        raise RuntimeError("no more\nof this")

    def whole(run):
        assert run.left < 5, "a tenth of the budget"
        yield accelerator.Row("two", 2.5, "ms")

    parts = {
        "broken": accelerator.Part(broken, 0.5, 0.0),
        "large": accelerator.Part(whole, 1.0, 60.0),
        "whole": accelerator.Part(whole, 0.1, 1.0),
    }
    written = []
    run = accelerator.Run(time.monotonic() + 40)
    accelerator.run_parts(parts, run, lambda results: written.append(json.dumps(results)))
    assert len(written) == 4, "once after every row"
    rows = [[(row["value"], row["note"]) for row in part["rows"]] for part in json.loads(written[-1]).values()]
    assert rows[0] == [(1.5, ""), (None, "failed: RuntimeError: no more")]
    assert rows[1] == [(None, "left out: it takes 60 s or more; 40 s of the budget are left")]
    assert rows[2] == [(2.5, "")]


def test_an_audit_that_does_not_fit_says_how_far_it_came(accelerator):
    config = accelerator.AuditConfig.of(dataset="digits-0v8", splits=1, policies=("fixed=-8",), **accelerator.TINY)
    row, result = accelerator.audited("an audit", config, accelerator.Run(time.monotonic()))
    assert (row.value, result) == (None, None)
    assert row.note.startswith("stopped after ")
    assert row.note.endswith(" with none of its cells done")


def test_nothing_is_downloaded(accelerator, monkeypatch, tmp_path):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    for part in ("batch", "fig2", "split"):
        with pytest.raises(accelerator.LeftOutError, match="is not at hand; set MITHRIDATE_DATA_DIR"):
            list(accelerator.PARTS[part].make(accelerator.Run(time.monotonic() + 60)))
