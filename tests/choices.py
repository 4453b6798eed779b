"""Random choices, drawn by Hypothesis so that they shrink, or from a seed so that they resume.

A generator of random cases asks a `Choices` for numbers, flags, options and orders, and does not
know which of the two it is: `Seeded(7).integer(1, 4)`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st


class Choices(Protocol):
    """What a generator of random cases asks for."""

    def integer(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""

    def flag(self) -> bool:
        """True or False."""

    def among(self, options: Sequence[Any]) -> Any:
        """One of several."""

    def order(self, count: int) -> list[int]:
        """The numbers below `count` in any order."""


class Drawn:
    """Choices that Hypothesis makes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def among(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def order(self, count: int) -> list[int]:
        return list(self.draw(st.permutations(range(count))))


class Seeded:
    """Choices that a seed makes: the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def flag(self) -> bool:
        return bool(self.generator.integers(2))

    def among(self, options: Sequence[Any]) -> Any:
        return options[int(self.generator.integers(len(options)))]

    def order(self, count: int) -> list[int]:
        return [int(k) for k in self.generator.permutation(count)]
