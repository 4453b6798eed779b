"""What the Gate type itself promises: checks of its inputs, names, the catalogue, broadcasting."""

import inspect
from dataclasses import FrozenInstanceError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import gates
from jacobians.errors import ArgumentError
from jacobians.gates import Gate, build_catalogue, example_inputs
from jacobians.gates.gate import no_cotangent, sum_to

MATVEC, MULTIPLY = gates.get("matvec"), gates.get("multiply")

LECTURE = {
    "scalar": "add subtract negate multiply divide maximum minimum add_constant scale square exp "
    "log reciprocal sigmoid tanh branch",
    "vector": "relu elementwise_maximum matvec matmul add_bias sum squared_norm norm softmax",
    "loss": "cross_entropy hinge l2_regularisation",
}


@pytest.mark.parametrize("group", LECTURE)
def test_the_catalogue_holds_every_gate_of_the_lecture(group: str) -> None:
    for name in LECTURE[group].split():
        assert gates.get(name).name == name
        assert gates.get(name).group == group


def test_every_gate_says_its_role_and_why_in_a_line() -> None:
    for gate in gates.catalogue.values():
        assert gate.role
        assert 0 < len(gate.why) <= 100
        assert "\n" not in gate.why


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("add", "distributes"),
        ("multiply", "switches"),
        ("maximum", "routes"),
        ("branch", "adds up"),
    ],
)
def test_roles_are_those_of_the_lecture(name: str, role: str) -> None:
    assert gates.get(name).role == role


@pytest.mark.parametrize("name", ["maximum", "minimum", "relu", "elementwise_maximum", "norm"])
def test_a_gate_with_a_kink_states_its_convention(name: str) -> None:
    assert "gradient" in gates.get(name).convention


def test_an_unknown_gate_is_answered_with_the_closest_names() -> None:
    with pytest.raises(ArgumentError, match=r"no gate called 'sigmiod'; did you mean sigmoid\?"):
        gates.get("sigmiod")
    with pytest.raises(ArgumentError, match="did you mean l2_regularisation"):
        gates.get("L2-regularization")
    with pytest.raises(ArgumentError, match="The catalogue has add, subtract") as caught:
        gates.get("xyzzy")
    assert "did you mean" not in str(caught.value)


def test_two_gates_of_one_name_are_refused() -> None:
    with pytest.raises(ArgumentError, match="two gates are called 'multiply'"):
        build_catalogue((MATVEC, MULTIPLY, MULTIPLY))


def test_the_catalogue_and_its_gates_cannot_be_changed() -> None:
    catalogue: Any = gates.catalogue
    with pytest.raises(TypeError):
        catalogue["multiply"] = MATVEC
    with pytest.raises(FrozenInstanceError):
        MULTIPLY.name = "times"  # type: ignore[misc]


def test_a_gate_shows_the_parameter_names_of_its_forward_function() -> None:
    assert MATVEC.input_names == ("W", "x")
    assert list(inspect.signature(MATVEC).parameters) == ["W", "x"]
    assert repr(MATVEC) == "Gate('matvec', '(m,n),(n)->(m)', role='switches')"


def test_a_gate_whose_signature_does_not_fit_its_function_is_refused() -> None:
    with pytest.raises(ArgumentError, match="takes 2 inputs, its signature"):
        Gate("bad", MATVEC.forward, MATVEC.vjp, "(m,n)->(m)", role="", why="")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((jnp.ones((2, 3)),), r"gate 'matvec' takes 2 inputs \(W, x\), got 1"),
        ((jnp.ones((2, 3)), jnp.arange(3)), r"x must be of a real floating-point .* got i32\[3\]"),
        ((jnp.ones((2, 3)), 1), "x must be of a real floating-point"),
        ((jnp.ones((2, 3)), np.array([True] * 3)), r"got bool\[3\]"),
        ((jnp.ones((2, 3)), jnp.ones(3, complex)), r"got c64\[3\]"),
        ((jnp.ones((2, 3)), "abc"), "x must be an array, got 'abc' of type str"),
        ((jnp.ones((2, 3)), None), "x must be an array, got None"),
        ((jnp.ones((2, 3)), [1.0, 2.0, 3.0]), r"x must be an array, got \[1.0, 2.0, 3.0\]"),
        ((jnp.ones((2, 3)), float), "x must be an array, got <class 'float'>"),
        ((jnp.ones((2, 3)), jnp.ones(4)), "n is 3 in W and 4 in x"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        MATVEC(*inputs)
    assert "matvec" in str(caught.value)


def test_inputs_that_do_not_fit_are_named_while_tracing_too() -> None:
    with pytest.raises(ArgumentError, match="n is 3 in W and 4 in x"):
        jax.jit(MATVEC)(jnp.ones((2, 3)), jnp.ones(4))
    with pytest.raises(ArgumentError, match=r"scores: \[3\].*scores needs at least 2 axes"):
        gates.get("cross_entropy")(jnp.ones(3), jnp.array(0))


def test_indices_must_be_integers() -> None:
    with pytest.raises(ArgumentError, match=r"labels holds indices .* got f32\[2\]"):
        gates.get("hinge")(jnp.ones((2, 3)), jnp.ones(2))


def test_python_floats_are_inputs_and_do_not_widen_the_others() -> None:
    x = jnp.ones(3, jnp.bfloat16)
    assert MULTIPLY(2.0, x).dtype == jnp.bfloat16
    by_factor, by_x = jax.grad(lambda a, b: MULTIPLY(a, b).sum(), argnums=(0, 1))(2.0, x)
    assert float(by_factor) == 3.0
    np.testing.assert_array_equal(by_x, [2.0, 2.0, 2.0])


def test_inputs_of_two_dtypes_each_get_a_cotangent_of_their_own() -> None:
    x, y = jnp.float32(3), jnp.bfloat16(4)
    dx, dy = jax.grad(MULTIPLY, argnums=(0, 1))(x, y)
    assert (dx.dtype, dy.dtype) == (jnp.float32, jnp.bfloat16)
    assert (float(dx), float(dy)) == (4.0, 3.0)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), 12.0), ((1,), [12.0]), ((4,), [3.0] * 4), ((3, 1), [[4.0]] * 3), ((1, 1), [[12.0]])],
)
def test_sum_to_adds_over_the_axes_that_were_broadcast(shape: Any, expected: Any) -> None:
    summed = sum_to(jnp.ones((3, 4)), np.zeros(shape, np.float16))
    assert summed.dtype == np.float16
    np.testing.assert_array_equal(summed, expected)


def test_sum_to_handles_empty_axes() -> None:
    np.testing.assert_array_equal(sum_to(jnp.ones((0, 3)), jnp.ones(3)), [0.0, 0.0, 0.0])
    assert sum_to(jnp.ones((2, 0)), jnp.ones((2, 0))).shape == (2, 0)


@pytest.mark.parametrize(("given", "like"), [((), (4,)), ((3,), (4,)), ((2, 1), (2, 4))])
def test_a_cotangent_that_is_not_of_the_outputs_shape_is_refused(given: Any, like: Any) -> None:
    with pytest.raises(ArgumentError, match="has the shape of the gate's output"):
        sum_to(jnp.ones(given), jnp.ones(like))


def test_indices_get_the_cotangent_that_jax_gives_them() -> None:
    labels = jnp.array([0, 1])
    _, pull = jax.vjp(gates.get("cross_entropy"), jnp.ones((2, 3)), labels)
    theirs, ours = pull(jnp.float32(1))[1], no_cotangent(labels)
    assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype) == ((2,), jax.dtypes.float0)


@pytest.mark.parametrize("gate", gates.catalogue.values(), ids=lambda gate: gate.name)
def test_example_inputs_fit_and_lie_in_the_domain(gate: Gate) -> None:
    inputs = example_inputs(gate, seed=3)
    gates.check_inputs(gate, *inputs)
    again = example_inputs(gate, seed=3)
    for one, other in zip(inputs, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for value, domain in zip(inputs, gate.domain, strict=False):
        assert domain == "real" or (np.abs(value) >= 0.25).all()
        assert domain != "positive" or (value > 0).all()


def test_example_inputs_take_sizes() -> None:
    W, x = example_inputs(MATVEC, sizes={"m": 7, "n": 2})
    assert (W.shape, x.shape) == ((7, 2), (2,))
