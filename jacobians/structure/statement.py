"""What an entry needs to be nonzero, axis by axis: `k ≤ i + 1`, `j = l`."""

from collections.abc import Sequence
from dataclasses import dataclass

from jacobians.derive.algebra.affine import subtract
from jacobians.derive.algebra.syntax import Comparison, Position
from jacobians.notation.text import text_of
from jacobians.structure.facts import Facts, span


@dataclass(frozen=True)
class Clause:
    """What an input index minus an output index lies within, for an entry to be nonzero.

    Attributes:
        out: the axis of the output.
        inp: the axis of the input.
        low: the least difference, None where any is small enough.
        high: the greatest difference, None where any is great enough.
    """

    out: int
    inp: int
    low: int | None
    high: int | None

    def condition(self, output: Sequence[str], input_: Sequence[str]) -> Comparison:
        """The clause with these letters for the axes: `k ≤ i + 1`."""
        o, i = output[self.out], Position(0, ((input_[self.inp], 1),))

        def shifted(by: int) -> Position:
            return Position(by, ((o, 1),))

        if self.low is not None and self.low == self.high:
            first, second = (shifted(0), i) if self.low == 0 else (i, shifted(self.low))
            return Comparison((first, second), ("=",))
        below = () if self.low is None else (shifted(self.low),)
        above = () if self.high is None else (shifted(self.high),)
        return Comparison((*below, i, *above), ("≤",) * (len(below) + len(above)))


def statement(
    clauses: Sequence[Clause], output: Sequence[str], input_: Sequence[str]
) -> str | None:
    """What must hold for an entry to be nonzero, `i = k and l ≤ j`; None without clauses."""
    return " and ".join(text_of(c.condition(output, input_)) for c in clauses) or None


def clauses_of(facts: Facts) -> tuple[Clause, ...]:
    """What must hold for an entry of the tensor to be nonzero; nothing when nothing is known.

    Each axis of the output is tied to the axis of the input that it tells most about.
    """
    if not facts.terms:
        return ()
    used: set[int] = set()
    clauses = []
    for a, n in enumerate(facts.out_shape):
        best: tuple[int, Clause] | None = None
        for b, k in enumerate(facts.in_shape):
            if b in used or n == 1 or k == 1:
                continue
            ranges = [span(subtract(t.inp[b], t.out[a]), t) for t in facts.terms]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            clause = _clause((a, b), (low, high), (n, k))
            if clause is not None and (best is None or high - low < best[0]):
                best = (high - low, clause)
        if best is not None:
            used.add(best[1].inp)
            clauses.append(best[1])
    return tuple(clauses)


def _clause(axes: tuple[int, int], reach: tuple[int, int], sizes: tuple[int, int]) -> Clause | None:
    """The condition low ≤ i − o ≤ high, or None where it says nothing."""
    (low, high), (n, k) = reach, sizes
    below, above = low > -(n - 1), high < k - 1
    if low == high or (below and above and 2 * (high - low + 1) <= max(n, k)):
        return Clause(*axes, low, high)
    if n == k and above and high <= 0:
        return Clause(*axes, None, high)
    if n == k and below and low >= 0:
        return Clause(*axes, low, None)
    return None
