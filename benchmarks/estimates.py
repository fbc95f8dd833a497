"""How exact an audit's plan is: its memory and time beside what the audit then takes.

    python benchmarks/estimates.py [--only TEXT] [--cpu] [--json FILE]

Every line is three processes of their own: the audit with nothing compiled yet (cold) and with everything in the
compilation cache (warm), its report included, and the plan. "memory": the growth of the resident set at the audit's
peak over that of a process that has imported everything and loaded the data. Ratios are plan over truth; the plan's
time, compiling included, stands beside the cold audit, and without it beside the warm one. With --cpu all times, the
calibration's too, are the process's own: on a machine that does other things they are the ones to be compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import machine, parser, peak_memory, write_json

FEW = {"splits": 2, "hyperiterations": 50, "joint_hyperiterations": 50}
LINES: dict[str, dict[str, Any]] = {
    "digits-0v8, fixed": {"dataset": "digits-0v8", "policies": ["fixed=-8"], **FEW},
    "digits-0v8, learned": {"dataset": "digits-0v8", "policies": ["learned"], **FEW},
    "digits-0v8, cv-poisoned": {"dataset": "digits-0v8", "policies": ["cv-poisoned"], **FEW},
    "mnist-0v8, fixed, learned": {"dataset": "mnist-0v8", "policies": ["fixed=-8", "learned"], **FEW},
    "mnist-0v8, cv-poisoned": {"dataset": "mnist-0v8", "policies": ["cv-poisoned"], **FEW, "splits": 1},
    "wine, fixed, learned": {"dataset": "wine", "policies": ["fixed=-8", "learned"], **FEW},
    "digits, fixed": {"dataset": "digits", "policies": ["fixed=-8"], **FEW, "splits": 1},
    "digits-0v8, network, fixed": {
        "dataset": "digits-0v8", "model": "mlp", "policies": ["fixed=-8"], **FEW, "splits": 1, "hyperiterations": 20,
    },
    "digits-0v8, network, learned": {
        "dataset": "digits-0v8", "model": "mlp", "policies": ["learned"], **FEW, "splits": 1,
        "joint_hyperiterations": 20, "points": 7, "batch": 7,
    },
    "mnist-0v8, network, fixed": {
        "dataset": "mnist-0v8", "model": "mlp", "policies": ["fixed=-8"], "splits": 1, "hyperiterations": 10,
        "points": 13, "batch": 13,
    },
    "digits-0v8, exact, fixed, learned": {
        "dataset": "digits-0v8", "victim": "exact", "policies": ["fixed=0", "learned"], **FEW, "splits": 1,
    },
}  # fmt: skip


def child(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the plan, or what the audit takes, from this process."""
    import jax.numpy as jnp

    from mithridate.auditing.audit import audit
    from mithridate.data.sources import prepared
    from mithridate.planning import calibration, plan

    data, config = prepared(options["dataset"], None, {k: v for k, v in options.items() if k != "dataset"})
    jnp.zeros(3).block_until_ready()
    started, used = time.perf_counter(), time.process_time()
    if kind != "audit":
        if kind == "plan by CPU":
            calibration.time = SimpleNamespace(perf_counter=time.process_time)
        found = plan(data, config).as_dict()
        return found | {"planning": time.perf_counter() - started}
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_memory(lambda: audit(data, config).save(Path(folder) / "run"))
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "peak": peak,
        "disk": disk,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - used,
        "load": os.getloadavg()[0],
    }


def measured(kind: str, options: dict[str, Any], cache: str) -> dict[str, Any]:
    """Return what a child process with this compilation cache prints."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", kind, "--options", json.dumps(options)]
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | kept)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    made = parser(__doc__, 1)
    made.add_argument("--only", default="", help="lines with this text")
    made.add_argument("--cpu", action="store_true", help="compare processor time")
    for name in ("--child", "--options"):
        made.add_argument(name, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.child:
        print(json.dumps(child(options.child, json.loads(options.options))))
        return
    where, results = machine(), {}
    clock, way = ("cpu", "plan by CPU") if options.cpu else ("seconds", "plan")
    heads = ("cold, s", "plan", "ratio", "warm, s", "plan", "ratio", "MB", "plan", "ratio", "disk", "in, s")
    print(f"{'':36}" + "".join(f"{head:>9}" for head in heads))
    for name, line in LINES.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as used, tempfile.TemporaryDirectory() as fresh:
            cold, warm = (measured("audit", line, used) for _ in range(2))
            planned = measured(way, line, fresh)
        seconds, whole = planned["seconds"], planned["seconds"] + planned["compiling"]
        peak = max(cold["peak"], warm["peak"])
        numbers = (
            *(cold[clock], whole, whole / cold[clock]),
            *(warm[clock], seconds, seconds / warm[clock]),
            *(peak / 1e6, planned["memory"] / 1e6, planned["memory"] / peak),
            *(planned["disk"] / warm["disk"], planned["planning"]),
        )
        print(f"{name:36}" + "".join(f"{number:9.2f}" for number in numbers), flush=True)
        results[name] = {"cold": cold, "warm": warm, "plan": planned}
    write_json(options.json, where, results)


if __name__ == "__main__":
    main()
