"""From the entries of all blocks to verdicts: both precisions, and what has no derivative.

Where a function has no derivative (a cosine similarity of a row of zeros is 0/0) there is nothing
that a rule could be measured against. It says NaN there, as JAX does; and since 0 · NaN is NaN, it
says so too for outputs that do not depend on that row, as JAX's own reverse mode does. Neither is a
mistake. NaN where the function has a derivative is one, be it a NaN that JAX makes too.

    results = verdicts(compare(call, rule, oracle, notes), oracle, None, None)
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from jacobians.check.allowances import Precision
from jacobians.check.arrays import Array, Bools
from jacobians.check.compare import Compared
from jacobians.check.entries import Comparison, Entries
from jacobians.check.oracle import Oracle
from jacobians.check.trial import in_double, in_own
from jacobians.program.call import Call


def verdicts(
    made: Compared, oracle: Oracle, rtol: float | None, atol: float | None
) -> list[Comparison]:
    """Judges every block, in double precision and then in the inputs' own.

    Args:
        made: both sides' entries.
        oracle: the derivative of the program.
        rtol: a tolerance relative to each expected entry, in place of the automatic one.
        atol: an absolute one.

    Returns:
        One comparison per block, in the precision that decided.
    """
    sides = made.sides
    firsts = _excused(made, [in_double(e, oracle, sides, rtol, atol) for e in made.blocks])
    seconds: list[Comparison | None] = []
    for found, first in zip(made.blocks, firsts, strict=True):
        # what double precision has settled needs no second verdict on rounding
        settled = first is not None and (
            first.wrong.any()
            or Precision(found.narrow_eps).is_coarse
            or rtol is not None
            or atol is not None
        )
        seconds.append(None if settled else in_own(found, oracle, sides, rtol, atol, first))
    seconds = _excused(made, seconds, narrow=True)
    result = []
    for first, second in zip(firsts, seconds, strict=True):
        chosen = second if first is None or (second and second.wrong.any()) else first
        assert chosen is not None
        if first is not None and chosen is second:
            chosen = replace(chosen, undefined=chosen.undefined | first.undefined & ~chosen.wrong)
        if second is not None:
            chosen = replace(chosen, by_own=second.by_own)
        result.append(chosen)
    return result


def _excused(
    made: Compared, results: Sequence[Comparison | None], narrow: bool = False
) -> list[Comparison | None]:
    """Results in which NaN that spreads from an entry without a derivative is no mistake."""
    pairs = list(zip(made.blocks, results, strict=True))
    if not any(r is not None and (~np.isfinite(r.actual) & r.wrong).any() for _, r in pairs):
        return list(results)
    # columns in which the rule says that there is no derivative where there is none
    without = _columns(
        (e, (~np.isfinite(e.expected) & ~np.isfinite(r.actual) & ~r.wrong) | (e.lost & narrow))
        for e, r in pairs
        if r is not None
    )
    excused: list[Comparison | None] = []
    for found, result in pairs:
        if result is not None:
            spread = (
                result.wrong & ~np.isfinite(result.actual) & without[found.input][found.columns]
            )
            if not narrow:
                # double precision is judged by what JAX's own reverse mode does there
                back = found.backward
                spread &= np.zeros_like(spread) if back is None else ~np.isfinite(back)
            result = result.excusing(spread)
        excused.append(result)
    return excused


def _columns(marked: Iterable[tuple[Entries, Bools]]) -> dict[int, Bools]:
    """Which columns of each input leaf hold a marked entry in any block."""
    columns: dict[int, Bools] = {}
    for found, which in marked:
        size = int(np.max(found.columns, initial=-1)) + 1
        known = columns.get(found.input, np.zeros(0, bool))
        mine = np.zeros(max(size, len(known)), bool)
        mine[: len(known)] = known
        mine[found.columns[which]] = True
        columns[found.input] = mine
    return columns


def nonfinite(call: Call, made: Compared, results: Sequence[Comparison]) -> list[str]:
    """A sentence on entries that are NaN or infinite where the derivative is finite."""
    lost = _columns((e, e.lost) for e in made.blocks)
    for narrow in (False, True):
        count, value, first = 0, 0.0, ""
        for found, result in zip(made.blocks, results, strict=True):
            values: Array | None = found.narrow if narrow else found.wide
            if values is None:
                continue
            # what was found right at a kink or a singular point
            fine = result.undefined | (result.singular | result.kink) & ~result.wrong
            if narrow:
                fine = fine | found.lost | lost[found.input][found.columns]
            bad = np.flatnonzero(~np.isfinite(values) & np.isfinite(found.expected) & ~fine)
            count += len(bad)
            if len(bad) and not first:
                position = int(bad[0])
                value, first = float(values[position]), _input_entry(call, found, position)
        if count:
            where = "the inputs' own precision" if narrow else "float64"
            return [
                f"in {where} the rule gives {value} for {count} "
                f"{'entry' if count == 1 else 'entries'} where the derivative is finite, first "
                f"with respect to {first}"
            ]
    return []


def note_lost(made: Compared, notes: list[str]) -> None:
    """Says where the inputs' own precision cannot hold the function or its derivative."""
    lost = sum(int(e.lost.sum()) for e in made.blocks)
    if lost:
        judged = "judged in float64 only" if made.wide_works else "not judged"
        notes.append(
            f"{lost} {'entry' if lost == 1 else 'entries'} {judged}: the inputs' own precision "
            "cannot hold the function or its derivative there (too large, or too small a divisor)"
        )


def note_by_own(made: Compared, results: Sequence[Comparison], notes: list[str]) -> None:
    """Says how many entries are right in the inputs' own precision by JAX's derivative there."""
    count = sum(int(r.by_own.sum()) for r in results if r.by_own is not None)
    if count:
        notes.append(
            f"{'right in float64; ' if made.wide_works else ''}in the inputs' own precision "
            f"{count} {'entry is' if count == 1 else 'entries are'} judged by JAX's derivative in "
            "that precision, which is another: the function does not compute the same numbers "
            "there (random numbers drawn without a dtype are others; cancellation leaves other "
            "digits)"
        )


def _input_entry(call: Call, found: Entries, position: int) -> str:
    """The input entry of a listed one, with its value: 'x[0, 3] = 1.5'."""
    leaf = call.inputs[found.input]
    column = int(found.columns[position])
    index = [int(v) for v in np.unravel_index(column, leaf.shape)] if leaf.shape else []
    given = float(np.asarray(leaf.value).reshape(-1)[column])
    return f"{leaf.name}{index if index else ''} = {given:.6g}"
