"""A computational graph in Graphviz's language: `dot -Tsvg graph.dot -o graph.svg`.

`print(graph_dot(backprop(f, *args)))`
"""

from html import escape

from jacobians.graph.backprop import Backprop
from jacobians.graph.label import symbol
from jacobians.notation import show
from jacobians.report.graph import value_type
from jacobians.report.svg import FILLS, GREEN, RED, short_value


@show.dot.register
def graph_dot(graph: Backprop) -> str:
    """The graph for Graphviz: values in green and gradients in red on the edges.

    Args:
        graph: what `backprop` returned.

    Returns:
        A `digraph`, its nodes numbered `n0`, `n1`, … in the order of `graph.nodes`.
    """
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        '  rankdir=LR; node [fontname="monospace", shape=box, style="rounded,filled"];',
        '  edge [fontname="monospace", fontsize=10];',
    ]
    source = {}
    for n, node in enumerate(graph.nodes):
        for wire in node.outputs:
            source[wire.number] = n
        head = node.name if node.step is None else symbol(node.step)
        names = ", ".join(wire.name for wire in node.outputs)
        below = value_type(node.value) if node.step is None else f"{names} = {node.text}"
        shape = ' shape="ellipse"' if node.step is None else ""
        label = f"<<b>{escape(head)}</b><br/><font point-size='10'>{escape(below)}</font>>"
        lines.append(
            f'  n{n} [label={label} fillcolor="{FILLS.get(node.kind, "#ffffff")}"{shape}];'
        )
    for n, node in enumerate(graph.nodes):
        for k, wire in enumerate(node.inputs):
            if wire.number not in source:
                continue
            label = f"<font color='{GREEN}'>{escape(short_value(wire.value))}</font>"
            if k < len(node.downstream) and node.downstream[k] is not None:
                part = escape(short_value(node.downstream[k], typed=False))
                label += f"<br/><font color='{RED}'>{part}</font>"
            lines.append(f"  n{source[wire.number]} -> n{n} [label=<{label}>];")
    for k, wire in enumerate(graph.outputs):
        lines.append(f'  end{k} [shape=plaintext fillcolor="#ffffff" label=""];')
        label = f"<font color='{GREEN}'>{escape(short_value(wire.value))}</font>"
        if wire.gradient is not None:
            label += (
                f"<br/><font color='{RED}'>{escape(short_value(wire.gradient, typed=False))}</font>"
            )
        lines.append(f"  n{source[wire.number]} -> end{k} [label=<{label}>];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
