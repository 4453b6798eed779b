"""The walk: from a program to the Jacobian block of every output with respect to every input.

A loop over the equations and a table of rules. For every intermediate array the walk holds, per
input, its derivative as a sum of terms (`algebra.block`); a rule gives the local terms of one
operation, composition and union do the rest. Calls are entered, short loops unrolled, and long
ones closed by a fixpoint over relations (`derive.inside`).

    derivation = derive(program)
    derivation.blocks[0, 1]        # the terms of ∂output 0 / ∂input 1
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import numpy as np

from jacobians import program
from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.affine import ZERO
from jacobians.derive.algebra.block import Terms, compose_all, identity, limited, union, wide
from jacobians.derive.algebra.normal import compose, normal
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import zeros
from jacobians.derive.facts.fits import misfit
from jacobians.derive.facts.masks import conditions, restrict
from jacobians.derive.facts.paths import fair_paths, has_more_paths, without_paths
from jacobians.derive.facts.radius import Radius
from jacobians.derive.operation import Local, Operation, restrict_index
from jacobians.derive.rules import choosing, indexing, matrices, moving, reducing
from jacobians.derive.rules.elementwise import derivative
from jacobians.derive.rules.narrowing import narrower_type
from jacobians.derive.tape import Node, Tape, Value
from jacobians.program.primitives import Does, does
from jacobians.program.view import Program, is_inexact

RULES = {**moving.RULES, **reducing.RULES, **indexing.RULES, **choosing.RULES, **matrices.RULES}
Blocks = dict[int, Terms]
Shape = tuple[int, ...]

# how many of the last operations are looked at to tell whether a call is more than one
LONG_CALL = 12

# an equation walked by entering its programs; None where they cannot be entered
Handler = Callable[["Walk", Any, list[int]], list[int] | None]


@dataclass(frozen=True)
class Inside:
    """How a walk gets inside the operations that no rule of one step says everything of.

    Attributes:
        handlers: by primitive: calls, loops and branches, entered.
        linearised: the local terms of an operation from its own linearisation, None for none.
        implemented: walks an operation by its implementation, and says whether it has one.
    """

    handlers: Mapping[str, Handler]
    linearised: Callable[["Walk", Operation, Sequence[int]], list[Local] | None]
    implemented: Callable[["Walk", Operation, Sequence[int]], bool]


@dataclass(eq=False)
class Walk:
    """The state of one walk: the tape, the blocks of every value, the notes."""

    inside: Inside
    tape: Tape = field(default_factory=Tape)
    blocks: dict[int, Blocks] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    custom: list[str] = field(default_factory=list)
    scope: tuple[str, ...] = ()
    # operations walked already; emptied where the blocks of operands are hidden
    done: dict[tuple[Any, ...], Node] = field(default_factory=dict)
    scalars: dict[tuple[Any, ...], int] = field(default_factory=dict)
    # primitives being linearised, so that one whose JVP is itself does not recur for ever
    linearising: tuple[str, ...] = ()
    # whether the program is inside a `shard_map` on one device
    single_shard: bool = False
    # by index operand and branch of a `cond`: what each of its results is there
    by_branch: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    # primitives being walked by their implementation
    implementing: tuple[str, ...] = ()
    # whether custom rules that carry no derivative stay whole, for whoever evaluates the tape and
    # differentiates that
    keep_rules: bool = False

    def note(self, sentence: str) -> None:
        """Remembers a sentence for the explanation, once."""
        self.notes.setdefault(sentence)

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a value."""
        return self.tape.values[number].shape

    def input(
        self, shape: tuple[int, ...], dtype: Any, depends: Iterable[int] | None = None
    ) -> int:
        """Numbers a new input; by default it depends on itself."""
        number = len(self.tape.values)
        own = frozenset((number,)) if depends is None else frozenset(depends)
        return self.tape.new(Value(shape, dtype, own, "input"))

    def constant(self, array: Any, radius: Radius = None) -> int:
        """Numbers a known constant, exact unless a radius is given; equal scalars get one."""
        shape = tuple(getattr(array, "shape", ()))
        dtype = getattr(array, "dtype", None)
        if shape == () and isinstance(array, np.ndarray) and radius is None:
            key = ("constant", str(dtype), array.tobytes())
            if key not in self.scalars:
                self.scalars[key] = self.tape.new(
                    Value(shape, dtype, frozenset(), "constant", constant=array)
                )
            return self.scalars[key]
        # what the caller's trace has made is known to nobody yet
        traced = isinstance(array, jax.core.Tracer)
        depends = frozenset((len(self.tape.values),)) if traced else frozenset()
        value = Value(shape, dtype, depends, "constant", constant=array, radius=radius)
        return self.tape.new(value)

    def run(self, inner: Program, operands: Sequence[int], scope: str | None = None) -> list[int]:
        """Walks a program whose inputs are these values.

        Args:
            inner: the program.
            operands: tape numbers of its inputs.
            scope: the name of the call, if it is one.

        Returns:
            Tape numbers of its outputs.
        """
        whole = any(program.touches_reference(equation) for equation in inner.equations)
        if whole:
            self.note(
                "arrays are changed in place (jax.new_ref): every output of the function that "
                "does so is taken to depend on every input of it"
            )
            inner = program.as_one_call(inner)
        first = len(self.tape.values)
        outer_scope = self.scope
        if scope is not None:
            self.scope = (*outer_scope, scope)
        apply = self.wide if whole else self.equation
        outputs = program.run(inner, operands, apply, held=self.constant)
        self.scope = outer_scope
        if scope is not None and len(outputs) == 1:
            self._remember_call(scope, operands, outputs[0], first)
        return outputs

    def _remember_call(self, name: str, operands: Sequence[int], result: int, first: int) -> None:
        """Names the result of a call after it, where the call is more than one operation."""
        name = name.lstrip("_")
        made_here = result >= first and self.tape.values[result].source == "result"
        last = (n for n in self.tape.nodes[-LONG_CALL:] if n.outputs and n.outputs[0] >= first)
        several = sum(not does(node.op, Does.WRAPS) for node in last) > 1
        if made_here and several and name.isidentifier():
            self.tape.calls[result] = name, tuple(operands)

    def equation(self, equation: Any, operands: list[int]) -> list[int]:
        """Walks one equation; returns the tape numbers of its results."""
        inner = program.called_program(equation)
        kept = (
            self.keep_rules
            and equation.primitive.name in program.CUSTOM_RULES
            and not any(self.blocks.get(number) for number in operands)
        )
        if inner is not None and not kept:
            if program.is_users_rule(equation):
                self.custom.append(program.call_name(equation) or "a custom rule")
            return self.run(inner, operands, program.call_name(equation))
        handler = self.inside.handlers.get(equation.primitive.name)
        if handler is not None:
            results = handler(self, equation, operands)
            if results is not None:
                return results
        same = self._same_before(equation, operands)
        if same is not None and same in self.done:
            return list(self.done[same].outputs)
        node = self.record(equation, operands)
        self.differentiate(node)
        if same is not None:
            self.done[same] = node
        return list(node.outputs)

    def _same_before(self, equation: Any, operands: Sequence[int]) -> tuple[Any, ...] | None:
        """What an operation computes, to recognise it when it comes again; None for a naming."""
        if equation.primitive.name == "name" or program.differs_from_run_to_run(equation):
            return None
        params = program.parameters(equation)
        key = (equation.primitive.name, tuple(operands), tuple(sorted(params.items(), key=_first)))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def record(self, equation: Any, operands: Sequence[int]) -> Node:
        """Puts an operation and its results on the tape."""
        depends = frozenset[int]().union(*(self.tape.values[k].depends for k in operands))
        first = len(self.tape.values)
        outputs = tuple(range(first, first + len(equation.outvars)))
        if program.differs_from_run_to_run(equation):
            # like an input: nobody knows it beforehand, nor is it the same at every call
            depends = depends | frozenset(outputs)
        node = Node(equation, tuple(operands), outputs, self.scope)
        for variable in equation.outvars:
            self.tape.new(
                Value(
                    program.shape_of(variable), program.dtype_of(variable), depends, "result", node
                )
            )
        self.tape.nodes.append(node)
        if node.op == "name":
            name = str(program.parameters(equation)["name"])
            self.tape.names[outputs[0]] = name
            if self.tape.values[operands[0]].source == "result":
                self.tape.names.setdefault(operands[0], name)
        return node

    def differentiate(self, node: Node) -> None:
        """Finds the blocks of an operation's results from those of its operands."""
        op = node.op
        active = tuple(k for k, number in enumerate(node.inputs) if self.blocks.get(number))
        outputs = [k for k, number in enumerate(node.outputs) if self.has_derivative(number)]
        if not active or not outputs or does(op, Does.NO_DERIVATIVE):
            return
        operation = Operation(node, self.tape, active, self.note)
        if does(op, Does.ELEMENTWISE):
            self.elementwise(operation)
        elif does(op, Does.SAME_VALUE):
            for k in active:
                if k in outputs:
                    self.blocks[node.outputs[k]] = self.blocks[node.inputs[k]]
        else:
            self.local(operation, outputs)
        narrower = narrower_type(node, self.tape)
        if narrower is not None:
            (result,) = node.outputs
            rounded = {
                source: tuple(
                    replace(t, coefficient=coefficients.narrowed(t.coefficient, *narrower))
                    for t in terms
                )
                for source, terms in self.blocks.get(result, {}).items()
            }
            if rounded:
                self.blocks[result] = rounded

    def has_derivative(self, number: int) -> bool:
        """Whether a value is of a type that carries derivatives, and not empty."""
        value = self.tape.values[number]
        return is_inexact(value.dtype) and prod(value.shape) > 0

    def elementwise(self, operation: Operation) -> None:
        """An elementwise operation: a coefficient at the output index of every term."""
        node = operation.node
        out_shape = operation.out_shapes[0]
        collected: dict[int, list[Term]] = {}
        for k in operation.active:
            zero = _zero_factor(operation, k)
            for source, terms in self.blocks[node.inputs[k]].items():
                if operation.in_shapes[k] != out_shape:
                    terms = compose_all((_stretch(out_shape, operation.in_shapes[k]),), terms)
                for term in terms:
                    scaled = _scaled(operation, k, term, zero)
                    if scaled is not None:
                        collected.setdefault(source, []).append(scaled)
        self.store(node.outputs[0], collected)

    def local(self, operation: Operation, outputs: Sequence[int]) -> None:
        """Any other operation: by its rule, by linearising it, or wide."""
        node = operation.node
        rule = RULES.get(node.op)
        if node.op == "select_n" and not self.tape.cutting:
            rule = _every_case
        if rule is not None:
            self.apply(node, rule(operation), outputs)
            return
        locals_ = self.inside.linearised(self, operation, outputs)
        if locals_ is None:
            if self.inside.implemented(self, operation, outputs):
                return
            self.note(
                f"no rule for {node.op!r}: every output of it is taken to depend on every input"
            )
            locals_ = self.wide_locals(operation, outputs)
        self.apply(node, locals_, outputs)

    def wide(self, equation: Any, operands: list[int]) -> list[int]:
        """Walks one equation without looking into it."""
        node = self.record(equation, operands)
        active = tuple(k for k, number in enumerate(node.inputs) if self.blocks.get(number))
        outputs = [k for k, number in enumerate(node.outputs) if self.has_derivative(number)]
        operation = Operation(node, self.tape, active, self.note)
        self.apply(node, self.wide_locals(operation, outputs), outputs)
        return list(node.outputs)

    def wide_locals(self, operation: Operation, outputs: Sequence[int]) -> list[Local]:
        """Local terms that say nothing: every result on every operand."""
        return [
            Local(
                o, k, wide(operation.out_shapes[o], operation.in_shapes[k], (), operation.depends())
            )
            for o in outputs
            for k in operation.active
        ]

    def apply(self, node: Node, locals_: Iterable[Local], outputs: Sequence[int]) -> None:
        """Composes local terms with the blocks of the operands and stores the results."""
        collected: dict[int, dict[int, list[Term]]] = {}
        wanted, active = set(outputs), {k for k in node.inputs if k in self.blocks}
        for item in locals_:
            if item.output not in wanted or node.inputs[item.operand] not in active:
                continue
            local = normal(item.term)
            if local is None:
                continue
            shapes = self.shape(node.outputs[item.output]), self.shape(node.inputs[item.operand])
            problem = misfit(local, *shapes)
            if problem is not None:
                self.contradiction(node.op, problem)
                local = wide(*shapes, (), self.tape.values[node.outputs[item.output]].depends)
            by_source = collected.setdefault(item.output, {})
            for source, terms in self.blocks[node.inputs[item.operand]].items():
                made = (compose(local, term) for term in terms)
                by_source.setdefault(source, []).extend(t for t in made if t is not None)
        for output, by_source in collected.items():
            self.store(node.outputs[output], by_source)

    def contradiction(self, what: str, problem: str) -> None:
        """Says that the derivation contradicts itself, where it goes on as wide as can be."""
        self.note(
            f"the derivative derived for {what!r} contradicts its types ({problem}), so that every "
            "output of it is taken to depend on every input: a fault of jacobians, please report "
            "it with the function"
        )

    def store(self, number: int, by_source: Mapping[int, Iterable[Term]]) -> None:
        """Stores the blocks of a value, merged and kept within bounds."""
        blocks: Blocks = {}
        for source, terms in by_source.items():
            told = (self.told(term) for term in terms)
            shapes = self.shape(number), self.shape(source)
            kept = union(t for t in told if t is not None)
            merged = limited(self.followed(kept, *shapes), *shapes)
            problems = [p for p in (misfit(term, *shapes) for term in merged) if p is not None]
            if self.tape.values[source].source != "input":
                problems.append("a derivative with respect to what is no input")
            if problems:
                value = self.tape.values[number]
                op = value.node.op if value.node is not None else value.source
                self.contradiction(op, problems[0])
                merged = (wide(*shapes, (), value.depends),)
            if merged:
                blocks[source] = merged
        if blocks:
            self.blocks[number] = blocks

    def told(self, term: Term) -> Term | None:
        """The term without what its coefficient proves to be 0, None where that is all of it.

        Where nothing is to be cut, its pattern: what flows, whatever it is multiplied by.
        """
        if not self.tape.cutting:
            depends = term.coefficient.depends
            return replace(term, coefficient=coefficients.opaque(depends))
        products = term.coefficient.products
        if products is None or all(p.scale != 0.0 or p.rounded for p in products):
            return term
        kept = tuple(p for p in products if p.scale != 0.0 or p.rounded)
        if not kept:
            return None
        return replace(term, coefficient=replace(term.coefficient, products=kept))

    def followed(self, terms: Terms, out_shape: Shape, in_shape: Shape) -> Terms:
        """The terms; those with far more paths than the block has entries stop following them."""
        fair = fair_paths(out_shape, in_shape)
        if not any(has_more_paths(term, fair) for term in terms):
            return terms
        lighter: list[Term] = []
        for term in terms:
            smaller, exact = (
                without_paths(term, self.tape, fair) if has_more_paths(term, fair) else (term, True)
            )
            if smaller is not None:
                lighter.append(smaller)
            if not exact:
                self.note(
                    "the paths through constant arrays with zeros are too many to follow: along "
                    "the axes that they join every output is taken to depend on every input"
                )
        return union(lighter)


def _every_case(operation: Operation) -> Iterator[Local]:
    """A select as what it reads: every case, entry by entry."""
    for k in operation.active:
        if k > 0:
            yield Local(0, k, identity(operation.out_shapes[0]))


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _stretch(out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Term:
    """The local term of an operand that broadcasts against its result."""
    same = identity(out_shape)
    inp = (
        ()
        if not in_shape
        else tuple(e if n != 1 else ZERO for e, n in zip(same.out, in_shape, strict=True))
    )
    return replace(same, inp=inp)


def _zero_factor(operation: Operation, k: int) -> Any:
    """Where the derivative by operand k is a multiple of a certain 0, or None.

    ∂(a·b)/∂a = b, ∂(a/b)/∂b = −a/b², ∂exp(a)/∂a = exp(a), ∂a²/∂a = 2a.
    """
    node = operation.node
    if node.op == "mul" or (node.op == "div" and k == 1):
        return zeros(operation.tape, node.inputs[1 - k])
    if node.op in ("exp", "exp2"):
        return zeros(operation.tape, node.outputs[0])
    return zeros(operation.tape, node.inputs[0]) if node.op == "square" else None


def _scaled(operation: Operation, k: int, term: Term, zero: Any) -> Term | None:
    """One term times the local derivative at its output index; None when that is zero."""
    if zero is not None:
        extra = conditions(~zero, restrict_index(term.out, zero.shape))
        narrowed = None if extra is None else normal(restrict(term, extra))
        if narrowed is None:
            return None
        term = narrowed
    factor = derivative(operation, k, term.out)
    numerator = operation.known(0) if operation.op == "div" and k == 1 else None
    if numerator is not None and not numerator.any():
        return None
    if factor is coefficients.ONE:
        return term
    return replace(term, coefficient=coefficients.multiply(factor, term.coefficient))
