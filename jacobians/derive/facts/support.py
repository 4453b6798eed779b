"""Known zeros that need an operation of their own: sums at known indices, and factorisations.

What can be nonzero is a boolean array, the support. Of a product it is the boolean product of the
supports; of an inverse it lies within the transitive closure of the matrix's own, because A⁻¹ is a
polynomial in A: the inverse of a diagonal matrix is diagonal, of a triangular one triangular.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from jacobians import program
from jacobians.derive.tape import Node, Tape
from jacobians.program.primitives import Does, does

Mask = NDArray[np.bool_]
# gives where a value is certainly 0, or None
Finder = Callable[[int], Mask | None]

# rows of a matrix whose closure is computed
MAX_CLOSURE = 1 << 10


def zeros_of_result(tape: Tape, node: Node, number: int, find: Finder) -> Mask | None:
    """Where a result of an operation is certainly 0, by known zeros of its operands.

    Args:
        tape: the tape.
        node: the operation.
        number: the result.
        find: gives where an operand is certainly 0, all of its entries being finite.
    """
    op, inputs, shape = node.op, node.inputs, tape.values[number].shape
    if op in ("real", "imag", "conj"):
        return find(inputs[0])
    if does(op, Does.ADDS):
        return _summed(tape, node, number, find)
    if op == "triangular_solve":
        return _solved(tape, node, find)
    if op == "cholesky":
        support = symbolic_cholesky(matrix_support(find(inputs[0])))
        return None if support is None else _spread(~support, shape)
    if op == "lu" and number == node.outputs[0]:
        mask = find(inputs[0])
        upper = is_upper(matrix_support(mask))
        # nothing is eliminated and no row exchanged
        return mask if upper else None
    if op == "qr" and number == node.outputs[1]:
        below = np.tri(shape[-2], shape[-1], k=-1, dtype=bool)
        return _spread(below, shape) if below.any() else None
    return None


def _spread(mask: Mask | None, shape: tuple[int, ...]) -> Mask | None:
    """The same mask of the last axes for every index along those before them."""
    return None if mask is None else np.broadcast_to(mask, shape)


def _zeros(tape: Tape, number: int, find: Finder) -> Mask | None:
    """The known zeros of a value; a scalar is 0 or not."""
    if tape.values[number].shape:
        return find(number)
    known = tape.certain(number)
    return np.ones((), bool) if known is not None and known == 0 else None


def _summed(tape: Tape, node: Node, number: int, find: Finder) -> Mask | None:
    """The operation itself on supports: a sum of zeros is 0."""
    operands: list[NDArray[Any]] = []
    some = False
    for k in node.inputs:
        value = tape.values[k]
        known = tape.certain(k)
        if value.dtype is not None and np.issubdtype(value.dtype, np.integer):
            if known is None:
                return None
            operands.append(known)
            continue
        zero = _zeros(tape, k, find)
        some = some or zero is not None
        support = np.ones(value.shape) if zero is None else 1.0 - zero
        operands.append(support.astype(value.dtype))
    if not some:
        return None
    params = program.parameters(node.equation)
    if node.op == "scatter" and params["update_jaxpr"] is not None:
        return None
    try:
        with program.outside_any_trace():
            made = program.evaluate(node.equation, operands)[node.outputs.index(number)]
            if node.op == "scatter":
                # of several updates of one entry any may come last
                written = [np.zeros_like(operands[0]), *operands[1:]]
                made = np.abs(made) + np.abs(_added(params, written))
    except program.FAILURES:
        # what cannot be computed here says nothing: wide, never wrong
        return None
    # what is filled in outside may be NaN
    zero = np.asarray(made) == 0
    return zero if zero.any() else None


def _added(params: Any, operands: Sequence[Any]) -> Any:
    """The updates of a scatter added instead of written."""
    array, indices, updates = map(jnp.asarray, operands)
    numbers, mode = params["dimension_numbers"], params["mode"]
    return np.asarray(lax.scatter_add(array, indices, updates, numbers, mode=mode))


def matrix_support(zero: Mask | None) -> Mask | None:
    """What can be nonzero in the last two axes, in any of the matrices along the others."""
    if zero is None:
        return None
    support = ~zero
    return np.asarray(support.any(axis=tuple(range(support.ndim - 2))))


def is_upper(support: Mask | None) -> bool:
    """Whether a square matrix is zero below its diagonal."""
    return support is not None and not np.tril(support, -1).any()


def reach(support: Mask) -> Mask | None:
    """Where the inverse, or any function of a matrix, can be nonzero: i leads to j step by step.

    Of [[1, 1, 0], [0, 1, 1], [0, 0, 1]] it is the whole upper triangle. None where that is
    everywhere, or too much to find out.
    """
    n = support.shape[0]
    if n > MAX_CLOSURE:
        return None
    count, part = connected_components(csr_array(support), connection="strong")
    if count == 1:
        return None
    steps = np.zeros((count, count), np.float32)
    rows, columns = np.nonzero(support)
    steps[part[rows], part[columns]] = 1.0
    np.fill_diagonal(steps, 1.0)
    while True:
        longer = (steps @ steps > 0).astype(np.float32)
        if bool((longer == steps).all()):
            break
        steps = longer
    reached = np.asarray(steps[np.ix_(part, part)] > 0)
    return None if reached.all() else reached


def inverse_support(support: Mask) -> Mask | None:
    """Where the inverse of a matrix can be nonzero; None where that is everywhere.

    Rows are first exchanged so that the diagonal is full: A = Q·B has the inverse B⁻¹·Qᵀ, and the
    inverse of a permuted diagonal matrix is one too.
    """
    n = support.shape[0]
    if n > MAX_CLOSURE:
        return None
    if support.diagonal().all():
        return reach(support)
    column_of = maximum_bipartite_matching(csr_array(support), perm_type="column")
    if (column_of < 0).any():
        return None
    arranged = np.empty_like(support)
    arranged[column_of] = support
    found = reach(arranged)
    return None if found is None else found[:, column_of]


def exchange_mixes(support: Mask, inverse: Mask) -> bool:
    """Whether elimination with exchanged rows adds rows that the inverse keeps apart.

    In column k every row from k on with an entry there may become the pivot of the others. In an
    upper triangular matrix there is one such row, in a lower triangular one there are many.
    """
    n = support.shape[0]
    mixed = support.copy()
    for k in range(n):
        rows = np.flatnonzero(support[k:, k]) + k
        if len(rows) > 1:
            # enough for one group: a ring
            mixed[rows, np.roll(rows, 1)] = True
    if bool((mixed == support).all()):
        return False
    found = inverse_support(mixed)
    return found is None or bool((found & ~inverse).any())


def triangle(params: Any, zero: Mask | None, n: int) -> Mask:
    """What can be nonzero in the matrix that a `triangular_solve` solves with, transposed if so."""
    full = np.tri(n, dtype=bool)
    support = full if params["lower"] else full.T
    known = matrix_support(zero)
    if known is not None:
        support = (support & known) | np.eye(n, dtype=bool)
    return np.asarray(support.T if params["transpose_a"] else support)


def solver(params: Any, zero: Mask | None, n: int) -> Mask:
    """Where the inverse of the matrix of a `triangular_solve` can be nonzero."""
    support = triangle(params, zero, n)
    found = reach(support)
    if found is not None:
        return found
    lower = params["lower"] != params["transpose_a"]
    full = np.tri(n, dtype=bool)
    return full if lower else full.T


def _solved(tape: Tape, node: Node, find: Finder) -> Mask | None:
    """Zeros of a⁻¹·b (or b·a⁻¹): the boolean product of the inverse's support and b's."""
    params = program.parameters(node.equation)
    zero = find(node.inputs[1])
    n = tape.values[node.inputs[0]].shape[-1]
    if zero is None or n > MAX_CLOSURE:
        return None
    inverse = solver(params, find(node.inputs[0]), n).astype(np.float32)
    right = (~zero).astype(np.float32)
    made = inverse @ right if params["left_side"] else right @ inverse
    result = np.asarray(made == 0)
    return result if result.any() else None


def symbolic_cholesky(support: Mask | None) -> Mask | None:
    """The support of L in A = L·Lᵀ, column by column: row k of A fills what lies below it.

    Below the diagonal only; None where nothing is known.
    """
    if support is None or support.shape[0] > MAX_CLOSURE:
        return None
    lower = np.tril(support) | np.eye(support.shape[0], dtype=bool)
    for k in range(support.shape[0]):
        below = np.flatnonzero(lower[k + 1 :, k]) + k + 1
        if len(below):
            lower[np.ix_(below, below)] = True
    result = np.tril(lower)
    # above the diagonal stands what the operation has found there
    return np.asarray(result | np.triu(np.ones_like(result), 1))
