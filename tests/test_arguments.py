"""Names, kinds and errors of a bound call's leaves."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.arguments import bind, function_name, short_type
from jacobians.errors import ArgumentError


class Pair(NamedTuple):
    first: object
    second: object


def test_leaves_are_named_as_one_writes_them():
    def f(params, pair, *rest):
        return {"a": params["W"] @ pair.first, "b": [pair.second + rest[0]]}

    call = bind(f, ({"W": jnp.ones((2, 3))}, Pair(jnp.ones(3), 1.0), 2.0))
    assert [x.name for x in call.inputs] == ['params["W"]', "pair.first", "pair.second", "rest[0]"]
    assert [x.name for x in call.outputs] == ['out["a"]', 'out["b"][0]']
    assert [x.short_type for x in call.inputs] == ["f32[2,3]", "f32[3]", "f32[]", "f32[]"]


def test_python_ints_and_strings_are_static_and_integer_arrays_are_not():
    call = bind(
        lambda x, axis, index: jnp.cumsum(x, axis)[index], (jnp.ones((2, 3)), 1, np.array(0))
    )
    assert [leaf.static for leaf in call.inputs] == [False, True, False]
    assert call.selected == (0,)
    assert not call.inputs[2].differentiable


def test_abstract_arguments_have_shapes_and_no_values():
    call = bind(jnp.sin, (jax.ShapeDtypeStruct((3,), jnp.float32),))
    assert not call.concrete
    assert call.outputs[0].shape == (3,)


def test_flat_holds_the_other_leaves_at_their_values():
    call = bind(lambda a, b: a * b, (jnp.array(2.0), jnp.array(3.0)))
    assert float(call.flat((1,))(5.0)[0]) == 10.0


@pytest.mark.parametrize(
    ("f", "args", "argnums", "says"),
    [
        (jnp.sin, (1.0, 2.0), None, "cannot be called with 2 arguments"),
        (jnp.sin, (), None, "cannot be called with 0 arguments"),
        (jnp.sin, (np.arange(3),), None, "no floating-point input"),
        (jnp.add, (1.0, 2.0), 2, "argnums=2 names no argument"),
        (lambda x, n: x, (1.0, np.arange(2)), 1, "argument 1 (n) has no floating-point leaf"),
        (3, (1.0,), None, "expected a function"),
    ],
)
def test_mistakes_get_a_sentence(f, args, argnums, says):
    with pytest.raises(ArgumentError) as error:
        bind(f, args, argnums)
    assert says in str(error.value)


def test_negative_argnums_count_from_the_end():
    assert bind(lambda a, b: a + b, (1.0, 2.0), -1).selected == (1,)


def test_what_the_function_raises_comes_through_unchanged():
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        bind(f, (1.0,))


def test_names_of_partials_and_types():
    assert function_name(functools.partial(jnp.sum, axis=0)) == "sum"
    assert short_type((2,), jnp.bfloat16) == "bf16[2]"
    assert short_type((), np.bool_) == "bool[]"
