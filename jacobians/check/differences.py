"""Derivatives by finite differences with an error bar, for programs that JAX cannot differentiate.

Central differences at a falling row of steps are extrapolated to step zero (Richardson's table);
the entry of the table that agrees best with its neighbours is the derivative, and how well it
agrees is its error bar, never below what rounding of the function's values leaves.

    >>> derivative, bar = richardson(lambda x: np.sin(x), np.array([1.0]), 0, 0.1, 2.2e-16)

Source: C. J. F. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982.
"""

from collections.abc import Callable

import numpy as np

from jacobians.check.arrays import Array

RATIO = 2.0
STEPS = 9
SAFETY = 4.0


def richardson(
    f: Callable[[Array], Array], x: Array, column: int, step: float, eps: float
) -> tuple[Array, Array]:
    """One column of a Jacobian.

    Args:
        f: the function, from a flat float array to a flat float array.
        x: where, flat.
        column: which coordinate moves.
        step: the first, widest step.
        eps: the unit roundoff of the function's values.

    Returns:
        The derivatives of all outputs and their error bars; bars are infinite where no two
        entries of the table are finite.
    """
    table: list[Array] = []
    best: Array | None = None
    bar: Array | None = None
    h = step
    for _ in range(STEPS):
        up, down = x.copy(), x.copy()
        up[column] += h
        down[column] -= h
        # what was really added, after rounding
        width = float(up[column]) - float(down[column])
        high, low = np.asarray(f(up), np.float64), np.asarray(f(down), np.float64)
        with np.errstate(all="ignore"):
            row = [(high - low) / width]
            rounding = SAFETY * eps * np.maximum(np.abs(high), np.abs(low)) / width
            factor = RATIO * RATIO
            for earlier in table:
                row.append((factor * row[-1] - earlier) / (factor - 1.0))
                factor *= RATIO * RATIO
            if best is None or bar is None:
                best, bar = row[0], np.full_like(row[0], np.inf)
            for k in range(1, len(row)):
                gap = np.maximum(np.abs(row[k] - row[k - 1]), np.abs(row[k] - table[k - 1]))
                error = np.where(np.isfinite(gap), SAFETY * gap + rounding, np.inf)
                better = error < bar
                best, bar = np.where(better, row[k], best), np.where(better, error, bar)
        table = row
        h /= RATIO
    assert best is not None
    assert bar is not None
    return best, bar
