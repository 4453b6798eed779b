"""A function without its custom derivative rules.

JAX differentiates a `custom_jvp` or `custom_vjp` function by its rule and never looks at the
program. The truth that a rule is measured against is the derivative of the program itself, so
`strip_custom_rules` interprets it: every rule, at any depth, is replaced by what it wraps.

    plain = strip_custom_rules(model)      # same values; jax.jacfwd sees the program
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.program.view import Equation, Program

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
    return program.contains(inner, program.CUSTOM_RULES)


def kept_rules(inner: Program) -> tuple[str, ...]:
    """Operations with a custom rule inside that stripping cannot enter, by name."""
    found: dict[str, None] = {}
    for equation in program.nested(inner):
        name = str(equation.primitive.name)
        enters = name in program.LOOPS or program.called_program(equation) is not None
        if not enters and any(map(has_custom_rules, program.inner_programs(equation))):
            found.setdefault(name)
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
    return program.run(inner, values, lambda equation, given: _evaluate(equation, given, after))


def _evaluate(equation: Equation, values: list[Any], after: After | None) -> list[Any]:
    """The results of an equation, entered where it is or holds what is to be replaced."""
    own_rule = equation.primitive.name in REPLACED
    inside = program.inner_programs(equation)
    if own_rule or (inside if after else any(program.contains(p, REPLACED) for p in inside)):
        if after and equation.primitive.name == "while":
            return _as_many_turns(equation, values, after)
        entered = program.enter(equation, values, lambda p, given: run(p, given, after))
        # an operation that cannot be rebuilt from outside keeps the rules in it: `kept_rules`
        if entered is not None:
            return entered
    results = program.evaluate(equation, values)
    return after(results) if after else results


def _as_many_turns(equation: Equation, values: list[Any], after: After) -> list[Any]:
    """A `while` with `after` in its body that takes as many turns as it does without.

    A loop until something is exact, such as an adaptive step, might never end with rounding of
    one's own.
    """
    parts = program.while_parts(equation)
    for_condition, for_body, start = parts.split(values)
    return list(
        jax.lax.while_loop(
            lambda both: run(parts.condition, [*for_condition, *both[0]])[0],
            lambda both: (
                run(parts.body, [*for_body, *both[0]]),
                run(parts.body, [*for_body, *both[1]], after),
            ),
            (start, start),
        )[1]
    )
