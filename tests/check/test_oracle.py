"""The truth that rules are held against: what it is, how it is had, and how far it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.check import oracle as oracles
from jacobians.check.oracle import Oracle
from jacobians.errors import ArgumentError
from jacobians.program.call import bind


@jax.custom_vjp
def wrongly_doubled(x):
    return jnp.sin(x)


wrongly_doubled.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (2 * c * jnp.cos(x),))

X = np.array([0.3, -1.2, 2.0], np.float32)


def of(f, *args):
    return Oracle(bind(f, args, None))


def test_it_is_the_jacobian_of_the_program_without_its_rules_in_double_precision():
    given = of(lambda x, y: (wrongly_doubled(x) * y, jnp.sum(y)), X, X[::-1].copy())
    whole = given.whole(None)
    assert (given.how, whole.bar, whole.matrix.dtype) == ("forward mode", None, np.float64)
    with jax.enable_x64(True):
        x, y = jnp.asarray(X, jnp.float64), jnp.asarray(X[::-1], jnp.float64)
        plain = jax.jacfwd(lambda x, y: (jnp.sin(x) * y, jnp.sum(y)), argnums=(0, 1))(x, y)
    expected = np.block([[np.asarray(b).reshape(-1, 3) for b in row] for row in plain])
    np.testing.assert_allclose(whole.matrix, expected, rtol=1e-14)
    np.testing.assert_allclose(given.narrow_whole, expected, rtol=1e-6)
    assert [y.dtype for y in given.outputs] == [np.float64] * 2
    assert [y.dtype for y in given.narrow_outputs] == [np.float32] * 2


def by_callback(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.sin(np.asarray(v)), shape, x)


def test_what_jax_cannot_differentiate_has_an_error_bar_that_holds_and_a_note():
    given = of(by_callback, X)
    whole = given.whole(None)
    assert given.how == "finite differences"
    error = np.abs(whole.matrix - np.diag(np.cos(X.astype(np.float64))))
    assert (error <= whole.bar).all()
    assert whole.bar.max() < 1e-9
    (note,) = given.notes
    assert "finite differences, with an error bar, because JAX cannot differentiate" in note


def test_differences_of_too_many_inputs_are_refused(monkeypatch):
    monkeypatch.setattr(oracles, "MAX_DIFFERENCES", 2)
    with pytest.raises(ArgumentError, match="with 3 input entries that takes too long"):
        of(by_callback, X).whole(None)


def test_what_the_function_raises_is_not_hidden():
    broken = []

    def breaks(x):
        if broken:
            raise RuntimeError("no such file")
        return x

    given = of(breaks, X)
    broken.append(True)
    with pytest.raises(RuntimeError, match="no such file"):
        given.whole(None)


def test_both_sides_of_the_point_are_beside_every_entry():
    given = of(lambda x: x, np.array([0.0, 1.0, -1e-3], np.float32))
    up, down = (given.nudged(1e-6, side)[0] for side in (1.0, -1.0))
    here = given.wide[0]
    assert ((up - here) * (down - here) < 0).all()
    moved = np.abs(up - here) / np.where(here == 0, 1.0, np.abs(here))
    assert ((moved >= 0.49e-6) & (moved <= 1.01e-6)).all()
    assert given.beside == 2 * np.finfo(np.float32).eps


def test_units_are_outputs_over_inputs():
    x = np.array([0.0, 2.0, -4.0], np.float32)
    given = of(lambda x: 6 * x, x)
    rows, columns = np.array([1, 1, 2]), np.array([0, 1, 2])
    assert given.units(0, 0, rows, columns).tolist() == [3.0, 6.0, 6.0]


@pytest.mark.parametrize("draws", [True, False])
def test_it_knows_whether_the_function_draws_random_numbers(draws):
    key = jax.random.key(0)
    given = of(lambda x: x * jax.random.normal(key, x.shape) if draws else jnp.sin(x), X)
    assert given.draws == draws


def test_rounding_moves_only_what_cancels_and_nothing_where_it_cannot_be_told():
    given = of(lambda x: (1e6 * x - 1e6 * x, jnp.maximum(x, 0.0)), -np.abs(X))
    cancelled, dead = given.noise(0, np.array([1]), 1e-3, 0.0)
    assert 1e2 < cancelled[1] < 2e3
    assert cancelled[0] == dead.max() == 0
    given = of(by_callback, X)
    assert [moved.tolist() for moved in given.noise(0, np.array([1]), 1e-3, 0.0)] == [[0, 0, 0]]
