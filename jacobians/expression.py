"""How values of a program are written: `max(0, h)`, `W1·x`, `1[x > 0]`.

Formulas speak of arguments by their names, of intermediates by the names that the user gave them
with `checkpoint_name`, and of other intermediates by a short name with a definition beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from jacobians import program
from jacobians.derive.elementwise import superscript
from jacobians.derive.operation import resolve
from jacobians.derive.tape import Tape, Value

# names for intermediates that have none, in the order of use
LETTERS = ("q", "h", "u", "v", "z", "p", "r", "a", "b", "c", "d", "e", "g", "m", "w")
INLINE = 14

COMPARISONS = {"gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠"}
INFIX = {"add": " + ", "add_any": " + ", "sub": " − ", "mul": " ⊙ ", "div": " / "}
CALLS = {
    "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tanh": "tanh", "logistic": "sigmoid",
    "sqrt": "√", "abs": "abs", "max": "max", "min": "min", "reduce_sum": "Σ", "cumsum": "cumsum",
    "reduce_max": "max", "reduce_min": "min", "stop_gradient": "stop", "erf": "erf",
}  # fmt: skip


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
    definitions: dict[str, str] = field(default_factory=dict)
    _given: dict[int, str] = field(default_factory=dict)

    def of(self, number: int) -> str:
        """The name of a value: the user's, the output's, or a short one with a definition."""
        if number == self.output[0]:
            return self.output[1]
        named = self.tape.names.get(number)
        if named is not None:
            return named
        if number not in self._given:
            text = self.text(number, top=True)
            if len(text) <= INLINE and self._simple(number):
                self._given[number] = text
            else:
                self._given[number] = self._fresh(number)
                self.definitions[self._given[number]] = text
        return self._given[number]

    def text(self, number: int, top: bool = False) -> str:
        """A value written out one level; deeper parts by their names."""
        if not top and (number in self.tape.names or number == self.output[0]):
            return self.of(number)
        value = self.tape.values[number]
        known = self.tape.known(number) if prod(value.shape) == 1 else None
        if known is not None:
            return number_text(known.reshape(()).item())
        if value.source == "constant":
            return self._constant(number, value)
        if value.function is not None:
            return value.function.text.format(*(self._inline(k, value) for k in value.operands))
        if value.source != "result" or value.node is None:
            return f"input{number}"
        return self._operation(value)

    def _inline(self, number: int, function: Value) -> str:
        """An operand of a function: short intermediates are written out inside brackets."""
        assert function.function is not None
        value = self.tape.values[number]
        bracketed = function.function.text.startswith("1[")
        if bracketed and value.source == "result" and number not in self.tape.names:
            text = self.text(number)
            compared = value.node is not None and value.node.op in COMPARISONS
            if len(text) <= INLINE and (compared or " " not in text):
                return text
        name = self.of(number)
        return name if bracketed else group(name)

    def _operation(self, value: Value) -> str:
        assert value.node is not None
        node = value.node
        viewed = [resolve(self.tape, k, ())[0] if not self.tape.values[k].shape else k
                  for k in node.inputs]  # fmt: skip
        parts = [self.of(self._plain(k)) for k in viewed]
        if node.op == "dot_general" and len(parts) == 2:
            return self._product(value, parts)
        if node.op in INFIX:
            left, right = group(parts[0]), group(parts[1])
            symbol = INFIX[node.op]
            if node.op == "mul" and any(not self.tape.values[k].shape for k in node.inputs):
                symbol = "·"
            return left + symbol + right
        if node.op in COMPARISONS:
            return f"{parts[0]} {COMPARISONS[node.op]} {parts[1]}"
        if node.op == "neg":
            return "−" + group(parts[0])
        if node.op == "square":
            return group(parts[0]) + "²"
        if node.op == "integer_pow":
            return group(parts[0]) + superscript(int(program.parameters(node.equation)["y"]))
        if node.op in ("convert_element_type", "copy", "name"):
            return parts[0]
        if node.op == "reduce_sum" and len(parts) == 1:
            return f"Σ{group(parts[0])}" if level(parts[0]) < 3 else f"Σ({parts[0]})"
        arguments = sorted(parts, key=lambda t: t != "0") if node.op in ("max", "min") else parts
        name = CALLS.get(node.op, node.op)
        return f"{name}({', '.join(arguments)})"

    def _plain(self, number: int) -> int:
        """A value without the broadcasts around it, for writing."""
        while True:
            value = self.tape.values[number]
            moved = value.source == "result" and value.node is not None and value.node.op in (
                "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type", "copy",
                "stop_gradient", "name",
            )  # fmt: skip
            if not moved or number in self.tape.names or number == self.output[0]:
                return number
            assert value.node is not None
            number = value.node.inputs[0]

    def _product(self, value: Value, parts: list[str]) -> str:
        assert value.node is not None
        (left, right), (batch, _) = program.parameters(value.node.equation)["dimension_numbers"]
        ranks = [len(self.tape.values[k].shape) for k in value.node.inputs]
        if batch or len(left) != 1 or max(ranks) > 2:
            return f"einsum({parts[0]}, {parts[1]})"
        first = group(parts[0]) + ("ᵀ" if left[0] == 0 else "")
        second = group(parts[1]) + ("ᵀ" if ranks[1] == 2 and right[0] == 1 else "")
        return f"{first}·{second}"

    def _constant(self, number: int, value: Value) -> str:
        del number
        return f"constant[{','.join(map(str, value.shape))}]"

    def _simple(self, number: int) -> bool:
        value = self.tape.values[number]
        return value.source == "constant" or value.function is not None or not value.shape

    def _fresh(self, number: int) -> str:
        del number
        taken = {*self.tape.names.values(), *self._given.values(), self.output[1]}
        taken |= {t.split("[")[0] for t in taken}
        for letter in LETTERS:
            if letter not in taken:
                return letter
        return f"t{len(self.definitions) + 1}"


def number_text(x: Any) -> str:
    """A number in a formula: `2`, `0.5`, `−1`."""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    text = f"{x:.6g}" if isinstance(x, float) else str(x)
    return text.replace("-", "−")


def level(text: str) -> int:
    """How loosely a text binds at its outside: 3 atom, 2 products with ·, 1 with ⊙ or /, 0 sums."""
    depth, lowest = 0, 3
    for k, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif depth == 0:
            if character == "·":
                lowest = min(lowest, 2)
            elif character in "⊙/":
                lowest = min(lowest, 1)
            elif character in "+−" and (k == 0 or text[k - 1] == " "):
                lowest = 0
    return lowest


def group(text: str, at_least: int = 3) -> str:
    """The text, in parentheses if it binds more loosely than `at_least` (see `level`)."""
    return text if level(text) >= at_least else f"({text})"


def indexed(name: str, index: Sequence[str]) -> str:
    """An entry: `W[i,j]`; the name alone for scalars; `1[x[i] > 0]` has its index inside."""
    if not index:
        return name
    return f"{group(name)}[{','.join(index)}]"
