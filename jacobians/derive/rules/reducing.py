"""Operations that combine entries: reductions, scans along an axis, products, windows.

A reduction drops axes from the output index; a contraction sums over an index that only its
coefficient keeps; a convolution is `in·dilation + pad − k·dilation' = out·stride` per axis.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, subtract
from jacobians.derive.algebra.coefficient import Coefficient
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.masks import Conditions, conditions, restrict
from jacobians.derive.operation import Box, Local, Operation, Rule
from jacobians.derive.rules.moving import inside


def _complex(operation: Operation) -> bool:
    nodes = (*operation.node.inputs, *operation.node.outputs)
    return any(jnp.issubdtype(operation.tape.values[k].dtype, jnp.complexfloating) for k in nodes)


def reduce_(operation: Operation) -> Iterator[Local]:
    """`reduce_sum` has coefficient 1; the others the derivative that JAX computes."""
    axes = operation.params["axes"]
    box = Box()
    inp = box.axes(operation.in_shapes[0])
    out = tuple(e for d, e in enumerate(inp) if d not in axes)
    if operation.op == "reduce_sum":
        coefficient = coefficients.ONE
    elif _complex(operation):
        coefficient = operation.opaque()
    else:
        coefficient = operation.derivative(0, 0, inp, by_output=False)
    yield Local(0, 0, Term(box.sizes, out, inp, coefficient))


def reduce_generic(operation: Operation) -> Iterator[Local]:
    """`lax.reduce` with any computation: operands first, initial values after them."""
    axes = operation.params["dimensions"]
    count = len(operation.in_shapes) // 2
    for k in operation.active:
        for output in range(len(operation.out_shapes)):
            box = Box()
            inp = box.axes(operation.in_shapes[k])
            if k < count:
                out = tuple(e for d, e in enumerate(inp) if d not in axes)
            else:
                out = box.axes(operation.out_shapes[output])
            yield Local(output, k, Term(box.sizes, out, inp, operation.opaque()))


def cumulative(operation: Operation) -> Iterator[Local]:
    """Entry k depends on entries j ≤ k along the axis (j ≥ k in reverse)."""
    axis = operation.params["axis"]
    shape = operation.in_shapes[0]
    box = Box()
    inp = box.axes(shape)
    last = box.axis(shape[axis])
    out = (*inp[:axis], last, *inp[axis + 1 :])
    bound = subtract(last, inp[axis])
    if operation.params["reverse"]:
        bound = affine.scale(bound, -1)
    coefficient = coefficients.ONE if operation.op == "cumsum" else operation.opaque()
    yield Local(0, 0, Term(box.sizes, out, inp, coefficient, bounds=(bound,)))


def dot_general(operation: Operation) -> Iterator[Local]:
    """Contracted axes leave the output and index the other operand."""
    (contract, batch) = operation.params["dimension_numbers"]
    for k in operation.active:
        box = Box()
        mine = box.axes(operation.in_shapes[k])
        other: list[Affine | None] = [None] * len(operation.in_shapes[1 - k])
        for a, b in (*zip(contract[k], contract[1 - k], strict=True),):
            other[b] = mine[a]
        for a, b in zip(batch[k], batch[1 - k], strict=True):
            other[b] = mine[a]
        index = tuple(
            box.axis(n) if e is None else e
            for e, n in zip(other, operation.in_shapes[1 - k], strict=True)
        )
        left, right = (mine, index) if k == 0 else (index, mine)
        out = (
            *(left[d] for d in batch[0]),
            *(e for d, e in enumerate(left) if d not in (*contract[0], *batch[0])),
            *(e for d, e in enumerate(right) if d not in (*contract[1], *batch[1])),
        )
        yield from _with_factor(operation, k, 1 - k, index, Term(box.sizes, out, mine))


def convolution(operation: Operation) -> Iterator[Local]:
    """N-dimensional convolution with stride, padding, both dilations and groups."""
    params = operation.params
    numbers = params["dimension_numbers"]
    lhs_shape, rhs_shape = operation.in_shapes
    features = params["feature_group_count"]
    batches = params["batch_group_count"]
    channels = rhs_shape[numbers.rhs_spec[0]]
    n_out = operation.out_shapes[0][numbers.out_spec[0]]
    for k in operation.active:
        box = Box()
        groups = max(features, batches)
        group = box.axis(groups)
        channel = affine.add(affine.scale(group, channels // groups), box.axis(channels // groups))
        reach = rhs_shape[numbers.rhs_spec[1]]
        within = box.axis(reach)
        example = box.axis(n_out)
        lhs_batch, lhs_channel = example, within
        if features > 1:
            lhs_channel = affine.add(affine.scale(group, reach), within)
        if batches > 1:
            lhs_batch = affine.add(affine.scale(group, n_out), example)
        lhs: list[Affine] = [affine.ZERO] * len(lhs_shape)
        rhs: list[Affine] = [affine.ZERO] * len(rhs_shape)
        out: list[Affine] = [affine.ZERO] * len(lhs_shape)
        lhs[numbers.lhs_spec[0]], lhs[numbers.lhs_spec[1]] = lhs_batch, lhs_channel
        rhs[numbers.rhs_spec[0]], rhs[numbers.rhs_spec[1]] = channel, within
        out[numbers.out_spec[0]], out[numbers.out_spec[1]] = example, channel
        zeros: list[Affine] = []
        bounds: list[Affine] = []
        for d, (low, _) in enumerate(params["padding"]):
            a, b, c = numbers.lhs_spec[d + 2], numbers.rhs_spec[d + 2], numbers.out_spec[d + 2]
            rhs[b] = box.axis(rhs_shape[b])
            out[c] = box.axis(operation.out_shapes[0][c])
            position = affine.add(
                affine.scale(out[c], params["window_strides"][d]),
                affine.shift(affine.scale(rhs[b], params["rhs_dilation"][d]), -low),
            )
            dilation = params["lhs_dilation"][d]
            if dilation == 1:
                lhs[a] = position
                bounds.extend(inside((position,), (lhs_shape[a],)))
            else:
                lhs[a] = box.axis(lhs_shape[a])
                zeros.append(subtract(affine.scale(lhs[a], dilation), position))
        operands = (tuple(lhs), tuple(rhs))
        term = Term(box.sizes, tuple(out), operands[k], zeros=tuple(zeros), bounds=tuple(bounds))
        yield from _with_factor(operation, k, 1 - k, operands[1 - k], term)


def _with_factor(
    operation: Operation, k: int, other: int, index: tuple[Affine, ...], term: Term
) -> Iterator[Local]:
    """The term times the other operand's entry, restricted to where a known one is not zero."""
    extra = nonzero(operation, other, index)
    if extra is None:
        return
    factor: Coefficient
    factor = operation.opaque(other) if _complex(operation) else operation.operand(other, index)
    if factor.products is not None and all(p.scale == 0.0 for p in factor.products):
        return
    yield Local(0, k, replace(restrict(term, extra), coefficient=factor))


def nonzero(operation: Operation, k: int, index: tuple[Affine, ...]) -> Conditions | None:
    """Where an operand can be nonzero: everywhere, unless some of it is certainly 0."""
    zero = zeros(operation.tape, operation.node.inputs[k])
    return Conditions() if zero is None else conditions(~zero, index)


def reduce_window(operation: Operation) -> Iterator[Local]:
    """Reductions over windows: `in·dilation = out·stride + k·dilation' − pad` per axis."""
    params = operation.params
    window = params["window_dimensions"]
    rank = len(window)
    base = params.get("base_dilation") or (1,) * rank
    dilations = params.get("window_dilation") or (1,) * rank
    padding = params["padding"]
    count = len(operation.out_shapes)
    for k in operation.active:
        if k >= count:
            box = Box()
            for output in range(count):
                out = box.axes(operation.out_shapes[output])
                yield Local(output, k, Term(box.sizes, out, (), operation.opaque()))
            continue
        box = Box()
        out = box.axes(operation.out_shapes[0])
        inp: list[Affine] = []
        zeros: list[Affine] = []
        bounds: list[Affine] = []
        for d in range(rank):
            n = operation.in_shapes[k][d]
            position = affine.add(
                affine.scale(out[d], params["window_strides"][d]),
                affine.shift(affine.scale(box.axis(window[d]), dilations[d]), -padding[d][0]),
            )
            if base[d] == 1:
                inp.append(position)
                bounds.extend(inside((position,), (n,)))
            else:
                inp.append(box.axis(n))
                zeros.append(subtract(affine.scale(inp[d], base[d]), position))
        summed = operation.op == "reduce_window_sum"
        coefficient = coefficients.ONE if summed else operation.opaque()
        for output in range(count):
            term = Term(box.sizes, out, tuple(inp), coefficient, tuple(zeros), tuple(bounds))
            yield Local(output, k, term)


RULES: dict[str, Rule] = {
    "reduce_sum": reduce_,
    "reduce_max": reduce_,
    "reduce_min": reduce_,
    "reduce_prod": reduce_,
    "reduce": reduce_generic,
    "cumsum": cumulative,
    "cumprod": cumulative,
    "cummax": cumulative,
    "cummin": cumulative,
    "cumlogsumexp": cumulative,
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "reduce_window_sum": reduce_window,
    "reduce_window_max": reduce_window,
    "reduce_window_min": reduce_window,
    "reduce_window": reduce_window,
}
