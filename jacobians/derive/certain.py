"""Entries that are certainly 0 whatever the input is: what a masked softmax has in the future.

`where(mask, scores, -inf)` is −∞ where a known mask says so, its exponential is 0 there, and 0
divided by the row's sum stays 0. Coefficients that are certainly 0 cut a pattern like a known mask
does. Only finite inputs are spoken of: 0·∞ is not 0.

    >>> zeros(tape, number)        # boolean array, or None when nothing is certain
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.support import zeros_of_result
from jacobians.derive.tape import MAX_KNOWN, QUICK, Node, Tape

Mask = NDArray[np.bool_]

MOVING = {
    "broadcast_in_dim", "reshape", "squeeze", "transpose", "rev", "copy", "stop_gradient",
}  # fmt: skip
SAME_VALUE = {"convert_element_type", "copy", "name", "stop_gradient", "reduce_precision"}
DEEPEST = 40


def zeros(tape: Tape, number: int, depth: int = 0) -> Mask | None:
    """Where a value is certainly 0.

    Args:
        tape: the tape.
        number: the value.
        depth: how many operations have been looked through already.

    Returns:
        A boolean array of the value's shape, or None when no entry is certain.
    """
    return _certain(tape, number, 0.0, depth)


def _certain(tape: Tape, number: int, target: float, depth: int) -> Mask | None:
    """Where a value is certainly 0, or −∞ (`target`)."""
    value = tape.values[number]
    size = int(np.prod(value.shape, dtype=np.float64))
    if depth > DEEPEST or size > MAX_KNOWN or not value.shape:
        return None
    found = tape.certainly(number, target)
    if found is not None:
        return found if found.any() else None
    if target == 0.0 and number in tape.nothing:
        return tape.nothing[number]
    if value.source != "result" or value.node is None:
        return None
    if (number, target) not in tape.certain_zeros:
        mask = _of_operation(tape, value.node, target, depth + 1)
        if mask is None and target == 0.0:
            mask = zeros_of_result(
                tape, value.node, number, lambda k, goal: _certain(tape, k, goal, depth + 1)
            )
        tape.certain_zeros[number, target] = mask
    return tape.certain_zeros[number, target]


def _of_operation(tape: Tape, node: Node, target: float, depth: int) -> Mask | None:
    op = node.op
    shape = tape.values[node.outputs[0]].shape
    first = node.inputs[0] if node.inputs else -1
    if op in SAME_VALUE:
        return _certain(tape, first, target, depth)
    if op in MOVING and len(node.inputs) == 1:
        mask = _certain(tape, first, target, depth)
        return None if mask is None else _moved(node, mask)
    if op == "select_n":
        return _selected(tape, node, target, depth)
    if op == "exp" and target == 0.0:
        return _certain(tape, first, -np.inf, depth)
    if op == "sub" and target == -np.inf:
        mask = _spread(_certain(tape, first, target, depth), shape)
        # −∞ − (−∞), where a whole row is masked, is no −∞
        return None if mask is None or mask.all(axis=-1).any() else mask
    if op == "div" and target == 0.0:
        return _spread(_certain(tape, first, target, depth), shape)
    if op == "mul" and target == 0.0:
        masks = [_spread(_certain(tape, k, target, depth), shape) for k in node.inputs]
        present = [m for m in masks if m is not None]
        return np.any(np.stack(present), axis=0) if present else None
    return None


def _selected(tape: Tape, node: Node, target: float, depth: int) -> Mask | None:
    which = tape.certain(node.inputs[0])
    if which is None:
        return None
    shape = tape.values[node.outputs[0]].shape
    cases = []
    for number in node.inputs[1:]:
        mask = _certain(tape, number, target, depth)
        cases.append(np.zeros(shape, bool) if mask is None else mask)
    chosen = np.broadcast_to(np.asarray(which).astype(np.int64), shape)
    result = np.zeros(shape, bool)
    for k, mask in enumerate(cases):
        result |= (chosen == k) & mask
    return result if result.any() else None


def _moved(node: Node, mask: Mask) -> Mask:
    made: Any = QUICK[node.op](program.parameters(node.equation), mask)
    return np.asarray(made, dtype=bool)


def _spread(mask: Mask | None, shape: tuple[int, ...]) -> Mask | None:
    return None if mask is None else np.broadcast_to(mask, shape)
