r"""A picture of a matrix's pattern in braille: one dot for an entry, or for a tile with any entry.

Each character holds 2×4 dots. A matrix larger than the picture is shown in equal tiles, a dot set
when any entry in its tile can be nonzero, so that no entry disappears.

    >>> print("\n".join(spy(np.arange(8), np.arange(8), (8, 8))))
    ⠑⢄⠀⠀
    ⠀⠀⠑⢄
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 36
HEIGHT = 10
# the bit of each dot of a braille character, by row and column
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def spy(
    rows: NDArray[Any],
    columns: NDArray[Any],
    shape: tuple[int, int],
    width: int = WIDTH,
    height: int = HEIGHT,
) -> list[str]:
    """Draws where entries are.

    Args:
        rows: row of every entry.
        columns: column of every entry.
        shape: shape of the matrix.
        width: widest picture, in characters.
        height: tallest picture, in characters.

    Returns:
        The lines of the picture; none for an empty matrix.
    """
    m, n = shape
    if m == 0 or n == 0:
        return []
    # one scale for both directions keeps the diagonal of a square matrix at 45 degrees
    tile = max(1, -(-m // (4 * height)), -(-n // (2 * width)))
    dots = np.zeros((-(-m // tile), -(-n // tile)), dtype=bool)
    dots[np.asarray(rows) // tile, np.asarray(columns) // tile] = True
    padded = np.zeros((-(-dots.shape[0] // 4) * 4, -(-dots.shape[1] // 2) * 2), dtype=bool)
    padded[: dots.shape[0], : dots.shape[1]] = dots
    cells = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 2, 2)
    codes = np.einsum("iajb,ab->ij", cells.astype(np.int64), np.array(BITS))
    return ["".join(chr(0x2800 + int(code)) for code in line) for line in codes]


def tile_size(shape: tuple[int, int], width: int = WIDTH, height: int = HEIGHT) -> int:
    """How many rows and columns of the matrix one dot of its picture stands for."""
    return max(1, -(-shape[0] // (4 * height)), -(-shape[1] // (2 * width)))
