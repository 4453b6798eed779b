"""`plan`: how `jacobian` computes each block of a Jacobian, and what that saves.

`print(plan(jax.nn.relu, jax.ShapeDtypeStruct((4096,), jnp.float32)))`
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np

from jacobians.derive.call import CallDerivation
from jacobians.derive.derive import Derivation
from jacobians.errors import ArgumentError
from jacobians.notation import show
from jacobians.notation.formula import formulas, needed
from jacobians.notation.text import text_of
from jacobians.program.call import (
    Call,
    Leaf,
    argument_numbers,
    at_least_one,
    function_name,
    is_integer,
    one_of,
)
from jacobians.sparse.bind import Bound, bind_call, check_types
from jacobians.sparse.cache import entry_for
from jacobians.sparse.coloring import lower_bound, symmetric_lower_bound
from jacobians.sparse.jacobian import bind_hessian
from jacobians.sparse.prepared import Prepared
from jacobians.structure.kinds import Structure


@dataclass(frozen=True, kw_only=True)
class PlannedBlock:
    """How one block is computed.

    Attributes:
        output: name of the result leaf.
        input: name of the argument leaf.
        shape: shape of the flattened matrix.
        nnz: number of entries that can be nonzero.
        structure: its proved structure.
        way: 'zero', 'constant', 'closed form', 'JVPs', 'VJPs' or 'JVPs and VJPs'.
        formula: the entries of a closed form in index notation, where they can be written.
        where: definitions of names in the formula.
        cost: the estimated cost of the ways considered, in values computed or moved.
    """

    output: str
    input: str
    shape: tuple[int, int]
    nnz: int
    structure: Structure
    way: str
    formula: str | None
    where: tuple[str, ...]
    cost: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PlannedSweep:
    """JVPs, or VJPs, that several blocks share.

    Attributes:
        kind: 'JVPs' or 'VJPs'.
        colors: how many.
        lower_bound: the fewest that this kind can do with.
        chunk: how many at a time.
        method: how the colouring was found.
    """

    kind: str
    colors: int
    lower_bound: int
    chunk: int
    method: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a Jacobian is computed; prints itself.

    Attributes:
        function: name of the function.
        signature: its arguments and results in JAX's short notation.
        blocks: every block, output-major.
        sweeps: the compressed derivatives, none where closed forms do.
        jvps: how many JVPs `jax.jacfwd` needs.
        vjps: how many VJPs `jax.jacrev` needs.
        notes: sentences for the reader.
        lower_bound: how many JVPs, or VJPs, compression by one kind takes at least; for a
            Hessian, how many with its symmetry used.
        symmetric: whether the symmetry of a Hessian is used.
    """

    function: str
    signature: str
    blocks: tuple[PlannedBlock, ...]
    sweeps: tuple[PlannedSweep, ...]
    jvps: int
    vjps: int
    notes: tuple[str, ...]
    lower_bound: int
    symmetric: bool

    @property
    def colors(self) -> int:
        """How many JVPs and VJPs are computed in all."""
        return sum(sweep.colors for sweep in self.sweeps)

    def __str__(self) -> str:
        return show.text(self)

    @property
    def summary(self) -> str:
        """How many JVPs and VJPs it takes, in one line."""
        parts = [
            f"{sweep.colors} {sweep.kind if sweep.colors > 1 else sweep.kind[:-1]}"
            for sweep in self.sweeps
        ]
        instead = f"instead of {self.jvps} JVPs or {self.vjps} VJPs"
        kind = "using the symmetry" if self.symmetric else "by JVPs or by VJPs alone"
        least = f"; compression {kind} takes {self.lower_bound} at least" if not parts else ""
        return f"{' and '.join(parts) or 'no JVP'} {instead}{least}"


def plan(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    chunk_size: int | None = None,
    of: str = "jacobian",
) -> Plan:
    """How `jacobian(f)`, or `hessian(f)`, computes its blocks; nothing is evaluated.

    Args:
        f: the function.
        args: its arguments: arrays, pytrees, Python scalars, or `jax.ShapeDtypeStruct`.
        argnums: as in `jacobian`.
        has_aux: as in `jacobian`.
        chunk_size: as in `jacobian`.
        of: 'jacobian' or 'hessian'.

    Returns:
        The plan; `print` it.

    Raises:
        ArgumentError: `f` is no function, `of` is neither; and as `jacobian(f)` does when called.
        Exception: what `f` raises while it is traced, or JAX where it cannot differentiate `f`.
    """
    if not callable(f):
        raise ArgumentError(f"expected a function, got {f!r} of type {type(f).__name__}")
    numbers = argument_numbers(argnums)
    if chunk_size is not None:
        chunk_size = at_least_one("chunk_size", chunk_size)
    if one_of("of", of, ("jacobian", "hessian"), "choices") == "hessian":
        bound, symmetric = bind_hessian(
            f, numbers, numbers[0] if is_integer(argnums) else numbers, has_aux, args, {}
        )
    else:
        bound, symmetric = bind_call(f, numbers, has_aux, args, {}), False
    check_types(bound.out_types, bound.out_names)
    prepared = entry_for(bound, chunk_size, symmetric).prepared
    names = bound.out_names if of == "jacobian" else tuple(f"grad {n}" for n in bound.in_names)
    return _described(prepared, bound, names, function_name(f))


def _described(prepared: Prepared, bound: Bound, out_names: Sequence[str], function: str) -> Plan:
    """The plan of a call as it is printed, in the names of the call."""
    ins = [_leaf(n, t) for n, t in zip(bound.in_names, prepared.in_types, strict=True)]
    outs = [_leaf(n, t) for n, t in zip(out_names, prepared.out_types, strict=True)]
    given, returned = (
        ", ".join(f"{leaf.name} {leaf.short_type}" for leaf in leaves) for leaves in (ins, outs)
    )
    return Plan(
        function=function,
        signature=f"{given} → {returned}",
        blocks=_planned_blocks(prepared, bound, ins, outs),
        sweeps=tuple(
            PlannedSweep(
                "VJPs" if p.sweep.transposed else "JVPs",
                p.sweep.coloring.count,
                p.sweep.coloring.lower_bound,
                p.chunk,
                p.sweep.coloring.method,
            )
            for p in prepared.sweeps
        ),
        jvps=sum(leaf.size for leaf in ins),
        vjps=sum(leaf.size for leaf in outs),
        notes=(*bound.notes, *prepared.notes),
        lower_bound=_bound(prepared),
        symmetric=prepared.symmetric,
    )


def _planned_blocks(
    prepared: Prepared, bound: Bound, ins: Sequence[Leaf], outs: Sequence[Leaf]
) -> tuple[PlannedBlock, ...]:
    """Every block, its formula where its entries have one in the names of the call."""
    first = len(bound.plain.constants)
    # an equal program may have been planned under other names, or be now, in another thread
    names = dict(zip(prepared.derivation.inputs[first:], bound.given_names, strict=False))
    derivation = _as_call(prepared, ins, outs, names)
    planned = []
    for k, b in enumerate(prepared.blocks):
        formula: str | None = None
        where: tuple[str, ...] = ()
        named = bound.values is None
        if named and b.way in ("closed form", "constant") and prepared.linear:
            written = formulas(derivation, b.output, b.input)
            formula = written.jacobian
            if written.derivative is not None:
                used = needed(written.definitions, written.derivative)
                where = tuple(text_of(definition) for definition in used)
        planned.append(
            PlannedBlock(
                output=outs[b.output].name,
                input=ins[b.input].name,
                shape=b.pattern.shape,
                nnz=b.pattern.count,
                structure=prepared.proof(k).structure,
                way=b.way,
                formula=formula,
                where=where,
                cost=tuple(sorted(b.cost.items())),
            )
        )
    return tuple(planned)


def _bound(prepared: Prepared) -> int:
    """Colours that the whole matrix needs at least."""
    ends = [prod(t.shape) for t in prepared.out_types], [prod(t.shape) for t in prepared.in_types]
    starts = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in ends]
    rows = np.concatenate([b.pattern.rows + starts[0][b.output] for b in prepared.blocks])
    columns = np.concatenate([b.pattern.columns + starts[1][b.input] for b in prepared.blocks])
    m, n = (int(s[-1]) for s in starts)
    mirrored = np.array_equal(np.sort(rows * n + columns), np.sort(columns * n + rows))
    if prepared.symmetric and mirrored:
        return symmetric_lower_bound(rows, columns, n)
    return min(lower_bound(rows, columns, (m, n)), lower_bound(columns, rows, (n, m)))


def _as_call(
    prepared: Prepared, ins: Sequence[Leaf], outs: Sequence[Leaf], names: Mapping[int, str]
) -> CallDerivation:
    """The linear derivation in the form that formulas are written from, its inputs so named."""
    found = prepared.derivation
    tape = found.tape.renamed(names)
    numbers = tuple(found.inputs[k] for k in prepared.any_linear.selected)
    derivation = Derivation(tape, numbers, found.values, found.terms, (), ())
    places = tuple(range(len(ins)))
    call = Call(lambda *_: None, tuple(ins), places, tuple(outs), None, jax.tree.structure(0))
    return CallDerivation(call, derivation, places, ())


def _leaf(name: str, type_: Any) -> Leaf:
    return Leaf(name, tuple(type_.shape), type_.dtype)
