"""How the hypergradients go about it: what they store, how often they step, what their options do, what they refuse."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

import compiling
import mithridate as mi
from mithridate.hypergradients import STATUSES, Hypergradient, HypergradientMethod, Status, number
from mithridate.hypergradients.reversible import BitExact
from problems import (
    METHODS,
    SEED,
    UNROLLED,
    LeastSquares,
    M,
    bilevel,
    compiled,
    draw,
    jit,
    pair,
    point,
    relative_error,
    squared,
)

WIDTH = 40
ARRAYS = draw(np.random.default_rng(SEED), m=WIDTH)


def problem(rule: Any, m: int = WIDTH, space: Any = "plain") -> mi.Bilevel:
    arrays = ARRAYS if m == WIDTH else draw(np.random.default_rng(SEED), m=m)
    return bilevel(arrays, mi.Learner(mi.LogisticRegression(m), rule, space=space))


def descent(steps: int) -> mi.GradientDescent:
    return mi.GradientDescent(0.01, steps)


def run(method: Any, rule: Any) -> Hypergradient:
    return jax.device_get(jit(lambda *at: method(problem(rule), *at))(*point(ARRAYS)))


# What is stored.


def memory(method: Any, rule: Any) -> int:
    """Bytes of everything but input, output and code."""
    lowered = jax.jit(lambda *at: method(problem(rule), *at)[:3]).lower(*point(ARRAYS))
    found: Any = lowered.compile(compiler_options=compiling.known()).memory_analysis()
    return found.temp_size_in_bytes


@pytest.mark.parametrize(
    ("method", "rule", "least", "most"),
    [
        (mi.Reverse(), descent, 12, 17),
        (mi.Checkpointed(), descent, 2, 5),
        (mi.Reversible(), descent, 1, 1.1),
        (mi.Reversible(), lambda steps: mi.HeavyBall(0.01, 0.9, steps), 1, 3),
        (mi.Forward(), descent, 1, 1.1),
    ],
    ids=["Reverse", "Checkpointed", "Reversible", "Reversible, heavy ball", "Forward"],
)
def test_how_memory_grows_with_sixteen_times_the_steps(method, rule, least, most):
    """By T, by √T, not, by the full buffers of bits, not."""
    assert least <= memory(method, rule(1024)) / memory(method, rule(64)) <= most


@pytest.mark.parametrize(
    ("method", "steps", "states"),
    [
        (mi.Reverse(), 60, 60),
        (mi.Checkpointed(), 64, 8),
        (mi.Checkpointed(), 60, 7),
        (mi.Checkpointed(every=20), 60, 3),
        (mi.Checkpointed(every=1), 60, 60),
        (mi.Checkpointed(every=100), 60, 1),
    ],
)
def test_how_many_states_are_kept(method, steps, states, capsys):
    victim = problem(descent(steps))
    x_poison, log_strength, key = point(ARRAYS)
    print_saved_residuals(lambda x, s: victim.value(x, s, key, method.loop), x_poison, log_strength)
    kept = [line for line in capsys.readouterr().out.splitlines() if f",{WIDTH}]" in line and "output of scan" in line]
    assert [line.split("[")[1].split(",")[0] for line in kept] == [str(states)]


STEPS_TAKEN: list[int] = []


class Counting(mi.GradientDescent):
    """Counts its steps when they are taken, not when they are traced."""

    def step(self, gradient: Any, state: Any, item: jax.Array) -> Any:
        jax.debug.callback(lambda t: STEPS_TAKEN.append(int(t)), item)
        return super().step(gradient, state, item)


@pytest.mark.parametrize(
    ("method", "steps", "passes"),
    [
        (mi.Reverse(), 10, 1),
        (mi.Checkpointed(), 9, 2),
        (mi.Checkpointed(), 10, 2),
        (mi.Checkpointed(every=1), 10, 2),
        (mi.Reversible(iterations=4), 10, 2 + 4),
    ],
)
def test_how_often_each_step_is_taken(method, steps, passes):
    """Once forwards; once more from a checkpoint; or as often as the fixed point asks, and once to differentiate."""
    STEPS_TAKEN.clear()
    run(method, Counting(0.01, steps))
    jax.effects_barrier()
    assert sorted(STEPS_TAKEN) == sorted(list(range(steps)) * passes)


# Running backwards.


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.99])
@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
def test_heavy_ball_comes_back_to_the_bit(momentum, x64):
    """Over so many steps that the buffer of dropped bits is put away again and again."""
    with jax.enable_x64(x64):
        rule = mi.HeavyBall(0.05, momentum, 20_000 if momentum == 0.99 else 2_000)
        victim, (x_poison, log_strength, key) = problem(rule, M), point(draw(np.random.default_rng(SEED)))
        way = BitExact(rule, None)
        assert rule.steps > 2 * way.period

        @jax.jit  # with the compiler's optimisations, which might round differently there and back
        def there_and_back(x_poison: jax.Array, log_strength: jax.Array) -> Any:
            training, state, _ = victim.learner.begin(victim.blocks(x_poison), log_strength, key)
            first, numbers = way.start(state, rule.steps), jnp.arange(rule.steps)
            last, _ = jax.lax.scan(lambda c, t: (way.step(training.gradient, c, t, t), None), first, numbers)
            back, _ = jax.lax.scan(
                lambda c, t: (way.unstep(training.gradient, c, t, t), None), last, numbers, reverse=True
            )
            return first, last, back

        first, last, back = jax.device_get(there_and_back(x_poison, log_strength))
    assert not last.overflowed
    assert not np.array_equal(last.params.weight, first.params.weight)
    for name in ("params", "velocity", "buffer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(back, name), getattr(first, name))


@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
def test_drift_is_reported(x64):
    assert np.all(compiled("Reversible", "heavy ball", x64).diagnostics["drift"] == 0)
    drift = np.asarray(compiled("Reversible", "logistic", x64).diagnostics["drift"])
    assert np.all((drift > 0) & (drift < 1e-4))


def test_a_way_back_that_misses_says_so():
    """The fixed point needs η·curvature < 1; here it is between 1 and 2, where gradient descent itself is at ease."""
    found = run(mi.Reversible(), mi.GradientDescent(0.15, 30))
    assert found.diagnostics["drift"] > 1e-3
    assert found.status == Status.drifted


def test_weights_out_of_the_range_of_fixed_point_numbers_say_so():
    assert run(mi.Reversible(), mi.HeavyBall(100.0, 0.9, 30)).status == Status.overflowed


# Options, each of which has to change what it says (those of Implicit: `test_exact`).


def test_options_of_reversible():
    rule = mi.GradientDescent(0.05, 20)
    drifts = [float(run(mi.Reversible(iterations=i), rule).diagnostics["drift"]) for i in (1, 3)]
    assert drifts[1] < 0.5 * drifts[0]
    assert run(mi.Reversible(iterations=3, drift=0.9 * drifts[1]), rule).status == Status.drifted
    coarse, fine = (run(mi.Reversible(bits=bits), mi.HeavyBall(0.01, 0.9, 20)) for bits in (14, 24))
    assert coarse.status == fine.status == Status.ok
    assert 1e-4 < relative_error(pair(coarse), pair(fine)) < 0.1


def test_options_of_forward():
    with pytest.raises(mi.InputError, match=r"3 points × 4 features \+ 1 λ = 13 of them, more than most = 12"):
        at(mi.Forward(most=12), problem(descent(3), M))
    tangents = [memory(mi.Forward(at_once=k), descent(5)) for k in (1, 100)]
    assert tangents[1] > 10 * tangents[0]


class Told(HypergradientMethod):
    """Returns what it is told, and remembers how often it was asked."""

    number: float
    status: Any

    def start(self, problem: Any, x_poison: Any, log_strength: Any, key: Any) -> Any:
        return jnp.zeros((), int)

    def __call__(self, problem: Any, x_poison: Any, log_strength: Any, key: Any, memory: Any = 0) -> Hypergradient:
        poison, hyper = jnp.full(x_poison.shape, self.number), jnp.full(log_strength.shape, self.number)
        return Hypergradient(
            jnp.asarray(self.number), poison, hyper, self.status, {str(self.number): hyper}, memory + 1
        )


@pytest.mark.parametrize("which", [0, 1, None])
def test_combined_takes_each_derivative_from_its_method_and_the_worse_status(which):
    parts = [Told(float(i), Status.drifted if i == which else Status.ok) for i in (0, 1)]
    both, victim = mi.Combined(*parts), problem(descent(3))
    found = both(victim, *point(ARRAYS), both.start(victim, *point(ARRAYS)))
    assert (found.value, float(found.poison.mean()), found.hyper) == (0, 0, 1)
    assert found.status == (Status.ok if which is None else Status.drifted)
    assert set(found.diagnostics) == {"0.0", "1.0"}
    assert found.memory == (1, 1)


# What is refused, or called by its name.


def at(method: Any, victim: mi.Bilevel, log_strength: Any = 0.0) -> Any:
    """Trace a method, which is when it checks what it is given."""
    x_poison = jnp.zeros((len(victim.y_poison), victim.rest.x.shape[1]))
    return jax.eval_shape(lambda: method(victim, x_poison, jnp.asarray(log_strength, float), jax.random.key(0))[:3])


def test_forward_mode_on_many_inputs_is_refused_with_its_cost():
    rows = mi.Rows(jnp.zeros((200, 784)), jnp.zeros(200), jnp.ones(200))
    victim = mi.Bilevel(mi.Learner(mi.LogisticRegression(784), descent(9)), rows, jnp.zeros(85), rows)
    with pytest.raises(mi.InputError, match=r"85 points × 784 features \+ 1 λ = 66,641 of them.*Combined"):
        at(mi.Forward(), victim)
    at(mi.Combined(mi.Reverse(), mi.Forward()), victim)


@pytest.mark.parametrize("method", UNROLLED)
def test_a_victim_solved_to_optimality_has_no_steps_to_differentiate(method):
    with pytest.raises(mi.InputError, match="solved to optimality; use Implicit"):
        at(METHODS[method], problem(mi.Exact()))


class Unheard(eqx.Module):
    """A rule that nobody can run backwards."""

    learning_rate: float = 0.1
    schedule = mi.GradientDescent.schedule
    start, step, final = mi.GradientDescent.start, mi.GradientDescent.step, mi.GradientDescent.final
    steps: int = eqx.field(default=3, static=True)


def test_what_cannot_be_run_backwards_is_refused():
    with pytest.raises(mi.InputError, match="cannot run Unheard backwards; use Checkpointed"):
        at(mi.Reversible(), problem(Unheard()))
    at(mi.Checkpointed(), problem(Unheard()))
    with pytest.raises(mi.InputError, match=r"ratio with a denominator up to 1024, such as .* = 408/577"):
        at(mi.Reversible(), problem(mi.HeavyBall(0.1, 0.5**0.5, 3)))


def test_lambdas_that_do_not_fit_the_layers_are_refused():
    with pytest.raises(mi.InputError, match="2 λ for 1 layers"):
        at(mi.Reverse(), problem(descent(3)), (0.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mi.Checkpointed(every=0), "every = 0"),
        (lambda: mi.Reversible(iterations=0), "iterations = 0"),
        (lambda: mi.GradientDescent(0.1, 0), "steps = 0"),
        (lambda: mi.HeavyBall(0.1, 0.9, 0), "steps = 0"),
        (lambda: mi.HeavyBall(0.1, 1.0, 3), "momentum = 1.0"),
        (lambda: mi.HeavyBall(0.1, 0.0, 3), "momentum = 0.0"),
        (lambda: mi.HeavyBall(-0.1, 0.9, 3), "learning_rate = -0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(mi.InputError, match=message):
        make()


def misclassified(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return 0.5 - 0.5 * jnp.sign(logits) * (2 * labels - 1)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_wrong_is_called_by_its_name(method):
    """A loss that is not differentiable, one that makes training diverge, and one that is all right for a few steps."""
    arrays = draw(np.random.default_rng(SEED))

    def status(kind: jax.Array) -> Status:
        def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
            return jnp.where(kind == 0, misclassified(logits, labels), kind * squared(logits, labels))

        victim = bilevel(arrays, mi.Learner(LeastSquares(M), mi.GradientDescent(0.05, 30), loss=loss))
        return METHODS[method](victim, *point(arrays)).status

    found = [STATUSES[i] for i in number(jit(jax.vmap(status))(jnp.array([0.0, 1e6, 1.0])))]
    assert found == ["flat", "non_finite", "not_stationary" if method == "Implicit" else "ok"]
