"""Words for what a diagnosis names: numbers, axes, operations and the lines they stand on."""

import linecache
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, pi, sqrt
from typing import Any

from jacobians import program
from jacobians.notation.numbers import number
from jacobians.notation.operation import in_words

# operations that only move or copy entries: seldom what a path is named after
PLAIN = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "convert_element_type", "copy",
    "expand_dims", "slice", "concatenate", "pjit", "jit", "add", "sub", "neg", "add_any",
    "stop_gradient", "copy_p", "split", "rev", "pad",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an operation stands.

    Attributes:
        operation: its name for readers.
        call: the library function that the user called, if it is another name.
        line: the user's line of source, without the margins; empty where it is not known.
        where: `file.py:12`, or empty.
        rank: how well it serves to name a path: the higher the better.
    """

    operation: str
    call: str
    line: str
    where: str
    rank: int

    @property
    def name(self) -> str:
        """The name to show."""
        return self.call or self.operation

    def __str__(self) -> str:
        text = f"`{self.name}`"
        if self.where:
            text += f" at {self.where}"
        if self.line:
            shown = self.line if len(self.line) <= 60 else self.line[:57] + "…"
            text += f" (`{shown}`)"
        return text


# functions of JAX that stand between a user's call and the operation, and name nothing
GENERIC = {
    "op", "meth", "deferring_binary_op", "binary_op", "call", "cache_miss", "fun", "f", "bind",
    "fn", "reraise_with_filtered_traceback", "wrapper", "bind_with_trace", "process_primitive",
    "current", "wrapped", "inner", "promote_dtypes", "vjp", "jvp", "make_jaxpr", "trace",
    "run_python_pjit", "asarray", "array", "astype", "broadcast_to", "reshape", "expand_dims",
    "convert_element_type", "tree_map", "_call", "scan", "while_loop", "cond", "fori_loop",
    "body_fun", "map",
}  # fmt: skip


def _public(function: str) -> str:
    """The name of a library function as users call it, or nothing where it names nothing."""
    name = function.rsplit(".", 1)[-1].strip("_").replace("_deprecated", "")
    generic = name in GENERIC or name.startswith("operator") or name.endswith("_batcher")
    usable = name.isidentifier() and not generic
    return name if usable and "<" not in function.rsplit(".", 1)[-1] else ""


def place_of(equation: Any) -> Place:
    """Where an equation comes from, as far as JAX has kept it."""
    primitive = str(equation.primitive.name)
    operation = in_words(primitive)
    if primitive in ("jit", "pjit"):
        # a compiled function by its own name
        operation = str(equation.params.get("name", primitive)).strip("_")
    theirs, ours = program.JAX_FOLDER, program.OWN_FOLDER
    gates = os.path.join(ours, "gates") + os.sep
    call, line, where = "", "", ""
    traceback = getattr(getattr(equation, "source_info", None), "traceback", None)
    frames = getattr(traceback, "frames", None) or ()
    for frame in frames:
        file = str(frame.file_name)
        library = file.startswith(theirs) or f"{os.sep}jaxlib{os.sep}" in file
        if library or (file.startswith(ours) and not file.startswith(gates)):
            if library:
                call = _public(str(frame.function_name)) or call
            continue
        where = f"{os.path.basename(file)}:{frame.line_num}"
        line = " ".join(linecache.getline(file, frame.line_num).split())
        break
    if not where:
        call = ""
    rank = 0 if primitive in PLAIN else 1
    if call and call not in ("broadcast_to", "reshape", "asarray", "astype", "expand_dims"):
        rank += 2
    return Place(operation, call, line, where, rank)


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def ratio_text(factor: float, sizes: Sequence[tuple[int, str]], scalars: dict[str, float]) -> str:
    """What a wrong factor is, in words.

    Args:
        factor: the wrong value divided by the right one, not 0, 1 or −1.
        sizes: lengths that may be involved, with what they are the length of.
        scalars: values of scalars that may be involved, by name.
    """
    sign = "the sign is wrong, and " if factor < 0 else ""
    size = abs(factor)
    shown = number(factor)

    def says(what: str) -> str:
        return f"it is {shown} times the right value: {sign}{what}"

    found = _of_lengths(size, sizes)
    for name, value in scalars.items():
        if value and abs(value) != 1:
            for power, text in (
                (-1, f"a factor {name} is missing"),
                (1, f"a factor {name} too many"),
                (-2, f"a factor {name}² is missing"),
                (2, f"a factor {name}² too many"),
            ):
                if isclose(factor, value**power, rel_tol=2e-4):
                    found.append(f"{text} ({name} = {number(value)})")
    for value, text in ((pi, "π"), (sqrt(2), "√2"), (2 * pi, "2π"), (sqrt(pi), "√π")):
        if isclose(size, value, rel_tol=2e-4):
            found.append(f"a factor {text} too many")
        if isclose(size * value, 1, rel_tol=2e-4):
            found.append(f"a factor {text} is missing")
    if found:
        return says(", or ".join(list(dict.fromkeys(found))[:2]))
    return says("look for a constant") if sign else f"it is {shown} times the right value"


def _of_lengths(size: float, sizes: Sequence[tuple[int, str]]) -> list[str]:
    """What a factor's size says of lengths and small whole numbers: their powers and ratios."""
    found: list[str] = []
    for n, what in sizes:
        if n > 2 and isclose(size * n, 1, rel_tol=2e-4):
            found.append(f"it is divided by {n} ({what}) once too often")
        if n > 2 and isclose(size, n, rel_tol=2e-4):
            found.append(f"a division by {n} ({what}) is missing")
    for n, what in sizes:
        if n > 2 and n != 4 and isclose(2 * size, n, rel_tol=2e-4):
            found.append(f"a factor 2/{n} ({n}: {what}) is missing")
        if n > 2 and n != 4 and isclose(size * n, 2, rel_tol=2e-4):
            found.append(f"a factor 2/{n} ({n}: {what}) too many")
    for n in range(2, 13):
        if isclose(size, n, rel_tol=2e-4):
            found.append(f"a factor {n} too many")
        if isclose(size * n, 1, rel_tol=2e-4):
            found.append(f"a factor {n} is missing")
    for n, what in sizes:
        for power, word in ((0.5, f"√{n}"), (2.0, f"{n}²")):
            if n > 1 and isclose(size * n**power, 1, rel_tol=2e-4):
                found.append(f"it is divided by {word} ({n}: {what}) once too often")
            if n > 1 and isclose(size, n**power, rel_tol=2e-4):
                found.append(f"a division by {word} ({n}: {what}) is missing")
        # where n is large so near to 1 that many a factor is
        near = min(2e-4, 0.02 * abs(size - 1))
        if n > 2 and isclose(size * (n - 1), n, rel_tol=near):
            found.append(f"divided by {n - 1} where {n} ({what}) belongs")
        if n > 2 and isclose(size * n, n - 1, rel_tol=near):
            found.append(f"divided by {n} ({what}) where {n - 1} belongs")
    return found
