"""The same comparison at other points: what tells a cause from a coincidence.

Three numbers are explained by many hypotheses: that of [0, 1, 1] only the last is right may be a
missing sum, or a threshold. A cause explains the difference at other inputs of the same shapes too,
and the rule can be called there. The other points stay where the given values are: the entries of
each input exchanged and moved a little, and numbers between its smallest and largest.

    others = other_cases(case, made, oracle, notes)
    [o.fit(hypothesis(o)) for o in others]
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jacobians.check.compare import Compared
from jacobians.check.diagnose.budget import OutOfTime
from jacobians.check.diagnose.case import Case, Diagnosis
from jacobians.check.entries import Comparison
from jacobians.check.oracle import Oracle
from jacobians.errors import first_line

# so many different wrong entries are not explained by accident
SURE = 8
# numbers of an input that are looked at in all, at no more points than this and no fewer than two
NUMBERS = 64
MAX_POINTS = 8
# beyond this many entries of a Jacobian no accident is feared, and looking again costs time
MAX_ENTRIES = 1 << 14
# a relative difference that is no rounding
OFF = 1e-6
MOVED = 0.2


def is_small(case: Case) -> bool:
    """Whether the wrong entries are so few numbers that a hypothesis may fit them by accident."""
    wrong = case.wrong & case.usable
    pairs = np.stack([case.expected[wrong], case.actual[wrong]])
    return len(np.unique(pairs.round(12), axis=1).T) < SURE


def other_points(call: Any, values: Sequence[Any], count: int) -> list[list[Any]]:
    """Values of the inputs at other points, those that nothing is differentiated by held."""
    generator = np.random.default_rng(11)
    points = []
    for number in range(count):
        point = list(values)
        for k in call.selected:
            x = np.asarray(values[k])
            flat = x.reshape(-1)
            # a zero is likely a kink, and so are two equal numbers
            source = flat[flat != 0]
            if not len(source):
                moved = generator.normal(size=flat.shape)
            elif number == 0:
                moved = generator.permutation(np.where(flat == 0, generator.choice(source), flat))
            elif number == 1:
                moved = np.where(flat == 0, generator.choice(source), flat)
            else:
                moved = generator.uniform(flat.min(), flat.max(), flat.shape)
            jitter = 1 + MOVED * generator.uniform(-1, 1, flat.shape)
            point[k] = (moved * jitter).reshape(x.shape)
        points.append(point)
    return points


def other_cases(
    cases: Sequence[Case], made: Compared, oracle: Oracle, notes: list[str]
) -> tuple[list[list[Any]], list[tuple[Case, ...]]]:
    """The comparison at other points, where both sides can be evaluated in double precision.

    Args:
        cases: one for each input, at the given point.
        made: both sides.
        oracle: the derivative of the program.
        notes: a sentence is appended where one side raises at other points.

    Returns:
        The points, and for each the cases of all inputs there.
    """
    sides, call = made.sides, cases[0].call
    slow = sides.compressed or oracle.how == "finite differences" or not made.wide_works
    if slow or len(sides.rows) > MAX_ENTRIES:
        return [], []
    size = max(call.inputs[k].size for k in call.selected)
    count = int(np.clip(NUMBERS // max(size, 1), 2, MAX_POINTS))
    points, found = [], []
    raised: list[str] = []
    with jax.enable_x64(True):
        for values in other_points(call, oracle.wide, count):
            cases[0].budget.check()
            try:
                expected = sides.truth(values)[0]
                actual = sides.mine(values)
            except OutOfTime:
                raise
            except Exception as error:
                # outside what the function or the rule is made for they may raise anything
                raised.append(first_line(error))
                continue
            if np.isfinite(expected).all() and np.isfinite(actual).all():
                points.append(values)
                found.append(tuple(_at(case, values, expected, actual) for case in cases))
    if raised:
        notes.append(
            f"causes were tried at {len(points)} of {count} other points only: at the rest the "
            f"function or the rule cannot be evaluated ({raised[0]})"
        )
    return points, found


def _at(case: Case, values: Sequence[Any], expected: Any, actual: Any) -> Case:
    """The case of one input at another point."""
    parts = []
    for entries, comparison in case.parts:
        right, mine = expected[entries.inside], actual[entries.inside]
        scale = max(np.abs(right).max(initial=0.0), np.abs(mine).max(initial=0.0))
        wrong = np.abs(mine - right) > OFF * (np.abs(right) + np.abs(mine)) + OFF * OFF * scale
        there: Comparison = replace(
            comparison,
            actual=mine,
            wrong=wrong,
            kink=np.zeros_like(wrong),
            undefined=np.zeros_like(wrong),
        )
        parts.append((replace(entries, expected=right), there))
    return replace(case, call=case.call.with_values(values), parts=tuple(parts))


Search = Callable[[Case, Sequence[Case]], Iterable[Diagnosis]]


def confirmed(
    diagnosis: Diagnosis, search: Search, given: Case, others: Sequence[tuple[Case, ...]]
) -> Diagnosis | None:
    """A hypothesis as far as it explains what the rule says at all other points, or None.

    Args:
        diagnosis: what was found at the given point.
        search: what found it, a function of an input's case and those of all inputs.
        given: the input's case at the given point.
        others: the cases of all inputs, at each other point.
    """
    lead, readings = _readings(diagnosis)
    left = [text for text, _ in readings]
    for cases in others:
        case = next(c for c in cases if c.leaf == given.leaf)
        if case.wrong.any():
            there = [_readings(d)[1] for d in search(case, cases) if d.kind == diagnosis.kind]
            left = [text for text in left if any(text in map(_first, one) for one in there)]
        elif case.expected[given.wrong].any():
            left = []  # right where the hypothesis says that it is wrong
        if not left:
            return None
    return replace(
        diagnosis, message=lead + OR.join(full for text, full in readings if text in left)
    )


OR = ", or "


def _readings(diagnosis: Diagnosis) -> tuple[str, list[tuple[str, str]]]:
    """How a message begins, and what it says may be meant: without one point's numbers, and whole.

    A factor of 2 may be a 2 or the input's own value of 2; at another point it is one of them.
    """
    head, times, tail = diagnosis.message.partition(" times the right value: ")
    if not times or tail.endswith("look for a constant"):
        return "", [(diagnosis.message, diagnosis.message)]
    return head + times, [(text.split(" (", 1)[0], text) for text in tail.split(OR)]


def _first(reading: tuple[str, str]) -> str:
    return reading[0]
