"""Formulas as objects: what is built is what is printed, and renaming is no matter of text."""

import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

from jacobians import backprop, explain
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Comparison,
    Cotangent,
    Entry,
    Hadamard,
    Indicator,
    Name,
    Negative,
    Number,
    Ones,
    Position,
    Power,
    Product,
    Quotient,
    Root,
    Slot,
    Sum,
    Transposed,
    filled,
    renamed,
    walk,
)
from jacobians.derive.rules import elementwise
from jacobians.derive.tape import Function
from jacobians.notation.formula import needed
from jacobians.notation.matrix import hadamard
from jacobians.notation.text import text_of

X, Y, Q = Name("x"), Name("y"), Name("q")
I, J = Position(0, (("i", 1),)), Position(0, (("j", 1),))

PRINTED = {
    "−2·Wᵀ·ȳ": Product((Transposed(Name("W")), Cotangent("y")), -2.0),
    "(x + y)·q": Product((Sum((X, Y)), Q)),
    "x − y + 2": Sum((X, Negative(Y), Number(2))),
    "x − 2": Sum((X, Number(-2))),
    "x − 3·y": Sum((X, Product((Y,), -3.0))),
    "x − (−y)": Sum((X, Negative(Negative(Y)))),
    "(x ⊙ y)ᵀ": Transposed(Hadamard((X, Y))),
    "x·(y ⊙ q)": Product((X, Hadamard((Y, Q)))),
    "(q³)²": Power(Power(Q, 3), 2),
    "q⁻¹": Power(Q, -1),
    "1/√(1 − x²)": Quotient(Number(1), Root(Sum((Number(1), Negative(Power(X, 2)))))),
    "−Σ_a,b<2 1[i = j]·x[i − 1]": Product(
        (Indicator(Comparison((I, J), ("=",))), Entry(X, (Position(-1, (("i", 1),)),))),
        -1.0,
        (("a", None), ("b", 2)),
    ),
    "j − 2i + 1": Position(1, (("i", -2), ("j", 1))),
    "3 − i": Position(3, (("i", -1),)),
    "0": Position(0),
    "x·1ᵀ": Product((X, Transposed(Ones()))),
    "(W·x)ᵀ": Transposed(Name("W·x")),
    "Σ(x, axis=1)": Call("Σ", (X,), (1,)),
    "1": Product(()),
}


@pytest.mark.parametrize("text", PRINTED)
def test_brackets_and_signs_are_the_printers(text):
    assert text_of(PRINTED[text]) == text


def test_renaming_leaves_names_that_only_look_alike():
    e = Product((Name("y1"), Y, Cotangent("y"), Entry(Name('p["y"]'), (I,))))
    assert text_of(renamed(e, "y", "a1")) == 'y1·a1·ȳ·p["y"][i]'


def test_the_part_with_the_cotangent_is_written_first():
    assert text_of(hadamard((X, Product((Name("W"), Cotangent("y")))))) == "W·ȳ ⊙ x"


def test_every_printed_local_derivative_takes_its_operands():
    functions = [f for f in vars(elementwise).values() if isinstance(f, Function)]
    assert len(functions) > 20
    for function in functions:
        slots = {part.operand for part in walk(function.form) if isinstance(part, Slot)}
        assert slots <= {0, 1, 2}
        assert slots
        whole = filled(function.form, (X, Brackets(Sum((Y, Q))), Name("z")))
        assert not any(isinstance(part, Slot) for part in walk(whole))


def test_letters_for_intermediates_are_none_of_the_users_names():
    block = explain(
        lambda q, h: jnp.sum(jnp.tanh(q) * jnp.exp(h @ q)), jnp.ones(3), jnp.ones((3, 3))
    )
    wheres = [definition for b in block.blocks for definition in b.formulas.definitions]
    assert wheres
    assert not {d.name for d in wheres} & {Name("q"), Name("h")}


def test_a_name_before_a_superscript_is_defined():
    block = explain(lambda x: jnp.tanh(2.0 * x + 3.0) ** 3, 0.3).blocks[0]
    assert block.formulas.derivative is not None
    written = {part for part in walk(block.formulas.derivative) if isinstance(part, Name)}
    defined = {d.name for d in block.formulas.definitions}
    assert defined
    assert written - {Name("x"), Name("out")} <= defined | {
        part for d in block.formulas.definitions for part in walk(d.meaning)
    }


def test_only_definitions_that_are_used_are_needed():
    block = explain(lambda W, x: jnp.sum(jnp.tanh(W @ x) ** 2), jnp.ones((2, 2)), jnp.ones(2))
    formulas = block["out", "x"].formulas
    assert needed(formulas.definitions, Number(1)) == ()
    assert needed(formulas.definitions, formulas.derivative) == formulas.definitions


def test_a_wire_called_out_keeps_its_name_in_a_graph():
    local = backprop(lambda x: jnp.exp(x), 0.5)["out"].local_gradients[0]
    assert (local.formula, local.vjp_formula) == ("out", "x̄ = bar(out)·out")


@pytest.mark.parametrize(
    ("f", "name", "used"),
    [
        # a value called y: the output is called otherwise
        (lambda x: jnp.sin(checkpoint_name(jnp.exp(x), "y")), "y", True),
        # the name of an input is the input's alone, and of two values of one name none has it
        (lambda x: jnp.sin(checkpoint_name(jnp.cos(x), "x")), "x", False),
        (
            lambda x: jnp.sin(checkpoint_name(checkpoint_name(jnp.tanh(x), "h") * x, "h")),
            "h",
            False,
        ),
        (lambda x: jnp.sin(checkpoint_name(jnp.tanh(x) * x, "h")), "h", True),
    ],
)
def test_a_name_that_is_not_one_values_alone_is_not_used(f, name, used):
    block = explain(f, jnp.ones(3))["out", "x"]
    assert (f"cos({name})" in block.vjp_formula) == used
    assert "y = out" not in block.where or "cos(y)" not in block.vjp_formula
