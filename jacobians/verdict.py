"""From the entries of all blocks to verdicts: both precisions, and what has no derivative.

Where a function has no derivative (a cosine similarity of a row of zeros is 0/0) there is nothing
that a rule could be measured against. It says NaN there, as JAX does; and since 0 · NaN is NaN, it
says so too for outputs that do not depend on that row, as JAX's own reverse mode does. Neither is a
mistake. NaN where the function has a derivative is one, be it a NaN that JAX makes too.

    >>> results = verdicts(compare(call, rule, oracle, notes), oracle, None, None)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jacobians.arguments import Call
from jacobians.compare import Array, Bools, Compared, Comparison, Entries
from jacobians.oracle import Oracle


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
    firsts = _excused(made, [e.first(oracle, made.sides, rtol, atol) for e in made.blocks])
    seconds: list[Comparison | None] = []
    for found, first in zip(made.blocks, firsts, strict=True):
        # what double precision has settled needs no second verdict on rounding
        settled = first is not None and (
            first.wrong.any() or found.narrow_eps > 1e-4 or rtol is not None or atol is not None
        )
        confirmed = first is not None
        seconds.append(None if settled else found.second(oracle, made.sides, rtol, atol, confirmed))
    seconds = _excused(made, seconds)
    result = []
    for first, second in zip(firsts, seconds, strict=True):
        chosen = second if first is None or (second and second.wrong.any()) else first
        assert chosen is not None
        result.append(chosen)
    return result


def _excused(made: Compared, results: Sequence[Comparison | None]) -> list[Comparison | None]:
    """Results in which NaN is no mistake that spreads from an entry without a derivative."""
    pairs = list(zip(made.blocks, results, strict=True))
    if not any(r is not None and (~np.isfinite(r.actual) & r.wrong).any() for _, r in pairs):
        return list(results)
    # columns in which the rule says that there is no derivative where there is none
    without: dict[int, Bools] = {}
    for found, result in pairs:
        if result is None or not len(found.columns):
            continue
        size = int(found.columns.max()) + 1
        none = ~np.isfinite(found.expected) & ~np.isfinite(result.actual) & ~result.wrong
        column = without.setdefault(found.input, np.zeros(size, bool))
        column[found.columns[none]] = True
    return [
        None if result is None else _spread(found, result, without.get(found.input))
        for found, result in pairs
    ]


def _spread(found: Entries, result: Comparison, without: Bools | None) -> Comparison:
    if without is None or found.backward is None:
        return result
    spread = result.wrong & ~np.isfinite(result.actual) & ~np.isfinite(found.backward)
    spread &= without[found.columns]
    if not spread.any():
        return result
    return replace(
        result,
        wrong=result.wrong & ~spread,
        undefined=result.undefined | spread,
        error=np.where(spread, 0.0, result.error),
    )


def nonfinite(call: Call, made: Compared, results: Sequence[Comparison]) -> list[str]:
    """A sentence on entries that are NaN or infinite where the derivative is finite."""
    for narrow in (False, True):
        count, first = 0, ""
        for found, result in zip(made.blocks, results, strict=True):
            values: Array | None = found.narrow if narrow else found.wide
            if values is None:
                continue
            bad = np.flatnonzero(
                ~np.isfinite(values) & np.isfinite(found.expected) & ~result.undefined
            )
            count += len(bad)
            if len(bad) and not first:
                first = _at(call, found, int(bad[0]), float(values[bad[0]]))
        if count:
            where = "the inputs' own precision" if narrow else "float64"
            value, _, at = first.partition("|")
            return [
                f"in {where} the rule gives {value} for {count} "
                f"{'entry' if count == 1 else 'entries'} where the derivative is finite, first "
                f"with respect to {at}"
            ]
    return []


def _at(call: Call, found: Entries, position: int, value: float) -> str:
    leaf = call.inputs[found.input]
    column = int(found.columns[position])
    index = [int(v) for v in np.unravel_index(column, leaf.shape)] if leaf.shape else []
    given = float(np.asarray(leaf.value).reshape(-1)[column])
    return f"{value}|{leaf.name}{index if index else ''} = {given:.6g}"
