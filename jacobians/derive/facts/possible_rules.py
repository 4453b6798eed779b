"""What the entries of an operation's result may be, by what those of its operands may be.

exp of −∞ is 0, 0 times a finite number is 0, 0·∞ is NaN: a rule for each family of operations.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.facts import special
from jacobians.derive.facts.possible import (
    Mask,
    Possible,
    Shape,
    compact,
    every_bit,
    of_any_entry,
    some_bits,
    uniform,
)
from jacobians.derive.facts.ranges import range_of
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
from jacobians.derive.tape import MAX_KNOWN, Node, Tape
from jacobians.program.primitives import Does, does, named

# a product of so many multiplications is looked at entry by entry, a larger one as a whole
MAX_PRODUCT = 1 << 27


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
        if not does(node.op, Does.PIECEWISE_LINEAR):
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
    if does(node.op, Does.KEEPS_SIGN) or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
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
        return uniform(ORDINARY, shape)
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
    """Each case where the predicate may name it: of a known mask, one case an entry."""
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
        return of_any_entry(array, made)
    return compact(np.broadcast_to(array, given).reshape(made))


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
    """The operands' entries one after another; of a result too long to list, of any entry."""
    shape = tape.values[node.outputs[0]].shape
    axis = program.parameters(node.equation)["dimension"]
    parts = []
    for kind in ("kinds", "singular"):
        arrays = [getattr(p, kind) for p in operands]
        if prod(shape) > MAX_KNOWN:
            parts.append(of_any_entry(np.concatenate([a.reshape(-1) for a in arrays]), shape))
            continue
        common = [max(a.shape[d] for a in arrays) for d in range(len(shape))]
        full = []
        for number, a in zip(node.inputs, arrays, strict=True):
            common[axis] = tape.values[number].shape[axis]
            full.append(np.broadcast_to(a, common))
        parts.append(compact(np.concatenate(full, axis)))
    return Possible(parts[0], parts[1])


def _pad(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    """The operand's entries where they land, the padding's elsewhere: [a] padded is [z, a, z]."""
    given, made = tape.values[node.inputs[0]].shape, tape.values[node.outputs[0]].shape
    config = program.parameters(node.equation)["padding_config"]
    entries, padding = operands
    parts = []
    for array, around in ((entries.kinds, padding.kinds), (entries.singular, padding.singular)):
        if prod(made) > MAX_KNOWN:
            parts.append(of_any_entry(np.append(array.reshape(-1), around.reshape(-1)), made))
            continue
        result = np.full(made, around.reshape(-1)[0])
        targets, sources = [], []
        for n, size, (low, _, interior) in zip(given, made, config, strict=True):
            place = low + np.arange(n) * (interior + 1)
            inside = (place >= 0) & (place < size)
            targets.append(place[inside])
            sources.append(np.flatnonzero(inside))
        result[np.ix_(*targets)] = np.broadcast_to(array, given)[np.ix_(*sources)]
        parts.append(compact(result))
    return Possible(parts[0], parts[1])


def _reduction(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    axes = tuple(program.parameters(node.equation)["axes"])
    array = operands[0].kinds
    singular = some_bits(operands[0].singular, axes)
    if prod(tape.values[node.inputs[0]].shape) == 0:
        return uniform(ANYTHING, tape.values[node.outputs[0]].shape)
    kinds, made = REDUCTIONS[node.op](
        some_bits(array, axes),
        every_bit(array, axes),
        every_bit((array & special.FINITE) > 0, axes),
        some_bits(array == ZERO, axes),
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
    some = some_bits(operands[0].kinds, axis, keepdims=True)
    singular = some_bits(operands[0].singular, axis, keepdims=True)
    wild = (some & SPECIAL) > 0
    kinds = np.where(wild, ANYTHING, np.where(some == ZERO, ZERO, ORDINARY)).astype(np.uint8)
    return Possible(kinds, singular | wild)


def _dot_general(tape: Tape, node: Node, operands: Sequence[Possible]) -> Possible:
    """0 where every product has a factor 0; anything where an infinity or NaN is summed."""
    shape = tape.values[node.outputs[0]].shape
    (contract, batch) = program.parameters(node.equation)["dimension_numbers"]
    shapes = [tape.values[k].shape for k in node.inputs]
    wild = any(((p.kinds & SPECIAL) > 0).any() or p.singular.any() for p in operands)
    certain = any((p.kinds == ZERO).any() for p in operands)
    size = prod(shape) * prod(shapes[0][d] for d in contract[0])
    if not wild and not certain:
        return uniform(ORDINARY, shape)
    if size > MAX_PRODUCT:
        return uniform(ANYTHING if wild else ORDINARY, shape, wild)
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
        return Possible(compact(kinds), np.zeros((1,) * len(shape), bool))
    reach = np.zeros(shape, bool)
    wild_a, wild_b = (((p.kinds & SPECIAL) > 0) | p.singular for p in operands)
    for left, right in ((wild_a, one), (one, wild_b)):
        reach |= counts(left, right) > 0
    kinds = np.where(reach, ANYTHING, np.where(nothing, ZERO, ORDINARY)).astype(np.uint8)
    return Possible(compact(kinds), compact(reach))


RULES: dict[str, Rule] = {
    **dict.fromkeys(special.UNARY, _unary),
    **dict.fromkeys(special.BINARY, _binary),
    **dict.fromkeys(("and", "or", "not"), _logical),
    **dict.fromkeys(named(Does.SAME_VALUE), _same),
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
