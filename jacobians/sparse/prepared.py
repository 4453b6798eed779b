"""What `prepare` finds out about a call once, and every later call of these types uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.derive.algebra.block import Terms
from jacobians.derive.tape import trace_tape
from jacobians.sparse.closed import Closed
from jacobians.sparse.linear import Linear, LinearDerivation
from jacobians.sparse.pattern import Pattern
from jacobians.sparse.swept import Program
from jacobians.structure.proved import Proof, prove


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """How one block is computed.

    Attributes:
        output: position of the result leaf.
        input: position of the selected leaf.
        way: 'zero', 'constant', 'closed form', 'JVPs', 'VJPs' or 'JVPs and VJPs'.
        terms: its terms.
        pattern: its entries.
        closed: its closed form, where that is the way.
        cost: the estimated cost of each way considered, in values computed or moved.
        outer: closed forms of its two factors, where it is given as an outer product.
    """

    output: int
    input: int
    way: str
    terms: Terms
    pattern: Pattern
    closed: Closed | None
    cost: Mapping[str, float]
    outer: tuple[Closed, Closed] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """Everything about a function and shapes that does not depend on values.

    Attributes:
        linears: the linear programs: JVPs' first, VJPs' second, None where not needed.
        derivation: the derived blocks.
        blocks: a plan for every block, output-major.
        sweeps: the compressed derivatives.
        tables: all index arrays and constants, given at run time.
        in_types: types of the selected leaves.
        out_types: types of the result leaves.
        linear: whether the derivative rules inside are certainly linear.
        symmetric: whether the matrix counts as symmetric.
        notes: sentences for the reader.
    """

    linears: tuple[Linear | None, Linear | None]
    derivation: LinearDerivation
    blocks: tuple[BlockPlan, ...]
    sweeps: tuple[Program, ...]
    tables: "Tables"
    in_types: tuple[Any, ...]
    out_types: tuple[Any, ...]
    linear: bool
    symmetric: bool
    notes: tuple[str, ...]

    @property
    def cacheable(self) -> bool:
        """Whether nothing in it belongs to one call only."""
        return not any(linear.hoisted for linear in self.linears if linear is not None)

    @property
    def any_linear(self) -> Linear:
        """One of the linear programs."""
        return next(linear for linear in self.linears if linear is not None)

    def evaluate(
        self, runtime: Sequence[Any], tables: "Tables", values_too: bool = True
    ) -> tuple[list[Any], list[Any]]:
        """Values and Jacobian entries at a point.

        Args:
            runtime: values of the plain program's constants and leaves.
            tables: `self.tables`.
            values_too: whether the values are wanted.

        Returns:
            The plain program's outputs, none unless wanted, and one flat array of entries per
            block.
        """
        made: list[Any] = []
        reads: dict[int, list[tuple[Any, Any]]] = {}
        wanted_blocks = [k for k, b in enumerate(self.blocks) if b.way not in ONCE]
        swept = [k for k in wanted_blocks if self.blocks[k].way != "closed form"]
        maps: list[Any] = [None, None]
        if values_too or self.sweeps:
            maps = [None if linear is None else linear.at(runtime) for linear in self.linears]
        values = next(m for m in maps if m is not None)[0] if values_too else []
        for sweep, own in zip(self.sweeps, tables.sweeps, strict=True):
            found = maps[int(sweep.sweep.transposed)]
            assert found is not None
            types = self.out_types if sweep.sweep.transposed else self.in_types
            entries = sweep.run(found[1], own, types)
            for read, data in zip(sweep.sweep.reads, entries, strict=True):
                reads.setdefault(swept[read.block], []).append((read.entries, data))
        arrays = self._tape_values(runtime)
        for k, block in enumerate(self.blocks):
            dtype = self.in_types[block.input].dtype
            if block.way == "zero":
                made.append(jnp.zeros(0, dtype))
            elif block.way == "constant":
                made.append(jnp.asarray(tables.constants[k]))
            elif block.outer is not None:
                made.append(self._outer(k, arrays, tables, dtype))
            elif block.way == "closed form" and block.closed is not None:
                made.append(block.closed.values(arrays, tables.closed[k], dtype))
            else:
                made.append(_joined(reads[k], block.pattern.count).astype(dtype))
        return values, made

    def _outer(self, k: int, arrays: Any, tables: "Tables", dtype: Any) -> tuple[Any, Any]:
        """The two factors of a block that is an outer product."""
        outer = self.blocks[k].outer
        assert outer is not None
        left, right = outer
        own = tables.closed[k]
        split = len(left.tables)
        return (
            left.values(arrays, own[:split], dtype).reshape(left.pattern.out_shape),
            right.values(arrays, own[split:], dtype).reshape(right.pattern.out_shape),
        )

    def proof(self, k: int) -> Proof:
        """The proved structure of a block."""
        block = self.blocks[k]
        shapes = block.pattern.out_shape, block.pattern.in_shape
        leaf = self.derivation.inputs[self.any_linear.selected[block.input]]
        # a hoisted value belongs to one call, and may have been computed from the leaf
        moving = (leaf, *self.derivation.hoisted)
        return prove(block.terms, *shapes, moving, self.derivation.tape.certain)

    def _tape_values(self, runtime: Sequence[Any]) -> dict[int, Any]:
        """The values at a point that closed forms refer to, by their numbers on the tape."""
        closed: list[Closed] = []
        for b in self.blocks:
            if b.outer is not None:
                closed.extend(b.outer)
            elif b.closed is not None and b.way not in ONCE:
                closed.append(b.closed)
        wanted = sorted({number for form in closed for number in form.wanted})
        given = {number: runtime[k] for k, number in self.derivation.runtime.items()}
        given.update(self.derivation.hoisted)
        tape = self.derivation.tape
        # an operation linear in a direction may name it as an operand of its derivative, which is
        # the same wherever it is taken
        for number in self.derivation.directions:
            given[number] = jnp.zeros(tape.values[number].shape, tape.values[number].dtype)
        return trace_tape(tape, given, wanted)

    def bytes(self) -> int:
        """Roughly what it keeps in memory."""
        leaves = jax.tree.leaves(self.tables)
        return sum(int(np.asarray(a).nbytes) for a in leaves) + sum(
            b.pattern.bytes() for b in self.blocks
        )


ONCE = ("zero", "constant")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tables:
    """Index arrays and constants by where they are used; a pytree.

    Attributes:
        sweeps: for each sweep its seeds and look-ups.
        closed: for each block with a closed form its look-ups.
        constants: for each constant block its entries.
    """

    sweeps: tuple[tuple[Any, ...], ...]
    closed: dict[int, tuple[Any, ...]]
    constants: dict[int, Any]


def _joined(parts: Sequence[tuple[Any, Any]], count: int) -> Any:
    """The entries of a block from what sweeps have read."""
    if len(parts) == 1 and parts[0][0] is None:
        return parts[0][1]
    order = np.empty(count, dtype=np.int64)
    order[np.concatenate([np.asarray(where) for where, _ in parts])] = np.arange(count)
    return jnp.concatenate([data for _, data in parts])[order]
