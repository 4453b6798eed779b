"""What is kept between calls is shared by threads, and is the same whoever has made it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobians
from jacobians import explain, jacobian, plan
from jacobians.sparse.cache import _Cache

THREADS = 8


@pytest.fixture
def hasty():
    """Threads that take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(work):
    """What each of eight threads returns that start together."""
    barrier = Barrier(THREADS)

    def started(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def test_eight_threads_plan_take_and_explain_one_function_at_once(hasty):
    def f(x):
        return jnp.tanh(x) * jnp.roll(x, 1) + x[jnp.array([2, 0, 1, 4, 3])]

    x = jnp.linspace(-1.0, 1.0, 5)
    calls = [
        lambda: str(plan(f, x)),
        lambda: jacobian(f)(x),
        lambda: str(explain(f, x, points=1)),
        lambda: jacobian(f, format="blocks")(x).todense(),
    ]

    def work(number):
        turns = [(number + k) % len(calls) for k in range(len(calls))]
        found = {k: calls[k]() for k in turns}
        return [found[k] for k in range(len(calls))]

    jacobians.clear_cache()
    planned, matrices, explained, blocks = zip(*at_once(work), strict=True)
    jacobians.clear_cache()
    assert set(planned) == {calls[0]()}
    assert set(explained) == {calls[2]()}
    expected = jax.jacobian(f)(x)
    for matrix, block in zip(matrices, blocks, strict=True):
        np.testing.assert_allclose(matrix.todense(), expected, atol=1e-6)
        np.testing.assert_allclose(block, expected, atol=1e-6)
    assert len({id(matrix.indices) for matrix in matrices}) == 1


def test_threads_that_have_made_the_same_thing_go_on_with_the_first(hasty):
    cache = _Cache(lambda _: 0)
    kept = at_once(lambda number: cache.keep("key", [number]))
    assert all(value is kept[0] for value in kept)
    assert cache.get("key") is kept[0]


def test_the_latest_used_are_kept(monkeypatch):
    monkeypatch.setattr("jacobians.sparse.cache.MAX_KEPT", 2)
    cache = _Cache(lambda _: 0)
    cache.keep("a", 1)
    cache.keep("b", 2)
    assert cache.get("a") == 1
    cache.keep("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert cache.keep("a", 4) == 1
    cache.keep("b", 2)
    assert (cache.get("a"), cache.get("c")) == (1, None)
    cache.clear()
    assert cache.get("a") is None


def test_no_more_bytes_are_kept_than_allowed_but_the_newest_always(monkeypatch):
    monkeypatch.setattr("jacobians.sparse.cache.MAX_KEPT_BYTES", 10)
    cache = _Cache(len)
    for key, size in (("a", 6), ("b", 4), ("c", 3), ("d", 11)):
        cache.keep(key, "x" * size)
        kept = {k for k in "abcd" if cache.get(k) is not None}
        assert kept == {"a": {"a"}, "b": {"a", "b"}, "c": {"b", "c"}, "d": {"d"}}[key]
