"""The oracle of words says yes of matrices built so, and no as soon as one entry is off."""

import numpy as np
import pytest
import scipy.linalg

from jacobians.structure.kinds import KINDS, Structure
from tests.words import false_properties, false_words, outside_statement

G = np.random.default_rng(0)
FULL = G.normal(size=(6, 6)) + np.sign(G.normal(size=(6, 6)))
BLOCK = FULL[:2, :2]
TOEPLITZ = np.tril(scipy.linalg.toeplitz(FULL[0]))
LOWER = Structure("lower-triangular")
IN_BLOCKS = (("blocks", 3), ("block_shape", (2, 2)))

HOLDING = [
    (Structure("zero"), np.zeros((6, 6))),
    (Structure("identity"), np.eye(6)),
    (Structure("scaled-identity", (("scale", 2.5),)), 2.5 * np.eye(6)),
    (Structure("diagonal"), np.diag(FULL[0])),
    (Structure("permutation"), np.eye(6)[::-1]),
    (Structure("selection"), np.eye(6)[[1, 1, 2, 2, 3, 5]]),
    (Structure("block-diagonal", (*IN_BLOCKS, ("inner", LOWER))),
     scipy.linalg.block_diag(*[np.tril(FULL[k : k + 2, :2]) for k in (0, 2, 4)])),
    (Structure("block-diagonal", (*IN_BLOCKS, ("equal", True))), np.kron(np.eye(3), BLOCK)),
    (Structure("circulant"), scipy.linalg.circulant(FULL[0])),
    (Structure("toeplitz"), scipy.linalg.toeplitz(FULL[0], FULL[1])),
    (Structure("banded", (("lower", 1), ("upper", 0))), np.triu(np.tril(FULL), -1)),
    (Structure("lower-triangular", (("toeplitz", True),)), TOEPLITZ),
    (Structure("upper-triangular", IN_BLOCKS), np.kron(np.triu(np.ones((3, 3))), BLOCK)),
    (Structure("kronecker", (("left", (3, 3)), ("right", (2, 2)))), np.kron(FULL[:3, :3], BLOCK)),
    (Structure("kronecker", (("left", (3, 3)), ("right", (2, 2)), ("left_identity", True))),
     np.kron(np.eye(3), BLOCK)),
    (Structure("kronecker", IN_BLOCKS), np.kron(np.eye(3), BLOCK)),
    (Structure("outer"), np.outer(FULL[0], FULL[1])),
    (Structure("diagonal-plus-low-rank", (("rank", 1),)),
     np.diag(FULL[0]) + np.outer(FULL[1], FULL[2])),
    (Structure("sparse"), np.diag(FULL[0]) + np.diag(FULL[1, :5], 1)),
    (Structure("dense"), FULL),
]  # fmt: skip


def test_every_kind_has_an_example():
    assert {s.kind for s, _ in HOLDING} == set(KINDS)


@pytest.mark.parametrize(("structure", "matrix"), HOLDING, ids=[str(s) for s, _ in HOLDING])
def test_a_word_holds_of_what_is_built_so_and_of_no_entry_changed(structure, matrix):
    assert false_words(structure, matrix, (6,), (6,)) == []
    changed = matrix.copy()
    changed[0, 3] += 1e-3 * np.abs(matrix).max() + 0.1
    if structure.kind not in ("dense", "sparse"):
        holds = structure.kind == "upper-triangular"
        assert (false_words(structure, changed, (6,), (6,)) == []) == holds


def test_properties_and_conditions_are_asked_too():
    properties = {"symmetric", "diagonal", "outer", "lower-triangular", "constant"}
    wrong = false_properties(Structure("dense"), properties, FULL, (6,), (6,))
    assert set(wrong) == properties - {"constant"}
    lower = np.tril(np.ones((3, 3), bool))
    assert not outside_statement("i0 ≤ o0", lower, (3,), (3,))
    assert not outside_statement("o0 − 2 ≤ i0 ≤ o0", lower, (3,), (3,))
    assert outside_statement("o0 − 1 ≤ i0 ≤ o0", lower, (3,), (3,))
    assert outside_statement("i0 = o0", lower, (3,), (3,))
