"""Colourings: which columns of a Jacobian can share one JVP.

Columns without a common row can be seeded together; a colour is such a set. For a pattern with
regular neighbourhoods the colour is a linear form of the column's grid position modulo a small
number, found by search and verified on every entry. For any other pattern it is a greedy
distance-2 colouring: in every round all columns that come first among their uncoloured neighbours
are coloured at once, which gives what the sequential algorithm gives in that order; then colour
classes are rearranged as long as that saves colours. Work is done on whole arrays.

    >>> coloring = color_columns(rows, columns, (m, n))
    >>> coloring.count, coloring.lower_bound
    (3, 3)

Source: Gebremedhin, Manne and Pothen, *What color is your Jacobian?*, SIAM Review 47 (2005); Jones
and Plassmann, *A parallel graph coloring heuristic*, SIAM J. Sci. Comput. 14 (1993); Hasenplaugh et
al., *Ordering heuristics for parallel graph coloring*, SPAA (2014); Culberson, *Iterated greedy
graph coloring* (1992).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[Any]

# work limits, in visited entries
SEARCH_WORK = 1 << 24
GREEDY_WORK = 1 << 27
SAMPLE_ROWS = 48
EXHAUSTIVE = 1 << 16


@dataclass(frozen=True, eq=False)
class Coloring:
    """Colours of the columns of a pattern.

    Attributes:
        colors: int32, one per column; −1 for columns without entries.
        count: the number of colours.
        lower_bound: no colouring of this kind has fewer; the largest number of entries in a row,
            or more where that many columns do not fit beside each other.
        method: how it was found.
    """

    colors: Integers
    count: int
    lower_bound: int
    method: str


def is_valid_coloring(
    rows: Integers, columns: Integers, colors: Integers, symmetric: bool = False
) -> bool:
    """Whether every entry can be read from the sum of its colour's columns.

    Args:
        rows: row of every entry, without repeated entries.
        columns: column of every entry.
        colors: colour of every column; −1 where it has none.
        symmetric: whether an entry (i, j) may be read as (j, i).

    Returns:
        True when no row has two entries in columns of one colour; where `symmetric`, when each
        entry is alone with its colour in its row, or its mirror image is in its own.
    """
    rows, columns, colors = (np.asarray(a, dtype=np.int64) for a in (rows, columns, colors))
    if not len(rows):
        return True
    used = colors[columns]
    if (used < 0).any():
        return False
    key = rows * (int(np.max(colors)) + 1) + used
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    alone = counts[inverse] == 1
    if not symmetric:
        return bool(alone.all())
    direct = set(zip(rows[alone].tolist(), columns[alone].tolist(), strict=True))
    others = zip(rows[~alone].tolist(), columns[~alone].tolist(), strict=True)
    return all((j, i) in direct for i, j in others)


def color_columns(
    rows: Integers, columns: Integers, shape: tuple[int, int], grid: Sequence[int] | None = None
) -> Coloring:
    """Colours the columns of a pattern so that no row meets a colour twice.

    Args:
        rows: row of every entry, sorted; integers.
        columns: column of every entry.
        shape: number of rows and of columns.
        grid: sizes of a grid in row-major order whose points are the columns, for regular
            patterns; by default one axis.

    Returns:
        The colouring with the fewest colours that was found.
    """
    m, n = shape
    counts = np.bincount(rows, minlength=m)
    lower = lower_bound(rows, columns, shape)
    colors = np.full(n, -1, dtype=np.int32)
    used = np.flatnonzero(np.bincount(columns, minlength=n))
    if lower <= 1 or len(used) == lower:
        colors[used] = 0 if lower <= 1 else np.arange(len(used))
        return Coloring(colors, min(lower, len(used)), lower, "one per column" if lower > 1 else "")
    found = _lattice(rows, columns, counts, shape, tuple(grid or (n,)), lower)
    if found is not None and found.count <= lower + max(1, lower // 5):
        # a greedy search seldom gains the last one, and takes long
        return found
    best = _greedy_best(_Graph.of(rows, columns, shape), lower, found.count if found else None)
    return best if best is not None else _checked(found)


def lower_bound(rows: Integers, columns: Integers, shape: tuple[int, int]) -> int:
    """Colours that the columns of a pattern need at least.

    As many as a row has entries; and columns of one colour have no row in common, so that only so
    many fit into the rows there are.

    Args:
        rows: row of every entry.
        columns: column of every entry.
        shape: number of rows and of columns.
    """
    by_row, by_column = np.bincount(rows, minlength=1), np.bincount(columns, minlength=1)
    filled = by_column[by_column > 0]
    if not len(filled):
        return 0
    together = int((by_row > 0).sum()) // int(np.min(filled))
    return max(int(np.max(by_row)), -(-len(filled) // together))


def symmetric_lower_bound(rows: Integers, columns: Integers, size: int) -> int:
    """Colours that a symmetric pattern needs at least when entries are read directly.

    Such a colouring is a star colouring where the diagonal is full: between two classes of sizes a
    and b there are no cycles, so at most a + b − 1 edges.

    Args:
        rows: row of every entry; the pattern must be symmetric.
        columns: column of every entry.
        size: number of rows and of columns.
    """
    off = rows != columns
    diagonal = np.zeros(size, dtype=bool)
    diagonal[rows[~off]] = True
    met = np.zeros(size, dtype=bool)
    met[rows[off]] = True
    if not len(rows) or not met.any() or not diagonal[met].all():
        return min(len(rows), 1)
    edges, vertices, colors = int(off.sum()) // 2, int(met.sum()), 2
    while (colors - 1) * vertices - colors * (colors - 1) // 2 < edges:
        colors += 1
    return colors


def color_symmetric(
    rows: Integers, columns: Integers, size: int, grid: Sequence[int] | None = None
) -> Coloring:
    """Colours the columns of a symmetric pattern so that each entry or its mirror can be read.

    A star colouring: vertices of a high degree get a colour of their own, the others are coloured
    greedily, and a regular pattern by a linear form where that takes fewer colours.

    Args:
        rows: row of every entry, sorted; the pattern must be symmetric.
        columns: column of every entry.
        size: number of rows and of columns.
        grid: as in `color_columns`.

    Returns:
        The colouring. Its `lower_bound` is that of `symmetric_lower_bound`.

    Source: Coleman and Moré, *Estimation of sparse Hessian matrices*, Math. Program. 28 (1984);
    Gebremedhin, Tarafdar, Manne and Pothen, *New acyclic and star coloring algorithms*, SIAM J.
    Sci. Comput. 29 (2007).
    """
    off = rows != columns
    if not off.any():
        return color_columns(rows, columns, (size, size))
    lower = symmetric_lower_bound(rows, columns, size)
    plain = color_columns(rows, columns, (size, size), grid)
    if plain.count <= lower:
        return Coloring(plain.colors, plain.count, lower, plain.method)
    options = [plain]
    counts = np.bincount(rows, minlength=size)
    lattice = _lattice(
        rows,
        columns,
        counts,
        (size, size),
        tuple(grid or (size,)),
        max(lower, 1),
        plain.count - 1,
        True,
    )
    if lattice is not None:
        options.append(lattice)
    star = _star(rows, columns, size, tuple(grid or (size,)))
    if star is not None:
        options.append(star)
    best = min(options, key=lambda c: c.count)
    return Coloring(best.colors, best.count, lower, best.method)


def symmetric_sources(
    rows: Integers, columns: Integers, colors: Integers
) -> tuple[Integers, Integers]:
    """For every entry of a symmetric pattern, the colour and the row where it can be read."""
    key = rows.astype(np.int64) * (int(np.max(colors, initial=0)) + 1) + colors[columns]
    alone = _alone(key)
    return np.where(alone, colors[columns], colors[rows]), np.where(alone, rows, columns)


def _checked(coloring: Coloring | None) -> Coloring:
    assert coloring is not None
    return coloring


def _alone(key: Integers) -> NDArray[np.bool_]:
    """Whether each key occurs once."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(key), dtype=bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return ~repeated


# ---- regular patterns


def _lattice(
    rows: Integers,
    columns: Integers,
    counts: Integers,
    shape: tuple[int, int],
    grid: tuple[int, ...],
    lower: int,
    upper: int | None = None,
    symmetric: bool = False,
) -> Coloring | None:
    """The colouring by a linear form of the grid position with the smallest modulus, if any."""
    m, n = shape
    if prod(grid) != n or len(rows) > SEARCH_WORK:
        return None
    axes = [k for k, size in enumerate(grid) if size > 1]
    strides = np.array([prod(grid[k + 1 :]) for k in axes], dtype=np.int64)
    sizes = np.array([grid[k] for k in axes], dtype=np.int64)
    sample = _Sample(rows, columns, counts, strides, sizes)
    if symmetric:
        # where an entry is read depends on two rows: no short cut by single rows
        sample.chosen = sample.chosen[:0]
    top = upper if upper is not None else lower + max(4, min(lower, 16))
    work = SEARCH_WORK
    for p in range(lower, min(top, n) + 1):
        for weights in _forms(p, *sample.digits(), len(axes), symmetric):
            passed = weights[_separates(weights, *sample.digits(), p)]
            while len(passed) and work > 0:
                colors = _linear_form(passed[0], strides, sizes, n, p)
                work -= len(rows)
                wrong = _violation(rows, columns, colors, m, p, symmetric)
                if wrong is None:
                    colors[np.bincount(columns, minlength=n) == 0] = -1
                    return Coloring(colors, p, lower, "lattice")
                passed = passed[1:]
                if not symmetric:
                    sample.chosen = np.append(sample.chosen, wrong)
                    passed = passed[_separates(passed, *sample.digits(1), p)]
    return None


def _linear_form(w: Integers, strides: Integers, sizes: Integers, n: int, p: int) -> Integers:
    column = np.arange(n, dtype=np.int64)
    total = np.zeros(n, dtype=np.int64)
    for weight, stride, size in zip(w, strides, sizes, strict=True):
        if weight:
            total += int(weight) * (column // stride % size)
    return (total % p).astype(np.int32)


class _Sample:
    """Some rows of a pattern, on which most candidates fail already.

    One of each kind, by how their columns lie to one another, and those that a candidate has
    failed on.
    """

    def __init__(
        self,
        rows: Integers,
        columns: Integers,
        counts: Integers,
        strides: Integers,
        sizes: Integers,
    ) -> None:
        self.columns, self.counts = columns, counts
        self.strides, self.sizes = strides, sizes
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        filled = np.flatnonzero(counts)
        first = self.starts[filled]
        # rows whose columns lie alike have the same sum of scrambled distances
        apart = (columns - np.repeat(columns[first], counts[filled])).astype(np.uint64)
        scrambled = (apart + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        scrambled ^= scrambled >> np.uint64(29)
        kinds = np.add.reduceat(scrambled * np.uint64(0xBF58476D1CE4E5B9), first)
        _, one_of_each = np.unique(kinds, return_index=True)
        longest = filled[np.argsort(counts[filled], kind="stable")[-4:]]
        spaced = filled[:: max(1, len(filled) // SAMPLE_ROWS)]
        self.chosen = np.unique(np.concatenate([filled[one_of_each[:64]], longest, spaced]))

    def digits(self, last: int | None = None) -> tuple[Integers, NDArray[np.bool_]]:
        """Grid positions [axis, row, entry] of the sampled rows' columns, and which are there."""
        chosen = self.chosen if last is None else self.chosen[-last:]
        width = int(np.max(self.counts[chosen], initial=0))
        inside = np.arange(width)[None] < self.counts[chosen][:, None]
        where = np.minimum(
            self.starts[chosen][:, None] + np.arange(width)[None], len(self.columns) - 1
        )
        column = self.columns[where].astype(np.int64)
        return column[None] // self.strides[:, None, None] % self.sizes[:, None, None], inside


def _forms(
    p: int, digits: Integers, inside: NDArray[np.bool_], axes: int, symmetric: bool
) -> Iterator[Integers]:
    """Batches of weight vectors to try modulo p, likely ones first."""
    if len(digits) and inside.any():
        high = np.where(inside, digits, -1).max(axis=2)
        low = np.where(inside, digits, np.iinfo(np.int64).max).min(axis=2)
        extents = np.maximum((high - low).max(axis=1) + 1, 1)
        orders = list(itertools.permutations(range(axes)))[:24]
        forms = np.zeros((len(orders), axes), dtype=np.int64)
        for k, order in enumerate(orders):
            weight = 1
            for axis in order:
                forms[k, axis] = weight % p
                weight = weight * int(extents[axis]) % p
        # between equals, one that leaves axes out: colours then repeat from block to block
        yield forms[np.argsort(np.count_nonzero(forms, axis=1), kind="stable")]
    if p**axes <= (EXHAUSTIVE if not symmetric else 64):
        everything = np.indices((p,) * axes).reshape(axes, -1).T[1:]
        # a multiple of a form by a unit separates the same columns
        leading = everything[np.arange(len(everything)), (everything > 0).argmax(axis=1)]
        yield np.ascontiguousarray(everything[p % leading == 0])


def _separates(
    weights: Integers, digits: Integers, inside: NDArray[np.bool_], p: int
) -> NDArray[np.bool_]:
    """Which linear forms give different values to the columns of every sampled row."""
    alive = np.arange(len(weights))
    count = digits.shape[1]
    for first, last in ((0, 4), (4, 16), (16, count)):
        part = digits[:, first:last].astype(np.int32)
        if not part.shape[1] or not len(alive):
            continue
        if len(alive) * part[0].size > SEARCH_WORK:
            alive = alive[: max(1, SEARCH_WORK // max(part[0].size, 1))]
        values = np.tensordot(weights[alive].astype(np.int32), part, axes=1) % p
        pad = p + np.arange(part.shape[2], dtype=np.int32)
        values = np.sort(np.where(inside[None, first:last], values, pad), axis=2)
        alive = alive[~(values[..., 1:] == values[..., :-1]).any(axis=(1, 2))]
    result = np.zeros(len(weights), dtype=bool)
    result[alive] = True
    return result


def _violation(
    rows: Integers, columns: Integers, colors: Integers, m: int, p: int, symmetric: bool
) -> int | None:
    """A row in which an entry cannot be read, or None when all can."""
    key = rows.astype(np.int64) * p + colors[columns]
    if symmetric:
        alone = _alone(key)
        mirrored = columns.astype(np.int64) * p + colors[rows]
        # an entry's mirror is alone in its row when no other entry there has its colour
        lonely = np.sort(key[alone])
        if not len(lonely):
            return int(rows[0])
        place = np.minimum(np.searchsorted(lonely, mirrored), len(lonely) - 1)
        bad = ~(alone | (lonely[place] == mirrored))
        return int(rows[np.argmax(bad)]) if bad.any() else None
    if m * p <= 4 * len(rows) + (1 << 20):
        found = np.bincount(key, minlength=1)
        worst = int(np.argmax(found))
        return worst // p if found[worst] > 1 else None
    key.sort()
    same = key[1:] == key[:-1]
    return int(key[np.argmax(same)]) // p if same.any() else None


# ---- any pattern


@dataclass(frozen=True, eq=False)
class _Graph:
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
    def of(rows: Integers, columns: Integers, shape: tuple[int, int]) -> "_Graph":
        used, numbers = np.unique(columns, return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        return _Graph(rows.astype(np.int64), numbers, order, used, shape[1], shape[0])

    def spread(self, colors: Integers) -> Integers:
        """Colours of the used columns as colours of all columns."""
        everything = np.full(self.size, -1, dtype=np.int32)
        everything[self.used] = colors
        return everything


def _greedy_best(graph: _Graph, lower: int, beat: int | None) -> Coloring | None:
    """The best of several orders, improved by rearranging classes; None unless better."""
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
    if beat is not None and beat <= count:
        return None
    return Coloring(graph.spread(colors), count, lower, f"greedy, {name}")


def _orders(graph: _Graph) -> Iterator[tuple[str, Integers]]:
    """Priorities of the columns: the largest is coloured first among neighbours; all different."""
    n = len(graph.used)
    generator = np.random.default_rng(0)
    shuffle = generator.permutation(n)
    row_counts = np.bincount(graph.rows, minlength=graph.m)
    degree = np.bincount(graph.columns, weights=row_counts[graph.rows], minlength=n).astype(
        np.int64
    )
    yield "largest first", _ranked(degree, shuffle)
    yield "smallest last", _ranked(_peeling(graph, degree), shuffle)
    # an order along the columns, broken into runs so that many can be coloured in one round
    yield "incidence by blocks", _ranked(-(np.arange(n) % 64), shuffle)


def _ranked(key: Integers, shuffle: Integers) -> Integers:
    rank = np.empty(len(key), dtype=np.int64)
    rank[np.lexsort((shuffle, key))] = np.arange(len(key))
    return rank


def _peeling(graph: _Graph, degree: Integers) -> Integers:
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


def _greedy(graph: _Graph, priority: Integers) -> tuple[Integers, int]:
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
        starts = _starts(rows)
        highest[rows[starts]] = np.maximum.reduceat(priority[columns], starts)
        starts_c = _starts(columns_c)
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


def _rearranged(graph: _Graph, colors: Integers, lower: int, work: int) -> Integers:
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
        starts = _starts(columns)
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


def _starts(ordered: Integers) -> Integers:
    """Where runs of equal numbers start."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


# ---- symmetric patterns


def _star(rows: Integers, columns: Integers, size: int, grid: tuple[int, ...]) -> Coloring | None:
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
        if heavy.any():
            rest = ~heavy[rows] & ~heavy[columns]
            counts = np.bincount(rows[rest], minlength=size)
            regular = _lattice(
                rows[rest], columns[rest], counts, (size, size), grid, 1, first - 1, True
            )
            if regular is not None:
                colors, first = np.maximum(regular.colors, 0).astype(np.int64), regular.count
        # vertices whose only neighbours are heavy need no colour but the first
        colors[heavy] = first + np.arange(int(heavy.sum()))
        colors[np.bincount(columns, minlength=size) == 0] = -1
        count = int(np.max(colors)) + 1
        if _violation(rows, columns, np.maximum(colors, 0), size, count, True) is not None:
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
    priority = _ranked(degree, shuffle)
    colors[degree == 0] = 0
    open_ = np.flatnonzero(degree)
    while len(open_):
        winners = neighbours.first_in_two_steps(open_, priority, colors)
        neighbours.choose(winners, colors)
        neighbours.release(winners, priority, colors)
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
            starts = _starts(self.rows)
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
            starts = _starts(owner[double])
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

    def release(self, vertices: Integers, priority: Integers, colors: Integers) -> None:
        """Takes the colour back from vertices that broke a condition together."""
        del priority
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
