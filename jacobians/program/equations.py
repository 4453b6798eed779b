"""The one loop over a program's equations, and the one way into the calls and loops among them.

Whatever walks a program is `run` with an `apply` of its own, which says what becomes of one
equation: evaluation, stripping, widening, the steps of a graph. `enter` runs the programs inside a
call, `scan`, `while` or `cond` by a runner that is given.

    run(inner, [x])                                       # its values
    run(inner, [x], lambda equation, values: ...)         # what else its values may be
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jacobians.program.primitives import Does, does
from jacobians.program.view import (
    Equation,
    Program,
    branches,
    called_program,
    dtype_of,
    is_literal,
    literal_value,
    scan_parts,
    shape_of,
    trace,
    while_parts,
)

# from an equation and what its operands are to what its results are
Apply = Callable[[Equation, list[Any]], Sequence[Any]]
# from a program and what its inputs are to what its outputs are
Runner = Callable[[Program, list[Any]], Sequence[Any]]


def evaluate(
    equation: Equation, values: Sequence[Any], changed: Mapping[str, Any] | None = None
) -> list[Any]:
    """Evaluates one equation at values of its operands.

    Args:
        equation: an equation of a program.
        values: one array per operand.
        changed: parameters to put in place of the equation's own.

    Returns:
        One array per result.
    """
    primitive = equation.primitive
    params = {**equation.params, **(changed or {})}
    try:
        result = primitive.bind(*values, **primitive.get_bind_params(params))
    except TypeError:
        if primitive.name != "while":
            raise
        # JAX 0.10 cannot differentiate a loop again once a transformation has dropped the names
        # in its debug information: the loop is then built anew
        result = _while(equation, list(values), run, run)
    return list(result) if primitive.multiple_results else [result]


def itself(array: Any) -> Any:
    """An array as it is."""
    return array


def run(
    inner: Program,
    values: Sequence[Any],
    apply: Apply = evaluate,
    held: Callable[[Any], Any] = itself,
    constants: Sequence[Any] | None = None,
) -> list[Any]:
    """Runs a program: by default it is evaluated, its custom derivative rules in place.

    Args:
        inner: the program.
        values: what its inputs are, in whatever kind of value `apply` takes.
        apply: what becomes of one equation.
        held: makes such a value of an array that the program holds, a constant or a literal.
        constants: what its constants are, where they are not made of its own.

    Returns:
        What its outputs are.
    """
    if constants is None:
        constants = [held(array) for _, array in inner.constants]
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    variables = [variable for variable, _ in inner.constants]
    environment.update(zip(variables, constants, strict=True))
    run_equations(inner.equations, environment, apply, held)
    return [read(atom, environment, held) for atom in inner.outputs]


def run_equations(
    equations: Sequence[Equation],
    environment: dict[Any, Any],
    apply: Apply = evaluate,
    held: Callable[[Any], Any] = itself,
) -> None:
    """Runs equations in order; `environment` holds values by variable and receives them."""
    for equation in equations:
        results = apply(equation, [read(atom, environment, held) for atom in equation.invars])
        environment.update(zip(equation.outvars, results, strict=True))


def read(atom: Any, environment: Mapping[Any, Any], held: Callable[[Any], Any] = itself) -> Any:
    """What an operand is: made of a literal's value, or a variable's in the environment."""
    return held(literal_value(atom)) if is_literal(atom) else environment[atom]


def run_entered(
    inner: Program, values: Sequence[Any], constants: Sequence[Any] | None = None
) -> list[Any]:
    """Evaluates a program, operation by operation where `jax.jit` has been called inside."""

    def apply(equation: Equation, operands: list[Any]) -> list[Any]:
        called = called_program(equation) if does(equation.primitive.name, Does.CALL) else None
        return evaluate(equation, operands) if called is None else run_entered(called, operands)

    return run(inner, values, apply, constants=constants)


def enter(
    equation: Equation, values: list[Any], runner: Runner, asks: Runner | None = None
) -> list[Any] | None:
    """Runs a call, `scan`, `while` or `cond` with the programs inside it run by a given runner.

    Args:
        equation: an equation of a program.
        values: one array per operand.
        runner: evaluates a program inside at values of its inputs.
        asks: evaluates the condition of a `while`, where `runner` does not.

    Returns:
        One array per result; None for an equation of any other operation.
    """
    called = called_program(equation)
    if called is not None:
        return list(runner(called, values))
    if equation.primitive.name == "scan":
        return _scan(equation, values, runner)
    if equation.primitive.name == "while":
        return _while(equation, values, runner, asks or runner)
    if equation.primitive.name == "cond":
        return _cond(equation, values, runner)
    return None


def _scan(equation: Equation, values: list[Any], runner: Runner) -> list[Any]:
    """A `scan` whose step is run by a runner."""
    parts = scan_parts(equation)
    constants, start, slices = parts.split(values)

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = list(runner(parts.body, [*constants, *carry, *slices]))
        return results[: parts.carries], results[parts.carries :]

    carry, stacked = jax.lax.scan(step, start, slices, length=parts.length, reverse=parts.reverse)
    return [*carry, *stacked]


def _while(equation: Equation, values: list[Any], runner: Runner, asks: Runner) -> list[Any]:
    """A `while` whose body and condition are each run by a runner."""
    parts = while_parts(equation)
    for_condition, for_body, start = parts.split(values)
    return list(
        jax.lax.while_loop(
            lambda state: asks(parts.condition, [*for_condition, *state])[0],
            lambda state: list(runner(parts.body, [*for_body, *state])),
            start,
        )
    )


def _cond(equation: Equation, values: list[Any], runner: Runner) -> list[Any]:
    """A `cond` whose branches are run by a runner."""

    def branch(inner: Program) -> Callable[..., list[Any]]:
        return lambda *given: list(runner(inner, list(given)))

    choices = [branch(inner) for inner in branches(equation)]
    return list(jax.lax.switch(values[0], choices, *values[1:]))


def as_one_call(inner: Program) -> Program:
    """The same program with everything it does inside one call, which is evaluated as a whole."""
    shapes = [jax.ShapeDtypeStruct(shape_of(v), dtype_of(v)) for v in inner.inputs]
    return trace(jax.jit(lambda *values: tuple(run(inner, values))), shapes)


def as_function(equation: Equation) -> Callable[..., list[Any]]:
    """The equation as a function of its operands, for `jax.jvp` and `jax.vjp`."""

    def call(*values: Any) -> list[Any]:
        return evaluate(equation, values)

    return call
