"""Terms composed, brought into a normal form, and merged.

Composition solves for the index variables that two relations share: of A[k, 2k] and B[2j, j] comes
AB[k, k]. Variables that no index depends on are summed out of a pattern.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from jacobians.derive.algebra import affine
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import Affine, add, substitute, subtract, value_range
from jacobians.derive.algebra.coefficient import Coefficient
from jacobians.derive.algebra.term import (
    Term,
    expressions,
    oriented,
    relation_variables,
    rename,
    with_fresh_variables,
)


def compose(outer: Term, inner: Term) -> Term | None:
    """The product of two Jacobian terms, ∂z/∂y from `outer` and ∂y/∂x from `inner`.

    Args:
        outer: a term whose input is y.
        inner: a term whose output is y, of the same rank.

    Returns:
        The term of ∂z/∂x in normal form, or None when it is proved empty.
    """
    if outer.sizes.keys() & inner.sizes.keys():
        inner = with_fresh_variables(inner)
    joined = Term(
        {**outer.sizes, **inner.sizes},
        outer.out,
        inner.inp,
        coefficients.multiply(outer.coefficient, inner.coefficient),
        outer.zeros
        + inner.zeros
        + tuple(subtract(a, b) for a, b in zip(outer.inp, inner.out, strict=True)),
        outer.bounds + inner.bounds,
        outer.guards + inner.guards,
    )
    return normal(joined)


def normal(term: Term) -> Term | None:
    """The term in normal form, or None when no index vector satisfies its conditions.

    Equations are split by mixed radix and solved for a variable of coefficient ±1 where there is
    one; bounds in one variable become its range; variables of size one become 0; a variable that
    only counts repetitions becomes a factor. Every step is one to one on index vectors, so sums
    over them, and with them coefficients, keep their value.
    """
    work = _Work(term)
    if not work.solve():
        return None
    return work.finish()


class _Work:
    """The state of one normalisation: a term being rewritten in place."""

    def __init__(self, term: Term) -> None:
        self.sizes = dict(term.sizes)
        self.term = term
        self.zeros = list(term.zeros)
        self.bounds = list(term.bounds)
        # summed within one product already: another product's count does not concern it
        self.digits: set[int] = set()
        self.local = coefficients.variables(term.coefficient) - set(relation_variables(term))

    def replace(self, replacement: Mapping[int, Affine], new_sizes: Mapping[int, int]) -> None:
        """Replaces variables everywhere; `new_sizes` are sizes of variables that come in."""
        for v in replacement:
            self.sizes.pop(v, None)
        self.sizes.update(new_sizes)
        self.term = rename(replace(self.term, zeros=(), bounds=()), replacement, self.sizes)
        self.zeros = [substitute(e, replacement) for e in self.zeros]
        self.bounds = [substitute(e, replacement) for e in self.bounds]

    def solve(self) -> bool:
        """Drops, splits and solves equations, then tightens bounds; False when infeasible."""
        if any(n <= 0 for n in self.sizes.values()):
            return False
        ones = {v: affine.ZERO for v, n in self.sizes.items() if n == 1}
        if ones:
            self.replace(ones, {})
        for _ in range(200):
            state = self._solve_equation()
            if state is None:
                return False
            if state:
                continue
            state = self._tighten()
            if state is None:
                return False
            if not state:
                return True
        return True

    def _solve_equation(self) -> bool | None:
        """One step on the equations: True when something changed, None when infeasible."""
        for k, e in enumerate(self.zeros):
            if not e.terms:
                if e.const:
                    return None
                del self.zeros[k]
                return True
            low, high = value_range(e, self.sizes)
            divisor = affine.content(e)
            if low > 0 or high < 0 or e.const % divisor:
                return None
            if divisor > 1:
                self.zeros[k] = Affine(
                    e.const // divisor, tuple((v, c // divisor) for v, c in e.terms)
                )
                return True
            if low == 0 or high == 0:
                # every variable sits at the end of its range that reaches the 0
                del self.zeros[k]
                at_low = low == 0
                ends = {
                    v: affine.constant(0 if (c > 0) == at_low else self.sizes[v] - 1)
                    for v, c in e.terms
                }
                self.replace(ends, {})
                return True
        if self._solve_one(longest=2) or self._join_digits():
            return True
        for k, e in enumerate(self.zeros):
            halves = _split_by_radix(e, self.sizes)
            if halves is not None:
                self.zeros[k : k + 1] = halves
                return True
        for e in self.zeros:
            refined = _variable_to_split(e, self.sizes)
            if refined is not None:
                v, low_size = refined
                high_v, low_v = affine.fresh(), affine.fresh()
                self.digits.update((high_v, low_v))
                self.replace(
                    {v: affine.linear([(high_v, low_size), (low_v, 1)])},
                    {high_v: self.sizes[v] // low_size, low_v: low_size},
                )
                return True
        return self._solve_one()

    def _solve_one(self, longest: int | None = None) -> bool:
        """Solves one equation, of at most `longest` variables and without new bounds if given."""
        for k, e in enumerate(self.zeros):
            if longest is not None and len(e.terms) > longest:
                continue
            choice = self._variable_to_solve(e)
            if choice is None or (longest is not None and choice[2]):
                continue
            v, expression, extra = choice
            del self.zeros[k]
            self.bounds.extend(extra)
            self.replace({v: expression}, {})
            return True
        return False

    def _join_digits(self) -> bool:
        """Joins two variables that occur only as the digits of one number, `size(w)·v + w`."""
        for e in self.zeros:
            for v, c in e.terms:
                for w, d in e.terms:
                    if v == w or c != d * self.sizes[w] or {v, w} & self.digits:
                        continue
                    if not self._only_together(v, w):
                        continue
                    joint = affine.fresh()
                    self.replace(
                        {v: affine.ZERO, w: affine.variable(joint)},
                        {joint: self.sizes[v] * self.sizes[w]},
                    )
                    return True
        return False

    def _only_together(self, v: int, w: int) -> bool:
        """Whether v occurs with size(w) times the coefficient of w in every expression."""
        size = self.sizes[w]
        factors = self.term.coefficient.products or ()
        everything = itertools.chain(
            expressions(self.term),
            self.zeros,
            self.bounds,
            (e for p in factors for f in p.factors for e in f.at),
        )
        return all(affine.coefficient(e, v) == size * affine.coefficient(e, w) for e in everything)

    def _variable_to_solve(self, e: Affine) -> tuple[int, Affine, list[Affine]] | None:
        """The variable of coefficient ±1 whose solution needs the fewest new bounds."""
        best: tuple[tuple[int, int, int], int, Affine, list[Affine]] | None = None
        for v, c in e.terms:
            if c not in (1, -1):
                continue
            expression = affine.scale(subtract(e, affine.variable(v, c)), -c)
            low, high = value_range(expression, self.sizes)
            extra = []
            if low < 0:
                extra.append(expression)
            if high > self.sizes[v] - 1:
                extra.append(subtract(affine.constant(self.sizes[v] - 1), expression))
            rank = (len(extra), len(expression.terms), v)
            if best is None or rank < best[0]:
                best = (rank, v, expression, extra)
        return None if best is None else best[1:]

    def _tighten(self) -> bool | None:
        """One step on the bounds: True when something changed, None when infeasible."""
        kept: list[Affine] = []
        seen: set[Affine] = set()
        for e in self.bounds:
            low, high = value_range(e, self.sizes)
            if high < 0:
                return None
            if low >= 0 or e in seen:
                continue
            divisor = affine.content(e)
            if divisor > 1:
                e = Affine(e.const // divisor, tuple((v, c // divisor) for v, c in e.terms))
                if value_range(e, self.sizes)[0] >= 0 or e in seen:
                    continue
            seen.add(e)
            kept.append(e)
        self.bounds = kept
        for k, e in enumerate(kept):
            if len(e.terms) == 1:
                # content is 1 here: the bound is v + const ≥ 0 or const − v ≥ 0
                (v, c), size = e.terms[0], self.sizes[e.terms[0][0]]
                del self.bounds[k]
                if c == 1:
                    self._set_range(v, -e.const, size - 1)
                else:
                    self._set_range(v, 0, e.const)
                return True
        return False

    def _set_range(self, v: int, first: int, last: int) -> None:
        """Cuts the range of v to [first, last] and moves it back to start at 0."""
        size = last - first + 1
        if size == 1:
            self.replace({v: affine.constant(first)}, {})
        elif first == 0:
            self.sizes[v] = size
        else:
            w = affine.fresh()
            self.replace({v: affine.shift(affine.variable(w), first)}, {w: size})

    def finish(self) -> Term | None:
        """The rewritten term without unused variables."""
        term = replace(
            self.term, sizes=self.sizes, zeros=tuple(self.zeros), bounds=tuple(self.bounds)
        )
        guards = []
        for g in term.guards:
            if any(e.terms for e in g.at) or (g.value is not None and g.value.terms):
                guards.append(g)
            elif not g.table.holds(g.at, g.value):
                return None
        term = replace(term, guards=tuple(guards))
        used = set(relation_variables(term))
        hidden = coefficients.variables(term.coefficient)
        summed = [v for v in self.sizes if v not in used and v not in self.local]
        products = term.coefficient.products
        new_coefficient = term.coefficient
        if products is not None and summed:
            # a product without one of the summed variables counts once for each of its values
            scaled = []
            for p in products:
                own = {v for f in p.factors for e in f.at for v, _ in e.terms}
                repeat = prod(self.sizes[v] for v in summed if v not in own)
                scaled.append(coefficients.repeated(p, repeat))
            new_coefficient = Coefficient(tuple(scaled), term.coefficient.depends)
        keep = used | hidden
        return replace(
            term,
            sizes={v: n for v, n in self.sizes.items() if v in keep},
            coefficient=new_coefficient,
        )


def _split_by_radix(e: Affine, sizes: Mapping[int, int]) -> list[Affine] | None:
    """Two equations equal to `e = 0`, or None.

    With e = M·H + L and |L| < M everywhere, e = 0 exactly when L = 0 and H = 0.
    """
    for modulus in sorted({abs(c) for _, c in e.terms if abs(c) > 1}, reverse=True):
        low_terms = tuple((v, c) for v, c in e.terms if c % modulus)
        if not low_terms or len(low_terms) == len(e.terms):
            continue
        high_terms = tuple((v, c // modulus) for v, c in e.terms if c % modulus == 0)
        low, high = value_range(Affine(0, low_terms), sizes)
        for quotient in (e.const // modulus, e.const // modulus + 1):
            rest = e.const - quotient * modulus
            if low + rest > -modulus and high + rest < modulus:
                return [Affine(rest, low_terms), Affine(quotient, high_terms)]
    return None


def _variable_to_split(e: Affine, sizes: Mapping[int, int]) -> tuple[int, int] | None:
    """A variable whose mixed-radix split lets `e = 0` be split, and the size of its low digit."""
    moduli = sorted({abs(c) for _, c in e.terms if abs(c) > 1})
    for modulus in moduli:
        for v, c in e.terms:
            step = abs(c)
            if step >= modulus or modulus % step:
                continue
            digit = modulus // step
            if digit > 1 and sizes[v] > digit and sizes[v] % digit == 0:
                return v, digit
    return None


def pattern_only(term: Term) -> Term:
    """The term without its formula, in as few variables as its pattern needs.

    Variables that are only conditions are projected out where that is exact, and variables that
    occur only together, in one interval-covering combination, become one. The set of
    (output, input) pairs stays the same; how often a pair is reached does not.
    """
    term = replace(term, coefficient=coefficients.opaque(term.coefficient.depends))
    used = set(relation_variables(term))
    term = replace(term, sizes={v: n for v, n in term.sizes.items() if v in used})
    for _ in range(20):
        smaller = _project(term) or _join_parallel(term)
        if smaller is None:
            break
        again = normal(smaller)
        if again is None:
            break
        term = again
    return oriented(term)


def _project(term: Term) -> Term | None:
    """Removes one variable that occurs only in bounds, with coefficients ±1 (Fourier, Motzkin)."""
    elsewhere = {v for e in (*term.out, *term.inp, *term.zeros) for v, _ in e.terms} | {
        v
        for g in term.guards
        for e in (*g.at, *((g.value,) if g.value is not None else ()))
        for v, _ in e.terms
    }
    for v in {v for e in term.bounds for v, _ in e.terms} - elsewhere:
        holding = [e for e in term.bounds if affine.coefficient(e, v)]
        if any(abs(affine.coefficient(e, v)) != 1 for e in holding) or len(holding) > 4:
            continue
        lower = [affine.variable(v)]
        upper = [affine.linear([(v, -1)], term.sizes[v] - 1)]
        for e in holding:
            (lower if affine.coefficient(e, v) == 1 else upper).append(e)
        rest = [e for e in term.bounds if not affine.coefficient(e, v)]
        combined = [add(a, b) for a in lower for b in upper]
        sizes = {w: n for w, n in term.sizes.items() if w != v}
        return replace(term, sizes=sizes, bounds=tuple(rest + combined))
    return None


def _join_parallel(term: Term) -> Term | None:
    """Replaces two variables that only occur as `c·(v + b·w)` by one, where that is an interval."""
    columns: dict[int, dict[int, int]] = {}
    for position, e in enumerate(expressions(term)):
        for v, c in e.terms:
            columns.setdefault(v, {})[position] = c
    names = list(columns)
    for i, v in enumerate(names):
        for w in names[i + 1 :]:
            if columns[v].keys() != columns[w].keys():
                continue
            a, b = (v, w) if _ratio(columns[v], columns[w]) is not None else (w, v)
            ratio = _ratio(columns[a], columns[b])
            if ratio is None or abs(ratio) > term.sizes[a]:
                continue
            # every expression holds c·(a + ratio·b): a + |ratio|·b covers an interval
            joint = affine.fresh()
            size = term.sizes[a] + abs(ratio) * (term.sizes[b] - 1)
            offset = 0 if ratio > 0 else ratio * (term.sizes[b] - 1)
            sizes = {u: n for u, n in term.sizes.items() if u not in (a, b)}
            sizes[joint] = size
            return rename(
                term,
                {a: affine.shift(affine.variable(joint), offset), b: affine.ZERO},
                sizes,
            )
    return None


def _ratio(a: Mapping[int, int], b: Mapping[int, int]) -> int | None:
    """The integer r with b = r·a in every expression, or None."""
    ratio: int | None = None
    for position, c in a.items():
        d = b[position]
        if d % c or (ratio is not None and d // c != ratio):
            return None
        ratio = d // c
    return ratio
