"""Indices that depend on the input reach only the places that their range allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobians import explain
from jacobians.derive.call import derive_call
from jacobians.derive.facts.ranges import range_of
from jacobians.program.call import bind
from tests.derive.patterns import proved_entries


def whole(x):
    """A float cut to an integer of unknown size."""
    return (8 * x).astype(int)


# function of eight numbers, entries that can be nonzero at some point
INDEXED = {
    "argmax of two": (lambda x: x[jnp.argmax(x[:2])], 2),
    "argmin, moved": (lambda x: x[jnp.argmin(x[2:5]) + 3], 3),
    "argmax and a table": (lambda x: x[jnp.argmax(x[:2]) + jnp.array([0, 1])], 4),
    "a dynamic slice": (lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:2]),), (3,)), 6),
    "clipped": (lambda x: x[jnp.clip(whole(x[0]), 2, 3)], 2),
    "clipped by max and min": (lambda x: x[jnp.minimum(jnp.maximum(whole(x[0]), 1), 2)], 2),
    "a clipped float": (lambda x: x[jnp.clip(8 * x[0], 1.0, 2.5).astype(int)], 2),
    "a rounded float": (lambda x: x[jnp.round(2 * jnp.tanh(x[0])).astype(int) + 2], 5),
    "remainder": (lambda x: x[whole(x[0]) % 3], 3),
    "remainder with the dividend's sign": (lambda x: x[lax.rem(whole(x[0]), 3) + 2], 5),
    "quotient": (lambda x: x[jnp.argmax(x) // 4], 2),
    "quotient of negatives": (lambda x: x[jnp.clip(whole(x[0]), -4, 2) // 3 + 2], 3),
    "square": (lambda x: x[jnp.clip(whole(x[0]), -1, 1) ** 2], 2),
    "booleans summed": (lambda x: x[jnp.sum(x[:2] > 0)], 3),
    "booleans counted along": (lambda x: x[jnp.cumsum(x[:3] > 0)], 2 + 3 + 4),
    "bits": (lambda x: x[whole(x[0]) & 1], 2),
    "exclusive or": (lambda x: x[(x[0] > 0).astype(int) ^ 1], 2),
    "the sign": (lambda x: x[jnp.sign(x[0]).astype(int) + 1], 3),
    "searched": (lambda x: x[jnp.sum(jnp.array([0.0, 1.0]) < x[0])], 3),
    "sorted": (lambda x: x[jnp.argsort(x[:3])], 9),
    "the places of the largest": (lambda x: x[lax.top_k(x[:3], 2)[1]], 6),
    "negative, from the end": (lambda x: x[-1 - (x[0] > 0)], 2),
    "two axes": (lambda x: x.reshape(2, 4)[jnp.argmax(x[:2]), jnp.argmin(x[:2])], 4),
    "rows by a vmap": (lambda x: jax.vmap(lambda r: r[jnp.argmax(r[:2])])(x.reshape(2, 4)), 4),
    "filled outside": (
        lambda x: x.at[7 + (x[0] > 0)].get(mode="fill", fill_value=0.0), 1
    ),
    "clamped outside": (lambda x: x.at[7 + (x[0] > 0)].get(mode="clip"), 1),
    "set": (lambda x: x[:3].at[jnp.argmax(x[3:5])].set(x[3]), 5),
    "added": (lambda x: x[:3].at[jnp.argmax(x[:2]) + jnp.array([0, 1])].add(x[5:7]), 3 + 4),
    "a window set": (
        lambda x: lax.dynamic_update_slice(x[:5], x[5:8], (jnp.argmax(x[:2]),)), 3 + 6
    ),
    "rolled": (lambda x: jnp.roll(x[:4], x[0] > 0), 8),
    "a switch": (
        lambda x: lax.switch(
            jnp.argmax(x[:2]), [lambda y: y[0], lambda y: y[1], lambda y: y[5]], x
        ),
        2,
    ),
    "masked by a comparison that is decided": (
        lambda x: jnp.where(jnp.argmax(x[:2]) < 2, x[0], x[1]), 1
    ),
}  # fmt: skip


def test_an_index_reaches_what_its_range_allows():
    generator = np.random.default_rng(0)
    points = [generator.normal(size=8) for _ in range(12)] + [np.zeros(8)]
    counts = proved_entries({name: f for name, (f, _) in INDEXED.items()}, points)
    assert counts == {name: count for name, (_, count) in INDEXED.items()}


UNKNOWN = {
    "wraps around": lambda x: x[(jnp.argmax(x[:2]).astype(jnp.int8) * 100 * 2) % 8],
    "an integer of its type": lambda x: x[whole(x[0])],
    "a product that overflows": lambda x: x[whole(x[0]) * whole(x[1]) + 1],
    "reversed beside itself": lambda x: x[
        jnp.where(whole(x[:2]) < 0, whole(x[:2])[::-1], 0)
    ],
}  # fmt: skip


def test_what_may_be_anywhere_is_anywhere():
    generator = np.random.default_rng(1)
    points = [2 * generator.normal(size=8) for _ in range(30)]
    counts = proved_entries(UNKNOWN, points)
    assert counts["an integer of its type"] == 8
    assert counts["a product that overflows"] == 8
    assert counts["reversed beside itself"] == 16


def test_ranges_are_sound_in_narrow_types():
    kinds = {
        "overflow": (lambda i: jnp.clip(i, 0, 100).astype(jnp.int8) * jnp.int8(2), (-128, 127)),
        "no overflow": (lambda i: jnp.clip(i, 0, 63).astype(jnp.int8) * jnp.int8(2), (0, 126)),
        "unsigned": (lambda i: jnp.clip(i, 0, 3).astype(jnp.uint8) - jnp.uint8(1), (0, 255)),
        "absolute": (lambda i: jnp.abs(jnp.clip(i, -5, 3)), (0, 5)),
        "negated bits": (lambda i: ~jnp.clip(i, 0, 3), (-4, -1)),
        "or": (lambda i: jnp.clip(i, 0, 4) | 3, (0, 7)),
        "shifted": (lambda i: jnp.clip(i, 2, 9) >> 1, (1, 4)),
        "minimum of several": (lambda i: jnp.min(jnp.array([3, 5]) + jnp.clip(i, 0, 1)), (3, 4)),
        "power": (lambda i: jnp.clip(i, -3, 2) ** 3, (-27, 8)),
        "product": (lambda i: jnp.clip(i, -3, 2) * jnp.clip(i, -1, 4), (-12, 8)),
    }
    with jax.enable_x64(True):
        call = bind(
            lambda i, x: [x, *(f(i) for f, _ in kinds.values())],
            [jnp.zeros((), jnp.int32), jnp.ones(())],
        )
        derivation = derive_call(call).derivation
        computed = jax.jit(lambda i: [f(i) for f, _ in kinds.values()])
        seen = [computed(jnp.asarray(i, jnp.int32)) for i in (-(2**31), -4, -1, 0, 2, 3, 2**31 - 1)]
    for position, (name, (_, expected)) in enumerate(kinds.items()):
        found = range_of(derivation.tape, derivation.outputs[position + 1])
        assert (int(found.low), int(found.high)) == expected, name
        for results in seen:
            assert expected[0] <= int(results[position]) <= expected[1], name


def test_a_float_that_may_be_nan_becomes_zero_too():
    call = bind(lambda x: jnp.clip(jnp.log(x), 3.0, 4.0).astype(int), [jnp.ones(())])
    derivation = derive_call(call).derivation
    found = range_of(derivation.tape, derivation.outputs[0])
    assert (int(found.low), int(found.high)) == (0, 4)


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((3,), [(1, 1, 0)]),
        ((3,), [(2, 0, 2)]),
        ((3,), [(-1, 2, 1)]),
        ((3,), [(5, -4, 0)]),
        ((2, 3), [(-1, 1, 1), (2, -1, 1)]),
        ((0,), [(2, 1, 0)]),
    ],
)
def test_a_padding_value_reaches_the_padded_places(shape, config):
    values = jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    explanation = explain(lambda x, v: lax.pad(x, v, config), values, jnp.zeros(()))
    padded = np.asarray(lax.pad(jnp.zeros(shape), 1.0, config)).reshape(-1)
    pattern = explanation.blocks[1].pattern().toarray().reshape(-1)
    np.testing.assert_array_equal(pattern, padded != 0)


KEYS = jnp.array([3, 1, 2, 0])
BY_CONSTANTS = {
    "keys": (lambda x: lax.sort((KEYS, x), num_keys=1)[1], 4),
    "equal keys": (lambda x: lax.sort((KEYS // 2, x), num_keys=1)[1], 4),
    "two keys": (lambda x: lax.sort((KEYS // 2, KEYS, x), num_keys=2)[2], 4),
    "columns": (
        lambda x: lax.sort((KEYS.reshape(2, 2), x.reshape(2, 2)), dimension=0, num_keys=1)[1], 4
    ),
    "a permutation": (lambda x: jax.random.permutation(jax.random.key(3), x), 4),
    "rows permuted": (
        lambda x: jax.random.permutation(jax.random.PRNGKey(3), x.reshape(2, 2)), 4
    ),
    "chosen": (lambda x: jax.random.choice(jax.random.key(3), x, (2,), replace=False), 2),
    "equal keys in any order": (
        lambda x: lax.sort((KEYS // 4, x), num_keys=1, is_stable=False)[1], 16
    ),
}  # fmt: skip


def test_known_keys_sort_in_a_known_order():
    points = [np.random.default_rng(2).normal(size=4)]
    counts = proved_entries({name: f for name, (f, _) in BY_CONSTANTS.items()}, points)
    assert counts == {name: count for name, (_, count) in BY_CONSTANTS.items()}


CHOSEN = {
    "by branch": (
        lambda x: lax.cond(x[0] > 0, lambda y: y[1] * y[2], lambda y: y[3] ** 2, x), 3
    ),
    "one in another": (
        lambda x: lax.cond(
            x[0] > 0,
            lambda y: lax.cond(y[1] > 0, lambda z: z[2] ** 3, lambda z: z[3] ** 3, y),
            lambda y: y[4],
            x,
        ),
        2,
    ),
    "one after another": (
        lambda x: lax.cond(x[1] > 0, jnp.sin, jnp.cos, lax.cond(x[0] > 0, jnp.tanh, jnp.exp, x)), 5
    ),
    "under a vmap": (
        lambda x: jax.vmap(lambda a: lax.cond(a > 0, lambda b: b**3, lambda b: b, a))(x), 5
    ),
}  # fmt: skip


def test_second_derivatives_of_a_choice_are_by_branch():
    points = [np.random.default_rng(k).normal(size=5) for k in range(8)]
    counts = proved_entries({n: f for n, (f, _) in CHOSEN.items()}, points, hessians=True)
    assert counts == {name: count for name, (_, count) in CHOSEN.items()}


def known_mask(value):
    """A truth value as a factor."""
    return value.astype(float)


# functions of eight numbers, with an entry that an overlooked value would prove to be zero
OVERLOOKED = {
    "bits of several": lambda x: x[
        lax.reduce_or(jnp.where(x[:2] > 0, jnp.array([1, 2]), 0), (0,))
    ],
    "a sum that is rounded": lambda x: x[
        lax.reduce_sum((jnp.broadcast_to(x[0], (303,)) > 0).astype(jnp.bfloat16), (0,)).astype(int)
        - 303
    ],
    "a number too large for its integer": lambda x: x[
        jnp.clip(jnp.full(2, 1e30).astype(jnp.int32), 0, 3)
    ],
    "NaN as an integer": lambda x: x[jnp.clip(jnp.full(2, jnp.nan).astype(jnp.int32) + 1, 0, 3)],
    "negative without sign": lambda x: x[
        jnp.clip(jnp.full(2, -1.0).astype(jnp.uint8), 0, 3).astype(int)
    ],
    "0 / 0 of integers": lambda x: known_mask(lax.div(jnp.zeros(8, int), x.astype(int))) * x,
    "an overflow": lambda x: known_mask(jnp.isinf(jnp.exp(x[0]))) * x[1],
    "a logarithm of a negative": lambda x: known_mask(jnp.isnan(jnp.log(x[0]))) * x[1],
    "a quotient": lambda x: known_mask(~jnp.isfinite(1 / x[0])) * x[1],
    "a logarithm of 0": lambda x: known_mask(~(jnp.log(x[0]) > -jnp.inf)) * x[1],
    "filled with NaN": lambda x: known_mask(
        jnp.isnan(x.at[jnp.array([0, 9])].get(mode="fill"))
    ) * x[:2],
    "filled anywhere": lambda x: known_mask(jnp.isnan(x.at[whole(x[0])].get(mode="fill"))) * x[1],
    "filled with 1": lambda x: (0 * x).at[whole(x[0])].get(mode="fill", fill_value=1.0) * x[:2],
    "minus without sign": lambda x: known_mask(
        -jnp.where(x[0] > 0, jnp.uint8(1), jnp.uint8(2)) > 0
    ) * x[1],
    "minus the least": lambda x: known_mask(
        -jnp.where(x[0] > 0, jnp.int8(-128), jnp.int8(-1)) < 0
    ) * x[1],
    "a window of padding": lambda x: jnp.maximum(
        lax.reduce_window(0 * x, -jnp.inf, lax.max, (1,), (1,), ((1, 1),)), -2.0
    ) * x[0],
    "changed by a function": lambda x: lax.stop_gradient(x * jnp.array([0.0, *[1.0] * 7]))
    .at[0].apply(lambda v: v - 1) * x,
    "written twice": lambda x: jnp.zeros(8)
    .at[jnp.array([0, 0])].set(jnp.stack([x[1], 0.0 * x[0]])) * x[::-1],
}  # fmt: skip


def test_no_value_is_overlooked():
    generator = np.random.default_rng(2)
    points = [generator.normal(size=8) for _ in range(4)]
    points += [np.full(8, value) for value in (0.0, 1.0, -1.0, 1e30, -1e30)]
    counts = proved_entries(OVERLOOKED, points)
    assert min(counts.values()) > 0


# what the program compares with an infinity, or with itself, and no finite input reaches
DECIDED = {
    "an input is a number": lambda x: known_mask(jnp.isnan(x)) * x,
    "an input is finite": lambda x: known_mask(~jnp.isfinite(x)) * x,
    "an input is below an infinity": lambda x: known_mask(x >= jnp.inf) * x,
    "an infinity is written down": lambda x: known_mask(
        jnp.where(jnp.arange(8) < 8, -jnp.inf, x) > -jnp.inf
    ) * x,
}  # fmt: skip


def test_finite_inputs_decide():
    counts = proved_entries(DECIDED, [np.arange(8.0) - 3])
    assert counts == dict.fromkeys(DECIDED, 0)
