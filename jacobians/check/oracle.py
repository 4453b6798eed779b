"""The truth that a rule is measured against: the derivative of the same program, rules stripped.

By `jax.jacfwd` in double precision where that is possible; in reverse where there is no forward
rule; by Richardson-extrapolated finite differences with an error bar where JAX cannot differentiate
the program at all (a callback, a rule inside an operation that cannot be entered).

    oracle = Oracle(call)
    oracle.whole(None).matrix, oracle.how
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.arrays import Array, Integers
from jacobians.check.differences import richardson
from jacobians.check.kinks import natural_size
from jacobians.check.summands import Terms
from jacobians.errors import ArgumentError, first_line
from jacobians.program import dense
from jacobians.program.call import Call
from jacobians.program.primitives import Does, named
from jacobians.program.strip import kept_rules, strip_custom_rules

# finite differences call the function some twenty times per input entry
MAX_DIFFERENCES = 1 << 12
FIRST_STEP = 0.05
# relative move of the inputs that conditioning is judged by
NUDGE = 1e-10
# a number of few digits is moved by this many of its roundings where kinks are looked for: 0.1 in
# single precision is beside 0.1 in double
BESIDE, WIDEST = 2.0, 1e-6


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole Jacobian, outputs stacked over inputs.

    Attributes:
        matrix: m×n.
        bar: the error bar of every entry, or None where only rounding counts.
    """

    matrix: Array
    bar: Array | None


@dataclass(eq=False)
class Oracle:
    """The derivative of a call's program, custom rules stripped, in double precision.

    Attributes:
        call: the call.
        how: 'forward mode', 'reverse mode' or 'finite differences', once it has been evaluated.
        notes: what the reader should know about that.
    """

    call: Call
    how: str = "forward mode"
    notes: list[str] = field(default_factory=list)

    def gives_up(self, what: str, error: Exception) -> None:
        """Notes once what is given up, in a sentence, and the error for which it is."""
        if what not in self._given_up:
            self._given_up.add(what)
            self.notes.append(f"{what} ({first_line(error)})")

    @cached_property
    def _given_up(self) -> set[str]:
        return set()

    @cached_property
    def wide(self) -> list[Any]:
        """The inputs' values in double precision."""
        return [dense.promoted(leaf, leaf.value) for leaf in self.call.inputs]

    @cached_property
    def evaluate(self) -> Callable[[Sequence[Any] | None], dense.DenseJacobian]:
        """The explicit Jacobian at values of the inputs."""
        return dense.evaluator(self.call)

    @cached_property
    def plain(self) -> Callable[..., Any]:
        """The function of the selected leaves to the differentiable outputs, rules stripped."""
        return _of_selected(self.call.with_values(self.wide))

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The same, compiled."""
        return jax.jit(self.plain)

    @cached_property
    def narrow_plain(self) -> Callable[..., Any]:
        """The same, what is held being in its own precision."""
        return _of_selected(self.call)

    @cached_property
    def outputs(self) -> list[Array]:
        """The values of all outputs, in double precision where that is possible."""
        with jax.enable_x64(True):
            try:
                made = self.call.with_values(self.wide).flat(())()
            except Exception as error:
                self.gives_up(
                    "the function could not be evaluated in float64; its values are those of its "
                    "own precision",
                    error,
                )
                made = self.call.flat(())()
            return [np.asarray(y) for y in made]

    @cached_property
    def hidden_rules(self) -> tuple[str, ...]:
        """Operations with a custom rule inside that stripping cannot enter."""
        return kept_rules(self._traced)

    @cached_property
    def draws(self) -> bool:
        """Whether the function draws random numbers, which may be others in double precision."""
        return program.contains(self._traced, named(Does.DRAWS))

    @cached_property
    def _traced(self) -> program.Program:
        call = self.call
        shapes = [jnp.asarray(call.inputs[k].value) for k in call.selected]
        return program.trace(call.flat(call.selected), shapes)

    def units(self, output: int, leaf: int, rows: Integers, columns: Integers) -> Array:
        """|output entry| / |input entry|, with the input's largest entry where one is 0."""
        y = np.abs(self.outputs[output].reshape(-1).astype(np.complex128))
        x = np.abs(np.asarray(self.wide[leaf], dtype=np.float64).reshape(-1))
        x = np.where(x == 0, x.max(initial=0.0) or 1.0, x)
        with np.errstate(invalid="ignore", over="ignore"):
            units = y[rows] / x[columns]
        return np.asarray(np.where(np.isfinite(units), units, 0.0))

    @cached_property
    def narrow_outputs(self) -> list[Array]:
        """The values of all outputs in the inputs' own precision."""
        return [np.asarray(y) for y in self.call.flat(())()]

    @cached_property
    def narrow_whole(self) -> Array:
        """The whole Jacobian in the inputs' own precision, by JAX alone."""
        chosen = [jnp.asarray(self.call.inputs[k].value) for k in self.call.selected]
        by_columns = self.how == "forward mode"
        jacobian = (jax.jacfwd if by_columns else jax.jacrev)(
            self.narrow_plain, argnums=tuple(range(len(chosen)))
        )
        rows = [
            np.concatenate(
                [
                    np.asarray(b, np.float64).reshape(prod(b.shape[: b.ndim - x.ndim]), x.size)
                    for b, x in zip(blocks, chosen, strict=True)
                ],
                axis=1,
            )
            for blocks in jax.jit(jacobian)(*chosen)
        ]
        return np.concatenate(rows, axis=0)

    @cached_property
    def _terms(self) -> Terms:
        return Terms(self.plain, [self.wide[k] for k in self.call.selected])

    @cached_property
    def _narrow_terms(self) -> Terms:
        return Terms(self.narrow_plain, [self.call.inputs[k].value for k in self.call.selected])

    def noise(
        self, number: int, columns: Integers, eps: float, tiny: float, own: bool = False
    ) -> list[Array]:
        """How far rounding moves the derivatives of all outputs, to first order.

        Args:
            number: position among the selected leaves of the one to move.
            columns: its columns, moved together; no output may depend on two of them.
            eps: the relative error of an operation.
            tiny: its absolute error.
            own: whether in the inputs' own precision, rather than in double.

        Returns:
            One flat array for each differentiable output; zeros where it cannot be told.
        """
        with contextlib.nullcontext() if own else jax.enable_x64(True):
            try:
                terms = self._narrow_terms if own else self._terms
                moved = terms.noise(number, columns, eps, tiny)
            except Exception as error:
                self.gives_up(
                    "what rounding moves the derivative by cannot be measured, and excuses nothing",
                    error,
                )
                places = [leaf for leaf in self.call.outputs if leaf.differentiable]
                return [np.zeros(leaf.size) for leaf in places]
            if terms.refused is not None:
                self.gives_up(
                    "JAX cannot differentiate the function twice; what rounding moves its "
                    "derivative by is that of the tangents alone",
                    terms.refused,
                )
            return moved

    @cached_property
    def beside(self) -> float:
        """The relative move of the inputs that shows a kink at the point."""
        eps = max(float(jnp.finfo(self.call.inputs[k].dtype).eps) for k in self.call.selected)
        return max(NUDGE, min(BESIDE * eps, WIDEST))

    def nudged(self, size: float, side: float = 1.0) -> list[Any]:
        """The inputs with every float moved by up to a relative `size` at random.

        Entries that are 0 are moved by the size itself, or by less where all are small. Sides 1
        and −1 move to opposite sides, so that one of them leaves what JAX says at a tie.
        """
        generator = np.random.default_rng(0)
        values: list[Any] = list(self.wide)
        for k in self.call.selected:
            shape = np.shape(values[k])
            sign = generator.choice([-1.0, 1.0], size=shape)
            share = side * sign * generator.uniform(0.5, 1.0, size=shape)
            value = np.asarray(values[k])
            zero = size * min(1.0, natural_size(value))
            values[k] = np.where(value == 0, zero * share, value * (1.0 + size * share))
        return values

    def whole(self, values: Sequence[Any] | None) -> Whole:
        """The whole Jacobian at double-precision values of the inputs.

        Args:
            values: one value per input leaf; None for the call's own.

        Returns:
            The matrix, with error bars where it is by finite differences.

        Raises:
            ArgumentError: the program cannot be differentiated and is too large for differences.
            Exception: what the function itself raises.
        """
        if self.how == "finite differences":
            return self._by_differences(values)
        if self.hidden_rules:
            inside = ", ".join(self.hidden_rules)
            self._give_up(f"a custom rule inside {inside} cannot be replaced by its program")
            return self._by_differences(values)
        try:
            given = self.evaluate(values)
        except ArgumentError:
            raise
        except Exception as error:
            self.call.flat(())()  # what the function itself raises is not ours to hide
            self._give_up(f"JAX cannot differentiate the function: {first_line(error)}")
            return self._by_differences(values)
        self.how = "forward mode" if given.mode == "jacfwd" else "reverse mode"
        self.notes += [note for note in given.evaluation if note not in self.notes]
        return Whole(_assembled(given, len(self.call.selected)), None)

    def _give_up(self, why: str) -> None:
        self.how = "finite differences"
        self.notes.append(
            f"the truth is taken by finite differences, with an error bar, because {why}"
        )

    def _by_differences(self, values: Sequence[Any] | None) -> Whole:
        """The whole Jacobian with its error bars, column by column."""
        call = self.call
        n = sum(call.inputs[k].size for k in call.selected)
        if n > MAX_DIFFERENCES:
            raise ArgumentError(
                f"{self.notes[-1]}; with {n} input entries that takes too long (at most "
                f"{MAX_DIFFERENCES}): check at smaller shapes"
            )
        given = list(self.wide if values is None else values)
        keep = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
        sizes = [call.inputs[k].size for k in call.selected]
        x = np.concatenate([np.asarray(given[k], np.float64).ravel() for k in call.selected])

        def at(flat: Array, double: bool) -> Array:
            everything = list(given)
            pieces = np.split(flat, np.cumsum(sizes)[:-1])
            for k, piece in zip(call.selected, pieces, strict=True):
                leaf = call.inputs[k]
                dtype = np.float64 if double else leaf.dtype
                everything[k] = jnp.asarray(piece.reshape(leaf.shape), dtype)
            made = call.with_values(everything).flat(())()
            return np.concatenate([np.asarray(made[k], np.float64).ravel() for k in keep])

        with jax.enable_x64(True):
            try:
                at(x, True)
                double = True
            except Exception as error:
                double = False
                self.gives_up(
                    "the function could not be evaluated in float64; finite differences are taken "
                    "in its own precision",
                    error,
                )
        widest = max(float(jnp.finfo(call.outputs[k].dtype).eps) for k in keep)
        eps = float(np.finfo(np.float64).eps) if double else widest
        columns, bars = [], []
        with jax.enable_x64(double):
            scales = np.concatenate([_scales(np.asarray(given[k])) for k in call.selected])
            for column in range(n):
                made, bar = richardson(
                    lambda v: at(v, double), x, column, FIRST_STEP * float(scales[column]), eps
                )
                columns.append(made)
                bars.append(bar)
        return Whole(np.stack(columns, axis=1), np.stack(bars, axis=1))


def _of_selected(call: Call) -> Callable[..., Any]:
    """The function of the selected leaves to the differentiable outputs, rules stripped."""
    function = strip_custom_rules(call.flat(call.selected))
    keep = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]

    def plain(*values: Any) -> tuple[Any, ...]:
        made = function(*values)
        return tuple(made[k] for k in keep)

    return plain


def _scales(values: Array) -> Array:
    """A natural step for every entry: its size, or that of its array where it is small."""
    flat = np.abs(values.astype(np.float64).ravel())
    largest = float(flat.max(initial=0.0)) or 1.0
    return np.maximum(flat, 0.1 * largest)


def _assembled(given: dense.DenseJacobian, count: int) -> Array:
    rows = [
        np.concatenate([b.matrix for b in given.blocks[start : start + count]], axis=1)
        for start in range(0, len(given.blocks), count)
    ]
    return np.concatenate(rows, axis=0)
