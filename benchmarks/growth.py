"""How the time of a hypergradient grows: n, m, T and n_p each doubled three times from a base, on random data.

    python benchmarks/growth.py [--model logistic network] [--repeats 7] [--json FILE]

Two subjects, timed in turn at every size: this project's Reverse in the space that it chooses for the sizes, and the
faster of the two PyTorch versions at the base (autograd through the training, or Algorithm 2). A growth factor is the
median at a size over the median at half of it: 2 is linear, 1 is free.
"""

from typing import Any

import mithridate as mi
from common import Case, Measured, Subject, as_json, machine, parser, random_case, time_in_turn, write_json
from ours import unrolled
from peers import Torch

SIZES = ("n", "m", "steps", "points")
LABELS = {"n": "n", "m": "m", "steps": "T", "points": "n_p"}
BASES: dict[str, dict[str, Any]] = {
    "logistic": {"n": 512, "m": 784, "steps": 150, "points": 13, "rate": 0.05},
    "network": {"n": 256, "m": 512, "steps": 25, "points": 13, "rate": 0.01, "hidden": (128, 32)},
}
OURS = "Reverse"


def subjects(case: Case, peers: tuple[str, ...]) -> list[Subject]:
    """Return Reverse, in the space chosen for the case, and the PyTorch versions of these names."""
    torch = Torch(case)
    return [
        unrolled(OURS, mi.Reverse(), case, "auto", None),
        *(Subject(name, getattr(torch, name), peer=True) for name in peers),
    ]


def space_of(case: Case) -> str:
    """Return the space that is chosen for a case."""
    problem = case.problem()
    return problem.learner.chosen_space(problem.blocks(case.at()[0]))


def grow(base: dict[str, Any], repeats: int, doublings: int) -> dict[str, list[dict[str, Any]]]:
    """Measure and print the table of one model."""
    first = random_case(**base)
    found = time_in_turn(subjects(first, ("unrolled", "algorithm_2")), repeats)
    rival = min((row for row in found.values() if row.peer), key=lambda row: row.median).name
    print(f"\n{first}; PyTorch: {rival}")
    print(f"{'':>10} {'Reverse':>10} {'growth':>7} {'PyTorch':>10} {'growth':>7} {'speed-up':>9}  space")
    results = {}
    for size in SIZES:
        rows: list[tuple[int, str, dict[str, Measured]]] = [(base[size], space_of(first), found)]
        for k in range(1, doublings + 1):
            case = random_case(**{**base, size: base[size] * 2**k})
            rows.append((base[size] * 2**k, space_of(case), time_in_turn(subjects(case, (rival,)), repeats)))
        results[LABELS[size]] = []
        for i, (value, space, measured) in enumerate(rows):
            ours, theirs = measured[OURS].median, measured[rival].median
            before = rows[i - 1][2] if i else None
            growths = [
                f"{m / before[k].median:7.2f}" if before else " " * 7 for k, m in ((OURS, ours), (rival, theirs))
            ]
            print(
                f"{LABELS[size] + ' = ' + str(value):>10} {ours:10.5f} {growths[0]} {theirs:10.5f} {growths[1]}"
                f" {theirs / ours:9.1f}  {space}",
                flush=True,
            )
            rows_json = as_json([measured[OURS], measured[rival]])
            results[LABELS[size]].append({"value": value, "space": space, "rows": rows_json})
    return results


def main() -> None:
    made = parser(__doc__, 7)
    made.add_argument("--model", nargs="*", choices=list(BASES), default=["logistic"])
    made.add_argument("--doublings", type=int, default=3)
    options = made.parse_args()
    where = machine()
    results = {name: grow(BASES[name], options.repeats, options.doublings) for name in options.model}
    write_json(options.json, where, results)


if __name__ == "__main__":
    main()
