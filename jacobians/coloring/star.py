"""Star colourings of symmetric patterns: each entry or its mirror image can be read."""

import numpy as np

from jacobians.coloring.lattice import lattice_coloring
from jacobians.coloring.result import (
    SEARCH_WORK,
    Coloring,
    Integers,
    ranked,
    starts_of,
    violation,
)


def star_coloring(
    rows: Integers, columns: Integers, size: int, grid: tuple[int, ...]
) -> Coloring | None:
    """Star colouring: vertices of a high degree alone, the others regularly or in rounds."""
    off = rows != columns
    degree = np.bincount(rows[off], minlength=size)
    best: Coloring | None = None
    typical = max(4.0, 4 * float(np.median(degree[degree > 0])))
    for limit in (typical, 4 * typical, np.inf):
        heavy = degree > limit
        if best is not None and not heavy.any() and not (degree > typical).any():
            break
        light = off & ~heavy[rows] & ~heavy[columns]
        two_paths = float(np.sum(np.bincount(rows[light], minlength=size).astype(float) ** 2))
        if heavy.sum() > 256 or two_paths > SEARCH_WORK:
            continue
        colors = _star_greedy(rows[light], columns[light], size)
        first = int(np.max(colors)) + 1
        rest = ~heavy[rows] & ~heavy[columns]
        if heavy.any() and rest.any():
            counts = np.bincount(rows[rest], minlength=size)
            regular = lattice_coloring(
                rows[rest], columns[rest], counts, (size, size), grid, 1, first - 1, True
            )
            if regular is not None:
                colors, first = np.maximum(regular.colors, 0).astype(np.int64), regular.count
        # vertices whose only neighbours are heavy need no colour but the first
        colors[heavy] = first + np.arange(int(heavy.sum()))
        colors[np.bincount(columns, minlength=size) == 0] = -1
        count = int(np.max(colors)) + 1
        if violation(rows, columns, np.maximum(colors, 0), size, count, True) is not None:
            continue
        if best is None or count < best.count:
            best = Coloring(colors.astype(np.int32), count, 2, "star")
    return best


def _star_greedy(rows: Integers, columns: Integers, size: int) -> Integers:
    """Greedy star colours of a graph given by its edges, both ways, sorted by row."""
    colors = np.full(size, -1, dtype=np.int64)
    neighbours = _Neighbours(rows, columns, size)
    degree = np.bincount(rows, minlength=size)
    shuffle = np.random.default_rng(0).permutation(size)
    priority = ranked(degree, shuffle)
    colors[degree == 0] = 0
    open_ = np.flatnonzero(degree)
    while len(open_):
        winners = neighbours.first_in_two_steps(open_, priority, colors)
        neighbours.choose(winners, colors)
        neighbours.release(winners, colors)
        open_ = open_[colors[open_] < 0]
    return colors


class _Neighbours:
    """An undirected graph with, per vertex, how often each colour occurs among its neighbours."""

    def __init__(self, rows: Integers, columns: Integers, size: int) -> None:
        self.columns = columns
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))])
        self.rows = rows
        self.seen = np.zeros((size, 8), dtype=np.int32)

    def edges(self, vertices: Integers) -> tuple[Integers, Integers]:
        """For each edge of the vertices: the vertex's position in the list, and the neighbour."""
        lengths = self.starts[vertices + 1] - self.starts[vertices]
        owner = np.repeat(np.arange(len(vertices)), lengths)
        offset = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return owner, self.columns[np.repeat(self.starts[vertices], lengths) + offset]

    def first_in_two_steps(self, open_: Integers, priority: Integers, colors: Integers) -> Integers:
        """The open vertices of the highest priority among all open ones within two steps."""
        waiting = np.where(colors < 0, priority, -1)
        around = waiting.copy()
        if len(self.rows):
            starts = starts_of(self.rows)
            at = self.rows[starts]
            around[at] = np.maximum(around[at], np.maximum.reduceat(waiting[self.columns], starts))
            twice = around.copy()
            twice[at] = np.maximum(twice[at], np.maximum.reduceat(around[self.columns], starts))
            around = twice
        first: Integers = open_[around[open_] == priority[open_]]
        return first

    def choose(self, vertices: Integers, colors: Integers) -> None:
        """Gives each vertex the smallest colour that breaks no star condition."""
        owner, near = self.edges(vertices)
        width = self.seen.shape[1]
        forbidden = np.zeros((len(vertices), width), dtype=bool)
        forbidden |= self.seen[vertices] > 0
        colored = colors[near] >= 0
        # two neighbours of one colour: nothing may be shared with what lies behind them
        double = np.zeros(len(near), dtype=bool)
        double[colored] = self.seen[vertices[owner[colored]], colors[near[colored]]] > 1
        if double.any():
            behind = self.seen[near[double]] > 0
            starts = starts_of(owner[double])
            forbidden[owner[double][starts]] |= np.logical_or.reduceat(behind, starts)
        inner_owner, far = self.edges(near[colored])
        middle = near[colored][inner_owner]
        vertex = owner[colored][inner_owner]
        reached = (colors[far] >= 0) & (far != vertices[vertex])
        vertex, middle, far = vertex[reached], middle[reached], far[reached]
        clash = self.seen[far, colors[middle]] > 1
        forbidden[vertex[clash], colors[far[clash]]] = True
        forbidden = np.concatenate([forbidden, np.zeros((len(vertices), 1), dtype=bool)], axis=1)
        chosen = np.argmin(forbidden, axis=1)
        self._set(vertices, chosen, colors)

    def release(self, vertices: Integers, colors: Integers) -> None:
        """Takes the colour back from vertices that broke a condition together."""
        owner, near = self.edges(vertices)
        keep = colors[near] >= 0
        owner, near = owner[keep], near[keep]
        inner_owner, far = self.edges(near)
        middle, vertex = near[inner_owner], vertices[owner[inner_owner]]
        keep = (colors[far] >= 0) & (far != vertex)
        middle, far, vertex = middle[keep], far[keep], vertex[keep]
        broken = (self.seen[middle, colors[far]] > 1) & (self.seen[far, colors[middle]] > 1)
        direct = (self.seen[near, colors[vertices[owner]]] > 1) & (
            self.seen[vertices[owner], colors[near]] > 1
        )
        bad = np.unique(np.concatenate([vertex[broken], vertices[owner[direct]]]))
        # one of them may stay: the others try again beside it
        back = bad[1:]
        if len(back):
            owner, near = self.edges(back)
            np.subtract.at(self.seen, (near, colors[back][owner]), 1)
            colors[back] = -1

    def _set(self, vertices: Integers, chosen: Integers, colors: Integers) -> None:
        needed = int(np.max(chosen, initial=0)) + 1
        if needed > self.seen.shape[1]:
            more = np.zeros((len(self.seen), max(needed, 2 * self.seen.shape[1])), dtype=np.int32)
            more[:, : self.seen.shape[1]] = self.seen
            self.seen = more
        colors[vertices] = chosen
        owner, near = self.edges(vertices)
        np.add.at(self.seen, (near, chosen[owner]), 1)
