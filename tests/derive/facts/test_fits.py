"""Terms are held against types after every rule; a rule that contradicts them is not believed."""

import jax.numpy as jnp
import pytest

from jacobians import explain
from jacobians.derive import walk
from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import constant, variable
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.fits import misfit
from jacobians.derive.operation import Local

V = affine.fresh()


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Term({V: 3}, (variable(V),), (variable(V),)), None),
        (Term({V: 3}, (variable(V), variable(V)), (variable(V),)), "2 indices into an output"),
        (Term({V: 3}, (variable(V),), ()), "0 indices into an input"),
        (Term({V: 4}, (variable(V),), (constant(0),)), "index 3 of an axis of size 3"),
        (Term({V: 3}, (variable(V),), (affine.shift(variable(V), -1),)), "index -1"),
        (Term({}, (variable(V),), (constant(0),)), "unknown size"),
        (
            Term({V: 4}, (variable(V),), (constant(0),), bounds=(affine.linear([(V, -1)], 2),)),
            None,
        ),
    ],
)
def test_an_index_beyond_an_axis_is_found(term, words):
    found = misfit(term, (3,), (3,))
    assert found is None if words is None else words in found


@pytest.mark.parametrize("shift", [1, -2])
def test_a_rule_that_contradicts_the_types_makes_the_operation_wide_and_says_so(monkeypatch, shift):
    def wrong(operation):
        v = affine.fresh()
        out = affine.shift(variable(v), shift)
        yield Local(0, 0, Term({v: 3}, (out,), (variable(v),)))

    monkeypatch.setitem(walk.RULES, "rev", wrong)
    explanation = explain(lambda x: jnp.flip(x) * 2.0, jnp.ones(3))
    assert explanation.blocks[0].nnz == 9
    assert any("'rev' contradicts its types" in n and "report" in n for n in explanation.notes)
