"""A rule compared with its program in one random direction, in float64 where that can be.

One pull-back of a random cotangent by the rule and one by the program, custom rules stripped. Two
derivatives that differ give different results, but for coincidences of probability zero; it does
not say which entry is wrong, and at kinks it may differ rightly. It costs two backward passes,
however large the Jacobian is.

    compare = prober(site, compiled=True)
    compare(site.kept[0]).difference([0]) > 1          # worth a look at every entry
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.audit.flow import UNUSED
from jacobians.check.audit.site import RuleCall, Site
from jacobians.program.strip import strip_custom_rules

# relative difference of a cotangent's entry that makes a call a suspect: in float64, and in units
# of roundoff in any other precision
SUSPICIOUS, SUSPICIOUS_UNITS = 1e-6, 1e3
_FLOAT64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Probe:
    """A call compared in one random direction.

    Attributes:
        differences: for each operand differentiated by, by position, the largest relative
            difference of its cotangent's entries, in units of what is suspicious; infinite where
            only one side is finite.
        forward: what is wrong with the value that the forward pass returns, or None.
        silent: positions of operands whose cotangent by the rule is zero throughout.
    """

    differences: Mapping[int, float]
    forward: str | None
    silent: frozenset[int]

    def difference(self, operands: Sequence[int]) -> float:
        """The largest difference for some operands; infinite when the value itself differs."""
        if self.forward is not None:
            return float("inf")
        return max((self.differences.get(k, 0.0) for k in operands), default=0.0)


def prober(site: Site, compiled: bool) -> Callable[[RuleCall], Probe]:
    """Compares the cotangents of rule and program for one random cotangent, in float64.

    Args:
        site: where the calls were made.
        compiled: whether to compile the comparison, which takes as long as some hundred
            operations do without.

    Returns:
        The comparison of one call.
    """
    rule = site.whole()
    wide = site.in_float64 is not None
    operands, live = site.operands, set(site.results)
    results = [
        k
        for k, v in enumerate(site.equation.outvars)
        if site.uses[k] != UNUSED and _is_real_float(program.dtype_of(v))
    ]
    several = len(site.equation.outvars) > 1
    names = [f"out[{k}]" if several else "out" for k in results]
    variables = site.equation.invars
    floats = [k for k, v in enumerate(variables) if _is_real_float(program.dtype_of(v))]

    def run(values: Sequence[Any]) -> Any:
        def of_operands(*given: Any) -> list[Any]:
            everything = list(values)
            for k, value in zip(operands, given, strict=True):
                everything[k] = value
            outputs = rule(*everything)
            return [outputs[k] for k in results]

        chosen = [values[k] for k in operands]
        mine, pull = jax.vjp(of_operands, *chosen)
        truth, pull_truth = jax.vjp(strip_custom_rules(of_operands), *chosen)
        cotangent = [
            drawn(y) if k in live else jnp.zeros_like(y) for k, y in zip(results, mine, strict=True)
        ]
        return mine, truth, pull(cotangent), pull_truth(cotangent)

    def drawn(y: Any) -> Any:
        return jnp.asarray(np.random.default_rng(0).normal(size=y.shape), y.dtype)

    # little optimisation: the code runs a few times only
    quick = {"xla_backend_optimization_level": 0}
    compare = jax.jit(run, compiler_options=quick) if compiled else run

    def probe(call: RuleCall) -> Probe:
        with jax.enable_x64(wide or jnp.result_type(float) == jnp.float64):
            values = [jnp.asarray(v) if hasattr(v, "dtype") else v for v in call.values]
            if wide:
                values = [v.astype(jnp.float64) if k in floats else v for k, v in enumerate(values)]
            mine, truth, pulled, pulled_truth = compare(values)
            pairs = list(zip(operands, pulled, pulled_truth, strict=True))
        allowed = SUSPICIOUS if wide else SUSPICIOUS_UNITS * site.eps
        differences = {k: _difference(a, b) / allowed for k, a, b in pairs}
        silent = frozenset(k for k, a, _ in pairs if not np.asarray(a).any())
        return Probe(differences, _forward_fault(site, mine, truth, names, allowed), silent)

    return probe


def _forward_fault(
    site: Site, mine: Sequence[Any], truth: Sequence[Any], names: Sequence[str], allowed: float
) -> str | None:
    """What is wrong with the values that a rule's forward pass returns, or None."""
    if not site.retraced:
        # numbers written in the program are only as good as the type that they were written in
        allowed = max(allowed, 16 * site.eps)
    # the two may be computed differently, and differ where a result is next to nothing
    floor = 64 * (_FLOAT64 if site.retraced else site.eps)
    for number, (y, z) in enumerate(zip(mine, truth, strict=True)):
        if _difference(y, z, floor) > allowed:
            return _forward_text(y, z, names[number])
    return None


def _is_real_float(dtype: Any) -> bool:
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))


def _difference(actual: Any, expected: Any, floor: float = 0.0) -> float:
    """The largest difference of two arrays relative to the entry and a little of the largest.

    Differences up to `floor` do not count.
    """
    a, b = np.asarray(actual, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    size = np.abs(b) + 1e-3 * np.abs(b).max(initial=0.0)
    gap = np.maximum(np.abs(a - b) - floor, 0.0)
    ratio = np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=size > 0)
    return float(ratio.max(initial=0.0))


def _forward_text(mine: Any, truth: Any, name: str) -> str:
    a, b = np.asarray(mine, np.float64), np.asarray(truth, np.float64)
    gap = np.nan_to_num(np.abs(a - b), nan=np.inf)
    at = tuple(int(k) for k in np.unravel_index(int(np.argmax(gap)), a.shape)) if a.shape else ()
    return (
        f"the forward rule gives {name}{list(at) if at else ''} = {a[at]:.6g}, the function itself "
        f"{b[at]:.6g}: the rule's forward pass has to return what the function returns"
    )
