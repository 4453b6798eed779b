"""From a program to the steps of its graph, evaluated at a point.

The builder runs a program equation by equation and writes down each as a step over numbered wires.
A call (`softmax` under `jax.jit`, a custom rule, a `scan`) is one step, or is opened: then its own
equations are written down instead. Loops and branches are opened as they run at this point: the
branch taken, the steps made. What depends on no input is computed on the spot and is no step.

    builder = Builder(wanted=lambda names: "log_softmax" in names)
    outputs = builder.run(program, [builder.input(x, "x", active=True)], ())
    [step.operation for step in builder.steps]
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.graph.origin import Origin
from jacobians.program.view import Program, is_inexact

MAX_STEPS = 2000
# wrappers that say how a program is run, not what it is
PLAIN_CALLS = frozenset(["remat", "remat2", "checkpoint", "closed_call", "core_call", "call"])


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One operation of the graph.

    Attributes:
        operation: its name: `mul`, `softmax`, `scan`.
        kind: 'operation', 'call', 'rule' (a call with a custom derivative), 'loop' or 'group'.
        operands: numbers of the wires it reads.
        results: numbers of the wires it writes.
        call: the operation as a function of its operands, returning a list of results; JAX
            differentiates it, by its rule where it has one.
        equation: the JAX equation, where it is one.
        text: how it is written, with `{0}` for an operand; None to derive that from the equation.
        scope: names of the opened calls that it is in, outermost first.
        origin: the call of a plain Python function that it is to be folded into, or None.
    """

    operation: str
    kind: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    call: Callable[..., list[Any]]
    equation: Any = None
    text: str | None = None
    scope: tuple[str, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True, eq=False)
class Slot:
    """A numbered value while the graph is built.

    Attributes:
        value: the array.
        known: whether it depends on no input at all.
        active: whether a gradient flows to it: floating point, and dependent on a chosen input.
        name: the name of an input, or the one given with `checkpoint_name`.
    """

    value: Any
    known: bool
    active: bool
    name: str | None = None


@dataclass(eq=False)
class Builder:
    """Steps and wires of a graph in the making.

    Attributes:
        wanted: says of the names of a call (its own and its primitive's) whether it is opened.
        origin: gives the call of a plain function that an equation is to be folded into.
        slots: the wires by number.
        steps: the steps in order.
        notes: sentences for the reader.
    """

    wanted: Callable[[Sequence[str]], bool]
    origin: Callable[[Any], Origin | None] = lambda equation: None
    slots: list[Slot] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def input(self, value: Any, name: str, active: bool) -> int:
        """Numbers an input of the program."""
        return self._new(Slot(value, False, active and is_inexact(value.dtype), name))

    def constant(self, value: Any) -> int:
        """Numbers a value that depends on nothing."""
        return self._new(Slot(value, True, False))

    def run(self, inner: Program, operands: Sequence[int], scope: tuple[str, ...]) -> list[int]:
        """Writes down a program whose inputs are these wires.

        Args:
            inner: the program.
            operands: numbers of the wires that are its inputs.
            scope: names of the calls it is in.

        Returns:
            The numbers of its outputs.
        """
        return program.run(
            inner,
            operands,
            lambda equation, wires: self._equation(equation, wires, scope),
            held=lambda array: self.constant(_as_array(array)),
        )

    def _new(self, slot: Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

    def _values(self, operands: Sequence[int]) -> list[Any]:
        return [self.slots[k].value for k in operands]

    def _equation(
        self, equation: Any, operands: list[int], scope: tuple[str, ...]
    ) -> Sequence[int]:
        """Writes down an equation: as one step, opened, or not at all; gives its results' wires."""
        name = equation.primitive.name
        if name == "name":
            return self._named(str(program.parameters(equation)["name"]), equation, operands, scope)
        if all(self.slots[k].known for k in operands):
            made = program.evaluate(equation, self._values(operands))
            return [self.constant(value) for value in made]
        label = call_label(equation)
        inner = program.called_program(equation)
        if inner is None and name not in program.LOOPS:
            return self._step(
                name, "operation", operands, program.as_function(equation), scope, equation
            )
        is_rule = name in program.CUSTOM_RULES
        plain = inner is not None and not is_rule and (label is None or name in PLAIN_CALLS)
        names = [n for n in (label, name) if n is not None]
        # a call that is asked for is opened, and so is whatever it is inside of
        inside = [n for part in program.inner_programs(equation) for n in openable(part)]
        if plain or self.wanted([*names, *inside]) or self._must_open(equation, operands, names[0]):
            deeper = scope if plain else (*scope, names[0])
            if inner is not None:
                if is_rule:
                    self._compare_rule(equation, inner, operands, f"{names[0]} is opened")
                return self.run(inner, operands, deeper)
            return OPENED[name](self, equation, operands, deeper)
        if is_rule and inner is not None:
            self._compare_rule(equation, inner, operands, names[0])
        kind = (
            "rule" if is_rule or _wraps_rule(inner) else "loop" if name in program.LOOPS else "call"
        )
        if program.is_users_rule(equation):
            self.notes.setdefault(
                f"{names[0]} has a custom derivative: its local gradient is by that rule, as in "
                "jax.grad"
            )
        return self._step(names[0], kind, operands, program.as_function(equation), scope, equation)

    def _step(
        self,
        operation: str,
        kind: str,
        operands: Sequence[int],
        call: Callable[..., list[Any]],
        scope: tuple[str, ...],
        equation: Any = None,
        text: str | None = None,
    ) -> list[int]:
        """Writes down one step and runs it; gives the wires of its results."""
        values = self._values(operands)
        made = call(*values)
        known = all(self.slots[k].known for k in operands)
        if known:
            return [self.constant(value) for value in made]
        active = any(self.slots[k].active for k in operands)
        results = [
            self._new(Slot(value, False, active and is_inexact(dtype_of(value)))) for value in made
        ]
        origin = None if equation is None else self.origin(equation)
        self.steps.append(
            Step(
                operation=operation,
                kind=kind,
                operands=tuple(operands),
                results=tuple(results),
                call=call,
                equation=equation,
                text=text,
                scope=scope,
                origin=origin,
            )
        )
        if len(self.steps) > MAX_STEPS:
            raise ArgumentError(
                f"the graph has more than {MAX_STEPS} nodes; open fewer calls and loops (expand=)"
            )
        return results

    def _named(
        self, name: str, equation: Any, operands: list[int], scope: tuple[str, ...]
    ) -> Sequence[int]:
        """A `checkpoint_name`: the wire gets the name; one that has a name already gets a node."""
        slot = self.slots[operands[0]]
        if slot.known:
            return operands
        if slot.name is None:
            self.slots[operands[0]] = replace(slot, name=name)
            return operands
        results = self._step(
            "name", "operation", operands, program.as_function(equation), scope, equation
        )
        self.slots[results[0]] = replace(self.slots[results[0]], name=name)
        return results

    def _must_open(self, equation: Any, operands: Sequence[int], name: str) -> bool:
        """Whether JAX has no reverse derivative of a call because of a `while` in it."""
        active = [k for k, number in enumerate(operands) if self.slots[number].active]
        if not active or not _holds_while(equation):
            return False
        try:
            jax.eval_shape(
                lambda: pull_back(program.as_function(equation), self._values(operands), active)
            )
        except ValueError:
            self.notes.setdefault(
                f"{name} is opened: a while loop has no reverse derivative in JAX (jax.grad "
                "refuses it), but the steps it makes at this point have"
            )
            return True
        return False

    def _compare_rule(
        self, equation: Any, inner: Program, operands: Sequence[int], head: str
    ) -> None:
        """Notes when a custom rule says something else, here, than the program that it wraps."""
        values = self._values(operands)
        active = [k for k, number in enumerate(operands) if self.slots[number].active]
        if not active:
            return
        try:
            plain = pull_back(lambda *x: program.run(inner, x), values, active)
        except ValueError:
            # the rule may be there because the program has no reverse derivative (a while loop)
            return
        rule = pull_back(program.as_function(equation), values, active)
        close = (
            np.allclose(a, b, rtol=1e-2, atol=1e-5, equal_nan=True)
            for a, b in zip(rule, plain, strict=True)
        )
        if not all(close):
            self.notes.setdefault(
                f"{head}: its hand-written derivative, which jax.grad uses, differs here from that "
                "of the program it wraps (a kink, or a wrong rule: check_vjp tells)"
            )


def call_label(equation: Any) -> str | None:
    """The name of the function that an equation calls; None for lambdas and plain wrappers."""
    is_rule = equation.primitive.name in program.CUSTOM_RULES
    name = program.definition(equation).name if is_rule else program.call_name(equation)
    if name is None or "<" in name:
        return None
    return name.lstrip("_") or None


def dtype_of(value: Any) -> Any:
    """The dtype of a value, or None."""
    return getattr(value, "dtype", None)


def own_precision(values: Sequence[Any]) -> AbstractContextManager[Any]:
    """JAX's double precision where any of the values has it: a graph may outlive the setting."""
    wide = ("float64", "int64", "uint64", "complex128")
    is_wide = any(str(dtype_of(value)) in wide for value in values)
    return jax.enable_x64(True) if is_wide else nullcontext()


def pull_back(
    call: Callable[..., list[Any]],
    values: Sequence[Any],
    active: Sequence[int],
    cotangents: Sequence[Any] | None = None,
) -> tuple[Any, ...]:
    """The vector-Jacobian product of one step, by JAX.

    Args:
        call: the step as a function of its operands.
        values: the operands.
        active: positions of the operands to pull back to.
        cotangents: one per result, None for zero or where a result has no derivative; by default
            ones everywhere.

    Returns:
        One cotangent per active operand, of its shape and dtype.
    """

    def of_active(*moved: Any) -> list[Any]:
        everything = list(values)
        for k, value in zip(active, moved, strict=True):
            everything[k] = value
        return call(*everything)

    results, pull = jax.vjp(of_active, *(values[k] for k in active))
    given = [None] * len(results) if cotangents is None else cotangents
    filled: list[Any] = []
    for result, cotangent in zip(results, given, strict=True):
        if not is_inexact(dtype_of(result)):
            filled.append(np.zeros(jnp.shape(result), jax.dtypes.float0))
        elif cotangents is None:
            filled.append(jnp.ones_like(result))
        else:
            filled.append(jnp.zeros_like(result) if cotangent is None else cotangent)
    return tuple(pull(filled))


def _as_array(held: Any) -> Any:
    """What a program holds, a literal as the array of JAX that it becomes in operations."""
    return jnp.asarray(held) if isinstance(held, np.ndarray) else held


def _wraps_rule(inner: Program | None) -> bool:
    """Whether a program is nothing but the call of a custom rule."""
    return (
        inner is not None
        and len(inner.equations) == 1
        and (inner.equations[0].primitive.name in program.CUSTOM_RULES)
    )


def _holds_while(equation: Any) -> bool:
    """Whether an equation is a `while` or has one inside."""
    return equation.primitive.name == "while" or any(
        program.contains(inner, ["while"]) for inner in program.inner_programs(equation)
    )


def _open_step(
    builder: Builder,
    body: Program,
    call: Callable[..., list[Any]],
    operands: Sequence[int],
    scope: tuple[str, ...],
    number: int,
) -> list[int]:
    """One step of a loop: a node of its own, or opened in turn."""
    if builder.wanted(("step",)):
        return builder.run(body, operands, (*scope, f"step {number}"))
    return builder._step("step", "call", operands, call, scope, text=f"step {number}")


def _compiled(inner: Program) -> Callable[..., list[Any]]:
    """A program as a function that is compiled once for all the steps of a loop."""
    compiled: Callable[..., list[Any]] = jax.jit(lambda *values: program.run(inner, values))
    return compiled


def _open_scan(
    builder: Builder, equation: Any, operands: list[int], scope: tuple[str, ...]
) -> list[int]:
    """The steps of a `scan` one by one, its slices picked before and stacked after them."""
    parts = program.scan_parts(equation)
    constants, carry, stacked = parts.split(operands)
    call = _compiled(parts.body)
    outputs: dict[int, list[int]] = {}
    order = range(parts.length)
    for number in reversed(order) if parts.reverse else order:
        slices = [_pick(builder, wire, number, scope) for wire in stacked]
        wires = [*constants, *carry, *slices]
        results = _open_step(builder, parts.body, call, wires, scope, number)
        carry = results[: parts.carries]
        outputs[number] = results[parts.carries :]
    count = len(parts.body.outputs) - parts.carries
    if not parts.length:
        made = program.evaluate(equation, builder._values(operands))
        return [*carry, *(builder.constant(value) for value in made[parts.carries :])]
    stacks = [_stack(builder, [outputs[k][y] for k in order], scope) for y in range(count)]
    return [*carry, *stacks]


def _pick(builder: Builder, wire: int, number: int, scope: tuple[str, ...]) -> int:
    return builder._step(
        "index", "operation", [wire], lambda x: [x[number]], scope, text=f"{{0}}[{number}]"
    )[0]


def _stack(builder: Builder, wires: list[int], scope: tuple[str, ...]) -> int:
    def stacked(*values: Any) -> list[Any]:
        return [jnp.stack(values)]

    text = "stack(" + ", ".join(f"{{{k}}}" for k in range(len(wires))) + ")"
    return builder._step("stack", "operation", wires, stacked, scope, text=text)[0]


def _open_while(
    builder: Builder, equation: Any, operands: list[int], scope: tuple[str, ...]
) -> list[int]:
    """The turns of a `while` one by one, as many as it takes at this point."""
    parts = program.while_parts(equation)
    for_condition, for_body, carry = parts.split(operands)
    ahead, call = _compiled(parts.condition), _compiled(parts.body)
    number = 0
    while bool(ahead(*builder._values([*for_condition, *carry]))[0]):
        if number == MAX_STEPS:
            raise ArgumentError(
                f"a while loop makes more than {MAX_STEPS} steps here: too many to draw; "
                "JAX has no reverse derivative of it as one node, a scan would have"
            )
        carry = _open_step(builder, parts.body, call, [*for_body, *carry], scope, number)
        number += 1
    builder.notes.setdefault(f"the while loop makes {number} steps at this point")
    return carry


def _open_cond(
    builder: Builder, equation: Any, operands: list[int], scope: tuple[str, ...]
) -> list[int]:
    branches = program.branches(equation)
    chosen = min(max(int(builder.slots[operands[0]].value), 0), len(branches) - 1)
    builder.notes.setdefault(
        f"cond is opened: branch {chosen} of {len(branches)} (counted from 0) is taken here"
    )
    return builder.run(branches[chosen], operands[1:], scope)


OPENED: dict[str, Callable[[Builder, Any, list[int], tuple[str, ...]], list[int]]] = {
    "scan": _open_scan,
    "while": _open_while,
    "cond": _open_cond,
}


def openable(inner: Program) -> Iterator[str]:
    """The names of all calls and loops in a program, at any depth, that `expand=` understands."""
    for equation in program.nested(inner):
        name = equation.primitive.name
        if program.called_program(equation) is not None and name not in PLAIN_CALLS:
            yield call_label(equation) or name
        elif name in program.LOOPS:
            yield name
            if name != "cond":
                yield "step"
