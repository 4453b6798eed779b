"""The forms that a Jacobian's entries are given in.

Entries come as one flat array per block, in the order of its pattern; index arrays are made once
and shared between results, or, for a grid, computed where they are needed.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jax.experimental.sparse import BCOO

from jacobians.sparse.forms.pieces import (
    Banded,
    BlockDiagonal,
    Dense,
    Diagonal,
    Outer,
    Piece,
    Sparse,
    Zero,
)
from jacobians.sparse.pattern import Pattern
from jacobians.sparse.prepared import Prepared
from jacobians.structure.kinds import Structure

# a band of so few diagonals is one in any matrix, however small; of more, where they are at most
# half as many as columns
FEW_DIAGONALS = 16
# a grid's indices beyond so many are computed inside the program rather than stored in it
MAX_CONSTANT = 1 << 18

TRIANGLES = frozenset(["lower-triangular", "upper-triangular"])
BY_ENTRY = TRIANGLES | {"diagonal"}

Maker = Callable[[Prepared, dict[Any, Any], bool, int, Any], Any]


def bcoo(prepared: Prepared, kept: dict[Any, Any], traced: bool, k: int, data: Any) -> BCOO:
    """A block as `BCOO` of shape output + input."""
    pattern = prepared.blocks[k].pattern
    indices = _kept(kept, ("indices", k), traced, pattern)
    shape = (*pattern.out_shape, *pattern.in_shape)
    return BCOO((data, indices), shape=shape, indices_sorted=True, unique_indices=True)


def dense(prepared: Prepared, kept: dict[Any, Any], traced: bool, k: int, data: Any) -> Any:
    """A block as an array of shape output + input."""
    pattern = prepared.blocks[k].pattern
    shape = (*pattern.out_shape, *pattern.in_shape)
    if pattern.full:
        return data.reshape(shape)
    if pattern.count == 0:
        return jnp.zeros(shape, data.dtype)
    fill = _filled if traced else _filled_at_once
    return fill(data, (pattern.rows, pattern.columns), pattern.shape, True).reshape(shape)


def _filled(data: Any, places: tuple[Any, ...], shape: tuple[int, ...], in_order: bool) -> Any:
    """Zeros with the entries at their places, each of which is named once."""
    return (
        jnp.zeros(shape, data.dtype)
        .at[places]
        .set(data, unique_indices=True, indices_are_sorted=in_order)
    )


# outside of a trace every operation would be compiled by itself
_filled_at_once = jax.jit(_filled, static_argnums=(2, 3))


def csr(prepared: Prepared, kept: dict[Any, Any], traced: bool, k: int, data: Any) -> Any:
    """A block as `scipy.sparse.csr_array` of the flattened matrix."""
    pattern = prepared.blocks[k].pattern
    if ("csr", k) not in kept:
        counts = np.bincount(pattern.rows, minlength=pattern.shape[0])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(pattern.columns.dtype)
        kept.setdefault(("csr", k), (starts, np.ascontiguousarray(pattern.columns)))
    starts, columns = kept["csr", k]
    values = np.asarray(data)
    if values.dtype.name not in ("float32", "float64"):
        # SciPy knows no half precision
        values = values.astype(np.float32)
    result = sparse.csr_array((values, columns.copy(), starts.copy()), shape=pattern.shape)
    result.has_canonical_format = True
    return result


def blocks(prepared: Prepared, kept: dict[Any, Any], traced: bool, k: int, data: Any) -> Piece:
    """A block as the structured piece that its proved structure allows."""
    plan = prepared.blocks[k]
    pattern = plan.pattern
    if ("form", k) not in kept:
        kept.setdefault(("form", k), _form(prepared, k))
    structure, properties, lower, upper = kept["form", k]
    fill = _filled if traced else _filled_at_once
    shapes = (pattern.out_shape, pattern.in_shape, properties)
    m, n = pattern.shape
    if pattern.count == 0:
        return Zero(data, *shapes)
    if plan.outer is not None:
        left, right = data
        return Outer(left, right, *shapes)
    if "diagonal" in properties:
        values = data
        if pattern.count < n:
            values = fill(data, (pattern.rows,), (n,), True)
        return Diagonal(values, *shapes)
    if pattern.full:
        return Dense(data.reshape(m, n), *shapes)
    if structure.kind in ("block-diagonal", "kronecker") and structure.get("blocks"):
        height, width = structure.get("block_shape")
        made = _block_diagonal(fill, pattern, data, structure.get("blocks"), height, width)
        return BlockDiagonal(made, *shapes)
    diagonals = lower + upper + 1
    dense_band = diagonals * m <= 2 * pattern.count
    if dense_band and diagonals <= max(FEW_DIAGONALS, n // 2):
        offsets = pattern.columns.astype(np.int64) - pattern.rows
        place = (offsets + lower) * m + pattern.rows
        flat = fill(data, (place,), (diagonals * m,), False)
        return Banded(flat.reshape(-1, m), lower, upper, *shapes)
    if dense_band or 2 * pattern.count >= m * n:
        # entries with their indices take more memory than the whole from a third of it on
        return Dense(dense(prepared, kept, traced, k, data).reshape(m, n), *shapes)
    indices = np.stack([pattern.rows, pattern.columns], axis=1)
    entries = data, jnp.asarray(indices)
    matrix = BCOO(entries, shape=(m, n), indices_sorted=True, unique_indices=True)
    return Sparse(matrix, *shapes)


def _form(prepared: Prepared, k: int) -> tuple[Structure, frozenset[str], int, int]:
    """A block's structure, what is known of its entries, and its lower and upper bandwidth.

    A name may speak of blocks: a matrix is called triangular too when it is triangular in blocks.
    So diagonals and triangles are read off the entries.
    """
    plan, proof = prepared.blocks[k], prepared.proof(k)
    pattern = plan.pattern
    m, n = pattern.shape
    if pattern.count == 0 or pattern.is_diagonal:
        lower, upper = 0, 0
    elif pattern.full or plan.outer is not None:
        lower, upper = m - 1, n - 1
    else:
        offsets = pattern.columns.astype(np.int64) - pattern.rows
        lower, upper = max(0, -int(np.min(offsets))), max(0, int(np.max(offsets)))
    properties = set(proof.properties) - BY_ENTRY
    if proof.structure.kind in TRIANGLES and proof.structure.get("blocks"):
        properties.add(f"block-{proof.structure.kind}")
    if m == n:
        found = (lower == upper == 0, lower == 0, upper == 0, max(lower, upper) <= 1)
        names = ("diagonal", "upper-triangular", "lower-triangular", "tridiagonal")
        properties |= {name for name, holds in zip(names, found, strict=True) if holds}
        if lower == upper == 0:
            properties.add("symmetric")
    return proof.structure, frozenset(properties), lower, upper


def _block_diagonal(
    fill: Callable[..., Any], pattern: Pattern, data: Any, count: int, height: int, width: int
) -> Any:
    """The blocks of a block-diagonal matrix, one after the other."""
    shape = (count, height, width)
    if pattern.count == prod(shape):
        # entries in row-major order are those of one block after the other
        return data.reshape(shape)
    rows = pattern.rows.astype(np.int64)
    place = rows * width + pattern.columns % width
    return fill(data, (place,), (prod(shape),), False).reshape(shape)


MAKERS: dict[str, Maker] = {"bcoo": bcoo, "dense": dense, "scipy": csr, "blocks": blocks}


def _kept(kept: dict[Any, Any], name: Any, traced: bool, pattern: Pattern) -> Any:
    """An index array: shared between eager calls, a constant or computed while tracing."""
    if name in kept:
        return kept[name]
    if traced:
        computed = pattern.grid is not None and pattern.count > MAX_CONSTANT
        return pattern.indices(jnp if computed else np)
    if pattern.grid is not None and pattern.count > MAX_CONSTANT:
        # a copy to the device costs more than a compilation from so many entries on
        with jax.ensure_compile_time_eval():
            indices = jax.jit(lambda: pattern.indices(jnp))()
    else:
        # kept for later calls, so never a tracer of a program that is being traced around this one
        with jax.ensure_compile_time_eval():
            indices = jax.device_put(pattern.indices())
    return kept.setdefault(name, indices)
