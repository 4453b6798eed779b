"""Operations walked as others that mean the same: a reshape in another order, sparse products."""

from typing import Any

import jax

from jacobians import program
from jacobians.derive.inside.step import run_function
from jacobians.derive.rules import sparse_products
from jacobians.derive.walk import Walk


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
    return None if written_out is None else run_function(walk, written_out, operands)
