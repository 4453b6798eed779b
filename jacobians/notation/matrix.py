"""A derivative as products of matrices: dW = 2·q·xᵀ.

A term whose indices pair up as in a chain of matrix products is written as one, with transposes,
sums over axes and elementwise factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Cotangent,
    Equation,
    Expression,
    Hadamard,
    Ones,
    Product,
    Transposed,
    total,
    walk,
)
from jacobians.notation.expression import Names
from jacobians.notation.numbers import POINT
from jacobians.notation.text import barred, bracketed


@dataclass(frozen=True)
class _Node:
    """A factor, or what factors were joined to: the indices it has, its ⊙-parts."""

    index: tuple[int, ...]
    parts: tuple[Expression, ...]

    @property
    def whole(self) -> Expression:
        """The entrywise product of the parts."""
        return hadamard(self.parts)


def hadamard(parts: Sequence[Expression]) -> Expression:
    """Entrywise product, the part with the cotangent first."""
    if len(parts) == 1:
        return parts[0]
    return Hadamard(tuple(sorted(parts, key=lambda part: not any(map(barred, walk(part))))))


def matrix_vjp(
    terms: Terms,
    names: Names,
    out_name: str,
    in_name: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> Equation | None:
    """The VJP in matrix notation, or None where it does not apply."""
    tape = names.tape
    summands: list[tuple[float, _Summand]] = []
    for term in terms:
        if term.zeros or term.bounds or term.guards:
            return None
        target = _axes(term.inp, shapes[1], term.sizes)
        cotangent_index = _axes(term.out, shapes[0], term.sizes)
        if target is None or cotangent_index is None:
            return None
        for p in term.coefficient.products or ():
            nodes = [_Node(cotangent_index, (Cotangent(out_name),))]
            for f in p.factors:
                axes = _axes(f.at, tape.values[f.value].shape, term.sizes)
                if axes is None:
                    return None
                nodes.append(_Node(axes, (names.of(f.value),)))
            joined = _contract(nodes, target)
            if joined is None:
                return None
            summands.append((p.scale, joined))
    return Equation(Cotangent(in_name), _sum(summands))


def _axes(
    index: Sequence[Affine], shape: Sequence[int], sizes: Mapping[int, int]
) -> tuple[int, ...] | None:
    """The variables of an index that runs over a whole array of at most two axes, else None."""
    result = []
    for e, n in zip(index, shape, strict=True):
        if n == 1:
            continue
        v = plain_variable(e)
        if v is None or v in result or sizes[v] != n:
            return None
        result.append(v)
    return tuple(result) if len(result) <= 2 else None


def _contract(nodes: list[_Node], target: tuple[int, ...]) -> "_Summand | None":
    """Joins factors pairwise until one is left, with the target's indices."""
    scalars = [n for n in nodes if not n.index]
    nodes = [n for n in nodes if n.index]
    for _ in range(40):
        step = _merge_equal(nodes) or _multiply(nodes, target) or _sum_out(nodes, target)
        if step is None:
            break
        scalars.extend(n for n in step if not n.index)
        nodes = [n for n in step if n.index]
    return _finish(nodes, scalars, target)


def _merge_equal(nodes: list[_Node]) -> list[_Node] | None:
    """Two factors with the same indices: an entrywise product."""
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            rest = [n for n in nodes if n is not a and n is not b]
            if a.index == b.index:
                return [*rest, _Node(a.index, a.parts + b.parts)]
            if len(a.index) == 2 and a.index == b.index[::-1]:
                return [*rest, _Node(a.index, (*a.parts, *_transposed(b).parts))]
    return None


def _transposed(n: _Node) -> _Node:
    """The factor with its two indices exchanged."""
    return _Node(n.index[::-1], (Transposed(n.whole),))


def _multiply(nodes: list[_Node], target: tuple[int, ...]) -> list[_Node] | None:
    """An index shared by exactly two factors: a matrix product."""
    shared = dict.fromkeys(v for n in nodes for v in n.index if v not in target)
    for v in shared:
        holders = [n for n in nodes if v in n.index]
        if len(holders) != 2:
            continue
        a, b = holders
        rest = [n for n in nodes if n is not a and n is not b]
        if len(a.index) == len(b.index) == 1:
            continue
        if len(a.index) == 1:
            a, b = b, a
        # put the summed index last in the first, first in the second
        left = a if a.index[1] == v else _transposed(a)
        if len(b.index) == 1:
            return [*rest, _Node(left.index[:1], (Product((left.whole, b.whole)),))]
        right = b if b.index[0] == v else _transposed(b)
        if left.index[0] == right.index[1]:
            continue
        index = (left.index[0], right.index[1])
        # (A·B)ᵀ reads better as Bᵀ·Aᵀ where that is the orientation wanted
        if index == target[::-1]:
            return [*rest, _Node(target, (Product((_flip(right), _flip(left))),))]
        return [*rest, _Node(index, (Product((left.whole, right.whole)),))]
    return None


def _flip(n: _Node) -> Expression:
    """The factor transposed: twice is not at all."""
    whole = n.whole
    return bracketed(whole.of) if isinstance(whole, Transposed) else Transposed(whole)


def _sum_out(nodes: list[_Node], target: tuple[int, ...]) -> list[_Node] | None:
    """An index that one factor alone has, and the result has not: a sum."""
    for n in nodes:
        shared = {v for other in nodes if other is not n for v in other.index}
        own = [v for v in n.index if v not in target and v not in shared]
        if not own:
            continue
        rest = [other for other in nodes if other is not n]
        kept = tuple(v for v in n.index if v not in own)
        axes = (n.index.index(own[0]),) if kept else ()
        return [*rest, _Node(kept, (Call("Σ", (n.whole,), axes),))]
    return None


def _finish(nodes: list[_Node], scalars: list[_Node], target: tuple[int, ...]) -> "_Summand | None":
    """What is left as entrywise parts with the target's indices, and scalar factors."""
    factors = tuple(p for n in scalars for p in n.parts)
    if any(v not in target for n in nodes for v in n.index):
        return None
    matrices = [n for n in nodes if len(n.index) == 2]
    vectors = [n for n in nodes if len(n.index) == 1]
    if len(matrices) > 1 or len(vectors) > len(target):
        return None
    if matrices:
        only = matrices[0] if matrices[0].index == target else _transposed(matrices[0])
        parts = list(only.parts)
        # a vector along one axis of a matrix is broadcast along the other
        parts += [_broadcast(vector, target) for vector in vectors]
        return _Summand(factors, tuple(parts))
    if len(vectors) == 2 == len(target):
        by_index = {n.index[0]: n for n in vectors}
        if set(by_index) != set(target):
            return None
        first, second = (by_index[v] for v in target)
        return _Summand(factors, (Product((first.whole, Transposed(second.whole))),))
    if len(vectors) == 1 == len(target):
        return _Summand(factors, vectors[0].parts)
    if len(vectors) == 1 and len(target) == 2:
        return _Summand(factors, (_broadcast(vectors[0], target),))
    if nodes:
        return None
    return _Summand(factors, (Ones(),) if target else ())


def _broadcast(vector: _Node, target: tuple[int, ...]) -> Expression:
    """A vector as a matrix of equal columns, `x·1ᵀ`, or of equal rows, `1·xᵀ`."""
    if vector.index[0] == target[0]:
        return Product((vector.whole, Transposed(Ones())))
    return Product((Ones(), Transposed(vector.whole)))


@dataclass(frozen=True)
class _Summand:
    """One summand of a VJP: scalar factors times entrywise parts."""

    scalars: tuple[Expression, ...]
    parts: tuple[Expression, ...]

    def times(self, scale: float) -> Expression:
        """The summand times a number."""
        if self.parts:
            return Product((hadamard(self.parts), *self.scalars), scale)
        alone = len(self.scalars) == 1 and abs(scale) == 1.0
        scalars = tuple(bracketed(s, POINT) for s in self.scalars) if alone else self.scalars
        return Product(scalars, scale)


def _sum(summands: Sequence[tuple[float, _Summand]]) -> Expression:
    """The sum of products, a common entrywise part taken out."""
    if len(summands) > 1:
        for part in summands[0][1].parts:
            rests = [_without(part, scale, summand) for scale, summand in summands]
            inner = tuple(rest for rest in rests if rest is not None)
            if len(inner) == len(rests):
                return Hadamard((part, Brackets(total(inner))))
    return total(tuple(summand.times(scale) for scale, summand in summands))


def _without(part: Expression, scale: float, summand: _Summand) -> Expression | None:
    """A summand without one entrywise part; None where it has not the part, or nothing else."""
    remaining = list(summand.parts)
    if part not in remaining:
        return None
    remaining.remove(part)
    if not remaining and not summand.scalars:
        return None
    return _Summand(summand.scalars, tuple(remaining)).times(scale)
