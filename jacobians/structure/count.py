"""How many entries a block has, counted from its terms without listing them."""

from math import prod

from jacobians.derive.algebra import affine, entries
from jacobians.derive.algebra.affine import Affine, subtract
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.points import points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.structure.facts import MAX_LISTED, Shape, _variables, injective, span


def count_entries(terms: Terms, out_shape: Shape, in_shape: Shape) -> int | None:
    """How many entries can be nonzero, by formula where there is one, else by listing.

    Returns:
        The number, or None when it would take listing too many entries.
    """
    if not terms:
        return 0
    counts = [_count(t) for t in terms]
    if len(terms) == 1 and counts[0] is not None:
        return counts[0]
    if all(c is not None for c in counts) and _disjoint(terms):
        return sum(c for c in counts if c is not None)
    if any(c == prod(out_shape) * prod(in_shape) for c in counts):
        return prod(out_shape) * prod(in_shape)
    listed = entries.coordinates(terms, out_shape, in_shape, MAX_LISTED)
    return None if listed is None else len(listed[0])


def bound_entries(terms: Terms, out_shape: Shape, in_shape: Shape) -> tuple[int, bool]:
    """How many entries can be nonzero, exactly or at most.

    Returns:
        The number, and whether it is exact; where it would take listing too many entries, the
        sum over the terms, which counts entries of several terms more than once.
    """
    count = count_entries(terms, out_shape, in_shape)
    if count is not None:
        return count, True
    total = prod(out_shape) * prod(in_shape)
    counts = [_count(t) for t in terms]
    return min(total, sum(total if c is None else c for c in counts)), False


def _count(term: Term) -> int | None:
    """The number of entries of one term where its index vectors map to them one to one."""
    if term.zeros or term.guards or not injective((*term.out, *term.inp), term):
        return None
    names = relation_variables(term)
    if not set(names) <= set(_variables((*term.out, *term.inp))):
        return None
    total = prod(term.sizes[v] for v in names)
    if not term.bounds:
        return total
    bounded = set(_variables(term.bounds))
    size = prod(term.sizes[v] for v in bounded)
    if len(term.bounds) == 1 and len(bounded) == 2:
        inside = _triangle(term.bounds[0], term)
        return None if inside is None else total // size * inside
    if size > MAX_LISTED:
        return None
    sizes = {v: term.sizes[v] for v in bounded}
    only = Term(sizes, tuple(affine.variable(v) for v in bounded), (), bounds=term.bounds)
    return total // size * points(only).count


def _triangle(bound: Affine, term: Term) -> int | None:
    """How many (v, w) satisfy `±(v − w) + const ≥ 0`."""
    (v, a), (w, b) = bound.terms
    if {a, b} != {1, -1}:
        return None
    n, m = (term.sizes[v], term.sizes[w]) if a == 1 else (term.sizes[w], term.sizes[v])
    # count pairs with x − y + const ≥ 0, x in [0, n), y in [0, m): y ≤ x + const
    d = bound.const
    first = max(0, -d)
    full = min(n, max(first, m - 1 - d))
    rising = full - first
    lowest = first + d + 1
    return rising * lowest + rising * (rising - 1) // 2 + (n - full) * m if first < n else 0


def _disjoint(terms: Terms) -> bool:
    """Whether certainly no entry belongs to two terms: somewhere their index offsets part."""
    places = [(a, b) for a in range(len(terms[0].out)) for b in range(len(terms[0].inp))]
    if len(terms) * len(places) > 400:
        return False
    offsets = [
        [span(subtract(t.inp[b], t.out[a]), t) for a, b in places]
        + [span(e, t) for e in (*t.out, *t.inp)]
        for t in terms
    ]
    return all(
        any(p[1] < q[0] or q[1] < p[0] for p, q in zip(first, second, strict=True))
        for k, first in enumerate(offsets)
        for second in offsets[k + 1 :]
    )
