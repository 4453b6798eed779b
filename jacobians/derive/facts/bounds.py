"""A range: the least and the greatest number that each entry of an array can be.

What a type holds (int8: [−128, 127]), what a known array is, and how far rounding widens bounds.
What an operation makes of ranges is in `facts.range_rules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

# arrays beyond this many elements have one range for all their entries
MAX_ELEMENTS = 1 << 16
# integers beyond this are not told apart by the double precision that bounds are held in
LARGEST_EXACT = 2.0**52
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


def range_of_type(dtype: Any) -> Range | None:
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


def range_of_array(array: NDArray[Any]) -> Range:
    """The range of a known array: each entry is itself."""
    numbers = array.astype(np.float64)
    if jnp.issubdtype(array.dtype, jnp.floating) and np.isnan(numbers).any():
        return Range(
            np.where(np.isnan(numbers), np.inf, numbers),
            np.where(np.isnan(numbers), -np.inf, numbers),
            True,
        )
    return Range(numbers, numbers)


def within_type(found: Range, dtype: Any, whole: Range) -> Range:
    """The range, or that of the whole type where an integer may have wrapped around."""
    if jnp.issubdtype(dtype, jnp.floating):
        return found
    too_far = (found.low < whole.low) | (found.high > whole.high)
    if not too_far.any():
        return found
    return Range(np.where(too_far, whole.low, found.low), np.where(too_far, whole.high, found.high))


def condensed(found: Range) -> Range:
    """One range for all entries where there are too many."""
    if max(found.low.size, found.high.size) <= MAX_ELEMENTS:
        return found
    return Range(np.asarray(np.min(found.low)), np.asarray(np.max(found.high)), found.nan)


def has_whole_bounds(r: Range) -> bool:
    """Whether both bounds are whole numbers, which short sums and products of them are too."""
    return bool((np.floor(r.low) == r.low).all() and (np.floor(r.high) == r.high).all())


def widened(
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


def of_any_entry(r: Range) -> Range:
    """Entries in any order."""
    if not r.low.size or not r.high.size:
        return r
    return Range(np.asarray(np.min(r.low)), np.asarray(np.max(r.high)), r.nan)


def hull(ranges: Sequence[Range]) -> Range:
    """One range that holds those of several values."""
    low = min((float(np.min(r.low, initial=np.inf)) for r in ranges), default=np.inf)
    high = max((float(np.max(r.high, initial=-np.inf)) for r in ranges), default=-np.inf)
    return Range(np.asarray(low), np.asarray(high), any(r.nan for r in ranges))
