"""Hypothesis strategies: numbers, and arrays whose shapes fit a signature."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jacobians.errors import ArgumentError
from jacobians.gates.gate import Gate, check_inputs
from jacobians.gates.signature import Signature, bind_shapes, parse_signature

Array = np.ndarray[Any, Any]
Elements = st.SearchStrategy[float]
Call = tuple[Any, tuple[Array, ...]]


def numbers(low: float = -8.0, high: float = 8.0, smallest: float = 0.125) -> Elements:
    """Numbers of moderate size, which float16 holds without rounding.

    Args:
        low: the least of them.
        high: the greatest of them.
        smallest: the least magnitude of those that are not 0.

    Returns:
        A strategy of floats; 0 is among them where it lies between `low` and `high`.
    """
    parts: list[Elements] = []
    if low <= 0 <= high:
        parts.append(st.just(0.0))
    if high >= smallest:
        parts.append(st.floats(max(low, smallest), high, width=16))
    if low <= -smallest:
        parts.append(st.floats(low, min(high, -smallest), width=16))
    return st.one_of(parts)


# Unlike NumPy's, it knows bfloat16; it has no type hints.
_limits: Callable[..., Any] = jnp.finfo

# How far apart the numbers lie that are kept away from kinks, unless told.
GAP = 0.25

# How many calls `vjp_test` checks unless told. A check looks at every entry and takes a part of a
# second, nearly all of it for compiling: a few calls of different shapes say more than many.
EXAMPLES = 20

# The numbers a gate is meant for, by the name of its domain.
DOMAINS: Mapping[str, Elements] = {
    "real": numbers(),
    "positive": numbers(low=0.125),
    "nonzero": numbers().filter(bool),
}


def operands(
    signature: str,
    *,
    dtypes: Sequence[str] = ("float32",),
    min_side: int = 0,
    max_side: int = 4,
    max_loop_axes: int | None = None,
    elements: Elements | Sequence[Elements] | None = None,
    integers: Mapping[int, str] | None = None,
    away_from_kinks: bool | float = False,
    kinks: Sequence[float] = (0.0,),
    scales: Sequence[float] = (1.0,),
) -> st.SearchStrategy[tuple[Array, ...]]:
    """Tuples of arrays whose shapes fit a generalised-ufunc signature.

    Arrays may be empty, have axes of length 1, and hold zeros and equal numbers: that is where
    hand-written derivatives are wrong first.

    Args:
        signature: for example `"(m,n),(n)->(m)"`; equal names get equal lengths.
        dtypes: names of floating dtypes, `bfloat16` included; the arrays of a tuple share one.
        min_side: the least length of an axis.
        max_side: the greatest length of an axis.
        max_loop_axes: how many broadcasting axes there may be in front of those in the signature;
            by default 2 for an elementwise signature such as `"(),()->()"`, otherwise none.
        elements: strategy for the numbers, or one per input; by default `numbers()`.
        integers: the inputs that hold int32 indices, as position → name of the axis they index;
            that axis is never empty.
        away_from_kinks: keeps the numbers of a tuple, across its arrays, at least this far (True:
            0.25) from every one of `kinks` and from one another, so that no `max(x, 0)` and no
            `max(x, y)`, sort or median of them switches nearby. What is too near is moved away
            from zero, which may take it beyond the range of `elements`. It says nothing of
            intermediate values: those of `relu(W @ x)` lie where they lie.
        kinks: the numbers to keep away from: `(0.0, -1.0, 1.0)` for a Huber loss.
        scales: the numbers of each array are multiplied by one of these, so that arrays of very
            different sizes meet: `(1.0, 1e-3, 1e3)`.

    Returns:
        A strategy of tuples of NumPy arrays, one per input.

    Raises:
        ArgumentError: `signature` cannot be read, or the options do not fit it.
    """
    parsed = parse_signature(signature)
    indexed = dict(integers or {})
    gap = _gap(away_from_kinks, scales)
    axes_known = _check_indexed(parsed, indexed)
    if not 0 <= min_side <= max_side:
        raise ArgumentError(f"expected 0 ≤ min_side ≤ max_side, got {min_side} and {max_side}")
    per_input = _per_input(parsed, elements)
    if max_loop_axes is None:
        max_loop_axes = 0 if axes_known else 2
    core_axes = ",".join(f"({','.join(axes)})" for axes in parsed.inputs)
    shapes = hnp.mutually_broadcastable_shapes(
        signature=f"{core_axes}->()",
        min_side=min_side,
        max_side=max_side,
        max_dims=max_loop_axes,
    ).filter(lambda drawn: _indexable(parsed, indexed, drawn.input_shapes))

    @st.composite
    def draw_operands(draw: st.DrawFn) -> tuple[Array, ...]:
        """Arrays of shapes that fit one another, in one dtype."""
        drawn = draw(shapes).input_shapes
        core = bind_shapes(parsed, drawn).core
        dtype = jnp.dtype(draw(st.sampled_from(list(dtypes))))
        arrays: list[Array] = []
        floats = [k for k in range(len(drawn)) if k not in indexed]
        for position, shape in enumerate(drawn):
            if position in indexed:
                below = st.integers(0, core[indexed[position]] - 1)
                arrays.append(draw(hnp.arrays(np.int32, shape, elements=below)))
            else:
                values = draw(hnp.arrays(np.float64, shape, elements=per_input[position]))
                # a product of 0-dimensional arrays is no array
                arrays.append(np.asarray(values * draw(st.sampled_from(list(scales)))))
        if gap:
            _keep_apart([arrays[k] for k in floats], gap, kinks)
        return tuple(
            np.asarray(array, dtype) if k in floats else array for k, array in enumerate(arrays)
        )

    return draw_operands()


def gate_calls(
    gate: Gate,
    *,
    dtypes: Sequence[str] = ("float32",),
    min_side: int = 0,
    max_side: int = 4,
    max_loop_axes: int | None = None,
    elements: Elements | Sequence[Elements] | None = None,
) -> st.SearchStrategy[Call]:
    """Calls of a gate's VJP: a cotangent and the inputs.

    Args:
        gate: the gate; its signature, domain and indices say what is drawn.
        dtypes: as for `operands`.
        min_side: as for `operands`.
        max_side: as for `operands`.
        max_loop_axes: as for `operands`.
        elements: as for `operands`; by default numbers of the gate's domain.

    Returns:
        A strategy of pairs (cotangent, inputs). The cotangent has the shape and dtype of the
        output, and is a tuple where the gate has several outputs.
    """
    parsed = parse_signature(gate.signature)
    if elements is None:
        elements = [DOMAINS[domain] for domain in gate.domain or ("real",) * len(parsed.inputs)]
    inputs_strategy = operands(
        gate.signature,
        dtypes=dtypes,
        min_side=min_side,
        max_side=max_side,
        max_loop_axes=max_loop_axes,
        elements=elements,
        integers=dict(gate.indices),
    )
    floating = next(k for k in range(len(parsed.inputs)) if k not in dict(gate.indices))

    @st.composite
    def draw_call(draw: st.DrawFn) -> Call:
        inputs = draw(inputs_strategy)
        sizes = check_inputs(gate, *inputs)
        dtype = inputs[floating].dtype
        cotangents = tuple(
            draw(
                hnp.arrays(np.float64, sizes.shape(axes), elements=numbers(-4.0, 4.0, 0.25))
            ).astype(dtype)
            for axes in parsed.outputs
        )
        return (cotangents if len(cotangents) > 1 else cotangents[0]), inputs

    return draw_call()


def _check_indexed(parsed: Signature, indexed: Mapping[int, str]) -> set[str]:
    """The axes of a signature; raises where indices are of no input, or of no axis."""
    axes_known = {axis for axes in parsed.inputs for axis in axes}
    for position, axis in indexed.items():
        if not 0 <= position < len(parsed.inputs) or axis not in axes_known:
            raise ArgumentError(
                f"integers={{{position}: {axis!r}}} does not fit the signature {parsed.text}: "
                "give the position of an input and the name of an axis"
            )
    return axes_known


def _gap(away_from_kinks: bool | float, scales: Sequence[float]) -> float:
    """The distance from kinks to keep, 0 for none."""
    gap = GAP if away_from_kinks is True else float(away_from_kinks)
    if gap < 0:
        raise ArgumentError(f"away_from_kinks={away_from_kinks!r}: a distance is not negative")
    if not scales:
        raise ArgumentError("scales is empty; give at least one factor, such as 1.0")
    if gap and list(scales) != [1.0]:
        raise ArgumentError("away_from_kinks keeps distances that scales would change: give one")
    return gap


def _keep_apart(arrays: Sequence[Array], gap: float, kinks: Sequence[float]) -> None:
    """Moves numbers away from zero until all are `gap` from kinks and from one another."""
    places = sorted(
        (
            (abs(float(x)), k, at)
            for k, array in enumerate(arrays)
            for at, x in np.ndenumerate(array)
        )
    )
    taken = [float(kink) for kink in kinks]
    for _, k, at in places:
        number = float(arrays[k][at])
        sign = -1.0 if number < 0 else 1.0
        while True:
            near = [other for other in taken if abs(number - other) < gap]
            if not near:
                break
            number = max(near) + gap if sign > 0 else min(near) - gap
        taken.append(number)
        arrays[k][at] = number


def _like(
    example: tuple[Any, ...],
    elements: Elements | None,
    away_from_kinks: bool | float,
    kinks: Sequence[float],
    scales: Sequence[float],
) -> st.SearchStrategy[tuple[Any, ...]]:
    """Arguments like those of an example: its structure, shapes and dtypes with other numbers."""
    gap = _gap(away_from_kinks, scales)
    numbers_ = numbers() if elements is None else elements

    def is_strategy(x: Any) -> bool:
        return isinstance(x, st.SearchStrategy)

    leaves, tree = jax.tree.flatten(example, is_leaf=is_strategy)
    floats = [
        k
        for k, x in enumerate(leaves)
        if isinstance(x, float)
        or (hasattr(x, "dtype") and jnp.issubdtype(jnp.result_type(x), jnp.floating))
    ]

    @st.composite
    def draw_arguments(draw: st.DrawFn) -> tuple[Any, ...]:
        """The example with other numbers in place of its own."""
        drawn: list[Any] = []
        for k, x in enumerate(leaves):
            if is_strategy(x):
                drawn.append(draw(x))
            elif k in floats:
                values = draw(hnp.arrays(np.float64, np.shape(x), elements=numbers_))
                drawn.append(np.array(values * draw(st.sampled_from(list(scales)))))
            else:
                drawn.append(draw(_whole_numbers_like(x)))
        if gap:
            _keep_apart([drawn[k] for k in floats], gap, kinks)
        for k in floats:
            whole = drawn[k]
            drawn[k] = (
                float(whole) if isinstance(leaves[k], float) else np.asarray(whole, leaves[k].dtype)
            )
        arguments: tuple[Any, ...] = jax.tree.unflatten(tree, drawn)
        return arguments

    return draw_arguments()


def _whole_numbers_like(example: Any) -> st.SearchStrategy[Any]:
    """Integer or boolean arrays in the range of an example; anything else as it is."""
    if not hasattr(example, "dtype") or not np.size(example):
        return st.just(example)
    if jnp.issubdtype(example.dtype, jnp.bool_):
        return hnp.arrays(np.bool_, np.shape(example), elements=st.booleans())
    if not jnp.issubdtype(example.dtype, jnp.integer):
        return st.just(example)
    array = np.asarray(example)
    within = st.integers(int(array.min()), int(array.max()))
    return hnp.arrays(array.dtype, array.shape, elements=within)


def _per_input(
    parsed: Signature, elements: Elements | Sequence[Elements] | None
) -> Sequence[Elements]:
    count = len(parsed.inputs)
    if elements is None or isinstance(elements, st.SearchStrategy):
        return [numbers() if elements is None else elements] * count
    if len(elements) != count:
        raise ArgumentError(
            f"{parsed.text} has {count} inputs, elements has {len(elements)} strategies; "
            "give one strategy for all inputs or one per input"
        )
    return elements


def _indexable(
    parsed: Signature, indexed: Mapping[int, str], shapes: Sequence[tuple[int, ...]]
) -> bool:
    core = bind_shapes(parsed, shapes).core
    return all(core[axis] > 0 for axis in indexed.values())
