"""Compressed derivatives: a few JVPs or VJPs that together hold every entry of some blocks.

A sweep seeds all columns of one colour at once (or all rows, with VJPs), as many colours at a time
as memory allows, and reads the entries out of the results by one gather with indices found
beforehand. Which entries are read from JVPs and which from VJPs is decided by counting: an arrow
matrix takes one VJP for its full row and two JVPs for the rest.

    sweeps = plan_sweeps(blocks, out_shapes, in_shapes, forward=True, reverse=True)
    [sweep.coloring.count for sweep in sweeps]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.term import flipped
from jacobians.sparse.coloring import Coloring, color_columns, color_symmetric, symmetric_sources
from jacobians.sparse.pattern import Pattern, Shape, column_grid, index_dtype

Integers = NDArray[Any]

# entries that are seeded and computed at a time unless the user says how many colours
CHUNK_ELEMENTS = 1 << 24
# seeds up to so many entries are stored in a program that is traced
MAX_CONSTANT_SEEDS = 1 << 20
# another way is coloured only where it could do with this share of the colours found
WORTH_TRYING = 0.8
# a mixture of JVPs and VJPs must save this share of the colours
MIXED_GAIN = 0.75


@dataclass(frozen=True, eq=False)
class Wanted:
    """A block to be compressed.

    Attributes:
        output: position of the result leaf.
        input: position of the selected leaf.
        pattern: its entries.
        terms: its terms, for their regularity.
    """

    output: int
    input: int
    pattern: Pattern
    terms: Terms


@dataclass(frozen=True, eq=False)
class Read:
    """Entries of one block that one sweep gives.

    Attributes:
        block: position among the wanted blocks.
        leaf: position of the leaf in the sweep's results.
        entries: positions among the block's entries, or None for all of them in order.
        colors: the colour of each.
        lines: the position in the leaf of each.
        span: in a full sweep the first colour of the block's seeds and their number; `colors` and
            `lines` are then empty.
    """

    block: int
    leaf: int
    entries: Integers | None
    colors: Integers
    lines: Integers
    span: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Some JVPs, or VJPs, of seeds that colours define.

    Attributes:
        transposed: whether it is VJPs.
        coloring: the colours of all columns (rows for VJPs) of the Jacobian.
        seeds: the part of the colours of each selected leaf (result leaf for VJPs).
        reads: what is read out.
    """

    transposed: bool
    coloring: Coloring
    seeds: tuple[Integers, ...]
    reads: tuple[Read, ...]

    @property
    def full(self) -> bool:
        """Whether its blocks have no zeros, and every seed a colour of its own."""
        return all(read.span is not None for read in self.reads)


def plan_sweeps(
    blocks: Sequence[Wanted],
    out_shapes: Sequence[Shape],
    in_shapes: Sequence[Shape],
    forward: bool,
    reverse: bool,
    symmetric: bool = False,
) -> tuple[Sweep, ...]:
    """Chooses sweeps with few colours that give every entry of the blocks.

    Args:
        blocks: the blocks to compress.
        out_shapes: shapes of all result leaves.
        in_shapes: shapes of all selected leaves.
        forward: whether JVPs are possible.
        reverse: whether VJPs are possible.
        symmetric: whether the whole matrix is square and symmetric.

    Returns:
        One or two sweeps; none when there are no blocks.
    """
    full = _full_sweep(blocks, out_shapes, in_shapes, forward, reverse)
    if full is not None:
        return (full,)
    whole = _Whole(blocks, out_shapes, in_shapes)
    if not len(whole.rows):
        return ()
    if symmetric:
        return (whole.sweep(np.ones(len(whole.rows), dtype=bool), False, True),)
    options = sorted(whole.assignments(forward, reverse), key=lambda option: option[0])
    best: tuple[int, tuple[Sweep, ...]] | None = None
    for bound, by_jvp in options:
        if best is not None and bound > WORTH_TRYING * best[0]:
            break
        made = []
        if by_jvp.any():
            made.append(whole.sweep(by_jvp, False))
        if not by_jvp.all():
            made.append(whole.sweep(~by_jvp, True))
        count = sum(sweep.coloring.count for sweep in made)
        if best is None or count < best[0]:
            best = count, tuple(made)
        if len(whole.rows) > 1 << 22 and best[0] < 4 * bound:
            break
    assert best is not None
    return best[1]


def _full_sweep(
    blocks: Sequence[Wanted],
    out_shapes: Sequence[Shape],
    in_shapes: Sequence[Shape],
    forward: bool,
    reverse: bool,
) -> Sweep | None:
    """The sweep of blocks that have no zeros, one colour for each seed; nothing is listed.

    None where a block has zeros, or where some result depends on only part of the inputs.
    """
    outs, ins = sorted({b.output for b in blocks}), sorted({b.input for b in blocks})
    if not blocks or len(blocks) < len(outs) * len(ins) or not all(b.pattern.full for b in blocks):
        return None
    m, n = sum(prod(out_shapes[k]) for k in outs), sum(prod(in_shapes[k]) for k in ins)
    transposed = reverse and (m < n or not forward)
    shapes, leaves = (out_shapes, outs) if transposed else (in_shapes, ins)
    seeds: list[Integers] = []
    spans: dict[int, tuple[int, int]] = {}
    count = 0
    for k, shape in enumerate(shapes):
        size = prod(shape)
        if k not in leaves:
            seeds.append(np.full(size, -1, dtype=np.int32))
            continue
        seeds.append(np.arange(count, count + size, dtype=np.int32))
        spans[k] = count, size
        count += size
    nothing = np.zeros(0, dtype=np.int32)
    reads: list[Read] = []
    for k, b in enumerate(blocks):
        leaf, seeded = (b.input, b.output) if transposed else (b.output, b.input)
        reads.append(Read(k, leaf, None, nothing, nothing, spans[seeded]))
    method = "one per column" if count > 1 else ""
    coloring = Coloring(np.concatenate(seeds), count, count, method)
    return Sweep(transposed, coloring, tuple(seeds), tuple(reads))


class _Whole:
    """The entries of all blocks in the matrix of all results by all selected leaves."""

    def __init__(
        self,
        blocks: Sequence[Wanted],
        out_shapes: Sequence[Shape],
        in_shapes: Sequence[Shape],
    ) -> None:
        """Numbers the rows of all results through, and the columns of all selected leaves."""
        self.blocks = blocks
        self.out_shapes, self.in_shapes = out_shapes, in_shapes
        self.row_starts = np.concatenate([[0], np.cumsum([prod(s) for s in out_shapes])])
        self.column_starts = np.concatenate([[0], np.cumsum([prod(s) for s in in_shapes])])
        self.shape = (int(self.row_starts[-1]), int(self.column_starts[-1]))
        dtype = index_dtype(max(self.shape))
        counts = [b.pattern.count for b in blocks]
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.rows = np.empty(int(self.offsets[-1]), dtype=dtype)
        self.columns = np.empty(int(self.offsets[-1]), dtype=dtype)
        for b, first, last in zip(blocks, self.offsets, self.offsets[1:], strict=False):
            self.rows[first:last] = b.pattern.rows + self.row_starts[b.output]
            self.columns[first:last] = b.pattern.columns + self.column_starts[b.input]

    def assignments(self, forward: bool, reverse: bool) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Ways to share the entries between JVPs and VJPs, each with a lower bound of colours."""
        everything = np.ones(len(self.rows), dtype=bool)
        if not reverse:
            yield self.bound(everything, True), everything
            return
        if not forward:
            yield self.bound(everything, False), ~everything
            return
        jvps, vjps = self.bound(everything, True), self.bound(everything, False)
        yield jvps, everything
        # a VJP costs about as much as a JVP; between equals JVPs need less memory
        yield vjps, ~everything
        for mixed in (*self._by_leaf(), *self._by_line()):
            if mixed.all() or not mixed.any():
                continue
            bound = self.bound(mixed, True) + self.bound(~mixed, False)
            if bound <= MIXED_GAIN * min(jvps, vjps):
                yield bound, mixed

    def bound(self, chosen: NDArray[np.bool_], by_jvp: bool) -> int:
        """Colours that some entries need at least, by JVPs or by VJPs."""
        lines = self.rows[chosen] if by_jvp else self.columns[chosen]
        return int(np.max(np.bincount(lines, minlength=1)))

    def _by_leaf(self) -> Iterator[NDArray[np.bool_]]:
        """Every input leaf, or every result leaf, by the kind that suits it."""
        for of_block in ([b.input for b in self.blocks], [b.output for b in self.blocks]):
            leaves = set(of_block)
            if len(leaves) < 2:
                continue
            result = np.zeros(len(self.rows), dtype=bool)
            for leaf in leaves:
                mine = np.zeros(len(self.rows), dtype=bool)
                for k, own in enumerate(of_block):
                    mine[self.offsets[k] : self.offsets[k + 1]] = own == leaf
                if self.bound(mine, True) <= self.bound(mine, False):
                    result |= mine
            yield result

    def _by_line(self) -> Iterator[NDArray[np.bool_]]:
        """The fullest rows by VJPs, or the fullest columns by JVPs, the rest the other way."""
        rows, columns = np.bincount(self.rows), np.bincount(self.columns)
        for line, counts, jvps in ((self.rows, rows, False), (self.columns, columns, True)):
            order = np.argsort(counts, kind="stable")[::-1]
            number = 1
            while number <= min(256, len(order) // 2):
                heavy = np.zeros(len(counts), dtype=bool)
                heavy[order[:number]] = True
                yield heavy[line] if jvps else ~heavy[line]
                number *= 2

    def sweep(self, chosen: NDArray[np.bool_], transposed: bool, symmetric: bool = False) -> Sweep:
        """The sweep that gives the chosen entries."""
        rows, columns = self.rows[chosen], self.columns[chosen]
        shapes = self.out_shapes if transposed else self.in_shapes
        shape = self.shape
        if transposed:
            rows, columns, shape = columns, rows, shape[::-1]
        order = np.lexsort((columns, rows))
        grid = self._grid(transposed)
        if symmetric:
            coloring = color_symmetric(rows[order], columns[order], shape[0], grid)
        else:
            coloring = color_columns(rows[order], columns[order], shape, grid)
        starts = self.row_starts if transposed else self.column_starts
        seeds = tuple(
            coloring.colors[first : first + prod(s)]
            for first, s in zip(starts, shapes, strict=False)
        )
        reads = self._reads(chosen, transposed, symmetric, coloring)
        return Sweep(transposed, coloring, seeds, tuple(reads))

    def _reads(
        self,
        chosen: NDArray[np.bool_],
        transposed: bool,
        symmetric: bool,
        coloring: Coloring,
    ) -> Iterator[Read]:
        """Where the chosen entries of every block are found: entry (i, j) of a JVP sweep is number
        i of the image of column j's colour; of a VJP sweep, number j of that of row i's colour.
        """
        if symmetric:
            colors, sources = symmetric_sources(self.rows, self.columns, coloring.colors)
        elif transposed:
            colors, sources = coloring.colors[self.rows], self.columns
        else:
            colors, sources = coloring.colors[self.columns], self.rows
        starts = self.column_starts if transposed else self.row_starts
        leaf_of = np.searchsorted(starts, sources, side="right") - 1 if symmetric else None
        for k, b in enumerate(self.blocks):
            part = slice(int(self.offsets[k]), int(self.offsets[k + 1]))
            mine = chosen[part]
            if not mine.any():
                continue
            leaves = [b.input if transposed else b.output]
            if leaf_of is not None:
                leaves = sorted(set(leaf_of[part].tolist()))
            for leaf in leaves:
                own = mine if leaf_of is None else mine & (leaf_of[part] == leaf)
                everything = bool(own.all())
                yield Read(
                    k,
                    leaf,
                    None if everything else np.flatnonzero(own),
                    colors[part][own],
                    sources[part][own] - starts[leaf],
                )

    def _grid(self, transposed: bool) -> tuple[int, ...] | None:
        """The grid that the coloured lines are numbered along, where all leaves have one shape."""
        shapes = self.out_shapes if transposed else self.in_shapes
        if len(set(shapes)) > 1:
            return None
        terms = [flipped(t) if transposed else t for b in self.blocks for t in b.terms]
        inner = column_grid(terms, shapes[0])
        return (len(shapes), *inner) if len(shapes) > 1 else inner
