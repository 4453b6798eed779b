"""Names from terms: the structure that a block has for every input of its shapes.

Facts about the pattern (diagonal, banded, triangular, blocks) come from the ranges of affine
expressions; facts about values (permutation, Toeplitz, Kronecker, rank one) from which index
variables a coefficient sees. Entries are listed only where an expression cannot tell, and then as
part of the proof. Whatever cannot be shown is left out: a proved name may be too weak, never wrong.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, plain_variable, subtract, value_range
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import Product
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.structure import exact
from jacobians.structure.count import bound_entries
from jacobians.structure.facts import (
    MAX_LISTED,
    Facts,
    Shape,
    _fills,
    _tells_all,
    _variables,
    span,
)
from jacobians.structure.kinds import Structure, kinds_of, most_specific
from jacobians.structure.separable import diagonal_plus_low_rank, kronecker, outer
from jacobians.structure.statement import Clause, clauses_of

MAX_DENSE = 1 << 20


@dataclass(frozen=True)
class Proof:
    """What is proved of a block.

    Attributes:
        structure: the most specific structure.
        properties: every kind proved, with 'constant' and 'symmetric'.
        clauses: what must hold for an entry of the tensor to be nonzero.
    """

    structure: Structure
    properties: frozenset[str]
    clauses: tuple[Clause, ...]


def prove(
    terms: Terms,
    out_shape: Shape,
    in_shape: Shape,
    moving: Collection[int],
    known: Callable[[int], NDArray[Any] | None],
) -> Proof:
    """Names the structure of a derived block.

    Args:
        terms: its terms.
        out_shape: shape of the output.
        in_shape: shape of the input.
        moving: numbers on the tape of what changes with the input, the input's own first of all: a
            block whose coefficients depend on none of these is constant.
        known: gives the constant array that a tape value exactly is, or None.

    Returns:
        The proof.
    """
    facts = Facts(terms, out_shape, in_shape)
    structures = name(facts)
    properties: set[str] = set()
    if all(t.coefficient.depends.isdisjoint(moving) for t in terms):
        properties.add("constant")
    matrix = exact.listed(terms, out_shape, in_shape, known, MAX_DENSE) if terms else None
    if matrix is not None:
        structures = together(structures, exact.names(matrix, out_shape, in_shape))
        if exact.is_symmetric(matrix):
            properties.add("symmetric")
    kind = most_specific(_telling(structures))
    properties |= kinds_of(structures, kind)
    if kind.kind in ("identity", "scaled-identity", "diagonal"):
        properties |= _IMPLIED[kind.kind]
    return Proof(kind, frozenset(properties), clauses_of(facts))


_IMPLIED = {
    "diagonal": {"lower-triangular", "upper-triangular", "symmetric"},
    "scaled-identity": {"diagonal", "lower-triangular", "upper-triangular", "symmetric"},
    "identity": {
        "scaled-identity", "diagonal", "permutation", "selection", "lower-triangular",
        "upper-triangular", "symmetric",
    },
}  # fmt: skip


def together(first: Sequence[Structure], second: Sequence[Structure]) -> list[Structure]:
    """Names shown in two ways: of each kind the one that says most, 'dense' only where alone."""
    best: dict[str, Structure] = {}
    for s in (*first, *second):
        best[s.kind] = _stronger(best[s.kind], s) if s.kind in best else s
    if len(best) > 1:
        best.pop("dense", None)
    return list(best.values())


def _stronger(a: Structure, b: Structure) -> Structure:
    """What two proved names of one kind say together, as far as one name can say it."""
    said = dict(a.parameters), dict(b.parameters)
    if a.kind == "banded":
        widths = {side: min(p[side] for p in said) for side in ("lower", "upper")}
        too = {"toeplitz": True} if any(p.get("toeplitz") for p in said) else {}
        return Structure(a.kind, tuple({**widths, **too}.items()))
    if a.kind in ("lower-triangular", "upper-triangular"):
        entrywise = [s for s in (a, b) if not s.get("blocks")]
        toeplitz = [s for s in entrywise if s.get("toeplitz")]
        finest = max((a, b), key=lambda s: int(s.get("blocks", 0)))
        return (*toeplitz, *entrywise, finest)[0]
    if a.kind == "block-diagonal":
        if a.get("blocks") != b.get("blocks"):
            return max((a, b), key=lambda s: int(s.get("blocks")))
        inner = most_specific(p["inner"] for p in said if "inner" in p)
        inside = {} if inner.kind == "dense" else {"inner": inner}
        return Structure(a.kind, tuple({**said[0], **said[1], **inside}.items()))
    return a if len(a.parameters) >= len(b.parameters) else b


def _telling(structures: list[Structure]) -> list[Structure]:
    """Without 'Toeplitz' where a name with Toeplitz beside it says more."""
    if any(s.get("toeplitz") for s in structures):
        return [s for s in structures if s.kind != "toeplitz"]
    return structures


def name(facts: Facts, blocks: bool = True) -> list[Structure]:
    """Every structure that can be shown, most specific or not."""
    if not facts.terms:
        return [Structure("zero")]
    found: list[Structure] = []
    diagonal = _diagonal(facts)
    if diagonal:
        found.extend(diagonal)
    found.extend(_selection(facts))
    toeplitz = _toeplitz(facts)
    found.extend(toeplitz)
    too = (("toeplitz", True),) if toeplitz else ()
    found.extend(_banded(facts, too))
    found.extend(_triangular(facts, too))
    if blocks and not diagonal:
        found.extend(_block_diagonal(facts))
    found.extend(kronecker(facts))
    found.extend(outer(facts))
    found.extend(diagonal_plus_low_rank(facts))
    m, n = facts.shape
    count, _ = bound_entries(facts.terms, facts.out_shape, facts.in_shape)
    if 2 * count <= m * n:
        found.append(Structure("sparse"))
    return found or [Structure("dense")]


def _is_number(term: Term) -> float | None:
    """The value of a coefficient that is one known number everywhere, else None."""
    products = term.coefficient.products
    if products is None or len(products) != 1 or products[0].factors:
        return None
    return products[0].scale


def _is_one(term: Term) -> bool:
    """Whether a coefficient is exactly 1 everywhere."""
    return term.coefficient.products == (Product(1.0, ()),)


def _diagonal(facts: Facts) -> list[Structure]:
    """Diagonal, where column − row is 0 in every term; the identity where the coefficient is 1."""
    m, n = facts.shape
    if m != n or any(r != (0, 0) for r in facts.offsets):
        return []
    found = [Structure("diagonal")]
    if len(facts.terms) == 1 and _fills(facts.terms[0], n):
        term = facts.terms[0]
        if not _tells_all(term.out, term):
            return found
        scale = _is_number(term)
        if _is_one(term):
            found.append(Structure("identity"))
        if scale is not None:
            found.append(Structure("scaled-identity", (("scale", scale),)))
        elif n > 1 and term.coefficient.products is not None:
            relation = set(relation_variables(term)) - facts.fixed
            if not relation & coefficients.variables(term.coefficient):
                found.append(Structure("scaled-identity"))
    return found


def _selection(facts: Facts) -> list[Structure]:
    """Rows with at most one entry, a 1; a permutation where columns too: `y[i] = x[2·i]`."""
    if not all(_is_one(t) for t in facts.terms):
        return []
    m, n = facts.shape
    if len(facts.terms) == 1 and _tells_all(facts.terms[0].out, facts.terms[0]):
        term = facts.terms[0]
        if m == n and _fills(term, n) and _tells_all(term.inp, term):
            return [Structure("selection"), Structure("permutation")]
        return [Structure("selection")]
    listed = _list(facts)
    if listed is None:
        return []
    rows, columns = listed
    if len(np.unique(rows)) < len(rows):
        return []
    if m == n == len(rows) and len(np.unique(columns)) == n:
        return [Structure("selection"), Structure("permutation")]
    return [Structure("selection")]


def _list(facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Rows and columns of every index vector of every term, with repetitions."""
    if sum(_visits(t) for t in facts.terms) > MAX_LISTED:
        return None
    rows, columns = [], []
    for t in facts.terms:
        found = points(t)
        rows.append(found.flat(t.out, facts.out_shape))
        columns.append(found.flat(t.inp, facts.in_shape))
    return np.concatenate(rows), np.concatenate(columns)


def _visits(term: Term) -> int:
    return grid_size(term)


def _banded(facts: Facts, too: tuple[tuple[str, Any], ...]) -> list[Structure]:
    m, n = facts.shape
    lower = max(0, -min(low for low, _ in facts.offsets))
    upper = max(0, max(high for _, high in facts.offsets))
    if lower + upper + 1 >= min(m, n) or min(m, n) < 3:
        return []
    return [Structure("banded", (("lower", lower), ("upper", upper), *too))]


def _triangular(facts: Facts, too: tuple[tuple[str, Any], ...]) -> list[Structure]:
    """Triangular, entry by entry where column − row has one sign, else by leading equal axes."""
    m, n = facts.shape
    found = []
    if m == n >= 2:
        if all(high <= 0 for _, high in facts.offsets):
            found.append(Structure("lower-triangular", too))
        if all(low >= 0 for low, _ in facts.offsets):
            found.append(Structure("upper-triangular", too))
    if found:
        return found
    lead = 0
    for a, b in zip(facts.out_shape, facts.in_shape, strict=False):
        if a != b:
            break
        lead += 1
    for k in range(lead, 0, -1):
        count = prod(facts.out_shape[:k])
        if count < 2:
            continue
        ranges = [
            span(
                subtract(
                    affine.ravel(t.inp[:k], facts.in_shape[:k]),
                    affine.ravel(t.out[:k], facts.out_shape[:k]),
                ),
                t,
            )
            for t in facts.terms
        ]
        parameters = (("blocks", count), ("block_shape", (m // count, n // count)))
        if all(r == (0, 0) for r in ranges):
            continue
        if all(high <= 0 for _, high in ranges):
            return [Structure("lower-triangular", parameters)]
        if all(low >= 0 for low, _ in ranges):
            return [Structure("upper-triangular", parameters)]
    return []


def _toeplitz(facts: Facts) -> list[Structure]:
    """Constant along diagonals: the coefficient stays when row and column both grow by one."""
    m, n = facts.shape
    if min(m, n) < 2 or max(m, n) < 3:
        return []
    diagonals: dict[int, tuple[Product, ...]] | None = {}
    for t, row, column in zip(facts.terms, facts.rows, facts.columns, strict=True):
        products = t.coefficient.products
        if products is None or t.zeros or t.guards:
            return []
        offset = subtract(column, row)
        if not offset.terms and not t.bounds:
            inner = set(relation_variables(t)) & coefficients.variables(t.coefficient)
            length = min(m, n - offset.const) - max(0, -offset.const)
            full = prod(t.sizes[v] for v in relation_variables(t)) == length
            if inner or not full or not _tells_all(t.out, t):
                return []
            if diagonals is not None and offset.const not in diagonals:
                diagonals[offset.const] = products
            else:
                diagonals = None
            continue
        diagonals = None
        if not _slides(t, row, column, (m, n)):
            return []
    found = [Structure("toeplitz")]
    if m == n and diagonals is not None and _wraps(diagonals, n):
        found.append(Structure("circulant"))
    return found


def _wraps(diagonals: dict[int, tuple[Product, ...]], n: int) -> bool:
    """Whether each diagonal d > 0 equals the diagonal d − n."""
    return all(
        (d == 0 or diagonals.get(d - n if d > 0 else d + n) == value)
        and not any(p.rounded for p in value)
        for d, value in diagonals.items()
    )


def _slides(term: Term, row: Affine, column: Affine, shape: tuple[int, int]) -> bool:
    """Whether moving one step along a diagonal stays in the term and leaves its coefficient."""
    m, n = shape
    edges = {
        row,
        column,
        subtract(affine.constant(m - 1), row),
        subtract(affine.constant(n - 1), column),
    }
    row_variable, column_variable = plain_variable(row), plain_variable(column)
    inside = [
        *(b for b in term.bounds if b not in edges),
        *(e for p in term.coefficient.products or () for f in p.factors for e in f.at),
    ]
    candidates = []
    if row_variable is not None and term.sizes[row_variable] == m:
        if affine.coefficient(column, row_variable) == 1:
            candidates.append({row_variable: 1})
        if column_variable is not None and term.sizes[column_variable] == n:
            candidates.append({row_variable: 1, column_variable: 1})
    full = column_variable is not None and term.sizes[column_variable] == n
    if column_variable is not None and full and affine.coefficient(row, column_variable) == 1:
        candidates.append({column_variable: 1})
    for step in candidates:
        moved = [sum(step.get(v, 0) * c for v, c in e.terms) for e in inside]
        if not any(moved):
            return True
    return False


def _block_diagonal(facts: Facts) -> list[Structure]:
    m, n = facts.shape
    for count in _divisors(gcd(m, n)):
        if count == 1:
            break
        height, width = m // count, n // count
        split = [
            _common_high(row, column, height, width, t)
            for t, row, column in zip(facts.terms, facts.rows, facts.columns, strict=True)
        ]
        if all(s is not None for s in split):
            return _named_blocks(facts, count, [s for s in split if s is not None])
    return []


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, min(int(n**0.5), 1 << 14) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)}, reverse=True)


@dataclass(frozen=True)
class _Split:
    high: Affine
    row: Affine
    column: Affine


def _common_high(row: Affine, column: Affine, height: int, width: int, term: Term) -> _Split | None:
    """Row = height·u + r and column = width·u + c with one u, 0 ≤ r < height, 0 ≤ c < width."""
    parts = []
    for e, size in ((row, height), (column, width)):
        high_terms = tuple((v, c // size) for v, c in e.terms if c % size == 0)
        low_terms = tuple((v, c) for v, c in e.terms if c % size)
        low = Affine(e.const, low_terms)
        first, last = span(low, term)
        quotient = first // size
        if last >= (quotient + 1) * size:
            return None
        parts.append((Affine(quotient, high_terms), affine.shift(low, -quotient * size)))
    if parts[0][0] != parts[1][0]:
        return None
    return _Split(parts[0][0], parts[0][1], parts[1][1])


def _named_blocks(facts: Facts, count: int, split: Sequence[_Split]) -> list[Structure]:
    """A block-diagonal name with what its blocks are, and whether they are equal: I ⊗ B."""
    m, n = facts.shape
    height, width = m // count, n // count
    numbers = frozenset(v for s in split for v, _ in s.high.terms)
    parameters: list[tuple[str, Any]] = [("blocks", count), ("block_shape", (height, width))]
    equal = all(_same_in_each(t, s, count) for t, s in zip(facts.terms, split, strict=True))
    if equal:
        parameters.append(("equal", True))
    if height > 1 and width > 1:
        inside = tuple(
            replace(t, out=(s.row,), inp=(s.column,))
            for t, s in zip(facts.terms, split, strict=True)
        )
        inner_facts = Facts(inside, (height,), (width,), facts.fixed | numbers)
        inside_names = name(inner_facts, blocks=False)
        if not all(
            _in_every_block(s.high, t, count) for t, s in zip(facts.terms, split, strict=True)
        ):
            inside_names = _of_some(inside_names)
        inner = most_specific(_telling(inside_names))
        if inner.kind not in ("dense", "sparse"):
            parameters.append(("inner", inner))
    found = [Structure("block-diagonal", tuple(parameters))]
    if equal:
        shape = ("block_shape", (height, width))
        found.append(Structure("kronecker", (("blocks", count), shape)))
    return found


def _in_every_block(high: Affine, term: Term, count: int) -> bool:
    """Whether a term surely has, without conditions, the same index vectors in every block."""
    u = {v for v, _ in high.terms}
    if term.zeros or term.guards or value_range(high, term.sizes) != (0, count - 1):
        return False
    return prod(term.sizes[v] for v in u) == count and not u & set(_variables(term.bounds))


def _of_some(structures: Iterable[Structure]) -> list[Structure]:
    """What stays true of blocks where some terms are missing: of zero, and of parts of a sum."""
    kept = []
    for s in structures:
        if s.kind in ("identity", "permutation", "circulant"):
            continue
        kept.append(Structure(s.kind) if s.kind == "scaled-identity" else s)
    return kept


def _same_in_each(term: Term, split: _Split, count: int) -> bool:
    """Whether a term is the same in every block."""
    u = {v for v, _ in split.high.terms}
    if not u or term.zeros or term.guards or term.coefficient.products is None:
        return False
    if value_range(split.high, term.sizes) != (0, count - 1):
        return False
    if prod(term.sizes[v] for v in u) != count or any(
        v in u for e in (*term.bounds, split.row, split.column) for v, _ in e.terms
    ):
        return False
    only = replace(term, out=(split.high,), inp=(), bounds=(), coefficient=coefficients.ONE)
    return _tells_all(only.out, only) and not u & coefficients.variables(term.coefficient)
