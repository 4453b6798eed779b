"""How the operation of a node is written: `w0·x0`, `max(0, h)`, `1/v7`.

>>> operation_text(step, [("w0", ()), ("x0", ())], (), scalar=True)
'w0·x0'
"""

from collections.abc import Sequence
from typing import Any

from jacobians import program
from jacobians.derive.rules.elementwise import superscript
from jacobians.graph.build import Step
from jacobians.notation.expression import slice_text
from jacobians.notation.numbers import group
from jacobians.notation.operation import in_graph, on_sign

INFIX = {"add": " + ", "add_any": " + ", "sub": " − ", "div": "/", "mul": "·"}
COMPARISONS = {"gt": " > ", "ge": " ≥ ", "lt": " < ", "le": " ≤ ", "eq": " = ", "ne": " ≠ "}

MOST_SHOWN = 6


def operation_text(step: Step, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
    """An operation over the names of its operands.

    Args:
        step: the step.
        names: how each operand is written.
        shapes: the shape of each operand.

    Returns:
        The text, in the notation of the formulas.
    """
    if step.text is not None:
        return step.text.format(*names)
    op = step.operation
    if step.kind != "operation":
        return _function(op, names)
    if op in INFIX and len(names) == 2:
        symbol = INFIX[op]
        if op == "mul" and all(shapes):
            symbol = " ⊙ "
        return _infix(op, symbol, names)
    if op in COMPARISONS:
        return f"{group(names[0])}{COMPARISONS[op]}{group(names[1])}"
    if op == "neg":
        return "−" + group(names[0])
    if op == "square":
        return group(names[0]) + "²"
    if op == "integer_pow":
        return group(names[0]) + superscript(int(program.parameters(step.equation)["y"]))
    if op == "dot_general":
        return _product(step, names, shapes)
    if op in ("reduce_sum", "reduce_max", "reduce_min"):
        axes = program.parameters(step.equation)["axes"]
        return _reduction(in_graph(op), names[0], axes, len(shapes[0]))
    if op == "slice":
        return f"{group(names[0])}[{slice_text(program.parameters(step.equation), shapes[0])}]"
    if op == "transpose" and tuple(program.parameters(step.equation)["permutation"]) == (1, 0):
        return group(names[0]) + "ᵀ"
    if op == "select_n" and len(names) == 3:
        return f"where({names[0]}, {names[2]}, {names[1]})"
    if op in ("max", "min"):
        # a constant first, as in max(0, h)
        names = sorted(names, key=lambda text: not _is_number(text))
    return _function(in_graph(op), names)


def symbol(step: Step) -> str:
    """The operation as a short sign or name: `×`, `exp`, `softmax`."""
    if step.kind == "operation":
        return on_sign(step.operation)
    return step.operation


def _infix(op: str, symbol: str, names: Sequence[str]) -> str:
    left, right = names
    if op in ("add", "add_any"):
        return f"{left}{symbol}{right}" if not right.startswith("−") else f"{left}{symbol}({right})"
    if op == "mul" and _is_number(right):
        left, right = right, left
    return f"{group(left, 2)}{symbol}{group(right)}"


def _function(name: str, names: Sequence[str]) -> str:
    shown = list(names[:MOST_SHOWN])
    if len(names) > MOST_SHOWN:
        shown.append(f"… {len(names) - MOST_SHOWN} more")
    if name == "√" and len(names) == 1:
        return "√" + group(names[0])
    return f"{name}({', '.join(shown)})"


def _reduction(name: str, operand: str, axes: Any, rank: int) -> str:
    if len(axes) == rank:
        return f"{name}({operand})"
    which = f"axis={axes[0]}" if len(axes) == 1 else f"axes={','.join(map(str, axes))}"
    return f"{name}({operand}, {which})"


def _product(step: Step, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
    (left, right), (batch, _) = program.parameters(step.equation)["dimension_numbers"]
    if batch or len(left) != 1 or max(map(len, shapes)) > 2:
        return f"einsum({names[0]}, {names[1]})"
    ranks = list(map(len, shapes))
    first = group(names[0]) + ("ᵀ" if ranks[0] == 2 and left[0] == 0 else "")
    second = group(names[1]) + ("ᵀ" if ranks[1] == 2 and right[0] == 1 else "")
    return f"{first}·{second}"


def _is_number(text: str) -> bool:
    return text.lstrip("−")[:1].isdigit()
