"""Peak memory of one subject, measured in a process of its own.

    python benchmarks/peak.py CASE SUBJECT [--steps T] [--points n_p] [--random]

Prints, as JSON, by how many bytes the resident set grew at its peak during one run and how many seconds the run took.
The subject has run once before, and what that left over was given back, so that libraries and compilation do not count.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mithridate as mi
from common import Case, load_case, peak_memory

MOMENTUM = 0.9
METHODS: dict[str, tuple[Any, str]] = {
    "reverse, plain": (mi.Reverse(), "plain"),
    "reverse, gram": (mi.Reverse(), "gram"),
    "checkpointed, plain": (mi.Checkpointed(), "plain"),
    "checkpointed, gram": (mi.Checkpointed(), "gram"),
    "reversible, plain": (mi.Reversible(), "plain"),
}
PEERS = ("unrolled", "unrolled, joined", "algorithm_2", "formulas", "torchopt")


def rule_of(case: Case, ball: bool) -> Any:
    """Return heavy ball, with the step size that makes it as fast as gradient descent, or gradient descent."""
    if ball:
        return mi.HeavyBall((1 - MOMENTUM) * case.rate, MOMENTUM, case.steps)
    return mi.GradientDescent(case.rate, case.steps)


def torch_run(case: Case, name: str) -> Callable[[], Any]:
    """Return one of the PyTorch versions of a case."""
    from peers import Torch

    method, _, joined = name.partition(", ")
    return getattr(Torch(case, joined=bool(joined)), method)


def jax_run(case: Case, name: str) -> tuple[Callable[[], Any], int | None]:
    """Return one of our methods, compiled, and the memory XLA says it will take; `…, heavy ball` for that rule."""
    from ours import compiled, once

    base, ball = name.removesuffix(", heavy ball"), name.endswith(", heavy ball")
    method, space = METHODS[base]
    return compiled(once, method, case.problem(space, rule_of(case, ball)), *case.at())


def measure(case: str, name: str, steps: int | None = None, points: int = 13, random: bool = False) -> dict[str, Any]:
    """Return what this script prints, from a child process."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), case, name, "--points", str(points)]
    command += ["--steps", str(steps)] if steps else []
    command += ["--random"] if random else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("case")
    made.add_argument("subject")
    made.add_argument("--steps", type=int)
    made.add_argument("--points", type=int, default=13)
    made.add_argument("--random", action="store_true")
    options = made.parse_args()
    case = load_case(options.case, options.points, options.steps, options.random)
    temporary = None
    if options.subject in PEERS:
        run = torch_run(case, options.subject)
    else:
        run, temporary = jax_run(case, options.subject)
    run()
    started = time.perf_counter()
    peak = peak_memory(run)
    seconds = time.perf_counter() - started
    print(json.dumps({"peak": peak, "temporary": temporary, "seconds": seconds}))


if __name__ == "__main__":
    main()
