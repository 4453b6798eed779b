"""A wire of the computational graph: the value that flows, and the gradient that flows back."""

from dataclasses import dataclass
from typing import Any

Array = Any


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one use of a wire adds to its gradient.

    Attributes:
        node: name of the node that reads the wire; 'cotangent' for an output of the function.
        operand: which operand of that node it is.
        value: local gradient times upstream gradient.
    """

    node: str
    operand: int
    value: Array


@dataclass(frozen=True, eq=False)
class Wire:
    """A value on its way through the graph.

    Attributes:
        number: its number in the graph.
        name: its name: the argument's, the one given with `checkpoint_name`, `out`, or `v1` …
        value: the array.
        gradient: the gradient of the outputs with respect to it, None where there is none
            (integers, constants, arguments that were not chosen).
        known: whether it depends on no input.
        contributions: the summands of the gradient, one for each use of the wire.
    """

    number: int
    name: str
    value: Array
    gradient: Array | None
    known: bool = False
    contributions: tuple[Contribution, ...] = ()
