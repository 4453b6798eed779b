"""Colourings of regular patterns: a linear form of the column's grid position modulo a number.

Candidates are tried on a few rows of every kind, and verified on every entry.
"""

import itertools
from collections.abc import Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from jacobians.coloring.result import SEARCH_WORK, Coloring, Integers, violation

SAMPLE_ROWS = 48
# linear forms modulo one number that are tried in turn
EXHAUSTIVE = 1 << 16


def lattice_coloring(
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
                wrong = violation(rows, columns, colors, m, p, symmetric)
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
