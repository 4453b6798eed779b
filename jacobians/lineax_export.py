"""Structured Jacobians as `lineax` operators, with the tags that their structure proves.

`lineax` is no dependency: it is imported when an export is asked for.

    >>> jacobian(heat, format="blocks")(u).to_lineax()        # a TridiagonalLinearOperator
"""

import importlib
from typing import Any

import jax

from jacobians.errors import ArgumentError
from jacobians.pieces import Banded, Dense, Diagonal, JacobianOperator, Piece

TAGS = {
    "diagonal": "diagonal_tag",
    "symmetric": "symmetric_tag",
    "lower-triangular": "lower_triangular_tag",
    "upper-triangular": "upper_triangular_tag",
}


def to_lineax(piece: Piece) -> Any:
    """A piece as the `lineax` operator of its kind.

    Args:
        piece: a piece of `jacobian(f, format="blocks")`.

    Returns:
        `DiagonalLinearOperator`, `TridiagonalLinearOperator`, `MatrixLinearOperator` or
        `FunctionLinearOperator` of the flattened vectors or, for the last, of the arrays.

    Raises:
        ArgumentError: lineax is not installed.
    """
    lineax = _lineax()
    names = [tag for name, tag in TAGS.items() if name in piece.properties]
    tags = [getattr(lineax, name) for name in names]
    if isinstance(piece, Diagonal):
        return lineax.DiagonalLinearOperator(piece.values)
    m, n = piece.shape
    if isinstance(piece, Banded) and m == n and (piece.lower, piece.upper) == (1, 1):
        d = piece.diagonals
        return lineax.TridiagonalLinearOperator(d[1], d[0, 1:], d[2, :-1])
    if isinstance(piece, Dense):
        return lineax.MatrixLinearOperator(piece.matrix, tags)
    dtype = jax.tree.leaves(piece)[0].dtype
    structure = jax.ShapeDtypeStruct(piece.in_shape, dtype)
    return lineax.FunctionLinearOperator(piece.jvp, structure, tags)


def operator_to_lineax(operator: JacobianOperator) -> Any:
    """A Jacobian operator as a `lineax.FunctionLinearOperator` of the argument's pytree."""
    lineax = _lineax()
    structure = jax.tree.unflatten(operator.in_tree, list(operator.in_types))
    return lineax.FunctionLinearOperator(operator.jvp, structure)


def _lineax() -> Any:
    try:
        return importlib.import_module("lineax")
    except ImportError as error:
        raise ArgumentError(
            "the export needs lineax, which is not installed: pip install lineax"
        ) from error
