"""Hypotheses about the entries: sign, factor, zero, transposed, swapped, shifted, overwritten.

Each predicts what the rule should have said if the mistake were this one, and is believed when
nothing of the discrepancy is left.
"""

import itertools
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.check.diagnose.case import Case, Diagnosis, lengths, scalars
from jacobians.check.diagnose.words import listed, ratio_text

Array = NDArray[Any]
MAX_AXES = 5


def simple(case: Case) -> Iterator[Diagnosis]:
    """Zero, wrong sign, a constant factor."""
    x = case.name
    fit = case.fit(np.zeros_like(case.actual))
    if case.explains(fit) and not np.any(case.actual[case.usable]):
        yield Diagnosis(
            "zero",
            f"the cotangent of {x} is zero; return the derivative with respect to {x}",
            fit,
            (x,),
        )
        return
    expected = np.where(case.usable, case.expected, 0.0)
    actual = np.where(case.usable, case.actual, 0.0)
    size = float(np.vdot(expected, expected))
    if size == 0:
        return
    factor = float(np.vdot(expected, actual)) / size
    fit = case.fit(factor * case.expected)
    if not case.explains(fit):
        return
    if abs(factor + 1) < 1e-4:
        yield Diagnosis(
            "sign",
            f"the cotangent of {x} has the wrong sign: it is −1 times the right one",
            fit,
            (x,),
        )
        return
    n = broadcast_size(case)
    if n > 1 and abs(factor * n - 1) < 2e-4:
        yield Diagnosis(
            "mean-for-sum",
            f"the cotangent of {x} is averaged over the broadcast axes where it has to be summed: "
            f"it is 1/{n} of the right one; use sum in place of mean",
            fit,
            (x,),
        )
        return
    text = ratio_text(factor, lengths(case), scalars(case))
    yield Diagnosis("factor", f"the cotangent of {x} has a wrong factor: {text}", fit, (x,))


def broadcast_size(case: Case) -> int:
    """Over how many output entries one input entry is broadcast by NumPy's rules; 1 if not."""
    best = 1
    for entries, _ in case.parts:
        out = case.call.outputs[entries.output].shape
        inp = case.input.shape
        if len(inp) <= len(out):
            padded = (1,) * (len(out) - len(inp)) + inp
            if all(a in (1, b) for a, b in zip(padded, out, strict=True)):
                best = max(best, prod(out) // max(1, prod(inp)))
    return best


def swapped(case: Case, others: Sequence[Case]) -> Iterator[Diagnosis]:
    """The cotangent of another input in this one's place."""
    x = case.name
    for other in others:
        if other.leaf == case.leaf or other.input.shape != case.input.shape:
            continue
        mine = _by_place(case, case.actual)
        theirs = _by_place(other, other.expected)
        if mine.shape != theirs.shape or not np.isfinite(theirs).all():
            continue
        right = _by_place(case, case.expected)
        norm = float(np.linalg.norm(np.nan_to_num(mine - right)))
        fit = 1.0 - float(np.linalg.norm(np.nan_to_num(mine - theirs))) / norm if norm else 0.0
        if not case.explains(fit):
            continue
        both = other.wrong.any()
        yield Diagnosis(
            "swapped",
            f"the cotangents of {x} and {other.name} are swapped; return them in the order of the "
            "arguments"
            if both
            else f"the cotangent of {x} is that of {other.name}",
            fit,
            tuple(sorted((x, other.name))) if both else (x,),
        )


def _by_place(case: Case, values: Array) -> Array:
    """Values as whole matrices, blocks stacked; empty when that is too large."""
    parts = []
    start = 0
    for place, (entries, _) in enumerate(case.parts):
        if case.tensor(place, "expected") is None:
            return np.zeros((0, 0))
        matrix = np.zeros((case.call.outputs[entries.output].size, case.input.size))
        matrix[entries.rows, entries.columns] = values[start : start + len(entries.rows)]
        start += len(entries.rows)
        parts.append(matrix)
    return np.concatenate(parts) if parts else np.zeros((0, 0))


def rearranged(case: Case) -> Iterator[Diagnosis]:
    """Axes exchanged, reversed, shifted by one; only one of several contributions kept."""
    wrong = [k for k, (_, c) in enumerate(case.parts) if c.wrong.any()]
    if not wrong:
        return
    pairs = []
    for place in wrong:
        e, a = case.tensor(place, "expected"), case.tensor(place, "actual")
        if e is None or a is None or not np.isfinite(e).all() or not np.isfinite(a).all():
            return
        pairs.append((e, a, len(case.call.outputs[case.parts[place][0].output].shape)))
    e, _, rank = pairs[0]
    if any(p[0].shape != e.shape for p in pairs):
        return
    x = case.name

    def fit(change: Any) -> float:
        case.budget.check()
        left = sum(float(np.sum((a - change(t)) ** 2)) for t, a, _ in pairs)
        whole = sum(float(np.sum((a - t) ** 2)) for t, a, _ in pairs)
        return 1.0 - float(np.sqrt(left / whole))

    for axes in _orders(e.ndim):
        if axes == tuple(range(e.ndim)) or tuple(e.shape[a] for a in axes) != e.shape:
            continue
        got = fit(lambda t, axes=axes: np.transpose(t, axes))
        if case.explains(got):
            yield Diagnosis("transposed", _transposed_text(x, axes, rank), got, (x,))
            return
    # a shift is one only where entries land somewhere; zeros alone are something left out
    lands = any(bool((~np.isclose(a, t, rtol=1e-6, atol=0) & (a != 0)).any()) for t, a, _ in pairs)
    for axis in range(e.ndim):
        whose = (
            f"axis {axis} of the upstream cotangent"
            if axis < rank
            else (f"axis {axis - rank} of the cotangent of {x}")
        )
        got = fit(lambda t, axis=axis: np.flip(t, axis))
        if e.shape[axis] > 1 and case.explains(got):
            yield Diagnosis("flipped", f"{whose} is reversed", got, (x,))
        for steps in (1, -1, 2, -2):
            if not lands or abs(steps) >= e.shape[axis]:
                continue
            for wraps in (True, False):
                got = fit(lambda t, a=axis, s=steps, w=wraps: _shifted(t, a, s, w))
                if case.explains(got):
                    way = "on" if (steps > 0) == (axis >= rank) else "back"
                    yield Diagnosis(
                        "shifted",
                        f"{whose} is shifted by {abs(steps)}: entries land {abs(steps)} further "
                        f"{way} than they belong; look at index arithmetic and padding",
                        got,
                        (x,),
                    )
                    return
    yield from _kept_one(case, pairs, rank, fit)


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Orders of axes: all of them, or those that exchange two where there are many."""
    if rank <= MAX_AXES:
        yield from itertools.permutations(range(rank))
        return
    for a, b in itertools.combinations(range(rank), 2):
        order = list(range(rank))
        order[a], order[b] = b, a
        yield tuple(order)


def _transposed_text(x: str, axes: Sequence[int], rank: int) -> str:
    moved = [k for k, a in enumerate(axes) if k != a]
    if all(k >= rank for k in moved):
        what = listed([f"{k - rank}" for k in moved])
        return f"the cotangent of {x} is transposed: its axes {what} are exchanged; transpose it"
    if all(k < rank for k in moved):
        what = listed([f"{k}" for k in moved])
        return f"the upstream cotangent's axes {what} are exchanged in the cotangent of {x}"
    return (
        f"the cotangent of {x} uses the Jacobian where its transpose belongs: a matrix in it has "
        "to be transposed"
    )


def _shifted(t: Array, axis: int, steps: int, wraps: bool) -> Array:
    moved = np.roll(t, steps, axis)
    if not wraps:
        line: list[Any] = [slice(None)] * t.ndim
        line[axis] = slice(0, steps) if steps > 0 else slice(steps, None)
        moved = moved.copy()
        moved[tuple(line)] = 0.0
    return moved


def _kept_one(case: Case, pairs: Any, rank: int, fit: Any) -> Iterator[Diagnosis]:
    """Of several outputs that an input entry reaches, only the last or first counts."""
    x = case.name
    for word, last in (("last", True), ("first", False)):

        def kept(t: Array, last: bool = last) -> Array:
            m = prod(t.shape[:rank])
            matrix = t.reshape(m, -1)
            used = matrix != 0
            index = m - 1 - np.argmax(used[::-1], axis=0) if last else np.argmax(used, axis=0)
            only = np.zeros_like(matrix)
            columns = np.arange(matrix.shape[1])
            only[index, columns] = matrix[index, columns]
            return only.reshape(t.shape)

        if case.explains(got := fit(kept)):
            yield Diagnosis(
                "missing-sum",
                f"of the contributions to one entry of {x} only the {word} arrives: where entries "
                "are used more than once, add up (`.at[…].add`, or a sum over the broadcast axis)",
                got,
                (x,),
            )
            return
    # rows of one shape, along which an input is broadcast
    for axis in range(rank):
        for place, word in ((0, "first"), (-1, "last")):

            def one(t: Array, axis: int = axis, place: int = place) -> Array:
                result = np.zeros_like(t)
                line: list[Any] = [slice(None)] * t.ndim
                line[axis] = slice(place, None) if place else slice(0, 1)
                result[tuple(line)] = t[tuple(line)]
                return result

            if case.explains(got := fit(one)):
                yield Diagnosis(
                    "missing-sum",
                    f"only the {word} slice along axis {axis} of the upstream cotangent reaches "
                    f"{x}; sum over that axis",
                    got,
                    (x,),
                )
                return


def by_row(case: Case) -> Iterator[Diagnosis]:
    """Right up to one factor for each output entry, or for each input entry."""
    ratio = np.full(len(case.expected), np.nan)
    alive = case.usable & (case.expected != 0)
    ratio[alive] = case.actual[alive] / case.expected[alive]
    for places, which in ((case.rows, "output"), (case.columns, "input")):
        count = int(np.max(places, initial=0)) + 1
        number = np.bincount(places[alive], minlength=count)
        if not (number > 1).any() or np.max(number) < 2:
            continue
        with np.errstate(all="ignore"):
            mean = np.bincount(places[alive], weights=ratio[alive], minlength=count) / number
        predicted = case.expected * np.nan_to_num(mean)[places]
        fit = case.fit(predicted)
        if case.explains(fit) and number.sum() >= 2 * (number > 0).sum():
            low, high = float(np.nanmin(mean)), float(np.nanmax(mean))
            yield Diagnosis(
                "factor",
                f"the cotangent of {case.name} is right up to one factor for each {which} entry, "
                f"from {low:.4g} to {high:.4g}: a normalisation or scale of that entry is missing, "
                "or applied twice",
                fit,
                (case.name,),
            )
            return


def by_pattern(case: Case) -> Iterator[Diagnosis]:
    """Entries that depend on each other along other axes, or in the other direction."""
    shape = case.input.shape
    outputs = [case.call.outputs[e.output].shape for e, _ in case.parts]
    if not shape or outputs != [shape] or not np.isfinite(case.actual).all():
        return
    largest = float(np.abs(case.expected[case.usable]).max(initial=0.0))
    there = np.abs(case.expected) > 1e-12 * largest
    rule = np.abs(case.actual) > 1e-12 * largest
    ahead = [
        o - i
        for o, i in zip(
            np.unravel_index(case.rows, shape), np.unravel_index(case.columns, shape), strict=True
        )
    ]
    x = case.name
    for axis, steps in enumerate(ahead):
        mine, theirs = steps[rule], steps[there]
        for sign in (1, -1):
            up, down = sign * theirs, sign * mine
            one_way = np.min(up, initial=0) >= 0 and np.max(up, initial=0) > 0
            other = np.max(down, initial=0) <= 0 and np.min(down, initial=0) < 0
            if one_way and other:
                text = (
                    f"the cotangent of {x} runs in the wrong direction along axis {axis}: an entry "
                    f"of {x} acts on outputs {'from its own index on' if sign > 0 else 'up to its'}"
                    f"{'' if sign > 0 else ' own index'}, and the rule gathers those on the other "
                    "side; run the cumulative operation in reverse there"
                )
                yield Diagnosis("transposed", text, 1.0, (x,))
                return
    code = sum(((a != 0) << k for k, a in enumerate(ahead)), np.zeros(len(there), np.int64))
    right, given = set(code[there].tolist()) - {0}, set(code[rule].tolist()) - {0}
    if right and given - right and len(shape) > 1:
        axes = [_axes_of(codes, len(shape)) for codes in (given - right, right)]
        yield Diagnosis(
            "wrong-axis",
            f"in the rule, entries of {x} that differ along {axes[0]} act on each other; in the "
            f"function only those that differ along {axes[1]} do: a sum, mean or norm goes over "
            "the wrong axes",
            1.0,
            (x,),
        )


def _axes_of(codes: set[int], rank: int) -> str:
    named = [str(a) for a in range(rank) if any(c >> a & 1 for c in codes)]
    return f"ax{'i' if len(named) < 2 else 'e'}s {listed(named)}"


def passed_through(case: Case) -> Iterator[Diagnosis]:
    """The upstream cotangent itself."""
    for place, (entries, _) in enumerate(case.parts):
        out = case.call.outputs[entries.output]
        if len(case.parts) > 1 or out.shape != case.input.shape:
            return
        actual = case.actual
        if np.array_equal(actual, (case.rows == case.columns).astype(float)):
            yield Diagnosis(
                "passed-through",
                f"the cotangent of {case.name} is the upstream cotangent, unchanged: multiply it "
                "by the local derivative; if that is meant (a straight-through estimator), say so: "
                'expect="straight-through: <why>"',
                1.0,
                (case.name,),
            )
        del place


def conjugated(case: Case, others: Sequence[Case]) -> Iterator[Diagnosis]:
    """A missing or superfluous conjugation of a complex cotangent."""
    base, _, part = case.name.rpartition(".")
    if part != "imag" or not base:
        return
    twin = [c for c in others if c.name == f"{base}.real"]
    if not twin:
        return
    fit_imag = case.fit(-case.expected)
    if case.explains(fit_imag) and not twin[0].wrong.any():
        yield Diagnosis(
            "conjugate",
            f"the cotangent of {base} is conjugated: its imaginary part has the wrong sign. JAX's "
            "cotangents are not conjugated; apply or drop one jnp.conj",
            fit_imag,
            (case.name,),
        )


def low_precision(case: Case, rule_eps: float) -> Iterator[Diagnosis]:
    """Right, but rounded to fewer bits than the inputs have."""
    if rule_eps < 1e-4:
        return
    size = np.abs(np.where(case.usable, case.expected, 0.0))
    row = np.zeros(int(np.max(case.rows, initial=0)) + 1)
    column = np.zeros(case.input.size)
    np.maximum.at(row, case.rows, size)
    np.maximum.at(column, case.columns, size)
    scale = np.maximum(size, np.minimum(row[case.rows], column[case.columns]))
    off = np.abs(case.difference)
    name = {-7: "bfloat16", -10: "float16"}.get(round(float(np.log2(rule_eps))), "low precision")
    if (off <= 8 * rule_eps * scale).all():
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = float(np.max(np.nan_to_num(off / scale), initial=0.0))
        yield Diagnosis(
            "low-precision",
            f"the cotangent of {case.name} is right but noisy: it is off by up to "
            f"{100 * relative:.2g} %, as rounding to {name} explains. Accumulate in "
            f"{np.dtype(case.input.dtype)} (preferred_element_type), or declare it with expect=",
            1.0,
            (case.name,),
        )


def at_kinks(case: Case) -> Iterator[Diagnosis]:
    """Wrong only where one-sided derivatives differ."""
    wrong = case.wrong
    if not wrong.any() or not case.kink[wrong].all():
        return
    count = int(wrong.sum())
    first = int(np.flatnonzero(wrong)[0])
    column = int(case.columns[first])
    value = float(np.asarray(case.input.value, np.float64).reshape(-1)[column])
    yield Diagnosis(
        "boundary",
        f"the cotangent of {case.name} is wrong only at kinks ({count} "
        f"{'entry' if count == 1 else 'entries'}, first at {case.name} = {value:.6g}): the rule "
        f"says {case.actual[first]:.4g}, which is not between the one-sided derivatives. Both "
        "branches (or none) count there: use > in one of two comparisons where it has ≥",
        1.0,
        (case.name,),
    )
