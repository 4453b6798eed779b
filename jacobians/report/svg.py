"""A computational graph as a self-contained SVG image, drawn as the lecture draws circuits.

Boxes are operations, wires run from left to right; above a wire, in green, is the value that goes
forward, below it, in red, the gradient that comes back. Where a wire branches, each branch shows
its own summand at its end.

    open("graph.svg", "w").write(graph_svg(backprop(f, *args)))
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from jacobians.graph.backprop import Backprop
from jacobians.graph.label import symbol
from jacobians.graph.model import Node
from jacobians.graph.wire import Wire
from jacobians.notation import show
from jacobians.notation.numbers import number
from jacobians.report.graph import is_plain, local_text, norm_of, summary, value_text, value_type
from jacobians.report.layout import Layout, layered
from jacobians.report.lines import array_text

GREEN, RED, GREY, INK = "#0a7d2c", "#c4161c", "#8a8f98", "#1c2330"
FILLS = {
    "input": "#eef4ff", "constant": "#f4f4f4", "operation": "#ffffff", "call": "#fff7e6",
    "rule": "#f3ecff", "loop": "#e8f7f5", "group": "#fff7e6",
}  # fmt: skip
CHARACTER = 7.3
SMALL_CHARACTER = 6.1
ROW = 40.0
PORT = 30.0
BEND = 36.0
MARGIN = 24.0
IN_FULL = 3
LONGEST = 30
INLINE = 20
DESCRIBED = 200


@show.svg.register
def graph_svg(graph: Backprop) -> str:
    """The image of a graph.

    Args:
        graph: what `backprop` returned.

    Returns:
        An SVG document in its natural size, without outside references.
    """
    drawing = _Drawing(graph.nodes)
    body = [*drawing.wires(), *drawing.boxes()]
    title = escape(f"{graph.name}: computational graph")
    legend = _text(MARGIN, drawing.height - 10, "forward value", GREEN, 11) + _text(
        MARGIN + 100, drawing.height - 10, "gradient", RED, 11
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width:.0f}" '
        f'height="{drawing.height:.0f}" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">\n'
        f"<title>{title}</title>\n"
        '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(body)
        + f"\n{legend}\n</svg>\n"
    )


class _Drawing:
    """The boxes with their places; made once, asked for wires and boxes."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Lays the nodes out in layers; `shift` moves the topmost edge to the margin."""
        self.nodes = nodes
        self.source = {
            w.number: (n, k) for n, node in enumerate(nodes) for k, w in enumerate(node.outputs)
        }
        # a literal is written in the operation and has no box
        self.ports = [
            [k for k, w in enumerate(node.inputs) if w.number in self.source] for node in nodes
        ]
        self.edges = [
            (self.source[node.inputs[k].number][0], n, k)
            for n, node in enumerate(nodes)
            for k in self.ports[n]
        ]
        self.heads = [_head(node) for node in nodes]
        self.tall = [
            PORT * max(1, len(node.outputs), len(ports) * 0.8) + 8
            for node, ports in zip(nodes, self.ports, strict=True)
        ]
        self.wide = [
            max(CHARACTER * len(first), SMALL_CHARACTER * len(second)) + 18
            for first, second in self.heads
        ]
        sources = [n for n, node in enumerate(nodes) if node.step is None]
        self.layout: Layout = layered(
            [height + ROW - 12 for height in self.tall],
            [(a, b) for a, b, _ in self.edges],
            sources,
            ROW * 0.6,
        )
        self._columns()
        self._sort_ports()
        ys = [y - t / 2 for y, t in zip(self.layout.y, self.tall, strict=True)]
        ys += [y - 12 for bends in self.layout.bends.values() for _, y in bends]
        lows = [y + t / 2 for y, t in zip(self.layout.y, self.tall, strict=True)]
        lows += [y + 12 for bends in self.layout.bends.values() for _, y in bends]
        self.shift = MARGIN - min(ys, default=0.0)
        self.height = max(lows, default=0.0) + self.shift + MARGIN + 20

    def _columns(self) -> None:
        """The x of each layer: room for boxes, for the labels behind, the bend, the summands."""
        count = max(self.layout.layer, default=0) + 1
        boxes, labels, entries = ([0.0] * count for _ in range(3))
        for n, node in enumerate(self.nodes):
            rank = self.layout.layer[n]
            boxes[rank] = max(boxes[rank], self.wide[n])
            for wire in node.outputs:
                texts = [short_value(wire.value), _gradient(wire)]
                labels[rank] = max(labels[rank], SMALL_CHARACTER * max(map(len, texts)) + 12)
            for k in self.ports[n]:
                told = _summand(node, k)
                entries[rank] = max(entries[rank], SMALL_CHARACTER * len(told) + 8 if told else 8.0)
        self.left = [0.0] * count
        self.column = boxes
        x = MARGIN
        for rank in range(count):
            x += entries[rank] if rank else 0.0
            self.left[rank] = x
            x += boxes[rank] + labels[rank] + BEND
        self.entries = entries
        self.width = x - BEND + MARGIN

    def _sort_ports(self) -> None:
        """Puts the ports of a box in the order in which their wires arrive."""
        arrival: dict[tuple[int, int], float] = {}
        for edge, (a, b, k) in enumerate(self.edges):
            bends = self.layout.bends.get(edge, ())
            y = bends[-1][1] if bends else self.layout.y[a]
            arrival[b, k] = y + 0.01 * self.source[self.nodes[b].inputs[k].number][1]
        for n, ports in enumerate(self.ports):
            ports.sort(key=lambda k: arrival[n, k])

    def _box(self, n: int) -> tuple[float, float, float, float]:
        rank = self.layout.layer[n]
        x = self.left[rank] + (self.column[rank] - self.wide[n]) / 2
        return x, self.layout.y[n] + self.shift - self.tall[n] / 2, self.wide[n], self.tall[n]

    def _out(self, n: int, k: int) -> tuple[float, float]:
        x, y, w, h = self._box(n)
        return x + w, y + h * (k + 0.5) / len(self.nodes[n].outputs)

    def _in(self, n: int, operand: int) -> tuple[float, float]:
        x, y, _, h = self._box(n)
        ports = self.ports[n]
        return x, y + h * (ports.index(operand) + 0.5) / len(ports)

    def wires(self) -> list[str]:
        """Every wire with its value and gradient at its start and the summands at its ends."""
        made = []
        for edge, (a, b, k) in enumerate(self.edges):
            node = self.nodes[b]
            wire = node.inputs[k]
            start = self._out(a, self.source[wire.number][1])
            end = self._in(b, k)
            rank = self.layout.layer[a]
            bends = self.layout.bends.get(edge, ())
            points = [start, (self.left[rank] + self._behind(rank), start[1])]
            for layer, y in bends:
                middle = y + self.shift
                points.append((self.left[layer] - self.entries[layer], middle))
                points.append((self.left[layer] + self._behind(layer), middle))
            last = self.layout.layer[b]
            points += [(self.left[last] - self.entries[last], end[1]), end]
            flows = wire.gradient is not None
            made.append(_path(points, INK if flows else GREY, flows))
            told = _summand(node, k)
            if told:
                made.append(_text(end[0] - 6, end[1] + 11, told, RED, 9.5, "end"))
        for n, node in enumerate(self.nodes):
            for k, wire in enumerate(node.outputs):
                x, y = self._out(n, k)
                if not any(a == n and self.nodes[b].inputs[p] is wire for a, b, p in self.edges):
                    made.append(_path([(x, y), (x + 24, y)], INK, wire.gradient is not None))
                made.append(_text(x + 6, y - 5, short_value(wire.value), GREEN, 10.5))
                if gradient := _gradient(wire):
                    made.append(_text(x + 6, y + 13, gradient, RED, 10.5))
        return made

    def _behind(self, rank: int) -> float:
        """How far behind a layer's left edge its wires are straight."""
        count = len(self.left)
        following = self.left[rank + 1] - self.entries[rank + 1] if rank + 1 < count else self.width
        return following - self.left[rank] - BEND

    def boxes(self) -> list[str]:
        """Every node as a box with its operation, its name, and the details as a tooltip."""
        made = []
        describe = len(self.nodes) <= DESCRIBED
        for n, node in enumerate(self.nodes):
            x, y, w, h = self._box(n)
            first, second = self.heads[n]
            radius = h / 2 if node.step is None else 7
            middle = x + w / 2
            lines = [
                _text(
                    middle, y + h / 2 + (4 if not second else -2), first, INK, 12.5, "middle", True
                )
            ]
            if second:
                lines.append(_text(middle, y + h / 2 + 12, second, "#56606e", 10, "middle"))
            tip = escape("\n".join(_details(node, describe)))
            made.append(
                f"<g><title>{tip}</title>"
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" '
                f'rx="{radius:.0f}" fill="{FILLS.get(node.kind, "#ffffff")}" stroke="{INK}" '
                f'stroke-width="1.1"/>{"".join(lines)}</g>'
            )
        return made


def short_value(value: Any, typed: bool = True) -> str:
    """A value for a wire: up to three numbers in full, else the norm, behind its type if asked."""
    if not is_plain(value):
        return value_type(value)
    if np.size(value) <= IN_FULL:
        text = array_text(np.asarray(value))
        if len(text) <= INLINE:
            return text
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return value_type(value)
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    norm = f"norm {number(float(f'{norm_of(wide):.3g}'))}"
    return f"{value_type(value)} {norm}" if typed else norm


def _gradient(wire: Wire) -> str:
    return "" if wire.gradient is None else short_value(wire.gradient, typed=False)


def _summand(node: Node, operand: int) -> str:
    """What one branch brings back, shown where its wire is used more than once."""
    wire, part = node.inputs[operand], node.downstream[operand]
    if part is None or len(wire.contributions) < 2:
        return ""
    return short_value(part, typed=False)


def _head(node: Node) -> tuple[str, str]:
    """The two lines in a box."""
    if node.step is None:
        kind = value_type(node.value)
        return _cut(node.name), "" if kind.endswith("[]") else kind
    names = ", ".join(w.name for w in node.outputs)
    return _cut(symbol(node.step)), _cut(f"{names} = {node.text}")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _details(node: Node, describe: bool) -> list[str]:
    """The tooltip: how the node is written, its values in more detail, its local gradients."""
    lines = [f"{node.name} = {node.text}" if node.step is not None else f"{node.name}: {node.kind}"]
    for wire in node.outputs:
        whole = summary(wire.value) if np.size(wire.value) > IN_FULL else value_text(wire.value)
        lines.append(f"value of {wire.name}: {whole}")
        if wire.gradient is not None:
            lines.append(f"gradient of {wire.name}: {value_text(wire.gradient)}")
    if describe:
        for g in node.local_gradients:
            lines.append(f"∂{g.output}/∂{g.input}: {local_text(g)}")
    return lines


def _path(points: Sequence[tuple[float, float]], color: str, solid: bool) -> str:
    """A wire through points: straight from an even one to the next, curved in between."""
    x, y = points[0]
    parts = [f"M{x:.1f},{y:.1f}"]
    for k, (x2, y2) in enumerate(points[1:], 1):
        if k % 2 == 1:
            parts.append(f"L{x2:.1f},{y2:.1f}")
        else:
            middle = (x + x2) / 2
            parts.append(f"C{middle:.1f},{y:.1f} {middle:.1f},{y2:.1f} {x2:.1f},{y2:.1f}")
        x, y = x2, y2
    dash = "" if solid else ' stroke-dasharray="4 3"'
    return f'<path d="{" ".join(parts)}" fill="none" stroke="{color}" stroke-width="1.2"{dash}/>'


def _text(
    x: float,
    y: float,
    text: str,
    color: str,
    size: float,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" '
        f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
    )
