"""The entries of one block that are compared: expected, claimed, and what each may be off by.

`Entries` are the numbers of one output with respect to one input, at the places that were looked
at; a `Comparison` is what came of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from jacobians.check import kinks
from jacobians.check.oracle import Oracle
from jacobians.check.sides import Array, Bools, Integers, Sides

NOISE = 10.0

# half precision leaves so few digits that less of them is put down to rounding
COARSE_NOISE = 4.0
COARSE = 1e-4
# below this unit roundoff a comparison is in double precision
FINE = 1e-12
# an entry that moving the inputs by a few roundings changes by this share of itself jumps there
JUMP = 1e-3
# no more derivative samples than this are taken to look for kinks
KINK_BUDGET = 1 << 26
# a derivative below this share of output per input does not show in the function's values
SEEN = 1e-12
# no more columns than this are measured one by one once one is wrong beyond what rounding explains
TERM_BUDGET = 1 << 18
# no more derivative samples than this are taken of entries that agree with JAX's derivative
AGREEING_BUDGET = 1 << 24
# so many groups of columns are looked at together
BATCH = 8


@dataclass(frozen=True, eq=False)
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


@dataclass(eq=False)
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

    def first(
        self, oracle: Oracle, sides: "Sides", rtol: float | None, atol: float | None
    ) -> Comparison | None:
        """The comparison in double precision, or None where the rule has none."""
        if self.wide is None:
            return None
        return self._pass(
            self.wide, self.wide_eps, "float64", self._given(rtol, atol), oracle, sides
        )

    def second(
        self,
        oracle: Oracle,
        sides: "Sides",
        rtol: float | None,
        atol: float | None,
        first: Comparison | None,
    ) -> Comparison:
        """The comparison in the inputs' own precision.

        `first` is the comparison in double precision where that has found the formula right.
        """
        made = self._pass(
            self.narrow, self.narrow_eps, _digits(self.narrow_eps),
            self._given(rtol, atol), oracle, sides, first is not None,
            self._as_drawn(oracle, sides),
        )  # fmt: skip
        made = made.excusing(made.wrong & self.lost)
        if first is None and not oracle.draws:
            return made
        return self._held_to_own(made, first, oracle, sides)

    def _as_drawn(self, oracle: Oracle, sides: "Sides") -> Bools | None:
        """Which entries are JAX's own where the function draws random numbers, None otherwise."""
        own = sides.own if self.bar is None and oracle.draws else None
        if own is None:
            return None
        mine = replace(self, expected=own[self.inside])
        with np.errstate(invalid="ignore"):
            agree = np.abs(self.narrow - mine.expected) <= mine.tolerance(self.narrow_eps)
            near = np.abs(self.narrow - self.expected) <= self.tolerance(self.narrow_eps)
        return np.asarray(agree & ~near)

    def _held_to_own(
        self, made: Comparison, first: Comparison | None, oracle: Oracle, sides: "Sides"
    ) -> Comparison:
        """The same, what agrees with JAX's derivative in the inputs' own precision being right.

        Where that is another than in float64, so is what JAX says at a kink: entries that float64
        has found to be at one are not judged again.
        """
        off = made.wrong & np.isfinite(made.actual)
        known = np.zeros(len(off), bool) if made.by_own is None else made.by_own
        every = sides.own if off.any() and self.bar is None else None
        if every is None:
            return made
        own = every[self.inside]
        mine = replace(self, expected=own)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(made.actual - own)
            tolerance = mine.tolerance(self.narrow_eps)
            left = off & (error > tolerance)
            if left.any():
                tiny = float(np.finfo(np.float32).tiny)
                noise = sides.rule_noise(self.narrow_eps, tiny, own=True)[self.inside]
                noise += self._measured(
                    left, error, oracle, sides, self.narrow_eps, tiny,
                    lambda k, moved: bool((error[k] > tolerance[k] + NOISE * moved).any()),
                    own=True,
                )  # fmt: skip
                tolerance = tolerance + NOISE * noise
            held = off & (error <= tolerance)
            another = np.abs(own - self.expected) > np.maximum(tolerance, made.tolerance)
        if first is not None and another.any():
            held |= off & (first.kink | first.singular | first.undefined)
        if not (held | known).any():
            return made
        wrong = made.wrong & ~held
        # what is wrong is wrong by the numbers of this precision
        there = wrong & np.isfinite(error)
        self.expected = np.where(there, own, self.expected)
        return replace(
            made,
            wrong=wrong,
            error=np.where(held, 0.0, np.where(there, error, made.error)),
            nearest=np.where(there, own, made.nearest),
            by_own=held | known,
        )

    def _given(self, rtol: float | None, atol: float | None) -> Array | None:
        if rtol is None and atol is None:
            return None
        return np.asarray((atol or 0.0) + (rtol or 0.0) * np.abs(np.nan_to_num(self.expected)))

    @property
    def _size(self) -> Array:
        return np.abs(np.where(np.isfinite(self.expected), self.expected, 0.0))

    @cached_property
    def _jumping_rows(self) -> Bools:
        """Which entries are in a row of which some entry jumps: the row may be at a kink."""
        rows = np.zeros(int(np.max(self.rows, initial=-1)) + 1, bool)
        rows[self.rows[self.leap > 0]] = True
        return np.asarray(rows[self.rows])

    def tolerance(self, eps: float) -> Array:
        """The largest difference that needs no second look: a small part of the entry itself."""
        tiny = 1e4 * float(np.finfo(np.float32 if eps > FINE else float).tiny)
        roundings = 8.0 if eps > COARSE else 64.0
        share = 1e-5 if eps < COARSE else roundings * eps
        result = share * self._size + tiny
        if self.bar is not None:
            result = result + self.bar + 16 * eps * self.unit
        return np.asarray(result)

    def _pass(
        self,
        actual: Array,
        eps: float,
        precision: str,
        given: Array | None,
        oracle: Oracle,
        sides: "Sides",
        confirmed: bool = False,
        settled: Bools | None = None,
    ) -> Comparison:
        """Compares in one precision.

        `confirmed` says that the formula is known to be right, `settled` which entries are right.
        """
        tolerance = self.tolerance(eps) if given is None else given
        source = "as given by rtol and atol"
        if given is None:
            source = f"{_digits(eps)} rounding of the entry itself"
            if self.bar is not None:
                source = f"{source}, the error bar of the finite differences"
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - self.expected)
            same = (actual == self.expected) | (error <= tolerance)
        if settled is not None:
            same, error = same | settled, np.where(settled, 0.0, error)
        error = np.where(np.isfinite(error), error, np.where(same, 0.0, np.inf))
        no = np.zeros(len(error), bool)
        found = kinks.Verdicts(
            ~same, no, no.copy(), no.copy(), error, np.asarray(self.expected).copy()
        )
        width = (1e-7, 1e-13) if eps < FINE else (1e-6, 1e-6)
        # in double precision a derivative that does not jump is at no kink
        finite = np.isfinite(actual) & np.isfinite(self.expected)
        look = ~same & (
            self._jumping_rows | ~finite | (eps >= FINE) | (oracle.how != "forward mode")
        )
        if look.any():
            self._settle(found, np.flatnonzero(look), actual, tolerance, oracle, sides, width)
        # less than that of a difference quotient is rounding
        agreeing = same & finite & (self.leap > SEEN * self.unit)
        if eps < FINE and agreeing.any():
            self._disprove(found, np.flatnonzero(agreeing), actual, tolerance, oracle, sides)
        if given is None and found.wrong.any():
            explained = self._explained(found, eps, tolerance, oracle, sides, confirmed)
            if explained.any():
                tolerance = tolerance + explained
                found.wrong[found.distance <= tolerance] = False
                source = f"{source}, and what rounding moves it by, measured"
        return Comparison(
            actual, found.wrong, found.kink, found.undefined, found.singular, found.nearest,
            found.distance, tolerance, source, precision,
            settled if settled is not None and settled.any() else None,
        )  # fmt: skip

    def _explained(
        self,
        found: kinks.Verdicts,
        eps: float,
        tolerance: Array,
        oracle: Oracle,
        sides: "Sides",
        confirmed: bool,
    ) -> Array:
        """What rounding explains beyond the tolerance where entries look wrong."""
        error = found.distance
        factor = NOISE if eps <= COARSE else COARSE_NOISE
        tiny = float(np.finfo(float if eps < FINE else np.float32).tiny)
        left = found.wrong & np.isfinite(error)

        def still(k: Integers, noise: Array) -> bool:
            return bool((error[k] > tolerance[k] + factor * noise).any())

        explained = factor * self._measured(left, error, oracle, sides, eps, tiny, still)
        left &= error > tolerance + explained
        if left.any():
            of_rule = factor * sides.rule_noise(eps, tiny)[self.inside]
            explained = np.where(left, np.maximum(explained, of_rule), explained)
            left &= error > tolerance + explained
        if left.any() and FINE < eps < COARSE:
            # rounding that flips a comparison or is of second order shows when it is imitated
            with np.errstate(over="ignore"):
                imitated = NOISE * sides.noise[self.inside]
            if not confirmed:
                imitated = np.minimum(imitated, 0.1 * self._size)
            explained = np.where(left, np.maximum(explained, imitated), explained)
        return np.asarray(np.where(found.wrong, explained, 0.0))

    def _measured(
        self,
        chosen: Bools,
        error: Array,
        oracle: Oracle,
        sides: "Sides",
        eps: float,
        tiny: float,
        enough: Callable[[Integers, Array], bool],
        own: bool = False,
    ) -> Array:
        """What rounding moves the derivative by at chosen entries, 0 elsewhere.

        At the inputs' double-precision values, or in their `own` precision.

        Columns are looked at from the worst on; when the budget is used up it stops as soon as
        what it has is `enough`.
        """
        result = np.zeros(len(error))
        off = np.flatnonzero(chosen)
        if oracle.how != "forward mode":
            return result
        number = oracle.call.selected.index(self.input)
        cost = sum(leaf.size for leaf in oracle.call.inputs)
        spent, done = 0, False
        for groups, entries in self._batches(off, error[off], sides):
            for columns, mine in zip(groups, entries, strict=True):
                noise = oracle.noise(number, columns, eps, tiny, own)
                result[mine] = noise[self.place][self.rows[mine]]
                done = done or enough(mine, result[mine])
                spent += cost
                if done and spent > TERM_BUDGET:
                    return result
        return result

    def _batches(
        self, off: Integers, distance: Array, sides: "Sides"
    ) -> Iterator[tuple[list[Integers], list[Integers]]]:
        """Columns that differ, a few groups at a time from the worst on, and their entries."""
        columns = self.columns[off]
        colours = sides.column_colours(self.input)
        colour = columns if colours is None else colours[columns]
        order = list(dict.fromkeys(colour[np.argsort(-distance, kind="stable")].tolist()))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield (
                [np.unique(columns[colour == c]) for c in chosen],
                [off[colour == c] for c in chosen],
            )

    def _settle(
        self,
        found: kinks.Verdicts,
        off: Integers,
        actual: Array,
        tolerance: Array,
        oracle: Oracle,
        sides: "Sides",
        width: tuple[float, float],
    ) -> None:
        """Settles which of the differing entries are wrong, and which at a kink or undefined.

        Groups of columns are looked at from the worst on; when the budget is used up and one is
        wrong, the verdict stands, and what has not been looked at counts as wrong.
        """
        differences = oracle.how != "forward mode"
        if differences:
            width = (1e-4, 1e-4)
        cost = len(kinks.OFFSETS) * sum(leaf.size for leaf in oracle.call.inputs)
        number = oracle.call.selected.index(self.input)
        values = [oracle.wide[k] for k in oracle.call.selected]
        spent, broken = 0, False
        for groups, entries in self._batches(off, found.distance[off], sides):
            samples = kinks.one_sided(oracle.plain, values, number, groups, *width, differences)
            first = []
            for place, mine in enumerate(entries):
                row = self.rows[mine]
                first.append(
                    kinks.judge(
                        actual[mine],
                        samples.derivatives[self.place][place][:, row],
                        samples.rises[self.place][place, row]
                        / (2 * samples.slope_steps[self.columns[mine]]),
                        self.expected[mine],
                        tolerance[mine],
                        self.nowhere[mine],
                    )
                )
            if any(v.wrong.any() for v in first):
                limits = kinks.limits(oracle.compiled, values, number, groups)[self.place]
                for place, mine in enumerate(entries):
                    row = self.rows[mine]
                    beside = samples.derivatives[self.place][place][:, row]
                    first[place] = kinks.by_limits(
                        first[place], actual[mine], limits.at(place, row, self.columns[mine]),
                        self.expected[mine], tolerance[mine],
                        np.isfinite(self.expected[mine]) & np.isfinite(beside).all(axis=0),
                    )  # fmt: skip
            for v, mine in zip(first, entries, strict=True):
                found.wrong[mine], found.kink[mine] = v.wrong, v.kink
                found.undefined[mine], found.singular[mine] = v.undefined, v.singular
                found.distance[mine], found.nearest[mine] = v.distance, v.nearest
                broken = broken or bool(v.wrong.any())
            spent += cost * len(groups)
            if spent > KINK_BUDGET and broken:
                break

    def _disprove(
        self,
        found: kinks.Verdicts,
        agreeing: Integers,
        actual: Array,
        tolerance: Array,
        oracle: Oracle,
        sides: "Sides",
    ) -> None:
        """Marks entries that say what JAX says at a kink, and are disproved by the function.

        max(x, 0) − |x|/2 is x/2; what JAX says at 0 depends on its conventions.
        """
        number = oracle.call.selected.index(self.input)
        values = [oracle.wide[k] for k in oracle.call.selected]
        cost = 2 * len(kinks.STEPS) * sum(leaf.size for leaf in oracle.call.inputs)
        spent = 0
        for groups, entries in self._batches(agreeing, -self._size[agreeing], sides):
            limits = kinks.limits(oracle.compiled, values, number, groups)[self.place]
            for place, mine in enumerate(entries):
                row = self.rows[mine]
                wrong, nearest = kinks.disproved(
                    actual[mine], limits.at(place, row, self.columns[mine]), tolerance[mine]
                )
                if wrong.any():
                    # and derivatives beside the point, far closer than quotients can be, say so too
                    samples = kinks.one_sided(
                        oracle.plain, values, number, groups[place : place + 1], 1e-7, 1e-13
                    )
                    beside = samples.derivatives[self.place][0][:, row]
                    with np.errstate(invalid="ignore"):
                        low, high = beside.min(axis=0), beside.max(axis=0)
                        size = np.maximum(np.abs(low), np.abs(high))
                        size = np.maximum(size, np.abs(actual[mine]))
                        gap = np.maximum(low - actual[mine], actual[mine] - high)
                        wrong &= np.isfinite(size) & (gap > tolerance[mine] + 1e-2 * size)
                found.wrong[mine] = wrong
                found.distance[mine] = np.where(
                    wrong, np.abs(actual[mine] - nearest), found.distance[mine]
                )
                # what JAX says there is not the derivative
                self.expected[mine[wrong]] = found.nearest[mine[wrong]] = nearest[wrong]
            spent += cost * len(groups)
            if spent > AGREEING_BUDGET:
                oracle.notes.append(
                    "there are so many kinks at this point that not all entries that agree with "
                    "JAX's derivative there were looked at one-sidedly"
                )
                break


def _digits(eps: float) -> str:
    names = {-52: "float64", -23: "float32", -10: "float16", -7: "bfloat16"}
    return names.get(round(float(np.log2(eps))), "its own")
