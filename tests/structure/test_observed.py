"""Matrices built with a structure are recognised, up to rounding, and never more than is there."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from jacobians.structure.observed import observe


def see(*matrices, out_shape=None, in_shape=None, **options):
    m, n = matrices[0].shape
    return observe(
        list(matrices), out_shape=out_shape or (m,), in_shape=in_shape or (n,), **options
    )


seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(4, 9)


def rounding(generator, matrix):
    """The matrix with errors of a few units in the last place of its largest entry."""
    return matrix + 1e-15 * np.abs(matrix).max() * generator.uniform(-1, 1, matrix.shape)


@given(seeds, sizes)
def test_constructed_structures_are_named(seed, n):
    g = np.random.default_rng(seed)
    full = g.normal(size=(n, n)) + np.sign(g.normal(size=(n, n)))
    cases = {
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "scaled-identity": 2.5 * np.eye(n),
        "diagonal": np.diag(np.diag(full)),
        "permutation": np.roll(np.eye(n), 1, 0)[g.permutation(n)],
        "circulant": scipy.linalg.circulant(full[0]),
        "toeplitz": scipy.linalg.toeplitz(full[0], full[1]),
        "banded": np.triu(np.tril(full, 1), -1),
        "lower-triangular": np.tril(full),
        "upper-triangular": np.triu(full),
        "outer": np.outer(full[0], full[1]),
        "diagonal-plus-low-rank": np.diag(full[0]) + np.outer(full[1], full[2]),
        "dense": full,
    }
    for kind, matrix in cases.items():
        if kind == "permutation" and (matrix == np.eye(n)).all():
            continue
        seen = see(rounding(g, matrix) if kind != "zero" else matrix)
        assert kind in seen.properties, (kind, seen)
        if kind not in ("toeplitz",):
            assert seen.structure.kind == kind, (kind, seen)


@given(seeds, st.integers(2, 4), st.integers(2, 3), st.integers(2, 3))
def test_blocks_and_kronecker_products_are_named(seed, count, m, n):
    g = np.random.default_rng(seed)
    blocks = [g.normal(size=(m, n)) + 3 for _ in range(count)]
    seen = see(scipy.linalg.block_diag(*blocks))
    assert seen.structure.kind == "block-diagonal"
    assert seen.structure.get("blocks") == count
    assert seen.structure.get("block_shape") == (m, n)
    assert not seen.structure.get("equal")
    same = see(scipy.linalg.block_diag(*([blocks[0]] * count)))
    assert same.structure.get("equal")
    assert "kronecker" in same.properties
    product = np.kron(blocks[0], blocks[1])
    seen = see(product, out_shape=(m, m), in_shape=(n, n))
    assert seen.structure.kind == "kronecker"


def test_structure_is_what_all_points_share():
    first = np.diag([1.0, 0.0, 1.0, 0.0])
    assert see(first).structure.kind == "diagonal"
    assert "selection" not in see(first).properties
    other = np.diag([0.0, 1.0, 1.0, 0.0])
    assert see(first, other).structure.kind == "diagonal"
    assert "selection" not in see(first, other).properties
    assert see(np.eye(3), 2 * np.eye(3)).structure.kind == "scaled-identity"
    assert see(np.eye(3), np.eye(3)[[1, 0, 2]]).structure.get("varies")
    assert see(np.diag([1.0, 2, 3]), np.ones((3, 3))).structure.kind not in ("diagonal", "outer")


def test_constant_and_symmetric_are_seen():
    assert {"constant", "symmetric"} <= see(np.eye(3), np.eye(3)).properties
    assert "constant" not in see(np.eye(3), 2 * np.eye(3)).properties
    assert "symmetric" not in see(np.arange(9.0).reshape(3, 3)).properties


def test_rank_is_a_range_over_points():
    assert see(np.diag([1.0, 0, 0]), np.eye(3)).rank == (1, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_counted_and_claims_nothing_about_values(bad):
    matrix = np.eye(4)
    matrix[2, 2] = bad
    seen = see(matrix)
    assert seen.nonfinite == 1
    assert seen.structure.kind == "diagonal"
    assert not {"identity", "constant", "permutation"} & seen.properties
    everything = see(np.full((3, 3), bad))
    assert everything.structure.kind == "dense"


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_matrices_are_zero(shape):
    assert see(np.zeros(shape)).structure.kind == "zero"


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        (np.array([[3.0]]), "scaled-identity"),
        (np.array([[1.0, 2.0, 3.0]]), "dense"),
        (np.array([[1.0], [2.0], [3.0]]), "dense"),
        (np.array([[0.0, 1.0, 0.0]]), "selection"),
    ],
)
def test_rows_columns_and_numbers(matrix, kind):
    assert see(matrix).structure.kind == kind


def test_a_gradient_over_two_axes_may_be_an_outer_product():
    row = np.outer([1.0, 2.0], [3.0, 4.0, 5.0]).reshape(1, 6)
    seen = see(row, out_shape=(), in_shape=(2, 3))
    assert seen.structure.kind == "outer"
    assert seen.structure.get("gradient")


def test_block_triangular_over_leading_axes():
    g = np.random.default_rng(0)
    steps = np.kron(np.tril(np.ones((3, 3))), np.ones((2, 4))) * g.normal(size=(6, 12))
    seen = see(steps, out_shape=(3, 2), in_shape=(3, 4))
    assert seen.structure.kind == "lower-triangular"
    assert seen.structure.get("block_shape") == (2, 4)


def test_a_tiny_entry_above_the_tolerance_counts():
    matrix = np.eye(3)
    matrix[0, 2] = 1e-7
    assert see(matrix).structure.kind != "identity"
    assert see(matrix, tolerance=1e-6).structure.kind == "identity"


def test_nothing_to_observe_is_refused():
    with pytest.raises(ValueError, match="nothing to observe"):
        observe([], out_shape=(1,), in_shape=(1,))
