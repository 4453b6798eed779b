"""The report of a checked derivative, as text and as a dictionary.

`print(check_text(check_vjp(my_relu, x)))`
"""

from typing import Any

from jacobians.check.diagnose import Diagnosis
from jacobians.check.result import BlockCheck, Problem, VJPCheck, WorstEntry
from jacobians.notation import show
from jacobians.notation.numbers import number
from jacobians.notation.spy import tile_size
from jacobians.report.data import clean
from jacobians.report.lines import LABEL, WIDTH, Style, plain, wrap
from jacobians.structure.kinds import dimensions

VERDICTS = {"right": "RIGHT", "wrong": "WRONG", "differs as declared": "DIFFERS AS DECLARED"}
# blocks that are right are listed one by one up to this number
MANY = 12


@show.text.register
def check_text(check: VJPCheck, style: Style = plain) -> str:
    """The report of a check, at most 100 columns wide.

    Args:
        check: what `check_vjp` returned.
        style: called with (text, role) for parts that may be coloured.

    Returns:
        The report, without a newline at its end.
    """
    verb = "" if check.verdict == "differs as declared" else "is "
    head = (
        f"{check.name}: the hand-written derivative ({check.rule}) {verb}{VERDICTS[check.verdict]}"
    )
    lines = [style(head, "good" if check else "bad")]
    told = {d.message for d in check.diagnoses}
    for problem in check.problems:
        if problem.message not in told:
            text = f"  {problem.kind}: {problem.message}"
            lines += [style(line, "bad") for line in wrap(text, 4)]
    for k, diagnosis in enumerate(check.diagnoses):
        if not diagnosis.inputs or not set(diagnosis.inputs) <= set(check.declared):
            lines += diagnosis_text(diagnosis, _alternative(check, k), style)
    lines += declared_text(check, style)
    right = [b for b in check.blocks if b.verdict == "right"]
    shown = [b for b in check.blocks if b.verdict != "right" or len(right) <= MANY]
    for block in shown:
        lines += block_text(block, style)
    if len(shown) < len(check.blocks):
        lines.append(f"{len(check.blocks) - len(shown)} more blocks are right")
    if check.blocks:
        lines += [style(x, "note") for x in wrap(f"truth: {TRUTHS[check.truth]}", 6)]
    for note in check.notes:
        lines += [style(line, "note") for line in wrap(f"note: {note}", 6)]
    return "\n".join(lines)


TRUTHS = {
    "forward mode": "the derivative of the function's own program, rules stripped, by jax.jacfwd",
    "reverse mode": "the derivative of the function's own program, rules stripped, by jax.jacrev",
    "finite differences": "finite differences of the function, Richardson-extrapolated",
}


def _alternative(check: VJPCheck, k: int) -> bool:
    """Whether a diagnosis explains what an earlier one explains too."""
    mine = check.diagnoses[k].inputs
    return bool(mine) and any(d.inputs == mine for d in check.diagnoses[:k])


def diagnosis_text(diagnosis: Diagnosis, alternative: bool, style: Style = plain) -> list[str]:
    """The lines of one diagnosis: what the mistake most likely is, and how well it fits."""
    head = "or" if alternative else "likely"
    share = f" ({diagnosis.kind}; explains {100 * diagnosis.fit:.5g} % of the difference)"
    if diagnosis.kind == "unknown":
        head, share = "unexplained", ""
    elif diagnosis.fit == 1.0:
        head, share = head if alternative else "cause", f" ({diagnosis.kind})"
    text = diagnosis.message[0].upper() + diagnosis.message[1:]
    role = "note" if alternative else "bad"
    return [style(line, role) for line in wrap(f"  {head}: {text}{share}", 4)]


def declared_text(check: VJPCheck, style: Style = plain) -> list[str]:
    """The lines of what the caller declared."""
    lines: list[str] = []
    reasons = dict.fromkeys(check.declared.values())
    for reason in reasons:
        names = [n for n, r in check.declared.items() if r == reason]
        text = f"  declared: {reason} (with respect to {', '.join(names)})"
        lines += [style(line, "note") for line in wrap(text, 4)]
    for fault in check.excused:
        lines += [style(x, "note") for x in wrap(f"  declared: {fault.message}", 4)]
    return lines


def block_text(block: BlockCheck, style: Style = plain) -> list[str]:
    """The lines of one block."""
    head = f"∂{block.output}/∂{block.input}   matrix {dimensions(block.shape)}: "
    role = "good" if block.ok else "bad"
    lines = [style(head, "block") + style(block.verdict, role)]

    def put(label: str, text: str) -> None:
        first, *rest = wrap(text, 0, WIDTH - LABEL - 2) or [""]
        lines.append("  " + style(label.ljust(LABEL), "label") + first)
        lines.extend(" " * (LABEL + 2) + line for line in rest)

    put("error", f"{block.error:.3g} (noise floor {block.tolerance:.3g}) in {block.precision}")
    put("noise floor", block.tolerance_source)
    if block.wrong:
        put("differs" if block.ok else "wrong", f"{block.wrong:,} of {block.entries:,} entries")
    if block.kinks:
        put(
            "kinks",
            f"{block.kinks:,} {'entry differs' if block.kinks == 1 else 'entries differ'} at a "
            "kink, within the one-sided derivatives: right",
        )
    if block.undefined:
        put(
            "undefined",
            f"{block.undefined:,} {'entry' if block.undefined == 1 else 'entries'} not judged: the "
            "function has no finite derivative there, or NaN spreads to it, as in JAX's own",
        )
    if block.singular:
        put(
            "singular",
            f"{block.singular:,} {'entry is' if block.singular == 1 else 'entries are'} singular "
            "here: the function has no finite derivative at the point, and a number that the rule "
            "gives is a convention, not wrong",
        )
    if block.worst is not None and block.wrong:
        put("worst", worst_text(block.worst))
    if block.picture and not block.ok:
        for line in block.picture:
            lines.append(" " * (LABEL + 2) + line)
        size = tile_size(block.shape)
        dot = "a wrong entry" if size == 1 else f"a wrong entry in a tile of {size}×{size}"
        lines.append(" " * (LABEL + 2) + f"(a dot: {dot}; a row for each output entry)")
    return lines


def worst_text(worst: WorstEntry) -> str:
    """`∂out[3]/∂x[3]: expected 1, the rule says 1.01`."""
    return (
        f"∂{worst.output}{_index(worst.output_index)}/∂{worst.input}{_index(worst.input_index)}: "
        f"expected {number(worst.expected)}, the rule says {number(worst.actual)}"
    )


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(str(k) for k in index)}]" if index else ""


@show.data.register
def check_dict(check: VJPCheck) -> dict[str, Any]:
    """A check as JSON-ready values: verdict, problems, blocks, worst entry, notes."""
    result: dict[str, Any] = clean(
        {
            "function": check.name,
            "rule": check.rule,
            "right": bool(check),
            "verdict": check.verdict,
            "truth": check.truth,
            "declared": dict(check.declared),
            "problems": [_problem_dict(p) for p in check.problems],
            "excused": [_problem_dict(p) for p in check.excused],
            "diagnoses": [
                {"kind": d.kind, "message": d.message, "fit": d.fit, "inputs": list(d.inputs)}
                for d in check.diagnoses
            ],
            "blocks": [_block_dict(b) for b in check.blocks],
            "worst": None if check.worst is None else worst_dict(check.worst),
            "notes": list(check.notes),
        }
    )
    return result


def _problem_dict(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind, "message": problem.message, "inputs": list(problem.inputs)}


def _block_dict(block: BlockCheck) -> dict[str, Any]:
    """What a check found of one block, JSON-ready."""
    return {
        "output": block.output,
        "input": block.input,
        "matrix_shape": list(block.shape),
        "verdict": block.verdict,
        "entries": block.entries,
        "wrong": block.wrong,
        "kinks": block.kinks,
        "undefined": block.undefined,
        "singular": block.singular,
        "error": block.error,
        "tolerance": block.tolerance,
        "tolerance_source": block.tolerance_source,
        "precision": block.precision,
        "picture": list(block.picture),
        "worst": None if block.worst is None else worst_dict(block.worst),
    }


def worst_dict(worst: WorstEntry) -> dict[str, Any]:
    """The worst entry as JSON-ready values."""
    return {
        "output": worst.output,
        "input": worst.input,
        "output_index": list(worst.output_index),
        "input_index": list(worst.input_index),
        "expected": worst.expected,
        "actual": worst.actual,
    }
