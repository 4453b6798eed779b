"""Keys that tell traced programs apart, so that an analysis is reused only where it holds.

A function is traced afresh at every call, because what it closes over may have changed; what is
kept between calls is looked up by the program itself: operations, parameters, literals and the
content of its constants. Python functions inside a program, custom derivative rules and callbacks,
count as the same only when they are the same object, which the key keeps alive.

    fingerprint(trace(f, [x])) == fingerprint(trace(f, [x]))
    # True
"""

import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.program.view import Program


class _Same:
    """An object compared by identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


# the digests of immutable arrays by identity, forgotten together with the array; what a thread
# overwrites is the same digest
_digests: dict[int, tuple[Any, bytes]] = {}


def fingerprint(inner: Program, rules: bool = True) -> tuple[Any, ...]:
    """A hashable key, equal only for programs that compute the same.

    Args:
        inner: the program. Its own constants count by type only: they are given at run time.
        rules: whether custom derivative rules matter; without them the program's values are told
            apart, not its derivatives.

    Returns:
        The key.
    """
    numbers: dict[Any, int] = {}

    def name(variable: Any) -> int:
        return numbers.setdefault(variable, len(numbers))

    def read(atom: Any) -> Any:
        if program.is_literal(atom):
            return digest(program.literal_value(atom)), _type(atom)
        return name(atom)

    parts: list[Any] = []
    for variable in (*(v for v, _ in inner.constants), *inner.inputs):
        parts.append((name(variable), _type(variable)))
    for equation in inner.equations:
        operands = tuple(read(atom) for atom in equation.invars)
        results = tuple(name(variable) for variable in equation.outvars)
        parts.append((equation.primitive.name, operands, results, _parameters(equation, rules)))
    parts.append(tuple(read(atom) for atom in inner.outputs))
    return tuple(parts)


def digest(array: Any) -> bytes | _Same:
    """A key of an array's content; of the object itself where it has none to look at."""
    immutable = isinstance(array, jax.Array)
    if immutable:
        if isinstance(array, jax.core.Tracer) or jnp.issubdtype(array.dtype, jax.dtypes.extended):
            return _Same(array)
        found = _digests.get(id(array))
        if found is not None and found[0]() is array:
            return found[1]
    content = np.asarray(array)
    if content.dtype.hasobject:
        return _Same(array)
    hashed = hashlib.blake2b(np.ascontiguousarray(content).tobytes(), digest_size=20)
    hashed.update(repr((content.shape, str(content.dtype))).encode())
    result = hashed.digest()
    if immutable:
        number = id(array)
        _digests[number] = (weakref.ref(array, lambda _: _digests.pop(number, None)), result)
    return result


def _type(atom: Any) -> tuple[Any, ...]:
    """Shape, dtype and weakness of a variable or literal."""
    aval = atom.aval
    return (
        tuple(getattr(aval, "shape", ())),
        str(getattr(aval, "dtype", aval)),
        bool(getattr(aval, "weak_type", False)),
    )


def _parameters(equation: Any, rules: bool) -> Any:
    """The key of an equation's parameters; of a custom rule's function alone without `rules`."""
    called = program.called_program(equation)
    if called is not None and equation.primitive.name in program.CUSTOM_RULES and not rules:
        return _closed(called, rules)
    return _freeze(program.parameters(equation), rules)


def _closed(inner: Program, rules: bool) -> tuple[Any, ...]:
    """The key of a program inside an equation, whose constants are its own."""
    return fingerprint(inner, rules), tuple(digest(value) for _, value in inner.constants)


def _freeze(value: Any, rules: bool) -> Any:
    """A hashable key of a parameter: by content where it has some, else of the object itself."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return type(value).__name__, value
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, Mapping):
        return tuple((str(k), _freeze(value[k], rules)) for k in sorted(value, key=str))
    if program.is_program(value):
        return _closed(program.view(value), rules)
    if type(value) in (tuple, list):
        return tuple(_freeze(item, rules) for item in value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return digest(value)
    if callable(value) and not isinstance(value, (type, np.dtype)):
        return _Same(value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value).__name__, value
