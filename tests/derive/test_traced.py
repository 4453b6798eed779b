"""The derivation under the caller's `jit`, `vmap`, `grad` and `scan`, with nothing kept before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jacobians
from jacobians.cli.specs import load_function, parse_spec
from tests.derive.functions import TABLE
from tests.derive.programs import programs

ROWS = TABLE.strip().splitlines()
MATRIX = np.kron(np.eye(3), np.ones((2, 2)))[:5, :5].astype(np.float32)

SMALL = {
    "set of a slice": lambda x: x.at[1:3].set(x[:2] ** 2),
    "set at constant indices": lambda x: x.at[jnp.array([0, 3])].set(x[:2] * x[1:3]),
    "add at constant indices": lambda x: x.at[jnp.array([0, 0])].add(x[:2] ** 2),
    "gather at computed constants": lambda x: x[jnp.argsort(jnp.sin(jnp.arange(5.0)))] ** 2,
    "a loop of constants": lambda x: x * jax.lax.fori_loop(0, 3, lambda _, c: c * 2.0, 1.0),
    "a matrix with zeros": lambda x: jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ x)),
    "scan": lambda x: jax.lax.scan(lambda c, y: (c * y, c + y), x[0], x)[1],
    "empty scan": lambda x: jax.lax.scan(lambda c, y: (c, c + y), x[0], x[:0])[0] * x,
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 9.0, lambda c: c * 2.0, x),
    "known permutation": lambda x: x[jax.random.permutation(jax.random.key(0), 5)] ** 3,
    "linear solve": lambda x: jnp.linalg.solve(MATRIX + jnp.eye(5), x) * x,
    "cumulative maximum": lambda x: jax.lax.cummax(x) * x,
}


def entries_of(f, *xs):
    """The entries of every block, as arrays."""
    blocks = jacobians.jacobian(f, argnums=tuple(range(len(xs))))(*xs)
    return [b.data for b in jax.tree.leaves(blocks, is_leaf=lambda b: hasattr(b, "indices"))]


def under_every_transformation(f, xs):
    """Traces the Jacobian abstractly in each way, first thing after the caches are emptied."""

    def call(*xs):
        return entries_of(f, *xs)

    def total(*xs):
        return sum(jnp.sum(data) for data in call(*xs))

    batch = [jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in xs]
    ways = {
        "jit": (call, xs),
        "vmap": (jax.vmap(call), batch),
        "grad": (jax.grad(total), xs),
        "scan": (lambda *b: jax.lax.scan(lambda c, row: (c, call(*row)), 0, tuple(b))[1], batch),
    }
    sizes = {}
    for name, (transformed, types) in ways.items():
        jacobians.clear_cache()
        sizes[name] = jax.eval_shape(transformed, *types)
    return sizes["jit"]


def test_small_functions_are_derived_inside_jit():
    jacobians.clear_cache()
    types = jax.ShapeDtypeStruct((5,), jnp.float32)
    for name, f in SMALL.items():
        assert jax.eval_shape(lambda x, f=f: entries_of(f, x), types), name


def test_what_is_derived_inside_jit_is_the_jacobian():
    x = jnp.linspace(0.5, 1.5, 5)
    jacobians.clear_cache()
    chosen = [f for name, f in SMALL.items() if " at " in name or "set" in name]
    dense = jax.jit(lambda x: [jacobians.jacobian(f, format="dense")(x) for f in chosen])(x)
    for f, found in zip(chosen, dense, strict=True):
        np.testing.assert_allclose(found, jax.jacfwd(f)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["set of a slice", "gather at computed constants", "a loop of constants"]
)
def test_nothing_is_computed_in_the_trace_of_a_caller(name):
    f = SMALL[name]
    inside = under_every_transformation(f, [jax.ShapeDtypeStruct((5,), jnp.float32)])
    jacobians.clear_cache()
    outside = entries_of(f, jnp.linspace(0.5, 1.5, 5))
    assert [x.shape for x in inside] == [x.shape for x in outside]


def differentiable(row):
    """A row of the table as a function of its floating-point arguments, and their types."""
    path, *specs = row.split(" | ")[0].split()
    arguments = [parse_spec(text, 0, k) for k, text in enumerate(specs)]
    places = [
        k for k, a in enumerate(arguments)
        if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)
    ]  # fmt: skip
    whole = load_function(path)

    def f(*xs):
        everything = list(arguments)
        for k, x in zip(places, xs, strict=True):
            everything[k] = x
        results = jax.tree.leaves(whole(*everything))
        return [y for y in results if jnp.issubdtype(y.dtype, jnp.floating)]

    return f, [jax.ShapeDtypeStruct(arguments[k].shape, jnp.float32) for k in places]


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0] for row in ROWS])
def test_a_jax_function_is_derived_inside_every_transformation(row):
    f, types = differentiable(row)
    try:
        jax.eval_shape(jax.jacfwd(f), *types)
        assert jax.eval_shape(f, *types)
    except (NotImplementedError, ValueError, TypeError, AssertionError):
        pytest.skip("JAX itself cannot differentiate it")
    inside = under_every_transformation(f, types)
    jacobians.clear_cache()
    points = [jnp.linspace(0.1, 0.9, int(np.prod(t.shape))).reshape(t.shape) for t in types]
    outside = entries_of(f, *points)
    assert [x.shape for x in inside] == [x.shape for x in outside]


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
@given(program=programs())
def test_random_programs_are_derived_inside_every_transformation(program):
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in program.shapes]
    under_every_transformation(program, types)
