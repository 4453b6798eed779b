"""A network's forward and backward pass, each a walk along its gates.

Forward, every layer is three gates: `linear`, `add_bias` and, but for the last layer, the
activation. Backward runs the same gates in reverse and calls the VJP that stands next to each
one's forward function. What a VJP needs of the forward pass is kept.

    network = Network((2, 100, 3), activation=gates.get("tanh"))
    params = initialise(network, seed=0)
    value, gradients = loss_and_gradients(network, params, X, labels)
"""

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.errors import ArgumentError
from jacobians.gates.gate import Gate
from jacobians.gates.loss import CROSS_ENTROPY, l2_regularisation
from jacobians.gates.vector import ADD_BIAS, RELU, matmul, matmul_vjp
from jacobians.program.call import short_type

Params = Mapping[str, Any]
Array = Any


def linear(X: Any, W: Any) -> Any:
    return matmul(X, jnp.swapaxes(W, -1, -2))


def linear_vjp(cotangent: Any, X: Any, W: Any) -> tuple[Any, ...]:
    dX, dW_transposed = matmul_vjp(cotangent, X, jnp.swapaxes(W, -1, -2))
    return dX, jnp.swapaxes(dW_transposed, -1, -2)


LINEAR = Gate(
    "linear",
    linear,
    linear_vjp,
    "(N,n),(m,n)->(N,m)",
    role="switches",
    why="W·x for every row x of the batch: W receives Σ s̄·xᵀ over the batch, and X receives S̄·W",
)


@dataclass(frozen=True)
class Network:
    """The shape of a classifier: no numbers in it.

    Attributes:
        sizes: width of the input, of each hidden layer, and the number of classes; two sizes are
            a linear classifier.
        activation: the gate between layers: one input, an output of the same shape.
        loss: the gate of scores and labels, such as `CROSS_ENTROPY` or `HINGE` (multiclass SVM).
        regularisation: λ of the L2 penalty λ·ΣW² on every weight matrix (not on biases).

    Raises:
        ArgumentError: the sizes are no positive integers, or a gate does not fit its place.
    """

    sizes: tuple[int, ...]
    activation: Gate = RELU
    loss: Gate = CROSS_ENTROPY
    regularisation: float = 0.0

    def __post_init__(self) -> None:
        """Refuses sizes, gates and strengths that make no network."""
        try:
            sizes = tuple(operator.index(n) for n in self.sizes)
        except TypeError:
            sizes = ()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ArgumentError(
                f"sizes={self.sizes!r}: give at least two positive integers, the width of the "
                "input and the number of classes, with those of the hidden layers in between"
            )
        object.__setattr__(self, "sizes", sizes)
        _check_gates(self)
        if not np.isfinite(self.regularisation) or self.regularisation < 0:
            raise ArgumentError(
                f"regularisation={self.regularisation!r}: give a finite number, 0 or more"
            )

    @property
    def depth(self) -> int:
        """The number of layers, each with a weight matrix."""
        return len(self.sizes) - 1


@dataclass(frozen=True, eq=False)
class Kept:
    """What the backward pass needs of the forward pass.

    Attributes:
        inputs: the input of each layer, (N, width).
        products: W·x of each layer, before the bias.
        sums: with the bias, before the activation; the last are the scores.
    """

    inputs: tuple[Array, ...]
    products: tuple[Array, ...]
    sums: tuple[Array, ...]


def initialise(network: Network, seed: int = 0, dtype: Any = jnp.float32) -> dict[str, Array]:
    """Random weights and zero biases.

    Args:
        network: the network.
        seed: of NumPy's generator.
        dtype: a floating-point dtype.

    Returns:
        `W1` of shape (width of layer 1, width of input), `b1`, `W2`, …; normal with variance
        2/width (He et al., 2015).
    """
    generator = np.random.default_rng(seed)
    params = {}
    for k, (n, m) in enumerate(zip(network.sizes[:-1], network.sizes[1:], strict=True), 1):
        params[f"W{k}"] = jnp.asarray(generator.normal(size=(m, n)) * np.sqrt(2 / n), dtype)
        params[f"b{k}"] = jnp.zeros(m, dtype)
    return params


def forward(network: Network, params: Params, X: Array) -> tuple[Array, Kept]:
    """The scores of a batch, and what the backward pass needs.

    Args:
        network: the network.
        params: its parameters, as `initialise` makes them.
        X: (N, D), one example per row.

    Returns:
        The scores, (N, C), and what was kept.

    Raises:
        ArgumentError: the batch or a parameter does not have the network's shapes.
    """
    _check_params(network, params)
    _check_batch(network, X)
    inputs, products, sums = [], [], []
    x = X
    for k in range(1, network.depth + 1):
        inputs.append(x)
        products.append(LINEAR.forward(x, params[f"W{k}"]))
        sums.append(ADD_BIAS.forward(products[-1], params[f"b{k}"]))
        x = network.activation.forward(sums[-1]) if k < network.depth else sums[-1]
    return x, Kept(tuple(inputs), tuple(products), tuple(sums))


def scores(network: Network, params: Params, X: Array) -> Array:
    """The scores of a batch.

    Args:
        network: the network.
        params: its parameters.
        X: (N, D), one example per row.

    Returns:
        (N, C).

    Raises:
        ArgumentError: as for `forward`.
    """
    return forward(network, params, X)[0]


def backward(
    network: Network, params: Params, kept: Kept, cotangent: Array
) -> tuple[dict[str, Array], Array]:
    """The gradients of all parameters from the gradient of the scores.

    Args:
        network: the network.
        params: its parameters.
        kept: what `forward` kept.
        cotangent: the gradient of the scores, (N, C).

    Returns:
        The gradients, named and shaped as the parameters, and that of the batch, (N, D).
    """
    gradients = {}
    upstream = cotangent
    for k in range(network.depth, 0, -1):
        if k < network.depth:
            (upstream,) = network.activation.vjp(upstream, kept.sums[k - 1])
        upstream, gradients[f"b{k}"] = ADD_BIAS.vjp(upstream, kept.products[k - 1], params[f"b{k}"])
        upstream, gradients[f"W{k}"] = LINEAR.vjp(upstream, kept.inputs[k - 1], params[f"W{k}"])
    return gradients, upstream


def loss(network: Network, params: Params, X: Array, labels: Array) -> Array:
    """The loss of a batch: the mean over its examples, plus the L2 penalty.

    Args:
        network: the network.
        params: its parameters.
        X: (N, D), one example per row.
        labels: (N,) integers in 0 … C−1.

    Returns:
        A scalar.

    Raises:
        ArgumentError: as for `forward`, or the labels do not fit the batch.
    """
    _check_labels(X, labels)
    value = network.loss.forward(scores(network, params, X), labels)
    for penalty, name in _penalties(network):
        value = value + penalty.forward(params[name])
    return value


def loss_and_gradients(
    network: Network, params: Params, X: Array, labels: Array
) -> tuple[Array, dict[str, Array]]:
    """The loss of a batch and its gradient with respect to every parameter, by the gates' VJPs.

    Args:
        network: the network.
        params: its parameters.
        X: (N, D), one example per row.
        labels: (N,) integers in 0 … C−1.

    Returns:
        The loss, and the gradients named and shaped as the parameters.

    Raises:
        ArgumentError: as for `loss`.
    """
    _check_labels(X, labels)
    s, kept = forward(network, params, X)
    value = network.loss.forward(s, labels)
    one = jnp.ones_like(value)
    dscores, _ = network.loss.vjp(one, s, labels)
    gradients, _ = backward(network, params, kept, dscores)
    for penalty, name in _penalties(network):
        # the sum of losses distributes the gradient 1; W is used twice, so its parts add up
        value = value + penalty.forward(params[name])
        gradients[name] = gradients[name] + penalty.vjp(one, params[name])[0]
    return value, gradients


def save(path: str | os.PathLike[str], params: Params) -> None:
    """Saves parameters as a NumPy `.npz` file.

    Args:
        path: where; the file is named exactly so.
        params: arrays by name.
    """
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in params.items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load(path: str | os.PathLike[str], network: Network) -> dict[str, Array]:
    """Loads parameters and checks that they are a network's.

    Args:
        path: a file that `save` wrote.
        network: the network.

    Returns:
        The parameters.

    Raises:
        ArgumentError: the file is no parameter file, or is that of another network.
    """
    wrong = f"{os.fspath(path)!r} is no file of saved parameters"
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ArgumentError(f"{wrong}: it holds a single array")
        with loaded as file:
            params = {name: jnp.asarray(file[name]) for name in file.files}
    except FileNotFoundError:
        raise ArgumentError(f"there is no file {os.fspath(path)!r}") from None
    except ArgumentError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise ArgumentError(f"{wrong} ({error})") from None
    _check_params(network, params)
    return {name: params[name] for name in _shapes(network)}


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (n, m) in enumerate(zip(network.sizes[:-1], network.sizes[1:], strict=True), 1):
        shapes |= {f"W{k}": (m, n), f"b{k}": (m,)}
    return shapes


def _penalties(network: Network) -> list[tuple[Gate, str]]:
    if not network.regularisation:
        return []
    gate = l2_regularisation(network.regularisation)
    return [(gate, f"W{k}") for k in range(1, network.depth + 1)]


def _check_gates(network: Network) -> None:
    """Refuses gates that do not map the shapes of a hidden layer, or of scores and labels."""
    probe = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    for what, gate, inputs, shape in (
        ("activation", network.activation, (probe,), (2, 3)),
        ("loss", network.loss, (probe, labels), ()),
    ):
        if not isinstance(gate, Gate):
            raise ArgumentError(f"{what}={gate!r}: give a Gate, such as gates.get('tanh')")
        try:
            made = jax.eval_shape(gate, *inputs)
            fits = getattr(made, "shape", None) == shape
        except (ArgumentError, TypeError):
            fits = False
        if not fits:
            wants = "(N, n) to (N, n)" if what == "activation" else "(N, C) and labels to a scalar"
            raise ArgumentError(f"{what}: the gate {gate.name!r} does not map {wants}")


def _check_params(network: Network, params: Params) -> None:
    shapes = _shapes(network)
    if set(params) != set(shapes):
        raise ArgumentError(
            f"a network of sizes {network.sizes} has the parameters {', '.join(shapes)}; "
            f"got {', '.join(sorted(params)) or 'none'}"
        )
    for name, shape in shapes.items():
        given = jnp.shape(params[name])
        if given != shape:
            raise ArgumentError(
                f"{name} of a network of sizes {network.sizes} has the shape {shape}, got {given}"
            )


def _check_batch(network: Network, X: Array) -> None:
    shape = jnp.shape(X)
    if len(shape) != 2 or shape[1] != network.sizes[0]:
        raise ArgumentError(
            f"the batch must be of shape (N, {network.sizes[0]}), one example per row; got {shape}"
        )
    if not jnp.issubdtype(jnp.result_type(X), jnp.floating):
        given = short_type(shape, jnp.result_type(X))
        raise ArgumentError(f"the batch must be of a floating-point dtype, got {given}")


def _check_labels(X: Array, labels: Array) -> None:
    expected = jnp.shape(X)[:1]
    if jnp.shape(labels) != expected or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        given = short_type(jnp.shape(labels), jnp.result_type(labels))
        raise ArgumentError(
            f"labels must be integers of shape {expected}, one per example; got {given}"
        )
