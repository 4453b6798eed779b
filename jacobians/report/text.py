"""Plain-text reports, at most 100 columns wide.

    >>> print(explanation_text(explain(jax.nn.relu, jnp.ones(4))))

Every line that states a structure says by what evidence: *proved* from the program, for every input
of these shapes, or *observed* at a number of points.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.algebra import entries
from jacobians.arguments import Leaf, value_text
from jacobians.explain import Block, Explanation
from jacobians.report.spy import spy, tile_size
from jacobians.structure import VALUE_PROPERTIES, dimensions

WIDTH = 100
LABEL = 12
SMALL = 6
MAX_DRAWN = 1 << 21

Style = Callable[[str, str], str]

# properties that a structure's own name already says
_DIAGONAL = {"diagonal", "banded", "lower-triangular", "upper-triangular", "symmetric", "sparse"}
_SCALED = _DIAGONAL | {"scaled-identity", "circulant", "toeplitz"}
IMPLIED: dict[str, set[str]] = {
    "zero": {"constant", "symmetric"},
    "identity": _SCALED | {"permutation", "selection"},
    "scaled-identity": _SCALED,
    "diagonal": _DIAGONAL,
    "permutation": {"selection", "sparse"},
    "selection": {"sparse"},
    "block-diagonal": {"sparse", "banded"},
    "circulant": {"toeplitz"},
    "banded": {"sparse"},
}


def plain(text: str, role: str) -> str:
    """The style that changes nothing. Roles: title, block, label, good, bad, note."""
    del role
    return text


def explanation_text(explanation: Explanation, style: Style = plain) -> str:
    """The report of an explanation.

    Args:
        explanation: what `explain` returned.
        style: called with (text, role) for parts that may be coloured; it must keep their width.

    Returns:
        The report, without a newline at its end.
    """
    lines = [style(title(explanation.name, explanation.inputs, explanation.outputs), "title")]
    points = max((b.points for b in explanation.blocks), default=0)
    evidence = "proved = from the program, for every input of these shapes"
    if points:
        evidence += f"; observed = at {_count(points, 'point')}"
    lines.append(evidence)
    for block in explanation.blocks:
        lines += ["", *block_lines(block, style)]
    if explanation.notes:
        lines.append("")
        for note in explanation.notes:
            role = "bad" if note.startswith("CONTRADICTION") else "note"
            lines += [style(line, role) for line in wrap(f"note: {note}", 6)]
    return "\n".join(lines)


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


def block_lines(block: Block, style: Style = plain) -> list[str]:
    """The lines of one block: what is proved, the formulas, what is observed, the picture."""
    m, n = block.shape
    head = f"{block.name}   {_shape(block.out_shape)} by {_shape(block.in_shape)}"
    lines = [f"{style(head, 'block')}, matrix {dimensions(block.shape)}"]

    def put(label: str, text: str, role: str = "") -> None:
        first, *rest = wrap(text, 0, WIDTH - LABEL - 2) or [""]
        lines.append(
            "  " + style(label.ljust(LABEL), "label") + (style(first, role) if role else first)
        )
        lines.extend(" " * (LABEL + 2) + line for line in rest)

    put("proved", str(block.structure), "good")
    if block.statement is not None:
        put("zero unless", index_statement(block))
    total = m * n
    share = f" of {total} ({100 * block.nnz / total:.3g} %)" if total else ""
    put("nonzeros", ("" if block.nnz_exact else "at most ") + f"{block.nnz}{share}")
    extra = sorted(block.properties & set(VALUE_PROPERTIES))
    told = IMPLIED.get(block.structure.kind, set()) | {block.structure.kind, "dense"}
    extra = [p for p in extra if p not in told]
    others = sorted(block.properties - set(VALUE_PROPERTIES) - told)
    if block.structure.get("toeplitz"):
        others = [p for p in others if p != "toeplitz"]
    if extra or others:
        put("also", ", ".join([*extra, *others]))
    if block.formula is not None:
        put("Jacobian", block.formula)
    if block.vjp_formula is not None:
        put("VJP", block.vjp_formula)
    for k, definition in enumerate(block.where):
        put("" if k else "where", definition)
    if block.observation is not None:
        seen = block.observation
        parts = [f"{seen.structure}"]
        if seen.rank is not None:
            low, high = seen.rank
            parts.append(f"rank {low}" if low == high else f"rank {low} to {high}")
        if "constant" in seen.properties and seen.points > 1:
            parts.append("constant")
        if "symmetric" in seen.properties:
            parts.append("symmetric")
        if seen.nonfinite:
            parts.append(f"{seen.nonfinite} entries not finite")
        put("observed", f"{', '.join(parts)} (at {_count(seen.points, 'point')})")
    lines += [" " * (LABEL + 2) + line for line in picture(block)]
    return lines


def index_statement(block: Block) -> str:
    """The block's condition on indices, with letters for its axes: `i = k and l ≤ j`."""
    text = block.statement or ""
    out, inp = block.index
    names = {f"o{a}": letter for a, letter in enumerate(out)}
    names |= {f"i{b}": letter for b, letter in enumerate(inp)}
    words = [names.get(word, word) for word in text.split(" ")]
    return f"{' '.join(words)}   (output index {','.join(out)}; input index {','.join(inp)})"


def picture(block: Block) -> list[str]:
    """A small matrix in numbers, a larger one as a braille plot of what can be nonzero."""
    m, n = block.shape
    if block.value is not None and 0 < m <= SMALL and 0 < n <= SMALL:
        return matrix_lines(block.value)
    if m * n == 0:
        return []
    listed = entries.coordinates(block.terms, block.out_shape, block.in_shape, MAX_DRAWN)
    if listed is None or min(m, n) == 1 or block.nnz == m * n:
        return []
    lines = spy(*listed, block.shape)
    tile = tile_size(block.shape)
    legend = f"a dot: {tile}×{tile} entries" if tile > 1 else "a dot: an entry"
    return [*lines, f"({legend} that can be nonzero)"]


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


def number(x: Any) -> str:
    """A number with at most five significant digits, and a true minus sign."""
    if isinstance(x, complex):
        return f"{number(x.real)} + {number(x.imag)}i"
    text = f"{float(x):.5g}"
    text = "0" if text == "-0" else text
    return text.replace("-", "−")


def wrap(text: str, indent: int, width: int = WIDTH) -> list[str]:
    """Text broken into lines of at most `width`, the later ones indented."""
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=True, break_on_hyphens=False
    )


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(str(n) for n in shape)}]" if shape else "scalar"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")
