"""Explicit Jacobians: the oracle that everything clever is tested against.

`jax.jacfwd` in spirit: one JVP per input entry, batched; of the plain function, its custom rules
replaced by the programs that they wrap; in float64 where the function can be evaluated there.

    >>> dense_jacobian(lambda W, x: W @ x, jnp.ones((2, 3)), jnp.ones(3))["out", "W"].matrix.shape
    (2, 6)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.errors import ArgumentError
from jacobians.program.call import Call, Leaf, bind, function_name, value_text
from jacobians.program.strip import strip_custom_rules

Array = NDArray[Any]

MAX_BYTES = 2 << 30
CHUNK_ENTRIES = 1 << 24


@dataclass(frozen=True, eq=False)
class DenseBlock:
    """One explicit Jacobian block.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        tensor: the block, of shape `out_shape + in_shape`, float64 (complex128 for complex
            outputs) where the function could be evaluated in double precision.
    """

    output: str
    input: str
    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    tensor: Array

    @property
    def matrix(self) -> Array:
        """The block as an m×n matrix, both sides flattened in row-major order."""
        return self.tensor.reshape(prod(self.out_shape), prod(self.in_shape))


@dataclass(frozen=True, eq=False)
class DenseJacobian:
    """Every block of a function's Jacobian at one point.

    Attributes:
        blocks: the blocks, output-major.
        values: the values of all output leaves.
        precision: 'float64', or the inputs' own dtype where float64 was not possible.
        mode: 'jacfwd', or 'jacrev' for functions that only have a reverse rule.
        notes: sentences about inputs without a derivative, then about precision and mode.
        evaluation: those about precision and mode alone.
    """

    blocks: tuple[DenseBlock, ...]
    values: tuple[Array, ...]
    precision: str
    mode: str
    notes: tuple[str, ...]
    evaluation: tuple[str, ...] = ()

    def __getitem__(self, key: tuple[int | str, int | str]) -> DenseBlock:
        """The block of an (output, input) pair, each by position or name."""
        found: DenseBlock = pick(self.blocks, key)
        return found


def pick(blocks: Sequence[Any], key: tuple[int | str, int | str]) -> Any:
    """The block of an (output, input) pair among output-major blocks.

    Args:
        blocks: objects with `.output` and `.input` names.
        key: position or name of the output, and of the input.

    Returns:
        The block.

    Raises:
        ArgumentError: there is no such output or input; the message lists those there are.
    """
    outputs = list(dict.fromkeys(b.output for b in blocks))
    inputs = list(dict.fromkeys(b.input for b in blocks))
    if not isinstance(key, tuple) or len(key) != 2:
        raise ArgumentError(f"a block is named by (output, input), got {key!r}")
    names = []
    for given, known, what in ((key[0], outputs, "output"), (key[1], inputs, "input")):
        if isinstance(given, (int, np.integer)) and -len(known) <= given < len(known):
            names.append(known[given])
        elif given in known:
            names.append(str(given))
        else:
            raise ArgumentError(
                f"no {what} {given!r} with a derivative; there are: {', '.join(known)}"
            )
    return next(b for b in blocks if b.output == names[0] and b.input == names[1])


def dense_jacobian(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    strip: bool = True,
) -> DenseJacobian:
    """The explicit Jacobian of a function at a point, block by block.

    Args:
        f: a JAX function.
        args: arrays, pytrees of arrays and Python scalars.
        argnums: the arguments to differentiate with respect to; default all with float leaves.
        strip: whether custom rules are replaced by the programs they wrap. Without that, the
            rules are used as JAX uses them; by `jax.vjp` where there is only a `custom_vjp`.

    Returns:
        The blocks with values, notes and the precision used.

    Raises:
        ArgumentError: an argument is abstract or complex, or the Jacobian would not fit.
        Exception: whatever `f` raises.

    Source: `jax.jacfwd`, `jax.jacrev` in JAX's documentation of automatic differentiation.
    """
    return dense_of_call(bind(f, args, argnums), strip)


def dense_of_call(call: Call, strip: bool = True) -> DenseJacobian:
    """The explicit Jacobian of a bound call; see `dense_jacobian`."""
    return evaluator(call, strip)(None)


def evaluator(call: Call, strip: bool = True) -> Callable[[Sequence[Any] | None], DenseJacobian]:
    """A function from values of the call's inputs to its explicit Jacobian, compiled once.

    Args:
        call: the bound call.
        strip: as in `dense_jacobian`.

    Returns:
        A function of one value per input leaf (None: the values given in the call).

    Raises:
        ArgumentError: an input is complex, or the Jacobian would not fit in memory.
    """
    check_inputs(call)
    _check_size(call)
    compiled: dict[str, Any] = {}

    def evaluate(values: Sequence[Any] | None) -> DenseJacobian:
        """The Jacobian at values of the inputs, in float64 where that is possible."""
        given = [leaf.value for leaf in call.inputs] if values is None else list(values)
        _check_concrete(call, given)
        wide_failed = compiled.get("narrow")
        if wide_failed is None:
            try:
                return _evaluate_wide(call, given, strip, compiled)
            except ArgumentError:
                raise
            except Exception as error:
                # the function may be tied to its own precision; if not, the same error comes again
                compiled.clear()
                wide_failed = compiled["narrow"] = type(error).__name__
        result = _evaluate(call, given, strip, compiled)
        narrow = f"evaluated in its own precision: float64 was not possible ({wide_failed})"
        notes = (*no_derivative_notes(call), narrow)
        return DenseJacobian(*result[:2], "as given", result[2], notes, (narrow,))

    return evaluate


def no_derivative_notes(call: Call) -> tuple[str, ...]:
    """One sentence for each integer, boolean or other leaf that takes no derivative."""
    notes = []
    for leaf in call.inputs:
        if not leaf.differentiable:
            what = f"= {value_text(leaf.value)}" if leaf.static else f": {leaf.short_type}"
            shown = f"{leaf.name} {what}" if leaf.static else f"{leaf.name}{what}"
            notes.append(f"{shown} takes no derivative")
    for leaf in call.outputs:
        if not leaf.differentiable:
            notes.append(f"{leaf.name}: {leaf.short_type} has no derivative")
    return tuple(notes)


def promoted(leaf: Leaf, value: Any) -> Any:
    """A leaf's value in double precision, unless it is not a float."""
    if leaf.static or not leaf.differentiable:
        return value
    complex_ = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return np.asarray(value).astype(np.complex128 if complex_ else np.float64)


def _evaluate_wide(
    call: Call, given: Sequence[Any], strip: bool, compiled: dict[str, Any]
) -> DenseJacobian:
    wide = [promoted(leaf, value) for leaf, value in zip(call.inputs, given, strict=True)]
    with jax.enable_x64(True):
        blocks, values, mode = _evaluate(call, wide, strip, compiled)
    by_rows = ("by jax.jacrev: the function has only a reverse-mode rule",)
    evaluation = by_rows if mode == "jacrev" else ()
    notes = (*no_derivative_notes(call), *evaluation)
    return DenseJacobian(blocks, values, "float64", mode, notes, evaluation)


def _evaluate(
    call: Call, given: Sequence[Any], strip: bool, compiled: dict[str, Any]
) -> tuple[tuple[DenseBlock, ...], tuple[Array, ...], str]:
    """The blocks of the Jacobian, the values of the outputs, and the mode they come by."""
    if "columns" not in compiled and "rows" not in compiled:
        _compile(call, given, strip, compiled)
    chosen = [jnp.asarray(given[k]) for k in call.selected]
    values = tuple(np.asarray(v) for v in compiled["values"](chosen))
    differentiable = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    mode = "jacfwd" if "columns" in compiled else "jacrev"
    inputs = [call.inputs[k] for k in call.selected]
    outputs = [call.outputs[k] for k in differentiable]
    if mode == "jacfwd":
        # rows of the result are input entries
        parts = _in_chunks(
            compiled["columns"], chosen, sum(x.size for x in inputs), compiled["chunk"]
        )
        stacked = [np.concatenate([p[k] for p in parts]) for k in range(len(outputs))]
        matrices = _split(stacked, inputs, transpose=True)
    else:
        parts = _in_chunks(
            compiled["rows"], chosen, sum(y.size for y in outputs), compiled["chunk"]
        )
        stacked = [np.concatenate([p[k] for p in parts]) for k in range(len(inputs))]
        by_input = _split(stacked, outputs, transpose=False)
        matrices = [list(row) for row in zip(*by_input, strict=True)]
    blocks = tuple(
        DenseBlock(y.name, x.name, y.shape, x.shape, matrices[o][i].reshape(y.shape + x.shape))
        for o, y in enumerate(outputs)
        for i, x in enumerate(inputs)
    )
    return blocks, values, mode


def _compile(call: Call, given: Sequence[Any], strip: bool, compiled: dict[str, Any]) -> None:
    """Puts the functions for values and for columns, or else rows, of the Jacobian there."""
    held = call.with_values(given)
    plain = held.flat(call.selected)
    function = strip_custom_rules(plain) if strip else plain
    differentiable = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    n = sum(call.inputs[k].size for k in call.selected)
    m = sum(call.outputs[k].size for k in differentiable)
    chunk = max(1, min(max(n, m), CHUNK_ENTRIES // max(1, n + m)))
    compiled["chunk"] = chunk

    def smooth(*values: Any) -> tuple[Any, ...]:
        results = function(*values)
        return tuple(results[k] for k in differentiable)

    def columns(values: Any, start: Any) -> Any:
        tangents = unit_vectors(values, start, chunk)
        return jax.vmap(lambda *t: jax.jvp(smooth, tuple(values), t)[1])(*tangents)

    def rows(values: Any, start: Any) -> Any:
        results, pull = jax.vjp(smooth, *values)
        return jax.vmap(lambda *c: pull(tuple(c)))(*unit_vectors(results, start, chunk))

    compiled["values"] = jax.jit(lambda values: function(*values))
    chosen = [jnp.asarray(given[k]) for k in call.selected]
    try:
        jax.eval_shape(columns, chosen, 0)
        compiled["columns"] = jax.jit(columns)
    except TypeError:
        # JAX refuses forward mode for a custom_vjp; any other fault comes back from reverse mode
        jax.eval_shape(rows, chosen, 0)
        compiled["rows"] = jax.jit(rows)


def unit_vectors(values: Sequence[Any], start: Any, count: int) -> list[Any]:
    """`count` unit vectors of the concatenated arrays from number `start`, split per array."""
    # of a known start NumPy makes them, which compiles nothing
    numpy: Any = np if isinstance(start, int) else jnp
    numbers = start + numpy.arange(count)
    vectors, offset = [], 0
    for x in values:
        size = prod(x.shape)
        hot = (numbers[:, None] - offset) == numpy.arange(size)[None, :]
        vectors.append(jnp.asarray(hot.astype(x.dtype).reshape(count, *x.shape)))
        offset += size
    return vectors


def _in_chunks(f: Any, values: Any, total: int, chunk: int) -> list[list[Array]]:
    parts = []
    for start in range(0, max(total, 1), chunk):
        count = min(chunk, total - start)
        arrays = [np.asarray(p)[:count] for p in f(values, start)]
        parts.append([a.reshape(count, prod(a.shape[1:])) for a in arrays])
    return parts


def _split(stacked: list[Array], leaves: Sequence[Leaf], transpose: bool) -> list[list[Array]]:
    """For each array its consecutive row blocks, one per leaf, transposed if asked."""
    result = []
    for array in stacked:
        pieces, offset = [], 0
        for leaf in leaves:
            piece = array[offset : offset + leaf.size]
            pieces.append(piece.T if transpose else piece)
            offset += leaf.size
        result.append(pieces)
    return result


def check_inputs(call: Call) -> None:
    for k in call.selected:
        leaf = call.inputs[k]
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ArgumentError(
                f"{leaf.name} is complex ({leaf.short_type}); an explicit Jacobian is taken with "
                "respect to real inputs: pass its real and imaginary parts as two arguments"
            )
    if not any(leaf.differentiable for leaf in call.outputs):
        given = ", ".join(f"{leaf.name}: {leaf.short_type}" for leaf in call.outputs)
        raise ArgumentError(
            f"{function_name(call.function)} has no floating-point output to differentiate "
            f"({given or 'no output at all'})"
        )


def _check_size(call: Call) -> None:
    n = sum(call.inputs[k].size for k in call.selected)
    m = sum(leaf.size for leaf in call.outputs if leaf.differentiable)
    if 8 * m * n > MAX_BYTES:
        raise ArgumentError(
            f"the explicit Jacobian has {m}×{n} entries, {8 * m * n / 2**30:.1f} GiB; "
            f"at most {MAX_BYTES / 2**30:.0f} GiB are listed: use smaller arrays"
        )


def _check_concrete(call: Call, given: Sequence[Any]) -> None:
    for leaf, value in zip(call.inputs, given, strict=True):
        if value is None and not leaf.static:
            raise ArgumentError(
                f"{leaf.name} is only a shape ({leaf.short_type}); numbers need an array"
            )
