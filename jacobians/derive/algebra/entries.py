"""Listing the entries of terms: index vectors to (row, column) pairs.

Relations are answered by formula wherever possible; this is for when somebody wants the entries
themselves. Equations are solved numerically for one variable each, so that the grid runs only
over the free ones.

    rows, columns = pairs(term, out_shape, in_shape)
"""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine
from jacobians.derive.algebra.normal import pattern_only
from jacobians.derive.algebra.points import Integers, Points, Shape, grid_size, points
from jacobians.derive.algebra.projection import by_parts, projected
from jacobians.derive.algebra.table import Table
from jacobians.derive.algebra.term import Guard, Term, contains, relation_variables

__all__ = ["Points", "coordinates", "grid_size", "listed", "points"]

# index vectors per entry that are visited before others ways are looked for, and how many always
REPEATS = 4
SMALL = 1 << 12


def coordinates(
    terms: Iterable[Term], out_shape: Shape, in_shape: Shape, limit: int
) -> tuple[Integers, Integers] | None:
    """The entries of a sum of terms, sorted and without repetition.

    Args:
        terms: the terms.
        out_shape: shape of the output.
        in_shape: shape of the input.
        limit: the number of index vectors to visit at most.

    Returns:
        Rows and columns, or None when there are more index vectors than `limit`.
    """
    plain = _without_contained([pattern_only(t) for t in terms])
    size = prod(out_shape) * prod(in_shape)
    # paths may be far more than entries, and are then counted up step by step
    fair = min(limit, max(REPEATS * size, SMALL))
    if sum(grid_size(t) for t in plain) <= fair:
        parts = [_keys(t, out_shape, in_shape) for t in plain]
    else:
        parts = []
        for t in plain:
            keys = _keys_of_large(t, out_shape, in_shape, limit)
            if keys is None:
                return None
            parts.append(keys)
    row, column = np.divmod(_sorted_once(parts or [np.zeros(0, np.int64)]), max(prod(in_shape), 1))
    return row, column


def _keys_of_large(term: Term, out_shape: Shape, in_shape: Shape, limit: int) -> Integers | None:
    """The same of a term with more index vectors than can be visited; None where that fails."""
    size = prod(out_shape) * prod(in_shape)
    fair = min(limit, max(REPEATS * size, SMALL))
    if grid_size(term) <= fair:
        return _keys(term, out_shape, in_shape)
    smaller, _ = projected(term, fair)
    if smaller is None:
        return np.zeros(0, np.int64)
    if grid_size(smaller) <= fair:
        return _keys(smaller, out_shape, in_shape)
    place = affine.ravel((*smaller.out, *smaller.inp), (*out_shape, *in_shape))
    keys = by_parts(smaller, place, limit)
    return None if keys is None else keys[(keys >= 0) & (keys < size)]


def _without_contained(terms: list[Term]) -> list[Term]:
    """The terms without those whose pattern lies within another's."""
    kept: list[Term] = []
    for t in sorted(terms, key=lambda t: -len(t.sizes)):
        if not any(contains(wider, t) for wider in kept):
            kept.append(t)
    return kept


def _keys(term: Term, out_shape: Shape, in_shape: Shape) -> Integers:
    """Positions of a term's entries in the flattened matrix, possibly repeated and unsorted."""
    columns = prod(in_shape)
    if term.zeros or term.guards:
        found = points(term)
        return found.flat(term.out, out_shape) * columns + found.flat(term.inp, in_shape)
    # without equations everything is one affine expression on a grid: rows first, so that the
    # positions mostly come out sorted
    place = affine.add(
        affine.scale(affine.ravel(term.out, out_shape), columns), affine.ravel(term.inp, in_shape)
    )
    order = sorted(relation_variables(term), key=lambda v: -affine.coefficient(place, v))
    keys = _on_grid(place, order, term)
    for e in term.bounds:
        own = {v for v, _ in e.terms}
        inside = _on_grid(e, [v if v in own else None for v in order], term) >= 0
        keys = np.where(inside, keys, -1)
    flat = np.ravel(keys)
    return flat[flat >= 0] if term.bounds else flat


def _on_grid(e: Affine, order: Sequence[int | None], term: Term) -> Integers:
    """An expression on the grid of variables, one axis each; None is an axis of size one."""
    result = np.full((1,) * len(order), e.const, dtype=np.int64)
    for axis, v in enumerate(order):
        if v is not None:
            shape = [1] * len(order)
            shape[axis] = term.sizes[v]
            values = np.arange(term.sizes[v], dtype=np.int64) * affine.coefficient(e, v)
            result = result + values.reshape(shape)
    return result


def _sorted_once(parts: list[Integers]) -> Integers:
    """The union of keys in increasing order."""
    keys = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        # every part is a few increasing runs, which a stable sort merges
        keys = np.sort(keys, kind="stable")
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return keys


def listed(
    rows: Integers,
    columns: Integers,
    out_shape: Shape,
    in_shape: Shape,
    depends: frozenset[int] = frozenset(),
) -> Term:
    """A term whose pattern is exactly these entries of the flattened matrix.

    Args:
        rows: row of every entry.
        columns: column of every entry.
        out_shape: shape of the output.
        in_shape: shape of the input.
        depends: inputs of the program that the coefficient depends on.
    """
    e = affine.fresh()
    sizes = {e: len(rows)}
    guards: list[Guard] = []

    def index(flat: Integers, shape: Shape) -> tuple[Affine, ...]:
        result = []
        for n, values in zip(shape, np.unravel_index(flat, shape) if shape else (), strict=True):
            if n == 1:
                result.append(affine.ZERO)
                continue
            v = affine.fresh()
            sizes[v] = n
            guards.append(
                Guard(Table(np.asarray(values)), (affine.variable(e),), affine.variable(v))
            )
            result.append(affine.variable(v))
        return tuple(result)

    out, inp = index(rows, out_shape), index(columns, in_shape)
    return Term(sizes, out, inp, coefficients.opaque(depends), guards=tuple(guards))
