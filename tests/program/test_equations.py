"""One loop over equations, one way into calls and loops: values, what else they are, order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import program

X = np.array([0.5, -1.0, 2.0], np.float32)
HELD = np.array([1.0, 2.0, 3.0], np.float32)


@jax.custom_jvp
def ruled(x):
    return x * 2


ruled.defjvp(lambda p, t: (ruled(*p), 3 * t[0]))

ENTERED = {
    "jit": jax.jit(lambda x: jnp.sin(x) * HELD),
    "rule": ruled,
    "scan": lambda x: jax.lax.scan(lambda c, a: (c * a + x[1], c - a), x[0], x, reverse=True),
    "while": lambda x: jax.lax.while_loop(
        lambda s: s[0] < x[2], lambda s: (s[0] + 1.0, s[1] * x), (x[1], x)
    ),
    "cond": lambda x: jax.lax.cond(x[0] > 0, lambda v: v * HELD, jnp.cos, x),
}


def traced(f, *shapes):
    return program.trace(lambda *x: tuple(jax.tree.leaves(f(*x))), shapes or [X])


@pytest.mark.parametrize("name", ENTERED)
def test_what_is_entered_gives_what_it_computes(name):
    inner = traced(ENTERED[name])
    entered = []

    def runner(part, values):
        entered.append(part)
        return program.run(part, values)

    def apply(equation, values):
        found = program.enter(equation, values, runner)
        return program.evaluate(equation, values) if found is None else found

    expected = jax.tree.leaves(ENTERED[name](X))
    for made in (program.run(inner, [X], apply), program.run(inner, [X])):
        for mine, right in zip(made, expected, strict=True):
            np.testing.assert_allclose(mine, right, rtol=1e-6)
    assert len(entered) >= (2 if name in ("while", "cond") else 1)


def test_the_condition_of_a_loop_may_have_a_runner_of_its_own():
    (loop,) = [e for e in traced(ENTERED["while"]).equations if e.primitive.name == "while"]
    parts = program.while_parts(loop)
    operands = list(range(len(loop.invars)))
    for_condition, for_body, carry = parts.split(operands)
    assert [*for_condition, *for_body, *carry] == operands
    assert len(for_condition) == parts.condition_constants
    assert len(carry) == len(loop.outvars)
    values = [np.float32(2.0), X, np.float32(-1.0), X]
    assert len(values) == len(operands)
    stopped = program.enter(loop, values, program.run, asks=lambda part, given: [jnp.bool_(False)])
    np.testing.assert_array_equal(stopped[-1], values[-1])


def test_the_operands_of_a_scan_are_split_as_its_step_takes_them():
    (loop,) = [e for e in traced(ENTERED["scan"]).equations if e.primitive.name == "scan"]
    parts = program.scan_parts(loop)
    constants, carry, slices = parts.split([v.aval.shape for v in loop.invars])
    inside = [v.aval.shape for v in parts.body.inputs]
    assert [*constants, *carry, *(shape[1:] for shape in slices)] == inside


def test_values_may_be_of_any_kind():
    inner = traced(lambda x: (x * 2 + HELD, HELD))

    def names(equation, operands):
        return [f"{equation.primitive.name}({', '.join(operands)})"]

    held = lambda array: "number" if np.ndim(array) == 0 else "held"  # noqa: E731
    made = program.run(inner, ["x"], names, held)
    assert made == ["add(mul(x, number), held)", "held"]
    given = program.run(inner, ["x"], names, held, constants=["h"] * len(inner.constants))
    assert given[0] in ("add(mul(x, number), h)", made[0])


def test_nested_equations_come_each_before_what_is_inside_it():
    inner = traced(lambda x: jnp.cos(jax.jit(lambda v: jax.lax.map(jnp.sin, v))(x)))
    names = [equation.primitive.name for equation in program.nested(inner)]
    assert [n for n in names if n in ("scan", "sin", "cos")] == ["scan", "sin", "cos"]
    assert len(list(program.nested_programs(inner))) == 3
    assert program.contains(inner, ["sin"])
    assert not program.contains(inner, ["tan"])
