"""Star colourings of symmetric patterns: each entry or its mirror image can be read.

No two neighbours have one colour, and no path of four vertices has only two: every two colours
together are stars, a hub with its leaves. A vertex may not take a colour of its neighbours, nor
that of the hub where a neighbour is already a leaf, nor, between two neighbours of one colour,
any colour around these.
"""

from collections.abc import Sequence

import numpy as np

from jacobians.sparse.coloring.lattice import lattice_coloring
from jacobians.sparse.coloring.orders import orders
from jacobians.sparse.coloring.result import Coloring, Integers, violation

# edges, seen from both ends, that all orders together may visit; a second has about two million
STAR_WORK = 1 << 20
# how many times more orders of a small graph are tried, equal degrees shuffled
MAX_SHUFFLES = 8
# vertices that get a colour of their own for having many neighbours
MAX_HEAVY = 256


def star_coloring(
    rows: Integers, columns: Integers, size: int, grid: tuple[int, ...], lower: int = 1
) -> Coloring | None:
    """Star colouring: greedy in several orders, or vertices of a high degree alone and the rest
    regularly.

    Args:
        rows: row of every entry, sorted; the pattern must be symmetric.
        columns: column of every entry.
        size: number of rows and of columns.
        grid: sizes of a grid whose points are the columns.
        lower: a number of colours that ends the search.
    """
    found = [
        coloring
        for coloring in (
            _greedy(rows, columns, size, lower),
            _beside_heavy(rows, columns, size, grid),
        )
        if coloring is not None
    ]
    return min(found, key=lambda coloring: coloring.count) if found else None


def _greedy(rows: Integers, columns: Integers, size: int, lower: int) -> Coloring | None:
    """The best of several orders; None where there are too many edges for one."""
    off = rows != columns
    ends = np.cumsum(np.bincount(rows[off], minlength=size)).tolist()
    listed = columns[off].tolist()
    if len(listed) > 4 * STAR_WORK:
        return None
    neighbours = [listed[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    shuffles = MAX_SHUFFLES if MAX_SHUFFLES * 4 * len(listed) <= STAR_WORK // 8 else 0
    work = STAR_WORK
    best: list[int] | None = None
    for _, order in orders(neighbours, shuffles):
        colors = star_first_fit(neighbours, order.tolist())
        if best is None or max(colors) < max(best):
            best = colors
        work -= len(listed)
        if max(best) + 1 <= lower or work < len(listed):
            break
    return None if best is None else _checked(np.array(best, np.int64), rows, columns, size)


def star_first_fit(neighbours: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """One vertex after another takes the smallest colour that keeps every two colours stars.

    Args:
        neighbours: of every vertex, itself not among them.
        order: the vertices.

    Returns:
        The colour of every vertex. Colours are bits of integers, of any length.
    """
    n = len(neighbours)
    colors = [-1] * n
    # the colours around a vertex, those that occur twice or more, and of a leaf its hubs' colours
    once, twice, hubs = [0] * n, [0] * n, [0] * n
    first: dict[tuple[int, int], int] = {}
    for vertex in order:
        around, taken = neighbours[vertex], once[vertex]
        doubled = twice[vertex]
        for other in around:
            color = colors[other]
            if color >= 0:
                taken |= hubs[other]
                if doubled >> color & 1:
                    taken |= once[other]
        bit = ~taken & (taken + 1)
        own = colors[vertex] = bit.bit_length() - 1
        for other in around:
            color = colors[other]
            if not once[other] & bit:
                once[other] |= bit
                first[other, own] = vertex
            else:
                if color >= 0:
                    hubs[vertex] |= 1 << color
                    if not twice[other] & bit:
                        hubs[first[other, own]] |= 1 << color
                twice[other] |= bit
            if color >= 0 and doubled >> color & 1:
                hubs[other] |= bit
    return colors


def _beside_heavy(
    rows: Integers, columns: Integers, size: int, grid: tuple[int, ...]
) -> Coloring | None:
    """Vertices of a high degree alone, the others by a linear form of their grid position."""
    off = rows != columns
    degree = np.bincount(rows[off], minlength=size)
    typical = max(4.0, 4 * float(np.median(degree[degree > 0])))
    heavy = degree > typical
    rest = ~heavy[rows] & ~heavy[columns]
    if not heavy.any() or heavy.sum() > MAX_HEAVY or not rest.any():
        return None
    counts = np.bincount(rows[rest], minlength=size)
    top = 4 + 2 * int(np.max(counts))
    regular = lattice_coloring(
        rows[rest], columns[rest], (size, size), grid, 1, top, symmetric=True
    )
    if regular is None:
        return None
    # vertices whose only neighbours are heavy need no colour but the first
    colors = np.maximum(regular.colors, 0).astype(np.int64)
    colors[heavy] = regular.count + np.arange(int(heavy.sum()))
    return _checked(colors, rows, columns, size)


def _checked(colors: Integers, rows: Integers, columns: Integers, size: int) -> Coloring | None:
    """The colouring, numbered without gaps, or None where an entry cannot be read from it."""
    present = np.zeros(size, dtype=bool)
    present[columns] = True
    _, numbers = np.unique(colors[present], return_inverse=True)
    compact = np.full(size, -1, dtype=np.int32)
    compact[present] = numbers
    count = int(np.max(compact)) + 1
    if violation(rows, columns, np.maximum(compact, 0), size, count, True) is not None:
        return None
    return Coloring(compact, count, 2, "star")
