"""Jacobian blocks as structured linear maps: `format="blocks"` and `format="operator"`.

A diagonal block is its diagonal, a block-diagonal one an array [B, m, n], an outer product its two
factors, a band its diagonals. Every piece is a pytree with the same few methods, none of which
builds the matrix but `todense`.

    piece = jacobian(jax.nn.relu, format="blocks")(x)
    piece.values.shape, piece.jvp(tangent), piece.vjp(cotangent), piece @ vector
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from jacobians.errors import ArgumentError
from jacobians.sparse.forms.lineax_export import by_its_products, load_lineax, tags_of

Shape = tuple[int, ...]


def _static(*names: str) -> Callable[[type], type]:
    """Registers a dataclass as a pytree whose named fields are no arrays."""

    def register(cls: type) -> type:
        fields = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        data = [n for n in fields if n not in names]
        jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(names))
        return cls

    return register


class Piece:
    """A linear map from arrays of shape `in_shape` to arrays of shape `out_shape`.

    `properties` are the names of `jacobians.structure.kinds` that are proved of the flattened
    matrix. A triangle is one of entries here, that of blocks is called `block-lower-triangular`; at
    most one diagonal on either side of the main one is `tridiagonal`.
    """

    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str]

    @property
    def _axes(self) -> tuple[int, int]:
        """The number of axes of what it holds: as it is, and as it is for one matrix."""
        raise NotImplementedError

    def check_single(self) -> None:
        """Refuses a batch of matrices.

        Raises:
            ArgumentError: the piece comes out of `jax.vmap`, which puts a further axis before all
                that it holds.
        """
        given, expected = self._axes
        if given != expected:
            m, n = self.shape
            raise ArgumentError(
                f"this {type(self).__name__} piece holds a batch of {m}×{n} matrices, as jax.vmap "
                "returns them; use it inside a function that is mapped over the batch"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the flattened matrix."""
        return prod(self.out_shape), prod(self.in_shape)

    def times(self, vector: Any) -> Any:
        """The flattened matrix times a flat vector."""
        raise NotImplementedError

    def times_transposed(self, vector: Any) -> Any:
        """The transposed flattened matrix times a flat vector."""
        raise NotImplementedError

    def jvp(self, tangent: Any) -> Any:
        """The image of a tangent, shape `in_shape` → `out_shape`."""
        self.check_single()
        tangent = jnp.asarray(tangent)
        _check_shape(tangent, self.in_shape, "tangent")
        return self.times(jnp.reshape(tangent, -1)).reshape(self.out_shape)

    def vjp(self, cotangent: Any) -> Any:
        """The image of a cotangent, shape `out_shape` → `in_shape`."""
        self.check_single()
        cotangent = jnp.asarray(cotangent)
        _check_shape(cotangent, self.out_shape, "cotangent")
        return self.times_transposed(jnp.reshape(cotangent, -1)).reshape(self.in_shape)

    def __matmul__(self, other: Any) -> Any:
        """The product with a tangent, or the flattened matrix with a flat vector or a matrix."""
        self.check_single()
        m, n = self.shape
        if jnp.shape(other) == self.in_shape:
            return self.jvp(other)
        if jnp.ndim(other) == 1 and jnp.shape(other)[0] == n:
            return self.times(jnp.asarray(other))
        if jnp.ndim(other) == 2 and jnp.shape(other)[0] == n:
            return jax.vmap(self.times, in_axes=1, out_axes=1)(jnp.asarray(other))
        raise ArgumentError(
            f"cannot multiply a {m}×{n} Jacobian with an array of shape {jnp.shape(other)}; "
            f"expected {self.in_shape}, ({n},) or ({n}, k)"
        )

    def todense(self) -> Any:
        """The block as an array of shape `out_shape + in_shape`."""
        self.check_single()
        return self._dense()

    def _dense(self) -> Any:
        unit = jnp.eye(self.shape[1], dtype=jax.tree.leaves(self)[0].dtype)
        matrix = jax.vmap(self.times, in_axes=1, out_axes=1)(unit)
        return matrix.reshape(*self.out_shape, *self.in_shape)

    def to_lineax(self) -> Any:
        """The block as the `lineax` operator of its kind, with the tags that are proved.

        Returns:
            An operator from arrays `in_shape` to arrays `out_shape`: `DiagonalLinearOperator`,
            `TridiagonalLinearOperator` (of vectors only, as lineax has it),
            `MatrixLinearOperator`, `PyTreeLinearOperator` for a matrix between other arrays than
            vectors, else `FunctionLinearOperator`; the tridiagonal one inside a
            `TaggedLinearOperator` where it is known to be symmetric or triangular.

        Raises:
            ArgumentError: lineax is not installed, or the piece holds a batch of matrices.
        """
        lineax = load_lineax()
        self.check_single()
        m, n = self.shape
        tags = tags_of(lineax, self.properties, self.out_shape, self.in_shape, m == n)
        return self._as_lineax(lineax, jax.tree.leaves(self)[0].dtype, tags)

    def _as_lineax(self, lineax: Any, dtype: Any, tags: frozenset[Any]) -> Any:
        """The operator of this kind of piece: here by its products."""
        if self._between_vectors and "tridiagonal" in self.properties:
            tags |= {lineax.tridiagonal_tag}
        into = jax.ShapeDtypeStruct(self.in_shape, dtype)
        return by_its_products(lineax, self, into, tags)

    @property
    def _between_vectors(self) -> bool:
        """Whether it maps vectors to vectors."""
        return len(self.in_shape) == len(self.out_shape) == 1


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Zero(Piece):
    """A block that is zero. `like` is an empty array of the block's dtype."""

    like: Any
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.like), 1

    def times(self, vector: Any) -> Any:
        return jnp.zeros(self.shape[0], self.like.dtype)

    def times_transposed(self, vector: Any) -> Any:
        return jnp.zeros(self.shape[1], self.like.dtype)

    def _dense(self) -> Any:
        return jnp.zeros((*self.out_shape, *self.in_shape), self.like.dtype)

    def _as_lineax(self, lineax: Any, dtype: Any, tags: frozenset[Any]) -> Any:
        if self.in_shape != self.out_shape:
            return super()._as_lineax(lineax, dtype, tags)
        return lineax.DiagonalLinearOperator(jnp.zeros(self.in_shape, dtype))


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Diagonal(Piece):
    """A diagonal block; `values` [n] is its diagonal."""

    values: Any
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.values), 1

    def times(self, vector: Any) -> Any:
        return self.values * vector

    def times_transposed(self, vector: Any) -> Any:
        return self.values * vector

    def _dense(self) -> Any:
        return jnp.diag(self.values).reshape(*self.out_shape, *self.in_shape)

    def _as_lineax(self, lineax: Any, dtype: Any, tags: frozenset[Any]) -> Any:
        if self.in_shape != self.out_shape:
            return super()._as_lineax(lineax, dtype, tags)
        return lineax.DiagonalLinearOperator(self.values.reshape(self.in_shape))


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class BlockDiagonal(Piece):
    """A block-diagonal block; `blocks` [B, m, n] are the matrices on its diagonal."""

    blocks: Any
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.blocks), 3

    def times(self, vector: Any) -> Any:
        count, _, width = self.blocks.shape
        return jnp.einsum("bij,bj->bi", self.blocks, vector.reshape(count, width)).reshape(-1)

    def times_transposed(self, vector: Any) -> Any:
        count, height, _ = self.blocks.shape
        return jnp.einsum("bij,bi->bj", self.blocks, vector.reshape(count, height)).reshape(-1)

    def _dense(self) -> Any:
        count, height, width = self.blocks.shape
        matrix = jnp.zeros((count, height, count, width), self.blocks.dtype)
        k = jnp.arange(count)
        return matrix.at[k, :, k, :].set(self.blocks).reshape(*self.out_shape, *self.in_shape)


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Outer(Piece):
    """An outer product of two arrays: `left.shape + right.shape` is `out_shape + in_shape`.

    For a scalar output both factors belong to the input: ∂f/∂W = left·rightᵀ.
    """

    left: Any
    right: Any
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.left) + jnp.ndim(self.right), len(self.out_shape) + len(self.in_shape)

    @property
    def _cut(self) -> int:
        """How many of the left factor's axes, counted from the first of the input, are inputs."""
        return jnp.ndim(self.left) - len(self.out_shape)

    def times(self, vector: Any) -> Any:
        m, n = self.shape
        if self._cut > 0:
            # Σ left[out, j]·right[k]·v[j, k]: over k first
            inner = vector.reshape(-1, self.right.size) @ self.right.reshape(-1)
            return self.left.reshape(m, -1) @ inner
        # left[i]·Σ right[k, inp]·v[inp]
        inner = self.right.reshape(-1, n) @ vector
        return (self.left.reshape(-1, 1) * inner).reshape(-1)

    def times_transposed(self, vector: Any) -> Any:
        m, n = self.shape
        if self._cut > 0:
            inner = vector @ self.left.reshape(m, -1)
            return (inner[:, None] * self.right.reshape(-1)).reshape(-1)
        inner = self.left.reshape(-1) @ vector.reshape(self.left.size, -1)
        return inner @ self.right.reshape(-1, n)

    def _dense(self) -> Any:
        return jnp.outer(self.left, self.right).reshape(*self.out_shape, *self.in_shape)


@_static("lower", "upper", "out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Banded(Piece):
    """A banded block: `diagonals[k, i]` is entry (i, i + k − lower), 0 outside the matrix."""

    diagonals: Any
    lower: int
    upper: int
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.diagonals), 2

    def times(self, vector: Any) -> Any:
        m, n = self.shape
        count = len(self.diagonals)
        padded = jnp.pad(vector, (self.lower, max(0, m + self.upper - n)))
        # diagonal k meets the m entries from the k-th on
        met = jax.vmap(lambda k: jax.lax.dynamic_slice(padded, (k,), (m,)))(jnp.arange(count))
        return jnp.sum(self.diagonals * met, axis=0)

    def times_transposed(self, vector: Any) -> Any:
        m, n = self.shape
        count = len(self.diagonals)
        around = count - 1, max(count - 1, self.lower + n - m)

        def moved(array: Any, k: Any) -> Any:
            """From the column `lower` to the left of the first on: row i in column i + k."""
            return jax.lax.dynamic_slice(array, (k,), (self.lower + n,))

        firsts = count - 1 - jnp.arange(count)
        diagonals = jax.vmap(moved)(jnp.pad(self.diagonals, ((0, 0), around)), firsts)
        vectors = jax.vmap(moved, in_axes=(None, 0))(jnp.pad(vector, around), firsts)
        return jnp.sum(diagonals * vectors, axis=0)[self.lower :]

    def _dense(self) -> Any:
        m, n = self.shape
        distance = np.arange(n)[None] - np.arange(m)[:, None] + self.lower
        inside = (distance >= 0) & (distance < len(self.diagonals))
        # chosen, not multiplied: an infinite entry must not spoil the rest of its row
        chosen = self.diagonals[np.where(inside, distance, 0), np.arange(m)[:, None]]
        return jnp.where(inside, chosen, 0).reshape(*self.out_shape, *self.in_shape)

    def _as_lineax(self, lineax: Any, dtype: Any, tags: frozenset[Any]) -> Any:
        if not self._between_vectors or "tridiagonal" not in self.properties:
            return super()._as_lineax(lineax, dtype, tags)
        d, none = self.diagonals, jnp.zeros(self.shape[0] - 1, dtype)
        lower = d[self.lower - 1, 1:] if self.lower else none
        upper = d[self.lower + 1, :-1] if self.upper else none
        made = lineax.TridiagonalLinearOperator(d[self.lower], lower, upper)
        return lineax.TaggedLinearOperator(made, tags) if tags else made


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Sparse(Piece):
    """Any other block with zeros; `matrix` is the flattened matrix as BCOO."""

    matrix: BCOO
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.matrix.data), 1

    def times(self, vector: Any) -> Any:
        rows, columns = self.matrix.indices[:, 0], self.matrix.indices[:, 1]
        made = self.matrix.data * vector[columns]
        total = jnp.zeros(self.shape[0], made.dtype)
        return total.at[rows].add(made, indices_are_sorted=True)

    def times_transposed(self, vector: Any) -> Any:
        rows, columns = self.matrix.indices[:, 0], self.matrix.indices[:, 1]
        made = self.matrix.data * vector[rows]
        return jnp.zeros(self.shape[1], made.dtype).at[columns].add(made)

    def _dense(self) -> Any:
        return self.matrix.todense().reshape(*self.out_shape, *self.in_shape)


@_static("out_shape", "in_shape", "properties")
@dataclass(frozen=True, eq=False)
class Dense(Piece):
    """A block with no or few known zeros; `matrix` [m, n] is the flattened matrix."""

    matrix: Any
    out_shape: Shape
    in_shape: Shape
    properties: frozenset[str] = frozenset()

    @property
    def _axes(self) -> tuple[int, int]:
        return jnp.ndim(self.matrix), 2

    def times(self, vector: Any) -> Any:
        return self.matrix @ vector

    def times_transposed(self, vector: Any) -> Any:
        return vector @ self.matrix

    def _dense(self) -> Any:
        return self.matrix.reshape(*self.out_shape, *self.in_shape)

    def _as_lineax(self, lineax: Any, dtype: Any, tags: frozenset[Any]) -> Any:
        if self._between_vectors:
            return lineax.MatrixLinearOperator(self.matrix, tags)
        out = jax.ShapeDtypeStruct(self.out_shape, dtype)
        return lineax.PyTreeLinearOperator(self.todense(), out, tags)


def _check_real(arrays: Any, what: str) -> None:
    if any(jnp.iscomplexobj(x) for x in arrays):
        raise ArgumentError(
            f"the {what} is complex; multiply its real and imaginary parts one after the other"
        )


def _check_shape(array: Any, shape: Shape, what: str) -> None:
    if jnp.shape(array) != shape:
        raise ArgumentError(f"the {what} has shape {jnp.shape(array)}, expected {shape}")
