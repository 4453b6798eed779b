"""How values of a program are written: `max(0, h)`, `W1·x`, `1[x > 0]`.

Formulas speak of arguments by their names, of intermediates by the names that the user gave them
with `checkpoint_name`, and of other intermediates by a short name with a definition beside it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from jacobians import program
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Comparison,
    Expression,
    Hadamard,
    Indicator,
    Name,
    Negative,
    Number,
    Power,
    Product,
    Quotient,
    Root,
    Sliced,
    Sum,
    Transposed,
    Vector,
    filled,
    is_case,
    walk,
)
from jacobians.derive.operation import resolve
from jacobians.derive.tape import Node, Tape, Value
from jacobians.notation.numbers import LINE
from jacobians.notation.operation import in_formula
from jacobians.notation.text import bracketed, text_of

# names for intermediates that have none, in the order of use; no letter that is an index
LETTERS = ("q", "h", "u", "v", "z", "w")
INLINE = 14
# a constant vector of at most this many entries is written in full
SHORT = 6

REDUCTIONS = {
    "reduce_sum": "Σ", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "argmax": "argmax", "argmin": "argmin", "reduce_and": "all", "reduce_or": "any",
}  # fmt: skip
# running operations along one axis
CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
# what a formula does not say: the same entries, laid out otherwise or of another type
UNWRITTEN = {
    "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type", "copy", "name",
    "stop_gradient",
}  # fmt: skip
COMPARISONS = {"gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠"}
OPPOSITE = {"gt": "le", "lt": "ge", "ge": "lt", "le": "gt", "eq": "ne", "ne": "eq"}
# the condition that a value is 0, or is 1
IS = {case: is_case(case) for case in (0, 1)}


def unnamed(tape: Tape, number: int) -> int:
    """The value that `checkpoint_name` was given, where it made this one: the two are equal."""
    node = tape.values[number].node
    return node.inputs[0] if node is not None and node.op == "name" else number


@dataclass(eq=False)
class Names:
    """Names of tape values, given as they are asked for.

    Attributes:
        tape: the tape.
        output: number of the block's output, and what it is called.
        definitions: a definition for every name given out here.
    """

    tape: Tape
    output: tuple[int, str]
    definitions: dict[str, Expression] = field(default_factory=dict)
    _given: dict[int, Expression] = field(default_factory=dict)

    @property
    def taken(self) -> set[str]:
        """Every name that stands for an array: the user's, the output's, and those given here."""
        names = {*self.tape.names.values(), self.output[1], *self.definitions}
        return names | {variable(name) for name in names}

    @cached_property
    def named(self) -> frozenset[int]:
        """The values that the user's name tells apart: of two called `h` neither is."""
        called = {self.output[1]: {unnamed(self.tape, self.output[0])}}
        for number, name in self.tape.names.items():
            called.setdefault(name, set()).add(unnamed(self.tape, number))
        return frozenset(
            number
            for number, name in self.tape.names.items()
            if self.tape.values[number].source == "input" or len(called[name]) == 1
        )

    @property
    def given(self) -> set[str]:
        """What no index may be called: the names that stand for an array, now or later."""
        return self.taken | set(LETTERS)

    @property
    def values(self) -> tuple[tuple[Expression, int], ...]:
        """What has been written of which value."""
        named = ((Name(self.tape.names[number]), number) for number in sorted(self.named))
        given = ((written, number) for number, written in self._given.items())
        return (*named, *given, (Name(self.output[1]), self.output[0]))

    def of(self, number: int) -> Expression:
        """The name of a value: the user's, the output's, or a short one with a definition."""
        if number == self.output[0]:
            return Name(self.output[1])
        if number in self.named:
            return Name(self.tape.names[number])
        if number not in self._given:
            written = self.written(number, top=True)
            if self._simple(number) and len(text_of(written)) <= INLINE:
                self._given[number] = written
            else:
                letter = self._fresh()
                self._given[number] = Name(letter)
                self.definitions[letter] = written
        return self._given[number]

    def written(self, number: int, top: bool = False) -> Expression:
        """A value written out one level; deeper parts by their names."""
        if not top and (number in self.named or number == self.output[0]):
            return self.of(number)
        value = self.tape.values[number]
        if not value.depends:
            known = self.tape.known(number) if prod(value.shape) == 1 else None
            if known is None:
                return self._constant(number)
            return Number(known.reshape(()).item())
        if value.function is not None:
            return self.applied(value, [self._inline(k, value) for k in value.operands])
        if value.source != "result" or value.node is None:
            return Name(f"input{number}")
        return self._operation(value, value.node)

    def applied(self, value: Value, operands: Sequence[Expression]) -> Expression:
        """A function of values, its operands written already.

        `1[b = 0]` of a comparison b is the opposite comparison.
        """
        assert value.function is not None
        form = value.function.form
        if form in IS.values():
            asked = self.tape.values[self._plain(value.operands[0])]
            if asked.node is not None and asked.node.op in COMPARISONS and not asked.shape:
                op = asked.node.op if form == IS[1] else OPPOSITE[asked.node.op]
                sides = tuple(self.of(self._plain(k)) for k in asked.node.inputs)
                return Indicator(Comparison(sides, (COMPARISONS[op],)))
        return filled(form, tuple(operands))

    def _inline(self, number: int, function: Value) -> Expression:
        """An operand of a function: short intermediates are written out inside indicators."""
        assert function.function is not None
        value = self.tape.values[number]
        if not isinstance(function.function.form, Indicator):
            return bracketed(self.of(number))
        if value.source == "result" and number not in self.tape.names:
            written = self.written(number)
            if len(text_of(written)) <= INLINE:
                if isinstance(written, Brackets):
                    # the bracket of the indicator is parenthesis enough
                    return written.of
                if not _is_spaced(written):
                    return written
        return self.of(number)

    def _operation(self, value: Value, node: Node) -> Expression:
        """The result of an operation, as that operation of its operands: `max(0, h)`, `W·x`."""
        call = self.tape.calls.get(node.outputs[0]) if len(node.outputs) == 1 else None
        if call is not None:
            return Call(call[0], tuple(self.of(self._plain(k)) for k in call[1]))
        viewed = [
            k if self.tape.values[k].shape else resolve(self.tape, k, ())[0] for k in node.inputs
        ]
        operands = tuple(self.of(self._plain(k)) for k in viewed)
        arithmetic = self._arithmetic(node, operands)
        if arithmetic is not None:
            return arithmetic
        if node.op == "dot_general" and len(operands) == 2:
            return self._matrix_product(value, operands)
        if node.op in ("convert_element_type", "copy", "name"):
            return operands[0]
        params = program.parameters(node.equation)
        if node.op in REDUCTIONS and len(operands) == 1:
            return Call(REDUCTIONS[node.op], operands, self._some(params["axes"], node))
        if node.op in COMPARISONS:
            sides = tuple(bracketed(side, LINE) for side in operands)
            return Brackets(Comparison(sides, (COMPARISONS[node.op],)))
        if node.op == "transpose":
            flipped = tuple(params["permutation"]) == (1, 0)
            return Transposed(operands[0]) if flipped else Call("transpose", operands)
        if node.op == "slice":
            shape = self.tape.values[node.inputs[0]].shape
            return Sliced(operands[0], slice_ranges(params, shape))
        if node.op == "select_n" and len(operands) == 3:
            return Call("where", (operands[0], operands[2], operands[1]))
        if node.op in CUMULATIVE:
            return Call(node.op, operands, self._some((params["axis"],), node))
        if node.op in ("max", "min"):
            operands = tuple(sorted(operands, key=lambda e: e != Number(0)))
        return Call(in_formula(node.op), operands)

    def _arithmetic(self, node: Node, operands: tuple[Expression, ...]) -> Expression | None:
        """Sums, products, quotients and powers of operands; None for another operation."""
        closed = tuple(bracketed(e) for e in operands)
        match node.op:
            case "add" | "add_any":
                return Sum(closed)
            case "sub":
                return Sum((closed[0], Negative(closed[1])))
            case "mul":
                scaled = any(not self.tape.values[k].shape for k in node.inputs)
                return Product(closed) if scaled else Hadamard(closed)
            case "div":
                return Quotient(closed[0], closed[1], close=False)
            case "neg":
                return Negative(operands[0])
            case "sqrt":
                return Root(Brackets(operands[0]))
            case "square":
                return Power(operands[0], 2)
            case "integer_pow":
                return Power(operands[0], int(program.parameters(node.equation)["y"]))
        return None

    def _constant(self, number: int) -> Expression:
        """A known array: a short vector in full, others by their shape."""
        shape = self.tape.values[number].shape
        known = self.tape.known(number) if len(shape) == 1 and shape[0] <= SHORT else None
        if known is None:
            return Name(f"constant[{','.join(map(str, shape))}]")
        return Vector(tuple(Number(x) for x in known.tolist()))

    def _some(self, axes: Sequence[int], node: Node) -> tuple[int, ...]:
        """The axes of an operation along some of its operand's axes, none where along all."""
        whole = len(axes) == len(self.tape.values[node.inputs[0]].shape)
        return () if whole else tuple(axes)

    def _plain(self, number: int) -> int:
        """A value without the broadcasts around it, for writing."""
        while True:
            value = self.tape.values[number]
            named = number in self.tape.names or number == self.output[0]
            if named or value.source != "result" or value.node is None:
                return number
            if value.node.op not in UNWRITTEN:
                return number
            number = value.node.inputs[0]

    def _matrix_product(self, value: Value, operands: tuple[Expression, ...]) -> Expression:
        """A product of matrices or vectors, transposed as the contracted axes say: `Wᵀ·x`."""
        assert value.node is not None
        (left, right), (batch, _) = program.parameters(value.node.equation)["dimension_numbers"]
        ranks = [len(self.tape.values[k].shape) for k in value.node.inputs]
        if batch or len(left) != 1 or max(ranks) > 2:
            return Call("einsum", operands)
        first, second = (bracketed(e) for e in operands)
        first = Transposed(first) if left[0] == 0 else first
        return Product((first, Transposed(second) if ranks[1] == 2 and right[0] == 1 else second))

    def _simple(self, number: int) -> bool:
        """Whether a value can stand in a formula as it is written, where that is short."""
        value = self.tape.values[number]
        return value.source == "constant" or value.function is not None or not value.shape

    def _fresh(self) -> str:
        """A letter for an intermediate that nothing is called."""
        taken = self.taken
        numbered = (f"{letter}{k}" for k in itertools.count(1) for letter in LETTERS)
        return next(name for name in itertools.chain(LETTERS, numbered) if name not in taken)


def variable(name: str) -> str:
    """The variable whose field or item a leaf's name is: `p` of `p["W"]`."""
    return name.split("[", 1)[0]


def slice_ranges(
    params: Any, shape: Sequence[int]
) -> tuple[tuple[int | None, int | None, int], ...]:
    """The parameters of a slice: (start, stop, stride) per axis, None for an end of the axis."""
    strides = params["strides"] or (1,) * len(shape)
    together = zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True)
    return tuple(
        (start or None, stop if stop < n else None, stride) for start, stop, stride, n in together
    )


def _is_spaced(e: Expression) -> bool:
    """Whether an expression is written as several words."""
    return any(
        isinstance(part, (Sum, Hadamard, Comparison))
        or (isinstance(part, Quotient) and not part.close)
        or (isinstance(part, Call) and len(part.arguments) + len(part.axes) > 1)
        or (isinstance(part, Vector) and len(part.entries) > 1)
        or (isinstance(part, Sliced) and len(part.ranges) > 1)
        or (isinstance(part, Name) and " " in part.text)
        for part in walk(e)
    )
