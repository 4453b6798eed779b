"""Coefficients against their values: products, sums, renaming, and what is given up."""

import numpy as np
import pytest

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.coefficient import ONE, Coefficient, Factor, Product
from tests.derive.algebra.enumeration import product_value, random_coefficient, vectors

SIZES = {1: 2, 2: 3, 3: 2}


def _value(c, at, arrays):
    return sum(product_value(p, at, arrays) for p in c.products)


@pytest.mark.parametrize("seed", range(25))
def test_products_sums_and_new_names_have_the_values(seed):
    generator = np.random.default_rng(seed)
    arrays: dict = {}
    a, b = (random_coefficient(generator, SIZES, arrays) for _ in range(2))
    product = coefficients.multiply(a, b)
    total = coefficients.add(a, b, lambda v: False)
    swapped = {1: affine.variable(3), 3: affine.variable(1)}
    renamed = coefficients.rename(a, swapped)
    for at in vectors(SIZES):
        x, y = _value(a, at, arrays), _value(b, at, arrays)
        assert _value(product, at, arrays) == pytest.approx(x * y)
        assert _value(total, at, arrays) == pytest.approx(x + y)
        assert _value(renamed, {1: at[3], 2: at[2], 3: at[1]}, arrays) == pytest.approx(x)
    assert coefficients.variables(product) == coefficients.variables(a) | coefficients.variables(b)


def _one(scale, *factors, depends=()):
    return Coefficient((Product(scale, tuple(factors)),), frozenset(depends))


X = Factor(7, (affine.variable(1),))


def test_opposite_summands_cancel_and_equal_ones_join():
    assert coefficients.add(_one(2.0, X), _one(-2.0, X), lambda v: False) is None
    assert coefficients.add(_one(2.0, X), _one(1.0, X), lambda v: False) == _one(3.0, X)


def test_summation_variables_have_no_name():
    # Σ_h v7[h] and Σ_k v7[k] are the same; a[i] and a[j] are not
    h, k = Factor(7, (affine.variable(8),)), Factor(7, (affine.variable(9),))
    joined = coefficients.add(_one(1.0, h), _one(1.0, k), lambda v: v in (8, 9))
    assert joined is not None
    assert [p.scale for p in joined.products] == [2.0]
    apart = coefficients.add(_one(1.0, h), _one(1.0, k), lambda v: False)
    assert apart is not None
    assert len(apart.products) == 2


def test_a_rounded_scale_is_marked_and_does_not_cancel():
    third, three = _one(0.1), _one(3.0)
    made = coefficients.multiply(third, three)
    assert made.products[0].rounded
    assert not coefficients.multiply(_one(0.5), three).products[0].rounded
    # what rounding leaves of the difference no formula says
    assert coefficients.add(made, _one(-0.1 * 3.0), lambda v: False) == coefficients.OPAQUE
    # 2⁵³ + 1 is no float
    assert coefficients.add(_one(2.0**53, X), _one(1.0, X), lambda v: False).products[0].rounded


def test_what_grows_too_long_is_opaque_and_still_says_what_it_depends_on():
    many = Coefficient(
        tuple(Product(1.0, (Factor(k, ()),)) for k in range(coefficients.MAX_PRODUCTS)),
        frozenset({1}),
    )
    fits = coefficients.multiply(many, _one(2.0, X, depends={2}))
    assert fits.products is not None
    two = Coefficient((Product(1.0, (X,)), Product(1.0, ())), frozenset({2}))
    for made in (coefficients.multiply(many, two), coefficients.add(many, two, lambda v: False)):
        assert made == coefficients.opaque(frozenset({1, 2}))
    long = _one(1.0, *[X] * coefficients.MAX_FACTORS)
    assert coefficients.multiply(long, _one(1.0)).products is not None
    assert coefficients.multiply(long, _one(1.0, X)).products is None


def test_one_changes_nothing():
    a = _one(2.0, X, depends={3})
    assert coefficients.multiply(ONE, a) is a
    assert coefficients.multiply(a, ONE) is a
    assert coefficients.multiply(coefficients.OPAQUE, a) == coefficients.opaque(frozenset({3}))
    assert coefficients.rename(ONE, {1: affine.ZERO}) is ONE


def test_what_leaves_the_range_of_a_type_is_not_exact():
    # in float16 2⁻¹⁶ is no number of full precision, in float32 2⁻²⁰⁰ is 0
    assert coefficients.multiply(_one(2.0**-8), _one(2.0**-8)).products[0].rounded
    assert coefficients.multiply(_one(2.0**-100), _one(2.0**-100)).products is None
    assert not coefficients.multiply(_one(2.0**-6), _one(2.0**-8)).products[0].rounded


def test_a_narrower_type_rounds_what_does_not_fit():
    eight_bits = (8, 2.0**-126, 2.0**127)
    fits, does_not = _one(1.0), _one(257 / 256)
    assert coefficients.narrowed(fits, *eight_bits) is fits
    assert coefficients.narrowed(does_not, *eight_bits).products[0].rounded
    assert coefficients.narrowed(_one(1.0, X), *eight_bits).products[0].rounded
    assert coefficients.narrowed(_one(2.0**-130), *eight_bits).products[0].rounded
    assert coefficients.narrowed(coefficients.OPAQUE, *eight_bits) is coefficients.OPAQUE
