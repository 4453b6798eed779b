"""Colourings: valid by an independent check, few, and optimal where that is known."""

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st

from jacobians.sparse.coloring import (
    color_columns,
    color_symmetric,
    is_valid_coloring,
    lower_bound,
    symmetric_lower_bound,
)
from jacobians.sparse.coloring.greedy import Graph, greedy_coloring


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


def neighbours_within(shape, k):
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    points = points.reshape(-1, len(shape))
    return np.abs(points[:, None] - points[None]).max(-1) <= k


PUBLISHED = {
    "a first test of SparseMatrixColorings.jl": ([[1, 0, 2], [0, 3, 4], [5, 0, 0]], 2),
    "a matrix of ColPack": ([[1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], 4),
    # numbered as a flat vector: no grid is given
    "27 neighbours": (neighbours_within((7, 9, 5), 1), 27),
    "9 neighbours": (neighbours_within((17, 23), 1), 9),
    "25 neighbours": (neighbours_within((17, 23), 2), 25),
    "7 neighbours on a line": (neighbours_within((41,), 3), 7),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_few_colours_as_published(name):
    matrix, count = PUBLISHED[name]
    rows, columns, shape = entries(np.array(matrix, float))
    coloring = color_columns(rows, columns, shape)
    assert coloring.count == count
    assert is_valid_coloring(rows, columns, coloring.colors)


def test_figure_4_1_of_what_color_is_your_jacobian_takes_three():
    edges = [(0, 1), (1, 2), (1, 4), (1, 5), (2, 3), (3, 5)]
    matrix = np.eye(6)
    for i, j in edges:
        matrix[i, j] = matrix[j, i] = 1
    rows, columns, shape = entries(matrix)
    coloring = color_symmetric(rows, columns, shape[0])
    assert coloring.count == 3
    assert is_valid_coloring(rows, columns, coloring.colors, symmetric=True)


def plain_orders(graph):
    """The four textbook orders, by whole-matrix sums at every step."""
    n = len(graph)
    yield np.arange(n)
    yield np.argsort(-graph.sum(1), kind="stable")
    left, last = np.ones(n, bool), []
    while left.any():
        last.append(int(np.argmin(np.where(left, graph[:, left].sum(1), n))))
        left[last[-1]] = False
    yield np.array(last[::-1])
    done, order = np.zeros(n, bool), []
    while not done.all():
        order.append(int(np.argmax(np.where(done, -1, graph[:, done].sum(1)))))
        done[order[-1]] = True
    yield np.array(order)


def plain_greedy(graph, order):
    colors = np.full(len(graph), -1)
    for vertex in order:
        taken = set(colors[graph[vertex]].tolist())
        colors[vertex] = next(k for k in range(len(graph)) if k not in taken)
    return int(colors.max()) + 1


def plain_star(graph, order):
    """The smallest colour that makes no path of four vertices in two colours, tried in turn."""
    colors = np.full(len(graph), -1)

    def broken(vertex):
        for a in (vertex, *np.flatnonzero(graph[vertex])):
            for b in np.flatnonzero(graph[a] & (colors >= 0)):
                before = graph[a] & (colors == colors[b]) & (np.arange(len(graph)) != b)
                after = graph[b] & (colors == colors[a]) & (np.arange(len(graph)) != a)
                if colors[a] == colors[b] or (colors[a] >= 0 and before.any() and after.any()):
                    return True
        return False

    for vertex in order:
        for color in range(len(graph)):
            colors[vertex] = color
            if not broken(vertex):
                break
    return int(colors.max()) + 1


@pytest.mark.parametrize("seed", range(12))
def test_never_more_colours_than_plain_greedy_in_any_order(seed):
    generator = np.random.default_rng(seed)
    m, n = generator.integers(4, 30, 2)
    matrix = generator.uniform(size=(m, n)) < generator.uniform(0.05, 0.4)
    rows, columns, shape = entries(matrix.astype(float))
    together = (matrix.T.astype(int) @ matrix) > 0
    graph = together & ~np.eye(n, dtype=bool)
    fewest = min(plain_greedy(graph, order) for order in plain_orders(graph))
    assert color_columns(rows, columns, shape).count <= fewest
    half = matrix[: min(m, n), : min(m, n)]
    graph = (half | half.T) & ~np.eye(len(half), dtype=bool)
    rows, columns, _ = entries((graph | np.eye(len(half), dtype=bool)).astype(float))
    fewest = min(plain_star(graph, order) for order in plain_orders(graph))
    coloring = color_symmetric(rows, columns, len(half))
    assert coloring.count <= fewest
    assert is_valid_coloring(rows, columns, coloring.colors, symmetric=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_more_than_256_colours(symmetric):
    generator = np.random.default_rng(0)
    matrix = generator.uniform(size=(90, 900)) < 0.33
    if symmetric:
        # rows that meet in a dense corner, and vertices around it
        matrix = np.zeros((340, 340), bool)
        matrix[:300, :300] = generator.uniform(size=(300, 300)) < 0.97
        matrix |= generator.uniform(size=matrix.shape) < 0.01
        matrix |= matrix.T | np.eye(340, dtype=bool)
    rows, columns, shape = entries(matrix.astype(float))
    if symmetric:
        coloring = color_symmetric(rows, columns, shape[0])
    else:
        coloring = color_columns(rows, columns, shape)
    assert coloring.count > 256 + 2
    assert is_valid_coloring(rows, columns, coloring.colors, symmetric=symmetric)


def test_seventy_thousand_colours_of_a_dense_row():
    n, width = 70_200, 70_000
    shuffled = np.random.default_rng(0).permutation(n)
    first = np.sort(shuffled[:width])
    # beside the dense row pairs of columns, each sharing a row
    rows = np.concatenate([np.zeros(width, np.int64), 1 + np.arange(n) // 2])
    columns = np.concatenate([first, shuffled])
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    shape = (1 + n // 2, n)
    found = greedy_coloring(Graph.of(rows, columns, shape), width)
    assert found.count == color_columns(rows, columns, shape).count == width
    assert is_valid_coloring(rows, columns, found.colors)
