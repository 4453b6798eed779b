"""A computational graph as text: the circuit, the table of gradients, and the sums at branches.

    print(graph_text(backprop(f, *args)))

The circuit is read downwards for the forward pass and upwards for the backward pass. Each line is
a value; the lines on its left are the wires, which end where they are used for the last time.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra.syntax import Cotangent, Hadamard, Number, Product
from jacobians.graph.backprop import Backprop
from jacobians.graph.local import LocalGradient
from jacobians.graph.model import Node, consumers
from jacobians.graph.wire import Wire
from jacobians.notation import show
from jacobians.notation.numbers import POINT, number
from jacobians.notation.text import bracketed, text_of
from jacobians.program.call import short_type
from jacobians.program.view import is_inexact
from jacobians.report.lines import WIDTH, Style, array_text, plain, wrap
from jacobians.structure.kinds import dimensions

SMALL = 6
MAX_LANES = 18
MAX_CELL = 26
GAP = 2
MIN_CELL = 8


@show.text.register
def graph_text(graph: Backprop, style: Style = plain) -> str:
    """The report of a graph.

    Args:
        graph: what `backprop` returned.
        style: called with (text, role) for parts that may be coloured; it must keep their width.

    Returns:
        The report, without a newline at its end, at most 100 columns wide.
    """
    inputs = [node for node in graph.nodes if node.kind == "input"]
    heads = ", ".join(f"{n.name} {value_type(n.value)}" for n in inputs[:8])
    heads += f", … {len(inputs) - 8} more" if len(inputs) > 8 else ""
    ends = ", ".join(f"{w.name} {value_type(w.value)}" for w in graph.outputs)
    operations = sum(node.step is not None for node in graph.nodes)
    title, *more = wrap(f"{graph.name}: {heads} → {ends}", 2)
    lines = [style(line, "title") for line in (title, *more)]
    plural = "" if operations == 1 else "s"
    lines.append(f"{operations} operation{plural}; values go down, gradients come back up")
    lines += ["", *circuit_lines(graph, style), "", *table_lines(graph, style)]
    sums = branch_lines(graph)
    if sums:
        lines += ["", style("branches add up", "block"), *sums]
    if graph.notes:
        lines.append("")
        for note in graph.notes:
            lines += [style(line, "note") for line in wrap(f"note: {note}", 6)]
    return "\n".join(lines)


def value_type(value: Any) -> str:
    """The type of an array in short notation; its own words where it is no plain array."""
    return short_type(np.shape(value), value.dtype) if is_plain(value) else str(value.dtype)


def value_text(value: Any) -> str:
    """An array: in full where it is small, else its shape, norm, least and greatest entry."""
    if value is None:
        return "none"
    if np.size(value) <= SMALL and is_plain(value):
        return array_text(np.asarray(value))
    return summary(value)


def summary(value: Any) -> str:
    """An array's type, norm, least and greatest entry: `f32[64,10] norm 3.2 min −1 max 0.9`."""
    kind = value_type(value)
    if not is_plain(value) or not np.size(value):
        return kind
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return f"{kind} min {number(array.min())} max {number(array.max())}"
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    norm = f"{kind} norm {_short(norm_of(wide))}"
    if array.dtype.kind == "c":
        return norm
    return f"{norm} min {_short(float(np.min(wide)))} max {_short(float(np.max(wide)))}"


def norm_of(array: NDArray[Any]) -> float:
    """The Euclidean norm of all entries (by a plain sum: BLAS may start threads for it)."""
    return float(np.sqrt(np.square(np.abs(array)).sum()))


def local_text(gradient: LocalGradient) -> str:
    """A local gradient in one line: `exp(x) = 2.72`, `diagonal: 1[h > 0]`, `block-diagonal: …`."""
    value, formula = gradient.value, gradient.formula
    definite = formula is not None and not gradient.where
    if gradient.scalar and value is not None:
        told = value_text(np.asarray(value).reshape(()))
        short = definite and formula is not None and len(formula) <= 2 * MAX_CELL
        if not short or _says_the_number(gradient):
            return told
        return f"{formula} = {told}"
    if gradient.structure is None:
        return gradient.note
    text = str(gradient.structure)
    if text == "dense":
        text += f" {dimensions(gradient.shape)}"
    if gradient.structure.kind == "diagonal":
        if value is not None and np.size(value) <= SMALL:
            return f"diag({', '.join(number(x) for x in np.asarray(value).ravel())})"
        how = _diagonal_of(gradient)
        if how and definite:
            return f"diagonal {how}"
    plain = gradient.structure.kind in ("identity", "scaled-identity", "zero")
    if (
        gradient.vjp_formula
        and definite
        and not plain
        and len(gradient.vjp_formula) <= 2 * MAX_CELL
    ):
        return f"{text}; {gradient.vjp_formula}"
    return text


def circuit_lines(graph: Backprop, style: Style = plain) -> list[str]:
    """The circuit: one line per value with its wires, its value and its gradient."""
    rows = _circuit(graph)
    lanes = max((len(row.lanes) for row in rows), default=0)
    note: list[str] = []
    if lanes > 2 * MAX_LANES:
        note = [f"({lanes // 2} wires side by side are too many to draw: see the SVG)"]
        rows = [_Row("", "", row.name, row.wire) for row in rows]
        lanes = 0
    values = [value_text(row.wire.value) for row in rows]
    gradients = [_gradient_text(row.wire) for row in rows]
    widths = fitted(
        [[row.name for row in rows], values, gradients],
        WIDTH - lanes - GAP * 2,
        ["value", "forward", "gradient"],
        [56, MAX_CELL, MAX_CELL],
    )
    head = _joined(["value", "forward", "gradient"], widths)
    lines = [" " * lanes + style(head, "label")]
    for row, value, gradient in zip(rows, values, gradients, strict=True):
        cells = [_cell(t, w) for t, w in zip((row.name, value, gradient), widths, strict=True)]
        for k in range(max(map(len, cells))):
            parts = [cell[k] if k < len(cell) else "" for cell in cells]
            padded = [_padded(p, w) for p, w in zip(parts, widths, strict=True)]
            padded[1] = style(padded[1], "good")
            padded[2] = style(padded[2].rstrip() if gradient else "", "bad")
            left = (row.lanes if k == 0 else row.after).ljust(lanes)
            lines.append((left + (" " * GAP).join(padded)).rstrip())
    return [*lines, *note]


def table_lines(graph: Backprop, style: Style = plain) -> list[str]:
    """The table: for every node and operand, upstream times local gradient is downstream."""
    heads = ["node", "forward", "upstream", "to", "local gradient", "downstream"]
    rows: list[list[str]] = []
    starts: list[bool] = []
    for node in reversed(graph.nodes):
        if node.step is None:
            continue
        own = _node_rows(node)
        rows += own
        starts += [k == 0 for k in range(len(own))]
    if not rows:
        return ["(no operation: the outputs are inputs or constants)"]
    caps = [18, MAX_CELL, MAX_CELL, 16, 44, MAX_CELL]
    columns = [[row[c] for row in rows] for c in range(len(heads))]
    widths = fitted(columns, WIDTH - GAP * (len(heads) - 1), heads, caps)
    lines = [style(_joined(heads, widths), "label")]
    for row in rows:
        cells = [_cell(text, width) for text, width in zip(row, widths, strict=True)]
        for k in range(max(map(len, cells))):
            lines.append(_joined([cell[k] if k < len(cell) else "" for cell in cells], widths))
    return lines


def branch_lines(graph: Backprop) -> list[str]:
    """One entry for each value that is used more than once: the sum of what comes back."""
    lines: list[str] = []
    for wire in graph.wires:
        if len(wire.contributions) < 2:
            continue
        parts = [f"{value_text(c.value)} (from {c.node})" for c in wire.contributions]
        text = f"∂/∂{wire.name} = {' + '.join(parts)} = {value_text(wire.gradient)}"
        lines += ["  " + line for line in wrap(text, 4, WIDTH - 2)]
    return lines


def fitted(
    columns: Sequence[Sequence[str]], room: int, heads: Sequence[str], caps: Sequence[int]
) -> list[int]:
    """Column widths: natural ones up to a cap, the widest made narrower until all fit."""
    widths = [
        min(cap, max([len(head), *map(len, column)]))
        for column, head, cap in zip(columns, heads, caps, strict=True)
    ]
    while sum(widths) > room and max(widths) > MIN_CELL:
        widest = max(range(len(widths)), key=lambda k: widths[k])
        widths[widest] -= 1
    return widths


def _node_rows(node: Node) -> list[list[str]]:
    """The table rows of one node: its results on the left, on the right what flows where."""
    gradients = node.local_gradients
    several = len({g.output for g in gradients}) > 1
    left = [[w.name, value_text(w.value), _gradient_text(w)] for w in node.outputs]
    right = []
    for operand, part in enumerate(node.downstream):
        if part is None:
            continue
        mine = [g for g in gradients if g.operand == operand]
        local = "\n".join((f"∂{g.output}: " if several else "") + local_text(g) for g in mine)
        right.append([node.inputs[operand].name, local, value_text(part)])
    if not right:
        return []
    return [[*a, *b] for a, b in zip_longest(left, right, fillvalue=["", "", ""])]


@dataclass(frozen=True)
class _Row:
    """One line of the circuit: its lanes, the lanes below it, the text, the wire."""

    lanes: str
    after: str
    name: str
    wire: Wire


def _circuit(graph: Backprop) -> list[_Row]:
    """Puts every wire on a lane from where it is written to where it is last read."""
    nodes = _inputs_late(graph.nodes)
    readers = consumers(nodes)
    last = {number: max(position for position, _ in uses) for number, uses in readers.items()}
    lanes: list[int | None] = []
    place: dict[int, int] = {}
    rows: list[_Row] = []
    for position, node in enumerate(nodes):
        read = list(dict.fromkeys(w.number for w in node.inputs if w.number in place))
        ending = [k for k in read if last[k] == position]
        reached = {place[k]: k in ending for k in read}
        before = list(lanes)
        for k in ending:
            lanes[place.pop(k)] = None
        written = []
        for wire in node.outputs:
            free = [lane for lane in sorted(reached) if lanes[lane] is None and lane not in written]
            free += [lane for lane, holder in enumerate(lanes) if holder is None]
            lane = next((f for f in free if f not in written), len(lanes))
            if lane == len(lanes):
                lanes.append(None)
                before.append(None)
            written.append(lane)
            lanes[lane] = wire.number
            place[wire.number] = lane
        drawn = _draw(before, reached, written, len(lanes))
        for wire in node.outputs:
            if wire.number not in last:
                lanes[place.pop(wire.number)] = None
        while lanes and lanes[-1] is None:
            lanes.pop()
        after = "".join("│ " if holder is not None else "  " for holder in lanes)
        for k, wire in enumerate(node.outputs):
            text = f"{wire.name} = {node.text}" if node.step is not None else wire.name
            if k:
                text = f"{wire.name}: result {k + 1} of {node.outputs[0].name}"
            rows.append(_Row(drawn if k == 0 else after, after, text, wire))
    return rows


def _draw(
    before: Sequence[int | None], reached: dict[int, bool], written: Sequence[int], count: int
) -> str:
    """One line of lanes: the new wires' dots, tied to the wires that the node reads."""
    involved = [*reached, *written]
    low, high = min(involved), max(involved)
    cells = []
    for lane in range(count):
        inside = low <= lane <= high
        line = "─" if low <= lane < high else " "
        if lane in written:
            sign = "●"
        elif lane in reached:
            ends = reached[lane]
            if lane == low:
                sign = "╰" if ends else "├"
            elif lane == high:
                sign = "╯" if ends else "┤"
            else:
                sign = "┴" if ends else "┼"
        elif lane < len(before) and before[lane] is not None:
            sign = "│"
        else:
            sign = "─" if inside else " "
        cells.append(sign + line)
    return "".join(cells)


def _inputs_late(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with every input and constant just before it is first read."""
    sources = {n.outputs[0].number: n for n in nodes if n.step is None}
    placed: list[Node] = []
    for node in nodes:
        if node.step is None:
            continue
        for wire in node.inputs:
            if wire.number in sources:
                placed.append(sources.pop(wire.number))
        placed.append(node)
    return [*placed, *sources.values()]


def _gradient_text(wire: Wire) -> str:
    if wire.gradient is None:
        return "" if wire.known or not is_inexact(wire.value.dtype) else "none"
    return value_text(wire.gradient)


def _cell(text: str, width: int) -> list[str]:
    """A cell's text broken into lines of its width."""
    lines: list[str] = []
    for part in text.split("\n"):
        lines += textwrap.wrap(
            part, width, break_long_words=True, break_on_hyphens=False, subsequent_indent=""
        ) or [""]
    return lines


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(_padded(c, w) for c, w in zip(cells, widths, strict=True)).rstrip()


def _padded(text: str, width: int) -> str:
    """The text and spaces up to a width; the bar of `v̄` is a character without a column."""
    marks = sum(unicodedata.combining(c) != 0 for c in text)
    return text + " " * (width + marks - len(text))


def _diagonal_of(gradient: LocalGradient) -> str | None:
    """The diagonal of an elementwise local Jacobian: `1[h > 0]` of `h̄ = ȳ ⊙ 1[h > 0]`."""
    pullback = gradient.formulas.pullback
    match None if pullback is None else pullback.right:
        case Product((Hadamard((Cotangent(), *rest)),), 1.0, ()) | Hadamard((Cotangent(), *rest)):
            one = len(rest) == 1
            return text_of(bracketed(rest[0], POINT) if one else Hadamard(tuple(rest)))
    return None


def _says_the_number(gradient: LocalGradient) -> bool:
    """Whether the local gradient is written as the number that its value is."""
    derivative = gradient.formulas.derivative
    match None if derivative is None else derivative.right:
        case Number(number_):
            pass
        case Product((), number_, ()):
            pass
        case Product((Number(factor),), scale, ()):
            number_ = scale * factor
        case _:
            return False
    return bool(abs(number_ - np.asarray(gradient.value).reshape(())) < 1e-4)


def _short(x: float) -> str:
    text = f"{x:.3g}"
    return "0" if text == "-0" else text.replace("-", "−")


def is_plain(value: Any) -> bool:
    """Whether a value is an array of numbers (and no random key, say)."""
    try:
        return bool(np.dtype(value.dtype).kind in "biufc" or is_inexact(value.dtype))
    except TypeError:
        return False
