"""Where to draw the nodes of a graph: layers from left to right, few crossings, straight wires.

The usual layered drawing (Sugiyama, Tagawa and Toda, 1981): each node is put in the layer after
the last one it reads from, wires across several layers get a bend point in each, the order within
layers is improved by the mean position of the neighbours, and heights are then pulled towards
the neighbours' without overlap.

    layout = layered([node sizes], [(0, 2), (1, 2)])
    layout.layer, layout.y
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 12
PULLS = 25


@dataclass(frozen=True)
class Layout:
    """Positions of nodes and of the bends of long edges.

    Attributes:
        layer: the layer of each node.
        y: the vertical centre of each node.
        bends: for each edge that passes layers, their (layer, y), in order.
    """

    layer: tuple[int, ...]
    y: tuple[float, ...]
    bends: Mapping[int, tuple[tuple[int, float], ...]]


def layered(
    heights: Sequence[float], edges: Sequence[tuple[int, int]], late: Sequence[int], bend: float
) -> Layout:
    """Lays out an acyclic graph whose nodes are numbered in a topological order.

    Args:
        heights: the height of each node, spacing included.
        edges: pairs (from, to) with from < to.
        late: nodes that are moved next to the first node that reads them (inputs).
        bend: the height that a passing wire needs.

    Returns:
        The layout.
    """
    layer = _layers(len(heights), edges, late)
    sizes = list(heights)
    ranks = list(layer)
    parts: list[tuple[int, int]] = []
    chains: dict[int, list[int]] = {}
    for number, (start, end) in enumerate(edges):
        previous = start
        for between in range(layer[start] + 1, layer[end]):
            sizes.append(bend)
            ranks.append(between)
            chains.setdefault(number, []).append(len(sizes) - 1)
            parts.append((previous, len(sizes) - 1))
            previous = len(sizes) - 1
        parts.append((previous, end))
    columns = _ordered(ranks, parts)
    y = _heights(columns, sizes, parts)
    bends = {e: tuple((ranks[d], y[d]) for d in chain) for e, chain in chains.items()}
    return Layout(tuple(layer), tuple(y[: len(heights)]), bends)


def _layers(count: int, edges: Sequence[tuple[int, int]], late: Sequence[int]) -> list[int]:
    layer = [0] * count
    for start, end in sorted(edges, key=lambda edge: edge[1]):
        layer[end] = max(layer[end], layer[start] + 1)
    for node in late:
        reading = [layer[end] for start, end in edges if start == node]
        if reading:
            layer[node] = max(min(reading) - 1, 0)
    return layer


def _ordered(ranks: Sequence[int], parts: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The nodes of each layer in an order with few crossings."""
    columns: list[list[int]] = [[] for _ in range(max(ranks, default=0) + 1)]
    for node, rank in enumerate(ranks):
        columns[rank].append(node)
    into: dict[int, list[int]] = {}
    out: dict[int, list[int]] = {}
    for start, end in parts:
        out.setdefault(start, []).append(end)
        into.setdefault(end, []).append(start)
    best, fewest = [list(c) for c in columns], crossings(columns, parts)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        neighbours = into if forward else out
        for column in columns if forward else columns[::-1]:
            place = {node: k for c in columns for k, node in enumerate(c)}
            column.sort(key=lambda n: _mean([place[m] for m in neighbours.get(n, ())], place[n]))
        count = crossings(columns, parts)
        if count < fewest:
            best, fewest = [list(c) for c in columns], count
    return best


def crossings(columns: Sequence[Sequence[int]], parts: Sequence[tuple[int, int]]) -> int:
    """The number of pairs of wires between neighbouring layers that cross."""
    place = {
        node: (rank, k) for rank, column in enumerate(columns) for k, node in enumerate(column)
    }
    by_rank: dict[int, list[tuple[int, int]]] = {}
    for start, end in parts:
        rank, k = place[start]
        by_rank.setdefault(rank, []).append((k, place[end][1]))
    total = 0
    for pairs in by_rank.values():
        for number, (a, b) in enumerate(pairs):
            total += sum((a - c) * (b - d) < 0 for c, d in pairs[:number])
    return total


def _heights(
    columns: Sequence[Sequence[int]], sizes: Sequence[float], parts: Sequence[tuple[int, int]]
) -> list[float]:
    """Vertical centres: pulled to the mean of the neighbours, order kept, nothing overlapping."""
    y = [0.0] * len(sizes)
    for column in columns:
        top = -sum(sizes[n] for n in column) / 2
        for node in column:
            y[node] = top + sizes[node] / 2
            top += sizes[node]
    into: dict[int, list[int]] = {}
    out: dict[int, list[int]] = {}
    for start, end in parts:
        out.setdefault(start, []).append(end)
        into.setdefault(end, []).append(start)
    for pull in range(PULLS):
        forward = pull % 2 == 0
        for column in columns if forward else columns[::-1]:
            near = into if forward else out
            wish = [_mean([y[m] for m in near.get(n, ())], y[n]) for n in column]
            for node, height in zip(column, _spaced(wish, [sizes[n] for n in column]), strict=True):
                y[node] = height
    return y


def _spaced(wish: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centres nearest to the wished ones (least squares), in order and without overlap.

    With the room of everything above taken off, the centres must only not decrease: isotonic
    regression, by pooling adjacent violators.
    """
    offsets = []
    total = 0.0
    for size in sizes:
        offsets.append(total + size / 2)
        total += size
    pools: list[tuple[float, int]] = []
    for target, offset in zip(wish, offsets, strict=True):
        mean, count = target - offset, 1
        while pools and pools[-1][0] > mean:
            previous, members = pools.pop()
            mean = (mean * count + previous * members) / (count + members)
            count += members
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [base + offset for base, offset in zip(flat, offsets, strict=True)]


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise
