"""Structured Jacobians as `lineax` operators: what all kinds of pieces share.

An export maps arrays of the shapes that the function has, as `piece.jvp` does, and is a pytree of
arrays: it goes in and out of `jax.jit` and `jax.vmap`. `lineax` trusts its tags without looking, so
a property without proof is no tag. `lineax` is no dependency: it is imported when needed.

    jacobian(heat, format="blocks")(u).to_lineax()        # a TridiagonalLinearOperator
"""

import importlib
from collections.abc import Iterable
from typing import Any

import jax

from jacobians.errors import ArgumentError

# tags of a matrix from one space to itself, and those of any square matrix
SAME_SPACE = {"symmetric": "symmetric_tag"}
SQUARE = {
    "lower-triangular": "lower_triangular_tag",
    "upper-triangular": "upper_triangular_tag",
}


def load_lineax() -> Any:
    """The library.

    Raises:
        ArgumentError: it is not installed.
    """
    try:
        return importlib.import_module("lineax")
    except ImportError as error:
        raise ArgumentError(
            "the export needs lineax, which is not installed: pip install lineax"
        ) from error


def tags_of(
    lineax: Any,
    properties: Iterable[str],
    out_shape: tuple[int, ...],
    in_shape: tuple[int, ...],
    square: bool,
) -> frozenset[Any]:
    """The tags of a matrix whose properties are proved.

    Args:
        lineax: the library.
        properties: of the flattened matrix, as `Piece.properties`.
        out_shape: shape of what it maps to.
        in_shape: shape of what it maps from.
        square: whether the flattened matrix is square.
    """
    known = (SQUARE if square else {}) | (SAME_SPACE if out_shape == in_shape else {})
    return frozenset(getattr(lineax, tag) for name, tag in known.items() if name in properties)


def by_its_products(
    lineax: Any, linear: Any, structure: Any, tags: frozenset[Any] = frozenset()
) -> Any:
    """Anything with a `jvp` as a `lineax.FunctionLinearOperator`.

    Args:
        lineax: the library.
        linear: a pytree of arrays with a method `jvp`.
        structure: what it is applied to, in shapes and dtypes.
        tags: what is known of its matrix.
    """
    # a pytree of arrays as it is: conversion of a closure would hide a traced program in it
    product = jax.tree_util.Partial(_jvp, linear)
    return lineax.FunctionLinearOperator(product, structure, tags, closure_convert=False)


def _jvp(linear: Any, tangent: Any) -> Any:
    """A function of the module, so that partial applications of it are equal pytrees."""
    return linear.jvp(tangent)
