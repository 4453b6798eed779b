"""What a rule sees of one operation: shapes, parameters, known operands, and factor makers.

A rule returns *local* terms, ∂(one result)/∂(one operand) of this operation alone; the walk
composes them with what is known of the operands.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import ZERO, Affine
from jacobians.derive.algebra.coefficient import Coefficient, Factor, Product
from jacobians.derive.algebra.syntax import Call, Comparison, Indicator, Slot, Words
from jacobians.derive.algebra.term import Term
from jacobians.derive.tape import Function, Node, Tape
from jacobians.program.primitives import Does, does

Shape = tuple[int, ...]
Index = tuple[Affine, ...]


@dataclass(frozen=True)
class Local:
    """One local term: of result number `output` with respect to operand number `operand`."""

    output: int
    operand: int
    term: Term


class Box:
    """Makes index variables and remembers their sizes."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def axis(self, size: int) -> Affine:
        """An index that runs over [0, size)."""
        if size == 1:
            return ZERO
        v = affine.fresh()
        self.sizes[v] = size
        return affine.variable(v)

    def axes(self, shape: Sequence[int]) -> Index:
        """One index per axis of `shape`."""
        return tuple(self.axis(n) for n in shape)


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the program as its rule sees it.

    Attributes:
        node: the operation.
        tape: the tape that its operands and results are on.
        active: numbers of the operands that carry a derivative.
        note: called with a sentence when a rule has to be wider than the operation.
    """

    node: Node
    tape: Tape
    active: tuple[int, ...]
    note: Callable[[str], None]

    @property
    def op(self) -> str:
        """The operation's name."""
        return self.node.op

    @property
    def params(self) -> Any:
        """The operation's parameters."""
        return program.parameters(self.node.equation)

    @property
    def in_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the operands."""
        return tuple(self.tape.values[k].shape for k in self.node.inputs)

    @property
    def out_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the results."""
        return tuple(self.tape.values[k].shape for k in self.node.outputs)

    def known(self, operand: int) -> np.ndarray[Any, Any] | None:
        """The constant array that an operand always is, to the last digit, or None."""
        return self.tape.certain(self.node.inputs[operand])

    def depends(self, *operands: int) -> frozenset[int]:
        """The inputs that these operands (all, if none is named) depend on."""
        chosen = operands or range(len(self.node.inputs))
        return frozenset[int]().union(
            *(self.tape.values[self.node.inputs[k]].depends for k in chosen)
        )

    def opaque(self, *operands: int) -> Coefficient:
        """A coefficient without formula that depends on these operands (all, if none is named)."""
        return coefficients.opaque(self.depends(*operands))

    def value(self, number: int, index: Index, scale: float = 1.0) -> Coefficient:
        """`scale` times the entry of a tape value at `index`."""
        base, at = resolve(self.tape, number, index)
        value = self.tape.values[base]
        if value.shape == () or prod(value.shape) == 1:
            known = self.tape.known(base)
            if known is not None and np.isrealobj(known) and np.isfinite(known).all():
                entry, rounded = float(known.reshape(())), self.tape.radius(base) is not None
                # a 0 that another rounding may not have is no 0
                if entry != 0.0 or not rounded:
                    product = scale * entry
                    rounded = rounded or not coefficients.is_product(product, scale, entry)
                    return number_coefficient(product, rounded)
        return Coefficient((Product(scale, (Factor(base, at),)),), value.depends)

    def operand(self, k: int, index: Index, scale: float = 1.0) -> Coefficient:
        """`scale` times the entry of operand k at `index`."""
        return self.value(self.node.inputs[k], index, scale)

    def result(self, k: int, index: Index, scale: float = 1.0) -> Coefficient:
        """`scale` times the entry of result k at `index`."""
        return self.value(self.node.outputs[k], index, scale)

    def function(
        self, function: Function, operands: Sequence[int], index: Index, scale: float = 1.0
    ) -> Coefficient:
        """`scale` times an elementwise function of tape values, all taken at `index`.

        The operands have the shape that `index` points into, or are scalars.
        """
        tape = self.tape
        if function.name == "reciprocal":
            base, _ = resolve(
                tape, operands[0], restrict_index(index, tape.values[operands[0]].shape)
            )
            constant = tape.known(base)
            if constant is not None and constant.size == 1 and constant.reshape(()) != 0:
                number = float(constant.reshape(()))
                exact = tape.radius(base) is None and abs(np.frexp(number)[0]) == 0.5
                return number_coefficient(scale / number, not exact)
        resolved = [resolve(tape, k, restrict_index(index, tape.values[k].shape)) for k in operands]
        arrays = {at for k, at in resolved if tape.values[k].shape}
        shapes = {tape.values[k].shape for k, _ in resolved if tape.values[k].shape}
        if len(arrays) <= 1 and len(shapes) <= 1:
            at = next(iter(arrays), ())
            numbers = [k for k, _ in resolved]
            shape = next(iter(shapes), ())
        else:
            at, numbers = index, list(operands)
            shape = np.broadcast_shapes(*(tape.values[k].shape for k in operands))
        dtype = tape.values[self.node.outputs[0]].dtype
        number = tape.function(function, numbers, shape, dtype)
        return Coefficient((Product(scale, (Factor(number, at),)),), tape.values[number].depends)

    def derivative(
        self, operand: int, output: int, index: Index, *, by_output: bool
    ) -> Coefficient:
        """The local derivative as the array that JAX computes for it.

        Args:
            operand: the operand to differentiate with respect to.
            output: the result to differentiate.
            index: where to take it: into the result (`by_output`) or into the operand.
            by_output: True when each result entry depends on one operand entry (then one JVP has
                all derivatives), False when each operand entry reaches one result entry (one VJP).
        """
        equation = self.node.equation
        function = Function(
            f"{self.op}#{self.node.outputs[output]}/{operand}/{by_output}",
            DERIVATIVE_FORMS.get(self.op)
            or Call(f"∂{self.op}", tuple(map(Slot, range(len(self.node.inputs))))),
            _derivative_array(equation, operand, output, by_output),
        )
        shape = self.out_shapes[output] if by_output else self.in_shapes[operand]
        number = self.tape.function(
            function, self.node.inputs, shape, self.tape.values[self.node.outputs[output]].dtype
        )
        value = self.tape.values[number]
        return Coefficient((Product(1.0, (Factor(number, index),)),), value.depends)


# how the derivatives that JAX computes are written, where there is a plainer way than ∂op(x)
DERIVATIVE_FORMS = {
    f"reduce_{most}": Indicator(Comparison((Slot(0), Words(most)), ("=",)))
    for most in ("max", "min")
}


def restrict_index(index: Index, shape: tuple[int, ...]) -> Index:
    """The index into an operand that broadcasts: 0 on its axes of size one, nothing for scalars."""
    if not shape:
        return ()
    return tuple(ZERO if n == 1 else e for e, n in zip(index, shape, strict=True))


def number_coefficient(x: float, rounded: bool = False) -> Coefficient:
    """The coefficient that is a number, known exactly or only up to rounding."""
    return coefficients.ONE if x == 1.0 and not rounded else Coefficient((Product(x, (), rounded),))


# operations whose results are their operands, digit by digit
PASSED_ON = Does.SAME_VALUE | Does.MOVES


def resolve(tape: Tape, number: int, index: Index) -> tuple[int, Index]:
    """Follows a value back through operations that only move it, for plainer formulas.

    Args:
        tape: the tape.
        number: a value on it.
        index: where it is taken.

    Returns:
        The value that it is a view of, and where that one is taken.
    """
    while True:
        value = tape.values[number]
        if value.source != "result" or value.node is None or number in tape.names:
            return number, index
        params = program.parameters(value.node.equation)
        source = value.node.inputs[0] if value.node.inputs else number
        shape = tape.values[source].shape
        op = value.node.op
        if op == "broadcast_in_dim" and len(value.node.inputs) == 1:
            index = tuple(
                ZERO if n == 1 else index[d]
                for n, d in zip(shape, params["broadcast_dimensions"], strict=True)
            )
        elif op == "squeeze":
            kept = iter(index)
            dims = {d % len(shape) for d in params["dimensions"]}
            index = tuple(ZERO if d in dims else next(kept) for d in range(len(shape)))
        elif op == "expand_dims":
            dims = {d % len(value.shape) for d in params["dimensions"]}
            index = tuple(e for d, e in enumerate(index) if d not in dims)
        elif op == "transpose":
            inverse = np.argsort(params["permutation"])
            index = tuple(index[d] for d in inverse)
        elif op == "reshape" and len(value.node.inputs) == 1:
            wide = [d for d, n in enumerate(value.shape) if n != 1]
            if [value.shape[d] for d in wide] != [n for n in shape if n != 1]:
                return number, index
            kept = iter(index[d] for d in wide)
            index = tuple(ZERO if n == 1 else next(kept) for n in shape)
        elif does(op, PASSED_ON):
            source = value.node.inputs[value.node.outputs.index(number)]
        elif op == "select_n" and (chosen := _known_choice(tape, value.node)) is not None:
            source = chosen
        elif op == "convert_element_type" and jnp.issubdtype(
            tape.values[source].dtype, jnp.floating
        ):
            pass
        else:
            return number, index
        number = source


def _known_choice(tape: Tape, node: Node) -> int | None:
    """The case that a select with a known, everywhere equal predicate takes."""
    which = tape.certain(node.inputs[0])
    if which is None or not which.size or (which != which.flat[0]).any():
        return None
    return node.inputs[1 + int(which.flat[0])]


def product_of(*parts: Coefficient) -> Coefficient:
    """The product of coefficients."""
    result = coefficients.ONE
    for part in parts:
        result = coefficients.multiply(result, part)
    return result


def _derivative_array(
    equation: Any, operand: int, output: int, by_output: bool
) -> Callable[..., Any]:
    """A function of the operands that gives the local derivative by one: y'(x) of each entry."""
    call = program.as_function(equation)

    def compute(*values: Any) -> Any:
        def of_operand(x: Any) -> Any:
            replaced = [x if k == operand else v for k, v in enumerate(values)]
            return call(*replaced)[output]

        x = jnp.asarray(values[operand])
        if by_output:
            return jax.jvp(of_operand, (x,), (jnp.ones_like(x),))[1]
        y, pull = jax.vjp(of_operand, x)
        return pull(jnp.ones_like(y))[0]

    return compute


Rule = Callable[[Operation], Iterator[Local]]
