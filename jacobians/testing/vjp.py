"""Ready-made property tests of hand-written derivatives, and the Hypothesis strategies for them.

`vjp_test` makes a whole property test in one line: arrays of many small shapes are drawn, and the
derivative is checked on each of them, every entry. A failure shrinks to a small shape and round
numbers, and its message says what is wrong, and ends with code that repeats it.

    test_my_norm = vjp_test(my_norm, "(m,n),(n)->(m,n)")

`assert_vjp` checks at given values; `operands` draws arrays whose shapes fit a generalised-ufunc
signature, empty axes, axes of length 1 and broadcasting included.

    assert_vjp(my_norm, x, scale)

Needs the `test` extra: `pip install "jacobians[test]"`.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, given
from hypothesis import settings as Settings
from hypothesis import strategies as st

from jacobians.check.check import check_vjp
from jacobians.errors import ArgumentError, WrongDerivativeError
from jacobians.gates.gate import Gate
from jacobians.program.call import argument_names, function_name, short_type
from jacobians.testing.code import check_code
from jacobians.testing.strategies import (
    DOMAINS,
    EXAMPLES,
    Array,
    Elements,
    _like,
    _limits,
    operands,
)

# Rounding errors that a short chain of operations may collect, in units of the dtype's epsilon.
# An epsilon of a half precision is already near 1 %, so few of them may be allowed.
ULPS = {"bfloat16": 8.0, "float16": 8.0, "float32": 64.0, "float64": 64.0}


def vjp_test(
    f: Callable[..., Any],
    signature: str | None = None,
    *,
    args: Sequence[Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_examples: int = EXAMPLES,
    settings: Settings | None = None,
    dtypes: Sequence[str] = ("float32",),
    min_side: int = 0,
    max_side: int = 3,
    max_loop_axes: int | None = None,
    elements: Elements | Sequence[Elements] | None = None,
    integers: Mapping[int, str] | None = None,
    away_from_kinks: bool | float = False,
    kinks: Sequence[float] = (0.0,),
    scales: Sequence[float] = (1.0,),
) -> Callable[[], None]:
    """A property test of a hand-written derivative, for pytest to collect.

        test_my_norm = vjp_test(my_norm, "(m,n),(n)->(m,n)")

    Each example is checked by `check_vjp`, every entry of it; entries at kinks need no care. An
    example that fails shrinks to small shapes and round numbers.

    Args:
        f: a Gate, a `jax.custom_vjp` or `jax.custom_jvp` function, a function that calls some, or
            with `vjp` any function.
        signature: how the shapes of the arguments belong together, as for `operands`; a Gate
            brings its own. Its part after the arrow is not looked at.
        args: in place of a signature, one example of each argument. Arrays and floats in it, also
            inside of pytrees, are replaced by ones of the same shape and dtype; integer arrays
            keep within the range of the example, so that indices stay valid; Python integers,
            booleans and strings stay as they are. A Hypothesis strategy may stand for an argument
            or a leaf.
        vjp: as for `check_vjp`.
        argnums: as for `check_vjp`.
        rtol: as for `check_vjp`.
        atol: as for `check_vjp`.
        max_examples: how many calls are checked.
        settings: Hypothesis settings to use in place of ours (which have no deadline) and of
            `max_examples`.
        dtypes: as for `operands`; with `args`, those of the example count.
        min_side: as for `operands`.
        max_side: as for `operands`.
        max_loop_axes: as for `operands`.
        elements: as for `operands`; with `args` one strategy for all numbers.
        integers: as for `operands`.
        away_from_kinks: as for `operands`.
        kinks: as for `operands`.
        scales: as for `operands`.

    Returns:
        A test: a function without arguments. It raises `WrongDerivativeError`, an
        `AssertionError`, with the report of the check and code that repeats it.

    Raises:
        ArgumentError: neither or both of `signature` and `args` are given, or the options do not
            fit them.
    """
    if not callable(f):
        raise ArgumentError(f"expected a function with a derivative, got {f!r}")
    apart = {"away_from_kinks": away_from_kinks, "kinks": kinks, "scales": scales}
    sides = {"min_side": min_side, "max_side": max_side, "max_loop_axes": max_loop_axes}
    if args is not None:
        strategy = _like_example(args, signature, elements, apart)
    else:
        options = {"dtypes": dtypes, "elements": elements, "integers": integers}
        strategy = _fitting_signature(f, signature, options | sides | apart)

    def test(arguments: tuple[Any, ...]) -> None:
        assert_vjp(f, *arguments, vjp=vjp, argnums=argnums, rtol=rtol, atol=atol)

    return _as_test(test, function_name(f), strategy, settings, max_examples)


def _like_example(
    args: Sequence[Any],
    signature: str | None,
    elements: Elements | Sequence[Elements] | None,
    apart: Mapping[str, Any],
) -> st.SearchStrategy[tuple[Any, ...]]:
    """Arguments like an example of each; `apart` is how their numbers keep away from kinks."""
    if signature is not None:
        raise ArgumentError("give a signature or an example of args, not both")
    if not (elements is None or isinstance(elements, st.SearchStrategy)):
        raise ArgumentError("with args, elements is one strategy for all numbers")
    return _like(tuple(args), elements, **apart)


def _fitting_signature(
    f: Callable[..., Any], signature: str | None, options: Mapping[str, Any]
) -> st.SearchStrategy[tuple[Any, ...]]:
    """Arguments that fit a signature, by options of `operands`; a Gate brings what is not given."""
    chosen = dict(options)
    if isinstance(f, Gate):
        signature = f.signature if signature is None else signature
        if chosen["elements"] is None:
            chosen["elements"] = [DOMAINS[domain] for domain in f.domain] or None
        if chosen["integers"] is None:
            chosen["integers"] = dict(f.indices)
    if signature is None:
        raise ArgumentError(
            f"how do the shapes of {function_name(f)}'s arguments belong together? give a "
            'signature such as "(m,n),(n)->(m)" ("()" for elementwise), or an example of each '
            "argument as args="
        )
    return operands(signature if "->" in signature else f"{signature}->()", **chosen)


def _as_test(
    test: Callable[[tuple[Any, ...]], None],
    of: str,
    strategy: st.SearchStrategy[tuple[Any, ...]],
    settings: Settings | None,
    max_examples: int,
) -> Callable[[], None]:
    """A property test that pytest collects, of the function of this name."""
    name = re.sub(r"\W", "_", of).strip("_")
    test.__name__ = test.__qualname__ = f"test_vjp_of_{name}"
    test.__doc__ = f"The hand-written derivative of {of}, entry by entry."
    if settings is None:
        # explaining a failure by variation would check many calls more, and the report explains
        phases = [phase for phase in Phase if phase is not Phase.explain]
        settings = Settings(max_examples=max_examples, deadline=None, phases=phases)
    ready: Callable[[], None] = settings(given(arguments=strategy)(test))
    return ready


def assert_vjp(
    f: Callable[..., Any],
    *args: Any,
    vjp: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Asserts that a hand-written derivative is right at the given values, entry by entry.

    Args:
        f: as for `check_vjp`.
        *args: as for `check_vjp`.
        vjp: as for `check_vjp`.
        argnums: as for `check_vjp`.
        rtol: as for `check_vjp`.
        atol: as for `check_vjp`.

    Raises:
        WrongDerivativeError: it is wrong; an `AssertionError` whose message is the report of the
            check, followed by code that repeats it.
        ArgumentError: there is nothing to check.
    """
    __tracebackhide__ = True
    check = check_vjp(f, *args, vjp=vjp, argnums=argnums, rtol=rtol, atol=atol)
    if not check:
        options = {"argnums": argnums, "rtol": rtol, "atol": atol}
        code = check_code(f, args, vjp, options)
        raise WrongDerivativeError(f"{check}\n\nTo repeat this, paste:\n\n{code}\n")


def assert_cotangents(
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
