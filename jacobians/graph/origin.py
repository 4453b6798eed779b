"""Which Python function made an operation: how plain functions become one node.

A traced program has no trace of a function like `jax.nn.softmax`, which is no call in it, but JAX
remembers with every operation the Python frames it was made in. All operations that were made in
one call of a function share the frames outside of it.

    origin = finder(("sigmoid",), lambda names: False)
    origin(equation)        # None, or the function's name with the place it was called from
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jacobians import program

Origin = tuple[str, tuple[tuple[str, int], ...]]


def finder(
    folded: Sequence[str], wanted: Callable[[Sequence[str]], bool]
) -> Callable[[Any], Origin | None]:
    """A function from an equation to the call that it is to be folded into.

    Args:
        folded: names of functions whose calls become one node; those of `jax.nn` do anyway.
        wanted: says of names whether they are to be opened instead.

    Returns:
        For an equation: the name of the outermost such function that made it and the places in
        the frames outside of that call; None where there is none.
    """
    library = _library()

    def origin(equation: Any) -> Origin | None:
        stack = program.call_stack(equation)
        for k in range(len(stack) - 1, -1, -1):
            file, _, qualified = stack[k]
            name = qualified.rsplit(".", 1)[-1]
            of_library = library.get(name) == file and not wanted((name,))
            if name in folded or of_library:
                return name, tuple((f, line) for f, line, _ in stack[k + 1 :])
        return None

    return origin


def functions(inner: program.Program) -> set[str]:
    """The names of all functions that made operations of a program, at any depth."""
    return {name for _, name in _frames(inner)}


def library_functions(inner: program.Program) -> set[str]:
    """The names of the functions of `jax.nn` that made operations of a program."""
    library = _library()
    return {name for file, name in _frames(inner) if library.get(name) == file}


def _frames(inner: program.Program) -> Iterator[tuple[str, str]]:
    """File and function of every Python frame that made operations of a program."""
    for equation in program.nested(inner):
        for file, _, qualified in program.call_stack(equation):
            yield file, qualified.rsplit(".", 1)[-1]


@functools.cache
def _library() -> dict[str, str]:
    """The public functions of `jax.nn` with the files they are written in."""
    found = {}
    for name in dir(jax.nn):
        function = getattr(jax.nn, name)
        if name.startswith("_") or not callable(function):
            continue
        try:
            file = inspect.getsourcefile(inspect.unwrap(function))
        except (TypeError, ValueError):
            continue
        if file is not None:
            found[name] = file
    return found
