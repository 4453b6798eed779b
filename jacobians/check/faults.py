"""Whether a rule is a linear map of its cotangent at all, and the same one each time.

A VJP multiplies the cotangent by the Jacobian. Basis vectors alone do not show whether it does: a
rule that squares its cotangent looks right on them. So it is called with random cotangents, their
combination, their multiples, with nothing, and twice with the same.

    faults(pull, templates, eps, names)
    # (Fault(kind='ignores-cotangent', message='the cotangent of x is the same whatever …'),)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobians.check.arrays import Array

SEED = 0
# powers of two: a linear rule multiplies by them without any rounding
SMALL, LARGE = 2.0**-6, 2.0**10
# how many times the rounding seen a sum may be off
NOISE = 100.0


@dataclass(frozen=True)
class Fault:
    """One way in which a rule is no linear map.

    Attributes:
        kind: nondeterministic, ignores-cotangent or nonlinear.
        inputs: names of the inputs whose cotangents are concerned.
        message: what was seen and what to do.
    """

    kind: str
    inputs: tuple[str, ...]
    message: str


@dataclass(frozen=True, eq=False, kw_only=True)
class _Probe:
    """One leaf's cotangents for a (compiled; as it is, twice), b, 2a − b, −a, multiples of a, 0."""

    a: Array
    first: Array
    again: Array
    b: Array
    joint: Array
    negative: Array
    small: Array
    large: Array
    nothing: Array


def faults(
    pull: Callable[[Sequence[Any]], Sequence[Any]],
    uncompiled: Callable[[Sequence[Any]], Sequence[Any]],
    templates: Sequence[Any],
    eps: float,
    names: Sequence[str],
    noise: Callable[[Sequence[Any]], Sequence[Any]] | None = None,
) -> tuple[Fault, ...]:
    """Tests linearity and repeatability.

    Args:
        pull: from cotangents of the outputs to those of the inputs.
        uncompiled: the same, called afresh each time, so that hidden randomness shows.
        templates: shapes and dtypes of the output cotangents.
        eps: unit roundoff of the coarsest operation in it.
        names: names of the inputs.
        noise: from cotangents of the outputs to how far rounding moves those of the inputs.

    Returns:
        The faults, each for all inputs that show it.
    """
    generator = np.random.default_rng(SEED)
    a, b = ([generator.normal(size=t.shape) for t in templates] for _ in "ab")

    def at(numbers: Sequence[Array], f: Callable[[Sequence[Any]], Sequence[Any]] = pull) -> Any:
        given = [jnp.asarray(c, t.dtype) for c, t in zip(numbers, templates, strict=True)]
        return [np.asarray(x, np.float64).ravel() for x in f(given)]

    both = [2.0 * x - y for x, y in zip(a, b, strict=True)]
    columns = {
        "a": at(a),
        "first": at(a, uncompiled),
        "again": at(a, uncompiled),
        "b": at(b),
        "joint": at(both),
        "negative": at([-x for x in a]),
        "small": at([SMALL * x for x in a]),
        "large": at([LARGE * x for x in a]),
        "nothing": at([0.0 * x for x in a]),
    }
    seen: dict[tuple[str, str], list[str]] = {}
    # looked for only where a sum is off, and then once
    rounding: list[Any] = []

    def noise_of(k: int) -> Array:
        if noise is None:
            return np.zeros_like(columns["a"][k])
        if not rounding:
            rounding.extend(
                np.asarray(sum(at(c, noise)[i] for c in (a, b, both))) for i in range(len(names))
            )
        return NOISE * np.asarray(rounding[k])

    for k, name in enumerate(names):
        probe = _Probe(**{way: leaves[k] for way, leaves in columns.items()})
        found = _judge(probe, eps, partial(noise_of, k))
        if found is not None:
            seen.setdefault(found, []).append(name)
    return tuple(
        Fault(kind, tuple(inputs), message.format(x=_listed(inputs)))
        for (kind, message), inputs in seen.items()
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# what two evaluations of one linear map differ by: 1e4 roundings of double precision, or 32 of the
# coarsest operation, which is a few per cent in half precision; from a half on nothing can be told
ROUNDINGS, COARSE_ROUNDINGS, TELLS_NOTHING = 1e4, 32.0, 0.5
# of the leaf's largest entry, what the entries' own size is counted up to
LEAST_SHARE = 1e-3


def _judge(p: _Probe, eps: float, noise: Callable[[], Array]) -> tuple[str, str] | None:
    """The kind of fault that one leaf's cotangents show, and a sentence about it; None if none.

    For example, of cotangents that are the same whatever the upstream cotangent is:
    ('ignores-cotangent', 'the cotangent of {x} is the same …').
    """
    finite = np.all([np.isfinite(v) for v in vars(p).values()], axis=0)
    p = _Probe(**{way: v[finite] for way, v in vars(p).items()})
    scale = np.abs(p.a) + np.abs(p.b)
    largest = float(scale.max(initial=0.0))
    slack = max(ROUNDINGS * float(np.finfo(np.float64).eps), COARSE_ROUNDINGS * eps)
    if slack > TELLS_NOTHING:
        return None

    def same(x: Array, y: Array, weight: float = 1.0) -> bool:
        return bool(
            (np.abs(x - y) <= weight * slack * (scale + LEAST_SHARE * largest) + 1e-300).all()
        )

    if not same(p.first, p.again):
        return "nondeterministic", (
            "the cotangent of {x} differs between two calls with the same arguments; a rule must "
            "not draw random numbers or keep state: pass keys and residuals explicitly"
        )
    if largest > 0 and same(p.a, p.b) and same(p.a, p.nothing):
        return "ignores-cotangent", (
            "the cotangent of {x} is the same whatever the upstream cotangent is; multiply the "
            "local derivative by it"
        )

    def own(x: Array, y: Array, weight: float = 1.0) -> bool:
        """The same, by the entry itself and by the rounding of its own terms."""
        apart = np.abs(x - y)
        if (apart <= weight * slack * scale + 1e-300).all():
            return True
        return bool((apart <= weight * (slack * scale + noise()[finite]) + 1e-300).all())

    if not own(p.nothing, 0.0 * p.a):
        return "nonlinear", (
            "the cotangent of {x} is not zero for a zero upstream cotangent: something is added "
            "that does not depend on it; every term has to be multiplied by the cotangent"
        )
    linear = (
        own(2.0 * p.a - p.b, p.joint)
        and own(-p.a, p.negative)
        and own(p.small, SMALL * p.a, SMALL)
        and own(p.large, LARGE * p.a, LARGE)
    )
    if linear:
        return None
    return "nonlinear", _nonlinear(p, same)


def _nonlinear(p: _Probe, same: Callable[..., bool]) -> str:
    """How a rule is nonlinear, where that can be told."""
    head = "the cotangent of {x} is not linear in the upstream cotangent: "
    tail = "; a VJP multiplies the cotangent by the Jacobian and does nothing else with it"
    if same(p.a, p.negative) and same(p.small, SMALL**2 * p.a, SMALL):
        return head + "it grows with its square" + tail
    if same(p.a, p.negative):
        return head + "its sign is lost (an absolute value?)" + tail
    if same(p.small, SMALL**2 * p.a, SMALL):
        return head + "it grows with its square" + tail
    if same(p.small, p.a) and same(p.large, p.a):
        return head + "only its sign or direction counts (normalised?)" + tail
    if np.abs(p.large).max(initial=0.0) < 0.5 * LARGE * np.abs(p.small / SMALL).max(initial=0.0):
        return head + (
            "large ones are cut off (clipping?)"
            + tail
            + '. If clipping is meant, say so: expect="gradient clipping: <why>"'
        )
    return head + "vjp(2a − b) differs from 2·vjp(a) − vjp(b)" + tail
