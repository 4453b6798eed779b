"""Random small terms, and their entries by visiting every index vector."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine
from jacobians.derive.algebra.term import Term, relation_variables


def at(e: Affine, point: Mapping[int, int]) -> int:
    """The value of an expression at an index vector."""
    return e.const + sum(c * point[v] for v, c in e.terms)


def index_vectors(term: Term) -> Iterator[dict[int, int]]:
    """Every index vector of a term's box that meets its conditions."""
    for numbers in itertools.product(*map(range, term.sizes.values())):
        point = dict(zip(term.sizes, numbers, strict=True))
        if all(at(e, point) == 0 for e in term.zeros) and all(
            at(e, point) >= 0 for e in term.bounds
        ):
            yield point


@st.composite
def expressions(draw: Any, sizes: Mapping[int, int]) -> Affine:
    """`c·v + d·w + start`, never negative on the box."""
    total = affine.constant(draw(st.integers(0, 2)))
    for v, n in sizes.items():
        c = draw(st.sampled_from((0, 0, 1, 1, 2, 3, -1)))
        total = affine.add(total, affine.variable(v, c))
        if c < 0:
            total = affine.shift(total, n - 1)
    return total


@st.composite
def blocks(
    draw: Any, conditions: bool = True
) -> tuple[tuple[Term, ...], tuple[int, ...], tuple[int, ...]]:
    """A few terms of one block, and shapes of output and input that hold their indices."""
    ranks = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    terms = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = {affine.fresh(): draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))}
        out, inp = (tuple(draw(expressions(sizes)) for _ in range(rank)) for rank in ranks)
        zeros: tuple[Affine, ...] = ()
        bounds: tuple[Affine, ...] = ()
        if conditions and len(sizes) > 1:
            first, second = list(sizes)[:2]
            apart = affine.subtract(affine.variable(first), affine.variable(second))
            chosen = draw(st.sampled_from(("none", "none", "zero", "bound")))
            zeros = (apart,) if chosen == "zero" else ()
            bounds = (apart,) if chosen == "bound" else ()
        term = Term(sizes, out, inp, zeros=zeros, bounds=bounds)
        used = set(relation_variables(term))
        terms.append(
            Term(
                {v: n for v, n in sizes.items() if v in used}, out, inp, zeros=zeros, bounds=bounds
            )
        )
    shapes = []
    for side, rank in zip(("out", "inp"), ranks, strict=True):
        ends = [1 + draw(st.integers(0, 1))] * rank
        for term in terms:
            for axis, e in enumerate(getattr(term, side)):
                ends[axis] = max(ends[axis], 1 + affine.value_range(e, term.sizes)[1])
        shapes.append(tuple(ends))
    return tuple(terms), shapes[0], shapes[1]
