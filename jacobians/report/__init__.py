"""Reports: everything that knows a screen. The same findings as text, JSON, SVG and DOT.

Importing it registers every report with `jacobians.notation.show`.
"""

from jacobians.report import (
    audit,
    check,
    data,
    dot,
    explanation,
    gate,
    graph,
    graph_data,
    network,
    plan,
    svg,
)

__all__ = [
    "audit",
    "check",
    "data",
    "dot",
    "explanation",
    "gate",
    "graph",
    "graph_data",
    "network",
    "plan",
    "svg",
]
