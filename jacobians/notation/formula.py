"""Formulas of a block: the Jacobian by indices, the VJP in matrix notation.

The index formula writes down what the terms say: `∂out[i]/∂W[j,k] = 1[i = j]·x[k]`. The matrix
formula contracts the same factors with the cotangent, pair by pair, as one would on paper:
entries of equal index are multiplied with ⊙, a shared index makes a matrix product, an index of its
own a sum, and two free vectors an outer product; `W̄ = 2·q·xᵀ` comes out of that. Where factors
have more than two indices, or the indices do not fit, the VJP is written by indices too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import prod

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import ONE, Factor, Product
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Cotangent,
    Definition,
    Derivative,
    Equation,
    Expression,
    Indicator,
    Name,
    Negative,
    Number,
    Ones,
    Vector,
    Words,
    parts,
    walk,
)
from jacobians.derive.algebra.syntax import Product as Written
from jacobians.derive.algebra.term import Term
from jacobians.derive.call import CallDerivation
from jacobians.derive.operation import resolve
from jacobians.derive.tape import Tape
from jacobians.notation.expression import Names, unnamed, variable
from jacobians.notation.indices import axis_letters, entry_at, index_formula, index_vjp
from jacobians.notation.matrix import matrix_vjp
from jacobians.notation.text import text_of

# what an output without a name of its own is called
USUAL = "y"
FLATTENED = Indicator(Words("equal positions in the flattened arrays"))


@dataclass(frozen=True)
class Formulas:
    """The formulas of a block, as objects; and, by other names, as text.

    Attributes:
        derivative: the Jacobian by indices, or None.
        pullback: the VJP, or None.
        definitions: what the names in them mean.
        index: the letters of the output's and of the input's axes, 0 for axes of size one.
        meanings: what was written of which value on the tape.
    """

    derivative: Equation | None = None
    pullback: Equation | None = None
    definitions: tuple[Definition, ...] = ()
    index: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    meanings: tuple[tuple[Expression, int], ...] = ()

    @cached_property
    def jacobian(self) -> str | None:
        """The Jacobian by indices, or None."""
        return None if self.derivative is None else text_of(self.derivative)

    @cached_property
    def vjp(self) -> str | None:
        """The VJP, or None."""
        return None if self.pullback is None else text_of(self.pullback)

    @cached_property
    def where(self) -> tuple[str, ...]:
        """Definitions of names, `q = W·x`."""
        return tuple(text_of(definition) for definition in self.definitions)

    @property
    def values(self) -> Mapping[str, int]:
        """The tape values that the names stand for."""
        return {text_of(e): number for e, number in self.meanings if not _starts_as_number(e)}


UNWRITTEN = Formulas()


def formulas(
    derivation: CallDerivation, output: int, input_: int, own_name: bool = False
) -> Formulas:
    """The formulas of ∂(output leaf)/∂(input leaf); empty where a coefficient is opaque.

    Args:
        derivation: the derivation of a call.
        output: position of the output leaf.
        input_: position of the input leaf.
        own_name: whether an output without a name of its own is called `out`, and not `y`.
    """
    call = derivation.call
    out_leaf, in_leaf = call.outputs[output], call.inputs[input_]
    terms = derivation.terms(output, input_)
    tape = derivation.tape
    inputs = {leaf.name for leaf in call.inputs}
    result = unnamed(tape, derivation.derivation.outputs[output])
    called = {name for number, name in tape.names.items() if unnamed(tape, number) != result}
    shown = out_leaf.name if own_name else _output_name(out_leaf.name, inputs | called)
    names = Names(tape, (derivation.derivation.outputs[output], shown))
    left, right = axis_letters((out_leaf.shape, in_leaf.shape), names.given)
    nothing = Formulas(index=(left, right))
    above, below = Name(out_leaf.name), Name(in_leaf.name)
    if not terms:
        return replace(
            nothing,
            derivative=Equation(Derivative(above, below), Number(0)),
            pullback=Equation(Cotangent(in_leaf.name), Number(0)),
        )
    if any(t.coefficient.products is None for t in terms):
        return nothing
    shapes = out_leaf.shape, in_leaf.shape
    terms = tuple(_simplified(t, tape) for t in terms)
    entries = Derivative(entry_at(above, left), entry_at(below, right))
    jacobian = index_formula(terms, names, entries, (left, right), shapes)
    vjp = matrix_vjp(terms, names, shown, in_leaf.name, shapes)
    if _only_reshapes(terms, *shapes):
        flat = Call("reshape", (Cotangent(shown), Vector(tuple(map(Number, in_leaf.shape)))))
        vjp = Equation(Cotangent(in_leaf.name), flat)
        if jacobian is not None and sum(isinstance(e, Indicator) for e in walk(jacobian)) > 1:
            jacobian = Equation(entries, FLATTENED)
    if vjp is None:
        vjp = index_vjp(terms, names, shown, in_leaf.name, in_leaf.shape)
    used = tuple(e for e in (jacobian, vjp) if e is not None)
    mentioned = {part for e in (*used, *names.definitions.values()) for part in _named(e)}
    definitions: tuple[Definition, ...] = tuple(
        Definition(Name(name), meaning)
        for name, meaning in names.definitions.items()
        if Name(name) in mentioned
    )
    every = (*used, *(d.meaning for d in definitions))
    if shown != out_leaf.name and any(_mentions(e, shown) for e in every):
        definitions = (Definition(Name(shown), above), *definitions)
    return Formulas(jacobian, vjp, definitions, (left, right), names.values)


def _only_reshapes(terms: Terms, out_shape: Sequence[int], in_shape: Sequence[int]) -> bool:
    """Whether the block is the identity between differently shaped arrays of equal size."""
    if len(terms) != 1 or tuple(out_shape) == tuple(in_shape):
        return False
    term = terms[0]
    plain = term.coefficient == ONE and not (term.zeros or term.bounds or term.guards)
    full = prod(term.sizes.values()) == prod(out_shape) == prod(in_shape)
    return plain and full and affine.ravel(term.out, out_shape) == affine.ravel(term.inp, in_shape)


def _output_name(name: str, inputs: set[str]) -> str:
    """How an output is written: `y` for `out`, `y[1]` for `out[1]`, unless an input is called y."""
    if variable(name) != "out":
        return name
    taken = {variable(text) for text in inputs}
    letter = next(c for c in (USUAL, "s", "f", "z", "out") if c not in taken or c == "out")
    return letter + name.removeprefix("out")


def needed(definitions: Sequence[Definition], formula: Expression) -> tuple[Definition, ...]:
    """The definitions that a formula uses, itself or in another definition that it uses."""
    waiting, kept = [formula], dict.fromkeys(definitions, False)
    while waiting:
        used = waiting.pop()
        for definition, known in kept.items():
            if not known and _mentions(used, definition.name.text):
                kept[definition] = True
                waiting.append(definition.meaning)
    return tuple(definition for definition, known in kept.items() if known)


def _mentions(e: Expression, name: str) -> bool:
    """Whether an expression has a name in it, as it is or, of an unusual output, by its cotangent.

    `ȳ` needs no word of what `y` is; `s̄`, where an input is called y, does.
    """
    named = _named(e)
    unusual = name != USUAL and name == variable(name)
    return Name(name) in named or (unusual and Cotangent(name) in named)


def _named(e: Expression) -> set[Name | Cotangent]:
    """The names in an expression, and the cotangents."""
    return {part for part in walk(e) if isinstance(part, (Name, Cotangent))}


def _starts_as_number(e: Expression) -> bool:
    """Whether a text starts with a number or a sign, so that it cannot stand for a name."""
    if isinstance(e, (Number, Ones, Negative, Indicator)):
        return True
    if isinstance(e, (Brackets, Call, Vector)):
        return False
    if isinstance(e, Written) and (abs(e.scale) != 1.0 or e.scale < 0):
        return True
    return any(_starts_as_number(part) for part in islice(parts(e), 1))


def _simplified(term: Term, tape: Tape) -> Term:
    """Coefficients with u·(1/s) written as the quotient that the program has computed."""
    products = tuple(
        _with_quotients(_each_once(p, tape), tape) for p in term.coefficient.products or ()
    )
    return replace(term, coefficient=replace(term.coefficient, products=products))


def _each_once(product: Product, tape: Tape) -> Product:
    """The product without repeated indicators: 1[p]·1[p] is 1[p]."""
    kept: list[Factor] = []
    for f in product.factors:
        function = tape.values[f.value].function
        if f in kept and function is not None and function.selects:
            continue
        kept.append(f)
    return Product(product.scale, tuple(kept))


def _with_quotients(product: Product, tape: Tape) -> Product:
    """The product with u[i]·(1/s[j]) replaced by q[i] where the program computes q = u / s."""
    for node in tape.nodes:
        if node.op != "div":
            continue
        shape = tape.values[node.outputs[0]].shape
        variables = [affine.fresh() for _ in shape]
        index = tuple(
            affine.variable(v) if n != 1 else affine.ZERO
            for v, n in zip(variables, shape, strict=True)
        )
        above = resolve(tape, node.inputs[0], index if tape.values[node.inputs[0]].shape else ())
        below = resolve(tape, node.inputs[1], index if tape.values[node.inputs[1]].shape else ())
        for f in product.factors:
            inverse = tape.values[f.value]
            if inverse.function is None or inverse.function.name != "reciprocal":
                continue
            if resolve(tape, inverse.operands[0], f.at)[0] != below[0]:
                continue
            for g in product.factors:
                if g is f or g.value != above[0]:
                    continue
                match = _match(above[1], g.at)
                if match is None or any(
                    affine.substitute(e, match) != t for e, t in zip(below[1], f.at, strict=False)
                ):
                    continue
                at = tuple(affine.substitute(e, match) for e in index)
                rest = list(product.factors)
                rest.remove(f)
                rest.remove(g)
                return Product(product.scale, (*rest, Factor(node.outputs[0], at)))
    return product


def _match(pattern: Sequence[Affine], index: Sequence[Affine]) -> dict[int, Affine] | None:
    result: dict[int, Affine] = {}
    for e, target in zip(pattern, index, strict=True):
        v = plain_variable(e)
        if v is None:
            if e != target:
                return None
        elif result.setdefault(v, target) != target:
            return None
    return result
