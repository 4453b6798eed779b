"""What a hand-written derivative is, wherever it comes from.

A `Gate` has a `vjp`, a `jax.custom_vjp` function a forward and a backward rule, a function that
calls such functions is differentiated by JAX with their rules, and `vjp=` is a rule given beside
the function. `find_rule` makes one form of them all.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.errors import ArgumentError, first_line
from jacobians.gates.gate import Gate
from jacobians.program.call import (
    Call,
    Leaf,
    argument_names,
    argument_numbers,
    named_leaves,
    unit_like,
)
from jacobians.program.strip import has_custom_rules


@dataclass(frozen=True, eq=False)
class Rule:
    """A hand-written derivative, bound to a call or not yet.

    Attributes:
        kind: what it is: 'Gate', 'custom_vjp', 'custom_jvp', 'vjp=', 'rules inside'.
        pull: `pull(cotangent, *args)`: the cotangents of all arguments.
        forward: `forward(*args)`: the value that its forward pass returns, or None.
        given: the call it is bound to.
        may_skip: whether None stands for a zero cotangent, as it does for JAX.
        custom: the function with the custom rules, for JAX to differentiate, or None.
        narrowed: from the positions of some input leaves to `pull` and `forward` with respect to
            these alone, where JAX differentiates; None where a rule gives all cotangents at once.
    """

    kind: str
    pull: Callable[..., Any]
    forward: Callable[..., Any] | None = None
    given: Call | None = None
    may_skip: bool = True
    custom: Callable[..., Any] | None = None
    narrowed: Callable[[Collection[int]], tuple[Callable[..., Any], Callable[..., Any]]] | None = (
        None
    )

    def bound(self, call: Call) -> "Rule":
        """The rule bound to the values of a call, and to the inputs that are selected in it."""
        _refuse_nothing(self, call)
        if self.narrowed is None:
            return replace(self, given=call)
        pull, forward = self.narrowed(frozenset(call.selected))
        return replace(self, given=call, pull=pull, forward=forward)

    @property
    def call(self) -> Call:
        """The call that the rule is bound to."""
        assert self.given is not None
        return self.given

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The names of the function's arguments."""
        return argument_names(
            self.call.function, self._arguments([x.value for x in self.call.inputs])
        )

    @property
    def primal(self) -> Callable[[], Any] | None:
        """The value that the rule's forward pass returns, as a function of nothing, or None."""
        forward = self.forward
        if forward is None:
            return None
        return lambda: forward(*self._arguments([leaf.value for leaf in self.call.inputs]))

    def _arguments(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(jax.tree.unflatten(self.call.in_tree, list(values)))

    def raw_cotangents(self) -> Any:
        """What the rule returns for a cotangent of ones, unchecked."""
        values = [leaf.value for leaf in self.call.inputs]
        ones = [unit_like(leaf, 1.0) for leaf in self.call.outputs]
        cotangent = jax.tree.unflatten(self.call.out_tree, ones)
        return self._as_tuple(self.pull(cotangent, *self._arguments(values)))

    def refused_by_jax(self) -> str | None:
        """What JAX itself says against the rule when it differentiates the function, or None."""
        custom = self.custom
        if custom is None:
            return None
        values = self._arguments([leaf.value for leaf in self.call.inputs])
        ones = [unit_like(leaf, 1.0) for leaf in self.call.outputs]
        cotangent = jax.tree.unflatten(self.call.out_tree, ones)
        try:
            jax.eval_shape(lambda: _by_jax(custom, self.call.selected)[0](cotangent, *values))
        except Exception as error:
            return first_line(error)
        return None

    def _as_tuple(self, result: Any) -> Any:
        """A lone cotangent of a lone argument counts as a tuple of one where a rule is given."""
        alone = len(self._arguments([leaf.value for leaf in self.call.inputs])) == 1
        if alone and self.kind == "vjp=" and not isinstance(result, (tuple, list)):
            return (result,)
        return result

    def expected_cotangents(self, given: Sequence[Any]) -> Iterator[tuple[str, Leaf, Any]]:
        """Each input leaf with the cotangent returned for it: an array, None or a complaint."""
        arguments = self._arguments([leaf.value for leaf in self.call.inputs])
        position = 0
        for name, argument, cotangent in zip(self.argument_names, arguments, given, strict=True):
            leaves = named_leaves(name, argument)
            mine = self.call.inputs[position : position + len(leaves)]
            position += len(leaves)
            if cotangent is None:
                for leaf in mine:
                    if leaf.differentiable and not self.may_skip:
                        yield leaf.name, leaf, "is None; return zeros where it is zero"
                continue
            pieces = _pieces(argument, cotangent)
            if len(pieces) != len(mine):
                count = "1 leaf" if len(pieces) == 1 else f"{len(pieces)} leaves"
                what = f"has {count} where {name} has {len(mine)}; return the structure of {name}"
                yield name, mine[0], what
                continue
            for leaf, piece in zip(mine, pieces, strict=True):
                if leaf.differentiable:
                    yield leaf.name, leaf, piece

    def cotangents(self, values: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, ...]:
        """The cotangents of the selected leaves.

        Args:
            values: one value per input leaf.
            outputs: one cotangent per output leaf; those without derivative are filled in.
        """
        cotangent = jax.tree.unflatten(self.call.out_tree, list(outputs))
        arguments = self._arguments(values)
        result = self._as_tuple(self.pull(cotangent, *arguments))
        leaves: list[Any] = []
        for argument, piece in zip(arguments, result, strict=True):
            count = len(jax.tree.leaves(argument))
            pieces = [None] * count
            if piece is not None:
                pieces = _pieces(argument, piece)
            leaves.extend(pieces)
        return tuple(
            jnp.zeros(jnp.shape(values[k]), program.value_dtype(values[k]))
            if leaves[k] is None
            else leaves[k]
            for k in self.call.selected
        )


def find_rule(
    f: Callable[..., Any], vjp: Callable[..., Any] | None
) -> tuple[Rule, Callable[..., Any]]:
    """The hand-written derivative of a function, and the plain function beneath it.

    Args:
        f: a Gate, a custom_vjp or custom_jvp function, a function that calls some, or any.
        vjp: a rule given beside the function, or None.

    Returns:
        The rule, and the function to compare it with; custom rules inside that are stripped when
        it is differentiated.

    Raises:
        ArgumentError: `vjp` is no function.
    """
    if vjp is not None:
        if not callable(vjp):
            raise ArgumentError(f"vjp= must be a function (cotangent, *args), got {vjp!r}")
        return Rule("vjp=", vjp, may_skip=False), f
    if isinstance(f, Gate):
        return Rule("Gate", f.vjp, may_skip=False), f.forward
    kind = _custom_kind(f)
    if kind == "custom_vjp" and _is_plain(f):
        fwd, bwd, plain = (getattr(f, name, None) for name in ("fwd", "bwd", "fun"))
        if callable(fwd) and callable(bwd) and callable(plain):
            return (
                Rule(
                    "custom_vjp",
                    lambda cotangent, *args: bwd(fwd(*args)[1], cotangent),
                    lambda *args: fwd(*args)[0],
                    custom=f,
                ),
                plain,
            )
    pull, forward_pass = _by_jax(f)
    narrowed = functools.partial(_by_jax, f)
    return Rule(kind or "rules inside", pull, forward_pass, custom=f, narrowed=narrowed), f


def without_static(
    f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None
) -> tuple[Callable[..., Any], tuple[Any, ...], int | Sequence[int] | None]:
    """A call without the arguments that a custom rule declares to have no derivative.

    Args:
        f: any function; one with `nondiff_argnums` is wrapped.
        args: its arguments.
        argnums: positions of the arguments to differentiate, or None.

    Returns:
        The function of the others, the others, and their positions among themselves.

    Raises:
        ArgumentError: `argnums` names one that has no derivative.
    """
    declared = getattr(f, "nondiff_argnums", ()) if _custom_kind(f) is not None else ()
    # one that has a default and is not given stays at its default
    held = {k for k in map(int, declared or ()) if k < len(args)}
    if not held:
        return f, tuple(args), argnums
    kept = [k for k in range(len(args)) if k not in held]

    def function(*rest: Any) -> Any:
        everything = list(args)
        for k, value in zip(kept, rest, strict=True):
            everything[k] = value
        return f(*everything)

    parameters = list(inspect.signature(f).parameters.values())
    named: Any = function
    named.__name__ = getattr(f, "__name__", "f")
    if len(parameters) >= len(args):
        named.__signature__ = inspect.Signature([parameters[k] for k in kept])
    if argnums is not None:
        numbers = argument_numbers(argnums)
        for k in numbers:
            if k % len(args) in held:
                raise ArgumentError(
                    f"argnums={argnums!r} names argument {k}, which the rule declares to have no "
                    "derivative (nondiff_argnums); leave it out"
                )
        argnums = tuple(kept.index(k % len(args)) for k in numbers)
    named.custom_kind = _custom_kind(f)
    return function, tuple(args[k] for k in kept), argnums


def _custom_kind(f: Callable[..., Any]) -> str | None:
    if isinstance(f, jax.custom_vjp):
        return "custom_vjp"
    if isinstance(f, jax.custom_jvp):
        return "custom_jvp"
    return getattr(f, "custom_kind", None)


def _pieces(argument: Any, cotangent: Any) -> list[Any]:
    """The leaves of an argument's cotangent: None is one, except where the argument has None."""
    given, made = (
        jax.tree.leaves(tree, is_leaf=lambda x: x is None) for tree in (argument, cotangent)
    )
    if len(given) != len(made):
        return made
    return [piece for leaf, piece in zip(given, made, strict=True) if leaf is not None]


def _is_plain(f: Any) -> bool:
    """Whether a custom_vjp's rules may be called directly, with plain arrays."""
    special = ("symbolic_zeros", "nondiff_argnums", "with_logs", "with_accums")
    return isinstance(f, jax.custom_vjp) and not any(getattr(f, name, False) for name in special)


def _by_jax(
    f: Callable[..., Any], selected: Collection[int] | None = None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cotangents and value as JAX computes them, with whatever custom rules `f` calls.

    Args:
        f: the function.
        selected: positions of the leaves of its arguments to differentiate with respect to; None
            for all that have a derivative. A rule may refuse to be differentiated by the others.
    """

    def linearised(args: Sequence[Any]) -> tuple[Any, Callable[..., Any], list[int], Any, int]:
        leaves, tree = jax.tree.flatten(tuple(args))
        moving = [k for k in _moving(args) if selected is None or k in selected]
        value, backward = jax.vjp(_of_moving(f, leaves, tree, moving), *(leaves[k] for k in moving))
        return value, backward, moving, tree, len(leaves)

    def forward(*args: Any) -> Any:
        return linearised(args)[0]

    def pull(cotangent: Any, *args: Any) -> Any:
        _, backward, moving, tree, count = linearised(args)
        made: list[Any] = [None] * count
        for k, piece in zip(moving, backward(cotangent), strict=True):
            made[k] = piece
        if any(piece is None for piece in made):
            return _with_gaps(tree, made)
        return tuple(jax.tree.unflatten(tree, made))

    return pull, forward


def _of_moving(
    f: Callable[..., Any], leaves: Sequence[Any], tree: Any, moving: Sequence[int]
) -> Callable[..., Any]:
    def of_moving(*values: Any) -> Any:
        everything = list(leaves)
        for k, value in zip(moving, values, strict=True):
            everything[k] = value
        return f(*jax.tree.unflatten(tree, everything))

    return of_moving


def _moving(args: Sequence[Any]) -> list[int]:
    """Positions of the leaves that JAX differentiates with respect to."""
    return [k for k, leaf in enumerate(jax.tree.leaves(tuple(args))) if _moves(leaf)]


def _with_gaps(tree: Any, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Cotangents as a tuple of lists of leaves, None where an input has no derivative."""
    count = [t.num_leaves for t in tree.children()]
    result, position = [], 0
    for n in count:
        result.append(list(leaves[position : position + n]))
        position += n
    return tuple(result)


def _moves(x: Any) -> bool:
    if isinstance(x, (bool, int, str)) or not hasattr(x, "dtype"):
        return isinstance(x, float)
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def _refuse_nothing(rule: Rule, call: Call) -> None:
    if rule.kind not in ("rules inside", "custom_jvp"):
        return
    floats = [k for k, leaf in enumerate(call.inputs) if leaf.differentiable]
    shapes = [jax.ShapeDtypeStruct(call.inputs[k].shape, call.inputs[k].dtype) for k in floats]
    if not has_custom_rules(program.trace(call.flat(floats), shapes)):
        raise ArgumentError(
            f"{getattr(call.function, '__name__', 'the function')} has no hand-written derivative: "
            "no custom_vjp or custom_jvp is called in it; pass one as vjp=, or check the "
            "function that has the rule"
        )
