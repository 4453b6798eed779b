"""Scalar gates: the lecture's numbers, kinks, and values at the ends of the number range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobians import gates
from jacobians.errors import ArgumentError
from jacobians.gates import add_constant, branch, scale

ADD, MULTIPLY = gates.get("add"), gates.get("multiply")
NEGATE, EXP, RECIPROCAL = gates.get("negate"), gates.get("exp"), gates.get("reciprocal")
SIGMOID, TANH = gates.get("sigmoid"), gates.get("tanh")


def test_the_lectures_first_circuit() -> None:
    def f(x: Any, y: Any, z: Any) -> Any:
        return MULTIPLY(ADD(x, y), z)

    assert float(f(-2.0, 5.0, -4.0)) == -12.0
    assert [float(g) for g in jax.grad(f, argnums=(0, 1, 2))(-2.0, 5.0, -4.0)] == [-4.0, -4.0, 3.0]


def neuron(sigmoid: Any) -> Any:
    def f(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
        return sigmoid(ADD(ADD(MULTIPLY(w0, x0), MULTIPLY(w1, x1)), w2))

    return jax.value_and_grad(f, argnums=(0, 1, 2, 3, 4))


def test_four_gates_and_the_sigmoid_gate_give_the_lectures_gradients() -> None:
    plus_one = add_constant(1)
    of_four = neuron(lambda v: RECIPROCAL(plus_one(EXP(NEGATE(v)))))(2.0, -1.0, -3.0, -2.0, -3.0)
    of_one = neuron(SIGMOID)(2.0, -1.0, -3.0, -2.0, -3.0)
    np.testing.assert_allclose(of_one[0], 0.73, atol=5e-3)
    np.testing.assert_allclose(of_one[1], (-0.20, 0.39, -0.39, -0.59, 0.20), atol=5e-3)
    np.testing.assert_allclose(jnp.stack(of_four[1]), jnp.stack(of_one[1]), rtol=1e-5)


def test_the_backward_flow_of_the_neuron_node_by_node() -> None:
    after_exp = jnp.exp(-1.0)
    (upstream,) = RECIPROCAL.vjp(jnp.float32(1), after_exp + 1)
    flow = [upstream]
    for gate, value in ((add_constant(1), after_exp), (EXP, jnp.float32(-1)), (NEGATE, 1.0)):
        flow.extend(gate.vjp(flow[-1], value))
    np.testing.assert_allclose(jnp.stack(flow), (-0.53, -0.53, -0.20, 0.20), atol=5e-3)


@settings(max_examples=25, deadline=None)
@given(st.floats(-8, 8, width=32), st.sampled_from(("maximum", "minimum")))
def test_a_tie_splits_the_gradient_and_stays_between_the_one_sided_derivatives(
    value: float, name: str
) -> None:
    to_x, to_y = gates.get(name).vjp(np.float32(1), np.float32(value), np.float32(value))
    assert (float(to_x), float(to_y)) == (0.5, 0.5)
    assert 0 <= float(to_x) <= 1


def test_the_larger_input_receives_everything_and_the_other_nothing() -> None:
    g = jnp.array([5.0, jnp.inf])
    x, y = jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])
    for name, losers, winners in (("maximum", 0, 1), ("minimum", 1, 0)):
        cotangents = gates.get(name).vjp(g, x, y)
        np.testing.assert_array_equal(cotangents[losers], [0.0, 0.0])
        np.testing.assert_array_equal(cotangents[winners], g)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_saturated_gates_have_gradient_zero_and_never_nan(name: str, dtype: str) -> None:
    x = jnp.array([-jnp.inf, -1e4, 1e4, jnp.inf], dtype)
    gate = gates.get(name)
    low, high = (0, 1) if name == "sigmoid" else (-1, 1)
    np.testing.assert_array_equal(gate(x).astype(np.float32), [low, low, high, high])
    (gradient,) = gate.vjp(jnp.ones_like(x), x)
    np.testing.assert_array_equal(gradient.astype(np.float32), np.zeros(4))


@pytest.mark.parametrize("x", [-30.0, -15.0, -1.0, 0.0, 1.0, 15.0, 30.0])
def test_gradients_keep_their_digits_where_the_output_rounds_to_one(x: float) -> None:
    (of_sigmoid,) = SIGMOID.vjp(np.float32(1), np.float32(x))
    (of_tanh,) = TANH.vjp(np.float32(1), np.float32(x))
    np.testing.assert_allclose(of_sigmoid, 1 / (2 + 2 * np.cosh(x)), rtol=1e-5)
    np.testing.assert_allclose(of_tanh, 1 / np.cosh(x) ** 2, rtol=2e-5)


def test_overflow_and_poles_are_infinite_as_they_are() -> None:
    one = jnp.float32(1)
    assert EXP.vjp(one, jnp.float32(1000))[0] == jnp.inf
    assert EXP.vjp(one, jnp.float32(-1000))[0] == 0
    assert gates.get("log").vjp(one, jnp.float32(0))[0] == jnp.inf
    assert RECIPROCAL.vjp(one, jnp.float32(0))[0] == -jnp.inf


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_quotients_do_not_overflow_before_their_result_does(size: float) -> None:
    x, y = np.float32(size * 1e10), np.float32(size * 1e10)
    np.testing.assert_allclose(gates.get("divide").vjp(np.float32(1), x, y)[1], -1 / y, rtol=1e-5)


@pytest.mark.parametrize("constant", [-2.5, 0.0, 3, np.float64(7)])
def test_constants_are_the_gates_own(constant: Any) -> None:
    x = jnp.array([1.0, -2.0], jnp.bfloat16)
    shifted, scaled = add_constant(constant), scale(constant)
    np.testing.assert_array_equal(shifted(x), x + float(constant))
    np.testing.assert_array_equal(scaled(x), x * float(constant))
    assert shifted(x).dtype == scaled(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.grad(lambda v: scaled(v).sum())(x), [float(constant)] * 2)
    np.testing.assert_array_equal(jax.grad(lambda v: shifted(v).sum())(x), [1.0, 1.0])


@pytest.mark.parametrize("constant", [jnp.nan, jnp.inf, "a", None, [1.0, 2.0]])
def test_constants_that_are_no_finite_numbers_are_refused(constant: Any) -> None:
    for factory in (add_constant, scale, gates.l2_regularisation):
        with pytest.raises(ArgumentError, match="a finite number, got"):
            factory(constant)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_cotangents_of_a_branch_add_up(count: int) -> None:
    gate, x = branch(count), jnp.array([1.0, 2.0])

    def f(v: Any) -> Any:
        return sum(k * part.sum() for k, part in enumerate(gate(v)))

    np.testing.assert_array_equal(jax.grad(f)(x), [count * (count - 1) / 2] * 2)
    assert gate.signature == "()->" + ",".join(["()"] * count)


@pytest.mark.parametrize("count", [0, -1, 1.5, None])
def test_a_branch_without_outputs_is_refused(count: Any) -> None:
    with pytest.raises(ArgumentError, match="a positive integer number of outputs"):
        branch(count)


def test_second_derivatives_pass_through_the_hand_written_rule() -> None:
    third = jax.grad(jax.grad(lambda x: gates.get("square")(gates.get("exp")(x))))
    np.testing.assert_allclose(third(0.5), 4 * np.exp(1.0), rtol=1e-6)
