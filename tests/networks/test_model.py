"""Networks: the backward pass from the gates' VJPs is `jax.grad`, whatever the architecture."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jacobians
from jacobians import ArgumentError, gates, networks
from jacobians.networks import LINEAR, Network, model
from jacobians.testing import assert_cotangents

ACTIVATIONS = [
    *(gates.get(name) for name in ("relu", "sigmoid", "tanh", "square", "softmax", "negate")),
    gates.add_constant(0.5),
    gates.scale(-0.7),
]
LOSSES = [gates.get("cross_entropy"), gates.get("hinge")]
# few sizes, so that JAX compiles few operations
WIDTHS = st.sampled_from([1, 4])


def architectures(widths):
    return st.builds(
        Network,
        st.lists(widths, min_size=2, max_size=5).map(tuple),
        st.sampled_from(ACTIVATIONS),
        st.sampled_from(LOSSES),
        st.sampled_from([0.0, 0.01]),
    )


def compare(network, batch, seed):
    """The hand-written gradients of every parameter against those of jax.grad."""
    draw = np.random.default_rng(seed)
    with jax.enable_x64(True):
        params = networks.initialise(network, seed, jnp.float64)
        # biases off zero: a dead layer must not put the next one on the kink of its activation
        params = {
            name: value if name.startswith("W") else jnp.asarray(draw.normal(size=value.shape))
            for name, value in params.items()
        }
        X = jnp.asarray(draw.normal(size=(batch, network.sizes[0])))
        labels = jnp.asarray(draw.integers(0, network.sizes[-1], batch), jnp.int32)
        value, by_hand = networks.loss_and_gradients(network, params, X, labels)
        expected, by_jax = jax.value_and_grad(networks.loss, argnums=1)(network, params, X, labels)
        assert float(value) == pytest.approx(float(expected), rel=1e-12)
        assert by_hand.keys() == by_jax.keys()
        for name, gradient in by_jax.items():
            assert by_hand[name].dtype == params[name].dtype
            np.testing.assert_allclose(by_hand[name], gradient, rtol=1e-9, atol=1e-11, err_msg=name)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(architectures(WIDTHS), st.just(3), st.integers(0, 1000))
def test_the_backward_pass_is_jax_grad(network, batch, seed):
    compare(network, batch, seed)


@pytest.mark.long
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(architectures(st.integers(1, 40)), st.integers(1, 30), st.integers(0, 1000))
def test_the_backward_pass_is_jax_grad_at_any_width(network, batch, seed):
    compare(network, batch, seed)


def test_the_gradient_of_the_batch_is_that_of_jax():
    network = Network((4, 6, 3), gates.get("tanh"))
    params = networks.initialise(network, 3)
    X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    s, kept = networks.forward(network, params, X)
    cotangent = jnp.ones_like(s)
    _, dX = networks.backward(network, params, kept, cotangent)
    _, pull = jax.vjp(lambda X: networks.scores(network, params, X), X)
    np.testing.assert_allclose(dX, pull(cotangent)[0], rtol=1e-5)


def test_nothing_in_the_backward_pass_differentiates():
    source = inspect.getsource(model)
    for word in ("grad(", "vjp(f", "jax.vjp", "jvp", "jacfwd", "jacrev", "linearize"):
        assert word not in source.replace("_vjp", "")


def test_linear_is_a_right_gate():
    inputs = gates.example_inputs(LINEAR)
    assert_cotangents(LINEAR.forward, LINEAR.vjp, jnp.cos(LINEAR.forward(*inputs)), *inputs)
    assert jacobians.check_vjp(LINEAR, *inputs)


def test_scores_are_the_lectures_formulas():
    draw = np.random.default_rng(1)
    network = Network((4, 5, 6, 3))
    params = networks.initialise(network, 0)
    X = draw.normal(size=(7, 4)).astype(np.float32)
    W1, W2, W3 = (np.asarray(params[f"W{k}"]) for k in (1, 2, 3))
    for x, s in zip(X, networks.scores(network, params, X), strict=True):
        expected = W3 @ np.maximum(0, W2 @ np.maximum(0, W1 @ x))
        np.testing.assert_allclose(s, expected, rtol=1e-4, atol=1e-5)


def test_regularisation_adds_the_weights_squares_and_spares_biases():
    plain, decayed = Network((3, 4, 2)), Network((3, 4, 2), regularisation=0.25)
    params = {k: v + 1 for k, v in networks.initialise(plain, 0).items()}
    X, labels = jnp.ones((2, 3)), jnp.array([0, 1])
    value, gradients = networks.loss_and_gradients(plain, params, X, labels)
    more, with_decay = networks.loss_and_gradients(decayed, params, X, labels)
    squares = sum(float(jnp.sum(params[k] ** 2)) for k in ("W1", "W2"))
    assert float(more - value) == pytest.approx(0.25 * squares, rel=1e-5)
    np.testing.assert_allclose(with_decay["W1"] - gradients["W1"], 0.5 * params["W1"], rtol=1e-4)
    np.testing.assert_array_equal(with_decay["b1"], gradients["b1"])


def test_initial_weights_come_from_the_seed():
    network = Network((3, 4, 2))
    first, again, other = (networks.initialise(network, s) for s in (1, 1, 2))
    assert all(bool((first[k] == again[k]).all()) for k in first)
    assert bool((first["W1"] != other["W1"]).any())


def test_parameters_are_saved_and_loaded(tmp_path):
    network = Network((3, 4, 2))
    params = networks.initialise(network, 5)
    path = tmp_path / "params.npz"
    networks.save(path, params)
    loaded = networks.load(path, network)
    assert list(loaded) == ["W1", "b1", "W2", "b2"]
    for name in params:
        np.testing.assert_array_equal(loaded[name], params[name])
    with pytest.raises(ArgumentError, match="W1 of a network of sizes"):
        networks.load(path, Network((4, 4, 2)))
    with pytest.raises(ArgumentError, match="has the parameters W1, b1;"):
        networks.load(path, Network((3, 2)))
    with pytest.raises(ArgumentError, match="there is no file"):
        networks.load(tmp_path / "nothing.npz", network)
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ArgumentError, match="no file of saved parameters"):
        networks.load(tmp_path / "text.npz", network)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ArgumentError, match="no file of saved parameters"):
        networks.load(tmp_path / "one.npy", network)


NETWORK = Network((3, 2))
PARAMS = networks.initialise(NETWORK, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Network((3,)), "at least two positive integers"),
        (lambda: Network((3, 0)), "at least two positive integers"),
        (lambda: Network((3, 2.5)), "at least two positive integers"),
        (lambda: Network(5), "at least two positive integers"),
        (lambda: Network((3, 2), activation=gates.get("add")), "'add' does not map"),
        (lambda: Network((3, 2), activation=gates.get("norm")), "'norm' does not map"),
        (lambda: Network((3, 2), activation=jnp.tanh), "give a Gate"),
        (lambda: Network((3, 2), loss=gates.get("softmax")), "labels to a scalar"),
        (lambda: Network((3, 2), regularisation=-1.0), "0 or more"),
        (lambda: networks.scores(NETWORK, PARAMS, jnp.ones((5, 4))), r"shape \(N, 3\)"),
        (lambda: networks.scores(NETWORK, PARAMS, jnp.ones(3)), r"shape \(N, 3\)"),
        (lambda: networks.scores(NETWORK, PARAMS, jnp.ones((5, 3), int)), "floating-point dtype"),
        (lambda: networks.scores(NETWORK, {}, jnp.ones((5, 3))), "got none"),
        (
            lambda: networks.loss(NETWORK, PARAMS, jnp.ones((5, 3)), jnp.zeros(4, int)),
            "one per example",
        ),
        (
            lambda: networks.loss_and_gradients(NETWORK, PARAMS, jnp.ones((5, 3)), jnp.zeros(5)),
            "must be integers",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
