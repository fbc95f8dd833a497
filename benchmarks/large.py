"""One large problem: hypergradients through minibatch SGD with checkpoints, in time and memory, on one device and many.

    python benchmarks/large.py [--rows 10000 100000 1000000] [--devices 1 8] [--steps 200] [--attack 3] [--json FILE]

Two Gaussians with m = 1000 features in float32, 20 of which tell the classes apart; logistic regression, batches of
512 rows, 1000 poisoning points, 2000 target rows. Every line is a process of its own. Many devices are made of the
host's cores, which they share: they show that the numbers agree and what each holds, not a speed-up.

"device": what one device holds during a hypergradient, training rows and other arguments, results, and the temporary
memory that XLA plans; "bound": n·(4·m + 48)/devices where rows are divided, 4·m bytes of features and 48 of labels,
weights, orders and their sorting undivided, plus 3·⌈√T⌉ batches, plus 16 times the points. "peak": the largest resident
set of the process, in which the user's array is as well; "apart": the largest relative distance of A and both
hypergradients from those on the first number of devices.

With --attack, a whole attack with so many outer steps follows, on the most rows and one device.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mithridate as mi
from common import machine, parser, write_json
from mithridate.execution import devices

M, BATCH, POINTS, TARGET, RATE, LOG_STRENGTH = 1000, 512, 1000, 2000, 0.05, -2.0


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n rows, made a part at a time in the array that they stay in."""
    draw, y, x = np.random.default_rng(seed), (np.arange(n) % 2).astype(np.int8), np.empty((n, M), np.float32)
    mean = np.where(np.arange(M) < 20, np.float32(0.3), np.float32(0.0))
    for first in range(0, n, 10_000):
        some = slice(first, first + 10_000)
        draw.standard_normal(out=x[some], dtype=np.float32)
        x[some] += (2 * y[some, None] - 1) * mean
    return x, y


def peak() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bound(n: int, steps: int, devices: int) -> int:
    """Return the bytes that one device may hold."""
    return 4 * M * n // devices + 48 * n + 4 * M * (3 * math.ceil(math.sqrt(steps)) * BATCH + 16 * POINTS)


def learner(steps: int) -> mi.Learner:
    return mi.Learner(mi.LogisticRegression(M), mi.MinibatchSGD(RATE, BATCH, steps=steps))


def hypergradient(n: int, steps: int, repeats: int, file: Path) -> dict[str, Any]:
    """Measure one line; the numbers go into a file."""
    own, (x_target, y_target), (x_poison, y_poison) = rows(n, 0), rows(TARGET, 1), rows(POINTS, 2)
    with devices.placed("sharded"):
        labels = jnp.asarray(1 - y_poison, dtype=float)
        problem = mi.Bilevel(learner(steps), mi.Rows.of(*own, divided=True), labels, mi.Rows.of(x_target, y_target))
        given, static = eqx.partition((mi.Checkpointed(), problem), eqx.is_array)

        def run(given: Any, *at: Any) -> Any:
            method, problem = eqx.combine(given, static)
            return method(problem, *at)[:3]

        at = given, jnp.asarray(x_poison), jnp.asarray(LOG_STRENGTH, dtype=float), jax.random.key(0)
        compiled = jax.jit(run).lower(*at).compile()
        seconds = []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            found = jax.block_until_ready(compiled(*at))
            seconds.append(time.perf_counter() - started)
    planned: Any = compiled.memory_analysis()
    parts = planned.argument_size_in_bytes, planned.output_size_in_bytes, planned.temp_size_in_bytes
    np.savez(file, *map(np.asarray, found))
    return {
        "seconds": float(np.median(seconds[1:])),
        "device": sum(parts),
        "temporary": parts[2],
        "bound": bound(n, steps, len(jax.devices())),
        "data": own[0].nbytes,
        "peak": peak(),
    }


def attack(n: int, steps: int, outer: int) -> list[dict[str, Any]]:
    """Attack once and tell of every ratio; its seconds hold the compilation."""
    x, y = rows(n, 0)
    made = mi.Attack(
        learner=learner(steps),
        target=rows(TARGET, 1),
        feasible=mi.Box(x[:10_000].min(axis=0), x[:10_000].max(axis=0)),
        policy=mi.Fixed(LOG_STRENGTH),
        points=POINTS,
        steps=outer,
        rounds=1,
        hypergradient=mi.Checkpointed(),
    )
    told, started = [], time.perf_counter()
    for found in made.run(x, y):
        seconds, history = time.perf_counter() - started, found.history.tolist()
        values = {"ratio": found.ratio, "before": found.value_start, "after": found.value, "history": history}
        told.append(values | {"stability": found.stability, "seconds": seconds, "data": x.nbytes, "peak": peak()})
        started = time.perf_counter()
    return told


def child(devices: int, *arguments: object) -> Any:
    """Return what this script prints as a process of its own with so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"XLA_FLAGS": flags})
    return json.loads(done.stdout.splitlines()[-1])


def apart(one: Path, other: Path) -> float:
    """Return the largest relative distance of the arrays of two files."""
    with np.load(one) as a, np.load(other) as b:
        return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(a[k])) for k in a)


def main() -> None:
    made = parser(__doc__, 3)
    made.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    made.add_argument("--devices", type=int, nargs="*", default=[1, 8])
    made.add_argument("--steps", type=int, default=200)
    made.add_argument(
        "--attack", type=int, default=0, metavar="STEPS", help="outer steps of an attack on the most rows"
    )
    options = made.parse_args()
    where, lines, attacked = machine(), [], []
    print(f"T = {options.steps}; MB are 10⁶ bytes")
    print(f"{'n':>9} {'devices':>8} {'seconds':>8} {'device, MB':>11} {'bound, MB':>10} {'peak, MB':>9} {'apart':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for n in options.rows:
            for devices in options.devices:
                files = [Path(folder) / f"{n}-{d}.npz" for d in (options.devices[0], devices)]
                line = child(devices, "hypergradient", n, options.steps, options.repeats, files[1])
                line |= {"n": n, "devices": devices, "apart": apart(*files)}
                memory = " ".join(f"{line[k] / 1e6:{w}.0f}" for k, w in (("device", 11), ("bound", 10), ("peak", 9)))
                print(f"{n:9} {devices:8} {line['seconds']:8.2f} {memory} {line['apart']:8.0e}", flush=True)
                lines.append(line)
    if options.attack:
        attacked = child(1, "attack", max(options.rows), options.steps, options.attack)
        for told in attacked:
            said = f"ratio {told['ratio']:.2%}: A from {told['before']:.5f} to {told['after']:.5f}"
            print(f"attack, {said}, {told['seconds']:.1f} s, peak {told['peak'] / 1e6:.0f} MB", flush=True)
    write_json(options.json, where, {"steps": options.steps, "lines": lines, "attack": attacked})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asked = argparse.ArgumentParser()
        asked.add_argument("what", choices=["hypergradient", "attack"])
        asked.add_argument("numbers", type=int, nargs=3)
        asked.add_argument("file", type=Path, nargs="?")
        told = asked.parse_args(sys.argv[2:])
        print(json.dumps(attack(*told.numbers) if told.what == "attack" else hypergradient(*told.numbers, told.file)))
    else:
        main()
