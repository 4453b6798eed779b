"""How far a constant that is computed here may lie from what a compiled program has in its place.

The same operations on the same constants give other digits when a compiler fuses them:
`0.1·3 − 0.3` is 0 after two roundings and −7·10⁻⁹ after one. So beside the value of a constant
stands its radius: whatever order, fusion or backend computes it, the result lies within
`value ± radius`. The radius is 0 where nothing is rounded: moved and selected entries, comparisons
of what is known well enough, integers, and sums and products that the type holds exactly.

    radii("sub", {}, [a, b], [radius_of_a, None], [a - b])     # [array], or [None]: all exact

A radius of ∞ says that nothing is known of the entry. None stands for a radius of 0 everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jacobians import program
from jacobians.derive.facts.radius import (
    Array,
    Radius,
    flushed_radius,
    in_double,
    or_zero,
    rounds,
    tidy,
    unknown,
)
from jacobians.derive.facts.radius_rules import RULES
from jacobians.program.primitives import Does, does, primitive

Move = Callable[..., Any]


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
    if exact and ordered and (does(op, Does.EXACT) or not any(rounds(x.dtype) for x in arrays)):
        return [flushed_radius(op, operands, y) for y in results]
    if not all(isinstance(x, np.ndarray) for x in arrays):
        return [unknown(y) for y in results]
    with np.errstate(all="ignore"):
        if does(op, Does.MOVES) or does(op, Does.INDEXED):
            return _moved(op, operands, given, results, moved)
        rule = RULES.get(op)
        whole = (in_double(x) for x in arrays if x.size and not rounds(x.dtype))
        large = any(np.max(np.abs(x)) > 2**53 for x in whole)
        if rule is None or large or any(np.iscomplexobj(x) for x in arrays):
            return [unknown(y) for y in results]
        y = results[0]
        wide = [in_double(x) for x in operands]
        radius = np.broadcast_to(rule(params, wide, list(given), in_double(y), y.dtype), y.shape)
        if np.issubdtype(y.dtype, np.integer):
            # a whole number that is not certain may have been anything where it could wrap round
            wraps = np.issubdtype(y.dtype, np.unsignedinteger) | (
                np.abs(in_double(y)) + radius > 2**30
            )
            radius = np.where((radius > 0) & wraps, np.inf, radius)
    return [tidy(radius)]


def _moved(
    op: str,
    operands: Sequence[Array],
    given: Sequence[Radius],
    results: Sequence[Array],
    moved: Move,
) -> list[Radius]:
    """The radii where the entries have gone, in single precision and rounded up."""
    indexed = does(op, Does.INDEXED)
    entries = primitive(op).linear_in if indexed else range(len(operands))
    if any(r is not None and k not in entries for k, r in enumerate(given)):
        return [unknown(y) for y in results]
    sent: list[Array] = []
    for k, (x, r) in enumerate(zip(operands, given, strict=True)):
        if k in entries:
            single = np.broadcast_to(or_zero(r), x.shape).astype(np.float32)
            up = np.nextafter(single, np.float32(np.inf), dtype=np.float32)
            sent.append(np.where(np.asarray(or_zero(r)) > 0, up, np.float32(0)))
        else:
            sent.append(x)
    try:
        made = moved(sent)
    except program.FAILURES:
        # a radius that cannot be moved is unknown: wide, never wrong
        return [unknown(y) for y in results]
    return [tidy(np.abs(np.asarray(m, np.float64))) for m in made]
