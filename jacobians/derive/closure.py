"""Which entries a loop can reach after any number of steps: closures of dependence matrices.

A step of a loop is a matrix of index relations between its carries; the loop's is the sum of the
powers of that matrix, which settles after a few products or is given up.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import Terms, add_all, compose_all, hull, identity, union, wide
from jacobians.derive.algebra.term import Term, contains, key
from jacobians.derive.facts.support import MAX_CLOSURE, reach

Shapes = Sequence[tuple[int, ...]]
Matrix = dict[tuple[int, int], Terms]

EXACT_ROUNDS = 8
# pairs of terms composed for one power of a loop's step; where there are more, entries are listed
MAX_COMPOSED = 400
# index vectors of a step that are listed
MAX_LISTED = 1 << 22


def closure(step: Matrix, shapes: Shapes) -> Matrix:
    """A* = I ∪ A ∪ A² ∪ … for the block matrix A of one step, as patterns.

    Args:
        step: the blocks of one step, carry by carry; absent blocks are zero.
        shapes: the shapes of the carries.

    Returns:
        The blocks of any number of steps, identity included.
    """
    base: Matrix = {}
    for i, shape in enumerate(shapes):
        same = identity(shape)
        base[i, i] = union([replace(same, coefficient=coefficients.OPAQUE)])
    star = dict(base)
    for round_number in range(1000):
        if _products(step, star) > MAX_COMPOSED:
            listed = _listed_closure(step, shapes)
            if listed is not None:
                return listed
        new = sum_of_matrices(base, matrix_product(step, star))
        if round_number >= EXACT_ROUNDS:
            joint = sum_of_matrices(new, star)
            new = {
                (i, j): terms
                if _equal(terms, star.get((i, j), ()))
                else hull(terms, shapes[i], shapes[j])
                for (i, j), terms in joint.items()
            }
        if new.keys() == star.keys() and all(_equal(new[p], star[p]) for p in new):
            return new
        star = new
    return {(i, j): (wide(shapes[i], shapes[j]),) for (i, j) in star}


def _products(a: Matrix, b: Matrix) -> int:
    """How many pairs of terms the product of two block matrices composes."""
    lengths: dict[int, int] = {}
    for (k, _), right in b.items():
        lengths[k] = lengths.get(k, 0) + len(right)
    return sum(len(left) * lengths.get(k, 0) for (_, k), left in a.items())


def _listed_closure(step: Matrix, shapes: Shapes) -> Matrix | None:
    """The closure entry by entry: carry entry i depends on j if steps lead from j to i.

    None where the carries are too large, or the terms of a step too long to list.
    """
    sizes = [prod(shape) for shape in shapes]
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    if starts[-1] > MAX_CLOSURE:
        return None
    support = np.eye(starts[-1], dtype=bool)
    depends = frozenset[int]()
    for (i, j), terms in step.items():
        pairs = entries.coordinates(terms, shapes[i], shapes[j], MAX_LISTED)
        if pairs is None:
            return None
        support[pairs[0] + starts[i], pairs[1] + starts[j]] = True
        depends = depends.union(*(t.coefficient.depends for t in terms))
    closed = reach(support)
    result: Matrix = {}
    for i, j in np.ndindex(len(shapes), len(shapes)):
        rows, columns = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        block = np.ones((sizes[i], sizes[j]), bool) if closed is None else closed[rows, columns]
        if block.all() and block.size:
            result[i, j] = (wide(shapes[i], shapes[j], (), depends),)
        elif block.any():
            inside = np.nonzero(block)
            found = entries.listed(inside[0], inside[1], shapes[i], shapes[j], depends)
            result[i, j] = (found,)
    return result


def matrix_product(a: Matrix, b: Matrix) -> Matrix:
    """The product of two block matrices."""
    result: dict[tuple[int, int], list[Term]] = {}
    for (i, k), left in a.items():
        for (other, j), right in b.items():
            if other == k:
                result.setdefault((i, j), []).extend(compose_all(left, right))
    return {place: union(terms) for place, terms in result.items() if terms}


def sum_of_matrices(a: Matrix, b: Matrix) -> Matrix:
    """The sum of two block matrices."""
    return {p: add_all((a.get(p, ()), b.get(p, ()))) for p in a.keys() | b.keys()}


def _equal(a: Terms, b: Terms) -> bool:
    return {key(t)[0] for t in a} == {key(t)[0] for t in b}


def same_pattern(a: Terms, b: Terms) -> bool:
    """Whether every term of either sum lies within one of the other."""
    return all(any(contains(w, n) for w in b) for n in a) and all(
        any(contains(w, n) for w in a) for n in b
    )
