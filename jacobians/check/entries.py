"""The entries of one block that are compared: expected, claimed, and what came of them.

`Entries` are the numbers of one output with respect to one input, at the places that were looked
at; a `Comparison` is what came of them.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from jacobians.check.arrays import Array, Bools, Integers


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """The outcome of comparing one block.

    Attributes:
        actual: what the rule says, by entry, in the precision that decided.
        wrong: which entries are wrong.
        kink: which of all entries differ at a kink; those that are not wrong are right there.
        undefined: which entries the function has no derivative for, so that NaN is no mistake.
        singular: which entries the function has no finite derivative for, so that what the rule
            says is a convention.
        nearest: the right value that is nearest, by entry: the derivative, except at kinks and
            where JAX's own is not it.
        error: distance to the nearest right value, by entry.
        tolerance: what rounding may explain, by entry.
        source: where the tolerance comes from.
        precision: 'float64' or the inputs' own, whichever decided.
        by_own: which entries were held against JAX's derivative in the inputs' own precision, that
            in float64 being another; None where none was.
    """

    actual: Array
    wrong: Bools
    kink: Bools
    undefined: Bools
    singular: Bools
    nearest: Array
    error: Array
    tolerance: Array
    source: str
    precision: str
    by_own: Bools | None = None

    def excusing(self, entries: Bools) -> "Comparison":
        """The same with these entries undefined rather than wrong."""
        if not entries.any():
            return self
        return replace(
            self,
            wrong=self.wrong & ~entries,
            undefined=self.undefined | entries,
            error=np.where(entries, 0.0, self.error),
        )

    @property
    def at(self) -> int | None:
        """Position of the worst entry."""
        if not len(self.error):
            return None
        ratio = self.error / np.maximum(self.tolerance, 1e-300)
        return int(np.argmax(np.where(self.wrong, ratio, -1.0) if self.wrong.any() else ratio))


@dataclass(eq=False, kw_only=True)
class Entries:
    """Entries of one block on both sides.

    Attributes:
        output: position of the output leaf in the call.
        input: position of the input leaf.
        place: position of the output among the differentiable ones.
        count: number of entries of the whole block.
        inside: which of the listed entries of all blocks are this block's.
        rows: row of every listed entry.
        columns: column of every listed entry.
        expected: the derivative.
        bar: error bar of the derivative, or None.
        leap: by how much the derivative is another just beside the point, 0 where it is not.
        wide: what the rule says in double precision, or None.
        narrow: what the rule says in the inputs' own precision.
        wide_eps: unit roundoff of the double-precision comparison.
        narrow_eps: unit roundoff of the inputs' own precision.
        unit: size of the output entry divided by that of the input entry, which is what finite
            differences are rounded to.
        nowhere: whether the output entry itself is NaN or infinite.
        lost: whether the inputs' own precision can hold the function or the derivative not at all,
            so that what the rule says there is none of its own making.
        backward: the derivative in JAX's reverse mode, where either side is not finite.
    """

    output: int
    input: int
    place: int
    count: int
    inside: Bools
    rows: Integers
    columns: Integers
    expected: Array
    bar: Array | None
    leap: Array
    wide: Array | None
    narrow: Array
    wide_eps: float
    narrow_eps: float
    unit: Array
    nowhere: Bools
    lost: Bools
    backward: Array | None

    def only(self, inside: Bools) -> "Entries":
        """Some of the entries; `inside` tells which."""

        def part(values: Array | None) -> Array | None:
            return None if values is None else values[inside]

        return replace(
            self,
            inside=inside,
            rows=self.rows[inside],
            columns=self.columns[inside],
            expected=self.expected[inside],
            bar=part(self.bar),
            leap=self.leap[inside],
            wide=part(self.wide),
            narrow=self.narrow[inside],
            unit=self.unit[inside],
            nowhere=self.nowhere[inside],
            lost=self.lost[inside],
            backward=part(self.backward),
        )

    @property
    def size(self) -> Array:
        """Size of every derivative, 0 where it is not finite."""
        return np.abs(np.where(np.isfinite(self.expected), self.expected, 0.0))

    @cached_property
    def jumping_rows(self) -> Bools:
        """Which entries are in a row of which some entry jumps: the row may be at a kink."""
        rows = np.zeros(int(np.max(self.rows, initial=-1)) + 1, bool)
        rows[self.rows[self.leap > 0]] = True
        return np.asarray(rows[self.rows])
