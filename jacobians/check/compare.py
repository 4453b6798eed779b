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

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.check.entries import JUMP, Entries, _digits
from jacobians.check.implied import DOUBLE, precisions
from jacobians.check.oracle import Oracle
from jacobians.check.rule import Rule
from jacobians.check.sides import Array, Bools, Integers, Sides, _backward, _sides
from jacobians.errors import RuleRaisedError, first_line
from jacobians.program.call import Call


@dataclass(frozen=True, eq=False)
class Compared:
    """Entries of every block, and how they were evaluated."""

    blocks: tuple[Entries, ...]
    sides: Sides
    wide_works: bool
    rule_eps: float


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
    sides = _sides(call, rule, oracle, m, n, notes)
    if sides is None:
        return None
    expected, bar = sides.truth(None)
    leap = np.zeros(len(expected))
    if bar is None:
        for side in (1.0, -1.0):
            leap = np.maximum(
                leap, leaps(expected, sides.truth(oracle.nudged(oracle.beside, side))[0])
            )
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
    narrow_eps = max(
        [float(jnp.finfo(call.inputs[k].dtype).eps) for k in call.selected]
        + [float(jnp.finfo(call.outputs[k].dtype).eps) for k in outputs]
    )
    # a rule may round to the precision of its inputs, or of the function itself, and no further
    wide_eps = max(DOUBLE, function_eps, min(rule_eps, narrow_eps))
    notes.extend(oracle.notes)
    if wide is None:
        notes.append(
            f"the rule could not be evaluated in float64 ({why}); it is compared in its own "
            "precision, which tells less: see the tolerances"
        )
    elif wide_eps > DOUBLE:
        who = "function" if function_eps >= wide_eps else "rule"
        notes.append(
            f"the {who} computes in {_digits(wide_eps)} inside although its inputs are float64 "
            "here: what such rounding explains is not told from a mistake"
        )
    backward = None
    sound = [np.isfinite(v).all() for v in (expected, wide, narrow) if v is not None]
    if not all(sound):
        backward = _backward(sides, oracle, m, n) if bar is None else None
    if backward is not None:
        # 0·∞ spoils a row in forward mode and a column in reverse: what either finds is true
        expected = np.where(np.isfinite(expected), expected, backward)
    beyond = np.zeros(len(expected), bool)
    if wide is not None and not sides.compressed:
        spoilt = ~np.isfinite(narrow) & np.isfinite(wide) & np.isfinite(expected)
        if spoilt.any():
            # where JAX's own derivative overflows in this precision, so may the rule
            own = _backward(sides, oracle, m, n, double=False)
            beyond = spoilt & ~np.isfinite(np.zeros(1) if own is None else own)
    blocks = []
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for k in call.selected:
            height, width = call.outputs[o].size, call.inputs[k].size
            rows, columns = sides.rows - row_start, sides.columns - column_start
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            rows, columns = rows[inside], columns[inside]
            blocks.append(
                Entries(
                    o, k, place, height * width, inside, rows, columns, expected[inside],
                    None if bar is None else bar[inside],
                    leap[inside],
                    None if wide is None else wide[inside],
                    narrow[inside], wide_eps, narrow_eps,
                    oracle.units(o, k, rows, columns),
                    ~np.isfinite(oracle.outputs[o].reshape(-1)[rows]),
                    beyond[inside]
                    | _lost(oracle, o, k, rows, expected[inside], narrow[inside], wide is not None),
                    None if backward is None else backward[inside],
                )
            )  # fmt: skip
            column_start += width
        row_start += call.outputs[o].size
    if bar is not None:
        _note_bars(expected, bar, notes)
    return Compared(tuple(blocks), sides, wide is not None, rule_eps)


def leaps(expected: Array, beside: Array) -> Array:
    """By how much a derivative just beside the point is another, 0 where it is about the same.

    Infinite where one of them is not finite and the other is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(expected - beside)
        found = np.where(apart > JUMP * np.maximum(np.abs(expected), np.abs(beside)), apart, 0.0)
    return np.where(np.isfinite(expected) != np.isfinite(beside), np.inf, found)


def _lost(
    oracle: Oracle,
    output: int,
    leaf: int,
    rows: Integers,
    expected: Array,
    narrow: Array,
    wide: bool,
) -> Bools:
    """Where the inputs' own precision cannot hold the function, or the derivative.

    Where there is no double precision to judge by, that excuses NaN and infinity only.
    """
    bad = ~np.isfinite(narrow)
    here, there = (
        np.isfinite(y[output]).reshape(-1)[rows] for y in (oracle.narrow_outputs, oracle.outputs)
    )
    largest = float(jnp.finfo(oracle.call.inputs[leaf].dtype).max)
    with np.errstate(invalid="ignore"):
        beyond = (np.abs(expected) >= 0.999 * largest) & (np.sign(expected) * narrow == np.inf)
    return np.asarray((~here & there & (bad | wide)) | beyond)


def _note_bars(expected: Array, bar: Array, notes: list[str]) -> None:
    """Says how much finite differences can tell."""
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    coarse = bar > 1e-3 * np.maximum(np.abs(expected), 1e-3 * scale)
    worst = float(bar[np.isfinite(bar)].max(initial=0.0))
    text = f"the largest error bar of the finite differences is {worst:.1e}"
    if coarse.any():
        text += (
            f"; for {int(coarse.sum())} of {len(bar)} entries it is more than 0.1 % of the entry, "
            "so that smaller mistakes there go unseen"
        )
    notes.append(text)
