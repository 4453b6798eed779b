"""Two Jacobians entry by entry: what a rule implies, and the derivative of the program.

The comparison is exact: every entry, or, when the matrix is large, every entry of the proved
pattern of either side, everything else being proved zero on both. A tolerance is what rounding can
explain: the precision that both sides are computed in, times the size of an entry and of its row
and column, plus what the derivative itself moves when the inputs move by one rounding. Where that
does not explain a difference, the terms that an entry is the sum of are measured, since rounding is
relative to them where they cancel.

Where only the inputs' own precision shows a difference, rounding is imitated: the rule's program is
run again with an error of one rounding after every operation, and what that moves an entry by is
what rounding may explain.
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
    row_colours,
)
from jacobians.oracle import NUDGE, Oracle
from jacobians.rule import Rule

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
# rounding, however amplified, is less than this share of the terms that cancel
FAR = 1e-10
# no more derivative samples than this are taken to look for kinks
KINK_BUDGET = 1 << 26
TERM_BUDGET = 1 << 18
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
        error: distance to the nearest right value, by entry.
        tolerance: what rounding may explain, by entry.
        source: where the tolerance comes from.
        precision: 'float64' or the inputs' own, whichever decided.
    """

    actual: Array
    wrong: Bools
    kink: Bools
    undefined: Bools
    error: Array
    tolerance: Array
    source: str
    precision: str

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
        moved: the derivative at inputs moved by one rounding, or None.
        wide: what the rule says in double precision, or None.
        narrow: what the rule says in the inputs' own precision.
        wide_eps: unit roundoff of the double-precision comparison.
        narrow_eps: unit roundoff of the inputs' own precision.
        unit: size of the output entry divided by that of the input entry.
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
    moved: Array | None
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
        confirmed: bool,
    ) -> Comparison:
        """The comparison in the inputs' own precision.

        `confirmed` says that the formula is known to be right from double precision.
        """
        made = self._pass(
            self.narrow, self.narrow_eps, _digits(self.narrow_eps),
            self._given(rtol, atol), oracle, sides, confirmed,
        )  # fmt: skip
        return made.excusing(made.wrong & self.lost)

    def _given(self, rtol: float | None, atol: float | None) -> Array | None:
        if rtol is None and atol is None:
            return None
        return np.asarray((atol or 0.0) + (rtol or 0.0) * np.abs(np.nan_to_num(self.expected)))

    @cached_property
    def _size(self) -> Array:
        return np.abs(np.where(np.isfinite(self.expected), self.expected, 0.0))

    @cached_property
    def _scale(self) -> Array:
        """The smaller of the largest entries in an entry's row and column."""
        shape = (int(np.max(self.rows, initial=-1)) + 1, int(np.max(self.columns, initial=-1)) + 1)
        row, column = np.zeros(shape[0]), np.zeros(shape[1])
        np.maximum.at(row, self.rows, self._size)
        np.maximum.at(column, self.columns, self._size)
        return np.asarray(np.minimum(row[self.rows], column[self.columns]))

    def _floor(self, eps: float) -> Array:
        """What an entry can be told by at all: the unit of the output per unit of the input."""
        tiny = 1e4 * float(np.finfo(np.float32 if eps > 1e-12 else float).tiny)
        floor = 16 * eps * (self.unit + self._size.max(initial=0.0)) + tiny
        return np.asarray(floor if self.bar is None else floor + self.bar)

    def tolerances(self, eps: float) -> tuple[Array, Array]:
        """The largest difference that rounding explains, and one worth a second look."""
        size, scale, floor = self._size, self._scale, self._floor(eps)
        roundings = 8.0 if eps > 1e-4 else 64.0
        hard = max(1e-5, roundings * eps) * size + floor
        hard = hard + self._roundings(eps) * eps * scale
        if self.moved is not None:
            with np.errstate(invalid="ignore"):
                change = np.abs(self.moved - self.expected)
            change = np.where(np.isfinite(change), change, 0.0)
            # how far one rounding of the inputs moves each derivative
            factor = 16.0 * max(eps / NUDGE, 1e-3)
            hard = hard + np.minimum(factor * change, 0.1 * size + 0.1 * scale)
        soft = hard
        if 1e-12 < eps < 1e-4:
            soft = np.minimum(hard, 1e-5 * size + 16 * eps * scale + floor)
        return np.asarray(hard), np.asarray(soft)

    def _pass(
        self,
        actual: Array,
        eps: float,
        precision: str,
        given: Array | None,
        oracle: Oracle,
        sides: "Sides",
        confirmed: bool = False,
    ) -> Comparison:
        """Compares in one precision; `confirmed` says that the formula is known to be right."""
        if given is None:
            hard, soft = self.tolerances(eps)
            source = f"{_digits(eps)} rounding, the entry's row and column, the conditioning seen"
            if self.bar is not None:
                source = f"{source}, the error bar of the finite differences"
        else:
            hard = soft = given
            source = "as given by rtol and atol"
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - self.expected)
            same = (actual == self.expected) | (error <= soft)
        off = np.flatnonzero(~same)
        error = np.where(np.isfinite(error), error, np.where(same, 0.0, np.inf))
        wrong, kink, undefined = (np.zeros(len(error), bool) for _ in range(3))
        if len(off):
            width = (1e-7, 1e-13) if eps < 1e-12 else (1e-6, 1e-6)
            wrong[off], kink[off], undefined[off], error[off] = self._settle(
                off, actual, soft, oracle, sides, width
            )
        terms = np.zeros(len(error))
        if given is None and wrong.any():
            # what is left where terms cancel is rounding of the terms
            terms = self._terms(wrong, error, eps, soft, oracle, sides)
            hard, soft = (t + _of_terms(eps) * terms for t in (hard, soft))
            wrong = wrong & ~(error <= soft)
            if terms.any():
                source = f"{source}, the terms that it is the sum of"
        if given is None and 1e-12 < eps < 1e-4 and wrong.any():
            with np.errstate(over="ignore"):
                noise = NOISE * sides.noise[self.inside]
            if not confirmed:
                noise = np.minimum(noise, 0.1 * self._size + 0.1 * self._scale)
            wrong = wrong & ~(error <= soft + noise)
            hard = soft + noise
        if given is None and eps <= 1e-12 and wrong.any():
            # far below what the block is made of: the last digits of double precision may be it
            small = error <= 1e-8 * (self._size.max(initial=0.0) + self.unit) + FAR * terms
            if small[wrong].any():
                noise = np.where(small, NOISE * sides.double_noise[self.inside], 0.0)
                wrong = wrong & ~(error <= soft + noise)
                hard = hard + noise
            small = wrong & (error <= FAR * terms)
            if small.any():
                noise = NOISE * self._measured(small, error, oracle, sides, oracle.noise)
                wrong = wrong & ~(small & (error <= soft + noise))
                hard = hard + np.where(small, noise, 0.0)
        return Comparison(actual, wrong, kink, undefined, error, hard, source, precision)

    def _terms(
        self, wrong: Bools, error: Array, eps: float, soft: Array, oracle: Oracle, sides: "Sides"
    ) -> Array:
        """How large the terms are whose sum the derivative is, where entries look wrong.

        Columns are looked at from the worst on; where there are many, until one is wrong for all
        that its terms explain.
        """
        factor = max(_of_terms(eps), FAR if eps <= 1e-12 else 0.0)
        return self._measured(
            wrong & np.isfinite(error), error, oracle, sides, oracle.terms,
            lambda k, terms: bool((error[k] > soft[k] + factor * terms).any()),
        )  # fmt: skip

    def _measured(
        self,
        chosen: Bools,
        error: Array,
        oracle: Oracle,
        sides: "Sides",
        measure: Callable[[int, Integers], list[Array]],
        enough: Callable[[Integers, Array], bool] | None = None,
    ) -> Array:
        """Something of the truth at chosen entries, group by group of columns, 0 elsewhere.

        When the budget is used up it stops as soon as what it has is `enough`.
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
                result[mine] = measure(number, columns)[self.place][self.rows[mine]]
                done = done or (enough is not None and enough(mine, result[mine]))
                spent += cost
                if done and spent > TERM_BUDGET:
                    return result
        return result

    @staticmethod
    def _roundings(eps: float) -> float:
        """How many roundings of its row and column an entry may be off."""
        return 2e3 if eps < 1e-12 else 8.0 if eps > 1e-4 else 64.0

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
        off: Integers,
        actual: Array,
        tolerance: Array,
        oracle: Oracle,
        sides: "Sides",
        width: tuple[float, float],
    ) -> tuple[Bools, Bools, Bools, Array]:
        """Which of the differing entries are wrong, which at a kink or undefined, and by how much.

        Groups of columns are looked at from the worst on; when the budget is used up and one is
        wrong, the verdict stands, and what has not been looked at counts as wrong.
        """
        count = len(actual)
        wrong, kink, undefined = np.zeros((3, count), dtype=bool)
        wrong[off] = True
        with np.errstate(invalid="ignore"):
            distance = np.abs(actual - self.expected)
        distance = np.where(np.isnan(distance), np.inf, distance)
        differences = oracle.how != "forward mode"
        if differences:
            width = (1e-4, 1e-4)
        cost = len(kinks.OFFSETS) * sum(leaf.size for leaf in oracle.call.inputs)
        number = oracle.call.selected.index(self.input)
        values = [oracle.wide[k] for k in oracle.call.selected]
        spent, broken = 0, False
        for groups, entries in self._batches(off, distance[off], sides):
            samples = kinks.one_sided(oracle.plain, values, number, groups, *width, differences)
            for place, mine in enumerate(entries):
                row = self.rows[mine]
                wrong[mine], kink[mine], undefined[mine], distance[mine] = kinks.judge(
                    actual[mine],
                    samples.derivatives[self.place][place][:, row],
                    samples.rises[self.place][place, row]
                    / (2 * samples.slope_steps[self.columns[mine]]),
                    self.expected[mine],
                    tolerance[mine],
                    self.nowhere[mine],
                )
                broken = broken or bool(wrong[mine].any())
            spent += cost * len(groups)
            if spent > KINK_BUDGET and broken:
                break
        return wrong[off], kink[off], undefined[off], distance[off]


def _of_terms(eps: float) -> float:
    """What share of the terms that it is the sum of an entry may be off by."""
    return (8.0 if eps > 1e-4 else 32.0) * eps


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
        compressed: whether the entries are those of a proved pattern.
    """

    call: Call
    rows: Integers
    columns: Integers
    truth: Callable[[Sequence[Any] | None], tuple[Array, Array | None]]
    mine: Callable[[Sequence[Any]], Array]
    rounded: Callable[[Sequence[Any], float, int], Array]
    compressed: bool

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

    @cached_property
    def double_noise(self) -> Array:
        """How far rounding in double precision moves each entry of the rule."""
        call = self.call
        wide = [dense.promoted(leaf, leaf.value) for leaf in call.inputs]
        with jax.enable_x64(True):
            exact = self.mine(wide)
            made = [self.rounded(wide, DOUBLE, seed) - exact for seed in range(SEEDS)]
        return np.asarray(np.max(np.abs(np.nan_to_num(made)), axis=0))


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
    moved = None
    if bar is None:
        moved = sides.truth(oracle.nudged(NUDGE))[0]
    wide, rule_eps, function_eps = None, DOUBLE, DOUBLE
    with jax.enable_x64(True):
        try:
            wide = sides.mine(oracle.wide)
            rule_eps, function_eps = precisions(call, rule, oracle.wide)
        except Exception:
            wide = None
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
            "the rule could not be evaluated in float64; it is compared in its own precision, "
            "which tells less: see the tolerances"
        )
    backward = None
    sound = [np.isfinite(v).all() for v in (expected, wide, narrow) if v is not None]
    if not all(sound):
        backward = _backward(sides, oracle, m, n) if bar is None else None
    if backward is not None:
        # 0·∞ spoils a row in forward mode and a column in reverse: what either finds is true
        expected = np.where(np.isfinite(expected), expected, backward)
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
                    None if moved is None else moved[inside],
                    None if wide is None else wide[inside],
                    narrow[inside], wide_eps, narrow_eps,
                    oracle.units(o, k, rows, columns),
                    ~np.isfinite(oracle.outputs[o].reshape(-1)[rows]),
                    _lost(oracle, o, k, rows, expected[inside], narrow[inside], wide is not None),
                    None if backward is None else backward[inside],
                )
            )  # fmt: skip
            column_start += width
        row_start += call.outputs[o].size
    if bar is not None:
        _note_bars(expected, bar, notes)
    return Compared(tuple(blocks), sides, wide is not None, rule_eps)


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


def _backward(sides: Sides, oracle: Oracle, m: int, n: int) -> Array | None:
    """The listed entries by JAX's reverse mode of the program; None where it has none."""
    if sides.compressed:
        return sides.truth(None)[0]
    if not _has_reverse(oracle):
        return None
    call = oracle.call
    with jax.enable_x64(True):
        primal, pull = jax.vjp(oracle.plain, *(jnp.asarray(oracle.wide[k]) for k in call.selected))
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
        return Sides(call, rows, columns, *_compressed(call, rule, oracle, places), True)
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

    return Sides(call, rows, columns, whole, lambda values: implied(values).ravel(), rounded, False)


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
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
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

    return truth, mine, rounded


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
