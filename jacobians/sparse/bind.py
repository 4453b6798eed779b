"""A call of a function taken apart: its leaves, and the program to differentiate.

As few values are held fixed as the function allows: none where it can be traced, those of the
other arguments where it looks at them, and all where it looks at what is differentiated; it is
then linearised where it is, or differentiated row by row, as `jax.jacobian` does.

    bind_call(f, (0,), False, (x, 3), {}).plain.program
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.program.call import argument_names, function_name, path_text, short_type
from jacobians.sparse.linear import (
    FORWARD_REFUSED,
    Aux,
    Plain,
    is_concrete,
    taken_apart,
    trace_plain,
)
from jacobians.sparse.linearity import is_linear


@dataclass(eq=False, kw_only=True)
class Bound:
    """A call taken apart: its leaves, which are differentiated, and its traced program.

    Attributes:
        plain: the traced program.
        runtime: values of its constants and leaves.
        in_trees: pytree structure of every selected argument.
        out_tree: pytree structure of the result.
        aux: what is left of the aux without its arrays.
        in_names: names of the selected leaves.
        notes: sentences about how it was traced.
        values: results and aux, where they are known and not the program's outputs.
        given_names: names of the program's inputs, where they have names.
    """

    plain: Plain
    runtime: list[Any]
    in_trees: list[Any]
    out_tree: Any
    aux: Aux
    in_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    values: tuple[Any, ...] | None = None
    given_names: tuple[str, ...] = ()

    @property
    def out_types(self) -> list[Any]:
        """What has the shapes and dtypes of the result leaves."""
        if self.values is not None:
            return list(self.values[: self.plain.results])
        return [a.aval for a in self.plain.program.outputs[: self.plain.results]]

    @property
    def out_names(self) -> tuple[str, ...]:
        """Names of the result leaves."""
        marked = jax.tree.unflatten(self.out_tree, [0.0] * self.plain.results)
        return tuple("out" + path_text(p) for p, _ in jax.tree_util.tree_leaves_with_path(marked))


def bind_call(
    f: Callable[..., Any],
    argnums: Sequence[int],
    has_aux: bool,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Bound:
    """Flattens and traces the call `f(*args, **kwargs)`.

    Args:
        f: the function.
        argnums: positions of the arguments to differentiate with respect to.
        has_aux: whether it returns a pair with aux.
        args: positional arguments; `jax.ShapeDtypeStruct` leaves where nothing is evaluated.
        kwargs: keyword arguments, never differentiated.

    Raises:
        ArgumentError: the arguments do not fit.
    """
    count = len(args)
    for number in argnums:
        if not -count <= number < count:
            raise ArgumentError(
                f"argnums={number} names no argument: {function_name(f)} was called with {count}, "
                "numbered from 0"
            )
    numbers = [number % count for number in argnums]
    if len(set(numbers)) < len(numbers):
        raise ArgumentError(f"argnums={tuple(argnums)} names an argument twice")
    leaves, tree = jax.tree.flatten((tuple(args), kwargs))
    sizes = [len(jax.tree.leaves(a)) for a in args]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    selected = [k for number in numbers for k in range(starts[number], starts[number + 1])]
    in_trees = [jax.tree.structure(args[number]) for number in numbers]
    call = _Flat(f, has_aux, leaves, tree, selected, in_trees, _leaf_names(f, args, kwargs))
    _check_selected([leaves[k] for k in selected], call.in_names)
    return _trace(call)


@dataclass(frozen=True, eq=False)
class _Flat:
    """A call by its leaves.

    Attributes:
        f: the function.
        has_aux: whether it returns a pair with aux.
        leaves: all leaves of its arguments.
        tree: the pytree structure of positional and keyword arguments.
        selected: positions of the leaves to differentiate with respect to.
        in_trees: pytree structure of every selected argument.
        names: a name for every leaf.
    """

    f: Callable[..., Any]
    has_aux: bool
    leaves: list[Any]
    tree: Any
    selected: list[int]
    in_trees: list[Any]
    names: tuple[str, ...]

    @property
    def in_names(self) -> tuple[str, ...]:
        """Names of the selected leaves."""
        return tuple(self.names[k] for k in self.selected)

    def at(self, places: Sequence[int], values: Sequence[Any]) -> tuple[Any, Any]:
        """The result and the aux where these leaves have been replaced."""
        everything = list(self.leaves)
        for k, value in zip(places, values, strict=True):
            everything[k] = value
        args, kwargs = jax.tree.unflatten(self.tree, everything)
        made = self.f(*args, **kwargs)
        return _pair(made, self.f) if self.has_aux else (made, ())


def _trace(call: _Flat) -> Bound:
    """Traces with as few values held fixed as the function allows."""
    leaves, selected, chosen = call.leaves, call.selected, set(call.selected)
    arrays = [k for k, x in enumerate(leaves) if k in chosen or _is_array(x)]
    floats = [k for k in arrays if k in chosen or not _has_value(leaves[k])]
    attempts = [arrays] if floats == arrays else [arrays, floats]
    for number, traced in enumerate(attempts):

        def flat(*values: Any, traced: list[int] = traced) -> tuple[Any, Any]:
            return call.at(traced, values)

        known = {
            p: leaves[k] for p, k in enumerate(traced) if k not in chosen and _is_index(leaves[k])
        }
        given = [leaves[k] for k in traced]
        positions = [traced.index(k) for k in selected]
        try:
            plain, trees = trace_plain(flat, given, positions, known)
        except _CONCRETE as error:
            if number + 1 < len(attempts):
                continue
            bound = _at_point(call)
            if bound is not None:
                return bound
            try:
                return _by_rows(call)
            except _REFUSALS as refusal:
                raise _looked_at(call, error, refusal) from refusal
        notes = () if number == 0 else ("traced for the given values of the other arguments",)
        return Bound(
            plain=plain,
            runtime=[*plain.constants, *given],
            in_trees=call.in_trees,
            out_tree=trees[0],
            aux=trees[1],
            in_names=call.in_names,
            notes=notes,
            given_names=tuple(call.names[k] for k in traced),
        )
    raise AssertionError("no attempt at tracing")


def _at_point(call: _Flat) -> Bound | None:
    """The call linearised by JAX where it is, for a function that looks at its arguments' values.

    Its derivative there is a linear program, whatever branches the function took; None where there
    are no values, JAX cannot either, or a rule in the program is not certainly linear.
    """
    if not all(_has_value(x) or not _is_array(x) for x in call.leaves):
        return None
    of_selected, trees = _results_of_selected(call)
    point = [jnp.asarray(call.leaves[k]) for k in call.selected]
    try:
        out, push, aux = jax.linearize(of_selected, *point, has_aux=True)
        traced, _ = trace_plain(lambda *tangents: (push(*tangents), ()), point, [], {})
    except _CONCRETE:
        return None
    inner = traced.program
    if program.contains(inner, FORWARD_REFUSED) or not is_linear(inner, range(len(inner.inputs))):
        return None
    note = (
        "it looks at the values of its arguments: this holds where it takes the same branches; "
        "jax.lax.cond and jnp.where make it one program for all"
    )
    return _linear_at(call, traced, point, trees, (*out, *aux), note)


def _by_rows(call: _Flat) -> Bound:
    """The call with the rows that `jax.jacrev` gives at its arguments, as a linear program.

    For a function that looks at its arguments' values, where its derivative is no linear program:
    a custom rule inside is applied to one unit cotangent after another.
    """
    of_selected, trees = _results_of_selected(call)
    point = [jnp.asarray(call.leaves[k]) for k in call.selected]

    def of_floats(*values: Any) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
        out, aux = of_selected(*values)
        return [x for x in out if jnp.issubdtype(x.dtype, jnp.floating)], (out, aux)

    numbers = tuple(range(len(point)))
    rows, (out, aux) = jax.jacrev(of_floats, numbers, has_aux=True)(*point)

    def product(*tangents: Any) -> tuple[list[Any], tuple[()]]:
        given, images = iter(rows), []
        for x in out:
            image = jnp.zeros(x.shape, jnp.float32)
            if jnp.issubdtype(x.dtype, jnp.floating):
                parts = zip(next(given), tangents, strict=True)
                image = sum((jnp.tensordot(row, t, t.ndim) for row, t in parts), jnp.zeros(()))
                image = image.astype(x.dtype)
            images.append(image)
        return images, ()

    traced, _ = trace_plain(product, point, [], {})
    note = (
        "it looks at the values of its arguments, and its derivative there is not certainly "
        "linear: every row is computed by itself, as jax.jacobian does (jax.jacrev), for these "
        "values; jax.lax.cond and jnp.where make it one program for all"
    )
    return _linear_at(call, traced, point, trees, (*out, *aux), note)


def _results_of_selected(
    call: _Flat,
) -> tuple[Callable[..., tuple[list[Any], list[Any]]], list[Any]]:
    """Flat results and aux arrays of the selected leaves; and a list that receives their trees."""
    trees: list[Any] = []

    def of_selected(*values: Any) -> tuple[list[Any], list[Any]]:
        results, aux = call.at(call.selected, values)
        (out, out_tree), (more, rest) = jax.tree.flatten(results), taken_apart(aux)
        trees[:] = out_tree, rest
        return [jnp.asarray(x) for x in out], more

    return of_selected, trees


def _linear_at(
    call: _Flat,
    traced: Plain,
    point: list[Any],
    trees: list[Any],
    values: tuple[Any, ...],
    note: str,
) -> Bound:
    """A call whose derivative at a point has been traced as a program of tangents."""
    inner = traced.program
    # what the derivative is made of changes from point to point; its index arrays are its pattern
    moving = [c for c in inner.constants if jnp.issubdtype(c[1].dtype, jnp.inexact)]
    fixed = [c for c in inner.constants if not jnp.issubdtype(c[1].dtype, jnp.inexact)]
    inputs = (*(variable for variable, _ in moving), *inner.inputs)
    linear = program.Program(inputs, inner.outputs, inner.equations, tuple(fixed))
    places = tuple(len(moving) + k for k in range(len(point)))
    runtime = [*(value for _, value in (*fixed, *moving)), *point]
    return Bound(
        plain=Plain(linear, places, traced.results, {}),
        runtime=runtime,
        in_trees=call.in_trees,
        out_tree=trees[0],
        aux=trees[1],
        in_names=call.in_names,
        notes=(note,),
        values=values,
    )


def _looked_at(call: _Flat, error: Exception, refusal: Exception) -> ArgumentError:
    """The sentence for a function that looks at values where `jax.jacobian` fails too."""
    name = function_name(call.f)
    if isinstance(refusal, _CONCRETE):
        return ArgumentError(
            f"{name} looks at the values of its arguments while it is traced (a Python if, a "
            "shape or a NumPy call that depends on them), so that its Jacobian has no fixed "
            f"program; use jax.lax.cond or jnp.where ({_first(error)})"
        )
    return ArgumentError(
        f"{name} looks at the values of its arguments while it is traced, and its derivative there "
        "is not certainly linear (a custom derivative rule, or a loop), nor can jax.jacrev compute "
        f"its rows; use jax.lax.cond or jnp.where instead of looking ({_first(refusal)})"
    )


_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

# what JAX raises where it cannot differentiate in reverse
_REFUSALS = (*_CONCRETE, NotImplementedError, TypeError, ValueError)


def _first(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def _pair(made: Any, f: Callable[..., Any]) -> tuple[Any, Any]:
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise ArgumentError(
            f"has_aux=True: {function_name(f)} has to return a pair (result, aux), got {made!r}"
        )
    return made[0], made[1]


def _is_array(x: Any) -> bool:
    return isinstance(x, (float, complex, np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct))


def _is_index(x: Any) -> bool:
    """Whether a leaf holds integers or booleans with values that can be looked at."""
    if isinstance(x, (float, complex, jax.ShapeDtypeStruct)) or not is_concrete(x):
        return False
    return x.dtype == np.bool_ or bool(jnp.issubdtype(x.dtype, jnp.integer))


def _has_value(x: Any) -> bool:
    """Whether a leaf may be held at its value, of whatever size: it has one."""
    return not isinstance(x, (jax.core.Tracer, jax.ShapeDtypeStruct))


def _leaf_names(
    f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """A name for every leaf of a call, positional arguments first."""
    try:
        names = argument_names(f, args)
    except ArgumentError:
        names = ()
    if len(names) != len(args):
        names = tuple(f"x{k}" for k in range(len(args)))
    paths: list[str] = []
    named = [*zip(names, args, strict=True), *((k, kwargs[k]) for k in sorted(kwargs))]
    for name, value in named:
        with_paths, _ = jax.tree_util.tree_flatten_with_path(value)
        paths.extend(name + path_text(path) for path, _ in with_paths)
    return tuple(paths)


def _check_selected(leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuses leaves that have no derivative: none at all, and any but of real floating point."""
    if not leaves:
        raise ArgumentError("argnums names an argument without any array in it")
    for x, name in zip(leaves, names, strict=True):
        if isinstance(x, (bool, int)) or not _is_array(x):
            kind = type(x).__name__
            raise ArgumentError(
                f"{name} is of Python type {kind}, which has no derivative; pass floating point "
                f"({name}={x!r})"
            )
        dtype = jnp.result_type(x) if not isinstance(x, jax.ShapeDtypeStruct) else x.dtype
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ArgumentError(
                f"{name} is complex ({short_type(np.shape(x), dtype)}); pass its real and "
                "imaginary parts as two arguments"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            shape = tuple(getattr(x, "shape", ()))
            raise ArgumentError(
                f"{name} is {short_type(shape, dtype)}, which has no derivative; pass floating "
                "point, or name other arguments in argnums"
            )


def check_types(results: Sequence[Any], result_names: Sequence[str]) -> None:
    """Refuses what has no Jacobian.

    Args:
        results: types of the result leaves.
        result_names: names of the result leaves.

    Raises:
        ArgumentError: nothing to differentiate, or an integer, boolean or complex leaf.
    """
    if not results:
        raise ArgumentError("the function returns no array, so there is no Jacobian")
    for t, name in zip(results, result_names, strict=True):
        if jnp.issubdtype(t.dtype, jnp.complexfloating):
            raise ArgumentError(
                f"output {name} is complex ({t.dtype}); return its real and imaginary parts"
            )
        if not jnp.issubdtype(t.dtype, jnp.floating):
            raise ArgumentError(
                f"output {name} is of type {t.dtype}, which has no derivative; convert it to "
                "floating point, or return it beside the result with has_aux=True"
            )
