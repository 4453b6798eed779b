"""What `audit` returns: the rules found, the calls checked, and the verdicts."""

from dataclasses import dataclass
from typing import Any

from jacobians.check.result import VJPCheck, WorstEntry
from jacobians.errors import WrongDerivativeError
from jacobians.notation import show

RIGHT, KINKS, WRONG = "right", "right (kinks)", "wrong"
DECLARED, UNCHECKED, IDLE = "differs as declared", "not checked", "not differentiated here"


@dataclass(frozen=True, eq=False)
class CheckedCall:
    """One call of a rule, or several in one batch, compared entry by entry.

    Attributes:
        numbers: the calls' numbers among those of the rule, from 1.
        where: the loop steps that a single call was in, or ''.
        check: the verdict; of several calls it is that of `jax.vmap` over them.
        forward: what is wrong with the value that the rule's forward pass returns, or None.
    """

    numbers: tuple[int, ...]
    where: str
    check: VJPCheck
    forward: str | None = None

    def __bool__(self) -> bool:
        return bool(self.check) and self.forward is None


@dataclass(frozen=True, eq=False, kw_only=True)
class RuleAudit:
    """What was found about one rule at operands of one type.

    Attributes:
        name: the name of the function that has the rule.
        kind: 'custom_vjp' or 'custom_jvp'; 'custom rule' where no call of it was seen.
        source: file and line where the function was written, or None where JAX does not tell.
        called_at: file and line of the calls, as far as JAX tells.
        operands: the operands' types in short notation.
        batched: whether it was seen by `jax.vmap`: then the batched call is what is checked.
        library: whether it belongs to JAX itself.
        calls: how often it was called, as far as was looked.
        calls_exact: whether every call was looked at.
        probed: how many calls were compared in one random direction.
        checked: the calls compared entry by entry.
        verdict: 'right', 'right (kinks)', 'wrong', 'differs as declared', 'not checked', or 'not
            differentiated here' for a rule that the function calls but never differentiates.
        diagnosis: what the mistake is, or why it was not checked; empty for a right rule.
        declared: the reason that the caller gave for its being different, or None.
        notes: sentences about what was compared.
    """

    name: str
    kind: str = "custom rule"
    source: str | None = None
    called_at: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    batched: bool = False
    library: bool = False
    calls: int = 0
    calls_exact: bool = False
    probed: int = 0
    checked: tuple[CheckedCall, ...] = ()
    verdict: str
    diagnosis: str
    declared: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def checks(self) -> tuple[VJPCheck, ...]:
        """The verdicts of the calls compared entry by entry."""
        return tuple(call.check for call in self.checked)

    @property
    def failing(self) -> CheckedCall | None:
        """The first wrong call, or None."""
        return next((call for call in self.checked if not call), None)

    @property
    def worst(self) -> WorstEntry | None:
        """The worst entry of the first wrong call, or None where no entry is wrong."""
        failing = self.failing
        return None if failing is None or failing.check else failing.check.worst

    @property
    def compared(self) -> int:
        """How many calls were compared entry by entry."""
        return sum(len(call.numbers) for call in self.checked)

    @property
    def ok(self) -> bool:
        """Whether the rule is right, differs as declared, or is never differentiated here."""
        return self.verdict in (RIGHT, KINKS, DECLARED, IDLE)


@dataclass(frozen=True, eq=False)
class Audit:
    """The verdicts on all custom rules of a function. True when all are right.

    A rule that could not be checked counts as not right; one of JAX itself that was not to be
    checked does not count.

    Attributes:
        name: the function's name.
        rules: one per rule and type of operands, in the order of their first call.
        library: rules of JAX itself that were left out, as (name, number of calls).
        notes: sentences about what was not looked at.
    """

    name: str
    rules: tuple[RuleAudit, ...]
    library: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return all(rule.ok for rule in self.rules)

    def __str__(self) -> str:
        return show.text(self)

    @property
    def wrong(self) -> tuple[RuleAudit, ...]:
        """The rules that are wrong."""
        return tuple(rule for rule in self.rules if rule.verdict == WRONG)

    @property
    def unchecked(self) -> tuple[RuleAudit, ...]:
        """The rules that could not be checked."""
        return tuple(rule for rule in self.rules if rule.verdict == UNCHECKED)

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON-ready values."""
        return show.data(self)

    def raise_if_wrong(self) -> None:
        """Raises `WrongDerivativeError` with the report unless every rule is right."""
        if not self:
            raise WrongDerivativeError(str(self))


def diagnosis_of(call: CheckedCall) -> str:
    """What is wrong with a call, in sentences: the diagnoses, or else the problems and counts."""
    check = call.check
    parts = [d.message for d in check.diagnoses]
    if call.forward is not None:
        parts.append(call.forward)
    parts += [problem.message for problem in check.problems]
    if not parts:
        parts = [
            f"{block.wrong} of {block.entries} entries of ∂{block.output}/∂{block.input} are wrong"
            for block in check.blocks
            if not block.ok
        ]
    return "; ".join(dict.fromkeys(parts))
