"""The two sides of a comparison: the explicit Jacobian, and the one that a rule implies.

A small block is looked at as a whole; a large one where its derived pattern has entries, compressed
by colouring.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.arrays import Array, Integers
from jacobians.check.implied import (
    CHUNK,
    implied_jacobian,
    pulled,
    rounding,
    rounding_to_first_order,
    row_colours,
)
from jacobians.check.oracle import Oracle
from jacobians.check.rule import Rule
from jacobians.check.summands import drawn, largest
from jacobians.derive.algebra import entries as listing
from jacobians.derive.call import derive_call
from jacobians.derive.derive import derive
from jacobians.program import dense
from jacobians.program.call import Call, output_templates, rebuilt

# up to this many entries the matrix is compared whole; beyond, by its pattern if that is smaller
WHOLE = 1 << 18
MAX_WHOLE = 1 << 26
MAX_PATTERN = 1 << 22
# rounding errors are imitated this often
SEEDS = 4
LOUD = 16.0


@dataclass(eq=False, kw_only=True)
class Sides:
    """How both sides are evaluated on the listed entries.

    Attributes:
        call: the call.
        rows: row of every listed entry in the whole matrix.
        columns: its column.
        truth: the derivative of the program at double-precision values, and its error bar.
        mine: what the rule says at values, in their precision.
        rounded: the same with every operation's result moved by a relative size at random,
            by a seed.
        sloping: the slope of the same to first order.
        compressed: whether the entries are those of a proved pattern.
        gives_up: told what is given up, and why.
        derivative: JAX's derivative of the program in the inputs' own precision.
    """

    call: Call
    rows: Integers
    columns: Integers
    truth: Callable[[Sequence[Any] | None], tuple[Array, Array | None]]
    mine: Callable[[Sequence[Any]], Array]
    rounded: Callable[[Sequence[Any], float, int], Array]
    sloping: Callable[[Sequence[Any], float, float, Array], Array]
    compressed: bool
    gives_up: Callable[[str, Exception], None]
    derivative: Callable[[], Array] | None = None

    @cached_property
    def own(self) -> Array | None:
        """JAX's derivative in the inputs' own precision, None where there is none."""
        if self.derivative is None:
            return None
        try:
            return self.derivative()
        except Exception as error:
            self.gives_up(
                "JAX's derivative in the inputs' own precision cannot be had; what float64 says "
                "stands",
                error,
            )
            return None

    def column_colours(self, leaf: int) -> Integers | None:
        """Colours of a leaf's columns such that no row holds two of one colour, or None."""
        if not self.compressed:
            return None
        if leaf not in self._colours:
            before = sum(self.call.inputs[k].size for k in self.call.selected if k < leaf)
            size = self.call.inputs[leaf].size
            mine = (self.columns >= before) & (self.columns < before + size)
            rows, columns = self.rows[mine], self.columns[mine] - before
            order = np.lexsort((rows, columns))
            m = int(np.max(rows, initial=-1)) + 1
            self._colours[leaf] = row_colours(columns[order], rows[order], size, m)
        return self._colours[leaf]

    @cached_property
    def _colours(self) -> dict[int, Integers]:
        return {}

    @cached_property
    def noise(self) -> Array:
        """How far rounding in the inputs' own precision moves each entry of the rule."""
        call = self.call
        values = [leaf.value for leaf in call.inputs]
        eps = max(float(jnp.finfo(call.inputs[k].dtype).eps) for k in call.selected)
        wide = [dense.promoted(leaf, v) for leaf, v in zip(call.inputs, values, strict=True)]
        with jax.enable_x64(True):
            try:
                exact = np.nan_to_num(self.mine(wide))
                made = [self.rounded(wide, eps, seed) - exact for seed in range(SEEDS)]
            except Exception as error:
                made = []
                self.gives_up("rounding of the rule is imitated in its own precision", error)
        if not made:
            try:
                # larger errors than those of rounding, scaled back
                base = self.mine(values)
                larger = [self.rounded(values, LOUD * eps, seed) for seed in range(SEEDS)]
            except Exception as error:
                self.gives_up("rounding of the rule cannot be imitated, and excuses nothing", error)
                return np.zeros(len(self.rows))
            made = [(moved - base) / LOUD for moved in larger]
        return np.asarray(np.max(np.abs(np.nan_to_num(made)), axis=0))

    def rule_noise(self, eps: float, tiny: float, own: bool = False) -> Array:
        """How far rounding moves each entry of the rule, to first order; 0 where JAX cannot tell.

        Args:
            eps: the relative error of an operation.
            tiny: its absolute error.
            own: whether at the inputs' values in their own precision, rather than in double.
        """
        if (eps, tiny, own) not in self._rule_noise:
            wide = [dense.promoted(leaf, leaf.value) for leaf in self.call.inputs]
            self._rule_noise[eps, tiny, own] = np.zeros(len(self.rows))
            for double, values in ((True, wide), (False, [x.value for x in self.call.inputs])):
                if own and double:
                    continue
                try:
                    with jax.enable_x64(double):
                        seeds = [[self.sloping(values, eps, tiny, r)] for r in drawn()]
                except Exception as error:
                    if not double:
                        self.gives_up(
                            "what rounding moves the rule by cannot be measured, and excuses "
                            "nothing",
                            error,
                        )
                    continue
                self._rule_noise[eps, tiny, own] = largest(seeds)[0]
                break
        return self._rule_noise[eps, tiny, own]

    @cached_property
    def _rule_noise(self) -> dict[tuple[float, float, bool], Array]:
        return {}


def by_reverse_mode(
    sides: Sides, oracle: Oracle, m: int, n: int, double: bool = True
) -> Array | None:
    """The listed entries by JAX's reverse mode of the program; None where it has none.

    In double precision, or in the inputs' own.
    """
    if sides.compressed:
        return sides.truth(None)[0]
    if not _has_reverse(oracle):
        return None
    call = oracle.call
    values = oracle.wide if double else [leaf.value for leaf in call.inputs]
    with jax.enable_x64(double):
        plain = oracle.plain if double else oracle.narrow_plain
        primal, pull = jax.vjp(plain, *(jnp.asarray(values[k]) for k in call.selected))
        chunk = max(1, min(m, CHUNK // max(1, m + n)))
        parts = []
        for start in range(0, m, chunk):
            # not compiled: XLA would turn a product with a unit vector into a choice, and 0·∞ to 0
            made = jax.vmap(lambda *c: pull(c))(*dense.unit_vectors(primal, start, chunk))
            parts.append(
                np.concatenate([np.asarray(c, np.float64).reshape(chunk, -1) for c in made], axis=1)
            )
    return np.concatenate(parts)[:m].ravel() if parts else np.zeros(m * n)


def both_sides(
    call: Call, rule: Rule, oracle: Oracle, m: int, n: int, notes: list[str]
) -> Sides | None:
    """Both sides on every entry, or of a large matrix on those of its pattern; None if neither."""
    places = _pattern(call, rule, oracle) if m * n > WHOLE and not oracle.hidden_rules else None
    if places is not None and not _has_reverse(oracle):
        places = None
    if places is None and m * n > MAX_WHOLE:
        return None
    if places is not None:
        notes.append(
            f"compared without loss by {int(np.max(places[2], initial=0)) + 1} VJP(s) of each "
            f"side: {len(places[0])} of {m * n} entries can be nonzero, the others are proved zero"
        )
        return _compressed(call, rule, oracle, places)
    notes.append("every entry compared")
    return _whole(call, rule, oracle, m, n)


def _whole(call: Call, rule: Rule, oracle: Oracle, m: int, n: int) -> Sides:
    """Both sides on every entry."""
    rows, columns = np.divmod(np.arange(m * n, dtype=np.int64), max(n, 1))

    def truth(values: Sequence[Any] | None) -> tuple[Array, Array | None]:
        found = oracle.whole(values)
        return found.matrix.ravel(), None if found.bar is None else found.bar.ravel()

    def pull(values: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        return pulled(call, rule, values, cotangents)

    implied = implied_jacobian(call, pull, m, n, oracle.gives_up)
    noisy = implied_jacobian(call, rounding(call, rule), m, n, oracle.gives_up)
    sloping = rounding_to_first_order(call, rule)
    slopes = implied_jacobian(call, sloping, m, n, oracle.gives_up)
    return Sides(
        call=call,
        rows=rows,
        columns=columns,
        truth=truth,
        mine=lambda values: implied(values).ravel(),
        rounded=lambda values, size, seed: noisy(values, size, seed).ravel(),
        sloping=lambda values, eps, tiny, numbers: slopes(values, eps, tiny, numbers).ravel(),
        compressed=False,
        gives_up=oracle.gives_up,
        derivative=lambda: oracle.narrow_whole.ravel(),
    )


def _has_reverse(oracle: Oracle) -> bool:
    """Whether JAX can transpose the program; a while loop, for one, it cannot."""
    call = oracle.call
    with jax.enable_x64(True):
        chosen = [jnp.asarray(oracle.wide[k]) for k in call.selected]
        try:
            jax.eval_shape(lambda *v: jax.vjp(oracle.plain, *v)[1](oracle.plain(*v)), *chosen)
        except Exception as error:
            oracle.gives_up("JAX cannot differentiate the function in reverse mode", error)
            return False
    return True


def _compressed(
    call: Call, rule: Rule, oracle: Oracle, places: tuple[Integers, Integers, Integers]
) -> Sides:
    """Both sides on the entries of the pattern, rows of one colour together."""
    rows, columns, colours = places
    masks = [colours == c for c in range(int(np.max(colours, initial=0)) + 1)]

    def by_vjp(pull: Callable[..., Any], templates: Sequence[Any]) -> Array:
        result = np.zeros(len(rows))
        for mask in masks:
            vectors, start = [], 0
            for t in templates:
                size = int(np.prod(t.shape, dtype=np.int64))
                hot = mask[start : start + size]
                vectors.append(jnp.asarray(hot, t.dtype).reshape(t.shape))
                start += size
            flat = np.concatenate([np.asarray(c, np.float64).reshape(-1) for c in pull(vectors)])
            mine = mask[rows]
            result[mine] = flat[columns[mine]]
        return result

    def truth(values: Sequence[Any] | None) -> tuple[Array, None]:
        given = oracle.wide if values is None else values
        with jax.enable_x64(True):
            chosen = [jnp.asarray(given[k]) for k in call.selected]
            primal, pull = jax.vjp(oracle.plain, *chosen)
            return by_vjp(lambda c: pull(tuple(c)), primal), None

    def mine(values: Sequence[Any]) -> Array:
        return by_vjp(lambda c: pulled(call, rule, values, c), output_templates(call, values))

    def rounded(values: Sequence[Any], size: float, seed: int) -> Array:
        pull = rounding(call, rule)
        return by_vjp(lambda c: pull(values, c, size, seed), output_templates(call, values))

    def sloping(values: Sequence[Any], eps: float, tiny: float, numbers: Array) -> Array:
        pull = rounding_to_first_order(call, rule)
        return by_vjp(lambda c: pull(values, c, eps, tiny, numbers), output_templates(call, values))

    def own() -> Array:
        primal, pull = jax.vjp(
            oracle.narrow_plain, *(jnp.asarray(call.inputs[k].value) for k in call.selected)
        )
        return by_vjp(lambda c: pull(tuple(c)), primal)

    return Sides(
        call=call,
        rows=rows,
        columns=columns,
        truth=truth,
        mine=mine,
        rounded=rounded,
        sloping=sloping,
        compressed=True,
        gives_up=oracle.gives_up,
        derivative=own,
    )


def _pattern(call: Call, rule: Rule, oracle: Oracle) -> tuple[Integers, Integers, Integers] | None:
    """Rows and columns that can be nonzero on either side, and a colour for every row.

    None when it cannot be proved or is not sparse enough to be worth it.
    """
    try:
        truth = derive_call(call)
        floats = [k for k, leaf in enumerate(call.inputs) if leaf.differentiable]
        outputs = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
        templates = [call.outputs[k] for k in outputs]
        inner = program.trace(
            lambda *given: pulled(
                call,
                rule,
                rebuilt(call, [x.value for x in call.inputs], given[: len(floats)]),
                given[len(floats) :],
            ),
            [
                *(jax.ShapeDtypeStruct(call.inputs[k].shape, call.inputs[k].dtype) for k in floats),
                *(jax.ShapeDtypeStruct(t.shape, t.dtype) for t in templates),
            ],
        )
        rules = derive(inner, [False] * len(floats) + [True] * len(templates))
    except Exception as error:
        oracle.gives_up("the pattern of the Jacobian could not be proved", error)
        return None
    keys = []
    m = sum(t.size for t in templates)
    n = sum(call.inputs[k].size for k in call.selected)
    row_start = 0
    for place, o in enumerate(outputs):
        column_start = 0
        for number, k in enumerate(call.selected):
            shapes = call.outputs[o].shape, call.inputs[k].shape
            one = listing.coordinates(truth.terms(o, k), *shapes, MAX_PATTERN)
            other = listing.coordinates(
                rules.blocks.get((number, len(floats) + place), ()), *shapes[::-1], MAX_PATTERN
            )
            if one is None or other is None:
                return None
            keys.append((one[0] + row_start) * n + one[1] + column_start)
            keys.append((other[1] + row_start) * n + other[0] + column_start)
            column_start += call.inputs[k].size
        row_start += call.outputs[o].size
    rows, columns = np.divmod(np.unique(np.concatenate(keys)), max(n, 1))
    colours = row_colours(rows, columns, m, n)
    return (
        None if int(np.max(colours, initial=0)) + 1 > max(1, m // 4) else (rows, columns, colours)
    )
