"""Kinks are told from bends, and limits of quotients are those of known functions."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.check import kinks
from jacobians.check.kinks import OFFSETS

T = np.array(OFFSETS)


@pytest.mark.parametrize(
    ("samples", "kink"),
    [
        (np.sign(T), True),
        (np.sign(T) + 1e-6 * T, True),
        (np.maximum(T - 0.3, 0) > 0, True),
        (np.sign(T) + np.sign(T - 0.4), True),
        (T, False),
        (np.exp(3 * T), False),
        (np.tanh(5 * T), False),
        (1 + 1e-5 * np.sign(T), False),
        (np.zeros(len(T)), False),
    ],
    ids=["step", "step on a slope", "step aside", "two steps", "parabola", "curved", "steep",
         "step that does not count", "flat"],
)  # fmt: skip
def test_steps_are_kinks_and_bends_are_none(samples, kink):
    assert kinks.is_kink(samples.astype(float)[:, None]).tolist() == [kink]


def function(x):
    return (jnp.abs(x), jnp.where(x > 1.0, x * x, 2 * x), jnp.sin(x))


def test_samples_are_derivatives_to_both_sides_also_by_differences():
    x = np.array([0.0, 1.0, 2.0])
    groups = [np.array([0]), np.array([1, 2])]
    for width, by_differences, digits in ((1e-7, False, 1e-6), (1e-4, True, 1e-3)):
        found = kinks.one_sided(function, [x], 0, groups, width, width, by_differences)
        modulus, joined, sine = found.derivatives
        np.testing.assert_allclose(modulus[0, :, 0], np.sign(T), atol=digits)
        np.testing.assert_allclose(joined[1, :, 1], 2.0, atol=digits)
        np.testing.assert_allclose(joined[1, :, 2], 4.0, atol=2 * digits)
        np.testing.assert_allclose(sine[1, :, 1:], np.tile(np.cos(x[1:]), (10, 1)), atol=digits)
        slopes = found.rises[2][1, 1:] / (2 * found.slope_steps[1:])
        np.testing.assert_allclose(slopes, np.cos(x[1:]), rtol=1e-6)


def test_steps_are_closer_where_derivatives_are_exact():
    widths = [kinks.width(True, False), kinks.width(False, False), kinks.width(True, True)]
    assert widths == sorted(widths)


# function, point, limits of its quotients to the left and to the right
LIMITS = {
    "smooth": (jnp.sin, 0.3, np.cos(0.3), np.cos(0.3)),
    "kink": (jnp.abs, 0.0, -1.0, 1.0),
    "a root on one side": (lambda x: jnp.sqrt(jnp.maximum(x, 0)), 0.0, 0.0, np.inf),
    "a root where it ends": (jnp.sqrt, 0.0, np.nan, np.inf),
    "a cusp": (lambda x: jnp.sqrt(jnp.abs(x)), 0.0, -np.inf, np.inf),
    "a cube root": (jnp.cbrt, 0.0, np.inf, np.inf),
    "a jump": (lambda x: jnp.where(x > 0, 1.0, x), 0.0, 1.0, np.nan),
    "a swing": (lambda x: jnp.sqrt(jnp.abs(x)) * jnp.sin(9 * jnp.log(jnp.abs(x))), 0.0,
                np.nan, np.nan),
}  # fmt: skip


@functools.cache
def found_limits():
    """The limits of all functions: one output each, moved together."""
    functions = [f for f, *_ in LIMITS.values()]
    points = np.array([point for _, point, *_ in LIMITS.values()])

    def all_of_them(x):
        return tuple(f(x[k : k + 1]) for k, f in enumerate(functions))

    return kinks.limits(all_of_them, [points], 0, [np.array([k]) for k in range(len(points))])


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_quotients_to_both_sides(name):
    number = list(LIMITS).index(name)
    _, _, *expected = LIMITS[name]
    there = found_limits()[number].at(number, np.array([0]), np.array([number]))
    if name != "a swing":
        np.testing.assert_allclose([there.left[0], there.right[0]], expected, rtol=1e-7, atol=1e-9)
        assert (there.reached[0] > 0) == np.isinf(expected).any()
    else:
        assert not (np.isinf(there.left) & np.isinf(there.right)).any()
    if np.isfinite(expected).all():
        assert there.bar[0] < 1e-4
        assert np.abs(there.left[0] - expected[0]) <= there.bar[0]


def test_the_natural_size_is_the_largest_and_never_zero():
    assert kinks.natural_size(np.array([0.0, -3.0, np.inf, np.nan])) == 3.0
    assert kinks.natural_size(np.zeros(2)) == kinks.natural_size(np.zeros(0)) == 1.0
