"""A computational graph as JSON-ready values.

`to_json(graph_dict(backprop(f, *args)))`
"""

from typing import Any

import numpy as np

from jacobians.graph.backprop import Backprop
from jacobians.notation import show
from jacobians.report.data import clean
from jacobians.report.graph import SMALL, is_plain, norm_of, value_type


@show.data.register
def graph_dict(graph: Backprop) -> dict[str, Any]:
    """The graph for machines.

    Args:
        graph: what `backprop` returned.

    Returns:
        `function`, `nodes` (each with its results' values and gradients, its operands with what
        flows down to them, and its local gradients), `outputs` and `notes`. Arrays of more than
        six elements are given as type, norm, least and greatest entry.
    """
    return {
        "function": graph.name,
        "nodes": [
            {
                "name": node.name,
                "operation": node.operation,
                "kind": node.kind,
                "text": node.text,
                "scope": list(node.scope),
                "results": [
                    {"name": w.name, "value": _array(w.value), "gradient": _array(w.gradient)}
                    for w in node.outputs
                ],
                "operands": [
                    {"name": w.name, "downstream": _array(part)}
                    for w, part in zip(node.inputs, node.downstream, strict=False)
                ],
                "local_gradients": [
                    {
                        "output": g.output,
                        "input": g.input,
                        "operand": g.operand,
                        "shape": list(g.shape),
                        "structure": None if g.structure is None else str(g.structure),
                        "formula": g.formula,
                        "vjp_formula": g.vjp_formula,
                        "where": list(g.where),
                        "value": _array(g.value),
                    }
                    for g in node.local_gradients
                ],
            }
            for node in graph.nodes
        ],
        "outputs": [wire.name for wire in graph.outputs],
        "notes": list(graph.notes),
    }


def _array(value: Any) -> Any:
    """An array JSON-ready: its entries where they are few, else its norm, least and greatest."""
    if value is None:
        return None
    described: dict[str, Any] = {"type": value_type(value)}
    if not is_plain(value):
        return described
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        array = array.astype(np.float64)
    if array.size <= SMALL:
        return described | {"entries": clean(array)}
    if array.dtype.kind == "c":
        return described | {"norm": clean(norm_of(array))}
    wide = array.astype(np.float64)
    return described | {
        "norm": clean(norm_of(wide)),
        "min": clean(np.min(wide)),
        "max": clean(np.max(wide)),
    }
