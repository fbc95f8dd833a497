"""Everything again on other Pythons, with the newest and the oldest of every dependency; see CONTRIBUTING.

    python tests/matrix.py [--python 3.12 …] [--resolution highest lowest-direct] [--short | --whole]

The wheel is built once. Then, for each Python that is at hand and each resolution, it is installed into a fresh
environment with its dependencies, the newest or the oldest that `pyproject.toml` names, and there `short_list.py` is
run and, unless `--short`, the fast tests. Needs `uv`. Exit code 1 if anything failed; a table at the end, and the
details in matrix.log.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import compiling

ROOT = Path(__file__).resolve().parents[1]
MINORS = range(11, 16)
SHOWN = ("jax", "numpy", "pandas", "scikit-learn")
QUICK = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
QUICK |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""What one environment has compiled, another with the same JAX need not; small problems need no threads."""
RESOLUTIONS = {"highest": "newest", "lowest-direct": "oldest"}


def pythons() -> dict[str, Path]:
    """Return the CPython 3.11 and later that are at hand, by version, the newest last."""
    named = [shutil.which(f"python3.{minor}") for minor in MINORS]
    # pyenv keeps them where `which` finds at most the one in use.
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, Path] = {}
    for path in (sys.executable, *filter(None, named), *map(str, folder.glob("3.*/bin/python"))):
        ask = "import platform, sys; print(platform.python_implementation(), '%d.%d' % sys.version_info[:2])"
        told = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False).stdout.split()
        if told and told[0] == "CPython" and int(told[1].split(".")[1]) in MINORS:
            found.setdefault(told[1], Path(path))
    return dict(sorted(found.items(), key=lambda each: int(each[0].split(".")[1])))


def called(log: Any, *command: str | Path, **options: Any) -> str:
    """Run a command, add what it prints to the log, and return it. Raises `CalledProcessError`."""
    log.write(f"\n$ {' '.join(map(str, command))}\n")
    log.flush()
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", **options
    )
    log.write(done.stdout)
    log.flush()
    if done.returncode and not options.get("check", True):
        return done.stdout
    done.check_returncode()
    return done.stdout


def installed(log: Any, python: Path, resolution: str, wheel: Path, folder: Path, extra: str) -> Path:
    """Return the Python of a fresh environment with the wheel and, by this resolution, its dependencies."""
    uv = [sys.executable, "-m", "uv"]
    wanted, own = folder / "requirements.txt", folder / "env"
    called(log, *uv, "venv", "--quiet", "--python", python, own)
    interpreter = next(path for path in (own / "bin/python", own / "Scripts/python.exe") if path.exists())
    # Of a wheel's dependencies none is direct: what is direct is read from the project.
    called(
        log,
        *(*uv, "pip", "compile", "--quiet", ROOT / "pyproject.toml", *(("--extra", extra) if extra else ())),
        *("--python", interpreter, "--resolution", resolution, "--no-header", "--output-file", wanted),
    )
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", interpreter]
    called(log, *install, "--requirement", wanted)
    called(log, *install, "--no-deps", wheel)
    return interpreter


def counts(printed: str) -> tuple[int, int]:
    """Return how many passed and failed, by the last line that says so."""
    said = [line for line in printed.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    last = re.findall(r"(\d+) (passed|failed|error)", said[-1]) if said else []
    found = {kind: int(number) for number, kind in last}
    return found.get("passed", 0), found.get("failed", 0) + found.get("error", 0) + (not said)


def row(
    log: Any, version: str, python: Path, resolution: str, wheel: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """Return what came of one environment."""
    started = time.perf_counter()
    told: dict[str, Any] = {"python": version, "versions": RESOLUTIONS[resolution], "passed": 0, "failed": 0}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment = os.environ | QUICK | {"JAX_COMPILATION_CACHE_DIR": str(wheel.parent / "compiled")}
        try:
            own = installed(log, python, resolution, wheel, folder, "" if asked.short else "dev")
        except subprocess.CalledProcessError as error:
            return told | {"failed": 1, "note": f"not installed: {' '.join(error.output.split())[-200:]}"}
        ask = f"from importlib.metadata import version; import json; print(json.dumps([version(n) for n in {SHOWN}]))"
        told |= dict(zip(SHOWN, json.loads(called(log, own, "-c", ask).splitlines()[-1]), strict=True))
        quick = {} if asked.whole else {"XLA_FLAGS": compiling.flags(compiling.asked(own))}
        runs: list[tuple[list[str | Path], dict[str, str]]] = [
            ([own, ROOT / "tests" / "short_list.py", *(["--whole"] if asked.whole else [])], environment | quick)
        ]
        if not asked.short:
            workers = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
            runs.append(([own, "-m", "pytest", "-q", *workers, ROOT / "tests"], environment))
        for command, given in runs:
            passed, failed = counts(called(log, *command, check=False, cwd=ROOT, env=given))
            told["passed"] += passed
            told["failed"] += failed
    return told | {"seconds": round(time.perf_counter() - started)}


def main() -> None:
    """Build, install, run and print the table."""
    here = pythons()
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--python", nargs="*", default=list(here), help=f"at hand: {', '.join(here)}")
    given.add_argument("--newer", action="store_true", help="the newest Python at hand alone, if newer than this one")
    given.add_argument("--resolution", nargs="*", default=list(RESOLUTIONS), choices=list(RESOLUTIONS))
    given.add_argument("--short", action="store_true", help="without the fast tests")
    given.add_argument("--whole", action="store_true", help="the README's commands at full size")
    given.add_argument("--log", type=Path, default=Path("matrix.log"))
    asked = given.parse_args()
    if missing := [version for version in asked.python if version not in here]:
        given.error(f"not at hand: Python {', '.join(missing)}; there are {', '.join(here)}")
    chosen, own = asked.python, ".".join(map(str, sys.version_info[:2]))
    if asked.newer:
        chosen = [version for version in [*here][-1:] if version != own]
        print(f"newer than Python {own}: {', '.join(chosen) or 'none at hand, so there is nothing to do'}", flush=True)
    rows = []
    with asked.log.open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as folder:
        called(log, sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
        (wheel,) = Path(folder).glob("*.whl")
        for version in chosen:
            for resolution in asked.resolution:
                rows.append(row(log, version, here[version], resolution, wheel, asked))
                print(json.dumps(rows[-1]), flush=True)
    columns = ("python", "versions", *SHOWN, "passed", "failed", "seconds", "note")
    for line in (dict(zip(columns, columns, strict=True)), *rows):
        print("  ".join(f"{line.get(column, '')!s:12s}" for column in columns).rstrip())
    failed = sum(line["failed"] for line in rows)
    print(f"{sum(line['passed'] for line in rows)} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
