"""The report of an audit, as text and as a dictionary.

    print(audit_text(audit(model, params, x)))

A table with one line per rule, then what is wrong with each wrong one, then what was not checked.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
)
from jacobians.notation import show
from jacobians.report.check import check_text, worst_dict, worst_text
from jacobians.report.data import clean
from jacobians.report.lines import LABEL, WIDTH, Style, plain, wrap

HEADS = ("rule", "defined at", "operands", "calls", "checked", "verdict")
# the widest that a column of text may be
WIDEST = {"rule": 22, "defined at": 30, "operands": 22}


@show.text.register
def audit_text(audit: Audit, style: Style = plain) -> str:
    """The report of an audit, at most 100 columns wide.

    Args:
        audit: what `jacobians.audit` returned.
        style: called with (text, role) for parts that may be coloured.

    Returns:
        The report, without a newline at its end.
    """
    lines = [style(line, "title") for line in wrap(_summary(audit), 2)]
    if audit.rules:
        lines += ["", *_table(audit.rules, style)]
    for rule in audit.rules:
        if rule.verdict == WRONG:
            lines += ["", *_wrong_lines(rule, style)]
        elif rule.verdict in (UNCHECKED, DECLARED, IDLE):
            lines += ["", *_line(f"{rule.name}: {rule.verdict}", rule, style)]
            lines += _put("why", rule.diagnosis, style)
            if rule.worst is not None:
                lines += _put("worst", worst_text(rule.worst), style)
    notes = list(audit.notes)
    if audit.library:
        listed = ", ".join(f"{name} ({_counted(calls, 'call')})" for name, calls in audit.library)
        notes.insert(0, f"rules of JAX itself, not checked unless asked (library): {listed}")
    by_note: dict[str, list[str]] = {}
    for rule in audit.rules:
        for note in rule.notes:
            by_note.setdefault(note, []).append(rule.name)
    notes += [f"{_names(names)}: {note}" for note, names in by_note.items()]
    if notes:
        lines.append("")
    for note in dict.fromkeys(notes):
        lines += [style(line, "note") for line in wrap(f"note: {note}", 6)]
    return "\n".join(lines)


def _summary(audit: Audit) -> str:
    """The first line: how many rules and calls, how many of each verdict."""
    if not audit.rules:
        what = "only rules of JAX itself are" if audit.library else "no custom rule is"
        return f"audit of {audit.name}: {what} called in it: there was nothing to check"
    calls = sum(rule.calls for rule in audit.rules)
    exact = all(rule.calls_exact for rule in audit.rules)
    # a rule that was called with operands of several types has a line for each, and its worst
    # verdict counts
    severity = [WRONG, UNCHECKED, DECLARED, KINKS, RIGHT, IDLE]
    verdicts: dict[Any, str] = {}
    for rule in audit.rules:
        known = verdicts.setdefault((rule.name, rule.source), rule.verdict)
        verdicts[rule.name, rule.source] = min(known, rule.verdict, key=severity.index)
    words = ["right" if v in (RIGHT, KINKS) else v for v in verdicts.values()]
    shown = {WRONG: "WRONG"}
    counts = ", ".join(
        f"{words.count(word)} {shown.get(word, word)}" for word in severity if word in words
    )
    return (
        f"audit of {audit.name}: {_counted(len(verdicts), 'custom rule')}, "
        f"{'' if exact else 'at least '}{_counted(calls, 'call')}: {counts}"
    )


def _table(rules: Sequence[RuleAudit], style: Style) -> list[str]:
    """A line for each rule under the heads, no column wider than it may be."""
    rows = [
        (
            rule.name,
            rule.source or "(not known)",
            ", ".join(rule.operands),
            _calls_text(rule),
            str(rule.compared),
            rule.verdict.upper() if rule.verdict == WRONG else rule.verdict,
        )
        for rule in rules
    ]
    widths = []
    for k, head in enumerate(HEADS):
        width = max(len(head), *(len(row[k]) for row in rows))
        widths.append(min(width, WIDEST.get(head, width)))

    def line(cells: Sequence[str]) -> str:
        fitted = [
            # of a path the end says most, of everything else the beginning
            _end(cell, width) if HEADS[k] == "defined at" else _beginning(cell, width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        aligned = [
            cell.rjust(width) if HEADS[k] in ("calls", "checked") else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(fitted, widths, strict=True))
        ]
        return ("  " + "  ".join(aligned)).rstrip()

    lines = [style(line(HEADS), "label")]
    for rule, row in zip(rules, rows, strict=True):
        role = "bad" if rule.verdict == WRONG else "good" if rule.ok else "note"
        text = line(row)
        cut = len(text) - len(row[-1])
        lines.append(text[:cut] + style(text[cut:], role))
    return lines


def _calls_text(rule: RuleAudit) -> str:
    """How often a rule was called: `4`, `64+` where there were more, `?` where none was seen."""
    if rule.calls_exact:
        return str(rule.calls)
    return f"{rule.calls}+" if rule.calls else "?"


def _wrong_lines(rule: RuleAudit, style: Style) -> list[str]:
    """What is wrong with a rule: diagnosis, worst entry, where it was called, the whole check."""
    lines = _line(f"{rule.name} is WRONG", rule, style, "bad")
    failing = rule.failing
    check = None if failing is None else failing.check
    if check is not None and rule.diagnosis:
        check = replace(check, diagnoses=())  # said above it
    report = [] if check is None else check_text(check).splitlines()[1:]
    told = " ".join(" ".join(report).split())
    # what the report of the check says in the same words is not said twice
    if rule.diagnosis and rule.diagnosis not in told:
        lines += _put("diagnosis", rule.diagnosis, style)
    if rule.worst is not None and worst_text(rule.worst) not in told:
        lines += _put("worst", worst_text(rule.worst), style)
    if failing is not None and (rule.calls > 1 or failing.where):
        lines += _put("call", _call_text(rule, failing), style)
    if rule.called_at:
        more = len(rule.called_at) - 3
        text = ", ".join(rule.called_at[:3]) + (f" and {more} more places" if more > 0 else "")
        lines += _put("called at", text, style)
    return lines + [piece for text in report for piece in _indented(text)]


def _call_text(rule: RuleAudit, failing: CheckedCall) -> str:
    """Which call the report shows, and how many of those compared are wrong."""
    wrong = sum(len(call.numbers) for call in rule.checked if not call)
    many = f"{rule.calls}" if rule.calls_exact else f"at least {rule.calls}"
    if len(failing.numbers) > 1:
        return f"{len(failing.numbers)} of {many} in one batch, by their first axis"
    place = f" ({failing.where})" if failing.where else ""
    counted = f"{wrong} of the {rule.compared} compared {'is' if wrong == 1 else 'are'} wrong"
    if rule.compared == 1:
        counted = "the one that was compared"
    return f"number {failing.numbers[0]} of {many}{place}; {counted}"


def _line(head: str, rule: RuleAudit, style: Style, role: str = "note") -> list[str]:
    where = f", defined at {rule.source}" if rule.source else ""
    lines = wrap(f"{head} ({rule.kind}{where})", 4)
    return [style(line, role) for line in lines]


def _put(label: str, text: str, style: Style) -> list[str]:
    first, *rest = wrap(text, 0, WIDTH - LABEL - 2) or [""]
    lines = ["  " + style(label.ljust(LABEL), "label") + first]
    return lines + [" " * (LABEL + 2) + line for line in rest]


def _indented(text: str) -> list[str]:
    indent = len(text) - len(text.lstrip()) + 2
    if len(text) + 2 <= WIDTH:
        return [f"  {text}"]
    return [" " * indent + line for line in wrap(text.strip(), 2, WIDTH - indent)]


def _beginning(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _end(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _names(names: Sequence[str]) -> str:
    """`project, gelu` and how many more, each once."""
    once = list(dict.fromkeys(names))
    return ", ".join(once[:4]) + (f" and {len(once) - 4} more" if len(once) > 4 else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@show.data.register
def audit_dict(audit: Audit) -> dict[str, Any]:
    """An audit as JSON-ready values.

    Its keys: `function`, `right`, `rules`, `library`, `notes`; those of a rule are the attributes
    of `RuleAudit`, each of its `checked` with its calls' `numbers`, `where`, `forward` and `check`.
    """
    result: dict[str, Any] = clean(
        {
            "function": audit.name,
            "right": bool(audit),
            "rules": [_rule_dict(rule) for rule in audit.rules],
            "library": [{"name": name, "calls": calls} for name, calls in audit.library],
            "notes": list(audit.notes),
        }
    )
    return result


def _rule_dict(rule: RuleAudit) -> dict[str, Any]:
    """What an audit found of one rule, JSON-ready."""
    worst = rule.worst
    return {
        "name": rule.name,
        "kind": rule.kind,
        "source": rule.source,
        "called_at": list(rule.called_at),
        "operands": list(rule.operands),
        "batched": rule.batched,
        "library": rule.library,
        "calls": rule.calls,
        "calls_exact": rule.calls_exact,
        "probed": rule.probed,
        "verdict": rule.verdict,
        "right": rule.ok,
        "diagnosis": rule.diagnosis or None,
        "declared": rule.declared,
        "worst": None if worst is None else worst_dict(worst),
        "checked": [
            {
                "numbers": list(call.numbers),
                "where": call.where,
                "right": bool(call),
                "forward": call.forward,
                "check": call.check.to_dict(),
            }
            for call in rule.checked
        ],
        "notes": list(rule.notes),
    }
