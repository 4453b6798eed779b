"""Other values for an operand, which a mistaken derivative may have used in its place."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.diagnose.alternatives import MASKS
from jacobians.check.diagnose.switches import Candidate, Option, _is_array, _is_float
from jacobians.program.strip import run
from jacobians.program.view import Program

MAX_VALUES = 10


def _replacements(
    equation: Any,
    name: str,
    j: int,
    value: Any,
    own: Candidate | None,
    candidates: list[Candidate],
    fixed: list[Any],
) -> tuple[list[Option], list[Any]]:
    """Values that may stand in an operand's place when it is differentiated."""
    options: list[Option] = []
    values: list[Any] = []
    what = own.name if own is not None else "its operand"
    mask = name in MASKS
    kind = "mask-source" if mask else "stale-residual"

    def add(kind: str, text: str, v: Any) -> None:
        options.append(Option(kind, text))
        values.append(jnp.asarray(v).astype(program.value_dtype(value)))

    if not _is_float(value):
        if jnp.result_type(value) == jnp.bool_:
            add("mask-inverted", "the mask of {place} is inverted", ~value)
            for c in _fitting(value, own, candidates, jnp.bool_):
                add(kind, f"the mask of {{place}} is {c.name} instead of {what}", c.value)
            for c in _fitting(value, own, candidates, None)[:MAX_VALUES]:
                sign = f"the mask of {{place}} is taken from the sign of {c.name}"
                add(kind, sign, c.value > 0)
        return options, values
    words = (
        f"the mask of {{place}} is taken from {{c}} instead of {what}"
        if mask
        else f"{{c}} is used in the derivative of {{place}} where {what} belongs: look at which "
        "value fwd saves"
    )
    for c in _fitting(value, own, candidates, None)[:MAX_VALUES]:
        add(kind, words.replace("{c}", c.name), c.value)
        if name == "custom_linear_solve":
            solved = _solution_as(equation, fixed, j, c.value)
            if solved is not None:
                add("stale-residual",
                    f"{c.name} is used in the derivative of {{place}} where its solution belongs",
                    solved)  # fmt: skip
    shape = np.shape(value)
    if 2 <= len(shape) <= 4:
        for axes in itertools.permutations(range(len(shape))):
            if axes != tuple(range(len(shape))) and tuple(shape[a] for a in axes) == shape:
                add("transposed", f"{what} is transposed in the derivative of {{place}}",
                    jnp.transpose(value, axes))  # fmt: skip
    if name in ("conv_general_dilated", "dot_general"):
        long = [a for a, n in enumerate(shape) if n > 1]
        for count in (1, 2):
            for chosen in itertools.combinations(long, count):
                add("flipped", f"{what} is reversed along axis {listed_axes(chosen)} in the "
                    "derivative of {place}", jnp.flip(value, chosen))  # fmt: skip
    if name in ("mul", "div"):
        doing = "multiply by" if name == "mul" else "divide by"
        if not (name == "div" and j == 0):
            add("factor", f"the factor {what} is missing in the derivative of {{place}}: {doing} it"
                if name == "mul" else f"the division by {what} is missing in {{place}}",
                jnp.ones_like(value))  # fmt: skip
            once = "multiplied" if name == "mul" else "divided"
            add("factor", f"it is {once} by {what} once too often in {{place}}", value * value)
            if name == "mul":
                add("factor", f"it is divided by {what} instead of multiplied, in {{place}}",
                    1 / value)  # fmt: skip
    return options, values


def _factors(inner: Program) -> set[Any]:
    """Variables that something is multiplied with or divided by."""
    found: set[Any] = set()
    for equation in inner.equations[::-1]:
        name = equation.primitive.name
        spread = name == "broadcast_in_dim" and equation.outvars[0] in found
        if spread or name in ("mul", "div", "dot_general", "conv_general_dilated"):
            found.update(a for a in equation.invars if not program.is_literal(a))
    return found


def _stand_ins(
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
    shape = np.shape(value)
    if 2 <= len(shape) <= 4:
        for axes in itertools.permutations(range(len(shape))):
            if axes != tuple(range(len(shape))) and tuple(shape[a] for a in axes) == shape:
                options.append(Option("transposed", f"{what} is transposed where it is used"))
                values.append(jnp.transpose(value, axes))
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
        if c is own or np.shape(c.value) != np.shape(value) or not _is_array(c.value):
            continue
        if np.iscomplexobj(c.value) != np.iscomplexobj(value):
            continue
        boolean = jnp.result_type(c.value) == jnp.bool_
        if (boolean if dtype is not None else _is_float(c.value)) and c.value is not value:
            found.setdefault(id(c.value), c)
    # what the user can name comes first, then what is computed last
    named = [c for c in found.values() if not c.name.startswith("the result of")]
    rest = [c for c in found.values() if c.name.startswith("the result of")]
    return named + rest[::-1]
