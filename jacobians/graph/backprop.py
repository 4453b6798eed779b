"""`backprop`: the computational graph of a function at a point, and its backward pass node by node.

Forward, every node computes its value. Backward, every node multiplies the gradient that reaches
its result (*upstream*) by its *local gradient* and hands the product down to each operand; where a
value is used more than once, the products add up. That is all there is to backpropagation.

    graph = backprop(lambda x, y, z: (x + y) * z, -2.0, 5.0, -4.0)
    [(name, float(gradient)) for name, gradient in graph.gradients.items()]
    # [('x', -4.0), ('y', -4.0), ('z', 3.0)]
    print(graph)                            # the circuit and a table
    open("graph.svg", "w").write(graph.to_svg())
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.graph.backward import Tape, assemble
from jacobians.graph.build import Builder, openable, own_precision
from jacobians.graph.model import Node
from jacobians.graph.origin import finder, functions, library_functions
from jacobians.graph.wire import Wire
from jacobians.notation import show
from jacobians.program.call import Call, bind, function_name
from jacobians.program.view import Program, is_inexact

Expand = bool | str | Sequence[str]


@dataclass(frozen=True, eq=False)
class Backprop:
    """A function's computational graph at a point, with every gradient.

    Attributes:
        name: the function's name.
        nodes: inputs, constants and operations, each after what it reads.
        outputs: the wires that are the function's outputs.
        notes: what the reader has to know besides.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Wire, ...]
    notes: tuple[str, ...]
    _tape: Tape

    def __getitem__(self, name: str) -> Node:
        """The node that computes the value of this name."""
        for node in self.nodes:
            if any(wire.name == name for wire in node.outputs):
                return node
        known = ", ".join(wire.name for wire in self.wires)
        raise ArgumentError(f"the graph of {self.name} has no value {name!r}; it has {known}")

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Every value of the graph, in the order of `nodes`."""
        return tuple(wire for node in self.nodes for wire in node.outputs)

    @property
    def gradients(self) -> Mapping[str, Any]:
        """The gradient of every input that has one, by name: what `jax.grad` returns."""
        inputs = (node for node in self.nodes if node.kind == "input")
        return {node.name: node.gradient for node in inputs if node.gradient is not None}

    def group(self, name: str, nodes: Iterable[str | Node]) -> "Backprop":
        """The graph with some nodes folded into one; every gradient stays the same.

        Args:
            name: what the new node is called, `sigmoid`.
            nodes: the nodes to fold, or their names.

        Returns:
            A new graph.

        Raises:
            ArgumentError: a name is unknown, a node is no operation, or a path leaves the nodes
                and comes back, so that one node could not compute them.
        """
        chosen = [self[n] if isinstance(n, str) else n for n in nodes]
        steps = [node.step for node in chosen if node.step is not None]
        if len(steps) != len(chosen) or not chosen:
            raise ArgumentError(
                "group() folds operations: name some nodes that are neither inputs nor constants"
            )
        tape = self._tape.folded(name, steps)
        with own_precision([wire.value for wire in self.wires]):
            return Backprop(self.name, *assemble(tape), self.notes, tape)

    def replay(self, changes: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """Runs the forward pass again, with changes added to values on the way.

        The derivative of this with respect to a change *is* the gradient of that value:

            jax.grad(lambda d: graph.replay({"v3": d})[0])(0.0) == graph["v3"].gradient

        Args:
            changes: arrays to add, by the name of the value they are added to.

        Returns:
            The outputs.

        Raises:
            ArgumentError: there is no value of that name.
        """
        numbers = {wire.name: wire.number for wire in self.wires}
        for name in changes or {}:
            if name not in numbers:
                self[name]
        return self._tape.replay({numbers[name]: d for name, d in (changes or {}).items()})

    def to_svg(self) -> str:
        """The graph as an SVG image: values in green above the wires, gradients in red below."""
        return show.svg(self)

    def to_dot(self) -> str:
        """The graph in Graphviz's language, for `dot -Tsvg`."""
        return show.dot(self)

    def to_dict(self) -> dict[str, Any]:
        """The graph as JSON-ready values; see `jacobians.report.graph_data`."""
        return show.data(self)

    @cached_property
    def _text(self) -> str:
        return show.text(self)

    def __str__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self.to_svg()


def backprop(
    f: Callable[..., Any],
    *args: Any,
    cotangent: Any = None,
    argnums: int | Sequence[int] | None = None,
    expand: Expand = (),
    fold: str | Sequence[str] = (),
) -> Backprop:
    """The computational graph of `f` at `args`, with the gradient of every value in it.

    Args:
        f: a JAX function, or a `Gate`.
        args: arrays, pytrees, Python scalars; all with values.
        cotangent: the gradient to start from, of the output's structure and shapes; default 1
            for a scalar output and ones otherwise.
        argnums: the arguments that gradients flow to; default all with float leaves.
        expand: which calls and loops to open. By default a call of a jitted function, of one
            with a custom derivative, a `scan`, `while` or `cond` is one node each; name the
            functions (`"softmax"`) or operations (`"scan"`, `"step"` for what is in its steps)
            to open, or True for all of them. A function that is nothing but a call is opened.
            The functions of `jax.nn` count as calls too.
        fold: names of other plain Python functions whose calls are to be one node each. JAX tells
            calls apart by the line they are made in: two in one line that follow each other are
            one node.

    Returns:
        The graph. Gradients are JAX's own vector-Jacobian products, node by node, so custom
        rules count; formulas and structures are derived.

    Raises:
        ArgumentError: an argument has no value, the cotangent does not fit, there is nothing to
            open or fold by a name in `expand` or `fold`, or the graph has more than 2000 nodes.
        Exception: whatever `f` raises while it is traced or evaluated.
    """
    call = bind(f, args, argnums)
    _check(call)
    inner, traced = _trace(call)
    wanted = _wanted(expand, inner)
    builder = Builder(wanted, finder(_folded(fold, inner), wanted))
    numbers = [
        builder.input(jnp.asarray(call.inputs[k].value), call.inputs[k].name, k in call.selected)
        for k in traced
    ]
    outputs = builder.run(_unwrapped(inner), numbers, ())
    cotangents = _cotangents(call, cotangent)
    notes = list(builder.notes)
    shown = [leaf for leaf in call.outputs if leaf.differentiable]
    if cotangent is None and any(leaf.shape for leaf in shown):
        notes.append("the output is an array: gradients are those of the sum of its entries")
    tape = Tape(
        tuple(builder.slots),
        tuple(builder.steps),
        tuple(numbers),
        tuple(outputs),
        cotangents,
        tuple(leaf.name for leaf in call.outputs),
    ).with_calls_folded()
    nodes, ends = assemble(tape)
    notes += _not_numbers(nodes)
    return Backprop(function_name(f), nodes, ends, tuple(notes), tape)


def _not_numbers(nodes: Sequence[Node]) -> list[str]:
    """Where a NaN is first made, forward and backward: what everybody looks for."""
    notes = []
    for node in nodes:
        if any(_has_nan(wire.value) for wire in node.outputs):
            notes.append(f"the first NaN of the forward pass is in {node.name} ({node.text})")
            break
    for node in reversed(nodes):
        clean = not any(_has_nan(wire.gradient) for wire in node.outputs)
        if clean and any(_has_nan(part) for part in node.downstream):
            notes.append(f"the first NaN of the backward pass is made by {node.name} ({node.text})")
            break
    return notes


def _has_nan(value: Any) -> bool:
    return is_inexact(getattr(value, "dtype", None)) and bool(jnp.isnan(value).any())


def _check(call: Call) -> None:
    missing = [leaf.name for leaf in call.inputs if leaf.value is None and not leaf.static]
    if missing:
        raise ArgumentError(
            f"backprop shows values, and {', '.join(missing)} has none (a shape only); give an "
            "array, or use explain, which needs no values"
        )
    if not any(leaf.differentiable for leaf in call.outputs):
        given = ", ".join(f"{leaf.name}: {leaf.short_type}" for leaf in call.outputs)
        raise ArgumentError(
            f"{function_name(call.function)} has no floating-point output to go back from "
            f"({given or 'no output at all'})"
        )


def _trace(call: Call) -> tuple[Program, tuple[int, ...]]:
    """The program of a call over its leaves; integers are held where it branches on them."""
    everything = tuple(k for k, leaf in enumerate(call.inputs) if not leaf.static)
    floats = tuple(k for k in everything if call.inputs[k].differentiable)
    last: Exception | None = None
    for traced in (everything, floats):
        shapes = [jax.ShapeDtypeStruct(call.inputs[k].shape, call.inputs[k].dtype) for k in traced]
        try:
            return program.trace(call.flat(traced), shapes), traced
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ) as error:
            last = error
            if traced == floats:
                break
    assert last is not None
    raise last


def _unwrapped(inner: Program) -> Program:
    """The program inside, while all of it is one call without a custom rule: a jitted function."""
    while len(inner.equations) == 1 and not inner.constants:
        equation = inner.equations[0]
        called = program.called_program(equation)
        whole = list(equation.invars) == list(inner.inputs) and list(equation.outvars) == list(
            inner.outputs
        )
        if called is None or not whole or equation.primitive.name in program.CUSTOM_RULES:
            break
        inner = called
    return inner


def _wanted(expand: Expand, inner: Program) -> Callable[[Sequence[str]], bool]:
    if isinstance(expand, bool):
        return lambda names: bool(expand)
    chosen = {expand} if isinstance(expand, str) else set(expand)
    there = sorted({*openable(inner), *library_functions(inner)})
    for name in chosen:
        if name not in there:
            raise ArgumentError(
                f"expand={name!r}: there is no such call or loop to open; "
                f"there is {', '.join(there) or 'none at all'}"
            )
    return lambda names: not chosen.isdisjoint(names)


def _folded(fold: str | Sequence[str], inner: Program) -> tuple[str, ...]:
    chosen = (fold,) if isinstance(fold, str) else tuple(fold)
    there = functions(inner) if chosen else set()
    for name in chosen:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ArgumentError(
                f"fold={name!r}: no operation was made by a Python function of that name{hint}"
            )
    return chosen


def _cotangents(call: Call, cotangent: Any) -> tuple[Any, ...]:
    """One cotangent per output leaf, None where it has no derivative."""
    if cotangent is None:
        return tuple(
            jnp.ones(leaf.shape, leaf.dtype) if leaf.differentiable else None
            for leaf in call.outputs
        )
    leaves = jax.tree.leaves(cotangent, is_leaf=lambda x: x is None)
    if len(leaves) != len(call.outputs):
        raise ArgumentError(
            f"the cotangent has {len(leaves)} leaves, the output of "
            f"{function_name(call.function)} has {len(call.outputs)}"
        )
    made = []
    for leaf, given in zip(call.outputs, leaves, strict=True):
        if not leaf.differentiable or given is None:
            made.append(jnp.zeros(leaf.shape, leaf.dtype) if leaf.differentiable else None)
            continue
        if jnp.shape(given) != leaf.shape:
            raise ArgumentError(
                f"the cotangent of {leaf.name} must have its shape, {leaf.short_type}; "
                f"got one of shape {jnp.shape(given)}"
            )
        made.append(jnp.asarray(given, leaf.dtype))
    return tuple(made)
