"""Control flow, linear solves, and operations without a rule of their own.

A branch that is not known is a sum over branches, each times the indicator that it is taken. A loop
is closed by a fixpoint: with A the pattern of one step in its own carry, the pattern of any number
of steps is A* = I ∪ A ∪ A² ∪ …, found by iterating until nothing new comes, and widened when that
takes too long. In a `scan` the slices stay apart: step t sees the slices s ≤ t, and no others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.algebra import affine
from jacobians.algebra import coefficient as coefficients
from jacobians.algebra.affine import subtract
from jacobians.algebra.block import (
    Terms,
    add_all,
    common_ties,
    compose_all,
    hull,
    identity,
    union,
    wide,
    with_coefficient,
)
from jacobians.algebra.coefficient import Coefficient, Factor, Product
from jacobians.algebra.term import Term, contains, key, normal
from jacobians.derive.operation import Local, Operation
from jacobians.derive.tape import Function
from jacobians.program import Program

if TYPE_CHECKING:
    from jacobians.derive.walk import Walk

Shapes = Sequence[tuple[int, ...]]
Matrix = dict[tuple[int, int], Terms]

# a scan is unrolled when it is at most this long and this much work; further when it carries a
# known counter, as `fori_loop` does: what is indexed by it is known only step by step
UNROLL_LENGTH = 8
UNROLL_EQUATIONS = 400
UNROLL_COUNTED = 64
UNROLL_COUNTED_EQUATIONS = 1600
EXACT_ROUNDS = 8


def cond(walk: "Walk", equation: Any, operands: list[int]) -> list[int]:
    """`lax.cond` and `lax.switch`: the known branch, or all of them with their indicators."""
    choices = program.branches(equation)
    which = walk.tape.certain(operands[0])
    if which is not None:
        chosen = min(max(int(which), 0), len(choices) - 1)
        return walk.run(choices[chosen], operands[1:])
    node = walk.record(equation, operands)
    collected: dict[int, dict[int, list[Term]]] = {}
    for k, choice in enumerate(choices):
        results = walk.run(choice, operands[1:])
        indicator = _indicator(walk, operands[0], k)
        for output, number in enumerate(results):
            for source, terms in walk.blocks.get(number, {}).items():
                scaled = with_coefficient(terms, indicator)
                collected.setdefault(output, {}).setdefault(source, []).extend(scaled)
    for output, by_source in collected.items():
        walk.store(node.outputs[output], by_source)
    return list(node.outputs)


def _indicator(walk: "Walk", index: int, branch: int) -> Coefficient:
    function = Function(
        f"select{branch}", f"1[{{0}} = {branch}]", lambda i: 1.0 * (jnp.asarray(i) == branch)
    )
    number = walk.tape.function(function, (index,), (), jnp.dtype("float32"))
    depends = walk.tape.values[number].depends
    return Coefficient((Product(1.0, (Factor(number, ()),)),), depends)


def while_loop(walk: "Walk", equation: Any, operands: list[int]) -> list[int]:
    """`lax.while_loop`: the carry after any number of steps."""
    condition, condition_constants, body, constants = program.while_parts(equation)
    node = walk.record(equation, operands)
    given = operands[condition_constants:]
    step = _Step(walk, body, given, constants)
    carries = len(given) - constants
    shapes = [walk.shape(k) for k in given[constants:]]
    carry_block = {
        (i, j): terms for (i, j), terms in step.shifted(constants).items() if 0 <= j < carries
    }
    star = closure(carry_block, shapes)
    from_constants = {(i, c): terms for (i, c), terms in step.blocks.items() if c < constants}
    outer = {(i, constants + j): terms for (i, j), terms in star.items()}
    through = matrix_product(star, from_constants)
    decided = _deciding(walk, condition, body, condition_constants, constants)
    count = frozenset[int]().union(*(walk.tape.values[operands[k]].depends for k in decided))
    locals_ = _locals(_sum_matrices(outer, through), step.depends(walk, given) | count)
    offset = [replace(item, operand=item.operand + condition_constants) for item in locals_]
    walk.apply(node, offset, _differentiable(walk, node.outputs))
    return list(node.outputs)


def _deciding(
    walk: "Walk", condition: Program, body: Program, condition_constants: int, constants: int
) -> set[int]:
    """Which operands of a `while` decide how often its body runs, now or by way of the carry."""
    read, flows = _reads(walk, condition)[0], _reads(walk, body)
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


def scan(walk: "Walk", equation: Any, operands: list[int]) -> list[int]:
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
    step = _Step(walk, parts.body, given, parts.constants)
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


def _counts(walk: "Walk", number: int) -> bool:
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


def _unrolled(walk: "Walk", parts: program.ScanParts, operands: list[int]) -> list[int]:
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


def _run_function(walk: "Walk", f: Callable[..., Any], operands: Sequence[int]) -> list[int]:
    values = [walk.tape.values[k] for k in operands]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
    return walk.run(program.trace(f, shapes), operands)


def linear_solve(walk: "Walk", equation: Any, operands: list[int]) -> list[int]:
    """`lax.custom_linear_solve`: x = A⁻¹·b, so dx = A⁻¹·(db − dA·x), exact in axes that A ties."""
    matvec, constants, all_constants = program.linear_solve_parts(equation)
    node = walk.record(equation, operands)
    right = operands[all_constants:]
    used = operands[:constants]
    step = _Step(walk, matvec, used, constants)
    inverse: Matrix = {}
    depends = frozenset[int]().union(*(walk.tape.values[k].depends for k in used))
    for i, a in enumerate(right):
        for j, b in enumerate(right):
            ties: list[tuple[int, int]] = []
            if len(right) == 1:
                own = step.blocks.get((0, constants), ())
                shape = walk.shape(a)
                ties = [t for t in common_ties(own, shape, shape) if t[0] == t[1]]
            inverse[i, j] = (wide(walk.shape(a), walk.shape(b), ties, depends),)
    from_matrix = {(i, c): t for (i, c), t in step.blocks.items() if c < constants}
    locals_ = [Local(i, all_constants + j, t) for (i, j), terms in inverse.items() for t in terms]
    everything = step.depends(walk, operands)
    for (i, c), terms in matrix_product(inverse, from_matrix).items():
        for t in terms:
            locals_.append(Local(i, c, replace(t, coefficient=coefficients.opaque(everything))))
    walk.apply(node, locals_, _differentiable(walk, node.outputs))
    return list(node.outputs)


def linearised(walk: "Walk", operation: Operation, outputs: Sequence[int]) -> list[Local] | None:
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


def _reads(outer: "Walk", inner: Program) -> list[frozenset[int]]:
    """For every output of a program the positions of the inputs that its value depends on."""
    walk = type(outer)()
    numbers = [walk.input(program.shape_of(v), program.dtype_of(v)) for v in inner.inputs]
    position = {number: k for k, number in enumerate(numbers)}
    results = walk.run(inner, numbers)
    return [
        frozenset(position[n] for n in walk.tape.values[r].depends if n in position)
        for r in results
    ]


class _Step:
    """The blocks of one step of a loop, by (output, input), as patterns."""

    def __init__(
        self,
        walk: "Walk",
        body: Program,
        given: Sequence[int],
        constants: int,
    ) -> None:
        inner = type(walk)(linearising=walk.linearising, notes=walk.notes)
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
            if fixed is None and inner.has_derivative(number):
                inner.blocks[number] = {number: (identity(shape),)}
        results = inner.run(body, numbers)
        position = {number: k for k, number in enumerate(numbers)}
        self.blocks: Matrix = {}
        self._depends: frozenset[int] = frozenset()
        for i, number in enumerate(results):
            for source, terms in inner.blocks.get(number, {}).items():
                plain = []
                for t in terms:
                    self._depends |= t.coefficient.depends
                    plain.append(replace(t, coefficient=coefficients.OPAQUE))
                self.blocks[i, position[source]] = union(plain)

    def shifted(self, columns: int) -> Matrix:
        """The blocks with input positions counted from `columns`."""
        return {(i, j - columns): terms for (i, j), terms in self.blocks.items()}

    def depends(self, walk: "Walk", operands: Sequence[int]) -> frozenset[int]:
        """The outer inputs that coefficients may depend on: none when each step is linear."""
        if not self._depends:
            return frozenset()
        return frozenset[int]().union(*(walk.tape.values[k].depends for k in operands))


def closure(step: Matrix, shapes: Shapes) -> Matrix:
    """A* = I ∪ A ∪ A² ∪ … for the block matrix A of one step, as patterns.

    Args:
        step: the blocks of one step, carry by carry; absent blocks are zero.
        shapes: the shapes of the carries.

    Returns:
        The blocks of any number of steps, identity included.
    """
    base: Matrix = {}
    for i, shape in enumerate(shapes):
        same = identity(shape)
        base[i, i] = union([replace(same, coefficient=coefficients.OPAQUE)])
    star = dict(base)
    for round_number in range(1000):
        new = _sum_matrices(base, matrix_product(step, star))
        if round_number >= EXACT_ROUNDS:
            joint = _sum_matrices(new, star)
            new = {
                (i, j): terms
                if _equal(terms, star.get((i, j), ()))
                else hull(terms, shapes[i], shapes[j])
                for (i, j), terms in joint.items()
            }
        if new.keys() == star.keys() and all(_equal(new[p], star[p]) for p in new):
            return new
        star = new
    return {(i, j): (wide(shapes[i], shapes[j]),) for (i, j) in star}


def matrix_product(a: Matrix, b: Matrix) -> Matrix:
    """The product of two block matrices."""
    result: dict[tuple[int, int], list[Term]] = {}
    for (i, k), left in a.items():
        for (other, j), right in b.items():
            if other == k:
                result.setdefault((i, j), []).extend(compose_all(left, right))
    return {place: union(terms) for place, terms in result.items() if terms}


def _sum_matrices(a: Matrix, b: Matrix) -> Matrix:
    return {p: add_all((a.get(p, ()), b.get(p, ()))) for p in a.keys() | b.keys()}


def _equal(a: Terms, b: Terms) -> bool:
    return {key(t)[0] for t in a} == {key(t)[0] for t in b}


def _same_pattern(a: Terms, b: Terms) -> bool:
    return all(any(contains(w, n) for w in b) for n in a) and all(
        any(contains(w, n) for w in a) for n in b
    )


def _locals(matrix: Matrix, depends: frozenset[int]) -> list[Local]:
    coefficient = coefficients.opaque(depends)
    return [
        Local(i, j, replace(t, coefficient=coefficient))
        for (i, j), terms in matrix.items()
        for t in terms
    ]


def _differentiable(walk: "Walk", numbers: Sequence[int]) -> list[int]:
    return [k for k, number in enumerate(numbers) if walk.has_derivative(number)]


def reordered(walk: "Walk", equation: Any, operands: list[int]) -> list[int] | None:
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


Handler = Callable[["Walk", Any, list[int]], list[int] | None]

HANDLERS: dict[str, Handler] = {
    "cond": cond,
    "while": while_loop,
    "scan": scan,
    "custom_linear_solve": linear_solve,
    "reshape": reordered,
}
