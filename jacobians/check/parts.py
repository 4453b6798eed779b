"""Complex functions as real ones, so that one check serves both.

A complex array becomes a pair of its real and imaginary parts, named `z.real` and `z.imag`. JAX's
cotangent of z = u + iv is the complex number ū − i·v̄: pairs of real cotangents and complex ones
are turned into one another by that.

    rule, plain, args = in_real_parts(rule, plain, (z,))
    args[0].real, args[0].imag

Source: "Complex numbers and differentiation" in JAX's autodiff cookbook.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jacobians.check.rule import Rule


class Parts(NamedTuple):
    """A complex array as two real ones."""

    real: Any
    imag: Any


def has_complex(f: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether an argument, or else a result, is complex."""
    if any(map(_is_complex, jax.tree.leaves(tuple(args)))):
        return True
    leaves, tree = jax.tree.flatten(tuple(args))
    moving = [k for k, x in enumerate(leaves) if hasattr(x, "dtype")]
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return False

    def of_moving(values: Sequence[Any]) -> Any:
        everything = list(leaves)
        for k, value in zip(moving, values, strict=True):
            everything[k] = value
        return f(*jax.tree.unflatten(tree, everything))

    try:
        result = jax.eval_shape(of_moving, [leaves[k] for k in moving])
    except Exception:
        return False  # whatever is wrong is told when the call is bound
    return any(map(_is_complex, jax.tree.leaves(result)))


def in_real_parts(
    rule: Rule, f: Callable[..., Any], args: Sequence[Any]
) -> tuple[Rule, Callable[..., Any], tuple[Any, ...]]:
    """A rule, its function and arguments with every complex array in two parts.

    Args:
        rule: the rule, not bound yet.
        f: the function that it is compared with.
        args: the arguments.

    Returns:
        The same three in real terms.
    """

    @functools.wraps(f)
    def real(*parts: Any) -> Any:
        return split(f(*joined(parts)))

    def with_parts(
        pull: Callable[..., Any], forward: Callable[..., Any] | None
    ) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
        def pull_parts(cotangent: Any, *parts: Any) -> Any:
            given = jax.tree.map(_conjugate_joined, cotangent, is_leaf=_is_parts)
            result = pull(given, *joined(parts))
            if rule.kind == "vjp=" and len(parts) == 1 and not isinstance(result, (tuple, list)):
                result = (result,)
            return tuple(_split_cotangents(c, part) for c, part in zip(result, parts, strict=True))

        if forward is None:
            return pull_parts, None
        return pull_parts, lambda *parts: split(forward(*joined(parts)))

    # the complex leaf that each real one is a part of
    whole = [
        k for k, x in enumerate(jax.tree.leaves(tuple(args))) for _ in jax.tree.leaves(split(x))
    ]
    narrowed = rule.narrowed

    def narrowed_parts(
        selected: Collection[int],
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        assert narrowed is not None
        pull, forward = narrowed({whole[k] for k in selected})
        made = with_parts(pull, forward)
        assert made[1] is not None
        return made[0], made[1]

    pull, forward = with_parts(rule.pull, rule.forward)
    return (
        replace(
            rule,
            pull=pull,
            forward=forward,
            custom=None,
            narrowed=None if narrowed is None else narrowed_parts,
        ),
        real,
        tuple(split(tuple(args))),
    )


def split(tree: Any) -> Any:
    """A pytree with every complex array in two parts."""
    return jax.tree.map(lambda x: Parts(jnp.real(x), jnp.imag(x)) if _is_complex(x) else x, tree)


def joined(tree: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(
        lambda x: jax.lax.complex(x.real, x.imag) if _is_parts(x) else x, tree, is_leaf=_is_parts
    )


def _is_parts(x: Any) -> bool:
    return isinstance(x, Parts)


def _is_complex(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        return isinstance(x, complex)
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def _conjugate_joined(x: Any) -> Any:
    return jax.lax.complex(x.real, -x.imag) if _is_parts(x) else x


def _split_cotangents(cotangent: Any, parts: Any) -> Any:
    """Real cotangents of an argument in parts, from the rule's complex ones."""
    if cotangent is None or not any(map(_is_parts, jax.tree.leaves(parts, is_leaf=_is_parts))):
        return cotangent
    places, tree = jax.tree.flatten(parts, is_leaf=_is_parts)
    pieces = jax.tree.leaves(cotangent, is_leaf=lambda x: x is None)
    made = []
    for piece, place in zip(pieces, places, strict=True):
        if not _is_parts(place) or piece is None:
            made.append(Parts(None, None) if _is_parts(place) else piece)
        elif not _is_complex(piece):
            raise TypeError(
                f"the cotangent of a complex argument is {piece.dtype}; make it complex"
            )
        else:
            made.append(Parts(jnp.real(piece), -jnp.imag(piece)))
    return jax.tree.unflatten(tree, made)
