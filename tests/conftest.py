"""Strict JAX, checked shapes, printed seeds, the data directory, and what is computed once for all workers."""

import importlib.metadata
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import compiling

# The tests' time goes into compiling small programs, not into running them; `make test-slow` compiles as users do.
if "slow" not in sys.argv and compiling.ANSWER not in os.environ:  # a worker has its parent's
    quick = compiling.flags(compiling.known())
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

# Workers share the cores already; threads of linear algebra that wait for each other take longer than small problems.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# What one worker has compiled, the others and the command lines in processes of their own need not.
if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    CACHE = None
else:
    CACHE = tempfile.mkdtemp(prefix="mithridate-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Shape annotations of the package are checked in every test; this has to precede its first import.
import filelock
import pytest
from jaxtyping import install_import_hook

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    install_import_hook("mithridate", "beartype.beartype")

LIBRARIES = ("beartype", "equinox", "jax.scipy.special", "jinja2", "lineax", "matplotlib.pyplot", "optax", "pandas")
LIBRARIES += ("pyarrow.parquet", "pydantic.main", "pydantic.types", "rich.console", "rich.progress", "sklearn.compose")
LIBRARIES += ("scipy.sparse.linalg", "sklearn.datasets", "sklearn.linear_model", "sklearn.neighbors", "typer")


class Beforehand(MetaPathFinder):
    """Import the libraries just before the package: the hook would have them compiled anew, from their source."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "mithridate" and self in sys.meta_path:
            sys.meta_path.remove(self)
            for library in LIBRARIES:
                import_module(library)


sys.meta_path.insert(0, Beforehand())

# The process that only hands the tests out imports neither JAX nor the package.
if TYPE_CHECKING:
    import numpy as np

    import mithridate as mi
    from mithridate.auditing.audit import Progress

posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs, links and signals as POSIX has them")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if SHARED.is_dir():
    os.environ.setdefault("MITHRIDATE_DATA_DIR", str(SHARED))

MAPS = Path("/proc/self/maps")

SEED = int(os.environ.get("MITHRIDATE_TEST_SEED", "20260101"))


def pytest_report_header() -> str:
    return f"MITHRIDATE_TEST_SEED={SEED} jax={importlib.metadata.version('jax')} python={sys.version.split()[0]}"


def pytest_configure(config: pytest.Config) -> None:
    # An entry that another worker is still writing: compiled anew.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")


LONG = ("test_audit", "test_check", "test_devices", "test_docs", "test_exact", "test_hypergradients", "test_methods")
LONG += ("test_multiclass", "test_own_model", "test_own_parts", "test_planning", "test_reproduce", "test_resume")
LONG += ("test_sklearn", "test_worst_case")
"""They go first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_unconfigure() -> None:
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Every compiled program takes memory maps, of which Linux gives a process 65,530; XLA crashes beyond."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 25_000:
        import jax

        jax.clear_caches()


@pytest.fixture
def rng() -> "np.random.Generator":
    import numpy as np

    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def digits() -> "mi.Split":
    """Sixty training and sixty validation rows of digits 0 and 8."""
    import mithridate as mi

    return mi.load_dataset("digits-0v8").split(train=60, valid=60)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Runs are saved without their pictures, which take long and have tests of their own."""
    monkeypatch.setattr("mithridate.AuditResult.plot", lambda self: {})


@pytest.fixture(scope="session")
def learner() -> "mi.Learner":
    import mithridate as mi

    return mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.4, 250))


SMALL: dict[str, Any] = dict(train=40, valid=40, points=6, batch=3, splits=2, hyperiterations=10, epochs=20)  # noqa: C408
SMALL |= {"joint_hyperiterations": 10, "inner_steps": 50, "folds": 2, "attack": "bilevel", "budget": "replaced"}
ONE_FIXED: dict[str, Any] = dict(SMALL, splits=1, policies=("fixed=-8",))
POLICIES = ("fixed=-8", "cv-clean", "learned", "cv-poisoned")


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """Have one worker make something, given a folder that all of them see; the others read what it returned."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        file = folder / f"{name}.pickle"
        with filelock.FileLock(folder / f"{name}.lock"):
            if not file.exists():
                file.write_bytes(pickle.dumps(make(folder)))
            return pickle.loads(file.read_bytes())  # noqa: S301 (written above)

    return get


@pytest.fixture(scope="session")
def audited_in_steps(once) -> "tuple[mi.AuditResult, list[Progress]]":
    def make(_: Path) -> Any:
        import mithridate as mi

        steps: list[Progress] = []
        return mi.audit("digits-0v8", policies=POLICIES, on_progress=steps.append, **SMALL), steps

    return once("result", make)


@pytest.fixture(scope="session")
def result(audited_in_steps) -> "mi.AuditResult":
    return audited_in_steps[0]


@pytest.fixture(scope="session")
def steps_seen(audited_in_steps) -> "list[Progress]":
    return audited_in_steps[1]


@pytest.fixture(scope="session")
def run(result, once) -> Path:
    """A run directory that all workers read; who changes it works on a copy."""
    return once("run", lambda folder: result.save(folder / "run"))


class Told(NamedTuple):
    """What a command line said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def mithridate(monkeypatch, capsys, tmp_path) -> Callable[..., Told]:
    """The command line, called in this process from `tmp_path`; the process is left as it was."""

    def call(*arguments: object, planned: bool = False, drawn: bool = False) -> Told:
        from mithridate import cli

        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(sys, "argv", ["mithridate", *map(str, arguments)])
            patch.setenv("COLUMNS", "100")
            if not (planned or "--dry-run" in arguments):  # what fits into the memory has tests of its own
                patch.setattr("mithridate.cli.audits._planned", lambda *given: False)
            if not drawn:  # the pictures take long
                patch.setattr("mithridate.AuditResult.plot", lambda self: {})
            with pytest.raises(SystemExit) as left:
                cli.main()
        return Told(int(left.value.code or 0), *capsys.readouterr())

    return call
