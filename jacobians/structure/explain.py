"""`explain`: what the Jacobian of a function is made of, block by block, with evidence.

The structure is *proved*: derived from the program, for every input of the given shapes. Where the
arguments have values and the Jacobian is small enough to write down, it is also *observed* at a few
points, and the derivation is confronted with the numbers.

    >>> print(explain(jax.nn.softmax, jnp.ones((4, 8)))["out", "x"].structure)
    block-diagonal: 4 blocks of 8×8, each diagonal plus rank one
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import block as algebra
from jacobians.derive.algebra import entries
from jacobians.derive.call import CallDerivation, derive_call
from jacobians.derive.values import term_values
from jacobians.errors import ArgumentError
from jacobians.gates.gate import Gate
from jacobians.notation.formula import Formulas, formulas
from jacobians.program import dense
from jacobians.program.call import Call, bind, function_name, is_integer
from jacobians.program.view import is_inexact
from jacobians.structure import proved
from jacobians.structure.count import bound_entries
from jacobians.structure.explanation import MAX_PATTERN, Block, Explanation, Note
from jacobians.structure.kinds import Structure
from jacobians.structure.observed import observe

OBSERVE_ALL = 1 << 20
OBSERVE_ONE = 1 << 24


def explain(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    points: int = 6,
    seed: int = 0,
) -> Explanation:
    """Explains the Jacobian of `f` at the shapes, and where given the values, of `args`.

    Args:
        f: a JAX function, or a `Gate` (its forward function is explained).
        args: arrays, pytrees, Python scalars, or `jax.ShapeDtypeStruct`: with any of the last,
            everything is derived and nothing evaluated.
        argnums: the arguments to differentiate with respect to; default all with float leaves.
        points: at how many points to observe: the given one, and random ones within the range
            of the given values and around zero.
        seed: seed of the random points.

    Returns:
        The explanation, one block per (output leaf, input leaf).

    Raises:
        ArgumentError: the arguments do not fit, nothing is differentiable, or `points` is less
            than 1.
        Exception: whatever `f` raises while it is traced or evaluated.
    """
    if not is_integer(points) or points < 1:
        raise ArgumentError(f"points={points!r}: observe at one point at least")
    call = bind(f.forward if isinstance(f, Gate) else f, args, argnums)
    _check_output(call)
    derivation = derive_call(call)
    notes = [Note(text) for text in (*dense.no_derivative_notes(call), *derivation.notes)]
    blocks = [
        block_of(call, derivation, o, k)
        for o, leaf in enumerate(call.outputs)
        if leaf.differentiable
        for k in call.selected
    ]
    if call.concrete:
        blocks = _confront(call, blocks, points, seed, notes)
    else:
        notes.append(Note("derived from shapes alone: nothing was evaluated"))
    return Explanation(
        function_name(f), call.inputs, call.outputs, tuple(blocks), tuple(dict.fromkeys(notes))
    )


def _check_output(call: Call) -> None:
    if not any(leaf.differentiable for leaf in call.outputs):
        given = ", ".join(f"{leaf.name}: {leaf.short_type}" for leaf in call.outputs)
        raise ArgumentError(
            f"{function_name(call.function)} has no floating-point output to differentiate "
            f"({given or 'no output at all'})"
        )


def block_of(call: Call, derivation: CallDerivation, o: int, k: int) -> Block:
    """Everything proved of one block, nothing observed yet.

    Args:
        call: the call.
        derivation: its derivation.
        o: position of the output leaf.
        k: position of the input leaf.
    """
    output, input_ = call.outputs[o], call.inputs[k]
    terms = derivation.terms(o, k)
    moving = (derivation.number(k),)
    proof = proved.prove(terms, output.shape, input_.shape, moving, derivation.tape.certain)
    count, exact = bound_entries(terms, output.shape, input_.shape)
    return Block(
        output=output.name,
        input=input_.name,
        out_shape=output.shape,
        in_shape=input_.shape,
        structure=proof.structure,
        properties=proof.properties,
        clauses=proof.clauses,
        terms=terms,
        nnz=count,
        nnz_exact=exact,
        formulas=formulas(derivation, o, k),
    )


def _confront(
    call: Call, blocks: list[Block], points: int, seed: int, notes: list[Note]
) -> list[Block]:
    """Adds what is seen at points to the blocks, and checks the proof against it."""
    if any(np.issubdtype(call.inputs[k].dtype, np.complexfloating) for k in call.selected):
        notes.append(Note("complex inputs: derived, not evaluated"))
        return blocks
    size = sum(prod(b.shape) for b in blocks)
    if size > OBSERVE_ONE:
        large = f"derived only: the explicit Jacobian has {size} entries, too many to observe"
        notes.append(Note(large))
        return blocks
    evaluate = dense.evaluator(call)
    try:
        given = evaluate(None)
    except Exception as error:
        # the function's own exception is the user's; what only its derivative raises is JAX's
        call.flat(())()
        first = (str(error).strip() or "no message").splitlines()[0]
        why = f"JAX cannot differentiate it here ({type(error).__name__}: {first})"
        notes.append(Note(f"derived, not observed: {why}"))
        return blocks
    notes.extend(map(Note, given.notes))
    seen = [given]
    if size > OBSERVE_ALL:
        notes.append(Note("observed at the given point only: the explicit Jacobian is large"))
    else:
        dropped = 0
        finite = _finite(given)
        for values in random_points(call, points - 1, seed):
            other = evaluate(values)
            if finite and not _finite(other):
                dropped += 1
            else:
                seen.append(other)
        if dropped:
            share = f"{dropped} of {points - 1} random points dropped"
            notes.append(Note(f"{share}: the Jacobian there is not finite"))
    result = []
    for k, block in enumerate(blocks):
        matrices = [s.blocks[k].matrix for s in seen]
        observation = observe(matrices, out_shape=block.out_shape, in_shape=block.in_shape)
        block = replace(block, observation=observation, value=matrices[0])
        result.append(_checked(block, matrices, notes))
    _check_values(call, result, notes)
    return result


def _finite(seen: dense.DenseJacobian) -> bool:
    return all(bool(np.isfinite(b.tensor).all()) for b in seen.blocks)


def _coarsest(derivation: CallDerivation) -> float:
    """The largest unit roundoff among the floating-point values of a program."""
    dtypes = {str(v.dtype) for v in derivation.tape.values if is_inexact(v.dtype)}
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)


def random_points(call: Call, count: int, seed: int) -> list[list[Any]]:
    """Random values for a call's float inputs, the others as given.

    Half of the points are uniform within the range of each given leaf, which keeps to the domain
    of functions like log; the others are normal with the leaf's own magnitude, which shows what
    an all-positive input hides.

    Args:
        call: a call with values.
        count: how many points.
        seed: seed of the generator.

    Returns:
        For each point one value per input leaf.
    """
    generator = np.random.default_rng(seed)
    result = []
    for number in range(count):
        values = []
        for leaf in call.inputs:
            if not leaf.differentiable:
                values.append(leaf.value)
                continue
            given = np.asarray(leaf.value, dtype=np.float64)
            finite = given[np.isfinite(given)]
            low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
            scale = max(abs(low), abs(high)) or 1.0
            if number % 2 == 0:
                if low == high:
                    low, high = low - 0.5 * abs(low), low + 0.5 * scale
                drawn = generator.uniform(low, high, leaf.shape)
            else:
                drawn = scale * generator.normal(size=leaf.shape)
            values.append(np.asarray(drawn))
        result.append(values)
    return result


def _checked(block: Block, matrices: Sequence[NDArray[Any]], notes: list[Note]) -> Block:
    """The block, widened if a number contradicts its proved pattern."""
    if block.nnz_exact and block.nnz == prod(block.shape):
        return block
    listed = entries.coordinates(block.terms, block.out_shape, block.in_shape, MAX_PATTERN)
    if listed is None:
        return block
    n = block.shape[1]
    allowed = listed[0] * n + listed[1]
    for matrix in matrices:
        largest = np.abs(matrix[np.isfinite(matrix)]).max(initial=0.0)
        seen = np.flatnonzero(np.abs(np.nan_to_num(matrix)).ravel() > 1e-9 * largest)
        outside = seen[~np.isin(seen, allowed, assume_unique=True)]
        if not len(outside):
            continue
        row, column = (int(v) for v in np.divmod(outside[0], n))
        text = (
            f"CONTRADICTION in {block.name}: entry ({row}, {column}) was proved zero but is "
            f"{matrix[row, column]:.6g}. This is a bug in jacobians, not in your function; please "
            "report it with the function and its input shapes. The block is given as dense."
        )
        notes.append(Note(text, contradiction=True))
        wide = (algebra.wide(block.out_shape, block.in_shape),)
        return replace(
            block,
            structure=Structure("dense"),
            properties=frozenset({"dense"}),
            clauses=(),
            terms=wide,
            nnz=prod(block.shape),
            formulas=_unwritten(block),
        )
    return block


def _check_values(call: Call, blocks: list[Block], notes: list[Note]) -> None:
    """Evaluates every formula at the given point and withdraws one that does not agree."""
    if not any(b.formula for b in blocks):
        return
    try:
        with jax.enable_x64(True):
            wide = [dense.promoted(leaf, leaf.value) for leaf in call.inputs]
            doubled = call.with_values(wide)
            derivation = derive_call(doubled, double=True)
            made = term_values(derivation, wide)
    except Exception as error:
        notes.append(Note(f"formulas not evaluated: {type(error).__name__}"))
        return
    outputs = [o for o, leaf in enumerate(call.outputs) if leaf.differentiable]
    places = [(o, k) for o in outputs for k in call.selected]
    # a function that computes in less than double precision is known no better
    tolerance = max(1e-6, 16 * _coarsest(derivation))
    for position, (block, place) in enumerate(zip(blocks, places, strict=True)):
        matrix = made.get(place)
        if matrix is None or block.value is None or block.formula is None:
            continue
        if not np.isfinite(matrix).all() or not np.isfinite(block.value).all():
            continue
        scale = max(np.abs(matrix).max(initial=0.0), np.abs(block.value).max(initial=0.0))
        wrong = np.abs(matrix - block.value) > tolerance * scale
        if not wrong.any():
            continue
        row, column = (int(v[0]) for v in np.nonzero(wrong))
        text = (
            f"the formula of {block.name} gives {matrix[row, column]:.6g} at entry "
            f"({row}, {column}) where the explicit Jacobian has {block.value[row, column]:.6g}: "
            "a kink of the function, or else a bug in jacobians; the formula is withdrawn"
        )
        notes.append(Note(text))
        blocks[position] = replace(block, formulas=_unwritten(block))


def _unwritten(block: Block) -> Formulas:
    """The formulas of a block whose formulas are withdrawn: the letters of its axes."""
    return Formulas(index=block.index)
