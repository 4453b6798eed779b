"""Hypothesis strategies and assertions for testing hand-written derivatives.

`operands` draws arrays whose shapes fit a generalised-ufunc signature, empty axes, axes of length 1
and broadcasting included; `gate_calls` draws the inputs of a gate together with a cotangent.
`assert_vjp` compares a VJP with the transposed explicit Jacobian times the cotangent, entry by
entry.

    >>> @given(gate_calls(MY_GATE))
    ... def test_my_gate(call):
    ...     cotangent, inputs = call
    ...     assert_vjp(MY_GATE.forward, MY_GATE.vjp, cotangent, *inputs)

Needs the `test` extra: `pip install "jacobians[test]"`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.arguments import argument_names, function_name, short_type
from jacobians.errors import ArgumentError
from jacobians.gates.gate import Gate, check_inputs
from jacobians.gates.signature import Signature, bind_shapes, parse_signature

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ModuleNotFoundError as error:
    raise ImportError(
        "jacobians.testing needs Hypothesis, which is not installed; "
        'install it with pip install "jacobians[test]"'
    ) from error

Array = np.ndarray[Any, Any]
Elements = st.SearchStrategy[float]
Call = tuple[Any, tuple[Array, ...]]

# Rounding errors that a short chain of operations may collect, in units of the dtype's epsilon.
# An epsilon of a half precision is already near 1 %, so few of them may be allowed.
ULPS = {"bfloat16": 8.0, "float16": 8.0, "float32": 64.0, "float64": 64.0}


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
) -> st.SearchStrategy[tuple[Array, ...]]:
    """Tuples of arrays whose shapes fit a generalised-ufunc signature.

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

    Returns:
        A strategy of tuples of NumPy arrays, one per input.

    Raises:
        ArgumentError: `signature` cannot be read, or the options do not fit it.
    """
    parsed = parse_signature(signature)
    indexed = dict(integers or {})
    axes_known = {axis for axes in parsed.inputs for axis in axes}
    for position, axis in indexed.items():
        if not 0 <= position < len(parsed.inputs) or axis not in axes_known:
            raise ArgumentError(
                f"integers={{{position}: {axis!r}}} does not fit the signature {parsed.text}: "
                "give the position of an input and the name of an axis"
            )
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
        drawn = draw(shapes).input_shapes
        core = bind_shapes(parsed, drawn).core
        dtype = jnp.dtype(draw(st.sampled_from(list(dtypes))))
        arrays: list[Array] = []
        for position, shape in enumerate(drawn):
            if position in indexed:
                below = st.integers(0, core[indexed[position]] - 1)
                arrays.append(draw(hnp.arrays(np.int32, shape, elements=below)))
            else:
                values = draw(hnp.arrays(np.float64, shape, elements=per_input[position]))
                arrays.append(values.astype(dtype))
        return tuple(arrays)

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


def assert_vjp(
    forward: Callable[..., Any],
    vjp: Callable[..., tuple[Any, ...]],
    cotangent: Any,
    *inputs: Any,
    ulps: float | None = None,
    floor: float = 0.0,
) -> None:
    """Asserts that a VJP is the transposed explicit Jacobian times the cotangent, entry by entry.

    The Jacobian J is `jax.jacfwd` of `forward` in float64; the VJP runs in the inputs' dtype. An
    entry may differ by `ulps` epsilons of that dtype times (|J|ᵀ·|ȳ| + floor·max|ȳ|), the size of
    what is added up in it.

    Args:
        forward: the plain function, of arrays only.
        vjp: `vjp(cotangent, *inputs)`, one cotangent per input.
        cotangent: of the structure, shape and dtype of the output.
        *inputs: arrays; those of integer dtypes take no derivative.
        ulps: how many epsilons; by default `ULPS` of the inputs' dtype.
        floor: how large, for a cotangent of 1, the intermediate values are that cancel in J.

    Raises:
        AssertionError: wrong number, shape, dtype or entry; the message names the first and the
            worst.
    """
    name = function_name(vjp)
    with jax.enable_x64(True):
        given_arrays = jax.tree.map(jnp.asarray, (cotangent, *inputs))
        got = vjp(*given_arrays)
        dtypes = [np.dtype(jnp.result_type(value)) for value in inputs]
    assert len(got) == len(inputs), f"{name} gave {len(got)} cotangents for {len(inputs)} inputs"
    differentiable = tuple(
        k for k, dtype in enumerate(dtypes) if jnp.issubdtype(dtype, jnp.floating)
    )
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(cotangent)]
    upstream = np.concatenate(leaves)
    largest = float(np.max(np.abs(upstream), initial=0.0))
    names = argument_names(forward, inputs)
    jacobians = _explicit(forward, differentiable, inputs)
    for k, jacobian in zip(differentiable, jacobians, strict=True):
        mine, dtype = np.asarray(got[k]), dtypes[k]
        wanted, given = short_type(np.shape(inputs[k]), dtype), short_type(mine.shape, mine.dtype)
        assert given == wanted, f"{name}: the cotangent of {names[k]} is {given}, not {wanted}"
        with np.errstate(invalid="ignore", over="ignore"):
            expected = jacobian.T @ upstream
            added = np.abs(jacobian).T @ np.abs(upstream) + floor * largest
        limits = _limits(dtype)
        units = ULPS[dtype.name] if ulps is None else ulps
        allowed = units * (float(limits.eps) * added + float(limits.tiny))
        _assert_entries(
            f"{name}: cotangent of {names[k]}", mine, expected, allowed, float(limits.max)
        )


def _assert_entries(
    title: str, given: Array, expected: Array, allowed: Array, greatest: float
) -> None:
    """Asserts entries within their tolerance; one too large for the dtype must not be finite."""
    mine = given.astype(np.float64).ravel()
    within = np.isfinite(expected) & (np.abs(expected) <= greatest)
    with np.errstate(invalid="ignore"):
        wrong = np.where(within, ~(np.abs(mine - expected) <= allowed), np.isfinite(mine))
    if not wrong.any():
        return
    with np.errstate(invalid="ignore"):
        excess = np.where(wrong, np.nan_to_num(np.abs(mine - expected), nan=math.inf), -1.0)
    worst = int(np.argmax(excess))
    index = tuple(int(k) for k in np.unravel_index(worst, given.shape))
    raise AssertionError(
        f"{title} is wrong in {int(wrong.sum())} of {wrong.size} entries, most at {index}: "
        f"{mine[worst]:.8g} given, {expected[worst]:.8g} expected, {allowed[worst]:.1e} allowed"
    )


def _explicit(
    forward: Callable[..., Any], differentiable: tuple[int, ...], inputs: Sequence[Any]
) -> list[Array]:
    """The float64 Jacobian of all outputs, as rows, with respect to each floating-point input."""
    wide = [np.asarray(v, np.float64) if k in differentiable else v for k, v in enumerate(inputs)]
    with jax.enable_x64(True):
        blocks = jax.tree.leaves(_compiled_jacobian(forward, differentiable)(*wide))
    count = len(differentiable)
    matrices = []
    for column, k in enumerate(differentiable):
        size = wide[k].size
        rows = [np.asarray(block) for block in blocks[column::count]]
        outputs = [block.shape[: block.ndim - wide[k].ndim] for block in rows]
        pairs = zip(rows, outputs, strict=True)
        matrices.append(np.concatenate([b.reshape(math.prod(out), size) for b, out in pairs]))
    return matrices


@functools.lru_cache(maxsize=256)
def _compiled_jacobian(
    forward: Callable[..., Any], differentiable: tuple[int, ...]
) -> Callable[..., Any]:
    # Compiling costs more than running here, so the optimiser is told to do little.
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(jax.jacfwd(forward, argnums=differentiable), compiler_options=quick)


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
