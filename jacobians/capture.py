"""A function run once, and the custom rules called in it with the values that they received.

The function is traced, and its program is walked with concrete values: into what `jit`,
`checkpoint` and other rules call, through the steps of `scan` and `while`, down the branch that
`cond` takes. At every `custom_vjp` or `custom_jvp` call the operands are kept.

The function is traced a second time for inputs in float64, and the two programs are walked side by
side. A rule that takes its precision from its operands can so be called again in float64, where
rounding does not hide a mistake; one that is tied to bfloat16 or float32 by a conversion is
evaluated in float64 equation by equation.

    >>> for site in capture(model, (params, x)).sites:
    ...     print(site.definition.name, site.seen)
"""

import ast
import inspect
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.arguments import bind, function_name, named_leaves, short_type
from jacobians.errors import ArgumentError
from jacobians.program import Definition, Equation, Program
from jacobians.strip import has_custom_rules, run
from jacobians.widen import TiedToPrecisionError, coarsest, derivative_program, wide_rule

# of a longer loop these many steps are looked at
MAX_STEPS = 64
# calls and bytes of operands kept for one rule at one place of the program
MAX_KEPT = 64
MAX_KEPT_BYTES = 1 << 28

_FLOAT64 = float(np.finfo(np.float64).eps)

# what an operand's derivative is to the function: nothing, for a number written in the program;
# unknown, for an array that the function closes over or makes itself; or in use
CONSTANT, HELD, MOVING = 0, 1, 2

# a value with its role
_Valued = tuple[Any, int]


@dataclass(frozen=True, eq=False)
class RuleCall:
    """One call of a custom rule.

    Attributes:
        number: its number among the calls of its site, from 1.
        values: one array per operand.
        where: the loop steps it was in, 'step 3 of scan'; empty outside loops.
    """

    number: int
    values: tuple[Any, ...]
    where: str


@dataclass(eq=False)
class Site:
    """One place of the program where a custom rule is called.

    Attributes:
        equation: the call as traced.
        wide: the same call in the program traced for float64 inputs, or None.
        seen: how often it was called, as far as was looked.
        unseen: whether it is in a loop of which not every step was looked at.
        kept: calls with their values, evenly spread when there were many.
        roles: one per operand: `CONSTANT`, `HELD` or `MOVING`.
    """

    equation: Equation
    wide: Equation | None
    roles: list[int]
    seen: int = 0
    unseen: bool = False
    kept: list[RuleCall] = field(default_factory=list)
    _every: int = 1

    @property
    def definition(self) -> Definition:
        """Where the rule's function was written."""
        return program.definition(self.equation)

    @property
    def kind(self) -> str:
        """'custom_vjp' or 'custom_jvp'."""
        return "custom_vjp" if program.is_users_rule(self.equation) else "custom_jvp"

    @property
    def types(self) -> tuple[str, ...]:
        """The operands' types in short notation."""
        operands = self.equation.invars
        return tuple(short_type(program.shape_of(v), program.dtype_of(v)) for v in operands)

    def record(self, values: Sequence[Any], roles: Sequence[int], where: str) -> None:
        """Keeps a call, dropping every other one whenever there are too many."""
        self.roles = [max(pair) for pair in zip(self.roles, roles, strict=True)]
        size = sum(getattr(v, "nbytes", 8) for v in values)
        room = max(4, min(MAX_KEPT, MAX_KEPT_BYTES // max(size, 1)))
        if self.seen % self._every == 0:
            self.kept.append(RuleCall(self.seen + 1, tuple(values), where))
        self.seen += 1
        if len(self.kept) > room:
            self.kept = self.kept[::2]
            self._every *= 2

    @cached_property
    def eps(self) -> float:
        """The coarsest unit roundoff in the rule as it was called, backward pass included."""
        try:
            return coarsest(derivative_program(self.equation))
        except Exception:
            # a rule that raises is a verdict of the check; its operands tell the precision
            dtypes = [program.dtype_of(v) for v in self.equation.invars if _is_real_float(v)]
            return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)

    @cached_property
    def in_float64(self) -> Callable[..., Any] | None:
        """The rule as a function of float64 operands, or None where there is none.

        As traced from float64 inputs; where it converts to something coarser all the same, as its
        programs say when evaluated in float64.
        """
        wide = self.wide
        try:
            with jax.enable_x64(True):
                if wide is not None and coarsest(derivative_program(wide)) <= _FLOAT64:
                    return _as_traced(wide)
            rule = wide_rule(self.equation)
            with jax.enable_x64(True):
                operands = [
                    jax.ShapeDtypeStruct(
                        program.shape_of(v),
                        np.float64 if _is_real_float(v) else program.dtype_of(v),
                    )
                    for v in self.equation.invars
                ]
                jax.eval_shape(rule, *operands)
            return rule
        except TiedToPrecisionError:
            return None
        except Exception:
            # the rule itself raises, which is for the check to find
            return None if wide is None else _as_traced(wide)

    @property
    def retraced(self) -> bool:
        """Whether numbers in the float64 rule have the precision that they were written with."""
        return self.in_float64 is not None and not isinstance(self.in_float64, jax.custom_vjp)

    def function(self) -> Callable[..., Any]:
        """The call as a function of its operands, which still has its rule.

        Operands of the types traced go through the rule as it was called, float64 ones through
        `in_float64`, or are converted where there is none.
        """
        as_called = _as_traced(self.equation)

        def call(*operands: Any) -> Any:
            exact = all(
                jnp.result_type(x) == program.dtype_of(v)
                for x, v in zip(operands, self.equation.invars, strict=True)
            )
            wide = None if exact else self.in_float64
            return (as_called if wide is None else wide)(*operands)

        names = self.operand_names()
        call.__name__ = call.__qualname__ = self.definition.name
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
        )
        return call

    def operand_names(self) -> tuple[str, ...]:
        """The operands' names: the parameters of the function where there is one for each."""
        count = len(self.equation.invars)
        names = _parameters(self.definition)
        return names if len(names) == count else tuple(f"x{k}" for k in range(count))


@dataclass(frozen=True, eq=False)
class Captured:
    """What was found in a function.

    Attributes:
        name: the function's name.
        sites: the places where a custom rule is called, in the order of their first call.
        unreached: the operations that hold a custom rule and could not be entered, by name.
        notes: sentences about what was not looked at.
    """

    name: str
    sites: tuple[Site, ...]
    unreached: tuple[str, ...]
    notes: tuple[str, ...]


def capture(f: Callable[..., Any], args: Sequence[Any]) -> Captured:
    """Runs a function once and keeps what its custom rules receive.

    Args:
        f: a JAX function of positional arguments.
        args: arrays, pytrees of arrays, Python scalars and other objects.

    Returns:
        The places where rules are called, with the values of each call.

    Raises:
        ArgumentError: an argument is only a shape, or `f` cannot be called with these.
        Exception: whatever `f` raises.
    """
    if not callable(f):
        raise ArgumentError(f"expected a function, got {f!r} of type {type(f).__name__}")
    leaves = named_leaves("args", tuple(args))
    tree = jax.tree.structure(tuple(args))
    for leaf in leaves:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(f"{leaf.name} is only a shape ({leaf.short_type}); give values")
    moving = [k for k, leaf in enumerate(leaves) if leaf.differentiable]
    if moving:
        bind(f, args)  # its messages say which argument does not fit

    def flat(*values: Any) -> Any:
        given = [leaf.value for leaf in leaves]
        for k, value in zip(moving, values, strict=True):
            given[k] = value
        return tuple(jax.tree.leaves(f(*jax.tree.unflatten(tree, given))))

    given = [jnp.asarray(leaves[k].value) for k in moving]
    traced = program.trace(flat, given)
    walker = _Walker()
    if _differentiates(traced):
        walker.notes.append(
            f"{function_name(f)} differentiates inside itself (jax.grad, jax.vjp or jax.jvp); "
            "there JAX has already replaced custom rules by what they say, and they cannot be "
            "found: audit the function that is differentiated"
        )
    if has_custom_rules(traced):
        walker.walk(traced, _traced_wide(flat, given, walker), [(v, MOVING) for v in given], "")
    return Captured(
        function_name(f), tuple(walker.sites.values()), tuple(walker.unreached),
        tuple(dict.fromkeys(walker.notes)),
    )  # fmt: skip


def _traced_wide(
    flat: Callable[..., Any], given: Sequence[Any], walker: "_Walker"
) -> Program | None:
    """The program for inputs in float64, or None with a note where the function refuses them."""
    shapes = []
    for x in given:
        complex_ = jnp.issubdtype(x.dtype, jnp.complexfloating)
        shapes.append(jax.ShapeDtypeStruct(x.shape, np.complex128 if complex_ else np.float64))
    try:
        with jax.enable_x64(True):
            return program.trace(flat, shapes)
    except Exception as error:
        walker.notes.append(
            f"the function cannot be traced in float64 ({type(error).__name__}): its rules are "
            "checked in their own precision"
        )
        return None


@dataclass(eq=False)
class _Walker:
    """Walks a program with values and keeps the calls of custom rules."""

    sites: dict[int, Site] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # results of `_holds_rules`, with the equation so that its id stays taken
    known: dict[int, tuple[Equation, bool]] = field(default_factory=dict)

    def walk(
        self, inner: Program, wide: Program | None, given: Sequence[_Valued], where: str
    ) -> list[_Valued]:
        """Evaluates a program at values with roles; returns its outputs with theirs."""
        environment: dict[Any, _Valued] = dict(zip(inner.inputs, given, strict=True))
        environment.update((v, (x, _role_of_constant(v))) for v, x in inner.constants)
        partners = self._partners(inner, wide)

        def read(atom: Any) -> _Valued:
            if program.is_literal(atom):
                return program.literal_value(atom), CONSTANT
            return environment[atom]

        for number, equation in enumerate(inner.equations):
            operands = [read(atom) for atom in equation.invars]
            if self._holds_rules(equation):
                results = self._enter(equation, partners.get(number), operands, where)
            else:
                values = program.evaluate(equation, [v for v, _ in operands])
                results = [(v, _role_after(equation, operands)) for v in values]
            for variable, (value, role) in zip(equation.outvars, results, strict=True):
                environment[variable] = (value, role if _is_float(variable) else CONSTANT)
        return [read(atom) for atom in inner.outputs]

    def _holds_rules(self, equation: Equation) -> bool:
        found = self.known.get(id(equation))
        if found is None:
            holds = program.is_custom_rule(equation) or any(
                has_custom_rules(p) for p in program.inner_programs(equation)
            )
            found = self.known[id(equation)] = (equation, holds)
        return found[1]

    def _partners(self, inner: Program, wide: Program | None) -> dict[int, Equation]:
        """For the number of each equation with rules the one of the float64 program."""
        if wide is None:
            return {}
        mine = [k for k, e in enumerate(inner.equations) if self._holds_rules(e)]
        theirs = [e for e in wide.equations if self._holds_rules(e)]
        if len(mine) != len(theirs):
            return {}
        pairs = dict(zip(mine, theirs, strict=True))
        alike = all(_alike(inner.equations[k], e) for k, e in pairs.items())
        return pairs if alike else {}

    def _enter(
        self, equation: Equation, wide: Equation | None, operands: list[_Valued], where: str
    ) -> list[_Valued]:
        """Evaluates an equation with custom rules in it."""
        name = equation.primitive.name
        called = program.called_program(equation)
        if program.is_custom_rule(equation):
            site = self.sites.get(id(equation))
            if site is None:
                site = Site(equation, wide, [CONSTANT] * len(operands))
                self.sites[id(equation)] = site
            site.record([v for v, _ in operands], [r for _, r in operands], where)
        if called is not None:
            partner = None if wide is None else program.called_program(wide)
            return self.walk(called, partner, operands, where)
        if name == "cond":
            taken = int(operands[0][0])
            choices = program.branches(equation)
            taken = min(max(taken, 0), len(choices) - 1)
            partner = None if wide is None else program.branches(wide)[taken]
            return self.walk(choices[taken], partner, operands[1:], where)
        if name == "scan":
            return self._scan(equation, wide, operands, where)
        if name == "while":
            return self._while(equation, wide, operands, where)
        self.unreached.append(name)
        values = program.evaluate(equation, [v for v, _ in operands])
        return [(v, _role_after(equation, operands)) for v in values]

    def _scan(
        self, equation: Equation, wide: Equation | None, operands: list[_Valued], where: str
    ) -> list[_Valued]:
        parts = program.scan_parts(equation)
        partner = None if wide is None else program.scan_parts(wide).body
        first_slice = parts.constants + parts.carries
        constants, carry = operands[: parts.constants], operands[parts.constants : first_slice]
        slices = operands[first_slice:]
        looked = _spread(parts.length, MAX_STEPS)
        advance = jax.jit(lambda *values: run(parts.body, values))
        roles = [CONSTANT] * (len(equation.outvars) - parts.carries)
        for step in range(max(looked, default=-1) + 1):
            place = parts.length - 1 - step if parts.reverse else step
            given = [*constants, *carry, *((x[place], role) for x, role in slices)]
            if step in looked:
                inside = f"step {step} of scan"
                results = self.walk(parts.body, partner, given, _joined(where, inside))
                carry = results[: parts.carries]
                made = [role for _, role in results[parts.carries :]]
                roles = [max(pair) for pair in zip(roles, made, strict=True)]
            else:
                values = advance(*(v for v, _ in given))[: parts.carries]
                carry = [(v, role) for v, (_, role) in zip(values, carry, strict=True)]
        if len(looked) < parts.length:
            self._sampled(parts.body)
            self.notes.append(
                f"{len(looked)} of the {parts.length} steps of a scan were looked at, evenly spread"
            )
        values = program.evaluate(equation, [v for v, _ in operands])
        return list(zip(values, [*(role for _, role in carry), *roles], strict=True))

    def _while(
        self, equation: Equation, wide: Equation | None, operands: list[_Valued], where: str
    ) -> list[_Valued]:
        condition, condition_count, body, body_count = program.while_parts(equation)
        partner = None if wide is None else program.while_parts(wide)[2]
        for_condition = [v for v, _ in operands[:condition_count]]
        for_body = operands[condition_count : condition_count + body_count]
        carry = operands[condition_count + body_count :]
        go_on = jax.jit(lambda state: run(condition, [*for_condition, *state])[0])
        steps = 0
        while steps < MAX_STEPS and bool(go_on([v for v, _ in carry])):
            inside = _joined(where, f"iteration {steps} of while")
            carry = self.walk(body, partner, [*for_body, *carry], inside)
            steps += 1
        if bool(go_on([v for v, _ in carry])):
            self._sampled(body)
            self.notes.append(f"of a while loop the first {MAX_STEPS} iterations were looked at")
            values = program.evaluate(equation, [v for v, _ in operands])
            carry = [(v, role) for v, (_, role) in zip(values, carry, strict=True)]
        return carry

    def _sampled(self, body: Program) -> None:
        """Notes that the rules in a loop were called more often than was looked."""
        inside = set(_rule_ids(body))
        for key, site in self.sites.items():
            site.unseen = site.unseen or key in inside


def _differentiates(inner: Program) -> bool:
    return any(
        program.is_derivative(equation)
        or any(_differentiates(sub) for sub in program.inner_programs(equation))
        for equation in inner.equations
    )


def _rule_ids(inner: Program) -> list[int]:
    found = []
    for equation in inner.equations:
        if program.is_custom_rule(equation):
            found.append(id(equation))
        for sub in program.inner_programs(equation):
            found += _rule_ids(sub)
    return found


def _alike(one: Equation, other: Equation) -> bool:
    """Whether two equations are the same call in programs of different precision."""
    if one.primitive.name != other.primitive.name or len(one.invars) != len(other.invars):
        return False
    shapes = ([program.shape_of(v) for v in e.invars] for e in (one, other))
    if next(shapes) != next(shapes):
        return False
    if program.is_custom_rule(one):
        return program.definition(one) == program.definition(other)
    return True


def _role_of_constant(variable: Any) -> int:
    return HELD if _is_float(variable) else CONSTANT


def _role_after(equation: Equation, operands: Sequence[_Valued]) -> int:
    if equation.primitive.name == "stop_gradient":
        return CONSTANT
    # an array is more than a number: a model may make its own weights
    least = HELD if any(program.shape_of(v) for v in equation.outvars) else CONSTANT
    return max([least, *(role for _, role in operands)])


def _is_float(variable: Any) -> bool:
    dtype = program.dtype_of(variable)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def _as_traced(equation: Equation) -> Callable[..., Any]:
    """An equation as a function of its operands, which are converted to the types traced."""

    def call(*operands: Any) -> Any:
        given = [_as_type(x, v) for x, v in zip(operands, equation.invars, strict=True)]
        results = program.evaluate(equation, given)
        return results[0] if len(results) == 1 else tuple(results)

    return call


def _is_real_float(variable: Any) -> bool:
    dtype = program.dtype_of(variable)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))


def _as_type(value: Any, variable: Any) -> Any:
    """An operand in the dtype that an equation was traced for."""
    dtype = program.dtype_of(variable)
    if dtype is None or jnp.result_type(value) == dtype:
        return value
    # as an array of one: the precision of scalars is not looked at where rounding is judged
    return jnp.asarray(value)[None].astype(dtype)[0]


def _spread(length: int, most: int) -> set[int]:
    """At most so many numbers below a length, evenly spread, the first and last among them."""
    return set(
        np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist()
    )


def _joined(outer: str, inner: str) -> str:
    return f"{outer}, {inner}" if outer else inner


def _parameters(definition: Definition) -> tuple[str, ...]:
    """The parameter names of a function, read from the file that it was written in."""
    if definition.file is None or definition.line is None:
        return ()
    try:
        tree = ast.parse("".join(linecache.getlines(definition.file)))
    except SyntaxError:
        return ()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if definition.line in (first, node.lineno) and node.name == definition.name:
                return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))
    return ()
