"""How values of a program are written: `max(0, h)`, `W1·x`, `1[x > 0]`.

Formulas speak of arguments by their names, of intermediates by the names that the user gave them
with `checkpoint_name`, and of other intermediates by a short name with a definition beside it.
"""

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from jacobians import program
from jacobians.derive.operation import resolve
from jacobians.derive.rules.elementwise import superscript
from jacobians.derive.tape import Node, Tape, Value
from jacobians.notation.numbers import group, number_text
from jacobians.notation.operation import in_formula

# names for intermediates that have none, in the order of use; no letter that is an index
LETTERS = ("q", "h", "u", "v", "z", "w")
INLINE = 14
# a constant vector of at most this many entries is written in full
SHORT = 6

REDUCTIONS = {
    "reduce_sum": "Σ", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "argmax": "argmax", "argmin": "argmin", "reduce_and": "all", "reduce_or": "any",
}  # fmt: skip
COMPARISONS = {"gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠"}
OPPOSITE = {"gt": "le", "lt": "ge", "ge": "lt", "le": "gt", "eq": "ne", "ne": "eq"}
INFIX = {"add": " + ", "add_any": " + ", "sub": " − ", "mul": " ⊙ ", "div": " / "}


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

    @property
    def given(self) -> set[str]:
        """Every name that stands for an array: the user's, the output's, and those given here."""
        names = {*self.tape.names.values(), *self._given.values(), self.output[1], *LETTERS}
        return names | {name.split("[")[0] for name in names}

    @property
    def values(self) -> dict[str, int]:
        """The value that each name stands for."""
        named = {name: number for number, name in self.tape.names.items()}
        given = {
            name: number for number, name in self._given.items() if name[0] not in "−0123456789"
        }
        return {**named, **given, self.output[1]: self.output[0]}

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
        if not value.depends:
            known = self.tape.known(number) if prod(value.shape) == 1 else None
            return (
                number_text(known.reshape(()).item())
                if known is not None
                else self._constant(number)
            )
        if value.function is not None:
            return self.function_text(value, [self._inline(k, value) for k in value.operands])
        if value.source != "result" or value.node is None:
            return f"input{number}"
        return self._operation(value)

    def function_text(self, value: Value, operands: Sequence[str]) -> str:
        """A function of values, its operands written already.

        `1[b = 0]` of a comparison b is the opposite comparison.
        """
        assert value.function is not None
        text = value.function.text
        if len(value.operands) == 1 and text in ("1[{0} = 0]", "1[{0} = 1]"):
            asked = self.tape.values[self._plain(value.operands[0])]
            if asked.node is not None and asked.node.op in COMPARISONS and not asked.shape:
                op = asked.node.op if text == "1[{0} = 1]" else OPPOSITE[asked.node.op]
                left, right = (self.of(self._plain(k)) for k in asked.node.inputs)
                return f"1[{left} {COMPARISONS[op]} {right}]"
        return text.format(*operands)

    def _inline(self, number: int, function: Value) -> str:
        """An operand of a function: short intermediates are written out inside brackets."""
        assert function.function is not None
        value = self.tape.values[number]
        bracketed = function.function.text.startswith("1[")
        if bracketed and value.source == "result" and number not in self.tape.names:
            text = self.text(number)
            compared = value.node is not None and value.node.op in COMPARISONS
            if len(text) <= INLINE and (compared or " " not in text):
                # the bracket is parenthesis enough
                return text[1:-1] if compared and text.startswith("(") else text
        name = self.of(number)
        return name if bracketed else group(name)

    def _operation(self, value: Value) -> str:
        assert value.node is not None
        node = value.node
        call = self.tape.calls.get(node.outputs[0]) if len(node.outputs) == 1 else None
        if call is not None:
            return f"{call[0]}({', '.join(self.of(self._plain(k)) for k in call[1])})"
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
        if node.op == "neg":
            return "−" + group(parts[0])
        if node.op == "square":
            return group(parts[0]) + "²"
        if node.op == "integer_pow":
            return group(parts[0]) + superscript(int(program.parameters(node.equation)["y"]))
        if node.op in ("convert_element_type", "copy", "name"):
            return parts[0]
        params = program.parameters(node.equation)
        if node.op in REDUCTIONS and len(parts) == 1:
            return f"{REDUCTIONS[node.op]}({parts[0]}{_axes(params['axes'], self._rank(node))})"
        if node.op in COMPARISONS:
            return f"({group(parts[0], 1)} {COMPARISONS[node.op]} {group(parts[1], 1)})"
        if node.op == "transpose":
            flipped = tuple(params["permutation"]) == (1, 0)
            return f"{group(parts[0])}ᵀ" if flipped else f"transpose({parts[0]})"
        if node.op == "slice":
            return (
                f"{group(parts[0])}[{slice_text(params, self.tape.values[node.inputs[0]].shape)}]"
            )
        if node.op == "select_n" and len(parts) == 3:
            return f"where({parts[0]}, {parts[2]}, {parts[1]})"
        if node.op.startswith("cum"):
            return f"{node.op}({parts[0]}{_axes((params['axis'],), self._rank(node))})"
        arguments = sorted(parts, key=lambda t: t != "0") if node.op in ("max", "min") else parts
        name = in_formula(node.op)
        return f"{name}({', '.join(arguments)})"

    def _constant(self, number: int) -> str:
        """A known array: a short vector in full, others by their shape."""
        shape = self.tape.values[number].shape
        known = self.tape.known(number) if len(shape) == 1 and shape[0] <= SHORT else None
        if known is None:
            return f"constant[{','.join(map(str, shape))}]"
        return f"[{', '.join(number_text(x) for x in known.tolist())}]"

    def _rank(self, node: Node) -> int:
        return len(self.tape.values[node.inputs[0]].shape)

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

    def _simple(self, number: int) -> bool:
        value = self.tape.values[number]
        return value.source == "constant" or value.function is not None or not value.shape

    def _fresh(self, number: int) -> str:
        del number
        taken = self.given - set(LETTERS) | set(self._given.values())
        numbered = (f"{letter}{k}" for k in itertools.count(1) for letter in LETTERS)
        return next(name for name in itertools.chain(LETTERS, numbered) if name not in taken)


def _axes(axes: Sequence[int], rank: int) -> str:
    """`, axis=1` for an operation along some of the axes, nothing where it is along all."""
    if len(axes) == rank:
        return ""
    return f", axis={axes[0]}" if len(axes) == 1 else f", axis={tuple(axes)}"


def slice_text(params: Any, shape: Sequence[int]) -> str:
    """The parameters of a slice as Python writes them: `1:, ::2`."""
    texts = []
    strides = params["strides"] or (1,) * len(shape)
    together = zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True)
    for start, stop, stride, n in together:
        text = f"{start or ''}:{stop if stop < n else ''}"
        texts.append(text if stride == 1 else f"{text}:{stride}")
    return ", ".join(texts)


def bar(name: str) -> str:
    """The cotangent of a name: `x̄`, `W̄1`, `p̄["W"]`; `bar(logits)` for a longer name."""
    head = next((k for k, c in enumerate(name) if not c.isalnum() and c != "_"), len(name))
    letters = name[:head].rstrip("0123456789₀₁₂₃₄₅₆₇₈₉")
    if len(letters) != 1:
        return f"bar({name})"
    return unicodedata.normalize("NFC", name[0] + "\u0304" + name[1:])
