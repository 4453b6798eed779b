"""`jacobian`: the numbers of `jax.jacobian` at the cost that their structure allows.

The function is traced, linearised by JAX and its Jacobian's structure derived from the program; a
plan says how each block is computed (`prepare.py`). Analyses are kept between calls and looked up
by the traced program, so a function may close over anything, changing arrays and tracers included.

    >>> jacobian(lambda x: jnp.maximum(x, 0))(x)              # BCOO, one entry per element
    >>> jax.jit(jacobian(f, format="dense"))(x)
    >>> print(plan(f, x))                                     # how, and at what cost
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import formats
from jacobians.arguments import argument_names, function_name, named_leaves, short_type
from jacobians.errors import ArgumentError
from jacobians.fingerprint import digest, fingerprint
from jacobians.linear import Plain, is_concrete, trace_plain
from jacobians.prepare import Prepared, check_types, prepare

MAX_KEPT = 64
MAX_KEPT_BYTES = 1 << 30


def jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    format: str = "bcoo",
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of a function, sparse and without building what is zero.

    The numbers are those of `jax.jacobian`, custom derivative rules included. Integer and boolean
    arguments that have values count as part of the function, since index tables are what sparsity
    is made of; under `jax.jit` they are unknown, and the pattern holds for all of them.

    Args:
        f: a JAX function of arrays and pytrees of them.
        argnums: the argument or arguments to differentiate with respect to, of floating point.
        format: 'bcoo': `jax.experimental.sparse.BCOO` of shape output + input, indices sorted and
            unique; 'dense': arrays of that shape; 'scipy': `scipy.sparse.csr_array` of the
            flattened matrix, outside `jax.jit` only; 'blocks': the structured pieces
            (`jacobians.pieces`); 'operator': a linear operator that lists nothing.
        has_aux: whether `f` returns a pair of its result and something else.
        chunk_size: how many JVPs or VJPs to compute at a time; by default what fits comfortably.

    Returns:
        A function of the arguments of `f` that returns the Jacobian, in the pytree of
        `jax.jacobian`: that of the result, with that of the argument in every leaf's place (a
        tuple for several argnums); paired with the aux where `has_aux`. It may be called under
        `jax.jit`, `jax.vmap`, `jax.grad` and inside `jax.lax.scan`.

    Raises:
        ArgumentError: an unknown format, and when called: argnums without floating point, complex
            values, no result, or more entries than can be listed.

    Source: `jax.jacobian`; Griewank and Walther, *Evaluating Derivatives*, chapters 7 and 8.
    """
    compute = value_and_jacobian(f, argnums, format, has_aux, chunk_size)

    def jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        value, result = compute(*args, **kwargs)
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
    options = _Options(_numbers(argnums), isinstance(argnums, int), format, has_aux, chunk_size)
    _check(f, options)

    def value_and_jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        return _apply(f, options, args, kwargs)

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
        _numbers(argnums), isinstance(argnums, int), format, has_aux, chunk_size, True
    )
    _check(f, options)

    def hessian_of_f(*args: Any, **kwargs: Any) -> Any:
        value, result = _apply(_gradient(f, argnums, has_aux), options, args, kwargs)
        return (result, value[1]) if has_aux else result

    return hessian_of_f


def _gradient(
    f: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool
) -> Callable[..., Any]:
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


@dataclass(eq=False)
class Bound:
    """A call taken apart: its leaves, which are differentiated, and its traced program.

    Attributes:
        plain: the traced program.
        runtime: values of its constants and leaves.
        in_trees: pytree structure of every selected argument.
        out_tree: pytree structure of the result.
        aux_tree: pytree structure of the aux.
        in_names: names of the selected leaves.
        notes: sentences about how it was traced.
    """

    plain: Plain
    runtime: list[Any]
    in_trees: list[Any]
    out_tree: Any
    aux_tree: Any
    in_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fixed: tuple[Any, ...] = field(default=())

    @property
    def out_names(self) -> tuple[str, ...]:
        """Names of the result leaves."""
        count = self.plain.results
        marked = jax.tree.unflatten(self.out_tree, [0.0] * count)
        return tuple(leaf.name for leaf in named_leaves("out", marked))


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
    names = _selected_names(f, args, numbers)
    _check_selected([leaves[k] for k in selected], names)
    in_trees = [jax.tree.structure(args[number]) for number in numbers]
    return _trace(f, has_aux, leaves, tree, selected, in_trees, names)


def _trace(
    f: Callable[..., Any],
    has_aux: bool,
    leaves: list[Any],
    tree: Any,
    selected: list[int],
    in_trees: list[Any],
    names: tuple[str, ...],
) -> Bound:
    """Traces with as few values held fixed as the function allows."""
    chosen = set(selected)
    arrays = [k for k, x in enumerate(leaves) if k in chosen or _is_array(x)]
    floats = [k for k in arrays if k in chosen or not _holdable(leaves[k])]
    attempts = [arrays] if floats == arrays else [arrays, floats]
    for number, traced in enumerate(attempts):
        def flat(*values: Any, traced: list[int] = traced) -> tuple[Any, Any]:
            everything = list(leaves)
            for k, value in zip(traced, values, strict=True):
                everything[k] = value
            args, kwargs = jax.tree.unflatten(tree, everything)
            made = f(*args, **kwargs)
            return _pair(made, f) if has_aux else (made, ())

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
            raise ArgumentError(
                f"{function_name(f)} looks at the values of its arguments while it is traced "
                "(a Python if, a shape or a NumPy call that depends on them), so that its "
                f"Jacobian has no fixed program; use jax.lax.cond or jnp.where ({_first(error)})"
            ) from error
        notes = () if number == 0 else ("traced for the given values of the other arguments",)
        return Bound(
            plain, [*plain.constants, *given], in_trees, trees[0], trees[1], names, notes
        )
    raise AssertionError("no attempt at tracing")


_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


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


def _holdable(x: Any) -> bool:
    """Whether a leaf may be held at its value: it has one, and it is a number or index array."""
    return isinstance(x, float) or (is_concrete(x) and not isinstance(x, jax.ShapeDtypeStruct))


def _selected_names(
    f: Callable[..., Any], args: Sequence[Any], numbers: Sequence[int]
) -> tuple[str, ...]:
    try:
        names = argument_names(f, args)
    except ArgumentError:
        names = ()
    if len(names) != len(args):
        names = tuple(f"x{k}" for k in range(len(args)))
    paths = []
    for number in numbers:
        with_paths, _ = jax.tree_util.tree_flatten_with_path(args[number])
        paths.extend(_path_name(names[number], path) for path, _ in with_paths)
    return tuple(paths)


def _path_name(name: str, path: Any) -> str:
    from jacobians.arguments import path_text

    return name + path_text(path)


def _check_selected(leaves: Sequence[Any], names: Sequence[str]) -> None:
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


@dataclass(eq=False)
class Entry:
    """What is kept of one traced program.

    Attributes:
        prepared: its plan and tables.
        compiled: `prepared.evaluate` under `jax.jit`.
        device: index arrays that results share, made when first needed.
    """

    prepared: Prepared
    compiled: Any
    device: dict[Any, Any] = field(default_factory=dict)


class _Cache:
    """Analyses by program, the latest used ones; at most so many, and so many bytes."""

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, Entry] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Any) -> Entry | None:
        with self.lock:
            entry = self.entries.get(key)
            if entry is not None:
                self.entries.move_to_end(key)
            return entry

    def put(self, key: Any, entry: Entry) -> None:
        with self.lock:
            self.entries[key] = entry
            while len(self.entries) > MAX_KEPT or (
                len(self.entries) > 1
                and sum(e.prepared.bytes() for e in self.entries.values()) > MAX_KEPT_BYTES
            ):
                self.entries.popitem(last=False)


_cache = _Cache()


def clear_cache() -> None:
    """Forgets every analysis."""
    with _cache.lock:
        _cache.entries.clear()


def entry_for(bound: Bound, chunk_size: int | None, symmetric: bool) -> Entry:
    """The analysis of a traced call, from the cache or made now.

    Args:
        bound: the call.
        chunk_size: colours at a time, or None.
        symmetric: whether it is the gradient of a function.
    """
    plain = bound.plain
    known = tuple(
        (k, digest(value))
        for k, value in enumerate([*plain.constants, *plain.known.values()])
        if is_concrete(value)
    )
    key = (
        fingerprint(plain.program),
        known,
        tuple(plain.known),
        plain.selected,
        plain.results,
        chunk_size,
        symmetric,
    )
    entry = _cache.get(key)
    if entry is None:
        prepared = prepare(plain, chunk_size, symmetric)
        entry = Entry(prepared, jax.jit(prepared.evaluate))
        if prepared.cacheable:
            _cache.put(key, entry)
    return entry


def _apply(
    f: Callable[..., Any], options: _Options, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    bound = bind_call(f, options.argnums, options.has_aux, args, kwargs)
    plain = bound.plain
    types = plain.program.outputs[: plain.results]
    check_types([t.aval for t in types], [], bound.out_names)
    if options.format == "operator":
        values, result = formats.operator(plain, bound.runtime, bound.in_trees, bound.out_tree)
    else:
        entry = entry_for(bound, options.chunk_size, options.symmetric)
        traced = any(isinstance(x, jax.core.Tracer) for x in bound.runtime)
        if options.format == "scipy" and traced:
            raise ArgumentError(
                'format="scipy" makes SciPy matrices, which need numbers: call it outside '
                'jax.jit, jax.vmap and jax.grad, or use format="bcoo"'
            )
        values, data = entry.compiled(bound.runtime, entry.prepared.tables)
        make = partial(formats.MAKERS[options.format], entry.prepared, entry.device, traced)
        result = [make(k, d) for k, d in enumerate(data)]
    outs = jax.tree.unflatten(bound.out_tree, values[: plain.results])
    value = (
        (outs, jax.tree.unflatten(bound.aux_tree, values[plain.results :]))
        if options.has_aux
        else outs
    )
    if options.format == "operator":
        return value, result
    return value, _assembled(result, bound, options.single)


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


def _numbers(argnums: int | Sequence[int]) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _check(f: Callable[..., Any], options: _Options) -> None:
    if not callable(f):
        raise ArgumentError(f"expected a function, got {f!r} of type {type(f).__name__}")
    if options.format not in (*formats.MAKERS, "operator"):
        known = ", ".join(repr(name) for name in (*formats.MAKERS, "operator"))
        raise ArgumentError(f"format={options.format!r} is unknown; the formats are {known}")
    if not options.argnums or not all(isinstance(n, int) for n in options.argnums):
        raise ArgumentError("argnums must be an integer or a sequence of integers")
    if options.chunk_size is not None and (
        not isinstance(options.chunk_size, int) or options.chunk_size < 1
    ):
        raise ArgumentError(f"chunk_size must be a positive integer, got {options.chunk_size!r}")
