"""All hypotheses in order: the plain ones first, then those about the program, and about where.

Plain is what takes no evaluation: what can be read off the entries. It is looked for in all inputs
before the program is taken apart for the first of them, so that a budget that runs out costs the
far-fetched explanations only. Where the wrong entries are few, a hypothesis has to hold at other
points as well (`again`); one that does not ranks below all others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jacobians.check.compare import Compared
from jacobians.check.diagnose import again, blocks
from jacobians.check.diagnose.budget import Budget, OutOfTime
from jacobians.check.diagnose.case import Case, Diagnosis, cases
from jacobians.check.diagnose.paths import Edit, Programs, explained, refuted, scaled
from jacobians.check.diagnose.regions import regions
from jacobians.check.entries import Comparison
from jacobians.check.oracle import Oracle
from jacobians.errors import first_line
from jacobians.notation.numbers import number
from jacobians.program.call import Call

PER_INPUT = 3
FEW = 2
# what is plain is looked for in any case, for so many seconds at most
PLAIN = 1.0
# what a rule is not a linear map for has no Jacobian to explain
SPOILING = ("nondeterministic", "ignores-cotangent", "nonlinear")
# hypotheses that are read off the entries, and whether other points can tell their accidents
SEARCHES: tuple[tuple[Callable[[Case, Sequence[Case], float], Iterable[Diagnosis]], bool], ...] = (
    (lambda case, all_cases, eps: blocks.at_kinks(case), False),
    (lambda case, all_cases, eps: blocks.conjugated(case, all_cases), False),
    (lambda case, all_cases, eps: blocks.simple(case), True),
    (lambda case, all_cases, eps: blocks.swapped(case, all_cases), True),
    (lambda case, all_cases, eps: blocks.low_precision(case, eps), False),
    (lambda case, all_cases, eps: blocks.rearranged(case), True),
)


def diagnose(
    call: Call,
    oracle: Oracle,
    made: Compared | None,
    results: Sequence[Comparison],
    problems: Sequence[tuple[str, str, tuple[str, ...]]],
    budget: Budget,
    notes: list[str],
) -> tuple[Diagnosis, ...]:
    """Explains what is wrong.

    Args:
        call: the call.
        oracle: the derivative of the program.
        made: the entries of both sides, or None where only probes were compared.
        results: the comparison of each block.
        problems: kind, message and inputs of the faults of the rule as a whole.
        budget: the time that it may take.
        notes: a sentence is appended where the search was stopped.

    Returns:
        The diagnoses, for each input the best first; none where nothing is wrong.
    """
    found = [Diagnosis(kind, message, 1.0, inputs) for kind, message, inputs in problems]
    if made is None:
        return tuple(found)
    spoiled = {name for kind, _, inputs in problems if kind in SPOILING for name in inputs}
    everything = cases(call, made.blocks, results, budget)
    # NaN and infinity have been named already
    unclear = [
        case
        for case in everything
        if case.name not in spoiled
        and case.wrong.any()
        and ((case.wrong & case.usable).any() or case.kink[case.wrong].all())
    ]
    # a NumPy warning would say that a hypothesis makes no sense here, which its fit says
    with np.errstate(all="ignore"), budget.running():
        search = _Search(
            call=call, oracle=oracle, made=made, everything=everything, budget=budget, notes=notes
        )
        plain = {case.leaf: search.plain(case) for case in unclear}
        left = [case for case in unclear if not plain[case.leaf]]
        for position, case in enumerate(left):
            # a share of the time for each of those that are left
            share = Budget(max(budget.left, 0.0) / (len(left) - position), within=budget)
            with share.running():
                plain[case.leaf] = search.thorough(replace(case, budget=share))
        for case in unclear:
            found += plain[case.leaf]
    # where nothing was found, the diagnosis itself says so
    partly = [c.name for c in unclear if c.name in search.stopped and plain[c.leaf][0].fit > 0]
    if partly:
        notes.append(
            f"search stopped after {_seconds(budget)} with what was found so far for the cotangent "
            f"of {', '.join(partly)}: {_longer(budget)}"
        )
    return tuple(_merged(found))


def _seconds(budget: Budget) -> str:
    """`10 s of CPU time`: how much there was to spend."""
    shared = budget.within
    if shared is not None and shared.left <= 0:
        return f"{number(shared.seconds)} s of CPU time for all rules"
    return f"{number(budget.seconds)} s of CPU time"


def _longer(budget: Budget) -> str:
    return f"diagnose={number(max(10.0, 6 * budget.seconds))} searches longer"


@dataclass(eq=False, kw_only=True)
class _Search:
    """The search for what is wrong with one call.

    Attributes:
        call: the call.
        oracle: the derivative of the program.
        made: the entries of both sides.
        everything: the cases of all inputs.
        budget: the time that it may take.
        notes: a sentence is appended where other points cannot be looked at.
        stopped: names of the inputs for which the search has been stopped.
        doubtful: by input leaf, what explains the numbers here and not at other points.
    """

    call: Call
    oracle: Oracle
    made: Compared
    everything: Sequence[Case]
    budget: Budget
    notes: list[str]
    stopped: list[str] = field(default_factory=list)
    doubtful: dict[int, list[Diagnosis]] = field(default_factory=dict)
    _programs: Programs | None = None
    _elsewhere: Programs | None = None

    @cached_property
    def _again(self) -> tuple[list[list[Any]], list[tuple[Case, ...]]]:
        return again.other_cases(self.everything, self.made, self.oracle, self.notes)

    def others(self, case: Case) -> list[tuple[Case, ...]]:
        """The comparison at other points, where it is needed to tell accidents."""
        if not again.is_small(case):
            return []
        try:
            return self._again[1]
        except OutOfTime:
            return []

    def plain(self, case: Case) -> list[Diagnosis]:
        """What can be read off the entries."""
        eps = self.made.rule_eps
        own = Budget(max(PLAIN, min(self.budget.seconds, self.budget.left)))
        timed = [replace(c, budget=own) for c in self.everything]
        mine = next(c for c in timed if c.leaf == case.leaf)
        doubtful = self.doubtful.setdefault(case.leaf, [])
        with own.running():
            for search, telling in SEARCHES:
                try:
                    found = list(search(mine, timed, eps))
                    others = self.others(mine) if found and telling else []

                    def again_found(
                        c: Case, all_cases: Sequence[Case], search: Any = search
                    ) -> Iterable[Diagnosis]:
                        return search(replace(c, budget=own), all_cases, eps)  # type: ignore[no-any-return]

                    judged = [again.confirmed(d, again_found, mine, others) for d in found]
                    kept = [d for d in judged if d is not None]
                except OutOfTime:
                    self._stop(case)
                    return []
                if kept:
                    return kept[:PER_INPUT]
                doubtful += found
        return []

    def thorough(self, case: Case) -> list[Diagnosis]:
        """What explains a case that nothing plain does."""
        trouble = ""
        telling: list[Diagnosis] = []
        exchanged: list[Diagnosis] = []
        by_value: list[Diagnosis] = []
        where: list[Diagnosis] = []
        confirmed = False
        others = [next(c for c in cs if c.leaf == case.leaf) for cs in self.others(case)]
        others = [replace(c, budget=case.budget) for c in others]
        doubtful = self.doubtful.setdefault(case.leaf, [])
        try:
            # without the program's values first: it may take too long to have them
            where = list(regions(case, (), others))
            by_edit: tuple[list[Edit], list[Edit]] = [], []
            if self.oracle.how != "finite differences":
                try:
                    if self._programs is None:
                        with jax.enable_x64(True):
                            self._programs = Programs(case.call, self.oracle.wide, case.budget)
                    by_edit = explained(case, self._programs)
                    by_value = scaled(case, self._programs)
                except OutOfTime:
                    raise
                except Exception as error:
                    # an operation that cannot be edited must not hide the verdict
                    trouble = f" (the program could not be taken apart: {first_line(error)})"
            telling, exchanged = ([e.diagnosis for e in part] for part in by_edit)
            tried = self._to_confirm(case, *by_edit)
            wrong_elsewhere = self._refuted(tried, others)
            confirmed = bool(tried) and bool(others)
            doubtful += [d for d in (*telling, *exchanged) if d in wrong_elsewhere]
            telling = [d for d in telling if d not in wrong_elsewhere]
            exchanged = [d for d in exchanged if d not in wrong_elsewhere]
            if not where:
                values = self._programs.edited.recorded if self._programs else []
                where = list(regions(case, [(v.name, v.value) for v in values]))
        except OutOfTime:
            pass
        if case.budget.stopped:
            self._stop(case)
        # a path or a mask says most; one or two entries can be told apart by anything, unless the
        # region has been found at other points as well
        few = case.wrong.sum() < FEW and not others
        passed = list(blocks.passed_through(case))
        found = [*telling[:PER_INPUT], *passed]
        found += [] if few else where
        found += [*exchanged, *by_value] if confirmed else by_value
        found += [*([] if confirmed else exchanged), *(where if few else [])]
        found = (found + [_accident(d) for d in doubtful])[:PER_INPUT]
        if found:
            return found
        try:
            if case.name not in self.stopped:
                return _last(case) or [_nothing(case, trouble)]
        except OutOfTime:
            self._stop(case)
        return [_not_yet(case, self.budget)]

    def _to_confirm(
        self, case: Case, telling: Sequence[Edit], exchanged: Sequence[Edit]
    ) -> list[Edit]:
        """Edits that have to hold at another point: where nothing better is known, or of few."""
        if case.wrong.sum() <= FEW:
            return [*telling, *exchanged]
        return [] if telling else list(exchanged)

    def _refuted(self, edits: Sequence[Edit], others: Sequence[Case]) -> tuple[Diagnosis, ...]:
        """Which edits of the program do not explain what the rule says at another point."""
        if not edits or not others or self._programs is None:
            return ()
        case = others[0]
        if self._elsewhere is None:
            case.budget.check(self._programs.edited.cost / 2)
            with jax.enable_x64(True):
                self._elsewhere = Programs(self.call, self._again[0][0], case.budget)
        return refuted(edits, self._programs, self._elsewhere, case)

    def _stop(self, case: Case) -> None:
        if case.name not in self.stopped:
            self.stopped.append(case.name)


def _last(case: Case) -> list[Diagnosis]:
    return list(blocks.by_row(case)) or list(blocks.by_pattern(case))


def _accident(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis that fits the given numbers only."""
    text = diagnosis.message + "; at other inputs this does not explain the difference: so few "
    return replace(diagnosis, message=text + "numbers may agree with it by accident")


def _count(case: Case) -> str:
    wrong, count = int(case.wrong.sum()), sum(e.count for e, _ in case.parts)
    return f"{wrong} of {count:,} entries are wrong; their pattern is drawn, and the worst is named"


def _not_yet(case: Case, budget: Budget) -> Diagnosis:
    return Diagnosis(
        "unknown",
        f"nothing that explains the cotangent of {case.name} was found before the search stopped "
        f"after {_seconds(budget)} ({_longer(budget)}): {_count(case)}",
        0.0,
        (case.name,),
    )


def _nothing(case: Case, trouble: str) -> Diagnosis:
    return Diagnosis(
        "unknown",
        f"no single mistake that is known explains the cotangent of {case.name}{trouble}: "
        f"{_count(case)}. Leave out terms of the rule one by one, or check the rules that it is "
        "made of by themselves",
        0.0,
        (case.name,),
    )


def _merged(found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Each diagnosis once."""
    seen: dict[tuple[str, str], Diagnosis] = {}
    for d in found:
        message = d.message
        if d.kind == "swapped":
            message = "".join(sorted(d.inputs))
        seen.setdefault((d.kind, message), d)
    return list(seen.values())
