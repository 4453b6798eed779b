"""The verdict on one rule: all calls compared in a random direction, the worst entry by entry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.audit.flow import CONSTANT, moves
from jacobians.check.audit.places import callers, place
from jacobians.check.audit.result import (
    DECLARED,
    IDLE,
    KINKS,
    RIGHT,
    UNCHECKED,
    WRONG,
    CheckedCall,
    RuleAudit,
    diagnosis_of,
)
from jacobians.check.audit.site import RuleCall, Site
from jacobians.check.audit.suspects import Probe, prober
from jacobians.check.check import check_vjp
from jacobians.check.diagnose import Budget
from jacobians.check.result import VJPCheck
from jacobians.errors import ArgumentError, first_line
from jacobians.program.call import is_integer

# the causes of all wrong rules are looked for this many times as long as that of one, at most
RULES = 3.0
# above this roundoff a mistake is hard to tell from rounding
COARSE = 1e-4
# from this many places on where a rule is called, comparing them is not compiled as a whole
MANY_SITES = 4

# why a rule that is called is never differentiated
IDLE_REASON = (
    "the function calls it but never differentiates it: nothing that it is differentiated by "
    "reaches the rule, or no result of the rule passes a cotangent back; to have it checked, make "
    "what it is called with an argument, or give it to check_vjp by itself"
)


@dataclass(frozen=True, eq=False)
class _Numbered:
    """A call of a rule, with its number among all calls of the rule."""

    site: Site
    call: RuleCall
    number: int


@dataclass(frozen=True, eq=False)
class Asked:
    """What the caller asks of every rule.

    Attributes:
        limit: how many of its calls are compared entry by entry.
        rtol: relative tolerance of `check_vjp`, or None for its own.
        atol: absolute tolerance, likewise.
        declared: for rules that may differ, by name: why.
        each: the time to look for the cause of one wrong rule, or None.

    Raises:
        ArgumentError: `limit` is no number of calls.
    """

    limit: int
    rtol: float | None
    atol: float | None
    declared: Mapping[str, str]
    each: Budget | None

    def __post_init__(self) -> None:
        if not is_integer(self.limit) or self.limit < 1:
            raise ArgumentError(
                f"limit={self.limit!r}: at least one call of each rule has to be checked"
            )

    @cached_property
    def _whole(self) -> Budget | None:
        """The time for all rules together."""
        return None if self.each is None else Budget(RULES * self.each.seconds)

    @property
    def diagnose(self) -> bool | Budget:
        """The time for the next rule, for `check_vjp`."""
        return self.each is not None and Budget(self.each.seconds, within=self._whole)


def audit_rule(sites: Sequence[Site], asked: Asked, refused: Mapping[Site, str]) -> RuleAudit:
    """The verdict on one rule at operands of one type.

    Args:
        sites: the places where it is called.
        asked: what the caller asks.
        refused: why JAX refuses to differentiate it, for places where it does.
    """
    active = [site for site in sites if site.kept]
    declared = asked.declared.get(sites[0].definition.name)
    if not active:
        return _rule_audit(sites, 0, (), (IDLE, IDLE_REASON), declared, ())
    notes = _idle_notes(sites)
    for site in active:
        if site in refused:
            return _rule_audit(sites, 0, (), (WRONG, refused[site]), declared, notes)
    calls = _numbered(sites)
    probes, trouble = _probed(active, calls)
    chosen, left_out = _selected(active, probes)
    notes += trouble + left_out
    how = _How(
        chosen,
        {"rtol": asked.rtol, "atol": asked.atol, "expect": declared},
        asked.diagnose,
    )
    checked, failure, moved_together = _compared(active, calls, probes, how, asked.limit)
    notes += moved_together
    first = active[0]
    if failure is None and first.in_float64 is None and first.eps > COARSE and all(checked):
        failure = (
            f"it cannot be evaluated in float64, and with a rounding of {first.eps:.2g} in its "
            "own precision no mistake was seen: check it in float32"
        )
    compared = sum(len(call.numbers) for call in checked)
    if compared < len(calls) and failure is None:
        notes.append(
            f"{compared} of {len(calls)} calls were compared entry by entry: those that differ "
            "most when all are compared in one random direction"
            if probes
            else f"{compared} of {len(calls)} calls were compared, evenly spread"
        )
    notes += _precision_notes(first) + _singular_notes(checked)
    verdict = _verdict(checked, failure, declared)
    return _rule_audit(sites, len(probes), checked, verdict, declared, notes)


def _numbered(sites: Sequence[Site]) -> list[_Numbered]:
    """The calls kept at all places, numbered through."""
    calls, before = [], 0
    for site in sites:
        calls += [_Numbered(site, call, before + call.number) for call in site.kept]
        before += site.seen
    return calls


def _probed(
    active: Sequence[Site], calls: Sequence[_Numbered]
) -> tuple[dict[int, Probe], list[str]]:
    """Every call compared in one random direction, by position; none and a note if one fails."""
    # the operations of many sites are the same: compiling each operation once is then cheaper
    compiled = len(active) < MANY_SITES
    try:
        probers = {site: prober(site, compiled) for site in active}
        return {k: probers[one.site](one.call) for k, one in enumerate(calls)}, []
    except Exception as error:
        # whatever the rule raises; where calls are compared entry by entry that is its verdict
        return {}, [f"calls could not be compared in a random direction ({first_line(error)})"]


def _compared(
    active: Sequence[Site],
    calls: Sequence[_Numbered],
    probes: Mapping[int, Probe],
    how: "_How",
    limit: int,
) -> tuple[list[CheckedCall], str | None, list[str]]:
    """Calls compared entry by entry, why that could not be finished, and notes.

    Those that differ most in the random direction come first. Where none of them is wrong, all
    others that differ there are compared too: they may differ elsewhere than at kinks.
    """
    differences = {k: probe.difference(how.chosen) for k, probe in probes.items()}
    order = _order(len(calls), differences, limit)
    suspects = [k for k in order if differences.get(k, 0.0) > 1]
    checked: list[CheckedCall] = []
    notes: list[str] = []
    failure = _complex_operands(active)
    try:
        for position in order[:limit] if failure is None else ():
            one = calls[position]
            forward = probes[position].forward if position in probes else None
            made = _one_by_one(one, how, forward)
            if not made and (copies := _copies(active, how.chosen)):
                # in this function only the sum of their cotangents counts
                together = _one_by_one(one, how.with_copies(copies), forward)
                if together:
                    made, how = together, how.with_copies(copies)
                    notes.append(_copies_note(active[0], copies))
            checked.append(made)
        if all(checked):
            checked += _together([calls[k] for k in suspects[limit:]], how)
    except Exception as error:
        # whatever the function or the rule raises: the verdict is that it was not checked, and why
        failure = first_line(error)
    return checked, failure, notes


def _precision_notes(site: Site) -> list[str]:
    """Sentences on the precision that the rule was evaluated in."""
    wide = site.in_float64
    if site.not_widened is not None:
        return [
            f"it could not be evaluated in float64 throughout ({site.not_widened}): where it "
            "converts to another precision, that was kept"
        ]
    if wide is None or site.retraced or site.eps <= COARSE:
        return []
    return [
        f"it converts to a type with a rounding of {site.eps:.2g}; it was evaluated in float64 "
        "without these conversions, and differences of up to 16 roundings are put down to numbers "
        "that the program writes in that type"
    ]


def _singular_notes(checked: Sequence[CheckedCall]) -> list[str]:
    """A sentence on entries where the function has no finite derivative."""
    singular = sum(block.singular for call in checked for block in call.check.blocks)
    if not singular:
        return []
    return [
        f"{singular} {'entry is' if singular == 1 else 'entries are'} singular here: the function "
        "has no finite derivative, and the number that the rule gives is a convention"
    ]


def _rule_audit(
    sites: Sequence[Site],
    probed: int,
    checked: Sequence[CheckedCall],
    verdict: tuple[str, str],
    declared: str | None,
    notes: Sequence[str],
) -> RuleAudit:
    """What was found, with what the places of the program say about the rule."""
    first = sites[0]
    definition = first.definition
    if first.batched:
        notes = [*notes, "called under vmap: the batched call was checked, batch axes and all"]
    return RuleAudit(
        name=definition.name,
        kind=first.kind,
        source=place(definition.file, definition.line),
        called_at=callers(sites),
        operands=first.types,
        batched=first.batched,
        library=program.is_rule_of_jax(first.equation),
        calls=sum(site.seen for site in sites),
        calls_exact=not any(site.unseen for site in sites),
        probed=probed,
        checked=tuple(checked),
        verdict=verdict[0],
        diagnosis=verdict[1],
        declared=declared,
        notes=tuple(notes),
    )


def _idle_notes(sites: Sequence[Site]) -> list[str]:
    """A sentence on calls that are never differentiated, beside others that are."""
    idle, seen = sum(site.idle for site in sites), sum(site.seen for site in sites)
    if not 0 < idle < seen:
        return []
    return [f"{idle} of {seen} calls are never differentiated here and were not compared"]


@dataclass(frozen=True, eq=False)
class _How:
    """How calls of a rule are compared.

    Attributes:
        chosen: the operands to check the derivative for.
        options: options of `check_vjp`.
        diagnose: how long causes are looked for.
        copies: operands moved together with another one, and that one.
    """

    chosen: tuple[int, ...]
    options: Mapping[str, Any]
    diagnose: bool | Budget
    copies: Mapping[int, int] = field(default_factory=dict)

    def with_copies(self, copies: Mapping[int, int]) -> "_How":
        """The same where each copy moves together with its original."""
        left = tuple(k for k in self.chosen if k not in copies)
        return replace(self, chosen=left, copies=copies)


def _copies(sites: Sequence[Site], chosen: Sequence[int]) -> dict[int, int]:
    """Operands that are one array in every call, later ones with the first one."""
    common = set.intersection(*(set((site.copies or {}).items()) for site in sites))
    return {k: first for k, first in common if k in chosen and first in chosen}


def _copies_note(site: Site, copies: Mapping[int, int]) -> str:
    names = site.operand_names()
    listed = ", ".join(f"{names[k]} with {names[first]}" for k, first in sorted(copies.items()))
    return (
        f"moved together: {listed}, since each call gives the same array for both; one by one "
        "their cotangents differ from the derivative, and only the sum matters here"
    )


def _one_by_one(one: _Numbered, how: _How, forward: str | None) -> CheckedCall:
    """One call compared entry by entry."""
    check = _checked(one.site.function(how.copies), one.site, one.call.values, how)
    if any(p.kind == "primal" for p in check.problems):
        forward = None
    return CheckedCall((one.number,), one.call.where, check, forward)


def _checked(
    function: Callable[..., Any], site: Site, values: Sequence[Any], how: _How
) -> VJPCheck:
    """The verdict of `check_vjp` on a rule at values of its operands."""
    check = check_vjp(function, *values, argnums=how.chosen, diagnose=how.diagnose, **how.options)
    given = any(how.options[name] is not None for name in ("rtol", "atol"))
    if check or given or check.problems or site.retraced or site.eps < COARSE:
        return check
    # 0.1 is 0.1001 in bfloat16, and three times that is not 0.3 in bfloat16
    worst = check.worst
    scale = 0.0 if worst is None else max(abs(worst.expected), abs(worst.actual))
    tolerances = {"rtol": 16 * site.eps, "atol": site.eps * scale}
    return check_vjp(
        function,
        *values,
        argnums=how.chosen,
        diagnose=how.diagnose,
        **{**how.options, **tolerances},
    )


def _together(calls: Sequence[_Numbered], how: _How) -> list[CheckedCall]:
    """Calls compared entry by entry, all those of one place of the program in one batch."""
    checked = []
    for site in dict.fromkeys(one.site for one in calls):
        mine = [one for one in calls if one.site is site]
        stacked = [
            jnp.stack([jnp.asarray(x) for x in values])
            for values in zip(*(one.call.values for one in mine), strict=True)
        ]
        single = site.function(how.copies)
        batched = jax.vmap(single)
        batched.__signature__ = single.__signature__  # type: ignore[attr-defined]
        check = _checked(batched, site, stacked, how)
        checked.append(CheckedCall(tuple(one.number for one in mine), "", check))
    return checked


def _complex_operands(sites: Sequence[Site]) -> str | None:
    """Why a rule of complex operands is not checked, or None."""
    first = sites[0]
    for k, (name, text) in enumerate(zip(first.operand_names(), first.types, strict=True)):
        dtype = program.dtype_of(first.equation.invars[k])
        if k < first.closed_over or not jnp.issubdtype(dtype, jnp.complexfloating):
            continue
        if any(site.roles[k] != CONSTANT for site in sites):
            return (
                f"its operand {name} is complex ({text}), which is not checked: write the rule for "
                "real and imaginary parts, or test it with jax.test_util.check_grads"
            )
    return None


def _verdict(
    checked: Sequence[CheckedCall], failure: str | None, declared: str | None
) -> tuple[str, str]:
    """The verdict and the diagnosis of a rule, empty where it is right."""
    failing = next((call for call in checked if not call), None)
    if failing is not None:
        return WRONG, diagnosis_of(failing)
    if failure is not None or not checked:
        return UNCHECKED, failure or "it was not called"
    if any(call.check.verdict == DECLARED for call in checked):
        return DECLARED, f"differs as declared: {declared}"
    kinks = any(block.kinks for call in checked for block in call.check.blocks)
    return (KINKS if kinks else RIGHT), ""


def _order(count: int, differences: Mapping[int, float], limit: int) -> list[int]:
    """Positions of the calls in the order in which they are compared."""
    if differences:
        return sorted(differences, key=lambda k: (-differences[k], k))
    spread = np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int))
    return [int(k) for k in spread]


def _selected(
    sites: Sequence[Site], probes: Mapping[int, Probe]
) -> tuple[tuple[int, ...], list[str]]:
    """The operands to check the derivative for, and notes on those left out."""
    first = sites[0]
    names = first.operand_names()
    variables = first.equation.invars
    silent = frozenset[int]()
    if probes:
        silent = frozenset.intersection(*(probe.silent for probe in probes.values()))
    roles = [reduce(or_, kinds) for kinds in zip(*(site.roles for site in sites), strict=True)]
    raising = {k for site in sites for k in site.raising}
    candidates = [
        k
        for k in sorted({k for site in sites for k in site.operands})
        if k not in raising or moves(roles[k])
    ]
    unused = [
        k
        for k in candidates
        if not moves(roles[k])
        and k in silent
        and any(probe.differences.get(k, 0.0) > 0 for probe in probes.values())
    ]
    numbers = [
        k
        for k, v in enumerate(variables)
        if k >= first.closed_over
        and roles[k] == CONSTANT
        and jnp.issubdtype(program.dtype_of(v), jnp.floating)
    ]
    notes = []
    for left_out, why in (
        (numbers, "a number written in the program"),
        (
            unused,
            "an array that the function closes over or makes itself, for which the rule gives no "
            "derivative; make it an argument to have it checked",
        ),
        (
            sorted(raising - set(candidates)),
            "an array that the function closes over or makes itself, and the rule raises where it "
            "is differentiated by it; make it an argument to have it checked",
        ),
    ):
        if left_out:
            notes.append(f"not checked for {', '.join(names[k] for k in left_out)}: {why}")
    return tuple(k for k in candidates if k not in unused), notes
