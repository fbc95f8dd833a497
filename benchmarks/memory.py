"""Memory of a hypergradient of a network with many steps: stored, checkpointed or run backwards.

    python benchmarks/memory.py [--steps 600] [--random] [--json FILE]

The network is 2048-128-32-1, n = 512, n_p = 13. Every line is a process of its own that runs twice.
"XLA": the temporary memory that the compiler plans for a run. "peak": by how much the resident set of the process grew
at its peak during the second run. "less" and "longer": how many times, beside Reverse in the same space with the same
rule.
Gradient descent, and heavy ball with momentum 0.9, which Reversible runs backwards bit for bit; PyTorch's autograd
through the same training is there for comparison.
"""

from typing import Any

from common import load_case, machine, parser, write_json
from peak import measure

LINES = (
    ("gradient descent, Gram space", "", ("reverse, gram", "checkpointed, gram")),
    ("gradient descent, plain", "", ("reverse, plain", "checkpointed, plain", "unrolled")),
    ("heavy ball, plain", ", heavy ball", ("reverse, plain", "checkpointed, plain", "reversible, plain")),
)


def main() -> None:
    made = parser(__doc__, 1)
    made.add_argument("--steps", type=int, default=600)
    made.add_argument("--random", action="store_true", help="random data, whatever is at hand")
    options = made.parse_args()
    where = machine()
    print(load_case("network", steps=options.steps, random=options.random))
    print(f"{'':48} {'XLA, MB':>9} {'less':>6} {'peak, MB':>9} {'less':>6} {'seconds':>8} {'longer':>6}")
    results: dict[str, Any] = {}
    for title, suffix, names in LINES:
        base: dict[str, Any] = {}
        for name in names:
            runs = [
                measure("network", name + suffix, options.steps, random=options.random) for _ in range(options.repeats)
            ]
            best = min(runs, key=lambda run: run["seconds"])
            base = base or best
            less = [f"{_mb(best[key])} {_times(base[key], best[key])}" for key in ("temporary", "peak")]
            label = f"{title}: {'PyTorch, unrolled' if name == 'unrolled' else name.partition(',')[0].capitalize()}"
            longer = _times(best["seconds"], base["seconds"])
            print(f"{label:48} {' '.join(less)} {best['seconds']:8.2f} {longer}", flush=True)
            results[label] = runs
    write_json(options.json, where, {"steps": options.steps, "rows": results})


def _mb(size: int | None) -> str:
    return f"{'':9}" if size is None else f"{size / 1e6:9.1f}"


def _times(one: float | None, other: float | None) -> str:
    return f"{'':6}" if not one or not other else f"{one / other:6.2f}"


if __name__ == "__main__":
    main()
