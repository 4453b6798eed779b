"""Random programs: no nonzero outside the proved pattern, formulas equal to the Jacobian."""

from collections import Counter
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings

from jacobians.algebra import entries
from jacobians.arguments import bind
from jacobians.derive.call import derive_call
from jacobians.evaluate import term_values
from jacobians.prove import count_entries, prove
from tests.derive.programs import RandomProgram, programs

SEEN: Counter[str] = Counter()
FORMULAS: Counter[str] = Counter()


def confront(program: RandomProgram, seed: int = 0) -> None:
    """Checks everything that is said of a program against its explicit Jacobian."""
    if currently_in_test_context():
        note(program.describe())
    generator = np.random.default_rng(seed)
    with jax.enable_x64(True):
        values = [jnp.asarray(generator.normal(size=shape)) for shape in program.shapes]
        call = bind(program, values)
        derivation = derive_call(call, double=True)
        SEEN.update(node.op for node in derivation.tape.nodes)
        explicit = jax.jit(jax.jacfwd(program, argnums=tuple(range(len(values)))))
        jacobian = explicit(*values)
        made = term_values(derivation, values)
    out_shape = call.outputs[0].shape
    for k, tensor in enumerate(jacobian):
        in_shape = program.shapes[k]
        shape = prod(out_shape), prod(in_shape)
        matrix = np.asarray(tensor).reshape(shape)
        terms = derivation.terms(0, k)
        listed = entries.coordinates(terms, out_shape, in_shape, 1 << 24)
        assert listed is not None
        pattern = np.zeros(shape, bool)
        pattern[listed] = True
        finite = np.isfinite(matrix)
        tolerance = 1e-9 * np.abs(matrix[finite]).max(initial=0.0)
        outside = ~pattern & finite & (np.abs(np.where(finite, matrix, 0)) > tolerance)
        assert not outside.any(), f"input {k}: proved zero at {np.argwhere(outside)[0]}"
        assert count_entries(terms, out_shape, in_shape) == pattern.sum()
        FORMULAS["blocks"] += 1
        if (0, k) in made and finite.all() and np.isfinite(made[0, k]).all():
            FORMULAS["with formula"] += 1
            size = max(np.abs(matrix).max(initial=0.0), 1.0)
            np.testing.assert_allclose(made[0, k], matrix, rtol=1e-6, atol=1e-8 * size)
        properties = check_names(derivation, k, out_shape, in_shape, matrix, pattern)
        if "constant" in properties:
            with jax.enable_x64(True):
                moved = list(values)
                moved[k] = -3.0 * values[k] + 0.7
                other = np.asarray(explicit(*moved)[k]).reshape(shape)
            both = finite & np.isfinite(other)
            np.testing.assert_allclose(other[both], matrix[both], rtol=1e-6, atol=1e-9)


def check_names(derivation, k, out_shape, in_shape, matrix, pattern) -> frozenset[str]:
    """Every proved property holds for the numbers; returns the properties."""
    proof = prove(
        derivation.terms(0, k),
        out_shape,
        in_shape,
        (derivation.number(k),),
        derivation.tape.certain,
    )
    rows, columns = np.nonzero(pattern)
    m, n = matrix.shape
    close = 1e-8 * max(np.abs(matrix[np.isfinite(matrix)]).max(initial=0.0), 1.0)

    def same(a, b):
        return np.allclose(a, b, rtol=1e-6, atol=close, equal_nan=True)

    whole = np.isfinite(matrix).all()
    for kind in proof.properties:
        if kind in ("permutation", "selection") and not whole:
            # 0 times an infinite derivative, where JAX has NaN
            continue
        if kind == "zero":
            assert not len(rows)
        elif kind == "diagonal":
            assert (rows == columns).all()
            assert m == n
        elif kind == "identity":
            assert same(matrix, np.eye(n))
        elif kind == "scaled-identity":
            assert same(matrix, matrix[0, 0] * np.eye(n))
        elif kind == "permutation":
            assert (matrix.sum(0) == 1).all()
            assert (matrix.sum(1) == 1).all()
        elif kind == "selection":
            assert ((matrix == 0) | (matrix == 1)).all()
            assert (matrix.sum(1) <= 1).all()
        elif kind == "symmetric":
            assert same(matrix, matrix.T)
        elif kind == "toeplitz":
            assert same(matrix[1:, 1:], matrix[:-1, :-1])
        elif kind == "circulant":
            assert same(matrix[1:], np.roll(matrix, (1, 1), (0, 1))[1:])
        elif kind == "outer" and min(m, n) > 1 and np.isfinite(matrix).all():
            assert np.linalg.matrix_rank(matrix, tol=1e-6 * max(1, abs(matrix).max())) <= 1
    structure = proof.structure
    if m == n and not structure.get("blocks"):
        assert "lower-triangular" not in proof.properties or (columns <= rows).all()
        assert "upper-triangular" not in proof.properties or (columns >= rows).all()
    if structure.kind == "diagonal-plus-low-rank" and np.isfinite(matrix).all():
        # what lies off the diagonal has at most that rank
        half = n // 2
        for corner in (matrix[:half, half:], matrix[half:, :half]):
            tolerance = 1e-6 * max(1, abs(matrix).max())
            assert np.linalg.matrix_rank(corner, tol=tolerance) <= structure.get("rank")
    if structure.kind == "banded":
        assert (columns - rows <= structure.get("upper")).all()
        assert (rows - columns <= structure.get("lower")).all()
    if structure.kind in ("lower-triangular", "upper-triangular"):
        height, width = structure.get("block_shape", (1, 1))
        ahead = columns // width - rows // height
        assert ((ahead <= 0) if structure.kind.startswith("lower") else (ahead >= 0)).all()
    if structure.get("blocks") and structure.kind in ("block-diagonal", "kronecker"):
        height, width = structure.get("block_shape")
        assert (rows // height == columns // width).all()
        if structure.get("equal"):
            first = matrix[:height, :width]
            for b in range(structure.get("blocks")):
                block = matrix[b * height : (b + 1) * height, b * width : (b + 1) * width]
                assert same(block, first)
    if structure.kind == "kronecker" and structure.get("left"):
        (a, b), (c, d) = structure.get("left"), structure.get("right")
        folded = matrix.reshape(a, c, b, d).transpose(0, 2, 1, 3).reshape(a * b, c * d)
        if np.isfinite(folded).all():
            assert np.linalg.matrix_rank(folded, tol=1e-6 * max(1, abs(folded).max())) <= 1
    return proof.properties


# several tests of few programs each share the work among processes
@pytest.mark.parametrize("part", range(8))
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_nothing_is_proved_that_is_not_so(part, program):
    confront(program, part)


@pytest.mark.long
@settings(max_examples=2500, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=9))
def test_nothing_is_proved_that_is_not_so_long(program):
    confront(program)


@pytest.mark.long
def test_the_long_profile_covered_the_operations(capsys):
    with capsys.disabled():
        print(f"\n{FORMULAS['blocks']} blocks, {FORMULAS['with formula']} with a formula evaluated")
        print(f"{len(SEEN)} operations: {', '.join(sorted(SEEN))}")
    assert len(SEEN) > 60
