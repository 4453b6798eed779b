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

from jacobians.structure import Structure, kinds_of, most_specific

Matrix = NDArray[Any]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]

RANK_LIMIT = 512
LOW_RANK_LIMIT = 128
MOST_BLOCKS_SEEN = 64


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
    """Matrices prepared for naming: rounding cleaned away, the union of their patterns."""

    matrices: tuple[Matrix, ...]
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
    if view.finite and all(_close(view, m, view.matrices[0]) for m in view.matrices):
        properties.add("constant")
    if view.finite and view.square and all(_close(view, m, m.T) for m in view.matrices):
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
    cleaned, pattern = [], np.zeros(shape, dtype=bool)
    finite = True
    for a in arrays:
        good = np.isfinite(a)
        finite &= bool(good.all())
        largest = float(np.abs(a[good]).max(initial=0.0))
        small = good & (np.abs(np.where(good, a, 0)) <= tolerance * largest)
        a = np.where(small, 0, a)
        pattern |= a != 0
        cleaned.append(a)
    return _View(tuple(cleaned), pattern, out_shape, in_shape, tolerance, finite)


def _close(view: _View, a: Matrix, b: Matrix) -> bool:
    """Whether two arrays are equal up to rounding relative to their largest entry."""
    if not a.size:
        return True
    largest = max(float(np.abs(a).max()), float(np.abs(b).max()))
    return bool((np.abs(a - b) <= 10 * view.tolerance * largest).all())


def _name(view: _View, blocks: bool) -> list[Structure]:
    """Every structure that holds, the parameters of each filled in."""
    if not view.pattern.any():
        return [Structure("zero")]
    found: list[Structure] = []
    checks: list[Callable[[_View], Structure | None]] = [
        _identity, _scaled_identity, _diagonal, _permutation, _selection, _circulant, _toeplitz,
        _banded, _lower, _upper, _kronecker, _outer, _diagonal_plus_low_rank,
    ]  # fmt: skip
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
    scales: list[Any] = []
    for m in view.matrices:
        diagonal = np.diagonal(m)
        if not _close(view, diagonal, np.full_like(diagonal, diagonal[0])):
            return None
        scales.append(diagonal[0])
    same = _close(view, np.array(scales), np.full(len(scales), scales[0]))
    if view.shape == (1, 1) and not same:
        return None
    shown = same and np.isrealobj(np.array(scales))
    return Structure("scaled-identity", (("scale", float(scales[0])),) if shown else ())


def _identity(view: _View) -> Structure | None:
    scaled = _scaled_identity(view)
    if scaled is None or scaled.get("scale") is None:
        return None
    return Structure("identity") if abs(scaled.get("scale") - 1.0) <= 10 * view.tolerance else None


def _ones_per_row(view: _View) -> list[NDArray[np.intp]] | None:
    """How many ones each row has, per matrix; None when an entry is neither 0 nor 1."""
    if not view.finite:
        return None
    counts = []
    for m in view.matrices:
        ones = m != 0
        if not bool((np.abs(m[ones] - 1) <= 10 * view.tolerance).all()):
            return None
        counts.append(ones.sum(axis=1))
    return counts


def _varies(view: _View) -> tuple[tuple[str, Any], ...]:
    same = all(bool(((m != 0) == (view.matrices[0] != 0)).all()) for m in view.matrices)
    return () if same else (("varies", True),)


def _permutation(view: _View) -> Structure | None:
    counts = _ones_per_row(view) if view.square else None
    if counts is None or not all(bool((c == 1).all()) for c in counts):
        return None
    if not all(bool(((m != 0).sum(axis=0) == 1).all()) for m in view.matrices):
        return None
    return Structure("permutation", _varies(view))


def _selection(view: _View) -> Structure | None:
    counts = _ones_per_row(view)
    if counts is None or not all(bool((c <= 1).all()) for c in counts):
        return None
    # a mask that changes from point to point is no choice of inputs: every row must choose
    varies = _varies(view)
    if (varies or len(view.matrices) == 1) and not all(bool((c == 1).all()) for c in counts):
        return None
    return Structure("selection", varies)


def _circulant(view: _View) -> Structure | None:
    if not view.square or view.shape[0] < 3 or not view.finite:
        return None
    same = all(_close(view, m[1:], np.roll(m, (1, 1), (0, 1))[1:]) for m in view.matrices)
    return Structure("circulant") if same else None


def _is_toeplitz(view: _View) -> bool:
    m, n = view.shape
    if min(m, n) < 2 or max(m, n) < 3 or not view.finite:
        return False
    return all(_close(view, a[1:, 1:], a[:-1, :-1]) for a in view.matrices)


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
    m, n = view.shape
    rows, columns = _entries(view)
    common = gcd(m, n)
    for count in (d for d in range(common, 1, -1) if common % d == 0):
        height, width = m // count, n // count
        if not bool((rows // height == columns // width).all()):
            continue
        stacks = [_diagonal_blocks(a, count) for a in view.matrices]
        equal = view.finite and all(
            _close(view, s, np.broadcast_to(s[:1], s.shape)) for s in stacks
        )
        seen = np.concatenate(stacks)[:MOST_BLOCKS_SEEN]
        parameters: list[tuple[str, Any]] = [("blocks", count), ("block_shape", (height, width))]
        if equal:
            parameters.append(("equal", True))
        inner = None
        if height > 1 and width > 1:
            out_shape = _inner_shape(view.out_shape, count)
            in_shape = _inner_shape(view.in_shape, count)
            inside = _prepare(list(seen), out_shape, in_shape, view.tolerance)
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
            flat = [
                a.reshape(shape).transpose(0, 2, 1, 3).reshape(prod(left), prod(right))
                for a in view.matrices
            ]
            if all(_rank_one(view, a) for a in flat):
                parameters: list[tuple[str, Any]] = [("left", left), ("right", right)]
                for name, axis in (("left_identity", 0), ("right_identity", 1)):
                    if all(_is_scaled_eye(view, a, (left, right)[axis], axis) for a in flat):
                        parameters.append((name, True))
                return Structure("kronecker", tuple(parameters))
    return None


def _is_scaled_eye(view: _View, a: Matrix, shape: tuple[int, int], axis: int) -> bool:
    """Whether one factor of a Kronecker product, read off its rearrangement, is c·I."""
    if shape[0] != shape[1]:
        return False
    i, j = np.unravel_index(int(np.argmax(np.abs(a))), a.shape)
    factor = (a[:, j] if axis == 0 else a[i]).reshape(shape)
    return _close(view, factor, factor[0, 0] * np.eye(shape[0]))


def _outer_like(left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether A ⊗ B would only be a column times a row."""
    return (left[0] == 1 and right[1] == 1) or (left[1] == 1 and right[0] == 1)


def _rank_one(view: _View, a: Matrix) -> bool:
    if not a.any():
        return True
    i, j = np.unravel_index(int(np.argmax(np.abs(a))), a.shape)
    return _close(view, a, np.outer(a[:, j], a[i]) / a[i, j])


def _outer(view: _View) -> Structure | None:
    m, n = view.shape
    if not view.finite:
        return None
    if m > 1 and n > 1:
        return Structure("outer") if all(_rank_one(view, a) for a in view.matrices) else None
    shape = view.in_shape if m == 1 else view.out_shape
    wide = [k for k in shape if k > 1]
    if len(wide) < 2:
        return None
    for k in range(1, len(wide)):
        folded = (prod(wide[:k]), prod(wide[k:]))
        if not all(_rank_one(view, a.reshape(folded)) for a in view.matrices):
            return None
    return Structure("outer", (("gradient", True),))


def _diagonal_plus_low_rank(view: _View) -> Structure | None:
    n = view.shape[0]
    if not view.square or not view.finite or not 4 <= n <= LOW_RANK_LIMIT:
        return None
    for rank in range(1, min(3, (n - 2) // 2) + 1):
        if all(_low_rank_but_diagonal(a, rank, view.tolerance) for a in view.matrices):
            return Structure("diagonal-plus-low-rank", (("rank", rank),))
    return None


def _low_rank_but_diagonal(a: Matrix, rank: int, tolerance: float) -> bool:
    """Whether some diagonal makes the matrix one of this rank; it is filled in by the rank."""
    n = a.shape[0]
    largest = np.abs(a).max()
    if largest == 0:
        return False
    filled = a.copy()
    for i in range(n):
        others = np.delete(np.arange(n), i)
        p, q = others[::2], others[1::2]
        inverse = np.linalg.pinv(a[np.ix_(p, q)], rcond=1e-7)
        if np.linalg.matrix_rank(a[np.ix_(p, q)], tol=1e3 * tolerance * largest) > rank:
            return False
        filled[i, i] = a[i, q] @ inverse @ a[p, i]
    if not np.isfinite(filled).all():
        return False
    return bool(np.linalg.matrix_rank(filled, tol=1e3 * tolerance * largest * n) <= rank)


def _rank(view: _View) -> tuple[int, int] | None:
    m, n = view.shape
    if not view.finite or min(m, n) == 0 or min(m, n) > RANK_LIMIT:
        return None
    ranks = []
    for a in view.matrices:
        largest = np.abs(a).max()
        singular = np.linalg.svd(a, compute_uv=False)
        ranks.append(int((singular > max(m, n) * view.tolerance * largest).sum()))
    return min(ranks), max(ranks)
