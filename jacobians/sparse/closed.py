"""Closed forms: the entries of a block computed from its terms' coefficients, without any JVP.

A coefficient is a product of arrays that the program computes anyway. Along the grid of a term its
factors are slices, so the values are a broadcast product; where conditions cut the grid, or an
index is more than a slice, they are looked up by indices found once. Values that fall on the same
entry are summed: a few by one gather each, many by one scatter. What no input changes is computed
beforehand.

    form = closed_form(terms, out_shape, in_shape, tape)
    form.values(arrays, dtype)         # one number per entry, in the pattern's order
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, ravel
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import Factor
from jacobians.derive.algebra.points import Points, grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.derive.tape import Tape
from jacobians.sparse.pattern import (
    MAX_ENTRIES,
    Grid,
    Pattern,
    Shape,
    block_pattern,
    grid_of,
    index_dtype,
    term_keys,
)

Integers = NDArray[Any]

# values that fall on one entry by one gather each; more are scattered
MAX_ROUNDS = 6
# index vectors per entry beyond which a closed form is no gain
MAX_REPEATS = 4
# index vectors of terms with conditions, which are listed with all their variables
MAX_LISTED = 1 << 26


@dataclass(frozen=True, eq=False)
class Part:
    """One factor of a product.

    Attributes:
        value: its number on the tape.
        selects: whether it is an indicator: what it rules out does not count, be it infinite.
        slices: a slice or number per axis, where it is a plain view along the grid.
        axes: the grid axis of each axis that is left.
        table: else the number of the table with its flat positions.
    """

    value: int
    selects: bool
    slices: tuple[slice | int, ...] | None = None
    axes: tuple[int, ...] = ()
    table: int | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """The values of one term.

    Attributes:
        sizes: shape of its grid; `(count,)` where conditions cut it.
        products: for every summand its scale and factors.
    """

    sizes: tuple[int, ...]
    products: tuple[tuple[float, tuple[Part, ...]], ...]

    @property
    def count(self) -> int:
        """The number of values."""
        return prod(self.sizes)


@dataclass(frozen=True, eq=False)
class Closed:
    """How to compute the entries of a block.

    Attributes:
        pattern: the entries.
        pieces: the terms that inputs change.
        rounds: numbers of the tables that pick, for every entry, a value to add; empty where the
            only piece is in the pattern's order.
        tables: index arrays, and values that no input changes.
        work: values computed and moved, a measure of cost.
        fixed: number of the table of values that no input changes: picked from like the pieces'
            values, which they follow; with `scattered`, what the entries start from.
        scattered: number of the table with the entry of every value, where they are scattered.
    """

    pattern: Pattern
    pieces: tuple[Piece, ...]
    rounds: tuple[int, ...]
    tables: tuple[NDArray[Any], ...]
    work: float
    fixed: int | None = None
    scattered: int | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """Numbers of the tape values that it needs."""
        parts = (p for piece in self.pieces for _, parts in piece.products for p in parts)
        return tuple(sorted({p.value for p in parts}))

    def values(
        self, arrays: Mapping[int, Any], tables: tuple[Any, ...], dtype: Any, xp: Any = jnp
    ) -> Any:
        """The entries, in the pattern's order.

        Args:
            arrays: the wanted tape values.
            tables: the index arrays, as given at run time.
            dtype: the dtype of the result.
            xp: `jax.numpy`, or `numpy` for values that are known.
        """
        made = [_piece_values(piece, arrays, tables, dtype, xp) for piece in self.pieces]
        if self.scattered is not None:
            assert self.fixed is not None
            start = xp.asarray(tables[self.fixed])
            return _added(start, tables[self.scattered], _joined(made, xp))
        if self.fixed is not None:
            made.append(xp.asarray(tables[self.fixed]))
        if not self.rounds:
            return made[0]
        joined = _joined(made, xp)
        total = _picked(joined, tables[self.rounds[0]])
        for number in self.rounds[1:]:
            total = total + _picked(joined, tables[number])
        return total


def closed_form(
    terms: Terms, out_shape: Shape, in_shape: Shape, tape: Tape, dtype: Any
) -> Closed | None:
    """The closed form of a block, or None when a coefficient has none or it would be no gain.

    Args:
        terms: the terms of the block.
        out_shape: shape of the output.
        in_shape: shape of the input.
        tape: what their coefficients refer to.
        dtype: dtype of the entries.
    """
    if not terms or not all(_has_form(t, tape, dtype) for t in terms):
        return None
    visits = sum(grid_size(t) for t in terms)
    if visits > min(MAX_ENTRIES, MAX_REPEATS * prod(out_shape) * prod(in_shape)):
        return None
    tables: list[NDArray[Any]] = []
    grids = [grid_of(t, out_shape, in_shape) for t in terms]
    listed = (grid_size(t) for t, g in zip(terms, grids, strict=True) if g is None)
    if sum(listed) > MAX_LISTED:
        return None
    if len(terms) == 1 and grids[0] is not None and grids[0].ordered:
        piece = _piece(terms[0], grids[0], None, tape, tables)
        pattern = block_pattern(terms, out_shape, in_shape)
        if pattern.count != piece.count:
            return None
        return Closed(pattern, (piece,), (), tuple(tables), _work([piece], 0, 0))
    pieces, keys, known = [], [], []
    for term, grid in zip(terms, grids, strict=True):
        positions, found = term_keys(term, out_shape, in_shape, grid)
        values = _fixed_values(term, grid, found, tape, dtype)
        if values is None:
            pieces.append(_piece(term, grid, found, tape, tables))
        keys.append(positions)
        known.append(values)
    if not pieces:
        # nothing that an input changes: computed once, like any other constant block
        known = [None] * len(terms)
        pieces = [
            _piece(t, g, None if g is not None else points(t), tape, tables)
            for t, g in zip(terms, grids, strict=True)
        ]
    return _assembled(pieces, keys, known, tables, (out_shape, in_shape), dtype)


def _assembled(
    pieces: list[Piece],
    keys: list[Integers],
    known: list[NDArray[Any] | None],
    tables: list[NDArray[Any]],
    shapes: tuple[Shape, Shape],
    dtype: Any,
) -> Closed | None:
    """The form from its terms' positions and, where no input changes them, their values."""
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(ordered)))
    deepest = int(np.max(lengths, initial=0))
    if len(ordered) > MAX_REPEATS * len(starts):
        return None
    pattern = Pattern(*shapes, None, ordered[first])
    if deepest == 1 and len(keys) == 1 and bool((order[1:] > order[:-1]).all()):
        return Closed(pattern, tuple(pieces), (), tuple(tables), _work(pieces, 0, 0))
    # where every value lies among those that are computed, the known ones after them
    moving = np.concatenate([np.full(len(k), v is None) for k, v in zip(keys, known, strict=True)])
    values = np.concatenate([np.zeros(0, dtype), *(v for v in known if v is not None)])
    if deepest > MAX_ROUNDS:
        entry = np.empty(len(joined), index_dtype(len(starts)))
        entry[order] = np.repeat(np.arange(len(starts)), lengths)
        start = np.zeros(len(starts), dtype)
        np.add.at(start, entry[~moving], values)
        tables.extend((start, entry[moving]))
        work = _work(pieces, len(starts), 1) + 2.0 * len(joined)
        count = len(tables)
        return Closed(pattern, tuple(pieces), (), tuple(tables), work, count - 2, count - 1)
    zero = np.zeros(int(deepest > 1), dtype)
    different, number = np.unique(np.append(values, zero), return_inverse=True)
    place = np.empty(len(joined), np.int64)
    place[moving] = np.arange(int(moving.sum()))
    place[~moving] = moving.sum() + number[: len(values)]
    nothing = int(moving.sum()) + (int(number[-1]) if deepest > 1 else 0)
    rounds = []
    for k in range(deepest):
        pick = np.full(len(starts), nothing, index_dtype(len(joined) + 1))
        has = lengths > k
        pick[has] = place[order[starts[has] + k]]
        rounds.append(len(tables))
        tables.append(pick)
    fixed = None
    if len(different):
        fixed = len(tables)
        tables.append(different.astype(dtype))
    work = _work(pieces, len(starts), len(rounds))
    return Closed(pattern, tuple(pieces), tuple(rounds), tuple(tables), work, fixed)


def _fixed_values(
    term: Term, grid: Grid | None, found: Points | None, tape: Tape, dtype: Any
) -> NDArray[Any] | None:
    """The values of a term that no input changes, or None."""
    if term.coefficient.depends:
        return None
    numbers = {f.value for p in term.coefficient.products or () for f in p.factors}
    arrays = {k: tape.known(k) for k in numbers}
    if any(a is None for a in arrays.values()):
        return None
    tables: list[NDArray[Any]] = []
    piece = _piece(term, grid, found, tape, tables)
    with np.errstate(all="ignore"):
        return np.asarray(_piece_values(piece, arrays, tuple(tables), dtype, np))


def outer_form(
    terms: Terms, out_shape: Shape, in_shape: Shape, tape: Tape, dtype: Any
) -> tuple[Closed, Closed] | None:
    """The two factors of a block that is an outer product, or None.

    The tensor of shape output + input is the outer product of an array over its first axes and
    one over the rest; the cut is between output and input where that is possible.

    Args:
        terms: the terms of the block.
        out_shape: shape of the output.
        in_shape: shape of the input.
        tape: what their coefficients refer to.
        dtype: dtype of the entries.
    """
    if len(terms) != 1 or not _has_form(terms[0], tape, dtype):
        return None
    term = terms[0]
    products = term.coefficient.products or ()
    if len(products) != 1 or term.zeros or term.bounds or term.guards:
        return None
    index, shape = (*term.out, *term.inp), (*out_shape, *in_shape)
    middle = len(out_shape)
    for cut in (middle, *(k for k in range(1, len(index)) if k != middle)):
        sides = []
        for axes in (slice(0, cut), slice(cut, None)):
            names = {v for e in index[axes] for v, _ in e.terms}
            if prod(shape[axes]) < 2 or prod(term.sizes[v] for v in names) != prod(shape[axes]):
                break
            sides.append((axes, names))
        if len(sides) < 2 or sides[0][1] & sides[1][1]:
            continue
        made = _factors(term, products[0], index, shape, sides, tape, dtype)
        if made is not None:
            return made
    return None


def _factors(
    term: Term,
    product: coefficients.Product,
    index: tuple[Affine, ...],
    shape: Shape,
    sides: list[tuple[slice, set[int]]],
    tape: Tape,
    dtype: Any,
) -> tuple[Closed, Closed] | None:
    """The closed forms of a product's two sides, or None where a factor belongs to both.

    The entry a[i]·b[j] at row i and column j has the sides a[i] and b[j]; a[i, j] has none.
    """
    owned: tuple[list[Factor], list[Factor]] = ([], [])
    for f in product.factors:
        names = {v for e in f.at for v, _ in e.terms}
        side = next((k for k in (0, 1) if names <= sides[k][1]), None)
        if side is None:
            return None
        owned[side].append(f)
    made = []
    for k, (axes, names) in enumerate(sides):
        scale = product.scale if k == 0 else 1.0
        coefficient = coefficients.Coefficient(
            (coefficients.Product(scale, tuple(owned[k])),), term.coefficient.depends
        )
        sizes = {v: term.sizes[v] for v in names}
        alone = Term(sizes, index[axes], (), coefficient)
        form = closed_form((alone,), shape[axes], (), tape, dtype)
        if form is None or not form.pattern.full:
            return None
        made.append(form)
    return made[0], made[1]


def _has_form(term: Term, tape: Tape, dtype: Any) -> bool:
    """Whether a term's entries are products of known arrays, at indices that its entry fixes.

    a[i]·b[i, j] at row i and column j is; Σₖ a[i, k]·b[k, j], with an index of its own, is not.
    """
    products = term.coefficient.products
    if products is None:
        return False
    limits = jnp.finfo(_computed(dtype))
    if not all(float(limits.tiny) <= abs(p.scale) <= float(limits.max) for p in products):
        # the program's own steps may stay within range where their product does not
        return False
    hidden = coefficients.variables(term.coefficient) - set(relation_variables(term))
    if hidden:
        return False
    numbers = {f.value for p in products for f in p.factors}
    return all(
        jnp.issubdtype(tape.values[k].dtype, jnp.floating)
        or jnp.issubdtype(tape.values[k].dtype, jnp.integer)
        or tape.values[k].dtype == np.bool_
        for k in numbers
        if tape.values[k].dtype is not None
    )


def _computed(dtype: Any) -> Any:
    """The dtype to compute entries in: factors of half precision soon leave its range."""
    return jnp.promote_types(dtype, np.float32)


def _piece(
    term: Term,
    grid: Grid | None,
    found: Points | None,
    tape: Tape,
    tables: list[NDArray[Any]],
) -> Piece:
    if grid is None and found is None:
        found = points(term)
    sizes = grid.sizes if grid is not None else (found.count if found else 0,)
    products = []
    for product in term.coefficient.products or ():
        parts = tuple(_part(f, grid, found, tape, tables) for f in product.factors)
        products.append((product.scale, parts))
    return Piece(sizes, tuple(products))


def _part(
    factor: Factor,
    grid: Grid | None,
    found: Points | None,
    tape: Tape,
    tables: list[NDArray[Any]],
) -> Part:
    """One factor along the grid of its term: as slices of an array, or by a table of positions."""
    value = tape.values[factor.value]
    selects = value.function is not None and value.function.selects
    if grid is not None:
        view = _view(factor.at, grid)
        if view is not None:
            return Part(factor.value, selects, *view)
    flat = ravel(factor.at, value.shape)
    dtype = index_dtype(prod(value.shape))
    if grid is not None:
        positions = grid.value(flat, dtype)
    else:
        assert found is not None
        positions = found.value(flat).astype(dtype)
    tables.append(positions)
    return Part(factor.value, selects, table=len(tables) - 1)


def _view(
    at: tuple[Affine, ...], grid: Grid
) -> tuple[tuple[slice | int, ...], tuple[int, ...]] | None:
    """An index as slices of an array, one grid axis for each axis that is left."""
    slices: list[slice | int] = []
    axes: list[int] = []
    for e in at:
        if not e.terms:
            # a whole number, be it NumPy's own: parameters of an operation may hold these
            slices.append(int(e.const))
            continue
        (v, c), *more = e.terms
        axis = grid.order.index(v)
        if more or c < 0 or axis in axes:
            return None
        slices.append(slice(e.const, e.const + c * (grid.sizes[axis] - 1) + 1, c))
        axes.append(axis)
    return tuple(slices), tuple(axes)


def _piece_values(
    piece: Piece, arrays: Mapping[int, Any], tables: tuple[Any, ...], dtype: Any, xp: Any
) -> Any:
    """The values of one term along its grid, flat: Σ scale·∏ factors, 0 where ruled out."""
    total: Any = None
    for scale, parts in piece.products:
        values: Any = None
        allowed: Any = None
        for part in parts:
            array = _along(part, piece, xp.asarray(arrays[part.value]), tables, xp)
            array = array.astype(jnp.promote_types(array.dtype, _computed(dtype)))
            values = array if values is None else values * array
            if part.selects:
                allowed = array != 0 if allowed is None else allowed & (array != 0)
        if values is None:
            values = xp.full((1,) * len(piece.sizes), scale, _computed(dtype))
        elif scale != 1.0:
            values = values * scale
        if allowed is not None:
            values = xp.where(allowed, values, 0)
        total = values if total is None else total + values
    return xp.broadcast_to(total, piece.sizes).reshape(-1).astype(dtype)


def _along(part: Part, piece: Piece, array: Any, tables: tuple[Any, ...], xp: Any) -> Any:
    """A factor laid out along the grid, with axes of size one where it does not change."""
    if part.slices is None:
        assert part.table is not None
        return _picked(array.reshape(-1), tables[part.table]).reshape(piece.sizes)
    for axis, s in reversed(list(enumerate(part.slices))):
        if isinstance(s, int):
            if array.shape[axis] == 1:
                array = xp.squeeze(array, axis)
            else:
                array = array[(slice(None),) * axis + (s,)]
        elif (s.start, s.stop, s.step) != (0, array.shape[axis], 1):
            array = array[(slice(None),) * axis + (s,)]
    order = sorted(range(len(part.axes)), key=lambda k: part.axes[k])
    array = xp.transpose(array, order)
    shape = [piece.sizes[k] if k in part.axes else 1 for k in range(len(piece.sizes))]
    return array.reshape(shape)


def _joined(parts: list[Any], xp: Any) -> Any:
    return parts[0] if len(parts) == 1 else xp.concatenate(parts)


def _added(start: Any, table: Any, values: Any) -> Any:
    """`start` with every value added at its place."""
    if isinstance(start, np.ndarray):
        result = start.copy()
        np.add.at(result, table, values)
        return result
    return start.at[table].add(values, mode="promise_in_bounds")


def _picked(array: Any, table: Any) -> Any:
    """`array[table]`, for NumPy too; tables lie within their arrays by construction."""
    if isinstance(array, np.ndarray):
        return array[table]
    return array.at[table].get(mode="promise_in_bounds")


def _work(pieces: list[Piece], count: int, rounds: int) -> float:
    total = float(rounds * count * 2)
    for piece in pieces:
        for _, parts in piece.products:
            total += piece.count * (0.5 + sum(2.0 if p.slices is None else 0.5 for p in parts))
    return total
