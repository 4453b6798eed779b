"""Reports of gates: role, Jacobian, structure, and the hand-written VJP checked.

`print(gate_text(gates.get("relu"), gates.example_inputs(gates.get("relu"))))`
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jacobians.check.check import check_vjp
from jacobians.check.result import VJPCheck
from jacobians.gates import Gate, example_inputs
from jacobians.report.data import explanation_dict
from jacobians.report.explanation import block_lines
from jacobians.report.lecture import lecture_text
from jacobians.report.lines import LABEL, WIDTH, Style, plain, title, wrap
from jacobians.structure.explain import explain
from jacobians.structure.explanation import Explanation


def examine(gate: Gate, inputs: Sequence[Any]) -> tuple[Explanation, VJPCheck]:
    """The explanation and the check of a gate at inputs."""
    return explain(gate, *inputs), check_vjp(gate, *inputs)


def gate_text(gate: Gate, inputs: Sequence[Any], style: Style = plain) -> tuple[str, bool]:
    """The report of one gate.

    Args:
        gate: the gate.
        inputs: arrays that fit its signature.
        style: as in `report.explanation`.

    Returns:
        The report, and whether the hand-written VJP is right.
    """
    explanation, check = examine(gate, inputs)
    head = title(gate.name, explanation.inputs, explanation.outputs)
    lines = [style(head, "title")]

    def put(label: str, text: str, role: str = "") -> None:
        first, *rest = wrap(text, 0, WIDTH - LABEL - 2)
        shown = style(first, role) if role else first
        lines.append("  " + style(label.ljust(LABEL), "label") + shown)
        lines.extend(" " * (LABEL + 2) + line for line in rest)

    put("signature", gate.signature)
    put("role", f"{gate.role}: {gate.why}")
    if gate.convention:
        put("at kinks", gate.convention)
    put("VJP check", _verdict(check), "good" if check else "bad")
    for block in explanation.blocks:
        lines += block_lines(block, style)
    for note in explanation.notes:
        lines += [style(line, "note") for line in wrap(f"note: {note}", 6)]
    if not check:
        lines.append(str(check))
    return "\n".join(lines), bool(check)


def _verdict(check: VJPCheck) -> str:
    if not check:
        return "WRONG"
    entries = sum(b.entries for b in check.blocks)
    error = max((b.error for b in check.blocks), default=0.0)
    kinks = sum(b.kinks for b in check.blocks)
    text = f"right: {entries} entries compared, largest error {error:.2g}"
    return text + (f", {kinks} at kinks" if kinks else "")


def catalogue_texts(
    gates: Iterable[Gate], seed: int, style: Style = plain, whole: bool = False
) -> Iterator[tuple[str, bool]]:
    """The reports of gates, and after the whole catalogue the lecture's example in numbers.

    Args:
        gates: the gates.
        seed: seed of the example inputs.
        style: as in `report.explanation`.
        whole: whether this is the whole catalogue.

    Yields:
        Each report with whether it is right.
    """
    for gate in gates:
        yield gate_text(gate, example_inputs(gate, seed), style)
    if whole:
        yield lecture_text(style), True


def catalogue_dicts(gates: Iterable[Gate], seed: int) -> list[dict[str, Any]]:
    """The reports of gates as dictionaries: the gate, its explanation, its check."""
    result = []
    for gate in gates:
        explanation, check = examine(gate, example_inputs(gate, seed))
        result.append(
            {
                "gate": gate.name,
                "signature": gate.signature,
                "role": gate.role,
                "why": gate.why,
                "convention": gate.convention,
                "explanation": explanation_dict(explanation),
                "check": check.to_dict(),
            }
        )
    return result
