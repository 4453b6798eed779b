"""Plain-text reports, at most 100 columns wide.

    print(explanation_text(explain(jax.nn.relu, jnp.ones(4))))

Every line that states a structure says by what evidence: *proved* from the program, for every input
of these shapes, or *observed* at a number of points.
"""

from jacobians.derive.algebra import entries
from jacobians.notation import show
from jacobians.notation.spy import spy, tile_size
from jacobians.report.lines import (
    LABEL,
    SMALL,
    WIDTH,
    Style,
    _count,
    _shape,
    matrix_lines,
    plain,
    title,
    wrap,
)
from jacobians.structure.explanation import Block, Explanation
from jacobians.structure.kinds import VALUE_PROPERTIES, dimensions
from jacobians.structure.statement import statement

MAX_DRAWN = 1 << 21

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


@show.text.register
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
        for note in explanation.remarks:
            role = "bad" if note.contradiction else "note"
            lines += [style(line, role) for line in wrap(f"note: {note.text}", 6)]
    return "\n".join(lines)


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
    if block.clauses:
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
    out, inp = block.index
    conditions = statement(block.clauses, out, inp) or ""
    return f"{conditions}   (output index {','.join(out)}; input index {','.join(inp)})"


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
