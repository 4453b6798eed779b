"""One evaluation of a program with switches in its derivative.

The program is run operation by operation, each result as its value plus one tangent for each
operand. On the way every tangent, every value that an operation is linearised at and every local
derivative passes its switch. The first evaluation finds the switches, later ones move them.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.diagnose.alternatives import (
    ELEMENTWISE,
    LINEAR,
    WITHOUT_DERIVATIVE,
    alternatives,
    multipliers,
)
from jacobians.check.diagnose.exchanges import multiplied, replacements, stand_ins
from jacobians.check.diagnose.switches import (
    Candidate,
    Choice,
    Edge,
    Option,
    Switchboard,
    Switches,
    carrier,
    hold,
    is_array,
    is_float,
)
from jacobians.check.diagnose.words import Place, place_of
from jacobians.program.strip import run
from jacobians.program.view import Equation, Program

BILINEAR = ("mul", "dot_general", "conv_general_dilated")

# where a switch is: the numbers of the equations around it and its own, and further words
Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Frame:
    """What is known of one program while it is run.

    Attributes:
        outputs: its outputs.
        plain: its own values, without tangents, by variable; empty where none are needed.
        candidates: values that may stand in each other's place: its own and those around it.
        factors: variables that something is multiplied with or divided by.
        uses: how often each variable is read.
        moving: the variables that carry a tangent.
        edges: for a variable that one edge leads to, the number of that edge.
    """

    outputs: Sequence[Any]
    plain: dict[Any, Candidate]
    candidates: list[Candidate]
    factors: set[Any]
    uses: Counter[Any]
    moving: set[Any]
    edges: dict[Any, int] = field(default_factory=dict)

    def moves(self, atom: Any) -> bool:
        """Whether an operand carries a tangent."""
        return not program.is_literal(atom) and atom in self.moving


@dataclass(frozen=True, eq=False)
class _Operation:
    """An operation that has a derivative, at values of its operands without their tangents."""

    equation: Equation
    name: str
    key: Key
    place: Place
    fixed: list[Any]


@dataclass(eq=False)
class Walk:
    """One evaluation.

    Attributes:
        board: the switches that are known, or are being found.
        switches: their positions.
        looped: whether it is inside a loop.
        caller: where the innermost call that it is inside of stands.
    """

    board: Switchboard
    switches: Switches
    looped: bool = False
    caller: Place | None = None

    def frame(
        self,
        inner: Program,
        values: list[Any],
        active: list[bool],
        path: Key,
        outer: list[Candidate],
        names: Sequence[str] = (),
    ) -> tuple[list[Any], list[bool]]:
        """Evaluates one program.

        Args:
            inner: the program.
            values: its inputs.
            active: which of them carry tangents.
            path: the numbers of the equations that it is inside of.
            outer: values from around it.
            names: what its inputs are called.

        Returns:
            Its outputs, and which of them carry tangents.
        """
        recording = self.switches.recording
        needed = self.board.small and (recording or (self.looped and not self.switches.paths_only))
        plain = _plain_values(inner, values, names) if needed else {}
        if recording and not self.looped:
            self.board.recorded += plain.values()
        frame = _Frame(
            outputs=inner.outputs,
            plain=plain,
            candidates=[*plain.values(), *outer],
            factors=multiplied(inner),
            uses=Counter(
                atom
                for equation in inner.equations
                for atom in equation.invars
                if not program.is_literal(atom)
            ),
            moving={v for v, a in zip(inner.inputs, active, strict=True) if a},
        )
        if not path:
            whole = Place("the inputs", "", "", "", 0)
            values = [
                self._stand_in(frame, ("input", k), whole, variable, value)
                for k, (variable, value) in enumerate(zip(inner.inputs, values, strict=True))
            ]
        numbers = itertools.count()
        outputs = program.run(
            inner,
            values,
            lambda equation, operands: self._equation(
                frame, equation, operands, (*path, next(numbers))
            ),
        )
        return outputs, [frame.moves(atom) for atom in inner.outputs]

    def _equation(
        self, frame: _Frame, equation: Equation, operands: list[Any], key: Key
    ) -> list[Any]:
        """The results of an equation, or what switches put in place of them."""
        self.board.budget.check()
        active = [frame.moves(atom) for atom in equation.invars]
        results, moving, edge = self._results(frame, equation, operands, active, key)
        result = equation.outvars[0] if len(equation.outvars) == 1 else None
        if result is not None and moving[0] and result not in frame.outputs:
            results = [self._stand_in(frame, key, self._place(equation), result, results[0])]
        frame.moving.update(v for v, a in zip(equation.outvars, moving, strict=True) if a)
        if edge is not None and result is not None:
            frame.edges[result] = edge
        return results

    def _results(
        self,
        frame: _Frame,
        equation: Equation,
        operands: list[Any],
        active: list[bool],
        key: Key,
    ) -> tuple[list[Any], list[bool], int | None]:
        """The results, which of them carry tangents, and the edge by which the only one comes."""
        still = [False] * len(equation.outvars)
        if not any(active):
            return program.evaluate(equation, operands), still, None
        called = program.called_program(equation)
        if called is not None:
            above, self.caller = self.caller, self._place(equation)
            results, moving = self.frame(called, operands, active, key, frame.candidates)
            self.caller = above
            return results, moving, None
        name = str(equation.primitive.name)
        if name in program.LOOPS:
            if name == "cond":
                results = self._cond(equation, operands, active, key, frame.candidates)
            else:
                results = self._loop(equation, operands, key, frame.candidates)
            return results, [is_float(r) for r in results], None
        if name in WITHOUT_DERIVATIVE or not any(
            jnp.issubdtype(program.dtype_of(v), jnp.inexact) for v in equation.outvars
        ):
            return program.evaluate(equation, operands), still, None
        fixed = [hold(v) if is_float(v) else v for v in operands]
        movers = [k for k, a in enumerate(active) if a and is_float(operands[k])]
        operation = _Operation(equation, name, key, self._place(equation), fixed)
        return self._sum(frame, operation, {k: operands[k] for k in movers})

    def _sum(
        self, frame: _Frame, operation: _Operation, movers: dict[int, Any]
    ) -> tuple[list[Any], list[bool], int | None]:
        """An operation as its value plus one tangent for each operand that has one."""
        made = program.evaluate(operation.equation, operation.fixed)
        total = [hold(r) if is_float(r) else r for r in made]
        edge: int | None = None
        for k, given in movers.items():
            edge, value = self._edge(frame, operation, k, given)
            linearised = self._exchanged(frame, operation, k)
            tangents = _tangents(operation.equation, linearised, k, value)
            if self.board.small and len(total) == 1 and not self.switches.paths_only:
                tangents = [self._altered(operation, k, value, tangents[0])]
            total = [t + u if is_float(t) else t for t, u in zip(total, tangents, strict=True)]
        return total, [is_float(t) for t in total], edge if len(movers) == 1 else None

    def _edge(self, frame: _Frame, operation: _Operation, k: int, value: Any) -> tuple[int, Any]:
        """The edge by which operand k enters, and the operand with its tangent as switched there.

        An operand that is used once is behind the edge of what it is made from.
        """
        atom = operation.equation.invars[k]
        edge = frame.edges.get(atom) if frame.uses[atom] == 1 else None
        if edge is None:
            edge, value = self._scale((*operation.key, k), operation.place, value)
        elif operation.place not in self.board.edges[edge].places:
            self.board.edges[edge].places.append(operation.place)
        if operation.name == "mul" and self.switches.recording:
            self.board.edges[edge].products.append(operation.key)
        return edge, value

    def _altered(self, operation: _Operation, k: int, value: Any, tangent: Any) -> Any:
        """The tangent of a result, or what is often written in place of it."""
        equation, name, fixed = operation.equation, operation.name, operation.fixed
        moving = carrier(value)
        others = alternatives(equation, name, fixed, k, moving, tangent)
        if others:
            options = [Option(a.kind, a.text) for a in others]
            values = [tangent, *(a.tangent for a in others)]
            key = (*operation.key, k, "derivative")
            tangent = self._choose(key, operation.place, options, values)
        if name not in ELEMENTWISE or np.shape(fixed[k]) != np.shape(tangent) or self.looped:
            return tangent
        key = (*operation.key, k, "local")
        if self.switches.recording:
            right, made = multipliers(equation, name, fixed, k)
            options = [Option(kind, text) for kind, text, _ in made]
            self._put(key, operation.place, right, lambda: (options, [m for _, _, m in made]))
            return tangent
        choice = self.board.choice_numbers.get(key)
        if choice in self.switches.arrays:
            moved = self.switches.chosen[choice] > 0
            return jnp.where(moved, self.switches.arrays[choice] * moving, tangent)
        return tangent

    def _exchanged(self, frame: _Frame, operation: _Operation, k: int) -> list[Any]:
        """The values that operand k's tangent is propagated at, each with its switch."""
        result, name = list(operation.fixed), operation.name
        if not self.board.small or name in LINEAR or self.switches.paths_only:
            return result
        for j, value in enumerate(operation.fixed):
            if (name in BILINEAR and j == k) or (name == "select_n" and j != 0):
                continue
            if name == "div" and k == 0 and j == 0:
                continue
            found = self._finder(frame, operation, j)
            key = (*operation.key, k, j)
            if not self.looped:
                result[j] = self._put(key, operation.place, value, found)
                continue
            options, values = found()
            if options:
                result[j] = self._choose(key, operation.place, options, [value, *values])
        return result

    def _finder(
        self, frame: _Frame, operation: _Operation, j: int
    ) -> Callable[[], tuple[list[Option], list[Any]]]:
        """What looks for the values that may stand in operand j's place."""
        atom = operation.equation.invars[j]
        own = None if program.is_literal(atom) else frame.plain.get(atom)
        return lambda: replacements(
            operation.equation, operation.name, j, own, frame.candidates, operation.fixed
        )

    def _loop(
        self, equation: Equation, operands: list[Any], key: Key, candidates: list[Candidate]
    ) -> list[Any]:
        """A `scan` or `while`, whose steps are edited all alike."""
        slices: list[Any] = []
        if equation.primitive.name == "scan":
            constants, state, slices = program.scan_parts(equation).split(operands)
            candidates = [c for c in candidates if np.ndim(c.value) <= 3]
        else:
            _, constants, state = program.while_parts(equation).split(operands)
        names = (
            ["the constant of the loop"] * len(constants)
            + ["the state before the step"] * len(state)
            + ["the slice of this step"] * len(slices)
        )
        first, last = len(constants), len(constants) + len(state)
        place = place_of(equation)

        def step(inner: Program, given: list[Any]) -> list[Any]:
            carry = given[first:last]
            outer, self.looped = self.looped, True
            given = [*given[:first], *self._carried(key, place, carry), *given[last:]]
            moving = [is_float(v) for v in given]
            results, _ = self.frame(inner, given, moving, (*key, "body"), candidates, names)
            self.looped = outer
            kept = [
                r.astype(c.dtype) if is_float(c) else r
                for r, c in zip(results, carry, strict=False)
            ]
            return [*kept, *results[len(carry) :]]

        made = program.enter(equation, operands, step, asks=run)
        assert made is not None
        return made

    def _carried(self, key: Key, place: Place, carry: Sequence[Any]) -> list[Any]:
        """Carried values, each with a switch that cuts the path through earlier steps."""
        state = Place("the earlier steps of the loop", "", place.line, place.where, 5)
        return [
            self._scale((*key, "carry", k), state, v)[1] if is_float(v) else v
            for k, v in enumerate(carry)
        ]

    def _cond(
        self,
        equation: Equation,
        operands: list[Any],
        active: list[bool],
        key: Key,
        candidates: list[Candidate],
    ) -> list[Any]:
        """A `cond`: the branch that is taken where that is known, else every branch edited."""
        inside = program.branches(equation)
        if self.switches.recording and not self.looped:
            self.board.taken[key] = int(np.clip(int(operands[0]), 0, len(inside) - 1))

        def branch(number: int) -> Callable[..., list[Any]]:
            return lambda *given: self.frame(
                inside[number], list(given), active[1:], (*key, number), candidates
            )[0]

        if key in self.board.taken:
            # outside loops the branch is known, and is part of the program
            return branch(self.board.taken[key])(*operands[1:])
        choices = [branch(number) for number in range(len(inside))]
        return list(jax.lax.switch(operands[0], choices, *operands[1:]))

    def _place(self, equation: Equation) -> Place:
        """Where an operation stands, or where the function that it is part of is called."""
        place = place_of(equation)
        if place.where or self.caller is None:
            return place
        return replace(place, where=self.caller.where, line=self.caller.line)

    def _scale(self, key: Key, place: Place, value: Any) -> tuple[int, Any]:
        """The number of an edge, and a value with its tangent multiplied by the switch."""
        numbers = self.board.edge_numbers
        if key not in numbers:
            numbers[key] = len(self.board.edges)
            self.board.edges.append(Edge([place], self.looped))
        number = numbers[key]
        if self.switches.recording:
            return number, value
        factor = self.switches.scales[number].astype(value.dtype)
        return number, hold(value) + factor * carrier(value)

    def _choose(self, key: Key, place: Place, options: list[Option], values: list[Any]) -> Any:
        """One of several values that the program has, by a switch."""
        numbers = self.board.choice_numbers
        if self.switches.recording:
            if key not in numbers:
                numbers[key] = len(self.board.choices)
                self.board.choices.append(Choice(place, [Option("", ""), *options], None))
            return values[0]
        return jnp.stack([jnp.asarray(v) for v in values])[self.switches.chosen[numbers[key]]]

    def _put(
        self,
        key: Key,
        place: Place,
        value: Any,
        found: Callable[[], tuple[list[Option], list[Any]]],
    ) -> Any:
        """A value, or the array that a switch puts in its place; looked for when recording."""
        numbers = self.board.choice_numbers
        if self.switches.recording and key not in numbers:
            options, values = found()
            if options:
                numbers[key] = len(self.board.choices)
                arrays = [np.asarray(v) for v in [value, *values]]
                self.board.choices.append(Choice(place, [Option("", ""), *options], arrays))
        if key in numbers and numbers[key] in self.switches.arrays:
            moved = self.switches.chosen[numbers[key]] > 0
            return jnp.where(moved, self.switches.arrays[numbers[key]], value)
        return value

    def _stand_in(self, frame: _Frame, key: Key, place: Place, variable: Any, value: Any) -> Any:
        """A variable's value with its tangent, or another for all that is computed from it."""
        if not self.board.small or self.looped or not is_float(value):
            return value

        def found() -> tuple[list[Option], list[Any]]:
            own, factor = frame.plain.get(variable), variable in frame.factors
            return stand_ins(hold(value), own, frame.candidates, factor)

        return self._put((*key, "value"), place, hold(value), found) + carrier(value)


def _plain_values(
    inner: Program, values: Sequence[Any], names: Sequence[str]
) -> dict[Any, Candidate]:
    """Every value of a program, without tangents, by variable."""
    found: dict[Any, Candidate] = {}
    values = [hold(value) for value in values]
    for k, (variable, value) in enumerate(zip(inner.inputs, values, strict=True)):
        if k < len(names) and names[k]:
            found[variable] = Candidate(names[k], value)
        elif not names:
            found[variable] = Candidate("an operand", value)

    def apply(equation: Equation, operands: list[Any]) -> list[Any]:
        results = program.evaluate(equation, operands)
        for variable, result in zip(equation.outvars, results, strict=True):
            if is_array(result):
                place = place_of(equation)
                line = f" in `{place.line[:40]}`" if place.line else ""
                found[variable] = Candidate(f"the result of `{place.name}`{line}", result)
        return results

    program.run(inner, values, apply)
    for variable in inner.outputs:
        if program.is_literal(variable) or variable not in found or variable in inner.inputs:
            continue
        own = found[variable]
        if not names:
            label = "the result"
        elif names[0].startswith("the "):
            label = f"the value after the step ({own.name[4:]})"
        else:
            label = "the output"
        found[variable] = Candidate(label, own.value)
    return found


def _tangents(equation: Equation, linearised: list[Any], k: int, value: Any) -> list[Any]:
    """Zero outputs with the tangents that operand k contributes, linearised at given values."""
    # the value of the switch, with the tangent of the operand
    mover = hold(linearised[k]) + carrier(value).astype(linearised[k].dtype)
    given = [mover if j == k else v for j, v in enumerate(linearised)]
    if equation.primitive.name == "custom_linear_solve":
        # its JVP rule asks for tangents of all operands, be they 0
        nothing = 0.0 * jnp.sum(carrier(value))
        given = [
            v if j == k or not is_float(v) else v + nothing.astype(v.dtype)
            for j, v in enumerate(given)
        ]
    return [carrier(r) if is_float(r) else r for r in program.evaluate(equation, given)]
