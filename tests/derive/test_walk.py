"""The walk: what an operation costs does not depend on how long the program before it is."""

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import identity
from jacobians.derive.walk import Walk


class Unlisted(dict):
    """A dictionary whose keys are looked up, but never gone through."""

    def __iter__(self):
        raise AssertionError("all values of the program were gone through")


def test_an_operation_is_walked_without_going_through_all_values_before_it():
    def f(x):
        pair = jnp.zeros(2).at[0].set(x[2] * x[0]).at[1].set(jnp.sum(x[1:] ** 2))
        return (jnp.where(jnp.arange(2) == 0, pair, jnp.sin(pair))[::-1],)

    x = jnp.array([1.0, 2.0, 3.0])
    walk = Walk(blocks=Unlisted())
    number = walk.input(x.shape, x.dtype)
    walk.blocks[number] = {number: (identity(x.shape),)}
    (result,) = walk.run(program.trace(f, [x]), [number])
    rows, columns = entries.coordinates(walk.blocks[result][number], (2,), (3,), 100)
    expected = np.nonzero(np.asarray(jax.jacfwd(lambda x: f(x)[0])(x)))
    assert list(zip(rows, columns, strict=True)) == list(zip(*expected, strict=True))
