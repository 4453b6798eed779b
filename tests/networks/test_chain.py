"""The chain of Jacobians of a network, and what is left of it without the nonlinearity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import ArgumentError, gates, networks
from jacobians.networks import Network


def example(n, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=n), jnp.float32)


def test_the_chain_of_a_two_layer_network_is_the_lectures():
    network = Network((4, 5, 3))
    made = networks.chain(network, networks.initialise(network, 0), example(4))
    assert made.formula == "∂s/∂x = W2·diag(1[h1 > 0])·W1"
    assert [link.block.structure.kind for link in made.links] == ["dense", "diagonal", "dense"]
    assert ["constant" in link.block.properties for link in made.links] == [True, False, True]


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "square"])
def test_the_product_is_the_jacobian_of_the_whole(name):
    network = Network((4, 5, 6, 3), gates.get(name))
    params, x = networks.initialise(network, 0), example(4)
    made = networks.chain(network, params, x)
    expected = jax.jacfwd(lambda v: networks.scores(network, params, v[None])[0])(x)
    np.testing.assert_allclose(made.product, expected, rtol=1e-4, atol=1e-6)
    assert made.difference < 1e-5
    assert "∂s/∂a2" in str(made)
    assert max(map(len, str(made).splitlines())) <= 100


def test_without_the_nonlinearity_it_is_one_matrix_of_low_rank():
    network = Network((8, 3, 6))
    made = networks.without_nonlinearity(network, networks.initialise(network, 0), example(8))
    assert "constant" in made.without.properties
    assert "constant" not in made.with_it.properties
    assert set(made.ranks_without) == {3}
    assert made.different_without == 1
    assert made.different > 1
    assert made.product_difference < 1e-5
    text = str(made)
    assert "constant (proved)" in text
    assert "W2·W1" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_linear_activation_is_no_nonlinearity():
    network = Network((4, 5, 3), gates.scale(2.0))
    made = networks.without_nonlinearity(network, networks.initialise(network, 0), example(4))
    assert made.different == 1
    assert "constant" in made.with_it.properties


def test_mistakes_are_named():
    network = Network((4, 3))
    params = networks.initialise(network, 0)
    with pytest.raises(ArgumentError, match="no nonlinearity to take away"):
        networks.without_nonlinearity(network, params, example(4))
    with pytest.raises(ArgumentError, match=r"floats of shape \(4,\)"):
        networks.chain(network, params, example(5))
