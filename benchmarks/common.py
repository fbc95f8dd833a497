"""What the benchmarks share: cases, timing in turn, peak memory, tables, JSON."""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mithridate as mi
from mithridate.data.downloads import at_hand
from mithridate.seeds import generator

Arrays = tuple[np.ndarray, np.ndarray]
KEY = 0
"""The seed of w0."""


@dataclass(frozen=True)
class Case:
    """One outer problem in NumPy: data, victim, where the derivative is taken. `hidden` empty: logistic regression."""

    name: str
    source: str
    rest: Arrays
    poison: Arrays
    target: Arrays
    box: mi.Box
    rate: float
    steps: int
    hidden: tuple[int, ...] = ()
    log_strength: float = 1.0

    @property
    def n(self) -> int:
        """Return the number of training rows, poison included."""
        return len(self.rest[1]) + len(self.poison[1])

    @property
    def m(self) -> int:
        """Return the number of features."""
        return self.rest[0].shape[1]

    @property
    def model(self) -> Any:
        """Return the victim's model."""
        return mi.MLP(self.m, self.hidden) if self.hidden else mi.LogisticRegression(self.m)

    def problem(self, space: str = "auto", rule: Any = None) -> mi.Bilevel:
        """Return the problem, the Gram matrix of the clean rows at hand as in an attack."""
        rule = mi.GradientDescent(self.rate, self.steps) if rule is None else rule
        learner = mi.Learner(self.model, rule, space=space)  # pyright: ignore[reportArgumentType]
        rest = mi.Rows.of(*self.rest)
        if learner.chosen_space((rest, mi.Rows.of(*self.poison))) == "gram":
            rest = rest.with_gram()
        return mi.Bilevel(learner, rest, jnp.asarray(self.poison[1], dtype=float), mi.Rows.of(*self.target))

    def at(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return X_p, λ and the key of w0."""
        strength = jnp.asarray(self.log_strength, dtype=float)
        return jnp.asarray(self.poison[0], dtype=float), strength, jax.random.key(KEY)

    def w0(self) -> list[np.ndarray]:
        """Return the same w0, each layer's weights and biases in turn."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.model.init(jax.random.split(self.at()[2])[0]))]

    def __str__(self) -> str:
        widths = "-".join(map(str, (self.m, *self.hidden, 1)))
        victim = f"network {widths}" if self.hidden else f"logistic regression, m = {self.m}"
        sizes = f"n = {self.n}, n_p = {len(self.poison[1])}, T = {self.steps}, η = {self.rate:g}"
        return f"{victim}, {sizes}, λ = {self.log_strength:g}, {self.source}"


def random_case(n: int, m: int, steps: int, points: int, rate: float, hidden: tuple[int, ...] = ()) -> Case:
    """Return a case on random rows: two classes, a few leading directions and a long tail, E‖x‖² = 80, in a box."""
    draw = generator("benchmark", n, m)
    y = draw.integers(0, 2, 2 * n).astype(np.int8)
    factors = draw.normal(size=(2 * n, 24)) / np.sqrt(np.arange(1, 25)) + 0.5 * (2 * y[:, None] - 1) * (
        np.arange(24) < 2
    )
    x = np.maximum(factors @ draw.normal(size=(24, m)) + 0.5 * draw.normal(size=(2 * n, m)), 0.0)
    x = np.asarray(x * np.sqrt(80 / np.mean(np.sum(x**2, axis=1))), np.float32)
    return Case(
        name="random",
        source="random data",
        rest=(x[: n - points], y[: n - points]),
        poison=(x[n : n + points], 1 - y[n : n + points]),
        target=(x[n:], y[n:]),
        box=mi.Box(0.0, float(x.max())),
        rate=rate,
        steps=steps,
        hidden=hidden,
    )


SHAPES = {
    "mnist": ("mnist-0v8", 784, 150, 0.1, ()),
    "imagenet": ("springer-tench", 2048, 200, 0.05, ()),
    "network": ("springer-tench", 2048, 100, 0.01, (128, 32)),
}
"""Data set, m, T, η and hidden layers of the cases by name."""


def load_case(name: str, points: int = 13, steps: int | None = None, random: bool = False) -> Case:
    """Return the case `name` on its data set where that is at hand, else on random data of its shape (no download)."""
    dataset, m, usual, rate, hidden = SHAPES[name]
    if random or not at_hand(dataset.partition("-0v")[0]):
        case = random_case(512, m, usual, points, rate, hidden)
        return replace(case, name=name, steps=steps or usual)
    split = mi.load_dataset(dataset).split()
    return replace(split_case(split, points, rate, steps or usual), name=name, source=dataset, hidden=hidden)


def split_case(split: mi.Split, points: int, rate: float, steps: int) -> Case:
    """Return logistic regression on a split; the points: validation rows, labels flipped, in training rows' place."""
    rest = generator("benchmark").permutation(len(split.y_train))[points:]
    return Case(
        name="split",
        source="a split",
        rest=(split.x_train[rest], split.y_train[rest]),
        poison=(split.x_valid[:points], 1 - split.y_valid[:points]),
        target=(split.x_valid, split.y_valid),
        box=mi.Box(split.low, split.high),
        rate=rate,
        steps=steps,
    )


@dataclass
class Subject:
    """Something to be timed. `run` returns (∂X_p, ∂λ, …) when it has finished; `calls` hypergradients in one run.

    `temporary`: what XLA says it will allocate while it runs, in bytes. `peer`: one of the PyTorch versions that time
    ratios refer to. `truth`: from a result to what (∂X_p, ∂λ) should have been; `remark`: from a result to a remark.
    """

    name: str
    run: Callable[[], tuple[Any, ...]]
    calls: int = 1
    temporary: int | None = None
    peer: bool = False
    truth: Callable[[Any], tuple[Any, Any]] | None = None
    remark: Callable[[Any], str] | None = None


@dataclass
class Measured:
    """Seconds per hypergradient in every round; relative errors of ∂X_p and ∂λ; peak memory in bytes; a remark."""

    name: str
    seconds: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    memory: int | None = None
    note: str = ""
    peer: bool = False

    @property
    def median(self) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.seconds)


def relative_error(found: Any, truth: Any, calls: int = 1) -> float:
    """Return ‖found − truth‖/‖truth‖, the largest over the calls; NaN for an empty derivative."""
    found, truth = (np.asarray(a, np.float64).reshape(calls, -1) for a in (found, truth))
    if not truth.size:
        return float("nan")
    return float(np.max(np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)))


def time_in_turn(subjects: Sequence[Subject], repeats: int, least: float = 0.05) -> dict[str, Measured]:
    """Time the subjects round by round, so that a machine whose speed drifts harms all alike.

    The first call, which may compile, is not timed; it gives the results. In every round a subject runs until `least`
    seconds have passed, at least once, after one run that is not timed where runs are that short: the caches are then
    its own, and threads of the subject before have gone to sleep.
    """
    found = {}
    for subject in subjects:
        result = subject.run()
        truth = subject.truth(result) if subject.truth else None
        pairs = zip(result[:2], truth, strict=True) if truth else ()
        apart = [relative_error(r, t, subject.calls) for r, t in pairs]
        note = subject.remark(result) if subject.remark else ""
        found[subject.name] = Measured(subject.name, [], apart, subject.temporary, note, subject.peer)
    counts = {}
    for subject in subjects:
        started = time.perf_counter()
        subject.run()
        counts[subject.name] = max(1, round(least / (time.perf_counter() - started)))
    for _ in range(repeats):
        for subject in subjects:
            if counts[subject.name] > 1:
                subject.run()
            started = time.perf_counter()
            for _ in range(counts[subject.name]):
                subject.run()
            taken = time.perf_counter() - started
            found[subject.name].seconds.append(taken / counts[subject.name] / subject.calls)
    return found


def print_table(title: str, rows: Sequence[Measured]) -> None:
    """Print seconds, how many times faster than the faster PyTorch version, errors and memory."""
    base = min((row.median for row in rows if row.peer), default=float("nan"))
    print(f"\n{title}")
    print(
        f"{'seconds per hypergradient of X_p and λ':46} {'median':>9} {'min':>9} {'max':>9} {'speed-up':>8}"
        f" {'err X_p':>8} {'err λ':>8} {'MB':>8}"
    )
    for row in rows:
        errors = " ".join(f"{e:8.0e}" if np.isfinite(e) else f"{'':8}" for e in row.apart or (np.nan, np.nan))
        memory = "" if row.memory is None else f"{row.memory / 1e6:.1f}"
        speed = base / row.median
        print(
            f"{row.name:46} {row.median:9.5f} {min(row.seconds):9.5f} {max(row.seconds):9.5f} {speed:8.3g}"
            f" {errors} {memory:>8}  {row.note}".rstrip()
        )
    sys.stdout.flush()


def as_json(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the rows as plain data."""
    return [
        {
            "name": row.name,
            "median": row.median,
            "min": min(row.seconds),
            "max": max(row.seconds),
            "seconds": row.seconds,
            "error_poison_hyper": [e if np.isfinite(e) else None for e in row.apart],
            "memory_bytes": row.memory,
            "note": row.note,
            "peer": row.peer,
        }
        for row in rows
    ]


def installed(name: str) -> bool:
    """Return whether a peer can be imported; say so when it cannot."""
    if importlib.util.find_spec(name) is not None:
        return True
    print(f"{name} is not installed: skipped")
    return False


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    names = ("mithridate", "jax", "jaxlib", "equinox", "lineax", "torch", "jaxopt", "torchopt", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "load_at_start": load,
    }


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=repeats, help=f"rounds (default {repeats})")
    made.add_argument("--json", type=Path, help="write the results to this file as well")
    return made


def write_json(path: Path | None, where: dict[str, Any], results: Any) -> None:
    """Write the results with the machine, where asked for."""
    if path:
        path.write_text(json.dumps({"machine": where, "results": results}, indent=1) + "\n")


def peak_memory(run: Callable[[], Any]) -> int:
    """Return by how many bytes the process's resident set grew at its peak while `run` ran (Linux, macOS).

    On Linux the peak is reset first, so that what came before does not count; where it cannot be, it does.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        unit = 1 if sys.platform == "darwin" else 1024
        before = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))
