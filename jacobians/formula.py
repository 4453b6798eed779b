"""Formulas of a block: the Jacobian by indices, the VJP in matrix notation.

The index formula writes down what the terms say: `∂out[i]/∂W[j,k] = 1[i = j]·x[k]`. The matrix
formula contracts the same factors with the cotangent, pair by pair, as one would on paper:
entries of equal index are multiplied with ⊙, a shared index makes a matrix product, an index of its
own a sum, and two free vectors an outer product; `W̄ = 2·q·xᵀ` comes out of that. Where factors
have more than two indices, or the indices do not fit, the VJP is written by indices too.
"""

import itertools
import unicodedata
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from jacobians.algebra import affine
from jacobians.algebra.affine import Affine, plain_variable
from jacobians.algebra.block import Terms
from jacobians.algebra.coefficient import ONE, Factor, Product
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


# ---- the Jacobian by indices


def _index_formula(
    terms: Terms,
    names: Names,
    derivative: str,
    left: Sequence[str],
    right: Sequence[str],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> str | None:
    parts = []
    for term in terms:
        places = _places((*left, *right), (*term.out, *term.inp), (*shapes[0], *shapes[1]))
        part = _index_term(term, names, places, None)
        if part is None:
            return None
        parts.extend(part)
    text = f"{derivative} = {_joined(parts)}"
    return text if len(text) <= LONGEST else None


def axis_letters(shapes: Sequence[Sequence[int]], taken: Container[str]) -> list[tuple[str, ...]]:
    """A letter for every axis of several arrays, 0 for axes of size one.

    Args:
        shapes: the arrays' shapes.
        taken: names that are no index.
    """
    numbered = (f"{letter}{k}" for k in itertools.count(1) for letter in INDICES)
    letters = (name for name in itertools.chain(INDICES, numbered) if name not in taken)
    return [tuple("0" if n == 1 else next(letters) for n in shape) for shape in shapes]


def _places(
    letters: Sequence[str], index: Sequence[Affine], shape: Sequence[int]
) -> list[tuple[str, Affine, int]]:
    """Letter, expression and size of every axis that has a letter."""
    together = zip(letters, index, shape, strict=True)
    return [(letter, e, n) for letter, e, n in together if letter != "0"]


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
    sizes_of_letters: dict[str, int] = {}
    waiting: list[tuple[str, Affine, int]] = []
    for letter, e, n in places:
        v = plain_variable(e)
        if v is not None and v not in written:
            written[v] = letter
            sizes[v] = n
            sizes_of_letters[letter] = n
        else:
            waiting.append((letter, e, n))
    solution: dict[int, tuple[int, str, Affine]] = {}
    equal: list[tuple[str, Affine]] = []
    sizes_of_letters.update({letter: n for letter, _, n in waiting})
    # variables that a solution is written in are summed over and not solved for
    pinned: set[int] = set()

    def unknown(e: Affine) -> list[tuple[int, int]]:
        return [(v, c) for v, c in e.terms if v not in written and v not in solution]

    while waiting:
        # equations of one unknown first: they need no sum
        waiting.sort(key=lambda place: len(unknown(place[1])))
        letter, e, _ = waiting.pop(0)
        options = [(v, c) for v, c in unknown(e) if abs(c) == 1 and v not in pinned]
        if not options:
            equal.append((letter, e))
            continue
        v, c = max(options, key=lambda pair: term.sizes[pair[0]])
        pinned.update(w for w, _ in unknown(e) if w != v)
        # letter = c·v + rest, so v = c·letter − c·rest
        solution[v] = (c, letter, affine.scale(affine.subtract(e, affine.variable(v, c)), -c))
    summed: dict[int, str] = {}
    loose = [v for v in term.sizes if v not in written and v not in solution]
    for v, letter in zip(loose, free, strict=False):
        summed[v] = letter
        sizes_of_letters[letter] = term.sizes[v]
    if len(written) + len(solution) + len(summed) < len(term.sizes):
        return None
    write = _Writer({**written, **summed}, solution)
    limits = dict(sizes_of_letters)
    conditions: list[str] = []
    for v, n in sizes.items():
        if term.sizes[v] < n:
            limits[written[v]] = term.sizes[v]
            if not _implied(v, term, equal, places):
                conditions.append(f"{written[v]} < {term.sizes[v]}")
    conditions = [*(_equality(letter, write(e)) for letter, e in equal), *conditions]
    for v in solution:
        position = write.letters(affine.variable(v))
        low, high = position.range(limits)
        text = str(position)
        below = f"0 ≤ {text}" if low < 0 else ""
        above = f"{text} < {term.sizes[v]}" if high > term.sizes[v] - 1 else ""
        conditions.append(f"0 ≤ {above}" if below and above else below or above)
    for e in term.bounds:
        bound = write.letters(e)
        if bound.range(limits)[0] < 0:
            conditions.append(_bound_text(bound))
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
    free = [letter for letter in SUMMED if letter not in names.given]
    lettered = None if term.guards else _letter(term, places, free)
    if lettered is None:
        return None
    write = lettered.write
    relation = {v for e in (*term.out, *term.inp, *term.zeros, *term.bounds) for v, _ in e.terms}
    result = []
    for p in term.coefficient.products or ():
        own = {v for f in p.factors for e in f.at for v, _ in e.terms} | relation
        ranges = _known_ranges(p, term, names)
        summed = [
            name if v in ranges else f"{name}<{term.sizes[v]}"
            for v, name in lettered.summed.items()
            if v in own
        ]
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


def _known_ranges(product: Product, term: Term, names: Names) -> set[int]:
    """Variables that are by themselves an index of an array and run over all of its axis."""
    values = names.tape.values
    # the output's index is the cotangent's; in the Jacobian nothing is summed over it
    places = list(zip(term.out, values[names.output[0]].shape, strict=True))
    for f in product.factors:
        places += zip(f.at, values[f.value].shape, strict=True)
    indices = ((plain_variable(e), n) for e, n in places)
    return {v for v, n in indices if v is not None and term.sizes[v] == n}


@dataclass(frozen=True)
class _Letters:
    """An affine expression in index letters: `const + Σ coefficient · letter`."""

    const: int
    terms: Mapping[str, int]

    def range(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """The least and the greatest value when every letter runs over its axis."""
        reach = [c * (sizes[letter] - 1) for letter, c in self.terms.items()]
        low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
        return self.const + low, self.const + high

    def __str__(self) -> str:
        positive = [(letter, c) for letter, c in self.terms.items() if c > 0]
        negative = [(letter, c) for letter, c in self.terms.items() if c < 0]
        parts = [_scaled(c, letter) for letter, c in positive]
        number = [number_text(self.const)] if self.const else []
        if not positive:
            parts, number = number, []
        parts += [_scaled(c, letter) for letter, c in negative]
        return _joined([*parts, *number] or ["0"])


@dataclass(frozen=True)
class _Writer:
    """Writes affine expressions in index letters.

    Attributes:
        written: variables that are a letter.
        solution: variables that are `c · letter + rest`, the rest in other variables.
    """

    written: Mapping[int, str]
    solution: Mapping[int, tuple[int, str, Affine]]

    def letters(self, e: Affine) -> _Letters:
        """The expression in letters, like letters joined."""
        const = e.const
        total: dict[str, int] = {}
        waiting = list(e.terms)
        while waiting:
            v, c = waiting.pop(0)
            if v in self.solution:
                sign, letter, rest = self.solution[v]
                total[letter] = total.get(letter, 0) + c * sign
                const += c * rest.const
                waiting.extend((w, c * d) for w, d in rest.terms)
            else:
                letter = self.written[v]
                total[letter] = total.get(letter, 0) + c
        return _Letters(const, {letter: c for letter, c in total.items() if c})

    def __call__(self, e: Affine) -> str:
        return str(self.letters(e))


def _scaled(c: int, name: str) -> str:
    if abs(c) == 1:
        return name if c > 0 else f"−{name}"
    return f"{c}{name}".replace("-", "−")


def _bound_text(bound: _Letters) -> str:
    """`bound ≥ 0` with the negative part moved over: `j ≤ i`."""
    high = {letter: c for letter, c in bound.terms.items() if c > 0}
    low = {letter: -c for letter, c in bound.terms.items() if c < 0}
    return f"{_Letters(max(-bound.const, 0), low)} ≤ {_Letters(max(bound.const, 0), high)}"


def _factor_text(f: Factor, names: Names, write: _Writer) -> str:
    """One factor with its index; functions of values with the index inside."""
    value = names.tape.values[f.value]
    index = [write(e) for e in f.at]
    if value.function is not None and f.value not in names.tape.names:
        parts = []
        for k in value.operands:
            shape = names.tape.values[k].shape
            own = ["0" if n == 1 else i for i, n in zip(index, shape, strict=False)]
            part = indexed(names.of(k), own if len(shape) == len(index) else ())
            parts.append(part if value.function.text.startswith("1[") else group(part))
        return names.function_text(value, parts)
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
    (letters,) = axis_letters([in_shape], names.given)
    for term in terms:
        places = _places(letters, term.inp, in_shape)
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
