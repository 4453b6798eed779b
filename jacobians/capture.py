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

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.arguments import argument_names, bind, function_name, named_leaves, short_type
from jacobians.errors import ArgumentError
from jacobians.flow import CONSTANT, HELD, LIVE, UNUSED, Flow, is_float, moves, source, sources
from jacobians.program import Definition, Equation, Program
from jacobians.strip import has_custom_rules, run
from jacobians.widen import TiedToPrecisionError, coarsest, derivative_program, wide_rule

# of a longer loop these many steps are looked at
MAX_STEPS = 64
# calls and bytes of operands kept for one rule at one place of the program
MAX_KEPT = 64
MAX_KEPT_BYTES = 1 << 28

_FLOAT64 = float(np.finfo(np.float64).eps)


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
        roles: one per operand: what it is made from; see `jacobians.flow`.
        uses: one per result: what becomes of it, as far as that matters to an output.
        seen: how often it was called, as far as was looked.
        idle: how many of these calls are never differentiated: nothing that the function is
            differentiated by reaches them, or they reach no output.
        unseen: whether it is in a loop of which not every step was looked at.
        kept: differentiated calls with their values, evenly spread when there were many.
        copies: operands that were one array with an earlier operand in every call, and that one.
        within: the rules whose functions call it, None for calls by the function itself.
        batched: whether a call of it was seen by `jax.vmap`.
    """

    equation: Equation
    wide: Equation | None
    roles: list[int]
    uses: list[int]
    seen: int = 0
    idle: int = 0
    unseen: bool = False
    kept: list[RuleCall] = field(default_factory=list)
    copies: dict[int, int] | None = None
    within: "set[Site | None]" = field(default_factory=set)
    batched: bool = False
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

    @property
    def closed_over(self) -> int:
        """How many operands, the first ones, are values that the rule's function closes over."""
        return program.rule_constants(self.equation)

    def differentiates(self, roles: Sequence[int], uses: Sequence[int]) -> bool:
        """Whether a call with operands and results of these kinds is ever differentiated."""
        return any(map(moves, roles)) and LIVE in uses

    def record(
        self, values: Sequence[Any], roles: Sequence[int], uses: Sequence[int], where: str
    ) -> None:
        """Keeps a call, dropping every other one whenever there are too many."""
        self.seen += 1
        if not self.differentiates(roles, uses):
            self.idle += 1
            return
        self.roles = [a | b for a, b in zip(self.roles, roles, strict=True)]
        self.uses = [max(pair) for pair in zip(self.uses, uses, strict=True)]
        copies = {
            k: first
            for k, x in enumerate(values)
            if roles[k] != CONSTANT
            and (first := next(n for n, y in enumerate(values) if y is x)) < k
        }
        known = copies if self.copies is None else self.copies
        self.copies = dict(known.items() & copies.items())
        size = sum(getattr(v, "nbytes", 8) for v in values)
        room = max(4, min(MAX_KEPT, MAX_KEPT_BYTES // max(size, 1)))
        if (self.seen - self.idle - 1) % self._every == 0:
            self.kept.append(RuleCall(self.seen, tuple(values), where))
        if len(self.kept) > room:
            self.kept = self.kept[::2]
            self._every *= 2

    @cached_property
    def results(self) -> tuple[int, ...]:
        """Positions of the float results that a cotangent can come back to."""
        variables = self.equation.outvars
        return tuple(
            k for k, v in enumerate(variables) if self.uses[k] == LIVE and _is_real_float(v)
        )

    @cached_property
    def operands(self) -> tuple[int, ...]:
        """Positions of the float operands that the rule is checked with respect to.

        Not numbers written in the program, nor what the rule's function closes over unless JAX
        takes its derivative for zero; and no array of the program's own where the rule raises when
        it is differentiated by it.
        """
        most, least = self._moving_or_held, self._moving
        if most != least and self._raises(most) and not self._raises(least):
            return least
        return most

    @property
    def raising(self) -> tuple[int, ...]:
        """Positions of operands that the rule raises for, and that nothing moves."""
        return tuple(k for k in self._moving_or_held if k not in self.operands)

    @property
    def _moving(self) -> tuple[int, ...]:
        return tuple(k for k in self._moving_or_held if moves(self.roles[k]))

    @cached_property
    def _moving_or_held(self) -> tuple[int, ...]:
        first = self.closed_over
        return tuple(
            k
            for k, v in enumerate(self.equation.invars)
            if _is_real_float(v)
            and (
                self.roles[k] != CONSTANT
                if k >= first
                else self.kind == "custom_jvp" and moves(self.roles[k])
            )
        )

    def _raises(self, operands: tuple[int, ...]) -> bool:
        try:
            derivative_program(self.equation, operands, self.results)
        except Exception:
            # what it is tells the check, which calls the rule once more
            return True
        return False

    @cached_property
    def refused(self) -> int:
        """What the values are made from by which JAX refuses to differentiate the rule, a role.

        They are those that its function closes over: a `custom_vjp` always, a `custom_jvp` where
        its rule looks at them.
        """
        made_from = 0
        for role in self.roles[: self.closed_over]:
            made_from |= role if moves(role) else 0
        if made_from and self.kind == "custom_jvp" and not self._raises(self._moving_or_held):
            return 0
        return made_from & ~HELD

    @cached_property
    def eps(self) -> float:
        """The coarsest unit roundoff in the rule as it was called, backward pass included."""
        try:
            return coarsest(derivative_program(self.equation, self.operands, self.results))
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
        wide, chosen = self.wide, (self.operands, self.results)
        try:
            with jax.enable_x64(True):
                if wide is not None and coarsest(derivative_program(wide, *chosen)) <= _FLOAT64:
                    return _as_traced(wide)
            rule = wide_rule(self.equation, *chosen)
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

    def whole(self) -> Callable[..., list[Any]]:
        """The call as a function of its operands to all its results, which still has its rule.

        Operands of the types traced go through the rule as it was called, float64 ones through
        `in_float64`, or are converted where there is none.
        """
        as_called = _as_traced(self.equation)

        def call(*operands: Any) -> list[Any]:
            exact = all(
                jnp.result_type(x) == program.dtype_of(v)
                for x, v in zip(operands, self.equation.invars, strict=True)
            )
            wide = None if exact else self.in_float64
            results = (as_called if wide is None else wide)(*operands)
            return list(results) if isinstance(results, tuple) else [results]

        return call

    def function(self, copies: Mapping[int, int] | None = None) -> Callable[..., Any]:
        """The call as a function of its operands to the results that matter.

        Args:
            copies: operands that are to be the same as another one, with that one.
        """
        whole = self.whole()
        variables = self.equation.outvars
        floats = [k for k, v in enumerate(variables) if is_float(v)]
        live = [k for k in floats if self.uses[k] == LIVE]

        def call(*operands: Any) -> Any:
            given = list(operands)
            for k, original in (copies or {}).items():
                given[k] = given[original]
            results = whole(*given)
            if len(live) < len(floats):
                # with their numbers, so that a report calls them out[1] and out[3]
                return {k: results[k] for k in live}
            return results[0] if len(results) == 1 else tuple(results)

        names = self.operand_names()
        call.__name__ = call.__qualname__ = self.definition.name
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
        )
        return call

    def operand_names(self) -> tuple[str, ...]:
        """The operands' names: the parameters of the function where there is one for each."""
        first = self.closed_over
        count = len(self.equation.invars) - first
        names = _parameters(self.definition)
        if len(names) != count:
            names = tuple(f"x{k}" for k in range(count))
        return tuple(f"closed_over{k}" for k in range(first)) + names


@dataclass(frozen=True, eq=False)
class Captured:
    """What was found in a function.

    Attributes:
        name: the function's name.
        sites: the places where a custom rule is called, in the order of their first call.
        refused: for sites that JAX refuses to differentiate, whatever by: why, in words.
        unreached: the operations that hold a custom rule and could not be entered: their names,
            and whether all the rules in it are JAX's own.
        applied: rules that JAX has applied already, where the function differentiates.
        notes: sentences about what was not looked at.
    """

    name: str
    sites: tuple[Site, ...]
    refused: Mapping[Site, str]
    unreached: tuple[tuple[str, bool], ...]
    applied: tuple[Definition, ...]
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
    names = argument_names(f, args)
    leaves = [leaf for name, x in zip(names, args, strict=True) for leaf in named_leaves(name, x)]
    tree = jax.tree.structure(tuple(args))
    for leaf in leaves:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(f"{leaf.name} is only a shape ({leaf.short_type}); give values")
    moving = [k for k, leaf in enumerate(leaves) if leaf.differentiable]
    if moving:
        bind(f, args)  # its messages say which argument does not fit

    def walked(chosen: Sequence[int]) -> tuple[_Walker, Program]:
        """The walk through the program of these leaves, the others held at their values."""

        def flat(*values: Any) -> Any:
            given = [leaf.value for leaf in leaves]
            for k, value in zip(chosen, values, strict=True):
                given[k] = value
            return tuple(jax.tree.leaves(f(*jax.tree.unflatten(tree, given))))

        given = [jnp.asarray(leaves[k].value) for k in chosen]
        traced = program.trace(flat, given)
        # a function of integers alone is differentiated by the arrays that it closes over
        walker = _Walker(Flow(HELD if chosen else source(0)))
        if has_custom_rules(traced):
            wide = _traced_wide(flat, given, walker)
            roles = [source(number) for number in range(len(chosen))]
            walker.walk(traced, wide, given, roles, [LIVE] * len(traced.outputs), "")
        return walker, traced

    walker, traced = walked(moving)
    sites, notes = list(walker.sites.values()), walker.notes
    if _differentiates(traced):
        notes.append(
            f"{function_name(f)} differentiates inside itself (jax.grad, jax.vjp or jax.jvp); "
            "there JAX has already replaced custom rules by what they say, and they cannot be "
            "found: audit the function that is differentiated"
        )
    refused: dict[Site, str] = {}
    by = {moving[k] for site in sites for k in sources(site.refused)}
    if by:
        listed = ", ".join(leaves[k].name for k in sorted(by))
        rules = list(dict.fromkeys(site.definition for site in sites if site.refused))
        named = ", ".join(dict.fromkeys(rule.name for rule in rules))
        others = [k for k in moving if k not in by]
        if others:
            again = list(walked(others)[0].sites.values())
            sites = [s for s in sites if s.definition not in rules]
            sites += [s for s in again if s.definition in rules]
            notes.append(
                f"not checked for {listed}: {named} closes over a value made from it, by which "
                "JAX refuses to differentiate; to have it differentiated, make that value an "
                "argument of the rule"
            )
        for site in sites:
            if site.refused:
                refused[site] = (
                    f"JAX refuses to differentiate it: its function closes over a value made from "
                    f"{listed}, and the rule says nothing about it; make that value an argument "
                    "of the rule (jax.closure_convert finds it)"
                )
    return Captured(
        function_name(f), tuple(sites), refused, tuple(walker.unreached),
        _applied(traced, sites), tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _applied(traced: Program, sites: Sequence[Site]) -> tuple[Definition, ...]:
    """The rules of users that JAX applied inside the program and that are called nowhere in it."""
    if not _differentiates(traced):
        return ()
    known = {place for site in sites for place in program.rule_places(site.equation)}
    found: dict[Definition, None] = {}
    for equation in _all_equations(traced):
        rule = program.applied_rule(equation)
        if rule is not None and not program.of_jax(rule) and (rule.file, rule.line) not in known:
            found.setdefault(rule)
    return tuple(found)


def _all_equations(inner: Program) -> Iterator[Equation]:
    """The equations of a program and of every program inside it."""
    for equation in inner.equations:
        yield equation
        for sub in program.inner_programs(equation):
            yield from _all_equations(sub)


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

    flow: Flow
    sites: dict[int, Site] = field(default_factory=dict)
    unreached: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # results of `_holds_rules`, with the equation so that its id stays taken
    known: dict[int, tuple[Equation, bool]] = field(default_factory=dict)
    # where the walk is: the rule whose function it is in, and whether `jax.vmap` has seen that
    inside: Site | None = None
    batched: bool = False

    def walk(
        self,
        inner: Program,
        wide: Program | None,
        given: Sequence[Any],
        roles_given: Sequence[int],
        uses_given: Sequence[int],
        where: str,
    ) -> list[Any]:
        """Evaluates a program at values, with roles of the inputs and uses of the outputs."""
        environment: dict[Any, Any] = dict(zip(inner.inputs, given, strict=True))
        environment.update(inner.constants)
        roles = self.flow.roles(inner, roles_given)
        uses = self.flow.uses(inner, uses_given)
        partners = self._partners(inner, wide)
        for number, equation in enumerate(inner.equations):
            values = [program.read(atom, environment) for atom in equation.invars]
            if self._holds_rules(equation):
                kinds = (
                    [self.flow.role(atom, roles) for atom in equation.invars],
                    [uses.get(v, UNUSED) for v in equation.outvars],
                )
                results = self._enter(equation, partners.get(number), values, *kinds, where)
            else:
                results = program.evaluate(equation, values)
            environment.update(zip(equation.outvars, results, strict=True))
        return [program.read(atom, environment) for atom in inner.outputs]

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
        self,
        equation: Equation,
        wide: Equation | None,
        values: list[Any],
        roles: list[int],
        uses: list[int],
        where: str,
    ) -> list[Any]:
        """Evaluates an equation with custom rules in it."""
        outer = self.inside, self.batched
        # of what is called inside only the call itself tells
        self.batched = self.batched or program.is_batched(equation)
        try:
            if program.is_custom_rule(equation):
                self.inside = self._record(equation, wide, values, roles, uses, where)
            return self._evaluate_inside(equation, wide, values, roles, uses, where)
        finally:
            self.inside, self.batched = outer

    def _evaluate_inside(
        self,
        equation: Equation,
        wide: Equation | None,
        values: list[Any],
        roles: list[int],
        uses: list[int],
        where: str,
    ) -> list[Any]:
        """The results of an equation, with the calls of rules in its programs kept."""
        name = equation.primitive.name
        called = program.called_program(equation)
        if called is not None:
            partner = None if wide is None else program.called_program(wide)
            return self.walk(called, partner, values, roles, uses, where)
        if name == "cond":
            taken = int(values[0])
            choices = program.branches(equation)
            taken = min(max(taken, 0), len(choices) - 1)
            partner = None if wide is None else program.branches(wide)[taken]
            return self.walk(choices[taken], partner, values[1:], roles[1:], uses, where)
        if name == "scan":
            return self._scan(equation, wide, values, roles, uses, where)
        if name == "while":
            return self._while(equation, wide, values, roles, uses, where)
        if any(map(moves, roles)) and LIVE in uses:
            theirs = not any(map(program.has_foreign_rule, program.inner_programs(equation)))
            self.unreached.append((name, theirs))
        return program.evaluate(equation, values)

    def _record(
        self,
        equation: Equation,
        wide: Equation | None,
        values: list[Any],
        roles: list[int],
        uses: list[int],
        where: str,
    ) -> Site:
        """Keeps a call of a custom rule; gives the place of the program that it is of."""
        site = self.sites.get(id(equation))
        if site is None:
            site = Site(equation, wide, [CONSTANT] * len(roles), [UNUSED] * len(uses))
            self.sites[id(equation)] = site
        if self.flow.array != HELD:
            # of a function of integers the arrays stand for inputs, but not those closed over here
            roles = [min(r, HELD) if k < site.closed_over else r for k, r in enumerate(roles)]
        site.within.add(self.inside)
        site.batched = site.batched or self.batched or program.is_batched_rule(equation)
        site.record(values, roles, uses, where)
        return site

    def _scan(
        self,
        equation: Equation,
        wide: Equation | None,
        values: list[Any],
        roles: list[int],
        uses: list[int],
        where: str,
    ) -> list[Any]:
        parts = program.scan_parts(equation)
        partner = None if wide is None else program.scan_parts(wide).body
        roles_inside = self.flow.scan_roles(equation, roles)[0]
        uses_inside = self.flow.scan_uses(equation, uses)[0]
        first_slice = parts.constants + parts.carries
        constants, carry = values[: parts.constants], values[parts.constants : first_slice]
        slices = values[first_slice:]
        looked = _spread(parts.length, MAX_STEPS)
        advance = jax.jit(lambda *values: run(parts.body, values))
        for step in range(max(looked, default=-1) + 1):
            place = parts.length - 1 - step if parts.reverse else step
            given = [*constants, *carry, *(x[place] for x in slices)]
            if step in looked:
                inside = _joined(where, f"step {step} of scan")
                results = self.walk(parts.body, partner, given, roles_inside, uses_inside, inside)
            else:
                results = advance(*given)
            carry = results[: parts.carries]
        if len(looked) < parts.length:
            self._sampled(parts.body)
            self.notes.append(
                f"{len(looked)} of the {parts.length} steps of a scan were looked at, evenly spread"
            )
        return program.evaluate(equation, values)

    def _while(
        self,
        equation: Equation,
        wide: Equation | None,
        values: list[Any],
        roles: list[int],
        uses: list[int],
        where: str,
    ) -> list[Any]:
        condition, condition_count, body, body_count = program.while_parts(equation)
        partner = None if wide is None else program.while_parts(wide)[2]
        roles_inside = self.flow.while_roles(equation, roles)[0]
        uses_inside = self.flow.while_uses(equation, uses)[0]
        for_condition = values[:condition_count]
        for_body = values[condition_count : condition_count + body_count]
        carry = values[condition_count + body_count :]
        go_on = jax.jit(lambda state: run(condition, [*for_condition, *state])[0])
        steps = 0
        while steps < MAX_STEPS and bool(go_on(carry)):
            inside = _joined(where, f"iteration {steps} of while")
            carry = self.walk(body, partner, [*for_body, *carry], roles_inside, uses_inside, inside)
            steps += 1
        if bool(go_on(carry)):
            self._sampled(body)
            self.notes.append(f"of a while loop the first {MAX_STEPS} iterations were looked at")
            carry = program.evaluate(equation, values)
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
    for node in program.functions_at(definition):
        return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))
    return ()
