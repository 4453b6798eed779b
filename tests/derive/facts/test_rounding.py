"""Constants of the program: what is rounded counts as nonzero, what is exact stays exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import explain
from jacobians.derive.algebra import entries
from jacobians.derive.algebra.coefficient import Product, is_product, repeated
from jacobians.derive.call import derive_call
from jacobians.derive.derive import derive
from jacobians.program.call import bind
from jacobians.program.view import trace

X = jnp.arange(1.0, 8.0)
TENTHS = np.float32(0.1) * np.arange(7, dtype=np.float32)

C = np.float32(257 / 256)


def times(x, count):
    """A number added up so many times."""
    return jnp.sum(jnp.broadcast_to(x, (count,)))


def half(x):
    """The first of the numbers in half precision."""
    return x[0].astype(jnp.bfloat16)


# functions of seven numbers, and how many entries are proved possible at most
FUNCTIONS = {
    "cubic resize": (lambda x: jax.image.resize(x, (3,), "cubic"), None),
    "linear resize": (lambda x: jax.image.resize(x, (14,), "linear"), 26),
    "fused product": (lambda x: (jnp.linspace(0.1, 0.3, 7) * 3.0 - 0.9) * 1e6 * x, 7),
    "equal thirds": (lambda x: ((jnp.arange(7.0) / 3.0) * 3.0 - jnp.arange(7.0)) * x, 6),
    "a table made of rounded floats": (lambda x: x[jnp.floor(TENTHS * 10.0).astype(int)], None),
    "a mask at a rounded threshold": (lambda x: jnp.where(TENTHS * 3.0 >= 0.9, x, 0.0), 4),
    "a mask far from its threshold": (lambda x: jnp.where(TENTHS * 3.0 >= 0.85, x, 0.0), 4),
    "a mask of a line": (lambda x: jnp.where(jnp.linspace(0.0, 1.0, 7) > 0.4, x, 0.0), 4),
    "a branch by a rounded number": (
        lambda x: jax.lax.cond(jnp.float32(0.1) * 3 > 0.3, lambda x: x, jnp.flip, x),
        13,
    ),
    "triangle": (lambda x: jnp.tril(jnp.ones((7, 7))) @ x, 28),
    "one-hot": (lambda x: jax.nn.one_hot(jnp.array([1, 5]), 7) @ x, 2),
    "checkerboard": (lambda x: jnp.where(jnp.mod(jnp.arange(7.0), 2.0) == 0, x, 0.0), 4),
    "second differences": (lambda x: (jnp.eye(7, k=1) - 2 * jnp.eye(7) + jnp.eye(7, k=-1)) @ x, 19),
    "halves": (lambda x: jnp.where(jnp.arange(7) / 2 == 1.5, x, 0.0), 1),
    "product of masks": (
        lambda x: (jnp.triu(jnp.ones((7, 7))) @ jnp.diag(jnp.arange(7.0) > 3)) @ x,
        18,
    ),
    "a known permutation": (lambda x: x[jax.random.permutation(jax.random.key(1), 7)], 7),
    "sines": (lambda x: jnp.sin(jnp.arange(7.0)) * x, 6),
    "powers": (lambda x: (jnp.arange(7.0) ** 2 - 9.0) * x, 6),
    "products in another order": (lambda x: x * 0.1 * 0.3 * 17.0 - x * 17.0 * 0.3 * 0.1, 7),
    "whole numbers in another order": (lambda x: x * 3.0 * 5.0 * 17.0 - x * 17.0 * 3.0 * 5.0, 0),
    "the same product again": (lambda x: x * 0.1 * 0.25 - x * 0.25 * 0.1, 0),
    "through a narrower type": (
        lambda x: (x * C).astype(jnp.bfloat16).astype(x.dtype) - x * C,
        7,
    ),
    "through fewer digits": (lambda x: jax.lax.reduce_precision(x * C, 8, 3) - x * C, 7),
    "a value through a narrower type": (
        lambda x: (x * x).astype(jnp.bfloat16).astype(x.dtype) - x * x,
        7,
    ),
    "a sum that its type cannot hold": (
        lambda x: times(half(x), 771)[None] - times(times(half(x), 257), 3)[None],
        1,
    ),
    "out of range and back": (
        lambda x: x * np.float32(2.0**-100) * np.float32(2.0**-100) * np.float32(2.0**100) - x,
        7,
    ),
    "infinite scores": (
        lambda x: jnp.exp(jnp.where(jnp.arange(7) < 3, 0.0, -jnp.inf)) * x,
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_rounding_of_constants_leaves_the_proved_pattern(name):
    f, most = FUNCTIONS[name]
    derivation = derive_call(bind(f, [X]))
    explicit = np.asarray(jax.jit(jax.jacfwd(f))(X))
    pattern = np.zeros(explicit.shape, bool)
    pattern[entries.coordinates(derivation.terms(0, 0), explicit.shape[:1], (7,), 1 << 12)] = True
    assert not ((explicit != 0) & ~pattern).any()
    assert most is None or pattern.sum() == most


def fused_constants():
    """Constants of many kinds, computed in one program."""
    line = jnp.linspace(0.1, 2.0, 6)
    square = jnp.outer(line, line) - 0.7
    return (
        line * 3.0 - 0.3, line / 3.0, square, square.sum(1), square @ line, jnp.cumsum(line),
        jnp.sin(line), jnp.exp(-line), jnp.log(line), jnp.sqrt(line), jnp.maximum(square, 0.1),
        jnp.where(square > 0, square, line), jnp.clip(line, 0.2, 0.9), jnp.floor(line * 3.7),
        line.astype(jnp.bfloat16) * jnp.bfloat16(1.1), line**3, square.max(0), square.T[::-1],
        jnp.concatenate([line, -line]), (line * 10).astype(int), jnp.tanh(square), line[::2],
        jnp.arange(6) % 4, jnp.ones((3, 3)) @ jnp.ones((3, 3)), jnp.round(line * 2.5), square < 0.3,
    )  # fmt: skip


@pytest.mark.parametrize("x64", [False, True])
def test_the_radius_of_a_constant_holds_what_a_compiled_program_computes(x64):
    with jax.enable_x64(x64):
        derivation = derive(trace(fused_constants, []))
        compiled = jax.jit(fused_constants)()
        doubled = [np.asarray(y, np.float64) for y in compiled]
    exact = 0
    for number, true in zip(derivation.outputs, doubled, strict=True):
        known, radius = derivation.tape.known(number), derivation.tape.radius(number)
        assert known is not None
        distance = np.abs(np.asarray(known, np.float64) - true)
        assert (distance <= (0.0 if radius is None else radius)).all()
        mask = derivation.tape.exact(number)
        assert mask is not None
        assert (mask == (np.zeros(known.shape) == (0.0 if radius is None else radius))).all()
        exact += radius is None
        assert (derivation.tape.certain(number) is None) == (radius is not None)
    # the whole numbers and what is far enough from a step
    assert exact >= 3


def test_numbers_that_only_round_to_opposite_ones_do_not_cancel():
    with jax.enable_x64(True):
        rounded = explain(lambda x: x / 3.0 - x * (1.0 / 3.0), jnp.ones(3)).blocks[0]
        exact = explain(lambda x: x * 0.5 - x / 2.0, jnp.ones(3)).blocks[0]
    assert rounded.pattern().nnz == 3
    assert exact.structure.kind == "zero"


def less_their_mean(x):
    """Σᵢ (xᵢ − x̄)² + n·x̄²: mixed second derivatives cancel but for the rounding of 1/n."""
    mean = jnp.sum(x) * (-1.0 / 7)
    return jnp.sum(jnp.concatenate([x + mean, jnp.full(7, mean)]) ** 2)


def test_equal_numbers_added_up_with_rounding_do_not_cancel():
    with jax.enable_x64(True):
        x = jnp.arange(1.0, 8.0)
        explicit = np.asarray(jax.jit(jax.hessian(less_their_mean))(x))
        pattern = explain(jax.grad(less_their_mean), x).blocks[0].pattern().toarray()
    assert np.count_nonzero(explicit) > 7
    assert not ((explicit != 0) & (pattern == 0)).any()


@pytest.mark.parametrize(
    ("scale", "times", "rounded"),
    [
        (1.0, 1 << 24, False),
        (1.0, (1 << 24) + 1, True),
        (-0.75, 1000, True),
        (-0.75, 512, False),
        (float(np.float32(0.1)), 2, False),
        (float(np.float32(0.1)), 4, True),
        (0.1, 1, False),
        (1e308, 4, True),
        (0.0, 1000, False),
    ],
)
def test_a_sum_of_equal_numbers_is_exact_where_no_partial_sum_is_rounded(scale, times, rounded):
    assert repeated(Product(scale, ()), times) == Product(scale * times, (), rounded)


@pytest.mark.parametrize(
    ("a", "b", "exact"),
    [
        (0.1, 1.0, True),
        (0.1, -4.0, True),
        (15.0, 17.0, True),
        (17.0, 17.0, False),
        (0.5, 1001.0, True),
        (float(np.float32(0.1)), float(np.float32(0.3)), False),
        (1e200, 1e200, False),
    ],
)
def test_a_product_is_exact_where_it_is_as_short_as_its_factors(a, b, exact):
    assert is_product(a * b, a, b) == exact


def test_a_long_chain_of_constants_is_known_without_recursion():
    def f(x):
        total = jnp.float32(0.0)
        for _ in range(1500):
            total = total + 1.0
        return jnp.where(jnp.arange(3.0) + total == 1501.0, x, 0.0)

    derivation = derive_call(bind(f, [jnp.ones(3)]))
    assert len(derivation.terms(0, 0)) == 1
