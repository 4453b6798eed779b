"""Names from numbers: the structure of a Jacobian block seen at one or more points.

What is seen holds at the points seen, no more. Over several points a zero has to be zero at all of
them, and a claim about values (identity, Toeplitz, rank one, …) has to hold at each. Rounding is
allowed for relative to the largest entry of each matrix; entries that are NaN or infinite count as
nonzero and support no claim about values.

    >>> observe([np.eye(3), np.eye(3)], out_shape=(3,), in_shape=(3,)).structure.kind
    'identity'
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.structure.kinds import Structure, kinds_of, most_specific

Matrix = NDArray[Any]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]

RANK_LIMIT = 512
LOW_RANK_LIMIT = 128


@dataclass(frozen=True)
class Observation:
    """What was seen of a block.

    Attributes:
        structure: the most specific structure that holds.
        properties: every kind that holds, with 'constant' and 'symmetric'.
        rank: (lowest, highest) rank over the points; None when it was not computed.
        points: the number of points.
        nonfinite: the number of entries that were NaN or infinite at some point.
    """

    structure: Structure
    properties: frozenset[str]
    rank: tuple[int, int] | None
    points: int
    nonfinite: int


@dataclass(frozen=True, eq=False)
class _View:
    """Matrices prepared for naming, [count, m, n]: rounding cleaned away, patterns joined."""

    stack: Matrix
    pattern: Mask
    out_shape: Shape
    in_shape: Shape
    tolerance: float
    finite: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.shape[0], self.pattern.shape[1]

    @property
    def square(self) -> bool:
        return self.shape[0] == self.shape[1]


def observe(
    matrices: Sequence[Matrix],
    *,
    out_shape: Shape,
    in_shape: Shape,
    tolerance: float | None = None,
) -> Observation:
    """Names the structure that matrices share.

    Args:
        matrices: one m×n matrix per point, m and n the sizes of `out_shape` and `in_shape`.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        tolerance: entries and differences up to this, relative to the largest entry, are
            rounding; default 1e-9 for double precision, 1e-5 for less.

    Returns:
        The observation. It never fails on NaN, infinities or empty matrices.
    """
    if not matrices:
        raise ValueError("nothing to observe: give at least one matrix")
    view = _prepare(matrices, out_shape, in_shape, tolerance)
    structures = _name(view, blocks=True)
    properties = kinds_of(structures, most_specific(structures))
    # "banded, Toeplitz" and "lower-triangular, Toeplitz" say more than "Toeplitz" does
    if any(s.get("toeplitz") for s in structures):
        structures = [s for s in structures if s.kind != "toeplitz"]
    if view.finite and _close(view, view.stack, view.stack[:1]):
        properties.add("constant")
    if view.finite and view.square and _close(view, view.stack, view.stack.swapaxes(1, 2)):
        properties.add("symmetric")
    bad = sum(int((~np.isfinite(m)).sum()) for m in matrices)
    return Observation(
        most_specific(structures), frozenset(properties), _rank(view), len(matrices), bad
    )


def _prepare(
    matrices: Sequence[Matrix], out_shape: Shape, in_shape: Shape, tolerance: float | None
) -> _View:
    shape = prod(out_shape), prod(in_shape)
    arrays = [np.asarray(m).reshape(shape) for m in matrices]
    if tolerance is None:
        double = all(a.dtype in (np.float64, np.complex128) for a in arrays)
        tolerance = 1e-9 if double else 1e-5
    stack = np.stack(arrays)
    good = np.isfinite(stack)
    size = np.abs(np.where(good, stack, 0))
    largest = size.max(axis=(1, 2), initial=0.0)
    cleaned = np.where(good & (size <= tolerance * largest[:, None, None]), 0, stack)
    pattern = np.asarray((cleaned != 0).any(axis=0))
    return _View(cleaned, pattern, out_shape, in_shape, tolerance, bool(good.all()))


def _close(view: _View, a: Matrix, b: Matrix) -> bool:
    """Whether arrays [count, …] are equal, each up to rounding relative to its largest entry."""
    a, b = np.broadcast_arrays(a, b)
    axes = tuple(range(1, a.ndim))
    largest = np.maximum(np.abs(a).max(axes, initial=0.0), np.abs(b).max(axes, initial=0.0))
    limit = 10 * view.tolerance * largest.reshape(-1, *[1] * len(axes))
    return bool((np.abs(a - b) <= limit).all())


def _name(view: _View, blocks: bool) -> list[Structure]:
    """Every structure that holds, the parameters of each filled in."""
    if not view.pattern.any():
        return [Structure("zero")]
    found: list[Structure] = []
    checks: list[Callable[[_View], Structure | None]] = [
        _identity,
        _scaled_identity,
        _diagonal,
        _permutation,
        _selection,
        _circulant,
        _toeplitz,
        _banded,
        _lower,
        _upper,
        _kronecker,
        _outer,
        _diagonal_plus_low_rank,
    ]
    for check in checks:
        structure = check(view)
        if structure is not None:
            found.append(structure)
    diagonal = any(s.kind in ("identity", "scaled-identity", "diagonal") for s in found)
    if blocks and not diagonal:
        found.extend(_block_diagonal(view))
    m, n = view.shape
    sparse = 2 * int(view.pattern.sum()) <= m * n
    if sparse:
        found.append(Structure("sparse"))
    return found or [Structure("dense")]


def _entries(view: _View) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.nonzero(view.pattern)
    return rows, columns


def _diagonal(view: _View) -> Structure | None:
    if not view.square:
        return None
    rows, columns = _entries(view)
    return Structure("diagonal") if bool((rows == columns).all()) else None


def _scaled_identity(view: _View) -> Structure | None:
    if _diagonal(view) is None or not view.finite:
        return None
    diagonals = np.diagonal(view.stack, axis1=1, axis2=2)
    if not _close(view, diagonals, diagonals[:, :1]):
        return None
    scales = diagonals[:, 0]
    same = _close(view, scales[None], np.full((1, len(scales)), scales[0]))
    if view.shape == (1, 1) and not same:
        return None
    shown = same and np.isrealobj(scales)
    return Structure("scaled-identity", (("scale", float(scales[0])),) if shown else ())


def _identity(view: _View) -> Structure | None:
    scaled = _scaled_identity(view)
    if scaled is None or scaled.get("scale") is None:
        return None
    return Structure("identity") if abs(scaled.get("scale") - 1.0) <= 10 * view.tolerance else None


def _ones_per_row(view: _View) -> NDArray[np.intp] | None:
    """How many ones each row has, [count, m]; None when an entry is neither 0 nor 1."""
    if not view.finite:
        return None
    ones = view.stack != 0
    if not bool((np.abs(view.stack[ones] - 1) <= 10 * view.tolerance).all()):
        return None
    return np.asarray(ones.sum(axis=2))


def _varies(view: _View) -> tuple[tuple[str, Any], ...]:
    same = bool(((view.stack != 0) == (view.stack[:1] != 0)).all())
    return () if same else (("varies", True),)


def _permutation(view: _View) -> Structure | None:
    counts = _ones_per_row(view) if view.square else None
    if counts is None or not bool((counts == 1).all()):
        return None
    if not bool(((view.stack != 0).sum(axis=1) == 1).all()):
        return None
    return Structure("permutation", _varies(view))


def _selection(view: _View) -> Structure | None:
    counts = _ones_per_row(view)
    if counts is None or not bool((counts <= 1).all()):
        return None
    # a mask that changes from point to point is no choice of inputs: every row must choose
    varies = _varies(view)
    if (varies or len(view.stack) == 1) and not bool((counts == 1).all()):
        return None
    return Structure("selection", varies)


def _circulant(view: _View) -> Structure | None:
    if not view.square or view.shape[0] < 3 or not view.finite:
        return None
    moved = np.roll(view.stack, (1, 1), (1, 2))
    return Structure("circulant") if _close(view, view.stack[:, 1:], moved[:, 1:]) else None


def _is_toeplitz(view: _View) -> bool:
    m, n = view.shape
    if min(m, n) < 2 or max(m, n) < 3 or not view.finite:
        return False
    return _close(view, view.stack[:, 1:, 1:], view.stack[:, :-1, :-1])


def _toeplitz(view: _View) -> Structure | None:
    return Structure("toeplitz") if _is_toeplitz(view) else None


def _toeplitz_too(view: _View) -> tuple[tuple[str, Any], ...]:
    return (("toeplitz", True),) if _is_toeplitz(view) else ()


def _banded(view: _View) -> Structure | None:
    rows, columns = _entries(view)
    m, n = view.shape
    offsets = columns - rows
    lower, upper = max(0, int(-np.min(offsets))), max(0, int(np.max(offsets)))
    if lower + upper + 1 >= min(m, n) or min(m, n) < 3:
        return None
    parameters = (("lower", lower), ("upper", upper), *_toeplitz_too(view))
    return Structure("banded", parameters)


def _lower(view: _View) -> Structure | None:
    return _triangular(view, "lower-triangular", 1)


def _upper(view: _View) -> Structure | None:
    return _triangular(view, "upper-triangular", -1)


def _triangular(view: _View, kind: str, sign: int) -> Structure | None:
    rows, columns = _entries(view)
    if view.square and view.shape[0] >= 2 and bool((sign * (rows - columns) >= 0).all()):
        return Structure(kind, _toeplitz_too(view))
    for count in _leading_counts(view.out_shape, view.in_shape):
        height, width = view.shape[0] // count, view.shape[1] // count
        steps = rows // height - columns // width
        if bool((sign * steps >= 0).all()) and bool((steps != 0).any()):
            return Structure(kind, (("blocks", count), ("block_shape", (height, width))))
    return None


def _leading_counts(out_shape: Shape, in_shape: Shape) -> list[int]:
    """Sizes of the common leading axes, longest run first; ones are left out."""
    counts, product = [], 1
    for a, b in zip(out_shape, in_shape, strict=False):
        if a != b:
            break
        product *= a
        if product > 1 and product not in counts:
            counts.append(product)
    return counts[::-1]


def _block_diagonal(view: _View) -> list[Structure]:
    """The most blocks along the diagonal that hold every entry, with what the blocks are."""
    m, n = view.shape
    rows, columns = _entries(view)
    common = gcd(m, n)
    for count in (d for d in range(common, 1, -1) if common % d == 0):
        height, width = m // count, n // count
        if not bool((rows // height == columns // width).all()):
            continue
        stacks = np.array([_diagonal_blocks(a, count) for a in view.stack])
        equal = view.finite and _close(view, stacks, stacks[:, :1])
        parameters: list[tuple[str, Any]] = [("blocks", count), ("block_shape", (height, width))]
        if equal:
            parameters.append(("equal", True))
        inner = None
        if height > 1 and width > 1:
            out_shape = _inner_shape(view.out_shape, count)
            in_shape = _inner_shape(view.in_shape, count)
            every = stacks.reshape(-1, height, width)
            inside = _prepare(list(every), out_shape, in_shape, view.tolerance)
            names = [s for s in _name(inside, blocks=False) if s.kind != "toeplitz"]
            inner = most_specific(names)
            if inner.kind not in ("dense", "sparse"):
                parameters.append(("inner", inner))
        found = [Structure("block-diagonal", tuple(parameters))]
        if equal and view.shape != (count, count):
            found.append(
                Structure("kronecker", (("blocks", count), ("block_shape", (height, width))))
            )
        return found
    return []


def _diagonal_blocks(a: Matrix, count: int) -> Matrix:
    height, width = a.shape[0] // count, a.shape[1] // count
    k = np.arange(count)
    return a.reshape(count, height, count, width)[k, :, k, :]


def _inner_shape(shape: Shape, count: int) -> Shape:
    """The shape within one block: the axes left when the leading ones make up the blocks."""
    product = 1
    for k, n in enumerate(shape):
        if product == count:
            return shape[k:]
        product *= n
    return (prod(shape) // count,)


def _kronecker(view: _View) -> Structure | None:
    """A Kronecker product: rank one once folded to (left entries) × (right entries)."""
    m, n = view.shape
    if not view.finite or m * n > 1 << 20 or _outer(view) is not None:
        return None
    for p in range(len(view.out_shape) + 1):
        for q in range(len(view.in_shape) + 1):
            left = prod(view.out_shape[:p]), prod(view.in_shape[:q])
            right = m // max(left[0], 1), n // max(left[1], 1)
            if min(prod(left), prod(right)) < 2 or (
                1 in (*left, *right) and _outer_like(left, right)
            ):
                continue
            shape = (left[0], right[0], left[1], right[1])
            folded = view.stack.reshape(-1, *shape).transpose(0, 1, 3, 2, 4)
            flat = folded.reshape(-1, prod(left), prod(right))
            if _rank_one(view, flat):
                parameters: list[tuple[str, Any]] = [("left", left), ("right", right)]
                for name, axis in (("left_identity", 0), ("right_identity", 1)):
                    if _is_scaled_eye(view, flat, (left, right)[axis], axis):
                        parameters.append((name, True))
                return Structure("kronecker", tuple(parameters))
    return None


def _is_scaled_eye(view: _View, flat: Matrix, shape: tuple[int, int], axis: int) -> bool:
    """Whether one factor of Kronecker products, read off their rearrangement, is c·I."""
    if shape[0] != shape[1]:
        return False
    columns, rows, _ = _cross(flat)
    factors = (columns if axis == 0 else rows).reshape(-1, *shape)
    return _close(view, factors, factors[:, :1, :1] * np.eye(shape[0]))


def _outer_like(left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether A ⊗ B would only be a column times a row."""
    return (left[0] == 1 and right[1] == 1) or (left[1] == 1 and right[0] == 1)


def _cross(stack: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Column and row through the largest entry of every matrix, and that entry."""
    count, m, n = stack.shape
    i, j = np.unravel_index(np.abs(stack).reshape(count, -1).argmax(axis=1), (m, n))
    k = np.arange(count)
    return stack[k, :, j], stack[k, i, :], stack[k, i, j]


def _rank_one(view: _View, stack: Matrix) -> bool:
    """Whether every matrix has rank one or is 0: the first alone tells most that have not."""
    for part in (stack[:1], stack[1:]):
        if part.any():
            columns, rows, pivots = _cross(part)
            pivots = np.where(pivots == 0, 1, pivots)[:, None, None]
            if not _close(view, part, columns[:, :, None] * rows[:, None, :] / pivots):
                return False
    return True


def _outer(view: _View) -> Structure | None:
    m, n = view.shape
    if not view.finite:
        return None
    if m > 1 and n > 1:
        return Structure("outer") if _rank_one(view, view.stack) else None
    shape = view.in_shape if m == 1 else view.out_shape
    wide = [k for k in shape if k > 1]
    if len(wide) < 2:
        return None
    for k in range(1, len(wide)):
        folded = (prod(wide[:k]), prod(wide[k:]))
        if not _rank_one(view, view.stack.reshape(-1, *folded)):
            return None
    return Structure("outer", (("gradient", True),))


def _diagonal_plus_low_rank(view: _View) -> Structure | None:
    n = view.shape[0]
    if not view.square or not view.finite or not 4 <= n <= LOW_RANK_LIMIT:
        return None
    for rank in range(1, min(3, (n - 2) // 2) + 1):
        parts = (view.stack[:1], view.stack[1:])
        if all(_low_rank_but_diagonal(a, rank, view.tolerance) for a in parts if len(a)):
            return Structure("diagonal-plus-low-rank", (("rank", rank),))
    return None


def _low_rank_but_diagonal(stack: Matrix, rank: int, tolerance: float) -> bool:
    """Whether some diagonal gives every matrix this rank; it is filled in by the rank."""
    n = stack.shape[1]
    largest = np.abs(stack).max(axis=(1, 2))
    if (largest == 0).any():
        return False
    filled = stack.copy()
    for i in range(n):
        others = np.delete(np.arange(n), i)
        p, q = others[::2], others[1::2]
        corner = stack[:, p][:, :, q]
        if (np.linalg.matrix_rank(corner, tol=1e3 * tolerance * largest) > rank).any():
            return False
        inverse = np.linalg.pinv(corner, rcond=1e-7)
        filled[:, i, i] = np.einsum("kq,kqp,kp->k", stack[:, i, q], inverse, stack[:, p, i])
    if not np.isfinite(filled).all():
        return False
    return bool((np.linalg.matrix_rank(filled, tol=1e3 * tolerance * largest * n) <= rank).all())


def _rank(view: _View) -> tuple[int, int] | None:
    m, n = view.shape
    if not view.finite or min(m, n) == 0 or min(m, n) > RANK_LIMIT:
        return None
    ranks = []
    for a in view.stack:
        largest = np.abs(a).max()
        singular = np.linalg.svd(a, compute_uv=False)
        ranks.append(int((singular > max(m, n) * view.tolerance * largest).sum()))
    return min(ranks), max(ranks)
