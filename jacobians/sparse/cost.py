"""What a way to a Jacobian costs, counted in numbers computed."""

from collections.abc import Sequence
from math import prod
from typing import Any

from jacobians import program


def work(equations: Sequence[Any]) -> float:
    """Roughly how many values equations compute, matrix products counted by their length."""
    total = 0.0
    for equation in equations:
        out = float(sum(prod(program.shape_of(v)) for v in equation.outvars))
        name = equation.primitive.name
        inner = program.inner_programs(equation)
        if inner:
            times = program.scan_parts(equation).length if name == "scan" else 1
            total += times * max(work(p.equations) for p in inner)
        elif name == "dot_general":
            (left, _), _ = program.parameters(equation)["dimension_numbers"]
            shape = program.shape_of(equation.invars[0])
            total += out * (1 + prod(shape[d] for d in left) / 8)
        elif name == "conv_general_dilated":
            kernel = prod(program.shape_of(equation.invars[1]))
            total += out * (1 + kernel / 8)
        elif name in ("gather", "fft", "sort", "scatter", "scatter-add"):
            total += 4 * out
        else:
            total += out
    return total
