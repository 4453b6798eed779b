"""Where an equation comes from: the user's line, the rule's name, the call stack."""

import ast
import functools
import itertools
import linecache
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jacobians.program.primitives import primitive
from jacobians.program.view import (
    CUSTOM_RULES,
    Equation,
    Program,
    nested,
    view,
)


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


def definition(equation: Equation) -> Definition:
    """Where the function that a custom rule belongs to was written, as far as JAX tells.

    JAX notes the function with every traced program, as text: `relu at model.py:12`. Of a function
    made by `jax.custom_gradient` it notes its own wrapper; the equations inside tell the function.
    """
    inner = equation.params[str(primitive(equation.primitive.name).holds)]
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
# the package that this module's house stands in
OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def has_foreign_rule(inner: Program) -> bool:
    """Whether a custom derivative rule that is not JAX's own occurs anywhere inside a program."""
    return any(
        equation.primitive.name in CUSTOM_RULES and not is_rule_of_jax(equation)
        for equation in nested(inner)
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
