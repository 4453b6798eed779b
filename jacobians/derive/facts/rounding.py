"""How far a constant that is computed here may lie from what a compiled program has in its place.

The same operations on the same constants give other digits when a compiler fuses them:
`0.1·3 − 0.3` is 0 after two roundings and −7·10⁻⁹ after one. So beside the value of a constant
stands its radius: whatever order, fusion or backend computes it, the result lies within
`value ± radius`. The radius is 0 where nothing is rounded: moved and selected entries, comparisons
of what is known well enough, integers, and sums and products that the type holds exactly.

    >>> radii("sub", {}, [a, b], [radius_of_a, None], [a - b])     # [array], or [None]: all exact

A radius of ∞ says that nothing is known of the entry. None stands for a radius of 0 everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Radius = NDArray[np.float64] | None
Move = Callable[..., Any]

COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
# operations that round nothing: with exact operands their results are exact
EXACT = COMPARISONS | frozenset(
    [
        "abs", "and", "argmax", "argmin", "bitcast_convert_type", "broadcast_in_dim", "ceil",
        "clamp", "complex", "concatenate", "conj", "copy", "copy_p", "cummax", "cummin",
        "dynamic_slice", "dynamic_update_slice", "expand_dims", "floor", "gather", "imag",
        "is_finite", "max", "min", "name", "neg", "not", "optimization_barrier", "or", "pad",
        "real", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_xor", "reshape",
        "rev", "round", "scatter", "select_n", "sign", "slice", "sort", "split", "squeeze",
        "stack", "stop_gradient", "tile", "top_k", "transpose", "unstack", "xor",
    ]
)  # fmt: skip
# operations that put entries elsewhere: their operands' radii go the same way
MOVES = frozenset(
    [
        "abs", "broadcast_in_dim", "concatenate", "copy", "copy_p", "expand_dims", "name", "neg",
        "optimization_barrier", "pad", "reshape", "rev", "slice", "split", "squeeze",
        "stack", "stop_gradient", "tile", "transpose", "unstack",
    ]
)  # fmt: skip
# the same by indices: which operands are entries, the others being indices
INDEXED: dict[str, tuple[int, ...]] = {
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    "scatter": (0, 2),
}
STEPS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "sign": np.sign,
    "round": np.rint,
}
# functions that take 0 to 0, and their greatest slope where that is finite
THROUGH_ZERO: dict[str, float] = {
    "sin": 1.0, "tan": np.inf, "sinh": np.inf, "tanh": 1.0, "asin": np.inf, "atan": 1.0,
    "asinh": 1.0, "atanh": np.inf, "erf": 1.2, "expm1": np.inf, "log1p": np.inf, "sqrt": np.inf,
    "cbrt": np.inf,
}  # fmt: skip
SLOPES: dict[str, float] = {**THROUGH_ZERO, "cos": 1.0, "logistic": 0.25}
# library functions differ from one another by a few units in the last place
FUNCTION_ROUNDINGS = 64.0
# matrix units may round the factors of a single-precision product to eight bits
PRODUCT_EPS = 2.0**-7
PRODUCT_BITS = 8
# ranges are compared this much wider, for the rounding of the bounds themselves
MARGIN = 1.5
# multiplications beyond which the rounding of a product is not bounded entry by entry
MAX_WORK = 1 << 28


def radii(
    op: str,
    params: Mapping[str, Any],
    operands: Sequence[Array],
    given: Sequence[Radius],
    results: Sequence[Array],
    moved: Move,
) -> list[Radius]:
    """The radii of an operation's results.

    Args:
        op: the operation's name.
        params: its parameters.
        operands: the values of its operands.
        given: the radii of its operands.
        results: the values of its results.
        moved: evaluates the operation on arrays of the operands' shapes, of single precision.

    Returns:
        One radius per result.
    """
    arrays = (*operands, *results)
    exact = all(r is None for r in given)
    ordered = op != "sort" or params["is_stable"] or len(operands) == params["num_keys"]
    if exact and ordered and (op in EXACT or not any(_rounds(x.dtype) for x in arrays)):
        return [_subnormal(op, operands, y) for y in results]
    if not all(isinstance(x, np.ndarray) for x in arrays):
        return [_unknown(y) for y in results]
    with np.errstate(all="ignore"):
        if op in MOVES or op in INDEXED:
            return _moved(op, operands, given, results, moved)
        rule = _RULES.get(op)
        large = any(not _rounds(x.dtype) and x.size and np.max(np.abs(x.astype(np.float64))) > 2**53
                    for x in arrays)  # fmt: skip
        if rule is None or large or any(np.iscomplexobj(x) for x in arrays):
            return [_unknown(y) for y in results]
        y = results[0]
        wide = [_wide(x) for x in operands]
        radius = np.broadcast_to(rule(params, wide, list(given), _wide(y), y.dtype), y.shape)
        if np.issubdtype(y.dtype, np.integer):
            # a whole number that is not certain may have been anything where it could wrap round
            wraps = np.issubdtype(y.dtype, np.unsignedinteger) | (np.abs(_wide(y)) + radius > 2**30)
            radius = np.where((radius > 0) & wraps, np.inf, radius)
    return [_tidy(radius)]


def _unknown(result: Any) -> Radius:
    return np.full(np.shape(result), np.inf)


def exact_constant(array: Array) -> Radius:
    """The radius of a constant that the program holds: 0, but for what may be flushed to 0."""
    return _subnormal("constant", (), array)


def eps_of(dtype: Any) -> float:
    """The relative rounding of a type: 0 for whole numbers."""
    return float(jnp.finfo(dtype).eps) if _rounds(dtype) else 0.0


def tiny_of(dtype: Any) -> float:
    """What a type may flush to 0."""
    return float(jnp.finfo(dtype).tiny) if _rounds(dtype) else 0.0


def _rounds(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _wide(x: Array) -> Array:
    """An array in float64, which holds every float, and integers below 2⁵³, as they are."""
    return np.asarray(x).astype(np.float64)


def _tidy(radius: Any) -> Radius:
    """The radius with nothing undefined in it; None when it is 0 everywhere."""
    found = np.where(np.isnan(radius), np.inf, radius)
    return np.asarray(found, np.float64) if found.any() else None


def _or_zero(radius: Radius) -> Any:
    return 0.0 if radius is None else radius


def _subnormal(op: str, operands: Sequence[Array], result: Array) -> Radius:
    """The radius of exact entries: what is subnormal may become 0, and a 0 may have either sign."""
    if not jnp.issubdtype(result.dtype, jnp.floating):
        if op == "bitcast_convert_type" and _rounds(operands[0].dtype):
            return np.where(operands[0] == 0, np.inf, 0.0).reshape(result.shape)
        return None
    size = np.abs(_wide(result))
    tiny = tiny_of(result.dtype)
    flushed = (size > 0) & (size < tiny)
    return np.where(flushed, tiny, 0.0) if flushed.any() else None


def _rounded(value: Array, dtype: Any, size: Any, exact: Any, times: float = 1.0) -> Any:
    """The rounding of a result: 0 where `exact`, else relative to `size`, times a count."""
    if not _rounds(dtype):
        return np.zeros(np.shape(value))
    held = exact & ((np.abs(value) >= tiny_of(dtype)) | (value == 0))
    return np.where(held, 0.0, times * eps_of(dtype) * size + tiny_of(dtype))


def _holds(value: Array, dtype: Any) -> Any:
    """Where a type holds a float64 as it is."""
    return value.astype(dtype).astype(np.float64) == value


def _sum_is_exact(a: Array, b: Array, dtype: Any) -> Any:
    """Where a + b has no rounding in a type, by the exact error of the sum (Knuth)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return (error == 0) & _holds(total, dtype)


def _product_is_exact(a: Array, b: Array, dtype: Any) -> Any:
    """Where a·b has no rounding in a type, by the exact error of the product (Dekker)."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    large = (np.abs(product) > 2.0**-900) | (a == 0) | (b == 0)
    return (error == 0) & _holds(product, dtype) & large


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = 134217729.0 * a
    high = scaled - (scaled - a)
    return high, a - high


def _add(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    minus = -1.0 if params.get("minus") else 1.0
    exact = _sum_is_exact(xs[0], minus * xs[1], dtype)
    size = np.abs(xs[0]) + np.abs(xs[1]) + np.abs(y)
    known = np.isinf(y) & np.isinf(xs[0] + minus * xs[1])
    return np.where(known & _all_exact(rs), 0.0, _rounded(y, dtype, size, exact)) + _both(rs)


def _subtract(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    return _add({"minus": True}, xs, rs, y, dtype)


def _ends(x: Array, radius: Any) -> tuple[Array, Array]:
    """Both ends of a range, a little beyond it."""
    return x - MARGIN * np.asarray(radius), x + MARGIN * np.asarray(radius)


def _both(rs: list[Radius]) -> Any:
    return _or_zero(rs[0]) + _or_zero(rs[1])


def _all_exact(rs: Sequence[Radius]) -> Any:
    """Where every operand is exact."""
    exact: Any = True
    for r in rs:
        exact = exact & (np.asarray(_or_zero(r)) == 0)
    return exact


def _multiply(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    a, b = np.abs(xs[0]), np.abs(xs[1])
    ra, rb = _or_zero(rs[0]), _or_zero(rs[1])
    exact = _product_is_exact(xs[0], xs[1], dtype) & _all_exact(rs)
    # the rounding of the bound itself is far below the one eps more that is taken
    spread = a * rb + b * ra + ra * rb
    result = np.where(_all_exact(rs), 0.0, spread) + _rounded(
        y, dtype, 2 * np.abs(y) + spread, exact
    )
    nothing = ((a == 0) & (np.asarray(ra) == 0) & np.isfinite(b + rb)) | (
        (b == 0) & (np.asarray(rb) == 0) & np.isfinite(a + ra)
    )
    infinite = np.isinf(y) & np.isinf(xs[0] * xs[1]) & _all_exact(rs)
    return np.where(nothing | infinite, 0.0, result)


def _divide(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    if not _rounds(dtype):
        return np.where(_all_exact(rs), 0.0, np.inf)
    a, b = np.abs(xs[0]), np.abs(xs[1])
    ra, rb = _or_zero(rs[0]), _or_zero(rs[1])
    # a compiler may multiply by the reciprocal, which only a power of two has
    power = np.frexp(xs[1])[0] == np.copysign(0.5, xs[1])
    exact = power & _holds(xs[0] / xs[1], dtype) & _all_exact(rs) & np.isfinite(y)
    least = b - rb
    spread = np.where(_all_exact(rs), 0.0, (ra + np.abs(y) * rb) / least)
    result = spread + _rounded(y, dtype, 4 * (np.abs(y) + spread), exact)
    nothing = (a == 0) & (np.asarray(ra) == 0) & (least > 0)
    return np.where(nothing, 0.0, np.where((least > 0) & np.isfinite(y), result, np.inf))


def _power(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """xⁿ by repeated products; exact where every one of them is."""
    n = int(params["y"]) if "y" in params else 2
    if n < 0 or n > 64:
        return np.full(y.shape, np.inf)
    value, radius = np.ones_like(xs[0]), np.zeros(xs[0].shape)
    for _ in range(n):
        product = value * xs[0]
        radius = _multiply(None, [value, xs[0]], [radius, rs[0]], product, dtype)
        value = product
    return np.where(radius == 0, 0.0, 4 * radius)


def _convert(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    radius = _or_zero(rs[0])
    if _rounds(dtype):
        exact = (y == xs[0]) & (np.abs(y) < 2.0**53) | np.isinf(xs[0]) | np.isnan(xs[0])
        return radius + _rounded(y, dtype, np.abs(y) + radius, exact)
    low, high = _ends(xs[0], radius)
    if np.dtype(dtype) == np.bool_:
        return np.where((np.asarray(radius) == 0) | (low > 0) | (high < 0), 0.0, 1.0)
    limits = jnp.iinfo(dtype)
    # what does not fit into the type is cut off or wraps around, as the backend has it
    fits = (low > float(limits.min) - 1.0) & (high < float(limits.max) + 1.0)
    cut = np.maximum(np.abs(np.trunc(low) - y), np.abs(np.trunc(high) - y))
    return np.where(fits, np.where(np.asarray(radius) == 0, 0.0, cut), np.inf)


def _compare(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """Certain where the ranges of both sides are apart, or nothing is rounded."""
    both = _both(rs)
    apart = np.abs(xs[0] - xs[1]) > MARGIN * both
    return np.where(apart | (np.asarray(both) == 0), 0.0, 1.0)


def _extreme(sign: float) -> Callable[..., Any]:
    """The greater of two (`sign` 1), or the lesser."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        a, b = sign * xs[0], sign * xs[1]
        ra, rb = _or_zero(rs[0]), _or_zero(rs[1])
        low, high = np.maximum(a - ra, b - rb), np.maximum(a + ra, b + rb)
        return np.where(low == high, 0.0, np.maximum(high - sign * y, sign * y - low))

    return rule


def _reduce_extreme(sign: float) -> Callable[..., Any]:
    """The greatest along axes (`sign` 1), or the least."""

    def rule(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        a, r = sign * xs[0], _or_zero(rs[0])
        if not a.size:
            return np.zeros(y.shape)
        axes = tuple(params["axes"])
        low, high = np.max(a - r, axis=axes), np.max(a + r, axis=axes)
        return np.where(low == high, 0.0, np.maximum(high - sign * y, sign * y - low))

    return rule


def _step(f: Callable[[Array], Array]) -> Callable[..., Any]:
    """A step function: exact where it is the same at both ends."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        r = _or_zero(rs[0])
        low, high = map(f, _ends(xs[0], r))
        return np.where(np.asarray(r) == 0, 0.0, np.maximum(np.abs(high - y), np.abs(low - y)))

    return rule


def _select(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    which, which_radius = xs[0], np.asarray(_or_zero(rs[0]))
    sure = np.zeros(y.shape)
    spread = np.zeros(y.shape)
    for k, (x, r) in enumerate(zip(xs[1:], rs[1:], strict=True)):
        radius = np.broadcast_to(_or_zero(r), y.shape)
        sure = np.where(which == k, radius, sure)
        difference = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        spread = np.maximum(spread, difference + radius)
    return np.where(which_radius == 0, sure, spread)


def _clamp(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    low, x, high = xs
    greater = np.maximum(low, x)
    radius = _extreme(1.0)(_, [low, x], [rs[0], rs[1]], greater, dtype)
    return _extreme(-1.0)(_, [greater, high], [radius, rs[2]], y, dtype)


def _logical(short: float) -> Callable[..., Any]:
    """`and` (`short` 0) and `or` (`short` 1) of booleans: one operand may decide alone."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        if np.dtype(dtype) != np.bool_:
            return np.where(_all_exact(rs), 0.0, np.inf)
        decided = np.zeros(y.shape, bool)
        for x, r in zip(xs, rs, strict=True):
            decided |= (x == short) & (np.asarray(_or_zero(r)) == 0)
        return np.where(decided | _all_exact(rs), 0.0, 1.0)

    return rule


def _reduce_logical(short: float) -> Callable[..., Any]:
    def rule(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        exact = np.broadcast_to(np.asarray(_or_zero(rs[0])) == 0, xs[0].shape)
        axes = tuple(params["axes"])
        if np.dtype(dtype) != np.bool_:
            return np.where(np.all(exact, axis=axes), 0.0, np.inf)
        decided = np.any((xs[0] == short) & exact, axis=axes) | np.all(exact, axis=axes)
        return np.where(decided, 0.0, 1.0)

    return rule


def _not(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    boolean = np.dtype(dtype) == np.bool_
    return np.where(np.asarray(_or_zero(rs[0])) == 0, 0.0, 1.0 if boolean else np.inf)


def _iota(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    return np.where(y < 2.0 ** _bits(dtype), 0.0, eps_of(dtype) * y)


def _remainder(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """Exact for whole numbers, where a quotient rounds to its own whole part."""
    if not _rounds(dtype):
        return np.where(_all_exact(rs), 0.0, np.inf)
    whole: Any = _all_exact(rs) & (xs[1] != 0)
    for x in xs:
        whole = whole & (x == np.rint(x)) & (np.abs(x) < 2.0 ** (_bits(dtype) - 2))
    return np.where(whole, 0.0, np.inf)


def _same_number(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """`reduce_precision`: exact where it changes nothing."""
    size = np.abs(y - xs[0])
    return _or_zero(rs[0]) + np.where(size > 0, 2 * size + tiny_of(dtype), 0.0)


def _grain(x: Array) -> Array:
    """The power of two that each entry is an odd multiple of; ∞ for 0."""
    mantissa, exponent = np.frexp(x)
    whole = np.where(np.isfinite(x), np.ldexp(mantissa, 53), 0.0).astype(np.int64)
    lowest = (whole & -whole).astype(np.float64)
    return np.where(whole == 0, np.inf, np.ldexp(lowest, exponent - 53))


def _adds_exactly(sizes: Array, grain: Array, bits: int) -> Any:
    """Where numbers of a common grain and this total size add without rounding in any order."""
    return (sizes == 0) | (sizes < np.ldexp(grain, bits))


def _bits(dtype: Any) -> int:
    return 1 - int(np.round(np.log2(eps_of(dtype))))


def _sum(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    axes = tuple(params["axes"])
    sizes = np.sum(np.abs(xs[0]), axis=axes)
    radius = np.sum(np.broadcast_to(_or_zero(rs[0]), xs[0].shape), axis=axes)
    if not _rounds(dtype):
        return radius
    least = np.min(_grain(xs[0]), axis=axes, initial=np.inf)
    count = xs[0].size / max(y.size, 1)
    exact = _adds_exactly(sizes, least, _bits(dtype)) & (radius == 0)
    return radius * (1 + 1e-6) + _rounded(y, dtype, sizes + radius, exact, count)


def _cumulative_sum(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    axis = params["axis"]

    def along(x: Any, f: Any = np.add) -> Any:
        x = np.broadcast_to(x, xs[0].shape)
        x = np.flip(x, axis) if params["reverse"] else x
        x = f.accumulate(x, axis=axis)
        return np.flip(x, axis) if params["reverse"] else x

    sizes, radius = along(np.abs(xs[0])), along(_or_zero(rs[0]))
    if not _rounds(dtype):
        return radius
    exact = _adds_exactly(sizes, along(_grain(xs[0]), np.minimum), _bits(dtype)) & (radius == 0)
    count = float(xs[0].shape[axis])
    return radius * (1 + 1e-6) + _rounded(y, dtype, sizes + radius, exact, count)


def _product(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """`dot_general`: exact where the factors are short numbers whose products add exactly."""
    (contract, batch) = params["dimension_numbers"]
    length = max(int(np.prod([xs[0].shape[d] for d in contract[0]])), 1)
    if y.size * length > MAX_WORK:
        return np.full(y.shape, np.inf)

    def times(a: Array, b: Array) -> Array:
        return contraction(a, b, contract, batch)

    a, b = np.abs(xs[0]), np.abs(xs[1])
    sizes = times(a, b)
    radius = np.zeros(y.shape)
    if not all(r is None for r in rs):
        ra, rb = (np.broadcast_to(_or_zero(r), x.shape) for r, x in zip(rs, xs, strict=True))
        radius = times(a, rb) + times(ra, b) + times(ra, rb)
    if not _rounds(dtype):
        return radius
    grains = [np.min(_grain(x), initial=np.inf) for x in xs]
    bits = _bits(dtype) if dtype == np.float64 else PRODUCT_BITS
    short = all(
        np.max(x, initial=0.0) < np.ldexp(g, bits) for x, g in zip((a, b), grains, strict=True)
    )
    exact = _adds_exactly(sizes, np.asarray(grains[0] * grains[1]), _bits(dtype)) & short
    exact = (exact | (sizes == 0)) & (radius == 0)
    rough = 0.0 if dtype == np.float64 else 2 * PRODUCT_EPS
    per = max(rough, length * eps_of(dtype)) / eps_of(dtype)
    return radius * (1 + 1e-6) + _rounded(y, dtype, sizes + radius, exact, 2 * per)


def contraction(a: Array, b: Array, contract: Any, batch: Any) -> Array:
    """`lax.dot_general` of NumPy arrays.

    Args:
        a: the left operand.
        b: the right operand.
        contract: contracted axes of either.
        batch: batch axes of either, in the same order.
    """
    names = iter(range(a.ndim + b.ndim))
    left = [next(names) for _ in range(a.ndim)]
    right = [next(names) for _ in range(b.ndim)]
    for i, j in (*zip(*contract, strict=True), *zip(*batch, strict=True)):
        right[j] = left[i]
    out = [left[i] for i in batch[0]]
    out += [n for d, n in enumerate(left) if d not in (*contract[0], *batch[0])]
    out += [n for d, n in enumerate(right) if d not in (*contract[1], *batch[1])]
    return np.asarray(np.einsum(a, left, b, right, out, optimize=True))


def _function(op: str) -> Callable[..., Any]:
    """A library function, accurate to a few units, exact at 0 where it takes 0 to 0."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        r = np.broadcast_to(_or_zero(rs[0]), y.shape)
        spread = np.where(r == 0, 0.0, r * SLOPES[op])
        exact = (xs[0] == 0) & (r == 0)
        if op not in THROUGH_ZERO:
            exact = exact & (y == 1.0)
        size = np.maximum(np.abs(y), np.where(exact, 0.0, spread))
        # the argument of a periodic function is reduced first
        reduced = np.abs(xs[0]) if op in ("sin", "cos", "tan") else 0.0
        return spread + _rounded(y, dtype, size + reduced, exact, FUNCTION_ROUNDINGS)

    return rule


def _exp(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    r = np.broadcast_to(_or_zero(rs[0]), y.shape)
    exact = ((xs[0] == 0) | np.isneginf(xs[0])) & (r == 0)
    spread = np.where(r == 0, 0.0, np.abs(y) * np.expm1(r))
    # what is nearly out of range may be cut off at its end
    return spread + _rounded(y, dtype, np.abs(y) + spread, exact, FUNCTION_ROUNDINGS)


def _log(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    r = np.broadcast_to(_or_zero(rs[0]), y.shape)
    least = xs[0] - r
    spread = np.where(r == 0, 0.0, r / least)
    radius = spread + _rounded(y, dtype, np.abs(y) + 1.0, np.zeros(y.shape, bool), 4.0)
    return np.where((xs[0] == 0) & (r == 0), 0.0, np.where(least > 0, radius, np.inf))


def _moved(
    op: str,
    operands: Sequence[Array],
    given: Sequence[Radius],
    results: Sequence[Array],
    moved: Move,
) -> list[Radius]:
    """The radii where the entries have gone, in single precision and rounded up."""
    entries = INDEXED.get(op, range(len(operands)))
    if any(r is not None and k not in entries for k, r in enumerate(given)):
        return [_unknown(y) for y in results]
    sent: list[Array] = []
    for k, (x, r) in enumerate(zip(operands, given, strict=True)):
        if k in entries:
            single = np.broadcast_to(_or_zero(r), x.shape).astype(np.float32)
            up = np.nextafter(single, np.float32(np.inf), dtype=np.float32)
            sent.append(np.where(np.asarray(_or_zero(r)) > 0, up, np.float32(0)))
        else:
            sent.append(x)
    try:
        made = moved(sent)
    except Exception:
        # a radius that cannot be moved is unknown: wide, never wrong
        return [_unknown(y) for y in results]
    return [_tidy(np.abs(np.asarray(m, np.float64))) for m in made]


_RULES: dict[str, Callable[..., Any]] = {
    "add": _add,
    "add_any": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "integer_pow": _power,
    "square": _power,
    "convert_element_type": _convert,
    "max": _extreme(1.0),
    "min": _extreme(-1.0),
    "reduce_max": _reduce_extreme(1.0),
    "reduce_min": _reduce_extreme(-1.0),
    "select_n": _select,
    "clamp": _clamp,
    "and": _logical(0.0),
    "or": _logical(1.0),
    "reduce_and": _reduce_logical(0.0),
    "reduce_or": _reduce_logical(1.0),
    "not": _not,
    "iota": _iota,
    "rem": _remainder,
    "reduce_precision": _same_number,
    "reduce_sum": _sum,
    "cumsum": _cumulative_sum,
    "dot_general": _product,
    "exp": _exp,
    "log": _log,
    **{op: _step(f) for op, f in STEPS.items()},
    **dict.fromkeys(COMPARISONS, _compare),
    **{op: _function(op) for op in SLOPES},
}
