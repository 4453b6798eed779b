"""The tape of a walk: every value that coefficients may refer to, and how to compute it.

The walk lays a program out flat, calls entered and short loops unrolled, and numbers every array
on the way. A value is an input, a constant, the result of an operation, or a function of other
values that only derivatives need (`1[x > 0]`, `1 / s`). Nothing is computed until asked for.

A value that no input changes is known, up to rounding: `known` gives its digits as they are here,
for numbers; what decides zeros, masks and indices is `certain` or `exact`, which count only what a
compiler cannot round otherwise (`derive.facts.rounding`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra.syntax import Expression
from jacobians.derive.facts.radius import Radius, exact_constant
from jacobians.derive.facts.rounding import radii

Mask = np.ndarray[Any, np.dtype[np.bool_]]

# constants beyond this many elements are treated as unknown rather than computed
MAX_KNOWN = 1 << 22


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of the flat program.

    Attributes:
        equation: the JAX equation.
        inputs: numbers of its operands on the tape.
        outputs: numbers of its results.
        scope: names of the functions it was called in, outermost first.
    """

    equation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        """The operation's name."""
        return str(self.equation.primitive.name)


@dataclass(frozen=True, eq=False)
class Value:
    """One numbered array.

    Attributes:
        shape: its shape.
        dtype: its dtype, or None for values that are no arrays.
        depends: numbers of the inputs that it depends on, differentiably or not.
        source: how it is made: 'input', 'constant', 'result' or 'function'.
        node: the operation that makes it, for results.
        constant: its value, for constants.
        radius: for constants, how far it may lie from what a compiled program has in its place;
            None for as it is.
        function: the function, its printed form and its operands, for functions.
    """

    shape: tuple[int, ...]
    dtype: Any
    depends: frozenset[int]
    source: str
    node: Node | None = None
    constant: Any = None
    radius: Radius = None
    function: "Function | None" = None
    operands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Function:
    """A function of tape values, for local derivatives.

    Attributes:
        name: a key that, with the operands, identifies the value.
        form: how it is written, with slots for the operands: `1[{0} > {1}]`.
        compute: the function of the operands' arrays, in JAX or NumPy operations.
        selects: whether it is 1 or 0, by which case a `select` or a branch has chosen.
    """

    name: str
    form: Expression
    compute: Callable[..., Any] = field(compare=False)
    selects: bool = False


class Tape:
    """All values of one walk, by number.

    Threads may share a tape once the walk is over: from then on only what is found out about values
    is added, each finding the same whoever makes it, and names are given to a copy (`renamed`).

    Attributes:
        values: the values.
        nodes: the operations, in the order of the program.
        names: names that the user gave: of arguments, and by `checkpoint_name`.
        calls: for the result of a call of several operations, its name and operands.
        finite: numbers of the inputs that are finite by assumption, the user's own.
        ranges: what has been found of the ranges of values (`derive.facts.ranges`).
        nothing: where values are certainly 0 whose operations do not tell.
    """

    def __init__(self) -> None:
        """An empty tape."""
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.names: dict[int, str] = {}
        # results of calls: the function's name and its operands
        self.calls: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.finite: set[int] = set()
        self.ranges: dict[int, Any] = {}
        self.nothing: dict[int, np.ndarray[Any, Any]] = {}
        self._functions: dict[tuple[str, tuple[int, ...]], int] = {}
        # constants as NumPy arrays, or as JAX has them where they are no plain arrays
        self._held: dict[int, Any] = {}
        self._radius: dict[int, Radius] = {}
        # what entries may be for whatever input, as far as it has been asked for (`facts.certain`)
        self.possible: dict[int, Any] = {}
        # whether known masks and certain zeros cut patterns
        self.cutting = True

    def renamed(self, names: Mapping[int, str]) -> "Tape":
        """The same values, some under other names; the tape itself is left as it is."""
        other = copy.copy(self)
        # what either finds from now on, the other does not see
        for name, table in vars(self).items():
            setattr(other, name, copy.copy(table))
        other.names = {**self.names, **names}
        return other

    def new(self, value: Value) -> int:
        """Numbers a value."""
        self.values.append(value)
        return len(self.values) - 1

    def function(
        self, function: Function, operands: Sequence[int], shape: tuple[int, ...], dtype: Any
    ) -> int:
        """The number of a function of other values; the same one for the same question."""
        key = (function.name, tuple(operands))
        if key not in self._functions:
            depends = frozenset[int]().union(*(self.values[k].depends for k in operands))
            value = Value(
                shape, dtype, depends, "function", function=function, operands=tuple(operands)
            )
            self._functions[key] = self.new(value)
        return self._functions[key]

    def known(self, number: int) -> np.ndarray[Any, Any] | None:
        """The array that a value always is, up to rounding, or None.

        None where it depends on inputs, is too large, or cannot be computed here. For numbers
        only: what decides whether entries are there asks `certain` or `exact`.
        """
        held = self._constant(number)
        return held if isinstance(held, np.ndarray) else None

    def radius(self, number: int) -> Radius:
        """How far `known` may lie from what a compiled program computes; None for nowhere."""
        if number not in self._radius:
            find_in_order(number, self._radius, self._operands_of_constant, self._compute_radius)
        return self._radius[number]

    def exact(self, number: int) -> Mask | None:
        """Where a known value is certainly the same in every compiled program; None if unknown."""
        known = self.known(number)
        if known is None:
            return None
        radius = self.radius(number)
        return np.ones(known.shape, bool) if radius is None else np.asarray(radius == 0)

    def certain(self, number: int) -> np.ndarray[Any, Any] | None:
        """The array that a value always is where every entry of it is exact, else None."""
        known = self.known(number)
        return known if known is not None and self.radius(number) is None else None

    def _constant(self, number: int) -> Any:
        """The value that no input changes, or None."""
        if number not in self._held:
            find_in_order(number, self._held, self._operands_of_constant, self._compute_known)
        return self._held[number]

    def _operands_of_constant(self, number: int) -> tuple[int, ...]:
        value = self.values[number]
        large = int(np.prod(value.shape, dtype=np.float64)) > MAX_KNOWN
        if value.depends or large or value.node is None:
            return ()
        return value.node.inputs

    def _compute_known(self, number: int) -> None:
        """Notes the value that no input changes, or None, when those of its operands are noted."""
        value = self.values[number]
        large = int(np.prod(value.shape, dtype=np.float64)) > MAX_KNOWN
        held, results = None, None
        if not value.depends and not large and value.source == "constant":
            held = _as_array(value.constant)
        elif not value.depends and not large and value.node is not None:
            operands = [self._held[k] for k in value.node.inputs]
            computable = not any(a is None for a in operands)
            results = _results(value.node, operands, value.dtype) if computable else None
        if value.node is not None and results is not None:
            self._held.update(zip(value.node.outputs, results, strict=True))
        else:
            self._held[number] = held

    def _compute_radius(self, number: int) -> None:
        """Notes the radius of a value that no input changes, by those of its operands."""
        value = self.values[number]
        held = self._constant(number)
        if held is None or value.node is None:
            stated = held is None or value.radius is not None or not isinstance(held, np.ndarray)
            self._radius[number] = value.radius if stated else exact_constant(held)
            return
        node = value.node
        operands = [self._constant(k) for k in node.inputs]
        given = [self._radius[k] for k in node.inputs]
        results = [self._constant(k) for k in node.outputs]
        if any(r is None for r in results) or _computes_inside(node):
            self._radius[number] = np.full(value.shape, np.inf)
            return

        def moved(arrays: Sequence[Any]) -> Sequence[Any]:
            again = _results(node, arrays, np.float32)
            if again is None:
                raise ValueError(f"{node.op} of known operands could not be evaluated again")
            return again

        params = program.parameters(node.equation)
        found = radii(node.op, params, operands, given, results, moved)
        self._radius.update(zip(node.outputs, found, strict=True))


def find_in_order(
    number: int,
    found: Mapping[int, Any],
    operands: Callable[[int], Sequence[int]],
    find: Callable[[int], None],
) -> None:
    """Finds an entry of a table after those of its operands, however long their chain.

    Args:
        number: the value.
        found: the table.
        operands: the values whose entries one is found from.
        find: puts an entry, or those of all results of an operation, into the table.
    """
    stack = [number]
    while stack:
        top = stack[-1]
        missing = [] if top in found else [k for k in operands(top) if k not in found]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if top not in found:
            find(top)


def _results(node: Node, operands: Sequence[Any], dtype: Any) -> list[Any] | None:
    """The results of an operation on constants, in NumPy where that is as good, else by JAX."""
    quick = QUICK.get(node.op)
    if quick is not None and all(isinstance(a, np.ndarray) for a in operands):
        with np.errstate(all="ignore"):
            made = quick(program.parameters(node.equation), *operands)
        return [np.asarray(made).astype(dtype)]
    try:
        with program.outside_any_trace(program.has_double(node.equation)):
            return [_as_array(r) for r in program.evaluate(node.equation, operands)]
    except program.FAILURES:
        # a constant that cannot be computed here is an unknown one: wide, never wrong
        return None


def _computes_inside(node: Node) -> bool:
    """Whether an operation runs a program of its own in which numbers may be rounded."""
    return node.op != "scatter" and any(
        program.rounds(inner) for inner in program.inner_programs(node.equation)
    )


def evaluate_tape(tape: Tape, inputs: dict[int, Any], wanted: Sequence[int]) -> dict[int, Any]:
    """Computes values of the tape at concrete inputs.

    Args:
        tape: the tape of a walk.
        inputs: the value of every input, by number.
        wanted: the numbers of the values to compute.

    Returns:
        The wanted values as NumPy arrays, by number.
    """
    return {k: np.asarray(v) for k, v in trace_tape(tape, inputs, wanted).items()}


def trace_tape(tape: Tape, inputs: dict[int, Any], wanted: Sequence[int]) -> dict[int, Any]:
    """The same for inputs that may be traced; values as JAX made them."""
    made: dict[int, Any] = dict(inputs)

    def get(number: int) -> Any:
        """The value of a number, after those of its operands."""
        stack = [number]
        while stack:
            top = stack[-1]
            if top in made:
                stack.pop()
                continue
            value = tape.values[top]
            if value.source == "constant":
                made[top] = value.constant
                continue
            operands = value.node.inputs if value.node is not None else value.operands
            missing = [k for k in operands if k not in made]
            if missing:
                stack.extend(missing)
                continue
            arrays = [made[k] for k in operands]
            if value.function is not None:
                # 1/0 and its like are values too: what is made of them is asked later
                with np.errstate(all="ignore"):
                    made[top] = value.function.compute(*arrays)
            elif value.node is not None:
                results = program.evaluate(value.node.equation, arrays)
                made.update(zip(value.node.outputs, results, strict=True))
            else:
                raise KeyError(f"input value {top} was not given")
        return made[number]

    return {k: get(k) for k in wanted}


def _iota(params: Any) -> np.ndarray[Any, Any]:
    shape = [n if d == params["dimension"] else 1 for d, n in enumerate(params["shape"])]
    line = np.arange(params["shape"][params["dimension"]]).reshape(shape)
    return np.broadcast_to(line, params["shape"]).astype(params["dtype"])


def _broadcast(params: Any, x: Any) -> np.ndarray[Any, Any]:
    shape = [1] * len(params["shape"])
    for d, n in zip(params["broadcast_dimensions"], np.shape(x), strict=True):
        shape[d] = n
    return np.broadcast_to(np.reshape(x, shape), params["shape"])


def _convert(params: Any, x: Any) -> np.ndarray[Any, Any]:
    """A conversion as XLA has it: of what fits into no integer the nearest, of NaN 0."""
    x, target = np.asarray(x), np.dtype(params["new_dtype"])
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(target, jnp.integer)):
        converted: np.ndarray[Any, Any] = x.astype(target)
        return converted
    limits, wide = jnp.iinfo(target), x.astype(np.float64)
    fits = (wide > float(limits.min) - 1.0) & (wide < float(limits.max) + 1.0)
    nearest = np.where(wide > 0, limits.max, np.where(wide < 0, limits.min, 0)).astype(target)
    return np.asarray(np.where(fits, np.where(fits, wide, 0.0).astype(target), nearest))


# what constant masks and index arrays are made with, in NumPy: XLA would compile each one
QUICK: dict[str, Callable[..., Any]] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "add": lambda _, x, y: x + y,
    "sub": lambda _, x, y: x - y,
    "mul": lambda _, x, y: x * y,
    "max": lambda _, x, y: np.maximum(x, y),
    "min": lambda _, x, y: np.minimum(x, y),
    "neg": lambda _, x: -x,
    "ge": lambda _, x, y: np.greater_equal(x, y),
    "gt": lambda _, x, y: np.greater(x, y),
    "le": lambda _, x, y: np.less_equal(x, y),
    "lt": lambda _, x, y: np.less(x, y),
    "eq": lambda _, x, y: np.equal(x, y),
    "ne": lambda _, x, y: np.not_equal(x, y),
    "and": lambda _, x, y: np.bitwise_and(x, y),
    "or": lambda _, x, y: np.bitwise_or(x, y),
    "not": lambda _, x: np.bitwise_not(x),
    "convert_element_type": _convert,
    "select_n": lambda _, which, *cases: (
        np.choose(np.asarray(which).astype(np.int64), cases)
        if len(cases) < 32
        else np.select([np.asarray(which) == k for k in range(len(cases))], cases)
    ),
    "reshape": lambda params, x: np.reshape(x, params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "stack": lambda params, *xs: np.stack(xs, params["axis"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "copy": lambda _, x: x,
    "stop_gradient": lambda _, x: x,
}


def _as_array(value: Any) -> Any:
    """A constant as a NumPy array; keys and other things that are no plain arrays as they are."""
    dtype = getattr(value, "dtype", None)
    if dtype is None and not isinstance(value, (bool, int, float, complex, list, tuple)):
        return None
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return value
    return np.asarray(value)
