"""All hypotheses in order: the most telling first, those about the program, those about where."""

from collections.abc import Sequence

from jacobians.arguments import Call
from jacobians.compare import Compared, Comparison
from jacobians.diagnose import blocks
from jacobians.diagnose.case import Case, Diagnosis, cases
from jacobians.diagnose.paths import Programs, explained, scaled
from jacobians.diagnose.regions import regions
from jacobians.oracle import Oracle
from jacobians.rule import Rule, first_line

PER_INPUT = 3
FEW = 2
# what a rule is not a linear map for has no Jacobian to explain
SPOILING = ("nondeterministic", "ignores-cotangent", "nonlinear")


def diagnose(
    call: Call,
    rule: Rule,
    oracle: Oracle,
    made: Compared | None,
    results: Sequence[Comparison],
    problems: Sequence[tuple[str, str, tuple[str, ...]]],
) -> tuple[Diagnosis, ...]:
    """Explains what is wrong.

    Args:
        call: the call.
        rule: the rule, bound to it.
        oracle: the derivative of the program.
        made: the entries of both sides, or None where only probes were compared.
        results: the comparison of each block.
        problems: kind, message and inputs of the faults of the rule as a whole.

    Returns:
        The diagnoses, for each input the best first; none where nothing is wrong.
    """
    del rule
    found = [Diagnosis(kind, message, 1.0, inputs) for kind, message, inputs in problems]
    if made is None:
        return tuple(found)
    spoiled = {name for kind, _, inputs in problems if kind in SPOILING for name in inputs}
    everything = cases(call, made.blocks, results)
    programs: list[Programs] = []
    for case in everything:
        if case.name in spoiled or not case.wrong.any():
            continue
        if not (case.wrong & case.usable).any() and not case.kink[case.wrong].all():
            continue  # NaN and infinity have been named already
        found += _of_input(case, everything, oracle, made, programs)
    return tuple(_merged(found))


def _of_input(
    case: Case,
    everything: Sequence[Case],
    oracle: Oracle,
    made: Compared,
    programs: list[Programs],
) -> list[Diagnosis]:
    found = list(blocks.at_kinks(case))
    if not found:
        found = list(blocks.conjugated(case, everything))
    if not found:
        found = list(blocks.simple(case))
    if not found:
        found = list(blocks.swapped(case, everything))
    if not found:
        found = list(blocks.low_precision(case, made.rule_eps))
    if not found:
        found = list(blocks.rearranged(case))
    if found:
        return found[:PER_INPUT]
    trouble = ""
    telling: list[Diagnosis] = []
    exchanged: list[Diagnosis] = []
    by_value: list[Diagnosis] = []
    if oracle.how != "finite differences":
        try:
            if not programs:
                programs.append(_programs(case.call, oracle))
            telling, exchanged = explained(case, programs[0])
            by_value = scaled(case, programs[0])
        except Exception as error:
            # an operation that cannot be edited must not hide the verdict
            trouble = f" (the program could not be taken apart: {first_line(error)})"
    values = programs[0].edited.recorded if programs else []
    where = list(regions(case, [(v.name, v.value) for v in values]))
    # a path or a mask says most; one or two entries can be told apart by anything
    few = case.wrong.sum() < FEW
    found = [*telling[:PER_INPUT], *blocks.passed_through(case), *([] if few else where)]
    found += [*by_value, *exchanged, *(where if few else [])]
    return found[:PER_INPUT] or _last(case) or [_nothing(case, trouble)]


def _last(case: Case) -> list[Diagnosis]:
    return list(blocks.by_row(case)) or list(blocks.by_pattern(case))


def _programs(call: Call, oracle: Oracle) -> Programs:
    import jax

    with jax.enable_x64(True):
        return Programs(call, oracle)


def _nothing(case: Case, trouble: str) -> Diagnosis:
    wrong = int(case.wrong.sum())
    count = sum(e.count for e, _ in case.parts)
    return Diagnosis(
        "unknown",
        f"no single mistake that is known explains the cotangent of {case.name}{trouble}: {wrong} "
        f"of {count:,} entries are wrong; their pattern is drawn, and the worst is named. Leave "
        "out terms of the rule one by one, or check the rules that it is made of by themselves",
        0.0, (case.name,),
    )  # fmt: skip


def _merged(found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Each diagnosis once."""
    seen: dict[tuple[str, str], Diagnosis] = {}
    for d in found:
        message = d.message
        if d.kind == "swapped":
            message = "".join(sorted(d.inputs))
        seen.setdefault((d.kind, message), d)
    return list(seen.values())
