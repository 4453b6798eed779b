"""The local gradients of one node: a formula, and a number or the structure of a matrix.

Each node is a small function of its own. Its Jacobian is derived as `explain` derives that of a
whole function, so the matrix between arrays is described and never built; only where both ends are
single numbers, or the matrix is diagonal, is its value computed, by one vector-Jacobian product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jacobians import prove
from jacobians.arguments import Call, Leaf
from jacobians.derive.call import derive_call
from jacobians.derive.walk import is_inexact
from jacobians.formula import formulas
from jacobians.graph.build import Step, pull_back
from jacobians.structure import Structure

if TYPE_CHECKING:
    from jacobians.graph.model import Wire


MAX_DIAGONAL = 1 << 16


@dataclass(frozen=True, eq=False)
class LocalGradient:
    """∂(one result)/∂(one operand) of one node.

    Attributes:
        output: name of the result.
        input: name of the operand.
        operand: position of the operand.
        shape: shape of the Jacobian as a matrix.
        structure: the structure proved; None where it could not be derived.
        formula: the Jacobian in index notation, `x[j]·1[i = k]`, or None.
        vjp_formula: how the upstream gradient is multiplied by it, `W̄ = q̄·xᵀ`, or None.
        where: definitions of the names in the formulas.
        value: the number, where both ends are single numbers; the diagonal, where the matrix is
            diagonal and has no more than 65536 rows; else None.
        note: what is to be known besides, or the empty string.
    """

    output: str
    input: str
    operand: int
    shape: tuple[int, int]
    structure: Structure | None
    formula: str | None
    vjp_formula: str | None
    where: tuple[str, ...]
    value: Any = None
    note: str = ""

    @property
    def scalar(self) -> bool:
        """Whether it is a single number."""
        return self.shape == (1, 1)


def local_gradients(
    step: Step, inputs: "Sequence[Wire]", outputs: "Sequence[Wire]", active: Sequence[int]
) -> tuple[LocalGradient, ...]:
    """Derives the local gradients of a step.

    Args:
        step: the step.
        inputs: the wires it reads.
        outputs: the wires it writes.
        active: positions of the operands that a gradient flows to.

    Returns:
        One per differentiable result and active operand, result by result.
    """
    results = [o for o, wire in enumerate(outputs) if is_inexact(wire.value.dtype)]
    if not active or not results:
        return ()
    call = _call(step, inputs, outputs, active)
    try:
        derivation = derive_call(call)
    except Exception as error:
        # a node whose program the derivation cannot read keeps its numbers; the reader is told
        problem = f"not derived: {type(error).__name__}"
        return tuple(
            _numbers(step, inputs, outputs, o, k, LocalGradient(
                outputs[o].name, inputs[k].name, k,
                (int(outputs[o].value.size), int(inputs[k].value.size)),
                None, None, None, (), None, problem,
            ))
            for o in results for k in active
        )  # fmt: skip
    made = []
    for o in results:
        for k in active:
            output, input_ = call.outputs[o], call.inputs[k]
            proof = prove.prove(
                derivation.terms(o, k), output.shape, input_.shape, derivation.number(k),
                derivation.tape.known,
            )  # fmt: skip
            text = formulas(derivation, o, k)
            formula = None if text.jacobian is None else text.jacobian.split(" = ", 1)[1]
            note = "formula of the program; the number is by its rule" * (step.kind == "rule")
            gradient = LocalGradient(
                outputs[o].name, input_.name, k, (output.size, input_.size), proof.structure,
                _own_name(formula), _own_name(text.vjp),
                tuple(filter(None, map(_own_name, text.where))), None, note,
            )  # fmt: skip
            made.append(_numbers(step, inputs, outputs, o, k, gradient))
    return tuple(made)


def _numbers(
    step: Step,
    inputs: "Sequence[Wire]",
    outputs: "Sequence[Wire]",
    o: int,
    k: int,
    gradient: LocalGradient,
) -> LocalGradient:
    """The gradient with its number, or its diagonal, where it has one."""
    diagonal = gradient.structure is not None and gradient.structure.kind in (
        "identity", "scaled-identity", "diagonal",
    )  # fmt: skip
    if not gradient.scalar and not (diagonal and gradient.shape[0] <= MAX_DIAGONAL):
        return gradient
    cotangents = [
        jax.numpy.ones_like(wire.value) if position == o else None
        for position, wire in enumerate(outputs)
    ]
    (value,) = pull_back(step.call, [wire.value for wire in inputs], [k], cotangents)
    return LocalGradient(**{**gradient.__dict__, "value": value})


# `explain` writes `y` for a result that is called `out`; in a graph every name is the wire's own
_OUT = "rəsult"


def _leaf_name(name: str) -> str:
    return name.replace("out", _OUT, 1) if name.startswith("out") else name


def _own_name(text: str | None) -> str | None:
    return None if text is None else text.replace(_OUT, "out")


def _call(
    step: Step, inputs: "Sequence[Wire]", outputs: "Sequence[Wire]", active: Sequence[int]
) -> Call:
    """The step as a call of named leaves; what takes no derivative is held at its value."""
    leaves = []
    for k, wire in enumerate(inputs):
        shape, dtype = tuple(np.shape(wire.value)), wire.value.dtype
        held = k not in active and (wire.known or not is_inexact(dtype))
        leaves.append(Leaf(wire.name, shape, _plain_dtype(dtype), wire.value, static=held))
    results = [
        Leaf(_leaf_name(wire.name), tuple(np.shape(wire.value)), _plain_dtype(wire.value.dtype))
        for wire in outputs
    ]
    return Call(
        lambda *values: tuple(step.call(*values)),
        tuple(leaves),
        tuple(active),
        tuple(results),
        jax.tree.structure(tuple(range(len(leaves)))),
        jax.tree.structure(tuple(range(len(results)))),
    )


def _plain_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of what has a derivative; `object` for integers, keys and their kin."""
    return np.dtype(dtype if is_inexact(dtype) else object)
