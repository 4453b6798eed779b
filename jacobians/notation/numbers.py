"""How numbers are written, and how loosely a text binds."""

from typing import Any

import numpy as np

# how loosely a text binds at its outside: sums, products with ⊙ or /, products with ·, all else
SUM, LINE, POINT, ATOM = range(4)


def number_text(x: Any) -> str:
    """A number in a formula: `2`, `0.5`, `−1`."""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    text = f"{x:.6g}" if isinstance(x, float) else str(x)
    return text.replace("-", "−")


def level(name: str) -> int:
    """How loosely a name binds: a user may call an array `W·x`."""
    depth, lowest = 0, ATOM
    for k, character in enumerate(name):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif depth == 0:
            if character == "·":
                lowest = min(lowest, POINT)
            elif character in "⊙/":
                lowest = min(lowest, LINE)
            elif character in "+−" and (k == 0 or name[k - 1] == " "):
                lowest = SUM
    return lowest


def group(name: str, at_least: int = ATOM) -> str:
    """The name, in parentheses if it binds more loosely than `at_least`."""
    return name if level(name) >= at_least else f"({name})"


def number(x: Any) -> str:
    """A number with at most five significant digits, and a true minus sign."""
    if isinstance(x, complex):
        return f"{number(x.real)} + {number(x.imag)}i"
    text = f"{float(x):.5g}"
    text = "0" if text == "-0" else text
    return text.replace("-", "−")
