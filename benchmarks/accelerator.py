"""The accelerator in one command: hypergradients beside PyTorch, audits in one batch, Fig. 2, one split of a network.

    python benchmarks/accelerator.py [--budget 450] [--parts mnist batch …] [--small] [--json FILE]

Nothing is downloaded: data sets are read from `MITHRIDATE_DATA_DIR`. Without an accelerator all of it runs on the CPU.
`--small` runs it on tiny problems, to see that it works; its times mean nothing.

The parts, each timed on its own:

- precision: the relative error of a float32 matrix product. Both libraries are kept at full float32. An error of about
  3e-4 is that of TF32, which JAX uses on NVIDIA cards unless it is told otherwise.
- mnist, imagenet, network: milliseconds a hypergradient of X_p and λ on the cases of hypergradient.py, this project and
  PyTorch on the same device in turn. "times": how many times as fast as the fastest PyTorch version for any model.
  "err": relative errors of ∂X_p and ∂λ against float64 on the CPU, by PyTorch where it is installed. "CUDA graph":
  PyTorch's kernels recorded once and played again. PyTorch's times include copying both results to the host.
- batch: seconds of whole audits of MNIST, splits × policies in turn and as one batch.
- fig2: the whole audit of MNIST behind Fig. 2 with the paper's settings, and how many of the paper's claims hold.
- split: one split of the network behind Fig. 3 with the paper's settings (T = 600, 150 hyperiterations a batch). It is
  longer than what the other parts leave of the budget; `--parts split --budget 3600` gives it an hour.

Every part may take a share of the budget. A part that fails, or that would pass the budget, becomes a row with the
reason. The JSON file is written after every row.
"""

import functools
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mithridate as mi
import peers
from common import (
    SHAPES,
    Case,
    Subject,
    as_json,
    load_case,
    machine,
    parser,
    random_case,
    relative_error,
    time_in_turn,
    write_json,
)
from mithridate.checking.differences import Place
from mithridate.configuration.config import AuditConfig
from mithridate.data.downloads import at_hand
from mithridate.errors import Interrupted
from mithridate.reproduction import fig2
from mithridate.reproduction.effects import CLEAN, LEARNED, SMALL
from mithridate.reproduction.studies import LOGISTIC, NETWORK
from ours import once, subject, unrolled, within_attack
from peers import Torch

Truth = tuple[np.ndarray, np.ndarray]
FULL, CHAINS = "highest", 32
SHORT = {"attack": "bilevel", "points": 26, "batch": 13, "hyperiterations": 20, "joint_hyperiterations": 20}
TINY = {"attack": "bilevel", "points": 4, "batch": 2, "hyperiterations": 2, "joint_hyperiterations": 2}
TINY |= {"train": 24, "valid": 24, "epochs": 2, "inner_steps": 5}


class LeftOutError(Exception):
    """Why something is not run."""


@dataclass(frozen=True)
class Run:
    """How much is run: until `end`, on the monotonic clock; tiny problems if `small`; in so many rounds."""

    end: float
    small: bool = False
    repeats: int = 7

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def over(self) -> bool:
        """Return whether time is up."""
        return self.left <= 0

    def part(self, seconds: float) -> "Run":
        """Return the same for a part, which may take so many seconds of what is left."""
        return replace(self, end=min(self.end, time.monotonic() + seconds))


@dataclass
class Row:
    """One line: what was measured; its value (None: there is none, and `note` says why) and unit; more for the JSON."""

    what: str
    value: float | None
    unit: str = ""
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        value = "—" if self.value is None else f"{self.value:.3g}" if self.value < 1000 else f"{self.value:.0f}"
        return f"  {self.what:50} {value:>8} {self.unit:2}  {self.note}".rstrip()


def tf32() -> dict[str, Any]:
    """Return what decides whether products of float32 numbers are rounded to TF32, for both libraries."""
    found = {"JAX's matmul precision": getattr(jax.config, "jax_default_matmul_precision", None)}
    if peers.torch is not None:
        found["PyTorch's allow_tf32"] = peers.torch.backends.cuda.matmul.allow_tf32
    return found | {"NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE")}


def torch_device() -> str | None:
    """Return PyTorch's name of the device that JAX computes on, or None where PyTorch has no such device."""
    if peers.torch is None:
        return None
    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if peers.torch.cuda.is_available() else None


def precision(run: Run) -> Iterator[Row]:
    """Say what a product of float32 matrices is good to."""
    n = 64 if run.small else 2048
    a, b = np.random.default_rng(0).normal(size=(2, n, n)).astype(np.float32)
    truth, name = a.astype(np.float64) @ b.astype(np.float64), f"float32 product of {n} × {n}"

    def ours(kind: str) -> float:
        with jax.default_matmul_precision(kind):
            return relative_error(jax.jit(jnp.matmul)(a, b), truth)

    yield Row(f"{name}, JAX at {FULL}", ours(FULL), "", "relative error")
    yield Row(f"{name}, JAX's default", ours("default"), "", "relative error; 3e-4 would be TF32")
    if device := torch_device():
        found = peers.torch.matmul(*(peers.torch.tensor(part, device=device) for part in (a, b)))
        yield Row(f"{name}, PyTorch", relative_error(found.cpu().numpy(), truth), "", "relative error")


def case_of(name: str, small: bool) -> Case:
    """Return a case of hypergradient.py, or a tiny one with as many layers."""
    if not small:
        return load_case(name)
    return replace(random_case(24, 12, 5, 3, 0.1, (6, 4) if SHAPES[name][-1] else ()), name=name)


def wide(case: Case) -> Truth:
    """Return ∂X_p and ∂λ in float64 on the CPU, by PyTorch's autograd where it is installed, else by this project."""
    if peers.torch is not None:
        return Torch(case, peers.torch.float64).unrolled()
    with jax.default_device(jax.devices("cpu")[0]):
        place = Place(case.problem("plain"), *case.at()).widened()
        with jax.enable_x64(True):
            found = eqx.filter_jit(once)(mi.Reverse(), *place)
            return np.asarray(found.poison), np.asarray(found.hyper)


def together(name: str, case: Case, chains: int, truth: Truth) -> Subject:
    """Return as many chains in one batch, each with rows, points and λ of its own, as `execution.shared` runs them."""
    arrays, static = eqx.partition((case.problem(), *case.at()), eqx.is_array)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * chains), arrays)

    def batch(many: Any) -> Any:
        return jax.vmap(lambda own: once(mi.Reverse(), *eqx.combine(own, static)))(many)

    return subject(name, tuple(np.stack([part] * chains) for part in truth), batch, many, calls=chains)


def makers(case: Case, truth: Truth, chains: int) -> dict[str, Callable[[], Subject]]:
    """Return what makes each subject, by name; those in PyTorch where it has the device."""

    def ours(name: str, space: str, precision: str) -> Subject:
        with jax.default_matmul_precision(precision):
            return unrolled(name, mi.Reverse(), case, space, truth)

    def theirs(name: str, method: str, played: bool) -> Subject:
        peer = Torch(case, device=torch_device() or "cpu")
        run = peer.replayed(method) if played else getattr(peer, method)
        return Subject(name, run, peer=method != "formulas", truth=lambda _: truth)

    alone = {"here, plain": ("plain", FULL), "here, Gram space": ("gram", FULL)}
    if jax.default_backend() != "cpu":
        alone["here, Gram space, JAX's default precision"] = ("gram", "default")
    made: dict[str, Callable[..., Subject]] = {name: functools.partial(ours, name, *how) for name, how in alone.items()}
    made["here, in an attack"] = lambda name: within_attack(name, mi.Reverse(), case, case.problem(), None)
    made[f"here, {chains} chains in a batch, for each"] = lambda name: together(name, case, chains, truth)
    methods = {"unrolled": "PyTorch, unrolled", "algorithm_2": "PyTorch, Algorithm 2"}
    methods |= {} if case.hidden else {"formulas": "PyTorch, formulas of this model"}
    for method, name in methods.items() if torch_device() else ():
        for played in (False, True) if torch_device() == "cuda" else (False,):
            full = name + ", CUDA graph" * played
            made[full] = functools.partial(theirs, full, method, played)
    return {n: m if isinstance(m, functools.partial) else functools.partial(m, n) for n, m in made.items()}


def hypergradients(name: str, run: Run) -> Iterator[Row]:
    """Time one case, all subjects in turn."""
    case, subjects = case_of(name, run.small), []
    yield Row(case.name, None, "", str(case))
    truth = wide(case)
    for label, make in makers(case, truth, 2 if run.small else CHAINS).items():
        try:
            if run.over():
                raise LeftOutError("the part's time is up")
            made = make()
            made.run()
            subjects.append(made)
        except Exception as error:  # noqa: BLE001 (whatever it was, the others are timed)
            yield Row(label, None, "", reason(error))
    found = list(time_in_turn(subjects, run.repeats, 0.0 if run.small else 0.05).values())
    base = min((row.median for row in found if row.peer), default=None)
    for row, plain in zip(found, as_json(found), strict=True):
        times = f"{base / row.median:.3g} times; " if base and row.name.startswith("here") else ""
        apart = f"err {' '.join(f'{error:.0e}' for error in row.apart)}; " if row.apart else ""
        spread = f"{1e3 * min(row.seconds):.3g} to {1e3 * max(row.seconds):.3g} ms"
        yield Row(row.name, 1e3 * row.median, "ms", f"{times}{apart}{spread}", plain)
    if torch_device() is None:
        yield Row("PyTorch", None, "", "left out: it is not installed, or not for this device")


def audited(what: str, config: AuditConfig, run: Run) -> tuple[Row, mi.AuditResult | None]:
    """Return a whole audit's row and result, or the row of as much of it as there was time for, and None."""
    seen: list[tuple[float, int, int]] = []
    started = time.perf_counter()

    def note(at: Any) -> None:
        seen.append((time.perf_counter() - started, at.done, at.total))

    more: dict[str, Any] = {"config": config.model_dump(mode="json"), "seconds, cells done, of": seen}
    try:
        result = mi.audit(config.dataset, config, on_progress=note, stop=run.over)
    except Interrupted:
        taken, (done, total) = time.perf_counter() - started, seen[-1][1:] if seen else (0, 0)
        far = f"{done} of {total} cells done" if done else "none of its cells done"
        far += f"; at this rate all would take {taken * total / done:.0f} s" if 4 * done >= total > 0 else ""
        said = f"stopped after {taken:.0f} s, its time being up, with {far}"
        return Row(what, None, "", said, more), None
    taken, frame = time.perf_counter() - started, result.frame
    counted = {"split": "splits", "policy": "policies", "ratio": "shares"}
    sizes = " × ".join(f"{frame[column].nunique()} {name}" for column, name in counted.items())
    statuses = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    reasons = "".join(f"; {each}" for each in sorted(set(frame["reason"]) - {""}))
    return Row(what, taken, "s", f"{sizes}; cells: {statuses}{reasons}", more), result


def errors(result: mi.AuditResult) -> Iterator[Row]:
    """Say what an audit found: the mean test error of each policy."""
    mean = 100 * result.frame.groupby(["policy", "ratio"], sort=False)["test_error"].mean().unstack()
    for policy, row in mean.iterrows():
        along = ", ".join(f"{error:.1f}" for error in row)
        yield Row(f"  test error, {policy}", row.iloc[-1], "%", f"from clean to the most poison: {along}")


def logistic(small: bool) -> str:
    """Return the data set of the parts with logistic regression."""
    if not small and not at_hand("mnist"):
        raise LeftOutError("MNIST is not at hand; set MITHRIDATE_DATA_DIR")
    return "digits-0v8" if small else "mnist-0v8"


def batch(run: Run) -> Iterator[Row]:
    """Audit the same as one batch and in turn, each twice: the second time everything is compiled."""
    policies, found = (SMALL, "fixed=log(200)", CLEAN, LEARNED), {}
    given = {"dataset": logistic(run.small), "policies": policies, "splits": 2 if run.small else 3}
    for how in ("batched", "serial"):
        config = AuditConfig.of(**given, execution=how, **(TINY if run.small else SHORT))
        for compiled in ("with compiling", "compiled"):
            row, result = audited(f"{how}, {compiled}", config, run)
            yield row
            if result is None:
                return
            found[how] = row.value, result.frame["test_error"]
    (fast, ours), (slow, other) = found["batched"], found["serial"]
    yield Row("serial over batched, compiled", slow / fast, "×", f"{slow:.2f} s over {fast:.2f} s")
    yield Row("largest difference of test error", 100 * float((ours - other).abs().max()), "%", "in points of error")


def figure_2(run: Run) -> Iterator[Row]:
    """Audit MNIST as Fig. 2 of the paper has it."""
    config = LOGISTIC.config(logistic(run.small), "paper", **({"splits": 2} | TINY if run.small else {}))
    row, result = audited(f"Fig. 2, {config.dataset}, with compiling", config, run)
    yield row
    if result:
        yield from errors(result)
        claims = fig2.claims(fig2.frame([result]))
        said = "; ".join(f"({claim.number}) {claim.verdict}" for claim in claims)
        yield Row(f"  of {len(claims)} claims hold", sum(claim.verdict == "holds" for claim in claims), "", said)


def network_split(run: Run) -> Iterator[Row]:
    """Audit one split of the network as Fig. 3 of the paper has it, on whichever of its data sets is at hand."""
    dataset, given = ("digits-0v8", {"hidden": (4,)} | TINY) if run.small else (NETWORK.datasets()[0], {})
    if not run.small and not at_hand(dataset):
        raise LeftOutError(f"{dataset} is not at hand; set MITHRIDATE_DATA_DIR")
    config = NETWORK.config(dataset, "paper", splits=1, **given)
    if not run.small:
        case = load_case("network", config.batch, config.inner_steps)
        (found,) = time_in_turn([unrolled("alone", mi.Reverse(), case, "auto", None)], 3).values()
        yield Row(f"a hypergradient at T = {case.steps}", 1e3 * found.median, "ms", str(case))
        steps = [
            config.joint_hyperiterations if name == LEARNED else config.hyperiterations for name in config.policies
        ]
        calls = -(-config.points // config.batch) * sum(steps)
        yield Row("all of its hypergradients in turn, reckoned", calls * found.median, "s", f"{calls} of them")
    row, result = audited(f"one split of the network, {dataset}, with compiling", config, run)
    yield row
    if result:
        yield from errors(result)


class Part(NamedTuple):
    """What makes its rows, the share of the budget that it may take, and with how many seconds it is begun at all."""

    make: Callable[[Run], Iterator[Row]]
    share: float
    least: float


PARTS = {
    "precision": Part(precision, 0.1, 1.0),
    **{name: Part(functools.partial(hypergradients, name), 0.2, 15.0) for name in SHAPES},
    "batch": Part(batch, 0.3, 30.0),
    "fig2": Part(figure_2, 0.5, 30.0),
    "split": Part(network_split, 1.0, 60.0),
}


def reason(error: Exception) -> str:
    """Return why something has no value, in one line."""
    said = (str(error).strip() or "no message").splitlines()[0][:300]
    return f"left out: {said}" if isinstance(error, LeftOutError) else f"failed: {type(error).__name__}: {said}"


def run_parts(parts: Mapping[str, Part], run: Run, write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the parts in turn; print every row, and have all rows and the seconds of each part written after it."""
    budget, results = run.left, {}
    for name, part in parts.items():
        results[name] = found = {"rows": [], "seconds": 0.0}
        started = time.monotonic()

        def add(row: Row, found: dict[str, Any] = found, started: float = started) -> None:
            print(row, flush=True)
            found["rows"].append(asdict(row))
            found["seconds"] = time.monotonic() - started
            write(results)

        print(f"\n{name}", flush=True)
        try:
            if run.left < (0 if run.small else part.least):
                raise LeftOutError(
                    f"it takes {part.least:g} s or more; {max(run.left, 0):.0f} s of the budget are left"
                )
            for row in part.make(run.part(part.share * budget)):
                add(row)
        except Exception as error:  # noqa: BLE001 (whatever it was, the other parts are run)
            add(Row(name, None, "", reason(error), {"traceback": traceback.format_exc()}))
        print(f"  {name} took {time.monotonic() - started:.1f} s", flush=True)
    return results


def main() -> None:
    # By default JAX takes three quarters of a card's memory at once; PyTorch needs some beside it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    jax.config.update("jax_default_matmul_precision", FULL)
    if peers.torch is not None:
        peers.torch.backends.cuda.matmul.allow_tf32 = False
    made = parser(__doc__, 7)
    made.add_argument("--budget", type=float, default=450.0, help="seconds in all (default 450)")
    made.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    made.add_argument("--small", action="store_true", help="tiny problems, to see that all of it works")
    made.set_defaults(json=Path("runs/accelerator.json"))
    options = made.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    own = {"device": jax.devices()[0].device_kind, "PyTorch's device": torch_device()} | tf32()
    where = machine() | own | {"small": options.small, "budget": options.budget}
    print(where["versions"], {"cpu": where["cpu"], "cores": where["cores"]}, own, sep="\n", flush=True)

    def write(results: dict[str, Any]) -> None:
        whole = options.json.with_name(f"{options.json.name}.part")
        write_json(whole, where, results)
        whole.replace(options.json)

    started = time.monotonic()
    run = Run(started + options.budget, options.small, 1 if options.small else options.repeats)
    run_parts({name: PARTS[name] for name in options.parts}, run, write)
    print(f"\nall in {time.monotonic() - started:.0f} s on {own['device']}; {options.json}")


if __name__ == "__main__":
    main()
