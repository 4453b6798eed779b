"""Two Jacobians entry by entry: what a rule implies, and the derivative of the program.

The comparison is exact: every entry, or, when the matrix is large, every entry of the proved
pattern of either side, everything else being proved zero on both. A tolerance is what rounding can
explain: the precision that both sides are computed in, times the size of an entry and of its row
and column, plus what the derivative itself moves when the inputs move by one rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import dense, program
from jacobians.algebra import entries as listing
from jacobians.arguments import Call
from jacobians.derive.call import derive_call
from jacobians.derive.walk import derive
from jacobians.errors import ArgumentError
from jacobians.rule import Rule
from jacobians.strip import strip_custom_rules

Array = NDArray[Any]
Integers = NDArray[np.int64]

# up to this many entries the matrix is compared whole; beyond, by its pattern if that is smaller
WHOLE = 1 << 18
MAX_WHOLE = 1 << 26
MAX_PATTERN = 1 << 22
CHUNK = 1 << 24
# relative move of the inputs that conditioning is judged by
NUDGE = 1e-10


@dataclass(frozen=True, eq=False)
class Comparison:
    """The outcome of comparing one block.

    Attributes:
        wrong: number of wrong entries.
        kinks: number of entries that differ but lie between one-sided derivatives.
        error: largest difference that counts.
        tolerance: what rounding may explain at the worst entry.
        source: where the tolerance comes from.
        at: (row, column) of the worst entry, or None.
        expected: the derivative there.
        actual: the rule's value there.
    """

    wrong: int
    kinks: int
    error: float
    tolerance: float
    source: str
    at: tuple[int, int] | None
    expected: float
    actual: float


@dataclass(eq=False)
class Oracle:
    """The derivative of a call's program, custom rules stripped, in double precision."""

    call: Call
    notes: list[str] = field(default_factory=list)

    @cached_property
    def wide(self) -> list[Any]:
        """The inputs' values in double precision."""
        return [dense.promoted(leaf, leaf.value) for leaf in self.call.inputs]

    @cached_property
    def evaluate(self) -> Callable[[Sequence[Any] | None], dense.DenseJacobian]:
        """The explicit Jacobian at values of the inputs."""
        return dense.evaluator(self.call)

    @cached_property
    def plain(self) -> Callable[..., Any]:
        """The function of the selected leaves to the differentiable outputs, rules stripped."""
        call = self.call.with_values(self.wide)
        function = strip_custom_rules(call.flat(call.selected))
        keep = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
        return lambda *values: tuple(function(*values)[k] for k in keep)

    @cached_property
    def outputs(self) -> list[Array]:
        """The values of all outputs, in double precision where that is possible."""
        with jax.enable_x64(True):
            try:
                made = self.call.with_values(self.wide).flat(())()
            except Exception:
                made = self.call.flat(())()
            return [np.asarray(y) for y in made]

    def units(self, output: int, leaf: int, rows: Integers, columns: Integers) -> Array:
        """|output entry| / |input entry|, with the input's largest entry where one is 0."""
        y = np.abs(self.outputs[output].reshape(-1).astype(np.complex128))
        x = np.abs(np.asarray(self.wide[leaf], dtype=np.float64).reshape(-1))
        x = np.where(x == 0, x.max(initial=0.0) or 1.0, x)
        units = y[rows] / x[columns]
        return np.asarray(np.where(np.isfinite(units), units, 0.0))

    def nudged(self, size: float, seed: int = 0) -> list[Any]:
        """The inputs with every float moved by a relative `size` to either side at random."""
        generator = np.random.default_rng(seed)
        values: list[Any] = list(self.wide)
        for k in self.call.selected:
            sign = generator.choice([-1.0, 1.0], size=np.shape(values[k]))
            values[k] = np.asarray(values[k]) * (1.0 + size * sign)
        return values

    def one_sided(
        self, leaf: int, columns: Sequence[int]
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """Derivatives a little to the left and right along single coordinates, and differences.

        Args:
            leaf: position of the input leaf.
            columns: flat positions in it.

        Returns:
            Three lists, one array (columns, output size) per differentiable output: derivative to
            the left, to the right, and the central difference quotient of the function.
        """
        call = self.call
        number = call.selected.index(leaf)
        with jax.enable_x64(True):
            chosen = [jnp.asarray(self.wide[k]) for k in call.selected]
            x = chosen[number]
            largest = float(jnp.abs(x).max()) if x.size else 0.0
            floor = 1e-2 * largest or 1.0
            steps = 1e-7 * jnp.maximum(jnp.abs(x.reshape(-1)[jnp.asarray(columns)]), floor)

            def along(column: Any, step: Any) -> Any:
                unit = (jnp.arange(x.size) == column).astype(x.dtype).reshape(x.shape)
                tangents = [jnp.zeros_like(v) for v in chosen]
                tangents[number] = unit

                def at(offset: Any) -> Any:
                    moved = list(chosen)
                    moved[number] = x + offset * unit
                    return jax.jvp(self.plain, tuple(moved), tuple(tangents))

                _, left = at(-step)
                _, right = at(step)
                low, _ = at(-10 * step)
                high, _ = at(10 * step)
                slope = [(b - a) / (20 * step) for a, b in zip(low, high, strict=True)]
                return list(left), list(right), slope

            result = jax.vmap(along)(jnp.asarray(columns), steps)
            flat = [[np.asarray(a).reshape(len(columns), -1) for a in part] for part in result]
        return flat[0], flat[1], flat[2]


@dataclass(eq=False)
class Entries:
    """Entries of one block on both sides.

    Attributes:
        output: position of the output leaf in the call.
        input: position of the input leaf.
        place: position of the output among the differentiable ones.
        count: number of entries of the whole block.
        rows: row of every listed entry.
        columns: column of every listed entry.
        expected: the derivative.
        moved: the derivative at inputs moved by one rounding, or None.
        wide: what the rule says in double precision, or None.
        narrow: what the rule says in the inputs' own precision.
        wide_eps: unit roundoff of the double-precision comparison.
        narrow_eps: unit roundoff of the inputs' own precision.
        nudge: the relative size of the move behind `moved`.
        unit: size of the output entry divided by that of the input entry.
    """

    output: int
    input: int
    place: int
    count: int
    rows: Integers
    columns: Integers
    expected: Array
    moved: Array | None
    wide: Array | None
    narrow: Array
    wide_eps: float
    narrow_eps: float
    nudge: float
    unit: Array

    def compared(self, oracle: Oracle, rtol: float | None, atol: float | None) -> Comparison:
        """Compares both precisions and settles what differs at kinks."""
        passes = []
        if self.wide is not None:
            passes.append((self.wide, self.wide_eps, False))
        if self.wide is None or self.narrow_eps < 1e-4:
            # what double precision has settled needs no second verdict on rounding
            passes.append((self.narrow, self.narrow_eps, self.wide is not None))
        results = [self._pass(a, eps, again, oracle, rtol, atol) for a, eps, again in passes]
        wrong = [r for r in results if r.wrong]
        return wrong[0] if wrong else results[0]

    def _tolerance(self, eps: float, again: bool) -> Array:
        size = np.abs(np.where(np.isfinite(self.expected), self.expected, 0.0))
        shape = (int(np.max(self.rows, initial=-1)) + 1, int(np.max(self.columns, initial=-1)) + 1)
        row, column = np.zeros(shape[0]), np.zeros(shape[1])
        np.maximum.at(row, self.rows, size)
        np.maximum.at(column, self.columns, size)
        scale = np.minimum(row[self.rows], column[self.columns])
        tolerance = max(1e-5, 64 * eps) * size + 2e3 * eps * scale
        if self.moved is not None:
            change = np.abs(self.moved - self.expected)
            change = np.where(np.isfinite(change), change, 0.0)
            # how far one rounding of the inputs moves each derivative
            factor = 16.0 * max(eps / self.nudge, 1e-3)
            tolerance = tolerance + np.minimum(factor * change, 0.1 * size + 0.1 * scale)
        # what an entry of the output can be told by at all, per unit of the input
        tolerance = tolerance + 16 * eps * (self.unit + size.max(initial=0.0))
        # below the smallest normal number precision runs out
        tolerance = tolerance + 1e4 * float(np.finfo(np.float32 if eps > 1e-12 else float).tiny)
        if again:
            tolerance = tolerance + 0.02 * size + 1e-3 * size.max(initial=0.0)
        return np.asarray(tolerance)

    def _pass(
        self,
        actual: Array,
        eps: float,
        again: bool,
        oracle: Oracle,
        rtol: float | None,
        atol: float | None,
    ) -> Comparison:
        if rtol is None and atol is None:
            tolerance = self._tolerance(eps, again)
            source = f"{_digits(eps)}, the entry's row and column, and the conditioning seen"
        else:
            tolerance = (atol or 0.0) + (rtol or 0.0) * np.abs(np.nan_to_num(self.expected))
            source = f"given: rtol={rtol or 0.0:g}, atol={atol or 0.0:g}"
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - self.expected)
            same = (actual == self.expected) | (error <= tolerance)
        off = np.flatnonzero(~same)
        kinks, wrong, distance = self._settle(off, actual, tolerance, oracle)
        error = np.where(same, np.where(np.isfinite(error), error, 0.0), np.inf)
        error[off] = distance
        at, expected, value, size, allowed = None, 0.0, 0.0, 0.0, 0.0
        if len(error):
            ratio = error / np.maximum(tolerance, 1e-300)
            chosen = (
                int(off[wrong][np.argmax(ratio[off[wrong]])])
                if wrong.any()
                else int(np.argmax(ratio))
            )
            at = int(self.rows[chosen]), int(self.columns[chosen])
            expected, value = float(self.expected[chosen]), float(actual[chosen])
            size, allowed = float(error[chosen]), float(tolerance[chosen])
        return Comparison(int(wrong.sum()), kinks, size, allowed, source, at, expected, value)

    def _settle(
        self, off: Integers, actual: Array, tolerance: Array, oracle: Oracle
    ) -> tuple[int, NDArray[np.bool_], Array]:
        """Which of the differing entries are right all the same, between one-sided derivatives.

        Columns are looked at from the worst on; once one is wrong the verdict stands, and what
        has not been looked at counts as wrong.
        """
        wrong = np.ones(len(off), dtype=bool)
        with np.errstate(invalid="ignore"):
            distance = np.abs(actual[off] - self.expected[off])
        distance = np.where(np.isnan(distance), np.inf, distance)
        columns = self.columns[off]
        order = columns[np.argsort(-distance, kind="stable")]
        unique = list(dict.fromkeys(order.tolist()))
        largest = max(1, min(1024, CHUNK // max(1, 4 * oracle.call.inputs[self.input].size)))
        # the first look is small: most often it settles the verdict
        batch, start = min(8, largest), 0
        while start < len(unique):
            group = unique[start : start + batch]
            start, batch = start + batch, largest
            left, right, slope = (part[self.place] for part in oracle.one_sided(self.input, group))
            position = {c: k for k, c in enumerate(group)}
            for number in np.flatnonzero(np.isin(columns, group)):
                entry = off[number]
                k, row = position[int(columns[number])], int(self.rows[entry])
                ends = float(left[k, row]), float(right[k, row])
                value = float(actual[entry])
                wrong[number], gap = _between(
                    value, ends, float(slope[k, row]), float(self.expected[entry]),
                    float(tolerance[entry]),
                )  # fmt: skip
                distance[number] = gap if np.isfinite(gap) else distance[number]
            if wrong[np.isin(columns, group)].any():
                break
        return int((~wrong).sum()), wrong, distance


def _between(
    value: float, ends: tuple[float, float], slope: float, expected: float, tolerance: float
) -> tuple[bool, float]:
    """Whether a value is wrong for these one-sided derivatives, and by how much."""
    low, high = min(ends), max(ends)
    if not np.isfinite(value):
        return True, np.inf
    if np.isfinite(low) and np.isfinite(high):
        size = max(abs(low), abs(high))
        slack = tolerance + 1e-5 * size
        # a smooth function has the same derivative on both sides, but for the step between
        kink = high - low > 1e-4 * size
        if kink or not np.isfinite(expected):
            gap = max(0.0, low - value, value - high)
            return gap > slack, gap
        return True, abs(value - expected)
    if not np.isfinite(expected) and np.isfinite(slope):
        # JAX's own derivative is not finite here: the function's values decide
        gap = abs(value - slope)
        return gap > 1e-4 * max(abs(slope), abs(value), 1e-6), gap
    return True, np.inf


def _digits(eps: float) -> str:
    names = {-52: "float64", -23: "float32", -10: "float16", -7: "bfloat16"}
    return f"{names.get(round(float(np.log2(eps))), 'its')} rounding"


@dataclass(frozen=True, eq=False)
class Compared:
    """Entries of every block, and faults found on the way as (kind, message)."""

    blocks: tuple[Entries, ...]
    problems: tuple[tuple[str, str], ...]


def compare(call: Call, rule: Rule, oracle: Oracle, notes: list[str]) -> Compared:
    """Evaluates both sides.

    Args:
        call: the call.
        rule: the hand-written derivative, bound to the call.
        oracle: the derivative of the program.
        notes: sentences for the reader are appended here.

    Returns:
        The entries of every block.

    Raises:
        ArgumentError: there are too many entries to compare.
    """
    outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    m = sum(call.outputs[k].size for k in outputs)
    n = sum(call.inputs[k].size for k in call.selected)
    problems: list[tuple[str, str]] = []
    places = _pattern(call, rule) if m * n > WHOLE else None
    if places is None and m * n > MAX_WHOLE:
        raise ArgumentError(
            f"the Jacobian has {m}×{n} entries, too many to compare one by one, and no sparse "
            "pattern could be proved; check at smaller shapes"
        )
    if places is None:
        notes.append("every entry compared")
        expected, moved, wide, narrow, precision = _whole(call, rule, oracle, notes)
        rows, columns = np.divmod(np.arange(m * n, dtype=np.int64), max(n, 1))
    else:
        rows, columns, colours = places
        notes.append(
            f"compared without loss by {int(np.max(colours, initial=0)) + 1} VJP(s) of each side: "
            f"{len(rows)} of {m * n} entries can be nonzero, the others are proved zero"
        )
        expected, moved, wide, narrow, precision = _compressed(call, rule, oracle, places, notes)
    problems += _nonlinear(call, rule, oracle)
    eps = float(np.finfo(np.float64).eps)
    wide_eps = max(eps, precision)
    narrow_eps = max(
        [float(jnp.finfo(call.inputs[k].dtype).eps) for k in call.selected]
        + [float(jnp.finfo(call.outputs[k].dtype).eps) for k in outputs]
    )
    if wide is None:
        notes.append("the rule could not be evaluated in float64: rounding is allowed for")
    for name, values in (("float64", wide), ("the inputs' own precision", narrow)):
        message = _nonfinite(call, values, expected, rows, columns, outputs, name)
        if message is not None:
            problems.append(("non-finite", message))
            break
    blocks = []
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for k in call.selected:
            height, width = call.outputs[o].size, call.inputs[k].size
            inside = (
                (rows >= row_start) & (rows < row_start + height)
                & (columns >= column_start) & (columns < column_start + width)
            )  # fmt: skip
            blocks.append(
                Entries(
                    o, k, place, height * width, rows[inside] - row_start,
                    columns[inside] - column_start, expected[inside],
                    None if moved is None else moved[inside],
                    None if wide is None else wide[inside],
                    narrow[inside], wide_eps, narrow_eps, NUDGE,
                    oracle.units(o, k, rows[inside] - row_start, columns[inside] - column_start),
                )
            )  # fmt: skip
            column_start += width
        row_start += call.outputs[o].size
    return Compared(tuple(blocks), tuple(problems))


_Sides = tuple[Array, Array | None, Array | None, Array, float]


def _whole(call: Call, rule: Rule, oracle: Oracle, notes: list[str]) -> _Sides:
    """Both sides as whole matrices, flattened."""
    given = oracle.evaluate(None)
    notes.extend(
        n for n in given.notes if "takes no derivative" not in n and "no derivative" not in n
    )
    expected = _assembled(given, call)
    moved = _assembled(oracle.evaluate(oracle.nudged(NUDGE)), call)
    outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    m = sum(call.outputs[k].size for k in outputs)
    n = sum(call.inputs[k].size for k in call.selected)
    wide, precision = None, 0.0
    with jax.enable_x64(True):
        try:
            wide = _implied(call, rule, oracle.wide, m, n)
            precision = _lowest_precision(call, rule, oracle.wide)
        except Exception:
            wide = None
    narrow = _implied(call, rule, [leaf.value for leaf in call.inputs], m, n)
    return (
        expected.ravel(),
        moved.ravel(),
        None if wide is None else wide.ravel(),
        narrow.ravel(),
        precision,
    )


def _assembled(given: dense.DenseJacobian, call: Call) -> Array:
    count = len(call.selected)
    rows = [
        np.concatenate([b.matrix for b in given.blocks[start : start + count]], axis=1)
        for start in range(0, len(given.blocks), count)
    ]
    return np.concatenate(rows, axis=0)


def _implied(call: Call, rule: Rule, values: Sequence[Any], m: int, n: int) -> Array:
    """The Jacobian that a rule implies, row by row, in the precision of the values."""
    templates = _output_templates(call, values)
    chunk = max(1, min(m, CHUNK // max(1, m + n)))

    def rows(given: Any, start: Any) -> Any:
        vectors = dense.unit_vectors(templates, start, chunk)
        return jax.vmap(lambda *c: _pull(call, rule, given, c))(*vectors)

    traced, rebuild = _traced(call, values)
    try:
        compiled = jax.jit(lambda given, start: rows(rebuild(given), start))
        parts = [compiled(traced, start) for start in range(0, max(m, 1), chunk)]
    except Exception:
        # a rule that cannot be batched or compiled is called once per row
        parts = []
        for k in range(m):
            vectors = [v[0] for v in dense.unit_vectors(templates, k, 1)]
            parts.append([np.asarray(c)[None] for c in _pull(call, rule, values, vectors)])
        chunk = 1
    made = [
        np.concatenate(
            [np.asarray(c, np.float64).reshape(np.shape(c)[0], -1) for c in part], axis=1
        )
        for part in parts
    ]
    return np.concatenate(made)[:m] if made else np.zeros((m, n))


def _traced(call: Call, values: Sequence[Any]) -> tuple[list[Any], Callable[[Any], list[Any]]]:
    """The float leaves as arguments of a compiled function, and how to put them back."""
    floats = [k for k, leaf in enumerate(call.inputs) if leaf.differentiable]

    def rebuild(given: Any) -> list[Any]:
        everything = list(values)
        for k, value in zip(floats, given, strict=True):
            everything[k] = value
        return everything

    return [jnp.asarray(values[k]) for k in floats], rebuild


def _output_templates(call: Call, values: Sequence[Any]) -> list[Any]:
    """Shapes and dtypes of the differentiable outputs at these values."""
    shapes = jax.eval_shape(lambda: call.with_values(values).flat(())())
    return [s for s, leaf in zip(shapes, call.outputs, strict=True) if leaf.differentiable]


def _pull(
    call: Call, rule: Rule, values: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[Any, ...]:
    """Cotangents of the selected leaves for cotangents of the differentiable outputs."""
    given = iter(cotangents)
    everything = [
        next(given) if leaf.differentiable else np.zeros(leaf.shape, jax.dtypes.float0)
        for leaf in call.outputs
    ]
    return rule.cotangents(values, everything)


def _compressed(
    call: Call,
    rule: Rule,
    oracle: Oracle,
    places: tuple[Integers, Integers, Integers],
    notes: list[str],
) -> _Sides:
    """Both sides on the entries of the pattern, rows of one colour together."""
    del notes
    rows, columns, colours = places
    row_colour = colours

    def by_vjp(pull: Callable[..., Any], templates: Sequence[Any]) -> Array:
        result = np.zeros(len(rows))
        for colour in range(int(np.max(row_colour, initial=0)) + 1):
            vectors, start = [], 0
            for t in templates:
                size = int(np.prod(t.shape, dtype=np.int64))
                hot = row_colour[start : start + size] == colour
                vectors.append(jnp.asarray(hot, t.dtype).reshape(t.shape))
                start += size
            flat = np.concatenate([np.asarray(c, np.float64).reshape(-1) for c in pull(vectors)])
            mine = row_colour[rows] == colour
            result[mine] = flat[columns[mine]]
        return result

    def truth(values: Sequence[Any]) -> Array:
        chosen = [jnp.asarray(values[k]) for k in call.selected]
        primal, pull = jax.vjp(oracle.plain, *chosen)
        return by_vjp(lambda c: pull(tuple(c)), primal)

    def mine(values: Sequence[Any]) -> Array:
        return by_vjp(lambda c: _pull(call, rule, values, c), _output_templates(call, values))

    wide, precision = None, 0.0
    with jax.enable_x64(True):
        expected = truth(oracle.wide)
        moved = truth(oracle.nudged(NUDGE))
        try:
            wide = mine(oracle.wide)
            precision = _lowest_precision(call, rule, oracle.wide)
        except Exception:
            wide = None
    return expected, moved, wide, mine([leaf.value for leaf in call.inputs]), precision


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
            lambda *given: _pull(
                call, rule, _traced(call, [x.value for x in call.inputs])[1](given[: len(floats)]),
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


def row_colours(rows: Integers, columns: Integers, m: int, n: int) -> Integers:
    """A colour for every row such that rows of one colour share no column; greedy, in order."""
    if int(np.max(np.bincount(columns, minlength=1), initial=0)) <= 1:
        return np.zeros(m, dtype=np.int64)
    taken = [0] * n
    colours = np.zeros(m, dtype=np.int64)
    starts = np.searchsorted(rows, np.arange(m + 1))
    for row in range(m):
        mine = columns[starts[row] : starts[row + 1]].tolist()
        used = 0
        for c in mine:
            used |= taken[c]
        colour = (~used & (used + 1)).bit_length() - 1
        colours[row] = colour
        for c in mine:
            taken[c] |= 1 << colour
    return colours


def _lowest_precision(call: Call, rule: Rule, values: Sequence[Any]) -> float:
    """The coarsest unit roundoff among the floats of the rule's and the function's programs."""
    traced, rebuild = _traced(call, values)
    templates = _output_templates(call, values)
    ones = [jnp.ones(t.shape, t.dtype) for t in templates]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in traced]
    programs = [
        program.trace(lambda *g: _pull(call, rule, rebuild(g), ones), shapes),
        program.trace(lambda *g: call.with_values(rebuild(g)).flat(())(), shapes),
    ]
    return max(_coarsest(p) for p in programs)


def _coarsest(inner: program.Program) -> float:
    worst = 0.0
    for equation in inner.equations:
        for variable in equation.outvars:
            dtype = program.dtype_of(variable)
            if (
                dtype is not None
                and jnp.issubdtype(dtype, jnp.floating)
                and variable.aval.shape != ()
            ):
                worst = max(worst, float(jnp.finfo(dtype).eps))
        for sub in program.inner_programs(equation):
            worst = max(worst, _coarsest(sub))
    return worst


def _nonlinear(call: Call, rule: Rule, oracle: Oracle) -> list[tuple[str, str]]:
    """Whether the rule is linear in its cotangent, by one random combination."""
    generator = np.random.default_rng(0)

    def both(values: Sequence[Any]) -> tuple[list[Array], float]:
        templates = _output_templates(call, values)
        a, b = (
            [jnp.asarray(generator.normal(size=t.shape), t.dtype) for t in templates] for _ in "ab"
        )
        joint = [2.0 * x - y for x, y in zip(a, b, strict=True)]
        joint = [j.astype(t.dtype) for j, t in zip(joint, templates, strict=True)]
        made = [_pull(call, rule, values, c) for c in (a, b, joint)]
        eps = max(float(jnp.finfo(t.dtype).eps) for t in templates)
        flat = [np.concatenate([np.asarray(c, np.float64).ravel() for c in m]) for m in made]
        return flat, eps

    try:
        with jax.enable_x64(True):
            (first, second, joint), eps = both(oracle.wide)
            eps = max(eps, _lowest_precision(call, rule, oracle.wide))
    except Exception:
        (first, second, joint), eps = both([leaf.value for leaf in call.inputs])
    total = 2 * first - second
    finite = np.isfinite(total) & np.isfinite(joint)
    size = (np.abs(first) + np.abs(second))[finite]
    largest = float(size.max(initial=0.0))
    off = np.abs(total - joint)[finite] > 1e4 * eps * (size + 1e-3 * largest) + 1e-300
    if eps > 1e-3 or not off.any():
        return []
    return [
        (
            "nonlinear",
            "the rule is not linear in its cotangent: vjp(2a − b) differs from 2·vjp(a) − vjp(b); "
            "a VJP multiplies the cotangent by the Jacobian and does nothing else with it",
        )
    ]


def _nonfinite(
    call: Call,
    values: Array | None,
    expected: Array,
    rows: Integers,
    columns: Integers,
    outputs: Sequence[int],
    where: str,
) -> str | None:
    """A sentence on entries that are NaN or infinite where the derivative is finite."""
    if values is None:
        return None
    bad = ~np.isfinite(values) & np.isfinite(expected)
    if not bad.any():
        return None
    column = int(columns[np.flatnonzero(bad)[0]])
    for k in call.selected:
        leaf = call.inputs[k]
        if column < leaf.size:
            index = [int(v) for v in np.unravel_index(column, leaf.shape)] if leaf.shape else []
            at = f"{leaf.name}{index if index else ''}"
            value = np.asarray(leaf.value).reshape(-1)[column]
            found = values[np.flatnonzero(bad)[0]]
            return (
                f"in {where} the rule gives {found} for {int(bad.sum())} entries where the "
                f"derivative is finite, first with respect to {at} = {float(value):.6g}"
            )
        column -= leaf.size
    return None
