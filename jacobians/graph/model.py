"""What a graph is made of, for the reader: nodes, wires, and the local gradients between them.

A wire carries a value forward and a gradient backward; a node multiplies the gradient of its
result by each local gradient, and the products flow down the wires it reads. Where a wire is read
more than once, the products add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jacobians.graph.build import Step, own_precision
from jacobians.graph.local import LocalGradient, local_gradients
from jacobians.graph.wire import Array, Wire


@dataclass(frozen=True, eq=False)
class Node:
    """An operation of the graph, or an input.

    Attributes:
        name: the name of its (first) result.
        operation: what it does: `mul`, `softmax`, `scan`, `input`.
        kind: 'input', 'constant', 'operation', 'call', 'rule', 'loop' or 'group'.
        text: how it is written: `w0·x0`, `exp(v5)`.
        inputs: the wires it reads.
        outputs: the wires it writes.
        downstream: for each input, what flows to it: local gradient times upstream gradient; None
            where no gradient flows.
        step: the operation as a function.
    """

    name: str
    operation: str
    kind: str
    text: str
    inputs: tuple[Wire, ...]
    outputs: tuple[Wire, ...]
    downstream: tuple[Array | None, ...] = ()
    step: Step | None = None

    @property
    def value(self) -> Array:
        """The value of the (first) result."""
        return self.outputs[0].value

    @property
    def gradient(self) -> Array | None:
        """The upstream gradient: that of the (first) result."""
        return self.outputs[0].gradient

    @property
    def scope(self) -> tuple[str, ...]:
        """Names of the opened calls that the node is in."""
        return () if self.step is None else self.step.scope

    @cached_property
    def local_gradients(self) -> tuple[LocalGradient, ...]:
        """The local gradients, one for each result and each input that a gradient flows to.

        Formula and structure are derived from the node's program when first asked for; no matrix
        is ever built.
        """
        if self.step is None:
            return ()
        active = [k for k, part in enumerate(self.downstream) if part is not None]
        with own_precision([wire.value for wire in (*self.inputs, *self.outputs)]):
            return local_gradients(self.step, self.inputs, self.outputs, active)

    def __repr__(self) -> str:
        return f"Node({self.name} = {self.text})"


def consumers(nodes: Sequence[Node]) -> dict[int, list[tuple[int, int]]]:
    """Who reads each wire: wire number to (position of the node, position of the operand)."""
    result: dict[int, list[tuple[int, int]]] = {}
    for position, node in enumerate(nodes):
        for operand, wire in enumerate(node.inputs):
            result.setdefault(wire.number, []).append((position, operand))
    return result
