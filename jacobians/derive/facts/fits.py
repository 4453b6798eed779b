"""Whether a term fits the arrays that it is about: a check after every rule of the walk.

A rule that names an index too many, or one beyond the end of an axis, says nothing true. Such a
contradiction is a fault of this package, never of the function: the walk then takes the operation
as wide as can be, and a note says what did not fit and asks to report it.

    misfit(term, (3,), (4,))      # None, or "index 5 of an axis of size 4"
"""

from collections.abc import Sequence

import numpy as np

from jacobians.derive.algebra.affine import value_range
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import Term, expressions

# index vectors under conditions that are looked at one by one
MAX_LOOKED_AT = 256


def misfit(term: Term, out_shape: Sequence[int], in_shape: Sequence[int]) -> str | None:
    """What is wrong with a term in normal form for a block of these shapes, or None.

    Args:
        term: the term.
        out_shape: shape of the output.
        in_shape: shape of the input.
    """
    for side, index, shape in (("output", term.out, out_shape), ("input", term.inp, in_shape)):
        if len(index) != len(shape):
            return f"{len(index)} indices into an {side} of rank {len(shape)}"
    if any(v not in term.sizes for e in expressions(term) for v, _ in e.terms):
        return "an index of unknown size"
    pairs = list(zip((*term.out, *term.inp), (*out_shape, *in_shape), strict=True))
    free = not (term.zeros or term.bounds or term.guards)
    ranges = [value_range(e, term.sizes) for e, _ in pairs]
    inside = all(low >= 0 and high < n for (low, high), (_, n) in zip(ranges, pairs, strict=True))
    if inside or (not free and grid_size(term) > MAX_LOOKED_AT):
        return None
    found = None if free else points(term)
    for (low, high), (e, n) in zip(ranges, pairs, strict=True):
        if found is not None:
            if not found.count:
                return None
            values = found.value(e)
            low, high = int(np.min(values)), int(np.max(values))
        if low < 0 or high >= n:
            return f"index {low if low < 0 else high} of an axis of size {n}"
    return None
