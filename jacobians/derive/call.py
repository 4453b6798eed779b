"""The derivation of a bound call: traced leaves on one side, named blocks on the other.

`derivation = derive_call(bind(f, args))`
`derivation.terms(output_position, input_position)`
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.derive.algebra.block import Terms
from jacobians.derive.derive import Derivation, derive
from jacobians.derive.tape import Tape
from jacobians.program.call import Call


@dataclass(frozen=True, eq=False)
class CallDerivation:
    """What was derived of a call.

    Attributes:
        call: the call.
        derivation: blocks and tape, by position among the traced leaves.
        traced: positions, among the call's inputs, of the leaves that were traced.
        notes: sentences for the reader.
    """

    call: Call
    derivation: Derivation
    traced: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def tape(self) -> Tape:
        """The tape that coefficients refer to."""
        return self.derivation.tape

    def terms(self, output: int, input_: int) -> Terms:
        """The terms of ∂(output leaf)/∂(input leaf), by their positions in the call."""
        return tuple(self.derivation.blocks.get((output, self.traced.index(input_)), ()))

    def number(self, input_: int) -> int:
        """The tape number of an input leaf."""
        return self.derivation.inputs[self.traced.index(input_)]


def derive_call(call: Call, double: bool = False) -> CallDerivation:
    """Derives the blocks of a call from its shapes.

    Args:
        call: the bound call.
        double: whether floats are traced in double precision (inside `jax.enable_x64`).

    Returns:
        The derivation. Integer arrays count as unknown, so that what is said holds for all of
        them; a function that cannot be traced that way is derived for the values given.
    """
    everything = tuple(k for k, leaf in enumerate(call.inputs) if not leaf.static)
    try:
        return _derive(call, everything, double, ())
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
        floats = tuple(k for k in everything if call.inputs[k].differentiable)
        held = [call.inputs[k] for k in everything if not call.inputs[k].differentiable]
        if not held or any(leaf.value is None for leaf in held):
            raise
        names = ", ".join(leaf.name for leaf in held)
        return _derive(call, floats, double, (f"proved for the given value of {names}",))


def _derive(
    call: Call, traced: tuple[int, ...], double: bool, notes: tuple[str, ...]
) -> CallDerivation:
    shapes = [_shape(call, k, double) for k in traced]
    inner = program.trace(call.flat(traced), shapes)
    selected = [k in call.selected for k in traced]
    derivation = derive(inner, selected, [call.inputs[k].name for k in traced])
    rules = _custom_rules(derivation)
    return CallDerivation(call, derivation, traced, (*notes, *derivation.notes, *rules))


def _custom_rules(derivation: Derivation) -> tuple[str, ...]:
    if not derivation.custom:
        return ()
    names = ", ".join(dict.fromkeys(derivation.custom))
    return (
        f"custom derivative rules inside ({names}) are not used here: this is the Jacobian of "
        "the function itself; check_vjp compares the rule with it",
    )


def _shape(call: Call, k: int, double: bool) -> Any:
    leaf = call.inputs[k]
    dtype: Any = leaf.dtype
    if double and leaf.differentiable:
        complex_ = jnp.issubdtype(dtype, jnp.complexfloating)
        dtype = jnp.complex128 if complex_ else jnp.float64
    return jax.ShapeDtypeStruct(leaf.shape, dtype)
