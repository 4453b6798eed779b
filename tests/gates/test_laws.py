"""The laws that every gate of the catalogue obeys, over drawn shapes, dtypes and numbers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacobians import gates
from jacobians.gates import Gate
from jacobians.testing import assert_cotangents, gate_calls, numbers

GATES = tuple(gates.catalogue.values())
WITH_AXES = tuple(gate for gate in GATES if gate.group != "scalar")
EVERY_GATE = pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)

# Drawing shapes makes XLA compile, which is the time these tests take.
QUICK = {"xla_backend_optimization_level": 0}
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def compiled_vjp(gate: Gate) -> Any:
    return jax.jit(gate.vjp, compiler_options=QUICK)


def multiples_of_three_halves(largest: int) -> st.SearchStrategy[float]:
    """No two of them differ by the hinge's margin of 1, not even after rounding."""
    return st.integers(-largest, largest).map(lambda k: 1.5 * k)


def powers_of_ten(least: int, greatest: int) -> st.SearchStrategy[float]:
    signs = st.sampled_from((-1.0, 1.0))
    exponents = st.integers(least, greatest)
    return st.builds(lambda sign, exponent: sign * 10.0**exponent, signs, exponents)


# Away from kinks, where the derivative exists; the kinks have tests of their own.
SMOOTH = {"relu": numbers().filter(bool), "hinge": multiples_of_three_halves(5)}

EXTREME = {
    "exp": st.sampled_from((-80.0, -30.0, -1e-30, 0.0, 1e-30, 30.0, 80.0)),
    "log": powers_of_ten(-30, 30).map(abs),
    "divide": powers_of_ten(-9, 9),
    "reciprocal": powers_of_ten(-15, 15),
    "square": powers_of_ten(-15, 15),
    "norm": st.one_of(st.just(0.0), powers_of_ten(-30, 30)),
    "sigmoid": powers_of_ten(-30, 4),
    "tanh": powers_of_ten(-30, 4),
    "softmax": powers_of_ten(-30, 4),
    "cross_entropy": powers_of_ten(-30, 4),
    "hinge": multiples_of_three_halves(6666),
}


def cancelling(gate: Gate, inputs: tuple[Any, ...]) -> float:
    """How large the values are that cancel inside a gate's VJP (see `assert_cotangents`)."""
    eps = float(jnp.finfo(inputs[0].dtype).eps)
    if gate.name in ("softmax", "cross_entropy") and eps > 1e-4:
        return 1.0  # the differences of scores are rounded to a half precision
    if gate.name in ("softmax", "cross_entropy", "sigmoid", "tanh"):
        # Only the oracle's 1 − s cancels, and the oracle computes in float64.
        return float(np.finfo(np.float64).eps) / eps
    if gate.name == "squared_norm_of_product":
        W, x = (np.abs(np.asarray(value, np.float64)) for value in inputs)
        q = np.max(np.einsum("...mn,...n->...m", W, x), initial=0.0)
        return float(2 * q * max(np.max(W, initial=0.0), np.max(x, initial=0.0)))
    return 0.0


@EVERY_GATE
@few
@given(data=st.data())
def test_vjp_is_the_transposed_jacobian_times_the_cotangent(gate: Gate, data: Any) -> None:
    cotangent, inputs = data.draw(
        gate_calls(
            gate,
            dtypes=("float32", "float64", "bfloat16", "float16"),
            max_side=3,
            elements=SMOOTH.get(gate.name),
        )
    )
    floor = cancelling(gate, inputs)
    assert_cotangents(gate.forward, compiled_vjp(gate), cotangent, *inputs, floor=floor)


@EVERY_GATE
@few
@given(data=st.data())
def test_vjp_is_right_for_large_and_tiny_numbers(gate: Gate, data: Any) -> None:
    cotangent, inputs = data.draw(
        gate_calls(
            gate,
            dtypes=("float32", "float64"),
            min_side=2,
            max_side=2,
            max_loop_axes=0,
            elements=EXTREME.get(gate.name, powers_of_ten(-6, 6)),
        )
    )
    floor = cancelling(gate, inputs)
    assert_cotangents(gate.forward, compiled_vjp(gate), cotangent, *inputs, floor=floor)


@pytest.mark.parametrize("gate", WITH_AXES, ids=lambda gate: gate.name)
@settings(few, max_examples=10)
@given(data=st.data())
def test_vjp_with_loop_axes_sums_over_those_that_were_broadcast(gate: Gate, data: Any) -> None:
    cotangent, inputs = data.draw(
        gate_calls(gate, max_side=2, max_loop_axes=1, elements=SMOOTH.get(gate.name))
    )
    floor = cancelling(gate, inputs)
    assert_cotangents(gate.forward, compiled_vjp(gate), cotangent, *inputs, floor=floor)


@EVERY_GATE
@few
@given(data=st.data())
def test_vjp_is_linear_in_the_cotangent(gate: Gate, data: Any) -> None:
    sizes = {"dtypes": ("float64",), "min_side": 2, "max_side": 2, "max_loop_axes": 0}
    first, inputs = data.draw(gate_calls(gate, **sizes))
    second = jax.tree.map(lambda y: np.cos(1 + np.arange(y.size)).reshape(y.shape), first)
    a, b = data.draw(st.sampled_from(((1.0, 1.0), (2.0, -3.0), (0.0, 0.5))))
    combined = jax.tree.map(lambda y, z: a * y + b * z, first, second)
    with jax.enable_x64(True):
        of_first = compiled_vjp(gate)(first, *inputs)
        of_second = compiled_vjp(gate)(second, *inputs)
        of_combined = compiled_vjp(gate)(combined, *inputs)
    for position, whole in enumerate(of_combined):
        if position not in dict(gate.indices):
            parts = a * np.asarray(of_first[position]) + b * np.asarray(of_second[position])
            np.testing.assert_allclose(whole, parts, rtol=1e-12, atol=1e-10)


@EVERY_GATE
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_each_gradient_has_its_inputs_shape_and_dtype(gate: Gate, data: Any) -> None:
    dtypes = ("float32", "bfloat16", "float16")
    cotangent, inputs = data.draw(gate_calls(gate, dtypes=dtypes, max_side=5, max_loop_axes=1))
    given_cotangents = jax.eval_shape(gate.vjp, cotangent, *inputs)
    assert len(given_cotangents) == len(inputs)
    indexed = dict(gate.indices)
    for position, (mine, value) in enumerate(zip(given_cotangents, inputs, strict=True)):
        assert mine.shape == value.shape
        assert mine.dtype == (jax.dtypes.float0 if position in indexed else value.dtype)


@EVERY_GATE
def test_the_output_keeps_the_inputs_dtype(gate: Gate) -> None:
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        inputs = _as_dtype(gate, gates.example_inputs(gate), dtype)
        for leaf in jax.tree.leaves(jax.eval_shape(gate, *inputs)):
            assert leaf.dtype == dtype


@EVERY_GATE
def test_jax_uses_the_hand_written_rule_under_vjp_jit_and_vmap(gate: Gate) -> None:
    inputs = gates.example_inputs(gate)
    output = jax.eval_shape(gate, *inputs)
    cotangent = jax.tree.map(
        lambda y: np.cos(1 + np.arange(y.size), dtype=np.float32).reshape(y.shape), output
    )
    by_hand = compiled_vjp(gate)(cotangent, *inputs)

    def pull(ct: Any, *values: Any) -> Any:
        return jax.vjp(gate, *values)[1](ct)

    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (cotangent, *inputs))
    transformed = (
        jax.jit(pull, compiler_options=QUICK)(cotangent, *inputs),
        tuple(row[1] for row in jax.jit(jax.vmap(pull), compiler_options=QUICK)(*stacked)),
    )
    for result in transformed:
        for position, expected in enumerate(by_hand):
            if position not in dict(gate.indices):
                np.testing.assert_allclose(result[position], expected, rtol=1e-5, atol=1e-6)


@EVERY_GATE
def test_the_rule_jax_uses_is_the_gates_vjp_and_not_the_derivative_of_forward(gate: Gate) -> None:
    seven = jnp.float32(7)

    def marked(cotangent: Any, *inputs: Any) -> tuple[Any, ...]:
        honest = gate.vjp(cotangent, *inputs)
        indexed = dict(gate.indices)
        return tuple(c if k in indexed else jnp.full_like(c, seven) for k, c in enumerate(honest))

    wrong = Gate(
        "marked", gate.forward, marked, gate.signature, role="", why="", indices=gate.indices
    )
    inputs = gates.example_inputs(gate)
    output = jax.eval_shape(wrong, *inputs)
    ones = jax.tree.map(lambda y: np.ones(y.shape, y.dtype), output)
    pull = jax.jit(lambda ct, *values: jax.vjp(wrong, *values)[1](ct), compiler_options=QUICK)
    given_cotangents = pull(ones, *inputs)
    for position, value in enumerate(given_cotangents):
        if position not in dict(gate.indices):
            np.testing.assert_array_equal(value, 7.0)


def _as_dtype(gate: Gate, inputs: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    indexed = dict(gate.indices)
    return tuple(v if k in indexed else v.astype(dtype) for k, v in enumerate(inputs))
