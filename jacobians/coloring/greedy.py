"""Greedy distance-2 colourings of any pattern, in several orders, improved by rearranging classes.

In every round all columns that come first among their uncoloured neighbours are coloured at once,
which gives what the sequential algorithm gives in that order.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jacobians.coloring.result import Coloring, Integers, ranked, starts_of

# work limit, in visited entries
GREEDY_WORK = 1 << 27


@dataclass(frozen=True, eq=False)
class Graph:
    """A pattern by rows and by columns, of the columns that have entries only.

    Attributes:
        rows: row of every entry in row order.
        columns: column of every entry in row order, numbered among the used ones.
        by_column: positions of the entries in column order.
        used: the columns that have entries.
        size: number of columns of the whole pattern.
        m: number of rows.
    """

    rows: Integers
    columns: Integers
    by_column: Integers
    used: Integers
    size: int
    m: int

    @staticmethod
    def of(rows: Integers, columns: Integers, shape: tuple[int, int]) -> "Graph":
        used, numbers = np.unique(columns, return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        return Graph(rows.astype(np.int64), numbers, order, used, shape[1], shape[0])

    def spread(self, colors: Integers) -> Integers:
        """Colours of the used columns as colours of all columns."""
        everything = np.full(self.size, -1, dtype=np.int32)
        everything[self.used] = colors
        return everything


def greedy_coloring(graph: Graph, lower: int) -> Coloring:
    """The best of several orders, improved by rearranging classes."""
    work = GREEDY_WORK
    best: tuple[int, Integers, str] | None = None
    for name, priority in _orders(graph):
        colors, spent = _greedy(graph, priority)
        work -= spent
        count = int(np.max(colors)) + 1
        if best is None or count < best[0]:
            best = count, colors, name
        if count == lower or work < 0:
            break
    assert best is not None
    count, colors, name = best
    if count > lower and work > 0:
        colors = _rearranged(graph, colors, lower, work)
        if int(np.max(colors)) + 1 < count:
            count, name = int(np.max(colors)) + 1, f"{name}, rearranged"
    return Coloring(graph.spread(colors), count, lower, f"greedy, {name}")


def _orders(graph: Graph) -> Iterator[tuple[str, Integers]]:
    """Priorities of the columns: the largest is coloured first among neighbours; all different."""
    n = len(graph.used)
    generator = np.random.default_rng(0)
    shuffle = generator.permutation(n)
    row_counts = np.bincount(graph.rows, minlength=graph.m)
    degree = np.bincount(graph.columns, weights=row_counts[graph.rows], minlength=n).astype(
        np.int64
    )
    yield "largest first", ranked(degree, shuffle)
    yield "smallest last", ranked(_peeling(graph, degree), shuffle)
    # an order along the columns, broken into runs so that many can be coloured in one round
    yield "incidence by blocks", ranked(-(np.arange(n) % 64), shuffle)


def _peeling(graph: Graph, degree: Integers) -> Integers:
    """The round in which a column goes when those of the smallest degree go first, by halves."""
    rounds = np.zeros(len(degree), dtype=np.int64)
    alive = np.ones(len(degree), dtype=bool)
    number = 0
    rows, columns = graph.rows, graph.columns
    while alive.any() and number < 64:
        row_counts = np.bincount(rows, minlength=graph.m)
        current = np.bincount(columns, weights=row_counts[rows], minlength=len(degree))
        level = np.quantile(current[alive], 0.25)
        leaving = alive & (current <= level)
        rounds[leaving] = number
        alive &= ~leaving
        keep = alive[columns]
        rows, columns = rows[keep], columns[keep]
        number += 1
    rounds[alive] = number
    return rounds


def _greedy(graph: Graph, priority: Integers) -> tuple[Integers, int]:
    """Greedy colours in decreasing priority, whole rounds at a time; and the entries visited."""
    n = len(graph.used)
    colors = np.full(n, -1, dtype=np.int64)
    masks = _Masks(graph.m)
    rows, columns = graph.rows, graph.columns
    rows_c, columns_c = rows[graph.by_column], columns[graph.by_column]
    spent = 0
    highest = np.empty(graph.m, dtype=np.int64)
    while len(rows):
        spent += len(rows)
        starts = starts_of(rows)
        highest[rows[starts]] = np.maximum.reduceat(priority[columns], starts)
        starts_c = starts_of(columns_c)
        first = priority[columns_c] == highest[rows_c]
        wins = np.logical_and.reduceat(first, starts_c)
        winner = np.zeros(n, dtype=bool)
        winner[columns_c[starts_c][wins]] = True
        mine = winner[columns_c]
        masks.color(rows_c[mine], columns_c[mine], colors)
        rows_c, columns_c = rows_c[~mine], columns_c[~mine]
        keep = ~winner[columns]
        rows, columns = rows[keep], columns[keep]
    return colors, spent


def _rearranged(graph: Graph, colors: Integers, lower: int, work: int) -> Integers:
    """Greedy again, class after class: never more colours, often fewer."""
    generator = np.random.default_rng(1)
    best = colors
    rows_c, columns_c = graph.rows[graph.by_column], graph.columns[graph.by_column]
    stale = 0
    for step in range(60):
        count = int(np.max(best)) + 1
        if count == lower or work < 0 or stale > 12:
            break
        work -= 3 * len(rows_c)
        classes = np.arange(count)
        sizes = np.bincount(best, minlength=count)
        order = (
            classes[::-1],
            np.argsort(sizes, kind="stable"),
            generator.permutation(count),
        )[step % 3]
        new = np.full(len(best), -1, dtype=np.int64)
        masks = _Masks(graph.m)
        place = np.argsort(best[columns_c], kind="stable")
        bounds = np.searchsorted(best[columns_c][place], np.arange(count + 1))
        for c in order:
            # entries of one class, still in column order
            part = place[bounds[c] : bounds[c + 1]]
            masks.color(rows_c[part], columns_c[part], new)
        stale = stale + 1 if int(np.max(new)) + 1 == count else 0
        best = new
    return best


class _Masks:
    """The colours that every row has met, as bits."""

    def __init__(self, m: int) -> None:
        self.words = np.zeros((1, m), dtype=np.uint64)

    def color(self, rows: Integers, columns: Integers, colors: Integers) -> None:
        """Gives columns without a common row the smallest free colour each.

        Args:
            rows: rows of their entries.
            columns: their columns, equal ones side by side.
            colors: receives the colours.
        """
        if not len(rows):
            return
        starts = starts_of(columns)
        chosen = np.full(len(starts), -1, dtype=np.int64)
        for number in itertools.count():
            if number == len(self.words):
                self.words = np.concatenate([self.words, np.zeros_like(self.words[:1])])
            taken = np.bitwise_or.reduceat(self.words[number, rows], starts)
            low = ~taken & (taken + np.uint64(1))
            free = (chosen < 0) & (low != 0)
            chosen[free] = 64 * number + np.bitwise_count(low[free] - np.uint64(1))
            if (chosen >= 0).all():
                break
        colors[columns[starts]] = chosen
        lengths = np.diff(np.append(starts, len(columns)))
        color = np.repeat(chosen, lengths)
        word = color // 64
        bit = np.uint64(1) << (color % 64).astype(np.uint64)
        self.words[word, rows] |= bit
