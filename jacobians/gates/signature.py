"""Generalised-ufunc signatures: which axes of a gate's inputs and outputs are the same axis.

A signature such as `"(m,n),(n)->(m)"` names the *core* axes, the last ones of each array; equal
names have equal lengths. Axes in front of them are *loop* axes: the gate is applied along each of
them, and they broadcast as in NumPy. `"(),()->()"` has no core axis at all: it is elementwise.

    >>> signature = parse_signature("(m,n),(n)->(m)")
    >>> bind_shapes(signature, [(2, 3), (3,)])
    Sizes(core={'m': 2, 'n': 3}, loop=())
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jacobians.errors import ArgumentError

Shape = tuple[int, ...]

_GROUP = r"\(\s*(?:\w+\s*(?:,\s*\w+\s*)*)?\)"
_LIST = rf"{_GROUP}(?:\s*,\s*{_GROUP})*"
_SIGNATURE = re.compile(rf"\s*({_LIST})\s*->\s*({_LIST})\s*")


@dataclass(frozen=True)
class Signature:
    """A parsed signature: the core axes of every input and output, by name.

    Attributes:
        text: the signature as it was written, without spaces.
        inputs: for each input, the names of its core axes; a number is an axis of that length.
        outputs: the same for each output.
    """

    text: str
    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sizes:
    """The lengths that a signature's axes have in one call.

    Attributes:
        core: length of each named core axis.
        loop: the broadcast shape of the loop axes.
    """

    core: Mapping[str, int]
    loop: Shape

    def shape(self, axes: Sequence[str]) -> Shape:
        """The shape of an output with these core axes."""
        return (*self.loop, *(int(a) if a.isdigit() else self.core[a] for a in axes))


@functools.lru_cache(maxsize=256)
def parse_signature(text: str) -> Signature:
    """Reads a generalised-ufunc signature.

    Args:
        text: for example `"(m,n),(n)->(m)"`, `"(),()->()"` or `"()->(),()"`.

    Returns:
        The parsed `Signature`.

    Raises:
        ArgumentError: the text is no signature.

    Source:
        https://numpy.org/doc/stable/reference/c-api/generalized-ufuncs.html
    """
    match = _SIGNATURE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ArgumentError(
            f"{text!r} is not a generalised-ufunc signature; write one group of axis names in "
            'parentheses per array, such as "(m,n),(n)->(m)"'
        )
    inputs, outputs = (
        tuple(tuple(re.findall(r"\w+", group)) for group in re.findall(_GROUP, part))
        for part in match.groups()
    )
    return Signature(re.sub(r"\s", "", text), inputs, outputs)


def bind_shapes(
    signature: Signature, shapes: Sequence[Shape], names: Sequence[str] | None = None
) -> Sizes:
    """Finds the lengths of a signature's axes from the shapes of the inputs.

    Args:
        signature: the parsed signature.
        shapes: one shape per input.
        names: what to call the inputs in messages.

    Returns:
        The lengths of the core axes and the broadcast loop shape.

    Raises:
        ArgumentError: the shapes do not fit; the message says which axis differs where.
    """
    called = tuple(names) if names else tuple(f"input {k}" for k in range(len(shapes)))
    if len(shapes) != len(signature.inputs):
        raise ArgumentError(
            f"the signature {signature.text} has {len(signature.inputs)} inputs, "
            f"got {len(shapes)} ({', '.join(called) or 'none'})"
        )
    given = ", ".join(f"{n}: {_text(s)}" for n, s in zip(called, shapes, strict=True))
    problem = f"the shapes {given} do not fit the signature {signature.text}: "
    core: dict[str, int] = {}
    seen_in: dict[str, str] = {}
    for name, shape, axes in zip(called, shapes, signature.inputs, strict=True):
        if len(shape) < len(axes):
            count = f"{len(axes)} axis" if len(axes) == 1 else f"{len(axes)} axes"
            raise ArgumentError(f"{problem}{name} needs at least {count}, it has {len(shape)}")
        for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True):
            if axis.isdigit():
                if size != int(axis):
                    raise ArgumentError(
                        f"{problem}an axis of {name} must have length {axis}, it has length {size}"
                    )
            elif core.setdefault(axis, size) != size:
                raise ArgumentError(
                    f"{problem}{axis} is {core[axis]} in {seen_in[axis]} and {size} in {name}"
                )
            seen_in.setdefault(axis, name)
    loops = [s[: len(s) - len(a)] for s, a in zip(shapes, signature.inputs, strict=True)]
    try:
        return Sizes(core, tuple(np.broadcast_shapes(*loops)))
    except ValueError:
        leading = " and ".join(_text(loop) for loop in loops)
        raise ArgumentError(f"{problem}the leading axes {leading} do not broadcast") from None


def _text(shape: Shape) -> str:
    return f"[{','.join(str(n) for n in shape)}]"
