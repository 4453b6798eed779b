"""Explicit patterns: the entries of a block that can be nonzero, in row-major order.

The entries of one term without conditions are a grid; where its strides decrease far enough the
grid is in order already, and nothing has to be sorted or even stored.

    pattern = block_pattern(terms, out_shape, in_shape)
    pattern.count, pattern.rows[:3], pattern.columns[:3]
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import affine, entries
from jacobians.derive.algebra.affine import Affine
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.normal import pattern_only
from jacobians.derive.algebra.points import Points, grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.errors import ArgumentError

Integers = NDArray[Any]
Shape = tuple[int, ...]

MAX_ENTRIES = 1 << 30
# entries of a block without zeros, of which nothing is listed
MAX_FULL = 1 << 32
# index vectors that are visited whatever the size of the block
MAX_LISTED = 1 << 26


@dataclass(frozen=True, eq=False)
class Grid:
    """Index vectors of a term without conditions, as a box of variables.

    Attributes:
        order: the variables, slowest first.
        sizes: their sizes.
        ordered: whether the flat matrix positions increase strictly along the grid.
    """

    order: tuple[int, ...]
    sizes: tuple[int, ...]
    ordered: bool

    @property
    def count(self) -> int:
        """The number of index vectors."""
        return prod(self.sizes)

    def value(self, e: Affine, dtype: Any = np.int64, xp: Any = np) -> Any:
        """The values of an expression along the grid, flat; in NumPy or `jax.numpy`."""
        total = xp.full((1,) * len(self.order), e.const, dtype=dtype)
        for v, c in e.terms:
            axis = self.order.index(v)
            shape = [-1 if k == axis else 1 for k in range(len(self.order))]
            total = total + (xp.arange(self.sizes[axis], dtype=dtype) * c).reshape(shape)
        return xp.broadcast_to(total, self.sizes).reshape(-1)


def grid_of(term: Term, out_shape: Shape, in_shape: Shape) -> Grid | None:
    """The grid of a term, or None when conditions cut it."""
    if term.zeros or term.bounds or term.guards:
        return None
    flat = affine.ravel((*term.out, *term.inp), (*out_shape, *in_shape))
    strides = dict.fromkeys(relation_variables(term), 0) | dict(flat.terms)
    order = sorted(strides, key=lambda v: -strides[v])
    reach, ordered = 0, True
    for v in reversed(order):
        ordered = ordered and strides[v] > reach
        reach += strides[v] * (term.sizes[v] - 1)
    return Grid(tuple(order), tuple(term.sizes[v] for v in order), ordered)


@dataclass(frozen=True, eq=False)
class Pattern:
    """The entries of a block that can be nonzero, sorted by row and column, without repetition.

    Attributes:
        out_shape: shape of the output.
        in_shape: shape of the input.
        grid: the grid that is the pattern, with its term, where there is one in order.
        keys: positions in the flattened matrix otherwise.
    """

    out_shape: Shape
    in_shape: Shape
    grid: tuple[Grid, Term] | None
    keys: Integers | None

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def count(self) -> int:
        """The number of entries."""
        if self.grid is not None:
            return self.grid[0].count
        assert self.keys is not None
        return len(self.keys)

    @property
    def full(self) -> bool:
        """Whether every entry of the matrix is in it."""
        return self.count == prod(self.shape)

    @property
    def is_diagonal(self) -> bool:
        """Whether it is exactly the main diagonal of a square matrix."""
        m, n = self.shape
        if m != n or self.count != n:
            return False
        if self.grid is None:
            return bool((self.rows == self.columns).all())
        term = self.grid[1]
        row = affine.ravel(term.out, self.out_shape)
        apart = affine.subtract(row, affine.ravel(term.inp, self.in_shape))
        # a variable of size one is always 0
        return apart.const == 0 and all(term.sizes[v] == 1 for v, _ in apart.terms)

    @cached_property
    def rows(self) -> Integers:
        """The row of every entry."""
        return self._split(0)

    @cached_property
    def columns(self) -> Integers:
        """The column of every entry."""
        return self._split(1)

    def _split(self, side: int) -> Integers:
        m, n = self.shape
        dtype = index_dtype(max(m, n))
        if self.grid is not None:
            grid, term = self.grid
            index, shape = ((term.out, self.out_shape), (term.inp, self.in_shape))[side]
            made: Integers = grid.value(affine.ravel(index, shape), dtype)
            return made
        assert self.keys is not None
        result = self.keys // max(n, 1) if side == 0 else self.keys % max(n, 1)
        return result.astype(dtype)

    def indices(self, xp: Any = np) -> Any:
        """The entries as indices into the tensor `out_shape + in_shape`: int32 [count, rank].

        Args:
            xp: `numpy`, or `jax.numpy` to have a grid's indices computed on the device.
        """
        shape = (*self.out_shape, *self.in_shape)
        dtype = index_dtype(max(shape, default=1))
        if not shape:
            return xp.zeros((self.count, 0), dtype=dtype)
        if self.grid is not None:
            return self._grid_indices(len(shape), dtype, xp)
        rows = np.unravel_index(self.rows, self.out_shape) if self.out_shape else ()
        columns = np.unravel_index(self.columns, self.in_shape) if self.in_shape else ()
        result = np.empty((self.count, len(shape)), dtype=dtype)
        for k, part in enumerate((*rows, *columns)):
            result[:, k] = part
        return result

    def _grid_indices(self, rank: int, dtype: Any, xp: Any) -> Any:
        """A grid's indices as one sum of products, which a compiler writes in one pass."""
        assert self.grid is not None
        grid, term = self.grid
        index = (*term.out, *term.inp)
        total = xp.asarray(np.array([e.const for e in index], dtype=dtype))
        for axis, v in enumerate(grid.order):
            steps = np.array([affine.coefficient(e, v) for e in index], dtype=dtype)
            shape = [-1 if k == axis else 1 for k in range(len(grid.order))]
            counted = xp.arange(grid.sizes[axis], dtype=dtype).reshape(*shape, 1)
            total = total + counted * steps
        return xp.broadcast_to(total, (*grid.sizes, rank)).reshape(-1, rank)

    def bytes(self) -> int:
        """Roughly what it keeps in memory."""
        return 16 * self.count if self.grid is None else 0


def index_dtype(limit: int) -> Any:
    """The smallest of int32 and int64 that holds `limit`."""
    return np.int32 if limit < 2**31 else np.int64


def term_keys(
    term: Term, out_shape: Shape, in_shape: Shape, grid: Grid | None
) -> tuple[Integers, Points | None]:
    """Flat matrix positions of a term's index vectors, and the vectors where it is no grid."""
    flat = affine.ravel((*term.out, *term.inp), (*out_shape, *in_shape))
    if grid is not None:
        return grid.value(flat), None
    found = points(term)
    return found.value(flat), found


def block_pattern(terms: Terms, out_shape: Shape, in_shape: Shape) -> Pattern:
    """The entries of a sum of terms.

    Args:
        terms: the terms of the block.
        out_shape: shape of the output.
        in_shape: shape of the input.

    Raises:
        ArgumentError: there are too many to list.
    """
    plain = [pattern_only(t) for t in terms]
    visits = sum(grid_size(t) for t in plain)
    grids = [grid_of(t, out_shape, in_shape) for t in plain]
    for term, grid in zip(plain, grids, strict=True):
        if grid is None or not grid.ordered:
            continue
        # nothing has to be listed of the only term, or of one that has every entry already
        everything = grid.count == prod(out_shape) * prod(in_shape)
        if grid.count > (MAX_FULL if everything else MAX_ENTRIES):
            raise too_many(grid.count)
        if everything or len(plain) == 1:
            return Pattern(out_shape, in_shape, (grid, term), None)
    if visits > min(MAX_ENTRIES, max(MAX_LISTED, 4 * prod(out_shape) * prod(in_shape))):
        listed = entries.coordinates(plain, out_shape, in_shape, MAX_LISTED)
        if listed is None:
            raise too_many(visits)
        return Pattern(out_shape, in_shape, None, listed[0] * prod(in_shape) + listed[1])
    parts = [
        term_keys(t, out_shape, in_shape, grid)[0] for t, grid in zip(plain, grids, strict=True)
    ]
    return Pattern(out_shape, in_shape, None, unique_sorted(np.concatenate(parts)))


def unique_sorted(keys: Integers) -> Integers:
    """The different numbers in order; sorts in place."""
    keys.sort()
    keep = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=keep[1:])
    return keys[keep]


def too_many(count: int) -> ArgumentError:
    """The error for a Jacobian with more entries than can be listed."""
    return ArgumentError(
        f"about {count:.2g} entries of the Jacobian can be nonzero, at most {MAX_ENTRIES:.2g} are "
        'listed; use format="operator", which multiplies by it without listing them'
    )


def column_grid(terms: Sequence[Term], shape: Shape) -> tuple[int, ...]:
    """Sizes of the grid that an array's positions form for its terms: its axes, split further.

    An axis that terms index by `3·i + j` is a grid of rows of three; where `i` has four values and
    other terms start at 12, there are grids of four such rows.
    """
    sizes: list[int] = []
    for axis, n in enumerate(shape):
        steps: set[int] = set()
        for t in terms:
            by_step = sorted((abs(c), t.sizes[v]) for v, c in t.inp[axis].terms)
            steps.update(c for c, _ in by_step)
            # what the slowest variable runs through is the step of one that terms are apart by
            steps.update(c * size for c, size in by_step[-1:])
        chain = [1]
        for step in sorted(steps):
            if 1 < step < n and step % chain[-1] == 0 and n % step == 0:
                chain.append(step)
        chain.append(n)
        parts = [high // low for low, high in itertools.pairwise(chain)]
        sizes.extend(reversed(parts))
    return tuple(sizes)
