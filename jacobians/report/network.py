"""A network's chain of Jacobians and the case for a nonlinearity, as text.

`print(chain_text(networks.chain(network, params, x)))`
"""

from jacobians.networks.chain import Chain, Collapse
from jacobians.notation import show
from jacobians.notation.numbers import number
from jacobians.report.lines import WIDTH, Style, plain, wrap
from jacobians.structure.kinds import dimensions


@show.text.register
def chain_text(chain: Chain, style: Style = plain) -> str:
    """The report of a chain.

    Args:
        chain: what `networks.chain` returned.
        style: as in `report.explanation`.

    Returns:
        The report, at most 100 columns wide.
    """
    rows = [
        [
            link.definition,
            link.name,
            link.factor,
            dimensions(link.block.shape),
            str(link.block.structure) + ", constant" * ("constant" in link.block.properties),
        ]
        for link in chain.links
    ]
    heads = ["gate", "Jacobian", "factor", "matrix", "proved"]
    widths = [max(len(row[c]) for row in [heads, *rows]) for c in range(len(heads))]
    lines = [style("the Jacobian of the scores, gate by gate", "title")]
    for k, row in enumerate([heads, *rows]):
        line = "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        shown = [line] if len(line) <= WIDTH - 2 else _in_two(row, widths)
        lines += ["  " + (style(text, "label") if k == 0 else text) for text in shown]
    lines += ["  " + line for line in wrap(f"so {chain.formula}", 5, WIDTH - 2)]
    lines.append(
        f"  the product of the factors differs from the Jacobian of the whole by "
        f"{number(float(f'{chain.difference:.2g}'))} at most"
    )
    return "\n".join(lines)


@show.text.register
def collapse_text(collapse: Collapse, style: Style = plain) -> str:
    """The report of why a network needs a nonlinearity.

    Args:
        collapse: what `networks.without_nonlinearity` returned.
        style: as in `report.explanation`.

    Returns:
        The report, at most 100 columns wide.
    """
    name = collapse.network.activation.name
    sizes = collapse.network.sizes
    product = "·".join(f"W{k}" for k in range(len(sizes) - 1, 0, -1))

    def row(label: str, first: str, second: str) -> str:
        return f"  {label.ljust(38)}{first.ljust(28)}{second}".rstrip()

    def ranks(values: tuple[int, ...]) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low} to {high}"

    def constant(proved: bool) -> str:
        return "constant (proved)" if proved else "differs from point to point"

    same = ["constant" in b.properties for b in (collapse.with_it, collapse.without)]
    title = f"why a nonlinearity: a network of sizes {' → '.join(map(str, sizes))}"
    return "\n".join(
        [
            style(title, "title"),
            style(row("", f"with {name}", "without"), "label"),
            row("∂s/∂x", constant(same[0]), constant(same[1])),
            row("rank of ∂s/∂x", ranks(collapse.ranks), ranks(collapse.ranks_without)),
            row(
                f"independent ∂s/∂x at {collapse.points} points",
                str(collapse.different),
                str(collapse.different_without),
            ),
            f"  without it, ∂s/∂x is the one matrix {product} "
            f"(largest difference {number(float(f'{collapse.product_difference:.2g}'))}):",
            f"  {len(sizes) - 1} layers are worth one, of rank {min(sizes)} at most",
        ]
    )


def _in_two(row: list[str], widths: list[int]) -> list[str]:
    """A row that is too wide: the last column on a line of its own."""
    line = "  ".join(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=False)).rstrip()
    return [*wrap(line, 4, WIDTH - 2), *wrap("    " + row[-1], 6, WIDTH - 2)]
