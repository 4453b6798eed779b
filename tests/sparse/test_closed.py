"""Closed forms: the entries of a block from its coefficients, against plain enumeration."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import variable
from jacobians.derive.algebra.coefficient import Coefficient, Factor, Product, opaque
from jacobians.derive.algebra.term import Term
from jacobians.derive.tape import Function, Tape, Value
from jacobians.sparse import closed
from jacobians.sparse.closed import closed_form, outer_form
from tests.sparse.terms import at, blocks, expressions, index_vectors

V, W, U = affine.fresh(), affine.fresh(), affine.fresh()
DRAW = np.random.default_rng


def new_value(tape, array, constant=False, function=None):
    """The number of an array on a tape: of an input's, or of a constant's."""
    number = len(tape.values)
    source = "constant" if constant else "input"
    depends = frozenset() if constant else frozenset((number,))
    known = array if constant else None
    made = Value(array.shape, array.dtype, depends, source, constant=known, function=function)
    return tape.new(made)


def entries_of(terms, shapes, arrays):
    """The matrix of a block, by visiting every index vector."""
    matrix = np.zeros((*shapes[0], *shapes[1]))
    for term in terms:
        for point in index_vectors(term):
            place = tuple(at(e, point) for e in (*term.out, *term.inp))
            for scale, factors, _ in term.coefficient.products:
                values = [arrays[f.value][tuple(at(e, point) for e in f.at)] for f in factors]
                matrix[place] += scale * prod(values)
    return matrix.reshape(prod(shapes[0]), prod(shapes[1]))


def dense(form, arrays):
    """The matrix that a closed form gives."""
    matrix = np.zeros(form.pattern.shape)
    values = form.values(arrays, form.tables, np.float32, np)
    assert values.dtype == np.float32
    matrix[form.pattern.rows, form.pattern.columns] = values
    return matrix


@settings(max_examples=120, deadline=None)
@given(blocks(), st.data())
def test_the_entries_are_sums_of_products_at_every_index_vector(block, data):
    terms, *shapes = block
    tape, arrays, coefficients = Tape(), {}, []
    for term in terms:
        products = []
        for _ in range(data.draw(st.integers(1, 2))):
            factors = []
            for _ in range(data.draw(st.integers(0, 2))):
                place = tuple(data.draw(expressions(term.sizes)) for _ in range(2))
                ends = [1 + affine.value_range(e, term.sizes)[1] for e in place]
                array = DRAW(len(arrays)).integers(-3, 4, ends).astype(np.float32)
                number = new_value(tape, array, constant=data.draw(st.booleans()))
                arrays[number] = array
                factors.append(Factor(number, place))
            products.append(Product(data.draw(st.sampled_from((1.0, -0.5))), tuple(factors)))
        values = [tape.values[f.value] for p in products for f in p.factors]
        depends = frozenset[int]().union(*(value.depends for value in values))
        coefficients.append(Coefficient(tuple(products), depends))
    terms = tuple(replace(t, coefficient=c) for t, c in zip(terms, coefficients, strict=True))
    form = closed_form(terms, *shapes, tape, np.float32)
    if form is None:
        # only where more index vectors than entries make it no gain
        ones = [replace(t, coefficient=Coefficient((Product(1.0, ()),))) for t in terms]
        reached = np.count_nonzero(entries_of(ones, shapes, {}))
        assert sum(prod(t.sizes.values()) for t in terms) > closed.MAX_REPEATS * reached
        return
    assert set(form.wanted) <= set(arrays)
    np.testing.assert_array_equal(dense(form, arrays), entries_of(terms, shapes, arrays))


def diagonal(number, scale=1.0):
    """The term scale·a[i] at entry (i, i), i below 3."""
    coefficient = Coefficient((Product(scale, (Factor(number, (variable(V),)),)),), frozenset((0,)))
    return Term({V: 3}, (variable(V),), (variable(V),), coefficient)


def test_what_is_ruled_out_does_not_count_be_it_infinite():
    array, chosen = np.array([np.inf, 2, 3], np.float32), np.array([0, 1, 1], np.float32)
    tape = Tape()
    plain = new_value(tape, array)
    selects = new_value(
        tape, chosen, function=Function("select 0", "1[{0}]", lambda x: x, selects=True)
    )
    at_v = (variable(V),)
    both = Product(1.0, (Factor(plain, at_v), Factor(selects, at_v)))
    term = Term({V: 3}, at_v, at_v, Coefficient((both,), frozenset((0,))))
    form = closed_form((term,), (3,), (3,), tape, np.float32)
    with np.errstate(invalid="ignore"):
        values = form.values({plain: array, selects: chosen}, form.tables, np.float32, np)
    assert values.tolist() == [0, 2, 3]


def test_many_values_on_one_entry_are_scattered():
    count = closed.MAX_ROUNDS + 2
    array = DRAW(0).normal(size=(count, count)).astype(np.float32)
    tape = Tape()
    number = new_value(tape, array)
    place = (variable(V), variable(W))
    coefficient = Coefficient((Product(1.0, (Factor(number, place),)),), frozenset((0,)))
    sums = tuple(
        Term({V: count, W: count}, (variable(V),), (variable(W),), coefficient)
        for _ in range(count)
    )
    assert closed_form(sums, (count,), (count,), tape, np.float32) is None
    first = Coefficient((Product(1.0, (Factor(number, (affine.ZERO, variable(W))),)),))
    thin = (Term({W: count}, (affine.ZERO,), (variable(W),), first),) * count
    wide = Term({V: count, W: count}, (variable(V),), (variable(W),), coefficient)
    form = closed_form((wide, *thin), (count,), (count,), tape, np.float32)
    assert form.scattered is not None
    expected = array.copy()
    expected[0] *= count + 1
    np.testing.assert_allclose(dense(form, {number: array}), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["opaque", "a sum of its own", "a tiny scale", "no term"])
def test_without_a_formula_there_is_no_form(kind):
    tape = Tape()
    number = new_value(tape, np.ones((3, 3), np.float32))
    term = diagonal(new_value(tape, np.ones(3, np.float32)))
    assert closed_form((term,), (3,), (3,), tape, np.float32) is not None
    if kind == "opaque":
        term = replace(term, coefficient=opaque(frozenset((0,))))
    elif kind == "a sum of its own":
        hidden = Product(1.0, (Factor(number, (variable(V), variable(U))),))
        term = replace(term, sizes={V: 3, U: 3}, coefficient=Coefficient((hidden,)))
    elif kind == "a tiny scale":
        term = diagonal(1, 1e-40)
    terms = () if kind == "no term" else (term,)
    assert closed_form(terms, (3,), (3,), tape, np.float32) is None


def test_an_outer_product_is_its_two_factors():
    arrays = {}
    tape = Tape()
    for size in ((3,), (2,), (3, 2)):
        array = DRAW(len(arrays)).normal(size=size).astype(np.float32)
        arrays[new_value(tape, array)] = array
    v, w = variable(V), variable(W)

    def block(*factors, scale=2.0):
        coefficient = Coefficient((Product(scale, factors),), frozenset(arrays))
        return (Term({V: 3, W: 2}, (v,), (w,), coefficient),)

    terms = block(Factor(0, (v,)), Factor(1, (w,)))
    left, right = outer_form(terms, (3,), (2,), tape, np.float32)
    sides = [side.values(arrays, side.tables, np.float32, np) for side in (left, right)]
    np.testing.assert_allclose(np.outer(*sides), 2 * np.outer(arrays[0], arrays[1]), rtol=1e-6)
    assert outer_form(block(Factor(2, (v, w))), (3,), (2,), tape, np.float32) is None
    assert outer_form(terms * 2, (3,), (2,), tape, np.float32) is None
