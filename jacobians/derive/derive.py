"""The derivation of a program: every output's block with respect to every input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jacobians import program
from jacobians.derive.algebra.block import Terms, identity
from jacobians.derive.inside.handlers import INSIDE
from jacobians.derive.tape import Tape
from jacobians.derive.undefined import add_undefined, without_empty
from jacobians.derive.walk import Walk
from jacobians.program.view import Program


@dataclass(frozen=True, eq=False)
class Derivation:
    """What a walk found.

    Attributes:
        tape: every value that coefficients refer to.
        inputs: numbers of the program's inputs on the tape.
        outputs: numbers of its outputs.
        blocks: terms by (output position, input position); zero blocks are absent.
        notes: sentences about operations that were treated more widely than they are.
        custom: names of the custom derivative rules that were passed by.
    """

    tape: Tape
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: Mapping[tuple[int, int], Terms]
    notes: tuple[str, ...]
    custom: tuple[str, ...] = ()


def derive(
    inner: Program, differentiable: Sequence[bool] | None = None, names: Sequence[str] = ()
) -> Derivation:
    """Derives the Jacobian blocks of a program.

    Args:
        inner: the program.
        differentiable: which of its inputs to differentiate with respect to; by default all that
            have a floating-point type.
        names: names of the inputs, for formulas.

    Returns:
        The blocks, and the tape that their coefficients refer to.
    """
    walk = Walk(INSIDE)
    inputs, outputs = _walked(walk, inner, differentiable, names)
    add_undefined(walk, outputs, lambda other: _walked(other, inner, differentiable, names)[1])
    blocks = {}
    for o, number in enumerate(outputs):
        if not walk.has_derivative(number):
            continue
        for i, source in enumerate(inputs):
            terms = without_empty(walk.blocks.get(number, {}).get(source, ()))
            if terms:
                blocks[o, i] = terms
    return Derivation(
        walk.tape, tuple(inputs), tuple(outputs), blocks, tuple(walk.notes), tuple(walk.custom)
    )


def _walked(
    walk: Walk, inner: Program, differentiable: Sequence[bool] | None, names: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Walks a program from fresh inputs; the tape numbers of its inputs and of its outputs."""
    inputs = []
    for position, variable in enumerate(inner.inputs):
        shape, dtype = program.shape_of(variable), program.dtype_of(variable)
        number = walk.input(shape, dtype)
        walk.tape.finite.add(number)
        inputs.append(number)
        if position < len(names):
            walk.tape.names[number] = names[position]
        chosen = differentiable is None or differentiable[position]
        if chosen and walk.has_derivative(number):
            walk.blocks[number] = {number: (identity(shape),)}
    return inputs, walk.run(inner, inputs)
