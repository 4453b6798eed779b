"""The linear programs of a function: what JAX itself would differentiate, traced once.

`explain` looks at a function's own program. The numbers of a Jacobian have to be those that JAX
gives, with the custom derivative rules inside the function; so the function is linearised by JAX
first, and the walk sees the program from tangents to tangents (or from cotangents to cotangents)
in which every rule has been applied. It is linear in them, and its Jacobian is the one wanted.

    plain = trace_plain(f, leaves, [0])
    linear = forward(plain)        # constants, leaves, tangents → values, tangents
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.derive.algebra.block import Terms, identity, wide
from jacobians.derive.algebra.term import flipped
from jacobians.derive.inside.handlers import INSIDE
from jacobians.derive.tape import MAX_KNOWN, Tape
from jacobians.derive.undefined import add_undefined, without_empty
from jacobians.derive.walk import Walk
from jacobians.errors import ArgumentError
from jacobians.program.view import Program

FORWARD_REFUSED = frozenset(["custom_lin"])

# programs of up to so many operations, calls entered, are differentiated operation by operation;
# longer ones where entering makes them at most so many times as long as they are written, since
# JAX differentiates a function that is called again and again only once
MAX_FLAT = 1000
MAX_LONGER = 2


@dataclass(frozen=True, eq=False)
class Plain:
    """A function of flat leaves as a program.

    Attributes:
        program: the program; its inputs are the leaves, its outputs the results, then the aux.
        constants: the values that it closes over, in this call.
        selected: positions of the leaves to differentiate with respect to.
        results: number of leading outputs to differentiate; the others are aux.
        known: positions of the leaves whose values belong to the function (index arrays).
    """

    program: Program
    selected: tuple[int, ...]
    results: int
    known: Mapping[int, Any]

    @property
    def constants(self) -> tuple[Any, ...]:
        """The values that the function closes over."""
        return tuple(value for _, value in self.program.constants)

    def known_inputs(self) -> dict[int, np.ndarray[Any, Any]]:
        """Constants and leaves whose values the analysis may use, by position among both."""
        found = {k: c for k, c in enumerate(self.constants) if is_concrete(c)}
        first = len(self.constants)
        found.update({first + k: v for k, v in self.known.items() if is_concrete(v)})
        return {k: np.asarray(v) for k, v in found.items()}

    def types(self) -> list[Any]:
        """Shapes and dtypes of constants and leaves."""
        variables = [v for v, _ in self.program.constants] + list(self.program.inputs)
        return [_type(v) for v in variables]

    def split(
        self, runtime: Sequence[Any], entered: bool = False
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The function of the selected leaves alone, and their values.

        Args:
            runtime: values of constants and leaves.
            entered: whether calls inside are laid out as their operations.

        Returns:
            A function returning (results, aux), and the values of the selected leaves.
        """
        run = program.run_entered if entered else program.run
        first = len(self.program.constants)
        constants, leaves = runtime[:first], list(runtime[first:])

        def of_selected(*values: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            everything = list(leaves)
            for k, value in zip(self.selected, values, strict=True):
                everything[k] = value
            made = run(self.program, everything, constants=constants)
            return tuple(made[: self.results]), tuple(made[self.results :])

        return of_selected, [leaves[k] for k in self.selected]


@dataclass(frozen=True, eq=False)
class Linear:
    """A program that is linear in its last inputs, the directions.

    Attributes:
        program: inputs are the runtime values (constants and leaves of the plain program), then
            the directions; outputs are the plain program's, then the images of the directions.
        runtime: number of runtime inputs.
        values: number of outputs that are the plain program's.
        transposed: whether directions are cotangents rather than tangents.
        hoisted: traced values that derivative rules close over, by variable: they belong to one
            call only.
        selected: positions of the selected leaves among the runtime inputs.
    """

    program: Program
    runtime: int
    values: int
    transposed: bool
    hoisted: tuple[tuple[Any, Any], ...] = ()
    selected: tuple[int, ...] = ()

    @property
    def directions(self) -> int:
        """The number of directions."""
        return len(self.program.inputs) - self.runtime

    @property
    def whole(self) -> Program:
        """The program with its hoisted values as further inputs, after the directions."""
        extra = tuple(variable for variable, _ in self.hoisted)
        inner = self.program
        return Program((*inner.inputs, *extra), inner.outputs, inner.equations, inner.constants)

    @cached_property
    def parts(self) -> tuple[list[Any], list[Any]]:
        """The equations that no direction reaches, and the others."""
        moving = set(self.program.inputs[self.runtime :])
        still: list[Any] = []
        moved: list[Any] = []
        for equation in self.program.equations:
            reached = any(not program.is_literal(a) and a in moving for a in equation.invars)
            (moved if reached else still).append(equation)
            if reached:
                moving.update(equation.outvars)
                moving.update(a for a in equation.invars if program.is_reference(a))
        if any(program.touches_reference(equation) for equation in moved):
            # an array that is changed in place is made and changed again where it is read later
            again = {id(e) for e in still if program.touches_reference(e)}
            again |= {id(e) for e in moved}
            moved = [e for e in self.program.equations if id(e) in again]
        return still, moved

    def at(self, runtime: Sequence[Any]) -> tuple[list[Any], Callable[..., list[Any]]]:
        """Values at a point, and the linear map there; what it needs is computed once.

        Args:
            runtime: values of constants and leaves.

        Returns:
            The plain program's outputs, and a function from directions to their images.
        """
        environment = dict((*self.program.constants, *self.hoisted))
        environment.update(zip(self.program.inputs[: self.runtime], runtime, strict=True))
        still, moved = self.parts
        program.run_equations(still, environment)

        def apply(*directions: Any) -> list[Any]:
            inside = dict(environment)
            inside.update(zip(self.program.inputs[self.runtime :], directions, strict=True))
            program.run_equations(moved, inside)
            return [program.read(a, inside) for a in self.program.outputs[self.values :]]

        outputs = self.program.outputs[: self.values]
        return [program.read(a, environment) for a in outputs], apply


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearDerivation:
    """The blocks of a linear program.

    Attributes:
        terms: terms of ∂(result)/∂(selected leaf) by their positions; zero blocks are absent.
        tape: what their coefficients refer to.
        runtime: tape numbers of the runtime inputs that are not known, by position.
        hoisted: hoisted values by tape number.
        inputs: tape numbers of all runtime inputs.
        values: tape numbers of the plain program's outputs.
        directions: tape numbers of the directions.
        moving: tape numbers of the nodes' results that depend on the directions.
        notes: sentences about operations that were treated more widely than they are.
    """

    terms: Mapping[tuple[int, int], Terms]
    tape: Tape
    runtime: Mapping[int, int]
    hoisted: Mapping[int, Any]
    inputs: tuple[int, ...]
    values: tuple[int, ...]
    directions: tuple[int, ...]
    moving: frozenset[int]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Aux:
    """What a function returns beside its result, without the arrays in it.

    Attributes:
        tree: its pytree structure.
        leaves: its leaves, None in place of every array.
    """

    tree: Any
    leaves: tuple[Any, ...]

    def filled(self, arrays: Sequence[Any]) -> Any:
        """The aux with arrays in their places."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(rest) if x is None else x for x in self.leaves])


def taken_apart(aux: Any) -> tuple[list[Any], Aux]:
    """The arrays of an aux, and the rest: names, Python numbers and whatever else it holds."""
    leaves, tree = jax.tree.flatten(aux)
    arrays = [x for x in leaves if hasattr(x, "dtype")]
    return arrays, Aux(tree, tuple(None if hasattr(x, "dtype") else x for x in leaves))


def trace_plain(
    f: Callable[..., Any], leaves: Sequence[Any], selected: Sequence[int], known: Mapping[int, Any]
) -> tuple[Plain, Any]:
    """Traces a function of flat leaves to a program.

    Args:
        f: a function of one array per leaf, returning `(results, aux)` pytrees.
        leaves: arrays, tracers or Python floats.
        selected: positions of the leaves to differentiate with respect to.
        known: leaves whose values belong to the function, by position.

    Returns:
        The program, the pytree structure of the results, and what is left of the aux.

    Raises:
        ArgumentError: a result is no array.
    """
    trees: list[Any] = []

    def flat(*values: Any) -> tuple[Any, ...]:
        results, aux = f(*values)
        results_flat, results_tree = jax.tree.flatten(results)
        for leaf in results_flat:
            if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
                raise ArgumentError(
                    f"the function returns {leaf!r} of type {type(leaf).__name__}; return arrays, "
                    "and anything else beside them with has_aux=True"
                )
        arrays, rest = taken_apart(aux)
        trees[:] = [results_tree, rest, len(results_flat)]
        return (*results_flat, *arrays)

    inner = program.trace(flat, leaves)
    return Plain(inner, tuple(selected), trees[2], known), (trees[0], trees[1])


def forward(plain: Plain) -> Linear:
    """The program from tangents of the selected leaves to tangents of the results."""
    runtime = plain.types()
    first = len(plain.program.constants)
    tangents = [runtime[first + k] for k in plain.selected]

    def pushed(*values: Any) -> tuple[Any, ...]:
        f, point = plain.split(values[: len(runtime)], entered=True)
        results, images, aux = jax.jvp(f, point, list(values[len(runtime) :]), has_aux=True)
        return (*results, *aux, *images)

    def linearised(*values: Any) -> tuple[Any, ...]:
        f, point = plain.split(values[: len(runtime)])
        results, push, aux = jax.linearize(f, *point, has_aux=True)
        return (*results, *aux, *push(*values[len(runtime) :]))

    # values and tangents of a loop come apart by `jax.linearize` alone; in a program without any,
    # `jax.jvp` gives the same operations, and is traced in a third of the time
    most = max(MAX_FLAT, MAX_LONGER * program.operations_written(plain.program))
    flat = program.is_flat(plain.program, most)
    inner = program.trace(pushed if flat else linearised, [*runtime, *tangents])
    return _linear(inner, plain, False)


def reverse(plain: Plain) -> Linear:
    """The program from cotangents of the results to cotangents of the selected leaves."""
    runtime = plain.types()
    cotangents = [_type(a) for a in plain.program.outputs[: plain.results]]

    def pulled(*values: Any) -> tuple[Any, ...]:
        f, point = plain.split(values[: len(runtime)])
        results, pull, aux = jax.vjp(f, *point, has_aux=True)
        return (*results, *aux, *pull(tuple(values[len(runtime) :])))

    inner = program.trace(pulled, [*runtime, *cotangents])
    return _linear(inner, plain, True)


def _linear(inner: Program, plain: Plain, transposed: bool) -> Linear:
    """A traced program of the runtime values and directions, its traced constants apart."""
    traced = tuple(c for c in inner.constants if isinstance(c[1], jax.core.Tracer))
    fixed = tuple(c for c in inner.constants if not isinstance(c[1], jax.core.Tracer))
    return Linear(
        Program(inner.inputs, inner.outputs, inner.equations, fixed),
        runtime=len(plain.types()),
        values=len(plain.program.outputs),
        transposed=transposed,
        hoisted=traced,
        selected=tuple(len(plain.constants) + k for k in plain.selected),
    )


def derive_linear(linear: Linear, known: Mapping[int, np.ndarray[Any, Any]]) -> LinearDerivation:
    """Derives the blocks of a linear program.

    Args:
        linear: the program.
        known: values of runtime inputs that the analysis may use, by position.

    Returns:
        The blocks by (result, selected leaf), whichever direction the program runs in.
    """
    walk = Walk(INSIDE, keep_rules=True)
    start = _walked(walk, linear, known)
    first = linear.values
    images = start.outputs[first:]
    add_undefined(walk, images, lambda other: _walked(other, linear, known).outputs[first:])
    blocks: dict[tuple[int, int], Terms] = {}
    for image, number in enumerate(images):
        if not walk.has_derivative(number):
            continue
        for direction, source in enumerate(start.directions):
            terms = without_empty(walk.blocks.get(number, {}).get(source, ()))
            if terms and linear.transposed:
                blocks[direction, image] = tuple(flipped(t) for t in terms)
            elif terms:
                blocks[image, direction] = terms
    return LinearDerivation(
        terms=blocks,
        tape=walk.tape,
        runtime=start.runtime,
        hoisted=start.hoisted,
        inputs=tuple(start.numbers[: linear.runtime]),
        values=tuple(start.outputs[:first]),
        directions=tuple(start.directions),
        moving=frozenset(number for number, block in walk.blocks.items() if block),
        notes=tuple(walk.notes),
    )


@dataclass(frozen=True, eq=False)
class _Walked:
    """Where the inputs and outputs of a linear program are on the tape of a walk.

    Attributes:
        numbers: tape numbers of all inputs.
        directions: those of the directions.
        runtime: those of the runtime inputs that are not known, by position.
        hoisted: hoisted values by tape number.
        outputs: tape numbers of the outputs.
    """

    numbers: list[int]
    directions: list[int]
    runtime: dict[int, int]
    hoisted: dict[int, Any]
    outputs: list[int]


def _walked(walk: Walk, linear: Linear, known: Mapping[int, np.ndarray[Any, Any]]) -> _Walked:
    """Walks a linear program from fresh inputs."""
    numbers: list[int] = []
    directions: list[int] = []
    runtime: dict[int, int] = {}
    for position, variable in enumerate(linear.program.inputs):
        shape, dtype = program.shape_of(variable), program.dtype_of(variable)
        if position >= linear.runtime:
            # a linear map's coefficients do not depend on what it is applied to
            number = walk.input(shape, dtype, ())
            directions.append(number)
            if walk.has_derivative(number):
                walk.blocks[number] = {number: (identity(shape),)}
        elif position in known:
            number = walk.constant(known[position])
        else:
            number = walk.input(shape, dtype)
            walk.tape.finite.add(number)
            runtime[position] = number
        numbers.append(number)
    # values of one call only are inputs that nothing is known of
    hoisted = {walk.input(program.shape_of(v), program.dtype_of(v)): c for v, c in linear.hoisted}
    outputs = walk.run(linear.whole, [*numbers, *hoisted])
    return _Walked(numbers, directions, runtime, hoisted, outputs)


def underived(linear: Linear, note: str) -> LinearDerivation:
    """The blocks of a linear program of which nothing is derived: every entry of each.

    Args:
        linear: the program.
        note: the sentence that says why.
    """
    walk = Walk(INSIDE, keep_rules=True)
    inputs, outputs = (
        [walk.input(program.shape_of(a), program.dtype_of(a)) for a in atoms]
        for atoms in (linear.program.inputs, linear.program.outputs)
    )
    runtime, directions = inputs[: linear.runtime], inputs[linear.runtime :]
    values, images = outputs[: linear.values], outputs[linear.values :]
    # nothing is known of the coefficients: they may depend on everything
    depends = frozenset(runtime)
    blocks: dict[tuple[int, int], Terms] = {}
    for image, number in enumerate(images):
        for direction, source in enumerate(directions):
            out, inp = walk.tape.values[number].shape, walk.tape.values[source].shape
            if not prod(out) * prod(inp):
                continue
            if linear.transposed:
                blocks[direction, image] = (wide(inp, out, depends=depends),)
            else:
                blocks[image, direction] = (wide(out, inp, depends=depends),)
    return LinearDerivation(
        terms=blocks,
        tape=walk.tape,
        runtime=dict(enumerate(runtime)),
        hoisted={},
        inputs=tuple(runtime),
        values=tuple(values),
        directions=tuple(directions),
        moving=frozenset(images),
        notes=(note,),
    )


def is_concrete(value: Any) -> bool:
    """Whether a value is an array whose entries can be looked at, and not too large for that."""
    if isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        return False
    dtype = getattr(value, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return int(np.prod(np.shape(value), dtype=np.float64)) <= MAX_KNOWN


def _type(atom: Any) -> Any:
    aval = atom.aval
    weak = bool(getattr(aval, "weak_type", False))
    return jax.ShapeDtypeStruct(tuple(aval.shape), aval.dtype, weak_type=weak)
