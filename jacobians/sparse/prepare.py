"""Plan, then apply: how each block of a Jacobian is computed, chosen by an estimate of cost.

A block whose coefficients have a formula can be evaluated in closed form; one that depends on no
input is computed once; the others share sweeps of JVPs or VJPs. `prepare` decides and builds the
index tables; `Prepared.evaluate` is a pure function of arrays, for `jax.jit`.

    prepared = prepare(plain, options)
    values, entries = prepared.evaluate(runtime, prepared.tables)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra.block import Terms, wide
from jacobians.errors import ArgumentError
from jacobians.sparse.closed import closed_form, outer_form
from jacobians.sparse.cost import work
from jacobians.sparse.linear import (
    FORWARD_REFUSED,
    Linear,
    LinearDerivation,
    Plain,
    derive_linear,
    forward,
    reverse,
    underived,
)
from jacobians.sparse.linearity import is_linear
from jacobians.sparse.pattern import MAX_FULL, Pattern, block_pattern
from jacobians.sparse.prepared import ONCE, BlockPlan, Prepared, Tables
from jacobians.sparse.sweep import Sweep, Wanted, plan_sweeps
from jacobians.sparse.swept import Program as SweepProgram
from jacobians.sparse.swept import default_chunk, program_of

# results of a constant block are computed once when that takes at most so many entries
MAX_CONSTANT = 1 << 22


def prepare(
    plain: Plain,
    chunk_size: int | None = None,
    symmetric: bool = False,
    factors: bool = False,
    linears: tuple[Linear | None, Linear | None] | None = None,
    closed: bool = True,
    note: str = "",
) -> Prepared:
    """Derives, plans and colours.

    Args:
        plain: the traced function.
        chunk_size: colours at a time, or None for what fits comfortably.
        symmetric: whether the function is a gradient, with equal inputs and outputs.
        factors: whether outer products are wanted as their two factors.
        linears: the function's linear programs, where they have been traced already.
        closed: whether closed forms may be used.
        note: why nothing is to be derived, so that every entry counts; or nothing.

    Returns:
        What `Prepared.evaluate` needs.

    Raises:
        ArgumentError: the Jacobian has too many entries to list.
        Exception: whatever JAX raises where it cannot differentiate the function.
    """
    builder = _builder(plain, linears if linears is not None else linear_programs(plain), note)
    builder.symmetric = symmetric and builder.linear and not program.has_foreign_rule(plain.program)
    builder.factors, builder.closed = factors, closed
    blocks = builder.blocks()
    swept = [b for b in blocks if b.way == ""]
    sweeps = builder.sweeps(swept)
    if any(sweep.transposed for sweep in sweeps) and builder.pull is None:
        raise AssertionError("VJPs planned without a reverse program")
    programs = builder.programs(
        sweeps, chunk_size if chunk_size is not None else default_chunk(builder.widest)
    )
    ways = iter(_ways(sweeps, len(swept)))
    blocks = [replace(b, way=next(ways)) if b.way == "" else b for b in blocks]
    used = {sweep.transposed for sweep in sweeps}
    needed_push = builder.push if False in used or not used else None
    needed_pull = builder.pull if True in used or needed_push is None else None
    closed_tables = {k: _closed_tables(b) for k, b in enumerate(blocks) if b.way not in ONCE}
    prepared = Prepared(
        linears=(needed_push, needed_pull),
        derivation=builder.derivation,
        blocks=tuple(blocks),
        sweeps=programs,
        tables=Tables(tuple(p.tables for p in programs), closed_tables, {}),
        in_types=builder.in_types,
        out_types=builder.out_types,
        linear=builder.linear,
        symmetric=builder.symmetric,
        notes=tuple(dict.fromkeys(builder.notes)),
    )
    return _with_constants(prepared, plain)


def _closed_tables(block: BlockPlan) -> tuple[Any, ...]:
    """The index tables of a block's closed form, or of its two factors; none where swept."""
    if block.outer is not None:
        return block.outer[0].tables + block.outer[1].tables
    return block.closed.tables if block.closed is not None else ()


def linear_programs(plain: Plain) -> tuple[Linear | None, Linear | None]:
    """The program of JVPs and None; None and that of VJPs where there are no JVPs."""
    try:
        push = forward(plain)
    except (NotImplementedError, TypeError, ValueError):
        # what has no JVP may have a VJP all the same; where it has not, that is the error
        return None, reverse(plain)
    if not program.contains(push.program, FORWARD_REFUSED):
        return push, None
    return None, reverse(plain)


def _try_reverse(plain: Plain, notes: list[str]) -> Linear | None:
    """The program of VJPs, or None where JAX has none, which a note then says."""
    try:
        return reverse(plain)
    except (ValueError, TypeError, NotImplementedError) as error:
        # what JAX cannot transpose, a while loop or a rule for JVPs only, is done by JVPs
        notes.append(f"JVPs alone are used, since JAX has no VJP of it ({reason_of(error)})")
        return None


def reason_of(error: Exception) -> str:
    """An exception in one line: its type, and the first line that it says."""
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".split("\n", 1)[0]


@dataclass(kw_only=True)
class _Builder:
    """The decisions of one plan.

    Attributes:
        plain: the traced function.
        push: its program of JVPs, where there is one.
        pull: its program of VJPs, where it has been traced; traced when needed.
        derivation: the derived blocks.
        linear: whether the derivative rules inside are certainly linear.
        symmetric: whether the matrix counts as symmetric.
        factors: whether outer products are wanted as their two factors.
        closed: whether closed forms may be used.
        notes: sentences for the reader.
    """

    plain: Plain
    push: Linear | None
    pull: Linear | None
    derivation: LinearDerivation
    linear: bool
    symmetric: bool = False
    factors: bool = False
    closed: bool = True
    notes: list[str] = field(default_factory=list)

    @cached_property
    def in_types(self) -> tuple[Any, ...]:
        """Types of the selected leaves."""
        first, types = len(self.plain.program.constants), self.plain.types()
        return tuple(types[first + k] for k in self.plain.selected)

    @cached_property
    def out_types(self) -> tuple[Any, ...]:
        """Types of the result leaves."""
        return tuple(
            jax.ShapeDtypeStruct(program.shape_of(a), program.dtype_of(a))
            for a in self.plain.program.outputs[: self.plain.results]
        )

    @cached_property
    def direction_cost(self) -> float:
        """The cost of one JVP, or VJP, beside the values that all share."""
        chosen = self.push if self.push is not None else self.pull
        assert chosen is not None
        return max(1.0, work(chosen.parts[1]))

    @property
    def widest(self) -> int:
        """The size of the largest array that there is one of for each colour."""
        values = self.derivation.tape.values
        shapes = [tuple(t.shape) for t in (*self.in_types, *self.out_types)]
        shapes.extend(values[k].shape for k in self.derivation.moving)
        return max([1, *map(prod, shapes)])

    def programs(self, sweeps: Sequence[Sweep], chunk: int) -> tuple[SweepProgram, ...]:
        """The sweeps with their tables, so many colours at a time."""
        return tuple(
            program_of(
                sweep,
                [prod(t.shape) for t in (self.in_types if sweep.transposed else self.out_types)],
                chunk,
            )
            for sweep in sweeps
        )

    def blocks(self) -> list[BlockPlan]:
        """A plan for every block; what is left to sweeps has the way '' so far."""
        plans = [
            self._block(o, i) for o in range(len(self.out_types)) for i in range(len(self.in_types))
        ]
        # where a result is read and an input seeded, their block shows in the sum: sweep it too
        while True:
            outputs = {b.output for b in plans if b.way == ""}
            inputs = {b.input for b in plans if b.way == ""}
            more = [
                b.way not in ("", "zero") and b.output in outputs and b.input in inputs
                for b in plans
            ]
            if not any(more):
                return plans
            plans = [
                replace(b, way="", closed=None, outer=None) if swept else b
                for b, swept in zip(plans, more, strict=True)
            ]

    def _block(self, o: int, i: int) -> BlockPlan:
        """The cheapest way of one block: the way is '' where that is a sweep."""
        out_shape, in_shape = tuple(self.out_types[o].shape), tuple(self.in_types[i].shape)
        tape, dtype = self.derivation.tape, self.in_types[i].dtype
        terms = self.derivation.terms.get((o, i), ())
        if not self.linear:
            anything = wide(out_shape, in_shape, (), frozenset(self.derivation.inputs))
            terms = (anything,) if prod(out_shape) * prod(in_shape) else ()
        if not terms:
            empty = Pattern(out_shape, in_shape, None, np.zeros(0, np.int64))
            return BlockPlan(o, i, "zero", (), empty, None, {})
        if self.factors and self.linear:
            outer = outer_form(terms, out_shape, in_shape, tape, dtype)
            if outer is not None:
                pattern = self._pattern(terms, out_shape, in_shape)
                cost = {"closed form": outer[0].work + outer[1].work}
                return BlockPlan(o, i, "closed form", terms, pattern, None, cost, outer)
        form = None
        if self.linear and self.closed:
            form = closed_form(terms, out_shape, in_shape, tape, dtype)
        pattern = form.pattern if form is not None else self._pattern(terms, out_shape, in_shape)
        colors = self._least_colors(pattern)
        cost = {"sweep": colors * self.direction_cost + 2.0 * pattern.count}
        if form is not None:
            cost["closed form"] = form.work
        constant = self.linear and self.closed and all(not t.coefficient.depends for t in terms)
        if constant and pattern.count <= MAX_CONSTANT:
            return BlockPlan(o, i, "constant", terms, pattern, form, cost)
        if form is not None and form.work <= cost["sweep"]:
            return BlockPlan(o, i, "closed form", terms, pattern, form, cost)
        return BlockPlan(o, i, "", terms, pattern, None, cost)

    def _pattern(
        self, terms: Terms, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
    ) -> Pattern:
        """The entries of a block; all of them where those of its terms are too many to list."""
        try:
            return block_pattern(terms, out_shape, in_shape)
        except ArgumentError as error:
            if prod(out_shape) * prod(in_shape) > MAX_FULL:
                raise
            self.notes.append(
                "every entry of a block is computed, as jax.jacobian does, since those that can be "
                f"nonzero take too long to list ({error})"
            )
            return block_pattern((wide(out_shape, in_shape),), out_shape, in_shape)

    def _least_colors(self, pattern: Pattern) -> int:
        """Colours that the entries of a pattern need at least, by JVPs or by VJPs alone."""
        if pattern.is_diagonal:
            return 1
        if pattern.full:
            m, n = pattern.shape
            return min(n if self.push else 1 << 60, m if self._may_reverse() else 1 << 60)
        by_jvp = int(np.max(np.bincount(pattern.rows, minlength=1))) if self.push else 1 << 60
        if self.push is not None and self.pull is None and by_jvp <= 2:
            return by_jvp
        by_vjp = int(np.max(np.bincount(pattern.columns, minlength=1)))
        return min(by_jvp, by_vjp)

    def sweeps(self, swept: Sequence[BlockPlan]) -> tuple[Sweep, ...]:
        """The sweeps for the blocks that have no other way."""
        wanted = [Wanted(b.output, b.input, b.pattern, b.terms) for b in swept]
        outs = [tuple(t.shape) for t in self.out_types]
        ins = [tuple(t.shape) for t in self.in_types]
        symmetric = self.symmetric and self._square(wanted)
        first = plan_sweeps(
            wanted, outs, ins, self.push is not None, self._may_reverse(), symmetric
        )
        if any(s.transposed for s in first) and self.pull is None:
            self.pull = _try_reverse(self.plain, self.notes)
            if self.pull is None:
                return plan_sweeps(wanted, outs, ins, True, False)
        return first

    def _square(self, wanted: Sequence[Wanted]) -> bool:
        """Whether with every block its mirror image is wanted too, with the mirrored pattern."""
        by_place = {(w.output, w.input): w.pattern for w in wanted}
        for (o, i), pattern in by_place.items():
            other = by_place.get((i, o))
            if other is None or other.count != pattern.count:
                return False
            n = pattern.shape[1]
            mirrored = np.sort(other.columns.astype(np.int64) * n + other.rows.astype(np.int64))
            own = pattern.rows.astype(np.int64) * n + pattern.columns.astype(np.int64)
            if not bool((mirrored == own).all()):
                return False
        return True

    def _may_reverse(self) -> bool:
        if self.pull is not None:
            return True
        return self.linear and not program.contains(self.plain.program, frozenset(["while"]))


def _builder(plain: Plain, linears: tuple[Linear | None, Linear | None], note: str) -> _Builder:
    """What decides on a function's plan, its blocks derived unless a note says why they are not."""
    push, pull = linears
    first = push if push is not None else pull
    assert first is not None
    custom = program.contains(plain.program, frozenset(program.CUSTOM_RULES))
    directions = range(first.runtime, first.runtime + first.directions)
    linear = not custom or is_linear(first.whole, directions)
    derivation = derive_linear(first, plain.known_inputs()) if not note else underived(first, note)
    notes = list(derivation.notes)
    if not linear:
        # jax.jacobian applies the rules to unit cotangents, so that is what is done here
        notes.append(
            "a custom derivative rule is not certainly linear: every row is computed by itself, "
            "as jax.jacobian does"
        )
        pull = pull or _try_reverse(plain, notes)
        push = None if pull is not None else push
    return _Builder(
        plain=plain, push=push, pull=pull, derivation=derivation, linear=linear, notes=notes
    )


def _ways(sweeps: Sequence[Sweep], count: int) -> list[str]:
    """By what the entries of each of so many blocks are read: 'JVPs', 'VJPs' or both."""
    kinds: list[set[bool]] = [set() for _ in range(count)]
    for sweep in sweeps:
        for read in sweep.reads:
            kinds[read.block].add(sweep.transposed)
    names = {frozenset([False]): "JVPs", frozenset([True]): "VJPs"}
    return [names.get(frozenset(kind), "JVPs and VJPs") for kind in kinds]


def _with_constants(prepared: Prepared, plain: Plain) -> Prepared:
    """The same with the entries of constant blocks computed."""
    places = [k for k, b in enumerate(prepared.blocks) if b.way == "constant"]
    if not places:
        return prepared
    found: dict[int, Any] = {}
    tape = prepared.derivation.tape
    for k in places:
        form = prepared.blocks[k].closed
        if form is None:
            continue
        known = {number: tape.known(number) for number in form.wanted}
        if all(v is not None for v in known.values()):
            dtype = prepared.in_types[prepared.blocks[k].input].dtype
            with np.errstate(all="ignore"):
                found[k] = np.asarray(form.values(known, form.tables, dtype, np))
    missing = [k for k in places if k not in found]
    if missing:
        found.update(_once(prepared, plain, missing))
    return replace(prepared, tables=replace(prepared.tables, constants=found))


def _once(prepared: Prepared, plain: Plain, places: Sequence[int]) -> dict[int, Any]:
    """The entries of blocks that no input matters to, by sweeps at a point of zeros."""
    push, pull = prepared.linears
    builder = _Builder(
        plain=plain,
        push=push,
        pull=pull,
        derivation=prepared.derivation,
        linear=prepared.linear,
    )
    swept = [replace(prepared.blocks[k], way="", closed=None) for k in places]
    programs = builder.programs(builder.sweeps(swept), default_chunk(1 << 16))
    alone = replace(
        prepared,
        linears=(push, builder.pull),
        blocks=tuple(swept),
        sweeps=programs,
        tables=Tables(tuple(p.tables for p in programs), {}, {}),
    )
    known = plain.known_inputs()
    with jax.ensure_compile_time_eval():
        point = [
            known[k] if k in known else jnp.zeros(t.shape, t.dtype)
            for k, t in enumerate(plain.types())
        ]
        made = jax.jit(alone.evaluate)(point, alone.tables)[1]
    return {k: np.asarray(v) for k, v in zip(places, made, strict=True)}
