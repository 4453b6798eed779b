"""Formulas of a block: the Jacobian by indices, the VJP in matrix notation.

The index formula writes down what the terms say: `∂out[i]/∂W[j,k] = 1[i = j]·x[k]`. The matrix
formula contracts the same factors with the cotangent, pair by pair, as one would on paper:
entries of equal index are multiplied with ⊙, a shared index makes a matrix product, an index of its
own a sum, and two free vectors an outer product; `W̄ = 2·q·xᵀ` comes out of that. Where factors
have more than two indices, or the indices do not fit, the VJP is written by indices too.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jacobians.algebra import affine
from jacobians.algebra.affine import Affine, plain_variable
from jacobians.algebra.block import Terms
from jacobians.algebra.coefficient import Factor, Product
from jacobians.algebra.term import Term
from jacobians.derive.call import CallDerivation
from jacobians.derive.operation import resolve
from jacobians.derive.tape import Tape
from jacobians.expression import Names, group, indexed, number_text

INDICES = ("i", "j", "k", "l", "m", "n", "o", "p", "s", "t")
SUMMED = ("a", "b", "c", "d", "e", "g", "r", "α", "β", "γ")
LONGEST = 240


@dataclass(frozen=True)
class Formulas:
    """The formulas of a block.

    Attributes:
        jacobian: the Jacobian by indices, or None.
        vjp: the VJP, or None.
        where: definitions of names, `q = W·x`.
    """

    jacobian: str | None = None
    vjp: str | None = None
    where: tuple[str, ...] = ()


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
    if not terms:
        return Formulas(f"∂{out_leaf.name}/∂{in_leaf.name} = 0", f"{bar(in_leaf.name)} = 0")
    if any(t.coefficient.products is None for t in terms):
        return Formulas()
    tape = derivation.tape
    number = derivation.derivation.outputs[output]
    inputs = {leaf.name for leaf in call.inputs}
    shown = _output_name(out_leaf.name, inputs)
    names = Names(tape, (number, shown))
    terms = tuple(_simplified(t, tape) for t in terms)
    jacobian = _index_formula(terms, names, out_leaf.name, in_leaf.name, derivation, output, input_)
    vjp = matrix_vjp(terms, names, shown, in_leaf.name)
    if vjp is None:
        vjp = _index_vjp(terms, names, shown, in_leaf.name, in_leaf.shape)
    used = [t for t in (jacobian, vjp) if t is not None]
    where = tuple(
        f"{name} = {text}"
        for name, text in names.definitions.items()
        if any(_mentions(t, name) for t in (*used, *names.definitions.values()))
    )
    if shown != out_leaf.name and any(_mentions(t, shown) or bar(shown) in t for t in used):
        where = (f"{shown} = {out_leaf.name}", *where)
    return Formulas(jacobian, vjp, where)


def bar(name: str) -> str:
    """The cotangent of a name: `x̄`, `W̄1`, `p̄["W"]`; `bar(logits)` for a longer name."""
    head = next((k for k, c in enumerate(name) if not c.isalnum() and c != "_"), len(name))
    letters = name[:head].rstrip("0123456789₀₁₂₃₄₅₆₇₈₉")
    if len(letters) != 1:
        return f"bar({name})"
    return unicodedata.normalize("NFC", name[0] + "\u0304" + name[1:])


def _output_name(name: str, inputs: set[str]) -> str:
    """How an output is written: `y` for `out`, `y[1]` for `out[1]`, unless an input is called y."""
    if name != "out" and not name.startswith("out["):
        return name
    taken = {text.split("[")[0] for text in inputs}
    letter = next(c for c in ("y", "s", "f", "z", "out") if c not in taken or c == "out")
    return letter + name.removeprefix("out")


def _mentions(text: str, name: str) -> bool:
    position = text.find(name)
    while position >= 0:
        before = text[position - 1] if position else " "
        after = text[position + len(name) : position + len(name) + 1] or " "
        if not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
            return True
        position = text.find(name, position + 1)
    return False


# ---- the Jacobian by indices


def _index_formula(
    terms: Terms,
    names: Names,
    out_name: str,
    in_name: str,
    derivation: CallDerivation,
    output: int,
    input_: int,
) -> str | None:
    out_shape = derivation.call.outputs[output].shape
    in_shape = derivation.call.inputs[input_].shape
    if len(out_shape) + len(in_shape) > len(INDICES):
        return None
    left = INDICES[: len(out_shape)]
    right = INDICES[len(out_shape) : len(out_shape) + len(in_shape)]
    parts = []
    for term in terms:
        places = [
            *zip(left, term.out, out_shape, strict=True),
            *zip(right, term.inp, in_shape, strict=True),
        ]
        part = _index_term(term, names, places, None)
        if part is None:
            return None
        parts.extend(part)
    text = f"{indexed('∂' + out_name, left)}/{indexed('∂' + in_name, right)} = {_joined(parts)}"
    return text if len(text) <= LONGEST else None


def _joined(parts: Sequence[str]) -> str:
    """Summands with their signs."""
    text = parts[0]
    for part in parts[1:]:
        text += f" − {part[1:]}" if part.startswith("−") else f" + {part}"
    return text


@dataclass(frozen=True)
class _Lettered:
    """A term with letters for its variables and the conditions left over, as text."""

    write: "_Writer"
    conditions: tuple[str, ...]
    summed: Mapping[int, str]


def _letter(
    term: Term, places: Sequence[tuple[str, Affine, int]], free: Sequence[str]
) -> _Lettered | None:
    """Names a term's variables by the index letters of an array entry.

    Args:
        term: the term.
        places: letter, expression and axis size of every index of the entry.
        free: letters for the variables that are summed over.

    Returns:
        The letters, or None when there are too many variables.
    """
    written: dict[int, str] = {}
    sizes: dict[int, int] = {}
    waiting: list[tuple[str, Affine, int]] = []
    for letter, e, n in places:
        v = plain_variable(e)
        if v is not None and v not in written:
            written[v] = letter
            sizes[v] = n
        else:
            waiting.append((letter, e, n))
    solution: dict[int, tuple[Affine, str]] = {}
    equal: list[tuple[str, Affine]] = []
    ranges: list[tuple[int, tuple[int, int]]] = []
    reach = {**term.sizes, **sizes}
    for letter, e, n in waiting:
        unknown = [(v, c) for v, c in e.terms if v not in written and v not in solution]
        if len(unknown) == 1 and abs(unknown[0][1]) == 1:
            v, c = unknown[0]
            rest = affine.subtract(e, affine.variable(v, c))
            # letter = c·v + rest, so v = c·(letter − rest)
            solution[v] = (affine.scale(rest, -c), letter if c == 1 else f"−{letter}")
            low, high = affine.value_range(rest, reach)
            ends = (-high, n - 1 - low)
            ranges.append((v, ends if c == 1 else (-ends[1], -ends[0])))
        else:
            equal.append((letter, e))
    summed: dict[int, str] = {}
    loose = [v for v in term.sizes if v not in written and v not in solution]
    for v, letter in zip(loose, free, strict=False):
        summed[v] = letter
    if len(written) + len(solution) + len(summed) < len(term.sizes):
        return None
    write = _Writer({**written, **summed}, solution)
    conditions = [_equality(letter, write(e)) for letter, e in equal]
    for v, (low, high) in ranges:
        text = write(affine.variable(v))
        below = f"0 ≤ {text}" if low < 0 else ""
        above = f"{text} < {term.sizes[v]}" if high > term.sizes[v] - 1 else ""
        conditions.append(f"0 ≤ {above}" if below and above else below or above)
    for v, n in sizes.items():
        if term.sizes[v] < n and not _implied(v, term, equal, places):
            conditions.append(f"{written[v]} < {term.sizes[v]}")
    conditions += [_bound_text(e, write) for e in term.bounds]
    conditions += [f"{write(e)} = 0" for e in term.zeros]
    return _Lettered(write, tuple(c for c in dict.fromkeys(conditions) if c), summed)


def _equality(letter: str, text: str) -> str:
    return f"{text} = {letter}" if len(text) == 1 and text.isalpha() else f"{letter} = {text}"


def _implied(
    v: int,
    term: Term,
    equal: Sequence[tuple[str, Affine]],
    places: Sequence[tuple[str, Affine, int]],
) -> bool:
    """Whether an equation with another index already keeps v below its size."""
    limits = {letter: n for letter, _, n in places}
    for letter, e in equal:
        if e.terms == ((v, 1),) and e.const + term.sizes[v] >= limits[letter]:
            return True
    return False


def _index_term(
    term: Term, names: Names, places: Sequence[tuple[str, Affine, int]], cotangent: str | None
) -> list[str] | None:
    """The summands of one term: indicators of its conditions times its coefficient.

    Args:
        term: the term.
        names: names of values.
        places: letter, expression and size of every index that is given.
        cotangent: the name of the output's cotangent for a VJP, whose output indices are summed.
    """
    taken = set(names.tape.names.values())
    free = [letter for letter in SUMMED if letter not in taken]
    lettered = None if term.guards else _letter(term, places, free)
    if lettered is None:
        return None
    write = lettered.write
    relation = {v for e in (*term.out, *term.inp, *term.zeros, *term.bounds) for v, _ in e.terms}
    result = []
    for p in term.coefficient.products or ():
        own = {v for f in p.factors for e in f.at for v, _ in e.terms} | relation
        summed = [name for v, name in lettered.summed.items() if v in own]
        factors = [f"1[{c}]" for c in lettered.conditions]
        if cotangent is not None:
            factors.append(indexed(cotangent, [write(e) for e in term.out]))
        factors += [_factor_text(f, names, write) for f in p.factors]
        text = _product_text(p.scale, factors)
        if summed:
            sign = "−" if text.startswith("−") else ""
            text = f"{sign}Σ_{','.join(summed)} {text.removeprefix('−')}"
        result.append(text)
    return result


@dataclass(frozen=True)
class _Writer:
    """Writes affine expressions in index letters."""

    written: Mapping[int, str]
    solution: Mapping[int, tuple[Affine, str]]

    def __call__(self, e: Affine) -> str:
        parts: list[str] = []
        const = e.const
        for v, c in e.terms:
            if v in self.solution:
                rest, letter = self.solution[v]
                sign = -1 if letter.startswith("−") else 1
                parts.append(_scaled(c * sign, letter.removeprefix("−")))
                const += c * rest.const
                parts.extend(_scaled(c * d, self.written.get(w, "?")) for w, d in rest.terms)
            else:
                parts.append(_scaled(c, self.written.get(v, "?")))
        parts.sort(key=lambda t: t.startswith("−"))
        if const or not parts:
            parts.append(str(const).replace("-", "−"))
        text = _joined(parts)
        return text


def _scaled(c: int, name: str) -> str:
    if abs(c) == 1:
        return name if c > 0 else f"−{name}"
    return f"{c}{name}".replace("-", "−")


def _bound_text(e: Affine, write: _Writer) -> str:
    """`e ≥ 0` with the negative part moved over: `j ≤ i`."""
    high = affine.linear([(v, c) for v, c in e.terms if c > 0], max(e.const, 0))
    low = affine.linear([(v, -c) for v, c in e.terms if c < 0], max(-e.const, 0))
    return f"{write(low)} ≤ {write(high)}"


def _factor_text(f: Factor, names: Names, write: _Writer) -> str:
    """One factor with its index; functions of values with the index inside."""
    value = names.tape.values[f.value]
    index = [write(e) for e in f.at]
    if value.function is not None and f.value not in names.tape.names:
        parts = []
        for k in value.operands:
            shape = names.tape.values[k].shape
            part = indexed(names.of(k), index if len(shape) == len(index) else ())
            parts.append(part if value.function.text.startswith("1[") else group(part))
        return value.function.text.format(*parts)
    return indexed(names.of(f.value), index)


def _product_text(scale: float, factors: Sequence[str]) -> str:
    parts = list(factors)
    sign = "−" if scale < 0 else ""
    if abs(scale) != 1.0 or not parts:
        parts.insert(0, number_text(float(abs(scale))))
    return sign + "·".join(group(p, 2) if len(parts) > 1 else p for p in parts)


def _index_vjp(
    terms: Terms, names: Names, out_name: str, in_name: str, in_shape: tuple[int, ...]
) -> str | None:
    """The VJP by indices: `x̄[j] = Σ_i ȳ[i]·…`."""
    parts: list[str] = []
    letters = INDICES[: len(in_shape)]
    for term in terms:
        places = list(zip(letters, term.inp, in_shape, strict=True))
        part = _index_term(term, names, places, bar(out_name))
        if part is None:
            return None
        parts.extend(part)
    text = f"{indexed(bar(in_name), letters)} = {_joined(parts)}"
    return text if len(text) <= LONGEST else None


# ---- the VJP in matrix notation


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


def matrix_vjp(terms: Terms, names: Names, out_name: str, in_name: str) -> str | None:
    """The VJP in matrix notation, or None where it does not apply."""
    summands: list[tuple[float, _Summand]] = []
    for term in terms:
        if term.zeros or term.bounds or term.guards:
            return None
        target = _axes(term.inp)
        cotangent_index = _axes(term.out)
        if target is None or cotangent_index is None or not _whole(term):
            return None
        for p in term.coefficient.products or ():
            nodes = [_Node(cotangent_index, (bar(out_name),))]
            for f in p.factors:
                axes = _axes(f.at)
                if axes is None:
                    return None
                nodes.append(_Node(axes, (names.of(f.value),)))
            joined = _contract(nodes, target)
            if joined is None:
                return None
            summands.append((p.scale, joined))
    return f"{bar(in_name)} = {_sum_text(summands)}"


def _axes(index: Sequence[Affine]) -> tuple[int, ...] | None:
    """The variables of an index whose entries are plain variables or the number 0."""
    result = []
    for e in index:
        if not e.terms:
            if e.const:
                return None
            continue
        v = plain_variable(e)
        if v is None or v in result:
            return None
        result.append(v)
    return tuple(result) if len(result) <= 2 else None


def _whole(term: Term) -> bool:
    """Whether constants in the indices are only the zeros of size-one axes: nothing is cut out."""
    return all(e.const == 0 for e in (*term.out, *term.inp))


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
