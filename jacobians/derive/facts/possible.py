"""What the entries of an array may be, as bits of `facts.special`, and arithmetic of such bits.

Along an axis where all entries are alike one stands for all, so that a mask of a million positions
that changes along one axis alone is a row.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.derive.facts.special import (
    ANYTHING,
    ORDINARY,
    SPECIAL,
    ZERO,
    Bits,
)
from jacobians.derive.tape import Value

Mask = NDArray[np.bool_]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Possible:
    """What the entries of a value may be.

    Attributes:
        kinds: for every entry the kinds of `facts.special` it may be of; along an axis of size
            one all entries of the value are alike.
        singular: likewise, whether the way to the entry may pass an operation whose derivative is
            not finite for whatever input: JAX makes NaN of any tangent there.
    """

    kinds: Bits
    singular: Mask

    @property
    def finite(self) -> bool:
        """Whether all that is known is that nothing certain happens to it."""
        return self.kinds.size == 1 and not int(self.kinds.flat[0]) & ~ORDINARY


def uniform(kinds: int, shape: Shape, singular: bool = False) -> Possible:
    """The same for every entry."""
    ones = (1,) * len(shape)
    return Possible(np.full(ones, kinds, np.uint8), np.full(ones, singular))


def possible_in_type(result: Possible, value: Value) -> Possible:
    """Whole numbers and truth values are neither infinite nor NaN, nor differentiated."""
    if value.dtype is not None and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            # a sign or an infinity of what has two parts says nothing
            plain = np.where(result.kinds == ZERO, ZERO, ORDINARY)
            kinds = np.where(result.kinds & SPECIAL, ANYTHING, plain).astype(np.uint8)
            return Possible(kinds, result.singular)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return result
    kinds = np.where(result.kinds & SPECIAL, ORDINARY | result.kinds, result.kinds)
    return Possible((kinds & ~np.uint8(SPECIAL)).astype(np.uint8), np.zeros_like(result.singular))


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """The array with one entry along every axis on which all are alike."""
    for axis, n in enumerate(array.shape):
        if n > 1:
            first = np.take(array, [0], axis)
            if bool((array == first).all()):
                array = first
    return array


def kinds_of_any(operands: Sequence[Possible]) -> int:
    """Every kind that an entry of some operand may be of."""
    return functools.reduce(operator.or_, (int(some_bits(p.kinds)) for p in operands), 0)


def some_bits(array: NDArray[Any], axes: Any = None, keepdims: bool = False) -> NDArray[Any]:
    """The bits that some entry along the axes has: of 01 and 10 it is 11."""
    reduce: Any = np.bitwise_or.reduce
    return np.asarray(reduce(array, axis=axes, keepdims=keepdims))


def every_bit(array: NDArray[Any], axes: Any) -> NDArray[Any]:
    """The bits that every entry along the axes has: of 01 and 11 it is 01."""
    reduce: Any = np.bitwise_and.reduce
    return np.asarray(reduce(array, axis=axes))


def of_any_entry(array: NDArray[Any], made: Shape) -> NDArray[Any]:
    """What any entry of an array may be, for every entry of another shape."""
    joined = some_bits(array) if array.size else array.dtype.type(0)
    return np.full((1,) * len(made), joined, array.dtype)
