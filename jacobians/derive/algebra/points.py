"""The index vectors of a term, one by one.

Equations and index tables are solved for one variable each, so that only the free ones are run
over; where bounds tie a variable to earlier ones it runs between them only, so that a band of a
large matrix costs its entries and not the matrix.

    found = points(term)
    found.count, found.value(term.out[0])
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, value_range
from jacobians.derive.algebra.term import Guard, Term, relation_variables

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
    """The number of index vectors that `points` has to visit, or a little more."""
    solved = _solved_variables(term)
    order = [v for v in relation_variables(term) if v not in solved]
    if not term.bounds:
        return prod(term.sizes[v] for v in order)
    return prod(_width(term, v, order[:k]) for k, v in enumerate(order))


def _width(term: Term, v: int, earlier: Sequence[int]) -> int:
    """How many values a variable has at most between bounds that earlier variables set."""
    own = {v, *earlier}
    tied = [e for e in term.bounds if all(w in own for w, _ in e.terms)]
    size = term.sizes[v]
    for low in tied:
        for high in tied:
            if affine.coefficient(low, v) == 1 and affine.coefficient(high, v) == -1:
                size = min(size, value_range(affine.add(low, high), term.sizes)[1] + 1)
    return max(size, 0)


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
    found = _on_grid(term, order) if not term.bounds else _between_bounds(term, order)
    at, count = found.at, found.count
    keep = np.ones(count, dtype=bool)
    for v, condition in solved.items():
        if isinstance(condition, Guard):
            assert condition.value is not None
            c = affine.coefficient(condition.value, v)
            rest = affine.subtract(condition.value, affine.variable(v, c))
            places = [found.value(e) for e in condition.at]
            within = []
            for place, size in zip(places, condition.table.array.shape, strict=True):
                # a vector that another condition rules out may point outside the table
                keep &= (place >= 0) & (place < size)
                within.append(np.clip(place, 0, size - 1))
            looked_up = condition.table.array[tuple(within)]
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


def _on_grid(term: Term, order: Sequence[int]) -> Points:
    """All index vectors of a box, the last variable fastest."""
    sizes = [term.sizes[v] for v in order]
    inner = count = prod(sizes)
    at: dict[int, Integers] = {}
    for v, n in zip(order, sizes, strict=True):
        inner //= max(n, 1)
        at[v] = np.tile(np.repeat(np.arange(n, dtype=np.int64), inner), count // max(n * inner, 1))
    return Points(at, count)


def _between_bounds(term: Term, order: Sequence[int]) -> Points:
    """The same in the same order, without most of what bounds exclude."""
    found = Points({}, 1)
    for v in order:
        later = {w: n for w, n in term.sizes.items() if w not in found.at and w != v}
        low = np.zeros(found.count, np.int64)
        high = np.full(found.count, term.sizes[v] - 1, np.int64)
        for e in term.bounds:
            c = affine.coefficient(e, v)
            if not c:
                continue
            known = Affine(e.const, tuple(t for t in e.terms if t[0] in found.at))
            rest = Affine(0, tuple(t for t in e.terms if t[0] in later))
            most = found.value(known) + value_range(rest, later)[1]
            if c > 0:
                low = np.maximum(low, -(most // c))
            else:
                high = np.minimum(high, most // -c)
        lengths = np.maximum(high - low + 1, 0)
        ends = np.cumsum(lengths)
        count = int(np.sum(lengths))
        at = {w: np.repeat(values, lengths) for w, values in found.at.items()}
        first = np.repeat(low - (ends - lengths), lengths)
        at[v] = first + np.arange(count, dtype=np.int64)
        found = Points(at, count)
    return found


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
        if e.terms and free((e,)):
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
