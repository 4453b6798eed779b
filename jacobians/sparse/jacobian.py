"""`jacobian`: the numbers of `jax.jacobian` at the cost that their structure allows.

The function is traced, linearised by JAX and its Jacobian's structure derived from the program; a
plan says how each block is computed (`prepare.py`). Analyses are kept between calls and looked up
by the traced program, so a function may close over anything, changing arrays and tracers included.

    jacobian(lambda x: jnp.maximum(x, 0))(x)              # BCOO, one entry per element
    jax.jit(jacobian(f, format="dense"))(x)
    print(plan(f, x))                                     # how, and at what cost
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.program.call import (
    argument_numbers,
    at_least_one,
    function_name,
    is_integer,
    one_of,
    short_type,
)
from jacobians.sparse.bind import Bound, bind_call, check_types
from jacobians.sparse.cache import _products, _usual_promotion, entry_for
from jacobians.sparse.fingerprint import fingerprint
from jacobians.sparse.forms import formats
from jacobians.sparse.forms.operator import operator
from jacobians.sparse.forms.operator import products as linear_products


def jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    format: str = "bcoo",
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of a function, sparse and without building what is zero.

    The numbers are those of `jax.jacobian`, custom derivative rules included. Where no structure
    can be used every entry is computed as `jax.jacobian` does: of a custom rule that is not linear,
    also behind a look at the argument's values, or where what can be nonzero takes too long to
    list; a note of `jacobians.plan` names the cause. Should the analysis itself fail, a
    `RuntimeWarning` says so too. Integer and boolean arguments that have values count as part
    of the function, since index tables are what sparsity is made of; under `jax.jit` they are
    unknown, and the pattern holds for all of them.

    Args:
        f: a JAX function of arrays and pytrees of them.
        argnums: the argument or arguments to differentiate with respect to, of floating point.
        format: 'bcoo': `jax.experimental.sparse.BCOO` of shape output + input, indices sorted and
            unique; 'dense': arrays of that shape; 'scipy': `scipy.sparse.csr_array` of the
            flattened matrix, outside `jax.jit` only; 'blocks': the structured pieces
            (`jacobians.sparse.forms.pieces`); 'operator': a linear operator that lists nothing.
        has_aux: whether `f` returns a pair of its result and something else.
        chunk_size: how many JVPs or VJPs to compute at a time; by default what fits comfortably.

    Returns:
        A function of the arguments of `f` that returns the Jacobian, in the pytree of
        `jax.jacobian`: that of the result, with that of the argument in every leaf's place (a
        tuple for several argnums); paired with the aux where `has_aux`. It may be called under
        `jax.jit`, `jax.vmap`, `jax.grad` and inside `jax.lax.scan`.

    Raises:
        ArgumentError: an unknown format, argnums that are no integers or a chunk_size below 1; and
            when called: argnums without floating point, complex values, no result, or more entries
            than can be listed or computed in full.
        Exception: when called, what `f` raises, or JAX where it cannot differentiate `f`.

    Source: `jax.jacobian`; Griewank and Walther, *Evaluating Derivatives*, chapters 7 and 8.
    """
    options = _Options(argument_numbers(argnums), is_integer(argnums), format, has_aux, chunk_size)
    _check(f, options)

    def jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        value, result = _apply(f, options, args, kwargs, values_too=has_aux)
        return (result, value[1]) if has_aux else result

    return jacobian_of_f


def value_and_jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    format: str = "bcoo",
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The value of a function and its Jacobian together; see `jacobian`.

    Returns:
        A function of the arguments of `f` that returns the pair `(f(*args), jacobian)`; with
        `has_aux` the first is the pair that `f` returns.
    """
    options = _Options(argument_numbers(argnums), is_integer(argnums), format, has_aux, chunk_size)
    _check(f, options)

    def value_and_jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        return _apply(f, options, args, kwargs, values_too=True)

    return value_and_jacobian_of_f


def hessian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    format: str = "bcoo",
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Hessian of a function with a scalar result, using its symmetry; see `jacobian`.

    Args:
        f: a function that returns a scalar of floating point.
        argnums: as in `jacobian`.
        format: as in `jacobian`.
        has_aux: as in `jacobian`.
        chunk_size: as in `jacobian`.

    Returns:
        A function that returns the Hessian in the pytree of `jax.hessian`.

    Raises:
        ArgumentError: as `jacobian` does, and when the result is no scalar.
    """
    options = _Options(
        argument_numbers(argnums), is_integer(argnums), format, has_aux, chunk_size, True
    )
    _check(f, options)

    def hessian_of_f(*args: Any, **kwargs: Any) -> Any:
        chosen = options.argnums[0] if options.single else options.argnums
        bound, symmetric = bind_hessian(f, options.argnums, chosen, has_aux, args, kwargs)
        own = replace(options, symmetric=symmetric)
        value, result = _result(bound, own, values_too=has_aux)
        return (result, value[1]) if has_aux else result

    return hessian_of_f


def bind_hessian(
    f: Callable[..., Any],
    numbers: Sequence[int],
    argnums: int | Sequence[int],
    has_aux: bool,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> tuple[Bound, bool]:
    """Binds the gradient of a function, and tells whether its Jacobian is certainly symmetric.

    JAX has applied the custom derivative rules inside to the gradient, where they do not show any
    more. Its own are right; any other may break the symmetry.
    """
    bound = bind_call(gradient(f, argnums, has_aux), numbers, has_aux, args, kwargs)
    looked_at = bound.values is not None
    if looked_at or program.has_foreign_rule(
        bind_call(f, numbers, has_aux, args, kwargs).plain.program
    ):
        note = "custom derivative rules, or values looked at: the Hessian may be unsymmetric"
        return replace(bound, notes=(*bound.notes, note)), False
    return bound, True


def gradient(
    f: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool
) -> Callable[..., Any]:
    """`jax.grad` of a function that is checked to return one scalar."""

    @wraps(f)
    def scalar(*args: Any, **kwargs: Any) -> Any:
        made = f(*args, **kwargs)
        leaves = jax.tree.leaves(made[0] if has_aux else made)
        if len(leaves) != 1 or jnp.shape(leaves[0]):
            given = ", ".join(short_type(jnp.shape(x), jnp.result_type(x)) for x in leaves)
            raise ArgumentError(
                f"a Hessian is of a scalar, but {function_name(f)} returns {given or 'nothing'}; "
                "sum it, or take the jacobian"
            )
        return made

    return jax.grad(scalar, argnums, has_aux=has_aux)


@dataclass(frozen=True)
class _Options:
    argnums: tuple[int, ...]
    single: bool
    format: str
    has_aux: bool
    chunk_size: int | None
    symmetric: bool = False


def _apply(
    f: Callable[..., Any],
    options: _Options,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    values_too: bool,
) -> Any:
    """The value of a call, or None unless wanted, and its Jacobian."""
    return _result(
        bind_call(f, options.argnums, options.has_aux, args, kwargs), options, values_too
    )


def _result(bound: Bound, options: _Options, values_too: bool) -> Any:
    """The value of a traced call, or None unless wanted, and its Jacobian."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in bound.runtime):
        raise ArgumentError(
            "an argument is a jax.ShapeDtypeStruct, which has no values to take a Jacobian at; "
            "pass arrays, or use jacobians.plan to see how it would be computed"
        )
    plain = bound.plain
    check_types(bound.out_types, bound.out_names)
    if options.format == "operator":
        values, result = _operator(bound, options)
    else:
        values, result = _entries(bound, options, values_too)
    if not values_too:
        return None, result
    if bound.values is not None:
        values = list(bound.values)
    outs = jax.tree.unflatten(bound.out_tree, values[: plain.results])
    if options.has_aux:
        return (outs, bound.aux.filled(values[plain.results :])), result
    return outs, result


def _entries(bound: Bound, options: _Options, values_too: bool) -> tuple[Any, Any]:
    """Outputs and aux arrays, none unless wanted, and the Jacobian in a format with entries."""
    traced = any(isinstance(x, jax.core.Tracer) for x in bound.runtime)
    if options.format == "scipy" and traced:
        raise ArgumentError(
            'format="scipy" makes SciPy matrices, which need numbers: call it outside '
            'jax.jit, jax.vmap and jax.grad, or use format="bcoo"'
        )
    factors = options.format == "blocks"
    entry = entry_for(bound, options.chunk_size, options.symmetric, factors)
    # in a traced program the tables are constants, which its compiler can make use of
    evaluate = entry.prepared.evaluate if traced else entry.compiled
    make = partial(formats.MAKERS[options.format], entry.prepared, entry.kept, traced)
    with _usual_promotion():
        values, data = evaluate(bound.runtime, entry.prepared.tables, values_too)
        blocks = [make(k, d) for k, d in enumerate(data)]
    return values, _assembled(blocks, bound, options.single)


def _operator(bound: Bound, options: _Options) -> tuple[Any, Any]:
    """Outputs and aux arrays, and the Jacobian as an operator."""
    plain = bound.plain
    key = ("operator", fingerprint(plain.program), plain.selected, plain.results)
    products = _products.get(key)
    if products is None:
        products = _products.keep(key, linear_products(plain))
    trees = bound.in_trees
    if options.single:
        in_tree = trees[0]
    else:
        marked = tuple(jax.tree.unflatten(tree, [0] * tree.num_leaves) for tree in trees)
        in_tree = jax.tree.structure(marked)
    return operator(plain, bound.runtime, in_tree, bound.out_tree, products)


def _assembled(blocks: list[Any], bound: Bound, single: bool) -> Any:
    """The blocks, output-major, in the pytree of `jax.jacobian`."""
    count = len(bound.plain.selected)
    rows = []
    for o in range(bound.plain.results):
        row, parts = blocks[o * count : (o + 1) * count], []
        for tree in bound.in_trees:
            parts.append(jax.tree.unflatten(tree, row[: tree.num_leaves]))
            row = row[tree.num_leaves :]
        rows.append(parts[0] if single else tuple(parts))
    return jax.tree.unflatten(bound.out_tree, rows)


def _check(f: Callable[..., Any], options: _Options) -> None:
    if not callable(f):
        raise ArgumentError(f"expected a function, got {f!r} of type {type(f).__name__}")
    one_of("format", options.format, (*formats.MAKERS, "operator"), "formats")
    if options.chunk_size is not None:
        at_least_one("chunk_size", options.chunk_size)
