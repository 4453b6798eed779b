"""What the terms of a block say about its index relation: spans, bounds, one-to-one maps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, subtract, value_range
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables

Shape = tuple[int, ...]

MAX_LISTED = 1 << 21


@dataclass(frozen=True, eq=False)
class Facts:
    """Terms with what is needed to reason about them.

    Attributes:
        terms: the terms of the block.
        out_shape: shape of the output.
        in_shape: shape of the input.
        fixed: variables that count as fixed (the number of a diagonal block, inside it).
    """

    terms: Terms
    out_shape: Shape
    in_shape: Shape
    fixed: frozenset[int] = frozenset()

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape."""
        return prod(self.out_shape), prod(self.in_shape)

    @cached_property
    def rows(self) -> list[Affine]:
        """The row of the flattened matrix, per term."""
        return [affine.ravel(t.out, self.out_shape) for t in self.terms]

    @cached_property
    def columns(self) -> list[Affine]:
        """The column of the flattened matrix, per term."""
        return [affine.ravel(t.inp, self.in_shape) for t in self.terms]

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """The range of column − row, per term."""
        pairs = zip(self.terms, self.rows, self.columns, strict=True)
        return [span(subtract(c, r), t) for t, r, c in pairs]


def span(e: Affine, term: Term) -> tuple[int, int]:
    """A range that certainly holds an expression's values on a term's index vectors."""
    if not e.terms:
        return e.const, e.const
    if (term.zeros or term.guards) and grid_size(term) <= MAX_LISTED:
        found = points(replace(term, coefficient=coefficients.OPAQUE))
        if found.count == 0:
            return 0, 0
        extra = [v for v, _ in e.terms if v not in found.at]
        if not extra:
            values = found.value(e)
            return int(np.min(values)), int(np.max(values))
    return -_upper(affine.scale(e, -1), term), _upper(e, term)


def _upper(e: Affine, term: Term) -> int:
    """An upper bound of e, using that every bound of the term is at least 0."""
    best = value_range(e, term.sizes)[1]
    current = e
    for _ in range(len(term.bounds)):
        improved = None
        for b in term.bounds:
            for v, c in b.terms:
                ratio, rest = divmod(-affine.coefficient(current, v), c)
                if rest or ratio <= 0:
                    continue
                candidate = affine.add(current, affine.scale(b, ratio))
                high = value_range(candidate, term.sizes)[1]
                if high < best:
                    best, improved = high, candidate
        if improved is None:
            return best
        current = improved
    return best


def _fills(term: Term, count: int) -> bool:
    """Whether a term without conditions runs over exactly `count` index vectors."""
    if term.zeros or term.bounds or term.guards:
        return False
    return prod(term.sizes[v] for v in relation_variables(term)) == count


def _variables(es: Iterable[Affine]) -> list[int]:
    return list(dict.fromkeys(v for e in es for v, _ in e.terms))


def injective(index: Sequence[Affine], term: Term) -> bool:
    """Whether an index certainly determines every variable in it (mixed radix, plain variables)."""
    open_ = [e for e in index if e.terms]
    settled: set[int] = set()
    progress = True
    while open_ and progress:
        progress = False
        for e in list(open_):
            rest = sorted(((abs(c), v) for v, c in e.terms if v not in settled))
            reach = 0
            for c, v in rest:
                if c <= reach:
                    break
                reach += c * (term.sizes[v] - 1)
            else:
                settled.update(v for _, v in rest)
                open_.remove(e)
                progress = True
    return not open_


def _tells_all(index: Sequence[Affine], term: Term) -> bool:
    """Whether an index certainly determines every variable of the relation."""
    every = set(relation_variables(term)) <= set(_variables(index))
    return every and injective(index, term)
