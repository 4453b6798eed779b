"""Products of constants with zeros: patterns cost the size of the block, not their many paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import jacobian
from jacobians.derive.algebra import affine, entries
from jacobians.derive.algebra.affine import variable
from jacobians.derive.algebra.projection import projected
from jacobians.derive.algebra.table import Table
from jacobians.derive.algebra.term import Guard, Term
from jacobians.derive.call import derive_call
from jacobians.derive.values import term_values
from jacobians.program.call import bind

KINDS = ("sparse", "very sparse", "dense", "band", "triangle", "blocks", "permutation")
N = 9


def constant(kind: str, generator: np.random.Generator) -> np.ndarray:
    """A random N×N matrix with the zeros of its kind."""
    matrix = generator.normal(size=(N, N))
    rows, columns = np.indices((N, N))
    if kind == "permutation":
        return np.eye(N)[generator.permutation(N)]
    keep = {
        "sparse": generator.random((N, N)) < 0.3,
        "very sparse": generator.random((N, N)) < 1.5 / N,
        "band": abs(rows - columns) <= 1,
        "triangle": columns <= rows,
        "blocks": rows // 3 == columns // 3,
    }
    return matrix * keep.get(kind, True)


@pytest.mark.parametrize(
    ("depth", "matrix", "residual"),
    [
        (1, False, False), (2, True, False), (3, False, False), (4, True, False), (5, False, True),
        (8, False, False), (8, True, True), (50, True, False), (50, False, True),
    ],
)  # fmt: skip
def test_a_chain_of_constants_has_the_pattern_of_its_jacobian(depth, matrix, residual):
    generator = np.random.default_rng(depth + matrix)
    kinds = generator.choice(KINDS, size=depth)
    constants = [constant(kind, generator) for kind in kinds]
    bent = generator.random(depth) < 0.6
    shape = (N, 2) if matrix else (N,)
    mixing = generator.normal(size=(2, 2))

    def chain(x):
        for m, curved in zip(constants, bent, strict=True):
            y = jnp.asarray(m, x.dtype) @ x
            y = y @ jnp.asarray(mixing, x.dtype) if matrix else y
            y = jnp.tanh(0.3 * y) if curved else y
            x = x + y if residual else y
        return x

    with jax.enable_x64(True):
        x = jnp.asarray(0.3 * generator.normal(size=shape))
        derivation = derive_call(bind(chain, [x]), double=True)
        explicit = np.asarray(jax.jacfwd(chain)(x)).reshape(x.size, x.size)
        values = term_values(derivation, [x])
    pattern = np.zeros(explicit.shape, bool)
    pattern[entries.coordinates(derivation.terms(0, 0), shape, shape, 1 << 20)] = True
    assert not derivation.notes
    np.testing.assert_array_equal(pattern, explicit != 0)
    if values:
        np.testing.assert_allclose(values[0, 0], explicit, rtol=1e-9, atol=1e-12)
    # the formula is kept as long as it is one product of a dozen factors
    assert bool(values) or depth > 4 or residual


def test_a_graph_convolution_is_narrow_in_the_nodes():
    generator = np.random.default_rng(0)
    n = 60
    adjacency = np.eye(n, dtype=np.float32)
    adjacency[generator.integers(0, n, n), generator.integers(0, n, n)] = 1
    mixing = generator.normal(size=(3, 2, 2)).astype(np.float32)

    def network(x):
        for m in mixing:
            x = jnp.tanh(adjacency @ x @ m)
        return x

    x = jnp.full((n, 2), 0.1)
    reach = (adjacency @ adjacency @ adjacency) != 0
    expected = np.einsum("ij,ab->iajb", reach, np.ones((2, 2), bool)).reshape(2 * n, 2 * n)
    derivation = derive_call(bind(network, [x]))
    found = np.zeros(expected.shape, bool)
    found[entries.coordinates(derivation.terms(0, 0), (n, 2), (n, 2), 1 << 20)] = True
    np.testing.assert_array_equal(found, expected)
    assert jax.eval_shape(jacobian(network), x).nse == expected.sum()


def test_a_small_block_is_listed_however_many_paths_lead_to_it():
    generator = np.random.default_rng(1)
    tables = [Table(generator.random((50, 50)) < 0.05) for _ in range(6)]
    names = [affine.fresh() for _ in range(7)]
    guards = tuple(
        Guard(t, (variable(a), variable(b)))
        for t, a, b in zip(tables, names, names[1:], strict=False)
    )
    term = Term(
        dict.fromkeys(names, 50), (variable(names[0]),), (variable(names[-1]),), guards=guards
    )
    expected = np.linalg.multi_dot([t.array.astype(float) for t in tables]) > 0
    assert entries.grid_size(term) > 1e9
    found = np.zeros((50, 50), bool)
    found[entries.coordinates([term], (50,), (50,), 1 << 16)] = True
    np.testing.assert_array_equal(found, expected)
    smaller, exact = projected(term, 1 << 16)
    assert exact
    assert smaller is not None
    assert entries.grid_size(smaller) <= 2500


def test_a_sum_of_many_indices_is_listed_by_its_values():
    names = [affine.fresh() for _ in range(8)]
    total = affine.linear([(v, 1) for v in names[:-1]])
    both = affine.add(total, affine.variable(names[-1], 3))
    term = Term(dict.fromkeys(names, 7), (total,), (both,), zeros=())
    rows, columns = entries.coordinates([term], (43,), (61,), 1 << 12)
    expected = {(i, i + 3 * k) for i in range(43) for k in range(7)}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_a_band_of_a_huge_matrix_costs_its_entries():
    n = 100_000

    def window(x):
        return jax.lax.reduce_window(x * x, 0.0, jax.lax.add, (5,), (1,), "SAME")

    derivation = derive_call(bind(window, [jax.ShapeDtypeStruct((n,), jnp.float32)]))
    assert len(entries.coordinates(derivation.terms(0, 0), (n,), (n,), 1 << 22)[0]) == 5 * n - 6


@pytest.mark.parametrize(
    "bounds", [((1, -1, 2), (-1, 1, 2)), ((1, -1, 0),), ((2, -3, 1), (-1, 2, 4))]
)
def test_points_between_bounds_are_those_of_the_grid(bounds):
    v, w = affine.fresh(), affine.fresh()
    made = tuple(affine.linear([(v, a), (w, b)], c) for a, b, c in bounds)
    term = Term({v: 6, w: 7}, (variable(v),), (variable(w),), bounds=made)
    i, j = np.indices((6, 7)).reshape(2, -1)
    keep = np.all([a * i + b * j + c >= 0 for a, b, c in bounds], axis=0)
    found = entries.points(term)
    np.testing.assert_array_equal(found.value(variable(v)), i[keep])
    np.testing.assert_array_equal(found.value(variable(w)), j[keep])
    assert found.count <= entries.grid_size(term)
