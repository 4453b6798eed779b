"""Proved patterns of several functions at once, held against their explicit Jacobians."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.derive.algebra import entries
from jacobians.derive.call import derive_call
from jacobians.program.call import bind


def proved_entries(
    functions: Mapping[str, Callable[..., Any]], points: Sequence[Any], hessians: bool = False
) -> dict[str, int]:
    """The number of proved entries of each function's Jacobian, none of them too few.

    Args:
        functions: functions of one array that return one array.
        points: arguments at which `jax.jacfwd` looks for entries outside the proved pattern.
        hessians: whether the gradients of the functions' sums are meant.
    """

    def of(f: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda x: jnp.sum(f(x))) if hessians else f

    def everything(x: Any) -> tuple[Any, ...]:
        return tuple(of(f)(x) for f in functions.values())

    with jax.enable_x64(True):
        points = [jnp.asarray(p, jnp.float64) for p in points]
        call = bind(everything, [points[0]])
        derivation = derive_call(call, double=True)
        explicit = jax.jit(jax.jacfwd(everything))
        tensors = [explicit(p) for p in points]
    counts = {}
    for o, name in enumerate(functions):
        shapes = call.outputs[o].shape, call.inputs[0].shape
        pattern = np.zeros((prod(shapes[0]), prod(shapes[1])), bool)
        pattern[entries.coordinates(derivation.terms(o, 0), *shapes, 1 << 22)] = True
        for tensor in tensors:
            matrix = np.nan_to_num(np.asarray(tensor[o]).reshape(pattern.shape))
            nonzero = np.abs(matrix) > 1e-10 * np.abs(matrix).max(initial=1e-30)
            missed = np.argwhere(nonzero & ~pattern)
            assert not len(missed), f"{name}: proved zero at {missed[0]}"
        counts[name] = int(pattern.sum())
    return counts
