"""Operations that choose by value: select, sort and the largest entries.

Where the predicate or the keys are known, the choice is written down exactly; where they are not,
an entry is any of those that it may be.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians.derive.algebra.block import identity
from jacobians.derive.algebra.syntax import Indicator, Not, Slot, is_case
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.masks import conditions, lookup, restrict
from jacobians.derive.facts.ranges import range_of
from jacobians.derive.operation import Box, Local, Operation, Rule, restrict_index
from jacobians.derive.tape import Function


def select_n(operation: Operation) -> Iterator[Local]:
    """Entry by entry, the case that the predicate names."""
    shape = operation.out_shapes[0]
    which = operation.known(0)
    predicate_shape = operation.in_shapes[0]
    boolean = operation.tape.values[operation.node.inputs[0]].dtype == np.bool_
    possible = range_of(operation.tape, operation.node.inputs[0]) if which is None else None
    for k in operation.active:
        if k == 0:
            continue
        if possible is not None and ((possible.low > k - 1) | (possible.high < k - 1)).all():
            continue
        same = identity(shape)
        index = restrict_index(same.out, predicate_shape)
        if which is not None:
            extra = conditions(np.asarray(which).astype(np.int64) == k - 1, index)
            if extra is not None:
                yield Local(0, k, restrict(same, extra))
            continue
        truth = Slot(0) if k == 2 else Not(Slot(0))
        form = Indicator(truth) if boolean else is_case(k - 1)
        chosen = Function(f"select{k - 1}", form, _equals(k - 1), selects=True)
        coefficient = operation.function(chosen, [operation.node.inputs[0]], index)
        yield Local(0, k, Term(same.sizes, same.out, same.inp, coefficient))


def _equals(case: int) -> Any:
    return lambda which: 1.0 * (jnp.asarray(which).astype(jnp.int32) == case)


def sort(operation: Operation) -> Iterator[Local]:
    """Each result is its own operand, reordered along the axis: as known keys say, or anyhow."""
    axis = operation.params["dimension"]
    order = _known_order(operation)
    for k in operation.active:
        if order is None:
            yield Local(k, k, _along(operation, k, k, axis))
            continue
        box = Box()
        out = box.axes(operation.out_shapes[k])
        place, extra = lookup(order, out)
        inp = (*out[:axis], place, *out[axis + 1 :])
        yield Local(k, k, restrict(Term(box.sizes, out, inp), extra))


def _known_order(operation: Operation) -> np.ndarray[Any, Any] | None:
    """Where each sorted entry comes from along the axis, for known keys that decide it.

    With keys [3, 1, 2]: [1, 2, 0].
    """
    params = operation.params
    keys = [operation.known(k) for k in range(params["num_keys"])]
    known = [key for key in keys if key is not None]
    if len(known) < len(keys):
        return None
    axis = params["dimension"]
    for key in known:
        if not (np.issubdtype(key.dtype, np.integer) or key.dtype == np.bool_):
            # where floats lie close together, rounding decides
            return None
    order = np.lexsort(known[::-1], axis=axis)
    if not params["is_stable"]:
        ordered = [np.take_along_axis(key, order, axis) for key in known]
        ties = np.all(np.stack([np.diff(key, axis=axis) == 0 for key in ordered]), axis=0)
        if ties.any():
            return None
    return order


def top_k(operation: Operation) -> Iterator[Local]:
    """The largest entries along the last axis."""
    rank = len(operation.in_shapes[0])
    axis = operation.params.get("axis", operation.params.get("reduction_dimension", rank - 1))
    yield Local(0, 0, _along(operation, 0, 0, axis % rank))


def _along(operation: Operation, k: int, output: int, axis: int) -> Term:
    """Every entry of a line along `axis` can be any entry of the same line."""
    box = Box()
    inp = box.axes(operation.in_shapes[k])
    out = list(inp)
    out[axis] = box.axis(operation.out_shapes[output][axis])
    return Term(box.sizes, tuple(out), inp, operation.opaque())


RULES: dict[str, Rule] = {
    "select_n": select_n,
    "sort": sort,
    "top_k": top_k,
    "approx_top_k": top_k,
}
