"""The range of an operation's result from the ranges of its operands, a rule for each family.

A sum of numbers in [0, 1] and in [5, 6] lies in [5, 7]; a product has its bounds at the corners.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians.derive.facts.bounds import (
    LARGEST_EXACT,
    MAX_ELEMENTS,
    STEPS,
    Numbers,
    Range,
    has_whole_bounds,
    hull,
    of_any_entry,
    widened,
)
from jacobians.derive.tape import QUICK
from jacobians.program.primitives import Does, does


def computed_range(
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
    if does(op, Does.COMPARES):
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
        exact = all(has_whole_bounds(r) for r in operands)
        if not floating:
            return _surely(op, Range(low, high))
        undefined = np.isnan(low) | np.isnan(high)
        low, high = np.where(undefined, -np.inf, low), np.where(undefined, np.inf, high)
        nan = any(r.nan for r in operands) or does(op, Does.MAY_BE_NAN)
        if not does(op, Does.HAS_LIMITS) and not all(r.finite for r in operands):
            nan = True
        steps = max(STEPS, int(params["y"])) if op == "integer_pow" else STEPS
        ends = widened(low, high, result.dtype, exact or does(op, Does.EXACT), steps)
        if does(op, Does.LIBRARY):
            # what a library computes may be a little more than 1, never less than 0
            ends = widened(low, high, result.dtype, False)
            ends = np.where(low == 0, low, ends[0]), ends[1]
        return Range(*ends, nan)


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
    if does(op, Does.BOUNDED):
        return r
    far = np.maximum(np.abs(r.low), np.abs(r.high)) > LARGEST_EXACT
    return Range(np.where(far, -np.inf, r.low), np.where(far, np.inf, r.high))


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
    if op in ("gather", "dynamic_slice"):
        mode = str(params.get("mode", "")).upper()
        if "FILL" in mode and params.get("fill_value") != 0:
            # what is put where the index is outside is another number
            return None
        first = of_any_entry(operands[0])
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
        return hull(operands)
    nan = any(r.nan for r in operands)
    pairs = list(zip(operands, shapes, strict=True))
    low = MOVING[op](params, *(np.broadcast_to(r.low, s) for r, s in pairs))
    high = MOVING[op](params, *(np.broadcast_to(r.high, s) for r, s in pairs))
    return Range(np.asarray(low, np.float64), np.asarray(high, np.float64), nan)


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
    if both is None or not r.finite or not has_whole_bounds(r):
        return None
    low, high = (np.sum(b, axis=tuple(params["axes"])) for b in both)
    return Range(low, high)


def _accumulated(combine: Any) -> Callable[..., Range | None]:
    def rule(r: Range, shape: tuple[int, ...], params: Any) -> Range | None:
        both = _along(r, shape)
        if both is None or not r.finite or not has_whole_bounds(r):
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
        return Range(*widened(r.low, r.high, target, True), r.nan)
    low, high = np.trunc(r.low), np.trunc(r.high)
    if r.nan:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return Range(low, high)


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
    if max(np.abs(r.low).max() for r in operands) > LARGEST_EXACT:
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

    def rule(_: Any, operands: list[Range], floating: bool) -> tuple[Numbers, Numbers]:
        return np.full_like(operands[0].low, low), np.full_like(operands[0].high, high)

    return rule


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
