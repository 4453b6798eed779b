"""Affine expressions against their values: every law at random integers."""

import numpy as np
import pytest

from jacobians.derive.algebra import affine
from tests.derive.algebra.enumeration import random_affine, value, vectors

VARIABLES = [1, 2, 3, 4]
SEEDS = range(40)


def _drawn(seed: int):
    generator = np.random.default_rng(seed)
    a, b = (random_affine(generator, VARIABLES, 4, 3) for _ in range(2))
    at = {v: int(generator.integers(-5, 6)) for v in VARIABLES}
    return generator, a, b, at


@pytest.mark.parametrize("seed", SEEDS)
def test_arithmetic_is_that_of_the_values(seed):
    generator, a, b, at = _drawn(seed)
    x, y = value(a, at), value(b, at)
    factor = int(generator.integers(-3, 4))
    assert value(affine.add(a, b), at) == x + y
    assert value(affine.subtract(a, b), at) == x - y
    assert value(affine.scale(a, factor), at) == factor * x
    assert value(affine.shift(a, factor), at) == x + factor
    assert affine.subtract(a, a) == affine.ZERO
    assert affine.add(a, b) == affine.add(b, a)


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_expressions_are_equal_tuples(seed):
    _, a, b, _ = _drawn(seed)
    total = affine.add(a, b)
    assert total == affine.linear([*b.terms, *a.terms], a.const + b.const)
    assert hash(total) == hash(affine.linear(reversed(total.terms), total.const))
    assert all(c != 0 for _, c in total.terms)
    assert list(total.terms) == sorted(total.terms)


@pytest.mark.parametrize("seed", SEEDS)
def test_substitution_happens_all_at_once(seed):
    generator, a, _, at = _drawn(seed)
    # variables replaced by expressions of each other: one after another would go wrong
    replacement = {v: random_affine(generator, VARIABLES) for v in VARIABLES[:3]}
    inside = {v: value(replacement[v], at) if v in replacement else at[v] for v in VARIABLES}
    assert value(affine.substitute(a, replacement), at) == value(a, inside)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_range_is_reached_at_both_ends(seed):
    generator, a, _, _ = _drawn(seed)
    sizes = {v: int(generator.integers(1, 4)) for v in VARIABLES}
    values = [value(a, at) for at in vectors(sizes)]
    assert affine.value_range(a, sizes) == (min(values), max(values))


def test_what_is_asked_of_an_expression():
    e = affine.linear([(2, 6), (1, -4)], 3)
    assert affine.content(e) == 2
    assert affine.content(affine.constant(7)) == 0
    assert (affine.coefficient(e, 1), affine.coefficient(e, 9)) == (-4, 0)
    assert affine.plain_variable(affine.variable(5)) == 5
    assert affine.plain_variable(affine.variable(5, 2)) is None
    assert affine.plain_variable(affine.shift(affine.variable(5), 1)) is None
    assert affine.fresh() != affine.fresh()


def test_ravel_is_numpys():
    shape = (3, 4, 2)
    index = [affine.variable(v) for v in (1, 2, 3)]
    flat = affine.ravel(index, shape)
    for at in vectors(dict(zip((1, 2, 3), shape, strict=True))):
        assert value(flat, at) == np.ravel_multi_index(tuple(at.values()), shape)
