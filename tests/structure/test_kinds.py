"""Structures as values, their texts and order."""

import pytest

from jacobians.structure.kinds import DEFINITIONS, KINDS, Structure, most_specific


def test_every_kind_is_defined_once_and_ordered():
    assert tuple(DEFINITIONS) == KINDS
    assert KINDS[0] == "zero"
    assert KINDS[-1] == "dense"
    assert all(text and not text.endswith(".") for text in DEFINITIONS.values())


def test_the_most_specific_wins_and_nothing_is_dense():
    assert most_specific([Structure("sparse"), Structure("diagonal")]).kind == "diagonal"
    assert most_specific([]).kind == "dense"


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        (Structure("scaled-identity", (("scale", -2.0),)), "scaled identity: −2 · I"),
        (
            Structure("permutation", (("varies", True),)),
            "permutation (differs from point to point)",
        ),
        (
            Structure("block-diagonal", (("blocks", 4), ("block_shape", (8, 8)))),
            "block-diagonal: 4 blocks of 8×8",
        ),
        (
            Structure(
                "block-diagonal",
                (
                    ("blocks", 2),
                    ("block_shape", (4, 4)),
                    ("inner", Structure("diagonal-plus-low-rank", (("rank", 1),))),
                ),
            ),
            "block-diagonal: 2 blocks of 4×4, each diagonal plus rank one",
        ),
        (
            Structure("banded", (("lower", 2), ("upper", 0), ("toeplitz", True))),
            "banded: 2 below the diagonal, 0 above, Toeplitz",
        ),
        (
            Structure("lower-triangular", (("blocks", 10), ("block_shape", (4, 3)))),
            "block lower-triangular: 10 steps of 4×3",
        ),
        (
            Structure("kronecker", (("left", (8, 5)), ("right", (3, 3)), ("right_identity", True))),
            "Kronecker product: 8×5 ⊗ I(3)",
        ),
        (Structure("outer", (("gradient", True),)), "outer product over the input's axes"),
        (Structure("toeplitz"), "Toeplitz"),
    ],
)
def test_texts(structure, text):
    assert str(structure) == text
