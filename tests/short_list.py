"""A short list of what every user does, in an environment that has the package alone; see `matrix.py`.

    python tests/short_list.py [--whole]

Each entry is one line: what, whether it passed, seconds. The package is used as it is installed, never from this
checkout, whose README is read for its example. `--whole` takes the README's commands as they stand; without it the
audits are as small as they can be. Exit code 1 if any entry failed.
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
ROWS = ["--train", "60", "--valid", "60", "--points", "6", "--batch", "3"]
TINY = [*ROWS, "--attack", "bilevel", "--hyperiterations", "10", "--joint-hyperiterations", "10", "--epochs", "20"]
POLICIES = ["--policy", "fixed=-8", "--policy", "learned"]
SHOWN = ("mithridate", "jax", "numpy", "scipy", "pandas", "scikit-learn", "pydantic", "typer")

OWN = """
import numpy as np, pandas as pd
draw = np.random.default_rng(0)
table = pd.DataFrame({"age": draw.integers(20, 80, 300), "dose": draw.normal(3, 1, 300).round(2)})
table["ward"] = draw.choice(["north", "south", "östlich"], 300)
table["ill"] = np.where(table["age"] / 30 + table["dose"] + draw.normal(0, 0.5, 300) > 4.7, "yes", "no")
table.to_csv("patients.csv", index=False, encoding="utf-8")
"""

STOPPED = """
import mithridate as mi
asked = iter((1, 1, 1))
small = dict(train=60, valid=60, points=6, batch=3, splits=1, hyperiterations=10, joint_hyperiterations=10, epochs=20)
small |= dict(attack="bilevel")
try:
    mi.audit("digits-0v8", out="stopped", policies=("fixed=-8", "learned"), stop=lambda: not next(asked, 0), **small)
except mi.Interrupted:
    pass
else:
    raise SystemExit("it was not stopped")
"""

SKLEARN = """
import matplotlib
matplotlib.use("agg")
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from mithridate.sklearn import PoisoningCurveDisplay
X, y = load_breast_cancer(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression())
PoisoningCurveDisplay.from_estimator(model, X[:120], y[:120], shares=(0, 0.1), cv=2, random_state=0, steps=5, fits=20)
"""


def ran(*command: str) -> str:
    """Run a command to its end and return what it printed. Raises `RuntimeError` with its last lines if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-6:])
        raise RuntimeError(f"exit code {done.returncode}: {last}")
    return done.stdout


def python(code: str) -> str:
    """Run Python code with warnings of what will go as errors, as the tests do."""
    return ran(sys.executable, "-W", "error::DeprecationWarning", "-W", "error::FutureWarning", "-c", code)


def mithridate(*arguments: str) -> str:
    """Run the program of this environment."""
    program = shutil.which("mithridate", path=str(Path(sys.executable).parent))
    if program is None:
        raise RuntimeError("no program `mithridate` beside this Python")
    return ran(program, *arguments)


def readme() -> str:
    """Return the first Python example of the README."""
    return re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)[0]


def resumed() -> None:
    """Stop an audit, go on with it, and see that nothing of it is missing."""
    python(STOPPED)
    if Path("stopped", "audit.json").exists():
        raise RuntimeError("stopped, and yet there is a result")
    mithridate("resume", "stopped", "--quiet")
    if json.loads(Path("stopped", "audit.json").read_text("utf-8"))["status"] == "failed":
        raise RuntimeError("cells are missing after the resumed run")


def own() -> None:
    """Audit a CSV file with numbers, words, and letters beyond ASCII."""
    python(OWN)
    mithridate(
        "audit", "patients.csv", "--target", "ill", *TINY, "--policy", "learned", "--splits", "1", "--out", "own"
    )


def estimator() -> None:
    """Audit a pipeline with its search on the same file."""
    few = *ROWS, "--splits", "1", "--fits", "30", "--edits", "labels"
    mithridate("audit", "patients.csv", "--target", "ill", "--estimator", "knn", *few, "--out", "estimator")


def entries(whole: bool) -> dict[str, Callable[[], object]]:
    """Return the list, by name, in order."""
    small = () if whole else (*TINY, *POLICIES, "--splits", "1")
    return {
        "version": lambda: mithridate("--version"),
        "datasets": lambda: mithridate("datasets"),
        "audit digits-0v8": lambda: mithridate("audit", "digits-0v8", *small, "--out", "digits"),
        "audit, gate": lambda: mithridate(
            *("audit", "breast-cancer" if whole else "digits-0v8", "--policy", "learned", *small[: len(TINY)]),
            *("--splits", "1", "--fail-above", "100%@5%", "--out", "gate"),
        ),
        "plan": lambda: mithridate("audit", "digits-0v8", *small, "--dry-run", "--json"),
        "audit of a CSV": own,
        "audit of an estimator": estimator,
        "resume": resumed,
        "report": lambda: mithridate("report", "digits", "own", "--out", "both.html"),
        "check": lambda: mithridate("check", "digits-0v8", *ROWS),
        "README, Python": lambda: python(readme()),
        "scikit-learn": lambda: python(SKLEARN),
    }


def main() -> None:
    """Go through the list."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--whole", action="store_true")
    whole, failed = asked.parse_args().whole, 0
    print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in SHOWN), flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.chdir(folder):
        for name, run in entries(whole).items():
            started, end, wrong = time.perf_counter(), "passed", ""
            try:
                run()
            except (RuntimeError, OSError, LookupError, ValueError) as error:
                end, wrong, failed = "FAILED", f": {error}", failed + 1
            print(f"{end}  {name:26s} {time.perf_counter() - started:6.1f} s{wrong}", flush=True)
    print(f"{len(entries(whole)) - failed} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
