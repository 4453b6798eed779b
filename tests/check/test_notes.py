"""What a check gives up it says in its notes, with the cause, and once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import check_vjp
from jacobians.check.implied import SLOW
from jacobians.check.oracle import Oracle
from jacobians.program.call import bind

X = np.array([0.3, -1.2, 2.0], np.float32)


def by_callback(c, x):
    """A rule that JAX calls, and can neither batch nor differentiate."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return (jax.pure_callback(lambda c, x: np.asarray(c * np.cos(x), x.dtype), shape, c, x),)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_rule_that_cannot_be_batched_is_called_as_it_is_and_that_is_noted(factor):
    check = check_vjp(jnp.sin, X, vjp=lambda c, x: by_callback(factor * c, x), diagnose=False)
    assert bool(check) == (factor == 1.0)
    (note,) = (note for note in check.notes if note.startswith(SLOW))
    assert "vmap" in note
    unmeasured = [note for note in check.notes if "excuses nothing" in note]
    assert len(unmeasured) == (factor != 1.0)


def test_a_function_tied_to_single_precision_is_noted():
    def tied(x):
        if x.dtype != jnp.float32:
            raise TypeError("single precision only")
        return jnp.sin(x)

    given = Oracle(bind(tied, (X,), None))
    assert given.outputs[0].dtype == np.float32
    assert given.notes == [
        "the function could not be evaluated in float64; its values are those of its own "
        "precision (TypeError: single precision only)"
    ]


def test_a_cause_is_noted_once():
    given = Oracle(bind(jnp.sin, (X,), None))
    for _ in "ab":
        given.gives_up("this is given up", ValueError("for a reason\nof two lines"))
    given.gives_up("and so is this", KeyError("x"))
    assert given.notes == [
        "this is given up (ValueError: for a reason)",
        "and so is this (KeyError: 'x')",
    ]
