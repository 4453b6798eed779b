"""Where one-sided derivatives differ: the samples that tell a kink from a bend.

The derivative of the program is sampled at a few points a little to the left and right along a
coordinate. At a kink one or two steps between neighbouring samples hold all of the change; a smooth
function, however strongly curved, changes over every step. Only at a kink may a rule say anything
between the samples.

    >>> samples = one_sided(oracle, leaf=0, groups=[np.array([3])], width=1e-7)
    >>> judge(value, samples.derivatives[0][:, 0], expected, tolerance)
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
            rises.append(
                [np.asarray(a - b).reshape(-1) for a, b in zip(high, low, strict=True)]
            )
    outputs = range(len(derivatives[0])) if derivatives else range(0)
    return Samples(
        [np.stack([d[k] for d in derivatives]) for k in outputs],
        [np.stack([r[k] for r in rises]) for k in outputs],
        slope_steps,
    )


def is_kink(samples: Array) -> bool:
    """Whether derivatives along a line jump, rather than bend.

    Args:
        samples: derivatives at `OFFSETS`, finite.
    """
    jumps = np.abs(np.diff(samples))
    total = float(jumps.sum())
    if total <= 1e-4 * float(np.abs(samples).max(initial=0.0)):
        return False
    return int(np.count_nonzero(jumps > 0.02 * total)) <= FEW


def judge(
    value: float, samples: Array, slope: float, expected: float, tolerance: float
) -> tuple[bool, bool, float]:
    """Whether a value that differs from the derivative is wrong.

    Args:
        value: what the rule says.
        samples: derivatives of the program at `OFFSETS` along the coordinate.
        slope: the central difference quotient of the function.
        expected: JAX's derivative of the program at the point.
        tolerance: what rounding may explain.

    Returns:
        Whether it is wrong, whether there is a kink, and the distance to the nearest right value.
    """
    if not np.isfinite(value):
        return True, False, np.inf
    if np.isfinite(samples).all():
        low, high = float(samples.min()), float(samples.max())
        kink = is_kink(samples)
        if kink or not np.isfinite(expected):
            gap = max(0.0, low - value, value - high)
            return gap > tolerance + 1e-5 * max(abs(low), abs(high)), kink, gap
        return True, False, abs(value - expected)
    if not np.isfinite(expected) and np.isfinite(slope):
        # JAX's own derivative is not finite here: the function's values decide
        gap = abs(value - slope)
        return gap > 1e-4 * max(abs(slope), abs(value), 1e-6), False, gap
    return True, False, np.inf
