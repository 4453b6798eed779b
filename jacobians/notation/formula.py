"""Formulas of a block: the Jacobian by indices, the VJP in matrix notation.

The index formula writes down what the terms say: `∂out[i]/∂W[j,k] = 1[i = j]·x[k]`. The matrix
formula contracts the same factors with the cotangent, pair by pair, as one would on paper:
entries of equal index are multiplied with ⊙, a shared index makes a matrix product, an index of its
own a sum, and two free vectors an outer product; `W̄ = 2·q·xᵀ` comes out of that. Where factors
have more than two indices, or the indices do not fit, the VJP is written by indices too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import ONE, Factor, Product
from jacobians.derive.algebra.term import Term
from jacobians.derive.call import CallDerivation
from jacobians.derive.operation import resolve
from jacobians.derive.tape import Tape
from jacobians.notation.expression import Names, bar
from jacobians.notation.indices import _index_formula, _index_vjp, axis_letters
from jacobians.notation.matrix import matrix_vjp
from jacobians.notation.numbers import indexed


@dataclass(frozen=True)
class Formulas:
    """The formulas of a block.

    Attributes:
        jacobian: the Jacobian by indices, or None.
        vjp: the VJP, or None.
        where: definitions of names, `q = W·x`.
        index: the letters of the output's and of the input's axes, 0 for axes of size one.
        values: the tape values that the names stand for.
    """

    jacobian: str | None = None
    vjp: str | None = None
    where: tuple[str, ...] = ()
    index: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    values: Mapping[str, int] = field(default_factory=dict)


def formulas(derivation: CallDerivation, output: int, input_: int) -> Formulas:
    """The formulas of ∂(output leaf)/∂(input leaf); empty where a coefficient is opaque.

    Args:
        derivation: the derivation of a call.
        output: position of the output leaf.
        input_: position of the input leaf.
    """
    call = derivation.call
    out_leaf, in_leaf = call.outputs[output], call.inputs[input_]
    terms = derivation.terms(output, input_)
    tape = derivation.tape
    shown = _output_name(out_leaf.name, {leaf.name for leaf in call.inputs})
    names = Names(tape, (derivation.derivation.outputs[output], shown))
    left, right = axis_letters((out_leaf.shape, in_leaf.shape), names.given)
    nothing = Formulas(index=(left, right))
    d_out, d_in = indexed(f"∂{out_leaf.name}", left), indexed(f"∂{in_leaf.name}", right)
    if not terms:
        derivative = f"∂{out_leaf.name}/∂{in_leaf.name}"
        return replace(nothing, jacobian=f"{derivative} = 0", vjp=f"{bar(in_leaf.name)} = 0")
    if any(t.coefficient.products is None for t in terms):
        return nothing
    shapes = out_leaf.shape, in_leaf.shape
    terms = tuple(_simplified(t, tape) for t in terms)
    jacobian = _index_formula(terms, names, f"{d_out}/{d_in}", left, right, shapes)
    vjp = matrix_vjp(terms, names, shown, in_leaf.name, shapes)
    if _only_reshapes(terms, *shapes):
        vjp = f"{bar(in_leaf.name)} = reshape({bar(shown)}, {list(in_leaf.shape)})"
        if jacobian is not None and jacobian.count("1[") > 1:
            jacobian = f"{d_out}/{d_in} = 1[equal positions in the flattened arrays]"
    if vjp is None:
        vjp = _index_vjp(terms, names, shown, in_leaf.name, in_leaf.shape)
    used = [t for t in (jacobian, vjp) if t is not None]
    where = tuple(
        f"{name} = {text}"
        for name, text in names.definitions.items()
        if any(_mentions(t, name) for t in (*used, *names.definitions.values()))
    )
    if shown != out_leaf.name and any(_mentions(t, shown) for t in (*used, *where)):
        where = (f"{shown} = {out_leaf.name}", *where)
    return Formulas(jacobian, vjp, where, (left, right), names.values)


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
    if name != "out" and not name.startswith("out["):
        return name
    taken = {text.split("[")[0] for text in inputs}
    letter = next(c for c in ("y", "s", "f", "z", "out") if c not in taken or c == "out")
    return letter + name.removeprefix("out")


def needed(where: Sequence[str], text: str) -> tuple[str, ...]:
    """The definitions that a text uses, itself or in another definition that it uses."""
    texts, kept = [text], dict.fromkeys(where, False)
    while texts:
        used = texts.pop()
        for definition, known in kept.items():
            name, meaning = definition.split(" = ", 1)
            if not known and _mentions(used, name):
                kept[definition] = True
                texts.append(meaning)
    return tuple(definition for definition, known in kept.items() if known)


def _mentions(text: str, name: str) -> bool:
    position = text.find(name)
    while position >= 0:
        before = text[position - 1] if position else " "
        after = text[position + len(name) : position + len(name) + 1] or " "
        if not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
            return True
        position = text.find(name, position + 1)
    return False


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
        if f in kept and function is not None and function.name.startswith("select"):
            continue
        kept.append(f)
    return Product(product.scale, tuple(kept))


def _with_quotients(product: Product, tape: Tape) -> Product:
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
