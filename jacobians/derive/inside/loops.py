"""Loops, closed by a fixpoint over relations, or unrolled where they are short.

With A the pattern of one step in its own carry, the pattern of any number of steps is
A* = I ∪ A ∪ A² ∪ …, found by iterating until nothing new comes, and widened when that takes too
long. In a `scan` the slices stay apart: step t sees the slices s ≤ t, and no others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra import affine
from jacobians.derive.algebra.affine import subtract
from jacobians.derive.algebra.block import (
    union,
)
from jacobians.derive.algebra.normal import normal
from jacobians.derive.algebra.term import Term
from jacobians.derive.closure import Matrix, closure, matrix_product, same_pattern, sum_of_matrices
from jacobians.derive.facts.certain import zeros
from jacobians.derive.inside.step import (
    Step,
    differentiable,
    inputs_read,
    lasting_zeros,
    locals_of,
    remember_zeros,
    run_function,
    zero_in_every_slice,
)
from jacobians.derive.walk import Walk

# a scan is unrolled when it is at most this long and this much work; further when it carries a
# known counter, as `fori_loop` does: what is indexed by it is known only step by step
UNROLL_LENGTH = 8
UNROLL_EQUATIONS = 400
UNROLL_COUNTED = 64
UNROLL_COUNTED_EQUATIONS = 1600


def while_loop(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.while_loop`: the carry after any number of steps."""
    parts = program.while_parts(equation)
    condition_constants, constants = parts.condition_constants, parts.body_constants
    node = walk.record(equation, operands)
    given = operands[condition_constants:]
    carries = len(given) - constants
    lasting = lasting_zeros(walk, parts.body, given, constants, carries)
    step = Step(walk, parts.body, given, constants, lasting)
    step.tell(walk, node)
    if not step.wild:
        remember_zeros(walk, node.outputs, lasting)
    shapes = [walk.shape(k) for k in given[constants:]]
    carry_block = {
        (i, j): terms for (i, j), terms in step.shifted(constants).items() if 0 <= j < carries
    }
    star = closure(carry_block, shapes)
    from_constants = {(i, c): terms for (i, c), terms in step.blocks.items() if c < constants}
    outer = {(i, constants + j): terms for (i, j), terms in star.items()}
    through = matrix_product(star, from_constants)
    decided = _deciding(walk, parts)
    count = frozenset[int]().union(*(walk.tape.values[operands[k]].depends for k in decided))
    locals_ = locals_of(sum_of_matrices(outer, through), step.depends(walk, given) | count)
    offset = [replace(item, operand=item.operand + condition_constants) for item in locals_]
    walk.apply(node, offset, differentiable(walk, node.outputs))
    return list(node.outputs)


def _deciding(walk: Walk, parts: program.WhileParts) -> set[int]:
    """Which operands of a `while` decide how often its body runs, now or by way of the carry."""
    condition_constants, constants = parts.condition_constants, parts.body_constants
    read, flows = inputs_read(walk, parts.condition)[0], inputs_read(walk, parts.body)
    decided = {k for k in read if k < condition_constants}
    waiting = {k - condition_constants for k in read if k >= condition_constants}
    carries: set[int] = set()
    while waiting:
        carry = waiting.pop()
        carries.add(carry)
        decided.add(condition_constants + constants + carry)
        decided |= {condition_constants + k for k in flows[carry] if k < constants}
        waiting |= {k - constants for k in flows[carry] if k >= constants} - carries
    return decided


def scan(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.scan`: unrolled when short, else by the fixpoint of its step, causal in time."""
    parts = program.scan_parts(equation)
    work = parts.length * len(parts.body.equations)
    carried = operands[parts.constants : parts.constants + parts.carries]
    longest, most = UNROLL_LENGTH, UNROLL_EQUATIONS
    if any(_counts(walk, k) for k in carried):
        longest, most = UNROLL_COUNTED, UNROLL_COUNTED_EQUATIONS
    if parts.length <= longest and work <= most:
        return _unrolled(walk, parts, operands)
    node = walk.record(equation, operands)
    given = operands[: parts.constants + parts.carries]
    slices = operands[parts.constants + parts.carries :]
    empty = [zero_in_every_slice(zeros(walk.tape, k)) for k in slices]
    lasting = lasting_zeros(walk, parts.body, given, parts.constants, parts.carries, empty)
    nothing = [*lasting[: parts.carries], *empty]
    step = Step(walk, parts.body, given, parts.constants, nothing)
    step.tell(walk, node)
    if not step.wild:
        remember_zeros(walk, node.outputs, lasting)
    shapes = [walk.shape(k) for k in given[parts.constants :]]
    locals_ = locals_of(_whole_scan(parts, step.blocks, shapes), step.depends(walk, operands))
    walk.apply(node, locals_, differentiable(walk, node.outputs))
    return list(node.outputs)


def _whole_scan(
    parts: program.ScanParts, blocks: Matrix, shapes: Sequence[tuple[int, ...]]
) -> Matrix:
    """The blocks of all steps of a scan, from those of one step.

    With A from carry to carry, B from slice to carry, C from carry to what is stacked and D from
    slice to that, entry t of the stack sees the slices s < t through C·A*·B, and its own by D.
    """
    first_x = parts.constants + parts.carries

    def part(rows: range, columns: range) -> Matrix:
        return {
            (i - rows.start, j - columns.start): terms
            for (i, j), terms in blocks.items()
            if i in rows and j in columns
        }

    carry_rows = range(parts.carries)
    slice_rows = range(parts.carries, len(parts.body.outputs))
    constant_columns = range(parts.constants)
    carry_columns = range(parts.constants, first_x)
    slice_columns = range(first_x, len(parts.body.inputs))
    star = closure(part(carry_rows, carry_columns), shapes)
    moved = matrix_product(part(carry_rows, carry_columns), star)
    seen = matrix_product(part(slice_rows, carry_columns), star)
    result: Matrix = {}

    def put(row: int, column: int, terms: Iterable[Term]) -> None:
        result[row, column] = union([*result.get((row, column), ()), *terms])

    length, carries = parts.length, parts.carries
    into_carry = {(i, parts.constants + j): t for (i, j), t in moved.items()}
    into_carry.update(matrix_product(star, part(carry_rows, constant_columns)))
    for (i, c), terms in into_carry.items():
        put(i, c, terms)
    for (i, j), terms in matrix_product(star, part(carry_rows, slice_columns)).items():
        put(i, first_x + j, (_at_times(t, length, None, "input") for t in terms))
    for (i, j), terms in seen.items():
        put(carries + i, parts.constants + j, (_at_times(t, length, None, "output") for t in terms))
    direct = part(slice_rows, constant_columns)
    through = matrix_product(seen, part(carry_rows, constant_columns))
    for (i, c), terms in sum_of_matrices(direct, through).items():
        put(carries + i, c, (_at_times(t, length, None, "output") for t in terms))
    same_time = part(slice_rows, slice_columns)
    earlier = matrix_product(seen, part(carry_rows, slice_columns))
    for place in same_time.keys() | earlier.keys():
        now, before = same_time.get(place, ()), earlier.get(place, ())
        equal = bool(now) and same_pattern(now, before)
        made = [_at_times(t, length, parts.reverse, "or same" if equal else "") for t in before]
        if not equal:
            made.extend(_at_times(t, length, None, "same") for t in now)
        put(carries + place[0], first_x + place[1], made)
    return {
        place: union(t for t in (normal(t) for t in terms) if t is not None)
        for place, terms in result.items()
    }


def _counts(walk: Walk, number: int) -> bool:
    """Whether a carried value starts as a known integer."""
    value = walk.tape.values[number]
    integer = value.shape == () and jnp.issubdtype(value.dtype, jnp.integer)
    return bool(integer) and walk.tape.certain(number) is not None


def _at_times(term: Term, length: int, reverse: bool | None, which: str) -> Term:
    """A term of one step as a term of the whole scan, with the time axis in front."""
    t = affine.fresh()
    now = affine.variable(t) if length > 1 else affine.ZERO
    sizes = {**term.sizes, **({t: length} if length > 1 else {})}
    if which == "input":
        return replace(term, sizes=sizes, inp=(now, *term.inp))
    if which == "output":
        return replace(term, sizes=sizes, out=(now, *term.out))
    if which == "same":
        return replace(term, sizes=sizes, out=(now, *term.out), inp=(now, *term.inp))
    s = affine.fresh()
    then = affine.variable(s) if length > 1 else affine.ZERO
    if length > 1:
        sizes[s] = length
    gap = subtract(then, now) if reverse else subtract(now, then)
    bound = gap if which == "or same" else affine.shift(gap, -1)
    return replace(
        term,
        sizes=sizes,
        out=(now, *term.out),
        inp=(then, *term.inp),
        bounds=(*term.bounds, bound),
    )


def _unrolled(walk: Walk, parts: program.ScanParts, operands: list[int]) -> list[int]:
    """A short scan step by step."""
    constants = operands[: parts.constants]
    carry = operands[parts.constants : parts.constants + parts.carries]
    slices = []
    for number in operands[parts.constants + parts.carries :]:
        slices.append(run_function(walk, _take_apart(parts.length), [number]))
    outputs: list[list[int]] = []
    order = range(parts.length)
    for t in reversed(order) if parts.reverse else order:
        results = walk.run(parts.body, [*constants, *carry, *(s[t] for s in slices)])
        carry = results[: parts.carries]
        outputs.append(results[parts.carries :])
    if parts.reverse:
        outputs.reverse()
    stacked = []
    for k, variable in enumerate(parts.body.outputs[parts.carries :]):
        if outputs:
            stacked += run_function(walk, _put_together, [step[k] for step in outputs])
        else:
            shape = (0, *program.shape_of(variable))
            stacked.append(walk.constant(np.zeros(shape, program.dtype_of(variable))))
    return [*carry, *stacked]


def _take_apart(length: int) -> Callable[..., Any]:
    return lambda xs: tuple(jax.lax.index_in_dim(xs, t, 0, keepdims=False) for t in range(length))


def _put_together(*ys: Any) -> Any:
    return (jax.lax.concatenate([jax.lax.expand_dims(y, (0,)) for y in ys], 0),)
