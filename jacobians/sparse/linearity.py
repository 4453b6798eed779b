"""Whether a program is certainly linear in some of its inputs.

JAX takes a custom derivative rule at its word. A rule that clips or takes the sign of a gradient is
no linear map, and then the rows of `jax.jacobian` are the rule applied to unit vectors one by one:
nothing may be computed together or read off coefficients. Only operations that
`program.primitives` calls linear count as such; anything else that a direction reaches makes the
answer no.

    is_linear(program, range(2, 3))
    # True
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.program.primitives import Does, does, primitive
from jacobians.program.view import Program
from jacobians.sparse.linear import is_concrete

# what a value is: it does not move, it is 0 everywhere, or it is linear in the directions
STILL, ZERO, MOVING = "still", "zero", "moving"


class _NotLinear(Exception):
    """Raised inside this module only."""


def is_linear(inner: Program, directions: Iterable[int]) -> bool:
    """Whether the outputs that move are certainly linear in some inputs.

    Args:
        inner: the program.
        directions: positions of the inputs that move; the others stand still.

    Returns:
        True when that is certain.
    """
    moving = set(directions)
    marks = [MOVING if k in moving else STILL for k in range(len(inner.inputs))]
    try:
        _outputs(inner, marks)
    except _NotLinear:
        return False
    return True


def _outputs(inner: Program, marks: Sequence[str]) -> list[str]:
    """The marks of a program's outputs for those of its inputs."""
    return program.run(inner, marks, _equation, held=_of_array)


def _of_array(value: Any) -> str:
    """The mark of a constant."""
    if not isinstance(value, (float, int)) and not is_concrete(value):
        return STILL
    return ZERO if not np.any(np.asarray(value)) else STILL


def _equation(equation: Any, marks: list[str]) -> list[str]:
    """The marks of an equation's results from those of its operands: x·c moves where x does.

    Raises:
        _NotLinear: they are not certainly linear in what moves: x·x, or sin x.
    """
    name = equation.primitive.name
    count = len(equation.outvars)
    called = program.called_program(equation)
    if called is not None:
        return _outputs(called, marks)
    if MOVING not in marks:
        return [ZERO if _is_zero(name, marks) else STILL] * count
    if name == "scan":
        return _scan(program.scan_parts(equation), marks)
    if name == "while":
        return _while(program.while_parts(equation), marks)
    if name == "cond":
        _require(marks[0] != MOVING)
        made = [_outputs(choice, marks[1:]) for choice in program.branches(equation)]
        return [_joined(column) for column in zip(*made, strict=True)]
    if name == "select_n":
        _require(marks[0] != MOVING)
        return [_joined(marks[1:])]
    if does(name, Does.PRODUCT):
        _require(marks.count(MOVING) == 1 and len(marks) == 2)
    elif does(name, Does.LINEAR):
        _require(_joined(marks) == MOVING and _stays_inexact(equation))
    elif positions := primitive(name).linear_in:
        own = [marks[k] for k in positions if k < len(marks)]
        rest = [mark for k, mark in enumerate(marks) if k not in positions]
        _require(_joined(own) == MOVING and MOVING not in rest)
    elif name == "custom_linear_solve":
        _, _, constants = program.linear_solve_parts(equation)
        _require(MOVING not in marks[:constants] and _joined(marks[constants:]) == MOVING)
    else:
        raise _NotLinear
    return [MOVING] * count


def _is_zero(name: str, marks: Sequence[str]) -> bool:
    """Whether an operation that no direction reaches gives 0 wherever its operands are finite."""
    if does(name, Does.PRODUCT):
        return ZERO in marks
    if does(name, Does.LINEAR):
        return all(mark == ZERO for mark in marks)
    return (name == "div" and marks[0] == ZERO) or (
        name == "select_n" and all(mark == ZERO for mark in marks[1:])
    )


def _stays_inexact(equation: Any) -> bool:
    return all(
        jnp.issubdtype(program.dtype_of(variable), jnp.inexact) for variable in equation.outvars
    )


def _require(condition: bool) -> None:
    if not condition:
        raise _NotLinear


def _joined(marks: Sequence[str]) -> str:
    """The mark of values added or chosen among: what stands still must be 0 beside what moves."""
    if MOVING in marks:
        _require(STILL not in marks)
        return MOVING
    return ZERO if all(mark == ZERO for mark in marks) else STILL


def _scan(parts: program.ScanParts, marks: list[str]) -> list[str]:
    carry, made = _closed(parts.body, *parts.split(marks))
    return [*carry, *made[parts.carries :]]


def _while(parts: program.WhileParts, marks: list[str]) -> list[str]:
    for_condition, for_body, start = parts.split(marks)
    carry, _ = _closed(parts.body, for_body, start, [])
    _require(_outputs(parts.condition, [*for_condition, *carry])[0] != MOVING)
    return carry


def _closed(
    body: Program, constants: list[str], carry: list[str], slices: list[str]
) -> tuple[list[str], list[str]]:
    """The marks of a loop's carry that stay the same from step to step."""
    while True:
        made = _outputs(body, [*constants, *carry, *slices])
        new = [_joined(pair) for pair in zip(carry, made[: len(carry)], strict=True)]
        if new == carry:
            return carry, made
        carry = new
