"""`cond` and `switch`: an unknown branch is a sum over branches, each where it is taken."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra.block import (
    with_coefficient,
)
from jacobians.derive.algebra.coefficient import Coefficient, Factor, Product
from jacobians.derive.algebra.syntax import is_case
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import one_of
from jacobians.derive.facts.ranges import integer_bounds, joint_range
from jacobians.derive.tape import Function
from jacobians.derive.walk import Walk


def cond(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.cond` and `lax.switch`: the known branch, or all of them with their indicators."""
    choices = program.branches(equation)
    bounds = integer_bounds(walk.tape, operands[0])
    last = len(choices) - 1
    first_choice, last_choice = 0, last
    if bounds is not None:
        first_choice, last_choice = (int(np.clip(b, 0, last)) for b in bounds)
    if first_choice == last_choice:
        return walk.run(choices[first_choice], operands[1:])
    node = walk.record(equation, operands)
    collected: dict[int, dict[int, list[Term]]] = {}
    possible: list[list[int]] = []
    for k in range(first_choice, last_choice + 1):
        # what an equal choice made before is, in this branch, what this branch made of it: the
        # second derivative of a `cond` hands values over from one choice to another
        before = walk.by_branch.setdefault((operands[0], k), {})
        results = walk.run(choices[k], [before.get(number, number) for number in operands[1:]])
        before.update(zip(node.outputs, results, strict=True))
        possible.append(results)
        indicator = _indicator(walk, operands[0], k)
        for output, number in enumerate(results):
            for source, terms in walk.blocks.get(number, {}).items():
                scaled = with_coefficient(terms, indicator)
                collected.setdefault(output, {}).setdefault(source, []).extend(scaled)
    for output, by_source in collected.items():
        walk.store(node.outputs[output], by_source)
    for output, numbers in enumerate(zip(*possible, strict=True)):
        _what_all_say(walk, node.outputs[output], numbers)
    return list(node.outputs)


def _what_all_say(walk: Walk, result: int, branches: Sequence[int]) -> None:
    """Zeros and the range of a value that one of several branches makes."""
    one_of(walk.tape, result, branches)
    if not walk.has_derivative(result):
        walk.tape.ranges[result] = joint_range(walk.tape, branches)


def _indicator(walk: Walk, index: int, branch: int) -> Coefficient:
    """1 where a branch is taken, else 0."""
    function = Function(
        f"select{branch}", is_case(branch), lambda i: 1.0 * (jnp.asarray(i) == branch), True
    )
    number = walk.tape.function(function, (index,), (), jnp.dtype("float32"))
    depends = walk.tape.values[number].depends
    return Coefficient((Product(1.0, (Factor(number, ()),)),), depends)
