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

from jacobians.pattern import Pattern
from jacobians.prepare import Prepared

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
    m, n = pattern.shape
    matrix = jnp.zeros((m, n), data.dtype)
    filled = matrix.at[pattern.rows, pattern.columns].set(
        data, unique_indices=True, indices_are_sorted=True
    )
    return filled.reshape(shape)


def csr(prepared: Prepared, kept: dict[Any, Any], traced: bool, k: int, data: Any) -> Any:
    """A block as `scipy.sparse.csr_array` of the flattened matrix."""
    pattern = prepared.blocks[k].pattern
    if ("csr", k) not in kept:
        counts = np.bincount(pattern.rows, minlength=pattern.shape[0])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(pattern.columns.dtype)
        kept["csr", k] = starts, np.ascontiguousarray(pattern.columns)
    starts, columns = kept["csr", k]
    values = np.asarray(data)
    if values.dtype.name not in ("float32", "float64"):
        # SciPy knows no half precision
        values = values.astype(np.float32)
    result = sparse.csr_array((values, columns.copy(), starts.copy()), shape=pattern.shape)
    result.has_canonical_format = True
    return result


MAKERS: dict[str, Maker] = {"bcoo": bcoo, "dense": dense, "scipy": csr}


def _kept(kept: dict[Any, Any], name: Any, traced: bool, pattern: Pattern) -> Any:
    """An index array: shared between eager calls, a constant or computed while tracing."""
    if name in kept:
        return kept[name]
    if traced:
        return pattern.indices(jnp if pattern.grid is not None else np)
    if pattern.grid is not None:
        with jax.ensure_compile_time_eval():
            kept[name] = jax.jit(lambda: pattern.indices(jnp))()
    else:
        kept[name] = jnp.asarray(pattern.indices())
    return kept[name]


def operator(plain: Any, runtime: Any, in_trees: Any, out_tree: Any) -> Any:
    raise NotImplementedError


del prod
