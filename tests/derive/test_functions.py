"""The table of JAX functions: what is proved, never too narrow, and exact where it says so."""

import jax
import numpy as np
import pytest

from jacobians.cli.specs import load_function, parse_spec
from jacobians.derive.algebra import entries
from jacobians.derive.call import derive_call
from jacobians.program import dense
from jacobians.program.call import bind
from jacobians.structure.explain import block_of, explain, random_points
from jacobians.structure.proved import prove
from tests.derive.functions import TABLE
from tests.fuzz_structure import false_of_block

ROWS = TABLE.strip().splitlines()
# what in jax.nn is no function of floats to floats, or needs more than arrays
NO_FUNCTION_OF_ARRAYS = {
    "get_scaled_dot_general_config",
    "scaled_dot_general",
    "scaled_matmul",
}


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0] for row in ROWS])
def test_proved_structure_of_a_jax_function(row):
    line, expected = row.split(" | ")
    path, *specs = line.split()
    arguments = [parse_spec(text, 0, k) for k, text in enumerate(specs)]
    call = bind(load_function(path), arguments)
    derivation = derive_call(call)
    evaluate = dense.evaluator(call)
    seen = [evaluate(None), *(evaluate(values) for values in random_points(call, 7, 0))]
    places = [
        (o, k) for o, leaf in enumerate(call.outputs) if leaf.differentiable for k in call.selected
    ]
    found = []
    for number, (o, k) in enumerate(places):
        shapes = call.outputs[o].shape, call.inputs[k].shape
        terms = derivation.terms(o, k)
        kind = prove(
            terms, *shapes, (derivation.number(k),), derivation.tape.certain
        ).structure.kind
        matrices = [np.nan_to_num(point.blocks[number].matrix) for point in seen]
        pattern = np.zeros(matrices[0].shape, bool)
        pattern[entries.coordinates(terms, *shapes, 1 << 20)] = True
        nonzero = np.zeros_like(pattern)
        for matrix in matrices:
            nonzero |= np.abs(matrix) > 1e-9 * np.abs(matrix).max(initial=1e-30)
        assert not (nonzero & ~pattern).any(), "an entry that was proved zero is not"
        # kind, count, pattern, formula, condition, properties: of one another and of the numbers
        block = block_of(call, derivation, o, k)
        assert false_of_block(block, [point.blocks[number].matrix for point in seen]) == []
        found.append(f"{kind} {'exact' if (nonzero == pattern).all() else 'wide'}")
    assert "; ".join(found) == expected


def test_the_table_has_every_function_of_jax_nn():
    listed = {row.split()[0] for row in ROWS}
    functions = {
        name for name in dir(jax.nn) if not name.startswith("_") and callable(getattr(jax.nn, name))
    }
    missing = {name for name in functions if f"jax.nn:{name}" not in listed}
    assert missing <= NO_FUNCTION_OF_ARRAYS
    assert sum(not row.startswith("jax.nn:") for row in ROWS) >= 60


@pytest.mark.parametrize("path", ["jax.scipy.special:zeta", "jax.lax:betainc"])
def test_what_jax_cannot_differentiate_is_derived_and_said_so(path):
    specs = ["f32[4]:positive", "f32[4]:positive"]
    if path.endswith("betainc"):
        specs.append("f32[4]:uniform")
    arguments = [parse_spec(text, 0, k) for k, text in enumerate(specs)]
    explanation = explain(load_function(path), *arguments)
    assert all(block.structure.kind == "diagonal" for block in explanation.blocks)
    assert all(block.observed is None for block in explanation.blocks)
    assert any("JAX cannot differentiate" in note for note in explanation.notes)
