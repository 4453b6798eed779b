"""Elementwise operations: one family, and a table of how their derivatives are printed.

The Jacobian of every elementwise operation is diagonal; what differs is the coefficient. The table
gives it as `scale · factor · factor …`, a factor being an operand (`x0`, `x1`), the result (`y`) or
a named function of these. An operation without an entry has its derivative computed by `jax.jvp`
and printed as `∂op(x)`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.coefficient import Coefficient
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


def _f(name: str, text: str, compute: Callable[..., Any]) -> Function:
    return Function(name, text, compute)


RECIPROCAL = _f("reciprocal", "1/{0}", lambda x: 1.0 / x)
GREATER = _f("greater", "1[{0} > {1}]", _half)
LESS = _f("less", "1[{0} < {1}]", lambda a, b: _half(b, a))

_LOG1P = _f("log1p'", "1/(1 + {0})", lambda x: 1.0 / (1.0 + x))
_EXP = _f("exp", "exp({0})", jnp.exp)
_COS = _f("cos", "cos({0})", jnp.cos)
_SIN = _f("sin", "sin({0})", jnp.sin)
_TAN = _f("tan'", "(1 + {0}²)", lambda y: 1.0 + y * y)
_COSH = _f("cosh", "cosh({0})", jnp.cosh)
_SINH = _f("sinh", "sinh({0})", jnp.sinh)
_TANH = _f("tanh'", "(1 − {0}²)", lambda y: (1.0 - y) * (1.0 + y))
_ASIN = _f("asin'", "1/√(1 − {0}²)", lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)))
_ATAN = _f("atan'", "1/(1 + {0}²)", lambda x: 1.0 / (1.0 + x * x))
_ASINH = _f("asinh'", "1/√({0}² + 1)", lambda x: 1 / jnp.sqrt(x * x + 1))
_ACOSH = _f("acosh'", "1/√({0}² − 1)", lambda x: 1 / jnp.sqrt((x - 1) * (x + 1)))
_ATANH = _f("atanh'", "1/(1 − {0}²)", lambda x: 1 / ((1 - x) * (1 + x)))
_REST = _f("1-", "(1 − {0})", lambda y: 1.0 - y)
_SIGN = _f("sign", "sign({0})", jnp.sign)
_GAUSS = _f("gauss", "exp(−{0}²)", lambda x: jnp.exp(-x * x))
_INVERSE_GAUSS = _f("gauss+", "exp({0}²)", lambda y: jnp.exp(y * y))
_DIGAMMA = _f("digamma", "digamma({0})", special.digamma)
_POWER = _f(
    "pow-", "{0}^({1} − 1)", lambda x, p: jnp.where(p == 0, 1.0, x) ** jnp.where(p == 0, 0, p - 1)
)
_LOG = _f("log", "log({0})", lambda x: jnp.log(jnp.where(x == 0, 1.0, x)))
_ATAN2_X = _f("atan2x", "{1}/({0}² + {1}²)", lambda a, b: b / (a * a + b * b))
_ATAN2_Y = _f("atan2y", "{0}/({0}² + {1}²)", lambda a, b: a / (a * a + b * b))
_TRUNC = _f("trunc", "trunc({0}/{1})", lambda a, b: jnp.trunc(a / b))
_LOW = _f("low", "1[{0} > {1}]", lambda lo, x: 1.0 * (lo > x))
_INSIDE = _f("inside", "1[{0} < {1} < {2}]", lambda lo, x, hi: 1.0 * ((x > lo) & (x < hi)))
_HIGH = _f("high", "1[{1} < {0}]", lambda x, hi: 1.0 * (hi < x))
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
    power = Function(f"power{n - 1}", f"{{0}}{superscript(n - 1)}", lambda x: x ** (n - 1))
    return operation.function(power, [base], index, float(n))


def superscript(n: int) -> str:
    """A number in superscript digits: ⁻¹, ², ³."""
    return str(n).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
