"""Linear algebra and Fourier transforms: operations on the last axes, exact in those before them.

The factorisations and solves whose pattern follows from the matrix's own say it; the others are
wide within the matrix.
"""

from collections.abc import Iterator

import numpy as np

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.block import identity
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.masks import Conditions, conditions, merged, restrict
from jacobians.derive.facts.support import (
    MAX_CLOSURE,
    is_upper,
    matrix_support,
    reach,
    solver,
    symbolic_cholesky,
    triangle,
)
from jacobians.derive.operation import Box, Local, Operation, Rule

# rows of a matrix whose Cholesky factor is followed entry by entry
MAX_SYMBOLIC = 1 << 7


def tied_leading(operation: Operation, axes: int) -> Iterator[Local]:
    """Wide in the last `axes` axes of the widest operand, exact in the axes before them."""
    batch = max(len(s) for s in operation.in_shapes) - axes
    for k in operation.active:
        for output, out_shape in enumerate(operation.out_shapes):
            box = Box()
            lead = box.axes(out_shape[:batch])
            out = (*lead, *box.axes(out_shape[batch:]))
            inp = (*lead, *box.axes(operation.in_shapes[k][batch:]))
            yield Local(output, k, Term(box.sizes, out, inp, operation.opaque()))


def matrix_operation(operation: Operation) -> Iterator[Local]:
    """Linear algebra on the last two axes: wide within the matrix, exact in the batch axes."""
    yield from tied_leading(operation, 2)


def fft(operation: Operation) -> Iterator[Local]:
    """Fourier transforms: wide in the transformed axes, linear, exact in the others."""
    axes = len(operation.params["fft_lengths"])
    for local in tied_leading(operation, axes):
        t = local.term
        yield Local(0, 0, Term(t.sizes, t.out, t.inp, coefficients.OPAQUE))


def triangular_solve(operation: Operation) -> Iterator[Local]:
    """X with a·x = b, or x·a = b: dx = a⁻¹·(db − da·x), with the triangle of a, and its zeros.

    a⁻¹ is nonzero where one row of a leads to another: for lower triangular a, where i ≥ j.
    """
    params = operation.params
    n = operation.in_shapes[0][-1]
    if n > MAX_CLOSURE:
        yield from tied_leading(operation, 2)
        return
    zero = zeros(operation.tape, operation.node.inputs[0])
    left = params["left_side"]
    inverse = solver(params, zero, n)
    inverse = inverse if left else inverse.T
    matrix = triangle(params, zero, n)
    if params["unit_diagonal"]:
        matrix = matrix & ~np.eye(n, dtype=bool)
    shape = operation.out_shapes[0]
    for k in operation.active:
        box = Box()
        lead = box.axes(shape[:-2])
        i, j, column = box.axis(n), box.axis(n), box.axis(shape[-1] if left else shape[-2])
        out = (*lead, i, column) if left else (*lead, column, i)
        # dx[i] = a⁻¹[i, j]·(…)[j]
        first = conditions(inverse, (i, j))
        assert first is not None
        if k == 1:
            inp = (*lead, j, column) if left else (*lead, column, j)
            # linear in b: the coefficient is an entry of the inverse of a
            yield Local(0, 1, restrict(Term(box.sizes, out, inp, operation.opaque(0)), first))
            continue
        # (da·x)[j] = da[j, l]·x[l], or (x·da)[j] = x[l]·da[l, j]
        other = box.axis(n)
        place = (j, other) if left else (other, j)
        second = conditions(matrix, place)
        if second is None:
            continue
        x = (*lead, other, column) if left else (*lead, column, other)
        none = zeros(operation.tape, operation.node.outputs[0])
        third = Conditions() if none is None else conditions(~none, x)
        if third is None:
            continue
        entry = (*lead, *(place[::-1] if params["transpose_a"] else place))
        extra = merged(merged(first, second), third)
        yield Local(0, 0, restrict(Term(box.sizes, out, entry, operation.opaque()), extra))


def cholesky(operation: Operation) -> Iterator[Local]:
    """L with a = L·Lᵀ: dL = L·Φ(L⁻¹·da·L⁻ᵀ), Φ the lower triangle with half of its diagonal.

    L[i, j] sees da[k, l] only for k ≤ i and l ≤ j ≤ i; where L has known zeros, only what
    L[i, m], L⁻¹[m, k] and L⁻¹[j, l] allow, for some m ≥ j.
    """
    shape = operation.out_shapes[0]
    n = shape[-1]
    box = Box()
    lead = box.axes(shape[:-2])
    i, j, k, m = (box.axis(n) for _ in range(4))
    within = (affine.subtract(i, j), affine.subtract(i, k), affine.subtract(j, m))
    extra = Conditions(bounds=within)
    support = None
    if n <= MAX_SYMBOLIC:
        support = symbolic_cholesky(matrix_support(zeros(operation.tape, operation.node.inputs[0])))
    if support is not None:
        factor = np.tril(support)
        inverse = reach(factor)
        inverse = np.tri(n, dtype=bool) if inverse is None else inverse
        # reached[i, j, k]: some m ≥ j with L[i, m] and L⁻¹[m, k]
        products = factor[:, :, None] & inverse[None, :, :]
        reached = np.flip(np.logical_or.accumulate(np.flip(products, 1), axis=1), 1)
        for mask, index in ((reached, (i, j, k)), (inverse, (j, m))):
            allowed = conditions(mask, index)
            if allowed is None:
                return
            extra = merged(extra, allowed)
    term = Term(box.sizes, (*lead, i, j), (*lead, k, m), operation.opaque())
    yield Local(0, 0, restrict(term, extra))


def lu(operation: Operation) -> Iterator[Local]:
    """L and U of a matrix, with rows exchanged: a itself where it is upper triangular."""
    if is_upper(matrix_support(zeros(operation.tape, operation.node.inputs[0]))):
        same = identity(operation.in_shapes[0])
        yield Local(0, 0, same)
        return
    yield from tied_leading(operation, 2)


def qr(operation: Operation) -> Iterator[Local]:
    """Column j of Q and of R sees the columns up to j; R is upper triangular besides."""
    if operation.params.get("pivoting"):
        yield from tied_leading(operation, 2)
        return
    for output in (0, 1):
        box = Box()
        shape = operation.out_shapes[output]
        lead = box.axes(shape[:-2])
        row, column = box.axis(shape[-2]), box.axis(shape[-1])
        k, m = (box.axis(size) for size in operation.in_shapes[0][-2:])
        bounds = [affine.subtract(column, m)]
        if output == 1:
            bounds.append(affine.subtract(column, row))
        term = Term(
            box.sizes, (*lead, row, column), (*lead, k, m), operation.opaque(), bounds=tuple(bounds)
        )
        yield Local(output, 0, term)


RULES: dict[str, Rule] = {
    "fft": fft,
    "triangular_solve": triangular_solve,
    "cholesky": cholesky,
    "lu": lu,
    "qr": qr,
    **dict.fromkeys(
        (
            "geqrf",
            "geqp3",
            "eigh",
            "eig",
            "svd",
            "schur",
            "hessenberg",
            "tridiagonal",
            "householder_product",
            "tridiagonal_solve",
            "cholesky_update",
            "symmetric_product",
            "ormqr",
        ),
        matrix_operation,
    ),
}
