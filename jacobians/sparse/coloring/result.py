"""What a colouring is, when it is valid, and how few colours there can be."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[Any]

# work limit of a search, in visited entries
SEARCH_WORK = 1 << 24


@dataclass(frozen=True, eq=False)
class Coloring:
    """Colours of the columns of a pattern.

    Attributes:
        colors: int32, one per column; −1 for columns without entries.
        count: the number of colours.
        lower_bound: no colouring of this kind has fewer; the largest number of entries in a row,
            or more where that many columns do not fit beside each other.
        method: how it was found.
    """

    colors: Integers
    count: int
    lower_bound: int
    method: str


def is_valid_coloring(
    rows: Integers, columns: Integers, colors: Integers, symmetric: bool = False
) -> bool:
    """Whether every entry can be read from the sum of its colour's columns.

    Args:
        rows: row of every entry, without repeated entries.
        columns: column of every entry.
        colors: colour of every column; −1 where it has none.
        symmetric: whether an entry (i, j) may be read as (j, i).

    Returns:
        True when no row has two entries in columns of one colour; where `symmetric`, when each
        entry is alone with its colour in its row, or its mirror image is in its own.
    """
    rows, columns, colors = (np.asarray(a, dtype=np.int64) for a in (rows, columns, colors))
    if not len(rows):
        return True
    used = colors[columns]
    if (used < 0).any():
        return False
    key = rows * (int(np.max(colors)) + 1) + used
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    alone = counts[inverse] == 1
    if not symmetric:
        return bool(alone.all())
    direct = set(zip(rows[alone].tolist(), columns[alone].tolist(), strict=True))
    others = zip(rows[~alone].tolist(), columns[~alone].tolist(), strict=True)
    return all((j, i) in direct for i, j in others)


def lower_bound(rows: Integers, columns: Integers, shape: tuple[int, int]) -> int:
    """Colours that the columns of a pattern need at least.

    As many as a row has entries; and columns of one colour have no row in common, so that only so
    many fit into the rows there are.

    Args:
        rows: row of every entry.
        columns: column of every entry.
        shape: number of rows and of columns.
    """
    by_row, by_column = np.bincount(rows, minlength=1), np.bincount(columns, minlength=1)
    filled = by_column[by_column > 0]
    if not len(filled):
        return 0
    together = int((by_row > 0).sum()) // int(np.min(filled))
    return max(int(np.max(by_row)), -(-len(filled) // together))


def symmetric_lower_bound(rows: Integers, columns: Integers, size: int) -> int:
    """Colours that a symmetric pattern needs at least when entries are read directly.

    Such a colouring is a star colouring where the diagonal is full: between two classes of sizes a
    and b there are no cycles, so at most a + b − 1 edges.

    Args:
        rows: row of every entry; the pattern must be symmetric.
        columns: column of every entry.
        size: number of rows and of columns.
    """
    off = rows != columns
    diagonal = np.zeros(size, dtype=bool)
    diagonal[rows[~off]] = True
    met = np.zeros(size, dtype=bool)
    met[rows[off]] = True
    if not len(rows) or not met.any() or not diagonal[met].all():
        return min(len(rows), 1)
    edges, vertices, colors = int(off.sum()) // 2, int(met.sum()), 2
    while (colors - 1) * vertices - colors * (colors - 1) // 2 < edges:
        colors += 1
    return colors


def violation(
    rows: Integers, columns: Integers, colors: Integers, m: int, p: int, symmetric: bool
) -> int | None:
    """A row in which an entry cannot be read, or None when all can."""
    key = rows.astype(np.int64) * p + colors[columns]
    if symmetric:
        single = alone(key)
        mirrored = columns.astype(np.int64) * p + colors[rows]
        # an entry's mirror is alone in its row when no other entry there has its colour
        lonely = np.sort(key[single])
        if not len(lonely):
            return int(rows[0])
        place = np.minimum(np.searchsorted(lonely, mirrored), len(lonely) - 1)
        bad = ~(single | (lonely[place] == mirrored))
        return int(rows[np.argmax(bad)]) if bad.any() else None
    if m * p <= 4 * len(rows) + (1 << 20):
        found = np.bincount(key, minlength=1)
        worst = int(np.argmax(found))
        return worst // p if found[worst] > 1 else None
    key.sort()
    same = key[1:] == key[:-1]
    return int(key[np.argmax(same)]) // p if same.any() else None


def alone(key: Integers) -> NDArray[np.bool_]:
    """Whether each key occurs once."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(key), dtype=bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return ~repeated
