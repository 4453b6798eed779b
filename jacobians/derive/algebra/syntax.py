"""What formulas are made of: names, entries, sums, products, indicators, as objects.

A formula is built, renamed, compared and taken apart in this form, and becomes text (or LaTeX, or
Python) in a printer alone, `notation.text`. The printed form of a local derivative is one too, with
slots where its operands go.

    Product((Indicator(Comparison((i, j), ("=",))), Entry(Name("x"), (k,))))      1[i = j]·x[k]
    Product((Transposed(Name("W")), Cotangent("y")), 2.0)                          2·Wᵀ·ȳ
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args


@dataclass(frozen=True)
class Name:
    """A named array or number."""

    text: str


@dataclass(frozen=True)
class Cotangent:
    """The cotangent of a named array."""

    of: str


@dataclass(frozen=True)
class Number:
    """A known number."""

    value: Any


@dataclass(frozen=True)
class Ones:
    """The vector of ones."""


@dataclass(frozen=True)
class Words:
    """A condition, or a quantity, in words."""

    text: str


@dataclass(frozen=True)
class Slot:
    """The place of an operand, by its position."""

    operand: int


@dataclass(frozen=True)
class Position:
    """An affine expression in index letters: `const + Σ coefficient · letter`."""

    const: int
    terms: tuple[tuple[str, int], ...] = ()

    @property
    def letter(self) -> str | None:
        """The letter that the position is, or None."""
        plain = self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1
        return self.terms[0][0] if plain else None

    def range(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """The least and the greatest value when every letter runs over its axis."""
        reach = [c * (sizes[letter] - 1) for letter, c in self.terms]
        low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
        return self.const + low, self.const + high


@dataclass(frozen=True)
class Entry:
    """An entry of an array."""

    array: "Expression"
    index: tuple[Position, ...]


@dataclass(frozen=True)
class Sliced:
    """A part of an array: (start, stop, stride) for each axis, None for an end of the axis."""

    array: "Expression"
    ranges: tuple[tuple[int | None, int | None, int], ...]


@dataclass(frozen=True)
class Negative:
    """The opposite."""

    of: "Expression"


@dataclass(frozen=True)
class Sum:
    """A sum of terms."""

    terms: tuple["Expression", ...]


@dataclass(frozen=True)
class Product:
    """A number times factors, as a product of matrices or of entries, summed over letters.

    Attributes:
        factors: the factors.
        scale: the number.
        over: letters that are summed over; the size of a sum that no array's axis tells.
    """

    factors: tuple["Expression", ...]
    scale: float = 1.0
    over: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True)
class Hadamard:
    """An entrywise product."""

    factors: tuple["Expression", ...]


@dataclass(frozen=True)
class Quotient:
    """A quotient; `close` where it is written without spaces."""

    above: "Expression"
    below: "Expression"
    close: bool = True


@dataclass(frozen=True)
class Power:
    """A power, of a known exponent or of an expression."""

    base: "Expression"
    exponent: "int | Expression"


@dataclass(frozen=True)
class Root:
    """A square root."""

    of: "Expression"


@dataclass(frozen=True)
class Transposed:
    """A matrix transposed."""

    of: "Expression"


@dataclass(frozen=True)
class Call:
    """A function of arguments, along some axes or (none) as a whole."""

    function: str
    arguments: tuple["Expression", ...]
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Vector:
    """A vector, entry by entry."""

    entries: tuple["Expression", ...]


@dataclass(frozen=True)
class Comparison:
    """Expressions with a relation sign between each and the next."""

    sides: tuple["Expression", ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    of: "Expression"


@dataclass(frozen=True)
class Indicator:
    """1 where a condition holds, else 0."""

    condition: "Expression"


@dataclass(frozen=True)
class Brackets:
    """An expression in parentheses, wherever it stands."""

    of: "Expression"


@dataclass(frozen=True)
class Derivative:
    """The derivative of an entry with respect to another."""

    output: "Expression"
    input: "Expression"


@dataclass(frozen=True)
class Equation:
    """A formula: what is said, and what it is."""

    left: "Expression"
    right: "Expression"


@dataclass(frozen=True)
class Definition:
    """A name and its meaning."""

    name: Name
    meaning: "Expression"


Expression = (
    Name | Cotangent | Number | Ones | Words | Slot | Position | Entry | Sliced | Negative | Sum
    | Product | Hadamard | Quotient | Power | Root | Transposed | Call | Vector | Comparison | Not
    | Indicator | Brackets | Derivative | Equation | Definition
)  # fmt: skip


# the fields of each kind of expression
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in get_args(Expression)}


def parts(e: Expression) -> Iterator[Expression]:
    """The expressions that an expression is made of directly."""
    for name in _FIELDS[type(e)]:
        value = getattr(e, name)
        for part in value if type(value) is tuple else (value,):
            if type(part) in _FIELDS:
                yield part


def walk(e: Expression, outside: type | None = None) -> Iterator[Expression]:
    """An expression and everything inside it; not what is inside an `outside`."""
    yield e
    if outside is None or not isinstance(e, outside):
        for part in parts(e):
            yield from walk(part, outside)


def rewritten(e: Expression, change: Callable[[Expression], Expression | None]) -> Expression:
    """The expression with every part that `change` has something else for replaced by that."""
    new = change(e)
    if new is not None:
        return new

    def of(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(of, value))
        return rewritten(value, change) if type(value) in _FIELDS else value

    return type(e)(*(of(getattr(e, name)) for name in _FIELDS[type(e)]))


def renamed(e: Expression, old: str, new: str) -> Expression:
    """The expression with another name for an array."""
    return rewritten(e, lambda part: Name(new) if part == Name(old) else None)


def filled(e: Expression, operands: "tuple[Expression, ...]") -> Expression:
    """The expression with operands in its slots."""
    return rewritten(e, lambda part: operands[part.operand] if isinstance(part, Slot) else None)


def entry(array: Expression, index: tuple[Position, ...]) -> Expression:
    """An entry of an array; the array itself where it has no axes."""
    return Entry(array, index) if index else array


def total(terms: tuple[Expression, ...]) -> Expression:
    """The sum of terms; a single one is itself."""
    return terms[0] if len(terms) == 1 else Sum(terms)


def is_case(case: int) -> Indicator:
    """`1[{0} = case]`, of the operand in slot 0."""
    return Indicator(Comparison((Slot(0), Number(case)), ("=",)))
