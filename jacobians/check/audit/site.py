"""A place of a program where a rule is applied, and the values it is called on there."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.audit.flow import CONSTANT, HELD, LIVE, is_float, moves
from jacobians.errors import first_line
from jacobians.program.call import short_type
from jacobians.program.source import Definition
from jacobians.program.view import Equation
from jacobians.program.wide import TiedToPrecisionError, coarsest, derivative_program, wide_rule

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


@dataclass(eq=False, kw_only=True)
class Site:
    """One place of the program where a custom rule is called.

    Attributes:
        equation: the call as traced.
        wide: the same call in the program traced for float64 inputs, or None.
        roles: one per operand: what it is made from; see `jacobians.check.audit.flow`.
        uses: one per result: what becomes of it, as far as that matters to an output.
        seen: how often it was called, as far as was looked.
        idle: how many of these calls are never differentiated: nothing that the function is
            differentiated by reaches them, or they reach no output.
        unseen: whether it is in a loop of which not every step was looked at.
        kept: differentiated calls with their values, evenly spread when there were many.
        copies: operands that were one array with an earlier operand in every call, and that one.
        within: the rules whose functions call it, None for calls by the function itself.
        batched: whether a call of it was seen by `jax.vmap`.
        not_widened: why it could not be evaluated in float64, where no operation forbids
            that; known once `in_float64` has been asked for.
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
    not_widened: str | None = None
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
            both_passes = derivative_program(self.equation, self.operands, self.results)
        except Exception:
            # a rule that raises is a verdict of the check; its operands tell the precision
            dtypes = [program.dtype_of(v) for v in self.equation.invars if _is_real_float(v)]
            return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)
        return coarsest(both_passes)

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
        except Exception as error:
            # what the rule itself raises is for the check to find
            if not self._raises(self.operands):
                self.not_widened = first_line(error)
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
                program.value_dtype(x) == program.dtype_of(v)
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
    if dtype is None or program.value_dtype(value) == dtype:
        return value
    # as an array of one: the precision of scalars is not looked at where rounding is judged
    return jnp.asarray(value)[None].astype(dtype)[0]


def _parameters(definition: Definition) -> tuple[str, ...]:
    """The parameter names of a function, read from the file that it was written in."""
    for node in program.functions_at(definition):
        return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))
    return ()
