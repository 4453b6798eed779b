"""Structured Jacobians as `lineax` operators, with the tags that their structure proves.

An export maps arrays of the shapes that the function has, as `piece.jvp` does, and is a pytree of
arrays: it goes in and out of `jax.jit` and `jax.vmap`. `lineax` trusts its tags without looking, so
a property without proof is no tag. `lineax` is no dependency: it is imported when needed.

    >>> jacobian(heat, format="blocks")(u).to_lineax()        # a TridiagonalLinearOperator
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from jacobians.errors import ArgumentError
from jacobians.pieces import Banded, Dense, Diagonal, JacobianOperator, Piece, Zero

# tags of a matrix from one space to itself, and those of any square matrix
SAME_SPACE = {"symmetric": "symmetric_tag"}
SQUARE = {
    "lower-triangular": "lower_triangular_tag",
    "upper-triangular": "upper_triangular_tag",
}


def to_lineax(piece: Piece) -> Any:
    """A piece as the `lineax` operator of its kind, from arrays `in_shape` to arrays `out_shape`.

    Args:
        piece: a piece of `jacobian(f, format="blocks")`.

    Returns:
        `DiagonalLinearOperator`, `TridiagonalLinearOperator` (of vectors only, as lineax has it),
        `MatrixLinearOperator`, `PyTreeLinearOperator` for a matrix between other arrays than
        vectors, else `FunctionLinearOperator`; the tridiagonal one inside a
        `TaggedLinearOperator` where it is known to be symmetric or triangular.

    Raises:
        ArgumentError: lineax is not installed, or the piece holds a batch of matrices.
    """
    lineax = _lineax()
    piece.check_single()
    dtype = jax.tree.leaves(piece)[0].dtype
    into, out = (jax.ShapeDtypeStruct(s, dtype) for s in (piece.in_shape, piece.out_shape))
    if isinstance(piece, (Diagonal, Zero)) and piece.in_shape == piece.out_shape:
        values = piece.values if isinstance(piece, Diagonal) else jnp.zeros(into.shape, dtype)
        return lineax.DiagonalLinearOperator(values.reshape(into.shape))
    tags = frozenset(getattr(lineax, name) for name in _tags(piece))
    vectors = len(piece.in_shape) == len(piece.out_shape) == 1
    if isinstance(piece, Dense):
        if vectors:
            return lineax.MatrixLinearOperator(piece.matrix, tags)
        return lineax.PyTreeLinearOperator(piece.todense(), out, tags)
    if vectors and "tridiagonal" in piece.properties:
        if isinstance(piece, Banded):
            made = lineax.TridiagonalLinearOperator(*_three_diagonals(piece))
            return lineax.TaggedLinearOperator(made, tags) if tags else made
        tags |= {lineax.tridiagonal_tag}
    # a pytree of arrays as it is: conversion of a closure would hide a traced program in it
    product = jax.tree_util.Partial(_jvp, piece)
    return lineax.FunctionLinearOperator(product, into, tags, closure_convert=False)


def operator_to_lineax(operator: JacobianOperator) -> Any:
    """A Jacobian operator as a `lineax.FunctionLinearOperator` of the argument's pytree.

    Args:
        operator: what `jacobian(f, format="operator")` returns.

    Returns:
        The operator, without tags: no structure is proved of it.

    Raises:
        ArgumentError: lineax is not installed.
    """
    lineax = _lineax()
    structure = jax.tree.unflatten(operator.in_tree, list(operator.in_types))
    product = jax.tree_util.Partial(_jvp, operator)
    return lineax.FunctionLinearOperator(product, structure, closure_convert=False)


def _jvp(linear: Any, tangent: Any) -> Any:
    return linear.jvp(tangent)


def _tags(piece: Piece) -> list[str]:
    m, n = piece.shape
    known = SQUARE if m == n else {}
    if piece.in_shape == piece.out_shape:
        known = known | SAME_SPACE
    return [tag for name, tag in known.items() if name in piece.properties]


def _three_diagonals(piece: Banded) -> tuple[Any, Any, Any]:
    """The main, lower and upper diagonals of a matrix with one or none beside the main one."""
    d, n = piece.diagonals, piece.shape[0]
    none = jnp.zeros(n - 1, d.dtype)
    lower = d[piece.lower - 1, 1:] if piece.lower else none
    upper = d[piece.lower + 1, :-1] if piece.upper else none
    return d[piece.lower], lower, upper


def _lineax() -> Any:
    try:
        return importlib.import_module("lineax")
    except ImportError as error:
        raise ArgumentError(
            "the export needs lineax, which is not installed: pip install lineax"
        ) from error
