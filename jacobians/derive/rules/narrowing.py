"""Conversions to a narrower floating type, in which numbers are rounded.

The derivative of `x.astype(bfloat16)` is 1, and a tangent that comes through it is rounded to eight
bits: of c·x, c = 257/256, it leaves x or (258/256)·x. So what is proved to cancel without the
conversion does not cancel with it.

    >>> narrower_type_of(np.dtype("float32"), np.dtype("float16"))
    (11, 6.103515625e-05, 32768.0)
"""

from typing import Any

import jax.numpy as jnp

from jacobians import program
from jacobians.derive.tape import Node, Tape

# significant bits, the least number that has them all, and the greatest power of two
Narrower = tuple[int, float, float]


def narrower_type(node: Node, tape: Tape) -> Narrower | None:
    """The type that an operation converts numbers to, where it is narrower than theirs."""
    params = program.parameters(node.equation)
    if node.op == "convert_element_type":
        (result,) = node.outputs
        given, made = tape.values[node.inputs[0]].dtype, tape.values[result].dtype
        return narrower_type_of(given, made)
    if node.op == "reduce_precision":
        top = 2 ** (int(params["exponent_bits"]) - 1)
        return int(params["mantissa_bits"]) + 1, 2.0 ** (2 - top), 2.0 ** min(top - 1, 1023)
    return None


def narrower_type_of(given: Any, made: Any) -> Narrower | None:
    """The floating type `made`, None where it holds every number of the type `given`."""
    if not (jnp.issubdtype(given, jnp.inexact) and jnp.issubdtype(made, jnp.inexact)):
        return None
    old, new = jnp.finfo(given), jnp.finfo(made)
    if new.nmant >= old.nmant and new.maxexp >= old.maxexp and new.minexp <= old.minexp:
        return None
    return int(new.nmant) + 1, 2.0 ** int(new.minexp), 2.0 ** (int(new.maxexp) - 1)
