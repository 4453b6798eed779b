"""The lecture's gates: forward functions with hand-written vector-Jacobian products.

The catalogue maps every gate's name to the gate; `get` finds one and, when there is none, says
which names come close.

    gates.get("multiply")
    # Gate('multiply', '(),()->()', role='switches')
    jax.grad(gates.get("sigmoid"))(1.0).round(4)
    # Array(0.1966, dtype=float32...)
"""

from collections.abc import Mapping

from jacobians.gates import loss, scalar, vector
from jacobians.gates.gate import Gate, build_catalogue, check_inputs, example_inputs, find
from jacobians.gates.loss import l2_regularisation
from jacobians.gates.scalar import add_constant, branch, scale
from jacobians.gates.vector import squared_norm_of_product

__all__ = [
    "Gate",
    "add_constant",
    "branch",
    "build_catalogue",
    "catalogue",
    "check_inputs",
    "example_inputs",
    "find",
    "get",
    "l2_regularisation",
    "loss",
    "scalar",
    "scale",
    "squared_norm_of_product",
    "vector",
]

catalogue: Mapping[str, Gate] = build_catalogue((*scalar.GATES, *vector.GATES, *loss.GATES))


def get(name: str) -> Gate:
    """The gate of the catalogue with this name.

    Args:
        name: for example `"multiply"` or `"softmax"`.

    Returns:
        The gate.

    Raises:
        ArgumentError: there is none; the message names the closest ones and all there are.
    """
    return find(catalogue, name)
