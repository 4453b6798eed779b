"""What a check gives up it says in its notes, with the cause, and once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import check_vjp
from jacobians.check.implied import SLOW
from jacobians.check.oracle import Oracle
from jacobians.errors import ArgumentError
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


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_rule_that_jax_cannot_trace_is_called_with_numbers(factor):
    def by_numpy(c, x):
        return (jnp.asarray(np.cos(np.asarray(x)) * np.asarray(c) * np.asarray(factor, c.dtype)),)

    check = check_vjp(jnp.sin, X, vjp=by_numpy, diagnose=False)
    assert bool(check) == (factor == 1.0)
    assert not check.problems
    assert any("JAX cannot trace the rule" in note for note in check.notes)


def test_a_rule_that_raises_where_one_input_alone_moves_is_a_verdict():
    @jax.custom_vjp
    def product(a, b):
        return a * b

    def forward(a, b):
        if not a.perturbed:
            raise RuntimeError("only b moves")
        return a.value * b.value, (a.value, b.value)

    product.defvjp(forward, lambda kept, c: (c * kept[1], c * kept[0]), symbolic_zeros=True)
    check = check_vjp(product, X, X, diagnose=False)
    assert [problem.kind for problem in check.problems] == ["raised"]
    assert "only b moves" in check.problems[0].message


def test_a_rule_for_single_precision_is_not_probed_and_one_that_raises_is_wrong():
    def single_only(c, x):
        if x.dtype != jnp.float32:
            raise RuntimeError("single precision only")
        return (c * 0,)

    with pytest.raises(ArgumentError, match="cannot be evaluated in float64"):
        check_vjp(lambda x: jnp.cumsum(x) ** 2, np.ones(9000, np.float32), vjp=single_only)
