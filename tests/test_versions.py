"""Versions of JAX that were not tested: one warning, and everything goes on."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mithridate.versions import TESTED


def imported(folder: Path, found: str) -> subprocess.CompletedProcess[str]:
    """Import the package, twice, where JAX says that it is of this version."""
    (folder / "jax-0.dist-info").mkdir()
    (folder / "jax-0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jax\nVersion: {found}\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import mithridate, mithridate.errors; "
    code += "print('jax' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("found", ["0.9.2", "0.99.1", "0.99.0.dev20300101", "1.0"])
def test_an_untested_jax_is_warned_of_once(found, tmp_path):
    done = imported(tmp_path, found)
    assert done.stdout == "False\n", "JAX is not imported for that"
    assert done.stderr.count("UserWarning") == 1
    assert f"JAX {found} is installed, but mithridate was tested with JAX 0.10 to 0.12" in done.stderr


@pytest.mark.parametrize("found", [f"{major}.{minor}.7" for major, minor in TESTED])
def test_a_tested_jax_is_not(found, tmp_path):
    assert not imported(tmp_path, found).stderr


def test_the_jax_that_is_here_is_one_of_the_tested():
    major, minor = map(int, version("jax").split(".")[:2])
    assert TESTED[0] <= (major, minor) <= TESTED[1]
