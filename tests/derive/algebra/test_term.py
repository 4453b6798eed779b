"""Terms against enumeration: the normal form, products, keys, containment, listing."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import value_range
from jacobians.derive.algebra.coefficient import ONE
from jacobians.derive.algebra.normal import compose, normal, pattern_only
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import (
    Term,
    contains,
    flipped,
    key,
    oriented,
    relation_variables,
    with_fresh_variables,
)
from tests.derive.algebra.enumeration import (
    index_vectors,
    matrix,
    random_affine,
    random_coefficient,
    value,
)

SEEDS = range(120)


def _side(generator, variables, sizes, rank):
    """An index of some axes whose values start at 0, and the shape that it stays in."""
    index, shape = [], []
    for _ in range(rank):
        e = random_affine(generator, variables)
        low, high = value_range(e, sizes)
        index.append(affine.shift(e, -low))
        shape.append(high - low + 1)
    return tuple(index), tuple(shape)


def _random_term(seed, conditions=True, products=True):
    """A term with the shapes of its block and the arrays of its coefficient."""
    generator = np.random.default_rng(seed)
    variables = [affine.fresh() for _ in range(generator.integers(1, 4))]
    sizes = {v: int(generator.integers(1, 4)) for v in variables}
    out, out_shape = _side(generator, variables, sizes, int(generator.integers(1, 3)))
    inp, in_shape = _side(generator, variables, sizes, int(generator.integers(1, 3)))
    zeros, bounds = (), ()
    if conditions:
        zeros = tuple(
            random_affine(generator, variables, 2, 3) for _ in range(generator.integers(0, 2))
        )
        bounds = tuple(
            random_affine(generator, variables, 2, 3) for _ in range(generator.integers(0, 3))
        )
    arrays = {}
    named = sizes
    if products and generator.integers(2):
        # a variable that only the coefficient has: it is summed over
        own = affine.fresh()
        named = {**sizes, own: int(generator.integers(1, 4))}
    coefficient = random_coefficient(generator, named, arrays) if products else ONE
    term = Term(named, out, inp, coefficient, zeros, bounds)
    # variables of the box that nothing mentions would only repeat everything
    used = set(relation_variables(term)) | {
        v for p in coefficient.products for f in p.factors for e in f.at for v, _ in e.terms
    }
    term = Term({v: n for v, n in named.items() if v in used}, out, inp, coefficient, zeros, bounds)
    return term, out_shape, in_shape, arrays


@pytest.mark.parametrize("seed", SEEDS)
def test_the_normal_form_is_the_same_sum(seed):
    term, out_shape, in_shape, arrays = _random_term(seed)
    made = normal(term)
    expected = matrix(term, out_shape, in_shape, arrays)
    np.testing.assert_allclose(matrix(made, out_shape, in_shape, arrays), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_normal_form_maps_index_vectors_one_to_one(seed):
    term, *_ = _random_term(seed, products=False)
    made = normal(term)

    def places(t):
        return Counter(tuple(value(e, at) for e in (*t.out, *t.inp)) for at in index_vectors(t))

    before = places(term)
    if made is None:
        assert not before
        return
    after = places(made)
    # a variable that only repeats has become the number of its repetitions
    (scale,) = {p.scale for p in made.coefficient.products}
    assert {k: n * scale for k, n in after.items()} == dict(before)
    assert all(n > 1 for n in made.sizes.values())


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_a_product_of_terms_is_the_product_of_matrices(seed):
    outer, out_shape, middle, arrays = _random_term(seed, products=False)
    generator = np.random.default_rng(seed)
    variables = [affine.fresh() for _ in range(2)]
    sizes = {v: int(generator.integers(1, 4)) for v in variables}
    inner_out = []
    for size in middle:
        # an index that stays within the axis
        v = variables[int(generator.integers(2))]
        offset = int(generator.integers(0, max(1, size - sizes[v] + 1)))
        sizes[v] = min(sizes[v], size)
        inner_out.append(affine.shift(affine.variable(v), offset))
    inp, in_shape = _side(generator, variables, sizes, 1)
    inner = Term(sizes, tuple(inner_out), inp)
    if any(value_range(e, sizes)[1] >= n for e, n in zip(inner_out, middle, strict=True)):
        inner = Term(sizes, tuple(affine.ZERO for _ in middle), inp)
    inner = Term(
        {v: n for v, n in sizes.items() if v in relation_variables(inner)}, inner.out, inner.inp
    )
    product = compose(outer, inner)
    expected = matrix(outer, out_shape, middle, arrays) @ matrix(inner, middle, in_shape, {})
    np.testing.assert_allclose(matrix(product, out_shape, in_shape, arrays), expected)


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_other_names_and_directions_are_the_same_relation(seed):
    term, out_shape, in_shape, arrays = _random_term(seed)
    expected = matrix(term, out_shape, in_shape, arrays)
    renamed = with_fresh_variables(term)
    assert not renamed.sizes.keys() & term.sizes.keys()
    assert key(renamed)[0] == key(term)[0]
    for other in (renamed, oriented(term)):
        np.testing.assert_allclose(matrix(other, out_shape, in_shape, arrays), expected)
    turned = matrix(flipped(term), in_shape, out_shape, arrays)
    np.testing.assert_allclose(turned, expected.T)


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_points_are_the_index_vectors(seed):
    term, *_ = _random_term(seed, products=False)
    found = points(term)
    names = relation_variables(term)
    listed = Counter(zip(*(found.at[v].tolist() for v in names), strict=True)) if names else None
    expected = Counter(tuple(at[v] for v in names) for at in index_vectors(term))
    if names:
        assert listed == expected
    assert found.count == expected.total()
    assert grid_size(term) >= found.count


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_a_pattern_alone_has_the_same_entries(seed):
    term, out_shape, in_shape, _ = _random_term(seed, products=False)
    made = normal(term)
    if made is None:
        return
    expected = matrix(term, out_shape, in_shape, {}) != 0
    alone = replace(pattern_only(made), coefficient=ONE)
    np.testing.assert_array_equal(matrix(alone, out_shape, in_shape, {}) != 0, expected)


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_contained_is_never_said_of_what_is_not(seed):
    wide, out_shape, in_shape, _ = _random_term(seed, products=False)
    generator = np.random.default_rng(seed)
    # the same relation with one condition more is within; with its own taken away it may not be
    more = random_affine(generator, list(wide.sizes) or [affine.fresh()], 2, 2)
    if not {v for v, _ in more.terms} <= wide.sizes.keys():
        more = affine.ZERO
    narrow = Term(wide.sizes, wide.out, wide.inp, ONE, wide.zeros, (*wide.bounds, more))
    for a, b in ((wide, narrow), (narrow, wide)):
        if contains(a, b):
            outside = (matrix(b, out_shape, in_shape, {}) != 0) & (
                matrix(a, out_shape, in_shape, {}) == 0
            )
            assert not outside.any()


def test_a_plain_relation_contains_its_part():
    i, j = affine.fresh(), affine.fresh()
    full = Term({i: 4, j: 5}, (affine.variable(i),), (affine.variable(j),))
    k = affine.fresh()
    band = Term({k: 4}, (affine.variable(k),), (affine.shift(affine.variable(k), 1),))
    assert contains(full, band)
    assert not contains(band, full)
