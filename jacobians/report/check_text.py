"""The report of a checked derivative, as text and as a dictionary.

>>> print(check_text(check_vjp(my_relu, x)))
"""

from typing import Any

from jacobians.check import BlockCheck, VJPCheck, WorstEntry
from jacobians.report.text import LABEL, WIDTH, Style, number, plain, wrap
from jacobians.structure import dimensions


def check_text(check: VJPCheck, style: Style = plain) -> str:
    """The report of a check, at most 100 columns wide.

    Args:
        check: what `check_vjp` returned.
        style: called with (text, role) for parts that may be coloured.

    Returns:
        The report, without a newline at its end.
    """
    verdict = "RIGHT" if check else "WRONG"
    head = f"{check.name}: the hand-written derivative ({check.rule}) is {verdict}"
    lines = [style(head, "good" if check else "bad")]
    for problem in check.problems:
        lines += [style(line, "bad") for line in wrap(f"  {problem.kind}: {problem.message}", 4)]
    for block in check.blocks:
        lines += block_text(block, style)
    for note in check.notes:
        lines += [style(line, "note") for line in wrap(f"note: {note}", 6)]
    return "\n".join(lines)


def block_text(block: BlockCheck, style: Style = plain) -> list[str]:
    """The lines of one block."""
    head = f"∂{block.output}/∂{block.input}   matrix {dimensions(block.shape)}: "
    role = "good" if block.ok else "bad"
    lines = [style(head, "block") + style(block.verdict, role)]

    def put(label: str, text: str) -> None:
        first, *rest = wrap(text, 0, WIDTH - LABEL - 2) or [""]
        lines.append("  " + style(label.ljust(LABEL), "label") + first)
        lines.extend(" " * (LABEL + 2) + line for line in rest)

    put("error", f"{block.error:.3g} (tolerance {block.tolerance:.3g})")
    put("tolerance", block.tolerance_source)
    if not block.ok:
        put("wrong", f"{block.wrong} of {block.entries} entries")
    if block.kinks:
        put(
            "kinks",
            f"{block.kinks} {'entry differs' if block.kinks == 1 else 'entries differ'} at a kink, "
            "within the one-sided derivatives: right",
        )
    if block.worst is not None and not block.ok:
        put("worst", worst_text(block.worst))
    return lines


def worst_text(worst: WorstEntry) -> str:
    """`∂out[3]/∂x[3]: expected 1, the rule says 1.01`."""
    return (
        f"∂{worst.output}{_index(worst.output_index)}/∂{worst.input}{_index(worst.input_index)}: "
        f"expected {number(worst.expected)}, the rule says {number(worst.actual)}"
    )


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(str(k) for k in index)}]" if index else ""


def check_dict(check: VJPCheck) -> dict[str, Any]:
    """A check as JSON-ready values: verdict, problems, blocks, worst entry, notes."""
    from jacobians.report.json import clean

    result: dict[str, Any] = clean(
        {
            "function": check.name,
            "rule": check.rule,
            "right": bool(check),
            "problems": [{"kind": p.kind, "message": p.message} for p in check.problems],
            "blocks": [_block_dict(b) for b in check.blocks],
            "worst": None if check.worst is None else _worst_dict(check.worst),
            "notes": list(check.notes),
        }
    )
    return result


def _block_dict(block: BlockCheck) -> dict[str, Any]:
    return {
        "output": block.output,
        "input": block.input,
        "matrix_shape": list(block.shape),
        "verdict": block.verdict,
        "entries": block.entries,
        "wrong": block.wrong,
        "kinks": block.kinks,
        "error": block.error,
        "tolerance": block.tolerance,
        "tolerance_source": block.tolerance_source,
        "worst": None if block.worst is None else _worst_dict(block.worst),
    }


def _worst_dict(worst: WorstEntry) -> dict[str, Any]:
    return {
        "output": worst.output,
        "input": worst.input,
        "output_index": list(worst.output_index),
        "input_index": list(worst.input_index),
        "expected": worst.expected,
        "actual": worst.actual,
    }
