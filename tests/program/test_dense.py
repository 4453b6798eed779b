"""The oracle against jax.jacfwd, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.errors import ArgumentError
from jacobians.program import dense
from jacobians.program.dense import dense_jacobian


def two(params, x):
    return {"s": jnp.tanh(params["W"] @ x), "n": jnp.sum(x**2)}


@pytest.fixture
def arguments():
    generator = np.random.default_rng(0)
    W = generator.normal(size=(2, 3)).astype(np.float32)
    return {"W": W}, generator.normal(size=3).astype(np.float32)


def test_every_block_is_jacfwd_in_double_precision(arguments):
    found = dense_jacobian(two, *arguments)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), arguments)
        expected = jax.jacfwd(two, argnums=(0, 1))(*wide)
    for key in ("s", "n"):
        for number, name in enumerate(('params["W"]', "x")):
            block = expected[key][number]
            block = block["W"] if number == 0 else block
            mine = found[f'out["{key}"]', name].tensor
            assert mine.dtype == np.float64
            np.testing.assert_allclose(mine, np.asarray(block), rtol=1e-12)


def test_blocks_by_position_and_name_are_the_same(arguments):
    found = dense_jacobian(two, *arguments)
    assert found[0, 0] is found['out["n"]', 'params["W"]']
    assert found[0, 0].matrix.shape == (1, 6)
    with pytest.raises(ArgumentError, match="there are: params"):
        found[0, "y"]


def test_small_chunks_give_the_same(arguments, monkeypatch):
    whole = dense_jacobian(two, *arguments)
    monkeypatch.setattr(dense, "CHUNK_ENTRIES", 24)
    pieces = dense_jacobian(two, *arguments)
    for a, b in zip(whole.blocks, pieces.blocks, strict=True):
        np.testing.assert_array_equal(a.tensor, b.tensor)


def test_integers_and_booleans_are_said_to_take_no_derivative():
    found = dense_jacobian(lambda x, k, n: (x[k] * n, x > 0), jnp.ones(3), jnp.array([0, 2]), 2)
    assert "k: i32[2] takes no derivative" in found.notes
    assert "n = 2 takes no derivative" in found.notes
    assert "out[1]: bool[3] has no derivative" in found.notes
    np.testing.assert_array_equal(found[0, 0].matrix, 2 * np.eye(3)[[0, 2]])


def test_custom_vjp_is_stripped_or_used_in_reverse():
    @jax.custom_vjp
    def f(x):
        return 2 * x

    f.defvjp(lambda x: (2 * x, None), lambda _, c: (3 * c,))
    assert dense_jacobian(f, jnp.ones(2)).mode == "jacfwd"
    np.testing.assert_array_equal(dense_jacobian(f, jnp.ones(2))[0, 0].matrix, 2 * np.eye(2))
    with_rule = dense_jacobian(f, jnp.ones(2), strip=False)
    assert with_rule.mode == "jacrev"
    np.testing.assert_array_equal(with_rule[0, 0].matrix, 3 * np.eye(2))


def test_a_function_tied_to_float32_is_evaluated_there():
    def f(x):
        assert x.dtype == jnp.float32
        return x * 3

    found = dense_jacobian(f, jnp.ones(2))
    assert found.precision == "as given"
    assert any("float64 was not possible" in note for note in found.notes)
    np.testing.assert_array_equal(found[0, 0].matrix, 3 * np.eye(2))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), ()])
def test_empty_and_single_entries(shape):
    found = dense_jacobian(lambda x: 2 * x, jnp.ones(shape))
    size = int(np.prod(shape))
    np.testing.assert_array_equal(found[0, 0].matrix, 2 * np.eye(size))


def test_complex_outputs_of_real_inputs():
    found = dense_jacobian(jnp.fft.fft, jnp.ones(4))
    np.testing.assert_allclose(found[0, 0].matrix, np.fft.fft(np.eye(4)), atol=1e-12)


@pytest.mark.parametrize(
    ("f", "x", "says"),
    [
        (lambda x: x, jnp.ones(3, jnp.complex64), "is complex"),
        (lambda x: x, jnp.ones(20000), "20000×20000 entries"),
        (lambda x: x > 0, jnp.ones(3), "no floating-point output"),
        (lambda x: x, jax.ShapeDtypeStruct((3,), jnp.float32), "only a shape"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(f, x, says):
    with pytest.raises(ArgumentError, match=says):
        dense_jacobian(f, x)
