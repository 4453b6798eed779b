"""What rounding moves a derivative by, entry by entry, measured to first order.

Where large terms cancel, an exact zero is as right as 1e-17. How much rounding may leave there is
told by the program of the derivative itself: every value and every tangent is moved by a relative
error of its own, drawn at random, and the slope of each entry in the size of these errors is what
one rounding per operation moves it by, amplified as the program amplifies it. Being a slope, it
takes no step: no branch flips, and a term that is not there is not imagined. An entry is moved by
the terms of its own column and row only, so that a large neighbour excuses nothing.

    moved = Terms(f, [x]).noise(0, np.array([3]))     # column 3 of input 0: an array per output
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.arrays import Array, Integers
from jacobians.program.strip import run

# the relative move of the fallback for programs that JAX cannot differentiate twice
SIZE = 2.0**-10
SEEDS = 4
DOUBLE = float(np.finfo(np.float64).eps)
# random numbers are taken from one short list each, at a place that differs by operation
DRAWN = 4096
STRIDE = 1009
# a sum of so many terms is rounded no worse than what its terms are moved by
SHORT = 64
# operations that add up entries, by the beginning of their names
SUMS = (
    "reduce_sum",
    "reduce_window_sum",
    "dot_general",
    "conv",
    "cum",
    "scatter-add",
    "scatter_add",
    "fft",
)


@dataclass(eq=False)
class Terms:
    """The terms of a function's derivative at a point.

    Attributes:
        plain: the function, of arrays to a tuple of arrays.
        values: where, in double precision.
        refused: what JAX raised where it could not differentiate the function twice.
    """

    plain: Callable[..., Any]
    values: Sequence[Any]
    refused: Exception | None = None

    def noise(
        self, position: int, columns: Integers, eps: float = DOUBLE, tiny: float = 0.0
    ) -> list[Array]:
        """How far rounding moves the derivative, to first order.

        Args:
            position: of the argument that is moved.
            columns: its columns, moved together; no output may depend on two of them.
            eps: the relative error of an operation.
            tiny: the absolute error of an operation, which underflow leaves.

        Returns:
            One flat array per output.
        """
        tangents = self._tangents(position, columns)
        try:
            seeds = [self._slopes(self._chosen, tangents, eps, tiny, r) for r in drawn()]
        except Exception as error:
            self.refused = error
            # no second derivative: tangents alone are moved, in which the program is linear
            still = self._along(tangents, 0.0, drawn()[0])
            seeds = [
                [(a - b) * (eps / SIZE) for a, b in zip(made, still, strict=True)]
                for made in (self._along(tangents, SIZE, r) for r in drawn())
            ]
        return largest(seeds)

    @cached_property
    def _chosen(self) -> list[Any]:
        return [jnp.asarray(v) for v in self.values]

    def _tangents(self, position: int, columns: Integers) -> list[Any]:
        """Ones in these columns of an argument, zeros elsewhere."""
        tangents = [jnp.asarray(np.zeros(v.shape, v.dtype)) for v in self._chosen]
        unit = np.zeros(tangents[position].size)
        unit[columns] = 1.0
        tangents[position] = jnp.asarray(unit.reshape(tangents[position].shape))
        return tangents

    @cached_property
    def _along(self) -> Callable[[Sequence[Any], float, Array], list[Any]]:
        """The derivative along tangents, every tangent moved by a relative size."""
        linear = jax.linearize(self.plain, *self._chosen)[1]
        traced = program.trace(linear, _shapes(self._chosen))
        factor = growth(traced)
        return jax.jit(
            lambda tangents, size, numbers: run(
                traced, tangents, moving(factor * size, 1.0, 0.0, numbers)
            )
        )

    @cached_property
    def _slopes(self) -> Callable[..., list[Any]]:
        """The slope of the derivative along tangents in the size of all rounding errors."""
        count = len(self._chosen)
        traced = program.trace(
            lambda *given: jax.jvp(self.plain, given[:count], given[count:])[1],
            _shapes([*self._chosen, *self._chosen]),
        )

        def slopes(
            values: Sequence[Any], tangents: Sequence[Any], eps: Any, tiny: Any, numbers: Any
        ) -> Any:
            return rounding_slopes(traced, values, tangents, eps, tiny, numbers)

        return jax.jit(slopes)


def rounding_slopes(
    traced: program.Program,
    values: Sequence[Any],
    exact: Sequence[Any],
    eps: Any,
    tiny: Any,
    numbers: Any,
) -> list[Any]:
    """How far one rounding of every operation moves a program's results, to first order.

    Args:
        traced: the program, of the values and then of the exact ones.
        values: inputs that are themselves rounded.
        exact: inputs that are not.
        eps: the relative error of an operation.
        tiny: its absolute error.
        numbers: random numbers in [−1, 1], a row of `drawn()`.

    Returns:
        One array per result.
    """
    factor = growth(traced)

    def at(size: Any) -> list[Any]:
        move = moving(factor * size, eps, tiny, numbers)
        return run(traced, [*move(list(values)), *exact], move)

    slopes: list[Any] = jax.jvp(at, (0.0,), (1.0,))[1]
    return slopes


def drawn() -> Array:
    """Random numbers in [−1, 1], a row for each seed; the same at every call."""
    return np.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (SEEDS, DRAWN)))


def growth(inner: program.Program) -> float:
    """How much more than the errors of its terms the longest sum of a program may be off by.

    Adding n terms one after the other rounds n partial sums, each as large as √n of the terms.
    """
    return max(1.0, sqrt(_longest_sum(inner) / SHORT))


def _longest_sum(inner: program.Program) -> float:
    """About how many terms the longest sum has, loops as often as they run where that is known."""
    longest = 1.0
    for equation in program.nested(inner):
        name = str(equation.primitive.name)
        if name.startswith(SUMS):
            sizes = [prod(program.shape_of(v)) for v in equation.invars]
            results = max(1, *(prod(program.shape_of(v)) for v in equation.outvars))
            if name == "dot_general":
                terms = sqrt(prod(float(s) for s in sizes) / results)
            elif name.startswith(("cum", "fft")):
                terms = float(max(program.shape_of(equation.outvars[0]), default=1))
            else:
                terms = max(sizes) / results
            longest = max(longest, terms)
    return longest


def largest(seeds: Sequence[Sequence[Any]]) -> list[Array]:
    """The largest size of every entry over the seeds; what is not finite excuses nothing."""
    made = [[np.abs(np.asarray(a, np.float64)).ravel() for a in arrays] for arrays in seeds]
    return [
        np.max([np.where(np.isfinite(a), a, 0.0) for a in arrays], axis=0)
        for arrays in zip(*made, strict=True)
    ]


def moving(size: Any, eps: Any, tiny: Any, numbers: Any) -> Callable[[list[Any]], list[Any]]:
    """Moves floats, v → v + size·(eps·v + tiny)·r, r differing by place and operation.

    Complex numbers are moved by as much of their length, in any direction.
    """
    number = 0

    def moved(value: Any) -> Any:
        dtype = getattr(value, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            # what cancels in one part may be as large as the other
            length = jax.lax.stop_gradient(jnp.abs(value))
            return (value + jax.lax.complex(error(length), error(length))).astype(dtype)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            return value
        return (value + error(value)).astype(dtype)

    def error(value: Any) -> Any:
        nonlocal number
        number += 1
        count = value.size
        if count < DRAWN:
            start = (STRIDE * number) % (DRAWN - count)
            chosen = jnp.asarray(numbers)[start : start + count]
        else:
            chosen = jnp.resize(jnp.roll(jnp.asarray(numbers), STRIDE * number), (count,))
        return size * (eps * value + tiny) * chosen.reshape(value.shape)

    return lambda values: [moved(v) for v in values]


def _shapes(values: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
