"""One step of a loop, walked on a tape of its own: its pattern, and the zeros that last.

What a program inside an operation says of its operands: which of them each result reads, how each
result's entries depend on theirs, and where a carried value is 0 at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.block import (
    identity,
    union,
)
from jacobians.derive.closure import Matrix
from jacobians.derive.facts.certain import is_wild, may_be_anything, zeros
from jacobians.derive.operation import Local
from jacobians.derive.tape import Node
from jacobians.derive.walk import Walk
from jacobians.program.view import Program

Mask = NDArray[np.bool_]

# how often a loop's body is looked at for zeros that last
LASTING_ROUNDS = 4


def run_function(walk: Walk, f: Callable[..., Any], operands: Sequence[int]) -> list[int]:
    """Walks a function of arrays that is not in the program; the tape numbers of its results."""
    values = [walk.tape.values[k] for k in operands]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
    return walk.run(program.trace(f, shapes), operands)


def inputs_read(outer: Walk, inner: Program) -> list[frozenset[int]]:
    """For every output of a program the positions of the inputs that its value depends on."""
    walk = type(outer)(outer.inside)
    numbers = [walk.input(program.shape_of(v), program.dtype_of(v)) for v in inner.inputs]
    position = {number: k for k, number in enumerate(numbers)}
    results = walk.run(inner, numbers)
    return [
        frozenset(position[n] for n in walk.tape.values[r].depends if n in position)
        for r in results
    ]


def _inputs_of_step(
    walk: Walk,
    inner: Walk,
    body: Program,
    given: Sequence[int],
    constants: int,
    nothing: Sequence[Mask | None],
) -> list[int]:
    """The inputs of one step on a tape of its own, with what is the same at every step."""
    numbers = []
    for k, variable in enumerate(body.inputs):
        shape, dtype = program.shape_of(variable), program.dtype_of(variable)
        # what is the same at every step and known outside is known inside
        fixed = walk.tape.known(given[k]) if k < constants else None
        if fixed is None:
            number = inner.input(shape, dtype)
        else:
            number = inner.constant(fixed, walk.tape.radius(given[k]))
        numbers.append(number)
        zero = zeros(walk.tape, given[k]) if k < constants and fixed is None else None
        if constants <= k < constants + len(nothing):
            zero = nothing[k - constants]
        if zero is not None:
            inner.tape.nothing[number] = zero
    return numbers


def lasting_zeros(
    walk: Walk,
    body: Program,
    given: Sequence[int],
    constants: int,
    carries: int,
    slices: Sequence[Mask | None] = (),
) -> list[Mask | None]:
    """Where each result of a step is 0 at every step, the carries at the start too.

    The greatest set of zeros of the carries that a step leaves zero, from those at the start on.
    """
    found = [zeros(walk.tape, k) for k in given[constants : constants + carries]]
    if all(mask is None for mask in (*found, *slices)):
        return [None] * len(body.outputs)
    for _ in range(LASTING_ROUNDS):
        inner = type(walk)(walk.inside, linearising=walk.linearising)
        numbers = _inputs_of_step(walk, inner, body, given, constants, [*found, *slices])
        results = [zeros(inner.tape, k) for k in inner.run(body, numbers)]
        kept = [_zero_in_both(a, b) for a, b in zip(found, results[:carries], strict=True)]
        same = all(
            (a is None) == (b is None) and (a is None or b is None or bool((a == b).all()))
            for a, b in zip(found, kept, strict=True)
        )
        found = kept
        if same:
            return [*found, *results[carries:]]
    return [None] * len(body.outputs)


def remember_zeros(walk: Walk, results: Sequence[int], masks: Sequence[Mask | None]) -> None:
    """Notes where results of a loop are 0; what each step gives is stacked."""
    for number, mask in zip(results, masks, strict=True):
        if mask is not None:
            walk.tape.nothing[number] = np.broadcast_to(mask, walk.shape(number))


def zero_in_every_slice(zero: Mask | None) -> Mask | None:
    """Where all slices along the first axis are zero, or None for nowhere."""
    if zero is None or not zero.all(axis=0).any():
        return None
    return np.asarray(zero.all(axis=0))


def _zero_in_both(a: Mask | None, b: Mask | None) -> Mask | None:
    """Where both are zero, or None for nowhere."""
    if a is None or b is None or not (a & b).any():
        return None
    return np.asarray(a & b)


class Step:
    """The blocks of one step of a loop, by (output, input), as patterns."""

    def __init__(
        self,
        walk: Walk,
        body: Program,
        given: Sequence[int],
        constants: int,
        nothing: Sequence[Mask | None] = (),
    ) -> None:
        """Walks the body once.

        Args:
            walk: the walk around it.
            body: the program of one step.
            given: tape numbers of its operands outside, the constants first.
            constants: number of operands that are the same at every step.
            nothing: where the operands after the constants are certainly 0, if known.
        """
        inner = type(walk)(walk.inside, linearising=walk.linearising, notes=walk.notes)
        inner.tape.cutting = walk.tape.cutting
        numbers = _inputs_of_step(walk, inner, body, given, constants, nothing)
        for number in numbers:
            if inner.tape.values[number].source == "input" and inner.has_derivative(number):
                inner.blocks[number] = {number: (identity(inner.shape(number)),)}
        results = inner.run(body, numbers)
        position = {number: k for k, number in enumerate(numbers)}
        # whether it makes an infinity or NaN of its own constants, in a value or a derivative
        self.wild = any(is_wild(inner.tape, number) for number in results)
        self.blocks: Matrix = {}
        self._depends: frozenset[int] = frozenset()
        for i, number in enumerate(results):
            for source, terms in inner.blocks.get(number, {}).items():
                plain = []
                for t in terms:
                    self._depends |= t.coefficient.depends
                    plain.append(replace(t, coefficient=coefficients.OPAQUE))
                self.blocks[i, position[source]] = union(plain)

    def tell(self, walk: Walk, node: Node) -> None:
        """Lets it be known of a loop's results that they may be anything, where that is so."""
        if self.wild:
            may_be_anything(walk.tape, node.outputs)

    def shifted(self, columns: int) -> Matrix:
        """The blocks with input positions counted from `columns`."""
        return {(i, j - columns): terms for (i, j), terms in self.blocks.items()}

    def depends(self, walk: Walk, operands: Sequence[int]) -> frozenset[int]:
        """The outer inputs that coefficients may depend on: none when each step is linear."""
        if not self._depends:
            return frozenset()
        return frozenset[int]().union(*(walk.tape.values[k].depends for k in operands))


def locals_of(matrix: Matrix, depends: frozenset[int]) -> list[Local]:
    """The blocks of an operation as local terms, all with an unknown coefficient."""
    coefficient = coefficients.opaque(depends)
    return [
        Local(i, j, replace(t, coefficient=coefficient))
        for (i, j), terms in matrix.items()
        for t in terms
    ]


def differentiable(walk: Walk, numbers: Sequence[int]) -> list[int]:
    """Positions, among some values, of those that carry derivatives."""
    return [k for k, number in enumerate(numbers) if walk.has_derivative(number)]
