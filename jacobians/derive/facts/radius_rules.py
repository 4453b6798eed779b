"""The radius of an operation's result from its operands' values and radii, a rule for each family.

A rule is given the parameters, the operands and their radii, the result, and the result's type; in
a sum the radii add up, and one rounding is added where the sum is not exact.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians.derive.facts.radius import (
    MARGIN,
    Array,
    Radius,
    adds_exactly,
    all_exact,
    ends,
    eps_of,
    grain,
    holds,
    mantissa_bits,
    or_zero,
    product_is_exact,
    rounding_of,
    rounds,
    sum_is_exact,
    sum_of_both,
    tiny_of,
)
from jacobians.program.primitives import Does, named

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

# multiplications beyond which the rounding of a product is not bounded entry by entry
MAX_WORK = 1 << 28


def _add(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    minus = -1.0 if params.get("minus") else 1.0
    exact = sum_is_exact(xs[0], minus * xs[1], dtype)
    size = np.abs(xs[0]) + np.abs(xs[1]) + np.abs(y)
    known = np.isinf(y) & np.isinf(xs[0] + minus * xs[1])
    return np.where(known & all_exact(rs), 0.0, rounding_of(y, dtype, size, exact)) + sum_of_both(
        rs
    )


def _subtract(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    return _add({"minus": True}, xs, rs, y, dtype)


def _multiply(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    a, b = np.abs(xs[0]), np.abs(xs[1])
    ra, rb = or_zero(rs[0]), or_zero(rs[1])
    exact = product_is_exact(xs[0], xs[1], dtype) & all_exact(rs)
    # the rounding of the bound itself is far below the one eps more that is taken
    spread = a * rb + b * ra + ra * rb
    result = np.where(all_exact(rs), 0.0, spread) + rounding_of(
        y, dtype, 2 * np.abs(y) + spread, exact
    )
    nothing = ((a == 0) & (np.asarray(ra) == 0) & np.isfinite(b + rb)) | (
        (b == 0) & (np.asarray(rb) == 0) & np.isfinite(a + ra)
    )
    infinite = np.isinf(y) & np.isinf(xs[0] * xs[1]) & all_exact(rs)
    return np.where(nothing | infinite, 0.0, result)


def _divide(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    if not rounds(dtype):
        return np.where(all_exact(rs), 0.0, np.inf)
    a, b = np.abs(xs[0]), np.abs(xs[1])
    ra, rb = or_zero(rs[0]), or_zero(rs[1])
    # a compiler may multiply by the reciprocal, which only a power of two has
    power = np.frexp(xs[1])[0] == np.copysign(0.5, xs[1])
    exact = power & holds(xs[0] / xs[1], dtype) & all_exact(rs) & np.isfinite(y)
    least = b - rb
    spread = np.where(all_exact(rs), 0.0, (ra + np.abs(y) * rb) / least)
    result = spread + rounding_of(y, dtype, 4 * (np.abs(y) + spread), exact)
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
    radius = or_zero(rs[0])
    if rounds(dtype):
        exact = (y == xs[0]) & (np.abs(y) < 2.0**53) | np.isinf(xs[0]) | np.isnan(xs[0])
        return radius + rounding_of(y, dtype, np.abs(y) + radius, exact)
    low, high = ends(xs[0], radius)
    if np.dtype(dtype) == np.bool_:
        return np.where((np.asarray(radius) == 0) | (low > 0) | (high < 0), 0.0, 1.0)
    limits = jnp.iinfo(dtype)
    # what does not fit into the type is cut off or wraps around, as the backend has it
    fits = (low > float(limits.min) - 1.0) & (high < float(limits.max) + 1.0)
    cut = np.maximum(np.abs(np.trunc(low) - y), np.abs(np.trunc(high) - y))
    return np.where(fits, np.where(np.asarray(radius) == 0, 0.0, cut), np.inf)


def _compare(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """Certain where the ranges of both sides are apart, or nothing is rounded."""
    both = sum_of_both(rs)
    apart = np.abs(xs[0] - xs[1]) > MARGIN * both
    return np.where(apart | (np.asarray(both) == 0), 0.0, 1.0)


def _extreme(sign: float) -> Callable[..., Any]:
    """The greater of two (`sign` 1), or the lesser."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        a, b = sign * xs[0], sign * xs[1]
        ra, rb = or_zero(rs[0]), or_zero(rs[1])
        low, high = np.maximum(a - ra, b - rb), np.maximum(a + ra, b + rb)
        return np.where(low == high, 0.0, np.maximum(high - sign * y, sign * y - low))

    return rule


def _reduce_extreme(sign: float) -> Callable[..., Any]:
    """The greatest along axes (`sign` 1), or the least."""

    def rule(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        a, r = sign * xs[0], or_zero(rs[0])
        if not a.size:
            return np.zeros(y.shape)
        axes = tuple(params["axes"])
        low, high = np.max(a - r, axis=axes), np.max(a + r, axis=axes)
        return np.where(low == high, 0.0, np.maximum(high - sign * y, sign * y - low))

    return rule


def _step(f: Callable[[Array], Array]) -> Callable[..., Any]:
    """A step function: exact where it is the same at both ends."""

    def rule(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        r = or_zero(rs[0])
        low, high = map(f, ends(xs[0], r))
        return np.where(np.asarray(r) == 0, 0.0, np.maximum(np.abs(high - y), np.abs(low - y)))

    return rule


def _select(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    which, which_radius = xs[0], np.asarray(or_zero(rs[0]))
    sure = np.zeros(y.shape)
    spread = np.zeros(y.shape)
    for k, (x, r) in enumerate(zip(xs[1:], rs[1:], strict=True)):
        radius = np.broadcast_to(or_zero(r), y.shape)
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
            return np.where(all_exact(rs), 0.0, np.inf)
        decided = np.zeros(y.shape, bool)
        for x, r in zip(xs, rs, strict=True):
            decided |= (x == short) & (np.asarray(or_zero(r)) == 0)
        return np.where(decided | all_exact(rs), 0.0, 1.0)

    return rule


def _reduce_logical(short: float) -> Callable[..., Any]:
    def rule(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
        exact = np.broadcast_to(np.asarray(or_zero(rs[0])) == 0, xs[0].shape)
        axes = tuple(params["axes"])
        if np.dtype(dtype) != np.bool_:
            return np.where(np.all(exact, axis=axes), 0.0, np.inf)
        decided = np.any((xs[0] == short) & exact, axis=axes) | np.all(exact, axis=axes)
        return np.where(decided, 0.0, 1.0)

    return rule


def _not(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    boolean = np.dtype(dtype) == np.bool_
    return np.where(np.asarray(or_zero(rs[0])) == 0, 0.0, 1.0 if boolean else np.inf)


def _iota(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    return np.where(y < 2.0 ** mantissa_bits(dtype), 0.0, eps_of(dtype) * y)


def _remainder(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """Exact for whole numbers, where a quotient rounds to its own whole part."""
    if not rounds(dtype):
        return np.where(all_exact(rs), 0.0, np.inf)
    whole: Any = all_exact(rs) & (xs[1] != 0)
    for x in xs:
        whole = whole & (x == np.rint(x)) & (np.abs(x) < 2.0 ** (mantissa_bits(dtype) - 2))
    return np.where(whole, 0.0, np.inf)


def _same_number(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """`reduce_precision`: exact where it changes nothing."""
    size = np.abs(y - xs[0])
    return or_zero(rs[0]) + np.where(size > 0, 2 * size + tiny_of(dtype), 0.0)


def _sum(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    axes = tuple(params["axes"])
    sizes = np.sum(np.abs(xs[0]), axis=axes)
    radius = np.sum(np.broadcast_to(or_zero(rs[0]), xs[0].shape), axis=axes)
    if not rounds(dtype):
        return radius
    least = np.min(grain(xs[0]), axis=axes, initial=np.inf)
    count = xs[0].size / max(y.size, 1)
    exact = adds_exactly(sizes, least, mantissa_bits(dtype)) & (radius == 0)
    return radius * (1 + 1e-6) + rounding_of(y, dtype, sizes + radius, exact, count)


def _cumulative_sum(params: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    """A sum of what comes before each entry: as many roundings as the axis is long."""
    axis = params["axis"]

    def along(x: Any, f: Any = np.add) -> Any:
        x = np.broadcast_to(x, xs[0].shape)
        x = np.flip(x, axis) if params["reverse"] else x
        x = f.accumulate(x, axis=axis)
        return np.flip(x, axis) if params["reverse"] else x

    sizes, radius = along(np.abs(xs[0])), along(or_zero(rs[0]))
    if not rounds(dtype):
        return radius
    exact = adds_exactly(sizes, along(grain(xs[0]), np.minimum), mantissa_bits(dtype)) & (
        radius == 0
    )
    count = float(xs[0].shape[axis])
    return radius * (1 + 1e-6) + rounding_of(y, dtype, sizes + radius, exact, count)


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
        ra, rb = (np.broadcast_to(or_zero(r), x.shape) for r, x in zip(rs, xs, strict=True))
        radius = times(a, rb) + times(ra, b) + times(ra, rb)
    if not rounds(dtype):
        return radius
    grains = [np.min(grain(x), initial=np.inf) for x in xs]
    bits = mantissa_bits(dtype) if dtype == np.float64 else PRODUCT_BITS
    short = all(
        np.max(x, initial=0.0) < np.ldexp(g, bits) for x, g in zip((a, b), grains, strict=True)
    )
    exact = adds_exactly(sizes, np.asarray(grains[0] * grains[1]), mantissa_bits(dtype)) & short
    exact = (exact | (sizes == 0)) & (radius == 0)
    rough = 0.0 if dtype == np.float64 else 2 * PRODUCT_EPS
    per = max(rough, length * eps_of(dtype)) / eps_of(dtype)
    return radius * (1 + 1e-6) + rounding_of(y, dtype, sizes + radius, exact, 2 * per)


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
        r = np.broadcast_to(or_zero(rs[0]), y.shape)
        spread = np.where(r == 0, 0.0, r * SLOPES[op])
        exact = (xs[0] == 0) & (r == 0)
        if op not in THROUGH_ZERO:
            exact = exact & (y == 1.0)
        size = np.maximum(np.abs(y), np.where(exact, 0.0, spread))
        # the argument of a periodic function is reduced first
        reduced = np.abs(xs[0]) if op in ("sin", "cos", "tan") else 0.0
        return spread + rounding_of(y, dtype, size + reduced, exact, FUNCTION_ROUNDINGS)

    return rule


def _exp(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    r = np.broadcast_to(or_zero(rs[0]), y.shape)
    exact = ((xs[0] == 0) | np.isneginf(xs[0])) & (r == 0)
    spread = np.where(r == 0, 0.0, np.abs(y) * np.expm1(r))
    # what is nearly out of range may be cut off at its end
    return spread + rounding_of(y, dtype, np.abs(y) + spread, exact, FUNCTION_ROUNDINGS)


def _log(_: Any, xs: list[Array], rs: list[Radius], y: Array, dtype: Any) -> Any:
    r = np.broadcast_to(or_zero(rs[0]), y.shape)
    least = xs[0] - r
    spread = np.where(r == 0, 0.0, r / least)
    radius = spread + rounding_of(y, dtype, np.abs(y) + 1.0, np.zeros(y.shape, bool), 4.0)
    return np.where((xs[0] == 0) & (r == 0), 0.0, np.where(least > 0, radius, np.inf))


RULES: dict[str, Callable[..., Any]] = {
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
    **dict.fromkeys(named(Does.COMPARES), _compare),
    **{op: _function(op) for op in SLOPES},
}
