"""One block judged in one precision: what it may be off by, and whether it is at a kink.

What is off by more than is allowed at once is looked at beside the point, where only one-sided
derivatives may settle it; then rounding is measured, where anything is wrong still.

    in_double(entries, oracle, sides, rtol=None, atol=None).wrong
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from jacobians.check import allowances, kinks
from jacobians.check.allowances import Grounds, Precision
from jacobians.check.arrays import Array, Bools, Integers
from jacobians.check.entries import Comparison, Entries
from jacobians.check.oracle import Oracle
from jacobians.check.sides import Sides

# no more derivative samples than this are taken to look for kinks
KINK_BUDGET = 1 << 26
# no more derivative samples than this are taken of entries that agree with JAX's derivative
AGREEING_BUDGET = 1 << 24
# no more columns than this are measured one by one once one is wrong beyond what rounding explains
TERM_BUDGET = 1 << 18
# so many groups of columns are looked at together
BATCH = 8
# a derivative below this share of output per input does not show in the function's values
SEEN = 1e-12


@dataclass(frozen=True, eq=False)
class Trial:
    """A block and what it is judged by.

    Attributes:
        entries: the block; what JAX's derivative is not right about is mended in it.
        oracle: the derivative of the program.
        sides: both sides of the comparison.
        actual: what the rule says in this precision.
        precision: the precision: that of the coarsest operation on the way.
        inputs: 'float64' or the inputs' own precision, whichever the values are in.
        settled: which entries are known to be right.
        confirmed: whether the formula is known to be right.
    """

    entries: Entries
    oracle: Oracle
    sides: Sides
    actual: Array
    precision: Precision
    inputs: str
    settled: Bools | None = None
    confirmed: bool = False

    def comparison(self, rtol: float | None, atol: float | None) -> Comparison:
        """The verdict, by the caller's tolerances where there are any."""
        entries, actual = self.entries, self.actual
        given = allowances.asked_for(entries.size, rtol, atol)
        tolerance = self.tolerance() if given is None else given
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - entries.expected)
            same = (actual == entries.expected) | (error <= tolerance)
        if self.settled is not None:
            same, error = same | self.settled, np.where(self.settled, 0.0, error)
        found = _at_first(np.asarray(entries.expected), error, same)
        self._look_beside(found, same, tolerance)
        source = "as given by rtol and atol" if given is not None else self._source()
        if given is None and found.wrong.any():
            known = self.grounds(found.distance, tolerance)
            explained = allowances.measured(known, found.distance, tolerance, found.wrong)
            if explained.any():
                tolerance = tolerance + explained
                found.wrong[found.distance <= tolerance] = False
                source = f"{source}, and what rounding moves it by, measured"
        return Comparison(
            actual=actual,
            wrong=found.wrong,
            kink=found.kink,
            undefined=found.undefined,
            singular=found.singular,
            nearest=found.nearest,
            error=found.distance,
            tolerance=tolerance,
            source=source,
            precision=self.inputs,
            by_own=self.settled if self.settled is not None and self.settled.any() else None,
        )

    def tolerance(self) -> Array:
        """The largest difference that needs no second look."""
        return allowances.at_once(self.grounds())

    def grounds(
        self, error: Array | None = None, tolerance: Array | None = None, own: bool = False
    ) -> Grounds:
        """What allowances are computed from.

        Args:
            error: how far off each entry is; without it rounding cannot be measured.
            tolerance: what is allowed at once.
            own: whether rounding is measured at the inputs in their own precision.
        """
        entries = self.entries
        known = Grounds(
            self.precision, entries.size, entries.unit, bar=entries.bar, confirmed=self.confirmed
        )
        if error is None or tolerance is None:
            return known
        eps, tiny = self.precision.eps, self.precision.tiny
        factor = allowances.ROUNDINGS if own else allowances.measured_factor(self.precision)

        def is_beyond(k: Integers, noise: Array) -> bool:
            return bool((error[k] > tolerance[k] + factor * noise).any())

        return replace(
            known,
            of_derivative=lambda left: self._of_derivative(left, error, is_beyond, own),
            of_rule=lambda left: self.sides.rule_noise(eps, tiny, own)[entries.inside],
            imitated=lambda left: self.sides.noise[entries.inside],
        )

    def _source(self) -> str:
        """Where the tolerance comes from, in words."""
        of_bar = ", the error bar of the finite differences" if self.entries.bar is not None else ""
        return f"{self.precision.name} rounding of the entry itself{of_bar}"

    def _look_beside(self, found: kinks.Verdicts, same: Bools, tolerance: Array) -> None:
        """Looks at one-sided derivatives where entries differ, or agree beside a jump."""
        entries, double = self.entries, self.precision.is_double
        finite = np.isfinite(self.actual) & np.isfinite(entries.expected)
        # in double precision a derivative that does not jump is at no kink
        differing = ~same & (
            entries.jumping_rows | ~finite | (not double) | (self.oracle.how != "forward mode")
        )
        if differing.any():
            self._settle(found, np.flatnonzero(differing), tolerance)
        # less than that of a difference quotient is rounding
        agreeing = same & finite & (entries.leap > SEEN * entries.unit)
        if double and agreeing.any():
            self._disprove(found, np.flatnonzero(agreeing), tolerance)

    def _of_derivative(
        self,
        chosen: Bools,
        error: Array,
        is_beyond: Callable[[Integers, Array], bool],
        own: bool,
    ) -> Array:
        """What rounding moves the derivative by at chosen entries, 0 elsewhere.

        Columns are looked at from the worst on; when the budget is used up it stops as soon as
        an entry `is_beyond` what rounding moves it by.
        """
        result = np.zeros(len(error))
        if self.oracle.how != "forward mode":
            return result
        off = np.flatnonzero(chosen)
        eps, tiny = self.precision.eps, self.precision.tiny
        cost = sum(leaf.size for leaf in self.oracle.call.inputs)
        spent, done = 0, False
        for groups, batch in self._batches(off, error[off]):
            for columns, mine in zip(groups, batch, strict=True):
                noise = self.oracle.noise(self._number, columns, eps, tiny, own)
                result[mine] = noise[self.entries.place][self.entries.rows[mine]]
                done = done or is_beyond(mine, result[mine])
                spent += cost
                if done and spent > TERM_BUDGET:
                    return result
        return result

    @property
    def _number(self) -> int:
        """Position of the block's input among the selected ones."""
        return self.oracle.call.selected.index(self.entries.input)

    @property
    def _values(self) -> list[Array]:
        """The selected inputs in double precision."""
        return [self.oracle.wide[k] for k in self.oracle.call.selected]

    def _batches(
        self, off: Integers, distance: Array
    ) -> Iterator[tuple[list[Integers], list[Integers]]]:
        """Columns that differ, a few groups at a time from the worst on, and their entries."""
        columns = self.entries.columns[off]
        colours = self.sides.column_colours(self.entries.input)
        colour = columns if colours is None else colours[columns]
        order = list(dict.fromkeys(colour[np.argsort(-distance, kind="stable")].tolist()))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield (
                [np.unique(columns[colour == c]) for c in chosen],
                [off[colour == c] for c in chosen],
            )

    def _settle(self, found: kinks.Verdicts, off: Integers, tolerance: Array) -> None:
        """Settles which of the differing entries are wrong, and which at a kink or undefined.

        Groups of columns are looked at from the worst on; when the budget is used up and one is
        wrong, the verdict stands, and what has not been looked at counts as wrong.
        """
        cost = len(kinks.OFFSETS) * sum(leaf.size for leaf in self.oracle.call.inputs)
        spent, broken = 0, False
        for groups, batch in self._batches(off, found.distance[off]):
            for verdict, mine in zip(self._judged(groups, batch, tolerance), batch, strict=True):
                found.put(mine, verdict)
                broken = broken or bool(verdict.wrong.any())
            spent += cost * len(groups)
            if spent > KINK_BUDGET and broken:
                break

    def _judged(
        self, groups: list[Integers], batch: list[Integers], tolerance: Array
    ) -> list[kinks.Verdicts]:
        """Verdicts by derivatives beside the point, then by limits of quotients, group by group."""
        entries, place = self.entries, self.entries.place
        differences = self.oracle.how != "forward mode"
        width = kinks.width(self.precision.is_double, differences)
        samples = kinks.one_sided(
            self.oracle.plain, self._values, self._number, groups, *width, differences
        )
        verdicts = [
            kinks.judge(
                self.actual[mine],
                samples.derivatives[place][group][:, entries.rows[mine]],
                samples.rises[place][group, entries.rows[mine]]
                / (2 * samples.slope_steps[entries.columns[mine]]),
                entries.expected[mine],
                tolerance[mine],
                entries.nowhere[mine],
            )
            for group, mine in enumerate(batch)
        ]
        if not any(v.wrong.any() for v in verdicts):
            return verdicts
        limits = kinks.limits(self.oracle.compiled, self._values, self._number, groups)[place]
        return [
            kinks.by_limits(
                verdict,
                self.actual[mine],
                limits.at(group, entries.rows[mine], entries.columns[mine]),
                entries.expected[mine],
                tolerance[mine],
                np.isfinite(entries.expected[mine])
                & np.isfinite(samples.derivatives[place][group][:, entries.rows[mine]]).all(axis=0),
            )
            for group, (verdict, mine) in enumerate(zip(verdicts, batch, strict=True))
        ]

    def _disprove(self, found: kinks.Verdicts, agreeing: Integers, tolerance: Array) -> None:
        """Marks entries that say what JAX says at a kink, and are disproved by the function.

        max(x, 0) − |x|/2 is x/2; what JAX says at 0 depends on its conventions.
        """
        entries, oracle = self.entries, self.oracle
        cost = 2 * len(kinks.STEPS) * sum(leaf.size for leaf in oracle.call.inputs)
        spent = 0
        for groups, batch in self._batches(agreeing, -entries.size[agreeing]):
            limits = kinks.limits(oracle.compiled, self._values, self._number, groups)
            for group, mine in enumerate(batch):
                here = limits[entries.place].at(group, entries.rows[mine], entries.columns[mine])
                wrong, nearest = kinks.disproved(self.actual[mine], here, tolerance[mine])
                if wrong.any():
                    wrong &= self._disproved_beside(groups[group], mine, tolerance)
                found.wrong[mine] = wrong
                found.distance[mine] = np.where(
                    wrong, np.abs(self.actual[mine] - nearest), found.distance[mine]
                )
                # what JAX says there is not the derivative
                entries.expected[mine[wrong]] = found.nearest[mine[wrong]] = nearest[wrong]
            spent += cost * len(groups)
            if spent > AGREEING_BUDGET:
                oracle.notes.append(
                    "there are so many kinks at this point that not all entries that agree with "
                    "JAX's derivative there were looked at one-sidedly"
                )
                break

    def _disproved_beside(self, columns: Integers, mine: Integers, tolerance: Array) -> Bools:
        """Which entries derivatives beside the point, closer than quotients can be, speak against.

        What the rule says, which is what JAX says, has to lie outside of all of them.
        """
        width = kinks.width(double=True, differences=False)
        samples = kinks.one_sided(self.oracle.plain, self._values, self._number, [columns], *width)
        beside = samples.derivatives[self.entries.place][0][:, self.entries.rows[mine]]
        actual = self.actual[mine]
        with np.errstate(invalid="ignore"):
            low, high = beside.min(axis=0), beside.max(axis=0)
            size = np.maximum(np.maximum(np.abs(low), np.abs(high)), np.abs(actual))
            gap = np.maximum(low - actual, actual - high)
            allowed = tolerance[mine] + allowances.doubt_beside(size)
            return np.asarray(np.isfinite(size) & (gap > allowed))


def _at_first(expected: Array, error: Array, same: Bools) -> kinks.Verdicts:
    """Verdicts before anything has been looked at: what differs is wrong."""
    no = np.zeros(len(error), bool)
    distance = np.where(np.isfinite(error), error, np.where(same, 0.0, np.inf))
    return kinks.Verdicts(~same, no, no.copy(), no.copy(), distance, expected.copy())


def in_double(
    entries: Entries, oracle: Oracle, sides: Sides, rtol: float | None, atol: float | None
) -> Comparison | None:
    """The comparison in double precision, or None where the rule has none."""
    if entries.wide is None:
        return None
    precision = Precision(entries.wide_eps)
    trial = Trial(entries, oracle, sides, entries.wide, precision, "float64")
    return trial.comparison(rtol, atol)


def in_own(
    entries: Entries,
    oracle: Oracle,
    sides: Sides,
    rtol: float | None,
    atol: float | None,
    first: Comparison | None,
) -> Comparison:
    """The comparison in the inputs' own precision.

    `first` is the comparison in double precision where that has found the formula right.
    """
    precision = Precision(entries.narrow_eps)
    trial = Trial(entries, oracle, sides, entries.narrow, precision, precision.name)
    trial = replace(trial, confirmed=first is not None)
    trial = replace(trial, settled=_as_drawn(trial))
    found = trial.comparison(rtol, atol)
    found = found.excusing(found.wrong & entries.lost)
    if first is None and not oracle.draws:
        return found
    return _held_to_own(trial, found, first)


def _as_drawn(trial: Trial) -> Bools | None:
    """Which entries are JAX's own where the function draws random numbers, None otherwise."""
    own = trial.sides.own if trial.entries.bar is None and trial.oracle.draws else None
    if own is None:
        return None
    drawn = _against(trial, own)
    with np.errstate(invalid="ignore"):
        agree = np.abs(trial.actual - drawn.entries.expected) <= drawn.tolerance()
        near = np.abs(trial.actual - trial.entries.expected) <= trial.tolerance()
    return np.asarray(agree & ~near)


def _against(trial: Trial, own: Array) -> Trial:
    """The same held against JAX's derivative in the inputs' own precision."""
    mine = replace(trial.entries, expected=own[trial.entries.inside])
    return replace(trial, entries=mine)


def _held_to_own(trial: Trial, found: Comparison, first: Comparison | None) -> Comparison:
    """The same, what agrees with JAX's derivative in the inputs' own precision being right.

    Where that is another than in float64, so is what JAX says at a kink: entries that float64
    has found to be at one are not judged again.
    """
    entries = trial.entries
    off = found.wrong & np.isfinite(found.actual)
    known = np.zeros(len(off), bool) if found.by_own is None else found.by_own
    every = trial.sides.own if off.any() and entries.bar is None else None
    if every is None:
        return found
    mine = _against(trial, every)
    own = mine.entries.expected
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found.actual - own)
        tolerance = mine.tolerance()
        left = off & (error > tolerance)
        if left.any():
            grounds = mine.grounds(error, tolerance, own=True)
            tolerance = tolerance + allowances.rounding_of_both(grounds, left)
        held = off & (error <= tolerance)
        another = np.abs(own - entries.expected) > np.maximum(tolerance, found.tolerance)
    if first is not None and another.any():
        held |= off & (first.kink | first.singular | first.undefined)
    if not (held | known).any():
        return found
    wrong = found.wrong & ~held
    # what is wrong is wrong by the numbers of this precision
    there = wrong & np.isfinite(error)
    entries.expected = np.where(there, own, entries.expected)
    return replace(
        found,
        wrong=wrong,
        error=np.where(held, 0.0, np.where(there, error, found.error)),
        nearest=np.where(there, own, found.nearest),
        by_own=held | known,
    )
