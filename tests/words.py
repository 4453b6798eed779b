"""Whether words about a matrix hold for its numbers: an oracle of `jacobians.structure.kinds`.

Written from the definitions alone and independent of what proves or observes them: every kind,
every parameter, what is said of the blocks inside, and the condition on indices. Comparisons allow
for the rounding of the numbers; entries that are not finite decide nothing about values.

    >>> false_words(Structure("diagonal"), np.ones((2, 2)), (2,), (2,))
    ['diagonal']
"""

import re
from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from jacobians.structure.kinds import KINDS, Structure

Shape = tuple[int, ...]

# kinds that follow from another: what is listed beside the name of a block
IMPLIED = {
    "identity": {"scaled-identity", "permutation"},
    "scaled-identity": {"diagonal"},
    "permutation": {"selection"},
    "circulant": {"toeplitz"},
}


class Numbers:
    """A matrix with what counts as zero and as equal in it."""

    def __init__(self, matrix: np.ndarray, out_shape: Shape, in_shape: Shape) -> None:
        self.matrix, self.out_shape, self.in_shape = matrix, out_shape, in_shape
        finite = np.isfinite(matrix)
        self.whole = bool(finite.all())
        self.size = float(np.abs(matrix[finite]).max(initial=0.0))
        self.m, self.n = matrix.shape
        small = np.abs(np.where(finite, matrix, np.inf)) <= 1e-12 * self.size
        self.rows, self.columns = np.nonzero(~small & finite)

    def same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether two parts are equal up to rounding, where both are finite."""
        both = np.isfinite(a) & np.isfinite(b)
        limit = 1e-6 * np.maximum(np.abs(a), np.abs(b)) + 1e-10 * max(self.size, 1e-300)
        with np.errstate(invalid="ignore"):
            return bool((np.abs(a - b) <= limit)[both].all())

    def rank(self, matrix: np.ndarray) -> int:
        """The numerical rank."""
        if not np.isfinite(matrix).all():
            return 0
        return int(np.linalg.matrix_rank(matrix, tol=1e-7 * max(self.size, 1e-300)))


def _diagonal(x: Numbers, s: Structure) -> bool:
    return x.m == x.n and bool((x.rows == x.columns).all())


def _scaled_identity(x: Numbers, s: Structure) -> bool:
    if not _diagonal(x, s):
        return False
    values = np.diagonal(x.matrix)
    scale = s.get("scale")
    expected = values[:1] if scale is None else np.array([scale])
    return x.same(values, np.broadcast_to(expected, values.shape))


def _identity(x: Numbers, s: Structure) -> bool:
    return x.m == x.n and x.same(x.matrix, np.eye(x.n))


def _selection(x: Numbers, s: Structure) -> bool:
    zero_or_one = x.same(x.matrix, np.round(np.clip(np.nan_to_num(x.matrix), 0, 1)))
    return zero_or_one and len(np.unique(x.rows)) == len(x.rows)


def _permutation(x: Numbers, s: Structure) -> bool:
    if not x.whole:
        return x.m == x.n
    return _selection(x, s) and x.m == x.n == len(x.rows) == len(np.unique(x.columns))


def _toeplitz(x: Numbers, s: Structure) -> bool:
    return x.same(x.matrix[1:, 1:], x.matrix[:-1, :-1])


def _circulant(x: Numbers, s: Structure) -> bool:
    return x.m == x.n and x.same(x.matrix, np.roll(x.matrix, (1, 1), (0, 1)))


def _too(x: Numbers, s: Structure) -> bool:
    return not s.get("toeplitz") or _toeplitz(x, s)


def _banded(x: Numbers, s: Structure) -> bool:
    offset = x.columns - x.rows
    inside = (offset <= s.get("upper")) & (-offset <= s.get("lower"))
    return bool(inside.all()) and _too(x, s)


def _triangular(sign: int) -> Callable[[Numbers, Structure], bool]:
    def holds(x: Numbers, s: Structure) -> bool:
        height, width = s.get("block_shape") or (1, 1)
        square = x.m * width == x.n * height
        ahead = x.columns // width - x.rows // height
        return square and bool((sign * ahead <= 0).all()) and _too(x, s)

    return holds


def _blocks(x: Numbers, s: Structure) -> list[Numbers]:
    height, width = s.get("block_shape")
    out_shape, in_shape = (height,), (width,)
    return [
        Numbers(
            x.matrix[b * height : (b + 1) * height, b * width : (b + 1) * width],
            out_shape, in_shape,
        )
        for b in range(s.get("blocks"))
    ]  # fmt: skip


def _block_diagonal(x: Numbers, s: Structure) -> bool:
    (height, width), count = s.get("block_shape"), s.get("blocks")
    if (height * count, width * count) != (x.m, x.n):
        return False
    if not bool((x.rows // height == x.columns // width).all()):
        return False
    blocks = _blocks(x, s)
    if s.get("equal") and not all(x.same(b.matrix, blocks[0].matrix) for b in blocks):
        return False
    inner = s.get("inner")
    return inner is None or all(not list(_false(inner, b)) for b in blocks)


def _kronecker(x: Numbers, s: Structure) -> bool:
    if s.get("blocks"):
        whole = Structure("block-diagonal", (*s.parameters, ("equal", True)))
        return _block_diagonal(x, whole)
    (a, b), (c, d) = s.get("left"), s.get("right")
    if (a * c, b * d) != (x.m, x.n):
        return False
    folded = x.matrix.reshape(a, c, b, d).transpose(0, 2, 1, 3).reshape(a * b, c * d)
    if x.rank(folded) > 1:
        return False
    if not x.whole or not x.size:
        return True
    i, j = np.unravel_index(np.argmax(np.abs(folded)), folded.shape)
    left, right = folded[:, j].reshape(a, b), folded[i].reshape(c, d)
    for side, factor in (("left_identity", left), ("right_identity", right)):
        square = factor.shape[0] == factor.shape[1]
        if s.get(side) and not (square and x.same(factor, factor[0, 0] * np.eye(len(factor)))):
            return False
    return True


def _outer(x: Numbers, s: Structure) -> bool:
    if not s.get("gradient"):
        return x.rank(x.matrix) <= 1
    shape = [n for n in (x.in_shape if x.m == 1 else x.out_shape) if n > 1]
    folds = [x.matrix.reshape(prod(shape[:k]), -1) for k in range(1, len(shape))]
    return all(x.rank(f) <= 1 for f in folds)


def _diagonal_plus_low_rank(x: Numbers, s: Structure) -> bool:
    """Every submatrix off the diagonal has at most the rank, tried on interleaved halves."""
    if x.m != x.n:
        return False
    order = np.arange(x.n)
    halves = [(order[: x.n // 2], order[x.n // 2 :]), (order[::2], order[1::2])]
    return all(
        x.rank(x.matrix[np.ix_(rows, columns)]) <= s.get("rank")
        for p, q in halves
        for rows, columns in ((p, q), (q, p))
    )


CHECKS: dict[str, Callable[[Numbers, Structure], bool]] = {
    "zero": lambda x, s: not len(x.rows),
    "identity": _identity,
    "scaled-identity": _scaled_identity,
    "diagonal": _diagonal,
    "permutation": _permutation,
    "selection": _selection,
    "block-diagonal": _block_diagonal,
    "circulant": _circulant,
    "toeplitz": _toeplitz,
    "banded": _banded,
    "lower-triangular": _triangular(1),
    "upper-triangular": _triangular(-1),
    "kronecker": _kronecker,
    "outer": _outer,
    "diagonal-plus-low-rank": _diagonal_plus_low_rank,
    "sparse": lambda x, s: 2 * len(x.rows) <= x.m * x.n,
    "dense": lambda x, s: True,
}
assert set(CHECKS) == set(KINDS)

# properties that name no parameter: a width or a count of blocks stands in the structure alone
BY_NAME: dict[str, Callable[[Numbers], bool]] = {
    "symmetric": lambda x: x.m == x.n and x.same(x.matrix, x.matrix.T),
    "tridiagonal": lambda x: bool((np.abs(x.rows - x.columns) <= 1).all()),
    **{
        kind: (lambda x, check=check: check(x, Structure("")))
        for kind, check in CHECKS.items()
        if kind in (
            "zero", "identity", "scaled-identity", "diagonal", "permutation", "selection",
            "circulant", "toeplitz", "sparse",
        )
    },
}  # fmt: skip


def _false(structure: Structure, x: Numbers) -> Iterator[str]:
    if not CHECKS[structure.kind](x, structure):
        yield str(structure)


def false_words(
    structure: Structure, matrix: np.ndarray, out_shape: Shape, in_shape: Shape
) -> list[str]:
    """What a structure says of a matrix and is not so."""
    return list(_false(structure, Numbers(matrix, out_shape, in_shape)))


def false_properties(
    structure: Structure,
    properties: Sequence[str] | frozenset[str],
    matrix: np.ndarray,
    out_shape: Shape,
    in_shape: Shape,
) -> list[str]:
    """The properties that do not hold for a matrix; 'constant' takes two, and is not asked here."""
    x = Numbers(matrix, out_shape, in_shape)
    wrong = [p for p in properties if p in BY_NAME and not BY_NAME[p](x)]
    by_entry = not structure.get("blocks") or structure.kind not in TRIANGLES
    for kind in sorted(TRIANGLES & set(properties)):
        if (by_entry or structure.kind != kind) and not CHECKS[kind](x, Structure(kind)):
            wrong.append(kind)
    if "outer" in properties and min(x.m, x.n) > 1 and x.rank(matrix) > 1:
        wrong.append("outer")
    return wrong


TRIANGLES = {"lower-triangular", "upper-triangular"}


def outside_statement(
    statement: str, pattern: np.ndarray, out_shape: Shape, in_shape: Shape
) -> bool:
    """Whether an entry of a pattern breaks the condition on indices, such as `i1 ≤ o1 + 1`."""
    rows, columns = np.nonzero(pattern)
    names = {f"o{k}": v for k, v in enumerate(np.unravel_index(rows, out_shape or (1,)))}
    names |= {f"i{k}": v for k, v in enumerate(np.unravel_index(columns, in_shape or (1,)))}
    for clause in statement.split(" and "):
        sides = re.split(r" (≤|=) ", clause)
        for left, sign, right in zip(sides[::2], sides[1::2], sides[2::2], strict=False):
            a, b = _index(left, names), _index(right, names)
            if not bool((a <= b if sign == "≤" else a == b).all()):
                return True
    return False


def _index(text: str, names: dict[str, np.ndarray]) -> np.ndarray:
    """The values of `o1 + 2`."""
    name, *shift = text.split(" ")
    by = int(shift[1]) * (-1 if shift[0] == "−" else 1) if shift else 0
    return names[name] + by
