"""Ranges of values that index: `argmax` of two entries is 0 or 1, `clip(i, 0, 3)` lies in [0, 3].

A range is a least and a greatest number for every entry of an array, whatever the finite input is.
Integer arithmetic that may wrap around has the range of its whole type; floating-point bounds are
widened by what rounding can do, and a value that may be NaN says so. Where a select decides by a
comparison, each case is looked at under what the comparison says, so that
`where(i < 0, i + n, i)`, which `jax.numpy` puts around every index, keeps the range of i.

    >>> range_of(tape, number)     # of argmax(x[:2]) + [0, 1]
    Range(low=[0, 1], high=[1, 2])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.tape import QUICK, Node, Tape

Numbers = NDArray[np.float64]

# arrays beyond this many elements have one range for all their entries
MAX_ELEMENTS = 1 << 16
# operations that are looked through, one by way of another
DEEPEST = 100
# comparisons and their kin that are looked through to see what a predicate says
DEEPEST_PREDICATE = 6
# integers beyond this are not told apart by the double precision that bounds are held in
EXACT = 2.0**52
# rounding steps by which a floating-point bound is widened: two roundings, and some for libraries
STEPS = 8


@dataclass(frozen=True, eq=False)
class Range:
    """Bounds on the entries of a value.

    Attributes:
        low: the least number that each entry can be; broadcasts to the value's shape.
        high: the greatest.
        nan: whether an entry may be NaN instead.
    """

    low: Numbers
    high: Numbers
    nan: bool = False

    @property
    def finite(self) -> bool:
        """Whether no entry can be infinite or NaN."""
        return not self.nan and bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    @property
    def exact(self) -> bool:
        """Whether every entry is known."""
        return not self.nan and bool((self.low == self.high).all())


def range_of(tape: Tape, number: int) -> Range | None:
    """The range of a value; None for what is neither a number nor a boolean.

    Args:
        tape: the tape.
        number: the value.
    """
    return _range(tape, number, 0)


def integer_bounds(tape: Tape, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The least and greatest entries of an integer value, clipped to what 64 bits hold safely.

    Those of a known array are itself, however large: index tables are what sparsity is made of.
    """
    known = tape.certain(number)
    found = _of_array(known) if known is not None else range_of(tape, number)
    if found is None or found.nan:
        return None
    shape = tape.values[number].shape
    low, high = (np.clip(b, -EXACT, EXACT).astype(np.int64) for b in (found.low, found.high))
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def joint_range(tape: Tape, numbers: Sequence[int]) -> Range | None:
    """The range of a value that is one of several."""
    found = [range_of(tape, k) for k in numbers]
    present = [r for r in found if r is not None]
    if len(present) < len(found):
        return None
    low, high = present[0].low, present[0].high
    for r in present[1:]:
        low, high = np.minimum(low, r.low), np.maximum(high, r.high)
    return Range(low, high, any(r.nan for r in present))


def _range(tape: Tape, number: int, depth: int) -> Range | None:
    if number in tape.ranges:
        kept: Range | None = tape.ranges[number]
        return kept
    value = tape.values[number]
    whole = _whole(value.dtype)
    if whole is None or depth > DEEPEST or not prod(value.shape):
        return whole
    floating = bool(jnp.issubdtype(value.dtype, jnp.floating))
    found: Range | None = None
    # a float that has been computed may be rounded in another way where the program runs
    known = tape.certain(number)
    if known is not None:
        found = _of_array(known)
    elif value.source == "input" and floating and number in tape.finite:
        most = np.float64(jnp.finfo(value.dtype).max)
        found = Range(np.asarray(-most), np.asarray(most))
    elif value.source == "result" and value.node is not None:
        # a bound beyond the largest number is infinite, as it should be
        with np.errstate(all="ignore"):
            found = _of_operation(tape, value.node, number, depth + 1)
    result = whole if found is None else _fitting(found, value.dtype, whole)
    result = _small(result)
    tape.ranges[number] = result
    return result


def _whole(dtype: Any) -> Range | None:
    """Every value that a type holds: [0, 1] for booleans, [−128, 127] for int8."""
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return None
    if dtype == np.bool_:
        return Range(np.asarray(0.0), np.asarray(1.0))
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return Range(np.asarray(float(limits.min)), np.asarray(float(limits.max)))
    if jnp.issubdtype(dtype, jnp.floating):
        return Range(np.asarray(-np.inf), np.asarray(np.inf), True)
    return None


def _of_array(array: NDArray[Any]) -> Range:
    """The range of a known array: each entry is itself."""
    numbers = array.astype(np.float64)
    if jnp.issubdtype(array.dtype, jnp.floating) and np.isnan(numbers).any():
        return Range(
            np.where(np.isnan(numbers), np.inf, numbers),
            np.where(np.isnan(numbers), -np.inf, numbers),
            True,
        )
    return Range(numbers, numbers)


def _fitting(found: Range, dtype: Any, whole: Range) -> Range:
    """The range, or that of the whole type where an integer may have wrapped around."""
    if jnp.issubdtype(dtype, jnp.floating):
        return found
    too_far = (found.low < whole.low) | (found.high > whole.high)
    if not too_far.any():
        return found
    return Range(np.where(too_far, whole.low, found.low), np.where(too_far, whole.high, found.high))


def _small(found: Range) -> Range:
    """One range for all entries where there are too many."""
    if max(found.low.size, found.high.size) <= MAX_ELEMENTS:
        return found
    return Range(np.asarray(np.min(found.low)), np.asarray(np.max(found.high)), found.nan)


def _of_operation(tape: Tape, node: Node, number: int, depth: int) -> Range | None:
    """The range of an operation's result from those of its operands."""
    op, params = node.op, program.parameters(node.equation)
    value = tape.values[number]
    if op in ("argmax", "argmin"):
        axes = tape.values[node.inputs[0]].shape
        last = prod(axes[d] for d in params["axes"]) - 1
        return Range(np.asarray(0.0), np.asarray(float(max(last, 0))))
    if op in ("top_k", "approx_top_k") and number == node.outputs[1]:
        shape = tape.values[node.inputs[0]].shape
        return Range(np.asarray(0.0), np.asarray(float(max(shape) - 1)))
    if op == "lu_pivots_to_permutation":
        return Range(np.asarray(0.0), np.asarray(float(value.shape[-1] - 1)))
    if op == "select_n":
        return _selected(tape, node, depth)
    operands = [_range(tape, k, depth) for k in node.inputs]
    present = [r for r in operands if r is not None]
    if len(present) != len(operands):
        return None
    if op in ("sort", "optimization_barrier", "copy_p", "name"):
        mine = present[node.outputs.index(number)]
        return _anywhere(mine) if op == "sort" else mine
    return _computed(op, params, present, [tape.values[k] for k in node.inputs], value)


def _computed(
    op: str, params: Any, operands: list[Range], given: Sequence[Any], result: Any
) -> Range | None:
    """The range of an operation's only result."""
    moved = _moved(op, params, operands, [v.shape for v in given], result.shape)
    if moved is not None:
        return moved
    if op in REDUCTIONS:
        if not _reduces_within(op, operands[0], given[0], result):
            return None
        reduced = REDUCTIONS[op](operands[0], given[0].shape, params)
        return None if reduced is None else _surely(op, reduced)
    if op == "convert_element_type":
        return _converted(operands[0], given[0].dtype, result.dtype)
    if op in COMPARISONS:
        return _compared(op, *operands)
    if op == "not":
        # ¬b is 1 − b for booleans, −1 − i for integers
        top = 1.0 if result.dtype == np.bool_ else -1.0
        return _surely(op, Range(top - operands[0].high, top - operands[0].low))
    floating = bool(jnp.issubdtype(result.dtype, jnp.floating))
    rule = ELEMENTWISE.get(op)
    if rule is None:
        return None
    with np.errstate(all="ignore"):
        found = rule(params, operands, floating)
        if found is None:
            return None
        low, high = found
        exact = all(_whole_numbers(r) for r in operands)
        if not floating:
            return _surely(op, Range(low, high))
        undefined = np.isnan(low) | np.isnan(high)
        low, high = np.where(undefined, -np.inf, low), np.where(undefined, np.inf, high)
        nan = any(r.nan for r in operands) or op in MAY_BE_NAN
        if op not in KEEPS_FINITE and not all(r.finite for r in operands):
            nan = True
        steps = max(STEPS, int(params["y"])) if op == "integer_pow" else STEPS
        widened = _rounded(low, high, result.dtype, exact or op in NO_ROUNDING, steps)
        if op in LIBRARY:
            # what a library computes may be a little more than 1, never less than 0
            widened = _rounded(low, high, result.dtype, False)
            widened = np.where(low == 0, low, widened[0]), widened[1]
        return Range(*widened, nan)


def _reduces_within(op: str, r: Range, given: Any, result: Any) -> bool:
    """Whether a reduction's result lies between the same reductions of the bounds.

    Bits of integers do not: 1 | 2 is 3. Nor do sums in a type that rounds them: 257 is 256 or 258
    in bfloat16.
    """
    if op in ("reduce_or", "reduce_and"):
        return bool(result.dtype == np.bool_)
    if op not in ("reduce_sum", "cumsum") or not jnp.issubdtype(result.dtype, jnp.floating):
        return True
    most = max(np.max(np.abs(b), initial=0.0) for b in (r.low, r.high))
    return bool(most * prod(given.shape) <= 2.0 ** int(jnp.finfo(result.dtype).nmant))


def _surely(op: str, r: Range) -> Range:
    """A range of integers without bounds that double precision has rounded."""
    if op in NO_ROUNDING_OF_INTEGERS:
        return r
    far = np.maximum(np.abs(r.low), np.abs(r.high)) > EXACT
    return Range(np.where(far, -np.inf, r.low), np.where(far, np.inf, r.high))


def _whole_numbers(r: Range) -> bool:
    """Whether both bounds are whole numbers, which short sums and products of them are too."""
    return bool((np.floor(r.low) == r.low).all() and (np.floor(r.high) == r.high).all())


def _rounded(
    low: Numbers, high: Numbers, dtype: Any, exact: bool, steps: int = STEPS
) -> tuple[Numbers, Numbers]:
    """Bounds widened by rounding, except where they are whole numbers that were made of such.

    Rounding is monotone: a result of at least 3 is not rounded below 3.
    """
    limits = jnp.finfo(dtype)
    step = steps * float(limits.eps)
    largest = 2.0 ** int(limits.nmant)

    def sure(b: Numbers) -> NDArray[np.bool_]:
        return np.asarray(exact & (np.floor(b) == b) & (np.abs(b) <= largest) | ~np.isfinite(b))

    tiny = float(limits.tiny)
    low = np.where(sure(low), low, low - (np.abs(low) * step + tiny))
    high = np.where(sure(high), high, high + (np.abs(high) * step + tiny))
    most = float(limits.max)
    return np.where(low < -most, -np.inf, low), np.where(high > most, np.inf, high)


def _anywhere(r: Range) -> Range:
    """Entries in any order."""
    if not r.low.size or not r.high.size:
        return r
    return Range(np.asarray(np.min(r.low)), np.asarray(np.max(r.high)), r.nan)


def _moved(
    op: str,
    params: Any,
    operands: list[Range],
    shapes: Sequence[tuple[int, ...]],
    shape: tuple[int, ...],
) -> Range | None:
    """The range of a result whose entries are entries of the operands; None for other operations.

    With x in [(0, 1), (5, 6)], `x[::-1]` lies in [(5, 6), (0, 1)].
    """
    if op in ANY_ENTRY:
        mode = str(params.get("mode", "")).upper()
        if "FILL" in mode and params.get("fill_value") != 0:
            # what is put where the index is outside is another number
            return None
        first = _anywhere(operands[0])
        if "FILL" in mode:
            return Range(np.minimum(first.low, 0.0), np.maximum(first.high, 0.0), first.nan)
        return first
    if op == "dynamic_update_slice" or op == "pad":
        both = operands[:2]
        low = min(float(np.min(r.low, initial=np.inf)) for r in both)
        high = max(float(np.max(r.high, initial=-np.inf)) for r in both)
        return Range(np.asarray(low), np.asarray(high), any(r.nan for r in both))
    if op not in MOVING:
        return None
    if max((prod(s) for s in (*shapes, shape)), default=0) > MAX_ELEMENTS:
        return _hull(operands)
    nan = any(r.nan for r in operands)
    pairs = list(zip(operands, shapes, strict=True))
    low = MOVING[op](params, *(np.broadcast_to(r.low, s) for r, s in pairs))
    high = MOVING[op](params, *(np.broadcast_to(r.high, s) for r, s in pairs))
    return Range(np.asarray(low, np.float64), np.asarray(high, np.float64), nan)


def _hull(ranges: Sequence[Range]) -> Range:
    """One range that holds those of several values."""
    low = min((float(np.min(r.low, initial=np.inf)) for r in ranges), default=np.inf)
    high = max((float(np.max(r.high, initial=-np.inf)) for r in ranges), default=-np.inf)
    return Range(np.asarray(low), np.asarray(high), any(r.nan for r in ranges))


def _sliced(params: Any, x: Any) -> Any:
    strides = params["strides"] or (1,) * np.ndim(x)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(a, b, s) for a, b, s in bounds)]


MOVING: dict[str, Callable[..., Any]] = {
    **{op: QUICK[op] for op in (
        "broadcast_in_dim", "reshape", "squeeze", "transpose", "rev", "concatenate", "copy",
        "stack", "stop_gradient",
    )},
    "slice": _sliced,
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
}  # fmt: skip
ANY_ENTRY = {"gather", "dynamic_slice"}


def _along(r: Range, shape: tuple[int, ...]) -> tuple[Numbers, Numbers] | None:
    """Bounds entry by entry, or None where there are too many entries."""
    if prod(shape) > MAX_ELEMENTS:
        return None
    return np.broadcast_to(r.low, shape), np.broadcast_to(r.high, shape)


def _reduced(combine: Any, empty: float) -> Callable[..., Range | None]:
    def rule(r: Range, shape: tuple[int, ...], params: Any) -> Range | None:
        both = _along(r, shape)
        if both is None or r.nan:
            return None
        axes = tuple(params["axes"])
        return Range(*(combine(b, axis=axes, initial=empty) for b in both))

    return rule


def _summed(r: Range, shape: tuple[int, ...], params: Any) -> Range | None:
    """Sums of integers: k booleans sum to a number in [0, k]."""
    both = _along(r, shape)
    if both is None or not r.finite or not _whole_numbers(r):
        return None
    low, high = (np.sum(b, axis=tuple(params["axes"])) for b in both)
    return Range(low, high)


def _accumulated(combine: Any) -> Callable[..., Range | None]:
    def rule(r: Range, shape: tuple[int, ...], params: Any) -> Range | None:
        both = _along(r, shape)
        if both is None or not r.finite or not _whole_numbers(r):
            return None
        axis = params["axis"]
        if params["reverse"]:
            flipped = (np.flip(combine(np.flip(b, axis), axis=axis), axis) for b in both)
            return Range(*flipped)
        return Range(*(combine(b, axis=axis) for b in both))

    return rule


REDUCTIONS: dict[str, Callable[[Range, tuple[int, ...], Any], Range | None]] = {
    "reduce_sum": _summed,
    "reduce_max": _reduced(np.max, -np.inf),
    "reduce_min": _reduced(np.min, np.inf),
    "reduce_or": _reduced(np.max, 0.0),
    "reduce_and": _reduced(np.min, 1.0),
    "cumsum": _accumulated(np.cumsum),
    "cummax": _accumulated(np.maximum.accumulate),
    "cummin": _accumulated(np.minimum.accumulate),
}


def _converted(r: Range, source: Any, target: Any) -> Range | None:
    """A conversion: floats are cut towards 0, NaN becomes 0, what does not fit is unknown."""
    if target == np.bool_:
        never = (r.low > 0) | (r.high < 0)
        always_zero = (r.low == 0) & (r.high == 0)
        if r.nan:
            return Range(np.asarray(0.0), np.asarray(1.0))
        return Range(np.where(never, 1.0, 0.0), np.where(always_zero, 0.0, 1.0))
    if jnp.issubdtype(target, jnp.floating):
        return Range(*_rounded(r.low, r.high, target, True), r.nan)
    low, high = np.trunc(r.low), np.trunc(r.high)
    if r.nan:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return Range(low, high)


COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}


def _compared(op: str, a: Range, b: Range) -> Range:
    """0 or 1 for a comparison that ranges decide, else [0, 1]."""
    if op in ("gt", "ge"):
        return _compared({"gt": "lt", "ge": "le"}[op], b, a)
    if op == "ne":
        equal = _compared("eq", a, b)
        return Range(1.0 - equal.high, 1.0 - equal.low)
    if a.nan or b.nan:
        return Range(np.asarray(0.0), np.asarray(1.0))
    if op == "lt":
        always, never = a.high < b.low, a.low >= b.high
    elif op == "le":
        always, never = a.high <= b.low, a.low > b.high
    else:
        always = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
        never = (a.high < b.low) | (a.low > b.high)
    return Range(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0))


def _corners(
    f: Callable[[Numbers, Numbers], Numbers], a: Range, b: Range
) -> tuple[Numbers, Numbers]:
    """The least and greatest of f at the corners, for f monotone in each operand."""
    values = [f(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    made = np.broadcast_arrays(*values)
    return np.min(np.stack(made), axis=0), np.max(np.stack(made), axis=0)


def _product(a: Numbers, b: Numbers) -> Numbers:
    # 0·∞ among bounds is 0: what is infinite there is only not bounded
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _times(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers]:
    return _corners(_product, *operands)


def _divided(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    """Quotients; integers are cut towards 0: 5 / 2 is 2, −5 / 2 is −2."""
    a, b = operands
    if ((b.low <= 0) & (b.high >= 0)).any():
        return None
    if floating:
        return _corners(np.divide, a, b)
    if max(np.abs(r.low).max() for r in operands) > EXACT:
        return None
    return _corners(lambda x, y: np.trunc(x / y), a, b)


def _remainder(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    """Remainders have the sign of the dividend: −5 rem 3 is −2."""
    a, b = operands
    if ((b.low <= 0) & (b.high >= 0)).any():
        return None
    most = np.maximum(np.abs(b.low), np.abs(b.high)) - (0.0 if floating else 1.0)
    least = np.minimum(np.abs(b.low), np.abs(b.high))
    low = np.where(a.low < 0, np.maximum(-most, np.minimum(a.low, 0.0)), 0.0)
    high = np.where(a.high > 0, np.minimum(most, np.maximum(a.high, 0.0)), 0.0)
    unchanged = (a.low > -least) & (a.high < least)
    return np.where(unchanged, a.low, low), np.where(unchanged, a.high, high)


def _power(params: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    n = int(params["y"])
    a = operands[0]
    if n < 0:
        return None
    if n % 2:
        return a.low**n, a.high**n
    inside = (a.low <= 0) & (a.high >= 0)
    ends = np.stack(np.broadcast_arrays(a.low**n, a.high**n))
    return np.where(inside & (n > 0), 0.0, ends.min(0)), ends.max(0)


def _general_power(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    """Powers of numbers of at least 1 to exponents of at least 0, monotone in both."""
    a, b = operands
    if floating or (a.low < 1).any() or (b.low < 0).any():
        return None
    return a.low**b.low, a.high**b.high


def _distance(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers]:
    a = operands[0]
    inside = (a.low <= 0) & (a.high >= 0)
    ends = np.stack(np.broadcast_arrays(np.abs(a.low), np.abs(a.high)))
    return np.where(inside, 0.0, ends.min(0)), ends.max(0)


def _bits(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    """`or` and `xor` of numbers of at least 0 set no bit above the highest: 4 | 3 is 7."""
    if any((r.low < 0).any() for r in operands):
        return None
    most = np.maximum(*(r.high for r in operands))
    return np.zeros_like(most), 2.0 ** np.frexp(most)[1] - 1.0


def _common_bits(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    """`and` with a number of at least 0 lies between 0 and that number."""
    most = np.minimum(*(np.where(r.low >= 0, r.high, np.inf) for r in operands))
    if not np.isfinite(most).all():
        return None
    if all((r.low >= 0).all() and (r.high <= 1).all() for r in operands):
        return np.minimum(*(r.low for r in operands)), most
    return np.zeros_like(most), most


def _shifted_right(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    a, b = operands
    if (a.low < 0).any() or (b.low < 0).any() or (b.high > 31).any():
        return None
    return np.floor(a.low / 2.0**b.high), np.floor(a.high / 2.0**b.low)


def _shifted_left(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers] | None:
    a, b = operands
    if (b.low < 0).any() or (b.high > 31).any():
        return None
    return _corners(lambda x, y: x * 2.0**y, a, b)


def _monotone(f: Callable[[Numbers], Numbers]) -> Callable[..., tuple[Numbers, Numbers]]:
    return lambda _, operands, floating: (f(operands[0].low), f(operands[0].high))


def _rounding(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers]:
    """To the nearest whole number; a half goes either way."""
    a = operands[0]
    return np.ceil(a.low - 0.5), np.floor(a.high + 0.5)


def _within(low: float, high: float) -> Callable[..., tuple[Numbers, Numbers]]:
    """A function that never leaves [low, high], broadcast to its operand."""
    return lambda _, operands, floating: (
        np.full_like(operands[0].low, low), np.full_like(operands[0].high, high)
    )  # fmt: skip


ELEMENTWISE: dict[str, Callable[[Any, list[Range], bool], tuple[Numbers, Numbers] | None]] = {
    "add": lambda _, r, f: (r[0].low + r[1].low, r[0].high + r[1].high),
    "add_any": lambda _, r, f: (r[0].low + r[1].low, r[0].high + r[1].high),
    "sub": lambda _, r, f: (r[0].low - r[1].high, r[0].high - r[1].low),
    "neg": lambda _, r, f: (-r[0].high, -r[0].low),
    "mul": _times,
    "div": _divided,
    "rem": _remainder,
    "max": lambda _, r, f: (
        np.maximum(r[0].low, r[1].low), np.maximum(r[0].high, r[1].high)
    ),
    "min": lambda _, r, f: (
        np.minimum(r[0].low, r[1].low), np.minimum(r[0].high, r[1].high)
    ),
    "clamp": lambda _, r, f: (
        np.minimum(np.maximum(r[0].low, r[1].low), r[2].low),
        np.minimum(np.maximum(r[0].high, r[1].high), r[2].high),
    ),
    "abs": _distance,
    "sign": _monotone(np.sign),
    "floor": _monotone(np.floor),
    "ceil": _monotone(np.ceil),
    "round": _rounding,
    "integer_pow": _power,
    "square": lambda _, r, f: _power({"y": 2}, r, f),
    "pow": _general_power,
    "and": _common_bits,
    "or": _bits,
    "xor": _bits,
    "shift_right_logical": _shifted_right,
    "shift_right_arithmetic": _shifted_right,
    "shift_left": _shifted_left,
    "population_count": _within(0.0, 64.0),
    "clz": _within(0.0, 64.0),
    "tanh": _within(-1.0, 1.0),
    "sin": _within(-1.0, 1.0),
    "cos": _within(-1.0, 1.0),
    "erf": _within(-1.0, 1.0),
    "logistic": _within(0.0, 1.0),
    "exp": _within(0.0, np.inf),
}  # fmt: skip
# functions that have a value at ±∞, so that only a NaN makes a NaN of them
KEEPS_FINITE = {
    "neg", "max", "min", "clamp", "abs", "sign", "floor", "ceil", "round", "tanh", "erf",
    "logistic", "exp",
}  # fmt: skip
# what a library computes may be NaN where mathematics has a number
MAY_BE_NAN = {"pow", "rem"}
# bounds that are bounds of an operand, or small
NO_ROUNDING_OF_INTEGERS = {
    "max", "min", "clamp", "sign", "rem", "reduce_max", "reduce_min", "reduce_or", "reduce_and",
    "cummax", "cummin", "population_count", "clz",
}  # fmt: skip
# functions of a library, whose bounds are those of mathematics
LIBRARY = {"tanh", "sin", "cos", "erf", "logistic"}
NO_ROUNDING = {"neg", "max", "min", "clamp", "abs", "sign", "floor", "ceil", "round"}

# number of a value → what is known of it beside its range
Assumptions = dict[int, tuple[Numbers, Numbers]]


def _selected(tape: Tape, node: Node, depth: int) -> Range | None:
    """The range of a select: that of each case, under what the predicate says of it."""
    which = _range(tape, node.inputs[0], depth)
    shape = tape.values[node.outputs[0]].shape
    predicate = tape.values[node.inputs[0]]
    cases = [_range(tape, k, depth) for k in node.inputs[1:]]
    if which is None or any(c is None for c in cases):
        return None
    low, high = np.asarray(np.inf), np.asarray(-np.inf)
    nan = False
    together = predicate.shape == shape and prod(shape) <= MAX_ELEMENTS
    for k, (number, case) in enumerate(zip(node.inputs[1:], cases, strict=True)):
        assert case is not None
        chosen = (which.low <= k) & (which.high >= k)
        if not chosen.any():
            continue
        case_low, case_high = case.low, case.high
        if predicate.dtype == np.bool_ and together:
            assumed = _assumed(tape, node.inputs[0], bool(k), depth)
            if assumed:
                refined = _under(tape, number, assumed, shape, depth, 0)
                case_low, case_high = refined
                for other in assumed:
                    a, b = _under(tape, other, assumed, shape, depth, 0)
                    chosen = chosen & (a <= b)
                chosen = chosen & (case_low <= case_high)
        nan = nan or case.nan
        low = np.minimum(low, np.where(chosen, case_low, np.inf))
        high = np.maximum(high, np.where(chosen, case_high, -np.inf))
    if (low > high).any() and not nan:
        return _hull([c for c in cases if c is not None])
    return Range(low, high, nan)


def _assumed(tape: Tape, number: int, truth: bool, depth: int) -> Assumptions:
    """What holds of integers and booleans where a predicate is true, or where it is not."""
    found: Assumptions = {}
    _collect(tape, number, truth, depth, 0, found)
    return found


def _collect(
    tape: Tape, number: int, truth: bool, depth: int, steps: int, found: Assumptions
) -> None:
    node = tape.values[number].node
    if node is None or tape.values[number].source != "result" or steps > DEEPEST_PREDICATE:
        return
    op = node.op
    if op == "not" and tape.values[number].dtype == np.bool_:
        _collect(tape, node.inputs[0], not truth, depth, steps + 1, found)
    elif (op == "and" and truth) or (op == "or" and not truth):
        if tape.values[number].dtype == np.bool_:
            for k in node.inputs:
                _collect(tape, k, truth, depth, steps + 1, found)
    elif op in ("and", "or") and tape.values[number].dtype == np.bool_:
        # one of two holds: what both of them say
        first: Assumptions = {}
        second: Assumptions = {}
        _collect(tape, node.inputs[0], truth, depth, steps + 1, first)
        _collect(tape, node.inputs[1], truth, depth, steps + 1, second)
        for other in first.keys() & second.keys():
            low = np.minimum(first[other][0], second[other][0])
            high = np.maximum(first[other][1], second[other][1])
            _learn(tape, other, low, high, depth, steps + 1, found)
    elif op in COMPARISONS:
        _compare(tape, node, truth, depth, steps, found)


def _compare(
    tape: Tape, node: Node, truth: bool, depth: int, steps: int, found: Assumptions
) -> None:
    """What a comparison of integers or booleans says of its two sides."""
    opposite = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
    mirrored = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
    left, right = node.inputs
    types = [tape.values[k].dtype for k in (left, right)]
    if any(t is None or not (jnp.issubdtype(t, jnp.integer) or t == np.bool_) for t in types):
        return
    op = node.op if truth else opposite[node.op]
    for mine, other, relation in ((left, right, op), (right, left, mirrored[op])):
        own, bound = _range(tape, mine, depth), _range(tape, other, depth)
        if own is None or bound is None:
            continue
        low, high = np.broadcast_arrays(own.low, own.high)
        if relation == "lt":
            high = np.minimum(high, bound.high - 1)
        elif relation == "le":
            high = np.minimum(high, bound.high)
        elif relation == "gt":
            low = np.maximum(low, bound.low + 1)
        elif relation == "ge":
            low = np.maximum(low, bound.low)
        elif relation == "eq":
            low, high = np.maximum(low, bound.low), np.minimum(high, bound.high)
        else:
            fixed = bound.low == bound.high
            low, high = (
                np.where(fixed & (low == bound.low), low + 1, low),
                np.where(fixed & (high == bound.low), high - 1, high),
            )
        _learn(tape, mine, low, high, depth, steps, found)


def _learn(
    tape: Tape,
    number: int,
    low: Numbers,
    high: Numbers,
    depth: int,
    steps: int,
    found: Assumptions,
) -> None:
    """Remembers bounds of a value, and what they say of the operand that it is made of."""
    if number in found:
        low, high = np.maximum(found[number][0], low), np.minimum(found[number][1], high)
    found[number] = low, high
    value = tape.values[number]
    if value.dtype == np.bool_:
        for truth in (False, True):
            if bool((low >= truth).all() and (high <= truth).all()):
                _collect(tape, number, truth, depth, steps + 1, found)
        return
    node = value.node
    if node is None or value.source != "result" or steps > DEEPEST_PREDICATE:
        return
    operand = node.inputs[0] if node.inputs else -1
    if node.op == "sign":
        limits = _range(tape, operand, depth)
        if limits is not None:
            below = np.where(high < 0, -1.0, np.where(high < 1, 0.0, limits.high))
            above = np.where(low > 0, 1.0, np.where(low > -1, 0.0, limits.low))
            _learn(tape, operand, above, below, depth, steps + 1, found)
    elif node.op == "convert_element_type":
        given, whole = _range(tape, operand, depth), _whole(value.dtype)
        integer = jnp.issubdtype(tape.values[operand].dtype, jnp.integer)
        if given is None or whole is None or not integer:
            return
        if (given.low >= whole.low).all() and (given.high <= whole.high).all():
            _learn(tape, operand, low, high, depth, steps + 1, found)


def _under(
    tape: Tape,
    number: int,
    assumed: Mapping[int, tuple[Numbers, Numbers]],
    shape: tuple[int, ...],
    depth: int,
    steps: int,
) -> tuple[Numbers, Numbers]:
    """Bounds of a value where the assumptions hold; the least above the greatest: never.

    The assumptions hold entry by entry, so only elementwise operations of arrays of the same
    shape are looked through.
    """
    plain = _range(tape, number, depth)
    if plain is None:
        return np.asarray(-np.inf), np.asarray(np.inf)
    low, high = plain.low, plain.high
    value = tape.values[number]
    node = value.node
    if node is not None and value.source == "result" and steps < DEEPEST_PREDICATE:
        small = node.op in ELEMENTWISE or node.op == "convert_element_type"
        same = all(tape.values[k].shape in (shape, ()) for k in node.inputs)
        integer = all(
            tape.values[k].dtype is not None and (jnp.issubdtype(tape.values[k].dtype, jnp.integer))
            for k in (*node.inputs, number)
        )
        if small and same and integer and value.shape == shape and value.source != "constant":
            made = [
                Range(*_under(tape, k, assumed, shape, depth, steps + 1))
                if tape.values[k].shape == shape
                else _range(tape, k, depth)
                for k in node.inputs
            ]
            computed = _of_refined(tape, node, made, value)
            if computed is not None:
                low, high = np.maximum(low, computed.low), np.minimum(high, computed.high)
    if number in assumed and value.shape == shape:
        low = np.maximum(low, assumed[number][0])
        high = np.minimum(high, assumed[number][1])
    return low, high


def _of_refined(
    tape: Tape, node: Node, operands: Sequence[Range | None], value: Any
) -> Range | None:
    """The range of an elementwise operation at refined operands; None where one is empty."""
    present = [r for r in operands if r is not None]
    if len(present) != len(operands):
        return None
    empty = np.any(np.stack(np.broadcast_arrays(*(r.low > r.high for r in present))), axis=0)
    if empty.any():
        # nothing is computed from nothing: the entries without any value stay without
        filled = [Range(np.where(empty, r.high, r.low), r.high) for r in present]
        found = _of_refined(tape, node, filled, value)
        if found is None:
            return None
        return Range(np.where(empty, np.inf, found.low), np.where(empty, -np.inf, found.high))
    given = [tape.values[k] for k in node.inputs]
    computed = _computed(node.op, program.parameters(node.equation), present, given, value)
    whole = _whole(value.dtype)
    return None if computed is None or whole is None else _fitting(computed, value.dtype, whole)
