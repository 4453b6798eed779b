"""What a derivative is the sum of, and what rounding leaves where large terms cancel.

Where they do, an exact zero is as right as 1e-17. The derivative's linear program says how large
its terms are: with every tangent moved by a relative δ at random, the derivative moves by δ times
its terms, however small their sum. Nothing but tangents is moved: the program is linear in them, so
that no branch can flip and no conditioning blows up, and a term that is not there is not imagined.

`noise` moves every value, tangent or not, and takes the slope of the derivative in the size of the
moves: rounding to first order, amplified as the program amplifies it, and again no branch flips.

    >>> sizes = Terms(f, [x]).sizes(0, np.array([3]))     # column 3 of input 0: an array per output
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
DOUBLE = float(np.finfo(np.float64).eps)


@dataclass(eq=False)
class Terms:
    """The terms of a function's derivative at a point.

    Attributes:
        plain: the function, of arrays to a tuple of arrays.
        values: where, in double precision.
    """

    plain: Callable[..., Any]
    values: Sequence[Any]

    def sizes(self, position: int, columns: Integers) -> list[Array]:
        """How large the terms are whose sum the derivative is.

        Args:
            position: of the argument that is moved.
            columns: its columns, moved together; no output may depend on two of them.

        Returns:
            One flat array per output: about the root of the sum of the terms' squares.
        """
        tangents = self._tangents(position, columns)
        still = self._along(tangents, 0.0, 0.0)
        return _largest(
            [
                [(np.asarray(a) - np.asarray(b)) / SIZE for a, b in zip(made, still, strict=True)]
                for made in (self._along(tangents, SIZE, float(s)) for s in range(SEEDS))
            ]
        )

    def noise(self, position: int, columns: Integers) -> list[Array]:
        """How far rounding in double precision moves the derivative, to first order.

        Args:
            position: of the argument that is moved.
            columns: its columns, as in `sizes`.

        Returns:
            One flat array per output.
        """
        tangents = self._tangents(position, columns)
        seeds = [self._slopes(self._chosen, tangents, float(s)) for s in range(SEEDS)]
        return [DOUBLE * found for found in _largest(seeds)]

    @cached_property
    def _chosen(self) -> list[Any]:
        return [jnp.asarray(v) for v in self.values]

    def _tangents(self, position: int, columns: Integers) -> list[Any]:
        tangents = [jnp.zeros(v.shape, v.dtype) for v in self._chosen]
        unit = np.zeros(tangents[position].size)
        unit[columns] = 1.0
        tangents[position] = jnp.asarray(unit.reshape(tangents[position].shape))
        return tangents

    @cached_property
    def _along(self) -> Callable[[Sequence[Any], float, float], list[Any]]:
        linear = jax.linearize(self.plain, *self._chosen)[1]
        traced = program.trace(linear, _shapes(self._chosen))
        return jax.jit(lambda tangents, size, seed: run(traced, tangents, _moving(size, seed)))

    @cached_property
    def _slopes(self) -> Callable[[Sequence[Any], Sequence[Any], float], list[Any]]:
        count = len(self._chosen)
        traced = program.trace(
            lambda *given: jax.jvp(self.plain, given[:count], given[count:])[1],
            _shapes([*self._chosen, *self._chosen]),
        )

        def slopes(values: Sequence[Any], tangents: Sequence[Any], seed: Any) -> Any:
            def at(size: Any) -> list[Any]:
                move = _moving(size, seed)
                return run(traced, [*move(list(values)), *tangents], move)

            return jax.jvp(at, (0.0,), (1.0,))[1]

        return jax.jit(slopes)


def _shapes(values: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]


def _largest(seeds: Sequence[Sequence[Any]]) -> list[Array]:
    made = [[np.abs(np.asarray(a, np.float64)).ravel() for a in arrays] for arrays in seeds]
    # what is not finite says nothing, and excuses nothing
    return [
        np.max([np.where(np.isfinite(a), a, 0.0) for a in arrays], axis=0)
        for arrays in zip(*made, strict=True)
    ]


def _moving(size: Any, seed: Any) -> Callable[[list[Any]], list[Any]]:
    """Moves float arrays by relative errors that differ by place, operation and seed."""
    number = 0

    def move(values: list[Any]) -> list[Any]:
        nonlocal number
        number += 1
        return [_moved(v, size, seed, number) for v in values]

    return move


def _moved(value: Any, size: Any, seed: Any, number: int) -> Any:
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return value
    place = jnp.arange(value.size, dtype=jnp.float64).reshape(value.shape)
    phase = (1.7 + 0.1 * seed) * place + 0.3 * jnp.sqrt(place) + 2.3 * seed + 3.1 * number
    return (value * (1 + size * jnp.sin(phase))).astype(dtype)
