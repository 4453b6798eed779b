"""Terms whose index vectors are paths, brought down to the size of their block.

`A @ tanh(B @ x)` with constants that have zeros is a term over (i, j, k) under the conditions
A[i,j] ≠ 0 and B[j,k] ≠ 0. With every further matrix there are more paths and no more entries. The
inner indices then leave the relation: what is left is one condition on (i, k), and the formula sums
over j as it would if nothing were zero, since A[i,j] is 0 itself wherever the condition fails.

    smaller, exact = without_paths(term, tape, fair)
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra.affine import Affine, subtract, value_range
from jacobians.derive.algebra.coefficient import Factor, Product
from jacobians.derive.algebra.normal import normal, pattern_only
from jacobians.derive.algebra.points import Points, grid_size, points
from jacobians.derive.algebra.projection import projected
from jacobians.derive.algebra.term import Guard, Term, relation_variables, with_fresh_variables
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.masks import recognised
from jacobians.derive.tape import Tape

# paths per entry of a block that are followed one by one, how few always are, and how many ever
REPEATS = 4
FEW_PATHS = 1 << 12
MANY_PATHS = 1 << 20
MAX_CHECKED = 1 << 20

Condition = Affine | Guard


def fair_paths(out_shape: Sequence[int], in_shape: Sequence[int]) -> int:
    """How many index vectors of one term a block is worth."""
    return min(max(REPEATS * prod(out_shape) * prod(in_shape), FEW_PATHS), MANY_PATHS)


def has_more_paths(term: Term, fair: int) -> bool:
    """Whether a term has indices that only conditions hold, and too many index vectors by them."""
    visible = _names((*term.out, *term.inp))
    return not visible.issuperset(relation_variables(term)) and grid_size(term) > fair


def without_paths(term: Term, tape: Tape, fair: int) -> tuple[Term | None, bool]:
    """The term without the indices that only conditions hold.

    Args:
        term: a term.
        tape: what its coefficient refers to.
        fair: how many index vectors may be visited.

    Returns:
        The term, with its formula where that can be kept, or None when it is empty; and whether
        its pattern is the same, or wider.
    """
    smaller, exact = projected(pattern_only(term), fair)
    if smaller is None:
        return None, exact
    pattern = recognised(smaller)
    written = _with_formula(term, pattern, tape)
    return (normal(pattern) if written is None else written), exact


def _with_formula(term: Term, pattern: Term, tape: Tape) -> Term | None:
    """The pattern with the formula of the term, inner indices summed; None where that is wrong."""
    products = term.coefficient.products
    visible = _names((*term.out, *term.inp))
    inner = set(relation_variables(term)) - visible
    conditions: list[Condition] = [*term.zeros, *term.bounds, *term.guards]
    dropped = [c for c in conditions if _names(_of(c)) & inner]
    if products is None or not all(_implies(p, term, dropped, inner, tape) for p in products):
        return None
    pattern = with_fresh_variables(pattern)
    kept = {id(c) for c in conditions} - {id(c) for c in dropped}
    same = zip((*term.out, *term.inp), (*pattern.out, *pattern.inp), strict=True)
    equal = (*(e for e in term.zeros if id(e) in kept), *pattern.zeros)
    joined = normal(
        replace(
            term,
            sizes={**term.sizes, **pattern.sizes},
            zeros=(*equal, *(subtract(a, b) for a, b in same)),
            bounds=(*(e for e in term.bounds if id(e) in kept), *pattern.bounds),
            guards=(*(g for g in term.guards if id(g) in kept), *pattern.guards),
        )
    )
    if joined is None:
        return None
    # an index vector must not come twice: only numbers of listed entries may be left beside
    rest = set(relation_variables(joined)) - _names((*joined.out, *joined.inp))
    looked_up = {v for g in joined.guards if g.value is not None for v in _names(g.at)}
    return joined if rest <= looked_up and not joined.zeros else None


def _implies(
    product: Product, term: Term, dropped: list[Condition], inner: set[int], tape: Tape
) -> bool:
    """Whether a product is certainly 0 wherever a condition fails, and sums over every index."""
    if not inner <= {v for f in product.factors for e in f.at for v, _ in e.terms}:
        return False
    waiting = list(dropped)
    for f in product.factors:
        shape = tape.values[f.value].shape
        ranges = [value_range(e, term.sizes) for e in f.at]
        if any(low < 0 or high >= n for (low, high), n in zip(ranges, shape, strict=True)):
            return False
        waiting = [c for c in waiting if not _certainly_zero_outside(f, c, term, tape)]
    return not waiting


def _certainly_zero_outside(f: Factor, condition: Condition, term: Term, tape: Tape) -> bool:
    names = _names(f.at)
    if not _names(_of(condition)) <= names or prod(term.sizes[v] for v in names) > MAX_CHECKED:
        return False
    zero = zeros(tape, f.value)
    if zero is None:
        return False
    found = points(Term({v: term.sizes[v] for v in names}, f.at, ()))
    holds = _holds(condition, found, bound=condition in term.bounds)
    if holds is None:
        return False
    return bool((holds | zero[tuple(found.value(e) for e in f.at)]).all())


def _holds(condition: Condition, found: Points, bound: bool) -> NDArray[np.bool_] | None:
    """Where a condition holds; None where it cannot be asked."""
    if isinstance(condition, Affine):
        value = found.value(condition)
        return np.asarray(value >= 0 if bound else value == 0)
    at = [found.value(e) for e in condition.at]
    shape = condition.table.array.shape
    if any(((x < 0) | (x >= n)).any() for x, n in zip(at, shape, strict=True)):
        return None
    entry = condition.table.array[tuple(at)]
    return np.asarray(entry if condition.value is None else entry == found.value(condition.value))


def _of(condition: Condition) -> tuple[Affine, ...]:
    if isinstance(condition, Affine):
        return (condition,)
    return condition.at if condition.value is None else (*condition.at, condition.value)


def _names(es: Sequence[Affine]) -> set[int]:
    return {v for e in es for v, _ in e.terms}
