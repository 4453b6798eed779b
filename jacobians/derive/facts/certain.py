"""Entries that are certainly 0 whatever the input is: what a masked softmax has in the future.

`where(mask, scores, -inf)` is −∞ where a known mask says so, its exponential is 0 there, and 0
divided by the row's sum stays 0: unless the whole row is masked, where −∞ − (−∞) makes NaN of it.
Coefficients that are certainly 0 cut a pattern like a known mask does. What each entry may be is
followed from operation to operation (`facts.special`), once for every value that is asked for.

    zeros(tape, number)        # boolean array, or None when nothing is certain
"""

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.facts import special
from jacobians.derive.facts.possible import (
    Mask,
    Possible,
    compact,
    kinds_of_any,
    possible_in_type,
    some_bits,
    uniform,
)
from jacobians.derive.facts.possible_rules import RULES
from jacobians.derive.facts.ranges import integer_bounds
from jacobians.derive.facts.special import (
    ANYTHING,
    NEGATIVE,
    NEGATIVE_INFINITY,
    ORDINARY,
    POSITIVE,
    POSITIVE_INFINITY,
    SPECIAL,
    ZERO,
)
from jacobians.derive.facts.support import zeros_of_result
from jacobians.derive.tape import MAX_KNOWN, Node, Tape, Value, find_in_order
from jacobians.program.primitives import Does, does


def zeros(tape: Tape, number: int) -> Mask | None:
    """Where a value is certainly 0.

    Args:
        tape: the tape.
        number: the value.

    Returns:
        A boolean array of the value's shape, or None when no entry is certain.
    """
    shape = tape.values[number].shape
    if not tape.cutting or prod(shape) > MAX_KNOWN:
        return None
    certain = possible(tape, number).kinds == ZERO
    if not certain.any():
        return None
    return np.broadcast_to(certain, shape)


def undefined(tape: Tape, number: int) -> Mask | None:
    """Where a value may have no derivative for whatever input, though nothing of it may be left.

    Args:
        tape: the tape.
        number: the value.

    Returns:
        A boolean array of the value's shape, or None when there is no such entry.
    """
    singular = possible(tape, number).singular
    if not singular.any():
        return None
    shape = tape.values[number].shape
    return np.ones(shape, bool) if prod(shape) > MAX_KNOWN else np.broadcast_to(singular, shape)


def is_wild(tape: Tape, number: int) -> bool:
    """Whether some entry may be infinite or NaN, or without derivative, for whatever input."""
    found = possible(tape, number)
    return bool(found.singular.any() or (found.kinds & SPECIAL).any())


def may_be_anything(tape: Tape, numbers: Sequence[int]) -> None:
    """Settles that nothing is certain of some values, derivative or not."""
    for number in numbers:
        tape.possible[number] = possible_in_type(
            uniform(ANYTHING, tape.values[number].shape, True), tape.values[number]
        )


def one_of(tape: Tape, result: int, numbers: Sequence[int]) -> None:
    """Settles that a value is one of several others, of which a `cond` chooses."""
    found = [possible(tape, k) for k in numbers]
    kinds, singular = found[0].kinds, found[0].singular
    for other in found[1:]:
        kinds, singular = kinds | other.kinds, singular | other.singular
    tape.possible[result] = possible_in_type(Possible(kinds, singular), tape.values[result])


def possible(tape: Tape, number: int) -> Possible:
    """What the entries of a value may be; found once for every value on the way to it."""
    found: dict[int, Possible] = tape.possible
    find_in_order(
        number, found, lambda k: _operands_or_settled(tape, k), lambda k: _find_results(tape, k)
    )
    return found[number]


def _operands_or_settled(tape: Tape, number: int) -> tuple[int, ...]:
    """The values that must be known before one is; a constant or an input is settled at once."""
    value = tape.values[number]
    constant = None if value.depends else _of_constant(tape, number)
    if constant is None and number in tape.nothing:
        constant = _zero_where(tape.nothing[number])
    if constant is None and value.source == "result" and value.node is not None:
        return value.node.inputs
    tape.possible[number] = constant or uniform(ORDINARY, value.shape)
    return ()


def _find_results(tape: Tape, number: int) -> None:
    """Notes what all results of the operation that makes a value may be."""
    value = tape.values[number]
    assert value.node is not None
    operands = [tape.possible[k] for k in value.node.inputs]
    results = _of_operation(tape, value.node, operands)
    if not value.depends:
        # what no input changes is not differentiated
        results = [Possible(r.kinds, np.zeros_like(r.singular)) for r in results]
    narrower = _with_zeros(tape, value.node, operands)
    for output, result in zip(value.node.outputs, results, strict=True):
        tape.possible[output] = possible_in_type(narrower.get(output, result), tape.values[output])


def _of_constant(tape: Tape, number: int) -> Possible | None:
    """What a constant is: its numbers where they are exact, else what is certain of them."""
    value = tape.values[number]
    known, exact = tape.known(number), tape.exact(number)
    if known is None or exact is None:
        return _of_large(value) if value.source == "constant" else None
    if known.dtype.kind not in "biuf" and not jnp.issubdtype(known.dtype, jnp.floating):
        zero = np.where((known == 0) & exact, ZERO, ORDINARY)
        kinds = np.where(np.isfinite(known), zero, ANYTHING).astype(np.uint8)
    else:
        numbers = known.astype(np.float64)
        kinds = special.kinds_of(numbers)
        if not exact.all():
            radius = tape.radius(number)
            with np.errstate(all="ignore"):
                sure = np.abs(numbers) > (0.0 if radius is None else radius)
            rounded = np.where(np.isfinite(numbers), np.where(sure, kinds, ORDINARY), ANYTHING)
            kinds = np.where(exact, kinds, rounded).astype(np.uint8)
    if not (kinds & (ZERO | SPECIAL)).any():
        return uniform(int(some_bits(kinds)) if kinds.size else 0, value.shape)
    kinds = compact(kinds)
    return Possible(kinds, np.zeros_like(kinds, bool))


def _of_large(value: Value) -> Possible | None:
    """What a constant too large to be held, or of a kind that is no plain number, may be."""
    if isinstance(value.constant, jax.core.Tracer) or not hasattr(value.constant, "dtype"):
        return uniform(ORDINARY, value.shape)
    if not jnp.issubdtype(value.constant.dtype, jnp.inexact):
        return uniform(ORDINARY, value.shape)
    finite = bool(np.isfinite(np.asarray(value.constant)).all())
    return uniform(ORDINARY if finite else ANYTHING, value.shape)


def _of_operation(tape: Tape, node: Node, operands: Sequence[Possible]) -> list[Possible]:
    """What the results of an operation may be."""
    shapes = [tape.values[k].shape for k in node.outputs]
    rule = RULES.get(node.op)
    if rule is not None and len(shapes) == 1:
        return [rule(tape, node, operands)]
    kinds = kinds_of_any(operands)
    singular = any(p.singular.any() for p in operands)
    if does(node.op, Does.CHOOSES) and not _applies_a_function(node):
        chosen = _chosen(tape, node, operands[0])
        kinds |= _beside(tape, node)
        return [chosen or uniform(kinds, shape, singular) for shape in shapes]
    if kinds & SPECIAL or _makes_infinities(node):
        return [uniform(ANYTHING, shape, True) for shape in shapes]
    return [uniform(ORDINARY, shape, singular) for shape in shapes]


def _applies_a_function(node: Node) -> bool:
    """Whether a scatter changes entries by a function instead of overwriting them."""
    return node.op == "scatter" and program.parameters(node.equation)["update_jaxpr"] is not None


def _beside(tape: Tape, node: Node) -> int:
    """What stands in the result of an operation that chooses, beside entries of its operands."""
    params = program.parameters(node.equation)
    if node.op == "gather":
        if "FILL" not in str(params["mode"]).upper() or _reads_inside(tape, node):
            return 0
        if tape.certain(node.inputs[1]) is None:
            return ZERO if params["fill_value"] == 0 else ORDINARY
        if params["fill_value"] is None or isinstance(params["fill_value"], complex):
            return ANYTHING
        fill = int(special.kinds_of(np.asarray([float(params["fill_value"])]))[0])
        return fill | (ORDINARY if fill & (POSITIVE | NEGATIVE) else 0)
    if node.op in ("reduce_window_max", "reduce_window_min"):
        apart = (*params["base_dilation"], *params["window_dilation"])
        padding = zip(params["padding"], params["window_dimensions"], strict=True)
        if any(d > 1 for d in apart) or any(max(pair) >= n for pair, n in padding):
            # a window that holds no entry
            return NEGATIVE_INFINITY if node.op == "reduce_window_max" else POSITIVE_INFINITY
    return 0


def _reads_inside(tape: Tape, node: Node) -> bool:
    """Whether no window of a gather lies beyond its operand, whatever the input."""
    params = program.parameters(node.equation)
    bounds = integer_bounds(tape, node.inputs[1])
    shape, sizes = tape.values[node.inputs[0]].shape, params["slice_sizes"]
    places = enumerate(params["dimension_numbers"].start_index_map)
    return bounds is not None and all(
        bool((bounds[0][..., p] >= 0).all() and (bounds[1][..., p] <= shape[d] - sizes[d]).all())
        for p, d in places
    )


def _chosen(tape: Tape, node: Node, operand: Possible) -> Possible | None:
    """The entries that known indices choose, each as what it may be; None where none are known."""
    if node.op not in ("gather", "dynamic_slice") or operand.kinds.size == 1:
        return None
    indices = [tape.certain(k) for k in node.inputs[1:]]
    mode = str(program.parameters(node.equation).get("mode", "")).upper()
    if any(index is None for index in indices) or "FILL" in mode:
        return None
    shape = tape.values[node.inputs[0]].shape
    if prod(shape) > MAX_KNOWN:
        return None
    made = []
    with program.outside_any_trace():
        for array in (operand.kinds, operand.singular):
            entries = np.broadcast_to(array, shape).astype(np.int32)
            made.append(np.asarray(program.evaluate(node.equation, [entries, *indices])[0]))
    return Possible(compact(made[0].astype(np.uint8)), compact(made[1].astype(bool)))


def _zero_where(mask: Mask) -> Possible:
    """0 where a mask says so, and anything finite elsewhere."""
    kinds = compact(np.where(mask, ZERO, ORDINARY).astype(np.uint8))
    return Possible(kinds, np.zeros_like(kinds, bool))


def _with_zeros(tape: Tape, node: Node, operands: Sequence[Possible]) -> dict[int, Possible]:
    """Results of an operation without a rule here that known zeros of its operands leave 0."""
    if node.op in RULES or any(
        ((p.kinds & SPECIAL) > 0).any() or p.singular.any() for p in operands
    ):
        return {}

    def certainly(number: int) -> Mask | None:
        # no operand is anything but finite here
        shape = tape.values[number].shape
        zero = tape.possible[number].kinds == ZERO
        if prod(shape) > MAX_KNOWN or not zero.any():
            return None
        return np.broadcast_to(zero, shape)

    found = {}
    for number in node.outputs:
        if prod(tape.values[number].shape) <= MAX_KNOWN:
            mask = zeros_of_result(tape, node, number, certainly)
            if mask is not None and mask.any():
                found[number] = _zero_where(mask)
    return found


def _makes_infinities(node: Node) -> bool:
    """Whether a program inside an operation writes down an infinity or NaN."""
    return any(_has_infinity(inner) for inner in program.inner_programs(node.equation))


def _has_infinity(inner: program.Program) -> bool:
    values = [c for one in program.nested_programs(inner) for _, c in one.constants]
    for equation in program.nested(inner):
        values += [program.literal_value(a) for a in equation.invars if program.is_literal(a)]
    return any(
        not isinstance(v, jax.core.Tracer)
        and jnp.issubdtype(jnp.result_type(v), jnp.inexact)
        and not bool(np.isfinite(np.asarray(v)).all())
        for v in values
        if not jnp.issubdtype(getattr(v, "dtype", np.float32), jax.dtypes.extended)
    )
