"""Vector gates: Jacobians as the lecture gives them, and their kinks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobians import gates
from jacobians.testing import numbers, operands

RELU, NORM, MATVEC = gates.get("relu"), gates.get("norm"), gates.get("matvec")
SQUARED_NORM, BOTH = gates.get("squared_norm"), gates.get("squared_norm_of_product")

some = settings(max_examples=25, deadline=None)


@functools.cache
def jacobian_from_vjp(name: str) -> Any:
    """The Jacobian that a gate's VJP implies: one VJP per unit cotangent."""
    gate = gates.get(name)
    return jax.jit(
        lambda *inputs: jax.vmap(lambda ct: gate.vjp(ct, *inputs))(jnp.eye(inputs[0].shape[0]))
    )


@some
@given(operands("(n)->(n)", min_side=0, max_side=4))
def test_the_jacobian_of_the_max_gate_is_diagonal_at_every_input(inputs: Any) -> None:
    (x,) = inputs
    (jacobian,) = jacobian_from_vjp("relu")(x)
    np.testing.assert_array_equal(jacobian, np.diag((x > 0).astype(np.float32)))


@some
@given(operands("(n),(n)->(n)", min_side=1, max_side=3))
def test_the_jacobians_of_an_elementwise_maximum_are_diagonal_and_add_up_to_one(
    inputs: Any,
) -> None:
    x, y = inputs
    by_x, by_y = jacobian_from_vjp("elementwise_maximum")(x, y)
    np.testing.assert_array_equal(by_x, np.diag(np.where(x > y, 1.0, np.where(x == y, 0.5, 0.0))))
    np.testing.assert_array_equal(by_x + by_y, np.eye(x.size))


def test_the_4096_wide_max_gate_never_builds_its_jacobian() -> None:
    x = jax.random.normal(jax.random.key(0), (4096,))
    text = str(jax.make_jaxpr(RELU.vjp)(jnp.ones(4096), x))
    assert "4096,4096" not in text
    np.testing.assert_array_equal(RELU.vjp(2 * x, x)[0], np.where(x > 0, 2 * x, 0))


def test_relu_at_zero_has_a_gradient_between_the_one_sided_derivatives() -> None:
    x = jnp.array([0.0, -0.0])
    (gradient,) = RELU.vjp(jnp.ones(2), x)
    np.testing.assert_array_equal(gradient, [0.0, 0.0])
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda v: RELU(v).sum()))(x), [0.0, 0.0])


def test_relu_blocks_an_infinite_upstream_gradient_where_it_is_closed() -> None:
    (gradient,) = RELU.vjp(jnp.array([jnp.inf, jnp.inf]), jnp.array([-1.0, 1.0]))
    np.testing.assert_array_equal(gradient, [0.0, jnp.inf])


exact = st.integers(-8, 8).map(float)


@some
@given(operands("(m,n),(n)->()", max_side=3, elements=exact))
def test_the_gradients_of_the_squared_norm_are_2qx_and_2Wq_at_every_input(inputs: Any) -> None:
    W, x = inputs
    q = W @ x
    dW, dx = BOTH.vjp(np.float32(1), W, x)
    np.testing.assert_array_equal(dW, 2 * np.outer(q, x))
    np.testing.assert_array_equal(dx, 2 * W.T @ q)
    assert (dW.shape, dx.shape) == (W.shape, x.shape)


def test_the_lectures_numbers_for_the_squared_norm_of_a_product() -> None:
    W, x = jnp.array([[0.1, 0.5], [-0.3, 0.8]]), jnp.array([0.2, 0.4])
    q = MATVEC(W, x)
    np.testing.assert_allclose(q, [0.22, 0.26], rtol=1e-6)
    np.testing.assert_allclose(BOTH(W, x), 0.116, rtol=1e-6)
    (dq,) = SQUARED_NORM.vjp(jnp.float32(1), q)
    np.testing.assert_allclose(dq, [0.44, 0.52], rtol=1e-6)
    wanted = [[0.088, 0.176], [0.104, 0.208]], [-0.112, 0.636]

    def of_two_gates(W: Any, x: Any) -> Any:
        return SQUARED_NORM(MATVEC(W, x))

    for f in (BOTH, of_two_gates):
        dW, dx = jax.grad(f, argnums=(0, 1))(W, x)
        np.testing.assert_allclose(dW, wanted[0], rtol=1e-5)
        np.testing.assert_allclose(dx, wanted[1], rtol=1e-5)


def test_the_entry_by_entry_derivative_of_a_product_is_the_lectures_indicator() -> None:
    W, x = jnp.arange(6.0).reshape(2, 3), jnp.array([7.0, 8.0, 9.0])
    by_W = jnp.stack([MATVEC.vjp(row, W, x)[0] for row in jnp.eye(2)])
    for k, i, j in np.ndindex(2, 2, 3):
        assert by_W[k, i, j] == (x[j] if k == i else 0)


@pytest.mark.parametrize("size", [0, 3])
def test_the_norm_at_zero_has_gradient_zero_and_never_nan(size: int) -> None:
    zero = jnp.zeros(size)
    for f in (NORM, NORM.forward, lambda q: NORM(q) + NORM(NORM(q)[None] * q)):
        value, gradient = jax.jit(jax.value_and_grad(f))(zero)
        assert float(value) == 0
        np.testing.assert_array_equal(gradient, zero)
    hessian = jax.jit(jax.jacrev(jax.grad(NORM)))(zero)
    assert not np.isnan(hessian).any()


def test_the_norm_at_zero_is_the_same_without_jit() -> None:
    np.testing.assert_array_equal(jax.grad(NORM)(jnp.zeros(2)), [0.0, 0.0])


def test_a_zero_row_leaves_the_other_rows_of_a_batch_alone() -> None:
    q = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(NORM(q), [0.0, 5.0])
    (gradient,) = NORM.vjp(jnp.ones(2), q)
    np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e30), ("float32", 1e-30), ("float16", 1e4), ("float16", 1e-4)]
)
def test_the_norm_neither_overflows_nor_underflows(dtype: str, size: float) -> None:
    q = jnp.array([3 * size, 4 * size], dtype)
    np.testing.assert_allclose(np.float64(NORM(q)), 5 * size, rtol=5e-3)
    (gradient,) = NORM.vjp(jnp.ones((), dtype), q)
    np.testing.assert_allclose(np.float64(gradient), [0.6, 0.8], rtol=5e-3)


def test_the_norm_of_what_is_not_finite_is_not_finite() -> None:
    assert NORM(jnp.array([jnp.inf, 1.0])) == jnp.inf
    assert np.isnan(NORM(jnp.array([jnp.nan, 1.0])))


@some
@given(operands("(n)->(n)", min_side=1, max_side=3, elements=numbers(-8, 8)))
def test_the_gradient_of_a_softmax_adds_up_to_zero(inputs: Any) -> None:
    (x,) = inputs
    (gradient,) = gates.get("softmax").vjp(np.cos(x), x)
    assert abs(float(gradient.sum())) < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_softmax_is_stable_for_scores_of_ten_thousand(dtype: str) -> None:
    x = jnp.array([-1e4, 1e4, 1e4], dtype)
    np.testing.assert_array_equal(gates.get("softmax")(x).astype(np.float32), [0.0, 0.5, 0.5])
    (gradient,) = gates.get("softmax").vjp(jnp.array([1.0, 1.0, 0.0], dtype), x)
    np.testing.assert_array_equal(gradient.astype(np.float32), [0.0, 0.25, -0.25])


def test_the_gradient_of_a_saturated_softmax_keeps_its_digits() -> None:
    x = jnp.array([20.0, 0.0, 1.0])
    expected = np.exp([0.0, -20.0, -19.0])
    expected /= expected.sum()
    others = expected[1] + expected[2]
    (gradient,) = gates.get("softmax").vjp(jnp.array([1.0, 0.0, 0.0]), x)
    np.testing.assert_allclose(
        gradient, expected[0] * np.array([others, *-expected[1:]]), rtol=1e-5
    )
    loss = jax.grad(gates.get("cross_entropy"))(x[None], jnp.array([0]))
    np.testing.assert_allclose(loss, [[-others, *expected[1:]]], rtol=1e-5)


def test_a_bias_collects_the_gradients_of_the_whole_batch() -> None:
    dX, db = gates.get("add_bias").vjp(jnp.arange(6.0).reshape(3, 2), jnp.ones((3, 2)), jnp.ones(2))
    np.testing.assert_array_equal(dX, np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(db, [6.0, 9.0])
