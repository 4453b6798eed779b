"""The Jacobian that a rule implies: its VJP at unit cotangents, many at a time.

Both precisions and runs with rounding imitated go through the same compiled function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.arrays import Array, Integers
from jacobians.check.rule import Rule
from jacobians.check.summands import rounding_slopes
from jacobians.program import dense
from jacobians.program.call import Call, floats_of, output_templates, rebuilt
from jacobians.program.strip import run

Pull = Callable[..., tuple[Any, ...]]

CHUNK = 1 << 24
DOUBLE = float(np.finfo(np.float64).eps)


# what cannot be batched is called as it is
SLOW = "the rule cannot be compiled or batched, and is called as it is, once per cotangent"


def implied_jacobian(
    call: Call, pull: Pull, m: int, n: int, gives_up: Callable[[str, Exception], None]
) -> Callable[..., Array]:
    """The Jacobian that a rule implies, row by row.

    Args:
        call: the call.
        pull: from values, cotangents and further numbers to cotangents.
        m: number of output entries.
        n: number of input entries.
        gives_up: told where the rule has to be called once per row, and why.

    Returns:
        A function of the inputs' values and the further numbers, compiled once.
    """
    chunk = max(1, min(m, CHUNK // max(1, m + n)))
    slow: list[Exception] = []

    def rows(
        given: Any, start: Any, more: Any, values: Sequence[Any], templates: Sequence[Any]
    ) -> Any:
        vectors = dense.unit_vectors(templates, start, chunk)
        held = rebuilt(call, values, given)
        return jax.vmap(lambda *c: pull(held, c, *more))(*vectors)

    def compiled_for(values: Sequence[Any], templates: Sequence[Any]) -> Any:
        return jax.jit(lambda given, start, more: rows(given, start, more, values, templates))

    compiled: dict[bool, Any] = {}

    def evaluate(values: Sequence[Any], *more: Any) -> Array:
        """The Jacobian at values of all inputs, by chunks of rows, or row by row."""
        traced = floats_of(call, values)
        templates = output_templates(call, values)
        double = any(v.dtype == jnp.float64 for v in traced)

        def by_chunks() -> list[Any]:
            if double not in compiled:
                compiled[double] = compiled_for(values, templates)
            return [compiled[double](traced, start, more) for start in range(0, max(m, 1), chunk)]

        def row_by_row() -> list[Any]:
            rows = (
                pull(values, [v[0] for v in dense.unit_vectors(templates, k, 1)], *more)
                for k in range(m)
            )
            return [[np.asarray(c)[None] for c in row] for row in rows]

        if slow:
            parts = row_by_row()
        else:
            try:
                parts = by_chunks()
            except Exception as error:
                # what the rule itself raises it raises again
                parts = row_by_row()
                slow.append(error)
                gives_up(SLOW, error)
        made = [
            np.concatenate(
                [np.asarray(c, np.float64).reshape(np.shape(c)[0], -1) for c in part], axis=1
            )
            for part in parts
        ]
        return np.concatenate(made)[:m] if made else np.zeros((m, n))

    return evaluate


def pulled(
    call: Call, rule: Rule, values: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[Any, ...]:
    """Cotangents of the selected leaves for cotangents of the differentiable outputs."""
    given = iter(cotangents)
    everything = [
        next(given) if leaf.differentiable else np.zeros(leaf.shape, jax.dtypes.float0)
        for leaf in call.outputs
    ]
    return rule.cotangents(values, everything)


def rounding(call: Call, rule: Rule) -> Pull:
    """The rule with every operation's result moved by a relative size to either side, by a seed."""

    def pull(
        values: Sequence[Any], cotangents: Sequence[Any], size: Any, seed: Any
    ) -> tuple[Any, ...]:
        def after(results: list[Any]) -> list[Any]:
            return [_moved(r, size, seed) for r in results]

        floats = floats_of(call, values)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(v), v.dtype) for v in [*floats, *cotangents]]
        count = len(floats)
        traced = program.trace(
            lambda *g: pulled(call, rule, rebuilt(call, values, g[:count]), g[count:]), shapes
        )
        given = [_moved(v, size, seed) for v in floats]
        return tuple(run(traced, [*given, *cotangents], after))

    return pull


def rounding_to_first_order(call: Call, rule: Rule) -> Pull:
    """How far one rounding of each of the rule's operations moves its cotangents: slopes."""

    def pull(
        values: Sequence[Any], cotangents: Sequence[Any], eps: Any, tiny: Any, numbers: Any
    ) -> tuple[Any, ...]:
        floats = floats_of(call, values)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(v), v.dtype) for v in [*floats, *cotangents]]
        count = len(floats)
        traced = program.trace(
            lambda *g: pulled(call, rule, rebuilt(call, values, g[:count]), g[count:]), shapes
        )
        return tuple(rounding_slopes(traced, floats, cotangents, eps, tiny, numbers))

    return pull


def _moved(value: Any, size: Any, seed: Any) -> Any:
    """A float array with errors that look random but need no key: they depend on its values."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return value
    places = jnp.arange(value.size, dtype=dtype).reshape(value.shape)
    # beyond 1e6 the sine itself would be noise of its own
    phase = 1e4 * jnp.clip(jnp.nan_to_num(value), -1e2, 1e2) + 1.7 * places + 2.3 * seed
    return (value * (1 + size * jnp.sin(phase))).astype(dtype)


def row_colours(rows: Integers, columns: Integers, m: int, n: int) -> Integers:
    """A colour for every row such that rows of one colour share no column; greedy, in order."""
    if int(np.max(np.bincount(columns, minlength=1), initial=0)) <= 1:
        return np.zeros(m, dtype=np.int64)
    taken = [0] * n
    colours = np.zeros(m, dtype=np.int64)
    starts = np.searchsorted(rows, np.arange(m + 1))
    for row in range(m):
        mine = columns[starts[row] : starts[row + 1]].tolist()
        used = 0
        for c in mine:
            used |= taken[c]
        colour = (~used & (used + 1)).bit_length() - 1
        colours[row] = colour
        for c in mine:
            taken[c] |= 1 << colour
    return colours


def precisions(call: Call, rule: Rule, values: Sequence[Any]) -> tuple[float, float]:
    """The coarsest unit roundoff among the floats of the rule's and of the function's program."""
    traced = floats_of(call, values)
    templates = output_templates(call, values)
    ones = [jnp.asarray(np.ones(t.shape, t.dtype)) for t in templates]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in traced]
    programs = [
        program.trace(lambda *g: pulled(call, rule, rebuilt(call, values, g), ones), shapes),
        program.trace(lambda *g: call.with_values(rebuilt(call, values, g)).flat(())(), shapes),
    ]
    coarse = [max(DOUBLE, _coarsest(p)) for p in programs]
    return coarse[0], coarse[1]


def _coarsest(inner: program.Program) -> float:
    """The largest unit roundoff among the floats that a program computes or writes down."""
    arrays = [
        constant.dtype
        for one in program.nested_programs(inner)
        for _, constant in one.constants
        if hasattr(constant, "dtype")
    ]
    for equation in program.nested(inner):
        arrays += [program.dtype_of(v) for v in equation.outvars]
        # a number rounded to single precision beforehand rounds what it is multiplied with
        arrays += [program.dtype_of(a) for a in equation.invars if program.is_literal(a)]
    worst = 0.0
    for dtype in arrays:
        extended = dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended)
        if not extended and jnp.issubdtype(dtype, jnp.floating):
            worst = max(worst, float(jnp.finfo(dtype).eps))
    return worst
