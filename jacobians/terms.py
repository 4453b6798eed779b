"""How large the terms are whose sum a derivative is: what its rounding is relative to.

Where large terms cancel, what is left is rounding of the terms, and an exact zero is as right as
1e-17. The derivative's own linear program says how large they are: with the result of every
operation moved by a relative δ at random, the derivative moves by δ times its terms, however small
their sum. Only tangents are moved: the program is linear in them, so that there is no branch to
flip and no conditioning to blow up; a term that is not there is not imagined.

    >>> sizes = term_sizes(f, [x])
    >>> sizes(0, np.array([3]))         # for column 3 of input 0: one flat array per output
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.strip import run

Array = NDArray[Any]
Integers = NDArray[np.int64]

SIZE = 2.0**-10
SEEDS = 4


def term_sizes(
    plain: Callable[..., Any], values: Sequence[Any]
) -> Callable[[int, Integers], list[Array]]:
    """Prepares the sizes of the terms of a derivative.

    Args:
        plain: the function, of arrays to a tuple of arrays.
        values: where, in double precision.

    Returns:
        From the position of an argument and columns of it that are moved together, to one flat
        array per output: about the root of the sum of its terms' squares.
    """
    chosen = [jnp.asarray(v) for v in values]
    along = jax.linearize(plain, *chosen)[1]
    traced = program.trace(along, [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in chosen])

    @jax.jit
    def at(tangents: Sequence[Any], size: Any, seed: Any) -> list[Any]:
        number = 0

        def after(results: list[Any]) -> list[Any]:
            nonlocal number
            number += 1
            return [_moved(r, size, seed, number) for r in results]

        return run(traced, tangents, after)

    def sizes(position: int, columns: Integers) -> list[Array]:
        tangents = [jnp.zeros(v.shape, v.dtype) for v in chosen]
        unit = np.zeros(chosen[position].size)
        unit[columns] = 1.0
        tangents[position] = jnp.asarray(unit.reshape(chosen[position].shape))
        still = at(tangents, 0.0, 0.0)
        found = [np.zeros(np.size(s)) for s in still]
        for seed in range(SEEDS):
            for k, (a, b) in enumerate(zip(at(tangents, SIZE, float(seed)), still, strict=True)):
                off = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / SIZE
                found[k] = np.maximum(found[k], np.nan_to_num(off.ravel(), posinf=0.0))
        return found

    return sizes


def _moved(value: Any, size: Any, seed: Any, number: int) -> Any:
    """A float array with relative errors that differ by place, operation and seed."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return value
    place = jnp.arange(value.size, dtype=jnp.float64).reshape(value.shape)
    phase = 1.7 * place + 0.9 * place**2 / (1 + place) + 2.3 * seed + 3.1 * number
    return (value * (1 + size * jnp.sin(phase + 0.1 * seed * place))).astype(dtype)
