"""One view of JAX's programs (jaxprs), the same for every supported JAX.

Everything that depends on how JAX represents a traced program is here and nowhere else: equations,
literals, the programs inside an equation, and how the arguments of `scan`, `while` and their kin
are laid out. JAX 0.12 has no separate closed program and describes `scan` by flat trees; both
forms read the same from outside.

    >>> program = trace(lambda x: jnp.sin(x) * 2, [jax.ShapeDtypeStruct((3,), "float32")])
    >>> [equation.primitive.name for equation in program.equations]
    ['sin', 'mul']
"""

import ast
import functools
import itertools
import linecache
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core as jax_core

Equation = Any
Variable = Any

# calls that only wrap a program: parameter that holds it
TRANSPARENT = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "eval_jaxpr": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
    "remat_opt": "fwd_jaxpr",
}

PLAIN_CALLS = {"jit", "pjit", "closed_call", "core_call", "call"}

CUSTOM_RULES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


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


@dataclass(frozen=True)
class Definition:
    """Where a function was written.

    Attributes:
        name: its name.
        file: the file, or None where it is not known.
        line: the line of its first decorator or of its `def`, or None.
    """

    name: str
    file: str | None
    line: int | None


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


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal; `()` for values that are no arrays."""
    return tuple(getattr(atom.aval, "shape", ()))


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or literal, or None for values that are no arrays."""
    return getattr(atom.aval, "dtype", None)


def called_program(equation: Equation) -> Program | None:
    """The program that an equation merely calls (jit, checkpoint, custom rules), else None."""
    parameter = TRANSPARENT.get(equation.primitive.name)
    if parameter is None or parameter not in equation.params:
        return None
    return view(equation.params[parameter])


def is_users_rule(equation: Equation) -> bool:
    """Whether an equation calls a function with a `custom_vjp`, which JAX itself hardly uses."""
    return equation.primitive.name in CUSTOM_RULES - {"custom_jvp_call"}


def is_custom_rule(equation: Equation) -> bool:
    """Whether an equation calls a function with a `custom_jvp` or `custom_vjp`."""
    return equation.primitive.name in CUSTOM_RULES


def rule_constants(equation: Equation) -> int:
    """How many of a custom rule's operands, the first ones, its function closes over.

    JAX makes closed-over arrays operands; the rule says nothing about them: JAX refuses to
    differentiate a `custom_vjp` by them, and takes the derivative of a `custom_jvp` by them for 0.
    """
    return int(equation.params.get("num_consts", 0))


def definition(equation: Equation) -> Definition:
    """Where the function that a custom rule belongs to was written, as far as JAX tells.

    JAX notes the function with every traced program, as text: `relu at model.py:12`. Of a function
    made by `jax.custom_gradient` it notes its own wrapper; the equations inside tell the function.
    """
    inner = equation.params[TRANSPARENT[equation.primitive.name]]
    noted = _noted_function(inner)
    if noted is None:
        return Definition("a custom rule", None, None)
    if _is_jax_wrapper(noted):
        name = "custom_gradient" if noted.name == "wrapped_fun" else noted.name
        return _wrapped_function(view(inner)) or Definition(name, None, None)
    return noted


def _noted_function(called: Any) -> Definition | None:
    """The function that a traced program or a function yet to be traced is noted to come from."""
    information = getattr(getattr(called, "jaxpr", called), "debug_info", None)
    text = getattr(information, "func_src_info", None)
    if not isinstance(text, str) or not text:
        return None
    found = re.fullmatch(r"(.+?) at (.+):(\d+)", text)
    if found is None:
        return Definition(text.split(" at ")[0], None, None)
    return Definition(found[1], found[2], int(found[3]))


def _is_jax_wrapper(found: Definition) -> bool:
    """Whether a function was written where JAX makes custom rules, so that it wraps another."""
    return of_jax(found) and os.path.basename(found.file or "") == "custom_derivatives.py"


def _wrapped_function(inner: Program) -> Definition | None:
    """The function that JAX's wrapper calls: the frame inside the wrapper's, its first line."""
    for equation in inner.equations:
        frames = call_stack(equation)
        for (file, line, name), (_, _, outer) in itertools.pairwise(frames):
            if outer.startswith("custom_gradient."):
                return Definition(name.split(".")[-1], file, _first_line_of(file, line))
    return None


@functools.cache
def _functions_of(file: str) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, ...]:
    """Every function written in a file."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return tuple(node for node in ast.walk(tree) if isinstance(node, kinds))


def _first_line_of(file: str, line: int) -> int:
    """The first line, decorators included, of the innermost function that a line belongs to."""
    around = [node for node in _functions_of(file) if node.lineno <= line <= (node.end_lineno or 0)]
    return _first_line(max(around, key=lambda node: node.lineno)) if around else line


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(d.lineno for d in decorators)])


def functions_at(found: Definition) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of that name that start at that line, read from the file."""
    if found.file is None or found.line is None:
        return
    for node in _functions_of(found.file):
        if isinstance(node, ast.Lambda) or node.name != found.name:
            continue
        if found.line in (_first_line(node), node.lineno):
            yield node


def of_jax(found: Definition) -> bool:
    """Whether a function was written in JAX's own package."""
    return found.file is not None and os.path.abspath(found.file).startswith(JAX_FOLDER)


def is_rule_of_jax(equation: Equation) -> bool:
    """Whether a custom rule is JAX's own: neither its function nor its derivative is a user's.

    A user may also give a rule to a function of JAX, `jax.custom_vjp(jnp.sin)`. Where JAX notes
    only its own wrapper of the rule (`defjvps`), the function is JAX's with its rule if it was
    written with a decorator that makes one.
    """
    function = definition(equation)
    if not of_jax(function):
        return False
    by = [_noted_function(equation.params.get(key)) for key in ("bwd", "jvp_jaxpr_fun")]
    rules = [rule for rule in by if rule is not None]
    if any(not of_jax(rule) for rule in rules):
        return False
    if any(not _is_jax_wrapper(rule) for rule in rules):
        return True
    written = [ast.unparse(d) for node in functions_at(function) for d in node.decorator_list]
    return not written or any("custom_" in decorator for decorator in written)


def rule_places(equation: Equation) -> tuple[tuple[str | None, int | None], ...]:
    """File and line of the functions that say what a custom rule's derivative is."""
    keys = ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun")
    noted = [_noted_function(equation.params.get(key)) for key in keys]
    return tuple((found.file, found.line) for found in noted if found is not None)


JAX_FOLDER = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep


def has_foreign_rule(inner: Program) -> bool:
    """Whether a custom derivative rule that is not JAX's own occurs anywhere inside a program."""
    return any(
        (equation.primitive.name in CUSTOM_RULES and not is_rule_of_jax(equation))
        or any(has_foreign_rule(p) for p in inner_programs(equation))
        for equation in inner.equations
    )


def call_stack(equation: Equation) -> tuple[tuple[str, int, str], ...]:
    """The Python frames that an equation was traced in, as (file, line, function).

    The innermost comes first; empty where JAX keeps none.
    """
    traceback: Any = getattr(getattr(equation, "source_info", None), "traceback", None)
    try:
        return tuple((f.file_name, f.line_num, f.function_name) for f in traceback.frames)
    except AttributeError:
        return ()


def is_batched_rule(equation: Equation) -> bool:
    """Whether a custom rule was seen by `jax.vmap`, so that its operands have a batch axis more.

    The stack tells; where JAX keeps none or calls its functions otherwise, the answer is no.
    """
    return any("BatchTrace.process_custom" in name for _, _, name in call_stack(equation))


def is_batched(equation: Equation) -> bool:
    """Whether `jax.vmap` has seen an equation, a call or a loop say, and what it calls with it.

    The name stack tells; where JAX keeps none, the answer is no.
    """
    return "vmap(" in _name_stack(equation)


def is_derivative(equation: Equation) -> bool:
    """Whether an equation was traced while JAX differentiated, inside a `jax.grad` or `jax.jvp`.

    The name stack tells; where JAX keeps none, the answer is no.
    """
    return "jvp(" in _name_stack(equation)


def _name_stack(equation: Equation) -> str:
    return str(getattr(getattr(equation, "source_info", None), "name_stack", ""))


def applied_rule(equation: Equation) -> Definition | None:
    """The rule that JAX applied when it made this equation while it differentiated, or None.

    Inside a `jax.grad` or `jax.jvp` of the program a custom rule leaves no call: its forward pass
    stands in its place. The stack tells; where JAX keeps none, the answer is None.
    """
    frames = call_stack(equation)
    for number in reversed(range(len(frames))):
        name = frames[number][2]
        if name.startswith(APPLYING) and "process_custom_" in name:
            inside = frames[:number]
            break
    else:
        return None
    for file, line, name in reversed(inside):
        if os.path.basename(file) not in PLUMBING or not of_jax(Definition(name, file, line)):
            return Definition(name.split(".")[-1], file, _first_line_of(file, line))
    return None


# where JAX runs custom rules as it differentiates, and the files through which it calls them
APPLYING = ("LinearizeTrace.", "JVPTrace.")
PLUMBING = {"custom_derivatives.py", "linear_util.py", "api_util.py", "ad.py", "core.py"}


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


def while_parts(equation: Equation) -> tuple[Program, int, Program, int]:
    """Condition program and its number of constants, body program and its number of constants."""
    params = equation.params
    return (
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


def linear_solve_parts(equation: Equation) -> tuple[Program, int, int]:
    """The matvec program of a `custom_linear_solve`, its constants, and all constants' number."""
    lengths = equation.params["const_lengths"]
    matvec = view(equation.params["jaxprs"].matvec)
    return matvec, lengths.matvec, sum(lengths)


def _loop_again(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """A `while` equation at values of its operands, by `jax.lax.while_loop`."""
    condition, condition_constants, body, body_constants = while_parts(equation)
    first = condition_constants + body_constants
    for_condition, for_body = values[:condition_constants], values[condition_constants:first]

    def call(inner: Program, held: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        return run(inner, [value for _, value in inner.constants], [*held, *state])

    return list(
        jax.lax.while_loop(
            lambda state: call(condition, for_condition, list(state))[0],
            lambda state: call(body, for_body, list(state)),
            list(values[first:]),
        )
    )


def run(inner: Program, constants: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Evaluates a program, its custom derivative rules in place.

    Args:
        inner: the program.
        constants: one array per constant of the program.
        values: one array per input.

    Returns:
        One array per output.
    """
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    variables = [variable for variable, _ in inner.constants]
    environment.update(zip(variables, constants, strict=True))
    run_equations(inner.equations, environment)
    return [read(atom, environment) for atom in inner.outputs]


def run_equations(equations: Sequence[Equation], environment: dict[Any, Any]) -> None:
    """Evaluates equations in order; `environment` holds values by variable and receives them."""
    for equation in equations:
        results = evaluate(equation, [read(atom, environment) for atom in equation.invars])
        environment.update(zip(equation.outvars, results, strict=True))


def run_entered(inner: Program, constants: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The same as `run`, operation by operation where `jax.jit` has been called inside."""
    environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
    variables = [variable for variable, _ in inner.constants]
    environment.update(zip(variables, constants, strict=True))
    for equation in inner.equations:
        operands = [read(atom, environment) for atom in equation.invars]
        called = called_program(equation) if equation.primitive.name in PLAIN_CALLS else None
        if called is None:
            results = evaluate(equation, operands)
        else:
            results = run_entered(called, [value for _, value in called.constants], operands)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom, environment) for atom in inner.outputs]


def is_flat(inner: Program, limit: int) -> bool:
    """Whether it has at most so many operations, calls entered, no loops and no custom rules."""
    return _operations_left(inner, limit) >= 0


def _operations_left(inner: Program, left: int) -> int:
    """What is left of a number of operations after those of a program; negative when too few."""
    for equation in inner.equations:
        # the program inside a scatter says how to combine, and is not called
        if equation.primitive.name.startswith("scatter") or not inner_programs(equation):
            left -= 1
        elif equation.primitive.name in PLAIN_CALLS and (called := called_program(equation)):
            left = _operations_left(called, left)
        else:
            return -1
        if left < 0:
            return left
    return left


def read(atom: Any, environment: Mapping[Any, Any]) -> Any:
    """The value of an operand: a literal's own, or a variable's in the environment."""
    return literal_value(atom) if is_literal(atom) else environment[atom]


def rounds(inner: Program) -> bool:
    """Whether anything inside a program is a floating-point or complex number."""
    return any(
        any(_is_inexact(dtype_of(atom)) for atom in (*equation.invars, *equation.outvars))
        or any(rounds(p) for p in inner_programs(equation))
        for equation in inner.equations
    ) or any(_is_inexact(dtype_of(v)) for v in inner.inputs)


def _is_inexact(dtype: Any) -> bool:
    return dtype is not None and bool(jax.numpy.issubdtype(dtype, np.inexact))


def contains(inner: Program, names: frozenset[str]) -> bool:
    """Whether an operation of one of these names occurs anywhere inside a program."""
    return any(
        equation.primitive.name in names
        or any(contains(p, names) for p in inner_programs(equation))
        for equation in inner.equations
    )


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


def as_one_call(inner: Program) -> Program:
    """The same program with everything it does inside one call, which is evaluated as a whole."""
    constants = [value for _, value in inner.constants]

    def whole(*values: Any) -> tuple[Any, ...]:
        return tuple(run(inner, constants, values))

    shapes = [jax.ShapeDtypeStruct(shape_of(v), dtype_of(v)) for v in inner.inputs]
    return trace(jax.jit(whole), shapes)


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


def evaluate(
    equation: Equation, values: Sequence[Any], changed: Mapping[str, Any] | None = None
) -> list[Any]:
    """Evaluates one equation at values of its operands.

    Args:
        equation: an equation of a program.
        values: one array per operand.
        changed: parameters to put in place of the equation's own.

    Returns:
        One array per result.
    """
    primitive = equation.primitive
    params = {**equation.params, **(changed or {})}
    try:
        result = primitive.bind(*values, **primitive.get_bind_params(params))
    except TypeError:
        if primitive.name != "while":
            raise
        # JAX 0.10 cannot differentiate a loop again once a transformation has dropped the names
        # in its debug information: the loop is then built anew
        result = _loop_again(equation, values)
    return list(result) if primitive.multiple_results else [result]


def as_function(equation: Equation) -> Callable[..., list[Any]]:
    """The equation as a function of its operands, for `jax.jvp` and `jax.vjp`."""

    def call(*values: Any) -> list[Any]:
        return evaluate(equation, values)

    return call


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
        # an implementation for numbers only says nothing here: its primitive stays unknown
        return None
    types = [(shape_of(v), dtype_of(v)) for v in equation.outvars]
    fits = [(shape_of(a), dtype_of(a)) for a in inner.outputs] == types
    return inner if fits and not contains(inner, frozenset([primitive.name])) else None


def parameters(equation: Equation) -> Mapping[str, Any]:
    """The parameters of an equation."""
    params: Mapping[str, Any] = equation.params
    return params
