"""What moves in a program, and what its outputs can be differentiated by.

Two passes over the equations, both without numbers. Forward: from which inputs each value is made
in a differentiable way. Backward: whether an output can pass a cotangent back to it. A custom rule
matters only where both hold: one of integers, or whose result nobody uses, is never differentiated.

Both err on the side of yes. A rule returns what it likes, also where its function has no derivative
(a straight-through estimator): a result of one moves with every operand that its value depends on,
in whatever way, and passes its cotangent back to these.

    flow = Flow()
    roles = flow.roles(program, [source(0), source(1)])
    live = flow.uses(program, roles, [LIVE])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

import jax.numpy as jnp

from jacobians import program
from jacobians.program.view import Equation, Program, Variable

# a role says what a value is made from: nothing, for a number written in the program; held, for an
# array that the program closes over or makes itself; and further bits for the inputs
CONSTANT, HELD = 0, 1

# what becomes of a value: nothing; it is used; a cotangent can come back to it
UNUSED, USED, LIVE = 0, 1, 2

# operations whose derivative is zero wherever they have one
WITHOUT_DERIVATIVE = frozenset(
    {
        "stop_gradient",
        "sign",
        "floor",
        "ceil",
        "round",
        "nextafter",
        "is_finite",
        "argmax",
        "argmin",
    }
)

Roles = dict[Variable, int]
Uses = dict[Variable, int]


def source(number: int) -> int:
    """The role of an input that the program is differentiated by."""
    return 2 << number


def moves(role: int) -> bool:
    """Whether a value is made from an input that the program is differentiated by."""
    return role > HELD


def sources(role: int) -> Iterator[int]:
    """The numbers of the inputs that a value is made from."""
    return (k for k in range(role.bit_length() - 1) if role & source(k))


@dataclass(eq=False)
class Flow:
    """Both passes, with the results for programs that were seen before.

    Attributes:
        array: the role of arrays that the program closes over or makes itself.
    """

    array: int = HELD
    _roles: dict[Any, tuple[Program, Roles, list[int]]] = field(default_factory=dict)
    _uses: dict[Any, tuple[Program, Uses, list[int]]] = field(default_factory=dict)

    def roles(self, inner: Program, given: Sequence[int]) -> Roles:
        """The role of every variable, for roles of the inputs."""
        return self._forward(inner, given)[0]

    def uses(self, inner: Program, given: Sequence[int]) -> Uses:
        """What becomes of every variable, for what becomes of the outputs."""
        return self._backward(inner, given)[0]

    def role(self, atom: Any, roles: Roles) -> int:
        """The role of an operand."""
        return CONSTANT if program.is_literal(atom) else roles[atom]

    def scan_roles(
        self, equation: Equation, operands: Sequence[int], by_value: bool = False
    ) -> tuple[list[int], list[int]]:
        """The roles of the inputs of a scan's body, whichever step it is, and of its results."""
        parts = program.scan_parts(equation)
        constants, carry, slices = parts.split(operands)
        while True:
            given = [*constants, *carry, *slices]
            results = self._forward(parts.body, given, by_value)[1]
            joined = [a | b for a, b in zip(carry, results, strict=False)]
            if joined == carry:
                return given, [*joined, *results[parts.carries :]]
            carry = joined

    def while_roles(
        self, equation: Equation, operands: Sequence[int], by_value: bool = False
    ) -> tuple[list[int], list[int]]:
        """The roles of the inputs of a loop's body, whichever turn it is, and of its results."""
        parts = program.while_parts(equation)
        for_condition, for_body, carry = parts.split(operands)
        while True:
            given = [*for_body, *carry]
            results = self._forward(parts.body, given, by_value)[1]
            if by_value:
                # how many turns it takes is part of the value
                results = [reduce(or_, [*for_condition, *carry], role) for role in results]
            joined = [a | b for a, b in zip(carry, results, strict=True)]
            if joined == carry:
                return given, joined
            carry = joined

    def scan_uses(
        self, equation: Equation, results: Sequence[int], by_value: bool = False
    ) -> tuple[list[int], list[int]]:
        """What becomes of the outputs of a scan's body, and of its operands."""
        parts = program.scan_parts(equation)
        carry, stacked = list(results[: parts.carries]), results[parts.carries :]
        while True:
            given = [*carry, *stacked]
            constants, before, slices = parts.split(self._backward(parts.body, given, by_value)[1])
            joined = [max(pair) for pair in zip(carry, before, strict=True)]
            if joined == carry:
                return given, [*constants, *joined, *slices]
            carry = joined

    def while_uses(
        self, equation: Equation, results: Sequence[int], by_value: bool = False
    ) -> tuple[list[int], list[int]]:
        """What becomes of the outputs of a loop's body, and of its operands."""
        parts = program.while_parts(equation)
        asking = [max(results) if by_value else USED]
        asked = self._backward(parts.condition, asking, by_value)[1]
        for_condition = asked[: parts.condition_constants]
        after = asked[parts.condition_constants :]
        carry = [max(pair) for pair in zip(results, after, strict=True)]
        while True:
            before = self._backward(parts.body, carry, by_value)[1]
            for_body, after = before[: parts.body_constants], before[parts.body_constants :]
            joined = [max(pair) for pair in zip(carry, after, strict=True)]
            if joined == carry:
                return carry, [*for_condition, *for_body, *carry]
            carry = joined

    def _forward(
        self, inner: Program, given: Sequence[int], by_value: bool = False
    ) -> tuple[Roles, list[int]]:
        """Roles of all variables and of the outputs; `by_value`: dependence of whatever kind."""
        key = _key(inner, given, by_value)
        if key is None or key not in self._roles:
            roles: Roles = {v: self.array if is_float(v) else CONSTANT for v, _ in inner.constants}
            for variable, role in zip(inner.inputs, given, strict=True):
                roles[variable] = role if by_value or is_float(variable) else CONSTANT

            def apply(equation: Equation, operands: list[int]) -> list[int]:
                results = self._after(equation, operands, by_value)
                return [
                    role if by_value or is_float(variable) else CONSTANT
                    for variable, role in zip(equation.outvars, results, strict=True)
                ]

            program.run_equations(inner.equations, roles, apply, held=lambda array: CONSTANT)
            found = roles, [self.role(atom, roles) for atom in inner.outputs]
            if key is None:
                return found
            self._roles[key] = (inner, *found)
        return self._roles[key][1:]

    def _after(self, equation: Equation, operands: Sequence[int], by_value: bool) -> list[int]:
        """The roles of an equation's results."""
        name, called = equation.primitive.name, program.called_program(equation)
        if name in WITHOUT_DERIVATIVE and not by_value:
            # what is made of a number is a number, and a stopped gradient stops
            stopped = name == "stop_gradient" or not any(operands)
            return [CONSTANT if stopped else HELD for _ in equation.outvars]
        if called is not None:
            return self._forward(called, operands, by_value or program.is_custom_rule(equation))[1]
        if name == "cond":
            inside = [
                self._forward(p, operands[1:], by_value)[1] for p in program.branches(equation)
            ]
            chooses = operands[0] if by_value else CONSTANT
            return [reduce(or_, roles, chooses) for roles in zip(*inside, strict=True)]
        if name == "scan":
            return self.scan_roles(equation, operands, by_value)[1]
        if name == "while":
            return self.while_roles(equation, operands, by_value)[1]
        # an array is more than a number: a model may make its own weights
        made = any(program.shape_of(v) for v in equation.outvars)
        role = reduce(or_, operands, self.array if made else CONSTANT)
        return [role] * len(equation.outvars)

    def _backward(
        self, inner: Program, given: Sequence[int], by_value: bool = False
    ) -> tuple[Uses, list[int]]:
        """What becomes of all variables and of the inputs; `by_value` as in `_forward`."""
        key = _key(inner, given, by_value)
        if key is None or key not in self._uses:
            uses: Uses = {}

            def use(atoms: Sequence[Any], after: Sequence[int]) -> None:
                for atom, level in zip(atoms, after, strict=True):
                    if not program.is_literal(atom):
                        level = level if by_value or is_float(atom) else min(level, USED)
                        uses[atom] = max(uses.get(atom, UNUSED), level)

            use(inner.outputs, given)
            for equation in reversed(inner.equations):
                results = [uses.get(v, UNUSED) for v in equation.outvars]
                use(equation.invars, self._before(equation, results, by_value))
            found = uses, [uses.get(v, UNUSED) for v in inner.inputs]
            if key is None:
                return found
            self._uses[key] = (inner, *found)
        return self._uses[key][1:]

    def _before(self, equation: Equation, results: Sequence[int], by_value: bool) -> list[int]:
        """What becomes of an equation's operands, for what becomes of its results."""
        most = max(results, default=UNUSED)
        if getattr(equation, "effects", None):
            most = max(most, USED)
        everything = [most] * len(equation.invars)
        name, called = equation.primitive.name, program.called_program(equation)
        if most == UNUSED:
            return everything
        if name in WITHOUT_DERIVATIVE and not by_value:
            return [USED] * len(equation.invars)
        if called is not None and program.is_custom_rule(equation) and not by_value:
            # what a rule closes over gets no cotangent
            levels = self._backward(called, results, by_value=True)[1]
            held = program.rule_constants(equation)
            return [min(level, USED) for level in levels[:held]] + levels[held:]
        if called is not None:
            return self._backward(called, results, by_value)[1]
        if name == "cond":
            inside = [self._backward(p, results, by_value)[1] for p in program.branches(equation)]
            chooses = most if by_value else USED
            return [chooses, *(max(levels) for levels in zip(*inside, strict=True))]
        if name == "scan":
            return self.scan_uses(equation, results, by_value)[1]
        if name == "while":
            return self.while_uses(equation, results, by_value)[1]
        return everything


def is_float(atom: Any) -> bool:
    """Whether a variable or literal is a float or complex array."""
    dtype = program.dtype_of(atom)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def _key(inner: Program, given: Sequence[int], by_value: bool) -> Any:
    """What a program and what is given for it are known by, as long as the program is kept.

    None for a program without equations. JAX shares equations between programs that differ in
    their outputs.
    """
    if not inner.equations:
        return None
    ends = tuple(map(id, (*inner.inputs, *inner.outputs)))
    return id(inner.equations[0]), len(inner.equations), ends, tuple(given), by_value
