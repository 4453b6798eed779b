"""`custom_linear_solve`: x = A⁻¹·b, with what is known of A's pattern.

The inverse of a matrix lies within the transitive closure of its pattern: of a block-diagonal one
it is block-diagonal, of a triangular one triangular.
"""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from jacobians import program
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import (
    Terms,
    common_ties,
    wide,
)
from jacobians.derive.algebra.normal import normal
from jacobians.derive.algebra.term import Term
from jacobians.derive.closure import Matrix, matrix_product
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.masks import conditions, restrict
from jacobians.derive.facts.support import MAX_CLOSURE, exchange_mixes, inverse_support
from jacobians.derive.inside.step import Mask, Step, differentiable
from jacobians.derive.operation import Local
from jacobians.derive.walk import Walk

MIXES = (
    "the inverse of a matrix with known zeros is proved as mathematics has it: where a solver "
    "exchanges rows, rounding may leave small numbers outside the proved pattern"
)

# index vectors of a solve's matrix that are listed to find the closure
MAX_LISTED = 1 << 22


def linear_solve(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.custom_linear_solve`: x = A⁻¹·b, so dx = A⁻¹·(db − dA·x).

    A⁻¹ is exact in the axes that A ties, and lies within the transitive closure of A's pattern.
    """
    matvec, constants, all_constants = program.linear_solve_parts(equation)
    node = walk.record(equation, operands)
    right = operands[all_constants:]
    used = operands[:constants]
    step = Step(walk, matvec, used, constants)
    step.tell(walk, node)
    inverse: Matrix = {}
    depends = frozenset[int]().union(*(walk.tape.values[k].depends for k in used))
    for i, a in enumerate(right):
        for j, b in enumerate(right):
            inverse[i, j] = (wide(walk.shape(a), walk.shape(b), (), depends),)
    if len(right) == 1:
        shape = walk.shape(right[0])
        own = step.blocks.get((0, constants), ())
        term, support, untied, mixes = _inverse(own, shape, depends)
        inverse[0, 0] = (term,)
        if mixes:
            walk.note(MIXES)
        zero = zeros(walk.tape, right[0])
        solved = None if zero is None or support is None else _solved(support, zero, untied)
        if solved is not None and solved.any():
            walk.tape.nothing[node.outputs[0]] = solved
            # dA·x is narrow where x is
            step = Step(walk, matvec, used, constants, [solved])
    from_matrix = {(i, c): t for (i, c), t in step.blocks.items() if c < constants}
    locals_ = [Local(i, all_constants + j, t) for (i, j), terms in inverse.items() for t in terms]
    everything = step.depends(walk, operands)
    for (i, c), terms in matrix_product(inverse, from_matrix).items():
        for t in terms:
            locals_.append(Local(i, c, replace(t, coefficient=coefficients.opaque(everything))))
    walk.apply(node, locals_, differentiable(walk, node.outputs))
    return list(node.outputs)


def _inverse(
    own: Terms, shape: tuple[int, ...], depends: frozenset[int]
) -> tuple[Term, Mask | None, list[int], bool]:
    """The relation of A⁻¹ for a matrix A of this relation to the vector that it is applied to.

    Returns:
        The term; the closure over the axes that A does not tie, None where it was not found; these
        axes; and whether the exchange of rows in a solve mixes what the closure keeps apart.
    """
    ties = [t for t in common_ties(own, shape, shape) if t[0] == t[1]]
    tied = {a for a, _ in ties}
    untied = [d for d in range(len(shape)) if d not in tied]
    small = tuple(shape[d] for d in untied)
    count = prod(small)
    term = wide(shape, shape, ties, depends)
    if count > MAX_CLOSURE or not own:
        return term, None, untied, False
    plain = [
        replace(
            t,
            out=tuple(t.out[d] for d in untied),
            inp=tuple(t.inp[d] for d in untied),
            coefficient=coefficients.OPAQUE,
        )
        for t in own
    ]
    listed = entries.coordinates(plain, small, small, MAX_LISTED)
    if listed is None:
        return term, None, untied, False
    mask = np.zeros((count, count), bool)
    mask[listed] = True
    support = inverse_support(mask)
    if support is None:
        # with nothing between the rows, everything
        return term, np.ones((count, count), bool), untied, False
    index = (*(term.out[d] for d in untied), *(term.inp[d] for d in untied))
    allowed = conditions(support.reshape(*small, *small), index)
    narrow = None if allowed is None else normal(restrict(term, allowed))
    mixes = exchange_mixes(mask, support)
    return (term if narrow is None else narrow), support, untied, mixes


def _solved(support: Mask, zero: Mask, untied: list[int]) -> Mask:
    """Where A⁻¹·b is certainly 0, for a support of A⁻¹ over the untied axes."""
    order = [*untied, *(d for d in range(zero.ndim) if d not in untied)]
    laid_out = np.transpose(~zero, order)
    right = laid_out.reshape(support.shape[0], -1).astype(np.float32)
    nonzero = (support.astype(np.float32) @ right > 0).reshape(laid_out.shape)
    return np.asarray(~np.transpose(nonzero, np.argsort(order)))
