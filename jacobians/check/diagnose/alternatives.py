"""What is often written in place of an operation's local derivative.

A table by operation: the derivative left out, applied twice, inverted where it is a mask, or that
of another function; a broadcast whose sum goes over the wrong axis or stops at the first slice; a
cumulative sum run the wrong way.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program

# linear in every operand: there is no value to linearise at
LINEAR = {
    "add", "sub", "neg", "reduce_sum", "broadcast_in_dim", "reshape", "transpose", "squeeze",
    "convert_element_type", "copy", "expand_dims", "slice", "concatenate", "add_any", "rev", "pad",
    "split", "cumsum", "real", "imag", "complex", "conj", "gather", "scatter-add", "dynamic_slice",
    "dynamic_update_slice", "copy_p", "reduce_precision", "select_and_gather_add",
}  # fmt: skip
WITHOUT_DERIVATIVE = {
    "stop_gradient", "sign", "floor", "ceil", "round", "gt", "lt", "ge", "le", "eq", "ne", "argmax",
    "argmin", "is_finite", "iota",
}  # fmt: skip
MASKS = {"max", "min", "select_n", "abs", "clamp"}

# derivatives of one-argument functions, of the argument x and the value y, for readers
UNARY: Mapping[str, str] = {
    "exp": "y", "tanh": "1 − y²", "logistic": "y·(1 − y)", "sin": "cos x", "cos": "−sin x",
    "sqrt": "1/(2y)", "rsqrt": "−y³/2", "log": "1/x", "log1p": "1/(1 + x)", "expm1": "y + 1",
    "square": "2x", "erf": "2/√π·exp(−x²)", "integer_pow": "n·xⁿ⁻¹", "tan": "1 + y²",
    "exp2": "y·log 2", "cbrt": "1/(3y²)", "atan": "1/(1 + x²)", "asin": "1/√(1 − x²)",
    "sinh": "cosh x", "cosh": "sinh x", "acos": "−1/√(1 − x²)", "abs": "sign x",
    "asinh": "1/√(1 + x²)", "acosh": "1/√(x² − 1)", "atanh": "1/(1 − x²)", "lgamma": "digamma x",
}  # fmt: skip
WRONG_UNARY: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("y", lambda x, y: y),
    ("1 − y", lambda x, y: 1 - y),
    ("1 + y", lambda x, y: 1 + y),
    ("y²", lambda x, y: y * y),
    ("1 − y²", lambda x, y: 1 - y * y),
    ("1 + y²", lambda x, y: 1 + y * y),
    ("y·(1 − y)", lambda x, y: y * (1 - y)),
    ("y·(1 + y)", lambda x, y: y * (1 + y)),
    ("x", lambda x, y: x),
    ("1 − x²", lambda x, y: 1 - x * x),
    ("1 + x²", lambda x, y: 1 + x * x),
    ("x·(1 − x)", lambda x, y: x * (1 - x)),
    ("1/x", lambda x, y: 1 / x),
    ("1/x²", lambda x, y: 1 / (x * x)),
    ("1/y", lambda x, y: 1 / y),
    ("1/y²", lambda x, y: 1 / (y * y)),
    ("1/(2x)", lambda x, y: 0.5 / x),
    ("x²", lambda x, y: x * x),
    ("xy", lambda x, y: x * y),
    ("y/x", lambda x, y: y / x),
    ("sin x", lambda x, y: np.sin(x)),
    ("cos x", lambda x, y: np.cos(x)),
    ("exp x", lambda x, y: np.exp(x)),
    ("exp(−x)", lambda x, y: np.exp(-x)),
    ("exp(−x²)", lambda x, y: np.exp(-x * x)),
    ("tanh x", lambda x, y: np.tanh(x)),
    ("sigmoid x", lambda x, y: 1 / (1 + np.exp(-x))),
    ("x³", lambda x, y: x * x * x),
    ("y³", lambda x, y: y * y * y),
)


@dataclass(frozen=True)
class Alternative:
    """A wrong local derivative: the kind of mistake, words for it, and the tangent it gives."""

    kind: str
    text: str
    tangent: Any


def alternatives(
    equation: Any, name: str, fixed: list[Any], k: int, moving: Any, tangent: Any
) -> list[Alternative]:
    """Wrong tangents of an operation's result.

    Args:
        equation: the operation.
        name: its name.
        fixed: the values of its operands, without tangents.
        k: the operand whose tangent is propagated.
        moving: zeros with that tangent.
        tangent: zeros with the right tangent of the result.

    Returns:
        The alternatives; none where nothing is commonly written.
    """
    out = equation.outvars[0].aval
    same = np.shape(fixed[k]) == tuple(out.shape) and jnp.result_type(moving) == out.dtype
    if name == "broadcast_in_dim":
        return _broadcasts(equation, moving)
    if name == "reduce_sum":
        return _sums(equation, moving, tangent)
    if name in ("cumsum", "cumprod", "cumlogsumexp"):
        params = {**equation.params, "reverse": not equation.params["reverse"]}
        made = equation.primitive.bind(moving, **params) if name == "cumsum" else None
        text = "{place} is run in the wrong direction in the derivative: the transpose of a "
        text += "cumulative sum is a reversed one"
        return [] if made is None else [Alternative("transposed", text, made)]
    if not same or name in (
        "add",
        "sub",
        "neg",
        "copy",
        "convert_element_type",
        "reshape",
        "transpose",
        "rev",
        "mul",
    ):
        return []
    if name == "abs":
        text = "the derivative of {place} is the sign of its argument; the rule leaves it out, so "
        text += "that it is wrong where the argument is negative"
        return [Alternative("sign", text, moving)]
    if name in MASKS:
        text = "the mask of {place} is missing: the cotangent goes everywhere"
        return [Alternative("mask-missing", text, moving)]
    if name == "div":
        return []
    text = "the derivative of {place} is left out: its cotangent is passed through unchanged"
    return [Alternative("factor", text, moving)]


def multipliers(
    equation: Any, name: str, fixed: list[Any], k: int
) -> tuple[Any, list[tuple[str, str, Any]]]:
    """The right local derivative of an elementwise operation, and wrong ones with kind, words."""
    d = np.asarray(_local(equation, fixed, k))
    if name in MASKS - {"abs"}:
        return d, [("mask-inverted", "the mask of {place} is inverted", 1 - d)]
    found = [("factor", "the derivative of {place} is applied twice", d * d)]
    if name not in UNARY:
        return d, found
    x, y = np.asarray(fixed[k]), np.asarray(program.evaluate(equation, fixed)[0])
    words = f"the derivative of {{place}} is {UNARY[name]} (x its argument, y its value); the rule "
    with np.errstate(all="ignore"):
        for text, f in WRONG_UNARY:
            value = f(x, y)
            if not np.isfinite(value).all():
                continue
            found.append(("local-derivative", f"{words}has {text}", value))
            found.append(("local-derivative", f"{words}has −({text})", -value))
        at_value = _local(equation, [y if j == k else v for j, v in enumerate(fixed)], k)
        found.append(
            (
                "stale-residual",
                "the derivative of {place} is taken at its value instead of its "
                "argument: look at which value fwd saves",
                np.asarray(at_value),
            )
        )
    return d, found


ELEMENTWISE = {*UNARY, *MASKS, "pow", "div", "atan2", "rem"}


def _local(equation: Any, fixed: list[Any], k: int) -> Any:
    """The elementwise derivative with respect to one operand."""

    def f(x: Any) -> Any:
        return program.evaluate(equation, [x if j == k else v for j, v in enumerate(fixed)])[0]

    return jax.jvp(f, (fixed[k],), (jnp.ones_like(fixed[k]),))[1]


def _broadcasts(equation: Any, moving: Any) -> list[Alternative]:
    """A broadcast whose transpose sums over the wrong axis, or takes one slice of the sum."""
    shape = tuple(equation.params["shape"])
    dimensions = tuple(equation.params["broadcast_dimensions"])
    given = np.shape(moving)
    axes = [a for a in range(len(shape)) if a not in dimensions] + [
        d for d, n in zip(dimensions, given, strict=True) if n == 1 and shape[d] > 1
    ]
    axes = [a for a in axes if shape[a] > 1]
    if not axes:
        return []
    right = jax.lax.broadcast_in_dim(moving, shape, dimensions)
    found = []
    for place, word in ((0, "first"), (-1, "last")):
        keep = np.ones(shape, bool)
        for a in axes:
            line = np.zeros(shape[a], bool)
            line[place] = True
            keep &= line.reshape([-1 if b == a else 1 for b in range(len(shape))])
        text = (
            f"the sum over the broadcast axis {'' if len(axes) > 1 else axes[0]} at {{place}} is "
            f"missing: only the {word} slice arrives; sum over it"
        )
        found.append(Alternative("missing-sum", text.replace("axis  at", "axes at"), right * keep))
    for other in itertools.permutations(range(len(shape)), len(dimensions)):
        fits = all(n in (1, shape[d]) for n, d in zip(given, other, strict=True))
        if other != dimensions and fits:
            text = "the sum at {place} goes over the wrong axis: sum over the axis that was "
            text += "broadcast"
            found.append(Alternative("wrong-axis", text, _broadcast_any(moving, shape, other)))
    return found


def _broadcast_any(x: Any, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> Any:
    order = [int(k) for k in np.argsort(dimensions)]
    return jax.lax.broadcast_in_dim(
        jnp.transpose(x, order), shape, tuple(dimensions[k] for k in order)
    )


def _sums(equation: Any, moving: Any, tangent: Any) -> list[Alternative]:
    """A sum whose transpose is broadcast along the wrong axis."""
    axes = tuple(equation.params["axes"])
    found = []
    for other in itertools.combinations(range(np.ndim(moving)), len(axes)):
        if other == axes:
            continue
        made = jnp.sum(moving, axis=other)
        if np.shape(made) == np.shape(tangent):
            text = "the cotangent of {place} is broadcast along the wrong axis"
            found.append(Alternative("wrong-axis", text, made))
    return found
