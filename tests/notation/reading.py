"""Reads printed formulas and computes what they say, so that the text itself is tested.

A formula is turned into a Python expression over arrays by name. A sum runs over all values of its
letter for which every index is inside its array; `·` is the matrix product, vectors are columns.
"""

import itertools
import re
from math import prod

import numpy as np
from scipy import special

FUNCTIONS = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "abs": np.abs,
    "sqrt": np.sqrt, "sign": np.sign, "cosh": np.cosh, "sinh": np.sinh,
    "digamma": special.digamma, "trunc": np.trunc,
}  # fmt: skip
POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


class NotReadableError(Exception):
    """The formula uses something that this reader does not know."""


class Outside(Exception):
    """An index lies outside its array: the summand is not there."""


class Indexed(float):
    """A named array that gives its entries; it may share its name with an index letter."""

    array: np.ndarray

    def __getitem__(self, at):
        at = tuple(int(k) for k in (at if isinstance(at, tuple) else (at,)))
        if len(at) != self.array.ndim or any(
            not 0 <= k < n for k, n in zip(at, self.array.shape, strict=True)
        ):
            raise Outside
        return Matrix(self.array[at])


def to_python(text: str, matrix: bool) -> str:
    """A formula as a Python expression."""
    same = re.search(r"1\[(.+) [<>] \1\]", text)
    if "= max]" in text or "= min]" in text or same:
        # the row of a largest entry is not named; a tie is a kink
        raise NotReadableError(text)
    text = text.replace("−", "-").replace("√", "sqrt").replace("≤", "<=").replace("≠", "!=")
    text = re.sub(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", lambda m: f".pow({m[1].translate(POWERS)})", text)
    text = text.replace("^(", ".pow(")
    text = _indicators(text)
    if matrix:
        text = re.sub(r"(?<![\w.])1·", "ONES·", text)
        text = text.replace("·1ᵀ", "·ONES.T").replace("ᵀ", ".T")
        text = text.replace("·", "**").replace("⊙", "*").replace("Σ(", "total(")
        return text
    text = re.sub(r"(?<![\w.])(\d+)([a-zα-ω])", r"\1*\2", text)
    return text.replace("·", "*")


def plain_names(text: str, arrays) -> tuple[str, dict]:
    """The text with every name a Python identifier, and the arrays by those names."""
    renamed = {}
    for number, name in enumerate(sorted(arrays, key=len, reverse=True)):
        short = name if name.isidentifier() else f"array{number}_"
        if short != name:
            text = text.replace(name, short)
        renamed[short] = arrays[name]
    return text, renamed


def _indicators(text: str) -> str:
    """`1[a = b]` as `chosen(a == b)`."""
    result, k = [], 0
    while k < len(text):
        if text[k : k + 2] == "1[" and (
            k == 0 or not (text[k - 1].isalnum() or text[k - 1] in "._")
        ):
            depth, end = 1, k + 2
            while depth:
                depth += {"[": 1, "]": -1}.get(text[end], 0)
                end += 1
            inside = _indicators(text[k + 2 : end - 1])
            inside = re.sub(r"^not (.*)$", r"0 == \1", inside)
            inside = re.sub(r"(?<![<>!=])=(?!=)", "==", inside)
            result.append(f"chosen({inside})")
            k = end
        else:
            result.append(text[k])
            k += 1
    return "".join(result)


def summands(text: str) -> list[tuple[int, list, str]]:
    """The top-level summands as (sign, summed letters, rest)."""
    parts, depth, start, sign = [], 0, 0, 1
    text = text.strip()
    for k, c in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(c, 0)
        if depth == 0 and text[k : k + 3] in (" + ", " − "):
            parts.append((sign, text[start:k]))
            sign, start = (1 if text[k + 1] == "+" else -1), k + 3
    parts.append((sign, text[start:]))
    result = []
    for sign, part in parts:
        if part.startswith("−Σ_"):
            sign, part = -sign, part[1:]
        letters: list[tuple[str, int | None]] = []
        if part.startswith("Σ_"):
            head, part = part.split(" ", 1)
            for item in head[2:].split(","):
                letter, _, limit = item.partition("<")
                letters.append((letter, int(limit) if limit else None))
        result.append((sign, letters, part))
    return result


def by_index(text: str, letters, shape, arrays, reach: int):
    """The array that an index formula gives, entry by entry.

    Args:
        text: the right-hand side.
        letters: index letters of the result, 0 for axes of size one.
        shape: shape of the result.
        arrays: arrays by name.
        reach: summed letters run over [0, reach).
    """
    result = np.zeros(shape)
    text, arrays = plain_names(text, arrays)
    space = {name: _elementwise(f) for name, f in FUNCTIONS.items()}
    space["chosen"] = _chosen
    for name, array in arrays.items():
        array = np.asarray(array, dtype=np.float64)
        # an array of one entry may be written without its index
        space[name] = Single(array) if array.size == 1 else Indexed(np.nan)
        space[name].array = array
    for sign, summed, part in summands(text):
        try:
            code = compile(to_python(part, matrix=False), part, "eval")
        except SyntaxError as error:
            raise NotReadableError(part) from error
        for at in itertools.product(*(range(n) for n in shape)):
            own = {}
            for letter, k in zip(letters, at, strict=True):
                if letter != "0":
                    own[letter] = _letter(k, space.get(letter))
            for values in itertools.product(range(reach), repeat=len(summed)):
                own.update(
                    {s: _letter(v, space.get(s)) for s, v in zip(summed, values, strict=True)}
                )
                try:
                    with np.errstate(all="ignore"):
                        value = float(lift(eval(code, space, own)).a)
                except Outside:
                    continue
                except NameError as error:
                    raise NotReadableError(part) from error
                result[at] += sign * value
    return result


def _letter(k: int, array):
    value = Indexed(float(k))
    if isinstance(array, (Indexed, Single)):
        value.array = array.array
    return value


class Matrix:
    """A matrix, a column for a vector, or a number, with the notation's operations."""

    def __init__(self, array, ones: str = "") -> None:
        self.a, self.ones = array, ones

    @property
    def scalar(self) -> bool:
        return np.ndim(self.a) == 0 and not self.ones

    @property
    def T(self):
        if self.ones:
            return Matrix(self.a, "row" if self.ones == "column" else "column")
        return self if self.scalar else Matrix(self.a.T)

    def __pow__(self, other):
        other = lift(other)
        if self.scalar or other.scalar:
            if self.ones or other.ones:
                return self if other.scalar and not self.ones else Matrix(self.a * other.a)
            return Matrix(self.a * other.a)
        if other.ones == "row":
            assert self.a.shape[1] == 1
            return self
        if self.ones == "column":
            assert other.a.shape[0] == 1
            return other
        return Matrix(self.a @ other.a)

    def __rpow__(self, other):
        return lift(other) ** self

    def __mul__(self, other):
        other = lift(other)
        return Matrix(self.a * other.a)

    __rmul__ = __mul__

    def __add__(self, other):
        return Matrix(self.a + lift(other).a)

    __radd__ = __add__

    def __sub__(self, other):
        return Matrix(self.a - lift(other).a)

    def __rsub__(self, other):
        return lift(other) - self

    def __neg__(self):
        return Matrix(-self.a)

    def __truediv__(self, other):
        return Matrix(self.a / lift(other).a)

    def __rtruediv__(self, other):
        return lift(other) / self

    def pow(self, exponent):
        return Matrix(self.a ** (exponent.a if isinstance(exponent, Matrix) else float(exponent)))

    def _comparable(self, other):
        other = lift(other)
        if not (self.scalar or other.scalar) and self.a.shape != other.a.shape:
            raise NotReadableError("arrays that broadcast inside a comparison")
        return other.a

    def __lt__(self, other):
        return lift(other)._larger(self)

    def __gt__(self, other):
        return self._larger(other)

    def _larger(self, other):
        # JAX's convention for the larger of two: one half at a tie
        b = self._comparable(other)
        return Matrix(np.where(self.a > b, 1.0, np.where(self.a == b, 0.5, 0.0)))

    def __le__(self, other):
        return Matrix(self.a <= self._comparable(other))

    def __eq__(self, other):
        return Matrix(self.a == self._comparable(other))

    __hash__ = None

    def __bool__(self) -> bool:
        if not self.scalar:
            raise NotReadableError("a chain of comparisons of arrays")
        return bool(self.a)


class Single(Matrix):
    """An array of one entry, with or without its index."""

    def __init__(self, array) -> None:
        super().__init__(np.float64(array.item()))

    __getitem__ = Indexed.__getitem__


def lift(x):
    return x if isinstance(x, Matrix) else Matrix(np.float64(x))


def _elementwise(f):
    return lambda x: Matrix(f(lift(x).a))


def _chosen(condition) -> Matrix:
    return Matrix(1.0 * lift(condition).a)


def _total(x: Matrix, axis=None) -> Matrix:
    if axis is None:
        return Matrix(np.sum(x.a))
    return Matrix(np.sum(x.a, axis=axis).reshape(-1, 1))


def by_matrix(text: str, shape, arrays):
    """The array that a formula in matrix notation gives."""
    if "reshape(" in text:
        name, _ = re.fullmatch(r"reshape\((.*), (\[.*\])\)", text).groups()
        return np.reshape(arrays[name], shape)

    text, arrays = plain_names(text, arrays)

    def column(array):
        kept = np.squeeze(np.asarray(array, dtype=np.float64))
        return Matrix(kept.reshape(-1, 1) if kept.ndim == 1 else kept)

    space = {name: column(array) for name, array in arrays.items()}
    space.update({name: _elementwise(f) for name, f in FUNCTIONS.items()})
    space.update(ONES=Matrix(np.float64(1.0), "column"), total=_total, chosen=_chosen)
    code = to_python(text, matrix=True)
    try:
        with np.errstate(all="ignore"):
            made = lift(eval(code, space))
    except (NameError, SyntaxError, TypeError) as error:
        # a slice or another operation written out in full
        raise NotReadableError(text) from error
    wide = [n for n in shape if n != 1]
    target = (wide[0], 1) if len(wide) == 1 else tuple(wide)
    if made.ones or np.ndim(made.a) == 0:
        return np.full(shape, float(made.a))
    return np.broadcast_to(made.a, target).reshape(shape) if prod(shape) else np.zeros(shape)
