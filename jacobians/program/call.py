"""A call `f(*args)` seen as a function of named leaves.

JAX differentiates pytrees leaf by leaf, and a report has to say which leaf it speaks of. `bind`
flattens the arguments, names each leaf the way one would write it in Python (`x`, `params["W"]`,
`pair[0]`), says which leaves have a derivative, and does the same for the outputs.

    call = bind(lambda params, x: params["W"] @ x, {"W": jnp.ones((2, 3))}, jnp.ones(3))
    [leaf.name for leaf in call.inputs], [leaf.name for leaf in call.outputs]
    # (['params["W"]', 'x'], ['out'])
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array (or Python object) among the arguments or outputs of a call.

    Attributes:
        name: how the leaf is written in Python, `params["W"]`.
        shape: its shape; `()` for scalars and for static objects.
        dtype: its NumPy dtype; `object` for static leaves that are no numbers.
        value: the array or object given; None when only the shape is known.
        static: True for Python ints, bools, strings and other objects: they are handed to the
            function as they are and never traced.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    value: Any = None
    static: bool = False

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def differentiable(self) -> bool:
        """Whether a derivative with respect to, or of, this leaf exists: floats and complex."""
        return not self.static and jnp.issubdtype(self.dtype, jnp.inexact)

    @property
    def short_type(self) -> str:
        """The leaf's type in JAX's short notation, `f32[4,8]`."""
        return short_type(self.shape, self.dtype)


@dataclass(frozen=True, eq=False)
class Call:
    """A function together with its named input and output leaves; made by `bind`.

    Attributes:
        function: the function as given.
        inputs: every leaf of the arguments, in `jax.tree` order.
        selected: positions in `inputs` of the leaves to differentiate with respect to.
        outputs: every leaf of the result.
        in_tree: the pytree structure of the argument tuple.
        out_tree: the pytree structure of the result.
    """

    function: Callable[..., Any]
    inputs: tuple[Leaf, ...]
    selected: tuple[int, ...]
    outputs: tuple[Leaf, ...]
    in_tree: Any
    out_tree: Any

    @property
    def concrete(self) -> bool:
        """Whether every input has a value, so that the function can be evaluated."""
        return all(leaf.value is not None or leaf.static for leaf in self.inputs)

    def with_values(self, values: Sequence[Any]) -> "Call":
        """The same call with other values for its inputs (one per leaf, same shapes)."""
        inputs = tuple(
            leaf if leaf.static else Leaf(leaf.name, leaf.shape, leaf.dtype, value)
            for leaf, value in zip(self.inputs, values, strict=True)
        )
        return Call(self.function, inputs, self.selected, self.outputs, self.in_tree, self.out_tree)

    def flat(
        self, positions: Sequence[int], function: Callable[..., Any] | None = None
    ) -> Callable[..., tuple[Any, ...]]:
        """The function of the leaves at `positions` only, the others held at their values.

        Args:
            positions: positions in `inputs` of the leaves that become arguments.
            function: another function of the same signature to use in place of `function`.

        Returns:
            A function from those leaves to the tuple of all output leaves.
        """
        chosen = self.function if function is None else function

        def flat_function(*values: Any) -> tuple[Any, ...]:
            leaves = [leaf.value for leaf in self.inputs]
            for position, value in zip(positions, values, strict=True):
                leaves[position] = value
            return tuple(jax.tree.leaves(chosen(*jax.tree.unflatten(self.in_tree, leaves))))

        return flat_function


def bind(
    f: Callable[..., Any],
    args: Sequence[Any],
    argnums: int | Sequence[int] | None = None,
) -> Call:
    """Flattens the call `f(*args)` into named leaves and finds the shapes of its outputs.

    Args:
        f: the function; a JAX function of positional arguments.
        args: arrays, pytrees of them, Python scalars, or `jax.ShapeDtypeStruct` where only the
            shape is known. Python ints, bools and non-numbers are static: passed as they are.
        argnums: which arguments to differentiate with respect to; None means every argument
            that has a floating-point leaf.

    Returns:
        The bound `Call`. Nothing is evaluated: outputs come from `jax.eval_shape`.

    Raises:
        ArgumentError: the number of arguments does not fit, `argnums` is out of range or names an
            argument without floating-point leaves, or nothing is differentiable.
        Exception: whatever `f` itself raises while it is traced.
    """
    if not callable(f):
        raise ArgumentError(
            f"expected a function to differentiate, got {f!r} of type {type(f).__name__}"
        )
    names = argument_names(f, args)
    numbers = _normalise_argnums(argnums, args, names)
    in_tree = jax.tree.structure(tuple(args))
    inputs: list[Leaf] = []
    selected: list[int] = []
    for number, (name, argument) in enumerate(zip(names, args, strict=True)):
        leaves = named_leaves(name, argument)
        chosen = [
            len(inputs) + k
            for k, leaf in enumerate(leaves)
            if leaf.differentiable and (numbers is None or number in numbers)
        ]
        if numbers is not None and number in numbers and not chosen:
            given = ", ".join(f"{leaf.name}: {leaf.short_type}" for leaf in leaves) or "no array"
            raise ArgumentError(
                f"argument {number} ({name}) has no floating-point leaf to differentiate with "
                f"respect to ({given}); pass it as floats or leave it out of argnums"
            )
        selected.extend(chosen)
        inputs.extend(leaves)
    if not selected:
        given = ", ".join(f"{leaf.name}: {leaf.short_type}" for leaf in inputs) or "no arguments"
        raise ArgumentError(
            f"{function_name(f)} has no floating-point input to differentiate with respect to "
            f"(given {given}); integers and booleans take no derivative, pass floats"
        )
    outputs, out_tree = _outputs(f, inputs, in_tree)
    return Call(f, tuple(inputs), tuple(selected), outputs, in_tree, out_tree)


def is_integer(x: Any) -> bool:
    """Whether something is one whole number, of Python, NumPy or JAX; True and False are none."""
    if isinstance(x, (np.ndarray, jax.Array)):
        known = not isinstance(x, jax.core.Tracer)
        return known and x.ndim == 0 and bool(jnp.issubdtype(x.dtype, jnp.integer))
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def argument_numbers(argnums: int | Sequence[int]) -> tuple[int, ...]:
    """The positions that `argnums` names: `0`, `np.int64(0)`, `(0, 2)`, `np.array([0, 2])`.

    Raises:
        ArgumentError: it is no whole number, and no sequence of them.
    """
    if is_integer(argnums):
        return (int(cast(Any, argnums)),)
    try:
        numbers: tuple[Any, ...] = tuple(cast(Any, argnums))
    except TypeError:
        numbers = ()
    if not numbers or not all(map(is_integer, numbers)):
        raise ArgumentError(
            f"argnums must be an integer or a sequence of integers, got {argnums!r}: the position "
            "of the argument to differentiate with respect to, or several positions"
        )
    return tuple(int(n) for n in numbers)


def at_least_one(name: str, value: Any) -> int:
    """A number of points, calls or columns that is given by the name of an option.

    Raises:
        ArgumentError: it is no positive whole number.
    """
    if not is_integer(value) or value < 1:
        raise ArgumentError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def one_of(name: str, value: Any, choices: Iterable[str], plural: str) -> str:
    """A word that is given by the name of an option: one of the choices.

    Args:
        name: the name of the option.
        value: what was given.
        choices: the words that it may be.
        plural: what the choices are called.

    Raises:
        ArgumentError: it is none of them; the message lists them.
    """
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    close = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ArgumentError(
        f"{name}={value!r} is unknown; the {plural} are {', '.join(map(repr, known))}{hint}"
    )


def function_name(f: Callable[..., Any]) -> str:
    """A readable name of a function, for messages and titles."""
    inner = f
    while not hasattr(inner, "__name__") and hasattr(inner, "func"):
        inner = inner.func
    name = getattr(inner, "name", None) or getattr(inner, "__name__", None)
    return str(name) if name else type(f).__name__


def argument_names(f: Callable[..., Any], args: Sequence[Any]) -> tuple[str, ...]:
    """The names of the positional arguments of `f(*args)`, from its signature.

    Args:
        f: the function.
        args: the positional arguments, for their number.

    Returns:
        One name per argument; `args[0]`-like for `*args`, `x0`-like where there is no signature.

    Raises:
        ArgumentError: `f` cannot be called with that many positional arguments.
    """
    try:
        signature = inspect.signature(f)
    except (ValueError, TypeError):
        return tuple(f"x{k}" for k in range(len(args)))
    try:
        signature.bind(*args)
    except TypeError as error:
        count = f"{len(args)} argument" + ("" if len(args) == 1 else "s")
        raise ArgumentError(
            f"{function_name(f)}{_signature_text(signature)} cannot be called with {count}: {error}"
        ) from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = len(args) - len(names)
            names.extend(f"{parameter.name}[{k}]" for k in range(rest))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names[: len(args)])


def named_leaves(name: str, tree: Any) -> tuple[Leaf, ...]:
    """The leaves of a pytree with their Python-like names.

    Args:
        name: the name of the whole pytree.
        tree: any pytree; `jax.ShapeDtypeStruct` leaves are kept abstract.

    Returns:
        One `Leaf` per leaf, in `jax.tree` order.
    """
    with_paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return tuple(_leaf(name + path_text(path), value) for path, value in with_paths)


def path_text(path: Sequence[Any]) -> str:
    """A pytree path as Python source: `["W"]`, `[0]`, `.weight`."""
    parts = []
    for key in path:
        if isinstance(key, jax.tree_util.DictKey):
            quoted = f'"{key.key}"' if isinstance(key.key, str) else repr(key.key)
            parts.append(f"[{quoted}]")
        elif isinstance(key, jax.tree_util.SequenceKey):
            parts.append(f"[{key.idx}]")
        elif isinstance(key, jax.tree_util.GetAttrKey):
            parts.append(f".{key.name}")
        elif isinstance(key, jax.tree_util.FlattenedIndexKey):
            parts.append(f"[{key.key}]")
        else:
            parts.append(f"[{key}]")
    return "".join(parts)


def value_text(value: Any) -> str:
    """A static leaf's value in one short line; a random key by its type."""
    if isinstance(value, jax.Array):
        return f"{value.dtype}[{','.join(str(n) for n in value.shape)}]"
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:39] + "…"


def short_type(shape: Sequence[int], dtype: Any) -> str:
    """A type in JAX's short notation: `f32[4,8]`, `i32[]`, `bf16[3]`; a random key's own."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return f"{dtype}[{','.join(str(n) for n in shape)}]"
    dtype = np.dtype(dtype)
    if dtype.kind == "O":
        return "object"
    short = {"bfloat16": "bf16", "bool": "bool"}.get(dtype.name)
    if short is None:
        short = f"{dtype.kind}{dtype.itemsize * 8}" if dtype.kind in "fiuc" else dtype.name
    return f"{short}[{','.join(str(n) for n in shape)}]"


def _leaf(name: str, value: Any) -> Leaf:
    if isinstance(value, jax.ShapeDtypeStruct):
        return Leaf(name, tuple(value.shape), np.dtype(value.dtype))
    if isinstance(value, (bool, int)):
        return Leaf(name, (), np.dtype(type(value)), value, static=True)
    if isinstance(value, (float, complex, np.ndarray, np.generic, jax.Array)):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return Leaf(name, tuple(value.shape), np.dtype(object), value, static=True)
        array = jnp.asarray(value)
        return Leaf(name, tuple(array.shape), np.dtype(array.dtype), array)
    return Leaf(name, (), np.dtype(object), value, static=True)


def _outputs(
    f: Callable[..., Any], inputs: Sequence[Leaf], in_tree: Any
) -> tuple[tuple[Leaf, ...], Any]:
    """Shapes and names of the outputs, with only the floating-point leaves traced."""
    traced = [k for k, leaf in enumerate(inputs) if leaf.differentiable or leaf.value is None]

    def call(values: list[Any]) -> Any:
        leaves = [leaf.value for leaf in inputs]
        for position, value in zip(traced, values, strict=True):
            leaves[position] = value
        return f(*jax.tree.unflatten(in_tree, leaves))

    shapes = [
        inputs[k].value
        if inputs[k].value is not None
        else jax.ShapeDtypeStruct(inputs[k].shape, inputs[k].dtype)
        for k in traced
    ]
    result = jax.eval_shape(call, shapes)
    return named_leaves("out", result), jax.tree.structure(result)


def _normalise_argnums(
    argnums: int | Sequence[int] | None, args: Sequence[Any], names: Sequence[str]
) -> frozenset[int] | None:
    if argnums is None:
        return None
    numbers = argument_numbers(argnums)
    for number in numbers:
        if not -len(args) <= number < len(args):
            raise ArgumentError(
                f"argnums={argnums!r} names no argument: there are {len(args)} "
                f"({', '.join(names) or 'none'}), numbered from 0"
            )
    return frozenset(number % len(args) for number in numbers)


def _signature_text(signature: inspect.Signature) -> str:
    names = []
    for parameter in signature.parameters.values():
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else star
        names.append(star + parameter.name)
    return f"({', '.join(names)})"


def floats_of(call: Call, values: Sequence[Any]) -> list[Any]:
    """The float leaves, as arguments of a compiled function."""
    return [
        jnp.asarray(v) for leaf, v in zip(call.inputs, values, strict=True) if leaf.differentiable
    ]


def rebuilt(call: Call, values: Sequence[Any], floats: Sequence[Any]) -> list[Any]:
    """All leaves, the float ones replaced."""
    given = iter(floats)
    return [
        next(given) if leaf.differentiable else v
        for leaf, v in zip(call.inputs, values, strict=True)
    ]


def output_templates(call: Call, values: Sequence[Any]) -> list[Any]:
    """Shapes and dtypes of the differentiable outputs at these values."""
    # given as arguments: NumPy arrays held inside do not pass every transformation in float64
    shapes = jax.eval_shape(
        lambda floats: call.with_values(rebuilt(call, values, floats)).flat(())(),
        floats_of(call, values),
    )
    return [s for s, leaf in zip(shapes, call.outputs, strict=True) if leaf.differentiable]


def unit_like(leaf: Leaf, value: float) -> Any:
    """An array of one value as the cotangent of an output leaf; float0 where it has none."""
    if not leaf.differentiable:
        return np.zeros(leaf.shape, jax.dtypes.float0)
    return jnp.full(leaf.shape, value, leaf.dtype)
