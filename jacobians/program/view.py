"""One view of JAX's programs (jaxprs), the same for every supported JAX.

Everything that depends on how JAX represents a traced program is here and nowhere else: equations,
literals, the programs inside an equation, and how the arguments of `scan`, `while` and their kin
are laid out. JAX 0.12 has no separate closed program and describes `scan` by flat trees; both
forms read the same from outside.

    >>> program = trace(lambda x: jnp.sin(x) * 2, [jax.ShapeDtypeStruct((3,), "float32")])
    >>> [equation.primitive.name for equation in program.equations]
    ['sin', 'mul']
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jax_core

from jacobians.program.primitives import Does, does, named, primitive

Equation = Any
Variable = Any
Value = TypeVar("Value")

CUSTOM_RULES = named(Does.CUSTOM_RULE)
# what JAX raises of an operation that it cannot trace, differentiate or run here: a wrong type, a
# wrong shape, no rule, no backend, a name of a device axis that nothing binds, and NaN where
# `jax_debug_nans` looks for them
REFUSALS = (
    TypeError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    NameError,
    ArithmeticError,
)
# the same, and what an operation of another library raises of numbers that it cannot take
FAILURES = (*REFUSALS, LookupError, AssertionError)

# operations that run programs inside them as often as their operands say
LOOPS = ("scan", "while", "cond")


@dataclass(frozen=True, eq=False)
class Program:
    """A traced program: equations over variables, with the values of its constants.

    Attributes:
        inputs: its input variables.
        outputs: its outputs, variables or literals.
        equations: its equations in order.
        constants: its constant variables and their values.
    """

    inputs: tuple[Variable, ...]
    outputs: tuple[Any, ...]
    equations: tuple[Equation, ...]
    constants: tuple[tuple[Variable, Any], ...]


@dataclass(frozen=True)
class ScanParts:
    """How a `scan` equation splits its operands and results.

    Attributes:
        body: the program of one step: constants, carry, slices → carry, slices.
        constants: number of operands that every step sees whole.
        carries: number of operands carried from step to step; the first results.
        length: number of steps.
        reverse: whether it runs from the last slice to the first.
    """

    body: Program
    constants: int
    carries: int
    length: int
    reverse: bool

    def split(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """What there is for each operand: of the constants, of the carry, of the slices."""
        first_slice = self.constants + self.carries
        return (
            list(operands[: self.constants]),
            list(operands[self.constants : first_slice]),
            list(operands[first_slice:]),
        )


@dataclass(frozen=True)
class WhileParts:
    """How a `while` equation splits its operands.

    Attributes:
        condition: the program that says whether to go on: its constants, carry → a boolean.
        condition_constants: number of operands that only the condition sees.
        body: the program of one turn: its constants, carry → carry.
        body_constants: number of operands that only the body sees.
    """

    condition: Program
    condition_constants: int
    body: Program
    body_constants: int

    def split(self, operands: Sequence[Value]) -> tuple[list[Value], list[Value], list[Value]]:
        """What there is for each operand: of the condition's, the body's, and of the carry."""
        first_carry = self.condition_constants + self.body_constants
        return (
            list(operands[: self.condition_constants]),
            list(operands[self.condition_constants : first_carry]),
            list(operands[first_carry:]),
        )


def trace(f: Callable[..., Any], shapes: Sequence[Any]) -> Program:
    """Traces a function of arrays to a program.

    Args:
        f: a function of as many arrays as `shapes`, returning a tuple of arrays.
        shapes: `jax.ShapeDtypeStruct` or arrays.

    Returns:
        The program, its outputs in `jax.tree` order.

    Raises:
        Exception: whatever `f` raises while it is traced.
    """
    return view(jax.make_jaxpr(f)(*shapes))


def view(jaxpr: Any) -> Program:
    """The `Program` of a jaxpr, closed or open."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    values = getattr(jaxpr, "consts", ())
    constants = tuple(zip(inner.constvars, values, strict=False))
    return Program(tuple(inner.invars), tuple(inner.outvars), tuple(inner.eqns), constants)


def is_literal(atom: Any) -> bool:
    """Whether an operand is a literal rather than a variable."""
    return isinstance(atom, jax_core.Literal)


def literal_value(atom: Any) -> np.ndarray[Any, Any]:
    """The value of a literal operand, in the type that the program gives it."""
    value = np.asarray(atom.val)
    dtype = dtype_of(atom)
    return value if dtype is None or value.dtype == dtype else value.astype(dtype)


def value_dtype(value: Any) -> Any:
    """The dtype of an array as it stands, or what JAX makes of a Python number.

    `jnp.result_type` takes an array without a type of its own (`weak_type`) for a Python number:
    where 64-bit types are enabled it calls an array of 32 bits int64 or float64.
    """
    dtype = getattr(value, "dtype", None)
    return jnp.result_type(value) if dtype is None else dtype


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal; `()` for values that are no arrays."""
    return tuple(getattr(atom.aval, "shape", ()))


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or literal, or None for values that are no arrays."""
    return getattr(atom.aval, "dtype", None)


def called_program(equation: Equation) -> Program | None:
    """The program that an equation merely calls (jit, checkpoint, custom rules), else None."""
    parameter = primitive(equation.primitive.name).holds
    if parameter is None or parameter not in equation.params:
        return None
    return view(equation.params[parameter])


def is_users_rule(equation: Equation) -> bool:
    """Whether an equation calls a function with a `custom_vjp`, which JAX itself hardly uses."""
    return is_custom_rule(equation) and equation.primitive.name != "custom_jvp_call"


def is_custom_rule(equation: Equation) -> bool:
    """Whether an equation calls a function with a `custom_jvp` or `custom_vjp`."""
    return equation.primitive.name in CUSTOM_RULES


def rule_constants(equation: Equation) -> int:
    """How many of a custom rule's operands, the first ones, its function closes over.

    JAX makes closed-over arrays operands; the rule says nothing about them: JAX refuses to
    differentiate a `custom_vjp` by them, and takes the derivative of a `custom_jvp` by them for 0.
    """
    return int(equation.params.get("num_consts", 0))


def call_name(equation: Equation) -> str | None:
    """The name of the function that an equation calls, where it has one."""
    name = equation.params.get("name")
    return name if isinstance(name, str) else None


def scan_parts(equation: Equation) -> ScanParts:
    """The parts of a `scan` equation."""
    params = equation.params
    if "ft_in" in params:
        constants, carry, _ = (len(list(tree.vals)) for tree in params["ft_in"].unpack())
    else:
        constants, carry = params["num_consts"], params["num_carry"]
    return ScanParts(view(params["jaxpr"]), constants, carry, params["length"], params["reverse"])


def while_parts(equation: Equation) -> WhileParts:
    """The parts of a `while` equation."""
    params = equation.params
    return WhileParts(
        view(params["cond_jaxpr"]),
        params["cond_nconsts"],
        view(params["body_jaxpr"]),
        params["body_nconsts"],
    )


def branches(equation: Equation) -> tuple[Program, ...]:
    """The programs of a `cond` equation, in the order of its index operand."""
    return tuple(view(branch) for branch in equation.params["branches"])


def is_program(value: Any) -> bool:
    """Whether a parameter of an equation holds a program, closed or open."""
    return (hasattr(value, "eqns") and hasattr(value, "outvars")) or hasattr(
        getattr(value, "jaxpr", None), "eqns"
    )


def inner_programs(equation: Equation) -> tuple[Program, ...]:
    """Every program that an equation holds, whatever it does with it."""
    found = []
    for value in equation.params.values():
        # JAX 0.12 keeps what some operations hold, such as a root finder, in an object
        held = getattr(value, "params", None)
        values = list(held.values()) if isinstance(held, Mapping) else [value]
        for item in (x for v in values for x in (v if isinstance(v, (tuple, list)) else (v,))):
            if is_program(item):
                found.append(view(item))
    return tuple(found)


def nested(inner: Program) -> Iterator[Equation]:
    """The equations of a program, each followed by those of the programs inside it."""
    for equation in inner.equations:
        yield equation
        for program in inner_programs(equation):
            yield from nested(program)


def nested_programs(inner: Program) -> Iterator[Program]:
    """A program and every program inside it, at any depth."""
    yield inner
    for equation in nested(inner):
        yield from inner_programs(equation)


def linear_solve_parts(equation: Equation) -> tuple[Program, int, int]:
    """The matvec program of a `custom_linear_solve`, its constants, and all constants' number."""
    lengths = equation.params["const_lengths"]
    matvec = view(equation.params["jaxprs"].matvec)
    return matvec, lengths.matvec, sum(lengths)


def is_flat(inner: Program, limit: int) -> bool:
    """Whether it has at most so many operations, calls entered, no loops and no custom rules."""
    return _operations_left(inner, limit) >= 0


def _operations_left(inner: Program, left: int) -> int:
    """What is left of a number of operations after those of a program; negative when too few."""
    for equation in inner.equations:
        # the program inside a scatter says how to combine, and is not called
        if equation.primitive.name.startswith("scatter") or not inner_programs(equation):
            left -= 1
        elif does(equation.primitive.name, Does.CALL) and (called := called_program(equation)):
            left = _operations_left(called, left)
        else:
            return -1
        if left < 0:
            return left
    return left


def operations_written(inner: Program) -> int:
    """How many operations a program has, those of what it calls several times counted once."""
    count, waiting = 0, [inner]
    entered: set[int] = set()
    while waiting:
        current = waiting.pop()
        count += len(current.equations)
        for equation in current.equations:
            row = primitive(equation.primitive.name)
            if row.holds is None or Does.CALL not in row.what:
                continue
            called = equation.params.get(row.holds)
            if called is not None and id(called) not in entered:
                entered.add(id(called))
                waiting.append(view(called))
    return count


def rounds(inner: Program) -> bool:
    """Whether anything inside a program is a floating-point or complex number."""
    atoms = itertools.chain(
        (atom for e in nested(inner) for atom in (*e.invars, *e.outvars)),
        (variable for program in nested_programs(inner) for variable in program.inputs),
    )
    return any(is_inexact(dtype_of(atom)) for atom in atoms)


def contains(inner: Program, names: Collection[str]) -> bool:
    """Whether an operation of one of these names occurs anywhere inside a program."""
    return any(equation.primitive.name in names for equation in nested(inner))


def is_reference(atom: Any) -> bool:
    """Whether an operand is a reference to an array that is changed in place (`jax.new_ref`)."""
    return hasattr(getattr(atom, "aval", None), "inner_aval")


def touches_reference(equation: Equation) -> bool:
    """Whether an equation makes, reads or changes an array in place."""
    return any(is_reference(atom) for atom in (*equation.invars, *equation.outvars))


def differs_from_run_to_run(equation: Equation) -> bool:
    """Whether an equation may give other results for the same operands, or calls out of JAX."""
    name = equation.primitive.name
    return bool(equation.effects) or "callback" in name or name in ("rng_uniform", "infeed")


@contextmanager
def outside_any_trace(double: bool = False) -> Iterator[None]:
    """Computes at once what is computed inside, be it under `jax.jit` or `jax.vmap`.

    The one place where the analysis runs operations of JAX on numbers: a caller's trace is open
    then, and would record them.

    Args:
        double: whether there are numbers of 64 bits, which JAX may not be set to keep by now.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True) if double else nullcontext():
        yield


def has_double(equation: Equation) -> bool:
    """Whether an operand or result of an equation has 64 bits a number."""
    dtypes = [dtype_of(atom) for atom in (*equation.invars, *equation.outvars)]
    return any(dtype in _DOUBLE for dtype in dtypes if isinstance(dtype, np.dtype))


_DOUBLE = tuple(map(np.dtype, ("float64", "int64", "uint64", "complex128")))


def single_shard(equation: Equation) -> Program | None:
    """The program of a `shard_map` whose mesh has one device, so that a shard is the whole."""
    mesh, inner = equation.params.get("mesh"), equation.params.get("jaxpr")
    sizes = getattr(mesh, "shape", None)
    if inner is None or not isinstance(sizes, Mapping) or any(n != 1 for n in sizes.values()):
        return None
    return view(inner)


def implementation(equation: Equation) -> Program | None:
    """What the primitive of an equation computes, where its `impl` says so in other operations.

    None for JAX's own primitives, whose `impl` runs the primitive itself, for one that has effects,
    and for one whose `impl` needs numbers.
    """
    primitive = equation.primitive
    call = getattr(primitive, "impl", None)
    if not callable(call) or equation.effects:
        return None

    def run_impl(*values: Any) -> tuple[Any, ...]:
        result = call(*values, **equation.params)
        return tuple(result) if primitive.multiple_results else (result,)

    shapes = [jax.ShapeDtypeStruct(shape_of(a), dtype_of(a)) for a in equation.invars]
    try:
        inner = trace(run_impl, shapes)
    except Exception:
        # whatever an implementation for numbers only raises; its primitive stays unknown, and the
        # derivation notes that it has no rule for it
        return None
    types = [(shape_of(v), dtype_of(v)) for v in equation.outvars]
    fits = [(shape_of(a), dtype_of(a)) for a in inner.outputs] == types
    return inner if fits and not contains(inner, frozenset([primitive.name])) else None


def parameters(equation: Equation) -> Mapping[str, Any]:
    """The parameters of an equation."""
    params: Mapping[str, Any] = equation.params
    return params


def is_inexact(dtype: Any) -> bool:
    """Whether a dtype is floating point or complex."""
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return bool(jnp.issubdtype(dtype, jnp.inexact))
