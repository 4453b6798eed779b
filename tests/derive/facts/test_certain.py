"""Zeros, infinities and NaN that a program makes of its own constants, against NumPy and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacobians
from jacobians.derive.facts import special
from jacobians.derive.facts.special import ORDINARY, SPECIAL, kinds_of

NUMBERS = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.0, 2.5, -0.5, -1.0, -2.5])

A = np.array([[True, False, True], [False, False, False], [True, True, True]])
B = np.array([[True, True, False], [False, True, True], [True, False, True]])
INF = jnp.inf


def within(made: np.ndarray, told: np.ndarray) -> bool:
    """Whether kinds are among those told, an ordinary number being any finite one."""
    kinds = kinds_of(np.asarray(made, np.float64))
    allowed = told | np.where(told & ORDINARY, np.uint8(~SPECIAL & 127), np.uint8(0))
    return bool(((kinds & allowed) > 0).all())


@pytest.mark.parametrize("op", sorted(special.UNARY))
def test_the_table_of_a_function_has_every_value_it_takes(op):
    with jax.enable_x64(True):
        made = np.asarray(getattr(lax, op)(jnp.asarray(NUMBERS)))
    assert within(made, special.UNARY[op][kinds_of(NUMBERS)])


@pytest.mark.parametrize("op", sorted(special.BINARY.keys() - {"add_any"}))
def test_the_table_of_an_operation_has_every_value_it_takes(op):
    a, b = (v.reshape(-1) for v in np.meshgrid(NUMBERS, NUMBERS))
    with jax.enable_x64(True):
        made = np.asarray(getattr(lax, op)(jnp.asarray(a), jnp.asarray(b)))
    assert within(made, special.BINARY[op][kinds_of(a), kinds_of(b)])


@pytest.mark.parametrize("exponent", [-3, -2, 0, 1, 2, 3])
def test_the_table_of_a_whole_power_has_every_value_it_takes(exponent):
    with jax.enable_x64(True):
        made = np.asarray(lax.integer_pow(jnp.asarray(NUMBERS), exponent))
    assert within(made, special.integer_power(exponent)[kinds_of(NUMBERS)])


def masked(x, fill=-INF, mask=A):
    return jnp.where(mask, x, fill)


# function, entries of its proved pattern: as few as JAX has nonzero or NaN on the way that it reads
FUNCTIONS = {
    "softmax with a masked row": (lambda x: jax.nn.softmax(masked(x), -1), 4 + 9 + 9),
    "log of a masked sum": (lambda x: jax.nn.logsumexp(masked(x), -1), 2 + 3 + 3),
    "exp(−∞ − (−∞))": (lambda x: jnp.exp(masked(x) - masked(jnp.sin(x), mask=B)), 5 + 1),
    "exp(∞ − ∞)": (lambda x: jnp.exp(masked(x, INF) - masked(jnp.sin(x), INF, B)), None),
    "0·∞": (lambda x: masked(x, INF) * masked(jnp.sin(x), 0.0, B), None),
    "0/0": (lambda x: masked(x, 0.0) / masked(1 + x * x, 0.0, B), None),
    "∞/∞": (lambda x: masked(x, INF) / masked(1 + x * x, INF, B), None),
    "exp(NaN)": (lambda x: jnp.exp(masked(x, jnp.nan)), 9),
    "log of 0": (lambda x: jnp.log(masked(1 + x * x, 0.0)), 9),
    "root of 0": (lambda x: jnp.sqrt(masked(1 + x * x, 0.0)), 9),
    "0 times log of 0": (lambda x: B * jnp.log(masked(1 + x * x, 0.0)), 3 + 4),
    "0 times a scalar infinity": (lambda x: 0.0 * (x * jnp.where(A, INF, 1.0)), 5),
    "sine of ∞": (lambda x: jnp.sin(masked(x, INF)), 9),
    "a product with an infinity": (lambda x: masked(x, INF) @ np.eye(3), None),
    "set and subtracted": (lambda x: jnp.exp(x.at[0].set(INF) - x.at[0].set(INF)), None),
    "made in a long loop": (
        lambda x: lax.scan(
            lambda c, _: (jnp.sin(c) + jnp.log(masked(1 + c * c, 0.0)), None), x, None, length=40
        )[0],
        None,
    ),
    # nothing happens to these: the masks cut as before
    "filled with −∞": (masked, 5),
    "filled with NaN": (lambda x: masked(x, jnp.nan), 5),
    "exp of −∞": (lambda x: jnp.exp(masked(x)), 5),
    "tanh of −∞": (lambda x: jnp.tanh(masked(x)), 5),
    "1/∞": (lambda x: 1 / masked(1 + x * x, INF), 5),
    "a safe log": (lambda x: jnp.where(A, jnp.log(masked(1 + x * x, 1.0)), 0.0), 5),
    "the largest of what is left": (lambda x: masked(x).max(-1), 5),
    "0 divided": (lambda x: masked(jnp.sin(x), 0.0) * 2.0 / 3.0, 5),
    "0 times": (lambda x: 0.0 * jnp.sin(x), 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_where_jax_has_nan_for_every_input_nothing_is_proved_zero(name):
    f, count = FUNCTIONS[name]
    with jax.enable_x64(True):
        block = jacobians.explain(f, jax.ShapeDtypeStruct((3, 3), jnp.float64)).blocks[0]
        pattern = np.asarray(block.pattern().todense())
        points = [np.random.default_rng(k).normal(size=(3, 3)) for k in (0, 1)]
        seen = [np.asarray(jax.jacfwd(f)(p)).reshape(block.shape) for p in points]
    nowhere = np.isnan(seen[0]) & np.isnan(seen[1])
    assert pattern[nowhere.any(axis=1)].any(axis=1).all(), "a row of NaN is proved zero"
    nonzero = np.any([np.isfinite(s) & (s != 0) for s in seen], axis=0)
    assert not (nonzero & ~pattern).any()
    if pattern.shape[0] == pattern.shape[1]:
        assert not (np.diag(nowhere) & ~np.diag(pattern)).any()
    assert count in (None, pattern.sum())
    assert block.nnz == pattern.sum()


def test_pieces_have_nan_where_jax_has_it_on_the_way_that_is_read():
    f = FUNCTIONS["exp(−∞ − (−∞))"][0]
    x = jnp.ones((3, 3))
    found = np.asarray(jacobians.jacobian(f, format="dense")(x)).reshape(9, 9)
    expected = np.asarray(jax.jacfwd(f)(x)).reshape(9, 9)
    np.testing.assert_array_equal(np.isnan(np.diag(found)), np.isnan(np.diag(expected)))


def test_what_jax_refuses_to_differentiate_is_not_zero():
    def drawn(low):
        return lax.rng_uniform(low, 2.0 + low, (3,))

    with pytest.raises(NotImplementedError):
        jax.jvp(drawn, (0.0,), (1.0,))
    explanation = jacobians.explain(drawn, jax.ShapeDtypeStruct((), jnp.float32))
    assert explanation.blocks[0].nnz == 3
    assert any("rng_uniform" in note for note in explanation.notes)


FLAT = {
    "sign": lax.sign, "floor": lax.floor, "ceil": lax.ceil, "round": lax.round,
    "stop_gradient": lax.stop_gradient,
    "bitcast_convert_type": lambda x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x, jnp.int32), jnp.float32
    ),
    "is_finite": lambda x: lax.is_finite(x).astype(x.dtype),
    "lt": lambda x: (x < 1).astype(x.dtype),
    "argmax": lambda x: lax.argmax(x, 0, jnp.int32).astype(x.dtype),
}  # fmt: skip


@pytest.mark.parametrize("op", FLAT)
def test_what_is_said_to_have_no_derivative_has_a_tangent_of_zero(op):
    x = jnp.array([0.3, 1.2])
    assert not np.any(jax.jvp(FLAT[op], (x,), (jnp.ones(2),))[1])
    block = jacobians.explain(FLAT[op], jax.ShapeDtypeStruct((2,), jnp.float32)).blocks[0]
    assert block.structure.kind == "zero"
