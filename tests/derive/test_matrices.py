"""Known zeros of matrices stay zeros through products, inverses and factorisations."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg
import numpy as np
from jax import lax

from jacobians import explain
from tests.derive.patterns import proved_entries

POINTS = [np.random.default_rng(k).uniform(0.5, 2.0, 9) for k in range(3)]


def diagonal(x):
    return jnp.diag(x[:3])


def upper(x):
    return jnp.triu(x.reshape(3, 3)) + 3 * jnp.eye(3)


def lower(x):
    return upper(x).T


def blocks(x):
    return linalg.block_diag(x[:4].reshape(2, 2) + 3 * jnp.eye(2), x[4:5].reshape(1, 1))


def positive(x):
    return x.reshape(3, 3) + 9 * jnp.eye(3)


# function of nine numbers; entries of its Jacobian; and of the Hessian of its sum
FUNCTIONS = {
    "inverse of a diagonal": (lambda x: jnp.linalg.inv(diagonal(x)), 3, 3),
    "inverse of an upper triangle": (lambda x: jnp.linalg.inv(upper(x)), 15, None),
    "inverse of a lower triangle": (lambda x: jnp.linalg.inv(lower(x)), 15, None),
    "inverse of blocks": (lambda x: jnp.linalg.inv(blocks(x)), 17, 17),
    "inverse of a permuted diagonal": (
        lambda x: jnp.linalg.inv(jnp.roll(diagonal(x), 1, 0)), 3, None
    ),
    "solve with a diagonal": (lambda x: jnp.linalg.solve(diagonal(x), x[3:6]), 6, None),
    "determinant of a triangle": (lambda x: jnp.linalg.slogdet(upper(x))[1], 3, None),
    "power of a diagonal": (lambda x: jnp.linalg.matrix_power(diagonal(x), 3), 3, None),
    "Cholesky of a diagonal": (lambda x: jnp.linalg.cholesky(diagonal(x)), 3, 3),
    "Cholesky of blocks": (lambda x: jnp.linalg.cholesky(blocks(x) @ blocks(x).T), 11, None),
    "Cholesky": (lambda x: jnp.linalg.cholesky(positive(x)), 30, None),
    "triangular solve, the matrix": (
        lambda x: linalg.solve_triangular(positive(x), jnp.ones(3), lower=True), 10, None
    ),
    "triangular solve, transposed": (
        lambda x: linalg.solve_triangular(positive(x), jnp.ones(3), lower=True, trans=1), 10, None
    ),
    "triangular solve, unit diagonal": (
        lambda x: linalg.solve_triangular(positive(x), jnp.ones(3), unit_diagonal=True), 4, None
    ),
    "triangular solve from the right": (
        lambda x: lax.linalg.triangular_solve(positive(x), jnp.ones((1, 3)), lower=True), 10, None
    ),
    "triangular inverse": (
        lambda x: linalg.solve_triangular(positive(x), jnp.eye(3), lower=True), 15, None
    ),
    "Q": (lambda x: jnp.linalg.qr(positive(x))[0], 54, None),
    "R": (lambda x: jnp.linalg.qr(positive(x))[1], 42, None),
    "R of a tall matrix": (lambda x: jnp.linalg.qr(x[:6].reshape(3, 2))[1], 15, None),
    "LU of a triangle": (lambda x: lax.linalg.lu(upper(x))[0], 6, None),
    "a product that a loop repeats": (
        lambda x: lax.fori_loop(0, 70, lambda _, m: m @ diagonal(x) / 2, jnp.eye(3)), 3, None
    ),
}  # fmt: skip


def test_known_zeros_of_a_matrix_narrow_what_is_made_of_it():
    counts = proved_entries({name: f for name, (f, _, _) in FUNCTIONS.items()}, POINTS)
    assert counts == {name: count for name, (_, count, _) in FUNCTIONS.items()}


def test_second_derivatives_of_inverses_stay_narrow():
    chosen = {name: f for name, (f, _, second) in FUNCTIONS.items() if second is not None}
    counts = proved_entries(chosen, POINTS, hessians=True)
    assert counts == {name: FUNCTIONS[name][2] for name in chosen}


def test_the_exponential_of_a_diagonal_matrix_is_diagonal():
    exponentials = {
        "diagonal": lambda x: linalg.expm(diagonal(x)),
        "upper": lambda x: linalg.expm(jnp.triu(x.reshape(3, 3))),
    }
    assert proved_entries(exponentials, POINTS[:1]) == {"diagonal": 3, "upper": 15}


def test_an_inverse_says_where_rounding_may_leave_its_pattern():
    x = jax.ShapeDtypeStruct((9,), jnp.float32)
    for matrix, said in ((diagonal, False), (upper, False), (blocks, False), (lower, True)):
        notes = explain(lambda x, m=matrix: jnp.linalg.inv(m(x)), x).notes
        assert any("exchanges rows" in note for note in notes) == said


ZEROS = {
    "0 through x": (lambda x: 0.0 / x, 0),
    "some zeros through x": (lambda x: jnp.array([0.0, 1.0, 2.0]) / x[:3], 2),
    "0 times x": (lambda x: jnp.dot(0.0, x), 0),
    "an outer product": (lambda x: jnp.outer(jnp.array([0.0, 1.0]), x), 9),
    "a matrix": (lambda x: jnp.array([[0.0, 1, 0], [2, 0, 3]]) @ x[:3], 3),
    "einsum": (lambda x: jnp.einsum("ij,j->ij", jnp.array([[0.0, 1, 0], [2, 0, 3]]), x[:3]), 3),
    "a Kronecker product": (lambda x: jnp.kron(jnp.eye(2), x[:4].reshape(2, 2)), 8),
    "a batch": (
        lambda x: jnp.einsum(
            "bij,bj->bi", jnp.stack([jnp.zeros((2, 2)), jnp.eye(2)]), x[:4].reshape(2, 2)
        ),
        2,
    ),
}


def test_known_zeros_leave_no_entry():
    counts = proved_entries({name: f for name, (f, _) in ZEROS.items()}, POINTS[:1])
    assert counts == {name: count for name, (_, count) in ZEROS.items()}


def test_fourier_transforms_are_constant():
    x = jax.ShapeDtypeStruct((4,), jnp.float32)
    transforms = [
        lambda x: jnp.fft.fft(x).real,
        lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.array([1, 2j, 3])),
        jax.scipy.fft.dct,
        jax.scipy.fft.idct,
    ]
    for f in transforms:
        assert "constant" in explain(f, x).blocks[0].properties
    assert "constant" not in explain(lambda x: jnp.abs(jnp.fft.fft(x)), x).blocks[0].properties


def test_an_implicit_solution_sees_what_its_equation_ties():
    def root(x):
        def equation(y):
            return y**3 + y - x

        def solve(f, start):
            return lax.fori_loop(0, 20, lambda _, y: y - f(y) / (3 * y * y + 1), start)

        return lax.custom_root(
            equation, jnp.zeros_like(x), solve, lambda g, y: y / g(jnp.ones_like(y))
        )

    def banded(x):
        matrix = jnp.diag(x[:3]) + jnp.diag(x[3:5], 1)
        return lax.custom_linear_solve(
            lambda v: matrix @ v,
            x[5:8],
            lambda _, b: jnp.linalg.solve(matrix, b),
            lambda _, b: jnp.linalg.solve(matrix.T, b),
        )

    counts = proved_entries({"root": root, "banded": banded}, POINTS[:2])
    assert counts == {"root": 9, "banded": 6 + 6 + 3}
