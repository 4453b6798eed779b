"""Names, kinds and errors of a bound call's leaves."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import Gate, backprop, check_vjp, explain, hessian, jacobian, plan
from jacobians.errors import ArgumentError
from jacobians.program.call import argument_numbers, bind, function_name, one_of, short_type


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


@pytest.mark.parametrize("one", [0, np.int64(0), np.uint8(0), np.array(0), jnp.array(0)])
def test_argnums_may_be_whole_numbers_of_any_kind(one):
    assert argument_numbers(one) == argument_numbers([one]) == argument_numbers(np.array([0]))
    assert bind(jnp.add, (1.0, 2.0), one).selected == (0,)


def test_a_numpy_integer_as_argnums_gives_what_a_python_integer_gives():
    one = np.int64(0)
    f = lambda x, y: jnp.sum(jnp.tanh(x) * y)  # noqa: E731
    x, y = jnp.array([0.5, -1.0]), jnp.array([2.0, 3.0])
    assert [b.input for b in explain(f, x, y, argnums=one).blocks] == ["x"]
    assert backprop(f, x, y, argnums=one).gradients.keys() == {"x"}
    assert plan(f, x, y, argnums=one, of="hessian").blocks[0].input == "x"
    for ours, theirs in ((jacobian, jax.jacobian), (hessian, jax.hessian)):
        made = ours(f, argnums=one, format="dense")(x, y)
        np.testing.assert_allclose(made, theirs(f, argnums=0)(x, y), rtol=1e-6)
        assert jax.tree.structure(made) == jax.tree.structure(theirs(f)(x, y))
        pair = ours(f, argnums=(one,), format="dense")(x, y)
        assert jax.tree.structure(pair) == jax.tree.structure(theirs(f, argnums=(0,))(x, y))
    check = check_vjp(f, x, y, argnums=one, vjp=lambda c, x, y: (c * y / jnp.cosh(x) ** 2, y))
    assert [b.input for b in check.blocks] == ["x"]
    assert check


@pytest.mark.parametrize("argnums", [True, np.bool_(False), "0", 1.0, (0, True), (), None, "ab"])
def test_argnums_that_are_no_whole_numbers_are_refused(argnums):
    uses = [lambda: plan(jnp.sin, 1.0, argnums=argnums), lambda: jacobian(jnp.sin, argnums=argnums)]
    if argnums is not None:
        uses += [lambda: bind(jnp.sin, (1.0,), argnums)]
    for use in uses:
        with pytest.raises(ArgumentError, match="argnums must be an integer or a sequence"):
            use()


def test_an_unknown_word_is_refused_with_the_choices():
    f, x = lambda x: jnp.sum(x**3), jnp.ones(2)
    with pytest.raises(ArgumentError, match=r"'jacobian', 'hessian' \(did you mean 'hessian'\?\)"):
        plan(f, x, of="hesian")
    with pytest.raises(ArgumentError, match="did you mean 'dense'"):
        jacobian(f, format="dens")
    for value in (None, 3, ["jacobian"]):
        with pytest.raises(ArgumentError, match="is unknown; the choices are 'jacobian'"):
            plan(f, x, of=value)
    with pytest.raises(ArgumentError, match="the groups are 'scalar', 'vector', 'loss'"):
        Gate("g", jnp.sin, lambda c, x: (c,), "()->()", role="", why="", group="vektor")
    assert one_of("of", "hessian", ("jacobian", "hessian"), "choices") == "hessian"


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_numbers_of_columns_are_positive_whole_numbers(value):
    with pytest.raises(ArgumentError, match="chunk_size must be a positive integer"):
        plan(jnp.sin, 1.0, chunk_size=value)
    with pytest.raises(ArgumentError, match="one point at least"):
        explain(jnp.sin, 1.0, points=0 if value is True else value)


class Layer:
    """As torch has it: called as a whole, with attributes of any name."""

    def __init__(self, forward, vjp=None):
        self.forward, self.vjp = forward, vjp

    def __call__(self, x):
        return jnp.sin(x)


@pytest.mark.parametrize(
    "layer", [Layer(jnp.zeros(3)), Layer(lambda x: jnp.cumsum(x), lambda c, x: (c,))]
)
def test_a_callable_with_attributes_of_a_gate_is_called_as_itself(layer):
    assert explain(layer, jnp.ones(3)).blocks[0].structure.kind == "diagonal"
    with pytest.raises(ArgumentError, match="no hand-written derivative"):
        check_vjp(layer, jnp.ones(3))
    assert check_vjp(layer, jnp.ones(3), vjp=lambda c, x: (c * jnp.cos(x),))


def test_a_random_key_has_a_short_type_of_its_own():
    assert short_type((), jax.random.key(0).dtype) == "key<fry>[]"
    assert short_type((3,), jax.random.split(jax.random.key(0), 3).dtype) == "key<fry>[3]"
