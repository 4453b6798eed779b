"""A Jacobian too large to compare entry by entry: random cotangents, and the chance of an error.

The rule and the program pull the same few random cotangents back; each column of the Jacobian is
judged by its products with them. The product with a Gaussian vector of a column whose error has
norm e is Gaussian with standard deviation e, so that a column that is off by a multiple of its
tolerance escapes one probe with a known probability, and all of them with that to their power.

    probed(call, rule, oracle, notes)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check import kinks
from jacobians.check.arrays import Array, Bools
from jacobians.check.implied import DOUBLE, pulled, rounding_to_first_order
from jacobians.check.oracle import NUDGE, Oracle
from jacobians.check.problems import raised_by_the_rule
from jacobians.check.rule import Rule
from jacobians.check.summands import drawn, largest, rounding_slopes
from jacobians.errors import ArgumentError, first_line
from jacobians.program.call import Call, output_templates

PROBES = 8
# an error of this many tolerances goes unseen with the probability that the report states
DETECTED = 10.0
MISSED = sqrt(2.0 / pi) / DETECTED
RELATIVE = 1e-5
# what 7000 roundings of the inputs change a column by is no mistake, a nudge being 450,000 of them;
# but more than a tenth of the column is never put down to that
CONDITIONED, AT_MOST = 16e-3, 0.1
# what the sum of one-sided derivatives is off by from its limit
BESIDE = 1e-6
MAX_LOOKS = 64
# rounding may be this many times what one error of every operation leaves
NOISE = 10.0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Products:
    """Both sides' products of one block's columns with random cotangents.

    Attributes:
        output: position of the output leaf.
        input: position of the input leaf.
        place: position of the output among the differentiable ones.
        number: position of the input among the selected ones.
        probes: the cotangents.
        expected: the derivative's products, by probe and column.
        moved: the same at inputs moved a little.
        actual: the rule's products.
    """

    output: int
    input: int
    place: int
    number: int
    probes: Sequence[Array]
    expected: Array
    moved: Array
    actual: Array


@dataclass(frozen=True, eq=False)
class Probed:
    """Products of one block's columns with random cotangents.

    Attributes:
        output: position of the output leaf.
        input: position of the input leaf.
        expected: by probe and column.
        actual: by probe and column.
        tolerance: by probe and column.
        wrong: which columns are wrong.
        kinks: how many columns differ at a kink, within the one-sided derivatives.
    """

    output: int
    input: int
    expected: Array
    actual: Array
    tolerance: Array
    wrong: Bools
    kinks: int


def probed(call: Call, rule: Rule, oracle: Oracle, notes: list[str]) -> list[Probed]:
    """Compares columns by random cotangents.

    Args:
        call: the call.
        rule: the hand-written derivative, bound to the call.
        oracle: the derivative of the program.
        notes: sentences for the reader are appended here.

    Returns:
        One comparison per block.

    Raises:
        ArgumentError: the program has no reverse mode, or the rule no double precision.
    """
    chosen = [oracle.wide[k] for k in call.selected]
    places = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    generator = np.random.default_rng(0)
    result = []
    with jax.enable_x64(True):
        templates = output_templates(call, oracle.wide)
        try:
            primal, pull = jax.vjp(oracle.plain, *(jnp.asarray(v) for v in chosen))
            moved = [oracle.nudged(NUDGE)[k] for k in call.selected]
            nudged = jax.vjp(oracle.plain, *(jnp.asarray(v) for v in moved))[1]
        except Exception as error:
            raise ArgumentError(
                "the Jacobian is too large to compare entry by entry, and the function cannot be "
                f"differentiated in reverse ({first_line(error)}): check at smaller shapes"
            ) from error
        for place, o in enumerate(places):
            probes = [generator.normal(size=templates[place].shape) for _ in range(PROBES)]
            sides: list[list[list[Array]]] = [[], [], []]
            for probe in probes:
                cotangent = _at_place(place, probe, templates)
                given = tuple(c.astype(y.dtype) for c, y in zip(cotangent, primal, strict=True))
                of_rule = _of_rule(call, rule, oracle, cotangent)
                for side, made in zip(sides, (pull(given), nudged(given), of_rule), strict=True):
                    side.append([np.asarray(c, np.float64).ravel() for c in made])
            for number, k in enumerate(call.selected):
                expected, other, actual = (np.stack([s[number] for s in side]) for side in sides)
                products = _Products(
                    output=o,
                    input=k,
                    place=place,
                    number=number,
                    probes=probes,
                    expected=expected,
                    moved=other,
                    actual=actual,
                )
                result.append(_judged(products, call, rule, oracle))
    notes.append(
        f"too large to compare entry by entry: {PROBES} random cotangents. A column of the "
        f"Jacobian that is wrong by {DETECTED * RELATIVE:.0e} of its size goes unseen with a "
        f"probability of at most {MISSED**PROBES:.0e}"
    )
    return result


def _at_place(place: int, probe: Array, templates: Sequence[Any]) -> list[Any]:
    """Cotangents of all outputs: the probe at one place, zeros elsewhere."""
    cotangent = [jnp.zeros(t.shape, t.dtype) for t in templates]
    cotangent[place] = jnp.asarray(probe, templates[place].dtype)
    return cotangent


def _noise(products: _Products, call: Call, rule: Rule, oracle: Oracle) -> Array:
    """How far rounding moves the products with random cotangents, by probe and column."""
    place, number = products.place, products.number
    templates = output_templates(call, oracle.wide)
    chosen = [jnp.asarray(oracle.wide[k]) for k in call.selected]
    result = np.zeros((len(products.probes), chosen[number].size))

    def pulled_back(*given: Any) -> Any:
        return jax.vjp(oracle.plain, *given[: len(chosen)])[1](given[len(chosen) :])

    try:
        traced = program.trace(
            pulled_back, [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in [*chosen, *templates]]
        )
        of_rule = rounding_to_first_order(call, rule)
        for k, probe in enumerate(products.probes):
            cotangent = _at_place(place, probe, templates)
            for numbers in drawn():
                truth = rounding_slopes(traced, chosen, cotangent, DOUBLE, 0.0, numbers)
                mine = of_rule(oracle.wide, cotangent, DOUBLE, 0.0, numbers)
                for made in (truth[number], mine[number]):
                    result[k] = np.maximum(result[k], largest([[made]])[0])
    except Exception as error:
        oracle.gives_up(
            "what rounding moves products with cotangents by cannot be measured, and excuses "
            "nothing more",
            error,
        )
    return result


def _of_rule(call: Call, rule: Rule, oracle: Oracle, cotangent: Sequence[Any]) -> list[Any]:
    """What the rule makes of a cotangent in double precision.

    Raises:
        RuleRaisedError: the rule raises in its own precision too.
        ArgumentError: it can be evaluated in its own precision only, which tells too little here.
    """
    try:
        return list(pulled(call, rule, oracle.wide, cotangent))
    except Exception as error:
        values = [leaf.value for leaf in call.inputs]
        with raised_by_the_rule(), jax.enable_x64(False):
            pulled(call, rule, values, [jnp.asarray(c, jnp.float32) for c in cotangent])
        raise ArgumentError(
            "the Jacobian is too large to compare entry by entry, and the rule cannot be evaluated "
            f"in float64 ({first_line(error)}): check at smaller shapes"
        ) from error


def _judged(products: _Products, call: Call, rule: Rule, oracle: Oracle) -> Probed:
    """The verdict on the columns of one block."""
    expected, actual = products.expected, products.actual
    size = np.sqrt(np.mean(expected**2, axis=0, keepdims=True))
    change = np.sqrt(np.mean((products.moved - expected) ** 2, axis=0, keepdims=True))
    tolerance = RELATIVE * size + np.minimum(CONDITIONED * change, AT_MOST * size)
    tolerance = np.broadcast_to(tolerance + 1e-290, expected.shape)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(actual - expected) <= tolerance).all(axis=0))
        if wrong.any():
            # what is left where terms cancel is rounding of the terms
            tolerance = tolerance + NOISE * _noise(products, call, rule, oracle)
            wrong = ~((np.abs(actual - expected) <= tolerance).all(axis=0))
    at_kinks = 0
    for column in np.flatnonzero(wrong)[:MAX_LOOKS]:
        if _fits_at_a_kink(products, int(column), tolerance[:, column], oracle):
            wrong[column] = False
            at_kinks += 1
    return Probed(
        products.output, products.input, expected, actual, np.asarray(tolerance), wrong, at_kinks
    )


def _fits_at_a_kink(products: _Products, column: int, tolerance: Array, oracle: Oracle) -> bool:
    """Whether a column is at a kink, its products between those of one-sided derivatives."""
    values = [oracle.wide[k] for k in oracle.call.selected]
    group = [np.array([column])]
    samples = kinks.one_sided(oracle.plain, values, products.number, group, *kinks.DOUBLE_WIDTH)
    beside = samples.derivatives[products.place][0]
    if not np.isfinite(beside).all() or not kinks.is_kink(beside).any():
        return False
    low, high = beside.min(axis=0), beside.max(axis=0)
    fits = True
    for p, probe in enumerate(products.probes):
        c = probe.ravel()
        least = float(np.minimum(c * low, c * high).sum())
        most = float(np.maximum(c * low, c * high).sum())
        slack = float(tolerance[p]) + BESIDE * max(abs(least), abs(most))
        fits = fits and bool(least - slack <= products.actual[p, column] <= most + slack)
    return fits
