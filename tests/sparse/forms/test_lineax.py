"""The export to lineax: every kind of piece, true tags, equal numbers, and transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

from jacobians import ArgumentError, hessian, jacobian
from jacobians.sparse.forms.pieces import Piece
from tests.derive.programs import programs
from tests.explicit import by_jax
from tests.sparse.test_jacobian import arrow, clipped_gradient, heat, rosenbrock, values
from tests.sparse.test_jacobian_everywhere import ROWS, explained_call, explicit, table_call
from tests.structure.test_explain import TABLE

lineax = pytest.importorskip("lineax")

QUERIES = {
    "symmetric": lineax.is_symmetric,
    "diagonal": lineax.is_diagonal,
    "tridiagonal": lineax.is_tridiagonal,
    "lower": lineax.is_lower_triangular,
    "upper": lineax.is_upper_triangular,
    "unit": lineax.has_unit_diagonal,
    "positive": lineax.is_positive_semidefinite,
    "negative": lineax.is_negative_semidefinite,
}
HOLDS = {
    "symmetric": lambda M: (M == M.T).all(),
    "diagonal": lambda M: (np.diag(np.diag(M)) == M).all(),
    "tridiagonal": lambda M: (np.triu(np.tril(M, 1), -1) == M).all(),
    "lower": lambda M: (np.tril(M) == M).all(),
    "upper": lambda M: (np.triu(M) == M).all(),
}
DIAGONAL = {"symmetric", "diagonal", "tridiagonal", "lower", "upper"}
W = values(6, 6, seed=9)
SYMMETRIC = W + W.T
MASK = np.tril(np.ones((4, 4), bool))


def attention(x):
    """Causal: triangular in blocks of 2×2, and in no other sense."""
    scores = jnp.where(MASK, x @ x.T, -jnp.inf)
    return 3 * x + jax.nn.softmax(scores, axis=-1) @ x


def behind(x):
    return jnp.concatenate([jnp.zeros(1), x[:-1]])


def ahead(x):
    return jnp.concatenate([x[1:], jnp.zeros(1)])


def shifted(x):
    return 2 * jnp.sin(x) + 0.3 * behind(x) ** 2 + 0.1 * behind(behind(x))


KINDS = {
    "zero": (lambda x: jnp.ones(4), values(4), "Diagonal", DIAGONAL),
    "rectangular zero": (lambda x: jnp.ones(3), values(4), "Function", set()),
    "diagonal": (lambda x: 2 * x + jnp.sin(x), values(6), "Diagonal", DIAGONAL),
    "diagonal of arrays": (jnp.exp, values(2, 3), "Diagonal", DIAGONAL),
    "identity": (lambda x: x + 1, values(2, 3), "Diagonal", DIAGONAL),
    "scalar": (lambda x: x * x, jnp.float32(3), "Diagonal", DIAGONAL),
    "diagonal between shapes": (
        lambda x: jnp.ravel(jnp.exp(x)), values(2, 3), "Function", {"lower", "upper"},
    ),
    "dense": (lambda x: 5 * x + jnp.tanh(W @ jnp.tanh(x)), values(6), "Matrix", set()),
    "dense of arrays": (
        lambda x: jnp.tanh(W @ jnp.tanh(x).ravel()).reshape(3, 2), values(2, 3), "PyTree", set(),
    ),
    "dense diagonal": (
        lambda x: jnp.diag(jnp.arange(1.0, 7)) @ x, values(6), "Diagonal", DIAGONAL,
    ),
    "constant and symmetric": (lambda x: SYMMETRIC @ x, values(6), "Matrix", {"symmetric"}),
    "gradient": (lambda x: jnp.sum(jnp.sin(x)), values(6), "PyTree", set()),
    "block-diagonal": (lambda x: x + jax.nn.softmax(x), values(2, 3), "Function", set()),
    "blocks of 2×2 on vectors": (
        lambda x: (3 * x.reshape(-1, 2) + jax.nn.softmax(x.reshape(-1, 2))).ravel(),
        values(6), "Function", {"tridiagonal"},
    ),
    "triangular blocks": (
        lambda x: jnp.cumsum(jnp.exp(x), axis=1), values(2, 3), "Function", {"lower"},
    ),
    "block-triangular": (attention, values(4, 2), "Function", set()),
    "outer": (lambda x: jnp.sin(W[:, 0]) * jnp.dot(W[0], x) ** 2, values(6), "Function", set()),
    "outer gradient": (
        lambda x: jnp.sum((x @ jnp.arange(3.0)) ** 2), values(2, 3), "Function", set(),
    ),
    "tridiagonal": (lambda x: 4 * x + 0.1 * heat(x**2), values(6), "Tridiagonal", {"tridiagonal"}),
    "symmetric and tridiagonal": (
        lambda x: 4 * x - behind(x) - ahead(x), values(6), "Tagged", {"tridiagonal", "symmetric"},
    ),
    "lower bidiagonal": (
        lambda x: 2 * x + behind(x) ** 2, values(6), "Tagged", {"tridiagonal", "lower"},
    ),
    "upper bidiagonal": (
        lambda x: 2 * x + ahead(x) ** 2, values(6), "Tagged", {"tridiagonal", "upper"},
    ),
    "band of arrays": (
        lambda x: jax.vmap(lambda u: 4 * u + 0.1 * heat(u**2))(x), values(2, 4), "Function", set(),
    ),
    "wide band": (shifted, values(8), "Function", {"lower"}),
    "rectangular band": (lambda x: x[1:] * x[:-1], values(9), "Function", set()),
    "sparse": (lambda x: 3 * x + 0.1 * arrow(x), values(9), "Function", set()),
    "permutation": (lambda x: x[::-1], values(7), "Function", {"symmetric"}),
}  # fmt: skip


@jax.jit
def everything_of(operator, v, w):
    """The products of an operator, both ways, and its matrices, compiled together."""
    square = operator.in_size() == operator.out_size()
    return {
        "product": operator.mv(v),
        "product, materialised": lineax.materialise(operator).mv(v),
        "product of the transpose": operator.transpose().mv(w),
        "matrix": operator.as_matrix(),
        "diagonal": lineax.diagonal(operator) if square else None,
    }


def check_equal(operator, matrix, into, out):
    """Products, transposes and matrices of an operator against a matrix."""
    v, w = values(*into, seed=4), values(*out, seed=5)
    pushed = (matrix @ np.ravel(v)).reshape(out)
    expected = {
        "product": pushed,
        "product, materialised": pushed,
        "product of the transpose": (np.ravel(w) @ matrix).reshape(into),
        "matrix": matrix,
        "diagonal": np.diag(matrix) if matrix.shape[0] == matrix.shape[1] else None,
    }
    for name, found in everything_of(operator, v, w).items():
        if expected[name] is None:
            assert found is None
        else:
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", KINDS)
def test_every_piece_is_exported_with_its_numbers_and_its_tags(name):
    f, x, kind, tags = KINDS[name]
    tensor = np.asarray(by_jax(jax.jacobian, f, x))
    piece = jacobian(f, format="blocks")(x)
    operator = piece.to_lineax()
    assert type(operator).__name__ == f"{kind}LinearOperator"
    assert {n for n, holds in QUERIES.items() if holds(operator)} == tags
    matrix = tensor.reshape(piece.shape)
    out = tensor.shape[: tensor.ndim - x.ndim]
    assert all(HOLDS[tag](matrix) for tag in tags)
    check_equal(operator, matrix, x.shape, out)


@pytest.mark.parametrize(
    "name",
    ["diagonal of arrays", "diagonal between shapes", "dense", "dense of arrays", "block-diagonal",
     "blocks of 2×2 on vectors", "block-triangular", "triangular blocks", "tridiagonal",
     "symmetric and tridiagonal", "upper bidiagonal", "wide band", "band of arrays", "sparse",
     "permutation"],
)  # fmt: skip
def test_the_solution_is_that_of_the_dense_matrix(name):
    f, x, _, _ = KINDS[name]
    tensor = np.asarray(by_jax(jax.jacobian, f, x))
    matrix = tensor.reshape(x.size, x.size)
    b = values(*tensor.shape[: tensor.ndim - x.ndim], seed=2)
    make = jacobian(f, format="blocks")
    solve = jax.jit(lambda operator, b: lineax.linear_solve(operator, b).value)
    expected = np.linalg.solve(matrix, np.ravel(b)).reshape(x.shape)
    np.testing.assert_allclose(solve(make(x).to_lineax(), b), expected, rtol=1e-3, atol=1e-3)


def test_iterative_solvers_and_sums_of_operators():
    x, b = values(3, 4), values(3, 4, seed=2)
    operator = jacobian(jax.nn.softmax, format="blocks")(x).to_lineax()
    shifted = lineax.IdentityLinearOperator(operator.in_structure()) + operator
    matrix = np.eye(12) + np.asarray(by_jax(jax.jacobian, jax.nn.softmax, x)).reshape(12, 12)
    expected = np.linalg.solve(matrix, np.ravel(b)).reshape(3, 4)
    solver = lineax.GMRES(rtol=1e-5, atol=1e-5)
    made = lineax.linear_solve(shifted, b, solver).value
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)

    def convex(x):
        return jnp.sum(x**2) + jax.nn.logsumexp(W @ x)

    # that it is positive is no structure: whoever knows it says so
    bowl = hessian(convex, format="blocks")(values(6)).to_lineax()
    tagged = lineax.TaggedLinearOperator(bowl, lineax.positive_semidefinite_tag)
    made = lineax.linear_solve(tagged, b.ravel()[:6], lineax.CG(rtol=1e-5, atol=1e-5)).value
    expected = np.linalg.solve(by_jax(jax.hessian, convex, values(6)), b.ravel()[:6])
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)


@jax.custom_vjp
def one_sided(x):
    return 1.0 * x


one_sided.defvjp(lambda x: (1.0 * x, None), lambda _, c: (c + 3 * behind(c),))


def test_a_hessian_counts_as_symmetric_only_by_proof():
    x = values(6)
    for f, tags in (
        (lambda x: jnp.sum(jnp.sin(x)), DIAGONAL),
        (rosenbrock, {"tridiagonal"}),
        (lambda x: jnp.sum(one_sided(x) ** 3), {"tridiagonal", "lower"}),
        (lambda x: jnp.sum(clipped_gradient(W @ x) ** 2), set()),
    ):
        operator = hessian(f, format="blocks")(x).to_lineax()
        assert {n for n, holds in QUERIES.items() if holds(operator)} == tags
        np.testing.assert_allclose(
            operator.as_matrix(), by_jax(jax.hessian, f, x), rtol=1e-4, atol=1e-4
        )


def test_operators_go_in_and_out_of_jit_and_vmap_without_another_trace():
    make, batch = jacobian(jax.nn.softmax, format="blocks"), values(3, 2, 4)
    traces = []

    @jax.jit
    def solve(operator, b):
        traces.append(1)
        shifted = lineax.IdentityLinearOperator(operator.in_structure()) + operator
        return lineax.linear_solve(shifted, b).value

    b = values(2, 4, seed=3)
    solutions = [solve(make(x).to_lineax(), b) for x in batch]
    assert len(traces) == 1
    inside = jax.jit(lambda x: make(x).to_lineax())(batch[0])
    np.testing.assert_allclose(solve(inside, b), solutions[0], rtol=1e-6)
    together = jax.vmap(lambda x: solve(make(x).to_lineax(), b))(batch)
    np.testing.assert_allclose(together, solutions, rtol=1e-4, atol=1e-5)
    operators = jax.vmap(lambda x: make(x).to_lineax())(batch)
    np.testing.assert_allclose(
        jax.vmap(lambda o: solve(o, b))(operators), solutions, rtol=1e-4, atol=1e-5
    )


def test_a_solution_is_differentiated_through_the_operator():
    x, b = values(6), values(6, seed=2)

    def f(x):
        return 4 * x + 0.1 * heat(x**2)

    def total(x):
        operator = jacobian(f, format="blocks")(x).to_lineax()
        return jnp.sum(lineax.linear_solve(operator, b).value ** 2)

    solved = lambda x: jnp.sum(jnp.linalg.solve(jax.jacobian(f)(x), b) ** 2)  # noqa: E731
    expected = by_jax(jax.grad, solved, x)
    np.testing.assert_allclose(jax.grad(total)(x), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["diagonal", "dense", "tridiagonal", "sparse", "outer", "zero"])
def test_precision_is_kept(name):
    f, x, _, _ = KINDS[name]
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64)
        operator = jacobian(f, format="blocks")(wide).to_lineax()
        assert operator.in_structure().dtype == operator.out_structure().dtype == jnp.float64
        product, matrix = jax.jit(lambda o, v: (o.mv(v), o.as_matrix()))(operator, wide)
        assert matrix.dtype == jnp.float64
        close = {"rtol": 1e-12, "atol": 1e-13}
        np.testing.assert_allclose(product, jax.jvp(f, (wide,), (wide,))[1], **close)
    half = jnp.asarray(x, jnp.bfloat16)
    operator = jacobian(lambda x: f(x).astype(jnp.bfloat16), format="blocks")(half).to_lineax()
    assert operator.mv(half).dtype == jnp.bfloat16


def predator(p, y):
    prey, hunter = y["prey"], y["hunter"]
    meet = prey * hunter
    return {"prey": p * prey - meet, "hunter": (meet - hunter)[None]}


def test_an_operator_of_pytrees_is_exported():
    p, y = jnp.float32(1.5), {"prey": values(3), "hunter": values(3, seed=1)}
    operator = jacobian(predator, 1, format="operator")(p, y).to_lineax()
    assert jax.tree.structure(operator.in_structure()) == jax.tree.structure(y)
    value, pushed = jax.jvp(lambda y: predator(p, y), (y,), (y,))
    for a, b in zip(jax.tree.leaves(operator.mv(y)), jax.tree.leaves(pushed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    (pulled,) = jax.vjp(lambda y: predator(p, y), y)[1](value)
    got = operator.transpose().mv(value)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(pulled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    both = jacobian(predator, (0, 1), format="operator")(p, y).to_lineax()
    assert both.as_matrix().shape == (6, 7)
    solve = jax.jit(lambda o, b: lineax.linear_solve(o, b).value)
    solution = solve(operator, value)
    again = operator.mv(solution)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(value), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * jnp.cos(x),))


def test_a_function_with_a_custom_vjp_is_exported():
    x, v = values(6), values(6, seed=2)
    operator = jacobian(lambda x: sine(x) * x + x[::-1], format="operator")(x).to_lineax()
    matrix = np.asarray(by_jax(jax.jacobian, lambda x: sine(x) * x + x[::-1], x))
    np.testing.assert_allclose(operator.mv(v), matrix @ v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(operator.transpose().mv(v), v @ matrix, rtol=1e-5, atol=1e-6)
    solution = lineax.linear_solve(operator, v).value
    np.testing.assert_allclose(matrix @ solution, v, rtol=1e-3, atol=1e-3)
    piece = jacobian(sine, format="blocks")(x).to_lineax()
    np.testing.assert_allclose(lineax.linear_solve(piece, v).value, v / np.cos(x), rtol=1e-4)


def test_a_tangent_of_a_piece_keeps_only_what_is_linear():
    x = values(6)
    _, tangent = jax.jvp(jacobian(lambda x: x + 1, format="blocks"), (x,), (x,))
    np.testing.assert_allclose(tangent.to_lineax().as_matrix(), np.zeros((6, 6)))


def test_a_batch_of_pieces_is_refused():
    pieces = jax.vmap(jacobian(jnp.sin, format="blocks"))(values(3, 4))
    with pytest.raises(ArgumentError, match="holds a batch of 4×4 matrices"):
        pieces.to_lineax()


def check_tags(f, args, numbers, tolerance):
    """Every tag of every block holds for the explicit matrix, and the operator is that matrix."""
    expected, finite = explicit(f, numbers)(*args)
    pieces = jacobian(f, numbers, format="blocks")(*args)
    leaves = jax.tree.leaves(pieces, is_leaf=lambda x: isinstance(x, Piece))
    explicits = zip(jax.tree.leaves(expected), jax.tree.leaves(finite), strict=True)
    for piece, (tensor, where) in zip(leaves, explicits, strict=True):
        if 0 in piece.shape or not where.all():
            continue
        operator = piece.to_lineax()
        matrix = np.asarray(tensor, np.float64).reshape(piece.shape)
        scale = max(1.0, np.abs(matrix).max())
        made = np.asarray(operator.as_matrix(), np.float64)
        np.testing.assert_allclose(made, matrix, rtol=tolerance, atol=tolerance * scale)
        for tag, query in QUERIES.items():
            if query(operator):
                # both are right to rounding only
                rounded = np.where(np.abs(matrix) > tolerance * scale, matrix, 0)
                close = np.allclose(matrix, matrix.T, tolerance, tolerance * scale)
                assert close if tag == "symmetric" else HOLDS[tag](rounded)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0] for row in ROWS])
def test_the_tags_of_every_function_of_the_table_of_jax(row):
    check_tags(*table_call(row, False), 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_the_tags_of_every_function_of_the_table_of_explain(name):
    check_tags(*explained_call(name, False), 2e-4)


@pytest.mark.long
@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(program=programs(steps=8))
def test_the_tags_of_random_programs(program):
    note(program.describe())
    with jax.enable_x64(True):
        generator = np.random.default_rng(7)
        args = tuple(jnp.asarray(generator.normal(size=s)) for s in program.shapes)
        check_tags(program, args, tuple(range(len(args))), 1e-5)
