"""Drawings of random graphs: edges go right, nothing overlaps, simple graphs have no crossing."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from jacobians.report.layout import crossings, layered


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    heights = draw(st.lists(st.floats(10, 80), min_size=count, max_size=count))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24)) if pairs else []
    late = [n for n in range(count) if not any(b == n for _, b in edges)]
    return heights, edges, late


@given(graphs())
def test_edges_go_to_the_right_through_every_layer(graph):
    heights, edges, late = graph
    layout = layered(heights, edges, late, 20)
    for number, (a, b) in enumerate(edges):
        between = [layer for layer, _ in layout.bends.get(number, ())]
        assert between == list(range(layout.layer[a] + 1, layout.layer[b]))


@given(graphs())
@settings(max_examples=60)
def test_nothing_overlaps(graph):
    heights, edges, late = graph
    layout = layered(heights, edges, late, 20)
    spans = {}
    for n, height in enumerate(heights):
        spans.setdefault(layout.layer[n], []).append((layout.y[n], height))
    for bends in layout.bends.values():
        for layer, y in bends:
            spans.setdefault(layer, []).append((y, 20))
    for column in spans.values():
        column.sort()
        for (above, tall), (below, low) in pairwise(column):
            assert below - above >= (tall + low) / 2 - 1e-6


def test_a_chain_is_a_straight_line():
    layout = layered([30] * 6, [(k, k + 1) for k in range(5)], [0], 20)
    assert layout.layer == (0, 1, 2, 3, 4, 5)
    assert len(set(layout.y)) == 1


def test_inputs_stand_next_to_their_first_reader():
    layout = layered([30] * 4, [(0, 1), (1, 2), (3, 2)], [0, 3], 20)
    assert layout.layer == (0, 1, 2, 1)


def test_a_tree_is_drawn_without_crossings():
    edges = [(0, 4), (1, 5), (2, 4), (3, 5), (4, 6), (5, 6)]
    layout = layered([30] * 7, edges, [0, 1, 2, 3], 20)
    columns = [[], [], []]
    for node in sorted(range(7), key=lambda n: layout.y[n]):
        columns[layout.layer[node]].append(node)
    assert crossings(columns, edges) == 0
    assert crossings([[0, 1], [2, 3]], [(0, 3), (1, 2)]) == 1
