"""A function run once, and the custom rules called in it with the values that they received.

The function is traced, and its program is walked with concrete values: into what `jit`,
`checkpoint` and other rules call, through the steps of `scan` and `while`, down the branch that
`cond` takes. At every `custom_vjp` or `custom_jvp` call the operands are kept.

The function is traced a second time for inputs in float64, and the two programs are walked side by
side. A rule that takes its precision from its operands can so be called again in float64, where
rounding does not hide a mistake; one that is tied to bfloat16 or float32 by a conversion is
evaluated in float64 equation by equation.

    for site in capture(model, (params, x)).sites:
        print(site.definition.name, site.seen)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.audit.flow import CONSTANT, HELD, LIVE, UNUSED, Flow, moves, source, sources
from jacobians.check.audit.site import Site
from jacobians.errors import ArgumentError
from jacobians.program.call import Leaf, argument_names, bind, function_name, named_leaves
from jacobians.program.source import Definition
from jacobians.program.strip import has_custom_rules, run
from jacobians.program.view import Equation, Program

# of a longer loop these many steps are looked at
MAX_STEPS = 64


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
    for leaf in leaves:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(f"{leaf.name} is only a shape ({leaf.short_type}); give values")
    moving = [k for k, leaf in enumerate(leaves) if leaf.differentiable]
    if moving:
        bind(f, args)  # its messages say which argument does not fit
    held = _Held(f, leaves, jax.tree.structure(tuple(args)))
    walker, traced = held.walked(moving)
    sites, notes = list(walker.sites.values()), walker.notes
    if _differentiates(traced):
        notes.append(
            f"{function_name(f)} differentiates inside itself (jax.grad, jax.vjp or jax.jvp); "
            "there JAX has already replaced custom rules by what they say, and they cannot be "
            "found: audit the function that is differentiated"
        )
    sites, refused, note = _around_refusals(held, moving, sites)
    return Captured(
        function_name(f),
        tuple(sites),
        refused,
        tuple(walker.unreached),
        _applied(traced, sites),
        tuple(dict.fromkeys([*notes, *note])),
    )


@dataclass(frozen=True, eq=False)
class _Held:
    """A function with the leaves of its arguments."""

    function: Callable[..., Any]
    leaves: Sequence[Leaf]
    tree: Any

    def walked(self, chosen: Sequence[int]) -> "tuple[_Walker, Program]":
        """The walk through the program of these leaves, the others held at their values."""

        def flat(*values: Any) -> Any:
            given = [leaf.value for leaf in self.leaves]
            for k, value in zip(chosen, values, strict=True):
                given[k] = value
            return tuple(jax.tree.leaves(self.function(*jax.tree.unflatten(self.tree, given))))

        given = [jnp.asarray(self.leaves[k].value) for k in chosen]
        traced = program.trace(flat, given)
        # a function of integers alone is differentiated by the arrays that it closes over
        walker = _Walker(Flow(HELD if chosen else source(0)))
        if has_custom_rules(traced):
            wide = _traced_wide(flat, given, walker)
            roles = [source(number) for number in range(len(chosen))]
            walker.walk(traced, wide, given, roles, [LIVE] * len(traced.outputs), "")
        return walker, traced


def _around_refusals(
    held: _Held, moving: Sequence[int], sites: Sequence[Site]
) -> tuple[list[Site], dict[Site, str], list[str]]:
    """The sites where leaves that JAX refuses to differentiate them by are held, and a note on it.

    Also, for sites that JAX refuses all the same, why.
    """
    by = {moving[k] for site in sites for k in sources(site.refused)}
    if not by:
        return list(sites), {}, []
    listed = ", ".join(held.leaves[k].name for k in sorted(by))
    rules = list(dict.fromkeys(site.definition for site in sites if site.refused))
    notes = []
    others = [k for k in moving if k not in by]
    if others:
        again = list(held.walked(others)[0].sites.values())
        sites = [s for s in sites if s.definition not in rules]
        sites += [s for s in again if s.definition in rules]
        named = ", ".join(dict.fromkeys(rule.name for rule in rules))
        notes.append(
            f"not checked for {listed}: {named} closes over a value made from it, by which "
            "JAX refuses to differentiate; to have it differentiated, make that value an "
            "argument of the rule"
        )
    why = (
        f"JAX refuses to differentiate it: its function closes over a value made from {listed}, "
        "and the rule says nothing about it; make that value an argument of the rule "
        "(jax.closure_convert finds it)"
    )
    return list(sites), {site: why for site in sites if site.refused}, notes


def _applied(traced: Program, sites: Sequence[Site]) -> tuple[Definition, ...]:
    """The rules of users that JAX applied inside the program and that are called nowhere in it."""
    if not _differentiates(traced):
        return ()
    known = {place for site in sites for place in program.rule_places(site.equation)}
    found: dict[Definition, None] = {}
    for equation in program.nested(traced):
        rule = program.applied_rule(equation)
        if rule is not None and not program.of_jax(rule) and (rule.file, rule.line) not in known:
            found.setdefault(rule)
    return tuple(found)


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
        roles = self.flow.roles(inner, roles_given)
        uses = self.flow.uses(inner, uses_given)
        partners = self._partners(inner, wide)

        def apply(equation: Equation, values: list[Any]) -> list[Any]:
            if not self._holds_rules(equation):
                return program.evaluate(equation, values)
            return self._enter(
                equation,
                partners.get(id(equation)),
                values,
                [self.flow.role(atom, roles) for atom in equation.invars],
                [uses.get(v, UNUSED) for v in equation.outvars],
                where,
            )

        return program.run(inner, given, apply)

    def _holds_rules(self, equation: Equation) -> bool:
        found = self.known.get(id(equation))
        if found is None:
            holds = program.is_custom_rule(equation) or any(
                has_custom_rules(p) for p in program.inner_programs(equation)
            )
            found = self.known[id(equation)] = (equation, holds)
        return found[1]

    def _partners(self, inner: Program, wide: Program | None) -> dict[int, Equation]:
        """For the id of each equation with rules the one of the float64 program."""
        if wide is None:
            return {}
        mine = [e for e in inner.equations if self._holds_rules(e)]
        theirs = [e for e in wide.equations if self._holds_rules(e)]
        if len(mine) != len(theirs) or not all(map(_alike, mine, theirs)):
            return {}
        return {id(one): other for one, other in zip(mine, theirs, strict=True)}

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
            site = Site(
                equation=equation,
                wide=wide,
                roles=[CONSTANT] * len(roles),
                uses=[UNUSED] * len(uses),
            )
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
        """A `scan` step by step, or some of its steps evenly spread where there are many."""
        parts = program.scan_parts(equation)
        partner = None if wide is None else program.scan_parts(wide).body
        roles_inside = self.flow.scan_roles(equation, roles)[0]
        uses_inside = self.flow.scan_uses(equation, uses)[0]
        constants, carry, slices = parts.split(values)
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
        """A `while` turn by turn, the first ones where there are many."""
        parts = program.while_parts(equation)
        partner = None if wide is None else program.while_parts(wide).body
        roles_inside = self.flow.while_roles(equation, roles)[0]
        uses_inside = self.flow.while_uses(equation, uses)[0]
        for_condition, for_body, carry = parts.split(values)
        go_on = jax.jit(lambda state: run(parts.condition, [*for_condition, *state])[0])
        steps = 0
        while steps < MAX_STEPS and bool(go_on(carry)):
            inside = _joined(where, f"iteration {steps} of while")
            given = [*for_body, *carry]
            carry = self.walk(parts.body, partner, given, roles_inside, uses_inside, inside)
            steps += 1
        if bool(go_on(carry)):
            self._sampled(parts.body)
            self.notes.append(f"of a while loop the first {MAX_STEPS} iterations were looked at")
            carry = program.evaluate(equation, values)
        return carry

    def _sampled(self, body: Program) -> None:
        """Notes that the rules in a loop were called more often than was looked."""
        inside = {id(e) for e in program.nested(body) if program.is_custom_rule(e)}
        for key, site in self.sites.items():
            site.unseen = site.unseen or key in inside


def _differentiates(inner: Program) -> bool:
    return any(map(program.is_derivative, program.nested(inner)))


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


def _spread(length: int, most: int) -> set[int]:
    """At most so many numbers below a length, evenly spread, the first and last among them."""
    return set(
        np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist()
    )


def _joined(outer: str, inner: str) -> str:
    return f"{outer}, {inner}" if outer else inner
