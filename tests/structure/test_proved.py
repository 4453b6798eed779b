"""What is proved of constants: from all their entries, exactly; and one truth for all words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobians
from jacobians.sparse.forms.pieces import Zero
from jacobians.structure import exact
from jacobians.structure.kinds import Structure
from jacobians.structure.observed import observe
from tests.fuzz_structure import false_of_block

G = np.random.default_rng(0)


def proved(f, *shapes):
    return jacobians.explain(f, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).blocks[0]


def of_matrix(matrix):
    """What is proved of a constant matrix, held against its numbers."""
    A = jnp.asarray(matrix, jnp.float32)
    block = proved(lambda x: A @ x, (matrix.shape[1],))
    assert false_of_block(block, [np.asarray(A, np.float64)]) == []
    return block


PARTS = {
    "lower-triangular": np.tril(G.normal(size=(2, 2))),
    "diagonal": np.diag([2.0, 3.0]),
    "identity": np.eye(2),
    "permutation": np.eye(2)[::-1],
    "scaled-identity": 2.5 * np.eye(2),
}


@pytest.mark.parametrize("inner", PARTS)
@pytest.mark.parametrize("odd", [0, 63, 64, 70, 99])
def test_what_each_block_is_takes_every_block(inner, odd):
    matrix = np.zeros((200, 200))
    for k in range(100):
        matrix[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = PARTS[inner]
    whole, seen = of_matrix(matrix), observe([matrix] * 2, out_shape=(200,), in_shape=(200,))
    if inner == "lower-triangular":
        assert whole.structure.get("inner").kind == seen.structure.get("inner").kind == inner
        assert whole.structure.get("equal")
    else:
        assert inner in whole.properties & seen.properties
    matrix[2 * odd : 2 * odd + 2, 2 * odd : 2 * odd + 2] = [[1.0, 2.0], [3.0, 4.0]]
    changed = of_matrix(matrix)
    assert changed.structure == Structure(
        "block-diagonal", (("blocks", 100), ("block_shape", (2, 2)))
    )
    seen = observe([matrix] * 6, out_shape=(200,), in_shape=(200,))
    assert seen.structure == changed.structure
    at_one_point = observe(
        [np.diag(np.diag(matrix))] * 5 + [matrix], out_shape=(200,), in_shape=(200,)
    )
    assert at_one_point.structure == changed.structure


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag(G.normal(size=8)) + np.outer(G.normal(size=8), G.normal(size=8)),
        np.outer(G.normal(size=8), G.normal(size=8)),
        np.kron(G.normal(size=(2, 2)), G.normal(size=(4, 4))),
        np.eye(8) + 1e-7 * G.normal(size=(8, 8)),
        np.ones((8, 8)) + 1e-6 * G.normal(size=(8, 8)),
    ],
)
def test_what_rounding_or_a_rank_decides_is_not_proved(matrix):
    properties = of_matrix(matrix).properties
    ranks = {"outer", "kronecker", "diagonal-plus-low-rank"}
    assert not properties & (ranks | {"identity", "scaled-identity", "toeplitz", "symmetric"})


def test_numbers_of_a_product_that_is_rounded_prove_nothing():
    a, b = jnp.asarray([0.1, 0.3, 0.7]), jnp.asarray([0.7, 0.7, 0.3])
    with jax.enable_x64(True):
        a, b = jnp.asarray([0.1, 0.3, 0.7]), jnp.asarray([0.7, 0.7, 0.3])
        rounded = jacobians.explain(lambda x: a * (b * x), jax.ShapeDtypeStruct((3,), jnp.float64))
    # 0.3·0.7 and 0.7·0.3 are equal as floats are multiplied, 0.1·0.7 is not
    assert rounded.blocks[0].structure.kind == "diagonal"
    assert "scaled-identity" not in rounded.blocks[0].properties
    doubled = proved(lambda x: jnp.asarray([2.0, 4.0]) * (jnp.asarray([4.0, 2.0]) * x), (2,))
    assert doubled.structure == Structure("scaled-identity", (("scale", 8.0),))


def test_products_and_sums_are_exact_only_where_no_digit_is_lost():
    from fractions import Fraction

    draw = np.random.default_rng(1)
    for _ in range(200):
        a, b = draw.normal(size=2) * 2.0 ** draw.integers(-200, 200, 2)
        if draw.uniform() < 0.5:
            a, b = float(np.float16(draw.normal())), float(np.float16(draw.normal()))
        made = exact.exact_product(np.array([a]), np.array([b]))
        assert (made is not None) == (Fraction(a) * Fraction(b) == Fraction(a * b))
        total = exact.exact_sum([np.zeros(2, int)], [np.array([a, b])], 1)
        assert total is None or Fraction(a) + Fraction(b) == Fraction(float(total[0]))


ZEROS = {
    "0 dot x": lambda x: jnp.dot(jnp.array(0.0), x),
    "0 times x": lambda x: 0.0 * x,
    "x times 0s": lambda x: x * jnp.zeros(3),
    "0s at x": lambda x: jnp.zeros((3, 3)) @ x,
    "einsum with 0s": lambda x: jnp.einsum("i,j->ij", jnp.zeros(2), x),
    "x less x": lambda x: x - x,
    "x to the 0": lambda x: x**0,
    "masked away": lambda x: jnp.where(jnp.zeros(3, bool), x, 1.0),
    "two masks that never meet": lambda x: jnp.where(np.arange(3) > 1, x, 0.0)[:2],
    "exp of −∞": lambda x: jnp.exp(jnp.where(np.arange(3) > 5, x, -jnp.inf)),
    "a convolution with 0s": lambda x: jnp.convolve(x, jnp.zeros(2)),
    "0 after tanh": lambda x: jnp.float32(0.0) * jnp.tanh(x) * x,
}


@pytest.mark.parametrize("name", ZEROS)
def test_zero_is_zero_in_everything_that_is_said(name):
    block = proved(ZEROS[name], (3,))
    assert (block.structure.kind, block.nnz, block.pattern().nnz) == ("zero", 0, 0)
    assert block.properties == {"zero", "constant"}
    assert block.formula.endswith(" = 0")
    assert block.vjp_formula.endswith(" = 0")
    assert block.statement is None
    assert not np.any(jax.jacfwd(ZEROS[name])(jnp.arange(1.0, 4.0)))
    piece = jacobians.jacobian(ZEROS[name], format="blocks")(jnp.arange(1.0, 4.0))
    assert isinstance(piece, Zero)


def test_a_piece_is_constant_only_where_its_numbers_are():
    A = np.random.default_rng(2).normal(size=(3, 3)).astype(np.float32)
    x = jnp.arange(1.0, 4.0)

    def properties(f, *args):
        return jacobians.jacobian(f, format="blocks")(*args).properties

    assert "constant" not in properties(lambda x: jnp.tanh(x) * x, x)
    assert "constant" not in properties(lambda x: A @ jnp.sin(x), x)
    assert "constant" not in properties(lambda x: jnp.cumsum(x * x), x)
    assert "constant" in properties(lambda x: A @ x, x)
    # affine in x, whatever y is
    assert "constant" in properties(lambda x, y: x * y, x, x)
    clamped = jax.custom_vjp(lambda x: 2.0 * x)
    clamped.defvjp(lambda x: (2.0 * x, x), lambda x, c: (jnp.clip(c * x, -1, 1),))
    assert "constant" not in properties(clamped, x)
