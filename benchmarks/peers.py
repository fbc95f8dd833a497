"""The same hypergradients by other means: PyTorch (autograd or by hand), TorchOpt, JAXopt.

Written as a competent user would. In PyTorch: the logits are taken block by block, so that no step copies the rows and
the derivative costs the points' rows only, never the whole of X (`joined`: the rows are put together in the objective
instead, as it is usually written, at more than twice the time); the penalty's gradient is added by its formula, as the
optimisers' weight decay does; Hessian-vector products go through `grad_outputs`, without forming the inner product;
Algorithm 2's forward pass, which needs no derivative in the points, joins the rows once. In JAXopt: everything is
compiled as one function; the victim is solved by L-BFGS (of its solvers and line searches the fastest here) and the
linear system by CG, to the tolerances that this project's own method has in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import Case

try:
    import torch
except ImportError:  # JAXopt and this project do without
    torch = None


class Torch:
    """A case in PyTorch: full-batch gradient descent on the mean cross-entropy with L2.

    `dtype`, by default float32; `device`, by PyTorch's name for it. Results are NumPy arrays, so they are there.
    """

    def __init__(self, case: Case, dtype: torch.dtype | None = None, joined: bool = False, device: str = "cpu"):
        self.joined, self.found, kind = joined, _numpy, {"dtype": dtype or torch.float32, "device": device}

        def tensors(arrays: Any) -> list[torch.Tensor]:
            return [torch.tensor(np.asarray(a), **kind) for a in arrays]

        (self.x, rest), (self.x_poison, poison) = tensors(case.rest), tensors(case.poison)
        self.y = torch.cat([rest, poison])
        self.x_target, self.y_target = tensors(case.target)
        self.w0 = tensors(case.w0())
        self.log_strength = torch.tensor(case.log_strength, **kind)
        self.rate, self.steps = case.rate, case.steps
        self.loss = torch.nn.functional.binary_cross_entropy_with_logits

    def head(self, params: Any, z: torch.Tensor) -> torch.Tensor:
        """Return the logits, given z = x·W of the first layer."""
        z = z + params[1]
        for weight, bias in zip(params[2::2], params[3::2], strict=True):
            z = torch.nn.functional.leaky_relu(z, 0.01) @ weight + bias
        return z if z.ndim == 1 else z[:, 0]

    def inner_loss(self, params: Any, *blocks: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the training rows."""
        if self.joined or len(blocks) == 1:
            z = (torch.cat(blocks) if len(blocks) > 1 else blocks[0]) @ params[0]
        else:
            z = torch.cat([x @ params[0] for x in blocks])
        return self.loss(self.head(params, z), self.y)

    def outer_loss(self, params: Any) -> torch.Tensor:
        """Return A."""
        return self.loss(self.head(params, self.x_target @ params[0]), self.y_target)

    def rho(self, log_strength: torch.Tensor) -> torch.Tensor:
        """Return e^λ/n."""
        return torch.exp(log_strength) / len(self.y)

    def gradient(self, params: Any, rho: torch.Tensor, *blocks: torch.Tensor, keep: bool = False) -> list[torch.Tensor]:
        """Return ∇L, in a way that can be differentiated again if `keep`."""
        slopes = torch.autograd.grad(self.inner_loss(params, *blocks), params, create_graph=keep)
        return [g if i % 2 else g + rho * p for i, (g, p) in enumerate(zip(slopes, params, strict=True))]

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return X_p and λ to be differentiated in."""
        return self.x_poison.clone().requires_grad_(), self.log_strength.clone().requires_grad_()

    def unrolled(self) -> tuple[np.ndarray, np.ndarray]:
        """Autograd through the whole training."""
        x_poison, log_strength = self.leaves()
        rho, params = self.rho(log_strength), [p.clone().requires_grad_() for p in self.w0]
        for _ in range(self.steps):
            slopes = self.gradient(params, rho, self.x, x_poison, keep=True)
            params = [p - self.rate * g for p, g in zip(params, slopes, strict=True)]
        return self.found(torch.autograd.grad(self.outer_loss(params), (x_poison, log_strength)))

    def algorithm_2(self) -> tuple[np.ndarray, np.ndarray]:
        """Algorithm 2: the trajectory stored, one adjoint for X_p and λ."""
        x_poison, log_strength = self.leaves()
        with torch.no_grad():
            rho, x = self.rho(log_strength), torch.cat([self.x, x_poison])
        path = [[p.clone().requires_grad_() for p in self.w0]]
        for _ in range(self.steps):
            slopes = self.gradient(path[-1], rho, x)
            with torch.no_grad():
                path.append([p - self.rate * g for p, g in zip(path[-1], slopes, strict=True)])
            for p in path[-1]:
                p.requires_grad_()
        adjoint = torch.autograd.grad(self.outer_loss(path[-1]), path[-1])
        rho.requires_grad_()
        d_poison, d_rho = torch.zeros_like(x_poison), torch.zeros_like(rho)
        for params in reversed(path[:-1]):
            slopes = self.gradient(params, rho, self.x, x_poison, keep=True)
            *bends, b_poison, b_rho = torch.autograd.grad(slopes, (*params, x_poison, rho), grad_outputs=adjoint)
            adjoint = [v - self.rate * h for v, h in zip(adjoint, bends, strict=True)]
            d_poison -= self.rate * b_poison
            d_rho -= self.rate * b_rho
        return self.found((d_poison, d_rho * rho.detach()))  # dρ/dλ = ρ

    def formulas(self) -> tuple[np.ndarray, np.ndarray]:
        """Algorithm 2 for logistic regression alone, every derivative by its formula: no autograd in the loops."""
        with torch.no_grad():
            return self.found(self._formulas())

    def _formulas(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, rate, n, rho = torch.cat([self.x, self.x_poison]), self.rate, len(self.y), self.rho(self.log_strength)
        (w, b), last = self.w0, slice(-len(self.x_poison), None)
        path = []
        for _ in range(self.steps):
            chance = torch.sigmoid(torch.addmv(b.expand(n), x, w))
            path.append((w, chance))
            slope = (chance - self.y) / n
            w, b = torch.addmv((1 - rate * rho) * w, x.T, slope, alpha=-rate), b - rate * slope.sum()
        slope = (torch.sigmoid(self.x_target @ w + b) - self.y_target) / len(self.y_target)
        v, c = slope @ self.x_target, slope.sum()
        d_poison, d_rho = torch.zeros_like(self.x_poison), torch.zeros_like(rho)
        for w, chance in reversed(path):
            bend = chance * (1 - chance) / n * torch.addmv(c.expand(n), x, v)
            d_poison.addr_((chance[last] - self.y[last]) / n, v, alpha=-rate).addr_(bend[last], w, alpha=-rate)
            d_rho -= rate * torch.dot(w, v)
            v, c = torch.addmv((1 - rate * rho) * v, x.T, bend, alpha=-rate), c - rate * bend.sum()
        return d_poison, d_rho * rho

    def torchopt(self) -> tuple[np.ndarray, np.ndarray]:
        """TorchOpt's differentiable optimiser on the same training; λ has to be in the loss, not its weight decay."""
        import torchopt

        x_poison, log_strength = self.leaves()
        rho, params = self.rho(log_strength), tuple(p.clone().requires_grad_() for p in self.w0)
        optimiser = torchopt.FuncOptimizer(torchopt.sgd(lr=self.rate))
        for _ in range(self.steps):
            penalty = sum(torch.sum(p * p) for p in params[::2])
            params = optimiser.step(self.inner_loss(params, self.x, x_poison) + 0.5 * rho * penalty, params)
        return self.found(torch.autograd.grad(self.outer_loss(params), (x_poison, log_strength)))

    def replayed(self, name: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Return the method `name` recorded once as a CUDA graph, to be played again: no launch waits for Python.

        The graph reads this object's tensors where they are, so what is returned keeps the object, which is good for
        nothing else from then on.
        """
        self.found, run, graph, aside = tuple, getattr(self, name), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is set up at first use cannot be recorded
            for _ in range(2):
                run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self.recorded = graph, run()

        def play() -> tuple[np.ndarray, np.ndarray]:
            graph, found = self.recorded
            graph.replay()
            return _numpy(found)

        return play


def _numpy(tensors: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = (t.detach().cpu().numpy() for t in tensors)
    return first, second


def jaxopt_step(case: Case) -> Callable[..., Any]:
    """Return (w, X_p, λ) → (w*, ∂X_p, ∂λ) for logistic regression, by JAXopt from w; to be compiled."""
    import jaxopt

    (x, rest), (x_target, y_target) = (
        [jnp.asarray(a, dtype=float) for a in arrays] for arrays in (case.rest, case.target)
    )
    y = jnp.concatenate([rest, jnp.asarray(case.poison[1], dtype=float)])

    def mean_loss(z: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.softplus(z) - y * z)

    def inner(params: Any, x_poison: jax.Array, log_strength: jax.Array) -> jax.Array:
        w, b = params
        z = jnp.concatenate([x @ w, x_poison @ w]) + b
        return mean_loss(z, y) + jnp.exp(log_strength) / (2 * len(y)) * jnp.vdot(w, w)

    w0 = (jnp.zeros(case.m), jnp.zeros(()))
    at = case.at()
    scale = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.grad(inner)(w0, *at[:2])))

    def solve(product: Any, right: Any) -> Any:
        return jaxopt.linear_solve.solve_cg(product, right, tol=3e-5, maxiter=500)

    solver = jaxopt.LBFGS(inner, maxiter=1000, tol=float(5e-5 * scale), implicit_diff_solve=solve)

    def outer(x_poison: jax.Array, log_strength: jax.Array, start: Any) -> tuple[jax.Array, Any]:
        w, b = params = solver.run(start, x_poison=x_poison, log_strength=log_strength).params
        return mean_loss(x_target @ w + b, y_target), params

    def step(start: Any, x_poison: jax.Array, log_strength: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        (poison, hyper), params = jax.grad(outer, (0, 1), has_aux=True)(x_poison, log_strength, start)
        return params, poison, hyper

    return step
