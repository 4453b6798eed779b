"""A program evaluated in float64 whatever precision it was written for.

A model that converts to bfloat16 is tied to it, and in bfloat16 a derivative that is 20 % off is
hard to tell from rounding. `run_wide` evaluates the equations of such a program with every float
in float64: conversions between float types do nothing, and numbers written in the program keep the
value that they were rounded to. It is the same mathematics without the rounding.

    traced = trace(lambda x: (x.astype(jnp.bfloat16) * 3,), [jnp.ones(3)])
    with jax.enable_x64(True):
        run_wide(traced, [np.ones(3)])[0].dtype
    # dtype('float64')
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.errors import JacobiansError
from jacobians.program.primitives import Does, does
from jacobians.program.view import Equation, Program

# the update of these is a program of its own, written for one type
SCATTERS: dict[str, Callable[..., Any]] = {
    "scatter-add": jax.lax.scatter_add,
    "scatter_add": jax.lax.scatter_add,
    "scatter-mul": jax.lax.scatter_mul,
    "scatter_mul": jax.lax.scatter_mul,
    "scatter-min": jax.lax.scatter_min,
    "scatter_min": jax.lax.scatter_min,
    "scatter-max": jax.lax.scatter_max,
    "scatter_max": jax.lax.scatter_max,
    "scatter": jax.lax.scatter,
}


class TiedToPrecisionError(JacobiansError):
    """A program has an operation that cannot be evaluated in another precision."""


def run_wide(inner: Program, values: Sequence[Any]) -> list[Any]:
    """Evaluates a program with every float in float64; custom rules are left out.

    Args:
        inner: a program.
        values: one array per input; floats of any precision.

    Returns:
        One array per output, floats in float64. Call it where JAX has 64-bit types enabled.

    Raises:
        TiedToPrecisionError: an operation is tied to its precision; the message names it.
    """
    return program.run(
        inner,
        [widest(value) for value in values],
        lambda equation, given: [widest(result) for result in _evaluate(equation, given)],
        held=widest,
    )


def wide_rule(
    equation: Equation, operands: Sequence[int], results: Sequence[int]
) -> Callable[..., Any]:
    """A custom rule as a function of float64 operands, made of its program and its derivative's.

    Args:
        equation: a call of a `custom_vjp` or `custom_jvp` function.
        operands: positions of the float operands that it is differentiated by.
        results: positions of the float results that it is differentiated for.

    Returns:
        A `jax.custom_vjp` function of the equation's operands. What it returns and pulls back is
        what the rule does, evaluated in float64 whatever types it was traced for.

    Raises:
        TiedToPrecisionError: when called, where an operation is tied to its precision.
        Exception: what the rule's backward pass raises.
    """
    primal = program.called_program(equation)
    assert primal is not None
    by_rule = derivative_program(equation, operands, results)

    def pack(outputs: Sequence[Any]) -> Any:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @jax.custom_vjp
    def rule(*values: Any) -> Any:
        return pack(run_wide(primal, values))

    def forward(*values: Any) -> tuple[Any, Any]:
        outputs = run_wide(by_rule, [*values, *_zeros(equation, results)])
        return pack(outputs[: len(equation.outvars)]), values

    def backward(values: Any, cotangent: Any) -> tuple[Any, ...]:
        given = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        outputs = run_wide(by_rule, [*values, *(given[k] for k in results)])
        pulled = dict(zip(operands, outputs[len(equation.outvars) :], strict=True))
        return tuple(pulled.get(k) for k in range(len(values)))

    rule.defvjp(forward, backward)
    return rule


def derivative_program(
    equation: Equation, operands: Sequence[int], results: Sequence[int]
) -> Program:
    """The program of a rule's forward and backward pass.

    Its inputs are the operands and the cotangents of the results at `results`, its outputs the
    results and the cotangents of the operands at `operands`.
    """
    count = len(equation.invars)

    def both(*given: Any) -> tuple[Any, ...]:
        values, cotangents = list(given[:count]), given[count:]

        def of_floats(*moved: Any) -> tuple[list[Any], list[Any]]:
            for k, value in zip(operands, moved, strict=True):
                values[k] = value
            outputs = program.evaluate(equation, values)
            return [outputs[k] for k in results], outputs

        _, pull, outputs = jax.vjp(of_floats, *(values[k] for k in operands), has_aux=True)
        return (*outputs, *pull(list(cotangents)))

    variables = [*equation.invars, *(equation.outvars[k] for k in results)]
    shapes = [
        jax.ShapeDtypeStruct(program.shape_of(v), program.dtype_of(v), weak_type=v.aval.weak_type)
        for v in variables
    ]
    return program.trace(both, shapes)


def coarsest(inner: Program) -> float:
    """The largest unit roundoff among the real floats of a program."""
    variables = [
        *(variable for one in program.nested_programs(inner) for variable in one.inputs),
        *(variable for equation in program.nested(inner) for variable in equation.outvars),
    ]
    dtypes = {program.dtype_of(v) for v in variables}
    return max((float(jnp.finfo(d).eps) for d in dtypes if _is_float(d)), default=0.0)


def _zeros(equation: Equation, positions: Sequence[int]) -> list[Any]:
    return [jnp.zeros(program.shape_of(equation.outvars[k]), jnp.float64) for k in positions]


def widest(value: Any) -> Any:
    """A real float array in float64, anything else as it is."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.float64:
        return value
    return jnp.asarray(value).astype(jnp.float64)


def _evaluate(equation: Equation, values: list[Any]) -> list[Any]:
    """The results of an equation whose operands' floats are in float64."""
    entered = program.enter(equation, values, run_wide)
    if entered is not None:
        return entered
    name = equation.primitive.name
    if name == "reduce_precision":
        return values
    params = program.parameters(equation)
    if name in SCATTERS:
        kept = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        return [SCATTERS[name](*values, **{key: params[key] for key in kept})]
    moves = any(_is_float(program.dtype_of(v)) for v in equation.invars)
    if (does(name, Does.TIED) and moves) or program.inner_programs(equation):
        raise TiedToPrecisionError(f"the operation {name} is tied to its precision")
    wide = {key: np.dtype(np.float64) for key, value in params.items() if _is_float_type(value)}
    return program.evaluate(equation, values, wide)


def _is_float(dtype: Any) -> bool:
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))


def _is_float_type(value: Any) -> bool:
    return isinstance(value, (np.dtype, type)) and _is_float(value)
