"""What several workers are worth: measured for one and two, reckoned from the measured times for many.

Measured, on the same audit, each time in a new process and with everything compiled before: the wall-clock time in
turn, in one and two processes, and on one and two cores of a Ray that is there already (medians of the repetitions).

Reckoned: the list scheduling that the program does, the largest chain first and each to the worker that is free first,
the cells of a chain one after the other. From the runs with one worker come the start of a worker; the chains' own
times; what the first chain of each policy takes longer, since a process traces and loads its programs then; and the
rest of the run. The run with two workers says how good the reckoning is. The efficiency of W workers is the time of all
chains in one worker over W times the time that W take.

    python benchmarks/scaling.py [--repetitions 3] [--splits 3]
"""

import argparse
import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "mithridate-scaling"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

DATA = "mnist-0v8"
POLICIES = ("cv-poisoned", "learned", "fixed=-8", "fixed=6", "cv-clean")
RATIOS = 3
WORKERS = (8, 64, 512)


class Costs(NamedTuple):
    """Seconds: `start` until a worker has its first chain, `first` of each policy in a worker, `rest` of the run."""

    start: float
    first: dict[str, float]
    rest: float


def simulated(chains: list[tuple[str, float]], workers: int, costs: Costs) -> float:
    """Return the seconds of chains of these policies and lengths, the largest first to whoever is free first.

    >>> simulated([("a", 3.0), ("b", 2.0), ("b", 2.0)], 2, Costs(1.0, {"a": 0.5, "b": 0.25}, 0.0))
    5.25
    """
    free = [(costs.start, worker) for worker in range(min(workers, len(chains)))]
    known: list[set[str]] = [set() for _ in free]
    for policy, length in sorted(chains, key=lambda chain: -chain[1]):
        now, worker = free[0]
        first = 0.0 if policy in known[worker] else costs.first[policy]
        known[worker].add(policy)
        heapq.heapreplace(free, (now + first + length, worker))
    return max(free)[0] + costs.rest


def run_one(how: str, options: dict[str, Any]) -> None:
    """Print the wall-clock seconds of an audit, when its first cell began, and the seconds of each policy's chains."""
    import mithridate as mi

    if how.startswith("ray"):
        import ray

        ray.init(num_cpus=int(how[-1]), include_dashboard=False, log_to_driver=False)
        how = "ray"
    begun: list[float] = []
    started = time.perf_counter()
    found = mi.audit(DATA, execution=how, on_progress=lambda at: begun.append(time.perf_counter()), **options)
    seconds = time.perf_counter() - started
    chains = found.frame.groupby(["policy", "split"])["seconds"].sum()
    print(json.dumps([seconds, begun[0] - started, {policy: chains.loc[policy].tolist() for policy in POLICIES}]))


def timed(how: str, options: dict[str, Any]) -> tuple[float, float, dict[str, list[float]]]:
    """Return what `run_one` says in a process of its own."""
    command = [sys.executable, __file__, "--one", how, json.dumps(options)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(json.loads(said.splitlines()[-1]))


def measured(runs: list[Any], ready: float) -> tuple[list[tuple[str, float]], Costs]:
    """Return chains and costs, from the runs with one worker; `ready`: when in turn the first cell begins."""
    times = {p: [statistics.median(own) for own in zip(*(run[2][p] for run in runs), strict=True)] for p in POLICIES}
    usual = {policy: statistics.median(own[1:]) for policy, own in times.items()}
    first = {policy: max(0.0, own[0] - usual[policy]) for policy, own in times.items()}
    start = statistics.median(run[1] for run in runs) - ready
    rest = statistics.median(run[0] for run in runs) - start - sum(sum(own) for own in times.values())
    chains = [(policy, length) for policy, own in times.items() for length in (usual[policy], *own[1:])]
    return chains, Costs(start, first, rest)


def study(name: str, chains: list[tuple[str, float]], times: int, scale: float, costs: Costs) -> None:
    """Print the efficiency of many workers when each chain is there so many times, and so much longer."""
    longer = [(policy, scale * length) for policy, length in chains] * times
    one, longest = simulated(longer, 1, costs), max(length + costs.first[policy] for policy, length in longer)
    print(f"\n{name}: {len(longer)} chains, {one / 3600:.2f} h with one worker; the longest {longest:.0f} s")
    for workers in WORKERS:
        taken = simulated(longer, workers, costs)
        whole = taken - costs.start - costs.rest < 1.05 * longest
        limit = "the longest chain" if whole else "the work"
        said = f"speed-up {one / taken:6.1f}  efficiency {one / workers / taken:5.1%}"
        print(
            f"  {workers:4} workers {taken:9.0f} s  {said}  limited by {limit}; {min(workers, len(longer))} have work"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--hyperiterations", type=int, default=20, help="of the measured audit; the preset has more")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.one[0], json.loads(given.one[1]))
        return
    steps = given.hyperiterations
    options: dict[str, Any] = {"splits": given.splits, "points": 20, "batch": 10, "policies": POLICIES}
    options |= {"hyperiterations": steps, "joint_hyperiterations": steps}
    timed("serial", options)  # which compiles
    kinds = ("serial", "processes:1", "processes:2", "ray on 1", "ray on 2")
    runs: dict[str, list[Any]] = {kind: [] for kind in kinds}
    for _ in range(given.repetitions):
        for kind in kinds:  # in turn, so that whatever else the machine does meets all of them
            runs[kind].append(timed(kind, options))
    wall = {kind: statistics.median(run[0] for run in found) for kind, found in runs.items()}
    print(
        f"{DATA}, {given.splits} splits × {len(POLICIES)} policies × {RATIOS} ratios, {os.cpu_count()} cores; medians:"
    )
    for kind, found in runs.items():
        print(f"  {kind:12} {wall[kind]:6.1f} s ({min(r[0] for r in found):.1f} to {max(r[0] for r in found):.1f})")
    ready = statistics.median(run[1] for run in runs["serial"])
    chains, costs = [], Costs(0.0, {}, 0.0)
    for one, two in (("processes:1", "processes:2"), ("ray on 1", "ray on 2")):
        chains, costs = measured(runs[one], ready)
        expected = [simulated(chains, workers, costs) for workers in (1, 2)]
        print(f"\n{one} over in turn: {wall[one] - wall['serial']:+.1f} s ({wall[one] / wall['serial'] - 1:+.1%})")
        first = sum(costs.first.values())
        print(f"  a worker starts in {costs.start:.1f} s; the first chains of its policies take {first:.1f} s longer")
        print(f"  two over one: {wall[one] / wall[two]:.2f} times as fast, reckoned {expected[0] / expected[1]:.2f}")
        for workers, kind, seconds in zip((1, 2), (one, two), expected, strict=True):
            print(f"  {workers}: {wall[kind]:.1f} s, reckoned {seconds:.1f} s ({seconds / wall[kind] - 1:+.1%})")
    from mithridate.configuration.config import AuditConfig

    paper = AuditConfig.of(dataset=DATA, preset="paper")
    scale = -(-paper.points // paper.batch) / (RATIOS - 1) * paper.joint_hyperiterations / steps
    for name, splits in (("paper's preset", 10), ("the same on 4 data sets, 100 splits each", 400)):
        times = -(-splits // given.splits)
        study(f"{name}: {times * given.splits} splits × {len(POLICIES)} policies", chains, times, scale, costs)


if __name__ == "__main__":
    main()
