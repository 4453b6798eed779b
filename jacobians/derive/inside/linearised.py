"""Operations without a rule: by the walk of their own JVP, or of the implementation they carry."""

from collections.abc import Sequence
from typing import Any

import jax

from jacobians import program
from jacobians.derive.algebra.block import (
    identity,
)
from jacobians.derive.operation import Local, Operation
from jacobians.derive.walk import Walk


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
        count = len(operation.node.inputs)
        primals, tangents = values[:count], values[count:]

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
    except program.REFUSALS:
        return None
    except Exception as error:
        walk.note(
            f"the derivative that JAX has for {op!r} could not be traced "
            f"({type(error).__name__}), so that it is not used"
        )
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
