"""What `check_vjp` returns: the verdict, block by block, with the worst entry and the problems."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from jacobians.check.diagnose import Diagnosis
from jacobians.errors import WrongDerivativeError
from jacobians.notation import show


@dataclass(frozen=True)
class WorstEntry:
    """The entry that is furthest off, relative to its tolerance.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        output_index: index into the output.
        input_index: index into the input.
        expected: the derivative of the function.
        actual: what the rule says.
    """

    output: str
    input: str
    output_index: tuple[int, ...]
    input_index: tuple[int, ...]
    expected: float
    actual: float


@dataclass(frozen=True)
class Problem:
    """A fault of the rule as a whole.

    Attributes:
        kind: count, structure, shape, dtype, raised, primal, non-finite, nonlinear,
            ignores-cotangent, nondeterministic or symbolic-zeros.
        message: what is wrong and what to do, in a sentence.
        inputs: names of the inputs concerned, where it is not all of them.
    """

    kind: str
    message: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockCheck:
    """The comparison of one block.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        entries: how many entries were compared.
        error: largest absolute difference (at kinks: to the nearest right value).
        tolerance: the largest difference that rounding may explain, at the worst entry.
        tolerance_source: where the tolerance comes from.
        worst: the worst entry, or None for an empty block.
        wrong: how many entries are wrong.
        kinks: how many entries differ but lie between the one-sided derivatives.
        undefined: how many entries have no derivative, so that the rule's NaN there is no mistake.
        singular: how many entries have no finite derivative, where the rule says a number that is
            then a convention, or rightly infinity.
        verdict: 'right', 'right (kinks)', 'wrong' or 'differs as declared'.
        precision: what the deciding comparison was made in.
        picture: the pattern of the wrong entries in braille, one line of the matrix each.
    """

    output: str
    input: str
    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    entries: int
    error: float
    tolerance: float
    tolerance_source: str
    worst: WorstEntry | None
    wrong: int
    kinks: int
    verdict: str
    precision: str = "float64"
    picture: tuple[str, ...] = ()
    undefined: int = 0
    singular: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def ok(self) -> bool:
        """Whether the block is right, or differs as the caller declared."""
        return self.verdict != "wrong"


@dataclass(frozen=True, eq=False, kw_only=True)
class VJPCheck:
    """The verdict on a hand-written derivative. True when it is right.

    Attributes:
        name: the function's name.
        rule: what was checked: 'custom_vjp', 'Gate', 'vjp=' …
        blocks: one comparison per (output leaf, input leaf).
        problems: faults of the rule as a whole.
        notes: how it was compared, and what the reader should know.
        diagnoses: what the mistakes most likely are, the best explanation first.
        truth: where the right derivative comes from: 'forward mode', 'reverse mode' or 'finite
            differences'.
        declared: the reason for which the caller expects a difference, by input, from `expect`.
        excused: faults that the declaration covers.
    """

    name: str
    rule: str
    blocks: tuple[BlockCheck, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    truth: str = "forward mode"
    declared: Mapping[str, str] = field(default_factory=dict)
    excused: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        return not self.problems and all(block.ok for block in self.blocks)

    @property
    def verdict(self) -> str:
        """'right', 'wrong' or 'differs as declared'."""
        if not self:
            return "wrong"
        declared = any(b.verdict == "differs as declared" for b in self.blocks)
        return "differs as declared" if declared or self.excused else "right"

    @property
    def worst(self) -> WorstEntry | None:
        """The worst entry of all blocks: of a wrong one if there is any."""
        blocks = [b for b in self.blocks if b.worst is not None]
        if not blocks:
            return None
        return max(blocks, key=lambda b: (not b.ok, b.error / max(b.tolerance, 1e-300))).worst

    def __str__(self) -> str:
        return show.text(self)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        return show.data(self)

    def raise_if_wrong(self) -> None:
        """Raises `WrongDerivativeError` with the report when the rule is wrong."""
        if not self:
            raise WrongDerivativeError(str(self))
