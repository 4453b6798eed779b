"""Formulas as text: `W̄ = 2·q·xᵀ`, `∂out[i]/∂x[j] = 1[i = j]·y[i]`.

The one place where a formula becomes text. Another form, LaTeX or code, is another module like
this one: a function over the objects of `derive.algebra.syntax`.

    >>> text_of(Product((Transposed(Name("W")), Cotangent("y")), -2.0))
    '−2·Wᵀ·ȳ'
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Comparison,
    Cotangent,
    Definition,
    Derivative,
    Entry,
    Equation,
    Expression,
    Hadamard,
    Indicator,
    Name,
    Negative,
    Not,
    Number,
    Ones,
    Position,
    Power,
    Product,
    Quotient,
    Root,
    Sliced,
    Slot,
    Sum,
    Transposed,
    Vector,
    Words,
)
from jacobians.notation.numbers import ATOM, LINE, POINT, SUM, level, number_text

SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class _Text:
    """A printed expression: without its sign, how loosely it binds, and whether the sign is −."""

    body: str
    binds: int = ATOM
    negative: bool = False

    @property
    def whole(self) -> str:
        """The text with its sign."""
        return "−" + self.body if self.negative else self.body

    def within(self, at_least: int) -> str:
        """The text, in parentheses if it binds more loosely than that."""
        return self.whole if self.level >= at_least else f"({self.whole})"

    @property
    def level(self) -> int:
        """How loosely the whole binds: a sign binds as a sum does."""
        return SUM if self.negative else self.binds


def text_of(e: Expression) -> str:
    """An expression as text."""
    return _print(e).whole


def binds(e: Expression) -> int:
    """How loosely the text of an expression binds at its outside (see `notation.numbers`)."""
    return _print(e).level


def bracketed(e: Expression, at_least: int = ATOM) -> Expression:
    """The expression, in parentheses if its text binds more loosely than that."""
    return e if binds(e) >= at_least else Brackets(e)


def barred(e: Expression) -> bool:
    """Whether an expression is printed as a letter with a bar, as a short name's cotangent is."""
    return isinstance(e, Cotangent) and _letter_end(e.of) is not None


def bar(name: str) -> str:
    """The cotangent of a name: `x̄`, `W̄1`, `p̄["W"]`; `bar(logits)` for a longer name."""
    if _letter_end(name) is None:
        return f"bar({name})"
    return unicodedata.normalize("NFC", name[0] + "\u0304" + name[1:])


def superscript(n: int) -> str:
    """A number in superscript digits: ⁻¹, ², ³."""
    return str(n).translate(SUPERSCRIPTS)


def _letter_end(name: str) -> int | None:
    """1 for a name that is one letter before digits, fields and indices, else None."""
    head = next((k for k, c in enumerate(name) if not c.isalnum() and c != "_"), len(name))
    return 1 if len(name[:head].rstrip("0123456789₀₁₂₃₄₅₆₇₈₉")) == 1 else None


def _print(e: Expression) -> _Text:
    """An expression as text, with what is to be known to put it inside another."""
    match e:
        case Name(name):
            return _Text(name, level(name))
        case Cotangent(name):
            return _Text(bar(name), level(bar(name)))
        case Number(value):
            text = number_text(value)
            return _Text(text[1:], negative=True) if text[0] == "−" else _Text(text)
        case Ones():
            return _Text("1")
        case Words(text):
            return _Text(text)
        case Slot(k):
            return _Text(f"{{{k}}}")
        case Position():
            return _position(e)
        case Negative(of):
            return _Text(_print(of).within(ATOM), negative=True)
        case Sum(terms):
            return _sum([_print(t) for t in terms])
        case Product():
            return _product(e)
        case Hadamard(factors):
            return _Text(" ⊙ ".join(_print(f).within(POINT) for f in factors), LINE)
        case Quotient(above, below, close):
            sign = "/" if close else " / "
            return _Text(_print(above).within(ATOM) + sign + _print(below).within(ATOM), LINE)
        case Derivative(output, input_):
            return _Text(f"∂{text_of(output)}/∂{text_of(input_)}", LINE)
        case Equation(left, right):
            return _Text(f"{text_of(left)} = {text_of(right)}", SUM)
        case Definition(name, meaning):
            return _Text(f"{text_of(name)} = {text_of(meaning)}", SUM)
    return _Text(_closed(e))


def _closed(e: Expression) -> str:
    """What binds as a name does: entries, powers, calls, indicators and their like."""
    match e:
        case Entry(array, index):
            return f"{_print(array).within(ATOM)}[{','.join(map(text_of, index))}]"
        case Sliced(array, ranges):
            return f"{_print(array).within(ATOM)}[{', '.join(_range(*r) for r in ranges)}]"
        case Power(base, exponent):
            # (q³)² is not q³²
            below = f"({text_of(base)})" if isinstance(base, Power) else _print(base).within(ATOM)
            if isinstance(exponent, int):
                return below + superscript(exponent)
            return f"{below}^({text_of(exponent)})"
        case Root(of):
            return "√" + _print(of).within(ATOM)
        case Transposed(of):
            return _print(of).within(ATOM) + "ᵀ"
        case Call(function, arguments, axes):
            along = f", axis={axes[0] if len(axes) == 1 else axes}" if axes else ""
            return f"{function}({', '.join(map(text_of, arguments))}{along})"
        case Vector(entries):
            return f"[{', '.join(map(text_of, entries))}]"
        case Comparison(sides, signs):
            first, *rest = map(text_of, sides)
            return first + "".join(f" {s} {t}" for s, t in zip(signs, rest, strict=True))
        case Not(of):
            return f"not {text_of(of)}"
        case Indicator(condition):
            return f"1[{text_of(condition)}]"
        case Brackets(of):
            return f"({text_of(of)})"
    raise TypeError(f"no text for a {type(e).__name__}")


def _sum(terms: Sequence[_Text]) -> _Text:
    """Summands with their signs: `a − b + c`."""
    if len(terms) == 1:
        return terms[0]
    rest = (f" − {t.body}" if t.negative else f" + {t.whole}" for t in terms[1:])
    return _Text(terms[0].whole + "".join(rest), SUM)


def _product(e: Product) -> _Text:
    """A number, factors with · between them, the sum sign in front: `−Σ_a,b<2 0.5·x[a]·y[b]`."""
    factors = [_print(f) for f in e.factors]
    if abs(e.scale) != 1.0 or not factors:
        factors.insert(0, _Text(number_text(float(abs(e.scale)))))
    negative = e.scale < 0
    if len(factors) > 1:
        body, loosest = "·".join(f.within(POINT) for f in factors), POINT
    elif negative:
        body, loosest = factors[0].within(POINT), POINT
    else:
        body, loosest, negative = factors[0].body, factors[0].binds, factors[0].negative
    if e.over:
        letters = ",".join(n if size is None else f"{n}<{size}" for n, size in e.over)
        body = f"Σ_{letters} {body}"
    return _Text(body, loosest, negative)


def _position(e: Position) -> _Text:
    """An affine expression, what is positive first: `j − 2i + 1`."""
    positive = [_multiple(letter, c) for letter, c in e.terms if c > 0]
    negative = [_multiple(letter, c) for letter, c in e.terms if c < 0]
    const = [_print(Number(e.const))] if e.const else []
    middle = [*const, *negative] if not positive else [*negative, *const]
    return _sum([*positive, *middle] or [_Text("0")])


def _multiple(letter: str, c: int) -> _Text:
    return _Text(letter if abs(c) == 1 else f"{abs(c)}{letter}", negative=c < 0)


def _range(start: int | None, stop: int | None, stride: int) -> str:
    """One axis of a slice, as Python writes it: `1:`, `::2`."""
    ends = f"{'' if start is None else start}:{'' if stop is None else stop}"
    return ends if stride == 1 else f"{ends}:{stride}"
