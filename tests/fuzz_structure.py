"""Fuzzer of structure: everything that is said of a random program, against its numbers.

Every word proved of a block, of the blocks inside it and of the piece that `jacobian` returns is
asked of `tests.words`; kind, count, pattern, formula and the condition on indices have to agree
with one another and with `jax.jacfwd` at two points.
"""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jacobians
from jacobians.derive.call import derive_call
from jacobians.derive.values import term_values
from jacobians.program.call import bind
from jacobians.structure.explain import block_of
from jacobians.structure.explanation import Block
from jacobians.structure.kinds import Structure
from tests.choices import Choices, Seeded
from tests.derive.programs import RandomProgram, random_program
from tests.derive.structured import INFINITE, ODD, alone
from tests.words import false_properties, false_words, outside_statement

# said of the pattern, whatever the numbers on it are
OF_PATTERNS = {
    "zero", "identity", "scaled-identity", "diagonal", "permutation", "selection", "banded",
    "lower-triangular", "upper-triangular", "block-diagonal", "sparse",
}  # fmt: skip
# every so many programs the pieces are looked at too: each has to be compiled
PIECES_EVERY = 3


def program_of(number: int) -> RandomProgram:
    """The program of a number: of any operations, of a constant matrix, or with infinities."""
    return some_program(Seeded(number))


def some_program(choose: Choices, steps: int = 7) -> RandomProgram:
    """A program of any operations, of a constant matrix, or with infinities."""
    kind = choose.integer(0, 3)
    if kind == 0:
        return alone(choose)
    if kind == 1:
        return random_program(choose, 3, INFINITE)
    return random_program(choose, steps, ODD)


def findings(number: int) -> list[str]:
    """What is said and is not so of the program of this number, a line each."""
    program = program_of(number)
    found = false_of(program, number, pieces=number % PIECES_EVERY == 0)
    said = "; ".join(program.describe().splitlines())
    return [f"{line} | {said}" for line in found]


def false_of(program: RandomProgram, seed: int, pieces: bool = True) -> list[str]:
    """Everything that is said of a program and is not so.

    Args:
        program: the program.
        seed: of the two points.
        pieces: whether `jacobian(…, format="blocks")` is asked too.
    """
    generator = np.random.default_rng(seed)
    found: list[str] = []
    with jax.enable_x64(True):
        points = [
            [jnp.asarray(generator.normal(size=shape)) for shape in program.shapes]
            for _ in range(2)
        ]
        derivation = derive_call(bind(program, points[0]), double=True)
        every = tuple(range(len(program.shapes)))
        both = jax.jit(lambda *v: (program(*v), jax.jacfwd(program, argnums=every)(*v)))
        seen = [both(*values) for values in points]
        made = term_values(derivation, points[0])
        blocks = [block_of(derivation.call, derivation, 0, k) for k in every]
        nowhere = np.all([~np.isfinite(np.asarray(value)) for value, _ in seen], axis=0)
        found += _undefined_rows(blocks, nowhere, [jacobian for _, jacobian in seen])
        others = []
        for k in every:
            moved = list(points[0])
            moved[k] = points[1][k]
            others.append(seen[1][1][k] if len(every) == 1 else both(*moved)[1][k])
        for k, block in enumerate(blocks):
            matrices = [np.asarray(jacobian[k]).reshape(block.shape) for _, jacobian in seen]
            numbers = made.get((0, k)) if block.formula else None
            lines = false_of_block(block, matrices, numbers)
            if "constant" in block.properties and not _agree(
                np.asarray(others[k]).reshape(block.shape), matrices[0]
            ):
                lines.append("not constant")
            found += [f"input {k}: {line}" for line in lines]
        if pieces and any(prod(b.shape) for b in blocks):
            found += _false_of_pieces(program, points[0], [j for _, j in seen], others)
    return found


def _undefined_rows(
    blocks: list[Block], nowhere: np.ndarray, jacobians_seen: list[Any]
) -> list[str]:
    """Rows whose value and derivative are NaN whatever the input, and all of which is said 0."""
    nan = np.zeros(nowhere.size, bool)
    for k, block in enumerate(blocks):
        tensors = [np.asarray(j[k]).reshape(block.shape) for j in jacobians_seen]
        nan |= np.all([np.isnan(t) for t in tensors], axis=0).any(axis=1)
    nan &= nowhere.reshape(-1)
    said = np.zeros(nan.size, bool)
    for block in blocks:
        said |= np.asarray(block.pattern().sum(axis=1) > 0).reshape(-1)
    rows = np.flatnonzero(nan & ~said)
    return [f"row {rows[0]} is NaN and proved zero"] if len(rows) else []


def false_of_block(
    block: Block, matrices: list[np.ndarray], numbers: np.ndarray | None = None
) -> list[str]:
    """What a block says and is not so.

    Args:
        block: the block.
        matrices: its matrix at points.
        numbers: its formula evaluated at the first, where it has one.
    """
    found: list[str] = []
    pattern = np.asarray(block.pattern().todense()).reshape(block.shape)
    shapes = block.out_shape, block.in_shape
    for matrix in matrices:
        finite = np.isfinite(matrix)
        size = np.abs(matrix[finite]).max(initial=0.0)
        outside = ~pattern & finite & (np.abs(np.where(finite, matrix, 0)) > 1e-12 * size)
        if outside.any():
            found.append(f"proved zero at {tuple(np.argwhere(outside)[0].tolist())}")
        found += [f"false word: {w}" for w in false_words(block.structure, matrix, *shapes)]
        wrong = false_properties(block.structure, block.properties, matrix, *shapes)
        found += [f"false property: {w} of {block.structure}" for w in wrong]
    found += _disagreements(block, pattern)
    if numbers is not None and not _agree(numbers, matrices[0]):
        found.append(f"the formula gives other numbers: {block.formula}")
    return list(dict.fromkeys(found))


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two matrices are equal up to rounding, where both are finite.

    Terms of the size of the inputs, about 1, may cancel.
    """
    both = np.isfinite(a) & np.isfinite(b)
    size = np.abs(b[both]).max(initial=1.0)
    with np.errstate(invalid="ignore"):
        return bool((np.abs(a - b) <= 1e-6 * np.abs(b) + 1e-8 * size)[both].all())


def _disagreements(block: Block, pattern: np.ndarray) -> list[str]:
    """Where kind, count, pattern, formula, properties and condition contradict one another."""
    found: list[str] = []
    count = int(pattern.sum())
    n = block.shape[1]
    kind = block.structure.kind
    if block.nnz != count and (block.nnz_exact or block.nnz < count):
        found.append(f"{block.nnz} entries counted, {count} listed")
    if (kind == "zero") != (count == 0) or ("zero" in block.properties) != (count == 0):
        found.append(f"{kind} with {count} entries, {sorted(block.properties)}")
    if block.formula is not None and block.formula.endswith(" = 0") != (count == 0):
        found.append(f"{count} entries, but {block.formula}")
    if kind not in block.properties:
        found.append(f"{kind} is none of the properties {sorted(block.properties)}")
    expected = {"identity": n, "permutation": n, "scaled-identity": n}.get(kind)
    if expected is not None and count != expected:
        found.append(f"{kind} of size {n} with {count} entries")
    if {"dense"} < block.properties - {"constant", "symmetric"}:
        found.append(f"dense, and {sorted(block.properties)}")
    any_numbers = np.where(pattern, np.random.default_rng(0).uniform(1, 2, pattern.shape), 0.0)
    shapes = block.out_shape, block.in_shape
    of_pattern = _of_pattern(block.structure)
    if of_pattern is not None:
        wrong = false_words(of_pattern, any_numbers, *shapes)
        found += [f"said of the pattern, and not so: {w}" for w in wrong]
    if block.statement is not None and outside_statement(block.statement, pattern, *shapes):
        found.append(f"an entry outside {block.statement}")
    return found


def _of_pattern(s: Structure) -> Structure | None:
    """What a structure says of a pattern alone, None for nothing."""
    if s.kind not in OF_PATTERNS:
        return None
    kind = {"identity": "diagonal", "scaled-identity": "diagonal"}.get(s.kind, s.kind)
    if kind in ("permutation", "selection"):
        return None
    inner = s.get("inner")
    inside = None if inner is None else _of_pattern(inner)
    kept = [(k, v) for k, v in s.parameters if k not in ("equal", "inner", "toeplitz", "scale")]
    return Structure(kind, (*kept, *([("inner", inside)] if inside else [])))


def _false_of_pieces(
    program: RandomProgram, point: list[Any], jacobians_seen: list[Any], others: list[Any]
) -> list[str]:
    """What the pieces of a Jacobian say and is not so.

    Args:
        program: the program.
        point: the first point.
        jacobians_seen: the explicit Jacobian at each point.
        others: by input, the explicit Jacobian with this input alone moved from the first point.
    """
    found: list[str] = []
    every = tuple(range(len(program.shapes)))
    pieces = jacobians.jacobian(program, argnums=every, format="blocks")(*point)
    for k, piece in enumerate(pieces):
        matrices = [np.asarray(j[k]).reshape(piece.shape) for j in jacobians_seen]
        if not _agree(np.asarray(piece.todense()).reshape(piece.shape), matrices[0]):
            found.append(f"piece {k}: other numbers than jax.jacfwd")
        for matrix in matrices:
            wrong = false_properties(
                Structure("dense"), piece.properties, matrix, piece.out_shape, piece.in_shape
            )
            found += [f"piece {k}: false property {w}" for w in wrong]
        other = np.asarray(others[k]).reshape(piece.shape)
        if "constant" in piece.properties and not _agree(other, matrices[0]):
            found.append(f"piece {k}: not constant")
    return list(dict.fromkeys(found))
