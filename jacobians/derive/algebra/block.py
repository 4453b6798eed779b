"""A Jacobian block as a sum of terms, kept short by merging equal relations.

    block = union([term_of_x, term_of_x])     # x + x: one term, coefficient 2

Paths through a program multiply, relations do not: terms of the same relation become one term whose
coefficient is their sum, and where formulas have been given up, a term inside another is dropped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jacobians.derive.algebra import affine, entries
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.normal import compose, pattern_only
from jacobians.derive.algebra.term import Term, contains, key, oriented, relation_variables

Terms = tuple[Term, ...]

MAX_TERMS = 40
# index vectors that may be listed to keep a pattern of too many terms exact
MAX_LISTED = 1 << 21


def union(terms: Iterable[Term]) -> Terms:
    """The sum of terms: equal relations merged, cancelled ones dropped, opaque ones absorbed.

    Args:
        terms: terms of the same block, in normal form.

    Returns:
        A tuple of terms, no two with equal relations.
    """
    merged: dict[object, tuple[Term, dict[int, int]]] = {}
    for term in terms:
        term = pattern_only(term) if term.coefficient.products is None else oriented(term)
        name, order = key(term)
        if name not in merged:
            merged[name] = (term, order)
            continue
        first, first_order = merged[name]
        total = _sum(first, first_order, term, order)
        if total is None:
            del merged[name]
        else:
            merged[name] = (total, first_order)
    result = tuple(term for term, _ in merged.values())
    if any(term.coefficient.products is None for term in result) and len(result) > 1:
        result = _absorb(result)
    return result


def limited(terms: Terms, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Terms:
    """The terms, or fewer and wider ones when there are too many to carry on with."""
    if len(terms) <= MAX_TERMS:
        return terms
    opaque = union(pattern_only(term) for term in terms)
    if len(opaque) <= MAX_TERMS:
        return opaque
    depends = frozenset[int]().union(*(t.coefficient.depends for t in opaque))
    pairs = entries.coordinates(opaque, out_shape, in_shape, MAX_LISTED)
    if pairs is not None:
        return (entries.listed(*pairs, out_shape, in_shape, depends),)
    return hull(opaque, out_shape, in_shape)


def compose_all(outer: Terms, inner: Terms) -> Terms:
    """The product of two blocks, ∂z/∂y · ∂y/∂x."""
    products = (compose(a, b) for a in outer for b in inner)
    return union(t for t in products if t is not None)


def add_all(blocks: Iterable[Terms]) -> Terms:
    """The sum of blocks."""
    return union(term for block in blocks for term in block)


def with_coefficient(terms: Terms, coefficient: coefficients.Coefficient) -> Terms:
    """Every term multiplied by a coefficient without index variables."""
    return tuple(
        replace(t, coefficient=coefficients.multiply(coefficient, t.coefficient)) for t in terms
    )


def identity(shape: tuple[int, ...]) -> Term:
    """The derivative of an array with respect to itself."""
    names = [affine.fresh() for _ in shape]
    sizes = dict(zip(names, shape, strict=True))
    index = tuple(
        affine.variable(v) if n != 1 else affine.ZERO for v, n in zip(names, shape, strict=True)
    )
    return Term({v: n for v, n in sizes.items() if n != 1}, index, index)


def wide(
    out_shape: tuple[int, ...],
    in_shape: tuple[int, ...],
    tied: Iterable[tuple[int, int]] = (),
    depends: frozenset[int] = frozenset(),
) -> Term:
    """A term saying that every output depends on every input, but for tied axes.

    Args:
        out_shape: shape of the output.
        in_shape: shape of the input.
        tied: pairs (output axis, input axis) of equal size whose indices must be equal.
        depends: inputs of the program that the coefficient depends on.
    """
    sizes: dict[int, int] = {}

    def axis(n: int) -> Affine:
        if n == 1:
            return affine.ZERO
        v = affine.fresh()
        sizes[v] = n
        return affine.variable(v)

    out = [axis(n) for n in out_shape]
    inp = [axis(n) for n in in_shape]
    for a, b in tied:
        v = plain_variable(inp[b])
        if v is not None:
            del sizes[v]
        inp[b] = out[a]
    return Term(sizes, tuple(out), tuple(inp), coefficients.opaque(depends))


def hull(terms: Terms, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Terms:
    """One wide term that covers all terms, keeping only the axes that every term ties."""
    if not terms:
        return ()
    depends = frozenset[int]().union(*(t.coefficient.depends for t in terms))
    return (wide(out_shape, in_shape, common_ties(terms, out_shape, in_shape), depends),)


def common_ties(
    terms: Terms, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Pairs (output axis, input axis) of equal size > 1 whose indices are equal in every term."""
    ties: list[tuple[int, int]] = []
    for a, n in enumerate(out_shape):
        for b, m in enumerate(in_shape):
            if n != m or n == 1 or any(b == other for _, other in ties):
                continue
            if all(t.out[a] == t.inp[b] for t in terms):
                ties.append((a, b))
                break
    return ties


def _sum(
    first: Term, first_order: Mapping[int, int], second: Term, second_order: Mapping[int, int]
) -> Term | None:
    """Two terms of equal relation as one, in the first's variables."""
    by_position = {position: v for v, position in first_order.items()}
    new = {v: affine.variable(by_position[position]) for v, position in second_order.items()}
    relation = set(relation_variables(first))
    clash = (coefficients.variables(second.coefficient) - new.keys()) & relation
    fresh = {v: affine.fresh() for v in clash}
    new.update({v: affine.variable(w) for v, w in fresh.items()})
    renamed = coefficients.rename(second.coefficient, new)
    total = coefficients.add(first.coefficient, renamed, lambda v: v not in relation)
    if total is None:
        return None
    hidden = coefficients.variables(total) - relation
    all_sizes = {**second.sizes, **first.sizes, **{w: second.sizes[v] for v, w in fresh.items()}}
    sizes = {v: all_sizes[v] for v in relation | hidden}
    return replace(first, coefficient=total, sizes=sizes)


def _absorb(terms: Terms) -> Terms:
    """Drops every term whose pattern lies within that of an opaque one."""
    kept = list(terms)
    for outer in sorted(terms, key=lambda t: len(t.sizes), reverse=True):
        if outer.coefficient.products is not None or not any(outer is t for t in kept):
            continue
        inside = [t for t in kept if t is not outer and contains(outer, t)]
        if inside:
            depends = outer.coefficient.depends.union(*(t.coefficient.depends for t in inside))
            bigger = replace(outer, coefficient=coefficients.opaque(depends))
            kept = [bigger if t is outer else t for t in kept if not any(t is i for i in inside)]
    return tuple(kept)
