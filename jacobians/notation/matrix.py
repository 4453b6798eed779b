"""A derivative as products of matrices: dW = 2·q·xᵀ.

A term whose indices pair up as in a chain of matrix products is written as one, with transposes,
sums over axes and elementwise factors.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.notation.expression import Names, bar
from jacobians.notation.indices import _joined
from jacobians.notation.numbers import group, number_text


@dataclass(frozen=True)
class _Node:
    """A factor, or what factors were joined to: text, the indices it has, its ⊙-parts."""

    index: tuple[int, ...]
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        return hadamard(self.parts)

    @property
    def operand(self) -> str:
        return group(self.text, 2)


def hadamard(parts: Sequence[str]) -> str:
    """Entrywise product of texts, the one with the cotangent first."""
    if len(parts) == 1:
        return parts[0]
    ordered = sorted(parts, key=lambda p: "\u0304" not in unicodedata.normalize("NFD", p))
    return " ⊙ ".join(group(p, 2) for p in ordered)


def matrix_vjp(
    terms: Terms,
    names: Names,
    out_name: str,
    in_name: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> str | None:
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
            nodes = [_Node(cotangent_index, (bar(out_name),))]
            for f in p.factors:
                axes = _axes(f.at, tape.values[f.value].shape, term.sizes)
                if axes is None:
                    return None
                nodes.append(_Node(axes, (names.of(f.value),)))
            joined = _contract(nodes, target)
            if joined is None:
                return None
            summands.append((p.scale, joined))
    return f"{bar(in_name)} = {_sum_text(summands)}"


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
    return _Node(n.index[::-1], (group(n.text) + "ᵀ",))


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
            return [*rest, _Node(left.index[:1], (f"{left.operand}·{b.operand}",))]
        right = b if b.index[0] == v else _transposed(b)
        if left.index[0] == right.index[1]:
            continue
        index = (left.index[0], right.index[1])
        # (A·B)ᵀ reads better as Bᵀ·Aᵀ where that is the orientation wanted
        if index == target[::-1]:
            flipped = _Node(target, (f"{_flip(right)}·{_flip(left)}",))
            return [*rest, flipped]
        return [*rest, _Node(index, (f"{left.operand}·{right.operand}",))]
    return None


def _flip(n: _Node) -> str:
    text = group(n.text)
    return text.removesuffix("ᵀ") if text.endswith("ᵀ") else text + "ᵀ"


def _sum_out(nodes: list[_Node], target: tuple[int, ...]) -> list[_Node] | None:
    """An index that one factor alone has, and the result has not: a sum."""
    for n in nodes:
        own = [v for v in n.index if v not in target
               and not any(v in other.index for other in nodes if other is not n)]  # fmt: skip
        if not own:
            continue
        rest = [other for other in nodes if other is not n]
        kept = tuple(v for v in n.index if v not in own)
        axis = f", axis={n.index.index(own[0])}" if kept else ""
        return [*rest, _Node(kept, (f"Σ({n.text}{axis})",))]
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
        for vector in vectors:
            # a vector along one axis of a matrix is broadcast along the other
            column = vector.index[0] == target[0]
            parts.append(f"{vector.operand}·1ᵀ" if column else f"1·{group(vector.text)}ᵀ")
        return _Summand(factors, tuple(parts))
    if len(vectors) == 2 == len(target):
        by_index = {n.index[0]: n for n in vectors}
        if set(by_index) != set(target):
            return None
        first, second = (by_index[v] for v in target)
        return _Summand(factors, (f"{first.operand}·{group(second.text)}ᵀ",))
    if len(vectors) == 1 == len(target):
        return _Summand(factors, vectors[0].parts)
    if len(vectors) == 1 and len(target) == 2:
        column = vectors[0].index[0] == target[0]
        text = f"{vectors[0].operand}·1ᵀ" if column else f"1·{group(vectors[0].text)}ᵀ"
        return _Summand(factors, (text,))
    if nodes:
        return None
    return _Summand(factors, ("1",) if target else ())


@dataclass(frozen=True)
class _Summand:
    """One summand of a VJP: scalar factors times entrywise parts."""

    scalars: tuple[str, ...]
    parts: tuple[str, ...]


def _sum_text(summands: Sequence[tuple[float, _Summand]]) -> str:
    """The sum of products, a common entrywise part taken out."""
    if len(summands) == 1:
        return _signed(*summands[0])
    for part in summands[0][1].parts:
        rests = []
        for scale, summand in summands:
            remaining = list(summand.parts)
            if part not in remaining:
                break
            remaining.remove(part)
            if not remaining and not summand.scalars:
                break
            rests.append((scale, _Summand(summand.scalars, tuple(remaining))))
        else:
            return f"{group(part, 2)} ⊙ ({_joined([_signed(*r) for r in rests])})"
    return _joined([_signed(*s) for s in summands])


def _signed(scale: float, summand: _Summand) -> str:
    sign = "−" if scale < 0 else ""
    pieces = [] if abs(scale) == 1.0 else [number_text(float(abs(scale)))]
    body = hadamard(summand.parts) if summand.parts else ""
    if body:
        pieces.append(group(body, 2) if pieces or summand.scalars else body)
    pieces += [group(s, 2) for s in summand.scalars]
    return sign + ("·".join(pieces) or "1")
