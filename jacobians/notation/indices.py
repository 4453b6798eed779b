"""A derivative as a sum over indices: dW[i, j] = 2·q[i]·x[j].

Index variables get letters, axis by axis; what a condition implies is not written twice.
"""

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import Factor
from jacobians.derive.algebra.coefficient import Product as Factors
from jacobians.derive.algebra.syntax import (
    Comparison,
    Cotangent,
    Derivative,
    Equation,
    Expression,
    Indicator,
    Number,
    Position,
    Product,
    entry,
    total,
)
from jacobians.derive.algebra.term import Term
from jacobians.notation.expression import Names
from jacobians.notation.text import bracketed, text_of

INDICES = ("i", "j", "k", "l", "m", "n", "o", "p", "s", "t")
SUMMED = ("a", "b", "c", "d", "e", "g", "r", "α", "β", "γ")
LONGEST = 240


def index_formula(
    terms: Terms,
    names: Names,
    derivative: Derivative,
    letters: tuple[Sequence[str], Sequence[str]],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> Equation | None:
    """The Jacobian by indices, `∂out[i]/∂x[j] = 1[i = j]·y[i]`; None where it grows too long."""
    summands: list[Expression] = []
    for term in terms:
        places = _places(
            (*letters[0], *letters[1]), (*term.out, *term.inp), (*shapes[0], *shapes[1])
        )
        written = _index_term(term, names, places, None)
        if written is None:
            return None
        summands.extend(written)
    formula = Equation(derivative, total(tuple(summands)))
    return formula if len(text_of(formula)) <= LONGEST else None


def entry_at(array: Expression, letters: Sequence[str]) -> Expression:
    """An entry by its letters, 0 for axes of size one; the array itself where it has no axes."""
    return entry(array, tuple(Position(0) if i == "0" else Position(0, ((i, 1),)) for i in letters))


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


@dataclass(frozen=True)
class _Lettered:
    """A term with letters for its variables, and the conditions left over."""

    write: "_Writer"
    conditions: tuple[Expression, ...]
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
    written, solution, equal = _solved(term, places)
    loose = [v for v in term.sizes if v not in written and v not in solution]
    summed = dict(zip(loose, free, strict=False))
    if len(summed) < len(loose):
        return None
    write = _Writer({**written, **summed}, solution)
    return _Lettered(write, tuple(_conditions(term, places, write, equal)), summed)


def _solved(
    term: Term, places: Sequence[tuple[str, Affine, int]]
) -> tuple[dict[int, str], dict[int, tuple[int, str, Affine]], list[tuple[str, Affine]]]:
    """A letter for each variable that is an index, others solved for, and what is left equal.

    Of `(i: a, j: a + b, k: a)`: a is i, b is j − i, and k = i is left.
    """
    written: dict[int, str] = {}
    waiting: list[tuple[str, Affine]] = []
    for letter, e, _ in places:
        v = plain_variable(e)
        if v is not None and v not in written:
            written[v] = letter
        else:
            waiting.append((letter, e))
    solution: dict[int, tuple[int, str, Affine]] = {}
    equal: list[tuple[str, Affine]] = []
    # variables that a solution is written in are summed over and not solved for
    pinned: set[int] = set()

    def unknown(e: Affine) -> list[tuple[int, int]]:
        return [(v, c) for v, c in e.terms if v not in written and v not in solution]

    while waiting:
        # equations of one unknown first: they need no sum
        waiting.sort(key=lambda place: len(unknown(place[1])))
        letter, e = waiting.pop(0)
        options = [(v, c) for v, c in unknown(e) if abs(c) == 1 and v not in pinned]
        if not options:
            equal.append((letter, e))
            continue
        v, c = max(options, key=lambda pair: term.sizes[pair[0]])
        pinned.update(w for w, _ in unknown(e) if w != v)
        # letter = c·v + rest, so v = c·letter − c·rest
        solution[v] = (c, letter, affine.scale(affine.subtract(e, affine.variable(v, c)), -c))
    return written, solution, equal


def _conditions(
    term: Term,
    places: Sequence[tuple[str, Affine, int]],
    write: "_Writer",
    equal: Sequence[tuple[str, Affine]],
) -> Iterable[Expression]:
    """What must hold of the letters for an index vector of the term to be there, each once."""
    limits = {letter: n for letter, _, n in places}
    limits |= {letter: term.sizes[v] for v, letter in write.written.items() if letter not in limits}
    conditions: list[Expression] = [_equality(letter, write(e)) for letter, e in equal]
    for v, letter in write.written.items():
        if term.sizes[v] < limits[letter]:
            limits[letter] = term.sizes[v]
            if not _implied(v, term, equal, places):
                short = Position(0, ((letter, 1),))
                conditions.append(Comparison((short, Number(term.sizes[v])), ("<",)))
    for v in write.solution:
        conditions += _within(write(affine.variable(v)), term.sizes[v], limits)
    for e in term.bounds:
        bound = write(e)
        if bound.range(limits)[0] < 0:
            conditions.append(_bound(bound))
    conditions += [Comparison((write(e), Number(0)), ("=",)) for e in term.zeros]
    return dict.fromkeys(conditions)


def _within(position: Position, size: int, limits: Mapping[str, int]) -> list[Expression]:
    """What of `0 ≤ position < size` the ranges of its letters do not say already."""
    low, high = position.range(limits)
    below, above = low < 0, high > size - 1
    if not (below or above):
        return []
    if not above:
        return [Comparison((Number(0), position), ("≤",))]
    if not below:
        return [Comparison((position, Number(size)), ("<",))]
    return [Comparison((Number(0), position, Number(size)), ("≤", "<"))]


def _equality(letter: str, position: Position) -> Expression:
    """`i = j + 1`; of two letters the given one is second, `i = j`."""
    given = Position(0, ((letter, 1),))
    plain = position.letter is not None
    return Comparison((position, given) if plain else (given, position), ("=",))


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
    term: Term, names: Names, places: Sequence[tuple[str, Affine, int]], cotangent: Cotangent | None
) -> list[Expression] | None:
    """The summands of one term: indicators of its conditions times its coefficient.

    Args:
        term: the term.
        names: names of values.
        places: letter, expression and size of every index that is given.
        cotangent: the output's cotangent for a VJP, whose output indices are summed.
    """
    free = [letter for letter in SUMMED if letter not in names.given]
    lettered = None if term.guards else _letter(term, places, free)
    if lettered is None:
        return None
    write = lettered.write
    relation = {v for e in (*term.out, *term.inp, *term.zeros, *term.bounds) for v, _ in e.terms}
    result: list[Expression] = []
    for p in term.coefficient.products or ():
        own = {v for f in p.factors for e in f.at for v, _ in e.terms} | relation
        ranges = _known_ranges(p, term, names)
        over = tuple(
            (letter, None if v in ranges else term.sizes[v])
            for v, letter in lettered.summed.items()
            if v in own
        )
        factors: list[Expression] = [Indicator(c) for c in lettered.conditions]
        if cotangent is not None:
            factors.append(entry(cotangent, tuple(write(e) for e in term.out)))
        factors += [_factor(f, names, write) for f in p.factors]
        result.append(Product(tuple(factors), float(p.scale), over))
    return result


def _known_ranges(product: Factors, term: Term, names: Names) -> set[int]:
    """Variables that are by themselves an index of an array and run over all of its axis."""
    values = names.tape.values
    # the output's index is the cotangent's; in the Jacobian nothing is summed over it
    places = list(zip(term.out, values[names.output[0]].shape, strict=True))
    for f in product.factors:
        places += zip(f.at, values[f.value].shape, strict=True)
    indices = ((plain_variable(e), n) for e, n in places)
    return {v for v, n in indices if v is not None and term.sizes[v] == n}


@dataclass(frozen=True)
class _Writer:
    """Writes affine expressions in index letters.

    Attributes:
        written: variables that are a letter.
        solution: variables that are `c · letter + rest`, the rest in other variables.
    """

    written: Mapping[int, str]
    solution: Mapping[int, tuple[int, str, Affine]]

    def __call__(self, e: Affine) -> Position:
        """The expression in letters, like letters joined."""
        const = e.const
        sums: dict[str, int] = {}
        waiting = list(e.terms)
        while waiting:
            v, c = waiting.pop(0)
            if v in self.solution:
                sign, letter, rest = self.solution[v]
                sums[letter] = sums.get(letter, 0) + c * sign
                const += c * rest.const
                waiting.extend((w, c * d) for w, d in rest.terms)
            else:
                letter = self.written[v]
                sums[letter] = sums.get(letter, 0) + c
        return Position(const, tuple((letter, c) for letter, c in sums.items() if c))


def _bound(bound: Position) -> Expression:
    """`bound ≥ 0` with the negative part moved over: `j ≤ i`."""
    high = tuple((letter, c) for letter, c in bound.terms if c > 0)
    low = tuple((letter, -c) for letter, c in bound.terms if c < 0)
    sides = Position(max(-bound.const, 0), low), Position(max(bound.const, 0), high)
    return Comparison(sides, ("≤",))


def _factor(f: Factor, names: Names, write: _Writer) -> Expression:
    """One factor with its index; functions of values with the index inside."""
    value = names.tape.values[f.value]
    index = tuple(write(e) for e in f.at)
    if value.function is None or f.value in names.tape.names:
        return entry(names.of(f.value), index)
    operands = []
    for k in value.operands:
        shape = names.tape.values[k].shape
        own = tuple(Position(0) if n == 1 else i for i, n in zip(index, shape, strict=False))
        operand = entry(names.of(k), own if len(shape) == len(index) else ())
        inside = isinstance(value.function.form, Indicator)
        operands.append(operand if inside else bracketed(operand))
    return names.applied(value, operands)


def index_vjp(
    terms: Terms, names: Names, out_name: str, in_name: str, in_shape: tuple[int, ...]
) -> Equation | None:
    """The VJP by indices: `x̄[j] = Σ_i ȳ[i]·…`; None where it grows too long."""
    summands: list[Expression] = []
    (letters,) = axis_letters([in_shape], names.given)
    for term in terms:
        places = _places(letters, term.inp, in_shape)
        written = _index_term(term, names, places, Cotangent(out_name))
        if written is None:
            return None
        summands.extend(written)
    formula = Equation(entry_at(Cotangent(in_name), letters), total(tuple(summands)))
    return formula if len(text_of(formula)) <= LONGEST else None
