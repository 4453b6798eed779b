"""Greedy distance-2 colourings of any pattern, in several orders, improved by rearranging classes.

One column after another takes the smallest colour that none of its rows has met; the colours that
a row has met are the bits of one integer, of any length. Where a pattern has few pairs of columns
with a common row, the orders are exactly those of the graph of such pairs; else they are taken by
sums over rows.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sparse

from jacobians.sparse.coloring.orders import orders
from jacobians.sparse.coloring.result import Coloring, Integers

# work limits in visited entries, of which a second has about four million: of a search that may
# gain much, and of one beside a colouring that is nearly as good as can be
GREEDY_WORK = 1 << 23
LITTLE_WORK = 1 << 19
# pairs of columns with a common row up to which their graph is made
MAX_PAIRS = 1 << 18
# bits that the rows' colours may take together; beyond, short rows are looked through instead
MAX_BITS = 1 << 30
SHORT_ROW = 8
# entries up to which the colours of every order are rearranged, not of the best one only
SMALL = 1 << 13
# rearrangements in a row that may gain nothing
MAX_STALE = 24


@dataclass(frozen=True, eq=False)
class Graph:
    """A pattern by rows and by columns, of the columns that have entries only.

    Attributes:
        rows: row of every entry in row order.
        columns: column of every entry in row order, numbered among the used ones.
        used: the columns that have entries.
        size: number of columns of the whole pattern.
        m: number of rows.
    """

    rows: Integers
    columns: Integers
    used: Integers
    size: int
    m: int

    @staticmethod
    def of(rows: Integers, columns: Integers, shape: tuple[int, int]) -> "Graph":
        used, numbers = np.unique(columns, return_inverse=True)
        return Graph(rows.astype(np.int64), numbers, used, shape[1], shape[0])

    def spread(self, colors: Integers) -> Integers:
        """Colours of the used columns as colours of all columns."""
        everything = np.full(self.size, -1, dtype=np.int32)
        everything[self.used] = colors
        return everything

    @cached_property
    def row_counts(self) -> Integers:
        """The number of entries of every row."""
        return np.bincount(self.rows, minlength=self.m)

    @cached_property
    def rows_of(self) -> tuple[list[int], list[int]]:
        """The rows that a column shares with others, column after column, and where each starts."""
        shared = self.row_counts[self.rows] > 1
        rows, columns = self.rows[shared], self.columns[shared]
        listed = rows[np.argsort(columns, kind="stable")].tolist()
        return listed, _starts(columns, len(self.used))

    def neighbours(self) -> list[list[int]] | None:
        """For every column those that it shares a row with; None where there are too many."""
        if float(np.sum(self.row_counts.astype(float) ** 2)) > MAX_PAIRS:
            return None
        n = len(self.used)
        ones = np.ones(len(self.rows), dtype=np.int32)
        matrix = sparse.csr_array((ones, (self.rows, self.columns)), shape=(self.m, n))
        pairs = sparse.coo_array(matrix.T @ matrix)
        apart = pairs.coords[0] != pairs.coords[1]
        columns, others = pairs.coords[0][apart], pairs.coords[1][apart]
        listed, starts = others[np.lexsort((others, columns))].tolist(), _starts(columns, n)
        return [listed[first:last] for first, last in itertools.pairwise(starts)]


def _starts(numbers: Integers, count: int) -> list[int]:
    """Where each of the numbers below a count starts in a sorted list, and where that ends."""
    return [0, *np.cumsum(np.bincount(numbers, minlength=count)).tolist()]


def greedy_coloring(graph: Graph, lower: int, little: bool = False) -> Coloring:
    """The best of several orders, improved by rearranging classes.

    Args:
        graph: the pattern.
        lower: a number of colours that ends the search.
        little: whether there is little to gain, so that little is tried.
    """
    work = LITTLE_WORK if little else max(GREEDY_WORK, 4 * len(graph.rows))
    found: list[tuple[int, Integers, str]] = []
    for name, order in _orders(graph):
        colors = _first_fit(graph, order)
        found.append((_count(colors), colors, name))
        work -= _visits(graph, found[-1][0])
        if found[-1][0] == lower or work < 0:
            break
    found.sort(key=lambda option: option[0])
    best, name = found[0][1], found[0][2]
    # of a large pattern the best one only
    for _, colors, start in found if len(graph.rows) <= SMALL else found[:1]:
        if _count(best) == lower or work < 0:
            break
        colors, work = _rearranged(graph, colors, lower, work)
        if _count(colors) < _count(best):
            best, name = colors, f"{start}, rearranged"
    return Coloring(graph.spread(best), _count(best), lower, f"greedy, {name}")


def _count(colors: Integers) -> int:
    """The number of colours."""
    return int(np.max(colors)) + 1


def _visits(graph: Graph, count: int) -> int:
    """The work of one pass: an entry's bits of 500 colours cost about as much as the entry."""
    return len(graph.rows) * (1 + count // 500)


def _orders(graph: Graph) -> Iterator[tuple[str, Integers]]:
    """Orders of the columns, with their names."""
    n = len(graph.used)
    neighbours = graph.neighbours()
    if neighbours is not None:
        yield from orders(neighbours)
        return
    yield "as numbered", np.arange(n)
    degree = np.bincount(graph.columns, weights=graph.row_counts[graph.rows], minlength=n)
    yield "largest first", np.argsort(-degree, kind="stable")


def _first_fit(graph: Graph, order: Integers) -> Integers:
    """One column after another takes the smallest colour that none of its rows has met."""
    widest = int(np.max(graph.row_counts, initial=0))
    if graph.m * widest > MAX_BITS:
        return _first_fit_of_many(graph, order)
    met = [0] * graph.m
    colors = [0] * len(graph.used)
    listed, starts = graph.rows_of
    for column in order.tolist():
        rows, taken = listed[starts[column] : starts[column + 1]], 0
        for row in rows:
            taken |= met[row]
        bit = ~taken & (taken + 1)
        for row in rows:
            met[row] |= bit
        colors[column] = bit.bit_length() - 1
    return np.array(colors, dtype=np.int64)


def _first_fit_of_many(graph: Graph, order: Integers) -> Integers:
    """The same where colours are so many that only long rows can keep the ones they have met."""
    counts = graph.row_counts.tolist()
    met: dict[int, int] = {row: 0 for row, n in enumerate(counts) if n > SHORT_ROW}
    colors_in: dict[int, list[int]] = {row: [] for row, n in enumerate(counts) if n <= SHORT_ROW}
    colors = [0] * len(graph.used)
    listed, starts = graph.rows_of
    for column in order.tolist():
        rows, taken = listed[starts[column] : starts[column + 1]], 0
        for row in rows:
            if row in met:
                taken |= met[row]
            else:
                for color in colors_in[row]:
                    taken |= 1 << color
        bit = ~taken & (taken + 1)
        colors[column] = bit.bit_length() - 1
        for row in rows:
            if row in met:
                met[row] |= bit
            else:
                colors_in[row].append(colors[column])
    return np.array(colors, dtype=np.int64)


def _rearranged(graph: Graph, colors: Integers, lower: int, work: int) -> tuple[Integers, int]:
    """Greedy again, class after class: never more colours, often fewer; and the work left."""
    generator = np.random.default_rng(1)
    stale, step, count = 0, 0, _count(colors)
    while stale <= MAX_STALE and count > lower and work > 0:
        work -= _visits(graph, count)
        classes = (
            np.arange(count)[::-1],
            np.argsort(np.bincount(colors, minlength=count), kind="stable"),
            generator.permutation(count),
        )[step % 3]
        place = np.empty(count, dtype=np.int64)
        place[classes] = np.arange(count)
        colors = _first_fit(graph, np.argsort(place[colors], kind="stable"))
        stale = stale + 1 if _count(colors) == count else 0
        count, step = _count(colors), step + 1
    return colors, work
