"""Explicit Jacobians and Hessians by JAX alone: what every structural claim is compared with."""

from collections.abc import Callable
from typing import Any

import jax

# of an oracle only the numbers are wanted, and soon
QUICK = {"xla_backend_optimization_level": 0}


def by_jax(transform: Callable[..., Any], f: Any, *args: Any, argnums: Any = 0) -> Any:
    """What a transformation of JAX gives of a function at a point.

    Compiled as a whole: operation by operation, each in a small program of its own, it takes
    several times as long.
    """
    derivative = transform(f, argnums)
    if not all(hasattr(a, "dtype") for a in jax.tree.leaves(args)):
        # an exponent, for one, has to stay a number
        return derivative(*args)
    try:
        return jax.jit(derivative, compiler_options=QUICK)(*args)
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
        # the function looks at its arguments' values
        return derivative(*args)
