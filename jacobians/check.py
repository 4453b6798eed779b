"""Is this hand-written derivative right? Every entry of the Jacobian that it implies is compared.

A VJP says what the Jacobian is: one call per output basis vector gives it row by row. It is
compared with the derivative of the function's own program, custom rules stripped, in float64
wherever the rule can be evaluated there, so that rounding is out of the question; and once more in
the inputs' own precision. Where one-sided derivatives differ (a kink), any value between them is
right.

A large Jacobian is compared in compressed form, without loss: the patterns of both sides are
proved, and entries that share no row are evaluated together.

    >>> check = check_vjp(my_relu, x)
    >>> bool(check), check.worst
    (False, WorstEntry(output='out', input='x', output_index=(3,), input_index=(3,), ...))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import dense
from jacobians.arguments import Call, bind, function_name, short_type
from jacobians.compare import Comparison, Entries, Oracle, compare
from jacobians.errors import ArgumentError, WrongDerivativeError
from jacobians.rule import Rule, find_rule

Array = NDArray[Any]


@dataclass(frozen=True)
class WorstEntry:
    """The entry that is furthest off, relative to its tolerance.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        output_index: index into the output.
        input_index: index into the input.
        expected: the derivative of the function.
        actual: what the rule says.
    """

    output: str
    input: str
    output_index: tuple[int, ...]
    input_index: tuple[int, ...]
    expected: float
    actual: float


@dataclass(frozen=True)
class Problem:
    """A fault of the rule as a whole.

    Attributes:
        kind: count, missing, shape, dtype, raised, non-finite, nonlinear or primal.
        message: what is wrong and what to do, in a sentence.
    """

    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class BlockCheck:
    """The comparison of one block.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        entries: how many entries were compared.
        error: largest absolute difference (at kinks: to the nearest right value).
        tolerance: the largest difference that rounding may explain, at the worst entry.
        tolerance_source: where the tolerance comes from.
        worst: the worst entry, or None for an empty block.
        wrong: how many entries are wrong.
        kinks: how many entries differ but lie between the one-sided derivatives.
        verdict: 'right', 'right (kinks)' or 'wrong'.
    """

    output: str
    input: str
    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    entries: int
    error: float
    tolerance: float
    tolerance_source: str
    worst: WorstEntry | None
    wrong: int
    kinks: int
    verdict: str

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def ok(self) -> bool:
        """Whether the block is right."""
        return self.wrong == 0


@dataclass(frozen=True, eq=False)
class VJPCheck:
    """The verdict on a hand-written derivative. True when it is right.

    Attributes:
        name: the function's name.
        rule: what was checked: 'custom_vjp', 'Gate', 'vjp=' …
        blocks: one comparison per (output leaf, input leaf).
        problems: faults of the rule as a whole.
        notes: how it was compared, and what the reader should know.
        diagnoses: explanations of what went wrong; none yet.
    """

    name: str
    rule: str
    blocks: tuple[BlockCheck, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    diagnoses: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return not self.problems and all(block.ok for block in self.blocks)

    @property
    def worst(self) -> WorstEntry | None:
        """The worst entry of all blocks: of a wrong one if there is any."""
        blocks = [b for b in self.blocks if b.worst is not None]
        if not blocks:
            return None
        return max(blocks, key=lambda b: (not b.ok, b.error / max(b.tolerance, 1e-300))).worst

    def __str__(self) -> str:
        from jacobians.report.check_text import check_text

        return check_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        from jacobians.report.check_text import check_dict

        return check_dict(self)

    def raise_if_wrong(self) -> None:
        """Raises `WrongDerivativeError` with the report when the rule is wrong."""
        if not self:
            raise WrongDerivativeError(str(self))


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    vjp: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> VJPCheck:
    """Checks a hand-written derivative, entry by entry, at the given values.

    Args:
        f: a `Gate`; a `jax.custom_vjp` or `jax.custom_jvp` function; any function that calls such
            functions inside; or, with `vjp`, any function.
        args: arrays, pytrees of arrays and Python scalars.
        vjp: `vjp(cotangent, *args)` returning one cotangent per argument (a tuple; a single
            cotangent for a single argument).
        argnums: the arguments to check; default all with floating-point leaves.
        rtol: tolerance relative to each expected entry, in place of the automatic one.
        atol: absolute tolerance, in place of the automatic one.

    Returns:
        The verdict; its truth value says whether the derivative is right.

    Raises:
        ArgumentError: there is nothing hand-written to check, the arguments do not fit, are
            abstract or complex, or the comparison would not fit in memory.
        Exception: whatever `f` itself raises. What the rule raises is a verdict.
    """
    rule, truth = find_rule(f, vjp)
    call = bind(truth, args, argnums)
    for leaf in call.inputs:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(
                f"{leaf.name} is only a shape ({leaf.short_type}); a check needs values"
            )
    dense.check_inputs(call)
    rule = rule.bound(call)
    problems = _form_problems(call, rule)
    notes = list(dense.no_derivative_notes(call))
    if problems:
        return VJPCheck(function_name(f), rule.kind, (), tuple(problems), tuple(notes))
    problems += _primal_problems(call, rule)
    oracle = Oracle(call)
    entries = compare(call, rule, oracle, notes)
    problems += [Problem(kind, message) for kind, message in entries.problems]
    blocks = tuple(_block_check(call, found, oracle, rtol, atol) for found in entries.blocks)
    return VJPCheck(function_name(f), rule.kind, blocks, tuple(problems), tuple(notes))


def _form_problems(call: Call, rule: Rule) -> list[Problem]:
    """Faults that show without numbers: count, shapes, dtypes, exceptions."""
    try:
        shapes = jax.eval_shape(lambda: rule.raw_cotangents())
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return [Problem("raised", f"the rule raised {type(error).__name__}: {first}")]
    if not isinstance(shapes, (tuple, list)):
        return [
            Problem(
                "count",
                f"the rule returned {_kind(shapes)}; it has to return a tuple with one cotangent "
                f"for each of the {len(rule.argument_names)} arguments "
                f"({', '.join(rule.argument_names)})",
            )
        ]
    if len(shapes) != len(rule.argument_names):
        plural = "" if len(shapes) == 1 else "s"
        return [
            Problem(
                "count",
                f"the rule returned {len(shapes)} cotangent{plural} for "
                f"{len(rule.argument_names)} arguments ({', '.join(rule.argument_names)}); "
                "return one for each, in order",
            )
        ]
    problems = []
    for name, expected, given in rule.expected_cotangents(shapes):
        if isinstance(given, str):
            problems.append(Problem("structure", f"the cotangent of {name} {given}"))
        elif given is None:
            continue
        elif tuple(given.shape) != expected.shape:
            problems.append(
                Problem(
                    "shape",
                    f"the cotangent of {name} has shape {list(given.shape)}, "
                    f"{name} has shape {list(expected.shape)}; they must be equal"
                    + _broadcast_hint(tuple(given.shape), expected.shape),
                )
            )
        elif given.dtype != expected.dtype and expected.differentiable:
            problems.append(
                Problem(
                    "dtype",
                    f"the cotangent of {name} is {short_type(given.shape, given.dtype)}, "
                    f"{name} is {expected.short_type}; convert it to {np.dtype(expected.dtype)}",
                )
            )
    return problems


def _broadcast_hint(given: tuple[int, ...], expected: tuple[int, ...]) -> str:
    try:
        broadcast = np.broadcast_shapes(given, expected)
    except ValueError:
        return ""
    if broadcast != given:
        return ""
    return ": sum over the axes along which it was broadcast"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    return f"an array of shape {list(shape)}" if shape is not None else f"a {type(value).__name__}"


def _primal_problems(call: Call, rule: Rule) -> list[Problem]:
    """Whether the forward pass of the rule returns what the function returns."""
    if rule.primal is None:
        return []
    mine = jax.tree.leaves(rule.primal())
    plain = call.flat(())()
    problems = []
    for leaf, a, b in zip(call.outputs, mine, plain, strict=False):
        if jnp.shape(a) != jnp.shape(b):
            problems.append(
                Problem(
                    "primal",
                    f"the forward rule returns {leaf.name} of shape {list(jnp.shape(a))}, the "
                    f"function {list(jnp.shape(b))}",
                )
            )
            continue
        if not leaf.differentiable:
            continue
        x, y = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
        eps = float(jnp.finfo(leaf.dtype).eps)
        scale = np.abs(y[np.isfinite(y)]).max(initial=0.0)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore"):
            off = ~same & ~(np.abs(x - y) <= 1e3 * eps * np.maximum(np.abs(y), 1e-3 * scale))
        if off.any():
            where = tuple(int(k) for k in np.argwhere(off)[0])
            problems.append(
                Problem(
                    "primal",
                    f"the forward rule gives {leaf.name}{list(where) if where else ''} = "
                    f"{x[where].real:.6g}, the function itself {y[where].real:.6g}: the rule's "
                    "forward pass has to return what the function returns",
                )
            )
    return problems


def _block_check(
    call: Call, found: Entries, oracle: Oracle, rtol: float | None, atol: float | None
) -> BlockCheck:
    result: Comparison = found.compared(oracle, rtol, atol)
    output, input_ = call.outputs[found.output], call.inputs[found.input]
    worst = None
    if result.at is not None:
        row, column = result.at
        worst = WorstEntry(
            output.name,
            input_.name,
            tuple(int(k) for k in np.unravel_index(row, output.shape)) if output.shape else (),
            tuple(int(k) for k in np.unravel_index(column, input_.shape)) if input_.shape else (),
            result.expected,
            result.actual,
        )
    verdict = "wrong" if result.wrong else "right (kinks)" if result.kinks else "right"
    return BlockCheck(
        output.name, input_.name, output.shape, input_.shape, found.count, result.error,
        result.tolerance, result.source, worst, result.wrong, result.kinks, verdict,
    )  # fmt: skip
