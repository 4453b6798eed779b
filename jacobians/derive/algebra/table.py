"""Known arrays that index relations refer to: masks and index tables, compared by content.

`mask = Table(np.tril(np.ones((4, 4), bool)))`
`mask.holds((constant(2), constant(1)), None)` gives `True`
"""

import hashlib
from typing import Any

import numpy as np

from jacobians.derive.algebra.affine import Affine


class Table:
    """A read-only boolean or integer array that hashes and compares by its content."""

    __slots__ = ("_digest", "array")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        kind = np.bool_ if array.dtype == np.bool_ else np.int64
        stored: np.ndarray[Any, Any] = np.array(array, dtype=kind, order="C")
        stored.flags.writeable = False
        self.array = stored
        digest = hashlib.blake2b(stored.tobytes(), digest_size=16)
        digest.update(repr((stored.shape, stored.dtype.str)).encode())
        self._digest = digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Table({self.array.dtype}{list(self.array.shape)})"

    def holds(self, index: tuple[Affine, ...], value: Affine | None) -> bool:
        """Whether the table agrees at an index without variables."""
        entry = self.array[tuple(e.const for e in index)]
        return bool(entry) if value is None else int(entry) == value.const
