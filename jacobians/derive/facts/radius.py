"""The radius of a constant: how far it may lie from what a compiled program has in its place.

What one rounding adds, which sums and products have none, and which numbers are flushed to 0.
None stands for a radius of 0 everywhere, ∞ for an entry of which nothing is known.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Radius = NDArray[np.float64] | None

# ranges are compared this much wider, for the rounding of the bounds themselves
MARGIN = 1.5


def unknown(result: Any) -> Radius:
    return np.full(np.shape(result), np.inf)


def exact_constant(array: Array) -> Radius:
    """The radius of a constant that the program holds: 0, but for what may be flushed to 0."""
    return flushed_radius("constant", (), array)


def eps_of(dtype: Any) -> float:
    """The relative rounding of a type: 0 for whole numbers."""
    return float(jnp.finfo(dtype).eps) if rounds(dtype) else 0.0


def tiny_of(dtype: Any) -> float:
    """What a type may flush to 0."""
    return float(jnp.finfo(dtype).tiny) if rounds(dtype) else 0.0


def rounds(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def in_double(x: Array) -> Array:
    """An array in float64, which holds every float, and integers below 2⁵³, as they are."""
    return np.asarray(x).astype(np.float64)


def tidy(radius: Any) -> Radius:
    """The radius with nothing undefined in it; None when it is 0 everywhere."""
    found = np.where(np.isnan(radius), np.inf, radius)
    return np.asarray(found, np.float64) if found.any() else None


def or_zero(radius: Radius) -> Any:
    return 0.0 if radius is None else radius


def flushed_radius(op: str, operands: Sequence[Array], result: Array) -> Radius:
    """The radius of exact entries: what is subnormal may become 0, and a 0 may have either sign."""
    if not jnp.issubdtype(result.dtype, jnp.floating):
        if op == "bitcast_convert_type" and rounds(operands[0].dtype):
            return np.where(operands[0] == 0, np.inf, 0.0).reshape(result.shape)
        return None
    size = np.abs(in_double(result))
    tiny = tiny_of(result.dtype)
    flushed = (size > 0) & (size < tiny)
    return np.where(flushed, tiny, 0.0) if flushed.any() else None


def rounding_of(value: Array, dtype: Any, size: Any, exact: Any, times: float = 1.0) -> Any:
    """The rounding of a result: 0 where `exact`, else relative to `size`, times a count."""
    if not rounds(dtype):
        return np.zeros(np.shape(value))
    held = exact & ((np.abs(value) >= tiny_of(dtype)) | (value == 0))
    return np.where(held, 0.0, times * eps_of(dtype) * size + tiny_of(dtype))


def holds(value: Array, dtype: Any) -> Any:
    """Where a type holds a float64 as it is."""
    return value.astype(dtype).astype(np.float64) == value


def sum_is_exact(a: Array, b: Array, dtype: Any) -> Any:
    """Where a + b has no rounding in a type, by the exact error of the sum (Knuth)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return (error == 0) & holds(total, dtype)


def product_is_exact(a: Array, b: Array, dtype: Any) -> Any:
    """Where a·b has no rounding in a type, by the exact error of the product (Dekker)."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    large = (np.abs(product) > 2.0**-900) | (a == 0) | (b == 0)
    return (error == 0) & holds(product, dtype) & large


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = 134217729.0 * a
    high = scaled - (scaled - a)
    return high, a - high


def ends(x: Array, radius: Any) -> tuple[Array, Array]:
    """Both ends of a range, a little beyond it."""
    return x - MARGIN * np.asarray(radius), x + MARGIN * np.asarray(radius)


def sum_of_both(rs: list[Radius]) -> Any:
    return or_zero(rs[0]) + or_zero(rs[1])


def all_exact(rs: Sequence[Radius]) -> Any:
    """Where every operand is exact."""
    exact: Any = True
    for r in rs:
        exact = exact & (np.asarray(or_zero(r)) == 0)
    return exact


def grain(x: Array) -> Array:
    """The power of two that each entry is an odd multiple of; ∞ for 0."""
    mantissa, exponent = np.frexp(x)
    whole = np.where(np.isfinite(x), np.ldexp(mantissa, 53), 0.0).astype(np.int64)
    lowest = (whole & -whole).astype(np.float64)
    return np.where(whole == 0, np.inf, np.ldexp(lowest, exponent - 53))


def adds_exactly(sizes: Array, grain: Array, bits: int) -> Any:
    """Where numbers of a common grain and this total size add without rounding in any order."""
    return (sizes == 0) | (sizes < np.ldexp(grain, bits))


def mantissa_bits(dtype: Any) -> int:
    return 1 - int(np.round(np.log2(eps_of(dtype))))
