"""Operations that choose entries by index: gather, scatter, and slices at a start that varies.

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
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.masks import Conditions, conditions, lookup, merged, restrict
from jacobians.derive.facts.ranges import integer_bounds
from jacobians.derive.operation import Box, Local, Operation, Rule


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
        total = merged(total, extra)
    allowed = conditions(usable, batch)
    return starts, None if allowed is None else merged(total, allowed), all_known


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
        extra = merged(extra, more)
        extra = merged(extra, Conditions(bounds=(affine.subtract(narrow, beyond),)))
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


RULES: dict[str, Rule] = {
    "gather": gather,
    **dict.fromkeys(
        (
            "scatter",
            "scatter-add",
            "scatter_add",
            "scatter-sub",
            "scatter_sub",
            "scatter-mul",
            "scatter_mul",
            "scatter-min",
            "scatter_min",
            "scatter-max",
            "scatter_max",
        ),
        scatter,
    ),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
