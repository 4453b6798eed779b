"""Two Jacobians entry by entry: what a rule implies, and the derivative of the program.

The comparison is exact: every entry, or, when the matrix is large, every entry of the proved
pattern of either side, everything else being proved zero on both. A tolerance is what rounding can
explain of an entry by itself: a small part of its own size, and where that is not enough, what
rounding moves it by, measured to first order in the program of the derivative and in the rule's.
Only terms that cancel in the entry count; what stands in other rows and columns excuses nothing.

Where the derivative jumps beside the point, one-sided derivatives are looked at, also of entries
that agree with JAX's: what JAX says at a tie is a convention, and kinks may cancel.

In the inputs' own precision rounding is imitated too: the rule's program is run again with an
error of one rounding after every operation. A function may compute other numbers there than in
float64 (random ones drawn without a dtype): what looks wrong there alone is held against JAX's own
derivative in that precision as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.check import allowances
from jacobians.check.allowances import Precision
from jacobians.check.arrays import Array, Bools, Integers
from jacobians.check.entries import Entries
from jacobians.check.implied import DOUBLE, precisions
from jacobians.check.oracle import Oracle
from jacobians.check.rule import Rule
from jacobians.check.sides import Sides, both_sides, by_reverse_mode
from jacobians.errors import RuleRaisedError, first_line
from jacobians.program.call import Call

# an entry that moving the inputs by a few roundings changes by this share of itself jumps there:
# what is smooth changes by a few roundings times how fast it changes
JUMP = 1e-3
# an error bar is worth telling from this share of its entry on, or of the largest entry's share
VISIBLE = 1e-3


@dataclass(frozen=True, eq=False)
class Compared:
    """Entries of every block, and how they were evaluated."""

    blocks: tuple[Entries, ...]
    sides: Sides
    wide_works: bool
    rule_eps: float


@dataclass(frozen=True, eq=False)
class _Claims:
    """What the rule says on the listed entries.

    Attributes:
        wide: in double precision, or None.
        narrow: in the inputs' own precision.
        wide_eps: unit roundoff of the comparison in double precision.
        narrow_eps: unit roundoff of the inputs' own precision.
        rule_eps: the coarsest unit roundoff in the rule.
        function_eps: the same of the function.
        why: what the rule raised in double precision.
    """

    wide: Array | None
    narrow: Array
    wide_eps: float
    narrow_eps: float
    rule_eps: float
    function_eps: float
    why: str


def compare(call: Call, rule: Rule, oracle: Oracle, notes: list[str]) -> Compared | None:
    """Evaluates both sides.

    Args:
        call: the call.
        rule: the hand-written derivative, bound to the call.
        oracle: the derivative of the program.
        notes: sentences for the reader are appended here.

    Returns:
        The entries of every block; None when there are too many to compare one by one.

    Raises:
        ArgumentError: the truth cannot be had at this size.
        RuleRaisedError: the rule raises when it is called.
    """
    outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    m = sum(call.outputs[k].size for k in outputs)
    n = sum(call.inputs[k].size for k in call.selected)
    sides = both_sides(call, rule, oracle, m, n, notes)
    if sides is None:
        return None
    expected, bar = sides.truth(None)
    leap = np.zeros(len(expected)) if bar is not None else _leap(expected, sides, oracle)
    claims = _claims(call, rule, oracle, sides, outputs)
    notes.extend(oracle.notes)
    _note_precision(claims, notes)
    backward = None
    finite = [np.isfinite(v).all() for v in (expected, claims.wide, claims.narrow) if v is not None]
    if bar is None and not all(finite):
        backward = by_reverse_mode(sides, oracle, m, n)
    if backward is not None:
        # 0·∞ spoils a row in forward mode and a column in reverse: what either finds is true
        expected = np.where(np.isfinite(expected), expected, backward)
    whole = Entries(
        output=0,
        input=0,
        place=0,
        count=m * n,
        inside=np.ones(len(expected), bool),
        rows=sides.rows,
        columns=sides.columns,
        expected=expected,
        bar=bar,
        leap=leap,
        wide=claims.wide,
        narrow=claims.narrow,
        wide_eps=claims.wide_eps,
        narrow_eps=claims.narrow_eps,
        unit=np.zeros(len(expected)),
        nowhere=np.zeros(len(expected), bool),
        lost=_overflowing_as_jax(claims, expected, sides, oracle, m, n),
        backward=backward,
    )
    blocks = tuple(_blocks(call, oracle, outputs, whole))
    if bar is not None:
        _note_bars(expected, bar, notes)
    return Compared(blocks, sides, claims.wide is not None, claims.rule_eps)


def _leap(expected: Array, sides: Sides, oracle: Oracle) -> Array:
    """By how much the derivative is another on either side of the point."""
    beside = [sides.truth(oracle.nudged(oracle.beside, side))[0] for side in (1.0, -1.0)]
    return np.asarray(np.max([leaps(expected, other) for other in beside], axis=0))


def _claims(call: Call, rule: Rule, oracle: Oracle, sides: Sides, outputs: list[int]) -> _Claims:
    """What the rule says, in double precision where it can be evaluated there, and in its own."""
    wide, rule_eps, function_eps, why = None, DOUBLE, DOUBLE, ""
    with jax.enable_x64(True):
        try:
            wide = sides.mine(oracle.wide)
            rule_eps, function_eps = precisions(call, rule, oracle.wide)
        except Exception as error:
            wide, why = None, first_line(error)
    try:
        narrow = sides.mine([leaf.value for leaf in call.inputs])
    except Exception as error:
        raise RuleRaisedError(first_line(error)) from error
    leaves = [call.inputs[k] for k in call.selected] + [call.outputs[k] for k in outputs]
    narrow_eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    # a rule may round to the precision of its inputs, or of the function itself, and no further
    wide_eps = max(DOUBLE, function_eps, min(rule_eps, narrow_eps))
    return _Claims(wide, narrow, wide_eps, narrow_eps, rule_eps, function_eps, why)


def _note_precision(claims: _Claims, notes: list[str]) -> None:
    """Says where the rule could not be evaluated in float64, or something rounds there."""
    if claims.wide is None:
        notes.append(
            f"the rule could not be evaluated in float64 ({claims.why}); it is compared in its own "
            "precision, which tells less: see the tolerances"
        )
    elif claims.wide_eps > DOUBLE:
        who = "function" if claims.function_eps >= claims.wide_eps else "rule"
        notes.append(
            f"the {who} computes in {Precision(claims.wide_eps).name} inside although its inputs "
            "are float64 here: what such rounding explains is not told from a mistake"
        )


def _overflowing_as_jax(
    claims: _Claims, expected: Array, sides: Sides, oracle: Oracle, m: int, n: int
) -> Bools:
    """Entries at which JAX's own derivative overflows in this precision, as the rule may then."""
    none = np.zeros(len(expected), bool)
    if claims.wide is None or sides.compressed:
        return none
    spoilt = ~np.isfinite(claims.narrow) & np.isfinite(claims.wide) & np.isfinite(expected)
    if not spoilt.any():
        return none
    own = by_reverse_mode(sides, oracle, m, n, double=False)
    return none if own is None else np.asarray(spoilt & ~np.isfinite(own))


def _blocks(call: Call, oracle: Oracle, outputs: list[int], whole: Entries) -> Iterator[Entries]:
    """The entries of every block, from those of the whole matrix."""
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for k in call.selected:
            height, width = call.outputs[o].size, call.inputs[k].size
            rows, columns = whole.rows - row_start, whole.columns - column_start
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            block = whole.only(inside)
            rows, columns = rows[inside], columns[inside]
            yield replace(
                block,
                output=o,
                input=k,
                place=place,
                count=height * width,
                rows=rows,
                columns=columns,
                unit=oracle.units(o, k, rows, columns),
                nowhere=~np.isfinite(oracle.outputs[o].reshape(-1)[rows]),
                lost=block.lost | _lost(oracle, o, k, rows, block),
            )
            column_start += width
        row_start += call.outputs[o].size


def leaps(expected: Array, beside: Array) -> Array:
    """By how much a derivative just beside the point is another, 0 where it is about the same.

    Infinite where one of them is not finite and the other is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(expected - beside)
        found = np.where(apart > JUMP * np.maximum(np.abs(expected), np.abs(beside)), apart, 0.0)
    return np.where(np.isfinite(expected) != np.isfinite(beside), np.inf, found)


def _lost(oracle: Oracle, output: int, leaf: int, rows: Integers, block: Entries) -> Bools:
    """Where the inputs' own precision cannot hold the function, or the derivative.

    Where there is no double precision to judge by, that excuses NaN and infinity only.
    """
    here, there = (
        np.isfinite(y[output]).reshape(-1)[rows] for y in (oracle.narrow_outputs, oracle.outputs)
    )
    excused = ~np.isfinite(block.narrow) | (block.wide is not None)
    largest = float(jnp.finfo(oracle.call.inputs[leaf].dtype).max)
    overflows = allowances.overflow(block.expected, block.narrow, largest)
    return np.asarray((~here & there & excused) | overflows)


def _note_bars(expected: Array, bar: Array, notes: list[str]) -> None:
    """Says how much finite differences can tell."""
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    coarse = bar > VISIBLE * np.maximum(np.abs(expected), VISIBLE * scale)
    worst = float(bar[np.isfinite(bar)].max(initial=0.0))
    text = f"the largest error bar of the finite differences is {worst:.1e}"
    if coarse.any():
        text += (
            f"; for {int(coarse.sum())} of {len(bar)} entries it is more than 0.1 % of the entry, "
            "so that smaller mistakes there go unseen"
        )
    notes.append(text)
