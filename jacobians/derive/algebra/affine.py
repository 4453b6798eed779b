"""Integer affine expressions over index variables: `3·k0 − k1 + 2`.

An expression is a constant and a sorted tuple of (variable, coefficient) pairs; a variable is an
integer handed out by `fresh`. Expressions are plain immutable tuples: they hash, compare and cost
nothing to share. Sizes live beside them, in a mapping from variable to the size of its range.

    >>> k = fresh()
    >>> e = add(scale(variable(k), 3), constant(2))
    >>> value_range(e, {k: 4})
    (2, 11)
"""

import itertools
from collections.abc import Iterable, Mapping
from math import gcd
from typing import NamedTuple

_counter = itertools.count(1)


class Affine(NamedTuple):
    """`const + Σ coefficient · variable`, the pairs sorted by variable, no coefficient zero."""

    const: int
    terms: tuple[tuple[int, int], ...]


ZERO = Affine(0, ())


def fresh() -> int:
    """A variable that no other expression uses."""
    return next(_counter)


def constant(value: int) -> Affine:
    """The expression that is always `value`."""
    return Affine(value, ()) if value else ZERO


def variable(v: int, coefficient: int = 1) -> Affine:
    """The expression `coefficient · v`."""
    return Affine(0, ((v, coefficient),)) if coefficient else ZERO


def add(a: Affine, b: Affine) -> Affine:
    """`a + b`."""
    if not a.terms:
        return Affine(a.const + b.const, b.terms) if a.const else b
    if not b.terms:
        return Affine(a.const + b.const, a.terms) if b.const else a
    total = dict(a.terms)
    for v, c in b.terms:
        total[v] = total.get(v, 0) + c
    return Affine(a.const + b.const, tuple(sorted((v, c) for v, c in total.items() if c)))


def scale(a: Affine, factor: int) -> Affine:
    """`factor · a`."""
    if factor == 1:
        return a
    if factor == 0:
        return ZERO
    return Affine(a.const * factor, tuple((v, c * factor) for v, c in a.terms))


def subtract(a: Affine, b: Affine) -> Affine:
    """`a − b`."""
    if a is b:
        return ZERO
    return add(a, scale(b, -1))


def shift(a: Affine, offset: int) -> Affine:
    """`a + offset`."""
    return Affine(a.const + offset, a.terms) if offset else a


def linear(pairs: Iterable[tuple[int, int]], const: int = 0) -> Affine:
    """`const + Σ coefficient · variable` from unsorted (variable, coefficient) pairs."""
    total: dict[int, int] = {}
    for v, c in pairs:
        total[v] = total.get(v, 0) + c
    return Affine(const, tuple(sorted((v, c) for v, c in total.items() if c)))


def substitute(a: Affine, replacement: Mapping[int, Affine]) -> Affine:
    """`a` with variables replaced by expressions, all at once."""
    if not any(v in replacement for v, _ in a.terms):
        return a
    const = a.const
    total: dict[int, int] = {}
    for v, c in a.terms:
        other = replacement.get(v)
        if other is None:
            total[v] = total.get(v, 0) + c
            continue
        const += c * other.const
        for w, d in other.terms:
            total[w] = total.get(w, 0) + c * d
    return Affine(const, tuple(sorted((v, c) for v, c in total.items() if c)))


def value_range(a: Affine, sizes: Mapping[int, int]) -> tuple[int, int]:
    """The least and the greatest value of `a` when every variable v runs over [0, sizes[v])."""
    low = high = a.const
    for v, c in a.terms:
        reach = c * (sizes[v] - 1)
        if c > 0:
            high += reach
        else:
            low += reach
    return low, high


def content(a: Affine) -> int:
    """The greatest common divisor of the coefficients of the variables (0 for a constant)."""
    return gcd(*(c for _, c in a.terms)) if a.terms else 0


def coefficient(a: Affine, v: int) -> int:
    """The coefficient of `v` in `a`."""
    for w, c in a.terms:
        if w == v:
            return c
    return 0


def plain_variable(a: Affine) -> int | None:
    """The variable that `a` is, or None when it is anything else."""
    if a.const == 0 and len(a.terms) == 1 and a.terms[0][1] == 1:
        return a.terms[0][0]
    return None


def ravel(index: Iterable[Affine], shape: Iterable[int]) -> Affine:
    """The position in the flattened (row-major) array of shape `shape` that `index` points to."""
    const = 0
    pairs: list[tuple[int, int]] = []
    stride = 1
    for expression, size in reversed(list(zip(index, shape, strict=True))):
        const += expression.const * stride
        pairs.extend((v, c * stride) for v, c in expression.terms)
        stride *= size
    return linear(pairs, const)
