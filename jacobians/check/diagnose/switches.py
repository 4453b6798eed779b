"""What can be changed in a program: its operations' operands, each with the ways to change it.

An `Edge` is an operand of an equation; an `Option` is another derivative along it. A `Candidate`
is a value that may stand in another's place. A `Switchboard` keeps those of one program, and
`Switches` says how they stand in one run of it.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jacobians.check.diagnose.budget import Budget
from jacobians.check.diagnose.words import Place


@dataclass
class Edge:
    """A place where a path can be cut.

    Attributes:
        places: the places it passes.
        looped: whether that is in a loop.
        products: the products that it enters by one of their factors.
    """

    places: list[Place]
    looped: bool
    products: list[Any] = field(default_factory=list)

    @property
    def place(self) -> Place:
        """The place that names the path best."""
        return max(self.places, key=lambda p: p.rank)


@dataclass(frozen=True)
class Option:
    """One setting of a choice: the kind of mistake that it stands for, and words for it."""

    kind: str
    text: str


@dataclass
class Choice:
    """A switch with several positions; position 0 is the program as it is.

    Attributes:
        place: where it is.
        options: what its positions stand for; the first is the program as it is.
        arrays: the array that each position puts there, or None where the program chooses.
    """

    place: Place
    options: list[Option]
    arrays: list[Any] | None


@dataclass(frozen=True)
class Setting:
    """Which switches are moved: edges to other numbers, choices to other positions."""

    scales: tuple[tuple[int, float], ...] = ()
    choices: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A value that may stand in another's place."""

    name: str
    value: Any


@dataclass(eq=False, kw_only=True)
class Switchboard:
    """The switches of a program, found as it is first run.

    Attributes:
        small: whether values are small enough to keep others to exchange them for.
        budget: the time that runs may take, looked at after every operation.
        edges: the edges.
        choices: the choices.
        recorded: the values that the program computes outside loops.
        edge_numbers: the number of each edge, by where it is.
        choice_numbers: the number of each choice, by where it is.
        taken: the branch taken by each `cond` outside loops, by where it is.
    """

    small: bool = True
    budget: Budget = field(default_factory=Budget)
    edges: list[Edge] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    recorded: list[Candidate] = field(default_factory=list)
    edge_numbers: dict[Any, int] = field(default_factory=dict)
    choice_numbers: dict[Any, int] = field(default_factory=dict)
    taken: dict[Any, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Switches:
    """Positions of all switches.

    Attributes:
        scales: one number per edge.
        chosen: one position per choice, or None to leave all as the program is.
        arrays: arrays to put into choices, by number.
        recording: whether switches are being found rather than moved.
    """

    scales: Any = None
    chosen: Any = None
    arrays: Any = field(default_factory=dict)
    recording: bool = False

    @property
    def paths_only(self) -> bool:
        """Whether no choice is looked for or moved."""
        return self.chosen is None and not self.recording


@jax.custom_jvp
def _carrier(x: Any) -> Any:
    return jnp.zeros_like(x)


@_carrier.defjvp
def _carrier_jvp(primals: Any, tangents: Any) -> Any:
    return jnp.zeros_like(primals[0]), tangents[0]


def carrier(x: Any) -> Any:
    """Zero, with the tangent of x: adding it to a constant moves the tangent there."""
    return _carrier(x)


hold = jax.lax.stop_gradient


def is_float(x: Any) -> bool:
    return is_array(x) and bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def is_array(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return (
        dtype is not None
        and not jnp.issubdtype(dtype, jax.dtypes.extended)
        and (dtype != jax.dtypes.float0)
    )
