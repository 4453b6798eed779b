"""Lines of text: titles, matrices, wrapped paragraphs, and the styles to print them in."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.notation.numbers import number
from jacobians.program.call import Leaf, value_text

WIDTH = 100
LABEL = 12
SMALL = 6

Style = Callable[[str, str], str]


def plain(text: str, role: str) -> str:
    """The style that changes nothing. Roles: title, block, label, good, bad, note."""
    del role
    return text


def title(name: str, inputs: Sequence[Leaf], outputs: Sequence[Leaf]) -> str:
    """`softmax: x f32[4,8] → out f32[4,8]`, shortened to the width of a report."""

    def side(leaves: Sequence[Leaf]) -> str:
        shown = [
            f"{leaf.name} = {value_text(leaf.value)}"
            if leaf.static
            else f"{leaf.name} {leaf.short_type}"
            for leaf in leaves
        ]
        text = ", ".join(shown[:6])
        return text + (f", … {len(shown) - 6} more" if len(shown) > 6 else "")

    text = f"{name}: {side(inputs)} → {side(outputs)}"
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def matrix_lines(matrix: NDArray[Any]) -> list[str]:
    """A small matrix with aligned columns."""
    cells = [[number(x) for x in row] for row in np.asarray(matrix)]
    width = max(len(c) for row in cells for c in row)
    return ["[" + "  ".join(c.rjust(width) for c in row) + "]" for row in cells]


def array_text(array: NDArray[Any]) -> str:
    """A small array in one line, `[[0.088, 0.176], [0.104, 0.208]]`."""
    if array.ndim == 0:
        return number(array.item())
    return "[" + ", ".join(array_text(part) for part in array) + "]"


def wrap(text: str, indent: int, width: int = WIDTH) -> list[str]:
    """Text broken into lines of at most `width`, the later ones indented."""
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=True, break_on_hyphens=False
    )


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(str(n) for n in shape)}]" if shape else "scalar"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")
