"""Hypotheses about where: the wrong entries are exactly those of a region that can be described.

By index: the last block of an axis, the first, every other one. By value: where an input is
negative, beyond a threshold. A region counts when it holds all wrong entries and no right one, of
those entries that are not zero on both sides.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.check.diagnose.case import Case, Diagnosis, lengths, scalars
from jacobians.check.diagnose.words import ratio_text
from jacobians.notation.numbers import number

Array = NDArray[Any]
Bools = NDArray[np.bool_]
MAX_BLOCKS = 64
# a block of more than half of an axis: a value, if any fits, says more
UNNATURAL = 10
# this share of all entries is no region
NEARLY_ALL = 0.9


@dataclass(frozen=True, eq=False)
class _Quantity:
    """Something that entries can be told apart by.

    Attributes:
        name: in words.
        values: one per entry.
        index: the length of the axis that it is an index of, or None for a value.
        weight: the lower, the sooner it is believed.
    """

    name: str
    values: Array
    index: int | None
    weight: int


def regions(
    case: Case, computed: Sequence[tuple[str, Any]] = (), others: Sequence[Case] = ()
) -> Iterator[Diagnosis]:
    """The most natural region that holds exactly the wrong entries.

    Args:
        case: the wrong cotangent.
        computed: values that the program computes, with their names.
        others: the cotangent at other points, where the region has to be the same.
    """
    points = (case, *others)
    alive = [_alive(c) for c in points]
    inside = np.concatenate([c.wrong[a] for c, a in zip(points, alive, strict=True)])
    if not case.wrong.any() or inside.all():
        return
    found: list[tuple[int, str]] = []
    for quantity in _joined(
        [_quantities(c, a, computed) for c, a in zip(points, alive, strict=True)]
    ):
        case.budget.check()
        text, weight = _separated(quantity, inside)
        if text:
            found.append((quantity.weight + weight, text))
    if not found:
        columns = [c.columns[a] for c, a in zip(points, alive, strict=True)]
        found.extend(_boxes(case, np.concatenate(columns), inside))
    # at points all over its range an input is told apart at some threshold or other
    everywhere = bool(others) and float(inside.mean()) > NEARLY_ALL
    found = [(weight + UNNATURAL * everywhere, text) for weight, text in found]
    found.sort(key=lambda pair: pair[0])
    what = _what(case)
    for weight, text in found[:1]:
        if weight >= UNNATURAL and not what:
            continue  # nearly everywhere, and wrong in several ways: that is no region
        yield Diagnosis(
            "region",
            f"the cotangent of {case.name} is wrong only where {text}{what}; look at how "
            "the rule treats that part (a mask, a tile, a boundary)",
            1.0,
            (case.name,),
        )


def _alive(case: Case) -> Bools:
    """Entries that are not zero on both sides, without those at kinks."""
    with np.errstate(invalid="ignore"):
        alive = (case.expected != 0) | (case.actual != 0) | case.wrong
    return np.asarray(alive & (~case.kink | case.wrong))


def _joined(points: Sequence[Iterable[_Quantity]]) -> Iterator[_Quantity]:
    """Each quantity with its values at all points, where it is there at all of them."""
    first, *rest = points
    more = [{q.name: q for q in quantities} for quantities in rest]
    for quantity in first:
        if all(quantity.name in known for known in more):
            values = [quantity.values, *(known[quantity.name].values for known in more)]
            yield replace(quantity, values=np.concatenate(values))


def _boxes(case: Case, columns: Array, inside: Bools) -> Iterator[tuple[int, str]]:
    """A box of indices of the input that holds exactly the wrong entries."""
    shape = case.input.shape
    if len(shape) < 2:
        return
    box, words = np.ones(len(inside), bool), []
    for axis, index in enumerate(np.unravel_index(columns, shape)):
        low, high = int(np.min(index[inside])), int(np.max(index[inside]))
        box &= (index >= low) & (index <= high)
        if (low, high) == (0, shape[axis] - 1):
            continue
        if high == shape[axis] - 1:
            text = f"{low} or more" if low < high else f"{low}: the last one"
        else:
            text = f"at most {high}" if low == 0 < high else f"from {low} to {high}"
        words.append(f"its index along axis {axis} is {text if low < high else high}")
    if len(words) > 1 and np.array_equal(box, inside):
        yield 8, " and ".join(words)


def _quantities(
    case: Case, alive: Bools, computed: Sequence[tuple[str, Any]]
) -> Iterator[_Quantity]:
    """What a region may be described by: indices of both sides, and values of the same shape."""
    rows, columns = case.rows[alive], case.columns[alive]
    leaf = case.input
    if leaf.shape:
        for axis, index in enumerate(np.unravel_index(columns, leaf.shape)):
            if leaf.shape[axis] > 1:
                name = "its index" if len(leaf.shape) == 1 else f"its index along axis {axis}"
                yield _Quantity(name, np.asarray(index), leaf.shape[axis], 0)
    start = 0
    for (entries, _), offset in zip(case.parts, case.offsets, strict=True):
        out = case.call.outputs[entries.output]
        mine = (rows >= offset) & (rows < offset + out.size)
        if mine.all() and out.shape:
            for axis, index in enumerate(np.unravel_index(rows - offset, out.shape)):
                if out.shape[axis] > 1:
                    name = f"the index of {out.name}"
                    name += "" if len(out.shape) == 1 else f" along axis {axis}"
                    yield _Quantity(name, np.asarray(index), out.shape[axis], 1)
        elif len(case.parts) > 1:
            yield _Quantity(f"the output is {out.name}", mine.astype(int), None, 9)
        start += out.size
    for k, other in enumerate(case.call.inputs):
        if other.static or not other.differentiable:
            continue
        values = np.asarray(other.value, np.float64)
        if k == case.leaf:
            yield _Quantity(other.name, values.reshape(-1)[columns], None, 2)
        elif other.shape == leaf.shape and other.size > 1:
            yield _Quantity(other.name, values.reshape(-1)[columns], None, 4)
        if len(case.parts) == 1:
            out = case.call.outputs[case.parts[0][0].output]
            if other.shape == out.shape and other.size > 1 and other.shape != leaf.shape:
                yield _Quantity(other.name, values.reshape(-1)[rows], None, 4)

    shapes = [case.call.outputs[e.output].shape for e, _ in case.parts]
    for name, given in computed:
        values = np.asarray(given)
        if values.dtype.kind != "f" or values.size < 2:
            continue
        if values.shape == leaf.shape:
            yield _Quantity(name, values.reshape(-1)[columns], None, 6)
        elif shapes == [values.shape]:
            yield _Quantity(name, values.reshape(-1)[rows], None, 6)


def _separated(quantity: _Quantity, inside: Bools) -> tuple[str, int]:
    """A description of where `inside` holds, in terms of one quantity, or nothing."""
    values = quantity.values
    if quantity.name.startswith("the output is"):
        return (quantity.name, 0) if np.array_equal(values.astype(bool), inside) else ("", 0)
    if not np.isfinite(values).all():
        return "", 0
    yes, no = values[inside], values[~inside]
    if quantity.index is not None:
        return _separated_index(quantity, values, inside, yes, no)
    if yes.max() < no.min():
        return _below(quantity.name, float(yes.max()), float(no.min()))
    if yes.min() > no.max():
        return _above(quantity.name, float(yes.min()), float(no.max()))
    size = np.abs(values)
    if size[inside].min() > size[~inside].max():
        return f"|{quantity.name}| > {_between(size[~inside].max(), size[inside].min())}", 1
    if size[inside].max() < size[~inside].min():
        return f"|{quantity.name}| < {_between(size[inside].max(), size[~inside].min())}", 1
    between = (values >= yes.min()) & (values <= yes.max())
    if np.array_equal(between, inside) and len(yes) > 1:
        low = _between(no[no < yes.min()].max(), yes.min())
        high = _between(yes.max(), no[no > yes.max()].min())
        return f"{quantity.name} is between {low} and {high}", 3
    if (values == 0)[inside].all() and not (values == 0)[~inside].any():
        return f"{quantity.name} is 0", 0
    return "", 0


def _separated_index(
    quantity: _Quantity, values: Array, inside: Bools, yes: Array, no: Array
) -> tuple[str, int]:
    """A description of where `inside` holds by an index: an end, a stride, one or a few of them."""
    n = quantity.index
    assert n is not None
    if yes.min() > no.max():
        first = int(yes.min())
        if first == n - 1:
            return f"{quantity.name} is {first}: the last one", 0
        text = f"{quantity.name} is {first} or more: the last block of {n - first} of {n}"
        return text, UNNATURAL if 2 * (n - first) > n else 0
    if yes.max() < no.min():
        last = int(yes.max())
        if last == 0:
            return f"{quantity.name} is 0: the first one", 0
        text = f"{quantity.name} is at most {last}: the first block of {last + 1} of {n}"
        return text, UNNATURAL if 2 * (last + 1) > n else 0
    chosen = np.unique(yes)
    if np.isin(values, chosen).tolist() == inside.tolist():
        for step in range(2, min(n, MAX_BLOCKS)):
            if (
                len(np.unique(chosen % step)) == 1
                and (len(chosen) == len(np.unique(values[values % step == chosen[0] % step])))
                and len(chosen) > 1
            ):
                return f"{quantity.name} is {int(chosen[0] % step)} modulo {step}", 2
        if len(chosen) == 1:
            return f"{quantity.name} is {int(chosen[0])}", 3
        if len(chosen) == chosen.max() - chosen.min() + 1:
            return f"{quantity.name} is from {int(chosen.min())} to {int(chosen.max())}", 2
        if len(chosen) <= 4:
            shown = ", ".join(str(int(c)) for c in chosen)
            return f"{quantity.name} is one of {shown}", 5
    return "", 0


def _below(name: str, inner: float, outer: float) -> tuple[str, int]:
    if inner < 0 <= outer:
        return f"{name} is negative", 0
    if inner <= 0 < outer:
        return f"{name} is not positive", 0
    return f"{name} is below {_between(inner, outer)}", 1


def _above(name: str, inner: float, outer: float) -> tuple[str, int]:
    if outer <= 0 < inner:
        return f"{name} is positive", 0
    if outer < 0 <= inner:
        return f"{name} is not negative", 0
    return f"{name} is above {_between(outer, inner)}", 1


def _between(low: Any, high: Any) -> str:
    """A round number between two, as a threshold that the author may have written."""
    low, high = float(low), float(high)
    if low < 0 < high:
        return "0"
    for digits in range(1, 8):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(max(abs(low), abs(high), 1e-300))))
        for candidate in (np.ceil(low * scale) / scale, np.floor(high * scale) / scale):
            if low <= candidate <= high:
                return f"about {number(float(candidate))}"
    return f"about {number(low)}"


def _what(case: Case) -> str:
    """What is wrong there, where that is one thing."""
    wrong = case.wrong & np.isfinite(case.actual) & np.isfinite(case.expected)
    actual, expected = case.actual[wrong], case.expected[wrong]
    if not len(actual):
        return ""
    if not actual.any():
        return ": there it is 0"
    if not expected.any():
        return ": there it is not 0 where it has to be"
    factor = float(np.vdot(expected, actual)) / float(np.vdot(expected, expected))
    left = np.linalg.norm(actual - factor * expected) / np.linalg.norm(actual - expected)
    if left > 1e-3:
        return ""
    if abs(factor + 1) < 1e-4:
        return ": there it has the wrong sign"
    return f": there {ratio_text(factor, lengths(case), scalars(case))}"
