"""How the operation of a node is written: `w0·x0`, `max(0, h)`, `1/v7`.

`operation_text(step, [Name("w0"), Name("x0")], [(), ()])` gives `'w0·x0'`
"""

from collections.abc import Sequence
from math import isfinite

from jacobians import program
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Comparison,
    Expression,
    Hadamard,
    Negative,
    Number,
    Power,
    Product,
    Quotient,
    Root,
    Sliced,
    Sum,
    Transposed,
    Words,
)
from jacobians.graph.build import Step
from jacobians.notation.expression import COMPARISONS, slice_ranges
from jacobians.notation.numbers import ATOM, POINT
from jacobians.notation.operation import in_graph, on_sign
from jacobians.notation.text import binds, bracketed, text_of

MOST_SHOWN = 6


def operation_text(
    step: Step, operands: Sequence[Expression], shapes: Sequence[tuple[int, ...]]
) -> str:
    """An operation over its operands.

    Args:
        step: the step.
        operands: the name or the number that each operand is.
        shapes: the shape of each operand.

    Returns:
        The text, in the notation of the formulas.
    """
    if step.text is not None:
        return step.text.format(*map(text_of, operands))
    if step.kind != "operation":
        return text_of(_function(step.operation, operands))
    infix = _infix(step.operation, operands, shapes) if len(operands) == 2 else None
    return text_of(_operation(step, operands, shapes) if infix is None else infix)


def _operation(
    step: Step, operands: Sequence[Expression], shapes: Sequence[tuple[int, ...]]
) -> Expression:
    """An operation that stands before, behind or around its operands: `−x`, `x²`, `max(0, h)`."""
    first, op = operands[0] if operands else Words(""), step.operation
    params = {} if step.equation is None else program.parameters(step.equation)
    match op:
        case "neg":
            return Negative(first)
        case "square":
            return Power(first, 2)
        case "integer_pow":
            return Power(first, int(params["y"]))
        case "dot_general":
            return _matrix_product(step, operands, shapes)
        case "reduce_sum" | "reduce_max" | "reduce_min":
            return _reduction(in_graph(op), first, params["axes"], len(shapes[0]))
        case "slice":
            return Sliced(first, slice_ranges(params, shapes[0]))
        case "transpose" if tuple(params["permutation"]) == (1, 0):
            return Transposed(first)
        case "select_n" if len(operands) == 3:
            return Call("where", (operands[0], operands[2], operands[1]))
        case "max" | "min":
            # a constant first, as in max(0, h)
            operands = sorted(operands, key=lambda e: not _is_number(e))
    return _function(in_graph(op), operands)


def symbol(step: Step) -> str:
    """The operation as a short sign or name: `×`, `exp`, `softmax`."""
    if step.kind == "operation":
        return on_sign(step.operation)
    return step.operation


def _infix(
    op: str, operands: Sequence[Expression], shapes: Sequence[tuple[int, ...]]
) -> Expression | None:
    """An operation between its two operands, `x + y`, `2·x`; None for any other."""
    left, right = operands
    if op in COMPARISONS:
        return Comparison((bracketed(left), bracketed(right)), (COMPARISONS[op],))
    match op:
        case "add" | "add_any":
            signed = isinstance(right, Number) and binds(right) < ATOM
            return Sum((left, Brackets(right) if signed else right))
        case "sub":
            return Sum((bracketed(left, POINT), Negative(right)))
        case "div":
            return Quotient(left, right)
        case "mul":
            if _is_number(right):
                left, right = right, left
            factors = (left, bracketed(right))
            return Hadamard(factors) if all(shapes) else Product(factors)
    return None


def _function(name: str, operands: Sequence[Expression]) -> Expression:
    """A function of operands, of many the first few: `concat(a, b, c, d, e, f, … 3 more)`."""
    if name == "√" and len(operands) == 1:
        return Root(operands[0])
    more = len(operands) - MOST_SHOWN
    return Call(name, (*operands[:MOST_SHOWN], *((Words(f"… {more} more"),) if more > 0 else ())))


def _reduction(name: str, operand: Expression, axes: Sequence[int], rank: int) -> Expression:
    """A sum or extremum over axes: `Σ(x)`, `max(x, axis=1)`, `Σ(x, axes=0,2)`."""
    if len(axes) in (1, rank):
        return Call(name, (operand,), () if len(axes) == rank else tuple(axes))
    return Call(name, (operand, Words(f"axes={','.join(map(str, axes))}")))


def _matrix_product(
    step: Step, operands: Sequence[Expression], shapes: Sequence[tuple[int, ...]]
) -> Expression:
    """A product of matrices or vectors, transposed as the contracted axes say: `Wᵀ·x`."""
    (left, right), (batch, _) = program.parameters(step.equation)["dimension_numbers"]
    if batch or len(left) != 1 or max(map(len, shapes)) > 2:
        return Call("einsum", tuple(operands))
    first, second = (bracketed(e) for e in operands)
    ranks = list(map(len, shapes))
    first = Transposed(first) if ranks[0] == 2 and left[0] == 0 else first
    second = Transposed(second) if ranks[1] == 2 and right[0] == 1 else second
    return Product((first, second))


def _is_number(e: Expression) -> bool:
    """Whether an operand is a finite number."""
    return isinstance(e, Number) and isfinite(abs(e.value))
