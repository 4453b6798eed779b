"""Two Jacobians entry by entry: what a rule implies, and the derivative of the program.

The comparison is exact: every entry, or, when the matrix is large, every entry of the proved
pattern of either side, everything else being proved zero on both. A tolerance is what rounding can
explain of an entry by itself: a small part of its own size, and where that is not enough, what
rounding moves it by, measured to first order in the program of the derivative and in the rule's.
Only terms that cancel in the entry count; what stands in other rows and columns excuses nothing.

Where the derivative jumps beside the point, one-sided derivatives are looked at, also of entries
that agree with JAX's: what JAX says at a tie is a convention, and kinks may cancel.

In the inputs' own precision rounding is imitated too: the rule's program is run again with an
error of one rounding after every operation. A function may compute other numbers there than in
float64 (random ones drawn without a dtype): what looks wrong there alone is held against JAX's own
derivative in that precision as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import dense, kinks, program
from jacobians.algebra import entries as listing
from jacobians.arguments import Call
from jacobians.derive.call import derive_call
from jacobians.derive.walk import derive
from jacobians.implied import (
    CHUNK,
    DOUBLE,
    implied_jacobian,
    output_templates,
    precisions,
    pulled,
    rebuilt,
    rounding,
    rounding_to_first_order,
    row_colours,
)
from jacobians.oracle import Oracle
from jacobians.rule import Rule, first_line
from jacobians.terms import drawn, largest

Array = NDArray[Any]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

# up to this many entries the matrix is compared whole; beyond, by its pattern if that is smaller
WHOLE = 1 << 18
MAX_WHOLE = 1 << 26
MAX_PATTERN = 1 << 22
# rounding errors are imitated this often, and may be this many times larger than what was seen
SEEDS = 4
NOISE = 10.0
LOUD = 16.0
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


@dataclass(eq=False)
class Sides:
    """How both sides are evaluated on the listed entries.

    Attributes:
        call: the call.
        rows: row of every listed entry in the whole matrix.
        columns: its column.
        truth: the derivative of the program at double-precision values, and its error bar.
        mine: what the rule says at values, in their precision.
        rounded: the same with every operation's result moved by a relative size at random,
            by a seed.
        sloping: the slope of the same to first order.
        compressed: whether the entries are those of a proved pattern.
        derivative: JAX's derivative of the program in the inputs' own precision.
    """

    call: Call
    rows: Integers
    columns: Integers
    truth: Callable[[Sequence[Any] | None], tuple[Array, Array | None]]
    mine: Callable[[Sequence[Any]], Array]
    rounded: Callable[[Sequence[Any], float, int], Array]
    sloping: Callable[[Sequence[Any], float, float, Array], Array]
    compressed: bool
    derivative: Callable[[], Array] | None = None

    @cached_property
    def own(self) -> Array | None:
        """JAX's derivative in the inputs' own precision, None where there is none."""
        if self.derivative is None:
            return None
        try:
            return self.derivative()
        except Exception:
            # what float64 says stands
            return None

    def column_colours(self, leaf: int) -> Integers | None:
        """Colours of a leaf's columns such that no row holds two of one colour, or None."""
        if not self.compressed:
            return None
        if leaf not in self._colours:
            before = sum(self.call.inputs[k].size for k in self.call.selected if k < leaf)
            size = self.call.inputs[leaf].size
            mine = (self.columns >= before) & (self.columns < before + size)
            rows, columns = self.rows[mine], self.columns[mine] - before
            order = np.lexsort((rows, columns))
            m = int(np.max(rows, initial=-1)) + 1
            self._colours[leaf] = row_colours(columns[order], rows[order], size, m)
        return self._colours[leaf]

    @cached_property
    def _colours(self) -> dict[int, Integers]:
        return {}

    @cached_property
    def noise(self) -> Array:
        """How far rounding in the inputs' own precision moves each entry of the rule."""
        call = self.call
        values = [leaf.value for leaf in call.inputs]
        eps = max(float(jnp.finfo(call.inputs[k].dtype).eps) for k in call.selected)
        wide = [dense.promoted(leaf, v) for leaf, v in zip(call.inputs, values, strict=True)]
        with jax.enable_x64(True):
            try:
                exact = np.nan_to_num(self.mine(wide))
                made = [self.rounded(wide, eps, seed) - exact for seed in range(SEEDS)]
            except Exception:
                made = []
        if not made:
            # tied to its own precision: larger errors than those of rounding, scaled back
            base = self.mine(values)
            made = [(self.rounded(values, LOUD * eps, seed) - base) / LOUD for seed in range(SEEDS)]
        return np.asarray(np.max(np.abs(np.nan_to_num(made)), axis=0))

    def rule_noise(self, eps: float, tiny: float, own: bool = False) -> Array:
        """How far rounding moves each entry of the rule, to first order; 0 where JAX cannot tell.

        Args:
            eps: the relative error of an operation.
            tiny: its absolute error.
            own: whether at the inputs' values in their own precision, rather than in double.
        """
        if (eps, tiny, own) not in self._rule_noise:
            wide = [dense.promoted(leaf, leaf.value) for leaf in self.call.inputs]
            self._rule_noise[eps, tiny, own] = np.zeros(len(self.rows))
            for double, values in ((True, wide), (False, [x.value for x in self.call.inputs])):
                if own and double:
                    continue
                try:
                    with jax.enable_x64(double):
                        seeds = [[self.sloping(values, eps, tiny, r)] for r in drawn()]
                except Exception:
                    # not in this precision: the other, or nothing is excused
                    continue
                self._rule_noise[eps, tiny, own] = largest(seeds)[0]
                break
        return self._rule_noise[eps, tiny, own]

    @cached_property
    def _rule_noise(self) -> dict[tuple[float, float, bool], Array]:
        return {}


@dataclass(frozen=True, eq=False)
class Compared:
    """Entries of every block, and how they were evaluated."""

    blocks: tuple[Entries, ...]
    sides: Sides
    wide_works: bool
    rule_eps: float


def compare(call: Call, rule: Rule, oracle: Oracle, notes: list[str]) -> Compared | None:
    """Evaluates both sides.

    Args:
        call: the call.
        rule: the hand-written derivative, bound to the call.
        oracle: the derivative of the program.
        notes: sentences for the reader are appended here.

    Returns:
        The entries of every block; None when there are too many to compare one by one.

    Raises:
        ArgumentError: the truth cannot be had at this size.
    """
    outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    m = sum(call.outputs[k].size for k in outputs)
    n = sum(call.inputs[k].size for k in call.selected)
    sides = _sides(call, rule, oracle, m, n, notes)
    if sides is None:
        return None
    expected, bar = sides.truth(None)
    leap = np.zeros(len(expected))
    if bar is None:
        for side in (1.0, -1.0):
            leap = np.maximum(
                leap, leaps(expected, sides.truth(oracle.nudged(oracle.beside, side))[0])
            )
    wide, rule_eps, function_eps, why = None, DOUBLE, DOUBLE, ""
    with jax.enable_x64(True):
        try:
            wide = sides.mine(oracle.wide)
            rule_eps, function_eps = precisions(call, rule, oracle.wide)
        except Exception as error:
            wide, why = None, first_line(error)
    narrow = sides.mine([leaf.value for leaf in call.inputs])
    narrow_eps = max(
        [float(jnp.finfo(call.inputs[k].dtype).eps) for k in call.selected]
        + [float(jnp.finfo(call.outputs[k].dtype).eps) for k in outputs]
    )
    # a rule may round to the precision of its inputs, or of the function itself, and no further
    wide_eps = max(DOUBLE, function_eps, min(rule_eps, narrow_eps))
    notes.extend(oracle.notes)
    if wide is None:
        notes.append(
            f"the rule could not be evaluated in float64 ({why}); it is compared in its own "
            "precision, which tells less: see the tolerances"
        )
    elif wide_eps > DOUBLE:
        who = "function" if function_eps >= wide_eps else "rule"
        notes.append(
            f"the {who} computes in {_digits(wide_eps)} inside although its inputs are float64 "
            "here: what such rounding explains is not told from a mistake"
        )
    backward = None
    sound = [np.isfinite(v).all() for v in (expected, wide, narrow) if v is not None]
    if not all(sound):
        backward = _backward(sides, oracle, m, n) if bar is None else None
    if backward is not None:
        # 0·∞ spoils a row in forward mode and a column in reverse: what either finds is true
        expected = np.where(np.isfinite(expected), expected, backward)
    beyond = np.zeros(len(expected), bool)
    if wide is not None and not sides.compressed:
        spoilt = ~np.isfinite(narrow) & np.isfinite(wide) & np.isfinite(expected)
        if spoilt.any():
            # where JAX's own derivative overflows in this precision, so may the rule
            own = _backward(sides, oracle, m, n, double=False)
            beyond = spoilt & ~np.isfinite(np.zeros(1) if own is None else own)
    blocks = []
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for k in call.selected:
            height, width = call.outputs[o].size, call.inputs[k].size
            rows, columns = sides.rows - row_start, sides.columns - column_start
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            rows, columns = rows[inside], columns[inside]
            blocks.append(
                Entries(
                    o, k, place, height * width, inside, rows, columns, expected[inside],
                    None if bar is None else bar[inside],
                    leap[inside],
                    None if wide is None else wide[inside],
                    narrow[inside], wide_eps, narrow_eps,
                    oracle.units(o, k, rows, columns),
                    ~np.isfinite(oracle.outputs[o].reshape(-1)[rows]),
                    beyond[inside]
                    | _lost(oracle, o, k, rows, expected[inside], narrow[inside], wide is not None),
                    None if backward is None else backward[inside],
                )
            )  # fmt: skip
            column_start += width
        row_start += call.outputs[o].size
    if bar is not None:
        _note_bars(expected, bar, notes)
    return Compared(tuple(blocks), sides, wide is not None, rule_eps)


def leaps(expected: Array, beside: Array) -> Array:
    """By how much a derivative just beside the point is another, 0 where it is about the same.

    Infinite where one of them is not finite and the other is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(expected - beside)
        found = np.where(apart > JUMP * np.maximum(np.abs(expected), np.abs(beside)), apart, 0.0)
    return np.where(np.isfinite(expected) != np.isfinite(beside), np.inf, found)


def _lost(
    oracle: Oracle,
    output: int,
    leaf: int,
    rows: Integers,
    expected: Array,
    narrow: Array,
    wide: bool,
) -> Bools:
    """Where the inputs' own precision cannot hold the function, or the derivative.

    Where there is no double precision to judge by, that excuses NaN and infinity only.
    """
    bad = ~np.isfinite(narrow)
    here, there = (
        np.isfinite(y[output]).reshape(-1)[rows] for y in (oracle.narrow_outputs, oracle.outputs)
    )
    largest = float(jnp.finfo(oracle.call.inputs[leaf].dtype).max)
    with np.errstate(invalid="ignore"):
        beyond = (np.abs(expected) >= 0.999 * largest) & (np.sign(expected) * narrow == np.inf)
    return np.asarray((~here & there & (bad | wide)) | beyond)


def _backward(sides: Sides, oracle: Oracle, m: int, n: int, double: bool = True) -> Array | None:
    """The listed entries by JAX's reverse mode of the program; None where it has none.

    In double precision, or in the inputs' own.
    """
    if sides.compressed:
        return sides.truth(None)[0]
    if not _has_reverse(oracle):
        return None
    call = oracle.call
    values = oracle.wide if double else [leaf.value for leaf in call.inputs]
    with jax.enable_x64(double):
        plain = oracle.plain if double else oracle.narrow_plain
        primal, pull = jax.vjp(plain, *(jnp.asarray(values[k]) for k in call.selected))
        chunk = max(1, min(m, CHUNK // max(1, m + n)))
        parts = []
        for start in range(0, m, chunk):
            # not compiled: XLA would turn a product with a unit vector into a choice, and 0·∞ to 0
            made = jax.vmap(lambda *c: pull(c))(*dense.unit_vectors(primal, start, chunk))
            parts.append(
                np.concatenate([np.asarray(c, np.float64).reshape(chunk, -1) for c in made], axis=1)
            )
    return np.concatenate(parts)[:m].ravel() if parts else np.zeros(m * n)


def _note_bars(expected: Array, bar: Array, notes: list[str]) -> None:
    """Says how much finite differences can tell."""
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    coarse = bar > 1e-3 * np.maximum(np.abs(expected), 1e-3 * scale)
    worst = float(bar[np.isfinite(bar)].max(initial=0.0))
    text = f"the largest error bar of the finite differences is {worst:.1e}"
    if coarse.any():
        text += (
            f"; for {int(coarse.sum())} of {len(bar)} entries it is more than 0.1 % of the entry, "
            "so that smaller mistakes there go unseen"
        )
    notes.append(text)


def _sides(
    call: Call, rule: Rule, oracle: Oracle, m: int, n: int, notes: list[str]
) -> Sides | None:
    places = _pattern(call, rule) if m * n > WHOLE and not oracle.hidden_rules else None
    if places is not None and not _has_reverse(oracle):
        places = None
    if places is None and m * n > MAX_WHOLE:
        return None
    if places is not None:
        rows, columns, colours = places
        notes.append(
            f"compared without loss by {int(np.max(colours, initial=0)) + 1} VJP(s) of each side: "
            f"{len(rows)} of {m * n} entries can be nonzero, the others are proved zero"
        )
        truth, rule_says, noisy_rule, slope, own = _compressed(call, rule, oracle, places)
        return Sides(call, rows, columns, truth, rule_says, noisy_rule, slope, True, own)
    notes.append("every entry compared")
    rows, columns = np.divmod(np.arange(m * n, dtype=np.int64), max(n, 1))

    def whole(values: Sequence[Any] | None) -> tuple[Array, Array | None]:
        made = oracle.whole(values)
        return made.matrix.ravel(), None if made.bar is None else made.bar.ravel()

    def plain(values: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        return pulled(call, rule, values, cotangents)

    implied = implied_jacobian(call, plain, m, n)

    noisy = implied_jacobian(call, rounding(call, rule), m, n)

    def rounded(values: Sequence[Any], size: float, seed: int) -> Array:
        return noisy(values, size, seed).ravel()

    slopes = implied_jacobian(call, rounding_to_first_order(call, rule), m, n)

    def sloping(values: Sequence[Any], eps: float, tiny: float, numbers: Array) -> Array:
        return slopes(values, eps, tiny, numbers).ravel()

    def mine(values: Sequence[Any]) -> Array:
        return implied(values).ravel()

    return Sides(
        call, rows, columns, whole, mine, rounded, sloping, False,
        lambda: oracle.narrow_whole.ravel(),
    )  # fmt: skip


def _has_reverse(oracle: Oracle) -> bool:
    """Whether JAX can transpose the program; a while loop, for one, it cannot."""
    call = oracle.call
    with jax.enable_x64(True):
        chosen = [jnp.asarray(oracle.wide[k]) for k in call.selected]
        try:
            jax.eval_shape(lambda *v: jax.vjp(oracle.plain, *v)[1](oracle.plain(*v)), *chosen)
        except Exception:
            return False
    return True


def _compressed(
    call: Call, rule: Rule, oracle: Oracle, places: tuple[Integers, Integers, Integers]
) -> tuple[Callable[..., Any], ...]:
    """Both sides on the entries of the pattern, rows of one colour together."""
    rows, columns, colours = places
    masks = [colours == c for c in range(int(np.max(colours, initial=0)) + 1)]

    def by_vjp(pull: Callable[..., Any], templates: Sequence[Any]) -> Array:
        result = np.zeros(len(rows))
        for mask in masks:
            vectors, start = [], 0
            for t in templates:
                size = int(np.prod(t.shape, dtype=np.int64))
                hot = mask[start : start + size]
                vectors.append(jnp.asarray(hot, t.dtype).reshape(t.shape))
                start += size
            flat = np.concatenate([np.asarray(c, np.float64).reshape(-1) for c in pull(vectors)])
            mine = mask[rows]
            result[mine] = flat[columns[mine]]
        return result

    def truth(values: Sequence[Any] | None) -> tuple[Array, None]:
        given = oracle.wide if values is None else values
        with jax.enable_x64(True):
            chosen = [jnp.asarray(given[k]) for k in call.selected]
            primal, pull = jax.vjp(oracle.plain, *chosen)
            return by_vjp(lambda c: pull(tuple(c)), primal), None

    def mine(values: Sequence[Any]) -> Array:
        return by_vjp(lambda c: pulled(call, rule, values, c), output_templates(call, values))

    def rounded(values: Sequence[Any], size: float, seed: int) -> Array:
        pull = rounding(call, rule)
        return by_vjp(lambda c: pull(values, c, size, seed), output_templates(call, values))

    def sloping(values: Sequence[Any], eps: float, tiny: float, numbers: Array) -> Array:
        pull = rounding_to_first_order(call, rule)
        return by_vjp(lambda c: pull(values, c, eps, tiny, numbers), output_templates(call, values))

    def own() -> Array:
        primal, pull = jax.vjp(
            oracle.narrow_plain, *(jnp.asarray(call.inputs[k].value) for k in call.selected)
        )
        return by_vjp(lambda c: pull(tuple(c)), primal)

    return truth, mine, rounded, sloping, own


def _pattern(call: Call, rule: Rule) -> tuple[Integers, Integers, Integers] | None:
    """Rows and columns that can be nonzero on either side, and a colour for every row.

    None when it cannot be proved or is not sparse enough to be worth it.
    """
    try:
        truth = derive_call(call)
        floats = [k for k, leaf in enumerate(call.inputs) if leaf.differentiable]
        outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
        templates = [call.outputs[k] for k in outputs]
        inner = program.trace(
            lambda *given: pulled(
                call, rule, rebuilt(call, [x.value for x in call.inputs], given[: len(floats)]),
                given[len(floats) :],
            ),
            [
                *(jax.ShapeDtypeStruct(call.inputs[k].shape, call.inputs[k].dtype) for k in floats),
                *(jax.ShapeDtypeStruct(t.shape, t.dtype) for t in templates),
            ],
        )  # fmt: skip
        rules = derive(inner, [False] * len(floats) + [True] * len(templates))
    except Exception:
        return None
    keys = []
    m = sum(t.size for t in templates)
    n = sum(call.inputs[k].size for k in call.selected)
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for number, k in enumerate(call.selected):
            shapes = call.outputs[o].shape, call.inputs[k].shape
            one = listing.coordinates(truth.terms(o, k), *shapes, MAX_PATTERN)
            other = listing.coordinates(
                rules.blocks.get((number, len(floats) + place), ()), *shapes[::-1], MAX_PATTERN
            )
            if one is None or other is None:
                return None
            keys.append((one[0] + row_start) * n + one[1] + column_start)
            keys.append((other[1] + row_start) * n + other[0] + column_start)
            column_start += call.inputs[k].size
        row_start += call.outputs[o].size
    rows, columns = np.divmod(np.unique(np.concatenate(keys)), max(n, 1))
    colours = row_colours(rows, columns, m, n)
    return (
        None if int(np.max(colours, initial=0)) + 1 > max(1, m // 4) else (rows, columns, colours)
    )
