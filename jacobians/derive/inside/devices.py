"""`shard_map` on one device, in which operations between devices do nothing."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jacobians import program
from jacobians.derive.inside.step import run_function
from jacobians.derive.walk import Walk


def shard_map(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """`jax.shard_map` on one device: a plain call, in which collectives do nothing."""
    inner = program.single_shard(equation)
    if inner is None:
        return None
    before = walk.single_shard
    walk.single_shard = True
    results = walk.run(inner, operands)
    walk.single_shard = before
    return results


def collective(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """An operation between devices, where there is one: what it is given, laid out as asked."""
    if not walk.single_shard:
        return None
    if equation.primitive.name == "ppermute" and not program.parameters(equation)["perm"]:
        # nobody sends: what no device receives is 0
        return [
            walk.constant(np.zeros(walk.shape(operands[0]), walk.tape.values[operands[0]].dtype))
        ]
    results = []
    for number, variable in zip(operands, equation.outvars, strict=True):
        shape = program.shape_of(variable)
        if shape != walk.shape(number):
            results += run_function(walk, _reshaped(shape), [number])
        else:
            results.append(number)
    return results


def _reshaped(shape: tuple[int, ...]) -> Callable[..., Any]:
    """A function that lays out its array in this shape."""
    return lambda x: (jax.lax.reshape(x, shape),)


def own_index(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """The index of the only device along an axis: 0."""
    if not walk.single_shard:
        return None
    return [walk.constant(np.zeros((), program.dtype_of(equation.outvars[0])))]
