"""Scalar gates: applied to every element, each with its local derivative written by hand.

Upstream gradient times local gradient is the whole rule; the forward function and the VJP of a
gate stand next to each other. Inputs broadcast as in NumPy, and `sum_to` adds the cotangents of an
input that was used more than once.

    >>> jax.grad(lambda x, y: MULTIPLY(x, y), argnums=(0, 1))(3.0, -4.0)
    (Array(-4., dtype=float32...), Array(3., dtype=float32...))
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from jacobians.errors import ArgumentError
from jacobians.gates.gate import Gate, checked_constant, sum_to

Cotangents = tuple[Any, ...]


def _routed(cotangent: Any, wins: Any, ties: Any, like: Any) -> Any:
    """The cotangent where `like` wins, half of it at a tie, else 0 (even if infinite)."""
    return sum_to(jnp.where(wins, cotangent, jnp.where(ties, 0.5 * cotangent, 0)), like)


def add(x: Any, y: Any) -> Any:
    return x + y


def add_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    return sum_to(cotangent, x), sum_to(cotangent, y)


ADD = Gate(
    "add",
    add,
    add_vjp,
    "(),()->()",
    role="distributes",
    why="both local gradients are 1, so each input receives the upstream gradient",
    group="scalar",
)


def subtract(x: Any, y: Any) -> Any:
    return x - y


def subtract_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    return sum_to(cotangent, x), sum_to(-cotangent, y)


SUBTRACT = Gate(
    "subtract",
    subtract,
    subtract_vjp,
    "(),()->()",
    role="distributes",
    why="the local gradients are 1 and −1: the second input receives the upstream gradient negated",
    group="scalar",
)


def negate(x: Any) -> Any:
    return -x


def negate_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(-cotangent, x),)


NEGATE = Gate(
    "negate",
    negate,
    negate_vjp,
    "()->()",
    role="scales",
    why="the local gradient is −1 wherever x is",
    group="scalar",
)


def multiply(x: Any, y: Any) -> Any:
    return x * y


def multiply_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    return sum_to(cotangent * y, x), sum_to(cotangent * x, y)


MULTIPLY = Gate(
    "multiply",
    multiply,
    multiply_vjp,
    "(),()->()",
    role="switches",
    why="the local gradient of each input is the other input",
    group="scalar",
)


def divide(x: Any, y: Any) -> Any:
    return x / y


def divide_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    # (g/y)·(x/y) rather than g·x/y²: y² overflows and underflows long before the result does.
    return sum_to(cotangent / y, x), sum_to(-(cotangent / y) * (x / y), y)


DIVIDE = Gate(
    "divide",
    divide,
    divide_vjp,
    "(),()->()",
    role="switches",
    why="the local gradients are 1/y and −x/y²: each depends on the other input",
    group="scalar",
    domain=("real", "nonzero"),
)


def maximum(x: Any, y: Any) -> Any:
    return jnp.maximum(x, y)


def maximum_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    return _routed(cotangent, x > y, x == y, x), _routed(cotangent, y > x, x == y, y)


MAXIMUM = Gate(
    "maximum",
    maximum,
    maximum_vjp,
    "(),()->()",
    role="routes",
    why="the local gradient is 1 for the larger input and 0 for the other",
    group="scalar",
    convention="at a tie each input receives half of the upstream gradient",
)


def minimum(x: Any, y: Any) -> Any:
    return jnp.minimum(x, y)


def minimum_vjp(cotangent: Any, x: Any, y: Any) -> Cotangents:
    return _routed(cotangent, x < y, x == y, x), _routed(cotangent, y < x, x == y, y)


MINIMUM = Gate(
    "minimum",
    minimum,
    minimum_vjp,
    "(),()->()",
    role="routes",
    why="the local gradient is 1 for the smaller input and 0 for the other",
    group="scalar",
    convention="at a tie each input receives half of the upstream gradient",
)


def add_constant(constant: float) -> Gate:
    """The gate x + c.

    Args:
        constant: c, a finite number; fixed in the gate, it takes no derivative.

    Returns:
        A gate from an array of any shape to one of the same shape and dtype.

    Raises:
        ArgumentError: `constant` is no finite number.
    """
    c = checked_constant("constant", constant)

    def plus_constant(x: Any) -> Any:
        return x + c

    def plus_constant_vjp(cotangent: Any, x: Any) -> Cotangents:
        return (sum_to(cotangent, x),)

    return Gate(
        "add_constant",
        plus_constant,
        plus_constant_vjp,
        "()->()",
        role="passes",
        why=f"x {c:+g} has the local gradient 1: a constant shifts the value, not the slope",
        group="scalar",
    )


def scale(factor: float) -> Gate:
    """The gate c·x.

    Args:
        factor: c, a finite number; fixed in the gate, it takes no derivative.

    Returns:
        A gate from an array of any shape to one of the same shape and dtype.

    Raises:
        ArgumentError: `factor` is no finite number.
    """
    c = checked_constant("factor", factor)

    def scaled(x: Any) -> Any:
        return c * x

    def scaled_vjp(cotangent: Any, x: Any) -> Cotangents:
        return (sum_to(c * cotangent, x),)

    return Gate(
        "scale",
        scaled,
        scaled_vjp,
        "()->()",
        role="scales",
        why=f"the local gradient of {c:g}·x is {c:g} wherever x is",
        group="scalar",
    )


def square(x: Any) -> Any:
    return x * x


def square_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(cotangent * (2 * x), x),)


SQUARE = Gate(
    "square",
    square,
    square_vjp,
    "()->()",
    role="scales",
    why="the local gradient is 2x: x is both factors of a multiply gate, and their parts add up",
    group="scalar",
)


def exp(x: Any) -> Any:
    return jnp.exp(x)


def exp_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(cotangent * jnp.exp(x), x),)


EXP = Gate(
    "exp",
    exp,
    exp_vjp,
    "()->()",
    role="scales",
    why="the local gradient is the output itself",
    group="scalar",
)


def log(x: Any) -> Any:
    return jnp.log(x)


def log_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(cotangent / x, x),)


LOG = Gate(
    "log",
    log,
    log_vjp,
    "()->()",
    role="scales",
    why="the local gradient is 1/x: small inputs receive large gradients",
    group="scalar",
    domain=("positive",),
)


def reciprocal(x: Any) -> Any:
    return 1 / x


def reciprocal_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(-(cotangent / x) / x, x),)


RECIPROCAL = Gate(
    "reciprocal",
    reciprocal,
    reciprocal_vjp,
    "()->()",
    role="scales",
    why="the local gradient is −1/x²",
    group="scalar",
    domain=("nonzero",),
)


def sigmoid(x: Any) -> Any:
    return jax.nn.sigmoid(x)


def sigmoid_vjp(cotangent: Any, x: Any) -> Cotangents:
    # σ(−x) is 1 − σ(x), but keeps its digits where σ(x) rounds to 1.
    return (sum_to(cotangent * (jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)), x),)


SIGMOID = Gate(
    "sigmoid",
    sigmoid,
    sigmoid_vjp,
    "()->()",
    role="scales",
    why="the gates negate, exp, add 1, reciprocal as one: the local gradient is σ(x)·(1 − σ(x))",
    group="scalar",
)


def tanh(x: Any) -> Any:
    return jnp.tanh(x)


def tanh_vjp(cotangent: Any, x: Any) -> Cotangents:
    # 1 − tanh² x = 4·σ(2x)·σ(−2x), which keeps its digits where tanh x rounds to ±1.
    return (sum_to(cotangent * (4 * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x)), x),)


TANH = Gate(
    "tanh",
    tanh,
    tanh_vjp,
    "()->()",
    role="scales",
    why="the local gradient is 1 − tanh²(x), close to 0 where the gate saturates",
    group="scalar",
)


def branch(count: int) -> Gate:
    """The gate that hands one value to `count` users.

    Args:
        count: how many outputs, at least 1.

    Returns:
        A gate from an array to a tuple of `count` equal arrays; the cotangent is such a tuple too.

    Raises:
        ArgumentError: `count` is no positive integer.
    """
    try:
        k = operator.index(count)
    except TypeError:
        k = 0
    if k < 1:
        raise ArgumentError(f"a branch has a positive integer number of outputs, got {count!r}")

    def branched(x: Any) -> tuple[Any, ...]:
        return (x,) * k

    def branched_vjp(cotangents: Any, x: Any) -> Cotangents:
        return (sum_to(sum(cotangents[1:], start=cotangents[0]), x),)

    return Gate(
        "branch",
        branched,
        branched_vjp,
        "()->" + ",".join(["()"] * k),
        role="adds up",
        why=f"a change of x changes all uses of it, here {k}, so their cotangents add up",
        group="scalar",
    )


GATES = (
    ADD,
    SUBTRACT,
    NEGATE,
    MULTIPLY,
    DIVIDE,
    MAXIMUM,
    MINIMUM,
    add_constant(1),
    scale(3),
    SQUARE,
    EXP,
    LOG,
    RECIPROCAL,
    SIGMOID,
    TANH,
    branch(2),
)
