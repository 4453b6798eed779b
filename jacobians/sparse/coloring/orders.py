"""Orders in which vertices of a graph are coloured; all of them by the numbers of neighbours.

    [order.tolist() for _, order in orders(neighbours)]

Source: Gebremedhin, Manne and Pothen, *What color is your Jacobian?*, SIAM Review 47 (2005),
section 7.
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from jacobians.sparse.coloring.result import Integers


def orders(
    neighbours: Sequence[Sequence[int]], shuffles: int = 0
) -> Iterator[tuple[str, Integers]]:
    """The usual orders of a graph's vertices.

    Args:
        neighbours: of every vertex, each once and the vertex itself not among them.
        shuffles: how many times more, with vertices of equal degree in a random order.

    Yields:
        A name, and the vertices in that order.
    """
    degree = [len(near) for near in neighbours]
    generator = np.random.default_rng(0)
    for number in range(1 + shuffles):
        numbered = np.arange(len(degree)) if number == 0 else generator.permutation(len(degree))
        rank = np.argsort(numbered).tolist()
        yield "as numbered" if number == 0 else "shuffled", numbered
        yield "largest first", np.lexsort((rank, -np.array(degree, np.int64)))
        # vertices are coloured in the reverse of the order in which the smallest degrees leave
        yield "smallest last", _leaving(degree, neighbours, rank)[::-1]
        yield "incidence degree", _leaving([0] * len(degree), neighbours, rank)


def _leaving(
    key: Sequence[int], neighbours: Sequence[Sequence[int]], rank: Sequence[int]
) -> Integers:
    """The vertices by smallest key; each that leaves lowers its neighbours' keys by one."""
    current = list(key)
    heap = [(k, rank[vertex], vertex) for vertex, k in enumerate(current)]
    heapq.heapify(heap)
    gone = [False] * len(current)
    order: list[int] = []
    while heap:
        k, _, vertex = heapq.heappop(heap)
        if gone[vertex] or k != current[vertex]:
            # an entry from before its key was lowered
            continue
        gone[vertex] = True
        order.append(vertex)
        for other in neighbours[vertex]:
            if not gone[other]:
                current[other] -= 1
                heapq.heappush(heap, (current[other], rank[other], other))
    return np.array(order, dtype=np.int64)
