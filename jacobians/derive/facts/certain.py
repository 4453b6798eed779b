"""Entries that are certainly 0 whatever the input is: what a masked softmax has in the future.

`where(mask, scores, -inf)` is −∞ where a known mask says so, its exponential is 0 there, and 0
divided by the row's sum stays 0: unless the whole row is masked, where −∞ − (−∞) makes NaN of it.
Coefficients that are certainly 0 cut a pattern like a known mask does. What each entry may be is
followed from operation to operation (`facts.special`), once for every value that is asked for.

    >>> zeros(tape, number)        # boolean array, or None when nothing is certain
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.facts import special
from jacobians.derive.facts.ranges import integer_bounds, range_of
from jacobians.derive.facts.special import (
    ANYTHING,
    NAN,
    NEGATIVE,
    NEGATIVE_INFINITY,
    ORDINARY,
    POSITIVE,
    POSITIVE_INFINITY,
    SPECIAL,
    ZERO,
    Bits,
)
from jacobians.derive.facts.support import zeros_of_result
from jacobians.derive.tape import MAX_KNOWN, Node, Tape, Value

Mask = NDArray[np.bool_]
Shape = tuple[int, ...]

# a product of so many multiplications is looked at entry by entry, a larger one as a whole
MAX_PRODUCT = 1 << 27

SAME_VALUE = {
    "convert_element_type", "copy", "copy_p", "name", "stop_gradient", "reduce_precision",
    "optimization_barrier", "device_put", "sharding_constraint", "pvary", "reshard",
    "layout_constraint",
}  # fmt: skip
# every entry of the result is an entry of an operand, or of its padding
CHOOSING = {
    "gather", "dynamic_slice", "dynamic_update_slice", "scatter", "sort", "top_k", "cummax",
    "cummin", "reduce_window_max", "reduce_window_min", "tile",
}  # fmt: skip
# whole numbers keep their sign
KEEPS_SIGN = {"sign", "max", "min", "rem"}
# linear where they are finite: a NaN among their operands makes none of a tangent
LINEAR = {"add", "add_any", "sub", "neg", "max", "min"}


@dataclass(frozen=True, eq=False)
class Possible:
    """What the entries of a value may be.

    Attributes:
        kinds: for every entry the kinds of `facts.special` it may be of; along an axis of size
            one all entries of the value are alike.
        singular: likewise, whether the way to the entry may pass an operation whose derivative is
            not finite for whatever input: JAX makes NaN of any tangent there.
    """

    kinds: Bits
    singular: Mask

    @property
    def finite(self) -> bool:
        """Whether all that is known is that nothing certain happens to it."""
        return self.kinds.size == 1 and not int(self.kinds.flat[0]) & ~ORDINARY


def zeros(tape: Tape, number: int) -> Mask | None:
    """Where a value is certainly 0.

    Args:
        tape: the tape.
        number: the value.

    Returns:
        A boolean array of the value's shape, or None when no entry is certain.
    """
    shape = tape.values[number].shape
    if not tape.cutting or prod(shape) > MAX_KNOWN:
        return None
    certain = possible(tape, number).kinds == ZERO
    if not certain.any():
        return None
    return np.broadcast_to(certain, shape)


def undefined(tape: Tape, number: int) -> Mask | None:
    """Where a value may have no derivative for whatever input, though nothing of it may be left.

    Args:
        tape: the tape.
        number: the value.

    Returns:
        A boolean array of the value's shape, or None when there is no such entry.
    """
    singular = possible(tape, number).singular
    if not singular.any():
        return None
    shape = tape.values[number].shape
    return np.ones(shape, bool) if prod(shape) > MAX_KNOWN else np.broadcast_to(singular, shape)


def is_wild(tape: Tape, number: int) -> bool:
    """Whether some entry may be infinite or NaN, or without derivative, for whatever input."""
    found = possible(tape, number)
    return bool(found.singular.any() or (found.kinds & SPECIAL).any())


def may_be_anything(tape: Tape, numbers: Sequence[int]) -> None:
    """Settles that nothing is certain of some values, derivative or not."""
    for number in numbers:
        tape.possible[number] = _of_type(
            _uniform(ANYTHING, tape.values[number].shape, True), tape.values[number]
        )


def one_of(tape: Tape, result: int, numbers: Sequence[int]) -> None:
    """Settles that a value is one of several others, of which a `cond` chooses."""
    found = [possible(tape, k) for k in numbers]
    kinds, singular = found[0].kinds, found[0].singular
    for other in found[1:]:
        kinds, singular = kinds | other.kinds, singular | other.singular
    tape.possible[result] = _of_type(Possible(kinds, singular), tape.values[result])


def possible(tape: Tape, number: int) -> Possible:
    """What the entries of a value may be; found once for every value on the way to it."""
    found: dict[int, Possible] = tape.possible
    stack = [number]
    while stack:
        top = stack[-1]
        if top in found:
            stack.pop()
            continue
        value = tape.values[top]
        constant = None if value.depends else _of_constant(tape, top)
        if constant is None and top in tape.nothing:
            constant = _zero_where(tape.nothing[top])
        if constant is not None or value.source != "result" or value.node is None:
            found[top] = constant or _uniform(ORDINARY, value.shape)
            continue
        missing = [k for k in value.node.inputs if k not in found]
        if missing:
            stack.extend(missing)
            continue
        operands = [found[k] for k in value.node.inputs]
        results = _of_operation(tape, value.node, operands)
        if not value.depends:
            # what no input changes is not differentiated
            results = [Possible(r.kinds, np.zeros_like(r.singular)) for r in results]
        narrower = _with_zeros(tape, value.node, operands)
        for output, result in zip(value.node.outputs, results, strict=True):
            found[output] = _of_type(narrower.get(output, result), tape.values[output])
    return found[number]


def _uniform(kinds: int, shape: Shape, singular: bool = False) -> Possible:
    """The same for every entry."""
    ones = (1,) * len(shape)
    return Possible(np.full(ones, kinds, np.uint8), np.full(ones, singular))


def _of_type(result: Possible, value: Value) -> Possible:
    """Whole numbers and truth values are neither infinite nor NaN, nor differentiated."""
    if value.dtype is not None and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            # a sign or an infinity of what has two parts says nothing
            plain = np.where(result.kinds == ZERO, ZERO, ORDINARY)
            kinds = np.where(result.kinds & SPECIAL, ANYTHING, plain).astype(np.uint8)
            return Possible(kinds, result.singular)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return result
    kinds = np.where(result.kinds & SPECIAL, ORDINARY | result.kinds, result.kinds)
    return Possible((kinds & ~np.uint8(SPECIAL)).astype(np.uint8), np.zeros_like(result.singular))


def _of_constant(tape: Tape, number: int) -> Possible | None:
    """What a constant is: its numbers where they are exact, else what is certain of them."""
    value = tape.values[number]
    known, exact = tape.known(number), tape.exact(number)
    if known is None or exact is None:
        return _of_large(value) if value.source == "constant" else None
    if known.dtype.kind not in "biuf" and not jnp.issubdtype(known.dtype, jnp.floating):
        zero = np.where((known == 0) & exact, ZERO, ORDINARY)
        kinds = np.where(np.isfinite(known), zero, ANYTHING).astype(np.uint8)
    else:
        numbers = known.astype(np.float64)
        kinds = special.kinds_of(numbers)
        if not exact.all():
            radius = tape.radius(number)
            with np.errstate(all="ignore"):
                sure = np.abs(numbers) > (0.0 if radius is None else radius)
            rounded = np.where(np.isfinite(numbers), np.where(sure, kinds, ORDINARY), ANYTHING)
            kinds = np.where(exact, kinds, rounded).astype(np.uint8)
    if not (kinds & (ZERO | SPECIAL)).any():
        return _uniform(int(_some(kinds)) if kinds.size else 0, value.shape)
    kinds = _compact(kinds)
    return Possible(kinds, np.zeros_like(kinds, bool))


def _of_large(value: Value) -> Possible | None:
    """What a constant too large to be held, or of a kind that is no plain number, may be."""
    if isinstance(value.constant, jax.core.Tracer) or not hasattr(value.constant, "dtype"):
        return _uniform(ORDINARY, value.shape)
    if not jnp.issubdtype(value.constant.dtype, jnp.inexact):
        return _uniform(ORDINARY, value.shape)
    finite = bool(np.isfinite(np.asarray(value.constant)).all())
    return _uniform(ORDINARY if finite else ANYTHING, value.shape)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """The array with one entry along every axis on which all are alike."""
    for axis, n in enumerate(array.shape):
        if n > 1:
            first = np.take(array, [0], axis)
            if bool((array == first).all()):
                array = first
    return array


def _of_operation(tape: Tape, node: Node, operands: Sequence[Possible]) -> list[Possible]:
    """What the results of an operation may be."""
    shapes = [tape.values[k].shape for k in node.outputs]
    rule = RULES.get(node.op)
    if rule is not None and len(shapes) == 1:
        return [rule(tape, node, operands)]
    kinds = _joined(operands)
    singular = any(p.singular.any() for p in operands)
    if node.op in CHOOSING and not _applies_a_function(node):
        chosen = _chosen(tape, node, operands[0])
        kinds |= _beside(tape, node)
        return [chosen or _uniform(kinds, shape, singular) for shape in shapes]
    if kinds & SPECIAL or _makes_infinities(node):
        return [_uniform(ANYTHING, shape, True) for shape in shapes]
    return [_uniform(ORDINARY, shape, singular) for shape in shapes]


def _applies_a_function(node: Node) -> bool:
    """Whether a scatter changes entries by a function instead of overwriting them."""
    return node.op == "scatter" and program.parameters(node.equation)["update_jaxpr"] is not None


def _beside(tape: Tape, node: Node) -> int:
    """What stands in the result of an operation that chooses, beside entries of its operands."""
    params = program.parameters(node.equation)
    if node.op == "gather":
        if "FILL" not in str(params["mode"]).upper() or _reads_inside(tape, node):
            return 0
        if tape.certain(node.inputs[1]) is None:
            return ZERO if params["fill_value"] == 0 else ORDINARY
        if params["fill_value"] is None or isinstance(params["fill_value"], complex):
            return ANYTHING
        fill = int(special.kinds_of(np.asarray([float(params["fill_value"])]))[0])
        return fill | (ORDINARY if fill & (POSITIVE | NEGATIVE) else 0)
    if node.op in ("reduce_window_max", "reduce_window_min"):
        apart = (*params["base_dilation"], *params["window_dilation"])
        padding = zip(params["padding"], params["window_dimensions"], strict=True)
        if any(d > 1 for d in apart) or any(max(pair) >= n for pair, n in padding):
            # a window that holds no entry
            return NEGATIVE_INFINITY if node.op == "reduce_window_max" else POSITIVE_INFINITY
    return 0


def _reads_inside(tape: Tape, node: Node) -> bool:
    """Whether no window of a gather lies beyond its operand, whatever the input."""
    params = program.parameters(node.equation)
    bounds = integer_bounds(tape, node.inputs[1])
    shape, sizes = tape.values[node.inputs[0]].shape, params["slice_sizes"]
    places = enumerate(params["dimension_numbers"].start_index_map)
    return bounds is not None and all(
        bool((bounds[0][..., p] >= 0).all() and (bounds[1][..., p] <= shape[d] - sizes[d]).all())
        for p, d in places
    )


def _chosen(tape: Tape, node: Node, operand: Possible) -> Possible | None:
    """The entries that known indices choose, each as what it may be; None where none are known."""
    if node.op not in ("gather", "dynamic_slice") or operand.kinds.size == 1:
        return None
    indices = [tape.certain(k) for k in node.inputs[1:]]
    mode = str(program.parameters(node.equation).get("mode", "")).upper()
    if any(index is None for index in indices) or "FILL" in mode:
        return None
    shape = tape.values[node.inputs[0]].shape
    if prod(shape) > MAX_KNOWN:
        return None
    made = []
    with program.outside_any_trace():
        for array in (operand.kinds, operand.singular):
            entries = np.broadcast_to(array, shape).astype(np.int32)
            made.append(np.asarray(program.evaluate(node.equation, [entries, *indices])[0]))
    return Possible(_compact(made[0].astype(np.uint8)), _compact(made[1].astype(bool)))


def _zero_where(mask: Mask) -> Possible:
    """0 where a mask says so, and anything finite elsewhere."""
    kinds = _compact(np.where(mask, ZERO, ORDINARY).astype(np.uint8))
    return Possible(kinds, np.zeros_like(kinds, bool))


def _with_zeros(tape: Tape, node: Node, operands: Sequence[Possible]) -> dict[int, Possible]:
    """Results of an operation without a rule here that known zeros of its operands leave 0."""
    if node.op in RULES or any(
        ((p.kinds & SPECIAL) > 0).any() or p.singular.any() for p in operands
    ):
        return {}

    def certainly(number: int, target: float) -> Mask | None:
        # no operand is anything but finite here
        shape = tape.values[number].shape
        zero = tape.possible[number].kinds == ZERO
        if target != 0.0 or prod(shape) > MAX_KNOWN or not zero.any():
            return None
        return np.broadcast_to(zero, shape)

    found = {}
    for number in node.outputs:
        if prod(tape.values[number].shape) <= MAX_KNOWN:
            mask = zeros_of_result(tape, node, number, certainly)
            if mask is not None and mask.any():
                found[number] = _zero_where(mask)
    return found


def _joined(operands: Sequence[Possible]) -> int:
    """Every kind that an entry of some operand may be of."""
    return functools.reduce(operator.or_, (int(_some(p.kinds)) for p in operands), 0)


def _some(array: NDArray[Any], axes: Any = None, keepdims: bool = False) -> NDArray[Any]:
    """The bits that some entry along the axes has: of 01 and 10 it is 11."""
    reduce: Any = np.bitwise_or.reduce
    return np.asarray(reduce(array, axis=axes, keepdims=keepdims))


def _every(array: NDArray[Any], axes: Any) -> NDArray[Any]:
    """The bits that every entry along the axes has: of 01 and 11 it is 01."""
    reduce: Any = np.bitwise_and.reduce
    return np.asarray(reduce(array, axis=axes))


def _makes_infinities(node: Node) -> bool:
    """Whether a program inside an operation writes down an infinity or NaN."""
    return any(_has_infinity(inner) for inner in program.inner_programs(node.equation))


def _has_infinity(inner: program.Program) -> bool:
    values = [c for one in program.nested_programs(inner) for _, c in one.constants]
    for equation in program.nested(inner):
        values += [program.literal_value(a) for a in equation.invars if program.is_literal(a)]
    return any(
        not isinstance(v, jax.core.Tracer)
        and jnp.issubdtype(jnp.result_type(v), jnp.inexact)
        and not bool(np.isfinite(np.asarray(v)).all())
        for v in values
        if not jnp.issubdtype(getattr(v, "dtype", np.float32), jax.dtypes.extended)
    )


Rule = Callable[[Tape, Node, Sequence[Possible]], Possible]


def _elementwise(node: Node, operands: Sequence[Possible], kinds: Bits) -> Possible:
    """The kinds with where the operation's own derivative is not finite."""
    nan = special.NAN
    limits = special.SINGULAR.get(node.op, (nan,))
    singular: Any = False
    had_nan: Any = False
    for k, operand in enumerate(operands):
        singular = singular | operand.singular
        had_nan = had_nan | ((operand.kinds & nan) > 0)
        if node.op not in LINEAR:
            singular = singular | ((operand.kinds & limits[min(k, len(limits) - 1)]) > 0)
    made_nan = ((kinds & nan) > 0) & ~np.asarray(had_nan)
    return Possible(kinds, np.asarray(singular | made_nan))


def _unary(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    kinds = special.UNARY[node.op][operands[0].kinds]
    if node.op == "is_finite" and _is_finite(tape, node):
        kinds = np.where(operands[0].kinds == ORDINARY, special.TRUE, kinds).astype(np.uint8)
    return _elementwise(node, operands, _of_integers(tape, node, operands, kinds))


def _is_finite(tape: Tape, node: Node) -> bool:
    """Whether the ordinary numbers among the operands are finite at every point."""
    for k in node.inputs:
        found = range_of(tape, k) if (tape.possible[k].kinds & ORDINARY).any() else None
        # a range knows of the infinities that the program writes down too
        if found is not None and not found.finite:
            return False
    return True


def _of_integers(tape: Tape, node: Node, operands: Sequence[Possible], kinds: Bits) -> Bits:
    """The kinds of whole numbers, which wrap around: −(−128) is −128 and 0 − 1 may be 255."""
    dtype = tape.values[node.outputs[0]].dtype
    if node.op in KEEPS_SIGN or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        return kinds
    wraps = (kinds & (POSITIVE | NEGATIVE)) > 0
    if node.op == "div":
        # 0 / 0 is a number here, and not 0
        wraps = wraps | ((operands[1].kinds & (ORDINARY | ZERO)) > 0)
    return np.where(wraps, kinds | ORDINARY, kinds).astype(np.uint8)


def _integer_power(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    exponent = int(program.parameters(node.equation)["y"])
    result = _elementwise(node, operands, special.integer_power(exponent)[operands[0].kinds])
    if exponent >= 1:
        return result
    return Possible(result.kinds, result.singular | ((operands[0].kinds & ZERO) > 0))


def _binary(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    a, b = operands
    if node.op in special.COMPARISONS and node.inputs[0] == node.inputs[1]:
        # x = x, unless it is NaN
        equal = node.op in ("eq", "le", "ge")
        may_be_nan = NAN if _is_finite(tape, node) else NAN | ORDINARY
        same = np.where(a.kinds & may_be_nan, ORDINARY, special.TRUE if equal else special.FALSE)
        nan = special.TRUE if node.op == "ne" else special.FALSE
        kinds = np.where(a.kinds == NAN, nan, same).astype(np.uint8)
        return Possible(kinds, np.zeros_like(a.singular))
    tables = special.BINARY
    if node.op in special.COMPARISONS and _is_finite(tape, node):
        tables = special.FINITE_COMPARISONS
    kinds = tables[node.op][a.kinds, b.kinds]
    return _elementwise(node, operands, _of_integers(tape, node, operands, kinds))


def _logical(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    shape = tape.values[node.outputs[0]].shape
    if tape.values[node.outputs[0]].dtype != np.bool_:
        return _uniform(ORDINARY, shape)
    if node.op == "not":
        kinds = special.NOT[operands[0].kinds]
    else:
        kinds = special.LOGICAL[node.op][operands[0].kinds, operands[1].kinds]
    return Possible(kinds, np.zeros(kinds.shape, bool))


def _clamp(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    low, x, high = operands
    kinds = special.BINARY["min"][special.BINARY["max"][low.kinds, x.kinds], high.kinds]
    return Possible(kinds, low.singular | x.singular | high.singular)


def _select(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    which, *cases = operands
    shape = tape.values[node.outputs[0]].shape
    known = tape.certain(node.inputs[0])
    if len(cases) == 2:
        first = (which.kinds & ~np.uint8(special.TRUE)) > 0
        second = (which.kinds & ~np.uint8(special.FALSE)) > 0
        may = [first, second]
    elif known is not None:
        may = [np.asarray(known == k) for k in range(len(cases))]
    else:
        may = [np.ones((1,) * len(shape), bool)] * len(cases)
    kinds: Any = np.uint8(0)
    singular: Any = False
    for chosen, case in zip(may, cases, strict=True):
        kinds = kinds | np.where(chosen, case.kinds, np.uint8(0))
        singular = singular | (chosen & case.singular)
    return Possible(np.asarray(kinds, np.uint8), np.asarray(singular))


def _same(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    kinds, singular = operands[0].kinds, operands[0].singular
    if node.op == "stop_gradient":
        singular = np.zeros_like(singular)
    if node.op in ("convert_element_type", "reduce_precision"):
        # 0.3 as a whole number is 0, and 1e-60 in single precision
        constant = (kinds & (POSITIVE | NEGATIVE)) > 0
        kinds = np.where(constant, kinds | ORDINARY, kinds).astype(np.uint8)
    return Possible(kinds, singular)


def _moving(move: Callable[[Any, NDArray[Any], Shape, Shape], NDArray[Any]]) -> Rule:
    """The rule of an operation that moves the entries of one operand."""

    def rule(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
        params = program.parameters(node.equation)
        shapes = tape.values[node.inputs[0]].shape, tape.values[node.outputs[0]].shape
        return Possible(
            move(params, operands[0].kinds, *shapes), move(params, operands[0].singular, *shapes)
        )

    return rule


def _broadcast(params: Any, array: NDArray[Any], given: Shape, made: Shape) -> NDArray[Any]:
    sizes = [1] * len(made)
    for axis, n in zip(params["broadcast_dimensions"], array.shape, strict=True):
        sizes[axis] = n
    return array.reshape(sizes)


def _reshape(params: Any, array: NDArray[Any], given: Shape, made: Shape) -> NDArray[Any]:
    if array.size == 1:
        return array.reshape((1,) * len(made))
    if prod(made) > MAX_KNOWN or params.get("dimensions") is not None:
        return _any_entry(array, made)
    return _compact(np.broadcast_to(array, given).reshape(made))


def _any_entry(array: NDArray[Any], made: Shape) -> NDArray[Any]:
    """What any entry of an array may be, for every entry of another shape."""
    joined = _some(array) if array.size else array.dtype.type(0)
    return np.full((1,) * len(made), joined, array.dtype)


def _slice(params: Any, array: NDArray[Any], given: Shape, made: Shape) -> NDArray[Any]:
    strides = params["strides"] or (1,) * len(given)
    window = tuple(
        slice(None) if n == 1 else slice(start, stop, stride)
        for n, start, stop, stride in zip(
            array.shape, params["start_indices"], params["limit_indices"], strides, strict=True
        )
    )
    return array[window]


MOVES: dict[str, Callable[[Any, NDArray[Any], Shape, Shape], NDArray[Any]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": lambda params, a, _, made: np.squeeze(a, tuple(params["dimensions"])),
    "expand_dims": lambda params, a, _, made: np.expand_dims(a, tuple(params["dimensions"])),
    "transpose": lambda params, a, _, made: np.transpose(a, params["permutation"]),
    "rev": lambda params, a, _, made: np.flip(a, tuple(params["dimensions"])),
    "slice": _slice,
}


def _concatenate(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    shape = tape.values[node.outputs[0]].shape
    axis = program.parameters(node.equation)["dimension"]
    parts = []
    for kind in ("kinds", "singular"):
        arrays = [getattr(p, kind) for p in operands]
        if prod(shape) > MAX_KNOWN:
            parts.append(_any_entry(np.concatenate([a.reshape(-1) for a in arrays]), shape))
            continue
        common = [max(a.shape[d] for a in arrays) for d in range(len(shape))]
        full = []
        for number, a in zip(node.inputs, arrays, strict=True):
            common[axis] = tape.values[number].shape[axis]
            full.append(np.broadcast_to(a, common))
        parts.append(_compact(np.concatenate(full, axis)))
    return Possible(parts[0], parts[1])


def _pad(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    given, made = tape.values[node.inputs[0]].shape, tape.values[node.outputs[0]].shape
    config = program.parameters(node.equation)["padding_config"]
    padding = operands[1]
    parts = []
    for array, around in (
        (operands[0].kinds, padding.kinds), (operands[0].singular, padding.singular),
    ):  # fmt: skip
        if prod(made) > MAX_KNOWN:
            parts.append(_any_entry(np.append(array.reshape(-1), around.reshape(-1)), made))
            continue
        result = np.full(made, around.reshape(-1)[0])
        targets, sources = [], []
        for n, size, (low, _, interior) in zip(given, made, config, strict=True):
            place = low + np.arange(n) * (interior + 1)
            inside = (place >= 0) & (place < size)
            targets.append(place[inside])
            sources.append(np.flatnonzero(inside))
        result[np.ix_(*targets)] = np.broadcast_to(array, given)[np.ix_(*sources)]
        parts.append(_compact(result))
    return Possible(parts[0], parts[1])


def _reduction(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    axes = tuple(program.parameters(node.equation)["axes"])
    array = operands[0].kinds
    singular = _some(operands[0].singular, axes)
    if prod(tape.values[node.inputs[0]].shape) == 0:
        return _uniform(ANYTHING, tape.values[node.outputs[0]].shape)
    kinds, made = REDUCTIONS[node.op](
        _some(array, axes),
        _every(array, axes),
        _every((array & special.FINITE) > 0, axes),
        _some(array == ZERO, axes),
    )
    return Possible(kinds, singular | made)


Reduced = tuple[Bits, Mask]


def _sum(some: Bits, every: Bits, finite: Mask, zero: Mask) -> Reduced:
    both = (some & special.INFINITE) == special.INFINITE
    nan = ((some & NAN) > 0) | both
    whole = np.where((some & special.FINITE) == ZERO, ZERO, ORDINARY)
    kinds = np.where(finite, whole, 0) | (some & special.INFINITE) | np.where(nan, NAN, 0)
    return kinds.astype(np.uint8), both


def _largest(some: Bits, every: Bits, finite: Mask, zero: Mask) -> Reduced:
    return _extreme(some, every, POSITIVE_INFINITY, NEGATIVE_INFINITY)


def _smallest(some: Bits, every: Bits, finite: Mask, zero: Mask) -> Reduced:
    return _extreme(some, every, NEGATIVE_INFINITY, POSITIVE_INFINITY)


def _extreme(some: Bits, every: Bits, winning: int, losing: int) -> Reduced:
    """The largest or smallest: the losing infinity only where every entry may be it."""
    numbers = np.asarray(some & special.FINITE, np.int16)
    one_kind = (numbers & (numbers - 1)) == 0
    finite = np.where(one_kind, numbers, ORDINARY)
    nan = some & NAN
    kinds = finite | (some & winning) | (every & losing) | nan
    return kinds.astype(np.uint8), nan > 0


def _product(some: Bits, every: Bits, finite: Mask, zero: Mask) -> Reduced:
    wild = (some & SPECIAL) > 0
    kinds = np.where(wild, ANYTHING, np.where(zero, ZERO, ORDINARY))
    return kinds.astype(np.uint8), wild


REDUCTIONS: dict[str, Callable[[Bits, Bits, Mask, Mask], Reduced]] = {
    "reduce_sum": _sum,
    "reduce_max": _largest,
    "reduce_min": _smallest,
    "reduce_prod": _product,
}


def _cumsum(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    axis = program.parameters(node.equation)["axis"]
    some = _some(operands[0].kinds, axis, keepdims=True)
    singular = _some(operands[0].singular, axis, keepdims=True)
    wild = (some & SPECIAL) > 0
    kinds = np.where(wild, ANYTHING, np.where(some == ZERO, ZERO, ORDINARY)).astype(np.uint8)
    return Possible(kinds, singular | wild)


def _dot_general(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    shape = tape.values[node.outputs[0]].shape
    (contract, batch) = program.parameters(node.equation)["dimension_numbers"]
    shapes = [tape.values[k].shape for k in node.inputs]
    wild = any(((p.kinds & SPECIAL) > 0).any() or p.singular.any() for p in operands)
    certain = any((p.kinds == ZERO).any() for p in operands)
    size = prod(shape) * prod(shapes[0][d] for d in contract[0])
    if not wild and not certain:
        return _uniform(ORDINARY, shape)
    if size > MAX_PRODUCT:
        return _uniform(ANYTHING if wild else ORDINARY, shape, wild)
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    names = [[next(letters) for _ in s] for s in shapes]
    for a, b in zip((*contract[0], *batch[0]), (*contract[1], *batch[1]), strict=True):
        names[1][b] = names[0][a]
    out = [names[0][d] for d in batch[0]]
    for side in (0, 1):
        used = (*contract[side], *batch[side])
        out += [name for d, name in enumerate(names[side]) if d not in used]
    summed = f"{''.join(names[0])},{''.join(names[1])}->{''.join(out)}"

    def counts(left: Any, right: Any) -> NDArray[np.float32]:
        sides = [
            np.broadcast_to(np.asarray(a, np.float32), s)
            for a, s in zip((left, right), shapes, strict=True)
        ]
        made: NDArray[np.float32] = np.einsum(summed, *sides, optimize=True)
        return made

    (a, b), one = operands, np.float32(1)
    nothing = counts(a.kinds != ZERO, b.kinds != ZERO) == 0
    if not wild:
        kinds = np.where(nothing, ZERO, ORDINARY).astype(np.uint8)
        return Possible(_compact(kinds), np.zeros((1,) * len(shape), bool))
    reach = np.zeros(shape, bool)
    wild_a, wild_b = (((p.kinds & SPECIAL) > 0) | p.singular for p in operands)
    for left, right in ((wild_a, one), (one, wild_b)):
        reach |= counts(left, right) > 0
    kinds = np.where(reach, ANYTHING, np.where(nothing, ZERO, ORDINARY)).astype(np.uint8)
    return Possible(_compact(kinds), _compact(reach))


RULES: dict[str, Rule] = {
    **dict.fromkeys(special.UNARY, _unary),
    **dict.fromkeys(special.BINARY, _binary),
    **dict.fromkeys(("and", "or", "not"), _logical),
    **dict.fromkeys(SAME_VALUE, _same),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **{op: _moving(move) for op, move in MOVES.items()},
    "integer_pow": _integer_power,
    "clamp": _clamp,
    "select_n": _select,
    "concatenate": _concatenate,
    "pad": _pad,
    "cumsum": _cumsum,
    "dot_general": _dot_general,
}
