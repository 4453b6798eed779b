"""Functions keep their values and lose their custom rules, at any depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import program
from jacobians.program.strip import has_custom_rules, strip_custom_rules


@jax.custom_vjp
def wrong(x):
    return jnp.sin(x)


wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (100 * c,))


@jax.custom_jvp
def wrong_forward(x):
    return jnp.sin(x)


wrong_forward.defjvp(lambda p, t: (jnp.sin(p[0]), 100 * t[0]))

PLACES = {
    "top": lambda g, x: g(x),
    "jit": lambda g, x: jax.jit(g)(x),
    "checkpoint": lambda g, x: jax.checkpoint(g)(x),
    "scan": lambda g, x: jax.lax.scan(lambda c, a: (g(c) + a, c * a), x[0], x)[1],
    "cond": lambda g, x: jax.lax.cond(x[0] > 0, g, lambda v: 2 * v, x),
    "while": lambda g, x: jax.lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, g(s[1])), (0, x)
    )[1],
    "vmap": lambda g, x: jax.vmap(g)(x),
}


@pytest.mark.parametrize("rule", [wrong, wrong_forward], ids=["custom_vjp", "custom_jvp"])
@pytest.mark.parametrize("place", PLACES)
def test_the_derivative_is_the_programs_own(place, rule):
    x = jnp.array([0.3, -0.2, 1.1])
    build = PLACES[place]
    stripped = strip_custom_rules(lambda v: build(rule, v))
    plain = lambda v: build(jnp.sin, v)  # noqa: E731
    np.testing.assert_allclose(stripped(x), plain(x), rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(stripped)(x), jax.jacfwd(plain)(x), rtol=1e-5)


def test_rules_are_found_inside_and_not_where_there_are_none():
    shape = [jax.ShapeDtypeStruct((3,), jnp.float32)]
    for build in PLACES.values():
        assert has_custom_rules(program.trace(lambda v, b=build: b(wrong, v), shape))
        assert not has_custom_rules(program.trace(lambda v, b=build: b(jnp.sin, v), shape))


def test_pytrees_go_in_and_come_out():
    result = strip_custom_rules(lambda p: {"y": wrong(p["x"])})({"x": jnp.ones(2)})
    np.testing.assert_allclose(result["y"], np.sin(np.ones(2)), rtol=1e-6)
