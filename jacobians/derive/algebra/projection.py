"""Patterns without their paths: variables that only conditions hold are removed.

The product of constant matrices A·B·C with zeros is a term whose inner indices appear only in the
tables `A[i,j]≠0`, `B[j,k]≠0`, `C[k,l]≠0`. Its index vectors are the paths from l to i, of which
there may be far more than entries. Removing j and k one after the other, each by one product of
boolean sparse matrices, leaves one table over (i,l).

    smaller, exact = projected(term, limit)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from scipy import sparse

from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import Affine, plain_variable
from jacobians.derive.algebra.normal import normal, pattern_only
from jacobians.derive.algebra.points import Integers, grid_size, points
from jacobians.derive.algebra.table import Table
from jacobians.derive.algebra.term import Guard, Term, relation_variables

# a table of so many entries is kept whole, and a larger one where it is not sparse
SMALL_TABLE = 1 << 12
LARGE_TABLE = 1 << 22
SPARSE = 16
# multiplications in one product of sparse matrices
MAX_WORK = 1 << 28
MAX_STEPS = 200


@dataclass(frozen=True)
class _Relation:
    """A set of index vectors: one row each, one column for each variable."""

    names: tuple[int, ...]
    rows: Integers


def projected(term: Term, limit: int) -> tuple[Term | None, bool]:
    """A term of the same pattern, or a wider one, without variables that only conditions hold.

    Args:
        term: a term.
        limit: how many index vectors of a few conditions may be listed.

    Returns:
        The term, None when it is empty, and whether its pattern is the same.
    """
    exact = True
    current: Term | None = pattern_only(term)
    for _ in range(MAX_STEPS):
        assert current is not None
        waiting = _hidden(current)
        if not waiting:
            return current, exact
        for v in waiting:
            found = _without(current, v, limit)
            if found is not None:
                break
        else:
            # too many to list: whatever the variable ties together counts as tied to everything
            found, exact = _dropped(current, waiting[0]), False
        if isinstance(found, bool):
            return None, exact
        current = normal(found)
        if current is None:
            return None, exact
        current = pattern_only(current)
    return current, exact


def by_parts(term: Term, place: Affine, limit: int) -> Integers | None:
    """The different values of an expression on a term, its independent variables apart.

    Args:
        term: a term.
        place: an expression in its variables.
        limit: how many values may be in hand at a time.

    Returns:
        The values in increasing order, or None where they are too many.
    """
    reached = np.array([place.const], np.int64)
    for group in _groups(term):
        own = Affine(0, tuple(t for t in place.terms if t[0] in group))
        part = _only(term, group)
        if grid_size(part) > limit:
            part = replace(part, zeros=(), bounds=(), guards=())
            values = _sums(own, term, limit)
        else:
            values = np.unique(points(part).value(own))
        if values is None or len(reached) * len(values) > limit:
            return None
        reached = np.unique(np.add.outer(reached, values))
    return reached


def _sums(e: Affine, term: Term, limit: int) -> Integers | None:
    """The values of an expression over the whole box of its variables."""
    reached = np.array([e.const], np.int64)
    for v, c in e.terms:
        if len(reached) * term.sizes[v] > limit:
            return None
        reached = np.unique(np.add.outer(reached, c * np.arange(term.sizes[v], dtype=np.int64)))
    return reached


def _only(term: Term, group: set[int]) -> Term:
    """The conditions of a term on some of its variables, which no others are tied to."""
    return Term(
        {v: term.sizes[v] for v in group},
        tuple(affine.variable(v) for v in group),
        (),
        zeros=tuple(e for e in term.zeros if _variables((e,)) & group),
        bounds=tuple(e for e in term.bounds if _variables((e,)) & group),
        guards=tuple(g for g in term.guards if _variables(_of_guard(g)) & group),
    )


def _groups(term: Term) -> list[set[int]]:
    """The variables of a relation, those tied by conditions together."""
    groups = [{v} for v in relation_variables(term)]
    conditions = [_variables((e,)) for e in (*term.zeros, *term.bounds)]
    conditions += [_variables(_of_guard(g)) for g in term.guards]
    for names in conditions:
        touched = [g for g in groups if g & names]
        groups = [g for g in groups if not g & names]
        groups.append(set().union(*touched))
    return groups


def _of_guard(guard: Guard) -> tuple[Affine, ...]:
    return guard.at if guard.value is None else (*guard.at, guard.value)


def _variables(es: Iterable[Affine]) -> set[int]:
    return {v for e in es for v, _ in e.terms}


def _list_numbers(term: Term) -> set[int]:
    """The variables that number the entries of a list: they only look up other indices."""
    elsewhere = _variables((*term.out, *term.inp, *term.zeros, *term.bounds))
    numbers: set[int] = set()
    for g in term.guards:
        number = plain_variable(g.at[0]) if len(g.at) == 1 else None
        if number is None or g.value is None:
            elsewhere |= _variables(_of_guard(g))
        else:
            numbers.add(number)
            elsewhere |= _variables((g.value,))
    return numbers - elsewhere


def _hidden(term: Term) -> list[int]:
    """The variables to remove, those in the smallest tables first."""
    stay = _variables((*term.out, *term.inp)) | _list_numbers(term)
    waiting = [v for v in relation_variables(term) if v not in stay]
    return sorted(waiting, key=lambda v: sum(grid_size(t) for t in _conditions(term, v)))


def _conditions(term: Term, v: int) -> list[Term]:
    """The conditions on a variable, each as a term of its own, a list of entries being one."""
    found = [Term({}, (), (), zeros=(e,)) for e in term.zeros if affine.coefficient(e, v)]
    found += [Term({}, (), (), bounds=(e,)) for e in term.bounds if affine.coefficient(e, v)]
    numbers = _list_numbers(term)
    lists: set[int] = set()
    for g in term.guards:
        if v not in _variables(_of_guard(g)):
            continue
        number = _variables(g.at) & numbers
        if number:
            lists |= number
        else:
            found.append(Term({}, (), (), guards=(g,)))
    for e in lists:
        found.append(
            Term({}, (), (), guards=tuple(g for g in term.guards if e in _variables(g.at)))
        )
    return [replace(t, sizes={w: term.sizes[w] for w in relation_variables(t)}) for t in found]


def _without(term: Term, v: int, limit: int) -> Term | bool | None:
    """The term without one variable; None where that is too large, False where it is empty."""
    parts = _conditions(term, v)
    most = max(limit, LARGE_TABLE)
    if any(grid_size(t) > most for t in parts):
        return None
    numbers = _list_numbers(term)
    relations = sorted((_listed(t, numbers) for t in parts), key=lambda r: len(r.rows))
    joint: _Relation | None = relations[0]
    for k, other in enumerate(relations[1:], 2):
        assert joint is not None
        joint = _joined(joint, other, v if k == len(relations) else None, most)
        if joint is None:
            return None
    assert joint is not None
    if len(relations) == 1:
        joint = _projection(joint, v)
    if not len(joint.rows):
        return False
    used = {id(g) for t in parts for g in t.guards}
    left = replace(term, guards=tuple(g for g in term.guards if id(g) not in used))
    names = set(relation_variables(_dropped(left, v))) | set(joint.names)
    rest = _dropped(left, v)
    rest = replace(rest, sizes={w: n for w, n in term.sizes.items() if w in names})
    count = prod(term.sizes[w] for w in joint.names)
    if len(joint.rows) == count:
        return rest
    if count <= SMALL_TABLE or (count <= LARGE_TABLE and len(joint.rows) * SPARSE >= count):
        mask = np.zeros(tuple(term.sizes[w] for w in joint.names), bool)
        mask[tuple(joint.rows.T)] = True
        at = tuple(affine.variable(w) for w in joint.names)
        return replace(rest, guards=(*rest.guards, Guard(Table(mask), at)))
    e = affine.fresh()
    guards = tuple(
        Guard(Table(column), (affine.variable(e),), affine.variable(w))
        for w, column in zip(joint.names, joint.rows.T, strict=True)
    )
    sizes = {**rest.sizes, e: len(joint.rows)}
    return replace(rest, sizes=sizes, guards=(*rest.guards, *guards))


def _dropped(term: Term, v: int) -> Term:
    """The term without a variable and whatever is asked of it."""
    return replace(
        term,
        sizes={w: n for w, n in term.sizes.items() if w != v},
        zeros=tuple(e for e in term.zeros if not affine.coefficient(e, v)),
        bounds=tuple(e for e in term.bounds if not affine.coefficient(e, v)),
        guards=tuple(g for g in term.guards if v not in _variables(_of_guard(g))),
    )


def _listed(condition: Term, numbers: set[int]) -> _Relation:
    """The index vectors of a condition, without the numbers of listed entries."""
    found = points(condition)
    names = tuple(w for w in relation_variables(condition) if w not in numbers)
    if not names:
        return _Relation((), np.zeros((min(found.count, 1), 0), np.int64))
    return _Relation(names, np.stack([found.at[w] for w in names], axis=1))


def _projection(relation: _Relation, v: int) -> _Relation:
    names = tuple(w for w in relation.names if w != v)
    return _Relation(names, _numbered(relation.rows[:, _places(relation, names)])[0])


def _joined(a: _Relation, b: _Relation, drop: int | None, limit: int) -> _Relation | None:
    """Both relations at once, without one variable that both hold where one is given."""
    shared = [w for w in a.names if w in b.names]
    kept = [w for w in shared if w != drop]
    left = [*(w for w in a.names if w not in shared), *kept]
    right = [w for w in b.names if w not in shared]
    first, row = _numbered(a.rows[:, _places(a, left)])
    last, column = _numbered(b.rows[:, _places(b, right)])
    both = np.concatenate([a.rows[:, _places(a, shared)], b.rows[:, _places(b, shared)]])
    inner = _numbered(both)[1]
    i, j = inner[: len(a.rows)], inner[len(a.rows) :]
    count = int(np.max(inner, initial=-1)) + 1
    work = int(np.dot(np.bincount(i, minlength=count), np.bincount(j, minlength=count)))
    if work > MAX_WORK or min(work, len(first) * len(last)) > limit:
        return None
    ones = np.ones(len(inner), np.float32)
    product = sparse.coo_array(
        sparse.csr_array((ones[: len(i)], (row, i)), shape=(len(first), count))
        @ sparse.csr_array((ones[: len(j)], (j, column)), shape=(count, len(last)))
    )
    rows = np.concatenate([first[product.row], last[product.col]], axis=1)
    return _Relation((*left, *right), rows)


def _places(relation: _Relation, names: Sequence[int]) -> list[int]:
    return [relation.names.index(w) for w in names]


def _numbered(rows: Integers) -> tuple[Integers, Integers]:
    """The different rows in order, and for every row the number of its own."""
    if not rows.shape[1] or not len(rows):
        return rows[:1], np.zeros(len(rows), np.int64)
    # rows as numbers of mixed radix sort faster than rows do
    sizes = [int(n) + 1 for n in np.max(rows, axis=0)]
    if prod(sizes) >= 1 << 62:
        different, number = np.unique(rows, axis=0, return_inverse=True)
        return different, number.reshape(-1)
    codes, number = np.unique(np.ravel_multi_index(tuple(rows.T), sizes), return_inverse=True)
    return np.stack(np.unravel_index(codes, sizes), axis=1), number.reshape(-1)
