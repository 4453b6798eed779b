"""Every hand-written derivative inside a function, checked on the values that it receives there.

A model calls many custom rules, some of them deep inside `jit`, `scan` and `vmap`, and at shapes
and values that no unit test thought of. `audit` runs the model once, keeps what each rule is
called with, and gives these values to `check_vjp`.

When a rule is called often, all its calls are first compared in one random direction, in float64,
and those that differ most are then compared entry by entry.

    found = audit(model, params, x)
    bool(found), [(rule.name, rule.verdict) for rule in found.rules]
    # (False, [('rms_norm', 'right'), ('swiglu', 'wrong')])

Rules of JAX itself, such as that of `jax.nn.relu`, are listed apart and checked only when asked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jacobians import program
from jacobians.check.audit.capture import Captured, capture
from jacobians.check.audit.places import place
from jacobians.check.audit.result import IDLE, KINKS, RIGHT, UNCHECKED, WRONG, Audit, RuleAudit
from jacobians.check.audit.rule import Asked, audit_rule
from jacobians.check.audit.site import Site
from jacobians.check.diagnose import budget_of
from jacobians.errors import ArgumentError

# how many calls of a rule are compared entry by entry one by one, by default
LIMIT = 2

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
    asked = Asked(limit, rtol, atol, expect or {}, budget_of(diagnose))
    found = capture(f, args)
    listed, others = _grouped(found, library, asked.declared)
    in_turn = listed if progress is None else progress(listed)
    rules = _not_reached(listed, [audit_rule(sites, asked, found.refused) for sites in in_turn])
    unreached = dict.fromkeys(found.unreached)
    rules += [_unreached(name, of_jax) for name, of_jax in unreached if library or not of_jax]
    rules += [_applied(rule) for rule in found.applied]
    return Audit(found.name, tuple(rules), tuple(others.items()), found.notes)


def _grouped(
    found: Captured, library: bool, declared: Mapping[str, str]
) -> tuple[list[list[Site]], dict[str, int]]:
    """The places of each rule that is to be checked, and the calls of each that is JAX's own.

    Raises:
        ArgumentError: a rule that is declared to differ is not called.
    """
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
    return list(groups.values()), others


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


def _unreached(operation: str, of_jax: bool) -> RuleAudit:
    """The entry for a rule inside an operation that is not looked into."""
    return RuleAudit(
        name=f"a rule inside {operation}",
        library=of_jax,
        verdict=UNCHECKED,
        diagnosis=f"the operation {operation} cannot be entered: give its function to check_vjp by "
        "itself",
    )


def _applied(rule: program.Definition) -> RuleAudit:
    """The entry for a rule that JAX applied where the function differentiates inside itself."""
    return RuleAudit(
        name=rule.name,
        source=place(rule.file, rule.line),
        verdict=UNCHECKED,
        diagnosis="JAX has already applied it where the function differentiates inside itself "
        "(jax.grad, jax.vjp or jax.jvp), so that no call of it is left: audit the function that is "
        "differentiated there",
    )
