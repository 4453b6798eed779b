"""Operations of `jax.experimental.sparse`, written out in gathers, products and scatters.

A sparse matrix is its entries and where they are. With M = Σ_e data[e] · E[row[e], column[e]]:

    (M·x)[i] = Σ_{e: row[e] = i} data[e] · x[column[e]]

Written out so, the rules for gather and scatter find the pattern by the index arrays, where these
are known.

    definition(equation)        # a function of the operands, or None
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program

Function = Callable[..., tuple[Any, ...]]


def definition(equation: Any) -> Function | None:
    """What an operation of `jax.experimental.sparse` computes, by other operations.

    Args:
        equation: an equation of a program.

    Returns:
        A function of its operands that gives a tuple of its results, or None where the operation
        is another one or has no such form here.
    """
    maker = DEFINITIONS.get(equation.primitive.name)
    if maker is None:
        return None
    shapes = [program.shape_of(a) for a in equation.invars]
    return maker(program.parameters(equation), shapes)


def _per_batch(f: Function, batch: Sequence[tuple[int, ...]], depth: int) -> Function:
    """A function of one matrix, mapped over batch axes; an operand's axis of size one is shared.

    Args:
        f: a function of arrays without batch axes.
        batch: the leading axes of every operand; an operand without any is shared by all.
        depth: the number of batch axes.
    """
    if not depth:
        return f
    inner = _per_batch(f, [b[1:] for b in batch], depth - 1)
    size = max(b[0] for b in batch if b)
    axes = [0 if b and b[0] == size else None for b in batch]

    def mapped(*operands: Any) -> tuple[Any, ...]:
        shared = [
            jnp.squeeze(x, 0) if b and b[0] != size else x
            for x, b in zip(operands, batch, strict=True)
        ]
        made: tuple[Any, ...] = jax.vmap(inner, tuple(axes))(*shared)
        return made

    return mapped


def _sizes(params: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(params[name].shape)


def _summed(entries: Any, places: Any, shape: tuple[int, ...]) -> Any:
    """Entries added up at their places, the columns of `places` being the leading axes of `shape`.

    With entries [1, 2, 3] at places [[0], [2], [0]] of three: [4, 0, 2].
    """
    start = jnp.zeros(shape, entries.dtype)
    index = tuple(places[:, k] for k in range(places.shape[1]))
    return start.at[index].add(entries, mode="drop") if index else start + entries.sum(0)


def _todense(
    shape: tuple[int, ...],
    shapes: Sequence[tuple[int, ...]],
    depth: int,
    places: Callable[..., Any],
) -> Function:
    """The matrix of entries, for `places` of what is stored beside them."""

    def one(data: Any, *stored: Any) -> tuple[Any, ...]:
        return (_summed(data, places(*stored), shape[depth:]),)

    made = _per_batch(one, [s[:depth] for s in shapes], depth)
    return lambda *operands: (jnp.broadcast_to(made(*operands)[0], shape),)


def _bcoo_todense(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The matrix of entries and their indices."""
    return _todense(_sizes(params, "spinfo"), shapes, len(shapes[1]) - 2, lambda indices: indices)


def _bcoo_extract(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function | None:
    """The entries of a matrix at indices; with repeated ones, the first takes all."""
    if not params.get("assume_unique", True):
        return None
    depth = len(shapes[0]) - 2
    return _per_batch(_picked, [s[:depth] for s in shapes], depth)


def _picked(indices: Any, matrix: Any) -> tuple[Any, ...]:
    """The entries of a matrix at the rows of an index array."""
    index = tuple(indices[:, k] for k in range(indices.shape[1]))
    return (matrix.at[index].get(mode="fill", fill_value=0),)


def _bcoo_sort_indices(
    params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> Function | None:
    """Entries in the order of their indices."""
    if len(shapes[1]) != 2:
        return None

    def whole(data: Any, indices: Any) -> tuple[Any, ...]:
        columns = [indices[:, k] for k in range(indices.shape[1])]
        count = jnp.arange(indices.shape[0])
        order = jax.lax.sort((*columns, count), num_keys=len(columns))[-1] if columns else count
        return data[order], indices[order]

    return whole


def _bcoo_dot_general_sampled(
    params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> Function:
    """Some entries of a product of dense matrices."""
    depth = len(shapes[2]) - 2

    def whole(left: Any, right: Any, indices: Any) -> tuple[Any, ...]:
        product = jax.lax.dot_general(left, right, params["dimension_numbers"])
        batch = [indices.shape[:depth], product.shape[:depth]]
        return _per_batch(_picked, batch, depth)(indices, product)

    return whole


def _bcoo_dot_general(
    params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> Function | None:
    """A sparse array times a dense one: rows of the dense one, gathered, scaled and added up."""
    shape = _sizes(params, "lhs_spinfo")
    return _dot_general(params, shape, shapes[1], shapes[0], shapes[2])


def _dot_general(
    params: Mapping[str, Any],
    shape: tuple[int, ...],
    indices: tuple[int, ...],
    data: tuple[int, ...],
    dense: tuple[int, ...],
) -> Function | None:
    """The product of data at indices, in an array of this shape, with a dense array."""
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    depth, sparse = len(indices) - 2, indices[-1]
    if tuple(left_batch) != tuple(range(depth)):
        return None
    if any(not depth <= d < depth + sparse for d in left):
        return None
    first = (*right_batch, *right)
    order = (*first, *(d for d in range(len(dense)) if d not in first))
    read = [d - depth for d in left]
    written = [k for k in range(sparse) if k not in read]
    dtype = params.get("preferred_element_type")

    def one(data: Any, indices: Any, dense: Any) -> tuple[Any, ...]:
        index = tuple(indices[:, k] for k in read)
        rows = dense.at[index].get(mode="fill", fill_value=0)
        free = rows.ndim - 1
        if not index:
            rows = jnp.broadcast_to(dense, (indices.shape[0], *dense.shape))
            free = dense.ndim
        inside = data.ndim - 1
        spread = data.reshape(data.shape + (1,) * free)
        rows = rows.reshape((rows.shape[0], *(1,) * inside, *rows.shape[1:]))
        products = spread * rows
        result_shape = tuple(shape[depth + k] for k in written) + products.shape[1:]
        result = _summed(products, indices[:, jnp.asarray(written, int)], result_shape)
        return (result if dtype is None else result.astype(dtype),)

    lead = tuple(dense[d] for d in right_batch)
    batched = _per_batch(one, [data[:depth], indices[:depth], lead], depth)

    def whole(data: Any, indices: Any, dense: Any) -> tuple[Any, ...]:
        return batched(data, indices, jnp.transpose(dense, order))

    return whole


def _rows(indptr: Any, count: int) -> Any:
    """The row of every entry of a matrix stored row by row: starts [0, 2, 3] give [0, 0, 1]."""
    return jnp.cumsum(jnp.zeros(count, indptr.dtype).at[indptr].add(1, mode="drop")) - 1


def _bcsr_todense(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The matrix of entries stored row by row."""
    return _todense(_sizes(params, "spinfo"), shapes, len(shapes[1]) - 1, _places)


def _places(indices: Any, indptr: Any) -> Any:
    """Row and column of every entry of a matrix stored row by row."""
    return jnp.stack([_rows(indptr, indices.shape[0]), indices], 1)


def _bcsr_dot_general(
    params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> Function | None:
    """A matrix stored row by row times a dense array."""
    depth = len(shapes[1]) - 1
    product = _dot_general(
        params, _sizes(params, "lhs_spinfo"), (*shapes[1], 2), shapes[0], shapes[3]
    )
    if product is None:
        return None
    places = _per_batch(
        lambda *stored: (_places(*stored),), [s[:depth] for s in shapes[1:3]], depth
    )
    return lambda data, indices, indptr, dense: product(data, *places(indices, indptr), dense)


def _bcsr_extract(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The entries of a matrix at indices stored row by row."""
    depth = len(shapes[0]) - 1

    def one(indices: Any, indptr: Any, matrix: Any) -> tuple[Any, ...]:
        return _picked(_places(indices, indptr), matrix)

    return _per_batch(one, [s[:depth] for s in shapes], depth)


def _coo_todense(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The matrix of entries with a row and a column each."""
    shape = _sizes(params, "spinfo")
    return lambda data, row, column: (_summed(data, jnp.stack([row, column], 1), shape),)


def _coo_product(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """Entries with a row and a column each, times a vector or a matrix; transposed if asked."""
    return _times_dense(_sizes(params, "spinfo"), params["transpose"])


def _times_dense(sizes: tuple[int, ...], transposed: bool) -> Function:
    """The product of data at rows and columns of a matrix of these sizes with a dense array."""
    rows, columns = sizes

    def product(data: Any, row: Any, column: Any, dense: Any) -> tuple[Any, ...]:
        read, written = (row, column) if transposed else (column, row)
        scaled = dense.at[read].get(mode="fill", fill_value=0)
        scaled = data.reshape(data.shape + (1,) * (dense.ndim - 1)) * scaled
        shape = (columns if transposed else rows, *dense.shape[1:])
        return (_summed(scaled, written[:, None], shape),)

    return product


def _csr_todense(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The matrix of entries stored row by row."""
    shape = tuple(params["shape"])
    return lambda data, indices, indptr: (_summed(data, _places(indices, indptr), shape),)


def _csr_product(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """A matrix stored row by row, times a vector or a matrix; transposed if asked."""
    product = _times_dense(tuple(params["shape"]), params["transpose"])
    return lambda data, indices, indptr, dense: product(
        data, _rows(indptr, shapes[1][0]), indices, dense
    )


def _bcoo_transpose(params: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Function:
    """The axes of a sparse array in another order: its entries and indices with theirs."""
    order = params["permutation"]
    depth, sparse = len(shapes[1]) - 2, shapes[1][-1]
    batch = list(order[:depth])
    columns = [d - depth for d in order[depth : depth + sparse]]
    inside = [d - sparse + 1 for d in order[depth + sparse :]]

    def whole(data: Any, indices: Any) -> tuple[Any, ...]:
        places = jnp.transpose(indices, (*batch, depth, depth + 1))
        return jnp.transpose(data, (*batch, depth, *inside)), places[..., jnp.asarray(columns, int)]

    return whole


DEFINITIONS: dict[
    str, Callable[[Mapping[str, Any], Sequence[tuple[int, ...]]], Function | None]
] = {
    "bcoo_todense": _bcoo_todense,
    "bcoo_extract": _bcoo_extract,
    "bcoo_dot_general": _bcoo_dot_general,
    "bcoo_dot_general_sampled": _bcoo_dot_general_sampled,
    "bcoo_sort_indices": _bcoo_sort_indices,
    "bcoo_transpose": _bcoo_transpose,
    "bcsr_todense": _bcsr_todense,
    "bcsr_dot_general": _bcsr_dot_general,
    "bcsr_extract": _bcsr_extract,
    "coo_todense": _coo_todense,
    "coo_matvec": _coo_product,
    "coo_matmat": _coo_product,
    "csr_todense": _csr_todense,
    "csr_matvec": _csr_product,
    "csr_matmat": _csr_product,
}
