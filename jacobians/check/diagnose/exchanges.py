"""Other values for an operand, which a mistaken derivative may have used in its place."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.diagnose.alternatives import MASKS
from jacobians.check.diagnose.switches import Candidate, Option, is_array, is_float
from jacobians.program.strip import run
from jacobians.program.view import Program

MAX_VALUES = 10


def replacements(
    equation: Any,
    name: str,
    j: int,
    own: Candidate | None,
    candidates: list[Candidate],
    fixed: list[Any],
) -> tuple[list[Option], list[Any]]:
    """Values that may stand in operand j's place when an operation is differentiated."""
    value = fixed[j]
    what = own.name if own is not None else "its operand"
    found: list[tuple[str, str, Any]] = []
    if is_float(value):
        words = (
            f"the mask of {{place}} is taken from {{c}} instead of {what}"
            if name in MASKS
            else f"{{c}} is used in the derivative of {{place}} where {what} belongs: look at "
            "which value fwd saves"
        )
        kind = "mask-source" if name in MASKS else "stale-residual"
        for c in _fitting(value, own, candidates, None)[:MAX_VALUES]:
            found.append((kind, words.replace("{c}", c.name), c.value))
            if name == "custom_linear_solve":
                solved = _solution_as(equation, fixed, j, c.value)
                text = f"{c.name} is used in the derivative of {{place}} where its solution belongs"
                if solved is not None:
                    found.append(("stale-residual", text, solved))
        found += _turned(name, what, value) + _as_factor(name, j, what, value)
    elif jnp.result_type(value) == jnp.bool_:
        kind = "mask-source" if name in MASKS else "stale-residual"
        found.append(("mask-inverted", "the mask of {place} is inverted", ~value))
        for c in _fitting(value, own, candidates, jnp.bool_):
            found.append((kind, f"the mask of {{place}} is {c.name} instead of {what}", c.value))
        for c in _fitting(value, own, candidates, None)[:MAX_VALUES]:
            sign = f"the mask of {{place}} is taken from the sign of {c.name}"
            found.append((kind, sign, c.value > 0))
    dtype = program.value_dtype(value)
    return (
        [Option(kind, text) for kind, text, _ in found],
        [jnp.asarray(other).astype(dtype) for _, _, other in found],
    )


def _turned(name: str, what: str, value: Any) -> list[tuple[str, str, Any]]:
    """An operand transposed, or reversed along an axis or two: kind, words and value."""
    text = f"{what} is transposed in the derivative of {{place}}"
    found = [("transposed", text, turned) for turned in _transposed(value)]
    if name in ("conv_general_dilated", "dot_general"):
        long = [a for a, n in enumerate(np.shape(value)) if n > 1]
        for count in (1, 2):
            for chosen in itertools.combinations(long, count):
                along = f"{what} is reversed along axis {listed_axes(chosen)}"
                text = f"{along} in the derivative of {{place}}"
                found.append(("flipped", text, jnp.flip(value, chosen)))
    return found


def _transposed(value: Any) -> list[Any]:
    """An array with its axes in every other order that gives the same shape."""
    shape = np.shape(value)
    if not 2 <= len(shape) <= 4:
        return []
    own = tuple(range(len(shape)))
    return [
        jnp.transpose(value, axes)
        for axes in itertools.permutations(own)
        if axes != own and tuple(shape[a] for a in axes) == shape
    ]


def _as_factor(name: str, j: int, what: str, value: Any) -> list[tuple[str, str, Any]]:
    """A factor or divisor left out, taken twice or inverted: kind, words and value."""
    if name == "mul":
        left_out = f"the factor {what} is missing in the derivative of {{place}}: multiply by it"
        return [
            ("factor", left_out, jnp.ones_like(value)),
            ("factor", f"it is multiplied by {what} once too often in {{place}}", value * value),
            ("factor", f"it is divided by {what} instead of multiplied, in {{place}}", 1 / value),
        ]
    if name != "div":
        return []
    left_out = f"the division by {what} is missing in {{place}}"
    twice = f"it is divided by {what} once too often in {{place}}"
    return [
        *([("factor", left_out, jnp.ones_like(value))] if j else []),
        ("factor", twice, value * value),
    ]


def multiplied(inner: Program) -> set[Any]:
    """Variables that something is multiplied with or divided by."""
    found: set[Any] = set()
    for equation in inner.equations[::-1]:
        name = equation.primitive.name
        spread = name == "broadcast_in_dim" and equation.outvars[0] in found
        if spread or name in ("mul", "div", "dot_general", "conv_general_dilated"):
            found.update(a for a in equation.invars if not program.is_literal(a))
    return found


def stand_ins(
    value: Any, own: Candidate | None, candidates: list[Candidate], factor: bool
) -> tuple[list[Option], list[Any]]:
    """Values that may have been computed with in an operand's place throughout."""
    what = own.name if own is not None else "an operand"
    options, values = [], []
    if factor:
        options.append(Option("factor", f"{what} counts as 1: a factor {what} is missing"))
        values.append(jnp.ones_like(value))
    for c in _fitting(value, own, candidates, None)[:MAX_VALUES]:
        text = f"{c.name} is used where {what} belongs: look at which value fwd saves"
        options.append(Option("stale-residual", text))
        values.append(jnp.asarray(c.value).astype(value.dtype))
    for turned in _transposed(value):
        options.append(Option("transposed", f"{what} is transposed where it is used"))
        values.append(turned)
    return options, values


def listed_axes(axes: Sequence[int]) -> str:
    """`1` or `1 and 2`."""
    return " and ".join(str(a) for a in axes)


def _solution_as(equation: Any, fixed: list[Any], j: int, wanted: Any) -> Any:
    """The right-hand side for which a linear solve gives the wanted solution, or None."""
    matvec, count, constants = program.linear_solve_parts(equation)
    if j < constants or np.shape(wanted) != np.shape(fixed[j]) or len(fixed) != constants + 1:
        return None
    return run(matvec, [*fixed[:count], wanted])[0]


def _fitting(
    value: Any, own: Candidate | None, candidates: list[Candidate], dtype: Any
) -> list[Candidate]:
    """Candidates of the same shape: those of a boolean dtype, or floats where it is None."""
    found: dict[int, Candidate] = {}
    for c in candidates:
        if c is own or np.shape(c.value) != np.shape(value) or not is_array(c.value):
            continue
        if np.iscomplexobj(c.value) != np.iscomplexobj(value):
            continue
        boolean = jnp.result_type(c.value) == jnp.bool_
        if (boolean if dtype is not None else is_float(c.value)) and c.value is not value:
            found.setdefault(id(c.value), c)
    # what the user can name comes first, then what is computed last
    named = [c for c in found.values() if not c.name.startswith("the result of")]
    rest = [c for c in found.values() if c.name.startswith("the result of")]
    return named + rest[::-1]
