"""Colourings: which columns of a Jacobian can share one JVP.

Columns without a common row can be seeded together; a colour is such a set. For a pattern with
regular neighbourhoods the colour is a linear form of the column's grid position modulo a small
number, found by search and verified on every entry. For any other pattern it is a greedy
distance-2 colouring, the best of several orders; then colour classes are rearranged as long as
that saves colours.

    coloring = color_columns(rows, columns, (m, n))
    coloring.count, coloring.lower_bound
    # (3, 3)

Source: Gebremedhin, Manne and Pothen, *What color is your Jacobian?*, SIAM Review 47 (2005);
Culberson, *Iterated greedy graph coloring* (1992).
"""

from collections.abc import Sequence

import numpy as np

from jacobians.sparse.coloring.greedy import Graph, greedy_coloring
from jacobians.sparse.coloring.lattice import lattice_coloring
from jacobians.sparse.coloring.result import (
    Coloring,
    Integers,
    alone,
    is_valid_coloring,
    lower_bound,
    symmetric_lower_bound,
)
from jacobians.sparse.coloring.star import star_coloring

__all__ = [
    "Coloring",
    "color_columns",
    "color_symmetric",
    "is_valid_coloring",
    "lower_bound",
    "symmetric_lower_bound",
    "symmetric_sources",
]


def color_columns(
    rows: Integers, columns: Integers, shape: tuple[int, int], grid: Sequence[int] | None = None
) -> Coloring:
    """Colours the columns of a pattern so that no row meets a colour twice.

    Args:
        rows: row of every entry, sorted; integers.
        columns: column of every entry.
        shape: number of rows and of columns.
        grid: sizes of a grid in row-major order whose points are the columns, for regular
            patterns; by default one axis.

    Returns:
        The colouring with the fewest colours that was found.
    """
    n = shape[1]
    lower = lower_bound(rows, columns, shape)
    colors = np.full(n, -1, dtype=np.int32)
    used = np.flatnonzero(np.bincount(columns, minlength=n))
    if lower <= 1 or len(used) == lower:
        colors[used] = 0 if lower <= 1 else np.arange(len(used))
        return Coloring(colors, min(lower, len(used)), lower, "one per column" if lower > 1 else "")
    found = lattice_coloring(rows, columns, shape, tuple(grid or (n,)), lower)
    if found is not None and found.count == lower:
        return found
    little = found is not None and found.count <= lower + max(1, lower // 5)
    best = greedy_coloring(Graph.of(rows, columns, shape), lower, little)
    return best if found is None or best.count < found.count else found


def color_symmetric(
    rows: Integers, columns: Integers, size: int, grid: Sequence[int] | None = None
) -> Coloring:
    """Colours the columns of a symmetric pattern so that each entry or its mirror can be read.

    A star colouring, greedy in several orders; a regular pattern by a linear form where that takes
    fewer colours, vertices of a high degree beside it with a colour of their own.

    Args:
        rows: row of every entry, sorted; the pattern must be symmetric.
        columns: column of every entry.
        size: number of rows and of columns.
        grid: as in `color_columns`.

    Returns:
        The colouring. Its `lower_bound` is that of `symmetric_lower_bound`.

    Source: Coleman and Moré, *Estimation of sparse Hessian matrices*, Math. Program. 28 (1984);
    Gebremedhin, Tarafdar, Manne and Pothen, *New acyclic and star coloring algorithms*, SIAM J.
    Sci. Comput. 29 (2007).
    """
    off = rows != columns
    if not off.any():
        return color_columns(rows, columns, (size, size))
    lower = symmetric_lower_bound(rows, columns, size)
    plain = color_columns(rows, columns, (size, size), grid)
    if plain.count <= lower:
        return Coloring(plain.colors, plain.count, lower, plain.method)
    options = [plain]
    places = tuple(grid or (size,))
    regular = lattice_coloring(
        rows, columns, (size, size), places, max(lower, 1), plain.count - 1, symmetric=True
    )
    star = star_coloring(rows, columns, size, places, lower)
    options.extend(found for found in (regular, star) if found is not None)
    best = min(options, key=lambda c: c.count)
    return Coloring(best.colors, best.count, lower, best.method)


def symmetric_sources(
    rows: Integers, columns: Integers, colors: Integers
) -> tuple[Integers, Integers]:
    """For every entry of a symmetric pattern, the colour and the row where it can be read."""
    key = rows.astype(np.int64) * (int(np.max(colors, initial=0)) + 1) + colors[columns]
    direct = alone(key)
    return np.where(direct, colors[columns], colors[rows]), np.where(direct, rows, columns)
