"""Reports for machines: plain dictionaries, and JSON that every parser reads.

JSON has no NaN and no infinities; they are written as the strings "nan", "inf" and "-inf".

An explanation is `{"function", "inputs", "outputs", "blocks", "notes"}`; a leaf is `{"name",
"type", "shape", "differentiable"}`; a block is `{"output", "input", "out_shape", "in_shape",
"matrix_shape", "proved", "properties", "zero_unless", "nonzeros", "nonzeros_exact", "jacobian",
"vjp", "where", "observed"}`, its `proved` a structure `{"kind", "parameters", "text"}` and its
`observed` null or `{"structure", "properties", "rank", "points", "nonfinite"}`.
"""

import json
import math
from typing import Any

import numpy as np

from jacobians.notation import show
from jacobians.program.call import Leaf
from jacobians.structure.explanation import Block, Explanation
from jacobians.structure.kinds import Structure


def to_json(value: Any) -> str:
    """Strict JSON of a report dictionary, indented by two."""
    return json.dumps(clean(value), indent=2, ensure_ascii=False, allow_nan=False)


def clean(value: Any) -> Any:
    """A value in JSON's own types: arrays as lists, NaN and infinities as strings."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [clean(v) for v in items]
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, Structure):
        return structure_dict(value)
    if isinstance(value, complex):
        return {"real": clean(value.real), "imag": clean(value.imag)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def structure_dict(structure: Structure) -> dict[str, Any]:
    """A structure as a dictionary."""
    return {
        "kind": structure.kind,
        "parameters": {k: clean(v) for k, v in structure.parameters},
        "text": str(structure),
    }


def leaf_dict(leaf: Leaf) -> dict[str, Any]:
    """An input or output leaf as a dictionary."""
    return {
        "name": leaf.name,
        "type": leaf.short_type,
        "shape": list(leaf.shape),
        "differentiable": leaf.differentiable,
    }


def block_dict(block: Block) -> dict[str, Any]:
    """A block as a dictionary."""
    seen = block.observation
    observed = None
    if seen is not None:
        observed = {
            "structure": structure_dict(seen.structure),
            "properties": sorted(seen.properties),
            "rank": None if seen.rank is None else list(seen.rank),
            "points": seen.points,
            "nonfinite": seen.nonfinite,
        }
    return {
        "output": block.output,
        "input": block.input,
        "out_shape": list(block.out_shape),
        "in_shape": list(block.in_shape),
        "matrix_shape": list(block.shape),
        "proved": structure_dict(block.structure),
        "properties": sorted(block.properties),
        "zero_unless": block.statement,
        "nonzeros": block.nnz,
        "nonzeros_exact": block.nnz_exact,
        "jacobian": block.formula,
        "vjp": block.vjp_formula,
        "where": list(block.where),
        "observed": observed,
    }


@show.data.register
def explanation_dict(explanation: Explanation) -> dict[str, Any]:
    """An explanation as a dictionary; see the module's docstring for its keys."""
    result: dict[str, Any] = clean(
        {
            "function": explanation.name,
            "inputs": [leaf_dict(leaf) for leaf in explanation.inputs],
            "outputs": [leaf_dict(leaf) for leaf in explanation.outputs],
            "blocks": [block_dict(block) for block in explanation.blocks],
            "notes": list(explanation.notes),
        }
    )
    return result
