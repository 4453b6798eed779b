"""Listing the entries of terms: index vectors to (row, column) pairs.

Relations are answered by formula wherever possible; this is for when somebody wants the entries
themselves. Equations are solved numerically for one variable each, so that the grid runs only
over the free ones.

    >>> rows, columns = pairs(term, out_shape, in_shape)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.algebra import affine
from jacobians.algebra import coefficient as coefficients
from jacobians.algebra.affine import Affine
from jacobians.algebra.table import Table
from jacobians.algebra.term import Guard, Term, contains, pattern_only, relation_variables

Integers = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Points:
    """The index vectors of a term.

    Attributes:
        at: for every variable its values, one per index vector.
        count: the number of index vectors.
    """

    at: dict[int, Integers]
    count: int

    def value(self, e: Affine) -> Integers:
        """The values of an expression."""
        result = np.full(self.count, e.const, dtype=np.int64)
        for v, c in e.terms:
            result += c * self.at[v]
        return result

    def flat(self, index: Sequence[Affine], shape: Shape) -> Integers:
        """The positions in the flattened array that an index points to."""
        return self.value(affine.ravel(index, shape))


def grid_size(term: Term) -> int:
    """The number of index vectors that `points` has to visit."""
    solved = _solved_variables(term)
    return prod(term.sizes[v] for v in relation_variables(term) if v not in solved)


def points(term: Term, extra: Iterable[int] = ()) -> Points:
    """Every index vector that satisfies the term's conditions.

    Args:
        term: a term.
        extra: further variables to run over (the coefficient's own).

    Returns:
        The values of all variables at all index vectors.
    """
    solved = _solved_variables(term)
    order = [v for v in (*relation_variables(term), *extra) if v not in solved]
    sizes = [term.sizes[v] for v in order]
    count = prod(sizes)
    at: dict[int, Integers] = {}
    inner = count
    for v, n in zip(order, sizes, strict=True):
        inner //= max(n, 1)
        at[v] = np.tile(np.repeat(np.arange(n, dtype=np.int64), inner), count // max(n * inner, 1))
    found = Points(at, count)
    keep = np.ones(count, dtype=bool)
    for v, condition in solved.items():
        if isinstance(condition, Guard):
            assert condition.value is not None
            c = affine.coefficient(condition.value, v)
            rest = affine.subtract(condition.value, affine.variable(v, c))
            places = [found.value(e) for e in condition.at]
            for place, size in zip(places, condition.table.array.shape, strict=True):
                # a vector that another condition rules out may point outside the table
                keep &= (place >= 0) & (place < size)
            looked_up = condition.table.array[
                tuple(
                    np.clip(place, 0, size - 1)
                    for place, size in zip(places, condition.table.array.shape, strict=True)
                )
            ]
            at[v] = c * (looked_up - found.value(rest))
        else:
            c = affine.coefficient(condition, v)
            rest = affine.subtract(condition, affine.variable(v, c))
            quotient, remainder = np.divmod(-found.value(rest), c)
            at[v] = quotient
            keep &= remainder == 0
        keep &= (at[v] >= 0) & (at[v] < term.sizes[v])
    used = {id(c) for c in solved.values()}
    for e in term.zeros:
        if id(e) not in used:
            keep &= found.value(e) == 0
    for e in term.bounds:
        keep &= found.value(e) >= 0
    if not keep.all():
        at = {v: values[keep] for v, values in at.items()}
        found = Points(at, int(keep.sum()))
    for g in term.guards:
        if id(g) not in used:
            found = _guarded(found, g)
    return found


def pairs(term: Term, out_shape: Shape, in_shape: Shape) -> tuple[Integers, Integers]:
    """The (row, column) pairs of a term's pattern in the flattened matrix, possibly repeated."""
    plain = pattern_only(term)
    found = points(plain)
    return found.flat(plain.out, out_shape), found.flat(plain.inp, in_shape)


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
    if sum(grid_size(t) for t in plain) > limit:
        return None
    columns = prod(in_shape)
    parts = [_keys(t, out_shape, in_shape) for t in plain] or [np.zeros(0, np.int64)]
    row, column = np.divmod(_sorted_once(parts), max(columns, 1))
    return row, column


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


def _solved_variables(term: Term) -> dict[int, Any]:
    """For each variable that a condition determines, that condition, in an order to solve them."""
    solved: dict[int, Any] = {}

    def free(es: Iterable[Affine], but: int | None = None) -> bool:
        return not any(v in solved and v != but for e in es for v, _ in e.terms)

    for g in term.guards:
        if g.value is None or not free((*g.at, g.value)):
            continue
        inside = {v for e in g.at for v, _ in e.terms}
        options = [v for v, c in g.value.terms if abs(c) == 1 and v not in inside]
        if options:
            solved[max(options, key=lambda v: term.sizes[v])] = g
    for e in term.zeros:
        if free((e,)):
            solved[max(e.terms, key=lambda pair: term.sizes[pair[0]])[0]] = e
    # a condition that uses a variable solved after it would be read too early
    names = set(solved)
    order = list(solved)
    for k, v in enumerate(order):
        condition = solved[v]
        used = (
            {w for e in (*condition.at, condition.value or affine.ZERO) for w, _ in e.terms}
            if isinstance(condition, Guard)
            else {w for w, _ in condition.terms}
        )
        if used & (names - set(order[:k]) - {v}):
            return {w: solved[w] for w in order[:k]}
    return solved


def _guarded(found: Points, guard: Guard) -> Points:
    entry = guard.table.array[tuple(found.value(e) for e in guard.at)]
    keep = entry if guard.value is None else entry == found.value(guard.value)
    return Points({v: values[keep] for v, values in found.at.items()}, int(keep.sum()))
