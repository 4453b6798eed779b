"""What a hypothesis is tested on: the entries of one input's cotangent, and a finding's form."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.check.diagnose.budget import Budget
from jacobians.check.entries import Comparison, Entries
from jacobians.program.call import Call, Leaf

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

# a hypothesis explains the discrepancy when it leaves no more of it than this
LEFT = 1e-3
# nor, of any single entry, more than this share and so many times what rounding may explain
SHARE, NOISE = 0.1, 3.0
# up to this many entries a block is looked at as a whole tensor
MAX_TENSOR = 1 << 22


@dataclass(frozen=True)
class Diagnosis:
    """What a mistake most likely is.

    Attributes:
        kind: the kind of mistake, such as 'sign' or 'missing-term'; see `jacobians.check.diagnose`.
        message: the mistake in words, and what to do.
        fit: how much of the discrepancy it explains, from 0 to 1; 1 where it was seen directly.
        inputs: names of the inputs whose cotangents are concerned.
    """

    kind: str
    message: str
    fit: float = 1.0
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """The wrong cotangent of one input leaf, all outputs stacked.

    Attributes:
        call: the call.
        leaf: position of the input leaf.
        parts: the entries and comparison of each output's block.
        offsets: first row of each output among all outputs.
        budget: the time that hypotheses about it may take.
    """

    call: Call
    leaf: int
    parts: tuple[tuple[Entries, Comparison], ...]
    offsets: tuple[int, ...]
    budget: Budget = field(default_factory=Budget)

    @property
    def input(self) -> Leaf:
        return self.call.inputs[self.leaf]

    @property
    def name(self) -> str:
        return self.input.name

    @cached_property
    def rows(self) -> Integers:
        return np.concatenate(
            [e.rows + start for (e, _), start in zip(self.parts, self.offsets, strict=True)]
        )

    @cached_property
    def columns(self) -> Integers:
        return np.concatenate([e.columns for e, _ in self.parts])

    @cached_property
    def expected(self) -> Array:
        return np.concatenate([e.expected for e, _ in self.parts])

    @cached_property
    def actual(self) -> Array:
        return np.concatenate([c.actual for _, c in self.parts])

    @cached_property
    def wrong(self) -> Bools:
        return np.concatenate([c.wrong for _, c in self.parts])

    @cached_property
    def kink(self) -> Bools:
        return np.concatenate([c.kink for _, c in self.parts])

    @cached_property
    def tolerance(self) -> Array:
        return np.concatenate([c.tolerance for _, c in self.parts])

    @cached_property
    def usable(self) -> Bools:
        """Entries in columns without kinks and without values that are not finite."""
        bad = self.kink | ~np.isfinite(self.expected) | ~np.isfinite(self.actual)
        off = np.zeros(self.input.size, dtype=bool)
        off[self.columns[bad]] = True
        return np.asarray(~off[self.columns])

    @cached_property
    def difference(self) -> Array:
        """What the rule says less what is right, 0 where it cannot be told."""
        with np.errstate(invalid="ignore"):
            off = self.actual - self.expected
        return np.where(self.usable, off, 0.0)

    @cached_property
    def norm(self) -> float:
        return float(np.linalg.norm(self.difference))

    def fit(self, predicted: Array, where: Bools | None = None) -> float:
        """How much of the discrepancy a prediction of the rule's values explains.

        A prediction that leaves a small entry unexplained beside large ones does not explain it.
        """
        self.budget.check()
        keep = self.usable if where is None else self.usable & where
        with np.errstate(invalid="ignore"):
            left = np.where(keep, self.actual - predicted, 0.0)
            whole = np.where(keep, self.actual - self.expected, 0.0)
        norm = float(np.linalg.norm(whole))
        if norm == 0 or not np.isfinite(left).all():
            return 0.0
        fit = 1.0 - float(np.linalg.norm(left)) / norm
        allowed = NOISE * self.tolerance + np.where(self.wrong, SHARE * np.abs(whole), 0.0)
        return min(fit, 1.0 - 2 * LEFT) if (np.abs(left) > allowed).any() else fit

    def explains(self, fit: float) -> bool:
        return fit >= 1.0 - LEFT

    def tensor(self, place: int, values: str) -> Array | None:
        """One block of `expected` or `actual` as a tensor, output axes first; None if too large."""
        entries, comparison = self.parts[place]
        shape = (*self.call.outputs[entries.output].shape, *self.input.shape)
        if int(np.prod(shape, dtype=np.int64)) > MAX_TENSOR:
            return None
        matrix = np.zeros((self.call.outputs[entries.output].size, self.input.size))
        given = entries.expected if values == "expected" else comparison.actual
        matrix[entries.rows, entries.columns] = given
        return matrix.reshape(shape)


def cases(
    call: Call, blocks: Sequence[Entries], results: Sequence[Comparison], budget: Budget
) -> tuple[Case, ...]:
    """One case for every input leaf, wrong or not, in order."""
    made = []
    for leaf in call.selected:
        parts = tuple((e, r) for e, r in zip(blocks, results, strict=True) if e.input == leaf)
        sizes = [call.outputs[e.output].size for e, _ in parts]
        offsets = tuple(int(k) for k in np.cumsum([0, *sizes])[:-1])
        made.append(Case(call, leaf, parts, offsets, budget))
    return tuple(made)


def lengths(case: Case) -> list[tuple[int, str]]:
    """Lengths of axes and sizes that a wrong factor may come from, with what they are."""
    found: dict[int, str] = {}

    def add(n: int, what: str) -> None:
        if n > 1:
            found.setdefault(n, what)

    leaves = [case.input, *(case.call.outputs[e.output] for e, _ in case.parts)]
    leaves += [leaf for leaf in case.call.inputs if not leaf.static]
    for leaf in leaves:
        for axis, n in enumerate(leaf.shape):
            add(
                n,
                f"the length of {leaf.name}"
                if len(leaf.shape) == 1
                else f"the length of axis {axis} of {leaf.name}",
            )
    for leaf in leaves:
        add(leaf.size, f"the size of {leaf.name}")
    return list(found.items())


def scalars(case: Case) -> dict[str, float]:
    """Scalar inputs by name."""
    found = {}
    for leaf in case.call.inputs:
        if leaf.shape == () and leaf.value is not None and np.dtype(leaf.dtype).kind in "fiu":
            found[leaf.name] = float(np.asarray(leaf.value))
    return found
