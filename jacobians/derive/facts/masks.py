"""Known masks and index tables as conditions on index variables.

A constant mask is more than a table of booleans: `jnp.tril(jnp.ones((n, n)))` is the condition
i − j ≥ 0, and as a condition it survives composition, counts by formula and names the structure
triangular. `conditions` recognises intervals, bands, boxes and equal blocks, each verified against
the mask entry by entry; any other mask is kept as a table.

    conditions(np.tril(np.ones((4, 4), bool)), (variable(i), variable(j)))
    # Conditions(bounds=(i − j,))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, subtract
from jacobians.derive.algebra.table import Table
from jacobians.derive.algebra.term import Guard, Term

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Conditions:
    """Conditions to add to a term, with the sizes of the variables that they bring in."""

    zeros: tuple[Affine, ...] = ()
    bounds: tuple[Affine, ...] = ()
    guards: tuple[Guard, ...] = ()
    sizes: Mapping[int, int] = field(default_factory=dict)


def merged(a: Conditions, b: Conditions) -> Conditions:
    """Both conditions together."""
    return Conditions(
        a.zeros + b.zeros, a.bounds + b.bounds, a.guards + b.guards, {**a.sizes, **b.sizes}
    )


def restrict(term: Term, extra: Conditions) -> Term:
    """The term under further conditions, not in normal form."""
    return replace(
        term,
        sizes={**term.sizes, **extra.sizes},
        zeros=term.zeros + extra.zeros,
        bounds=term.bounds + extra.bounds,
        guards=term.guards + extra.guards,
    )


def conditions(mask: Mask, index: tuple[Affine, ...]) -> Conditions | None:
    """The conditions under which `mask[index]` is true.

    Args:
        mask: boolean array.
        index: one expression per axis of the mask, within its bounds.

    Returns:
        The conditions, or None when the mask is false everywhere.
    """
    if not mask.any():
        return None
    if mask.all():
        return Conditions()
    for axis in range(mask.ndim):
        first = mask.take([0], axis)
        if mask.shape[axis] == 1 or bool((mask == first).all()):
            rest = index[:axis] + index[axis + 1 :]
            return conditions(first.squeeze(axis), rest)
    if mask.ndim == 1:
        return _interval(mask, index[0])
    if mask.ndim == 2:
        found = _band(mask, index) or _box(mask, index) or _blocks(mask, index)
        if found is not None:
            return found
    return Conditions(guards=(Guard(Table(mask), index),))


def recognised(term: Term) -> Term:
    """The term with its tables of booleans written as conditions on indices where they are."""
    rest = replace(term, guards=tuple(g for g in term.guards if g.value is not None))
    for guard in term.guards:
        if guard.value is None:
            found = conditions(guard.table.array, guard.at)
            if found is not None:
                rest = restrict(rest, found)
            else:
                rest = restrict(rest, Conditions(guards=(guard,)))
    return rest


def lookup(table: NDArray[np.integer], index: tuple[Affine, ...]) -> tuple[Affine, Conditions]:
    """An expression equal to `table[index]`.

    Args:
        table: integer array.
        index: one expression per axis.

    Returns:
        The expression, affine in the index where the table is, else a new variable with a guard.
    """
    base = int(table[(0,) * table.ndim])
    steps = []
    for axis, n in enumerate(table.shape):
        one = tuple(1 if a == axis else 0 for a in range(table.ndim))
        steps.append(int(table[one]) - base if n > 1 else 0)
    grid = np.full(table.shape, base, dtype=np.int64)
    for axis, step in enumerate(steps):
        shape = [-1 if a == axis else 1 for a in range(table.ndim)]
        grid = grid + step * np.arange(table.shape[axis]).reshape(shape)
    if bool((grid == table).all()):
        result = affine.constant(base)
        for step, e in zip(steps, index, strict=True):
            result = affine.add(result, affine.scale(e, step))
        return result, Conditions()
    low, high = int(np.min(table)), int(np.max(table))
    v = affine.fresh()
    value = affine.shift(affine.variable(v), low)
    guard = Guard(Table(table), index, value)
    return value, Conditions(guards=(guard,), sizes={v: high - low + 1})


def _interval(mask: Mask, e: Affine) -> Conditions:
    where = np.flatnonzero(mask)
    first, last = int(where[0]), int(where[-1])
    if len(where) == 1:
        return Conditions(zeros=(affine.shift(e, -first),))
    step = int(where[1] - where[0])
    if not bool((np.diff(where) == step).all()):
        return Conditions(guards=(Guard(Table(mask), (e,)),))
    if step == 1:
        bounds = (affine.shift(e, -first), subtract(affine.constant(last), e))
        return Conditions(bounds=bounds)
    u = affine.fresh()
    return Conditions(
        zeros=(subtract(affine.shift(e, -first), affine.variable(u, step)),), sizes={u: len(where)}
    )


def _band(mask: Mask, index: tuple[Affine, ...]) -> Conditions | None:
    """A mask that is a band along either diagonal: low ≤ j − i ≤ high, or low ≤ i + j ≤ high."""
    rows, columns = np.nonzero(mask)
    i, j = np.ogrid[: mask.shape[0], : mask.shape[1]]
    for sign in (1, -1):
        along = columns - sign * rows
        low, high = int(np.min(along)), int(np.max(along))
        difference = j - sign * i
        if not bool((mask == ((difference >= low) & (difference <= high))).all()):
            continue
        e = subtract(index[1], affine.scale(index[0], sign))
        if low == high:
            return Conditions(zeros=(affine.shift(e, -low),))
        bounds = []
        if low > difference.min():
            bounds.append(affine.shift(e, -low))
        if high < difference.max():
            bounds.append(subtract(affine.constant(high), e))
        return Conditions(bounds=tuple(bounds))
    return None


def _box(mask: Mask, index: tuple[Affine, ...]) -> Conditions | None:
    rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    if not bool((mask == np.outer(rows, columns)).all()):
        return None
    first = conditions(rows, index[:1])
    second = conditions(columns, index[1:])
    if first is None or second is None:
        return None
    return Conditions(
        first.zeros + second.zeros,
        first.bounds + second.bounds,
        first.guards + second.guards,
        {**first.sizes, **second.sizes},
    )


def _blocks(mask: Mask, index: tuple[Affine, ...]) -> Conditions | None:
    """A mask of equal blocks along the diagonal: i = height·u + r, j = width·u + s for one u."""
    height = int(np.argmin(mask[:, 0])) if mask[0, 0] else 0
    width = int(np.argmin(mask[0])) if mask[0, 0] else 0
    n, m = mask.shape
    if not height or not width or n % height or m % width or n // height != m // width:
        return None
    blocks = (np.arange(n) // height)[:, None] == np.arange(m) // width
    if not bool((mask == blocks).all()):
        return None
    u, r, s = affine.fresh(), affine.fresh(), affine.fresh()
    return Conditions(
        zeros=(
            subtract(index[0], affine.linear([(u, height), (r, 1)])),
            subtract(index[1], affine.linear([(u, width), (s, 1)])),
        ),
        sizes={u: n // height, r: height, s: width},
    )
