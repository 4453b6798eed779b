"""The local gradients of one node: a formula, and a number or the structure of a matrix.

Each node is a small function of its own. Its Jacobian is derived as `explain` derives that of a
whole function, so the matrix between arrays is described and never built; only where both ends are
single numbers, or the matrix is diagonal, is its value computed, by one vector-Jacobian product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jacobians import program
from jacobians.derive.algebra.syntax import Comparison, Expression, Indicator, walk
from jacobians.derive.call import CallDerivation, derive_call
from jacobians.graph.build import Step, pull_back
from jacobians.notation.formula import UNWRITTEN, Formulas, formulas
from jacobians.notation.text import text_of
from jacobians.program import strip
from jacobians.program.call import Call, Leaf
from jacobians.program.view import is_inexact
from jacobians.structure import proved
from jacobians.structure.kinds import Structure

if TYPE_CHECKING:
    from jacobians.graph.wire import Wire

MAX_DIAGONAL = 1 << 16


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalGradient:
    """∂(one result)/∂(one operand) of one node.

    Attributes:
        output: name of the result.
        input: name of the operand.
        operand: position of the operand.
        shape: shape of the Jacobian as a matrix.
        structure: the structure proved; None where it could not be derived. A node with a custom
            derivative has that of its rule; where the rule gives what its program gives, at this
            point and for random cotangents, that of the program.
        formulas: the formulas, as objects.
        value: the number, where both ends are single numbers; the diagonal, where the matrix is
            diagonal and has no more than 65536 rows; else None.
        note: what is to be known besides, or the empty string.
    """

    output: str
    input: str
    operand: int
    shape: tuple[int, int]
    structure: Structure | None = None
    formulas: Formulas = UNWRITTEN
    value: Any = None
    note: str = ""

    @property
    def formula(self) -> str | None:
        """The Jacobian in index notation, `x[j]·1[i = k]`, or None."""
        derivative = self.formulas.derivative
        return None if derivative is None else text_of(derivative.right)

    @property
    def vjp_formula(self) -> str | None:
        """How the upstream gradient is multiplied by it, `W̄ = q̄·xᵀ`, or None."""
        return self.formulas.vjp

    @property
    def where(self) -> tuple[str, ...]:
        """Definitions of the names in the formulas."""
        return self.formulas.where

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
    by_rule = step.kind == "rule" and not _rule_agrees(step, inputs, outputs, active)
    make = _by_rule if by_rule else _by_program
    try:
        call = make(step, inputs, outputs, active)
        derivation = derive_call(call)
    except Exception as error:
        # a node that the derivation cannot read keeps its numbers; the reader is told
        problem = (
            "not derived: its rule is not linear in the upstream gradient"
            if by_rule and isinstance(error, NotImplementedError)
            else f"not derived: {type(error).__name__}"
        )
        underived = [
            LocalGradient(
                output=outputs[o].name,
                input=inputs[k].name,
                operand=k,
                shape=(int(outputs[o].value.size), int(inputs[k].value.size)),
                note=problem,
            )
            for o in results
            for k in active
        ]
        return tuple(_numbers(step, inputs, outputs, gradient) for gradient in underived)
    derived = [
        replace(_derived(derivation, o, position, by_rule), output=outputs[o].name, operand=k)
        for o in results
        for k, position in zip(active, call.selected, strict=True)
    ]
    return tuple(_numbers(step, inputs, outputs, gradient) for gradient in derived)


def _derived(derivation: CallDerivation, o: int, position: int, by_rule: bool) -> LocalGradient:
    """The local gradient of result o by the leaf at a position, in structure and formulas."""
    output, input_ = derivation.call.outputs[o], derivation.call.inputs[position]
    proof = proved.prove(
        derivation.terms(o, position),
        output.shape,
        input_.shape,
        (derivation.number(position),),
        derivation.tape.certain,
    )
    written = formulas(derivation, o, position, own_name=True)
    if by_rule and written.derivative is not None and _compares(written.derivative):
        # a rule may multiply by the truth of x > 0, which formulas have no sign for
        written = replace(written, derivative=None, pullback=None)
    return LocalGradient(
        output=output.name,
        input=input_.name,
        operand=position,
        shape=(output.size, input_.size),
        structure=proof.structure,
        formulas=written,
    )


def _numbers(
    step: Step,
    inputs: "Sequence[Wire]",
    outputs: "Sequence[Wire]",
    gradient: LocalGradient,
) -> LocalGradient:
    """The gradient with its number, or its diagonal, where it has one."""
    diagonal = gradient.structure is not None and gradient.structure.kind in (
        "identity",
        "scaled-identity",
        "diagonal",
    )
    if not gradient.scalar and not (diagonal and gradient.shape[0] <= MAX_DIAGONAL):
        return gradient
    cotangents = [
        jax.numpy.ones_like(wire.value) if wire.name == gradient.output else None
        for wire in outputs
    ]
    values = [wire.value for wire in inputs]
    (value,) = pull_back(step.call, values, [gradient.operand], cotangents)
    return replace(gradient, value=value)


def _compares(formula: Expression) -> bool:
    """Whether a comparison stands outside of an indicator `1[…]`."""
    return any(isinstance(part, Comparison) for part in walk(formula, outside=Indicator))


def _rule_agrees(
    step: Step, inputs: "Sequence[Wire]", outputs: "Sequence[Wire]", active: Sequence[int]
) -> bool:
    """Whether a custom rule is, at this point, the derivative of the program that it wraps.

    Both are linear in the cotangent, so a few random ones tell, up to rounding; then what is
    derived of the program holds for the rule here.
    """
    wrapped = program.called_program(step.equation)
    if wrapped is None:
        return False
    values = [wire.value for wire in inputs]
    generator = np.random.default_rng(0)
    for _ in range(2):
        cotangents = [
            jax.numpy.asarray(generator.normal(size=np.shape(w.value)), w.value.dtype)
            if is_inexact(w.value.dtype)
            else None
            for w in outputs
        ]
        try:
            plain = pull_back(lambda *v: strip.run(wrapped, v), values, active, cotangents)
        except ValueError:
            # there may be a rule because the program has no reverse derivative (a while loop)
            return False
        for a, b in zip(pull_back(step.call, values, active, cotangents), plain, strict=True):
            size = float(jax.numpy.max(jax.numpy.abs(b), initial=0.0))
            if not np.allclose(a, b, rtol=1e-4, atol=1e-5 * size):
                return False
    return True


def _by_program(
    step: Step, inputs: "Sequence[Wire]", outputs: "Sequence[Wire]", active: Sequence[int]
) -> Call:
    """The step as a call of named leaves; what takes no derivative is held at its value."""
    leaves = [_leaf(wire, k in active) for k, wire in enumerate(inputs)]
    return _bound(lambda *values: tuple(step.call(*values)), leaves, active, outputs)


def _by_rule(
    step: Step, inputs: "Sequence[Wire]", outputs: "Sequence[Wire]", active: Sequence[int]
) -> Call:
    """The linear map that a custom rule says the step is, as a call of its tangents.

    The rule gives x̄ = Jᵀ·ȳ; transposed once more it is J itself, whatever the program it wraps.
    The operands are there too, by their names, for the formulas.
    """
    results = [o for o, wire in enumerate(outputs) if is_inexact(wire.value.dtype)]
    shapes = [
        jax.ShapeDtypeStruct(np.shape(outputs[o].value), outputs[o].value.dtype) for o in results
    ]

    def linear(*values: Any) -> tuple[Any, ...]:
        operands, tangents = values[: len(inputs)], values[len(inputs) :]

        def pulled(*cotangents: Any) -> tuple[Any, ...]:
            given: list[Any] = [None] * len(outputs)
            for o, cotangent in zip(results, cotangents, strict=True):
                given[o] = cotangent
            return pull_back(step.call, operands, active, given)

        pushed = jax.linear_transpose(pulled, *shapes)(tuple(tangents))
        made = [wire.value for wire in outputs]
        for o, tangent in zip(results, pushed, strict=True):
            made[o] = tangent
        return tuple(made)

    leaves = [_leaf(wire, True) for wire in inputs]
    leaves += [_leaf(inputs[k], True) for k in active]
    selected = range(len(inputs), len(leaves))
    return _bound(linear, leaves, tuple(selected), outputs)


def _bound(
    f: Callable[..., Any],
    leaves: Sequence[Leaf],
    selected: Sequence[int],
    outputs: "Sequence[Wire]",
) -> Call:
    """A function of wires as a call with named leaves."""
    results = [
        Leaf(wire.name, tuple(np.shape(wire.value)), _plain_dtype(wire.value.dtype))
        for wire in outputs
    ]
    return Call(
        f,
        tuple(leaves),
        tuple(selected),
        tuple(results),
        jax.tree.structure(tuple(range(len(leaves)))),
        jax.tree.structure(tuple(range(len(results)))),
    )


def _leaf(wire: "Wire", moving: bool) -> Leaf:
    """A wire as an argument; numbers known beforehand and integers are held at their values."""
    dtype = wire.value.dtype
    held = not is_inexact(dtype) or (wire.known and not moving)
    shape = tuple(np.shape(wire.value))
    return Leaf(wire.name, shape, _plain_dtype(dtype), wire.value, static=held)


def _plain_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of what has a derivative; `object` for integers, keys and their kin."""
    return np.dtype(dtype if is_inexact(dtype) else object)
