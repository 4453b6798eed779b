"""Elementwise operations: one family, and a table of how their derivatives are printed.

The Jacobian of every elementwise operation is diagonal; what differs is the coefficient. The table
gives it as `scale · factor · factor …`, a factor being an operand (`x0`, `x1`), the result (`y`) or
a named function of these. An operation without an entry has its derivative computed by `jax.jvp`
and printed as `∂op(x)`.
"""

from typing import Any

import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.coefficient import Coefficient
from jacobians.derive.algebra.syntax import (
    Brackets,
    Call,
    Comparison,
    Expression,
    Indicator,
    Negative,
    Number,
    Power,
    Quotient,
    Root,
    Slot,
    Sum,
)
from jacobians.derive.operation import (
    Index,
    Operation,
    number_coefficient,
    product_of,
    restrict_index,
)
from jacobians.derive.tape import Function


def _half(a: Any, b: Any) -> Any:
    """1 where a is greater, 0 where b is, one half at a tie: JAX's rule for maximum."""
    return jnp.where(a > b, 1.0, jnp.where(a == b, 0.5, 0.0))


# how local derivatives are written, of the operands in these slots
_X, _Y, _Z, _ONE = Slot(0), Slot(1), Slot(2), Number(1)
_SQUARE = Power(_X, 2)


def _minus(a: Expression, b: Expression) -> Sum:
    """The difference `a − b`."""
    return Sum((a, Negative(b)))


def _one_over(e: Expression) -> Quotient:
    """The reciprocal `1/e`."""
    return Quotient(_ONE, e)


def _of(function: str, e: Expression = _X) -> Call:
    """A function of an operand: `cos(x)`."""
    return Call(function, (e,))


def _when(*parts: Any) -> Indicator:
    """An indicator of a comparison, expressions and signs in turn: `1[x > y]`."""
    return Indicator(Comparison(parts[::2], parts[1::2]))


RECIPROCAL = Function("reciprocal", _one_over(_X), lambda x: 1.0 / x)
GREATER = Function("greater", _when(_X, ">", _Y), _half)
LESS = Function("less", _when(_X, "<", _Y), lambda a, b: _half(b, a))

_LOG1P = Function("log1p'", _one_over(Sum((_ONE, _X))), lambda x: 1.0 / (1.0 + x))
_EXP = Function("exp", _of("exp"), jnp.exp)
_COS = Function("cos", _of("cos"), jnp.cos)
_SIN = Function("sin", _of("sin"), jnp.sin)
_TAN = Function("tan'", Brackets(Sum((_ONE, _SQUARE))), lambda y: 1.0 + y * y)
_COSH = Function("cosh", _of("cosh"), jnp.cosh)
_SINH = Function("sinh", _of("sinh"), jnp.sinh)
_TANH = Function("tanh'", Brackets(_minus(_ONE, _SQUARE)), lambda y: (1.0 - y) * (1.0 + y))
_ASIN = Function(
    "asin'",
    _one_over(Root(_minus(_ONE, _SQUARE))),
    lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)),
)
_ATAN = Function("atan'", _one_over(Sum((_ONE, _SQUARE))), lambda x: 1.0 / (1.0 + x * x))
_ASINH = Function(
    "asinh'", _one_over(Root(Sum((_SQUARE, _ONE)))), lambda x: 1 / jnp.sqrt(x * x + 1)
)
_ACOSH = Function(
    "acosh'",
    _one_over(Root(_minus(_SQUARE, _ONE))),
    lambda x: 1 / jnp.sqrt((x - 1) * (x + 1)),
)
_ATANH = Function("atanh'", _one_over(_minus(_ONE, _SQUARE)), lambda x: 1 / ((1 - x) * (1 + x)))
_REST = Function("1-", Brackets(_minus(_ONE, _X)), lambda y: 1.0 - y)
_SIGN = Function("sign", _of("sign"), jnp.sign)
_GAUSS = Function("gauss", _of("exp", Negative(_SQUARE)), lambda x: jnp.exp(-x * x))
_INVERSE_GAUSS = Function("gauss+", _of("exp", _SQUARE), lambda y: jnp.exp(y * y))
_DIGAMMA = Function("digamma", _of("digamma"), special.digamma)
_POWER = Function(
    "pow-",
    Power(_X, _minus(_Y, _ONE)),
    lambda x, p: jnp.where(p == 0, 1.0, x) ** jnp.where(p == 0, 0, p - 1),
)
_LOG = Function("log", _of("log"), lambda x: jnp.log(jnp.where(x == 0, 1.0, x)))
_SQUARES = Sum((_SQUARE, Power(_Y, 2)))
_ATAN2_X = Function("atan2x", Quotient(_Y, _SQUARES), lambda a, b: b / (a * a + b * b))
_ATAN2_Y = Function("atan2y", Quotient(_X, _SQUARES), lambda a, b: a / (a * a + b * b))
_TRUNC = Function("trunc", _of("trunc", Quotient(_X, _Y)), lambda a, b: jnp.trunc(a / b))
_LOW = Function("low", _when(_X, ">", _Y), lambda lo, x: 1.0 * (lo > x))
_INSIDE = Function(
    "inside", _when(_X, "<", _Y, "<", _Z), lambda lo, x, hi: 1.0 * ((x > lo) & (x < hi))
)
_HIGH = Function("high", _when(_Y, "<", _X), lambda x, hi: 1.0 * (hi < x))
_LN2 = float(np.log(2.0))
_TWO_BY_ROOT_PI = float(2 / np.sqrt(np.pi))

# op: for each operand (scale, factors); a factor is a selector or (function, *selectors)
_TABLE: dict[str, tuple[tuple[float, tuple[Any, ...]], ...]] = {
    "add": ((1.0, ()), (1.0, ())),
    "add_any": ((1.0, ()), (1.0, ())),
    "sub": ((1.0, ()), (-1.0, ())),
    "neg": ((-1.0, ()),),
    "mul": ((1.0, ("x1",)), (1.0, ("x0",))),
    "div": ((1.0, ((RECIPROCAL, "x1"),)), (-1.0, ("y", (RECIPROCAL, "x1")))),
    "max": ((1.0, ((GREATER, "x0", "x1"),)), (1.0, ((GREATER, "x1", "x0"),))),
    "min": ((1.0, ((LESS, "x0", "x1"),)), (1.0, ((LESS, "x1", "x0"),))),
    "exp": ((1.0, ("y",)),),
    "exp2": ((_LN2, ("y",)),),
    "log": ((1.0, ((RECIPROCAL, "x0"),)),),
    "log2": ((1.0 / _LN2, ((RECIPROCAL, "x0"),)),),
    "log1p": ((1.0, ((_LOG1P, "x0"),)),),
    "expm1": ((1.0, ((_EXP, "x0"),)),),
    "sin": ((1.0, ((_COS, "x0"),)),),
    "cos": ((-1.0, ((_SIN, "x0"),)),),
    "tan": ((1.0, ((_TAN, "y"),)),),
    "sinh": ((1.0, ((_COSH, "x0"),)),),
    "cosh": ((1.0, ((_SINH, "x0"),)),),
    "tanh": ((1.0, ((_TANH, "y"),)),),
    "asin": ((1.0, ((_ASIN, "x0"),)),),
    "acos": ((-1.0, ((_ASIN, "x0"),)),),
    "atan": ((1.0, ((_ATAN, "x0"),)),),
    "asinh": ((1.0, ((_ASINH, "x0"),)),),
    "acosh": ((1.0, ((_ACOSH, "x0"),)),),
    "atanh": ((1.0, ((_ATANH, "x0"),)),),
    "sqrt": ((0.5, ((RECIPROCAL, "y"),)),),
    "rsqrt": ((-0.5, ("y", (RECIPROCAL, "x0"))),),
    "cbrt": ((1.0 / 3.0, ("y", (RECIPROCAL, "x0"))),),
    "square": ((2.0, ("x0",)),),
    "logistic": ((1.0, ("y", (_REST, "y"))),),
    "abs": ((1.0, ((_SIGN, "x0"),)),),
    "erf": ((_TWO_BY_ROOT_PI, ((_GAUSS, "x0"),)),),
    "erfc": ((-_TWO_BY_ROOT_PI, ((_GAUSS, "x0"),)),),
    "erf_inv": ((1.0 / _TWO_BY_ROOT_PI, ((_INVERSE_GAUSS, "y"),)),),
    "lgamma": ((1.0, ((_DIGAMMA, "x0"),)),),
    "pow": ((1.0, ("x1", (_POWER, "x0", "x1"))), (1.0, ("y", (_LOG, "x0")))),
    "atan2": ((1.0, ((_ATAN2_X, "x0", "x1"),)), (-1.0, ((_ATAN2_Y, "x0", "x1"),))),
    "rem": ((1.0, ()), (-1.0, ((_TRUNC, "x0", "x1"),))),
    "clamp": (
        (1.0, ((_LOW, "x0", "x1"),)),
        (1.0, ((_INSIDE, "x0", "x1", "x2"),)),
        (1.0, ((_HIGH, "x1", "x2"),)),
    ),
}


def derivative(operation: Operation, operand: int, index: Index) -> Coefficient:
    """The coefficient of an elementwise operation's derivative.

    Args:
        operation: the operation.
        operand: the operand to differentiate with respect to.
        index: where, an index into the result.

    Returns:
        The coefficient at `index`.
    """
    values = operation.tape.values
    dtypes = [values[k].dtype for k in (*operation.node.inputs, *operation.node.outputs)]
    if any(jnp.issubdtype(t, jnp.complexfloating) for t in dtypes):
        if operation.op in ("add", "add_any", "sub", "neg"):
            return number_coefficient(_TABLE[operation.op][operand][0])
        if operation.op in ("convert_element_type", "real", "imag", "conj", "complex"):
            return coefficients.OPAQUE
        if operation.op == "mul" or (operation.op == "div" and operand == 0):
            return operation.opaque(1 - operand)
        return operation.opaque()
    if operation.op == "convert_element_type":
        return coefficients.ONE
    if operation.op == "integer_pow":
        return _integer_power(operation, index)
    entry = _TABLE.get(operation.op)
    if entry is None:
        return operation.derivative(operand, 0, index, by_output=True)
    scale, factors = entry[operand]
    return product_of(number_coefficient(scale), *(_factor(operation, f, index) for f in factors))


def _factor(operation: Operation, factor: Any, index: Index) -> Coefficient:
    if isinstance(factor, str):
        number = _number(operation, factor)
        return operation.value(number, restrict_index(index, operation.tape.values[number].shape))
    function, *selectors = factor
    return operation.function(function, [_number(operation, s) for s in selectors], index)


def _number(operation: Operation, selector: str) -> int:
    if selector == "y":
        return operation.node.outputs[0]
    return operation.node.inputs[int(selector[1:])]


def _integer_power(operation: Operation, index: Index) -> Coefficient:
    n = int(operation.params["y"])
    if n == 0:
        return number_coefficient(0.0)
    base = operation.node.inputs[0]
    if n == 1:
        return coefficients.ONE
    if n == 2:
        return operation.value(base, index, 2.0)
    power = Function(f"power{n - 1}", Power(_X, n - 1), lambda x: x ** (n - 1))
    return operation.function(power, [base], index, float(n))
