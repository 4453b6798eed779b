"""Colourings: valid by an independent check, few, and optimal where that is known."""

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st

from jacobians.coloring import (
    color_columns,
    color_symmetric,
    is_valid_coloring,
    lower_bound,
    symmetric_lower_bound,
)


def entries(matrix):
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return rows, matrix.indices.astype(np.int64), matrix.shape


def cycle(n):
    return sparse.csr_array(np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0))


def torus(n):
    one = sparse.eye_array(n)
    return sparse.eye_array(n * n) + sparse.kron(one, cycle(n)) + sparse.kron(cycle(n), one)


def plane(n):
    line = sparse.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
    return sparse.kron(sparse.eye_array(n), line) + sparse.kron(line, sparse.eye_array(n))


def arrow(n):
    matrix = np.eye(n)
    matrix[0] = matrix[:, 0] = 1
    return matrix


KNOWN = {
    "diagonal": (np.eye(7), None, 1),
    "tridiagonal": (np.tri(9, k=1) * np.tri(9, k=1).T, None, 3),
    "five diagonals": (np.tri(50, k=2) * np.tri(50, k=2).T, None, 5),
    "blocks of 10×4": (np.kron(np.eye(6), np.ones((10, 4))), (6, 4), 4),
    "five-point stencil": (plane(12), (12, 12), 5),
    "periodic five-point stencil": (torus(10), (10, 10), 5),
    "arrow": (arrow(20), None, 20),
    "dense": (np.ones((5, 8)), None, 8),
    "triangle": (np.tri(12), None, 12),
    "empty": (np.zeros((3, 4)), None, 0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_patterns_take_as_few_colours_as_possible(name):
    matrix, grid, count = KNOWN[name]
    rows, columns, shape = entries(matrix)
    coloring = color_columns(rows, columns, shape, grid)
    assert coloring.count == count
    assert coloring.lower_bound == count
    assert is_valid_coloring(rows, columns, coloring.colors)


@pytest.mark.parametrize(("n", "count"), [(9, 7), (16, 8), (33, 8)])
def test_a_torus_that_no_five_colours_fit_takes_few(n, count):
    rows, columns, shape = entries(torus(n))
    coloring = color_columns(rows, columns, shape, (n, n))
    assert is_valid_coloring(rows, columns, coloring.colors)
    assert coloring.count <= count


def test_a_cycle_whose_length_no_window_divides_takes_one_more_and_the_bound_says_so():
    # nine columns around each of 100: eleven of them fit beside each other, for 99 columns
    distance = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    rows, columns, shape = entries(np.minimum(distance, 100 - distance) <= 4)
    assert np.bincount(rows).max() == 9
    assert lower_bound(rows, columns, shape) == color_columns(rows, columns, shape).count == 10


@pytest.mark.parametrize(
    ("matrix", "bound"),
    [
        (np.zeros((3, 3)), 0),
        (np.eye(4), 1),
        (arrow(40), 2),
        (plane(6), 3),
        (np.ones((6, 6)), 6),
        # without a diagonal to read, one colour can do: two independent products
        (np.kron(np.eye(2), np.ones((2, 2)) - np.eye(2)), 1),
    ],
)
def test_the_bound_for_symmetric_patterns(matrix, bound):
    rows, columns, shape = entries(matrix)
    assert symmetric_lower_bound(rows, columns, shape[0]) == bound
    assert color_symmetric(rows, columns, shape[0]).lower_bound == bound


matrices = st.builds(
    lambda m, n, density, seed: (np.random.default_rng(seed).uniform(size=(m, n)) < density).astype(
        float
    ),
    st.integers(1, 30),
    st.integers(1, 30),
    st.floats(0, 0.5),
    st.integers(0, 999),
)


@given(matrix=matrices)
def test_every_colouring_is_valid_and_counts_its_colours(matrix):
    rows, columns, shape = entries(matrix)
    coloring = color_columns(rows, columns, shape)
    assert is_valid_coloring(rows, columns, coloring.colors)
    assert set(coloring.colors[coloring.colors >= 0].tolist()) == set(range(coloring.count))
    assert (coloring.colors >= 0).sum() == (matrix.any(axis=0)).sum()
    assert coloring.lower_bound <= coloring.count
    assert lower_bound(rows, columns, shape) <= coloring.count


@given(matrix=matrices)
def test_every_symmetric_colouring_is_valid(matrix):
    n = min(matrix.shape)
    square = matrix[:n, :n] + matrix[:n, :n].T + np.eye(n)
    rows, columns, _ = entries(square)
    coloring = color_symmetric(rows, columns, n)
    assert is_valid_coloring(rows, columns, coloring.colors, symmetric=True)
    assert coloring.count <= color_columns(rows, columns, (n, n)).count
    assert coloring.lower_bound <= coloring.count


@pytest.mark.parametrize(
    ("matrix", "grid", "count"),
    [
        (arrow(40), None, 2),
        (arrow(40) - np.eye(40), None, 2),
        (np.maximum(arrow(40), np.eye(40, k=1) + np.eye(40, k=-1)), None, 4),
        (plane(6), (6, 6), 5),
        (KNOWN["tridiagonal"][0], None, 3),
    ],
)
def test_star_colourings_use_symmetry(matrix, grid, count):
    rows, columns, shape = entries(matrix)
    coloring = color_symmetric(rows, columns, shape[0], grid)
    assert coloring.count <= count
    assert is_valid_coloring(rows, columns, coloring.colors, symmetric=True)


def test_the_checker_refuses_what_cannot_be_read():
    rows, columns, _ = entries(np.ones((2, 3)))
    assert not is_valid_coloring(rows, columns, np.array([0, 1, 0]))
    assert not is_valid_coloring(rows, columns, np.array([0, 1, -1]))
    assert is_valid_coloring(rows, columns, np.array([2, 1, 0]))
    rows, columns, _ = entries(np.ones((3, 3)))
    assert not is_valid_coloring(rows, columns, np.array([0, 0, 1]), symmetric=True)
    path = np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)
    rows, columns, _ = entries(path)
    # a path of four vertices in two colours is what a star colouring must not have
    assert not is_valid_coloring(rows, columns, np.array([0, 1, 0, 1]), symmetric=True)
    assert is_valid_coloring(rows, columns, np.array([0, 1, 2, 0]), symmetric=True)
