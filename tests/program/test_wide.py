"""Programs written for a coarse precision, evaluated in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobians import program
from jacobians.program.wide import TiedToPrecisionError, coarsest, run_wide, wide_rule

X = np.linspace(-1.0, 2.0, 12).reshape(4, 3)
# an index array keeps gather and, in a derivative, scatter-add in the program
ROWS = np.array([3, 0, 3])


def loop(x, steps):
    return lax.fori_loop(0, steps, lambda k, y: y * 0.5 + x, x)


PROGRAMS = {
    "casts": lambda x, cast: jnp.sin(cast(x)) + cast(jnp.cos(x)),
    "matmul": lambda x, cast: jnp.dot(cast(x).T, cast(x), preferred_element_type=cast(x).dtype),
    "gather": lambda x, cast: cast(x)[ROWS] * 2,
    "scatter": lambda x, cast: cast(x).at[ROWS].add(1.5).at[1].set(0.25).at[2].max(0.5),
    "scan": lambda x, cast: lax.scan(
        lambda c, row: (cast(c + row), c * row), cast(jnp.zeros(3)), cast(x)
    )[1],
    "loop": lambda x, cast: loop(cast(x), 5),
    "while": lambda x, cast: lax.while_loop(
        lambda s: jnp.max(s) < 100, lambda s: s * 1.5 + 1, cast(x)
    ),
    "cond": lambda x, cast: lax.cond(x[0, 0] < 0, jnp.exp, jnp.sin, cast(x)),
    "sort": lambda x, cast: jnp.cumsum(jnp.sort(cast(x))[::-1], axis=0),
    "iota": lambda x, cast: cast(x) * jnp.arange(3, dtype=cast(x).dtype),
    "jit": lambda x, cast: jax.jit(jax.nn.softmax)(jax.nn.relu(cast(x))),
}


def wide(f, dtype):
    traced = program.trace(
        lambda x: (f(x, lambda y: y.astype(dtype)),), [jax.ShapeDtypeStruct(X.shape, jnp.float32)]
    )
    with jax.enable_x64(True):
        return np.asarray(run_wide(traced, [X])[0])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_in_bfloat16_gives_the_values_of_float64(name):
    f = PROGRAMS[name]
    with jax.enable_x64(True):
        expected = np.asarray(f(jnp.asarray(X), lambda y: y))
    result = wide(f, jnp.bfloat16)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_rounding_to_a_precision_is_left_out():
    result = wide(lambda x, cast: lax.reduce_precision(x, 8, 7) * 2, jnp.float32)
    np.testing.assert_array_equal(result, 2 * X)


def test_a_derivative_in_bfloat16_gives_the_values_of_float64():
    def pulled(x, cast):
        f = PROGRAMS["gather"]
        return jax.vjp(lambda y: jnp.sin(f(y, cast)), x)[1](jnp.ones((3, 3), cast(x).dtype))[0]

    with jax.enable_x64(True):
        expected = np.asarray(pulled(jnp.asarray(X), lambda y: y))
    np.testing.assert_allclose(wide(pulled, jnp.float16), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, cast: lax.bitcast_convert_type(cast(x), jnp.int16) * 1.0,
        lambda x, cast: jax.pure_callback(np.sin, x, x),
        lambda x, cast: lax.custom_linear_solve(lambda v: 2 * v, x, lambda _, b: b / 2),
    ],
    ids=["bits", "callback", "solve"],
)
def test_what_is_tied_to_its_precision_is_refused(f):
    with pytest.raises(TiedToPrecisionError, match="is tied to its precision"):
        wide(f, jnp.bfloat16)


def test_a_rule_keeps_its_own_derivative_and_forward_pass():
    @jax.custom_vjp
    def pair(x, k):
        return x * 2, x.sum() + k

    pair.defvjp(lambda x, k: ((x * 2.5, x.sum() + k), x), lambda x, c: (c[0] * 7 + c[1] * x, None))
    shapes = [jax.ShapeDtypeStruct((3,), jnp.bfloat16), jax.ShapeDtypeStruct((), jnp.int32)]
    (equation,) = program.trace(lambda x, k: pair(x, k), shapes).equations
    with jax.enable_x64(True):
        rule = wide_rule(equation, (0,), (0, 1))
        x, k = jnp.asarray(X[1]), jnp.asarray(2, jnp.int32)
        np.testing.assert_allclose(rule(x, k)[0], 2 * X[1], rtol=1e-14)
        value, pull = jax.vjp(lambda x: rule(x, k), x)
        np.testing.assert_allclose(value[0], 2.5 * X[1], rtol=1e-14)
        (cotangent,) = pull((jnp.ones(3), jnp.asarray(3.0)))
        np.testing.assert_allclose(cotangent, 7 + 3 * X[1], rtol=1e-14)


def test_the_coarsest_precision_is_looked_for_at_any_depth():
    def inner(dtype):
        return lambda x: (jax.jit(lambda y: y.astype(dtype).astype(jnp.float32))(x),)

    for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
        traced = program.trace(inner(dtype), [jnp.ones(2)])
        assert coarsest(traced) == float(jnp.finfo(dtype).eps)
