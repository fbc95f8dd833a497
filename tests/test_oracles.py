"""The same hypergradients by other people's libraries: higher, TorchOpt and JAXopt, where they are installed.

Unrolled (Reverse) and implicit (Implicit), in float64. The libraries are no dependencies; a test whose library is not
there is skipped. JAXopt is no longer maintained.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from problems import CASES, RATE, STEPS, M, Pair, hypergradients, jit, relative_error

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Deprecation", "Future")]  # theirs
SETTING = 1


@functools.cache
def library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


class Torch:
    """A case in PyTorch: the derivatives' inputs, the objective and the attacker's loss of (w, b)."""

    def __init__(self, case: str):
        self.torch, self.ridge = library("torch"), "ridge" in case
        arrays = CASES[case].arrays[SETTING]
        self.x, self.y, x_poison, self.y_poison, self.x_target, self.y_target, log_strength = (
            self.torch.tensor(np.asarray(part)) for part in arrays
        )
        self.inputs = x_poison.requires_grad_(), log_strength.requires_grad_()

    def mean_loss(self, logits: Any, labels: Any) -> Any:
        if self.ridge:
            return 0.5 * ((logits - labels) ** 2).mean()
        return self.torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def objective(self, w: Any, b: Any, x_poison: Any, log_strength: Any) -> Any:
        x, y = self.torch.cat([self.x, x_poison]), self.torch.cat([self.y, self.y_poison])
        return self.mean_loss(x @ w + b, y) + self.torch.exp(log_strength) / (2 * len(y)) * (w @ w)

    def derivatives(self, w: Any, b: Any) -> Pair:
        outer = self.mean_loss(self.x_target @ w + b, self.y_target)
        poison, hyper = self.torch.autograd.grad(outer, self.inputs)
        return poison.numpy(), hyper.numpy()

    def network(self) -> Any:
        """w and b as a module, from 0."""
        torch = self.torch

        class Parameters(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = torch.nn.Parameter(torch.zeros(M, dtype=torch.float64))
                self.b = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        return Parameters()


def higher(case: str) -> Pair:
    """Unrolled."""
    peer, problem = library("higher"), Torch(case)
    rate, momentum = UNROLLED[case]
    network = problem.network()
    optimiser = problem.torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)
    with peer.innerloop_ctx(network, optimiser) as (functional, inner):
        for _ in range(STEPS):
            inner.step(problem.objective(functional.w, functional.b, *problem.inputs))
        return problem.derivatives(functional.w, functional.b)


def torchopt_unrolled(case: str) -> Pair:
    peer, problem = library("torchopt"), Torch(case)
    rate, momentum = UNROLLED[case]
    network = problem.network()
    optimiser = peer.MetaSGD(network, lr=rate, momentum=momentum)
    for _ in range(STEPS):
        optimiser.step(problem.objective(network.w, network.b, *problem.inputs))
    return problem.derivatives(network.w, network.b)


def torchopt_implicit(case: str) -> Pair:
    peer, problem = library("torchopt"), Torch(case)
    torch = problem.torch

    def whole(v: Any, *inputs: Any) -> Any:
        return problem.objective(v[:M], 0.0 if problem.ridge else v[M], *inputs)

    @peer.diff.implicit.custom_root(
        torch.func.grad(whole), argnums=(1, 2), solve=peer.linear_solve.solve_cg(rtol=1e-14, atol=1e-14)
    )
    def newton(v: Any, *inputs: Any) -> Any:
        for _ in range(30):
            hessian, slope = (f(whole)(v, *inputs) for f in (torch.func.hessian, torch.func.grad))
            v = v - torch.linalg.solve(hessian, slope)
        return v.detach().requires_grad_()

    size = M if problem.ridge else M + 1
    v = newton(torch.zeros(size, dtype=torch.float64), *problem.inputs)
    return problem.derivatives(v[:M], 0.0 if problem.ridge else v[M])


def jaxopt_implicit(case: str) -> Pair:
    peer, (x, y, x_poison, y_poison, x_target, y_target, log_strength) = library("jaxopt"), CASES[case].arrays[SETTING]
    ridge = "ridge" in case

    def mean_loss(params: Any, x: Any, y: Any) -> Any:
        z = x @ params[0] + (0.0 if ridge else params[1])
        return jnp.mean(0.5 * (z - y) ** 2 if ridge else jnp.logaddexp(z, 0.0) - y * z)

    def objective(params: Any, inputs: Any) -> Any:
        rows = jnp.concatenate([jnp.asarray(x), inputs[0]]), jnp.concatenate([jnp.asarray(y), jnp.asarray(y_poison)])
        return mean_loss(params, *rows) + jnp.exp(inputs[1]) / (2 * len(rows[1])) * (params[0] @ params[0])

    def outer(inputs: Any) -> Any:
        solver = peer.GradientDescent(objective, stepsize=0.2, acceleration=False, maxiter=5000, tol=1e-14)
        params = solver.run((jnp.zeros(M), jnp.zeros(())), inputs).params
        return mean_loss(params, jnp.asarray(x_target), jnp.asarray(y_target))

    with jax.enable_x64(True):
        inputs = jnp.asarray(x_poison), jnp.asarray(log_strength)
        poison, hyper = jax.device_get(jit(jax.grad(outer))(inputs))
    return poison, hyper


UNROLLED = {"logistic": (RATE, 0.0), "heavy ball": (0.1, 0.9)}
"""Learning rate and momentum."""

PEERS = {
    "higher": (higher, tuple(UNROLLED), 1e-14),
    "TorchOpt, unrolled": (torchopt_unrolled, tuple(UNROLLED), 1e-14),
    "TorchOpt, implicit": (torchopt_implicit, ("ridge, solved", "logistic, long"), 1e-11),
    "JAXopt, implicit": (jaxopt_implicit, ("ridge, solved", "logistic, long"), 1e-11),
}


@pytest.mark.parametrize(("peer", "case"), [(peer, case) for peer, row in PEERS.items() for case in row[1]])
def test_a_peer_finds_the_same(peer, case):
    find, _, tolerance = PEERS[peer]
    method = "Implicit" if case == "ridge, solved" else "Reverse"
    assert relative_error(find(case), hypergradients(method, case, True)[SETTING]) < tolerance
