"""The backward pass over the steps of a graph, and the nodes and wires it makes for the reader.

In reverse order, every step gets the sum of what arrived at its results and hands a product down to
each operand. That is one `jax.vjp` per step; nothing else differentiates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians.derive.algebra.syntax import Expression, Name, Number
from jacobians.errors import ArgumentError
from jacobians.graph.build import Slot, Step, pull_back
from jacobians.graph.label import operation_text
from jacobians.graph.model import Node
from jacobians.graph.wire import Contribution, Wire
from jacobians.notation.text import text_of
from jacobians.program.view import is_inexact


@dataclass(frozen=True, eq=False)
class Tape:
    """Steps over wires, with where to start backward from.

    Attributes:
        slots: the wires by number.
        steps: the steps in order.
        inputs: numbers of the inputs.
        outputs: numbers of the outputs.
        cotangents: one per output, None where it has no derivative.
        output_names: one per output.
    """

    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    cotangents: tuple[Any, ...]
    output_names: tuple[str, ...]

    def replay(self, changes: Mapping[int, Any]) -> tuple[Any, ...]:
        """The outputs with changes added to wires."""
        made: dict[int, Any] = {}

        def put(number: int, value: Any) -> None:
            made[number] = value + changes[number] if number in changes else value

        for number in self.inputs:
            put(number, self.slots[number].value)
        for number, slot in enumerate(self.slots):
            if slot.known:
                put(number, slot.value)
        for step in self.steps:
            results = step.call(*(made[k] for k in step.operands))
            for number, value in zip(step.results, results, strict=True):
                put(number, value)
        return tuple(made[k] for k in self.outputs)

    def used(self) -> list[Step]:
        """The steps that the outputs depend on."""
        needed = set(self.outputs)
        kept = []
        for step in reversed(self.steps):
            if needed.intersection(step.results):
                needed.update(step.operands)
                kept.append(step)
        return kept[::-1]

    def with_calls_folded(self) -> "Tape":
        """The tape with the operations of each call of a plain function as one step.

        A function that makes up the whole of the graph stays open, and so does one whose
        operations are not one piece.
        """
        runs: list[list[Step]] = []
        for step in self.used():
            key = (step.origin, step.scope)
            if runs and (runs[-1][0].origin, runs[-1][0].scope) == key:
                runs[-1].append(step)
            else:
                runs.append([step])
        tape = self
        for run in runs:
            if run[0].origin is None or len(run) < 2 or len(runs) == 1:
                continue
            # what else reads from inside, though outputs do not need it, is dropped first
            tape = replace(tape, steps=tuple(tape.used()))
            try:
                tape = tape.folded(run[0].origin[0], run, "call")
            except ArgumentError:
                continue
        return tape

    def folded(self, name: str, chosen: Sequence[Step], kind: str = "group") -> "Tape":
        """The tape with some steps as one."""
        inside = [step for step in self.steps if any(step is c for c in chosen)]
        written = {number for step in inside for number in step.results}
        read = dict.fromkeys(k for step in inside for k in step.operands if k not in written)
        outside = [step for step in self.steps if step not in inside]
        read_outside = {k for step in outside for k in step.operands} | set(self.outputs)
        results = tuple(k for step in inside for k in step.results if k in read_outside)
        later = set(written)
        before: list[Step] = []
        after: list[Step] = []
        for step in outside:
            if later.intersection(step.operands):
                later.update(step.results)
                after.append(step)
            else:
                before.append(step)
        blocking = [k for k in read if k in later]
        if blocking:
            raise ArgumentError(
                f"these nodes cannot be one node called {name!r}: a path leaves them and comes "
                "back; include the nodes on that path too"
            )
        operands = tuple(read)

        def call(*values: Any) -> list[Any]:
            made = dict(zip(operands, values, strict=True))
            for step in inside:
                results_of_step = step.call(*(made[k] for k in step.operands))
                made.update(zip(step.results, results_of_step, strict=True))
            return [made[k] for k in results]

        # constants inside are part of the node, not operands of it
        held = {k: self.slots[k].value for k in operands if self.slots[k].known}
        moving = tuple(k for k in operands if k not in held)

        def of_moving(*values: Any) -> list[Any]:
            given = dict(zip(moving, values, strict=True)) | held
            return call(*(given[k] for k in operands))

        step = Step(
            operation=name,
            kind=kind,
            operands=moving,
            results=results,
            call=of_moving,
            scope=inside[0].scope,
        )
        return Tape(
            self.slots,
            (*before, step, *after),
            self.inputs,
            self.outputs,
            self.cotangents,
            self.output_names,
        )


def assemble(tape: Tape) -> tuple[tuple[Node, ...], tuple[Wire, ...]]:
    """Runs the backward pass and makes the graph for the reader.

    Args:
        tape: the steps, and where to start.

    Returns:
        The nodes, each after what it reads, and the wires that are outputs.
    """
    steps = tape.used()
    names = _names(tape, steps)
    contributions: dict[int, list[Contribution]] = {}
    for number, cotangent in zip(tape.outputs, tape.cotangents, strict=True):
        if cotangent is not None and tape.slots[number].active:
            contributions.setdefault(number, []).append(Contribution("cotangent", 0, cotangent))
    downstream: list[tuple[Any, ...]] = []
    for step in reversed(steps):
        parts = _step_back(step, tape, contributions)
        downstream.append(parts)
        for operand, part in enumerate(parts):
            if part is not None:
                contribution = Contribution(names[step.results[0]], operand, part)
                contributions.setdefault(step.operands[operand], []).append(contribution)
    downstream.reverse()
    wires = {number: _wire(number, tape, names, contributions) for number in names}
    nodes = [Node(names[k], "input", "input", "input", (), (wires[k],)) for k in tape.inputs]
    placed = set(tape.inputs)
    for step, parts in zip(steps, downstream, strict=True):
        for k in step.operands:
            if k not in placed and not _is_literal(tape.slots[k]):
                placed.add(k)
                nodes.append(Node(names[k], "constant", "constant", "constant", (), (wires[k],)))
        inputs = tuple(wires[k] for k in step.operands)
        operands = [_operand(tape.slots[k], w) for k, w in zip(step.operands, inputs, strict=True)]
        text = operation_text(step, operands, [np.shape(w.value) for w in inputs])
        results = tuple(wires[k] for k in step.results)
        placed.update(step.results)
        nodes.append(
            Node(results[0].name, step.operation, step.kind, text, inputs, results, parts, step)
        )
    for k in tape.outputs:
        if k not in placed:
            placed.add(k)
            nodes.append(Node(names[k], "constant", "constant", "constant", (), (wires[k],)))
    return tuple(nodes), tuple(wires[k] for k in tape.outputs)


def _step_back(
    step: Step, tape: Tape, contributions: Mapping[int, list[Contribution]]
) -> tuple[Any, ...]:
    """What one node hands down to each of its operands."""
    slots = [tape.slots[k] for k in step.operands]
    active = [k for k, slot in enumerate(slots) if slot.active]
    if not active or not any(is_inexact(tape.slots[k].value.dtype) for k in step.results):
        return (None,) * len(slots)
    upstream = [_total(contributions.get(k, ())) for k in step.results]
    if all(u is None for u in upstream):
        return tuple(
            jnp.zeros_like(slot.value) if k in active else None for k, slot in enumerate(slots)
        )
    pulled = pull_back(step.call, [slot.value for slot in slots], active, upstream)
    parts: list[Any] = [None] * len(slots)
    for k, part in zip(active, pulled, strict=True):
        parts[k] = part
    return tuple(parts)


def _total(contributions: Sequence[Contribution]) -> Any:
    """The sum where branches meet; None where nothing arrives."""
    if not contributions:
        return None
    total = contributions[0].value
    for contribution in contributions[1:]:
        total = total + contribution.value
    return total


def _wire(
    number: int,
    tape: Tape,
    names: Mapping[int, str],
    contributions: Mapping[int, list[Contribution]],
) -> Wire:
    slot = tape.slots[number]
    mine = tuple(contributions.get(number, ()))
    gradient = _total(mine)
    if gradient is None and slot.active:
        gradient = jnp.zeros_like(slot.value)
    return Wire(number, names[number], slot.value, gradient, slot.known, mine)


def _is_literal(slot: Slot) -> bool:
    """Whether a wire is a number that is written where it is used."""
    if not slot.known or not hasattr(slot.value, "dtype"):
        return False
    if not jnp.issubdtype(slot.value.dtype, jnp.number) and slot.value.dtype != jnp.bool_:
        return False
    array = np.asarray(slot.value)
    return (array.size > 0 and bool((array == array.flat[0]).all())) or array.size == 1


def _number(slot: Slot) -> Number:
    """The number that a literal is, every entry of it."""
    return Number(np.asarray(slot.value).flat[0].item())


def _operand(slot: Slot, wire: Wire) -> Expression:
    """How a wire is written in the operations that read it: its name, or its number."""
    return _number(slot) if slot.name is None and _is_literal(slot) else Name(wire.name)


def _names(tape: Tape, steps: Sequence[Step]) -> dict[int, str]:
    """A name for every wire in use: given ones first, then outputs, then v1, v2 and so on."""
    order = [*tape.inputs]
    for step in steps:
        order += [*step.operands, *step.results]
    order = list(dict.fromkeys([*order, *tape.outputs]))
    names: dict[int, str] = {}
    taken: set[str] = set()

    def give(number: int, name: str) -> None:
        chosen, k = name, 2
        while chosen in taken:
            chosen, k = f"{name}#{k}", k + 1
        taken.add(chosen)
        names[number] = chosen

    for number in order:
        slot = tape.slots[number]
        if slot.name is not None:
            give(number, slot.name)
        elif _is_literal(slot):
            names[number] = text_of(_number(slot))
    for number, name in zip(tape.outputs, tape.output_names, strict=True):
        if number not in names:
            give(number, name)
    counts = {"v": 0, "c": 0}
    for number in order:
        if number not in names:
            letter = "c" if tape.slots[number].known else "v"
            counts[letter] += 1
            while f"{letter}{counts[letter]}" in taken:
                counts[letter] += 1
            give(number, f"{letter}{counts[letter]}")
    return names
