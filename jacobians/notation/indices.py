"""A derivative as a sum over indices: dW[i, j] = 2·q[i]·x[j].

Index variables get letters, axis by axis; what a condition implies is not written twice.
"""

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import Factor, Product
from jacobians.derive.algebra.term import Term
from jacobians.notation.expression import Names, bar
from jacobians.notation.numbers import group, indexed, number_text

INDICES = ("i", "j", "k", "l", "m", "n", "o", "p", "s", "t")
SUMMED = ("a", "b", "c", "d", "e", "g", "r", "α", "β", "γ")
LONGEST = 240


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
