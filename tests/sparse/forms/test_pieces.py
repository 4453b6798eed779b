"""Structured pieces, operators, their export, and what plan prints."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobians
from jacobians import ArgumentError, jacobian, plan
from jacobians.sparse.forms import pieces
from tests.explicit import by_jax
from tests.sparse.test_jacobian import (
    arrow,
    clipped_gradient,
    heat,
    looped,
    mlp,
    recurrent,
    rosenbrock,
    values,
)

W = values(5, 6, seed=9)


def norm_squared(W, x):
    return jnp.sum((W @ x) ** 2)


KINDS = {
    "diagonal": (jax.nn.relu, (values(6),), 0, "Diagonal"),
    "part of a diagonal": (
        lambda x: jnp.where(np.arange(4) > 1, x * x, 0), (values(4),), 0, "Diagonal",
    ),
    "block-diagonal": (jax.nn.softmax, (values(3, 4),), 0, "BlockDiagonal"),
    "gradient as an outer product": (norm_squared, (values(3, 4), values(4)), 0, "Outer"),
    "outer product": (lambda x, y: jnp.outer(x, y) @ y, (values(3), values(4)), 1, "Dense"),
    "rank one": (lambda x: jnp.sin(W[:, 0]) * jnp.dot(W[0], x) ** 1, (values(6),), 0, "Outer"),
    "banded": (heat, (values(9),), 0, "Banded"),
    "rectangular band": (lambda x: x[1:] * x[:-1], (values(9),), 0, "Banded"),
    "dense": (lambda x: jnp.tanh(W @ jnp.tanh(x)), (values(6),), 0, "Dense"),
    "sparse": (arrow, (values(30),), 0, "Sparse"),
    "zero": (lambda x: jnp.ones(3), (values(4),), 0, "Zero"),
}  # fmt: skip


@jax.jit
def together(piece, tangent, cotangent):
    """A piece in full and its products both ways, compiled together."""
    return piece.todense(), piece.jvp(tangent), piece.vjp(cotangent)


@pytest.mark.parametrize("name", KINDS)
def test_pieces_multiply_like_the_matrix(name):
    f, args, argnums, kind = KINDS[name]
    piece = jax.jit(jacobian(f, argnums, format="blocks"))(*args)
    assert type(piece).__name__ == kind
    tensor = np.asarray(by_jax(jax.jacobian, f, *args, argnums=argnums))
    matrix = tensor.reshape(piece.shape)
    tangent, cotangent = values(*piece.in_shape, seed=4), values(*piece.out_shape, seed=5)
    close = {"rtol": 1e-4, "atol": 1e-5}
    in_full, pushed, pulled = together(piece, tangent, cotangent)
    np.testing.assert_allclose(in_full, tensor, **close)
    np.testing.assert_allclose(
        pushed, (matrix @ np.ravel(tangent)).reshape(piece.out_shape), **close
    )
    np.testing.assert_allclose(
        pulled, (np.ravel(cotangent) @ matrix).reshape(piece.in_shape), **close
    )
    np.testing.assert_allclose(piece @ tangent, pushed, **close)
    np.testing.assert_allclose(piece @ jnp.ravel(tangent), np.ravel(pushed), **close)
    columns = values(piece.shape[1], 2, seed=6)
    np.testing.assert_allclose(piece @ columns, matrix @ np.asarray(columns), **close)


def equations_and_largest(product, vector):
    """How many equations a product traces, and how many values the largest computes."""
    inner = jax.make_jaxpr(product)(vector).jaxpr
    return len(inner.eqns), max(v.aval.size for e in inner.eqns for v in e.outvars)


@pytest.mark.parametrize(("m", "n", "below", "above", "kind"), [
    (60, 60, 57, 40, "Dense"), (80, 80, 3, 30, "Banded"), (60, 50, 1, 20, "Banded"),
    (50, 90, 20, 3, "Banded"),
])  # fmt: skip
def test_products_with_a_band_trace_as_many_equations_whatever_its_width(m, n, below, above, kind):
    band = np.tril(np.triu(np.ones((m, n), bool), -below), above)
    weights = np.where(band, np.random.default_rng(m).normal(size=(m, n)), 0).astype(np.float32)
    x, y = values(n), values(m, seed=2)
    piece = jacobian(lambda x: jnp.where(band, jnp.sin(x) * weights, 0).sum(1), format="blocks")(x)
    assert type(piece).__name__ == kind
    matrix = weights * np.cos(x)
    in_full, pushed, pulled = together(piece, x, y)
    np.testing.assert_allclose(in_full, matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pushed, matrix @ x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pulled, y @ matrix, rtol=1e-4, atol=1e-5)
    assert equations_and_largest(piece.jvp, x)[0] <= 20
    assert equations_and_largest(piece.vjp, y)[0] <= 20


def test_a_nearly_full_matrix_is_held_dense():
    kept = np.random.default_rng(0).uniform(size=(30, 40)) < 0.9
    piece = jacobian(lambda x: jnp.where(kept, jnp.sin(x), 0).sum(1), format="blocks")(values(40))
    assert type(piece).__name__ == "Dense"
    np.testing.assert_allclose(piece.todense(), kept * np.cos(values(40)), rtol=1e-5)


@pytest.mark.parametrize(("out", "inp", "cut"), [
    ((50,), (20, 30), 2), ((2, 3), (40, 5), 1), ((4, 30), (20,), 1), ((), (30, 40), 1),
    ((5,), (6, 7, 8), 3), ((6, 7, 3), (20,), 2), ((30,), (40,), 1),
])  # fmt: skip
def test_products_with_an_outer_product_never_build_it(out, inp, cut):
    shape = out + inp
    left, right = values(*shape[:cut], seed=1), values(*shape[cut:], seed=2)
    piece = pieces.Outer(left, right, out, inp)
    tensor = np.multiply.outer(np.asarray(left), np.asarray(right))
    x, y = values(*inp, seed=3), values(*out, seed=4)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(piece.jvp(x), np.tensordot(tensor, x, len(inp)), **close)
    np.testing.assert_allclose(piece.vjp(y), np.tensordot(y, tensor, len(out)), **close)
    # nothing larger than the factors and the vectors themselves
    largest = max(left.size, right.size, x.size, y.size)
    assert equations_and_largest(piece.jvp, x)[1] <= largest
    assert equations_and_largest(piece.vjp, y)[1] <= largest


def test_the_pieces_hold_what_they_say():
    X = values(3, 4)
    assert jacobian(jax.nn.relu, format="blocks")(X).values.shape == (12,)
    assert jacobian(jax.nn.softmax, format="blocks")(X).blocks.shape == (3, 4, 4)
    outer = jacobian(norm_squared, format="blocks")(X, values(4))
    np.testing.assert_allclose(outer.left, 2 * X @ values(4), rtol=1e-5)
    np.testing.assert_allclose(outer.right, values(4))
    band = jacobian(heat, format="blocks")(values(9))
    assert band.diagonals.shape == (3, 9)
    assert (band.lower, band.upper) == (1, 1)


@pytest.mark.parametrize(
    ("f", "args", "argnums"),
    [
        (heat, (values(9),), 0),
        (mlp, (values(6, 7), values(7, 3), values(4, 6)), (0, 2)),
        (lambda d: {"y": d["a"] * d["b"], "z": d["a"].sum()}, (dict.fromkeys("ab", values(3)),), 0),
    ],
)  # fmt: skip
def test_an_operator_multiplies_without_a_matrix(f, args, argnums):
    operator = jacobian(f, argnums, format="operator")(*args)
    jitted = jax.jit(jacobian(f, argnums, format="operator"))(*args)
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    chosen = [args[k] for k in numbers]
    tangents = jax.tree.map(lambda x: jnp.cos(x), chosen)

    def of_chosen(*given):
        everything = list(args)
        for k, x in zip(numbers, given, strict=True):
            everything[k] = x
        return f(*everything)

    value, pushed = jax.jvp(of_chosen, chosen, tangents)
    argument = tangents[0] if isinstance(argnums, int) else tuple(tangents)
    for a, b in zip(jax.tree.leaves(operator.jvp(argument)), jax.tree.leaves(pushed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    cotangent = jax.tree.map(jnp.sin, value)
    pulled = jax.vjp(of_chosen, *chosen)[1](cotangent)
    got = jax.tree.leaves(jitted.vjp(cotangent))
    for a, b in zip(got, jax.tree.leaves(pulled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    flat = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(argument)])
    expected = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(pushed)])
    np.testing.assert_allclose(operator @ flat, expected, rtol=1e-5, atol=1e-6)
    assert (operator @ flat[:, None]).shape == (operator.shape[0], 1)


def test_an_operator_needs_no_pattern():
    x = jnp.ones(3000)
    operator = jacobian(lambda x: jnp.sort(jnp.outer(x, x)[:, :40], axis=None), format="operator")(
        x
    )
    assert operator.shape == (120_000, 3000)
    assert operator.jvp(x).shape == (120_000,)


def test_products_of_the_wrong_shape_are_refused():
    piece = jacobian(heat, format="blocks")(values(9))
    operator = jacobian(heat, format="operator")(values(9))
    for call, message in (
        (lambda: piece.jvp(values(8)), "the tangent has shape (8,), expected (9,)"),
        (lambda: piece.vjp(values(8)), "the cotangent has shape (8,), expected (9,)"),
        (lambda: piece @ values(8), "cannot multiply a 9×9 Jacobian"),
        (lambda: operator @ values(8), "cannot multiply a 9×9 Jacobian"),
        (lambda: operator.jvp(values(8)), "the tangent has shape (8,); expected (9,)"),
        (lambda: operator.jvp({"x": values(9)}), "the tangent is of structure"),
        (lambda: operator.jvp(1j * values(9)), "the tangent is complex"),
        (lambda: operator.vjp(1j * values(9)), "the cotangent is complex"),
        (lambda: operator @ (1j * values(9, 2)), "the array is complex"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert message in str(caught.value)


def test_a_batch_of_pieces_is_refused_outside_a_mapped_function():
    batch = values(3, 2, 4)
    pieces = jax.vmap(jacobian(jax.nn.softmax, format="blocks"))(batch)
    for call in (
        lambda: pieces.jvp(batch[0]),
        lambda: pieces.vjp(batch[0]),
        lambda: pieces @ jnp.ravel(batch[0]),
        pieces.todense,
    ):
        with pytest.raises(ArgumentError, match="holds a batch of 8×8 matrices"):
            call()
    mapped = jax.vmap(lambda piece, x: piece.jvp(x))(pieces, batch)
    for got, x in zip(mapped, batch, strict=True):
        np.testing.assert_allclose(got, jax.jvp(jax.nn.softmax, (x,), (x,))[1], atol=1e-6)


def test_names_of_a_piece_speak_of_entries():
    mask = np.tril(np.ones((4, 4), bool))

    def attention(x):
        return jax.nn.softmax(jnp.where(mask, x @ x.T, -jnp.inf)) @ x

    piece = jacobian(attention, format="blocks")(values(4, 2))
    assert "block-lower-triangular" in piece.properties
    assert not {"lower-triangular", "upper-triangular", "diagonal"} & piece.properties
    sums = jacobian(lambda x: jnp.cumsum(jnp.exp(x)), format="blocks")(values(4))
    assert "lower-triangular" in sums.properties
    band = jacobian(heat, format="blocks")(values(9))
    assert {"tridiagonal", "banded"} <= band.properties
    # known to be diagonal by its values, though every entry is listed
    scaled = jacobian(lambda x: jnp.diag(jnp.arange(1.0, 5)) @ x, format="blocks")(values(4))
    np.testing.assert_allclose(scaled.todense(), np.diag(np.arange(1.0, 5)))


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * jnp.cos(x),))


def test_an_operator_of_a_custom_vjp_multiplies_both_ways():
    def f(d):
        return {"y": sine(d["a"]) * d["b"], "z": jnp.sum(sine(d["b"]))}

    d = {"a": values(3), "b": values(3, seed=1)}
    parts = by_jax(jax.jacobian, f, d)
    operator = jacobian(f, format="operator")(d)
    pushed = jax.jit(lambda operator: operator.jvp(d))(operator)
    expected = {k: parts[k]["a"] @ d["a"] + parts[k]["b"] @ d["b"] for k in ("y", "z")}
    for k in expected:
        np.testing.assert_allclose(pushed[k], expected[k], rtol=1e-5, atol=1e-6)
    flat = operator @ jnp.concatenate([d["a"], d["b"]])
    np.testing.assert_allclose(flat, [*expected["y"], expected["z"]], rtol=1e-5, atol=1e-6)
    # a rule that is no linear map has no transpose
    clipped = jacobian(clipped_gradient, format="operator")(values(4))
    assert clipped.vjp(values(4)).shape == (4,)
    with pytest.raises(ArgumentError, match="not certainly linear in the cotangent"):
        clipped.jvp(values(4))


def test_an_operator_prints_what_it_is():
    operator = jacobian(lambda x, y: x * y.sum(), (0, 1), format="operator")(values(4), values(2))
    assert repr(operator) == "<JacobianOperator 4×6: f32[4], f32[2] → f32[4]>"


def test_without_lineax_the_export_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    with pytest.raises(ArgumentError, match="pip install lineax"):
        jacobian(heat, format="blocks")(values(9)).to_lineax()


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_plan_needs_shapes_only_and_reads_well():
    text = str(plan(jax.nn.relu, shape(4096)))
    assert text.startswith("relu: x f32[4096] → out f32[4096]\nno JVP instead of 4096 JVPs")
    assert "structure   diagonal" in text
    assert "1[i = j]·1[q[i]]" in text
    assert "q = (x > 0)" in text
    for f, *shapes in (
        (heat, shape(50)),
        (mlp, shape(64, 256), shape(256, 10), shape(32, 64)),
        (arrow, shape(300)),
        (recurrent, shape(20, 3)),
        (clipped_gradient, shape(4)),
    ):
        text = str(plan(f, *shapes, argnums=tuple(range(len(shapes)))))
        assert all(len(line) <= 100 for line in text.splitlines())


def test_a_plan_names_what_its_formulas_speak_of():
    layer = lambda params, x: jnp.sin(params["W"] * x) * x  # noqa: E731
    assert 'params["W"]' in str(plan(layer, {"W": shape(4)}, shape(4), argnums=1))
    # the same program again, under other names
    f = lambda scale, y: jnp.sin(scale * y) * y  # noqa: E731
    again = str(plan(f, shape(4), shape(4), argnums=1))
    assert "scale" in again
    assert "params" not in again
    # the output under another name is of use to the VJP only, which a plan does not write
    assert "= out" not in again


def test_a_plan_chooses_the_fewest_colours():
    both = plan(arrow, shape(300))
    assert [(s.kind, s.colors) for s in both.sweeps] == [("JVPs", 2), ("VJPs", 1)]
    assert both.blocks[0].way == "JVPs and VJPs"
    assert "2 JVPs and 1 VJP instead of 300 JVPs or 300 VJPs" in str(both)
    wide = plan(lambda x: jnp.tanh(W @ jnp.tanh(x)), shape(6))
    assert wide.lower_bound == 5
    assert plan(looped, shape(7)).colors == 1
    constant = plan(lambda x: W @ x, shape(6))
    assert constant.blocks[0].way == "constant"
    assert constant.colors == 0
    chunked = plan(recurrent, shape(20, 3), chunk_size=8)
    assert chunked.sweeps[0].chunk <= 8
    assert f"{chunked.sweeps[0].chunk} at a time" in str(chunked)


def test_a_plan_of_a_hessian_knows_its_symmetry():
    found = plan(rosenbrock, shape(40), of="hessian")
    assert found.blocks[0].output == "grad x"
    assert str(found.blocks[0].structure).startswith("banded")

    def swept(x):
        return jnp.sum(
            jax.lax.scan(lambda c, v: (c * jnp.sin(v), v), x[0], x[1:])[1] ** 3
        ) + jnp.sum(jnp.sort(x[:1]) * jnp.sin(x) ** 2)

    assert plan(swept, shape(30), of="hessian").colors <= 30
    with pytest.raises(jacobians.ArgumentError, match="of a scalar"):
        plan(heat, shape(9), of="hessian")


def test_pieces_are_pytrees():
    piece = jacobian(heat, format="blocks")(values(9))
    doubled = jax.tree.map(lambda a: 2 * a, piece)
    assert isinstance(doubled, pieces.Banded)
    np.testing.assert_allclose(doubled.todense(), 2 * piece.todense())
