"""The walk: what an operation costs, however long the program and however many its terms."""

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import explain, program
from jacobians.derive import closure
from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import identity
from jacobians.derive.inside.handlers import INSIDE
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
    walk = Walk(INSIDE, blocks=Unlisted())
    number = walk.input(x.shape, x.dtype)
    walk.blocks[number] = {number: (identity(x.shape),)}
    (result,) = walk.run(program.trace(f, [x]), [number])
    rows, columns = entries.coordinates(walk.blocks[result][number], (2,), (3,), 100)
    expected = np.nonzero(np.asarray(jax.jacfwd(lambda x: f(x)[0])(x)))
    assert list(zip(rows, columns, strict=True)) == list(zip(*expected, strict=True))


def test_a_loop_over_a_step_of_many_terms_is_closed_entry_by_entry(monkeypatch):
    def spread(u):
        around = [jnp.roll(u, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        return u * u + sum(around)

    def f(y):
        def step(state):
            y, rest, fed = state
            new = jnp.concatenate([spread(h.reshape(3, 3)).ravel() for h in (y[:9], y[9:])])
            return new, rest, fed + rest

        return jax.lax.while_loop(lambda s: s[0][0] < 100.0, step, (y[:18], y[18:], y[18:]))

    def composed(*_):
        raise AssertionError("terms were composed one by one")

    y = 1.0 + jnp.arange(20.0) / 20
    monkeypatch.setattr(closure, "MAX_COMPOSED", 20)
    monkeypatch.setattr(closure, "hull", composed)
    blocks = explain(f, y).blocks
    patterns = [block.pattern().toarray() != 0 for block in blocks]
    # the two halves stay apart, and the last entries are added up one by one
    halves = np.kron(np.eye(2), np.ones((9, 9))) > 0
    assert (patterns[0] == np.hstack([halves, np.zeros((18, 2), bool)])).all()
    for block, pattern in zip(jax.jacfwd(f)(y), patterns, strict=True):
        assert not (np.asarray(block != 0) & ~pattern).any()
    assert [pattern.sum() for pattern in patterns] == [162, 2, 2]
