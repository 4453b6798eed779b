"""Keys of programs: equal where the programs compute the same, different where anything differs."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.program import trace
from jacobians.sparse import fingerprint as fingerprints
from jacobians.sparse.fingerprint import digest, fingerprint

X = np.ones(3, np.float32)
TABLE = np.array([2, 0, 1])


def key(f, x=X, **options):
    return fingerprint(trace(f, [x]), **options)


def branches(scale):
    return lambda x: jax.lax.cond(x[0] > 0, lambda y: y * scale, lambda y: y * 2.0, x)


ALL_DIFFERENT = [
    (lambda x: x + x, X),
    (lambda x: x - x, X),
    (lambda x: x * 2.0, X),
    (lambda x: x * 3.0, X),
    (lambda x: x * jnp.nan, X),
    (lambda x: x * -jnp.nan, X),
    (lambda x: x - 2.0, X),
    (lambda x: 2.0 - x, X),
    (lambda x: (x, x), X),
    (lambda x: jnp.sum(x), X),
    (lambda x: jnp.cumsum(x), X),
    (lambda x: jnp.cumsum(x)[::-1], X),
    (lambda x: x * 2.0, np.ones(4, np.float32)),
    (lambda x: x * 2.0, np.ones(3, np.float16)),
    (lambda x: x * 2.0, 1.0),
    (lambda x: x * 2.0, np.float32(1)),
    (branches(2.0), X),
    (branches(3.0), X),
    (branches(np.array([1, 2, 3], np.float32)), X),
    (lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x)[1], X),
    (lambda x: jax.lax.scan(lambda c, y: (c + y, y), 0.0, x)[1], X),
    (lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x, reverse=True)[1], X),
    (jax.nn.relu, X),
    (jax.jit(lambda x: x * 2.0), X),
]


def test_programs_that_differ_in_one_thing_have_different_keys():
    keys = [key(f, x) for f, x in ALL_DIFFERENT]
    assert len(set(keys)) == len(keys)


def test_a_program_traced_again_has_the_same_key():
    for make in (
        lambda: lambda x: jnp.tanh(x) * 2.0,
        lambda: branches(np.array([1, 2, 3], np.float32)),
        lambda: lambda x: x[TABLE.copy()],
        lambda: lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x),
    ):
        assert key(make()) == key(make())
        assert hash(key(make())) == hash(key(make()))


def test_constants_of_the_whole_program_are_given_when_it_runs_and_count_by_type():
    scaled = [jnp.arange(3.0), jnp.arange(3.0) + 1, jnp.arange(4.0)[:, None]]
    first, second, other = (key(lambda x, c=c: x * c) for c in scaled)
    assert first == second
    assert first != other


def test_custom_rules_are_told_apart_unless_only_values_matter():
    def ruled(factor):
        @jax.custom_jvp
        def f(x):
            return jnp.sin(x)

        f.defjvp(lambda primals, tangents: (f(*primals), factor * tangents[0]))
        return f

    one, other = ruled(1.0), ruled(2.0)
    assert key(one) != key(other)
    assert key(one, rules=False) == key(other, rules=False)
    assert key(one, rules=False) != key(jax.nn.relu, rules=False)


def test_callbacks_are_the_same_in_the_same_program_only():
    def calling(host):
        return lambda x: jax.pure_callback(host, jax.ShapeDtypeStruct((3,), jnp.float32), x)

    traced = trace(calling(lambda x: 2 * x), [X])
    assert fingerprint(traced) == fingerprint(traced)
    assert fingerprint(traced) != key(calling(lambda x: 3 * x))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1, 2]), np.array([[1, 2]]), False),
        (np.array([0], np.int32), np.array([0], np.float32), False),
        (np.zeros(2), np.zeros(2, np.complex64), False),
        (np.zeros(1), -np.zeros(1), False),
        (np.arange(4).reshape(2, 2).T, np.array([[0, 2], [1, 3]]), True),
        (np.array([1, 2], np.int32), jnp.array([1, 2], jnp.int32), True),
    ],
)
def test_arrays_are_told_apart_by_content_shape_and_type(one, other, same):
    assert (digest(one) == digest(other)) == same


def test_what_has_no_content_to_look_at_is_the_same_as_itself_only():
    keys, objects = jax.random.key(0), np.array([{}, []], object)
    assert digest(keys) == digest(keys) != digest(jax.random.key(0))
    assert digest(objects) == digest(objects) != digest(objects.copy())


def test_the_digest_of_an_array_that_may_change_is_never_kept():
    array = np.array([1.0, 2.0])
    before = digest(array)
    array[0] = 3.0
    assert digest(array) != before


def test_digests_are_kept_as_long_as_their_arrays():
    array = jnp.arange(5.0) + 0.25
    number = id(array)
    assert digest(array) is digest(array)
    assert number in fingerprints._digests
    del array
    gc.collect()
    assert number not in fingerprints._digests
