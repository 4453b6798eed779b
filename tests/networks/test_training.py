"""Training: reproducible, and able to learn what a linear classifier cannot."""

import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import ArgumentError, networks
from jacobians.networks import SGD, Network, accuracy, spiral, train


@pytest.fixture(scope="module")
def arms():
    return spiral(60, classes=3, seed=0)


def test_a_run_is_repeated_to_the_last_digit(arms):
    network, how = Network((2, 8, 3)), SGD(epochs=4, seed=3)
    first, again = (train(network, *arms, how) for _ in range(2))
    assert first.losses == again.losses
    assert all(bool((first.params[k] == again.params[k]).all()) for k in first.params)
    other = train(network, *arms, SGD(epochs=4, seed=4))
    assert other.losses != first.losses


def test_a_network_learns_the_spiral_and_a_linear_classifier_does_not(arms):
    how = SGD(rate=0.3, batch=36, epochs=150)
    reached = {}
    for sizes in ((2, 3), (2, 64, 3)):
        network = Network(sizes)
        result = train(network, *arms, how)
        assert result.losses[-1] < result.losses[0]
        reached[len(sizes)] = accuracy(network, result.params, *arms)
    assert reached[2] < 0.7
    assert reached[3] > 0.95


def test_one_step_of_plain_sgd_is_the_formula(arms):
    X, labels = arms
    network = Network((2, 4, 3), regularisation=0.1)
    start = networks.initialise(network, 0)
    _, gradients = networks.loss_and_gradients(network, start, X, labels)
    how = SGD(rate=0.5, momentum=0.0, batch=len(X), epochs=1, schedule="constant")
    after = train(network, X, labels, how, start).params
    for name in start:
        expected = start[name] - 0.5 * gradients[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5)


def test_momentum_keeps_part_of_the_last_step(arms):
    X, labels = arms
    network = Network((2, 3))
    start = networks.initialise(network, 0)
    how = SGD(rate=0.1, momentum=0.5, batch=len(X), epochs=2, schedule="constant")
    after = train(network, X, labels, how, start).params
    velocity = {k: jnp.zeros_like(v) for k, v in start.items()}
    for _ in range(2):
        _, gradients = networks.loss_and_gradients(network, start, X, labels)
        velocity = {k: 0.5 * velocity[k] - 0.1 * gradients[k] for k in start}
        start = {k: start[k] + velocity[k] for k in start}
    for name in start:
        np.testing.assert_allclose(after[name], start[name], rtol=1e-4, atol=1e-6)


def test_schedules():
    assert [SGD(rate=2.0, epochs=4, schedule="constant").rate_at(k) for k in range(4)] == [2.0] * 4
    cosine = [SGD(rate=1.0, epochs=4).rate_at(k) for k in range(4)]
    np.testing.assert_allclose(cosine, [1, 0.853553, 0.5, 0.146447], rtol=1e-5)
    step = [SGD(rate=1.0, epochs=6, schedule="step").rate_at(k) for k in range(6)]
    np.testing.assert_allclose(step, [1, 1, 0.1, 0.1, 0.01, 0.01])
    assert SGD(rate=1.0, epochs=2, schedule=lambda done: 1 - done).rate_at(1) == 0.5


def test_progress_wraps_the_epochs(arms):
    seen = []

    def watch(epochs):
        for epoch in epochs:
            seen.append(epoch)
            yield epoch

    train(Network((2, 3)), *arms, SGD(epochs=3), progress=watch)
    assert seen == [0, 1, 2]


def test_the_spiral_is_what_it_says(arms):
    X, labels = arms
    assert X.shape == (180, 2)
    assert X.dtype == np.float32
    assert (np.bincount(labels) == 60).all()
    assert (np.linalg.norm(X, axis=1) <= 1 + 1e-6).all()
    np.testing.assert_array_equal(spiral(60, seed=0)[0], X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate=0.0 is not a positive number"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"batch": 0}, "batch=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"schedule": "cosin"}, "none of constant, cosine, step"),
    ],
)
def test_mistakes_in_how_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        SGD(**options)


def test_mistakes_in_the_data_are_named(arms):
    X, labels = arms
    with pytest.raises(ArgumentError, match="labels run from 0 to 2; a network with 2 classes"):
        train(Network((2, 2)), X, labels)
    with pytest.raises(ArgumentError, match="no example"):
        train(Network((2, 2)), X[:0], labels[:0])
    with pytest.raises(ArgumentError, match=r"shape \(N, 4\)"):
        train(Network((4, 3)), X, labels)
