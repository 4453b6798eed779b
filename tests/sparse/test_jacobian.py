"""jacobian, value_and_jacobian, hessian: the numbers of JAX in every format and transformation."""

import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

import jacobians
from jacobians import ArgumentError, hessian, jacobian, value_and_jacobian
from jacobians.sparse.bind import bind_call
from jacobians.sparse.cache import entry_for
from jacobians.sparse.coloring import is_valid_coloring
from jacobians.sparse.forms import formats
from jacobians.sparse.prepare import prepare
from tests.explicit import by_jax
from tests.structure.test_explain import TABLE


def values(*sizes, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=sizes), jnp.float32)


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_vjp
def clipped_gradient(x):
    return 3 * x


clipped_gradient.defvjp(lambda x: (3 * x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@jax.custom_vjp
def with_decay(x):
    return 2 * x


with_decay.defvjp(lambda x: (2 * x, x), lambda x, g: (2 * g + 0.1 * x,))


@jax.custom_vjp
def sign_gradient(x):
    return jnp.sin(x)


sign_gradient.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (jnp.sign(g),))


@jax.custom_jvp
def doubled(x):
    return jnp.round(x)


doubled.defjvps(lambda t, y, x: 2 * t)


def heat(u):
    return jnp.concatenate([u[:1], u[2:] * u[1:-1] + u[:-2], u[-1:]])


def mlp(W1, W2, x):
    return jax.nn.relu(x @ W1) @ W2


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v


def recurrent(xs):
    def step(h, x):
        h = jnp.tanh(h + x)
        return h, h

    return jax.lax.scan(step, jnp.zeros(3), xs)[1]


def looped(x):
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) * 2), (0, x))[
        1
    ]


def arrow(x):
    first = jnp.sum(jnp.sin(x) * x[0])
    return jnp.concatenate([first[None], jnp.sin(x[1:]) * x[0]])


def tangled(x, y):
    """Blocks that need sweeps beside blocks that do not."""
    return {"a": x * y, "b": (jnp.sort(x) + y[::-1], x.sum())}


W = values(5, 6, seed=9)

CASES = {
    "relu": (jax.nn.relu, (values(7),), 0),
    "softmax": (jax.nn.softmax, (values(3, 4),), 0),
    "stencil": (heat, (values(9),), 0),
    "roll": (lambda x: jnp.roll(x, 1) * x**2, (values(8),), 0),
    "linear": (lambda x: W @ x, (values(6),), 0),
    "solve": (lambda b: jnp.linalg.solve(W @ W.T + jnp.eye(5), b), (values(5),), 0),
    "scalar output": (lambda x: jnp.sum(x**3), (values(5),), 0),
    "Python float": (lambda x: x**2, (1.5,), 0),
    "sort": (jnp.sort, (values(7),), 0),
    "cumulative product": (jnp.cumprod, (values(5),), 0),
    "scan": (recurrent, (values(11, 3),), 0),
    "while": (looped, (values(5),), 0),
    "arrow": (arrow, (values(25),), 0),
    "polynomial in its coefficients": (jnp.polyval, (values(4), values(3)), (0, 1)),
    "product over the last axis": (lambda x: x.prod(-1), (values(2, 3),), 0),
    "reshape in another order": (
        lambda x: jnp.sin(jax.lax.reshape(x, (3, 4), (2, 0, 1))) * values(2, 3, 2).reshape(3, 4),
        (values(2, 3, 2),),
        0,
    ),
    "nothing": (lambda x: (x[:0], x.sum(0)), (values(4, 0),), 0),
    "the input unchanged": (lambda x, y: (y, x, jnp.float32(1)), (values(3), values(2)), (1, 0)),
    "half precision band": (lambda x: x[1:] - x[:-1], (values(4).astype(jnp.float16),), 0),
    "kinks": (
        lambda x: (jax.nn.relu(x), jnp.abs(x), jnp.clip(x, 0, 1), jnp.max(x), jnp.maximum(x, 0)),
        (jnp.array([0.0, -0.0, 1.0, -1.0]),),
        0,
    ),
    "zero": (lambda x: jnp.zeros(3), (values(4),), 0),
    "fft": (lambda x: jnp.fft.ifft(2 * jnp.fft.fft(x)).real, (values(6),), 0),
    "bfloat16 result": (lambda x: x.astype(jnp.bfloat16) * 2, (values(4),), 0),
    "bfloat16 argument": (lambda x: x * x, (values(4).astype(jnp.bfloat16),), 0),
    "pytree": (lambda d: d["p"][0] * d["b"], ({"p": [values(3)], "b": values(3, seed=1)},), 0),
    "index argument": (lambda x, i: 2 * x[i], (values(6), jnp.array([1, 1, 3])), 0),
    "Python integer": (lambda x, n: x**n, (values(4), 3), 0),
    "network": (mlp, (values(6, 7), values(7, 3), values(4, 6)), (0, 1, 2)),
    "attention": (attention, tuple(values(4, 3, seed=k) for k in range(3)), (0, 2)),
    "tangled": (tangled, (values(5), values(5, seed=1)), (0, 1)),
    "second argument": (tangled, (values(5), values(5, seed=1)), 1),
    "straight-through": (lambda x: straight_through(x) * x, (values(6),), 0),
    "clipped gradient": (lambda x: clipped_gradient(x) * x, (values(6),), 0),
    "decay in the gradient": (lambda x: with_decay(x) * x, (values(6),), 0),
    "sign of the gradient": (lambda x: sign_gradient(2 * x), (values(6),), 0),
    "custom_jvp": (lambda x: doubled(x) * x, (values(6),), 0),
    "rules in a scan": (
        lambda x: jax.lax.scan(lambda c, _: (straight_through(c) * x, None), x, None, length=12)[0],
        (values(4),),
        0,
    ),
}


def reference(f, argnums, args):
    try:
        return by_jax(jax.jacobian, f, *args, argnums=argnums)
    except ValueError:
        # reverse mode has no while loop
        return by_jax(jax.jacfwd, f, *args, argnums=argnums)


def is_block(x):
    return hasattr(x, "todense") or hasattr(x, "toarray")


def same(result, expected, tolerance=2e-5):
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@jax.jit
def densified(tree):
    return jax.tree.map(lambda block: block.todense(), tree, is_leaf=is_block)


@pytest.mark.parametrize("name", CASES)
def test_every_format_has_the_numbers_of_jax(name):
    f, args, argnums = CASES[name]
    expected = reference(f, argnums, args)
    sparse = jacobian(f, argnums)(*args)
    same(densified(sparse), expected)
    for block in jax.tree.leaves(sparse, is_leaf=is_block):
        assert isinstance(block, BCOO)
        assert block.indices_sorted
        assert block.unique_indices
        flat = np.ravel_multi_index(tuple(np.asarray(block.indices).T), block.shape) if (
            block.ndim
        ) else np.zeros(block.nse)  # fmt: skip
        assert (np.diff(flat) > 0).all()
    same(jacobian(f, argnums, format="dense")(*args), expected)
    same(densified(jacobian(f, argnums, format="blocks")(*args)), expected)
    matrices = jax.tree.leaves(jacobian(f, argnums, format="scipy")(*args), is_leaf=is_block)
    for matrix, block in zip(matrices, jax.tree.leaves(expected), strict=True):
        assert matrix.format == "csr"
        assert matrix.has_canonical_format
        np.testing.assert_allclose(
            matrix.toarray(), np.asarray(block, np.float32).reshape(matrix.shape), 2e-5, 2e-5
        )


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("Python integer",)])
def test_under_jit_the_numbers_are_the_same(name):
    f, args, argnums = CASES[name]
    same(densified(jax.jit(jacobian(f, argnums))(*args)), reference(f, argnums, args))


@pytest.mark.parametrize("f", [heat, jax.nn.softmax, recurrent, jnp.sort, looped])
def test_transformations_compose(f):
    x = values(9, 3) if f is recurrent else values(9)
    X = jnp.stack([x, 0.5 * x])
    ours, theirs = jacobian(f, format="dense"), jax.jacfwd(f)
    same(jax.vmap(ours)(X), jax.jit(jax.vmap(theirs))(X))
    batched = jax.vmap(jacobian(f))(X)
    assert batched.n_batch == 0 or batched.data.shape[0] == 2
    assert batched.data.shape == (2, jacobian(f)(x).nse)
    same(jax.jacfwd(ours)(x), by_jax(jax.jacfwd, theirs, x), 1e-4)
    if f is not looped:
        same(
            jax.grad(lambda x: (jacobian(f)(x).data ** 2).sum())(x),
            by_jax(jax.grad, lambda x: (theirs(x) ** 2).sum(), x),
            1e-4,
        )


def test_in_a_scan_it_does_what_the_explicit_jacobian_does():
    def run(jac):
        return jax.lax.scan(lambda x, _: (x - 0.1 * (jac(x) @ x), None), values(9), None, 4)[0]

    same(run(jacobian(heat)), run(jax.jacobian(heat)))


FLOATS = [n for n in TABLE if n != "relu of 10⁸"]


@pytest.mark.parametrize("name", FLOATS)
def test_every_function_of_the_derivation_table(name):
    f, shapes, _ = TABLE[name]
    total = sum(int(np.prod(s)) for s in shapes)
    if total > 60 or name == "associative scan":
        pytest.skip("slow to compile: test_jacobian_everywhere.py has it, in every format")
    args = tuple(values(*s, seed=k) for k, s in enumerate(shapes))
    numbers = tuple(range(len(args)))
    same(
        jacobian(f, numbers, format="dense")(*args),
        by_jax(jax.jacobian, f, *args, argnums=numbers),
        1e-4,
    )


def test_a_piece_has_the_precision_of_its_block_whatever_the_default_is():
    with jax.enable_x64(True):
        x = values(8)
        for f in (heat, lambda x: (x[1:] - x[:-1]) ** 2, jnp.sin, jnp.sort):
            piece = jacobian(f, format="blocks")(x)
            assert piece.todense().dtype == piece.jvp(x).dtype == jnp.float32


def test_one_function_with_and_without_x64_and_with_numpy_argnums():
    def f(x):
        return jnp.sin(x) * jnp.arange(5) * 0.5

    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            for x in (jnp.ones(5), np.ones(5, np.float32)):
                same(jacobian(f, np.int64(0))(x).todense(), by_jax(jax.jacobian, f, x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_argument(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=9), dtype)
        for f in (heat, jax.nn.softmax, jnp.cumprod, jnp.sort):
            made = jacobian(f)(x)
            assert made.dtype == dtype
            tolerance = 1e-12 if dtype == np.float64 else 1e-5
            same(made.todense(), by_jax(jax.jacobian, f, x), tolerance)


# ---- custom rules


def test_a_rule_that_is_not_linear_is_applied_row_by_row_and_said_so():
    for f in (clipped_gradient, with_decay, sign_gradient):
        plan = jacobians.plan(f, values(4))
        assert plan.blocks[0].way == "VJPs"
        assert plan.blocks[0].nnz == 16
        assert any("not certainly linear" in note for note in plan.notes)
    assert jacobians.plan(lambda x: straight_through(x) * x, values(4)).blocks[0].nnz == 4


def test_a_rule_made_anew_is_not_mistaken_for_an_earlier_one():
    x = values(5)
    for factor in (1.0, 2.0, 3.0):

        @jax.custom_jvp
        def f(x):
            return jnp.round(x)

        f.defjvps(lambda t, y, x, factor=factor: factor * t)
        same(jacobian(f, format="dense")(x), factor * jnp.eye(5))

        def product(x, w, f=f):
            return x * f(w)

        # differentiated once more, the rule that carries no tangent in the first place matters
        def loss(w, jac, product=product):
            return (jac(product)(x, w) ** 2).sum()

        ours = jax.grad(lambda w: loss(w, lambda g: jacobian(g, format="dense")))(x)
        same(ours, jax.grad(lambda w: loss(w, jax.jacobian))(x))


def test_a_rule_may_close_over_a_tracer():
    x = values(4)

    def scaled(s, jac):
        @jax.custom_vjp
        def f(x):
            return jnp.sin(x)

        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (s * g,))
        return jac(f)(x)

    ours = jax.jit(lambda s: scaled(s, lambda f: jacobian(f, format="dense")))
    same(ours(jnp.float32(2.0)), 2 * jnp.eye(4))
    same(ours(jnp.float32(3.0)), 3 * jnp.eye(4))


# ---- what a function closes over


def test_a_closed_over_array_may_change_between_calls():
    mask = np.ones(6, np.float32)
    scale = [jnp.ones(6)]
    jac = jacobian(lambda x: mask * scale[0] * x**2)
    x = values(6)
    assert jac(x).nse == 6
    mask[2] = 0
    assert jac(x).nse == 5
    same(jac(x).todense(), jnp.diag(2 * mask * x))
    scale[0] = jnp.array([0.0, 1, 2, 3, 4, 5])
    same(jac(x).todense(), jnp.diag(2 * mask * scale[0] * x))


def test_a_mask_of_one_closure_is_not_used_for_another():
    def masked(mask):
        return lambda x: jnp.where(mask, x, 0.0)

    x = values(4)
    for bits in ([1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]):
        mask = jnp.array(bits, bool)
        made = jacobian(masked(mask))(x)
        assert made.nse == sum(bits)
        same(made.todense(), jnp.diag(mask.astype(jnp.float32)))


def test_a_closed_over_tracer_is_neither_known_nor_kept():
    x = values(5)

    def inner(s, jac):
        return jac(lambda x: s * x**2 + jnp.where(s > 0, x, 0))(x)

    def ours(s):
        return inner(s, lambda f: jacobian(f, format="dense"))

    def theirs(s):
        return inner(s, jax.jacobian)

    s = values(5, seed=3)
    with jax.checking_leaks():
        same(jax.jit(ours)(s), theirs(s))
    same(jax.jit(ours)(-s), theirs(-s))
    same(ours(s), theirs(s))
    same(jax.jacfwd(ours)(s), jax.jacfwd(theirs)(s))
    same(jax.grad(lambda s: (ours(s) ** 2).sum())(s), jax.grad(lambda s: (theirs(s) ** 2).sum())(s))
    same(jax.vmap(ours)(jnp.stack([s, -s])), jax.vmap(theirs)(jnp.stack([s, -s])))


def test_index_arguments_are_known_outside_jit_only():
    def gathered(x, i):
        return jnp.sin(x)[i]

    x, i = values(5), jnp.array([3, 0])
    assert jacobian(gathered)(x, i).nse == 2
    assert jax.jit(jacobian(gathered))(x, i).nse == 10
    same(jax.jit(jacobian(gathered))(x, i).todense(), jacobian(gathered)(x, i).todense())
    same(jacobian(gathered)(x, i[::-1]).todense(), by_jax(jax.jacobian, gathered, x, i[::-1]))


def test_a_point_known_inside_jit_leaves_no_tracer_behind():
    def f(x):
        return x[jnp.array([3, 0, 3])] ** 2

    jacobians.clear_cache()
    x = values(5)
    with jax.checking_leaks():
        inside = jax.jit(lambda y: y * jacobian(f)(x).todense())(2.0)
    same(inside, 2 * by_jax(jax.jacobian, f, x))
    same(jacobian(f)(x).todense(), by_jax(jax.jacobian, f, x))


def test_the_cache_is_used_and_bounded(monkeypatch):
    from jacobians import jacobian as _  # noqa: F401

    module = __import__("sys").modules["jacobians.sparse.cache"]
    jacobians.clear_cache()
    x = values(4)
    jac = jacobian(lambda x: jnp.tanh(x) * 2)
    jac(x)
    made = []
    monkeypatch.setattr(module, "prepare", lambda *a, **k: made.append(a))
    jac(x)
    jacobian(lambda x: jnp.tanh(x) * 2)(x)
    assert not made
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    for n in range(2, 8):
        jac(values(n))
    assert len(module._cache.entries) == 3


# ---- several results


def test_value_aux_and_keywords():
    def f(x, *, power):
        return x**power, {"sum": x.sum(), "step": 3}

    x = values(4)
    (value, aux), made = value_and_jacobian(f, has_aux=True)(x, power=2)
    same(value, x**2)
    assert aux["step"] == 3
    same(made.todense(), jnp.diag(2 * x))
    made, aux = jacobian(f, has_aux=True)(x, power=3)
    same(aux["sum"], x.sum())
    value, made = jax.jit(value_and_jacobian(heat))(values(9))
    same(value, heat(values(9)))


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_change_nothing(chunk):
    for f, x in ((recurrent, values(6, 3)), (lambda x: jnp.tanh(jnp.outer(x, x) @ x), values(7))):
        expected = by_jax(jax.jacobian, f, x)
        same(jacobian(f, format="dense", chunk_size=chunk)(x), expected)
        same(jax.jit(jacobian(f, chunk_size=chunk))(x).todense(), expected)


@pytest.mark.parametrize("name", ["arrow", "scan", "attention", "tangled", "sort"])
def test_colourings_of_sweeps_are_valid(name):
    f, args, argnums = CASES[name]
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    prepared = entry_for(bind_call(f, numbers, False, args, {}), None, False).prepared
    swept = [b for b in prepared.blocks if b.way in ("JVPs", "VJPs", "JVPs and VJPs")]
    assert prepared.sweeps
    for program in prepared.sweeps:
        sweep = program.sweep
        rows, columns = [], []
        for read in sweep.reads:
            block = swept[read.block]
            own = slice(None) if read.entries is None else read.entries
            ends = (block.pattern.rows[own], block.pattern.columns[own])
            places = (block.output, block.input)
            for found, place, end in zip((rows, columns), places, ends, strict=True):
                found.append(place * 1000 + end.astype(np.int64))
        rows, columns = np.concatenate(rows), np.concatenate(columns)
        lines, seeded = (columns, rows) if sweep.transposed else (rows, columns)
        colors = np.full(10_000, -1)
        for k, own in enumerate(sweep.seeds):
            colors[1000 * k : 1000 * k + len(own)] = own
        assert is_valid_coloring(lines, seeded, colors)


# ---- Hessians


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def hub(x):
    return jnp.sum(jnp.sin(x[0] * x[1:])) + jnp.prod(x[1:4]) + jnp.sum(jnp.cumprod(x[:2]))


def scaled_walk(p):
    steps = jnp.diff(p["path"]) ** 2
    return -jnp.sum(steps) * jnp.exp(-p["scale"]) - jnp.sum(jnp.log1p(p["path"] ** 2))


@pytest.mark.parametrize("f", [rosenbrock, hub, lambda x: jnp.sum(jnp.logaddexp(0, W @ x))])
def test_hessians(f):
    x = values(6) if f not in (rosenbrock, hub) else values(12)
    expected = by_jax(jax.hessian, f, x)
    same(hessian(f)(x).todense(), expected, 1e-4)
    same(jax.jit(hessian(f, format="dense"))(x), expected, 1e-4)


def test_hessians_of_pytrees_and_several_arguments():
    p = {"path": values(8), "scale": jnp.float32(0.3)}
    same(hessian(scaled_walk, format="dense")(p), by_jax(jax.hessian, scaled_walk, p), 1e-4)

    def g(x, y):
        return jnp.sum(jnp.sort(x * y[0]) ** 2) + jnp.sum(y**3)

    args = values(4), values(3, seed=1)
    same(hessian(g, (0, 1), "dense")(*args), by_jax(jax.hessian, g, *args, argnums=(0, 1)), 1e-4)


def test_hessians_read_mirrored_entries():
    def f(x):
        # opaque in the loop, so that it has to be swept
        path = jax.lax.scan(lambda c, v: (v, jnp.sin(c * v)), jnp.float32(1.0), x)[1]
        return jnp.sum(path) * 1.0 + jnp.sum(x) ** 2 * 0

    x = values(20)
    same(hessian(f, format="dense")(x), by_jax(jax.hessian, f, x), 1e-4)


def unsymmetric_rule(kind):
    def back(x, c):
        w = jax.lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) + v, x)
        first = (c[0] + 2 * jnp.sum(w[1:] * c[1:]))[None]
        return jnp.concatenate([first, c[1:] + c[0] * w[1:]])

    if kind == "custom_vjp":
        rule = jax.custom_vjp(lambda x: x * 1.0)
        rule.defvjp(lambda x: (x * 1.0, x), lambda x, c: (back(x, c),))
    else:
        rule = jax.custom_jvp(lambda x: x * 1.0)
        rule.defjvp(lambda x, t: (x[0] * 1.0, back(x[0], t[0])))
    return lambda x: jnp.sum(jax.nn.silu(rule(x)) ** 3)


@pytest.mark.parametrize("kind", ["custom_vjp", "custom_jvp"])
def test_a_rule_that_the_gradient_has_used_up_makes_no_hessian_symmetric(kind):
    f, x = unsymmetric_rule(kind), values(30, seed=1)
    expected = by_jax(jax.hessian, f, x)
    assert np.abs(expected - expected.T).max() > 1
    np.testing.assert_allclose(hessian(f, format="dense")(x), expected, rtol=1e-4, atol=1e-4)
    under_jit = jax.jit(hessian(f, format="dense"))(x)
    np.testing.assert_allclose(under_jit, expected, rtol=1e-4, atol=1e-4)
    assert "the Hessian may be unsymmetric" in str(jacobians.plan(f, x, of="hessian"))
    by_branch = lambda x: f(x) if x[0] > -9 else f(-x)  # noqa: E731
    np.testing.assert_allclose(
        hessian(by_branch, format="dense")(x), expected, rtol=1e-4, atol=1e-4
    )


def test_rules_of_jax_itself_leave_a_hessian_symmetric():
    f = lambda x: jnp.sum(jax.nn.silu(x[1:] * x[:-1]) + jax.nn.softplus(x[1:]))  # noqa: E731
    plain = jacobians.plan(f, values(40), of="hessian")
    assert plain.symmetric
    assert not plain.notes
    x = values(40)
    np.testing.assert_allclose(
        hessian(f, format="dense")(x), by_jax(jax.hessian, f, x), rtol=1e-4, atol=1e-5
    )


def test_a_rule_that_breaks_symmetry_is_not_taken_for_symmetric():
    @jax.custom_vjp
    def odd(x, y):
        return x * y

    odd.defvjp(lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1] ** 2, g * r[0]))

    def f(z):
        return odd(z[0], z[1])

    z = values(2)
    expected = by_jax(jax.hessian, f, z)
    assert not np.allclose(expected, expected.T)
    same(hessian(f, format="dense")(z), expected)


# ---- bad input


def by_branch(x):
    return jnp.sin(x) * x[1] if x[0] > 0 else jnp.roll(x, 1) ** 2


def halved_until_small(x):
    while jnp.abs(x).max() > 0.1:
        x = x * jnp.roll(x, 1) * 0.5
    return x


def only_positive(x):
    return x[x > 0] ** 2


@pytest.mark.parametrize("f", [by_branch, halved_until_small, only_positive])
def test_outside_jit_a_function_may_look_at_its_arguments(f):
    for seed in (2, 3):
        x = values(5, seed=seed)
        expected = by_jax(jax.jacobian, f, x)
        for format in ("dense", "bcoo", "operator"):
            value, found = value_and_jacobian(f, format=format)(x)
            if format == "operator":
                found = jax.vmap(found.jvp, out_axes=-1)(jnp.eye(5))
            elif format == "bcoo":
                found = found.todense()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(value, f(x), rtol=1e-6)
    assert "looks at the values of its arguments" in str(jacobians.plan(f, x))
    energy = lambda x: jnp.sum(x**3) * x[0] if x[1] < 0 else jnp.sum(x**2)  # noqa: E731
    np.testing.assert_allclose(
        hessian(energy, format="dense")(x), by_jax(jax.hessian, energy, x), rtol=1e-5, atol=1e-6
    )


TAILS, HEADS = np.random.default_rng(5).integers(0, 12, (2, 90))


def pulled_together(x):
    """Every entry of the diagonal is the sum of a dozen edges, and of a constant."""
    flow = jnp.tanh(x[HEADS] - x[TAILS])
    return (3 * x).at[TAILS].add(flow).at[HEADS].add(-flow)


def mixed_with_constants(x):
    """Entries that inputs change beside constant ones, and both on one entry."""
    return x[1:] * x[:-1] + 2 * x[1:] - 5 * jnp.roll(x, 2)[1:] + jnp.roll(x, 3)[1:]


@pytest.mark.parametrize("f", [pulled_together, mixed_with_constants], ids=lambda f: f.__name__)
def test_closed_forms_sum_what_falls_on_one_entry(f):
    x = values(12, seed=2)
    assert jacobians.plan(f, x).blocks[0].way == "closed form"
    for format in ("dense", "blocks"):
        found = jax.jit(jacobian(f, format=format))(x)
        found = found.todense() if format == "blocks" else found
        np.testing.assert_allclose(found, by_jax(jax.jacfwd, f, x), rtol=1e-5, atol=1e-5)
    by_scipy = jacobian(f, format="scipy")(x).toarray()
    np.testing.assert_allclose(by_scipy, by_jax(jax.jacfwd, f, x), rtol=1e-5, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["edges", "energy", "stencil", "branch"]))
def test_drawn_programs_have_the_numbers_of_jax(seed, kind):
    """Index tables, constants, sizes and branches that nobody has chosen."""
    draw = np.random.default_rng(seed)
    n, count = (int(k) for k in draw.integers((4, 1), (14, 60)))
    tails, heads, thirds = draw.integers(0, n, (3, count))
    weights = draw.normal(size=count).astype(np.float32) * draw.integers(0, 2, count)
    shifts, scales = draw.integers(-n, n, 4), draw.normal(size=4).astype(np.float32)

    def edges(x):
        flow = jnp.tanh(x[heads] - weights * x[tails]) + weights * x[thirds]
        return (scales[0] * x).at[tails].add(flow).at[heads].add(-flow * x[thirds])

    def energy(x):
        pull = jnp.sum(weights * jnp.tanh(x[heads] * x[tails]) + x[thirds] ** 2 * x[heads])
        return pull + jnp.sum(jax.nn.softplus(x))

    def stencil(x):
        moved = [a * jnp.roll(x, k) for a, k in zip(scales, shifts, strict=True)]
        return jax.jit(sum)(moved) + jnp.roll(x, int(shifts[1])) * x - 3 * jnp.roll(x, 1)

    def branch(x):
        return edges(x) if x[0] > x[1] else stencil(x)[::2]

    x = jnp.asarray(draw.normal(size=n), jnp.float32)
    f = {"edges": edges, "energy": jax.grad(energy), "stencil": stencil, "branch": branch}[kind]
    ours = hessian(energy, format="dense") if kind == "energy" else jacobian(f, format="dense")
    expected = np.asarray(by_jax(jax.jacfwd, f, x))
    tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(ours(x), expected, atol=tolerance)
    of = "hessian" if kind == "energy" else "jacobian"
    found = jacobians.plan(energy if kind == "energy" else f, x, of=of)
    (block,) = found.blocks
    listed = jacobian(f)(x) if kind != "energy" else hessian(energy)(x)
    assert block.nnz == listed.nse
    # the other way, where a closed form is chosen
    plain = bind_call(f, (0,), False, (x,), {})
    swept = prepare(plain.plain, closed=False, symmetric=kind == "energy")
    for sweep in swept.sweeps:
        assert sweep.sweep.coloring.lower_bound <= sweep.sweep.coloring.count
    (data,) = jax.jit(swept.evaluate, static_argnums=2)(plain.runtime, swept.tables, False)[1]
    pattern = swept.blocks[0].pattern
    dense = np.zeros(expected.shape, np.float32)
    dense[pattern.rows, pattern.columns] = data
    np.testing.assert_allclose(dense, expected, atol=tolerance)


def test_a_flat_grid_of_species_is_coloured_as_a_grid():
    def reaction(y):
        u, v = y.reshape(2, 8, 8)

        def around(w):
            return jnp.roll(w, 1, 0) + jnp.roll(w, -1, 0) + jnp.roll(w, 1, 1) + jnp.roll(w, -1, 1)

        return jnp.tanh(jnp.stack([around(u) + u * v, around(v) - u * v])).reshape(-1)

    plain = bind_call(reaction, (0,), False, (values(128),), {}).plain
    (swept,) = prepare(plain, closed=False).sweeps
    assert (swept.sweep.coloring.count, swept.sweep.coloring.method) == (8, "lattice")


def test_blocks_are_coloured_alike_so_that_nothing_has_to_be_looked_up():
    def normalised(x):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True))

    plain = bind_call(normalised, (0,), False, (values(4, 3),), {}).plain
    (swept,) = prepare(plain, closed=False).sweeps
    assert swept.kinds == ("transposed",)


def test_a_called_function_is_differentiated_like_its_operations():
    inner = jax.jit(lambda x: jnp.sin(x) * x)
    f = jax.jit(lambda x: inner(x) + jnp.roll(inner(2 * x), 1))
    x = values(6)
    np.testing.assert_allclose(jacobian(f, format="dense")(x), by_jax(jax.jacfwd, f, x), rtol=1e-6)


def test_at_a_point_a_rule_that_jax_cannot_take_backwards_is_refused_and_jaxs_own_are_not():
    @jax.custom_jvp
    def absolute(x):
        return 1.0 * x

    absolute.defjvp(lambda p, t: (absolute(*p), jnp.abs(t[0]) * p[0]))
    x = values(3)
    with pytest.raises(ArgumentError, match="derivative there is not certainly linear"):
        jacobian(lambda x: absolute(x) if x[0] > -9 else x)(x)

    def many(x):
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (1,), "VALID")
        scaled = jax.nn.relu(jnp.cumprod(x)).at[0].multiply(x[1], unique_indices=True)
        return scaled[1:] * pooled + scaled[0] if x[0] > -9 else x

    found = jacobian(many, format="dense")(x)
    np.testing.assert_allclose(found, by_jax(jax.jacobian, many, x), rtol=1e-5, atol=1e-6)


def by_value(rule):
    """A rule, a loop or a branch behind a look at the argument's values."""
    return {
        "clipped": lambda x: clipped_gradient(x) * x if x[0] > -9 else x,
        "linear rule": lambda x: (straight_through(x) * x[::-1], x.sum()) if x[0] > -9 else x,
        "decay": lambda x: {"y": with_decay(x[x > -9])[::2], "n": x[1] ** 2},
    }[rule]


@pytest.mark.parametrize("rule", ["clipped", "linear rule", "decay"])
def test_what_looks_at_values_is_done_row_by_row_where_its_rule_is_not_linear(rule):
    f, x = by_value(rule), values(4)
    expected = by_jax(jax.jacobian, f, x)
    same(jacobian(f, format="dense")(x), expected)
    value, found = value_and_jacobian(f)(x)
    same(densified(found), expected)
    same(jax.tree.map(jnp.asarray, value), jax.tree.map(jnp.asarray, f(x)))
    (note,) = [n for n in jacobians.plan(f, x).notes if "jax.jacrev" in n]
    assert "for these values" in note


def test_what_looks_at_values_may_be_differentiated_once_more_as_jax_does():
    f = lambda x: x**3 * clipped_gradient(x)[::-1] if x[0] > -9 else x  # noqa: E731
    x = values(3)
    total = lambda jac: jax.grad(lambda x: jnp.sum(jnp.sin(jac(x))))(x)  # noqa: E731
    same(total(jacobian(f, format="dense")), total(jax.jacobian(f)), 1e-4)


def test_an_index_table_of_any_size_keeps_the_jacobian_sparse():
    table = np.random.default_rng(0).integers(0, 50_000, (50_000, 3))
    x = values(50_000)
    gathered = jacobians.plan(lambda x: jnp.tanh(x[table]).sum(1), x)
    assert 140_000 < gathered.blocks[0].nnz <= 150_000
    scattered = jacobians.plan(lambda x: jnp.zeros(50_000).at[table[:, 0]].add(x * x), x)
    assert scattered.blocks[0].nnz == 50_000


def test_of_large_arguments_too_values_may_be_looked_at():
    from jacobians.derive.tape import MAX_KNOWN

    x = jnp.ones(MAX_KNOWN + 1)
    found = jacobian(lambda x: x**2 if x[0] > 0 else x)(x)
    assert found.nse == len(x)
    np.testing.assert_array_equal(found.data, 2 * x)


def several(x, y):
    return jnp.tanh(x) * y[0], {"a": jnp.outer(x, y), "b": jnp.sum(x)}


@pytest.fixture
def nothing_kept():
    """No analysis from before, nor one that is left behind."""
    jacobians.clear_cache()
    yield
    jacobians.clear_cache()


@pytest.fixture
def failing_derivation(monkeypatch, nothing_kept):
    """A derivation that raises what it is told to."""

    def fail_with(fault):
        def raising(*_):
            raise fault

        monkeypatch.setattr(sys.modules["jacobians.sparse.prepare"], "derive_linear", raising)

    return fail_with


def test_a_derivation_out_of_memory_is_no_refusal(failing_derivation):
    failing_derivation(MemoryError())
    with pytest.warns(RuntimeWarning, match=r"no structure could be derived .MemoryError"):
        same(jacobian(jnp.sin, format="dense")(values(3)), jnp.diag(jnp.cos(values(3))))


def test_where_no_structure_can_be_derived_every_entry_is_computed_and_said_so(failing_derivation):
    failing_derivation(IndexError("planted"))
    x, y = values(4), values(2)
    expected = by_jax(jax.jacobian, several, x, y, argnums=(0, 1))
    with pytest.warns(RuntimeWarning, match=r"no structure could be derived .IndexError"):
        same(jacobian(several, (0, 1), format="dense")(x, y), expected)
    with pytest.warns(RuntimeWarning):
        same(jacobian(several, (0, 1), format="dense", chunk_size=3)(x, y), expected)
    found = jacobians.plan(several, x, y, argnums=(0, 1))
    assert all(block.nnz == block.shape[0] * block.shape[1] for block in found.blocks)
    assert any("no structure could be derived" in note for note in found.notes)
    same(densified(jax.jit(jacobian(several, (0, 1), format="blocks"))(x, y)), expected)


def test_a_rule_for_vjps_alone_inside_what_has_no_jvp_is_taken_backwards():
    # a JVP of the callback is refused by JAX; its VJP is a rule
    @jax.custom_vjp
    def called(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    called.defvjp(lambda x: (called(x), x), lambda x, g: (g * jnp.cos(x),))
    x = values(4)
    same(
        jacobian(lambda x: called(x) * x, format="dense")(x),
        jax.jacobian(lambda x: called(x) * x)(x),
    )


def test_what_has_no_vjp_is_computed_by_jvps_and_said_so():
    @jax.custom_jvp
    def doubled(x):
        return 2 * x

    @doubled.defjvp
    def _(primals, tangents):
        # a loop that JAX cannot take backwards
        steps = jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] + tangents[0]), (0, 0 * tangents[0])
        )
        return doubled(*primals), steps[1]

    f, x = lambda x: jnp.sum(jnp.sin(doubled(x)) * x), values(4)
    found = jacobians.plan(f, x)
    assert found.blocks[0].way == "JVPs"
    assert any("JVPs alone are used, since JAX has no VJP of it (" in n for n in found.notes)
    same(jacobian(f, format="dense")(x), jax.jacfwd(f)(x))


def test_entries_that_take_too_long_to_list_are_all_computed(monkeypatch, nothing_kept):
    prepared = __import__("sys").modules["jacobians.sparse.prepare"]
    real = prepared.block_pattern

    def unlisted(terms, out_shape, in_shape):
        if any(t.zeros or t.bounds or t.guards for t in terms):
            raise ArgumentError("about 1e+12 entries")
        return real(terms, out_shape, in_shape)

    def f(x):
        return jnp.sin(jnp.cumsum(jnp.sort(x))), jnp.sort(x)

    x = values(6)
    expected = by_jax(jax.jacobian, f, x)
    monkeypatch.setattr(prepared, "block_pattern", unlisted)
    same(jacobian(f, format="dense")(x), expected)
    found = jacobians.plan(lambda x: jnp.cumsum(jnp.sort(x)) * x, x)
    assert found.blocks[0].nnz == 36


@pytest.mark.parametrize(("calls", "by_linearize"), [(2, False), (8, True)])
def test_a_long_program_is_differentiated_operation_by_operation_unless_it_repeats_a_call(
    calls, by_linearize, monkeypatch
):
    linear, real, asked = sys.modules["jacobians.sparse.linear"], jax.linearize, []
    step = jax.jit(lambda x: jnp.sin(jnp.cos(jnp.exp(jnp.tanh(-x)))) * 0.5)

    def f(x):
        for _ in range(calls):
            x = step(x)
        return x * x[::-1]

    def linearize(*arguments, **options):
        asked.append(arguments)
        return real(*arguments, **options)

    x = values(4)
    expected = jax.jacfwd(f)(x)
    monkeypatch.setattr(linear, "MAX_FLAT", 0)
    monkeypatch.setattr(jax, "linearize", linearize)
    same(jacobian(f, format="dense")(x), expected)
    assert bool(asked) == by_linearize


def test_more_than_256_colours_give_the_numbers_of_jax():
    table = np.random.default_rng(0).integers(0, 600, (280, 270))
    f, x = lambda x: jnp.sin(x[table]).sum(1), values(600)
    bound = bind_call(f, (0,), False, (x,), {})
    prepared = prepare(bound.plain, closed=False)
    assert prepared.sweeps[0].sweep.coloring.count > 256
    (data,) = jax.jit(prepared.evaluate, static_argnums=2)(bound.runtime, prepared.tables, False)[1]
    pattern = prepared.blocks[0].pattern
    dense = np.zeros(pattern.shape, np.float32)
    dense[pattern.rows, pattern.columns] = data
    np.testing.assert_allclose(dense, by_jax(jax.jacobian, f, x), rtol=1e-4, atol=1e-5)


def test_argnums_may_be_anything_that_counts_as_an_integer():
    x = values(3)
    for argnums in (np.int64(1), np.array(1), -1):
        same(jacobian(jnp.multiply, argnums, format="dense")(x, 2 * x), jnp.diag(x))
    for argnums in ([0, np.int32(1)], np.array([0, 1])):
        found = jacobian(jnp.multiply, argnums, format="dense")(x, 2 * x)
        same(found, (jnp.diag(2 * x), jnp.diag(x)))


def test_at_a_point_a_result_may_be_a_python_number():
    f = lambda x: (x**2, 3.0) if x[0] > -9 else (x, 0.0)  # noqa: E731
    (_, number), (found, zero) = value_and_jacobian(f, format="dense")(values(3))
    np.testing.assert_allclose(found, np.diag(2 * values(3)), rtol=1e-6)
    assert number == 3.0
    np.testing.assert_array_equal(zero, np.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_factors_whose_product_leaves_the_range_do_not_spoil_an_entry(dtype, sign):
    size = 2e3 if dtype == jnp.float16 else 1e25
    small = jnp.full(3, size**-sign, dtype)
    f = lambda x: (((x * small) * size**sign) * small) * size**sign  # noqa: E731
    x = jnp.ones(3, dtype)
    for g in (f, lambda x: f(x) * jnp.sin(x)):
        found = jacobian(g, format="dense")(x)
        np.testing.assert_allclose(found, jax.jacfwd(g)(x), rtol=1e-2)
    by_argument = jacobian(lambda x, a: (((x * a) * size**sign) * a) * size**sign, format="dense")
    np.testing.assert_allclose(by_argument(x, small), np.eye(3), rtol=1e-2)


def test_an_infinite_entry_of_a_band_spoils_no_other():
    f = lambda x: jnp.sqrt(x) + jnp.roll(x, 1)  # noqa: E731
    x = jnp.array([0.0, 1.0, 2.0])
    found = jacobian(f, format="blocks")(x)
    assert type(found).__name__ == "Banded"
    np.testing.assert_allclose(found.todense(), jacobian(f, format="dense")(x))


@pytest.mark.filterwarnings("error")
def test_constants_may_be_infinite_without_a_warning():
    large = np.array([1e38, np.inf, 1], np.float32)
    found = jacobian(lambda x: x * large * large - x, format="dense")(values(3))
    np.testing.assert_array_equal(np.diag(found), [np.inf, np.inf, 0])


@pytest.mark.parametrize("format", ["bcoo", "dense", "scipy", "blocks"])
def test_callers_who_allow_no_promotion_get_their_jacobian(format):
    f = lambda x: jax.nn.relu(x) * jnp.roll(x, 1)  # noqa: E731
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jacobian(f, format=format)(values(7))
        if format == "bcoo":
            # large enough for its indices to be computed rather than copied
            jacobian(jax.nn.relu)(jnp.ones(formats.MAX_CONSTANT + 1))


BAD = [
    (lambda: jacobian(heat, format="csv"), "'csv' is unknown; the formats are 'bcoo'"),
    (lambda: jacobian(3), "expected a function, got 3"),
    (lambda: jacobian(heat, argnums="x"), "argnums must be"),
    (lambda: jacobian(heat, argnums=1.0), "sequence of integers, got 1.0"),
    (lambda: jacobian(heat)(jax.ShapeDtypeStruct((5,), jnp.float32)), "has no values to take"),
    (lambda: jacobian(heat, chunk_size=0), "chunk_size must be a positive integer"),
    (lambda: jacobian(heat, argnums=2)(values(3)), "argnums=2 names no argument"),
    (lambda: jacobian(jnp.multiply, (0, -2))(values(3), values(3)), "names an argument twice"),
    (lambda: jacobian(jnp.sin)(jnp.arange(3)), "x is i32[3], which has no derivative"),
    (lambda: jacobian(jnp.sin)(3), "is of Python type int"),
    (lambda: jacobian(jnp.sin)(jnp.ones(3) * 1j), "is complex (c64[3]); pass its real"),
    (lambda: jacobian(lambda x: x * 1j)(values(3)), "output out is complex"),
    (lambda: jacobian(lambda x: None)(values(3)), "returns no array"),
    (lambda: jacobian(lambda x: (x, "mean"))(values(3)), "returns 'mean' of type str"),
    (lambda: jacobian(jnp.argmax)(values(3)), "has_aux=True"),
    (lambda: jacobian(lambda x: x, has_aux=True)(values(3)), "has to return a pair"),
    (lambda: jax.jit(jacobian(lambda x: x[x > 0]))(values(3)),
     "looks at the values of its arguments"),
    (lambda: jax.jit(jacobian(lambda x: x if x[0] > 0 else -x))(values(3)), "use jax.lax.cond"),
    (lambda: jax.jit(jacobian(lambda x: clipped_gradient(x) if x[0] > 0 else -x))(values(3)),
     "use jax.lax.cond"),
    (lambda: jacobian(jnp.multiply, (0, 1.5)), "sequence of integers, got (0, 1.5)"),
    (lambda: jacobian(jnp.sin, True), "sequence of integers, got True"),
    (lambda: jacobian(lambda x: np.sin(np.asarray(x)))(values(3)), "a NumPy call"),
    (lambda: hessian(heat)(values(5)), "a Hessian is of a scalar, but heat returns f32[5]"),
    (lambda: jax.jit(jacobian(heat, format="scipy"))(values(5)), 'use format="bcoo"'),
    (lambda: jacobian(lambda x: jnp.outer(jnp.sort(x), jnp.ones(2)))(jnp.ones(10**5)),
     'use format="operator"'),
]  # fmt: skip


@pytest.mark.parametrize("looks", [False, True])
def test_an_aux_may_hold_anything(looks):
    def f(x):
        scaled = x**2 if not looks or x[0] < 9 else x
        return scaled, {"name": "square", "count": 3, "half": x / 2, "none": None}

    x = values(3)
    found, aux = jacobian(f, format="dense", has_aux=True)(x)
    np.testing.assert_allclose(found, jnp.diag(2 * x), rtol=1e-6)
    assert (aux["name"], aux["count"], aux["none"]) == ("square", 3, None)
    np.testing.assert_allclose(aux["half"], x / 2)


@pytest.mark.parametrize(("call", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert message in str(caught.value)


def test_what_the_function_raises_is_its_own():
    with pytest.raises(TypeError, match="incompatible shapes"):
        jacobian(lambda x: x + jnp.ones(4))(values(3))


def test_eight_threads_share_the_analyses_and_keep_their_own_names():
    fs = [
        lambda x: jnp.sum(jnp.tanh(x) * jnp.roll(x, 1)),
        lambda y: jnp.sum(jnp.tanh(y) * jnp.roll(y, 1)),
        lambda z: jnp.sum(jnp.tanh(z) * jnp.roll(z, 1)),
    ]
    point = jnp.linspace(-1.0, 1.0, 6)

    def work(number):
        found = []
        for k in range(number, number + 3):
            f = fs[k % 3]
            texts = str(jacobians.plan(f, point)), str(jacobians.plan(f, point, of="hessian"))
            found.append((k % 3, texts, np.asarray(hessian(f, format="dense")(point))))
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = [one for many in pool.map(work, range(8)) for one in many]
    finally:
        sys.setswitchinterval(interval)
    expected = np.asarray(by_jax(jax.hessian, fs[0], point))
    for k, name in enumerate("xyz"):
        mine = [(texts, matrix) for number, texts, matrix in found if number == k]
        assert len({texts for texts, _ in mine}) == 1
        assert f"q = tanh({name})" in mine[0][0][0]
        for _, matrix in mine:
            np.testing.assert_allclose(matrix, expected, atol=1e-6)
