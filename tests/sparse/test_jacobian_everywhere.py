"""Every format, eager, under jit and vmap, has the numbers of JAX: tables and random programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from jacobians import jacobian
from jacobians.cli.specs import load_function, parse_spec
from jacobians.program.call import bind
from tests.choices import Drawn
from tests.derive.functions import TABLE as FUNCTIONS
from tests.derive.programs import programs
from tests.explicit import QUICK
from tests.fuzz_forms import some_form, wrong
from tests.structure.test_explain import TABLE as EXPLAINED

FORMATS = ("bcoo", "dense", "scipy", "blocks", "operator")


def explicit(f, numbers):
    """The Jacobian by whichever mode JAX has, and where it is finite in every mode it has."""
    forward, reverse = jax.jacfwd(f, numbers), jax.jacrev(f, numbers)

    def both(*args):
        made = []
        for mode in (reverse, forward):
            try:
                made.append(jax.tree.map(np.asarray, jax.jit(mode, compiler_options=QUICK)(*args)))
            except (TypeError, ValueError, NotImplementedError):
                # a rule for one mode only, or a while loop in reverse
                continue
        assert made
        finite = jax.tree.map(lambda *a: np.isfinite(a).all(0), *made)
        return made[0], finite

    return both


def is_block(x):
    return hasattr(x, "todense") or hasattr(x, "toarray")


def in_full(jac, name, numbers, args):
    """The Jacobian in one format as arrays of shape output + input."""
    made = jac(*args)
    if name == "operator":
        n = made.shape[1]
        # the outputs stacked are the rows; one leaf each of output and input is cut out of them
        matrix = made @ jnp.eye(n, dtype=jnp.result_type(*(t.dtype for t in made.in_types)))
        rows, r = [], 0
        for out in made.out_types:
            row, c = [], 0
            for inp in made.in_types:
                height, width = int(np.prod(out.shape)), int(np.prod(inp.shape))
                part = matrix[r : r + height, c : c + width]
                row.append(part.reshape(*out.shape, *inp.shape))
                c += width
            rows.append(tuple(row))
            r += height
        return jax.tree.unflatten(made.out_tree, rows)
    if name in ("bcoo", "blocks"):
        return jax.tree.map(lambda b: b.todense(), made, is_leaf=is_block)
    return made


def close(made, expected, finite, tolerance, what, typed=True):
    ours = jax.tree.leaves(made, is_leaf=is_block)
    theirs = jax.tree.leaves(expected)
    assert len(ours) == len(theirs), what
    for a, b, where in zip(ours, theirs, jax.tree.leaves(finite), strict=True):
        a = a.toarray().reshape(b.shape) if hasattr(a, "toarray") else a
        assert a.shape == b.shape, what
        assert not typed or a.dtype == b.dtype, what
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, np.abs(b[where]).max(initial=0))
        # where JAX itself has 0·∞ in one of its modes, an entry may be anything
        np.testing.assert_allclose(a[where], b[where], tolerance, tolerance * scale, err_msg=what)


def confront(f, args, numbers, tolerance, formats=FORMATS, mapped=True, text=""):
    """Compares every format, eager, under jit and under vmap, with JAX."""
    both = explicit(f, numbers)
    expected, finite = both(*args)
    made = {name: jacobian(f, numbers, format=name) for name in formats}
    for name, jac in made.items():
        result = in_full(jac, name, numbers, args)
        close(result, expected, finite, tolerance, f"{name}\n{text}", name != "operator")
    inside = {name: jac for name, jac in made.items() if name != "scipy"}

    @jax.jit
    def compiled(*args):
        return {name: in_full(jac, name, numbers, args) for name, jac in inside.items()}

    for name, result in compiled(*args).items():
        close(result, expected, finite, tolerance, f"{name} under jit\n{text}", name != "operator")
    if not mapped:
        return
    moved = tuple(0.7 * x + 0.1 if k in numbers else x for k, x in enumerate(args))
    stacked = tuple(jnp.stack(pair) for pair in zip(args, moved, strict=True))
    batched = jax.jit(
        jax.vmap(lambda *args: {n: in_full(jac, n, numbers, args) for n, jac in inside.items()})
    )(*stacked)
    for k, point in enumerate((args, moved)):
        expected, finite = both(*point)
        for name, result in batched.items():
            one = jax.tree.map(lambda x, k=k: x[k], result)
            what = f"{name} under vmap\n{text}"
            close(one, expected, finite, tolerance, what, name != "operator")


ROWS = FUNCTIONS.strip().splitlines()


def table_call(row, x64):
    """A row's function of its arrays, the arrays, and the numbers of those with a derivative."""
    path, *specs = row.split(" | ")[0].split()
    call = bind(load_function(path), [parse_spec(text, 0, k) for k, text in enumerate(specs)])
    arrays = [k for k, leaf in enumerate(call.inputs) if not leaf.static]
    every = call.flat(arrays)
    kept = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]

    def f(*args):
        return tuple(every(*args)[k] for k in kept)

    args = tuple(jnp.asarray(call.inputs[k].value) for k in arrays)
    numbers = tuple(k for k, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))
    if x64:
        args = tuple(x.astype(jnp.float64) if k in numbers else x for k, x in enumerate(args))
    return f, args, numbers


@pytest.mark.long
@pytest.mark.parametrize("x64", [False, True], ids=["f32", "f64"])
@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0] for row in ROWS])
def test_every_function_of_the_table_of_jax(row, x64):
    with jax.enable_x64(x64):
        f, args, numbers = table_call(row, x64)
        # what computes in float32 inside, whatever it is given, is as exact as that
        narrow = row.split()[0] in ("jax.nn:dot_product_attention",)
        confront(f, args, numbers, 1e-9 if x64 and not narrow else 1e-4)


# the functions of the table of `explain` whose explicit Jacobian is too large, at smaller sizes
SMALLER = {
    "relu": [(40,)],
    "relu of 10⁸": [(41,)],
    "heat": [(20,)],
    "roll of 10⁶": [(12,)],
    "stencil": [(5, 6)],
    "flip of 10⁷": [(10,)],
    "recurrent": [(4, 4), (14, 4)],
}


def explained_call(name, x64):
    f, shapes, _ = EXPLAINED[name]
    shapes = SMALLER.get(name, shapes)
    if sum(int(np.prod(s)) for s in shapes) > 600:
        shapes = [tuple(min(n, 7) for n in s) for s in shapes]
    generator = np.random.default_rng(3)
    dtype = np.float64 if x64 else np.float32
    args = tuple(jnp.asarray(generator.normal(size=s), dtype) for s in shapes)
    return f, args, tuple(range(len(args)))


@pytest.mark.long
@pytest.mark.parametrize("x64", [False, True], ids=["f32", "f64"])
@pytest.mark.parametrize("name", EXPLAINED)
def test_every_function_of_the_table_of_explain(name, x64):
    with jax.enable_x64(x64):
        f, args, numbers = explained_call(name, x64)
        confront(f, args, numbers, 1e-9 if x64 else 2e-4)


def random_program(program):
    with jax.enable_x64(True):
        generator = np.random.default_rng(7)
        args = tuple(jnp.asarray(generator.normal(size=s)) for s in program.shapes)
        note(program.describe())
        text = program.describe()
        # a step through float32 rounds, each order of multiplication in its own way
        tolerance = 1e-5 if "to_f32" in text else 1e-9
        confront(program, args, tuple(range(len(args))), tolerance, text=text)


@settings(max_examples=3, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
@given(program=programs())
def test_random_programs(program):
    random_program(program)


@pytest.mark.long
@pytest.mark.parametrize("part", range(2))
@settings(max_examples=120, suppress_health_check=list(HealthCheck), deadline=None)
@given(program=programs(steps=8))
def test_random_programs_long(part, program):
    random_program(program)


@settings(max_examples=3, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
@given(data=st.data())
def test_random_forms(data):
    form = some_form(Drawn(data.draw), 3)
    note(form.text())
    assert not wrong(form, 0)
