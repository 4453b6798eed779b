"""Structures that a coefficient has by what it ties together: Kronecker, outer, low rank.

Two index variables are tied where a condition or a factor has both. A matrix whose row variables
are tied to none of its columns' is an outer product; one whose axes part into two groups of rows
and columns, with nothing between the groups, is a Kronecker product.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine
from jacobians.derive.algebra.term import Term
from jacobians.structure.facts import Facts, _variables, injective
from jacobians.structure.kinds import Structure


def _components(term: Term, fixed: frozenset[int]) -> Callable[[int], int]:
    """Groups variables that a condition or a factor ties together; returns the group of one."""
    parent: dict[int, int] = {}

    def find(v: int) -> int:
        while parent.setdefault(v, v) != v:
            v = parent[v]
        return v

    together = [_variables((e,)) for e in (*term.zeros, *term.bounds)]
    together += [_variables((*g.at, *((g.value,) if g.value else ()))) for g in term.guards]
    for p in term.coefficient.products or ():
        together += [_variables(f.at) for f in p.factors]
    for group in together:
        moving = [v for v in group if v not in fixed]
        for v in moving[1:]:
            parent[find(v)] = find(moving[0])
    return find


def kronecker(facts: Facts) -> list[Structure]:
    """The Kronecker product of two smaller matrices, where the axes part into two groups.

    `out[i, j] ∂ inp[k, l] = a[i, k]·b[j, l]` is A ⊗ B: nothing ties i or k to j or l.
    """
    term = facts.terms[0]
    products = term.coefficient.products
    if len(facts.terms) != 1 or products is None or len(products) != 1:
        return []
    m, n = facts.shape
    find = _components(term, facts.fixed)
    if min(m, n) == 1 or _separated(term.out, term.inp, find):
        return []
    for p in range(len(term.out) + 1):
        for q in range(len(term.inp) + 1):
            left = prod(facts.out_shape[:p]), prod(facts.in_shape[:q])
            right = m // max(left[0], 1), n // max(left[1], 1)
            flat = (left[0] == 1 == right[1]) or (left[1] == 1 == right[0])
            if min(prod(left), prod(right)) < 2 or flat:
                continue
            first = (*term.out[:p], *term.inp[:q])
            second = (*term.out[p:], *term.inp[q:])
            if not _separated(first, second, find):
                continue
            parameters: list[tuple[str, Any]] = [("left", left), ("right", right)]
            for side, o, i, shapes in (
                ("left_identity", term.out[:p], term.inp[:q], left),
                ("right_identity", term.out[p:], term.inp[q:], right),
            ):
                if _plain_identity(term, o, i, shapes):
                    parameters.append((side, True))
            return [Structure("kronecker", tuple(parameters))]
    return []


def _plain_identity(
    term: Term, out: Sequence[Affine], inp: Sequence[Affine], shape: tuple[int, int]
) -> bool:
    """Whether one side of a product has equal indices, no coefficient and no condition."""
    if shape[0] != shape[1] or tuple(out) != tuple(inp):
        return False
    own = set(_variables(out))
    if prod(term.sizes[v] for v in own) != shape[0]:
        return False
    if not injective(out, term):
        return False
    conditions = _variables((*term.zeros, *term.bounds))
    return not own & (coefficients.variables(term.coefficient) | set(conditions))


def _separated(a: Iterable[Affine], b: Iterable[Affine], find: Callable[[int], int]) -> bool:
    """Whether no condition or factor ties a variable of one side to one of the other."""
    left, right = {find(v) for v in _variables(a)}, {find(v) for v in _variables(b)}
    return not left & right


def outer(facts: Facts) -> list[Structure]:
    """An outer product: one product in which nothing ties the rows to the columns, `u[i]·v[j]`.

    Of a single row or column the axes of its array are asked instead: `dW = q·xᵀ`.
    """
    term = facts.terms[0]
    products = term.coefficient.products
    if len(facts.terms) != 1 or products is None or len(products) != 1:
        return []
    m, n = facts.shape
    find = _components(term, facts.fixed)
    if m > 1 and n > 1:
        return [Structure("outer")] if _separated(term.out, term.inp, find) else []
    index, shape = (term.inp, facts.in_shape) if m == 1 else (term.out, facts.out_shape)
    axes = [e for e, k in zip(index, shape, strict=True) if k > 1]
    if len(axes) < 2:
        return []
    apart = all(_separated((a,), axes[k + 1 :], find) for k, a in enumerate(axes))
    return [Structure("outer", (("gradient", True),))] if apart else []


def diagonal_plus_low_rank(facts: Facts) -> list[Structure]:
    """A diagonal and some outer products, as of softmax: `diag(y) − y·yᵀ`."""
    m, n = facts.shape
    if m != n or n < 4:
        return []
    rank, diagonal = 0, False
    for t, offset in zip(facts.terms, facts.offsets, strict=True):
        if offset == (0, 0):
            diagonal = True
            continue
        products = t.coefficient.products
        if products is None:
            return []
        for p in products:
            alone = replace(t, coefficient=replace(t.coefficient, products=(p,)))
            out = [e for e in t.out if not set(_variables((e,))) <= facts.fixed]
            inp = [e for e in t.inp if not set(_variables((e,))) <= facts.fixed]
            if not _separated(out, inp, _components(alone, facts.fixed)):
                return []
        rank += len(products)
    if not diagonal or not rank or rank > max(1, n // 2 - 1):
        return []
    return [Structure("diagonal-plus-low-rank", (("rank", rank),))]
