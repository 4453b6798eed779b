"""A network's Jacobian, gate by gate, and what becomes of it without the nonlinearity.

∂s/∂x of a network is a product of the Jacobians of its gates: W2·diag(1[h > 0])·W1. Each factor is
explained on its own, the product is formed, and compared with the Jacobian of the whole. Without
the nonlinearity the product is the same matrix everywhere: many layers are worth one.

    print(chain(network, params, x))
    print(without_nonlinearity(network, params, x))
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra.syntax import (
    Cotangent,
    Expression,
    Hadamard,
    Name,
    Product,
    Transposed,
    renamed,
)
from jacobians.errors import ArgumentError
from jacobians.gates.scalar import scale
from jacobians.networks.model import Network, Params, scores
from jacobians.notation import show
from jacobians.notation.formula import USUAL
from jacobians.notation.numbers import POINT
from jacobians.notation.text import bracketed, text_of
from jacobians.structure.explain import explain
from jacobians.structure.explanation import Block, Explanation

Array = Any


@dataclass(frozen=True, eq=False)
class Link:
    """One factor of the chain.

    Attributes:
        name: the derivative, `∂h1/∂x`.
        definition: what the gate computes, `h1 = W1·x + b1`.
        factor: the Jacobian in matrix notation, `W1` or `diag(1[h1 > 0])`.
        block: the explained block.
    """

    name: str
    definition: str
    factor: str
    block: Block


@dataclass(frozen=True, eq=False)
class Chain:
    """∂s/∂x of a network at one example, as a product.

    Attributes:
        links: the factors, from the input to the scores.
        formula: their product, `∂s/∂x = W2·diag(1[h1 > 0])·W1`.
        product: the product of the factors' matrices.
        whole: the explanation of the whole score function.
        difference: the largest difference between the product and the Jacobian of the whole.
    """

    links: tuple[Link, ...]
    formula: str
    product: NDArray[Any]
    whole: Explanation
    difference: float

    def __str__(self) -> str:
        return show.text(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Collapse:
    """A network and the same network without its nonlinearity, side by side.

    Attributes:
        network: the network.
        with_it: ∂s/∂x of the network, explained.
        without: the same without the nonlinearity.
        points: at how many examples Jacobians were compared.
        ranks: rank of the Jacobian at each point, with the nonlinearity.
        ranks_without: the same without.
        different: how many linearly independent Jacobians the points show, with the nonlinearity.
        different_without: the same without: 1, for it is one matrix.
        product_difference: largest difference, without it, between ∂s/∂x and the product of the
            weight matrices.
    """

    network: Network
    with_it: Block
    without: Block
    points: int
    ranks: tuple[int, ...]
    ranks_without: tuple[int, ...]
    different: int
    different_without: int
    product_difference: float

    def __str__(self) -> str:
        return show.text(self)


def chain(network: Network, params: Params, x: Array) -> Chain:
    """Explains ∂s/∂x of a network gate by gate.

    Args:
        network: the network.
        params: its parameters.
        x: one example, (D,).

    Returns:
        The factors with their explanations, their product, and the whole to compare with.

    Raises:
        ArgumentError: the example or a parameter does not fit the network.
    """
    x = _example(network, x)
    links: list[Link] = []
    value, before = x, "x"
    for k in range(1, network.depth + 1):
        last = k == network.depth
        after = "s" if last else f"h{k}"
        W, b = params[f"W{k}"], params[f"b{k}"]
        layer = _named(lambda W, v, b: W @ v + b, (f"W{k}", before, f"b{k}"))
        links.append(_link(layer, (W, value, b), 1, before, after, f"W{k}·{before} + b{k}"))
        value, before = W @ value + b, after
        if not last:
            after = f"a{k}"
            gate = _named(network.activation.forward, (before,))
            text = f"{network.activation.name}({before})"
            links.append(_link(gate, (value,), 0, before, after, text))
            value, before = network.activation.forward(value), after
    product = np.eye(network.sizes[0])
    for link in links:
        product = _matrix(link.block) @ product
    whole = explain(_scores_of(network, params), x)
    difference = float(np.abs(product - _matrix(whole.blocks[0])).max())
    formula = "∂s/∂x = " + "·".join(link.factor for link in reversed(links))
    return Chain(tuple(links), formula, product, whole, difference)


def without_nonlinearity(
    network: Network, params: Params, x: Array, points: int = 6, seed: int = 0
) -> Collapse:
    """Compares a network with itself without the nonlinearity: rank, and constancy.

    Args:
        network: a network with a hidden layer.
        params: its parameters.
        x: one example, (D,), the first of the points.
        points: at how many examples to evaluate Jacobians, the others random.
        seed: of the random examples.

    Returns:
        Both Jacobians explained, their ranks, and how many independent ones the points show.

    Raises:
        ArgumentError: the network has no hidden layer, or the example does not fit it.
    """
    if network.depth < 2:
        raise ArgumentError("a linear classifier has no nonlinearity to take away; add a layer")
    x = _example(network, x)
    plain = replace(network, activation=scale(1))
    generator = np.random.default_rng(seed)
    size = float(np.abs(np.asarray(x)).max()) or 1.0
    examples = [x] + [
        jnp.asarray(size * generator.normal(size=x.shape), x.dtype) for _ in range(points - 1)
    ]
    stack = jnp.stack(examples)
    both = []
    for chosen in (network, plain):
        f = _scores_of(chosen, params)
        block = explain(f, x, points=points, seed=seed).blocks[0]
        matrices = np.asarray(jax.jit(jax.vmap(jax.jacfwd(f)))(stack), np.float64)
        ranks = tuple(_rank(matrix) for matrix in matrices)
        both.append((block, ranks, _rank(matrices.reshape(points, -1)), matrices))
    product = np.eye(network.sizes[0])
    for k in range(1, network.depth + 1):
        product = np.asarray(params[f"W{k}"], np.float64) @ product
    (with_it, ranks, different, _), (without, flat_ranks, flat_different, flat) = both
    return Collapse(
        network=network,
        with_it=with_it,
        without=without,
        points=points,
        ranks=ranks,
        ranks_without=flat_ranks,
        different=different,
        different_without=flat_different,
        product_difference=float(np.abs(flat - product).max()),
    )


def _scores_of(network: Network, params: Params) -> Callable[[Array], Array]:
    def s(x: Array) -> Array:
        return scores(network, params, x[None])[0]

    return s


def _example(network: Network, x: Array) -> Array:
    x = jnp.asarray(x)
    if x.shape != (network.sizes[0],) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(
            f"give one example, floats of shape ({network.sizes[0]},); got {x.dtype} {x.shape}"
        )
    return x


def _link(
    f: Callable[..., Any], args: Sequence[Any], number: int, before: str, after: str, text: str
) -> Link:
    block = explain(f, *args, argnums=number, points=2).blocks[0]
    name = f"∂{after}/∂{before}"
    return Link(name, f"{after} = {text}", _factor(block, name, before, after), block)


def _factor(block: Block, name: str, before: str, after: str) -> str:
    """The Jacobian in matrix notation, read off the derived VJP; its own name where it has none."""
    pullback = block.formulas.pullback
    others = [d for d in block.formulas.definitions if d.name != Name(USUAL)]
    if pullback is None or others:
        return f"({name})"
    if block.structure.kind == "identity":
        return "I"
    cotangent = Cotangent(USUAL)
    match pullback.right:
        case Product((Product((Transposed(matrix), last)),), scale, ()) if last == cotangent:
            return text_of(Product((bracketed(matrix),), scale))
        case Product((Hadamard((first, *rest)),), 1.0, ()) | Hadamard((first, *rest)):
            if first == cotangent and "diagonal" in block.properties:
                return f"diag({text_of(renamed(_entrywise(rest), USUAL, after))})"
    return f"({name})"


def _entrywise(factors: Sequence[Expression]) -> Expression:
    """The entrywise product of what stands beside the cotangent, in its brackets."""
    return bracketed(factors[0], POINT) if len(factors) == 1 else Hadamard(tuple(factors))


def _named(f: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """The function with its parameters called by these names, as `explain` shows them."""

    def call(*values: Any) -> Any:
        return f(*values)

    kind = inspect.Parameter.POSITIONAL_ONLY
    parameters = [inspect.Parameter(name, kind) for name in names]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _matrix(block: Block) -> NDArray[Any]:
    assert block.value is not None
    return np.asarray(block.value, np.float64)


def _rank(matrix: NDArray[Any]) -> int:
    """The numerical rank, with room for the rounding of single precision."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-5 * max(values.max(initial=0.0), 1e-30)).sum())
