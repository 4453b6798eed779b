"""What an entry may be whatever the inputs are: 0, an infinity, NaN, or an ordinary number.

A set of possibilities is a sum of the bits below. An *ordinary* number is one that an input makes,
or a constant known only up to rounding: how it comes out at a point where the function is not
defined, or too large for its type, is that point's affair, so that whether it is an infinity or NaN
is not known. The zeros, infinities and NaN that the
program writes down itself are followed through every operation exactly, so that 0·∞, ∞ − ∞ and 0/0
are found where they are made.

    >>> bool(BINARY["sub"][NEGATIVE_INFINITY, NEGATIVE_INFINITY] == NAN)
    True
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]

ORDINARY, ZERO, NEGATIVE_INFINITY, POSITIVE_INFINITY, NAN, POSITIVE, NEGATIVE = (
    1 << k for k in range(7)
)
ANYTHING = (1 << 7) - 1
INFINITE = NEGATIVE_INFINITY | POSITIVE_INFINITY
SPECIAL = INFINITE | NAN
FINITE = ANYTHING & ~SPECIAL

_EACH = tuple(1 << k for k in range(7))
# a number that stands for each kind, to try an operation on; ordinary ones are spoken of apart
_SAMPLE = {
    ZERO: 0.0, NEGATIVE_INFINITY: -np.inf, POSITIVE_INFINITY: np.inf, NAN: np.nan,
    POSITIVE: 1.5, NEGATIVE: -1.5,
}  # fmt: skip


def kinds_of(values: NDArray[np.floating]) -> Bits:
    """The kind of every entry of an array whose numbers are exact."""
    kinds = np.full(values.shape, ZERO, np.uint8)
    with np.errstate(all="ignore"):
        kinds[values > 0] = POSITIVE
        kinds[values < 0] = NEGATIVE
    kinds[values == np.inf] = POSITIVE_INFINITY
    kinds[values == -np.inf] = NEGATIVE_INFINITY
    kinds[np.isnan(values)] = NAN
    return kinds


def _table(kind: Callable[[int, int], int]) -> Bits:
    """A table over sets of possibilities from what comes of two single ones."""
    single = {(a, b): kind(a, b) for a in _EACH for b in _EACH}
    table = np.zeros((ANYTHING + 1, ANYTHING + 1), np.uint8)
    for (a, b), result in single.items():
        has_a = (np.arange(ANYTHING + 1) & a).astype(bool)
        has_b = (np.arange(ANYTHING + 1) & b).astype(bool)
        table[np.ix_(has_a, has_b)] |= np.uint8(result)
    return table


def _unary(**special: int) -> Bits:
    """A table of a function: what comes of each single kind, itself where it is not named."""
    given = {
        ORDINARY: special.get("ordinary", ORDINARY),
        ZERO: special.get("zero", ZERO),
        NEGATIVE_INFINITY: special.get("low", NEGATIVE_INFINITY),
        POSITIVE_INFINITY: special.get("high", POSITIVE_INFINITY),
        NAN: special.get("nan", NAN),
        POSITIVE: special.get("positive", POSITIVE),
        NEGATIVE: special.get("negative", NEGATIVE),
    }
    table = np.zeros(ANYTHING + 1, np.uint8)
    for bit, result in given.items():
        table[(np.arange(ANYTHING + 1) & bit).astype(bool)] |= np.uint8(result)
    return table


def _is_finite(kind: int) -> bool:
    return bool(kind & FINITE)


def _add(a: int, b: int) -> int:
    if NAN in (a, b) or (a | b) == INFINITE:
        return NAN
    for infinity in (NEGATIVE_INFINITY, POSITIVE_INFINITY):
        if infinity in (a, b):
            return infinity
    if ZERO in (a, b):
        return b if a == ZERO else a
    return ORDINARY


def _negated(a: int) -> int:
    opposite = {
        NEGATIVE_INFINITY: POSITIVE_INFINITY, POSITIVE_INFINITY: NEGATIVE_INFINITY,
        POSITIVE: NEGATIVE, NEGATIVE: POSITIVE,
    }  # fmt: skip
    return opposite.get(a, a)


def _multiply(a: int, b: int) -> int:
    if NAN in (a, b):
        return NAN
    if _is_finite(a) and _is_finite(b):
        return ZERO if ZERO in (a, b) else ORDINARY
    if ZERO in (a, b):
        return NAN
    if ORDINARY in (a, b):
        return SPECIAL
    negative = (a in (NEGATIVE, NEGATIVE_INFINITY)) != (b in (NEGATIVE, NEGATIVE_INFINITY))
    return NEGATIVE_INFINITY if negative else POSITIVE_INFINITY


def _divide(a: int, b: int) -> int:
    if NAN in (a, b) or (a & INFINITE and b & INFINITE) or a == b == ZERO:
        return NAN
    if b & INFINITE:
        return ZERO
    if a & INFINITE:
        return INFINITE
    if b == ZERO:
        # what an input makes may be 0 itself, and 0/0 is no number
        return SPECIAL if a == ORDINARY else INFINITE
    return ZERO if a == ZERO else ORDINARY


def _maximum(a: int, b: int) -> int:
    if NAN in (a, b):
        return NAN
    if POSITIVE_INFINITY in (a, b):
        return POSITIVE_INFINITY
    if NEGATIVE_INFINITY in (a, b):
        return b if a == NEGATIVE_INFINITY else a
    if POSITIVE in (a, b) and ORDINARY not in (a, b):
        return POSITIVE
    if ORDINARY in (a, b):
        return ORDINARY
    return ZERO if ZERO in (a, b) else NEGATIVE


def _minimum(a: int, b: int) -> int:
    return _negated(_maximum(_negated(a), _negated(b)))


def _power(a: int, b: int) -> int:
    if _is_finite(a) and _is_finite(b):
        if a == ZERO:
            return {POSITIVE: ZERO, ZERO: POSITIVE}.get(b, ANYTHING)
        return ORDINARY if a != NEGATIVE else ORDINARY | NAN
    return ANYTHING


def _remainder(a: int, b: int) -> int:
    if _is_finite(a) and _is_finite(b):
        return NAN if b == ZERO else (ZERO if a == ZERO else ORDINARY)
    return ANYTHING


# truth values are kinds too: false is 0, true a positive constant, not known is ordinary
TRUE, FALSE, UNKNOWN = POSITIVE, ZERO, ORDINARY


def _compare(holds: Callable[[float, float], bool], finite: bool) -> Callable[[int, int], int]:
    """A comparison, decided where a 0, an infinity or a sign decides it for every number.

    Unless ordinary numbers are known to be `finite`, they may be too large for their type, or NaN.
    """

    def kind(a: int, b: int) -> int:
        if not finite and ORDINARY in (a, b) and NAN not in (a, b):
            return UNKNOWN
        # an ordinary number may lie on either side of a constant, and be equal to it
        left = [_SAMPLE[a]] if a != ORDINARY else [-3.0, -1.5, 0.0, 1.5, 3.0]
        right = [_SAMPLE[b]] if b != ORDINARY else [-3.0, -1.5, 0.0, 1.5, 3.0]
        if a == b and a in (POSITIVE, NEGATIVE):
            # two constants of one sign compare in any way
            right = [0.5 * _SAMPLE[a], _SAMPLE[a], 2.0 * _SAMPLE[a]]
        found = {holds(x, y) for x in left for y in right}
        return UNKNOWN if len(found) > 1 else (TRUE if found.pop() else FALSE)

    return kind


def _and(a: int, b: int) -> int:
    if FALSE in (a, b):
        return FALSE
    return TRUE if a == b == TRUE else UNKNOWN


def _not(a: int) -> int:
    return {FALSE: TRUE, TRUE: FALSE}.get(a, UNKNOWN)


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}

BINARY: dict[str, Bits] = {
    "add": _table(_add),
    "add_any": _table(_add),
    "sub": _table(lambda a, b: _add(a, _negated(b))),
    "mul": _table(_multiply),
    "div": _table(_divide),
    "max": _table(_maximum),
    "min": _table(_minimum),
    "pow": _table(_power),
    "rem": _table(_remainder),
    **{name: _table(_compare(holds, False)) for name, holds in COMPARISONS.items()},
}
# the same for operands without infinities but those that the program writes down
FINITE_COMPARISONS = {name: _table(_compare(holds, True)) for name, holds in COMPARISONS.items()}

# of truth values alone: on integers these count bits
LOGICAL: dict[str, Bits] = {
    "and": _table(_and),
    "or": _table(lambda a, b: _not(_and(_not(a), _not(b)))),
}
NOT = _unary(zero=TRUE, positive=FALSE, negative=FALSE)

_SOME = ORDINARY | NAN
# an argument beyond a domain that ends at 1 makes NaN, one at its end an infinite derivative
_BOUNDED = {"low": NAN, "high": NAN, "positive": _SOME, "negative": _SOME}

UNARY: dict[str, Bits] = {
    "neg": _unary(
        low=POSITIVE_INFINITY, high=NEGATIVE_INFINITY, positive=NEGATIVE, negative=POSITIVE
    ),
    "abs": _unary(low=POSITIVE_INFINITY, negative=POSITIVE),
    "sign": _unary(low=NEGATIVE, high=POSITIVE),
    "floor": _unary(positive=ORDINARY, negative=ORDINARY),
    "ceil": _unary(positive=ORDINARY, negative=ORDINARY),
    "round": _unary(positive=ORDINARY, negative=ORDINARY),
    "square": _unary(low=POSITIVE_INFINITY, positive=ORDINARY, negative=ORDINARY),
    "exp": _unary(zero=POSITIVE, low=ZERO, positive=ORDINARY, negative=ORDINARY),
    "exp2": _unary(zero=POSITIVE, low=ZERO, positive=ORDINARY, negative=ORDINARY),
    "expm1": _unary(low=NEGATIVE),
    "log": _unary(zero=NEGATIVE_INFINITY, low=NAN, positive=ORDINARY, negative=NAN),
    "log1p": _unary(low=NAN, positive=POSITIVE, negative=_SOME | NEGATIVE_INFINITY),
    "sqrt": _unary(low=NAN, negative=NAN),
    "rsqrt": _unary(zero=INFINITE, low=NAN, high=ZERO, negative=NAN),
    "cbrt": _unary(),
    "tanh": _unary(low=NEGATIVE, high=POSITIVE),
    "logistic": _unary(
        zero=POSITIVE, low=ZERO, high=POSITIVE, positive=POSITIVE, negative=ORDINARY
    ),
    "erf": _unary(low=NEGATIVE, high=POSITIVE),
    "erfc": _unary(zero=POSITIVE, low=POSITIVE, high=ZERO, positive=ORDINARY, negative=POSITIVE),
    "atan": _unary(low=NEGATIVE, high=POSITIVE),
    "sin": _unary(low=NAN, high=NAN, positive=ORDINARY, negative=ORDINARY),
    "cos": _unary(zero=POSITIVE, low=NAN, high=NAN, positive=ORDINARY, negative=ORDINARY),
    "tan": _unary(low=NAN, high=NAN, positive=ORDINARY, negative=ORDINARY),
    "sinh": _unary(),
    "cosh": _unary(zero=POSITIVE, low=POSITIVE_INFINITY, negative=POSITIVE),
    "asinh": _unary(),
    "asin": _unary(**_BOUNDED),
    "acos": _unary(**{**_BOUNDED, "zero": POSITIVE}),
    "atanh": _unary(**{**_BOUNDED, "positive": ANYTHING, "negative": ANYTHING}),
    "acosh": _unary(low=NAN, zero=NAN, positive=_SOME | ZERO, negative=NAN),
    "erf_inv": _unary(**{**_BOUNDED, "positive": ANYTHING, "negative": ANYTHING}),
    "is_finite": _unary(
        ordinary=UNKNOWN, zero=TRUE, low=FALSE, high=FALSE, nan=FALSE, negative=TRUE
    ),
}

# where an operand is of such a kind, the derivative is not finite, and JAX's product of it with a
# tangent of 0 is NaN; operands in order, the last one standing for all further ones
SINGULAR: dict[str, tuple[int, ...]] = {
    "mul": (SPECIAL, SPECIAL),
    "div": (SPECIAL, ZERO | NAN),
    "pow": (SPECIAL | ZERO, SPECIAL),
    "square": (SPECIAL,),
    "integer_pow": (SPECIAL,),
    "exp": (POSITIVE_INFINITY | NAN,),
    "exp2": (POSITIVE_INFINITY | NAN,),
    "expm1": (POSITIVE_INFINITY | NAN,),
    "sinh": (SPECIAL,),
    "cosh": (SPECIAL,),
    "log": (ZERO | NAN | NEGATIVE_INFINITY | NEGATIVE,),
    "log1p": (NEGATIVE | NAN | NEGATIVE_INFINITY,),
    "sqrt": (ZERO | NAN | NEGATIVE_INFINITY | NEGATIVE,),
    "rsqrt": (ZERO | NAN | NEGATIVE_INFINITY | NEGATIVE,),
    "cbrt": (ZERO | SPECIAL,),
    "asin": (SPECIAL | POSITIVE | NEGATIVE,),
    "acos": (SPECIAL | POSITIVE | NEGATIVE,),
    "atanh": (SPECIAL | POSITIVE | NEGATIVE,),
    "acosh": (SPECIAL | POSITIVE | NEGATIVE | ZERO,),
    "erf_inv": (SPECIAL | POSITIVE | NEGATIVE,),
}


def integer_power(exponent: int) -> Bits:
    """The table of x to a whole power."""
    if exponent == 0:
        return np.where(np.arange(ANYTHING + 1) > 0, POSITIVE, 0).astype(np.uint8)
    even = exponent % 2 == 0
    low = POSITIVE_INFINITY if even else NEGATIVE_INFINITY
    signs = {"positive": ORDINARY, "negative": ORDINARY}
    if exponent > 0:
        return _unary(low=low, **signs)
    return _unary(zero=INFINITE, low=ZERO, high=ZERO, **signs)
