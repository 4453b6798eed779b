"""How numbers are written, and when a part of an expression needs brackets."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def number_text(x: Any) -> str:
    """A number in a formula: `2`, `0.5`, `−1`."""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    text = f"{x:.6g}" if isinstance(x, float) else str(x)
    return text.replace("-", "−")


def level(text: str) -> int:
    """How loosely a text binds at its outside: 3 atom, 2 products with ·, 1 with ⊙ or /, 0 sums."""
    depth, lowest = 0, 3
    for k, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif depth == 0:
            if character == "·":
                lowest = min(lowest, 2)
            elif character in "⊙/":
                lowest = min(lowest, 1)
            elif character in "+−" and (k == 0 or text[k - 1] == " "):
                lowest = 0
    return lowest


def group(text: str, at_least: int = 3) -> str:
    """The text, in parentheses if it binds more loosely than `at_least` (see `level`)."""
    return text if level(text) >= at_least else f"({text})"


def indexed(name: str, index: Sequence[str]) -> str:
    """An entry: `W[i,j]`; the name alone for scalars; `1[x[i] > 0]` has its index inside."""
    if not index:
        return name
    return f"{group(name)}[{','.join(index)}]"


def number(x: Any) -> str:
    """A number with at most five significant digits, and a true minus sign."""
    if isinstance(x, complex):
        return f"{number(x.real)} + {number(x.imag)}i"
    text = f"{float(x):.5g}"
    text = "0" if text == "-0" else text
    return text.replace("-", "−")
