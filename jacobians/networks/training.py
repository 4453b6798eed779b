"""Stochastic gradient descent with the hand-written backward pass, and a set of toy data.

An epoch is one compiled loop over mini-batches; its order is drawn from a seed, so that a run can
be repeated to the last digit on the same machine.

    X, labels = spiral(100, classes=3, seed=0)
    result = train(Network((2, 100, 3)), X, labels, SGD(rate=0.5, epochs=100))
    result.losses[-1]
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.errors import ArgumentError
from jacobians.networks.model import Network, Params, initialise, loss_and_gradients, scores

Array = Any
Schedule = Callable[[float], float]
Progress = Callable[[Iterable[int]], Iterable[int]]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "step": lambda done: 0.1 ** math.floor(3 * done),
}


@dataclass(frozen=True)
class SGD:
    """How to train.

    Attributes:
        rate: the learning rate at the start.
        momentum: how much of the last step is kept, in [0, 1).
        batch: examples per step.
        epochs: passes over the data.
        schedule: `constant`, `cosine` (to 0), `step` (a tenth after each third), or a function
            from the share of the training done, in [0, 1), to a factor of the rate.
        seed: of the order of the examples, and of the first weights.

    Raises:
        ArgumentError: a number is out of range or the schedule unknown.
    """

    rate: float = 0.1
    momentum: float = 0.9
    batch: int = 64
    epochs: int = 30
    schedule: str | Schedule = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"rate={self.rate!r} is not a positive number" * (not 0 < self.rate < math.inf),
            f"momentum={self.momentum!r} is not in [0, 1)" * (not 0 <= self.momentum < 1),
            f"batch={self.batch!r} is not at least 1" * (self.batch < 1),
            f"epochs={self.epochs!r} is not at least 1" * (self.epochs < 1),
            f"schedule={self.schedule!r} is none of {', '.join(SCHEDULES)}"
            * (isinstance(self.schedule, str) and self.schedule not in SCHEDULES),
        ]
        for problem in filter(None, problems):
            raise ArgumentError(f"SGD: {problem}")

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        schedule = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        return self.rate * schedule(epoch / self.epochs)


@dataclass(frozen=True, eq=False)
class Trained:
    """The outcome of a training.

    Attributes:
        params: the parameters.
        losses: the mean loss of each epoch's batches.
    """

    params: dict[str, Array]
    losses: tuple[float, ...]


def train(
    network: Network,
    X: Array,
    labels: Array,
    how: SGD | None = None,
    params: Params | None = None,
    progress: Progress = iter,
) -> Trained:
    """Trains a network by stochastic gradient descent with momentum.

    Args:
        network: the network.
        X: (N, D) floats, one example per row.
        labels: (N,) integers in 0 … C−1.
        how: rate, momentum, schedule, batch, epochs, seed; default `SGD()`.
        params: where to start; default `initialise(network, how.seed)`.
        progress: wraps the iteration over epochs, for a progress bar.

    Returns:
        The trained parameters and the loss of every epoch. In each epoch every example is used
        once, but for those that do not fill a last batch.

    Raises:
        ArgumentError: data, labels or parameters do not fit the network; a label is out of range;
            there is no example.
    """
    how = SGD() if how is None else how
    X, labels = jnp.asarray(X), jnp.asarray(labels)
    if not len(X):
        raise ArgumentError("there is no example to train on")
    chosen = np.asarray(labels)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= network.sizes[-1]):
        raise ArgumentError(
            f"labels run from {chosen.min()} to {chosen.max()}; a network with "
            f"{network.sizes[-1]} classes takes 0 to {network.sizes[-1] - 1}"
        )
    start = initialise(network, how.seed, X.dtype) if params is None else dict(params)
    current = {name: jnp.asarray(value) for name, value in start.items()}
    velocity = {name: jnp.zeros_like(value) for name, value in current.items()}
    batch = min(how.batch, len(X))
    generator = np.random.default_rng(how.seed)
    run = _epoch(network, how.momentum)
    losses = []
    for epoch in progress(range(how.epochs)):
        order = generator.permutation(len(X))[: len(X) // batch * batch].reshape(-1, batch)
        rate = jnp.asarray(how.rate_at(epoch), X.dtype)
        current, velocity, mean = run(current, velocity, X, labels, jnp.asarray(order), rate)
        losses.append(float(mean))
    return Trained(current, tuple(losses))


def accuracy(network: Network, params: Params, X: Array, labels: Array) -> float:
    """The share of examples whose highest score is that of their class.

    Args:
        network: the network.
        params: its parameters.
        X: (N, D), one example per row.
        labels: (N,) integers.

    Returns:
        A number from 0 to 1.

    Raises:
        ArgumentError: the examples do not fit the network.
    """
    chosen = jnp.argmax(scores(network, params, jnp.asarray(X)), axis=-1)
    return float(jnp.mean(chosen == jnp.asarray(labels)))


def spiral(
    points: int, classes: int = 3, noise: float = 0.2, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Points in the plane on interleaved spiral arms, one arm per class; no line separates them.

    Args:
        points: how many per class.
        classes: how many arms.
        noise: standard deviation of the angle.
        seed: of the generator.

    Returns:
        (points·classes, 2) float32 and (points·classes,) int32.

    Source: the spiral of Stanford's CS231n notes, "Putting it together".
    """
    generator = np.random.default_rng(seed)
    arms = []
    for arm in range(classes):
        radius = np.linspace(0.05, 1.0, points)
        angle = 4 * (radius + arm * 2 * np.pi / (4 * classes)) + generator.normal(
            scale=noise, size=points
        )
        arms.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
    labels = np.repeat(np.arange(classes, dtype=np.int32), points)
    return np.concatenate(arms).astype(np.float32), labels


def _epoch(network: Network, momentum: float) -> Callable[..., Any]:
    """One pass over shuffled batches as a compiled function."""

    @jax.jit
    def run(
        params: Params, velocity: Params, X: Array, labels: Array, order: Array, rate: Array
    ) -> Any:
        def step(state: Any, rows: Array) -> Any:
            params, velocity = state
            value, gradients = loss_and_gradients(network, params, X[rows], labels[rows])
            velocity = {k: momentum * velocity[k] - rate * gradients[k] for k in params}
            return ({k: params[k] + velocity[k] for k in params}, velocity), value

        (params, velocity), losses = jax.lax.scan(step, (params, velocity), order)
        return params, velocity, jnp.mean(losses)

    return run
