"""A plan as text: which products are made, and which entries are read from each."""

import textwrap

from jacobians.notation import show
from jacobians.sparse.plan import Plan, PlannedBlock

WIDTH = 100


@show.text.register
def plan_text(plan: Plan) -> str:
    """A plan, block by block."""
    lines = [f"{plan.function}: {plan.signature}", plan.summary]
    for sweep in plan.sweeps:
        bound = f"{sweep.lower_bound} at least"
        at_a_time = "" if sweep.chunk >= sweep.colors else f", {sweep.chunk} at a time"
        how = f", {sweep.method}" if sweep.method else ""
        lines.append(f"  {sweep.kind:<11} {sweep.colors} ({bound}{how}{at_a_time})")
    for block in plan.blocks:
        lines.extend(["", *_block_lines(block)])
    for note in plan.notes:
        lines.extend(["", *textwrap.wrap(f"note: {note}", WIDTH, subsequent_indent="      ")])
    return "\n".join(line.rstrip() for line in lines)


def _block_lines(block: PlannedBlock) -> list[str]:
    """A block: its structure, its entries, and the way to them."""
    m, n = block.shape
    share = 100 * block.nnz / max(1, m * n)
    percent = f"{share:.3g} %" if share >= 0.001 or not block.nnz else "under 0.001 %"
    lines = [
        f"∂{block.output}/∂{block.input}   matrix {m}×{n}",
        f"  structure   {block.structure}",
        f"  entries     {block.nnz} of {m * n} ({percent})",
        f"  way         {WAYS[block.way]}",
    ]
    if block.formula is not None:
        lines.extend(_wrapped("formula", block.formula))
        for k, definition in enumerate(block.where):
            lines.extend(_wrapped("where" if k == 0 else "", definition))
    if block.cost:
        costs = ", ".join(f"{name} {value:.2g}" for name, value in block.cost)
        lines.extend(_wrapped("estimates", f"{costs} (values computed or moved)"))
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    """A labelled line, continued under its text."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {label:<11} ", subsequent_indent=" " * 14)


WAYS = {
    "zero": "nothing to compute",
    "constant": "computed once: no input matters to it",
    "closed form": "closed form: the coefficients are evaluated directly",
    "JVPs": "read from JVPs",
    "VJPs": "read from VJPs",
    "JVPs and VJPs": "read from JVPs and VJPs together",
}
