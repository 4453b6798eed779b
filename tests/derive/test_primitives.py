"""Every primitive that JAX registers is known: its row in the table, and how a walk takes it."""

import jax
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

from jacobians import explain
from jacobians.derive import walk
from jacobians.derive.facts import possible_rules, radius_rules, range_rules
from jacobians.derive.inside.handlers import HANDLERS
from jacobians.notation.operation import CALLED
from jacobians.program.primitives import PRIMITIVES, Does, does, named, primitive

# as the walk asks for them: the first that applies is taken
WAYS = {
    "its program is entered": lambda name: primitive(name).holds is not None,
    "the function is taken as a whole": lambda name: does(name, Does.IN_PLACE),
    "it is entered, or written as others": lambda name: name in HANDLERS,
    "it has no derivative": lambda name: does(name, Does.NO_DERIVATIVE),
    "it is elementwise": lambda name: does(name, Does.ELEMENTWISE),
    "it gives what it is given": lambda name: does(name, Does.SAME_VALUE),
    "a rule": lambda name: name in walk.RULES,
    "its linearisation is walked": lambda name: does(name, Does.LINEARISED),
}


def registered() -> list[str]:
    """The primitives that JAX names in public: those of `jax.lax`, and of its extension point."""
    houses = (jax.extend.core.primitives, jax.lax, jax.lax.linalg)
    members = [getattr(house, name) for house in houses for name in dir(house)]
    return sorted({member.name for member in members if isinstance(member, Primitive)})


def test_jax_registers_many_primitives():
    assert len(registered()) > 150


@pytest.mark.parametrize("name", registered())
def test_a_walk_knows_every_primitive_that_jax_registers(name):
    assert name in PRIMITIVES, f"{name!r} has no row in jacobians/program/primitives.py"
    assert any(applies(name) for applies in WAYS.values()), f"{name!r} falls through unseen"


def test_every_row_is_met_and_every_rule_has_a_row():
    unmet = [name for name in PRIMITIVES if not any(applies(name) for applies in WAYS.values())]
    assert not unmet
    rules = (
        walk.RULES, HANDLERS, CALLED, possible_rules.RULES, radius_rules.RULES,
        range_rules.ELEMENTWISE, range_rules.MOVING, range_rules.REDUCTIONS,
    )  # fmt: skip
    without_row = {name for table in rules for name in table if name not in PRIMITIVES}
    assert not without_row


def test_the_linearisation_is_walked_where_nothing_else_is_said():
    last = list(WAYS)[-1]
    for name in named(Does.LINEARISED):
        assert [way for way, applies in WAYS.items() if applies(name)] == [last]


def test_what_a_row_says_agrees_with_itself():
    for name, row in PRIMITIVES.items():
        if Does.PRODUCT in row.what or Does.LINEAR in row.what:
            assert not row.linear_in, name
        if Does.INDEXED in row.what:
            assert row.linear_in, name
            assert Does.EXACT in row.what, name
        if Does.NO_DERIVATIVE in row.what:
            assert not row.what & (Does.ELEMENTWISE | Does.LINEAR | Does.PRODUCT), name
        if Does.MOVES in row.what:
            assert Does.EXACT in row.what, name


@pytest.mark.parametrize("name", sorted(named(Does.NO_DERIVATIVE | Does.HAS_LIMITS)))
def test_jax_has_no_derivative_where_the_table_has_none(name):
    f = getattr(jax.lax, name)
    points = jnp.asarray([-1.3, 0.2, 2.7])
    _, tangent = jax.jvp(f, (points,), (jnp.ones(3),))
    np.testing.assert_array_equal(tangent, 0.0)


LINEAR_OF_ONE = {
    "neg": jax.lax.neg,
    "real": lambda x: jax.lax.real(x + 0j),
    "reshape": lambda x: jax.lax.reshape(x, (3, 2)),
    "rev": lambda x: jax.lax.rev(x, (1,)),
    "transpose": lambda x: jax.lax.transpose(x, (1, 0)),
    "cumsum": jax.lax.cumsum,
    "pad": lambda x: jax.lax.pad(x, 0.0, ((1, 0, 1), (0, 0, 0))),
    "reduce_precision": lambda x: jax.lax.reduce_precision(x, 8, 23),
}


@pytest.mark.parametrize("name", LINEAR_OF_ONE)
def test_what_the_table_calls_linear_is_its_own_derivative(name):
    f = LINEAR_OF_ONE[name]
    assert does(name, Does.LINEAR)
    x, tangent = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3)) / 4
    np.testing.assert_array_equal(jax.jvp(f, (x,), (tangent,))[1], f(tangent))


def test_a_primitive_without_a_row_is_wide_and_said_to_be():
    unheard = Primitive("unheard_of")
    unheard.def_abstract_eval(lambda x: x)
    assert unheard.name not in PRIMITIVES
    explanation = explain(lambda x: unheard.bind(2.0 * x), jax.ShapeDtypeStruct((2,), "float32"))
    assert explanation.blocks[0].nnz == 4
    assert any("no rule for 'unheard_of'" in note for note in explanation.notes)
