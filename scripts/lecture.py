"""Walks through the lecture on backpropagation and prints every number in it, computed.

    python scripts/lecture.py

Each step prints the library call that makes its numbers (`>>> …`) and runs that very text, so that
what is shown is what was run. Typed in are the lecture's inputs only. Also for
`jacobians graph scripts.lecture:neuron 2.0 -1.0 -3.0 -2.0 -3.0`.
"""

import inspect  # noqa: F401
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# the steps below name everything that is imported here in their text
from jacobians import backprop, explain, gates, networks  # noqa: F401
from jacobians.graph.backprop import Backprop
from jacobians.report import lecture  # noqa: F401
from jacobians.report.lines import array_text  # noqa: F401


def f(x: Any, y: Any, z: Any) -> Any:
    """The lecture's first circuit."""
    return (x + y) * z


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    """The sigmoid neuron, written out in elementary gates."""
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def neuron_with_gate(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    """The same neuron with the sigmoid as one gate."""
    return gates.get("sigmoid")(w0 * x0 + w1 * x1 + w2)


def add(x: Any, y: Any) -> Any:
    """An add gate."""
    return x + y


def maximum(x: Any, y: Any) -> Any:
    """A max gate."""
    return jnp.maximum(x, y)


def multiply(x: Any, y: Any) -> Any:
    """A multiply gate."""
    return x * y


def roles(x: Any, y: Any, z: Any, w: Any) -> Any:
    """All three in one circuit."""
    return 2 * (x * y + jnp.maximum(z, w))


def branches(x: Any) -> Any:
    """One value used twice."""
    return x * x + 3 * x


def max_gate(x: Any) -> Any:
    """The lecture's vector gate: max(0, x), element by element."""
    return jnp.maximum(0, x)


def product(W: Any, x: Any) -> Any:
    """The multiply gate of the lecture's vector example."""
    return W @ x


def norm_of_product(W: Any, x: Any) -> Any:
    """The lecture's vector example, ‖W·x‖²."""
    q = W @ x
    return jnp.sum(q * q)


def forward(graph: Backprop) -> dict[str, Any]:
    """The forward pass: every gate in order, each from the values before it."""
    given = [node for node in graph.nodes if node.step is None]
    values = {wire.number: wire.value for node in given for wire in node.outputs}
    for node in graph.nodes:
        if node.step is None:
            continue
        inputs = [values.get(wire.number, wire.value) for wire in node.inputs]
        for wire, value in zip(node.outputs, node.step.call(*inputs), strict=True):
            values[wire.number] = value
    return {wire.name: values[wire.number] for wire in graph.wires}


def backward(graph: Backprop) -> dict[str, float]:
    """The backward pass of a circuit of numbers: local times upstream, in reverse order."""
    gradients = {wire.name: 0.0 for wire in graph.wires}
    gradients[graph.outputs[0].name] = 1.0
    for node in reversed(graph.nodes):
        for local in node.local_gradients:
            gradients[local.input] += float(local.value) * gradients[local.output]
    return gradients


def indicator_sum(q: Any, x: Any) -> Any:
    """∂f/∂W_ij = Σ_k 2·q_k · 1[k = i]·x_j, the indicator written out."""
    indicator = np.eye(len(q))
    return np.einsum("k,ki,j->ij", 2 * np.asarray(q), indicator, np.asarray(x))


def milliseconds(call: Callable[[], Any]) -> float:
    """The best of five runs, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "f = (x + y)·z at (−2, 5, −4): the chain rule, gate by gate",
        ("graph = backprop(f, -2.0, 5.0, -4.0)", "print(graph)"),
    ),
    (
        "a sigmoid neuron, w = (2, −3, −3), x = (−1, −2), one elementary gate at a time",
        (
            "w, x = (2.0, -3.0, -3.0), (-1.0, -2.0)",
            "graph = backprop(neuron, w[0], x[0], w[1], x[1], w[2])",
            "print(graph)",
        ),
    ),
    (
        "four gates are one: the sigmoid gate, σ' = σ·(1 − σ), with the same gradients",
        (
            'folded = graph.group("sigmoid", ["v5", "v6", "v7", "out"])',
            "print(folded)",
            "(one,) = gates.get('sigmoid').vjp(1.0, graph['v4'].value)",
            "print(f'hand-written VJP of the sigmoid gate: {one:.4f}')",
            "gate = backprop(neuron_with_gate, w[0], x[0], w[1], x[1], w[2])",
            "for name in ('w0', 'x0', 'w1', 'x1', 'w2'):\n"
            "    made = [float(g.gradients[name]) for g in (graph, folded, gate)]\n"
            "    print('{}: {:.2f} in gates, {:.2f} folded, {:.2f} by the gate'.format(\n"
            "        name, *made))",
        ),
    ),
    (
        "what gates do to the gradient that reaches them: add distributes",
        ("print(backprop(add, 3.0, -4.0, cotangent=2.0))", "print(gates.get('add').why)"),
    ),
    (
        "max routes",
        ("print(backprop(maximum, 2.0, -1.0, cotangent=2.0))", "print(gates.get('maximum').why)"),
    ),
    (
        "multiply switches",
        ("print(backprop(multiply, 3.0, -4.0, cotangent=2.0))", "print(gates.get('multiply').why)"),
    ),
    (
        "all three in one circuit, 2·(x·y + max(z, w))",
        ("print(backprop(roles, 3.0, -4.0, 2.0, -1.0))",),
    ),
    (
        "branches add up: x·x + 3x at 2 uses x three times",
        ("print(backprop(branches, 2.0))",),
    ),
    (
        "vectors: the 4096-wide max gate has a Jacobian of 4096×4096",
        (
            "wide = jax.ShapeDtypeStruct((4096,), jnp.float32)",
            "block = explain(max_gate, wide)['out', 'x']",
            "print(f'{block.shape[0]}×{block.shape[1]}, proved {block.structure}: '\n"
            "      f'{block.nnz} entries of {block.shape[0] * block.shape[1]} can be nonzero')",
            "print(block.vjp_formula)",
            "print(f'as a matrix {block.shape[0] * block.shape[1] * 4 / 2**20:.0f} MiB, '\n"
            "      f'as a mask {block.nnz / 2**10:.0f} KiB')",
            "batch = jax.ShapeDtypeStruct((100, 4096), jnp.float32)",
            "whole = explain(max_gate, batch)['out', 'x']",
            "print(f'a batch of 100: {whole.shape[0]}×{whole.shape[1]}, '\n"
            "      f'{whole.shape[0] * whole.shape[1] * 4 / 2**40:.2f} TiB; "
            "proved {whole.structure}')",
        ),
    ),
    (
        "the cost of never building it",
        (
            "x = jnp.asarray(np.random.default_rng(0).normal(size=4096), jnp.float32)",
            "upstream = jnp.ones(4096)",
            "mask = jax.jit(lambda g, x: gates.get('relu').vjp(g, x)[0])",
            "matrix = jax.jit(lambda g, x: g @ jax.jacobian(max_gate)(x))",
            "same = bool((mask(upstream, x) == matrix(upstream, x)).all())",
            "print(f'the same gradient: {same}')",
            "print(f'by the mask {milliseconds(lambda: mask(upstream, x)):.3f} ms, '\n"
            "      f'by the matrix {milliseconds(lambda: matrix(upstream, x)):.3f} ms')",
        ),
    ),
    (
        "f(W, x) = ‖W·x‖²: values and gradients have the same shapes",
        ("print(lecture.lecture_text())",),
    ),
    (
        "the same as a circuit",
        (
            "W, x = jnp.array(lecture.W), jnp.array(lecture.X)",
            "print(backprop(norm_of_product, W, x))",
        ),
    ),
    (
        "dW by indices: ∂q_k/∂W_ij = 1[k = i]·x_j, derived, and summed with the indicator",
        (
            "q = product(W, x)",
            "print(explain(product, W, x)['out', 'W'].formula)",
            "print(explain(product, W, x)['out', 'x'].formula)",
            "print(f'Σ_k 2·q_k·1[k = i]·x_j = {array_text(indicator_sum(q, x).round(6))}')",
        ),
    ),
    (
        "and as a product of vectors, derived",
        (
            "blocks = explain(norm_of_product, W, x)",
            "for name in ('W', 'x'):\n"
            "    block = blocks['out', name]\n"
            "    print(block.vjp_formula, *block.where, sep=',  ')",
        ),
    ),
    (
        "in code: a gate is a forward function and a backward function",
        (
            "print(inspect.getsource(gates.scalar.multiply))",
            "print(inspect.getsource(gates.scalar.multiply_vjp))",
            "print(gates.get('multiply').forward(3.0, -4.0))",
            "print([float(g) for g in gates.get('multiply').vjp(2.0, 3.0, -4.0)])",
        ),
    ),
    (
        "in code: a graph runs its gates forward, and then backward in reverse order",
        (
            "print(inspect.getsource(backward))",
            "values, gradients = forward(graph), backward(graph)",
            "for name in values:\n"
            "    print(f'{name:>4}  {float(values[name]):6.2f}  {gradients[name]:6.2f}')",
        ),
    ),
    (
        "neural networks: linear classifiers stacked, s = W2·max(0, W1·x)",
        (
            "network = networks.Network((8, 5, 6))",
            "params = networks.initialise(network, seed=0)",
            "x = jnp.asarray(np.random.default_rng(1).normal(size=8), jnp.float32)",
            "print(networks.chain(network, params, x))",
            "print(networks.without_nonlinearity(network, params, x))",
        ),
    ),
    (
        "3 layers, s = W3·max(0, W2·max(0, W1·x))",
        (
            "network = networks.Network((8, 7, 5, 6))",
            "params = networks.initialise(network, seed=0)",
            "print(networks.chain(network, params, x))",
        ),
    ),
)


def main() -> int:
    """Runs the steps, each line in one namespace."""
    names = dict(globals())
    for number, (title, lines) in enumerate(STEPS, 1):
        head = f"{number}. {title}"
        print(f"{head}\n{'─' * len(head)}")
        for line in lines:
            print(">>> " + line.replace("\n", "\n... "))
            exec(line, names)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
