"""A term of a Jacobian block: an index relation times a coefficient.

    J[out(k), inp(k)]  +=  coefficient(k)   for every integer vector k in the box
                                            with zeros(k) = 0, bounds(k) ≥ 0 and the guards true

`out`, `inp`, `zeros` and `bounds` hold affine expressions of the index variables k; `sizes` gives
each variable v the range [0, sizes[v]). A guard looks up a known table: a boolean one has to be
true at its index, an integer one has to equal an affine expression. Terms are immutable; `normal`
brings one to a normal form, in which variables of size one are gone, solvable equations are solved
and boxes are tight, and every step of it maps index vectors one to one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import (
    Affine,
    plain_variable,
    substitute,
    subtract,
    value_range,
)
from jacobians.derive.algebra.coefficient import Coefficient
from jacobians.derive.algebra.table import Table


class Guard(NamedTuple):
    """`table[at]` is true, or, where `value` is given, equals `value`."""

    table: Table
    at: tuple[Affine, ...]
    value: Affine | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """An index relation times a coefficient; see the module's docstring.

    Attributes:
        sizes: the size of every variable, relation's and coefficient's, by variable.
        out: index into the output, one expression per axis.
        inp: index into the input, one expression per axis.
        coefficient: what is added at each index vector.
        zeros: expressions that must be 0.
        bounds: expressions that must be at least 0.
        guards: known tables that must agree.
    """

    sizes: Mapping[int, int]
    out: tuple[Affine, ...]
    inp: tuple[Affine, ...]
    coefficient: Coefficient = coefficients.ONE
    zeros: tuple[Affine, ...] = ()
    bounds: tuple[Affine, ...] = ()
    guards: tuple[Guard, ...] = ()


def expressions(term: Term) -> Iterable[Affine]:
    """Every expression of the relation: outputs, inputs, conditions; not the coefficient's."""
    yield from term.out
    yield from term.inp
    yield from term.zeros
    yield from term.bounds
    for guard in term.guards:
        yield from guard.at
        if guard.value is not None:
            yield guard.value


def relation_variables(term: Term) -> list[int]:
    """The variables of the relation in order of first occurrence, outputs first."""
    seen: dict[int, None] = {}
    for e in expressions(term):
        for v, _ in e.terms:
            seen.setdefault(v)
    return list(seen)


def rename(term: Term, replacement: Mapping[int, Affine], sizes: Mapping[int, int]) -> Term:
    """The term with variables replaced by expressions over variables of the given sizes."""

    def each(es: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return tuple(substitute(e, replacement) for e in es)

    guards = tuple(
        Guard(g.table, each(g.at), None if g.value is None else substitute(g.value, replacement))
        for g in term.guards
    )
    return Term(
        sizes,
        each(term.out),
        each(term.inp),
        coefficients.rename(term.coefficient, replacement),
        each(term.zeros),
        each(term.bounds),
        guards,
    )


def with_fresh_variables(term: Term) -> Term:
    """The same term in variables that no other term uses."""
    new = {v: affine.fresh() for v in term.sizes}
    return rename(
        term,
        {v: affine.variable(w) for v, w in new.items()},
        {new[v]: n for v, n in term.sizes.items()},
    )


def key(term: Term) -> tuple[tuple[object, ...], dict[int, int]]:
    """A hashable key of the relation, equal for relations equal up to renaming of variables.

    Returns:
        The key, and the position that each relation variable has in it.
    """
    order = {v: k for k, v in enumerate(relation_variables(term))}
    new = {v: affine.variable(k) for v, k in order.items()}

    def each(es: Iterable[Affine]) -> tuple[Affine, ...]:
        return tuple(substitute(e, new) for e in es)

    parts = (
        each(term.out),
        each(term.inp),
        tuple(sorted(each(term.zeros))),
        tuple(sorted(each(term.bounds))),
        frozenset(
            (g.table, each(g.at), None if g.value is None else substitute(g.value, new))
            for g in term.guards
        ),
        tuple(term.sizes[v] for v in order),
    )
    return parts, order


def oriented(term: Term) -> Term:
    """The term with every relation variable increasing at its first occurrence."""
    first: dict[int, int] = {}
    for e in expressions(term):
        for v, c in e.terms:
            first.setdefault(v, c)
    flips = {v: affine.linear([(v, -1)], term.sizes[v] - 1) for v, c in first.items() if c < 0}
    return rename(term, flips, term.sizes) if flips else term


def contains(wide: Term, narrow: Term) -> bool:
    """Whether the pattern of `narrow` is certainly within that of `wide` (False when unsure)."""
    if wide.guards or wide.zeros:
        return False
    image: dict[int, Affine] = {}
    pairs = list(zip(wide.out + wide.inp, narrow.out + narrow.inp, strict=True))
    for e, target in pairs:
        v = plain_variable(e)
        if v is not None and v not in image:
            image[v] = target
    for e, target in pairs:
        free = [(v, c) for v, c in e.terms if v not in image]
        if not free:
            continue
        if len(free) > 1 or abs(free[0][1]) != 1:
            return False
        v, c = free[0]
        known = substitute(subtract(e, affine.variable(v, c)), image)
        image[v] = affine.scale(subtract(target, known), c)
    for e, target in pairs:
        if substitute(e, image) != target:
            return False
    for v in relation_variables(wide):
        if v not in image:
            return False
        size = wide.sizes[v]
        if not _at_least_zero(image[v], narrow):
            return False
        if not _at_least_zero(subtract(affine.constant(size - 1), image[v]), narrow):
            return False
    return all(_at_least_zero(substitute(e, image), narrow) for e in wide.bounds)


def _at_least_zero(e: Affine, term: Term) -> bool:
    """Whether e ≥ 0 certainly holds on the term's index vectors."""
    if value_range(e, term.sizes)[0] >= 0:
        return True
    return any(value_range(subtract(e, b), term.sizes)[0] >= 0 for b in term.bounds)


def flipped(term: Term) -> Term:
    """The term of the transposed block."""
    return Term(
        term.sizes, term.inp, term.out, term.coefficient, term.zeros, term.bounds, term.guards
    )
