"""Operations that move entries without changing them: every local term has the coefficient 1.

Each rule writes the operation's index map once, as affine expressions: `rev` is n − 1 − k, a
strided slice start + stride·k, a pad low + (interior + 1)·k with what falls outside cut away.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import prod

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import ZERO, Affine, subtract
from jacobians.derive.algebra.term import Term
from jacobians.derive.operation import Box, Local, Operation, Rule, Shape


def inside(index: tuple[Affine, ...], shape: Shape) -> tuple[Affine, ...]:
    """The bounds that keep an index within a shape."""
    bounds = []
    for e, n in zip(index, shape, strict=True):
        bounds.append(e)
        bounds.append(subtract(affine.constant(n - 1), e))
    return tuple(bounds)


def broadcast_in_dim(operation: Operation) -> Iterator[Local]:
    """New axes, and size-one axes stretched."""
    box = Box()
    out = box.axes(operation.out_shapes[0])
    dims = operation.params["broadcast_dimensions"]
    shape = operation.in_shapes[0]
    inp = tuple(ZERO if n == 1 else out[d] for n, d in zip(shape, dims, strict=True))
    yield Local(0, 0, Term(box.sizes, out, inp))


def reshape(operation: Operation) -> Iterator[Local]:
    """Axes merged and split; where the radices nest, without a condition left over."""
    yield Local(0, 0, reshape_term(operation.in_shapes[0], operation.out_shapes[0]))


def reshape_term(in_shape: Shape, out_shape: Shape) -> Term:
    """The identity between two row-major arrays of the same number of elements."""
    strides = sorted({*_strides(in_shape), *_strides(out_shape)})
    if all(b % a == 0 for a, b in pairwise(strides)):
        box = Box()
        digits = {a: box.axis(b // a) for a, b in pairwise(strides)}

        def index(shape: Shape) -> tuple[Affine, ...]:
            result = []
            stride = prod(shape)
            for n in shape:
                upper, stride = stride, stride // n
                e = ZERO
                for a, digit in digits.items():
                    if stride <= a < upper:
                        e = affine.add(e, affine.scale(digit, a // stride))
                result.append(e)
            return tuple(result)

        return Term(box.sizes, index(out_shape), index(in_shape))
    box = Box()
    out, inp = box.axes(out_shape), box.axes(in_shape)
    zero = subtract(affine.ravel(out, out_shape), affine.ravel(inp, in_shape))
    return Term(box.sizes, out, inp, zeros=(zero,))


def _strides(shape: Shape) -> list[int]:
    strides = [1]
    for n in reversed(shape):
        strides.append(strides[-1] * n)
    return strides


def squeeze(operation: Operation) -> Iterator[Local]:
    """Axes of size one dropped."""
    shape = operation.in_shapes[0]
    dims = {d % len(shape) for d in operation.params["dimensions"]}
    box = Box()
    inp = box.axes(shape)
    out = tuple(e for d, e in enumerate(inp) if d not in dims)
    yield Local(0, 0, Term(box.sizes, out, inp))


def expand_dims(operation: Operation) -> Iterator[Local]:
    """Axes of size one added."""
    shape = operation.out_shapes[0]
    dims = {d % len(shape) for d in operation.params["dimensions"]}
    box = Box()
    out = box.axes(shape)
    yield Local(0, 0, Term(box.sizes, out, tuple(e for d, e in enumerate(out) if d not in dims)))


def transpose(operation: Operation) -> Iterator[Local]:
    """Axes permuted."""
    box = Box()
    inp = box.axes(operation.in_shapes[0])
    out = tuple(inp[d] for d in operation.params["permutation"])
    yield Local(0, 0, Term(box.sizes, out, inp))


def rev(operation: Operation) -> Iterator[Local]:
    """Axes reversed."""
    box = Box()
    shape = operation.in_shapes[0]
    inp = box.axes(shape)
    out = tuple(
        subtract(affine.constant(shape[d] - 1), e) if d in operation.params["dimensions"] else e
        for d, e in enumerate(inp)
    )
    yield Local(0, 0, Term(box.sizes, out, inp))


def slice_(operation: Operation) -> Iterator[Local]:
    """Every stride-th entry from a start."""
    box = Box()
    out = box.axes(operation.out_shapes[0])
    starts = operation.params["start_indices"]
    strides = operation.params["strides"] or (1,) * len(starts)
    inp = tuple(
        affine.shift(affine.scale(e, stride), start)
        for e, start, stride in zip(out, starts, strides, strict=True)
    )
    yield Local(0, 0, Term(box.sizes, out, inp))


def pad(operation: Operation) -> Iterator[Local]:
    """Entries set apart by padding, cut where the padding is negative; the padding value itself."""
    config = operation.params["padding_config"]
    shape, in_shape = operation.out_shapes[0], operation.in_shapes[0]
    if 0 in operation.active:
        box = Box()
        inp = box.axes(in_shape)
        out = tuple(
            affine.shift(affine.scale(e, interior + 1), low)
            for e, (low, _, interior) in zip(inp, config, strict=True)
        )
        yield Local(0, 0, Term(box.sizes, out, inp, bounds=inside(out, shape)))
    if 1 in operation.active:
        yield from _padded(shape, in_shape, config)


def _padded(
    shape: Shape, in_shape: Shape, config: tuple[tuple[int, int, int], ...]
) -> Iterator[Local]:
    """The places that take the padding value, as disjoint terms.

    Along the first axis where a place holds no entry of the operand it lies before the first, after
    the last, or between two: with low = 2 and interior = 1, at 0, 1 and at 2 + 2·k + 1.
    """
    for axis, (low, _, interior) in enumerate(config):
        step, last = interior + 1, low + (in_shape[axis] - 1) * (interior + 1)
        if in_shape[axis] == 0:
            low = last = shape[axis]
        box = Box()
        out = list(box.axes(shape))
        bounds: list[Affine] = []
        for d in range(axis):
            # an entry of the operand along the axes before
            before, _, apart = config[d]
            out[d] = affine.shift(affine.scale(box.axis(in_shape[d]), apart + 1), before)
            bounds.extend(inside((out[d],), (shape[d],)))
        outside = [
            (subtract(affine.constant(low - 1), out[axis]),),
            (affine.shift(out[axis], -last - 1),),
        ]
        for more in outside:
            yield Local(0, 1, Term(box.sizes, tuple(out), (), bounds=(*bounds, *more)))
        if interior and in_shape[axis] > 1:
            between = affine.add(
                affine.scale(box.axis(in_shape[axis] - 1), step),
                affine.shift(box.axis(interior), low + 1),
            )
            out[axis] = between
            bounds.extend(inside((between,), (shape[axis],)))
            yield Local(0, 1, Term(dict(box.sizes), tuple(out), (), bounds=tuple(bounds)))


def concatenate(operation: Operation) -> Iterator[Local]:
    """Operands one after another along an axis."""
    axis = operation.params["dimension"]
    offset = 0
    for k, shape in enumerate(operation.in_shapes):
        if k in operation.active:
            box = Box()
            inp = box.axes(shape)
            out = (*inp[:axis], affine.shift(inp[axis], offset), *inp[axis + 1 :])
            yield Local(0, k, Term(box.sizes, out, inp))
        offset += shape[axis]


def split(operation: Operation) -> Iterator[Local]:
    """One operand cut into consecutive results along an axis."""
    axis = operation.params["axis"]
    offset = 0
    for k, shape in enumerate(operation.out_shapes):
        box = Box()
        out = box.axes(shape)
        inp = (*out[:axis], affine.shift(out[axis], offset), *out[axis + 1 :])
        yield Local(k, 0, Term(box.sizes, out, inp))
        offset += shape[axis]


def stack(operation: Operation) -> Iterator[Local]:
    """Operands side by side along a new axis."""
    axis = operation.params["axis"]
    for k in operation.active:
        box = Box()
        inp = box.axes(operation.in_shapes[k])
        yield Local(0, k, Term(box.sizes, (*inp[:axis], affine.constant(k), *inp[axis:]), inp))


def unstack(operation: Operation) -> Iterator[Local]:
    """One operand taken apart along an axis."""
    axis = operation.params["axis"]
    for k, shape in enumerate(operation.out_shapes):
        box = Box()
        out = box.axes(shape)
        yield Local(k, 0, Term(box.sizes, out, (*out[:axis], affine.constant(k), *out[axis:])))


def tile(operation: Operation) -> Iterator[Local]:
    """An operand repeated along its axes."""
    box = Box()
    shape = operation.in_shapes[0]
    inp = box.axes(shape)
    out = tuple(
        affine.add(affine.scale(box.axis(repeats), n), e)
        for repeats, n, e in zip(operation.params["reps"], shape, inp, strict=True)
    )
    yield Local(0, 0, Term(box.sizes, out, inp))


RULES: dict[str, Rule] = {
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "transpose": transpose,
    "rev": rev,
    "slice": slice_,
    "pad": pad,
    "concatenate": concatenate,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
}
