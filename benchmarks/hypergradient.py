"""Seconds per hypergradient of X_p and λ, and per attack, beside PyTorch, TorchOpt and JAXopt on the same data.

    python benchmarks/hypergradient.py [--cases mnist imagenet network] [--repeats 15] [--json FILE]

Every case has the data set it is named after where that is at hand (`MITHRIDATE_DATA_DIR`), else random data of its
shape; nothing is downloaded. All subjects of a table are timed in turn, round by round, in one process; first calls do
not count. "speed-up" is against the fastest of the PyTorch versions that work for any model. "err": relative error
against PyTorch's unrolled autograd in float64, for the implicit ones against the converged derivative in float64, the
largest over 20 outer steps where they are warm (steps of 0.99 along the normalised derivative, projected; one takes a
twentieth of the whole). "MB": for JAX what XLA says it allocates in a run, for PyTorch by how much the resident set of
a process of its own grew.
"""

import time
import warnings
from dataclasses import replace
from typing import Any

import torch

import mithridate as mi
from common import (
    SHAPES,
    Case,
    Measured,
    Subject,
    as_json,
    installed,
    load_case,
    machine,
    parser,
    print_table,
    split_case,
    time_in_turn,
    write_json,
)
from mithridate.configuration.presets import setting
from mithridate.data.downloads import at_hand
from mithridate.hypergradients.steps import poison_rule
from ours import forward, implicit_cold, implicit_warm, jaxopt_cold, jaxopt_warm, unrolled, within_attack
from peak import measure
from peers import Torch

STRENGTHS = (0.0, 2.0, 4.0)
TORCH = {
    "unrolled": "PyTorch, unrolled",
    "unrolled, joined": "PyTorch, unrolled, rows joined at each step",
    "algorithm_2": "PyTorch, Algorithm 2",
    "torchopt": "TorchOpt, unrolled",
    "formulas": "PyTorch, formulas of this one model",
}


def torch_subjects(case: Case, truth: Any) -> list[Subject]:
    """Return the versions in PyTorch; the one that is good for a single model is none that speed-ups refer to."""
    peer, joined = Torch(case), Torch(case, joined=True)
    runs = {"unrolled": peer.unrolled, "unrolled, joined": joined.unrolled, "algorithm_2": peer.algorithm_2}
    if installed("torchopt"):
        runs["torchopt"] = peer.torchopt
    if not case.hidden:
        runs["formulas"] = peer.formulas
    return [Subject(TORCH[k], run, peer=k != "formulas", truth=lambda _: truth) for k, run in runs.items()]


def our_subjects(case: Case, truth: Any) -> list[Subject]:
    """Return this project's methods, those for a solved victim at three λ, and JAXopt's beside them."""
    made = [unrolled(f"Reverse, {space}", mi.Reverse(), case, space, truth) for space in ("plain", "gram")]
    made += [
        within_attack("Reverse, gram, in an attack", mi.Reverse(), case, case.problem("gram"), None),
        unrolled("Checkpointed, gram", mi.Checkpointed(), case, "gram", truth),
        unrolled("Reversible, gram", mi.Reversible(), case, "gram", truth),
        forward("Forward, gram (λ alone)", case, "gram", truth),
    ]
    if not case.hidden:  # a network stopped after T steps is at no optimum
        makers = [implicit_cold, implicit_warm, *((jaxopt_cold, jaxopt_warm) if installed("jaxopt") else ())]
        made += [make(replace(case, log_strength=strength)) for make in makers for strength in STRENGTHS]
    return made


def table(case: Case, repeats: int, memory: bool, random: bool) -> list[Measured]:
    """Measure and print one case."""
    truth = Torch(case, torch.float64).unrolled()
    found = time_in_turn(torch_subjects(case, truth) + our_subjects(case, truth), repeats)
    for key, name in TORCH.items():
        if memory and name in found:
            found[name].memory = measure(case.name, key, points=len(case.poison[1]), random=random)["peak"]
    rows = list(found.values())
    print_table(str(case), rows)
    return rows


def attack(repeats: int) -> dict[str, Any]:
    """Time one split against the learned policy, and PyTorch's hypergradients for as many steps."""
    dataset, points = "mnist-0v8" if at_hand("mnist") else "digits-0v8", 13
    config, split = setting(dataset), mi.load_dataset(dataset).split()
    case = split_case(split, points, config.learning_rate, config.inner_steps)
    peer = Torch(case)
    times = time_in_turn([Subject("unrolled", peer.unrolled), Subject("by hand", peer.algorithm_2)], repeats)
    run = mi.Attack(
        learner=case.problem().learner,
        target=case.target,
        feasible=case.box,
        policy=mi.Learned(),
        points=min(85, len(split.y_train) // 6),
        batch=points,
        steps=config.hyperiterations,
        ascent=poison_rule("normalised", config.poison_step),
    )
    spent, taken = [], 0
    for _ in ("with compilation", "without"):
        started = time.perf_counter()
        taken = len(run.poison(split.x_train, split.y_train).history)
        spent.append(time.perf_counter() - started)
    by_torch = taken * min(t.median for t in times.values())
    print(
        f"\none split of {dataset} against the learned policy, {run.points} points, {taken} hyperiterations: "
        f"{spent[1]:.2f} s ({spent[0]:.2f} s with compilation); the hypergradients alone by PyTorch: {by_torch:.0f} s, "
        f"ratio {by_torch / spent[1]:.1f}"
    )
    return {"dataset": dataset, "hyperiterations": taken, "seconds": spent[1], "first": spent[0], "torch": by_torch}


def main() -> None:
    made = parser(__doc__, 15)
    made.add_argument("--cases", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    made.add_argument("--points", type=int, default=13)
    made.add_argument("--random", action="store_true", help="random data, whatever is at hand")
    made.add_argument("--quick", action="store_true", help="no attack, no memory of PyTorch")
    options = made.parse_args()
    warnings.filterwarnings("ignore", "JAXopt is no longer maintained")
    where, results = machine(), {}
    print(
        {**where["versions"], "cpu": where["cpu"], "cores": where["cores"], "PyTorch threads": torch.get_num_threads()}
    )
    for name in options.cases:
        case = load_case(name, options.points, random=options.random)
        repeats = max(2, options.repeats // 3) if case.hidden else options.repeats
        rows = table(case, repeats, not options.quick, options.random)
        results[name] = {"case": str(case), "rows": as_json(rows)}
    if not options.quick:
        results["attack"] = attack(max(2, options.repeats // 3))
    write_json(options.json, where, results)


if __name__ == "__main__":
    main()
