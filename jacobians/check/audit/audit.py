"""Every hand-written derivative inside a function, checked on the values that it receives there.

A model calls many custom rules, some of them deep inside `jit`, `scan` and `vmap`, and at shapes
and values that no unit test thought of. `audit` runs the model once, keeps what each rule is
called with, and gives these values to `check_vjp`.

When a rule is called often, all its calls are first compared in one random direction, in float64,
and those that differ most are then compared entry by entry.

    >>> found = audit(model, params, x)
    >>> bool(found), [(rule.name, rule.verdict) for rule in found.rules]
    (False, [('rms_norm', 'right'), ('swiglu', 'wrong')])

Rules of JAX itself, such as that of `jax.nn.relu`, are listed apart and checked only when asked.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.audit.capture import capture
from jacobians.check.audit.flow import CONSTANT, moves
from jacobians.check.audit.result import (
    DECLARED,
    IDLE,
    KINKS,
    RIGHT,
    UNCHECKED,
    WRONG,
    Audit,
    CheckedCall,
    RuleAudit,
    diagnosis_of,
)
from jacobians.check.audit.site import RuleCall, Site
from jacobians.check.audit.suspects import Probe, prober
from jacobians.check.check import check_vjp
from jacobians.check.diagnose import Budget, budget_of
from jacobians.check.result import VJPCheck
from jacobians.errors import ArgumentError
from jacobians.program.call import is_integer

# how many calls of a rule are compared entry by entry one by one, by default
LIMIT = 2
# the causes of all wrong rules are looked for this many times as long as that of one, at most
RULES = 3.0
# above this roundoff a mistake is hard to tell from rounding
COARSE = 1e-4
# from this many places on where a rule is called, comparing them is not compiled as a whole
MANY_SITES = 4

Progress = Callable[[Sequence[Any]], Iterable[Any]]


def audit(
    f: Callable[..., Any],
    *args: Any,
    limit: int = LIMIT,
    library: bool = False,
    expect: Mapping[str, str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Progress | None = None,
    diagnose: bool | float = True,
) -> Audit:
    """Finds every custom derivative rule called in a function and checks it on what it receives.

    Rules are found inside `jit`, `scan`, `while_loop`, `cond` (the branch taken), `vmap`,
    `checkpoint` and the primal functions of other rules. Each is checked with respect to the
    operands that matter: not to numbers written in the program, whose cotangents JAX drops, nor to
    arrays that the rule's function closes over, which it says nothing about. Only results count
    that an output of `f` can pass a cotangent back to. A rule that `f` calls but never
    differentiates, on integers for one, is listed as that and does not make the audit false.

    Args:
        f: a JAX function of positional arguments, such as a model or a loss. Not its gradient:
            where JAX differentiates, it has replaced the rules already; those whose traces are left
            are listed as not checked.
        args: arrays, pytrees of arrays, Python scalars and other objects.
        limit: how many calls of each rule are compared entry by entry, if no more of them differ:
            all are compared in one random direction, and those that differ most are taken. Calls
            that differ but turn out right, at kinks, do not count.
        library: whether the rules of JAX itself, such as that of `jax.nn.relu`, are checked too.
        expect: for rules that are meant to differ, such as straight-through estimators: the name
            of the function and the reason. A rule that raises, gives NaN or has another forward
            pass than its function is wrong all the same.
        rtol: relative tolerance for `check_vjp`, in place of the automatic one.
        atol: absolute tolerance for `check_vjp`, in place of the automatic one.
        progress: wraps the list of rules for a progress bar, as `tqdm.tqdm` does.
        diagnose: for how many seconds of CPU time the cause of a wrong rule may be looked for, as
            for `check_vjp`: True for ten, False not at all; for all rules together three times as
            long at most.

    Returns:
        The verdicts. A function without custom rules gives an audit without rules, which is true.

    Raises:
        ArgumentError: an argument is only a shape, `f` cannot be called with the arguments,
            `limit` is less than 1, `diagnose` is no time, or `expect` names a rule that is not
            called.
        Exception: whatever `f` raises.
    """
    if not is_integer(limit) or limit < 1:
        raise ArgumentError(f"limit={limit!r}: at least one call of each rule has to be checked")
    declared = dict(expect or {})
    each = budget_of(diagnose)
    whole = None if each is None else Budget(RULES * each.seconds)
    found = capture(f, args)
    groups: dict[Any, list[Site]] = {}
    others: dict[str, int] = {}
    for site in found.sites:
        own = program.is_rule_of_jax(site.equation)
        if own and not library and site.definition.name not in declared:
            others[site.definition.name] = others.get(site.definition.name, 0) + site.seen
        else:
            key = site.definition, site.kind, site.types, site.closed_over, site.batched
            groups.setdefault(key, []).append(site)
    names = sorted({site.definition.name for sites in groups.values() for site in sites})
    for name in declared:
        if name not in names:
            raise ArgumentError(
                f"expect={{{name!r}: …}}: no custom rule of that name is called in {found.name}; "
                f"there are: {', '.join(names) or 'none'}"
            )
    options = {"rtol": rtol, "atol": atol}
    listed = list(groups.values())
    rules = [
        _audit_rule(
            sites,
            limit,
            declared.get(sites[0].definition.name),
            options,
            found.refused,
            False if each is None else Budget(each.seconds, within=whole),
        )
        for sites in (listed if progress is None else progress(listed))
    ]
    rules = _not_reached(listed, rules)
    for name, of_jax in dict.fromkeys(found.unreached):
        if library or not of_jax:
            rules.append(_unreached(name, of_jax))
    rules += [_applied(rule) for rule in found.applied]
    return Audit(found.name, tuple(rules), tuple(others.items()), found.notes)


def _not_reached(listed: Sequence[Sequence[Site]], rules: Sequence[RuleAudit]) -> list[RuleAudit]:
    """The verdicts, where wrong rules of JAX inside right ones are not differentiated.

    A rule stands in the place of everything that its function calls: `xlogy` has no derivative at
    0 that JAX's rule could give, and `entr`, which calls it, has a rule of its own that is right.
    """
    verdicts = {site: rule for sites, rule in zip(listed, rules, strict=True) for site in sites}
    found = []
    for sites, rule in zip(listed, rules, strict=True):
        around = {outer for site in sites for outer in site.within}
        outer_rules = [verdicts[site] for site in around if site in verdicts]
        covered = len(outer_rules) == len(around) and all(
            outer.verdict in (RIGHT, KINKS) for outer in outer_rules
        )
        if rule.library and rule.verdict == WRONG and covered:
            names = ", ".join(sorted({outer.name for outer in outer_rules}))
            why = (
                f"it is called inside {names} only, whose own rule takes its place and is right "
                f"here; by itself it is wrong at these values: {rule.diagnosis}"
            )
            rule = replace(rule, verdict=IDLE, diagnosis=why)
        found.append(rule)
    return found


@dataclass(frozen=True, eq=False)
class _Numbered:
    """A call of a rule, with its number among all calls of the rule."""

    site: Site
    call: RuleCall
    number: int


def _audit_rule(
    sites: Sequence[Site],
    limit: int,
    declared: str | None,
    options: Mapping[str, Any],
    refused: Mapping[Site, str],
    diagnose: bool | Budget,
) -> RuleAudit:
    """The verdict on one rule at operands of one type."""
    active = [site for site in sites if site.kept]
    notes = _idle_notes(sites)
    if not active:
        return _rule_audit(sites, 0, (), (IDLE, IDLE_REASON), declared, ())
    for site in active:
        if site in refused:
            return _rule_audit(sites, 0, (), (WRONG, refused[site]), declared, notes)
    calls, before = [], 0
    for site in sites:
        calls += [_Numbered(site, call, before + call.number) for call in site.kept]
        before += site.seen
    probes: dict[int, Probe] = {}
    # the operations of many sites are the same: compiling each operation once is then cheaper
    compiled = len(active) < MANY_SITES
    try:
        probers = {site: prober(site, compiled) for site in active}
        for position, one in enumerate(calls):
            probes[position] = probers[one.site](one.call)
    except Exception as error:
        probes = {}
        notes.append(f"calls could not be compared in a random direction ({_first_line(error)})")
    chosen, left_out = _selected(active, probes)
    notes += left_out
    how = _How(chosen, {**options, "expect": declared}, diagnose)
    differences = {k: probe.difference(chosen) for k, probe in probes.items()}
    order = _order(len(calls), differences, limit)
    suspects = [k for k in order if differences.get(k, 0.0) > 1]
    checked: list[CheckedCall] = []
    failure = _complex_operands(active)
    try:
        for position in order[:limit] if failure is None else ():
            one = calls[position]
            forward = probes[position].forward if position in probes else None
            made = _one_by_one(one, how, forward)
            if not made and (copies := _copies(active, chosen)):
                # in this function only the sum of their cotangents counts
                together = _one_by_one(one, how.with_copies(copies), forward)
                if together:
                    made, how = together, how.with_copies(copies)
                    notes.append(_copies_note(active[0], copies))
            checked.append(made)
        if all(checked):
            # they differ at kinks or not at all; those left may differ elsewhere
            rest = [calls[k] for k in suspects[limit:]]
            checked += _together(rest, how)
    except Exception as error:
        failure = _first_line(error)
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
    if first.in_float64 is not None and not first.retraced and first.eps > COARSE:
        notes.append(
            f"it converts to a type with a rounding of {first.eps:.2g}; it was evaluated in "
            "float64 without these conversions, and differences of up to 16 roundings are put "
            "down to numbers that the program writes in that type"
        )
    singular = sum(block.singular for call in checked for block in call.check.blocks)
    if singular:
        notes.append(
            f"{singular} {'entry is' if singular == 1 else 'entries are'} singular here: the "
            "function has no finite derivative, and the number that the rule gives is a convention"
        )
    verdict = _verdict(checked, failure, declared)
    return _rule_audit(sites, len(probes), checked, verdict, declared, notes)


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
    batched = first.batched
    if batched:
        notes = [*notes, "called under vmap: the batched call was checked, batch axes and all"]
    return RuleAudit(
        definition.name, first.kind, _place(definition.file, definition.line),
        _callers(sites), first.types, batched, program.is_rule_of_jax(first.equation),
        sum(s.seen for s in sites), not any(s.unseen for s in sites), probed,
        tuple(checked), *verdict, declared, tuple(notes),
    )  # fmt: skip


# why a rule that is called is never differentiated
IDLE_REASON = (
    "the function calls it but never differentiates it: nothing that it is differentiated by "
    "reaches the rule, or no result of the rule passes a cotangent back; to have it checked, make "
    "what it is called with an argument, or give it to check_vjp by itself"
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


def _unreached(operation: str, of_jax: bool) -> RuleAudit:
    return RuleAudit(
        f"a rule inside {operation}", "custom rule", None, (), (), False, of_jax, 0, False, 0, (),
        UNCHECKED,
        f"the operation {operation} cannot be entered: give its function to check_vjp by itself",
        None, (),
    )  # fmt: skip


def _applied(rule: program.Definition) -> RuleAudit:
    """The entry for a rule that JAX applied where the function differentiates inside itself."""
    return RuleAudit(
        rule.name, "custom rule", _place(rule.file, rule.line), (), (), False, False, 0, False, 0,
        (), UNCHECKED,
        "JAX has already applied it where the function differentiates inside itself (jax.grad, "
        "jax.vjp or jax.jvp), so that no call of it is left: audit the function that is "
        "differentiated there",
        None, (),
    )  # fmt: skip


def _callers(sites: Sequence[Site]) -> tuple[str, ...]:
    """The lines that call a rule: the innermost frames that belong to neither JAX nor us."""
    found = []
    for site in sites:
        for file, line, _ in program.call_stack(site.equation):
            if not os.path.abspath(file).startswith((program.JAX_FOLDER, program.OWN_FOLDER)):
                found.append(_place(file, line))
                break
    return tuple(dict.fromkeys(place for place in found if place is not None))


def _place(file: str | None, line: int | None) -> str | None:
    """A file and line: the file relative to the working directory or to its package's place."""
    if file is None:
        return None
    path = os.path.abspath(file)
    here = os.getcwd() + os.sep
    if path.startswith(here):
        path = path[len(here) :]
    elif f"{os.sep}site-packages{os.sep}" in path:
        path = path.split(f"{os.sep}site-packages{os.sep}")[-1]
    return path if line is None else f"{path}:{line}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
