"""Running the equations of a program, and entering the calls and loops among them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jacobians.program.primitives import Does, does
from jacobians.program.view import (
    Equation,
    Program,
    called_program,
    dtype_of,
    is_literal,
    literal_value,
    shape_of,
    trace,
    while_parts,
)


def _loop_again(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """A `while` equation at values of its operands, by `jax.lax.while_loop`."""
    condition, condition_constants, body, body_constants = while_parts(equation)
    first = condition_constants + body_constants
    for_condition, for_body = values[:condition_constants], values[condition_constants:first]

    def call(inner: Program, held: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        return run(inner, [value for _, value in inner.constants], [*held, *state])

    return list(
        jax.lax.while_loop(
            lambda state: call(condition, for_condition, list(state))[0],
            lambda state: call(body, for_body, list(state)),
            list(values[first:]),
        )
    )


def run(inner: Program, constants: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Evaluates a program, its custom derivative rules in place.

    Args:
        inner: the program.
        constants: one array per constant of the program.
        values: one array per input.

    Returns:
        One array per output.
    """
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    variables = [variable for variable, _ in inner.constants]
    environment.update(zip(variables, constants, strict=True))
    run_equations(inner.equations, environment)
    return [read(atom, environment) for atom in inner.outputs]


def run_equations(equations: Sequence[Equation], environment: dict[Any, Any]) -> None:
    """Evaluates equations in order; `environment` holds values by variable and receives them."""
    for equation in equations:
        results = evaluate(equation, [read(atom, environment) for atom in equation.invars])
        environment.update(zip(equation.outvars, results, strict=True))


def run_entered(inner: Program, constants: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The same as `run`, operation by operation where `jax.jit` has been called inside."""
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    variables = [variable for variable, _ in inner.constants]
    environment.update(zip(variables, constants, strict=True))
    for equation in inner.equations:
        operands = [read(atom, environment) for atom in equation.invars]
        called = called_program(equation) if does(equation.primitive.name, Does.CALL) else None
        if called is None:
            results = evaluate(equation, operands)
        else:
            results = run_entered(called, [value for _, value in called.constants], operands)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom, environment) for atom in inner.outputs]


def read(atom: Any, environment: Mapping[Any, Any]) -> Any:
    """The value of an operand: a literal's own, or a variable's in the environment."""
    return literal_value(atom) if is_literal(atom) else environment[atom]


def as_one_call(inner: Program) -> Program:
    """The same program with everything it does inside one call, which is evaluated as a whole."""
    constants = [value for _, value in inner.constants]

    def whole(*values: Any) -> tuple[Any, ...]:
        return tuple(run(inner, constants, values))

    shapes = [jax.ShapeDtypeStruct(shape_of(v), dtype_of(v)) for v in inner.inputs]
    return trace(jax.jit(whole), shapes)


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
        result = _loop_again(equation, values)
    return list(result) if primitive.multiple_results else [result]


def as_function(equation: Equation) -> Callable[..., list[Any]]:
    """The equation as a function of its operands, for `jax.jvp` and `jax.vjp`."""

    def call(*values: Any) -> list[Any]:
        return evaluate(equation, values)

    return call
