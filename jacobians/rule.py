"""What a hand-written derivative is, wherever it comes from.

A `Gate` has a `vjp`, a `jax.custom_vjp` function a forward and a backward rule, a function that
calls such functions is differentiated by JAX with their rules, and `vjp=` is a rule given beside
the function. `find_rule` makes one form of them all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.arguments import Call, Leaf, argument_names, named_leaves
from jacobians.errors import ArgumentError
from jacobians.strip import has_custom_rules


@dataclass(frozen=True, eq=False)
class Rule:
    """A hand-written derivative, bound to a call or not yet.

    Attributes:
        kind: what it is: 'Gate', 'custom_vjp', 'vjp=', 'rules inside'.
        pull: `pull(cotangent, *args)`: the cotangents of all arguments.
        forward: `forward(*args)`: the value that its forward pass returns, or None.
        given: the call it is bound to.
        may_skip: whether None stands for a zero cotangent, as it does for JAX.
    """

    kind: str
    pull: Callable[..., Any]
    forward: Callable[..., Any] | None = None
    given: Call | None = None
    may_skip: bool = True

    def bound(self, call: Call) -> "Rule":
        """The rule bound to the values of a call."""
        _refuse_nothing(self, call)
        return replace(self, given=call)

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
            pieces = jax.tree.leaves(cotangent, is_leaf=lambda x: x is None)
            if len(pieces) != len(mine):
                yield name, mine[0], f"has {len(pieces)} leaves where {name} has {len(mine)}"
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
                pieces = jax.tree.leaves(piece, is_leaf=lambda x: x is None)
            leaves.extend(pieces)
        return tuple(
            jnp.zeros(jnp.shape(values[k]), jnp.result_type(values[k]))
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
    forward, gate_vjp = getattr(f, "forward", None), getattr(f, "vjp", None)
    if callable(forward) and callable(gate_vjp):
        return Rule("Gate", gate_vjp, may_skip=False), forward
    if isinstance(f, jax.custom_vjp) and not getattr(f, "nondiff_argnums", ()):
        fwd, bwd = getattr(f, "fwd", None), getattr(f, "bwd", None)
        plain = getattr(f, "fun", None)
        if callable(fwd) and callable(bwd) and callable(plain):
            return (
                Rule(
                    "custom_vjp",
                    lambda cotangent, *args: bwd(fwd(*args)[1], cotangent),
                    lambda *args: fwd(*args)[0],
                ),
                plain,
            )
    return Rule("rules inside", _pull_by_jax(f), f), f


def _pull_by_jax(f: Callable[..., Any]) -> Callable[..., Any]:
    """Cotangents as JAX computes them, with whatever custom rules `f` calls."""

    def pull(cotangent: Any, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        moving = [k for k, x in enumerate(leaves) if _moves(x)]

        def of_moving(*values: Any) -> Any:
            everything = list(leaves)
            for k, value in zip(moving, values, strict=True):
                everything[k] = value
            return f(*jax.tree.unflatten(tree, everything))

        _, backward = jax.vjp(of_moving, *(leaves[k] for k in moving))
        made: list[Any] = [None] * len(leaves)
        for k, piece in zip(moving, backward(cotangent), strict=True):
            made[k] = piece
        return tuple(jax.tree.unflatten(tree, made)) if None not in made else _with_gaps(tree, made)

    return pull


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


def unit_like(leaf: Leaf, value: float) -> Any:
    """An array of one value as the cotangent of an output leaf; float0 where it has none."""
    if not leaf.differentiable:
        return np.zeros(leaf.shape, jax.dtypes.float0)
    return jnp.full(leaf.shape, value, leaf.dtype)


def _refuse_nothing(rule: Rule, call: Call) -> None:
    if rule.kind != "rules inside":
        return
    floats = [k for k, leaf in enumerate(call.inputs) if leaf.differentiable]
    shapes = [jax.ShapeDtypeStruct(call.inputs[k].shape, call.inputs[k].dtype) for k in floats]
    if not has_custom_rules(program.trace(call.flat(floats), shapes)):
        raise ArgumentError(
            f"{getattr(call.function, '__name__', 'the function')} has no hand-written derivative: "
            "no custom_vjp or custom_jvp is called in it; pass one as vjp=, or check the "
            "function that has the rule"
        )
