"""Names of a block from the list of all its entries, decided by exact comparison alone.

A constant array has its pattern and its numbers written in the program, so that both may prove
something: where entries are, and which of them are equal. Here every entry is looked at, nothing is
compared with a tolerance, and what only a rank could tell is left out. Numbers count where they are
the arrays' own, multiplied and added without any rounding; otherwise the pattern alone speaks.

    matrix = listed(facts.terms, (4,), (4,), tape.certain)
    names(matrix, (4,), (4,))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.coefficient import Product
from jacobians.derive.algebra.points import Points, grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.structure.kinds import Structure, most_specific

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]
Known = Callable[[int], NDArray[Any] | None]

# the exact product of two doubles has 106 bits: within this range none of them is lost
SMALLEST, LARGEST = 2.0**-960, 2.0**960
MANTISSA = 53
# a quick look at so many entries rules out most ways to divide a matrix into blocks
FIRST_LOOK = 256


@dataclass(frozen=True, eq=False)
class Matrices:
    """Matrices of one shape: those of a block, or all the blocks on its diagonal.

    Attributes:
        pattern: what can be nonzero, [count, m, n].
        values: the entries divided by `scale`, where they are known exactly.
        scale: a factor of all entries.
        rounded: whether that factor is known up to rounding only.
    """

    pattern: Mask
    values: Floats | None
    scale: float = 1.0
    rounded: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of each matrix."""
        return self.pattern.shape[1], self.pattern.shape[2]

    @property
    def square(self) -> bool:
        """Whether the matrices are square."""
        return self.shape[0] == self.shape[1]


def listed(
    terms: Sequence[Term], out_shape: Shape, in_shape: Shape, known: Known, limit: int
) -> Matrices | None:
    """The matrix of a constant block, or None where it depends on inputs or is too large.

    Args:
        terms: the terms of the block.
        out_shape: shape of the output.
        in_shape: shape of the input.
        known: gives the constant array that a tape value exactly is, or None.
        limit: how many entries the matrix, and index vectors its terms, may have.
    """
    m, n = prod(out_shape), prod(in_shape)
    too_large = m * n > limit or sum(grid_size(t) for t in terms) > limit
    if too_large or any(t.coefficient.depends for t in terms):
        return None
    found = [points(t) for t in terms]
    keys = [
        p.flat(t.out, out_shape) * n + p.flat(t.inp, in_shape)
        for t, p in zip(terms, found, strict=True)
    ]
    pattern = np.zeros(m * n, bool)
    for key in keys:
        pattern[key] = True
    scale, values = _entry_values(terms, found, known)
    rounded = any(p.rounded for t in terms for p in t.coefficient.products or ())
    matrix = None if values is None else exact_sum(keys, values, m * n)
    if matrix is not None:
        matrix = matrix.reshape(1, m, n)
    return Matrices(pattern.reshape(1, m, n), matrix, scale, rounded)


def _entry_values(
    terms: Sequence[Term], found: Sequence[Points], known: Known
) -> tuple[float, list[Floats] | None]:
    """A common factor, and for every term its values without it, None unless all are exact."""
    products = [p for t in terms for p in t.coefficient.products or ()]
    if len(products) > 1 and any(p.rounded for p in products):
        return 1.0, None
    scales = {abs(p.scale) for p in products}
    scale = scales.pop() if len(scales) == 1 else 1.0
    values = []
    for term, found_points in zip(terms, found, strict=True):
        hidden = coefficients.variables(term.coefficient) - set(relation_variables(term))
        if term.coefficient.products is None or hidden:
            return scale, None
        parts = [_product_values(p, scale, found_points, known) for p in term.coefficient.products]
        exact = [part for part in parts if part is not None]
        total = _sum_of(exact) if len(exact) == len(parts) else None
        if total is None:
            return scale, None
        values.append(total)
    return scale, values


def _product_values(product: Product, scale: float, points: Points, known: Known) -> Floats | None:
    """The values of `product / scale` at index vectors, or None where one is not exact."""
    values = np.full(points.count, np.copysign(1.0, product.scale))
    if scale != abs(product.scale):
        values = np.full(points.count, product.scale)
    for factor in product.factors:
        array = known(factor.value)
        if array is None or np.iscomplexobj(array):
            return None
        entry = array[tuple(points.value(e) for e in factor.at)]
        double = entry.astype(np.float64)
        if entry.dtype.kind in "iu" and not bool((double.astype(entry.dtype) == entry).all()):
            return None
        if not bool(np.isfinite(double).all()):
            return None
        plain = bool((np.abs(values) == 1.0).all())
        made = values * double if plain else exact_product(values, double)
        if made is None:
            return None
        values = made
    return values


def exact_product(a: Floats, b: Floats) -> Floats | None:
    """a·b where no entry of it is rounded, else None (Dekker's product)."""
    with np.errstate(all="ignore"):
        product = a * b
        size = np.abs(product)
        zero = (a == 0) | (b == 0)
        within = np.isfinite(a) & np.isfinite(b) & (zero | ((size > SMALLEST) & (size < LARGEST)))
        if not bool(within.all()):
            return None
        (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
        rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
        return product if bool((rest == 0).all()) else None


def _halves(a: Floats) -> tuple[Floats, Floats]:
    """The parts high + low = a of half its digits each, by its significand: nothing overflows."""
    significand, exponent = np.frexp(a)
    shifted = significand * (2.0**27 + 1)
    high = shifted - (shifted - significand)
    return np.ldexp(high, exponent), np.ldexp(significand - high, exponent)


def _sum_of(parts: Sequence[Floats]) -> Floats | None:
    """The sum of arrays where no entry of it is rounded, else None."""
    if len(parts) == 1:
        return parts[0]
    size = len(parts[0])
    return exact_sum([np.arange(size)] * len(parts), parts, size)


def exact_sum(keys: Sequence[Integers], values: Sequence[Floats], size: int) -> Floats | None:
    """What is added at each of `size` places, or None where a sum might be rounded.

    Sums are exact in any order where all summands are multiples of one power of two and none of
    their sums reaches 2^53 of it.
    """
    key, value = np.concatenate(keys), np.concatenate(values)
    total = np.zeros(size)
    np.add.at(total, key, value)
    if int(np.max(np.bincount(key, minlength=1))) <= 1:
        return total
    sizes = np.zeros(size)
    np.add.at(sizes, key, np.abs(value))
    nonzero = value[value != 0]
    if not len(nonzero):
        return total
    significand, exponent = np.frexp(nonzero)
    whole = (np.abs(significand) * 2.0**MANTISSA).astype(np.int64)
    lowest = (whole & -whole).astype(np.float64)
    unit = np.min(np.log2(lowest) + exponent) - MANTISSA
    return total if float(np.max(sizes)) < 2.0 ** (unit + MANTISSA) else None


def names(matrix: Matrices, out_shape: Shape, in_shape: Shape) -> list[Structure]:
    """Every structure that all entries of a block have.

    Args:
        matrix: the block.
        out_shape: shape of the output.
        in_shape: shape of the input.
    """
    rows, columns = np.nonzero(matrix.pattern[0])
    if not len(rows):
        return [Structure("zero")]
    found = _shared(matrix)
    found += _block_triangular(rows, columns, matrix.shape, out_shape, in_shape)
    if not any(s.kind == "diagonal" for s in found):
        found += _block_diagonal(matrix, rows, columns)
    return found


def is_symmetric(matrix: Matrices) -> bool:
    """Whether a matrix equals its transpose."""
    values = matrix.values
    return matrix.square and values is not None and bool((values[0] == values[0].T).all())


def _shared(matrices: Matrices) -> list[Structure]:
    """The structures that each of several matrices has, other than those that speak of blocks."""
    m, n = matrices.shape
    found: list[Structure] = []
    rows, columns = np.nonzero(matrices.pattern.any(axis=0))
    if not len(rows):
        return [Structure("zero")]
    offsets = columns - rows
    lowest, highest = int(np.min(offsets)), int(np.max(offsets))
    if matrices.square and lowest == highest == 0:
        found += [Structure("diagonal"), *_multiples_of_identity(matrices)]
    found += _selections(matrices)
    toeplitz = _is_toeplitz(matrices)
    too = (("toeplitz", True),) if toeplitz else ()
    if toeplitz:
        found.append(Structure("toeplitz"))
        if _wraps(matrices):
            found.append(Structure("circulant"))
    lower, upper = max(0, -lowest), max(0, highest)
    if lower + upper + 1 < min(m, n) and min(m, n) >= 3:
        found.append(Structure("banded", (("lower", lower), ("upper", upper), *too)))
    if matrices.square and m >= 2:
        if highest <= 0:
            found.append(Structure("lower-triangular", too))
        if lowest >= 0:
            found.append(Structure("upper-triangular", too))
    return found


def _multiples_of_identity(matrices: Matrices) -> list[Structure]:
    """Whether diagonal matrices are each a multiple of the identity, and of which."""
    if matrices.values is None:
        return []
    diagonals = np.diagonal(matrices.values, axis1=1, axis2=2)
    if not bool((diagonals == diagonals[:, :1]).all()) or not bool((diagonals != 0).all()):
        return []
    if not bool((diagonals[:, 0] == diagonals[0, 0]).all()):
        return [Structure("scaled-identity")]
    found = [Structure("scaled-identity", (("scale", float(diagonals[0, 0] * matrices.scale)),))]
    return [Structure("identity"), *found] if _are_ones(diagonals, matrices) else found


def _are_ones(values: Floats, matrices: Matrices) -> bool:
    """Whether values times the scale of the matrices are exactly 1."""
    scale = matrices.scale
    if matrices.rounded:
        return False
    if scale == 1.0 or not bool((values * scale == 1.0).all()):
        return scale == 1.0 and bool((values == 1.0).all())
    return exact_product(values, np.full_like(values, scale)) is not None


def _selections(matrices: Matrices) -> list[Structure]:
    """Whether every entry that can be nonzero is a 1, alone in its row, or in its column too."""
    pattern, values = matrices.pattern, matrices.values
    if values is None or not _are_ones(values[pattern], matrices):
        return []
    in_rows, in_columns = pattern.sum(axis=2), pattern.sum(axis=1)
    if bool((in_rows > 1).any()):
        return []
    permutes = matrices.square and bool((in_rows == 1).all()) and bool((in_columns == 1).all())
    return [Structure("selection"), *([Structure("permutation")] if permutes else [])]


def _is_toeplitz(matrices: Matrices) -> bool:
    """Whether every entry equals the one before it on its diagonal."""
    (m, n), values = matrices.shape, matrices.values
    if values is None or min(m, n) < 2 or max(m, n) < 3:
        return False
    return bool((values[:, 1:, 1:] == values[:, :-1, :-1]).all())


def _wraps(matrices: Matrices) -> bool:
    """Whether the first column of a Toeplitz matrix is its first row, read backwards."""
    values = matrices.values
    if values is None or not matrices.square:
        return False
    return bool((values[:, 1:, 0] == values[:, 0, :0:-1]).all())


def _block_triangular(
    rows: Integers, columns: Integers, shape: tuple[int, int], out_shape: Shape, in_shape: Shape
) -> list[Structure]:
    """A triangle of blocks over the leading axes, the finest, where entries make no triangle."""
    m, n = shape
    if m == n >= 2 and (bool((columns <= rows).all()) or bool((columns >= rows).all())):
        return []
    for count in _leading_counts(out_shape, in_shape):
        height, width = m // count, n // count
        ahead = columns // width - rows // height
        parameters = (("blocks", count), ("block_shape", (height, width)))
        if not bool(ahead.any()):
            continue
        if bool((ahead <= 0).all()):
            return [Structure("lower-triangular", parameters)]
        if bool((ahead >= 0).all()):
            return [Structure("upper-triangular", parameters)]
    return []


def _leading_counts(out_shape: Shape, in_shape: Shape) -> list[int]:
    """The sizes of the leading axes that both shapes share, taken together: the most first."""
    counts, size = [], 1
    for a, b in zip(out_shape, in_shape, strict=False):
        if a != b:
            break
        size *= a
        if size > 1 and size not in counts:
            counts.append(size)
    return counts[::-1]


def _block_diagonal(matrix: Matrices, rows: Integers, columns: Integers) -> list[Structure]:
    """The most equal-sized blocks along the diagonal that hold every entry."""
    m, n = matrix.shape
    common = gcd(m, n)
    step = max(1, len(rows) // FIRST_LOOK)
    for count in (d for d in range(common, 1, -1) if common % d == 0):
        height, width = m // count, n // count
        if not bool((rows[::step] // height == columns[::step] // width).all()):
            continue
        if not bool((rows // height == columns // width).all()):
            continue
        blocks = _diagonal_blocks(matrix, count)
        parameters: list[tuple[str, Any]] = [("blocks", count), ("block_shape", (height, width))]
        found = []
        if _all_equal(blocks):
            parameters.append(("equal", True))
            shape = ("block_shape", (height, width))
            found.append(Structure("kronecker", (("blocks", count), shape)))
        if height > 1 and width > 1:
            inner = most_specific(s for s in _shared(blocks) if s.kind != "toeplitz")
            if inner.kind != "dense":
                parameters.append(("inner", inner))
        return [Structure("block-diagonal", tuple(parameters)), *found]
    return []


def _diagonal_blocks(matrix: Matrices, count: int) -> Matrices:
    """The blocks along the diagonal as matrices of their own."""
    m, n = matrix.shape
    shape = (count, m // count, count, n // count)
    k = np.arange(count)
    values = None if matrix.values is None else matrix.values.reshape(shape)[k, :, k, :]
    return Matrices(matrix.pattern.reshape(shape)[k, :, k, :], values, matrix.scale, matrix.rounded)


def _all_equal(blocks: Matrices) -> bool:
    """Whether all blocks have the same entries."""
    values = blocks.values
    return values is not None and bool((values == values[:1]).all())
