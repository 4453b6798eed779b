"""Where one-sided derivatives differ, or are infinite: kinks told from bends, and singular points.

The derivative of the program is sampled at a few points a little to the left and right along a
coordinate. At a kink one or two steps between neighbouring samples hold all of the change; a smooth
function, however strongly curved, changes over every step. Only at a kink may a rule say anything
between the samples.

Where derivatives beside the point do not settle it, the function's values do: its difference
quotients to the left and to the right at falling steps have a limit, or grow beyond any.

    samples = one_sided(plain, values, 0, [np.array([3])], *width(True, False))
    judge(values, samples.derivatives[0][0], slopes, expected, tolerance)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.check import allowances
from jacobians.check.arrays import Array, Bools, Integers

# where the derivative is sampled, in units of the step; never at the point itself
OFFSETS = (-1.0, -0.75, -0.5, -0.25, -0.0625, 0.0625, 0.25, 0.5, 0.75, 1.0)
# how many of the steps between samples a kink, or two or three close ones, may take
FEW = 3
# what is no step: a change of the derivative that is less than this share of it in all, or less
# than this share of all changes; a smooth function changes by 1/16 over each of its eight equal
# steps, and over the two short ones by no less
CHANGES, STEPS_SHARE = 1e-4, 0.02
SLOPE = 1e-5
# a quotient that is so many times the derivatives on both sides, and not by its own rounding, is
# the jump between two branches
JUMP_RATIO, JUMP_ROUNDINGS = 100.0, 1e8
# steps from the point to the furthest sample, by share of the entry and of the largest entry: in
# double precision derivatives are exact however close they are; in another precision beyond the
# input's own rounding; and by differences where values still have digits to tell them apart
DOUBLE_WIDTH, OTHER_WIDTH, DIFFERENCES_WIDTH = (1e-7, 1e-13), (1e-6, 1e-6), (1e-4, 1e-4)
# difference quotients are taken at these steps, in units of the entry that is moved; powers of two,
# so that numbers of few digits are moved by them exactly
STEPS = tuple(2.0**-7 * 8.0**-k for k in range(7))
# they grow without limit where a step eight times smaller changes them as much again or more; with
# a jump of the function they grow by all of that eight
GROWS, JUMPS = 0.9, 7.6
# rates of growth at successive steps differ by no more than this factor
STEADY = 1.3
# a change is seen where it is so many times what rounding changes the last quotient by
CLEAR = 100.0
# a derivative that is this share of the largest quotient or more is what quotients lead to: at the
# least step they have reached it, or gone past it, instead of growing for ever
REACHED = 0.5
DOUBLE = float(np.finfo(np.float64).eps)


def width(double: bool, differences: bool) -> tuple[float, float]:
    """The step to the furthest sample and the least one, relative, for `one_sided`."""
    if differences:
        return DIFFERENCES_WIDTH
    return DOUBLE_WIDTH if double else OTHER_WIDTH


def natural_size(values: Array) -> float:
    """The largest size in an array, 1 where there is none but 0."""
    size = np.abs(np.asarray(values, np.float64)[np.isfinite(values)])
    return float(size.max(initial=0.0)) or 1.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Derivatives beside a point.

    Attributes:
        derivatives: per differentiable output, (groups, offsets, output size).
        rises: per differentiable output, (groups, output size): the function's change over two
            slope steps.
        slope_steps: half the width of that, by column of the leaf.
    """

    derivatives: list[Array]
    rises: list[Array]
    slope_steps: Array


def one_sided(
    plain: Callable[..., Any],
    values: Sequence[Any],
    number: int,
    groups: Sequence[Integers],
    width: float,
    floor: float,
    by_differences: bool = False,
) -> Samples:
    """Samples derivatives to both sides of a point.

    Args:
        plain: the function of the selected leaves, differentiable by `jax.jvp`.
        values: the selected leaves, in double precision.
        number: position of the leaf to move among them.
        groups: columns of the leaf that are moved together; no output may depend on two of them.
        width: the step, relative to a column's own value.
        floor: the least step, relative to the leaf's largest value.
        by_differences: whether derivatives are difference quotients, where JAX has none.

    Returns:
        The samples.
    """
    with jax.enable_x64(True):
        chosen = [jnp.asarray(v) for v in values]
        x = np.asarray(chosen[number], np.float64).reshape(-1)
        largest = natural_size(x)
        size = np.where(np.isfinite(x), np.abs(x), largest)
        steps = np.maximum(width * size, floor * largest)
        slope_steps = SLOPE * np.maximum(size, 1e-2 * largest)
        if by_differences:
            # one step for the whole group, so that quotients are in one unit
            steps = np.full_like(steps, float(steps.max()))
            along = _along_by_differences(plain, number, steps / 64.0)
        else:
            along = _along_by_jvp(plain, number)
        derivatives: list[list[Array]] = []
        rises: list[list[Array]] = []
        for columns in groups:
            unit = np.zeros(x.size)
            unit[columns] = 1.0
            made = [along(chosen, unit, t * steps * unit)[1] for t in OFFSETS]
            high = along(chosen, unit, slope_steps * unit)[0]
            low = along(chosen, unit, -slope_steps * unit)[0]
            derivatives.append(
                [np.stack([np.asarray(m[k]).reshape(-1) for m in made]) for k in range(len(high))]
            )
            rises.append([np.asarray(a - b).reshape(-1) for a, b in zip(high, low, strict=True)])
    outputs = range(len(derivatives[0])) if derivatives else range(0)
    return Samples(
        [np.stack([d[k] for d in derivatives]) for k in outputs],
        [np.stack([r[k] for r in rises]) for k in outputs],
        slope_steps,
    )


def _along_by_jvp(plain: Callable[..., Any], number: int) -> Callable[..., Any]:
    """From inputs, a direction of one and its offset: the function there and its derivative."""

    @jax.jit
    def along(given: Any, unit: Any, offset: Any) -> Any:
        moved, tangents = list(given), [jnp.zeros_like(v) for v in given]
        moved[number] = moved[number] + offset.reshape(moved[number].shape)
        tangents[number] = unit.reshape(moved[number].shape)
        return jax.jvp(plain, tuple(moved), tuple(tangents))

    return along


def _along_by_differences(
    plain: Callable[..., Any], number: int, fine: Array
) -> Callable[..., Any]:
    """The same by central difference quotients at fine steps, where JAX has no derivative."""

    @jax.jit
    def along(given: Any, unit: Any, offset: Any) -> Any:
        moved = list(given)

        def at(extra: Any) -> Any:
            moved[number] = given[number] + (offset + extra).reshape(given[number].shape)
            return plain(*moved)

        up, down = at(fine * unit), at(-fine * unit)
        group = jnp.sum(fine * unit) / jnp.sum(unit)
        return at(0.0), tuple((a - b) / (2 * group) for a, b in zip(up, down, strict=True))

    return along


def is_kink(samples: Array) -> Bools:
    """Whether derivatives along lines jump, rather than bend.

    Args:
        samples: derivatives at `OFFSETS` along the first axis, finite.
    """
    jumps = np.abs(np.diff(samples, axis=0))
    total = jumps.sum(axis=0)
    changes = total > CHANGES * np.abs(samples).max(axis=0)
    return np.asarray(changes & ((jumps > STEPS_SHARE * total).sum(axis=0) <= FEW))


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of one-sided difference quotients, for one output and column by column.

    Attributes:
        left: by (group, output entry); ±∞ where they grow without limit, NaN where none is seen.
        right: the same to the right.
        bar: how well finite limits are known.
        reached: how large quotients have grown where they grow without limit, 0 elsewhere.
        units: what a column is moved by, in whose units the quotients are.
    """

    left: Array
    right: Array
    bar: Array
    reached: Array
    units: Array

    def at(self, group: int, rows: Integers, columns: Integers) -> "Limits":
        """The limits of entries of one group, in the columns' own units."""
        units = self.units[columns]
        left, right, bar, reached = (
            made[group][rows] / units for made in (self.left, self.right, self.bar, self.reached)
        )
        return Limits(left, right, bar, reached, np.ones_like(units))


def limits(
    plain: Callable[..., Any], values: Sequence[Any], number: int, groups: Sequence[Integers]
) -> list[Limits]:
    """The limits of the function's difference quotients to both sides of a point.

    Args:
        plain: the function of the selected leaves, compiled.
        values: the selected leaves, in double precision.
        number: position of the leaf to move among them.
        groups: columns of the leaf that are moved together; no output may depend on two of them.

    Returns:
        One for each output.
    """
    found: list[list[tuple[Array, Array, Array, Array]]] = []
    with jax.enable_x64(True):
        chosen = [jnp.asarray(v) for v in values]
        x = np.asarray(chosen[number], np.float64).reshape(-1)
        size = np.where((x == 0) | ~np.isfinite(x), min(1.0, natural_size(x)), np.abs(x))
        units = 2.0 ** np.round(np.log2(size))
        shape = chosen[number].shape

        def flat(moved: Array) -> list[Array]:
            made = plain(*chosen[:number], jnp.asarray(moved.reshape(shape)), *chosen[number + 1 :])
            return [np.asarray(y, np.float64).reshape(-1) for y in made]

        here = flat(x)
        for columns in groups:
            sides = []
            for sign in (-1.0, 1.0):
                quotients: list[list[Array]] = []
                for step in STEPS:
                    moved = x.copy()
                    moved[columns] += sign * step * units[columns]
                    with np.errstate(all="ignore"):
                        made = [
                            (
                                (y - y0) / (sign * step),
                                (4 * DOUBLE / step) * (np.abs(y) + np.abs(y0) + np.abs(y - y0)),
                            )
                            for y, y0 in zip(flat(moved), here, strict=True)
                        ]
                    quotients.append([np.stack(pair) for pair in made])
                sides.append([_limit(np.stack(q)) for q in zip(*quotients, strict=True)])
            found.append(
                [
                    (one[0], other[0], np.maximum(one[1], other[1]), np.maximum(one[2], other[2]))
                    for one, other in zip(*sides, strict=True)
                ]
            )
    return [
        Limits(
            np.stack([group[k][0] for group in found]),
            np.stack([group[k][1] for group in found]),
            np.stack([group[k][2] for group in found]),
            np.stack([group[k][3] for group in found]),
            units,
        )
        for k in range(len(here))
    ]


def _limit(quotients: Array) -> tuple[Array, Array, Array]:
    """The limit of difference quotients at `STEPS`, its error bar, and how far infinite ones grew.

    Args:
        quotients: by (step, quotient or its rounding, output entry).
    """
    q, rounding = quotients[:, 0], quotients[:, 1]
    with np.errstate(all="ignore"):
        change = np.diff(q, axis=0)
        bars = np.abs(change) + rounding[1:]
        best = np.nanargmin(np.where(np.isfinite(bars), bars, np.inf), axis=0)
        limit = np.take_along_axis(q[1:], best[None], 0)[0]
        bar = np.take_along_axis(bars, best[None], 0)[0]
        last = np.abs(change[-4:])
        rates = last[1:] / last[:-1]
        seen = last[0] > CLEAR * rounding[-1]
        grows = seen & (rates >= GROWS).all(axis=0) & (rates <= JUMPS).all(axis=0)
        # at one rate, and to one side: a function that swings does not
        grows &= rates.max(axis=0) <= STEADY * rates.min(axis=0)
        grows &= (np.sign(change[-4:]) == np.sign(change[-1])).all(axis=0)
        jump = seen & (rates[-1] > JUMPS)
        inside = np.isfinite(q[-4:]).all(axis=0)
        grown = np.where(np.sign(change[-1]) > 0, np.inf, -np.inf)
        limit = np.where(grows, grown, limit)
        # infinite beside the point, and finite at it
        steep = np.isinf(q).all(axis=0) & (q == q[-1]).all(axis=0)
    limit = np.where(inside & ~jump, limit, np.where(steep, q[-1], np.nan))
    reached = np.where(np.isinf(limit), np.abs(q[-1]), 0.0)
    return limit, np.where(np.isfinite(limit), bar, 0.0), reached


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which values that differ from the derivative are wrong, by entry.

    Attributes:
        wrong: which are.
        kink: which lie at a kink.
        undefined: which have no derivative that the rule could give.
        singular: which are right because the function has no finite derivative.
        distance: to the nearest right value.
        nearest: that value, or JAX's own derivative where none is known.
    """

    wrong: Bools
    kink: Bools
    undefined: Bools
    singular: Bools
    distance: Array
    nearest: Array

    def put(self, places: Integers, there: "Verdicts") -> None:
        """Writes the verdicts on some entries into those on all."""
        self.wrong[places], self.kink[places] = there.wrong, there.kink
        self.undefined[places], self.singular[places] = there.undefined, there.singular
        self.distance[places], self.nearest[places] = there.distance, there.nearest


def by_limits(
    first: Verdicts,
    values: Array,
    limits: Limits,
    expected: Array,
    tolerance: Array,
    settled: Bools,
) -> Verdicts:
    """What the limits of difference quotients say of entries that look wrong.

    Args:
        first: what derivatives beside the point say.
        values: what the rule says, by entry.
        limits: the limits of these entries.
        expected: JAX's derivatives of the program at the point.
        tolerance: what rounding may explain.
        settled: where JAX's derivatives at the point and beside it are finite, so that limits
            matter only where they are not.
    """
    left, right, bar = limits.left, limits.right, limits.bar
    with np.errstate(all="ignore"):
        low, high = np.fmin(left, right), np.fmax(left, right)
        both = ~np.isnan(left) & ~np.isnan(right)
        infinite = np.isinf(low) | np.isinf(high)
        size = np.where(infinite, 0.0, np.maximum(np.abs(low), np.abs(high)))
        finite_end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
        size = np.maximum(size, np.abs(finite_end))
        slack = tolerance + allowances.of_limits(size, bar)
        between = (values >= low - slack) & (values <= high + slack)
        # no finite derivative: the root at 0, an arc cosine at 1
        alone = infinite & (low == high)
        right_here = between | (alone & np.isfinite(values))
        # a one-sided limit where the function ends is its derivative there
        known = infinite | (both & ~settled) | (~np.isnan(low) & ~settled)
        # √(x + 1e-20) is steep at 0, not singular: its quotients are on their way to a number
        steep = infinite & np.isfinite(expected) & (np.abs(expected) >= REACHED * limits.reached)
        looked = first.wrong & known & ~steep
        gap = np.maximum(0.0, np.maximum(low - values, values - high))
        nearest = np.clip(values, low, high)
    accepted = looked & right_here
    with np.errstate(all="ignore"):
        apart = both & (infinite | (np.abs(left - right) > 2 * slack)) & ~alone
    rejected = looked & ~right_here & ~np.isnan(low)
    shown = np.where(alone, low, np.where(np.isnan(nearest), low, nearest))
    return Verdicts(
        first.wrong & ~accepted,
        first.kink | (accepted & apart),
        first.undefined,
        first.singular | (accepted & alone),
        np.where(accepted, 0.0, np.where(rejected & np.isfinite(gap), gap, first.distance)),
        np.where(rejected & np.isfinite(shown), _rounded(shown, bar), first.nearest),
    )


def disproved(values: Array, limits: Limits, tolerance: Array) -> tuple[Bools, Array]:
    """Which values lie outside what finite difference quotients leave, beyond any doubt.

    Returns:
        Which, and the nearest value that the quotients allow.
    """
    bar = limits.bar
    with np.errstate(all="ignore"):
        low = np.minimum(limits.left, limits.right)
        high = np.maximum(limits.left, limits.right)
        finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(values)
        size = np.maximum(np.maximum(np.abs(low), np.abs(high)), np.abs(values))
        gap = np.maximum(low - values, values - high)
        doubt = allowances.doubt_of_limits(size, bar)
        sure = finite & (bar <= allowances.SURE_SHARE * size) & (gap > tolerance + doubt)
    return sure, _rounded(np.clip(values, low, high), bar)


def _rounded(values: Array, bar: Array) -> Array:
    """Limits of quotients to the digits that they are known to."""
    made = np.array(values, np.float64)
    for k in np.flatnonzero(np.isfinite(made) & (bar > 0) & np.isfinite(bar)):
        made[k] = round(float(made[k]), -int(np.ceil(np.log10(bar[k]))))
    return made


def judge(
    values: Array,
    samples: Array,
    slopes: Array,
    expected: Array,
    tolerance: Array,
    nowhere: Bools,
) -> Verdicts:
    """Which values that differ from the derivative are wrong, by derivatives beside the point.

    Args:
        values: what the rule says, by entry.
        samples: derivatives of the program at `OFFSETS` along the coordinate, by offset and entry.
        slopes: the central difference quotients of the function.
        expected: JAX's derivatives of the program at the point.
        tolerance: what rounding may explain.
        nowhere: where the function itself is NaN or infinite.

    Returns:
        The verdicts.
    """
    with np.errstate(all="ignore"):
        finite = np.isfinite(samples).all(axis=0)
        low, high = samples.min(axis=0), samples.max(axis=0)
        kink = finite & is_kink(np.where(finite, samples, 0.0))
        size = np.maximum(np.abs(low), np.abs(high))
        # |x| + softplus(−2|x|) is smooth at 0, and JAX's derivative there is off by a convention:
        # where both sides agree and JAX's value is apart from them, theirs is the derivative
        slack = tolerance + allowances.beside(size)
        apart = np.maximum(low - expected, expected - high) > slack + high - low
        kink |= finite & apart
        between = kink | (finite & ~np.isfinite(expected))
        gap = np.maximum(0.0, np.maximum(low - values, values - high))
        distance = np.where(between, gap, np.abs(values - expected))
        right = between & (gap <= slack + allowances.blur(low, high, nowhere))
        # along y, the angle of (x, y) at the origin is a step between two constants
        jump = finite & (np.abs(slopes) > JUMP_RATIO * size + JUMP_ROUNDINGS * tolerance)
    # where there is no derivative, a rule that says NaN where JAX says it too is none the worse
    undefined = (kink | jump | nowhere) & ~np.isfinite(expected) & ~np.isfinite(values)
    # nothing tells what it should be: no value, no derivative, nothing beside
    undefined |= nowhere & np.isnan(expected) & ~finite & ~np.isfinite(slopes)
    wrong = ~undefined & (~right | ~np.isfinite(values))
    distance = np.where(np.isfinite(distance) & np.isfinite(values), distance, np.inf)
    at_kink = kink & ~nowhere & (undefined | np.isfinite(values))
    with np.errstate(invalid="ignore"):
        nearest = np.where(between, np.clip(values, low, high), expected)
    return Verdicts(
        wrong,
        at_kink,
        undefined & ~at_kink,
        np.zeros_like(wrong),
        np.where(undefined, 0.0, distance),
        np.where(np.isfinite(nearest), nearest, expected),
    )
