"""What `explain` returns: a block for every output and input, named, written and counted."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import Terms
from jacobians.errors import ArgumentError
from jacobians.notation import show
from jacobians.notation.formula import UNWRITTEN, Formulas
from jacobians.program import dense
from jacobians.program.call import Leaf
from jacobians.structure.kinds import Structure
from jacobians.structure.observed import Observation
from jacobians.structure.statement import Clause, statement

MAX_PATTERN = 1 << 26


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """The derivative of one output leaf with respect to one input leaf.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        structure: the most specific structure proved.
        properties: every kind proved, with 'constant' and 'symmetric'.
        clauses: the conditions on indices for an entry to be nonzero.
        terms: the derived terms.
        nnz: how many entries can be nonzero; an upper bound where `nnz_exact` is False.
        nnz_exact: whether `nnz` is the exact count of the proved pattern.
        formulas: the formulas, as objects.
        observation: what was seen at points, or None.
        value: the matrix at the given point, or None where it was not evaluated.
    """

    output: str
    input: str
    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    structure: Structure
    properties: frozenset[str]
    clauses: tuple[Clause, ...]
    terms: Terms
    nnz: int
    nnz_exact: bool = True
    formulas: Formulas = UNWRITTEN
    observation: Observation | None = None
    value: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape, both leaves flattened."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def name(self) -> str:
        """The block as a derivative: `∂out/∂x`."""
        return f"∂{self.output}/∂{self.input}"

    @property
    def statement(self) -> str | None:
        """The condition on indices for an entry to be nonzero, `o0 = i0 and i1 ≤ o1`, or None."""
        output = [f"o{a}" for a in range(len(self.out_shape))]
        input_ = [f"i{b}" for b in range(len(self.in_shape))]
        return statement(self.clauses, output, input_)

    @property
    def formula(self) -> str | None:
        """The Jacobian in index notation, or None."""
        return self.formulas.jacobian

    @property
    def vjp_formula(self) -> str | None:
        """The VJP in matrix notation where it has one, else by indices, or None."""
        return self.formulas.vjp

    @property
    def where(self) -> tuple[str, ...]:
        """Definitions of the names that the formulas use."""
        return self.formulas.where

    @property
    def index(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Letters of the output's and the input's axes in formulas, 0 for axes of size one."""
        return self.formulas.index

    @property
    def observed(self) -> Structure | None:
        """The structure seen at the points evaluated, or None."""
        return None if self.observation is None else self.observation.structure

    @property
    def points(self) -> int:
        """The number of points that the observation is from."""
        return 0 if self.observation is None else self.observation.points

    def pattern(self) -> sparse.csr_array:
        """What can be nonzero: a boolean m×n matrix in CSR form.

        Raises:
            ArgumentError: the pattern has too many entries to list.
        """
        m, n = self.shape
        listed = entries.coordinates(self.terms, self.out_shape, self.in_shape, MAX_PATTERN)
        if listed is None:
            raise ArgumentError(
                f"the pattern of {self.name} ({m}×{n}) is too large to list; "
                "use .structure, .statement and .nnz, which need no list"
            )
        rows, columns = listed
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        ones = np.ones(len(rows), dtype=bool)
        return sparse.csr_array((ones, columns, starts), shape=(m, n))


@dataclass(frozen=True)
class Note:
    """What the reader of an explanation has to know besides.

    Attributes:
        text: the sentence.
        contradiction: whether numbers contradict a proof.
    """

    text: str
    contradiction: bool = False


@dataclass(frozen=True, eq=False)
class Explanation:
    """The Jacobian of a function, block by block.

    Attributes:
        name: the function's name.
        inputs: every input leaf.
        outputs: every output leaf.
        blocks: the blocks, output-major.
        remarks: what the reader has to know besides: inputs without derivative, operations treated
            widely, points dropped, and, loudly, any contradiction between proof and numbers.
    """

    name: str
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    blocks: tuple[Block, ...]
    remarks: tuple[Note, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader has to know besides, as sentences."""
        return tuple(note.text for note in self.remarks)

    def __getitem__(self, key: tuple[int | str, int | str]) -> Block:
        """The block of an (output, input) pair, each by position or name."""
        found: Block = dense.pick(self.blocks, key)
        return found

    @cached_property
    def _text(self) -> str:
        return show.text(self)

    def __str__(self) -> str:
        return self._text

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON-ready values; see `jacobians.report.data`."""
        return show.data(self)
