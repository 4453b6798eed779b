"""Operations that choose entries by index or predicate: gather, scatter, slices, select, sort.

Where the index is known the choice is written down exactly; where it is not, the term says what is
true for every index: a `dynamic_slice` reads `start + k` for some one start, so its term is a band,
and a gather reads anywhere along the axes that it indexes.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobians import program
from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import ZERO, Affine
from jacobians.derive.algebra.block import identity
from jacobians.derive.algebra.coefficient import Coefficient
from jacobians.derive.algebra.syntax import Indicator, Not, Slot, is_case
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.masks import Conditions, conditions, lookup, restrict
from jacobians.derive.facts.ranges import integer_bounds, range_of
from jacobians.derive.facts.support import (
    MAX_CLOSURE,
    is_upper,
    matrix_support,
    reach,
    solver,
    symbolic_cholesky,
    triangle,
)
from jacobians.derive.operation import Box, Local, Operation, Rule, restrict_index
from jacobians.derive.tape import Function

# rows of a matrix whose Cholesky factor is followed entry by entry
MAX_SYMBOLIC = 1 << 7


def _merge(a: Conditions, b: Conditions) -> Conditions:
    return Conditions(
        a.zeros + b.zeros, a.bounds + b.bounds, a.guards + b.guards, {**a.sizes, **b.sizes}
    )


def _starts(
    operation: Operation,
    box: Box,
    batch: tuple[Affine, ...],
    rooms: dict[int, int],
    positions: dict[int, int],
) -> tuple[dict[int, Affine], Conditions | None, bool]:
    """Where the windows of a gather or scatter start, per operand axis.

    Args:
        operation: its operand 1 holds the start indices, index vectors along the last axis.
        box: maker of variables.
        batch: index into all but the last axis of the indices.
        rooms: for every indexed operand axis, the last start that keeps the window inside.
        positions: for every indexed operand axis, its place in the index vector.

    Returns:
        An expression per indexed axis; the conditions under which the window is used (None:
        never); whether all is known.
    """
    bounds = integer_bounds(operation.tape, operation.node.inputs[1])
    mode = str(operation.params["mode"]).upper()
    anywhere = "CLIP" in mode or "PROMISE" in mode
    starts: dict[int, Affine] = {}
    if bounds is None:
        for d, room in rooms.items():
            starts[d] = box.axis(room + 1)
        return starts, Conditions(), False
    total = Conditions()
    usable = np.ones(bounds[0].shape[:-1], dtype=bool)
    all_known = True
    for d, room in rooms.items():
        least, greatest = (b[..., positions[d]] for b in bounds)
        # with out-of-range windows dropped, a start that may be outside is not known to be used
        sure = anywhere or ((least >= 0) & (greatest <= room))
        if not anywhere:
            usable &= (greatest >= 0) & (least <= room)
        least, greatest = np.clip(least, 0, room), np.clip(greatest, 0, room)
        all_known = all_known and bool((sure | (bounds[0] == bounds[1])[..., positions[d]]).all())
        all_known = all_known and bool((least == greatest)[usable].all())
        starts[d], extra = _between(least, greatest, batch, box)
        total = _merge(total, extra)
    allowed = conditions(usable, batch)
    return starts, None if allowed is None else _merge(total, allowed), all_known


def _between(
    least: np.ndarray[Any, Any],
    greatest: np.ndarray[Any, Any],
    index: tuple[Affine, ...],
    box: Box,
) -> tuple[Affine, Conditions]:
    """A number between two tables' entries at an index: `least[k] + v` with 0 ≤ v ≤ width[k].

    Between [0, 1] and [1, 2] it is k + v, with v in {0, 1}.
    """
    start, extra = lookup(least, index)
    width = greatest - least
    widest = int(np.max(width, initial=0))
    if widest == 0:
        return start, extra
    beyond = box.axis(widest + 1)
    if int(np.min(width)) < widest:
        narrow, more = lookup(width, index)
        extra = _merge(extra, more)
        extra = _merge(extra, Conditions(bounds=(affine.subtract(narrow, beyond),)))
    return affine.add(start, beyond), extra


def gather(operation: Operation) -> Iterator[Local]:
    """XLA's gather: a window of the operand for each index vector."""
    if 0 not in operation.active:
        return
    params = operation.params
    numbers = params["dimension_numbers"]
    shape = operation.in_shapes[0]
    sizes = params["slice_sizes"]
    box = Box()
    out = box.axes(operation.out_shapes[0])
    batch = tuple(e for d, e in enumerate(out) if d not in numbers.offset_dims)
    hidden = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = iter(out[d] for d in numbers.offset_dims)
    offsets = [ZERO if d in hidden else next(windows) for d in range(len(shape))]
    positions = {d: p for p, d in enumerate(numbers.start_index_map)}
    rooms = {d: shape[d] - sizes[d] for d in positions}
    starts, extra, known = _starts(operation, box, batch, rooms, positions)
    if extra is None:
        return
    ties = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    inp = tuple(
        batch[ties[d]] if d in ties else affine.add(starts.get(d, ZERO), offsets[d])
        for d in range(len(shape))
    )
    coefficient = coefficients.ONE if known else operation.opaque(1)
    yield Local(0, 0, restrict(Term(box.sizes, out, inp, coefficient), extra))


def scatter(operation: Operation) -> Iterator[Local]:
    """XLA's scatter and its combining forms: windows of updates written into an operand."""
    op = operation.op
    params = operation.params
    adds = op in ("scatter-add", "scatter_add", "scatter-sub", "scatter_sub")
    overwrites = op == "scatter" and params.get("update_jaxpr") is None
    indices = operation.known(1)
    touched = _touched(operation, indices)
    if 0 in operation.active:
        same = identity(operation.in_shapes[0])
        if adds:
            yield Local(0, 0, same)
        elif overwrites and touched is not None:
            free = conditions(touched == 0, same.out)
            if free is not None:
                yield Local(0, 0, restrict(same, free))
        else:
            yield Local(0, 0, Term(same.sizes, same.out, same.inp, operation.opaque()))
    if 2 not in operation.active:
        return
    numbers = params["dimension_numbers"]
    shape = operation.out_shapes[0]
    update_shape = operation.in_shapes[2]
    box = Box()
    inp = box.axes(update_shape)
    batch = tuple(e for d, e in enumerate(inp) if d not in numbers.update_window_dims)
    hidden = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = iter(numbers.update_window_dims)
    offsets, sizes = [], []
    for d in range(len(shape)):
        w = None if d in hidden else next(windows)
        offsets.append(ZERO if w is None else inp[w])
        sizes.append(1 if w is None else update_shape[w])
    positions = {d: p for p, d in enumerate(numbers.scatter_dims_to_operand_dims)}
    rooms = {d: shape[d] - sizes[d] for d in positions}
    if any(room < 0 for room in rooms.values()):
        return
    starts, extra, known = _starts(operation, box, batch, rooms, positions)
    if extra is None:
        return
    ties = dict(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    out = tuple(
        batch[ties[d]] if d in ties else affine.add(starts.get(d, ZERO), offsets[d])
        for d in range(len(shape))
    )
    coefficient: Coefficient = operation.opaque()
    once = overwrites and touched is not None and int(touched.max(initial=0)) <= 1
    if known and (once or adds):
        minus = op.endswith("sub")
        coefficient = Coefficient((coefficients.Product(-1.0, ()),)) if minus else coefficients.ONE
    yield Local(0, 2, restrict(Term(box.sizes, out, inp, coefficient), extra))


def _touched(
    operation: Operation, indices: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any] | None:
    """How often each entry of the operand is written, for known indices."""
    if indices is None or operation.op != "scatter":
        return None
    params = operation.params
    with program.outside_any_trace():
        counted = lax.scatter_add(
            jnp.zeros(operation.in_shapes[0], jnp.int32),
            jnp.asarray(indices),
            jnp.ones(operation.in_shapes[2], jnp.int32),
            params["dimension_numbers"],
            mode=params["mode"],
        )
        return np.asarray(counted)


def _dynamic_start(operation: Operation, operand: int, room: int) -> tuple[int, int]:
    """The least and the greatest start along one axis, clamped as XLA does."""
    bounds = integer_bounds(operation.tape, operation.node.inputs[operand])
    if bounds is None:
        return 0, room
    return int(np.clip(bounds[0], 0, room)), int(np.clip(bounds[1], 0, room))


def dynamic_slice(operation: Operation) -> Iterator[Local]:
    """A window of the operand at a start that may depend on the input.

    From a start in {0, 1}, `x[start : start + 2]` has the entries (k, k) and (k, k + 1).
    """
    if 0 not in operation.active:
        return
    box = Box()
    out = box.axes(operation.out_shapes[0])
    inp, all_known = [], True
    for d, n in enumerate(operation.in_shapes[0]):
        least, greatest = _dynamic_start(operation, d + 1, n - operation.out_shapes[0][d])
        start = affine.shift(box.axis(greatest - least + 1), least)
        inp.append(affine.add(start, out[d]))
        all_known = all_known and least == greatest
    starts = range(1, len(operation.in_shapes))
    coefficient = coefficients.ONE if all_known or not inp else operation.opaque(*starts)
    yield Local(0, 0, Term(box.sizes, out, tuple(inp), coefficient))


def dynamic_update_slice(operation: Operation) -> Iterator[Local]:
    """The operand with a window replaced."""
    shape, window = operation.in_shapes[0], operation.in_shapes[1]
    places = [_dynamic_start(operation, d + 2, n - window[d]) for d, n in enumerate(shape)]
    all_known = all(least == greatest for least, greatest in places)
    starts = range(2, len(operation.in_shapes))
    unknown = operation.opaque(*starts) if shape else coefficients.ONE
    coefficient = coefficients.ONE if all_known else unknown
    if 1 in operation.active:
        box = Box()
        inp = box.axes(window)
        out = tuple(
            affine.add(affine.shift(box.axis(greatest - least + 1), least), e)
            for (least, greatest), e in zip(places, inp, strict=True)
        )
        yield Local(0, 1, Term(box.sizes, out, inp, coefficient))
    if 0 in operation.active and tuple(shape) != tuple(window):
        # from every start on, what lies between the last first row and the first last row
        covered = [
            (greatest, least + n - 1) for (least, greatest), n in zip(places, window, strict=True)
        ]
        if any(first > last for first, last in covered):
            same = identity(shape)
            yield Local(0, 0, Term(same.sizes, same.out, same.inp, coefficient))
            return
        yield from _outside(shape, covered, coefficient)


def _outside(
    shape: tuple[int, ...], covered: list[tuple[int, int]], coefficient: Coefficient
) -> Iterator[Local]:
    """The operand's entries outside a box of first and last indices, as disjoint boxes."""
    for axis in range(len(shape)):
        first, last = covered[axis]
        for low, high in ((0, first - 1), (last + 1, shape[axis] - 1)):
            if low > high:
                continue
            same = identity(shape)
            bounds = [
                affine.shift(same.out[axis], -low),
                affine.subtract(affine.constant(high), same.out[axis]),
            ]
            for d in range(axis):
                bounds.append(affine.shift(same.out[d], -covered[d][0]))
                bounds.append(affine.subtract(affine.constant(covered[d][1]), same.out[d]))
            term = Term(same.sizes, same.out, same.inp, coefficient, bounds=tuple(bounds))
            yield Local(0, 0, term)


def select_n(operation: Operation) -> Iterator[Local]:
    """Entry by entry, the case that the predicate names."""
    shape = operation.out_shapes[0]
    which = operation.known(0)
    predicate_shape = operation.in_shapes[0]
    boolean = operation.tape.values[operation.node.inputs[0]].dtype == np.bool_
    possible = range_of(operation.tape, operation.node.inputs[0]) if which is None else None
    for k in operation.active:
        if k == 0:
            continue
        if possible is not None and ((possible.low > k - 1) | (possible.high < k - 1)).all():
            continue
        same = identity(shape)
        index = restrict_index(same.out, predicate_shape)
        if which is not None:
            extra = conditions(np.asarray(which).astype(np.int64) == k - 1, index)
            if extra is not None:
                yield Local(0, k, restrict(same, extra))
            continue
        truth = Slot(0) if k == 2 else Not(Slot(0))
        form = Indicator(truth) if boolean else is_case(k - 1)
        chosen = Function(f"select{k - 1}", form, _equals(k - 1), selects=True)
        coefficient = operation.function(chosen, [operation.node.inputs[0]], index)
        yield Local(0, k, Term(same.sizes, same.out, same.inp, coefficient))


def _equals(case: int) -> Any:
    return lambda which: 1.0 * (jnp.asarray(which).astype(jnp.int32) == case)


def sort(operation: Operation) -> Iterator[Local]:
    """Each result is its own operand, reordered along the axis: as known keys say, or anyhow."""
    axis = operation.params["dimension"]
    order = _known_order(operation)
    for k in operation.active:
        if order is None:
            yield Local(k, k, _along(operation, k, k, axis))
            continue
        box = Box()
        out = box.axes(operation.out_shapes[k])
        place, extra = lookup(order, out)
        inp = (*out[:axis], place, *out[axis + 1 :])
        yield Local(k, k, restrict(Term(box.sizes, out, inp), extra))


def _known_order(operation: Operation) -> np.ndarray[Any, Any] | None:
    """Where each sorted entry comes from along the axis, for known keys that decide it.

    With keys [3, 1, 2]: [1, 2, 0].
    """
    params = operation.params
    keys = [operation.known(k) for k in range(params["num_keys"])]
    known = [key for key in keys if key is not None]
    if len(known) < len(keys):
        return None
    axis = params["dimension"]
    for key in known:
        if not (np.issubdtype(key.dtype, np.integer) or key.dtype == np.bool_):
            # where floats lie close together, rounding decides
            return None
    order = np.lexsort(known[::-1], axis=axis)
    if not params["is_stable"]:
        ordered = [np.take_along_axis(key, order, axis) for key in known]
        ties = np.all(np.stack([np.diff(key, axis=axis) == 0 for key in ordered]), axis=0)
        if ties.any():
            return None
    return order


def top_k(operation: Operation) -> Iterator[Local]:
    """The largest entries along the last axis."""
    rank = len(operation.in_shapes[0])
    axis = operation.params.get("axis", operation.params.get("reduction_dimension", rank - 1))
    yield Local(0, 0, _along(operation, 0, 0, axis % rank))


def _along(operation: Operation, k: int, output: int, axis: int) -> Term:
    """Every entry of a line along `axis` can be any entry of the same line."""
    box = Box()
    inp = box.axes(operation.in_shapes[k])
    out = list(inp)
    out[axis] = box.axis(operation.out_shapes[output][axis])
    return Term(box.sizes, tuple(out), inp, operation.opaque())


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
        extra = _merge(_merge(first, second), third)
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
            extra = _merge(extra, allowed)
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
    "gather": gather,
    "scatter": scatter,
    "scatter-add": scatter,
    "scatter_add": scatter,
    "scatter-sub": scatter,
    "scatter_sub": scatter,
    "scatter-mul": scatter,
    "scatter_mul": scatter,
    "scatter-min": scatter,
    "scatter_min": scatter,
    "scatter-max": scatter,
    "scatter_max": scatter,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "select_n": select_n,
    "sort": sort,
    "top_k": top_k,
    "approx_top_k": top_k,
    "fft": fft,
    "triangular_solve": triangular_solve,
    "cholesky": cholesky,
    "lu": lu,
    "qr": qr,
    **dict.fromkeys(
        [
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
        ],
        matrix_operation,
    ),
}
