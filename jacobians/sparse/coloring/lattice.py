"""Colourings of regular patterns: a linear form of the column's grid position modulo a number.

Candidates are tried on a few rows of every kind, and verified on every entry. Columns that are
numbered along a grid of several axes show its strides in how far the entries of a row lie apart.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from jacobians.sparse.coloring.result import SEARCH_WORK, Coloring, Integers, violation

SAMPLE_ROWS = 48
# entries that the sampled rows have at most, unless one has more
SAMPLE_ENTRIES = 1 << 16
# linear forms modulo one number that are tried in turn
EXHAUSTIVE = 1 << 16
# entries of a row that strides are looked for among, and grids that are made of them
STRIDE_ENTRIES = 128
MAX_GRIDS = 24


def lattice_coloring(
    rows: Integers,
    columns: Integers,
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
    counts = np.bincount(rows, minlength=m)
    axes = _Axes.of(grid)
    sample = _Sample(columns, counts)
    inferred = []
    if not symmetric and len(axes.sizes) <= 1:
        inferred = [_Axes.of(found) for found in inferred_grids(rows, columns, counts, n)]
    if symmetric:
        # where an entry is read depends on two rows: no short cut by single rows
        sample.chosen = sample.chosen[:0]
    top = upper if upper is not None else lower + max(4, min(lower, 16))
    work = SEARCH_WORK
    for p in range(lower, min(top, n) + 1):
        # grids that nobody has named are tried where they can give the fewest colours
        for place in (axes, *(inferred if p == lower else ())):
            digits, inside = sample.digits(place)
            for weights in _forms(p, digits, inside, len(place.sizes), symmetric):
                passed = weights[_separates(weights, digits, inside, p)]
                while len(passed) and work > 0:
                    colors = _linear_form(passed[0], place, n, p)
                    work -= len(rows)
                    wrong = violation(rows, columns, colors, m, p, symmetric)
                    if wrong is None:
                        return _compact(colors, columns, lower)
                    passed = passed[1:]
                    if not symmetric:
                        sample.chosen = np.append(sample.chosen, wrong)
                        passed = passed[_separates(passed, *sample.digits(place, 1), p)]
                if work <= 0:
                    return None
    return None


def inferred_grids(
    rows: Integers, columns: Integers, counts: Integers, n: int
) -> list[tuple[int, ...]]:
    """Grids in row-major order that columns may be the points of, by one row of most entries.

    The entries of a row of a stencil lie a stride of the grid apart, among other distances; strides
    divide one another, and the number of columns.
    """
    if not len(rows):
        return []
    fullest = np.flatnonzero(counts == np.max(counts))
    row = fullest[len(fullest) // 2]
    first = int(np.searchsorted(rows, row))
    own = columns[first : first + min(int(counts[row]), STRIDE_ENTRIES)].astype(np.int64)
    apart = np.unique(own[None] - own[:, None])
    strides = [int(d) for d in apart[apart > 1] if d < n and n % d == 0]
    chains = itertools.chain.from_iterable(itertools.combinations(strides, k) for k in (1, 2, 3))
    found: list[tuple[int, ...]] = []
    for chain in itertools.islice(chains, 16 * MAX_GRIDS):
        steps = (1, *chain, n)
        if all(high % low == 0 for low, high in itertools.pairwise(steps)):
            found.append(tuple(high // low for low, high in itertools.pairwise(steps))[::-1])
    return found[:MAX_GRIDS]


def _compact(colors: Integers, columns: Integers, lower: int) -> Coloring:
    """The colouring of the columns that have entries, numbered without gaps."""
    present = np.zeros(len(colors), dtype=bool)
    present[columns] = True
    different, numbers = np.unique(colors[present], return_inverse=True)
    compact = np.full(len(colors), -1, dtype=np.int32)
    compact[present] = numbers
    return Coloring(compact, len(different), lower, "lattice")


@dataclass(frozen=True, eq=False)
class _Axes:
    """The axes of a grid that have more than one position.

    Attributes:
        strides: how far positions along each lie apart.
        sizes: the number of positions along each.
    """

    strides: Integers
    sizes: Integers

    @staticmethod
    def of(grid: tuple[int, ...]) -> "_Axes":
        axes = [k for k, size in enumerate(grid) if size > 1]
        strides = np.array([prod(grid[k + 1 :]) for k in axes], dtype=np.int64)
        return _Axes(strides, np.array([grid[k] for k in axes], dtype=np.int64))


def _linear_form(w: Integers, axes: _Axes, n: int, p: int) -> Integers:
    column = np.arange(n, dtype=np.int64)
    total = np.zeros(n, dtype=np.int64)
    for weight, stride, size in zip(w, axes.strides, axes.sizes, strict=True):
        if weight:
            total += int(weight) * (column // stride % size)
    return (total % p).astype(np.int32)


class _Sample:
    """Some rows of a pattern, on which most candidates fail already.

    One of each kind, by how their columns lie to one another, and those that a candidate has
    failed on.
    """

    def __init__(self, columns: Integers, counts: Integers) -> None:
        """Draws the sample: `counts` has the entries of each row, `columns` those of all rows."""
        self.columns, self.counts = columns, counts
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
        few = np.unique(np.concatenate([filled[one_of_each[:64]], longest, spaced]))
        # long rows take long: the longest, and as many others as there is room for
        room = max(1, SAMPLE_ENTRIES // int(np.max(counts[few], initial=1)))
        self.chosen = few[np.argsort(-counts[few], kind="stable")[:room]]

    def digits(self, axes: _Axes, last: int | None = None) -> tuple[Integers, NDArray[np.bool_]]:
        """Grid positions [axis, row, entry] of the sampled rows' columns, and which are there."""
        chosen = self.chosen if last is None else self.chosen[-last:]
        width = int(np.max(self.counts[chosen], initial=0))
        inside = np.arange(width)[None] < self.counts[chosen][:, None]
        where = np.minimum(
            self.starts[chosen][:, None] + np.arange(width)[None], len(self.columns) - 1
        )
        column = self.columns[where].astype(np.int64)
        return column[None] // axes.strides[:, None, None] % axes.sizes[:, None, None], inside


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
