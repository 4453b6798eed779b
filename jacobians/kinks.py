"""Where one-sided derivatives differ: the samples that tell a kink from a bend.

The derivative of the program is sampled at a few points a little to the left and right along a
coordinate. At a kink one or two steps between neighbouring samples hold all of the change; a smooth
function, however strongly curved, changes over every step. Only at a kink may a rule say anything
between the samples.

    >>> samples = one_sided(oracle, leaf=0, groups=[np.array([3])], width=1e-7)
    >>> judge(values, samples.derivatives[0][0], slopes, expected, tolerance)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Integers = NDArray[np.int64]

# where the derivative is sampled, in units of the step; never at the point itself
OFFSETS = (-1.0, -0.75, -0.5, -0.25, -0.0625, 0.0625, 0.25, 0.5, 0.75, 1.0)
# how many of the steps between samples a kink, or two or three close ones, may take
FEW = 3
SLOPE = 1e-5


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
        finite = np.abs(x[np.isfinite(x)])
        largest = float(finite.max(initial=0.0)) or 1.0
        size = np.where(np.isfinite(x), np.abs(x), largest)
        steps = np.maximum(width * size, floor * largest)
        slope_steps = SLOPE * np.maximum(size, 1e-2 * largest)
        shape = chosen[number].shape

        @jax.jit
        def along(given: Any, unit: Any, offset: Any) -> Any:
            moved, tangents = list(given), [jnp.zeros_like(v) for v in given]
            moved[number] = moved[number] + offset.reshape(shape)
            tangents[number] = unit.reshape(shape)
            return jax.jvp(plain, tuple(moved), tuple(tangents))

        @jax.jit
        def beside(given: Any, unit: Any, offset: Any) -> Any:
            moved = list(given)

            def at(extra: Any) -> Any:
                moved[number] = given[number] + (offset + extra).reshape(shape)
                return plain(*moved)

            up, down = at(fine * unit), at(-fine * unit)
            group = jnp.sum(fine * unit) / jnp.sum(unit)
            return at(0.0), tuple((a - b) / (2 * group) for a, b in zip(up, down, strict=True))

        if by_differences:
            # one step for the whole group, so that quotients are in one unit
            steps = np.full_like(steps, float(steps.max()))
            along = beside
        fine = steps / 64.0

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


def is_kink(samples: Array) -> NDArray[np.bool_]:
    """Whether derivatives along lines jump, rather than bend.

    Args:
        samples: derivatives at `OFFSETS` along the first axis, finite.
    """
    jumps = np.abs(np.diff(samples, axis=0))
    total = jumps.sum(axis=0)
    changes = total > 1e-4 * np.abs(samples).max(axis=0)
    return np.asarray(changes & ((jumps > 0.02 * total).sum(axis=0) <= FEW))


def judge(
    values: Array,
    samples: Array,
    slopes: Array,
    expected: Array,
    tolerance: Array,
    nowhere: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], Array]:
    """Which values that differ from the derivative are wrong.

    Args:
        values: what the rule says, by entry.
        samples: derivatives of the program at `OFFSETS` along the coordinate, by offset and entry.
        slopes: the central difference quotients of the function.
        expected: JAX's derivatives of the program at the point.
        tolerance: what rounding may explain.
        nowhere: where the function itself is NaN or infinite.

    Returns:
        Which are wrong, which are at a kink, which have no derivative that the rule could give, and
        the distances to the nearest right value.
    """
    with np.errstate(all="ignore"):
        finite = np.isfinite(samples).all(axis=0)
        low, high = samples.min(axis=0), samples.max(axis=0)
        kink = finite & is_kink(np.where(finite, samples, 0.0))
        size = np.maximum(np.abs(low), np.abs(high))
        # |x| + softplus(−2|x|) is smooth at 0, and JAX's derivative there is off by a convention:
        # where both sides agree and JAX's value is apart from them, theirs is the derivative
        apart = np.maximum(low - expected, expected - high) > tolerance + 1e-5 * size + high - low
        kink |= finite & apart
        between = kink | (finite & ~np.isfinite(expected))
        gap = np.maximum(0.0, np.maximum(low - values, values - high))
        distance = np.where(between, gap, np.abs(values - expected))
        # beside a point where the function itself is 0/0 its derivatives are mostly rounding
        blur = np.where(nowhere, high - low, 0.0)
        right = between & (gap <= tolerance + 1e-5 * size + blur)
        # where JAX's own derivative is not finite the function's values decide
        by_values = ~finite & ~np.isfinite(expected) & np.isfinite(slopes)
        off = np.abs(values - slopes)
        scale = np.maximum(np.maximum(np.abs(slopes), np.abs(values)), 1e-6)
        right |= by_values & (off <= 1e-4 * scale)
        distance = np.where(by_values, off, distance)
        # along y, the angle of (x, y) at the origin is a step between two constants
        jump = finite & (np.abs(slopes) > 100 * size + 1e8 * tolerance)
    # where there is no derivative, a rule that says NaN where JAX says it too is none the worse
    undefined = (kink | jump | nowhere) & ~np.isfinite(expected) & ~np.isfinite(values)
    # nothing tells what it should be: no value, no derivative, nothing beside
    undefined |= nowhere & np.isnan(expected) & ~finite & ~np.isfinite(slopes)
    wrong = ~undefined & (~right | ~np.isfinite(values))
    distance = np.where(np.isfinite(distance) & np.isfinite(values), distance, np.inf)
    at_kink = kink & ~nowhere & (undefined | np.isfinite(values))
    return wrong, at_kink, undefined & ~at_kink, np.where(undefined, 0.0, distance)
