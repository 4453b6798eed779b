"""Ranges of values that index: `argmax` of two entries is 0 or 1, `clip(i, 0, 3)` lies in [0, 3].

A range is a least and a greatest number for every entry of an array, whatever the finite input is.
Integer arithmetic that may wrap around has the range of its whole type; floating-point bounds are
widened by what rounding can do, and a value that may be NaN says so. Where a select decides by a
comparison, each case is looked at under what the comparison says, so that
`where(i < 0, i + n, i)`, which `jax.numpy` puts around every index, keeps the range of i.

    range_of(tape, number)     # of argmax(x[:2]) + [0, 1]
    # Range(low=[0, 1], high=[1, 2])
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.facts.bounds import (
    LARGEST_EXACT,
    MAX_ELEMENTS,
    Numbers,
    Range,
    condensed,
    hull,
    of_any_entry,
    range_of_array,
    range_of_type,
    within_type,
)
from jacobians.derive.facts.range_rules import ELEMENTWISE, computed_range
from jacobians.derive.tape import Node, Tape
from jacobians.program.primitives import Does, does

# operations that are looked through, one by way of another
DEEPEST = 100

# comparisons and their kin that are looked through to see what a predicate says
DEEPEST_PREDICATE = 6


def range_of(tape: Tape, number: int) -> Range | None:
    """The range of a value; None for what is neither a number nor a boolean.

    Args:
        tape: the tape.
        number: the value.
    """
    return _range(tape, number, 0)


def integer_bounds(tape: Tape, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The least and greatest entries of an integer value, clipped to what 64 bits hold safely.

    Those of a known array are itself, however large: index tables are what sparsity is made of.
    """
    known = tape.certain(number)
    found = range_of_array(known) if known is not None else range_of(tape, number)
    if found is None or found.nan:
        return None
    shape = tape.values[number].shape
    low, high = (
        np.clip(b, -LARGEST_EXACT, LARGEST_EXACT).astype(np.int64) for b in (found.low, found.high)
    )
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def joint_range(tape: Tape, numbers: Sequence[int]) -> Range | None:
    """The range of a value that is one of several."""
    found = [range_of(tape, k) for k in numbers]
    present = [r for r in found if r is not None]
    if len(present) < len(found):
        return None
    low, high = present[0].low, present[0].high
    for r in present[1:]:
        low, high = np.minimum(low, r.low), np.maximum(high, r.high)
    return Range(low, high, any(r.nan for r in present))


def _range(tape: Tape, number: int, depth: int) -> Range | None:
    """The range of a value `depth` operations below the one asked for; remembered on the tape."""
    if number in tape.ranges:
        kept: Range | None = tape.ranges[number]
        return kept
    value = tape.values[number]
    whole = range_of_type(value.dtype)
    if whole is None or depth > DEEPEST or not prod(value.shape):
        return whole
    floating = bool(jnp.issubdtype(value.dtype, jnp.floating))
    found: Range | None = None
    # a float that has been computed may be rounded in another way where the program runs
    known = tape.certain(number)
    if known is not None:
        found = range_of_array(known)
    elif value.source == "input" and floating and number in tape.finite:
        most = np.float64(jnp.finfo(value.dtype).max)
        found = Range(np.asarray(-most), np.asarray(most))
    elif value.source == "result" and value.node is not None:
        # a bound beyond the largest number is infinite, as it should be
        with np.errstate(all="ignore"):
            found = _of_operation(tape, value.node, number, depth + 1)
    result = whole if found is None else within_type(found, value.dtype, whole)
    result = condensed(result)
    tape.ranges[number] = result
    return result


def _of_operation(tape: Tape, node: Node, number: int, depth: int) -> Range | None:
    """The range of an operation's result from those of its operands."""
    op, params = node.op, program.parameters(node.equation)
    value = tape.values[number]
    if op in ("argmax", "argmin"):
        axes = tape.values[node.inputs[0]].shape
        last = prod(axes[d] for d in params["axes"]) - 1
        return Range(np.asarray(0.0), np.asarray(float(max(last, 0))))
    if op in ("top_k", "approx_top_k") and number == node.outputs[1]:
        shape = tape.values[node.inputs[0]].shape
        return Range(np.asarray(0.0), np.asarray(float(max(shape) - 1)))
    if op == "lu_pivots_to_permutation":
        return Range(np.asarray(0.0), np.asarray(float(value.shape[-1] - 1)))
    if op == "select_n":
        return _selected(tape, node, depth)
    operands = [_range(tape, k, depth) for k in node.inputs]
    present = [r for r in operands if r is not None]
    if len(present) != len(operands):
        return None
    if op in ("sort", "optimization_barrier", "copy_p", "name"):
        mine = present[node.outputs.index(number)]
        return of_any_entry(mine) if op == "sort" else mine
    return computed_range(op, params, present, [tape.values[k] for k in node.inputs], value)


# number of a value → what is known of it beside its range
Assumptions = dict[int, tuple[Numbers, Numbers]]


def _selected(tape: Tape, node: Node, depth: int) -> Range | None:
    """The range of a select: that of each case, under what the predicate says of it."""
    which = _range(tape, node.inputs[0], depth)
    shape = tape.values[node.outputs[0]].shape
    predicate = tape.values[node.inputs[0]]
    cases = [_range(tape, k, depth) for k in node.inputs[1:]]
    if which is None or any(c is None for c in cases):
        return None
    low, high = np.asarray(np.inf), np.asarray(-np.inf)
    nan = False
    together = predicate.shape == shape and prod(shape) <= MAX_ELEMENTS
    for k, (number, case) in enumerate(zip(node.inputs[1:], cases, strict=True)):
        assert case is not None
        chosen = (which.low <= k) & (which.high >= k)
        if not chosen.any():
            continue
        case_low, case_high = case.low, case.high
        if predicate.dtype == np.bool_ and together:
            assumed = _assumed(tape, node.inputs[0], bool(k), depth)
            if assumed:
                refined = _under(tape, number, assumed, shape, depth, 0)
                case_low, case_high = refined
                for other in assumed:
                    a, b = _under(tape, other, assumed, shape, depth, 0)
                    chosen = chosen & (a <= b)
                chosen = chosen & (case_low <= case_high)
        nan = nan or case.nan
        low = np.minimum(low, np.where(chosen, case_low, np.inf))
        high = np.maximum(high, np.where(chosen, case_high, -np.inf))
    if (low > high).any() and not nan:
        return hull([c for c in cases if c is not None])
    return Range(low, high, nan)


def _assumed(tape: Tape, number: int, truth: bool, depth: int) -> Assumptions:
    """What holds of integers and booleans where a predicate is true, or where it is not."""
    found: Assumptions = {}
    _collect(tape, number, truth, depth, 0, found)
    return found


def _collect(
    tape: Tape, number: int, truth: bool, depth: int, steps: int, found: Assumptions
) -> None:
    """Adds to `found` what holds where a predicate is `truth`: by i < 3 ∧ j ≥ 0, both."""
    node = tape.values[number].node
    if node is None or tape.values[number].source != "result" or steps > DEEPEST_PREDICATE:
        return
    op = node.op
    if op == "not" and tape.values[number].dtype == np.bool_:
        _collect(tape, node.inputs[0], not truth, depth, steps + 1, found)
    elif (op == "and" and truth) or (op == "or" and not truth):
        if tape.values[number].dtype == np.bool_:
            for k in node.inputs:
                _collect(tape, k, truth, depth, steps + 1, found)
    elif op in ("and", "or") and tape.values[number].dtype == np.bool_:
        # one of two holds: what both of them say
        first: Assumptions = {}
        second: Assumptions = {}
        _collect(tape, node.inputs[0], truth, depth, steps + 1, first)
        _collect(tape, node.inputs[1], truth, depth, steps + 1, second)
        for other in first.keys() & second.keys():
            low = np.minimum(first[other][0], second[other][0])
            high = np.maximum(first[other][1], second[other][1])
            _learn(tape, other, low, high, depth, steps + 1, found)
    elif does(op, Does.COMPARES):
        _compare(tape, node, truth, depth, steps, found)


def _compare(
    tape: Tape, node: Node, truth: bool, depth: int, steps: int, found: Assumptions
) -> None:
    """What a comparison of integers or booleans says of its two sides."""
    opposite = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
    mirrored = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
    left, right = node.inputs
    types = [tape.values[k].dtype for k in (left, right)]
    if any(t is None or not (jnp.issubdtype(t, jnp.integer) or t == np.bool_) for t in types):
        return
    op = node.op if truth else opposite[node.op]
    for mine, other, relation in ((left, right, op), (right, left, mirrored[op])):
        own, bound = _range(tape, mine, depth), _range(tape, other, depth)
        if own is None or bound is None:
            continue
        low, high = np.broadcast_arrays(own.low, own.high)
        if relation == "lt":
            high = np.minimum(high, bound.high - 1)
        elif relation == "le":
            high = np.minimum(high, bound.high)
        elif relation == "gt":
            low = np.maximum(low, bound.low + 1)
        elif relation == "ge":
            low = np.maximum(low, bound.low)
        elif relation == "eq":
            low, high = np.maximum(low, bound.low), np.minimum(high, bound.high)
        else:
            fixed = bound.low == bound.high
            low, high = (
                np.where(fixed & (low == bound.low), low + 1, low),
                np.where(fixed & (high == bound.low), high - 1, high),
            )
        _learn(tape, mine, low, high, depth, steps, found)


def _learn(
    tape: Tape,
    number: int,
    low: Numbers,
    high: Numbers,
    depth: int,
    steps: int,
    found: Assumptions,
) -> None:
    """Remembers bounds of a value, and what they say of the operand that it is made of."""
    if number in found:
        low, high = np.maximum(found[number][0], low), np.minimum(found[number][1], high)
    found[number] = low, high
    value = tape.values[number]
    if value.dtype == np.bool_:
        for truth in (False, True):
            if bool((low >= truth).all() and (high <= truth).all()):
                _collect(tape, number, truth, depth, steps + 1, found)
        return
    node = value.node
    if node is None or value.source != "result" or steps > DEEPEST_PREDICATE:
        return
    operand = node.inputs[0] if node.inputs else -1
    if node.op == "sign":
        limits = _range(tape, operand, depth)
        if limits is not None:
            below = np.where(high < 0, -1.0, np.where(high < 1, 0.0, limits.high))
            above = np.where(low > 0, 1.0, np.where(low > -1, 0.0, limits.low))
            _learn(tape, operand, above, below, depth, steps + 1, found)
    elif node.op == "convert_element_type":
        given, whole = _range(tape, operand, depth), range_of_type(value.dtype)
        integer = jnp.issubdtype(tape.values[operand].dtype, jnp.integer)
        if given is None or whole is None or not integer:
            return
        if (given.low >= whole.low).all() and (given.high <= whole.high).all():
            _learn(tape, operand, low, high, depth, steps + 1, found)


def _under(
    tape: Tape,
    number: int,
    assumed: Mapping[int, tuple[Numbers, Numbers]],
    shape: tuple[int, ...],
    depth: int,
    steps: int,
) -> tuple[Numbers, Numbers]:
    """Bounds of a value where the assumptions hold; the least above the greatest: never.

    The assumptions hold entry by entry, so only elementwise operations of arrays of the same
    shape are looked through.
    """
    plain = _range(tape, number, depth)
    if plain is None:
        return np.asarray(-np.inf), np.asarray(np.inf)
    low, high = plain.low, plain.high
    value = tape.values[number]
    node = value.node
    if node is not None and value.source == "result" and steps < DEEPEST_PREDICATE:
        small = node.op in ELEMENTWISE or node.op == "convert_element_type"
        same = all(tape.values[k].shape in (shape, ()) for k in node.inputs)
        integer = all(
            tape.values[k].dtype is not None and (jnp.issubdtype(tape.values[k].dtype, jnp.integer))
            for k in (*node.inputs, number)
        )
        if small and same and integer and value.shape == shape and value.source != "constant":
            made = [
                Range(*_under(tape, k, assumed, shape, depth, steps + 1))
                if tape.values[k].shape == shape
                else _range(tape, k, depth)
                for k in node.inputs
            ]
            computed = _of_refined(tape, node, made, value)
            if computed is not None:
                low, high = np.maximum(low, computed.low), np.minimum(high, computed.high)
    if number in assumed and value.shape == shape:
        low = np.maximum(low, assumed[number][0])
        high = np.minimum(high, assumed[number][1])
    return low, high


def _of_refined(
    tape: Tape, node: Node, operands: Sequence[Range | None], value: Any
) -> Range | None:
    """The range of an elementwise operation at refined operands; None where one is empty."""
    present = [r for r in operands if r is not None]
    if len(present) != len(operands):
        return None
    empty = np.any(np.stack(np.broadcast_arrays(*(r.low > r.high for r in present))), axis=0)
    if empty.any():
        # nothing is computed from nothing: the entries without any value stay without
        filled = [Range(np.where(empty, r.high, r.low), r.high) for r in present]
        found = _of_refined(tape, node, filled, value)
        if found is None:
            return None
        return Range(np.where(empty, np.inf, found.low), np.where(empty, -np.inf, found.high))
    given = [tape.values[k] for k in node.inputs]
    computed = computed_range(node.op, program.parameters(node.equation), present, given, value)
    whole = range_of_type(value.dtype)
    return None if computed is None or whole is None else within_type(computed, value.dtype, whole)
