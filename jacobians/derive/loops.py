"""Control flow, linear solves, and operations without a rule of their own.

A branch that is not known is a sum over branches, each times the indicator that it is taken. A loop
is closed by a fixpoint: with A the pattern of one step in its own carry, the pattern of any number
of steps is A* = I ∪ A ∪ A² ∪ …, found by iterating until nothing new comes, and widened when that
takes too long. In a `scan` the slices stay apart: step t sees the slices s ≤ t, and no others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.derive.algebra import affine, entries
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import subtract
from jacobians.derive.algebra.block import (
    Terms,
    common_ties,
    identity,
    union,
    wide,
    with_coefficient,
)
from jacobians.derive.algebra.coefficient import Coefficient, Factor, Product
from jacobians.derive.algebra.normal import normal
from jacobians.derive.algebra.syntax import is_case
from jacobians.derive.algebra.term import Term
from jacobians.derive.closure import Matrix, _same_pattern, _sum_matrices, closure, matrix_product
from jacobians.derive.facts.certain import is_wild, may_be_anything, one_of, zeros
from jacobians.derive.facts.masks import conditions, restrict
from jacobians.derive.facts.ranges import integer_bounds, joint_range
from jacobians.derive.facts.support import MAX_CLOSURE, exchange_mixes, inverse_support
from jacobians.derive.operation import Local, Operation
from jacobians.derive.rules import sparse_products
from jacobians.derive.tape import Function, Node
from jacobians.derive.walk import Handler, Inside, Walk
from jacobians.program.view import Program

Blocks = dict[int, Terms]
Mask = NDArray[np.bool_]

# a scan is unrolled when it is at most this long and this much work; further when it carries a
# known counter, as `fori_loop` does: what is indexed by it is known only step by step
UNROLL_LENGTH = 8
UNROLL_EQUATIONS = 400
UNROLL_COUNTED = 64
UNROLL_COUNTED_EQUATIONS = 1600

# how often a loop's body is looked at for zeros that last
LASTING_ROUNDS = 4
MIXES = (
    "the inverse of a matrix with known zeros is proved as mathematics has it: where a solver "
    "exchanges rows, rounding may leave small numbers outside the proved pattern"
)
# index vectors of a solve's matrix that are listed to find the closure
MAX_LISTED = 1 << 22


def cond(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.cond` and `lax.switch`: the known branch, or all of them with their indicators."""
    choices = program.branches(equation)
    bounds = integer_bounds(walk.tape, operands[0])
    last = len(choices) - 1
    first_choice, last_choice = (0, last) if bounds is None else (
        int(np.clip(b, 0, last)) for b in bounds
    )  # fmt: skip
    if first_choice == last_choice:
        return walk.run(choices[first_choice], operands[1:])
    node = walk.record(equation, operands)
    collected: dict[int, dict[int, list[Term]]] = {}
    possible: list[list[int]] = []
    for k in range(first_choice, last_choice + 1):
        # what an equal choice made before is, in this branch, what this branch made of it: the
        # second derivative of a `cond` hands values over from one choice to another
        before = walk.by_branch.setdefault((operands[0], k), {})
        results = walk.run(choices[k], [before.get(number, number) for number in operands[1:]])
        before.update(zip(node.outputs, results, strict=True))
        possible.append(results)
        indicator = _indicator(walk, operands[0], k)
        for output, number in enumerate(results):
            for source, terms in walk.blocks.get(number, {}).items():
                scaled = with_coefficient(terms, indicator)
                collected.setdefault(output, {}).setdefault(source, []).extend(scaled)
    for output, by_source in collected.items():
        walk.store(node.outputs[output], by_source)
    for output, numbers in enumerate(zip(*possible, strict=True)):
        _what_all_say(walk, node.outputs[output], numbers)
    return list(node.outputs)


def _what_all_say(walk: Walk, result: int, branches: Sequence[int]) -> None:
    """Zeros and the range of a value that one of several branches makes."""
    one_of(walk.tape, result, branches)
    if not walk.has_derivative(result):
        walk.tape.ranges[result] = joint_range(walk.tape, branches)


def _indicator(walk: Walk, index: int, branch: int) -> Coefficient:
    function = Function(
        f"select{branch}", is_case(branch), lambda i: 1.0 * (jnp.asarray(i) == branch), True
    )
    number = walk.tape.function(function, (index,), (), jnp.dtype("float32"))
    depends = walk.tape.values[number].depends
    return Coefficient((Product(1.0, (Factor(number, ()),)),), depends)


def while_loop(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.while_loop`: the carry after any number of steps."""
    parts = program.while_parts(equation)
    condition_constants, constants = parts.condition_constants, parts.body_constants
    node = walk.record(equation, operands)
    given = operands[condition_constants:]
    carries = len(given) - constants
    lasting = _lasting_zeros(walk, parts.body, given, constants, carries)
    step = _Step(walk, parts.body, given, constants, lasting)
    step.tell(walk, node)
    if not step.wild:
        _remember_zeros(walk, node.outputs, lasting)
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
    locals_ = _locals(_sum_matrices(outer, through), step.depends(walk, given) | count)
    offset = [replace(item, operand=item.operand + condition_constants) for item in locals_]
    walk.apply(node, offset, _differentiable(walk, node.outputs))
    return list(node.outputs)


def _deciding(walk: Walk, parts: program.WhileParts) -> set[int]:
    """Which operands of a `while` decide how often its body runs, now or by way of the carry."""
    condition_constants, constants = parts.condition_constants, parts.body_constants
    read, flows = _reads(walk, parts.condition)[0], _reads(walk, parts.body)
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
    empty = [_in_every_slice(zeros(walk.tape, k)) for k in slices]
    lasting = _lasting_zeros(walk, parts.body, given, parts.constants, parts.carries, empty)
    nothing = [*lasting[: parts.carries], *empty]
    step = _Step(walk, parts.body, given, parts.constants, nothing)
    step.tell(walk, node)
    if not step.wild:
        _remember_zeros(walk, node.outputs, lasting)
    first_x = parts.constants + parts.carries
    shapes = [walk.shape(k) for k in given[parts.constants :]]

    def part(rows: range, columns: range) -> Matrix:
        return {
            (i - rows.start, j - columns.start): terms
            for (i, j), terms in step.blocks.items()
            if i in rows and j in columns
        }

    carry_rows = range(parts.carries)
    slice_rows = range(parts.carries, len(parts.body.outputs))
    constant_columns = range(parts.constants)
    carry_columns = range(parts.constants, first_x)
    slice_columns = range(first_x, first_x + len(slices))
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
    for (i, c), terms in _sum_matrices(direct, through).items():
        put(carries + i, c, (_at_times(t, length, None, "output") for t in terms))
    same_time = part(slice_rows, slice_columns)
    earlier = matrix_product(seen, part(carry_rows, slice_columns))
    for place in same_time.keys() | earlier.keys():
        now, before = same_time.get(place, ()), earlier.get(place, ())
        equal = bool(now) and _same_pattern(now, before)
        made = [_at_times(t, length, parts.reverse, "or same" if equal else "") for t in before]
        if not equal:
            made.extend(_at_times(t, length, None, "same") for t in now)
        put(carries + place[0], first_x + place[1], made)
    normalised = {
        place: union(t for t in (normal(t) for t in terms) if t is not None)
        for place, terms in result.items()
    }
    locals_ = _locals(normalised, step.depends(walk, operands))
    walk.apply(node, locals_, _differentiable(walk, node.outputs))
    return list(node.outputs)


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
        slices.append(_run_function(walk, _take_apart(parts.length), [number]))
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
            stacked += _run_function(walk, _put_together, [step[k] for step in outputs])
        else:
            shape = (0, *program.shape_of(variable))
            stacked.append(walk.constant(np.zeros(shape, program.dtype_of(variable))))
    return [*carry, *stacked]


def _take_apart(length: int) -> Callable[..., Any]:
    return lambda xs: tuple(jax.lax.index_in_dim(xs, t, 0, keepdims=False) for t in range(length))


def _put_together(*ys: Any) -> Any:
    return (jax.lax.concatenate([jax.lax.expand_dims(y, (0,)) for y in ys], 0),)


def _run_function(walk: Walk, f: Callable[..., Any], operands: Sequence[int]) -> list[int]:
    values = [walk.tape.values[k] for k in operands]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
    return walk.run(program.trace(f, shapes), operands)


def linear_solve(walk: Walk, equation: Any, operands: list[int]) -> list[int]:
    """`lax.custom_linear_solve`: x = A⁻¹·b, so dx = A⁻¹·(db − dA·x).

    A⁻¹ is exact in the axes that A ties, and lies within the transitive closure of A's pattern.
    """
    matvec, constants, all_constants = program.linear_solve_parts(equation)
    node = walk.record(equation, operands)
    right = operands[all_constants:]
    used = operands[:constants]
    step = _Step(walk, matvec, used, constants)
    step.tell(walk, node)
    inverse: Matrix = {}
    depends = frozenset[int]().union(*(walk.tape.values[k].depends for k in used))
    for i, a in enumerate(right):
        for j, b in enumerate(right):
            inverse[i, j] = (wide(walk.shape(a), walk.shape(b), (), depends),)
    if len(right) == 1:
        shape = walk.shape(right[0])
        own = step.blocks.get((0, constants), ())
        term, support, untied, mixes = _inverse(own, shape, depends)
        inverse[0, 0] = (term,)
        if mixes:
            walk.note(MIXES)
        zero = zeros(walk.tape, right[0])
        solved = None if zero is None or support is None else _solved(support, zero, untied)
        if solved is not None and solved.any():
            walk.tape.nothing[node.outputs[0]] = solved
            # dA·x is narrow where x is
            step = _Step(walk, matvec, used, constants, [solved])
    from_matrix = {(i, c): t for (i, c), t in step.blocks.items() if c < constants}
    locals_ = [Local(i, all_constants + j, t) for (i, j), terms in inverse.items() for t in terms]
    everything = step.depends(walk, operands)
    for (i, c), terms in matrix_product(inverse, from_matrix).items():
        for t in terms:
            locals_.append(Local(i, c, replace(t, coefficient=coefficients.opaque(everything))))
    walk.apply(node, locals_, _differentiable(walk, node.outputs))
    return list(node.outputs)


def _inverse(
    own: Terms, shape: tuple[int, ...], depends: frozenset[int]
) -> tuple[Term, Mask | None, list[int], bool]:
    """The relation of A⁻¹ for a matrix A of this relation to the vector that it is applied to.

    Returns:
        The term; the closure over the axes that A does not tie, None where it was not found; these
        axes; and whether the exchange of rows in a solve mixes what the closure keeps apart.
    """
    ties = [t for t in common_ties(own, shape, shape) if t[0] == t[1]]
    tied = {a for a, _ in ties}
    untied = [d for d in range(len(shape)) if d not in tied]
    small = tuple(shape[d] for d in untied)
    count = prod(small)
    term = wide(shape, shape, ties, depends)
    if count > MAX_CLOSURE or not own:
        return term, None, untied, False
    plain = [
        replace(
            t, out=tuple(t.out[d] for d in untied), inp=tuple(t.inp[d] for d in untied),
            coefficient=coefficients.OPAQUE,
        )
        for t in own
    ]  # fmt: skip
    listed = entries.coordinates(plain, small, small, MAX_LISTED)
    if listed is None:
        return term, None, untied, False
    mask = np.zeros((count, count), bool)
    mask[listed] = True
    support = inverse_support(mask)
    if support is None:
        # with nothing between the rows, everything
        return term, np.ones((count, count), bool), untied, False
    index = (*(term.out[d] for d in untied), *(term.inp[d] for d in untied))
    allowed = conditions(support.reshape(*small, *small), index)
    narrow = None if allowed is None else normal(restrict(term, allowed))
    mixes = exchange_mixes(mask, support)
    return (term if narrow is None else narrow), support, untied, mixes


def _solved(support: Mask, zero: Mask, untied: list[int]) -> Mask:
    """Where A⁻¹·b is certainly 0, for a support of A⁻¹ over the untied axes."""
    order = [*untied, *(d for d in range(zero.ndim) if d not in untied)]
    laid_out = np.transpose(~zero, order)
    right = laid_out.reshape(support.shape[0], -1).astype(np.float32)
    nonzero = (support.astype(np.float32) @ right > 0).reshape(laid_out.shape)
    return np.asarray(~np.transpose(nonzero, np.argsort(order)))


def linearised(walk: Walk, operation: Operation, outputs: Sequence[int]) -> list[Local] | None:
    """Local terms of an operation without a rule, by walking its JVP.

    Args:
        walk: the walk.
        operation: the operation.
        outputs: the results to differentiate.

    Returns:
        Local terms, or None when JAX has no JVP for it or the JVP leads back to it.
    """
    op = operation.op
    if op in walk.linearising:
        return None
    f = program.as_function(operation.node.equation)
    active = operation.active

    def pushforward(*values: Any) -> Any:
        primals, tangents = (
            values[: len(operation.node.inputs)],
            values[len(operation.node.inputs) :],
        )

        def of_active(*chosen: Any) -> Any:
            everything = list(primals)
            for k, value in zip(active, chosen, strict=True):
                everything[k] = value
            results = f(*everything)
            return tuple(results[o] for o in outputs)

        return jax.jvp(of_active, tuple(primals[k] for k in active), tuple(tangents))[1]

    values = [walk.tape.values[k] for k in operation.node.inputs]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
    try:
        traced = program.trace(pushforward, [*shapes, *(shapes[k] for k in active)])
    except Exception:
        return None
    hidden = {k: walk.blocks.pop(k) for k in operation.node.inputs if k in walk.blocks}
    tangents = []
    for k in active:
        number = walk.input(values[k].shape, values[k].dtype, depends=())
        walk.blocks[number] = {number: (identity(values[k].shape),)}
        tangents.append(number)
    before, done = walk.linearising, walk.done
    walk.linearising, walk.done = (*before, op), {}
    results = walk.run(traced, [*operation.node.inputs, *tangents])
    walk.linearising, walk.done = before, done
    walk.blocks.update(hidden)
    return [
        Local(o, k, term)
        for o, number in zip(outputs, results, strict=True)
        for k, tangent in zip(active, tangents, strict=True)
        for term in walk.blocks.get(number, {}).get(tangent, ())
    ]


def _reads(outer: Walk, inner: Program) -> list[frozenset[int]]:
    """For every output of a program the positions of the inputs that its value depends on."""
    walk = type(outer)(outer.inside)
    numbers = [walk.input(program.shape_of(v), program.dtype_of(v)) for v in inner.inputs]
    position = {number: k for k, number in enumerate(numbers)}
    results = walk.run(inner, numbers)
    return [
        frozenset(position[n] for n in walk.tape.values[r].depends if n in position)
        for r in results
    ]


def _inputs_of_step(
    walk: Walk,
    inner: Walk,
    body: Program,
    given: Sequence[int],
    constants: int,
    nothing: Sequence[Mask | None],
) -> list[int]:
    """The inputs of one step on a tape of its own, with what is the same at every step."""
    numbers = []
    for k, variable in enumerate(body.inputs):
        shape, dtype = program.shape_of(variable), program.dtype_of(variable)
        # what is the same at every step and known outside is known inside
        fixed = walk.tape.known(given[k]) if k < constants else None
        if fixed is None:
            number = inner.input(shape, dtype)
        else:
            number = inner.constant(fixed, walk.tape.radius(given[k]))
        numbers.append(number)
        zero = zeros(walk.tape, given[k]) if k < constants and fixed is None else None
        if constants <= k < constants + len(nothing):
            zero = nothing[k - constants]
        if zero is not None:
            inner.tape.nothing[number] = zero
    return numbers


def _lasting_zeros(
    walk: Walk,
    body: Program,
    given: Sequence[int],
    constants: int,
    carries: int,
    slices: Sequence[Mask | None] = (),
) -> list[Mask | None]:
    """Where each result of a step is 0 at every step, the carries at the start too.

    The greatest set of zeros of the carries that a step leaves zero, from those at the start on.
    """
    found = [zeros(walk.tape, k) for k in given[constants : constants + carries]]
    if all(mask is None for mask in (*found, *slices)):
        return [None] * len(body.outputs)
    for _ in range(LASTING_ROUNDS):
        inner = type(walk)(walk.inside, linearising=walk.linearising)
        numbers = _inputs_of_step(walk, inner, body, given, constants, [*found, *slices])
        results = [zeros(inner.tape, k) for k in inner.run(body, numbers)]
        kept = [_both(a, b) for a, b in zip(found, results[:carries], strict=True)]
        same = all(
            (a is None) == (b is None) and (a is None or b is None or bool((a == b).all()))
            for a, b in zip(found, kept, strict=True)
        )
        found = kept
        if same:
            return [*found, *results[carries:]]
    return [None] * len(body.outputs)


def _remember_zeros(walk: Walk, results: Sequence[int], masks: Sequence[Mask | None]) -> None:
    """Notes where results of a loop are 0; what each step gives is stacked."""
    for number, mask in zip(results, masks, strict=True):
        if mask is not None:
            walk.tape.nothing[number] = np.broadcast_to(mask, walk.shape(number))


def _in_every_slice(zero: Mask | None) -> Mask | None:
    """Where all slices along the first axis are zero, or None for nowhere."""
    if zero is None or not zero.all(axis=0).any():
        return None
    return np.asarray(zero.all(axis=0))


def _both(a: Mask | None, b: Mask | None) -> Mask | None:
    """Where both are zero, or None for nowhere."""
    if a is None or b is None or not (a & b).any():
        return None
    return np.asarray(a & b)


class _Step:
    """The blocks of one step of a loop, by (output, input), as patterns."""

    def __init__(
        self,
        walk: Walk,
        body: Program,
        given: Sequence[int],
        constants: int,
        nothing: Sequence[Mask | None] = (),
    ) -> None:
        """Walks the body once.

        Args:
            walk: the walk around it.
            body: the program of one step.
            given: tape numbers of its operands outside, the constants first.
            constants: number of operands that are the same at every step.
            nothing: where the operands after the constants are certainly 0, if known.
        """
        inner = type(walk)(walk.inside, linearising=walk.linearising, notes=walk.notes)
        inner.tape.cutting = walk.tape.cutting
        numbers = _inputs_of_step(walk, inner, body, given, constants, nothing)
        for number in numbers:
            if inner.tape.values[number].source == "input" and inner.has_derivative(number):
                inner.blocks[number] = {number: (identity(inner.shape(number)),)}
        results = inner.run(body, numbers)
        position = {number: k for k, number in enumerate(numbers)}
        # whether it makes an infinity or NaN of its own constants, in a value or a derivative
        self.wild = any(is_wild(inner.tape, number) for number in results)
        self.blocks: Matrix = {}
        self._depends: frozenset[int] = frozenset()
        for i, number in enumerate(results):
            for source, terms in inner.blocks.get(number, {}).items():
                plain = []
                for t in terms:
                    self._depends |= t.coefficient.depends
                    plain.append(replace(t, coefficient=coefficients.OPAQUE))
                self.blocks[i, position[source]] = union(plain)

    def tell(self, walk: Walk, node: Node) -> None:
        """Lets it be known of a loop's results that they may be anything, where that is so."""
        if self.wild:
            may_be_anything(walk.tape, node.outputs)

    def shifted(self, columns: int) -> Matrix:
        """The blocks with input positions counted from `columns`."""
        return {(i, j - columns): terms for (i, j), terms in self.blocks.items()}

    def depends(self, walk: Walk, operands: Sequence[int]) -> frozenset[int]:
        """The outer inputs that coefficients may depend on: none when each step is linear."""
        if not self._depends:
            return frozenset()
        return frozenset[int]().union(*(walk.tape.values[k].depends for k in operands))


def _locals(matrix: Matrix, depends: frozenset[int]) -> list[Local]:
    coefficient = coefficients.opaque(depends)
    return [
        Local(i, j, replace(t, coefficient=coefficient))
        for (i, j), terms in matrix.items()
        for t in terms
    ]


def _differentiable(walk: Walk, numbers: Sequence[int]) -> list[int]:
    return [k for k, number in enumerate(numbers) if walk.has_derivative(number)]


def reordered(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """`lax.reshape` of axes in another order: a transpose first, which the rules then see."""
    params = program.parameters(equation)
    order = params.get("dimensions")
    if order is None or len(operands) != 1:
        return None

    def written_out(x: Any) -> tuple[Any, ...]:
        return (jax.lax.reshape(jax.lax.transpose(x, tuple(order)), params["new_sizes"]),)

    atom = equation.invars[0]
    given = jax.ShapeDtypeStruct(program.shape_of(atom), program.dtype_of(atom))
    return walk.run(program.trace(written_out, [given]), operands)


def sparse_product(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """An operation of `jax.experimental.sparse`, walked by its definition."""
    written_out = sparse_products.definition(equation)
    return None if written_out is None else _run_function(walk, written_out, operands)


def implemented(walk: Walk, operation: Operation, outputs: Sequence[int]) -> bool:
    """An operation of another library, walked by the implementation that its primitive carries.

    Returns:
        Whether there is one that can be traced to other operations than itself.
    """
    node = operation.node
    inner = program.implementation(node.equation)
    if inner is None or node.op in walk.implementing:
        return False
    before = walk.implementing
    walk.implementing = (*before, node.op)
    results = walk.run(inner, node.inputs)
    walk.implementing = before
    for output in outputs:
        found = walk.blocks.get(results[output])
        if found:
            walk.blocks[node.outputs[output]] = found
    return True


def shard_map(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """`jax.shard_map` on one device: a plain call, in which collectives do nothing."""
    inner = program.single_shard(equation)
    if inner is None:
        return None
    before = walk.single_shard
    walk.single_shard = True
    results = walk.run(inner, operands)
    walk.single_shard = before
    return results


def collective(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """An operation between devices, where there is one: what it is given, laid out as asked."""
    if not walk.single_shard:
        return None
    if equation.primitive.name == "ppermute" and not program.parameters(equation)["perm"]:
        # nobody sends: what no device receives is 0
        return [
            walk.constant(np.zeros(walk.shape(operands[0]), walk.tape.values[operands[0]].dtype))
        ]
    results = []
    for number, variable in zip(operands, equation.outvars, strict=True):
        shape = program.shape_of(variable)
        if shape != walk.shape(number):
            results += _run_function(walk, _reshaped(shape), [number])
        else:
            results.append(number)
    return results


def _reshaped(shape: tuple[int, ...]) -> Callable[..., Any]:
    return lambda x: (jax.lax.reshape(x, shape),)


def own_index(walk: Walk, equation: Any, operands: list[int]) -> list[int] | None:
    """The index of the only device along an axis: 0."""
    if not walk.single_shard:
        return None
    return [walk.constant(np.zeros((), program.dtype_of(equation.outvars[0])))]


# what devices exchange: with a single one, every value stays where it is
COLLECTIVES = (
    "psum", "psum2", "psum_invariant", "pmax", "pmin", "pmean", "all_gather",
    "all_gather_invariant", "all_gather_reduced", "all_to_all", "ppermute", "pbroadcast", "pvary",
    "pcast", "psum_scatter", "reduce_scatter", "unreduced_psum", "reduced_vary_cast",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    "cond": cond,
    "while": while_loop,
    "scan": scan,
    "custom_linear_solve": linear_solve,
    "reshape": reordered,
    "shard_map": shard_map,
    "axis_index": own_index,
    **dict.fromkeys(COLLECTIVES, collective),
    **dict.fromkeys(sparse_products.DEFINITIONS, sparse_product),
}

INSIDE = Inside(HANDLERS, linearised, implemented)
