"""Is this hand-written derivative right? Every entry of the Jacobian that it implies is compared.

A VJP says what the Jacobian is: one call per output basis vector gives it row by row. It is
compared with the derivative of the function's own program, custom rules stripped, in float64
wherever the rule can be evaluated there, so that rounding is out of the question; and once more in
the inputs' own precision. Each entry is judged by the rounding of its own terms. Where one-sided
derivatives differ (a kink, also one with an infinite side), any value between them is right; where
the function has no finite derivative (the root at 0), a number is a convention, counted and not
called wrong.

A large Jacobian is compared in compressed form, without loss: the patterns of both sides are
proved, and entries that share no row are evaluated together. One that is too large even for that is
probed with random cotangents, and the report says with what probability a mistake goes unseen.

    check = check_vjp(my_relu, x)
    bool(check), check.worst
    # (False, WorstEntry(output='out', input='x', output_index=(3,), input_index=(3,), ...))
    check.diagnoses[0].kind, check.diagnoses[0].message
    # ('sign', 'the cotangent of x has the wrong sign …')
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from jacobians.check.compare import compare
from jacobians.check.diagnose import Budget, Diagnosis, budget_of, diagnose_form
from jacobians.check.diagnose import diagnose as explanations
from jacobians.check.entries import Comparison, Entries
from jacobians.check.oracle import Oracle
from jacobians.check.parts import has_complex, in_real_parts
from jacobians.check.probes import PROBES, Probed, probed
from jacobians.check.problems import (
    _faults,
    _form_problems,
    _note_single_precision,
    _primal_problems,
    _symbolic_problems,
    raised_by_the_rule,
)
from jacobians.check.result import BlockCheck, Problem, VJPCheck, WorstEntry
from jacobians.check.rule import Rule, find_rule, without_static
from jacobians.check.verdict import nonfinite, note_by_own, note_lost, verdicts
from jacobians.errors import ArgumentError, RuleRaisedError
from jacobians.notation.spy import spy
from jacobians.program import dense
from jacobians.program.call import Call, bind, function_name


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    vjp: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    expect: str | Mapping[str, str] | None = None,
    diagnose: bool | float | Budget = True,
) -> VJPCheck:
    """Checks a hand-written derivative, entry by entry, at the given values.

    Args:
        f: a `Gate`; a `jax.custom_vjp` or `jax.custom_jvp` function; any function that calls such
            functions inside; or, with `vjp`, any function.
        args: arrays, pytrees of arrays and Python scalars. Complex arrays are taken as their real
            and imaginary parts.
        vjp: `vjp(cotangent, *args)` returning one cotangent per argument (a tuple; a single
            cotangent for a single argument).
        argnums: the arguments to check; default all with floating-point leaves.
        rtol: tolerance relative to each expected entry, in place of the automatic one.
        atol: absolute tolerance, in place of the automatic one.
        expect: the reason why the rule is meant to differ from the derivative, such as
            `"straight-through: rounding has derivative 0"`; or reasons by input name, where only
            some are meant to. A difference then gives the verdict 'differs as declared'. Shapes,
            dtypes, exceptions, NaN and the value of the forward pass are checked all the same.
        diagnose: for how many seconds of the process's CPU time the cause of a mistake may be
            looked for; True for ten, False not to look for it. Where the time is over, the report
            says "search stopped" and has what was found so far; the verdict stays the same. (A
            `jacobians.check.diagnose.Budget` is shared by the checks that are given it.)

    Returns:
        The verdict; its truth value says whether the derivative is right, or differs as declared.

    Raises:
        ArgumentError: there is nothing hand-written to check, the arguments do not fit or are
            abstract, `expect` names no input or gives no reason, `diagnose` is no time, or the
            comparison would not fit in memory.
        Exception: whatever `f` itself raises. What the rule raises is a verdict.
    """
    budget = budget_of(diagnose)
    f, args, argnums = without_static(f, args, argnums)
    rule, truth = find_rule(f, vjp)
    if has_complex(truth, args):
        rule, truth, args = in_real_parts(rule, truth, args)
    call = bind(truth, args, argnums)
    for leaf in call.inputs:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(
                f"{leaf.name} is only a shape ({leaf.short_type}); a check needs values"
            )
    dense.check_inputs(call)
    rule = rule.bound(call)
    declared = _declared(expect, call)
    check = _checked(function_name(f), call, rule, (rtol, atol), budget)
    check = replace(check, declared=declared)
    # what has no numbers to compare does not differ as anyone declared
    return _acknowledged(check) if declared and check.blocks else check


def _checked(
    name: str,
    call: Call,
    rule: Rule,
    tolerances: tuple[float | None, float | None],
    budget: Budget | None,
) -> VJPCheck:
    """The verdict whatever was declared; `tolerances` are the caller's, relative and absolute."""
    notes = list(dense.no_derivative_notes(call))
    problems = _form_problems(call, rule)

    def without_numbers() -> VJPCheck:
        """The verdict where the problems leave nothing to compare."""
        given = [(p.kind, p.message) for p in problems]
        return VJPCheck(
            name=name,
            rule=rule.kind,
            blocks=(),
            problems=tuple(problems),
            notes=tuple(notes),
            diagnoses=() if budget is None else diagnose_form(call, rule, given),
        )

    if problems:
        return without_numbers()
    oracle = Oracle(call)
    try:
        problems += _primal_problems(call, rule, oracle)
        with raised_by_the_rule():
            problems += _symbolic_problems(call, rule)
        problems += [Problem(x.kind, x.message, x.inputs) for x in _faults(call, rule, oracle)]
        made = compare(call, rule, oracle, notes)
    except RuleRaisedError as error:
        call.flat(())()  # what the function itself raises is not the rule's mistake
        raised = f"the rule raised {error} when it was called with numbers; see that it runs"
        problems.append(Problem("raised", f"{raised} by itself at these values"))
        return without_numbers()
    results: list[Comparison] = []
    if made is None:
        blocks = [_probe_check(call, p) for p in probed(call, rule, oracle, notes)]
    else:
        results = verdicts(made, oracle, *tolerances)
        note_lost(made, notes)
        note_by_own(made, results, notes)
        problems += [Problem("non-finite", text) for text in nonfinite(call, made, results)]
        blocks = [_block_check(call, e, r) for e, r in zip(made.blocks, results, strict=True)]
        _note_single_precision(made, results, notes)
    notes += [note for note in dict.fromkeys(oracle.notes) if note not in notes]
    diagnoses: tuple[Diagnosis, ...] = ()
    if budget is not None:
        faulty = [(p.kind, p.message, p.inputs) for p in problems]
        diagnoses = explanations(call, oracle, made, results, faulty, budget, notes)
    return VJPCheck(
        name=name,
        rule=rule.kind,
        blocks=tuple(blocks),
        problems=tuple(problems),
        notes=tuple(notes),
        diagnoses=diagnoses,
        truth=oracle.how,
    )


def _declared(expect: str | Mapping[str, str] | None, call: Call) -> Mapping[str, str]:
    """Reasons by input name."""
    if expect is None:
        return {}
    names = [call.inputs[k].name for k in call.selected]
    reasons = dict.fromkeys(names, expect) if isinstance(expect, str) else dict(expect)
    for name, reason in reasons.items():
        if name not in names:
            raise ArgumentError(
                f"expect= names {name!r}, which is not among the inputs that are checked: "
                f"{', '.join(names)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ArgumentError(
                f"expect= needs the reason for the difference in words, got {reason!r}; for "
                'example expect="straight-through: rounding has derivative 0"'
            )
    return reasons


def _acknowledged(check: VJPCheck) -> VJPCheck:
    """The verdict where differences were declared."""
    blocks = tuple(
        replace(b, verdict="differs as declared")
        if b.verdict == "wrong" and b.input in check.declared
        else b
        for b in check.blocks
    )
    covers = ("nonlinear", "ignores-cotangent")
    excused = tuple(
        p
        for p in check.problems
        if p.kind in covers and p.inputs and set(p.inputs) <= set(check.declared)
    )
    left = tuple(p for p in check.problems if p not in excused)
    differing = {b.input for b in blocks if b.verdict == "differs as declared"}
    differing.update(name for p in excused for name in p.inputs)
    notes = list(check.notes)
    for name in check.declared:
        if name not in differing:
            notes.append(
                f"declared to differ with respect to {name}, but it does not at these inputs: "
                "check inputs where it should, or drop expect="
            )
    return replace(check, blocks=blocks, problems=left, excused=excused, notes=tuple(notes))


def _block_check(call: Call, found: Entries, result: Comparison) -> BlockCheck:
    """What is reported of a block that was compared entry by entry."""
    output, input_ = call.outputs[found.output], call.inputs[found.input]
    worst, error, allowed = None, 0.0, 0.0
    at = result.at
    if at is not None:
        worst = WorstEntry(
            output.name,
            input_.name,
            _index(int(found.rows[at]), output.shape),
            _index(int(found.columns[at]), input_.shape),
            float(result.nearest[at]),
            float(result.actual[at]),
        )
        error, allowed = float(result.error[at]), float(result.tolerance[at])
    wrong = int(result.wrong.sum())
    kinks = int((result.kink & ~result.wrong).sum())
    shape = prod(output.shape), prod(input_.shape)
    picture = spy(found.rows[result.wrong], found.columns[result.wrong], shape) if wrong else []
    return BlockCheck(
        output=output.name,
        input=input_.name,
        out_shape=output.shape,
        in_shape=input_.shape,
        entries=found.count,
        error=error,
        tolerance=allowed,
        tolerance_source=result.source,
        worst=worst,
        wrong=wrong,
        kinks=kinks,
        verdict=_word(wrong, kinks),
        precision=result.precision,
        picture=tuple(picture),
        undefined=int((result.undefined & ~result.wrong).sum()),
        singular=int((result.singular & ~result.wrong).sum()),
    )


def _word(wrong: int, kinks: int) -> str:
    """The verdict on a block."""
    return "wrong" if wrong else "right (kinks)" if kinks else "right"


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(flat, shape)) if shape else ()


def _probe_check(call: Call, found: Probed) -> BlockCheck:
    """A block that was compared by random cotangents: its entries are columns."""
    output, input_ = call.outputs[found.output], call.inputs[found.input]
    error = np.abs(found.actual - found.expected)
    error = np.where(np.isfinite(error), error, np.inf)
    ratio = (error / found.tolerance).max(axis=0)
    worst, size, allowed = None, 0.0, 0.0
    if ratio.size:
        column = int(np.argmax(np.where(found.wrong, ratio, -1) if found.wrong.any() else ratio))
        probe = int(np.argmax(error[:, column] / found.tolerance[:, column]))
        worst = WorstEntry(
            output.name,
            input_.name,
            (),
            _index(column, input_.shape),
            float(found.expected[probe, column]),
            float(found.actual[probe, column]),
        )
        size, allowed = float(error[probe, column]), float(found.tolerance[probe, column])
    wrong = int(found.wrong.sum())
    return BlockCheck(
        output=output.name,
        input=input_.name,
        out_shape=output.shape,
        in_shape=input_.shape,
        entries=len(ratio),
        error=size,
        tolerance=allowed,
        tolerance_source=f"{PROBES} random cotangents, by column of the Jacobian; "
        "the worst is a product with one",
        worst=worst,
        wrong=wrong,
        kinks=found.kinks,
        verdict=_word(wrong, found.kinks),
    )
