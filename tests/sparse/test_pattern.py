"""Explicit patterns: the entries of terms, each once and in order, against plain enumeration."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import ZERO, variable
from jacobians.derive.algebra.term import Term
from jacobians.errors import ArgumentError
from jacobians.sparse import pattern as patterns
from jacobians.sparse.pattern import block_pattern, column_grid, grid_of, index_dtype, unique_sorted
from tests.sparse.terms import at, blocks, index_vectors

V, W = affine.fresh(), affine.fresh()


def identity(n):
    return Term({V: n}, (variable(V),), (variable(V),))


@settings(max_examples=150, deadline=None)
@given(blocks())
def test_a_pattern_has_the_entries_of_its_terms_each_once_and_in_order(block):
    terms, out_shape, in_shape = block
    expected = sorted(
        {
            (*(at(e, point) for e in term.out), *(at(e, point) for e in term.inp))
            for term in terms
            for point in index_vectors(term)
        }
    )
    pattern = block_pattern(terms, out_shape, in_shape)
    assert pattern.count == len(expected)
    assert list(map(tuple, pattern.indices().tolist())) == expected
    places = [
        divmod(int(np.ravel_multi_index(index, (*out_shape, *in_shape))), prod(in_shape))
        for index in expected
    ]
    assert list(zip(pattern.rows.tolist(), pattern.columns.tolist(), strict=True)) == places
    assert pattern.full == (len(expected) == prod(out_shape) * prod(in_shape))
    square = prod(out_shape) == prod(in_shape)
    diagonal = square and places == [(k, k) for k in range(prod(out_shape))]
    assert pattern.is_diagonal == diagonal


def test_a_term_in_order_is_a_grid_that_lists_nothing():
    large = block_pattern((identity(10**8),), (10**8,), (10**8,))
    assert (large.keys, large.count, large.is_diagonal, large.bytes()) == (None, 10**8, True, 0)
    backwards = Term({V: 3}, (affine.shift(variable(V, -1), 2),), (variable(V),))
    assert grid_of(identity(3), (3,), (3,)).ordered
    assert not grid_of(backwards, (3,), (3,)).ordered
    assert block_pattern((backwards,), (3,), (3,)).columns.tolist() == [2, 1, 0]
    cut = Term({V: 3, W: 3}, (variable(V),), (variable(W),), bounds=(variable(V),))
    assert grid_of(cut, (3,), (3,)) is None


def test_more_entries_than_can_be_listed_are_refused(monkeypatch):
    monkeypatch.setattr(patterns, "MAX_ENTRIES", 5)
    assert block_pattern((identity(5),), (5,), (5,)).count == 5
    with pytest.raises(ArgumentError, match=r"at most 5 are listed; use format=.operator"):
        block_pattern((identity(6),), (6,), (6,))
    everything = Term({V: 3, W: 3}, (variable(V),), (variable(W),))
    assert block_pattern((everything,), (3,), (3,)).full


def test_positions_are_as_small_as_they_can_be():
    assert index_dtype(2**31 - 1) is np.int32
    assert index_dtype(2**31) is np.int64


def test_different_numbers_in_order():
    assert unique_sorted(np.array([3, 1, 3, 2, 1])).tolist() == [1, 2, 3]
    assert unique_sorted(np.array([], np.int64)).tolist() == []


def test_an_axis_is_split_where_terms_step_over_it():
    rows_of_three = affine.add(variable(V, 3), variable(W))
    strided = Term({V: 4, W: 3}, (variable(V),), (rows_of_three,))
    assert column_grid([strided], (24,)) == (2, 4, 3)
    assert column_grid([identity(24)], (24,)) == (24,)
    # 5 does not divide the axis
    uneven = Term({V: 4}, (variable(V),), (variable(V, 5),))
    assert column_grid([uneven], (24,)) == (24,)
    both = Term({V: 2}, (ZERO,), (variable(V), variable(V, 2)))
    assert column_grid([both], (2, 4)) == (2, 2, 2)
