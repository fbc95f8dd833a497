"""What is computed on all the devices there are: `python on_devices.py FILE` writes it as an NPZ file.

`test_devices` runs it on eight devices, which XLA makes of a CPU where a process asks before it begins, and calls the
same functions in its own process, on one.
"""

import re
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import compiling
import conftest  # noqa: F401 (strict JAX, checked shapes)
import mithridate as mi
from mithridate.attacks.outer import OuterStep, begin, take_steps
from mithridate.execution import devices
from mithridate.hypergradients.steps import poison_rule
from problems import M, bilevel, draw, point

CHAINS, ROWS, FEATURES, POINTS = 9, 64, 200, 5
compilations: list[int] = []
shares: list[tuple[int, ...]] = []


@devices.shared
def solved(matrix: jax.Array, right: jax.Array, steps: int) -> dict[str, jax.Array]:
    """A LAPACK call, random numbers and a loop whose length differs from chain to chain."""
    compilations.append(steps)
    noise = jax.random.normal(jax.random.key(3), right.shape)
    found = jnp.linalg.solve(matrix, right) + noise
    halved = jax.lax.while_loop(lambda v: jnp.max(jnp.abs(v)) > 0.1, lambda v: v / 2, found)
    return {"found": found, "halved": halved * steps}


def watched(together: Any, arrays: Any, rest: Any, stacked: Any = devices.stacked) -> list[Any]:
    """Do as `devices.stacked`; note how many results each device held."""

    def call(*arguments: Any) -> Any:
        found = together(*arguments)
        parts = jax.tree.leaves(found)[0].addressable_shards
        assert len({part.device for part in parts}) == len(parts)
        shares.append(tuple(len(part.data) for part in parts))
        return found

    return stacked(call, arrays, rest)


def batched() -> dict[str, np.ndarray]:
    """Chains in step, the last of which is longer than the others."""

    def chain(seed: int) -> np.ndarray:
        matrix, right = jnp.eye(3) + jax.random.uniform(jax.random.key(seed), (3, 3)), jnp.arange(3.0) + seed
        for _ in range(2 + (seed == CHAINS - 1)):
            right = solved(matrix, right, 2)["found"]
        return np.asarray(right + solved(matrix, right, 2)["halved"])

    devices.stacked = watched
    return {"chains": np.stack(devices.run([lambda s=s: chain(s) for s in range(CHAINS)], "batched"))}


def attacks() -> dict[str, np.ndarray]:
    """Outer steps of attacks in step, in float64, where what rounding makes of a choice is not seen."""
    outer = OuterStep(mi.Reverse(), mi.Box(-3.0, 3.0), mi.Box(-8.0, 2.0), poison_rule("normalised", 0.1), None)
    learner = mi.Learner(mi.LogisticRegression(M), mi.GradientDescent(0.2, 6))

    def attack(seed: int) -> np.ndarray:
        arrays = draw(np.random.default_rng(seed))
        problem, at = bilevel(arrays, learner), point(arrays)
        state = begin(outer, problem, *at)
        for _ in range(2):
            state, _ = take_steps((outer, problem, at[2]), state, 3)
        return np.asarray(state.x_poison)

    with jax.enable_x64(True):
        return {"attacks": np.stack(devices.run([lambda s=s: attack(s) for s in range(8)], "batched"))}


VICTIMS = {
    "sgd": (mi.MinibatchSGD(0.05, 12, steps=14), mi.Checkpointed(), "plain"),
    "gd": (mi.GradientDescent(0.05, 14), mi.Reverse(), "plain"),
    "gram": (mi.MinibatchSGD(0.05, 12, epochs=2), mi.Reverse(), "gram"),
}


def sharded() -> dict[str, np.ndarray]:
    """Hypergradients of problems whose training rows are divided, and what is known of the compiled programs."""
    arrays, found = draw(np.random.default_rng(5), n=ROWS, m=FEATURES, n_p=POINTS), {}
    with devices.placed("sharded"):
        rows = mi.Rows.of(arrays.x, arrays.y, divided=True)
        found["parts"] = np.array([part.data.shape for part in rows.x.addressable_shards])
        weight = rows.weight.at[:POINTS].set(0.0)
        for name, (rule, method, space) in VICTIMS.items():
            learner = mi.Learner(mi.LogisticRegression(FEATURES), rule, space=space)
            rest = rows.with_gram() if space == "gram" else rows
            target = mi.Rows.of(arrays.x_target, arrays.y_target)
            problem = mi.Bilevel(learner, rest.with_weight(weight), jnp.asarray(arrays.y_poison, dtype=float), target)
            given, static = eqx.partition((method, problem), eqx.is_array)

            def hypergradient(given: Any, *at: Any, static: Any = static) -> Any:
                method, problem = eqx.combine(given, static)
                found = method(problem, *at)
                return found.value, found.poison, found.hyper

            at = given, jnp.asarray(arrays.x_poison, dtype=float), jnp.asarray(-2.0), jax.random.key(1)
            compiled = jax.jit(hypergradient).lower(*at).compile(compiler_options=compiling.known())
            parts = zip(("value", "poison", "hyper"), compiled(*at), strict=True)
            found |= {f"{name} {part}": np.asarray(array) for part, array in parts}
            sent = re.findall(
                r"\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)\(", compiled.as_text() or ""
            )
            found[f"{name} sent"] = np.array([max([np.prod([int(d) for d in s.split(",") if d]) for s in sent] or [0])])
        moved = jax.jit(mi.Rows.replaced)(rows, jnp.arange(3), mi.Rows(*(part[3:6] for part in rows[:3])))
        found["parts replaced"] = np.array([part.data.shape for part in moved.x.addressable_shards])
        learner = mi.Learner(mi.LogisticRegression(FEATURES), VICTIMS["sgd"][0], space="plain")
        found["curvature"] = np.array([learner.curvature(rows, -2.0)])
        attack = mi.Attack(
            learner=learner,
            target=(arrays.x_target, arrays.y_target),
            feasible=mi.Box(-4.0, 4.0),
            policy=mi.Fixed(-2.0),
            points=POINTS,
            batch=3,
            steps=2,
            rounds=1,
            hypergradient=mi.Checkpointed(),
        )
        *_, last = attack.run(arrays.x, arrays.y, rows)
        found |= {"attack": last.x_poison, "history": last.history}
    return found


def everything() -> dict[str, np.ndarray]:
    """All of the above."""
    found = batched() | attacks() | sharded()
    return found | {
        "devices": np.array([len(jax.devices())]),
        "compilations": np.array(compilations),
        "shares": np.array([len(share) for share in shares]),
        "largest share": np.array([max(share) for share in shares]),
        "smallest share": np.array([min(share) for share in shares]),
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **everything())  # pyright: ignore[reportArgumentType]
