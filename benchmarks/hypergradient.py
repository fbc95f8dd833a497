"""Seconds per hypergradient of X_p and λ, and per attack, beside PyTorch on the same data in the same run.

    python benchmarks/hypergradient.py [--dataset mnist-0v8] [--repeats 15]

Peers: Algorithm 2 written by hand in PyTorch (Hessian-vector products by double backward) and PyTorch's autograd
through the unrolled training. The three are timed in turn, round by round, so that a machine whose speed drifts
harms all alike; medians and their spread are printed, and how far the results are apart.
"""

import argparse
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch

import mithridate as mi
from mithridate.presets import setting
from mithridate.seeds import generator
from mithridate.steps import poison_rule

LOG_STRENGTH = 1.0


class Torch:
    """The same problem in PyTorch: full-batch gradient descent on the mean cross-entropy with L2."""

    def __init__(self, rest, poison, target, rate: float, steps: int):
        self.x, self.y = (torch.tensor(a, dtype=torch.float32) for a in rest)
        self.x_poison, self.y_poison = (torch.tensor(a, dtype=torch.float32) for a in poison)
        self.x_target, self.y_target = (torch.tensor(a, dtype=torch.float32) for a in target)
        self.rate, self.steps = rate, steps
        self.loss = torch.nn.functional.binary_cross_entropy_with_logits

    def objective(self, w, b, x_poison, log_strength):
        x, y = torch.cat([self.x, x_poison]), torch.cat([self.y, self.y_poison])
        return self.loss(x @ w + b, y) + torch.exp(log_strength) / (2 * len(y)) * (w @ w)

    def outer(self, w, b):
        return self.loss(self.x_target @ w + b, self.y_target)

    def leaves(self):
        x_poison = self.x_poison.clone().requires_grad_()
        log_strength = torch.tensor(LOG_STRENGTH, requires_grad=True)
        w = torch.zeros(self.x.shape[1], requires_grad=True)
        return x_poison, log_strength, w, torch.zeros((), requires_grad=True)

    def unrolled(self):
        """Autograd through the whole training."""
        x_poison, log_strength, w, b = self.leaves()
        for _ in range(self.steps):
            gw, gb = torch.autograd.grad(self.objective(w, b, x_poison, log_strength), (w, b), create_graph=True)
            w, b = w - self.rate * gw, b - self.rate * gb
        return torch.autograd.grad(self.outer(w, b), (x_poison, log_strength))

    def algorithm_2(self):
        """Algorithm 2: the trajectory stored, one adjoint for X_p and λ."""
        x_poison, log_strength, w, b = self.leaves()
        path = []
        for _ in range(self.steps):
            path.append((w, b))
            gw, gb = torch.autograd.grad(self.objective(w, b, x_poison.detach(), log_strength.detach()), (w, b))
            w = (w.detach() - self.rate * gw).requires_grad_()
            b = (b.detach() - self.rate * gb).requires_grad_()
        dw, db = torch.autograd.grad(self.outer(w, b), (w, b))
        dx, ds = torch.zeros_like(x_poison), torch.zeros(())
        for w, b in reversed(path):
            gradient = torch.autograd.grad(self.objective(w, b, x_poison, log_strength), (w, b), create_graph=True)
            along = (gradient[0] @ dw) + gradient[1] * db
            hw, hb, bx, bs = torch.autograd.grad(along, (w, b, x_poison, log_strength))
            dw, db, dx, ds = dw - self.rate * hw, db - self.rate * hb, dx - self.rate * bx, ds - self.rate * bs
        return dx, ds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits-0v8", help="mnist-0v8 for the figures in the README")
    parser.add_argument("--points", type=int, default=13)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    config = setting(options.dataset)
    split = mi.load_dataset(options.dataset).split()
    rate, steps, k = config.learning_rate, config.inner_steps, options.points
    order = generator("benchmark").permutation(len(split.y_train))
    rest = (split.x_train[order[k:]], split.y_train[order[k:]])
    poison = (split.x_valid[:k], 1 - split.y_valid[:k])
    target = (split.x_valid, split.y_valid)

    learner = mi.Learner(mi.LogisticRegression(split.x_train.shape[1]), mi.GradientDescent(rate, steps))
    problem = mi.Bilevel(learner, mi.Rows.of(*rest), jnp.asarray(poison[1], dtype=float), mi.Rows.of(*target))
    reverse = eqx.filter_jit(mi.Reverse())
    at = (jnp.asarray(poison[0]), jnp.asarray(LOG_STRENGTH), jax.random.key(0))
    peer = Torch(rest, poison, target, rate, steps)
    subjects = {
        "mithridate, Reverse": lambda: jax.block_until_ready(reverse(problem, *at)[1:3]),
        "PyTorch, Algorithm 2": peer.algorithm_2,
        "PyTorch, unrolled": peer.unrolled,
    }

    started = time.perf_counter()
    results = {name: [np.asarray(part) for part in run()] for name, run in subjects.items()}
    compiled = time.perf_counter() - started
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(options.repeats):
        for name, run in subjects.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)

    print(
        f"{options.dataset}: n = {len(split.y_train)}, m = {split.x_train.shape[1]}, n_p = {k}, T = {steps}, float32, "
        f"{torch.get_num_threads()} threads; first calls of all together {compiled:.1f} s"
    )
    truth = results["PyTorch, unrolled"]
    base = statistics.median(times["mithridate, Reverse"])
    print(
        f"{'seconds per hypergradient of X_p and λ':40} {'median':>9} {'min':>9} {'max':>9} {'ratio':>7} {'apart':>9}"
    )
    for name, found in times.items():
        apart = max(float(np.linalg.norm(r - t) / np.linalg.norm(t)) for r, t in zip(results[name], truth, strict=True))
        middle = statistics.median(found)
        print(f"{name:40} {middle:9.4f} {min(found):9.4f} {max(found):9.4f} {middle / base:7.1f} {apart:9.1e}")

    attack = mi.Attack(
        learner=learner,
        target=target,
        feasible=mi.Box(split.low, split.high),
        policy=mi.Learned(),
        points=min(85, len(split.y_train) // 6),
        batch=k,
        steps=config.hyperiterations,
        ascent=poison_rule("normalised", config.poison_step),
    )
    spent, taken = [], 0
    for _ in ("with compilation", "without"):
        started = time.perf_counter()
        taken = len(attack.poison(split.x_train, split.y_train).history)
        spent.append(time.perf_counter() - started)
    peer_seconds = taken * statistics.median(times["PyTorch, Algorithm 2"])
    print(
        f"one split against the learned policy, {attack.points} points, {taken} hyperiterations: {spent[1]:.1f} s "
        f"({spent[0]:.1f} s with compilation); the hypergradients alone by PyTorch's Algorithm 2: {peer_seconds:.0f} s"
        f", ratio {peer_seconds / spent[1]:.1f}"
    )


if __name__ == "__main__":
    main()
