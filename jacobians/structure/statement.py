"""What an entry needs to be nonzero, axis by axis: `k ≤ i + 1`, `j = l`."""

from jacobians.derive.algebra.affine import subtract
from jacobians.structure.facts import Facts, span


def statement(facts: Facts) -> str | None:
    """What must hold for an entry of the tensor to be nonzero, in index notation.

    Returns:
        The condition in the names `o0, o1, …` of the output's and `i0, i1, …` of the input's
        indices, such as `i0 = o0 and i1 ≤ o1`; None when nothing is known.
    """
    if not facts.terms:
        return None
    used: set[int] = set()
    clauses = []
    for a, n in enumerate(facts.out_shape):
        best: tuple[int, int, str] | None = None
        for b, k in enumerate(facts.in_shape):
            if b in used or n == 1 or k == 1:
                continue
            ranges = [span(subtract(t.inp[b], t.out[a]), t) for t in facts.terms]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            clause = _clause(f"o{a}", f"i{b}", low, high, n, k)
            if clause is not None and (best is None or high - low < best[0]):
                best = (high - low, b, clause)
        if best is not None:
            used.add(best[1])
            clauses.append(best[2])
    return " and ".join(clauses) or None


def _clause(o: str, i: str, low: int, high: int, n: int, k: int) -> str | None:
    """The condition low ≤ i − o ≤ high as text, or None where it says nothing."""
    if low == high:
        return f"{o} = {i}" if low == 0 else f"{i} = {_shifted(o, low)}"
    below, above = low > -(n - 1), high < k - 1
    if below and above and 2 * (high - low + 1) <= max(n, k):
        return f"{_shifted(o, low)} ≤ {i} ≤ {_shifted(o, high)}"
    if n == k and above and high <= 0:
        return f"{i} ≤ {_shifted(o, high)}"
    if n == k and below and low >= 0:
        return f"{_shifted(o, low)} ≤ {i}"
    return None


def _shifted(text: str, by: int) -> str:
    return text if by == 0 else f"{text} {'+' if by > 0 else '−'} {abs(by)}"
