"""A function without its custom derivative rules.

JAX differentiates a `custom_jvp` or `custom_vjp` function by its rule and never looks at the
program. The truth that a rule is measured against is the derivative of the program itself, so
`strip_custom_rules` interprets it: every rule, at any depth, is replaced by what it wraps.

    >>> plain = strip_custom_rules(model)      # same values; jax.jacfwd sees the program
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.program.view import Program

# operations with programs inside that `run` rebuilds
ENTERED = ("scan", "while", "cond")
# operations that stand for the program inside them with something else said about it
REPLACED = frozenset(program.CUSTOM_RULES | {"custom_vmap_call"})


def strip_custom_rules(f: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every custom rule replaced by the program that it wraps.

    Args:
        f: a JAX function of arrays and pytrees of them.

    Returns:
        A function of the same arguments and results. It traces `f` at every call, and may be
        transformed by `jax.jvp`, `jax.vjp`, `jax.vmap` and `jax.jit`.
    """

    def stripped(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        out_tree: list[Any] = []

        def flat(*values: Any) -> Any:
            result = f(*jax.tree.unflatten(tree, values))
            out_leaves, structure = jax.tree.flatten(result)
            out_tree.append(structure)
            return tuple(out_leaves)

        shapes = [jax.ShapeDtypeStruct(jnp.shape(x), program.value_dtype(x)) for x in leaves]
        traced = program.trace(flat, shapes)
        return jax.tree.unflatten(out_tree[-1], run(traced, leaves))

    return stripped


def has_custom_rules(inner: Program) -> bool:
    """Whether a custom rule is called anywhere inside a program."""
    return program.contains(inner, frozenset(program.CUSTOM_RULES))


def kept_rules(inner: Program) -> tuple[str, ...]:
    """Operations with a custom rule inside that stripping cannot enter, by name."""
    found: dict[str, None] = {}
    for equation in inner.equations:
        name = str(equation.primitive.name)
        programs = program.inner_programs(equation)
        enters = name in ENTERED or program.called_program(equation) is not None
        if not enters and any(map(has_custom_rules, programs)):
            found.setdefault(name)
        for one in programs:
            found.update(dict.fromkeys(kept_rules(one)))
    return tuple(found)


After = Callable[[list[Any]], list[Any]]


def run(inner: Program, values: Sequence[Any], after: After | None = None) -> list[Any]:
    """Evaluates a program at values, entering custom rules' programs instead of the rules.

    Args:
        inner: the program.
        values: one value per input.
        after: applied to the results of every operation, to rounding errors of one's own say;
            with it, every program inside is entered that can be.

    Returns:
        One value per output.
    """
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    environment.update(inner.constants)

    def read(atom: Any) -> Any:
        return program.literal_value(atom) if program.is_literal(atom) else environment[atom]

    for equation in inner.equations:
        results = _evaluate(equation, [read(atom) for atom in equation.invars], after)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in inner.outputs]


def _evaluate(equation: Any, values: list[Any], after: After | None) -> list[Any]:
    own_rule = equation.primitive.name in REPLACED
    inside = program.inner_programs(equation)
    entered = inside if after else [p for p in inside if program.contains(p, REPLACED)]
    if not own_rule and not entered:
        results = program.evaluate(equation, values)
        return after(results) if after else results
    called = program.called_program(equation)
    if called is not None:
        return run(called, values, after)
    name = equation.primitive.name
    if name == "scan":
        return _scan(program.scan_parts(equation), values, after)
    if name == "while":
        return _while(equation, values, after)
    if name == "cond":
        choices = [_as_branch(p, after) for p in program.branches(equation)]
        return list(jax.lax.switch(values[0], choices, *values[1:]))
    # a rule inside an operation that cannot be rebuilt from outside keeps its rule: `kept_rules`
    results = program.evaluate(equation, values)
    return after(results) if after else results


def _as_branch(inner: Program, after: After | None) -> Callable[..., Any]:
    return lambda *values: run(inner, values, after)


def _scan(parts: program.ScanParts, values: list[Any], after: After | None) -> list[Any]:
    constants = values[: parts.constants]
    first_slice = parts.constants + parts.carries

    def body(carry: Any, slices: Any) -> Any:
        results = run(parts.body, [*constants, *carry, *slices], after)
        return results[: parts.carries], results[parts.carries :]

    carry, stacked = jax.lax.scan(
        body,
        values[parts.constants : first_slice],
        values[first_slice:],
        length=parts.length,
        reverse=parts.reverse,
    )
    return [*carry, *stacked]


def _while(equation: Any, values: list[Any], after: After | None) -> list[Any]:
    condition, condition_constants, body, body_constants = program.while_parts(equation)
    for_condition = values[:condition_constants]
    for_body = values[condition_constants : condition_constants + body_constants]
    carry = values[condition_constants + body_constants :]

    def asks(state: Any) -> Any:
        return run(condition, [*for_condition, *state])[0]

    def turn(state: Any, after: After | None = None) -> list[Any]:
        return run(body, [*for_body, *state], after)

    if after is None:
        return list(jax.lax.while_loop(asks, turn, carry))
    # a loop until something is exact, such as an adaptive step, might never end with rounding of
    # one's own: it takes as many turns as it does without
    return list(
        jax.lax.while_loop(
            lambda both: asks(both[0]),
            lambda both: (turn(both[0]), turn(both[1], after)),
            (carry, carry),
        )[1]
    )
